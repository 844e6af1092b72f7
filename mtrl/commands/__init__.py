"""The commands of `mtrl`, a module each with `run(arguments)`; `mtrl.cli` finds them by name."""
