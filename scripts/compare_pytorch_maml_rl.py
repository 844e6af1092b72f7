"""Train MAML on 2-D navigation with pytorch-maml-rl and with mtrl, for equally many meta-iterations.

    git clone https://github.com/tristandeleu/pytorch-maml-rl ../pytorch-maml-rl
    python scripts/compare_pytorch_maml_rl.py --checkout ../pytorch-maml-rl

Both begin with the same parameters and have the peer's settings (configs/maml/2d-navigation.yaml) and actions, of
which a tenth is the largest step; ours takes Fisher products on a twentieth of the samples, as it does unless told
otherwise. What each ends with is tested by the same code: returns on held-out tasks before and after one inner step.
Writes `navigation-quality.md` and `.csv`.
"""

import csv
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from mtrl.benchmarks.adaptation.navigation import Problem
from mtrl.benchmarks.adaptation.pytorch_maml_rl import PEER, Peer
from mtrl.errors import UsageError, guarded
from mtrl.evaluation.statistics import stratified_interval
from mtrl.meta.chunk_work import ChunkWork
from mtrl.meta.inner import expand_to_tasks
from mtrl.meta.objectives import policy_batch
from mtrl.meta.parameters import MetaParams, unflatten
from mtrl.meta.trust_region import meta_trust_region_step
from mtrl.reproduce.page import markdown_table
from mtrl.reproduce.provenance import commit
from mtrl.reproduce.trainings import cpu_count
from mtrl.seeding import numpy_generator, torch_generator
from mtrl.versions import library_versions

Side = Literal["peer", "ours"]
NAMES: Mapping[Side, str] = {"peer": PEER, "ours": "mtrl"}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is compared."""

    checkout: Path
    """A checkout of pytorch-maml-rl."""
    iterations: int = 50
    """Meta-iterations of each training."""
    seeds: tuple[int, ...] = (0, 1, 2, 3)
    """Of the trainings."""
    test_tasks: int = 40
    """Held-out tasks, the same for all."""
    out: Path = Path("docs/results")
    """Folder of the page and the scores."""
    processes: int = field(default_factory=cpu_count)
    """Trainings at a time, one thread each; as many as CPU cores if left out."""


@dataclass(frozen=True)
class Trained:
    """What a training came to: (test tasks, 2) returns before and after adaptation, and its seconds."""

    returns: NDArray[np.float64]
    seconds: float


def main(settings: Comparison) -> None:
    """Carry out all trainings and write what came of them."""
    if min(settings.iterations, settings.test_tasks, settings.processes, len(settings.seeds)) < 1:
        raise UsageError("iterations, seeds, test-tasks and processes must be at least 1")
    if not (settings.checkout / "maml_rl").is_dir():
        raise UsageError(f"{settings.checkout} is no checkout of pytorch-maml-rl")
    started = time.monotonic()
    jobs: list[tuple[Side, int]] = [
        (side, seed) for side in get_args(Side) for seed in settings.seeds
    ]
    with ProcessPoolExecutor(settings.processes, mp_context=get_context("spawn")) as pool:
        futures = {job: pool.submit(train, settings, *job) for job in jobs}
        found = {}
        for (side, seed), future in futures.items():
            found[side, seed] = future.result()
            seconds = found[side, seed].seconds
            print(f"{NAMES[side]}, seed {seed}: {seconds:.0f} s", file=sys.stderr, flush=True)
    by_side = {side: [found[side, seed] for seed in settings.seeds] for side in get_args(Side)}
    page = _page(settings, by_side, time.monotonic() - started)
    settings.out.mkdir(parents=True, exist_ok=True)
    (settings.out / "navigation-quality.md").write_text(page, encoding="utf-8")
    _write_scores(settings, by_side)
    print(page)


def train(settings: Comparison, side: Side, seed: int) -> Trained:
    """Carry out one training, and test what it ends with."""
    torch.set_num_threads(1)
    started = time.monotonic()
    problem = Problem(peer_actions=True).thin
    meta = problem.how.initial(torch_generator(seed, "initial", "cpu"))
    learn = _learn_by_peer if side == "peer" else _learn
    learned = learn(problem, meta, settings, seed)
    seconds = time.monotonic() - started
    return Trained(_test(problem, learned, settings), seconds)


def _learn_by_peer(
    problem: Problem, meta: MetaParams, settings: Comparison, seed: int
) -> MetaParams:
    peer = Peer(settings.checkout.resolve(), problem)
    peer.begin(meta)
    # It draws from torch's global generator, and goals from its environment's.
    torch.manual_seed(seed)
    peer.env.unwrapped.seed(seed)
    for _ in range(settings.iterations):
        peer.update(*peer.episodes())
    return MetaParams(unflatten(peer.parameters(), meta.params), {})


def _learn(problem: Problem, meta: MetaParams, settings: Comparison, seed: int) -> MetaParams:
    work, rng = ChunkWork(problem.how), numpy_generator(seed, "tasks")
    generator = torch_generator(seed, "episodes", "cpu")
    for _ in range(settings.iterations):
        tasks = problem.family.sample(problem.tasks, rng, "train")
        support, query = problem.batches(meta, tasks, generator)
        meta, _ = meta_trust_region_step(work, meta, [support], query, problem.trpo)
    return meta


def _test(problem: Problem, meta: MetaParams, settings: Comparison) -> NDArray[np.float64]:
    count, rng = settings.test_tasks, numpy_generator(0, "test tasks")
    env = problem.env(problem.family.sample(count, rng, "test"))
    generator = torch_generator(0, "test episodes", "cpu")
    before = problem.rollout(env, expand_to_tasks(meta.params, count), generator)
    adapted = problem.how.adapt(meta, [policy_batch(before, problem.advantages)])
    after = problem.rollout(env, adapted, generator)
    returns = torch.stack([rollout.returns.mean(1) for rollout in (before, after)], 1)
    return np.asarray(returns.double().numpy())


def _mean(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(scores.mean((-2, -1)))


def _told(scores: NDArray[np.float64]) -> str:
    """Return the mean of scores (seeds, tasks) with its interval."""
    return str(stratified_interval(scores, numpy_generator(0, "bootstrap"), _mean))


def _page(settings: Comparison, by_side: Mapping[Side, Sequence[Trained]], seconds: float) -> str:
    scores = {
        side: np.stack([each.returns for each in trained]) for side, trained in by_side.items()
    }
    rows = [
        [
            NAMES[side],
            *(_told(scores[side][:, :, step]) for step in (0, 1)),
            ", ".join(f"{mean:.2f}" for mean in scores[side][:, :, 1].mean(1)),
            f"{np.median([each.seconds for each in by_side[side]]):.0f}",
        ]
        for side in by_side
    ]
    head = ["", "before adaptation", "after one step", "after one step, by seed", "seconds"]
    gain = _told(scores["ours"][:, :, 1] - scores["peer"][:, :, 1])
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    return (
        "\n\n".join(
            [
                "# MAML on navigation after equal meta-iterations: pytorch-maml-rl and mtrl",
                (
                    f"Mean returns on {settings.test_tasks} held-out tasks, 20 episodes each, after {settings.iterations} "
                    f"meta-iterations, {len(settings.seeds)} seeds, with 95 % bootstrap intervals over seeds; seconds are the median "
                    "of a training's, beside others."
                ),
                markdown_table(head, rows),
                f"mtrl's return after one step is larger by **{gain}**.",
                (
                    "Both have the peer's settings, actions and environment, start with the same parameters for a seed and take "
                    "the same number of episodes; mtrl's Fisher products are on a twentieth of the samples. Both are tested "
                    "by the same code. `scripts/compare_pytorch_maml_rl.py` says how."
                ),
                (
                    f"Made by `python scripts/compare_pytorch_maml_rl.py --checkout ../pytorch-maml-rl` at {commit()} in "
                    f"{seconds / 60:.0f} minutes, {settings.processes} trainings at a time, with {versions}."
                ),
            ]
        )
        + "\n"
    )


def _write_scores(settings: Comparison, by_side: Mapping[Side, Sequence[Trained]]) -> None:
    with (settings.out / "navigation-quality.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["library", "seed", "task", "before", "after"])
        for side, trained in by_side.items():
            for seed, each in zip(settings.seeds, trained, strict=True):
                for task, (before, after) in enumerate(each.returns.tolist()):
                    writer.writerow([NAMES[side], seed, task, before, after])


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(tyro.cli(Comparison, description=__doc__))))
