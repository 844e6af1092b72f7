"""`mtrl watch`: TensorBoard for a directory of runs."""

import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from mtrl.commands.parsing import parse
from mtrl.errors import UsageError

__all__ = ["WatchOptions", "run"]

# Anyone who reaches the port reads the logs, and TensorBoard asks for no password.
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class WatchOptions:
    """Serve TensorBoard for a run directory, or a directory of runs, until Ctrl-C.

    It can be reached from this machine only; from another, forward the port with ssh -L.
    """

    directory: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Run directory, or a directory that holds some."""
    port: int = 6006
    """Port to serve on; 0 for any that is free."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise UsageError(f"port must be from 0 to 65535, got {self.port}")
        if not self.directory.is_dir():
            raise UsageError(f"no directory {self.directory}; name one that `mtrl train` made")


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    options = parse(WatchOptions, arguments, command="mtrl watch")
    if not any(options.directory.rglob("events.out.tfevents.*")):
        print(f"no run in {options.directory} yet; it will appear here", file=sys.stderr)
    print(
        f"TensorBoard is at {serve(options.directory, options.port)} (Ctrl-C ends it)", flush=True
    )
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)


def serve(directory: Path, port: int) -> str:
    """Start TensorBoard for `directory` in a thread of this process; return its address.

    Raises:
        UsageError: the port is taken.
    """
    # Imported here: it takes seconds.
    from tensorboard import program

    board = program.TensorBoard()
    board.configure(logdir=str(directory), host=LOOPBACK, port=port)
    try:
        return str(board.launch())
    except program.TensorBoardServerException as error:
        raise UsageError(
            f"port {port} cannot be used: {error.msg.strip()}; use --port 0"
        ) from error
