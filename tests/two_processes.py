"""Two processes that share meta-batches, started as torchrun would, and one that has done the same alone."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from mtrl.checkpoint import CheckpointStore
from mtrl.cli import main

WORKER = Path(__file__).with_name("distributed_worker.py")


def free_ports(count: int) -> list[str]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [str(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


def start_two(job: str, folder: Path, ports: int) -> list[subprocess.Popen[str]]:
    command = [sys.executable, str(WORKER), job, str(folder), *free_ports(ports)]
    shared = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            command,
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]


def ends(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Return exit code and standard error of each."""
    seen = []
    for process in processes:
        _, errors = process.communicate(timeout=300)
        seen.append((process.returncode, errors))
    return seen


def train_together(place: Path, job: str, ports: int) -> Path:
    """Let two processes do `job` of the worker in `place`, and return it."""
    for code, errors in ends(start_two(job, place, ports)):
        assert code == 0, errors
    return place


def train_alone(place: Path, commands: Sequence[Sequence[str]]) -> Path:
    """Run training commands in this process, without pictures, and return `place`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mtrl.meta.watching.find_spec", lambda name: None)
        for command in commands:
            assert main(["train", *command]) == 0
    return place


def learned(directory: Path) -> dict[str, torch.Tensor]:
    return CheckpointStore(directory / "checkpoints").load().tensors
