"""One training in a process of its own: `python -m mtrl.reproduce.worker REQUEST`.

The request is JSON with `kind`, `directory` and `config`. Standard input is a pipe that nothing is
written to: it ends when the process that wants the training dies, and then so does this one.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

from mtrl.cli import guarded
from mtrl.config import from_dict
from mtrl.meta.kinds import get_kind
from mtrl.runs import MANIFEST, Run

__all__ = ["main"]

GRACE_SECONDS = 10.0


def main() -> None:
    """Train as the request says, continuing what is in the directory."""
    request = json.loads(sys.argv[1])
    threading.Thread(target=_stop_when_unwanted, daemon=True).start()
    torch.set_num_threads(1)
    kind = get_kind(request["kind"])
    config: Any = from_dict(kind.config, request["config"])
    directory = Path(request["directory"])
    resume = (directory / MANIFEST).exists()
    with Run.open(directory, config=config, kind=kind.name, resume=resume) as run:
        kind.train(config, run)


def _stop_when_unwanted() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)
    # A step or a compilation may take long; a run survives a kill at any instant.
    time.sleep(GRACE_SECONDS)
    os._exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(guarded(main))
