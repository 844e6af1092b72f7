"""Training one agent on many tasks: settings, the loop, and what it reaches on each task."""
