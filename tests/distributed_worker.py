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
from mtrl.meta import reinforcement as loop
from mtrl.meta import watching
from mtrl.meta.distributed import Processes, join, processes_of
from mtrl.meta.gradient import MetaGradient
from mtrl.meta.meta_sgd import MetaSGD
from mtrl.meta.objectives import PolicyBatch
from mtrl.meta.outer import TRPO, AdamUpdate
from mtrl.meta.parameters import MetaParams
from mtrl.meta.policy_adaptation import GradientAdaptation
from mtrl.meta.proximal import PROMP, ProximalUpdate
from mtrl.meta.trust_region import PolicyUpdate, TrustRegionUpdate
from mtrl.nets import Params
from mtrl.policies import GaussianPolicy

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
CHOSEN = ["--curriculum-tasks", "5", "curriculum:teacher-student"]
"""Options of a run whose tasks a curriculum chooses."""


def meta_steps(processes: Processes) -> dict[str, Tensor]:
    """Take meta-steps in float64, other tasks in each, and return the meta-parameters and last loss."""
    params = initial_params()
    meta = MetaParams(params, random_step_sizes(params, 1)[0])
    gradient, update = MetaGradient(MetaSGD(), squared_error), AdamUpdate(meta)
    share = processes.share(TASKS)
    for step in range(META_STEPS):
        data = (*points(TASKS, seed=step), *points(TASKS, seed=step + 1000))
        own = gradient(meta, [part[share] for part in data])
        mean, _ = processes.mean({"loss": own.loss, "gradient": own.gradient})
        update.step(mean["gradient"], 0.01)
    return meta.named() | {"loss": mean["loss"]}


DAMPED = ["--outer.damping", "0.1"]
RL_RUNS = {
    # Episodes of tasks end at different times here, and one in twenty samples is in the Fisher products. With the
    # little damping of the default, conjugate gradients would blow the last bits of single precision up.
    "trpo": ["--family", "cartpole", "--max-episode-steps", "40", "outer:trpo", *DAMPED],
    "promp": ["--family-options", "horizon", "8", "outer:promp"],
    "chosen": ["--family-options", "horizon", "8", "--curriculum-tasks", "5", "outer:trpo"],
}
RL_RUNS["chosen"] += [*DAMPED, "curriculum:teacher-student"]
RL_ARGUMENTS = ["--hidden", "6", "--tasks-per-batch", "4", "--episodes-per-task", "5"]
RL_ARGUMENTS += ["--iterations", "4", "--evaluate-every", "2", "--checkpoint-every", "2"]
RL_ARGUMENTS += ["--test-tasks", "4"]


OUTER_UPDATES = {
    "whole": TRPO(curvature_fraction=1.0),
    "thin": TRPO(curvature_fraction=0.25),
    "promp": PROMP(steps=3),
}


def outer_steps(processes: Processes, outer: TRPO | PROMP) -> dict[str, Tensor]:
    """Take outer steps in float64 on made-up episodes, and return the meta-parameters."""
    how = GradientAdaptation(GaussianPolicy(3, 2, (5,)), MetaSGD(inner_steps=1), "ratio")
    meta = how.initial(torch.Generator().manual_seed(0))
    meta = MetaParams.from_named({name: value.double() for name, value in meta.named().items()})
    update: PolicyUpdate = (
        TrustRegionUpdate(how, meta, outer, processes.joined)
        if isinstance(outer, TRPO)
        else ProximalUpdate(how, meta, outer, {}, processes.joined)
    )
    share = processes.share(TASKS)
    for step in range(META_STEPS // 2):
        start = how.learner.start(meta.params, TASKS // processes.count)
        support = episodes_of(how, start, share, 2 * step)
        query = episodes_of(how, how.adapt(meta, [support]), share, 2 * step + 1)
        meta, _ = update.step([support], query, 0.0)
    return meta.named()


def episodes_of(how: GradientAdaptation, params: Params, share: slice, seed: int) -> PolicyBatch:
    """Return forty samples of each task, with advantages out of nothing."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(TASKS, 40, 6, generator=generator, dtype=torch.float64)[share]
    observations, actions, weights = drawn.split([3, 2, 1], -1)
    log_probs = how.policy(params, observations).log_prob(actions)
    weights = weights.squeeze(-1) / 40
    valid = torch.full_like(weights, 1 / 40)
    return PolicyBatch(observations, actions, weights, valid, log_probs.detach())


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
    next_port()
    chosen = ["--dir", str(folder / "chosen"), *ARGUMENTS, *CHOSEN]
    codes.append(main(["train", "supervised", *chosen]))
    (folder / f"codes-{rank}").write_text(" ".join(map(str, codes)))


def reinforcement(folder: Path, rank: int, ports: Sequence[str]) -> None:
    """Take outer steps, then train every run of `RL_RUNS`, one of them with a stop between."""
    numbers = iter(ports)
    processes, sizes = processes_of(os.environ), count_sums()
    os.environ["MASTER_PORT"] = next(numbers)
    content, counts = {}, []
    with join(processes, "cpu"):
        for name, outer in OUTER_UPDATES.items():
            found = outer_steps(processes, outer)
            content |= {f"{name}/{key}": value for key, value in found.items()}
            counts.append(len(sizes))
    save_file(content | {"sums": torch.tensor(counts)}, folder / f"outer-{rank}.safetensors")
    codes = []
    for name, options in RL_RUNS.items():
        os.environ["MASTER_PORT"] = next(numbers)
        place = ["--dir", str(folder / name)]
        codes.append(main(["train", "rl", *place, *RL_ARGUMENTS, *options]))
    os.environ["MASTER_PORT"] = next(numbers)
    if rank == 1:
        stop_after_collecting(2)
    place = ["--dir", str(folder / "stopped")]
    codes.append(main(["train", "rl", *place, *RL_ARGUMENTS, *RL_RUNS["promp"]]))
    os.environ["MASTER_PORT"] = next(numbers)
    codes.append(main(["train", "--resume", str(folder / "stopped")]))
    (folder / f"codes-{rank}").write_text(" ".join(map(str, codes)))


def stop_after_collecting(rounds: int) -> None:
    """Ask this process alone to stop once it has played so many rounds of episodes."""
    plain, calls = loop.play, [0]

    def counted(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == rounds:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(*arguments)

    loop.play = counted


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
    jobs = {"everything": everything, "reinforcement": reinforcement}
    jobs[job](Path(place), rank, ports)
