"""The command line: `mtrl COMMAND ...`.

What goes wrong is one line on standard error: exit code 2 if the request cannot be carried out as
stated, 1 for a failure, 130 and 143 for a run that Ctrl-C or SIGTERM stopped.
"""

import difflib
import importlib
import logging
import sys
from collections.abc import Sequence

from mtrl import __version__
from mtrl.errors import UsageError, guarded

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "families": "list the task families, show one, or print tasks drawn from it",
    "train": "train in a run directory, or resume a run",
    "evaluate": "measure how a run adapts to unseen tasks, or a multi-task run on each of its tasks",
    "compare": "say whether sharing helps: specialists, a shared trunk, nothing shared",
    "benchmark": "compare learners: how well they adapt, and how fast",
    "report": "write one HTML page and one Markdown file of any runs",
    "film": "make animated GIFs of what a run's agent does, before and after it adapts",
    "reproduce": "reproduce a published table, or make one of our own",
    "watch": "serve TensorBoard for a directory of runs, on this machine only",
}

USAGE = "usage: mtrl [--help] [--version] COMMAND ..."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, by default the process's own, and return its exit code."""
    logging.basicConfig(format="mtrl: %(message)s", level=logging.WARNING)
    return guarded(lambda: _dispatch(list(sys.argv[1:] if arguments is None else arguments)))


def _dispatch(arguments: list[str]) -> int:
    if not arguments:
        print(_help(), file=sys.stderr)
        return 2
    command, *rest = arguments
    if command in ("-h", "--help"):
        print(_help())
    elif command == "--version":
        print(f"mtrl {__version__}")
    elif command in COMMANDS:
        # Imported when asked for: torch alone takes a second or two.
        importlib.import_module(f"mtrl.commands.{command}").run(rest)
    else:
        raise UsageError(_unknown(command))
    return 0


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {summary}" for name, summary in COMMANDS.items()]
    options = "`mtrl COMMAND --help` shows a command's options."
    return "\n".join([USAGE, "", "commands:", *lines, "", options])


def _unknown(command: str) -> str:
    kind = "option" if command.startswith("-") else "command"
    near = difflib.get_close_matches(command, COMMANDS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
    return f"unknown {kind} {command}; {hint}"
