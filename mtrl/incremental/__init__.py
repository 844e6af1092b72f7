"""Training one agent on tasks one after another: settings, the loop, and what it keeps and carries over."""
