"""One of several processes that train together; run as `python distributed_worker.py JOB FOLDER PORT...`."""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny_regression import initial_params, points, random_step_sizes, squared_error
from torch import Tensor, distributed

from mtrl.cli import main
from mtrl.meta import watching
from mtrl.meta.distributed import Processes, join, processes_of
from mtrl.meta.gradient import MetaGradient
from mtrl.meta.meta_sgd import MetaSGD
from mtrl.meta.outer import AdamUpdate
from mtrl.meta.parameters import MetaParams

TASKS, META_STEPS = 6, 8
ARGUMENTS = [
    "--preset",
    "meta-sgd",
    "--hidden",
    "6",
    "--tasks-per-batch",
    "4",
    "--iterations",
    "12",
]
ARGUMENTS += ["--log-every", "1", "--evaluate-every", "6", "--test-tasks", "4", "--compile", "off"]
ARGUMENTS += ["--checkpoint-every", "6"]


def meta_steps(processes: Processes) -> dict[str, Tensor]:
    """Take meta-steps in float64, other tasks in each, and return the meta-parameters and last loss."""
    params = initial_params()
    meta = MetaParams(params, random_step_sizes(params, 1)[0])
    gradient, update = MetaGradient(MetaSGD(), squared_error), AdamUpdate(meta, 0.01)
    share = processes.share(TASKS)
    for step in range(META_STEPS):
        data = (*points(TASKS, seed=step), *points(TASKS, seed=step + 1000))
        own = gradient(meta, [part[share] for part in data])
        mean, _ = processes.mean({"loss": own.loss, **own.gradient})
        loss = mean.pop("loss")
        update.step(mean, 0.01)
    return meta.named() | {"loss": loss}


def at_call(number: int, act: Callable[[], Any]) -> None:
    """Do `act` before the meta-gradient is taken for the `number`-th time."""
    plain, calls = MetaGradient.__call__, [0]

    def counted(self: MetaGradient, meta: MetaParams, data: Sequence[Tensor]) -> Any:
        calls[0] += 1
        if calls[0] == number:
            act()
        return plain(self, meta, data)

    MetaGradient.__call__ = counted  # type: ignore[method-assign]


def count_sums() -> list[int]:
    plain, sizes = distributed.all_reduce, []

    def counted(buffer: Tensor, *rest: Any, **options: Any) -> Any:
        sizes.append(buffer.numel())
        return plain(buffer, *rest, **options)

    distributed.all_reduce = counted
    return sizes


def everything(folder: Path, rank: int, ports: Sequence[str]) -> None:
    def next_port() -> None:
        os.environ["MASTER_PORT"] = ports[next(numbers)]

    numbers = iter(range(len(ports)))
    processes, sizes = processes_of(os.environ), count_sums()
    next_port()
    with join(processes, "cpu"):
        content = meta_steps(processes)
    content["sums"] = torch.tensor(sizes)
    save_file(content, folder / f"steps-{rank}.safetensors")
    codes = []
    for directory in ("whole", "stopped"):
        if directory == "stopped" and rank == 1:  # a signal that one of them alone gets
            at_call(4, lambda: os.kill(os.getpid(), signal.SIGTERM))
        next_port()
        codes.append(main(["train", "supervised", "--dir", str(folder / directory), *ARGUMENTS]))
    next_port()
    codes.append(main(["train", "--resume", str(folder / "stopped")]))
    (folder / f"codes-{rank}").write_text(" ".join(map(str, codes)))


def die(folder: Path, rank: int, ports: Sequence[str]) -> int:
    os.environ["MASTER_PORT"] = ports[0]
    if rank == 1:
        at_call(3, lambda: os._exit(9))
    return main(["train", "supervised", "--dir", str(folder / "died"), *ARGUMENTS])


if __name__ == "__main__":
    torch.set_num_threads(1)
    watching.find_spec = lambda name: None  # pictures take seconds
    job, place, *ports = sys.argv[1:]
    rank = int(os.environ["RANK"])
    if job == "die":
        sys.exit(die(Path(place), rank, ports))
    everything(Path(place), rank, ports)
