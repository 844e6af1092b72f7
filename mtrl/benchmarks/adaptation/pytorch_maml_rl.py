"""pytorch-maml-rl's own sampler and meta-learner, run from a checkout of it.

Its worker process becomes a plain object, so that all its work is on one thread too, and nothing in a
queue or another process escapes the clock. Removed names of NumPy and torch that it uses are put back.
"""

import asyncio
import contextlib
import queue
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtrl.benchmarks.adaptation.gym_stand_in import TimeLimit, install
from mtrl.benchmarks.adaptation.navigation import Problem
from mtrl.errors import UsageError
from mtrl.meta.chunk_work import ChunkWork
from mtrl.meta.objectives import PolicyBatch
from mtrl.meta.parameters import MetaParams
from mtrl.meta.trust_region import meta_trust_region_step

__all__ = ["PEER", "disagreement", "iterations"]

PEER = "pytorch-maml-rl"


class Peer:
    """A meta-learner and a sampler of pytorch-maml-rl, for `problem`.

    Args:
        path: the checkout, the folder that holds the package folder `maml_rl`.
        problem: the size of the work.

    Raises:
        UsageError: `path` is no checkout.
    """

    def __init__(self, path: Path, problem: Problem) -> None:
        self.problem = problem
        modules = _modules(path, problem.horizon)
        self.env = modules.make()
        self.policy = modules.NormalMLPPolicy(2, 2, problem.hidden, torch.tanh)
        self.learner = modules.MAMLTRPO(self.policy, fast_lr=0.1)
        self._queues: tuple[queue.Queue[Any], queue.Queue[Any]] = queue.Queue(), queue.Queue()
        self._worker = modules.SamplerWorker(
            0,
            "2DNavigation-v0",
            {},
            problem.episodes,
            self.env.observation_space,
            self.env.action_space,
            self.policy,
            modules.LinearFeatureBaseline(2),
            0,
            None,
            *self._queues,
            contextlib.nullcontext(),
        )
        self.restart()

    def restart(self) -> None:
        """Set the parameters to those that every iteration of every variant starts from."""
        self.begin(self.problem.start())

    def begin(self, meta: MetaParams) -> None:
        """Set the parameters."""
        # Theirs come in another order: the deviation first.
        *network, log_std = (value.clone() for value in meta.params.values())
        with torch.no_grad():
            for theirs, ours in zip(self.policy.parameters(), [log_std, *network], strict=True):
                theirs.copy_(ours)

    def episodes(self) -> tuple[list[Any], list[Any]]:
        """Return the tasks' episodes before and after adaptation."""
        gae_lambda, gamma = self.problem.advantages.gae_lambda, self.problem.advantages.discount
        tasks = self.env.unwrapped.sample_tasks(self.problem.tasks)
        for index, task in enumerate(tasks):
            self._worker.envs.reset_task(task)
            self._worker.sample(index, fast_lr=0.1, gamma=gamma, gae_lambda=gae_lambda)
        train, valid = ([q.get_nowait()[2] for _ in tasks] for q in self._queues)
        return train, valid

    def update(self, train: Sequence[Any], valid: Sequence[Any]) -> None:
        """Take one TRPO step."""
        trpo = self.problem.trpo
        self.learner.step(
            [[self._ready(value) for value in train]],
            [self._ready(value) for value in valid],
            max_kl=trpo.max_kl,
            cg_iters=trpo.cg_iterations,
            cg_damping=trpo.damping,
            ls_max_steps=trpo.line_search_steps,
            ls_backtrack_ratio=trpo.backtrack,
        )

    def _ready(self, value: Any) -> Any:
        future = self.learner._event_loop.create_future()
        future.set_result(value)
        return future

    def parameters(self) -> Tensor:
        """Return the policy's parameters in our order, as one vector."""
        log_std, *network = self.policy.parameters()
        return torch.cat([value.detach().reshape(-1) for value in (*network, log_std)])


def _least_squares(b: Tensor, a: Tensor) -> tuple[Tensor, None]:
    return torch.linalg.solve(a, b), None


def _modules(path: Path, horizon: int) -> SimpleNamespace:
    """Import what is needed of the package below `path`."""
    if not (path / "maml_rl" / "metalearners").is_dir():
        raise UsageError(
            f"{path} is no checkout of pytorch-maml-rl: clone "
            "https://github.com/tristandeleu/pytorch-maml-rl and give the folder that holds maml_rl"
        )
    np.__dict__.setdefault("float_", np.float64)
    vars(torch)["lstsq"] = _least_squares
    if str(path) not in sys.path:
        sys.path.append(str(path))

    def make(*_: Any, **__: Any) -> TimeLimit:
        return TimeLimit(import_module("maml_rl.envs.navigation").Navigation2DEnv(), horizon)

    install(make)
    asyncio.set_event_loop(asyncio.new_event_loop())
    places = {
        "LinearFeatureBaseline": "maml_rl.baseline",
        "MAMLTRPO": "maml_rl.metalearners",
        "NormalMLPPolicy": "maml_rl.policies",
        "SamplerWorker": "maml_rl.samplers.multi_task_sampler",
    }
    found = {name: getattr(import_module(place), name) for name, place in places.items()}
    return SimpleNamespace(make=make, **found)


def iterations(path: Path, problem: Problem) -> Callable[[], None]:
    """Return its meta-iteration."""
    peer = Peer(path, problem)

    def iteration() -> None:
        peer.restart()
        peer.update(*peer.episodes())

    return iteration


def disagreement(path: Path, problem: Problem) -> float:
    """Return how far our TRPO step, in float64, points from its, in float32, on its own episodes.

    That is the largest difference of the two changes of the parameters, scaled to length one each, over the
    largest entry. The lengths are left out: its line search measures the KL the other way round.
    """
    peer = Peer(path, problem)
    train, valid = peer.episodes()
    meta = MetaParams({k: v.double() for k, v in problem.start().params.items()}, {})
    before = peer.parameters()
    support, query = (_policy_batch(peer, part) for part in (train, valid))
    # The query's samples were taken by the adapted policies: weigh by the ratio to these.
    adapted = problem.how.adapt(meta, [support])
    log_probs = problem.how.policy(adapted, query.observations).log_prob(query.actions)
    query = PolicyBatch(**{**vars(query), "log_probs": log_probs})
    _, ours = meta_trust_region_step(ChunkWork(problem.how), meta, [support], query, problem.trpo)
    peer.update(train, valid)
    one, other = (
        torch.nn.functional.normalize(after.double() - before, dim=0)
        for after in (ours.point, peer.parameters())
    )
    return float((one - other).abs().max() / other.abs().max())


def _policy_batch(peer: Peer, tasks: Sequence[Any]) -> PolicyBatch:
    """Merge its episodes: its means are over each episode's steps, then over the episodes."""
    columns: dict[str, list[Tensor]] = {
        "observations": [],
        "actions": [],
        "weights": [],
        "valid": [],
    }
    for episodes in tasks:
        lengths = torch.tensor(episodes.lengths, dtype=torch.float64)
        steps = torch.arange(peer.problem.horizon).unsqueeze(1)
        valid = (steps < lengths) / (lengths * len(lengths))
        padded = {
            "observations": episodes.observations.double(),
            "actions": episodes.actions.double(),
            "weights": episodes.advantages * valid[: len(episodes)],
            "valid": valid[: len(episodes)],
        }
        for name, value in padded.items():
            missing = peer.problem.horizon - len(value)
            value = torch.cat([value, value.new_zeros((missing, *value.shape[1:]))])
            columns[name].append(value.flatten(0, 1))
    stacked = {name: torch.stack(values) for name, values in columns.items()}
    return PolicyBatch(**stacked, log_probs=torch.zeros_like(stacked["weights"]))
