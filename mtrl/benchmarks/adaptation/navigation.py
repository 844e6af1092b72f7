"""A meta-iteration on 2-D navigation at pytorch-maml-rl's settings: episodes, adaptation, episodes, TRPO.

20 tasks, 20 episodes of 100 steps each before and after one inner step of 0.1, two layers of 64 tanh units,
TRPO with 10 conjugate-gradient iterations. Each iteration starts from the same meta-parameters.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtrl.envs.batched import BatchedEnv
from mtrl.envs.navigation2d import STEP_SIZE, Navigation2D
from mtrl.envs.task import Task
from mtrl.meta.chunk_work import ChunkWork
from mtrl.meta.inner import adapt, expand_to_tasks
from mtrl.meta.maml import MAML
from mtrl.meta.objectives import (
    AdvantageSettings,
    PolicyBatch,
    policy_batch,
    policy_loss,
    surrogate,
)
from mtrl.meta.outer import TRPO, TrustRegionStep, trust_region_step
from mtrl.meta.parameters import MetaParams
from mtrl.meta.policy_adaptation import GradientAdaptation
from mtrl.meta.trust_region import meta_trust_region_step
from mtrl.nets import Params
from mtrl.policies import Gaussian, GaussianPolicy
from mtrl.rollouts import EpisodeBatch, Rollout, collect

__all__ = [
    "Batches",
    "Problem",
    "batched",
    "compiled_disagreement",
    "disagreement",
    "looped",
    "looped_step",
    "parts",
]

Batches = tuple[PolicyBatch, PolicyBatch]
"""The samples before and after adaptation."""


class PeerActions:
    """Episodes that take the peer's actions."""

    def __init__(self, env: EpisodeBatch) -> None:
        self._env = env
        self.horizon = env.horizon

    def reset(self, seeds: Tensor) -> Tensor:
        """Start an episode in every slot."""
        return self._env.reset(seeds)

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Step every slot."""
        return self._env.step(actions / STEP_SIZE)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """The size of the work, and how to do it."""

    tasks: int = 20
    episodes: int = 20
    horizon: int = 100
    hidden: tuple[int, ...] = (64, 64)
    trpo: TRPO = field(
        default_factory=lambda: TRPO(
            max_kl=0.01, cg_iterations=10, damping=1e-5, curvature_fraction=1.0
        )
    )
    advantages: AdvantageSettings = field(
        default_factory=lambda: AdvantageSettings(discount=0.99, gae_lambda=1.0)
    )
    compiled: bool = False
    """Whether our outer update is compiled."""
    peer_actions: bool = False
    """Whether a policy's actions are the peer's, of which a tenth is the largest step; ours are ten times as large."""

    @property
    def thin(self) -> "Problem":
        """The same with Fisher products on as few samples as TRPO takes unless told otherwise."""
        fraction = TRPO().curvature_fraction
        return replace(self, trpo=replace(self.trpo, curvature_fraction=fraction))

    @property
    def family(self) -> Navigation2D:
        """The peer's environment ends at the goal, too."""
        return Navigation2D(terminate_at_goal=True, horizon=self.horizon)

    @property
    def how(self) -> GradientAdaptation:
        """Policy, learner and inner objective."""
        policy = GaussianPolicy(2, 2, hidden=self.hidden, activation="tanh")
        return GradientAdaptation(policy, MAML(step_size=0.1), "likelihood")

    def start(self) -> MetaParams:
        """Return the meta-parameters that every iteration starts from."""
        return self.how.initial(torch.Generator().manual_seed(0))

    def batches(
        self, meta: MetaParams, tasks: Sequence[Task], generator: torch.Generator
    ) -> Batches:
        """Collect episodes of `tasks` before and after adaptation."""
        env = self.env(tasks)
        rollout = self.rollout(env, expand_to_tasks(meta.params, len(tasks)), generator)
        support = self._batch(rollout)
        adapted = self.how.adapt(meta, [support])
        return support, self._batch(self.rollout(env, adapted, generator))

    def env(self, tasks: Sequence[Task]) -> EpisodeBatch:
        """Return the slots of `tasks`, as many for each as it has episodes."""
        env = BatchedEnv(self.family, self.family.tensors(tasks, repeats=self.episodes))
        return PeerActions(env) if self.peer_actions else env

    def rollout(self, env: EpisodeBatch, params: Params, generator: torch.Generator) -> Rollout:
        """Collect the episodes of all slots with per-task `params`."""
        shape = (next(iter(params.values())).shape[0], self.episodes)
        return collect(env, self.how.policy, params, shape=shape, generator=generator)

    def _batch(self, rollout: Rollout) -> PolicyBatch:
        if self.compiled:  # for one shape
            rollout = rollout.lasting(self.horizon)
        return policy_batch(rollout, self.advantages)


def batched(problem: Problem) -> Callable[[], TrustRegionStep]:
    """Return our meta-iteration: all tasks at once."""
    meta, rng = problem.start(), np.random.default_rng(0)
    generator = torch.Generator().manual_seed(0)
    work = ChunkWork(problem.how, compiled=problem.compiled)

    def iteration() -> TrustRegionStep:
        tasks = problem.family.sample(problem.tasks, rng, "train")
        support, query = problem.batches(meta, tasks, generator)
        return meta_trust_region_step(work, meta, [support], query, problem.trpo)[1]

    return iteration


def parts(problem: Problem) -> dict[str, Callable[[], object]]:
    """Return what our meta-iteration consists of, each to be run by itself on the same episodes."""
    meta, how = problem.start(), problem.how
    tasks = problem.family.sample(problem.tasks, np.random.default_rng(0), "train")
    generator = torch.Generator().manual_seed(0)
    support, query = problem.batches(meta, tasks, generator)
    return {
        # Adaptation is in it, too: episodes come before and after.
        "sampling": lambda: problem.batches(meta, tasks, generator),
        "inner": lambda: how.adapt(meta, [support]),
        "outer": lambda: meta_trust_region_step(
            ChunkWork(how), meta, [support], query, problem.trpo
        ),
    }


def looped(problem: Problem) -> Callable[[], TrustRegionStep]:
    """Return the same meta-iteration, task by task and by differentiating through adaptation."""
    meta, rng = problem.start(), np.random.default_rng(0)
    generator = torch.Generator().manual_seed(0)

    def iteration() -> TrustRegionStep:
        tasks = problem.family.sample(problem.tasks, rng, "train")
        each = [problem.batches(meta, [task], generator) for task in tasks]
        return looped_step(problem.how, meta, each, problem.trpo)

    return iteration


def looped_step(
    how: GradientAdaptation, meta: MetaParams, each: Sequence[Batches], settings: TRPO
) -> TrustRegionStep:
    """Take a TRPO step as the libraries do that know no task axis.

    A Fisher product is the second derivative of the mean KL through the adaptation of every task, by
    differentiating twice backward.

    Args:
        how: policy, learner and inner objective.
        meta: meta-parameters that took the samples.
        each: the batches of every task, their task axis of length one.
        settings: of the step; all samples are used for the curvature.
    """
    point = meta.flat().requires_grad_()
    with torch.enable_grad():
        old = [_adapted(how, meta.like(point), *task) for task in each]
        loss = _mean([surrogate(pi, query) for pi, (_, query) in zip(old, each, strict=True)])
        fixed = [Gaussian(*(value.detach() for value in pi)) for pi in old]
        kl = _mean(
            [
                (before.kl(pi) * query.valid).sum()
                for before, pi, (_, query) in zip(fixed, old, each, strict=True)
            ]
        )
        (slope,) = torch.autograd.grad(kl, point, create_graph=True)
    (gradient,) = torch.autograd.grad(loss, point, retain_graph=True)

    def fisher_product(vector: Tensor) -> Tensor:
        return torch.autograd.grad(slope @ vector, point, retain_graph=True)[0]

    @torch.no_grad()
    def evaluate(vector: Tensor) -> tuple[Tensor, Tensor]:
        new = [_adapted(how, meta.like(vector), *task) for task in each]
        losses, divergences = [], []
        for before, after, (_, query) in zip(fixed, new, each, strict=True):
            losses.append(surrogate(after, query))
            divergences.append((before.kl(after) * query.valid).sum())
        return _mean(losses), _mean(divergences)

    begin = (loss.detach(), gradient)
    return trust_region_step(point.detach(), begin, fisher_product, evaluate, settings)


def _adapted(
    how: GradientAdaptation, meta: MetaParams, support: PolicyBatch, query: PolicyBatch
) -> Gaussian:
    """Return one task's adapted policy at its query observations, differentiable by `meta`."""
    params = adapt(
        expand_to_tasks(meta.params, 1),
        how.learner.step_sizes(meta.step_sizes, meta.params, 1),
        policy_loss(how.policy, how.objective),
        [support],
    )
    found = how.policy(params, query.observations)
    assert isinstance(found, Gaussian)
    return found


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack([value.sum() for value in values]).mean()


def disagreement(problem: Problem) -> float:
    """Return the largest difference of our new meta-parameters from the loop's, over the largest change.

    Both take one step from the same episodes, in float64.
    """
    meta = problem.start()
    tasks = problem.family.sample(problem.tasks, np.random.default_rng(0), "train")
    support, query = problem.batches(meta, tasks, torch.Generator().manual_seed(0))
    support, query = as_double(support), as_double(query)
    meta = MetaParams.from_named({name: value.double() for name, value in meta.named().items()})
    ours = _step(problem, meta, (support, query))
    each = [(one_task(support, i), one_task(query, i)) for i in range(problem.tasks)]
    theirs = looped_step(problem.how, meta, each, problem.trpo).point
    return _relative(ours, theirs, meta.flat())


def _relative(ours: Tensor, theirs: Tensor, origin: Tensor) -> float:
    return float((ours - theirs).abs().max() / (theirs - origin).abs().max())


def _map(batch: PolicyBatch, function: Callable[[Any], Any]) -> PolicyBatch:
    return PolicyBatch(**{name: function(value) for name, value in vars(batch).items()})


def as_double(batch: PolicyBatch) -> PolicyBatch:
    """Convert to float64."""
    return _map(batch, lambda value: value.double())


def one_task(batch: PolicyBatch, index: int) -> PolicyBatch:
    """Return one task's samples, the task axis of length one."""
    return _map(batch, lambda value: value[index : index + 1])


def compiled_disagreement(problem: Problem) -> float:
    """Return the largest difference that compiling makes to our new meta-parameters, over the largest change."""
    meta = problem.start()
    tasks = problem.family.sample(problem.tasks, np.random.default_rng(0), "train")
    batches = problem.batches(meta, tasks, torch.Generator().manual_seed(0))
    plain, compiled = (
        _step(replace(problem, compiled=compiled), meta, batches) for compiled in (False, True)
    )
    return _relative(compiled, plain, meta.flat())


def _step(problem: Problem, meta: MetaParams, batches: Batches) -> Tensor:
    support, query = batches
    work = ChunkWork(problem.how, compiled=problem.compiled)
    return meta_trust_region_step(work, meta, [support], query, problem.trpo)[1].point
