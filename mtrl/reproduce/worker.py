"""One training in a process of its own: `python -m mtrl.reproduce.worker REQUEST`.

The request is JSON with `kind`, `directory` and `config`. Standard input is a pipe that nothing is
written to: it ends when the process that wants the training dies, and then so does this one.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from mtrl.config import from_dict
from mtrl.errors import guarded
from mtrl.interrupts import terminate_after
from mtrl.meta.kinds import get_kind
from mtrl.runs import MANIFEST, Run

__all__ = ["main"]


def main() -> None:
    """Train as the request says, continuing what is in the directory."""
    request = json.loads(sys.argv[1])
    terminate_after(sys.stdin.read)
    torch.set_num_threads(1)
    kind = get_kind(request["kind"])
    config: Any = from_dict(kind.config, request["config"])
    directory = Path(request["directory"])
    resume = (directory / MANIFEST).exists()
    with Run.open(directory, config=config, kind=kind.name, resume=resume) as run:
        kind.train(config, run)


if __name__ == "__main__":
    sys.exit(guarded(main))
