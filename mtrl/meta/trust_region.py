"""TRPO on (parameters, step sizes): the outer update of gradient-based meta-reinforcement learning.

Finn et al. 2017 update the initialisation so; Li et al. 2017 the initialisation and the step sizes together.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from mtrl.host_reads import reads_are_free
from mtrl.meta.chunk_work import ChunkWork, adapted_policies
from mtrl.meta.fisher import StepSizeDerivative
from mtrl.meta.linearized import LinearizedAdaptation, concatenate
from mtrl.meta.objectives import PolicyBatch
from mtrl.meta.outer import TRPO, TrustRegionStep, trust_region_step
from mtrl.meta.parameters import MetaParams
from mtrl.meta.policy_adaptation import GradientAdaptation, task_chunks
from mtrl.policies import Distribution

__all__ = [
    "Join",
    "PolicyUpdate",
    "TrustRegionUpdate",
    "alone",
    "loss_and_kl",
    "meta_trust_region_step",
]

Join = Callable[[Tensor], Tensor]
"""Makes a mean over a process's own tasks one over those of all processes, the same bits in each."""

Product = Callable[[Tensor], Tensor]
"""Multiplies a matrix with a vector."""


def alone(mean: Tensor) -> Tensor:
    """Return the mean as it is: there is one process."""
    return mean


def _thinned_products(
    work: ChunkWork,
    meta: MetaParams,
    adaptation: LinearizedAdaptation,
    batches: Sequence[PolicyBatch],
    stride: int,
) -> list[Product]:
    """Return products with the Fisher information, and inner Hessians averaged, on one in so many samples.

    The adapted parameters and the derivative by the step sizes stay those of all supports.
    """
    products, first = [], 0
    for chunk in task_chunks([batch.every(stride) for batch in batches]):
        last = first + chunk[-1].weights.shape[0]
        products.append(work.fisher_product(meta, chunk, adaptation.of_tasks(first, last)))
        first = last
    return products


def meta_trust_region_step(
    work: ChunkWork,
    meta: MetaParams,
    supports: Sequence[PolicyBatch],
    query: PolicyBatch,
    settings: TRPO,
    join: Join = alone,
) -> tuple[MetaParams, TrustRegionStep]:
    """Update meta-parameters so that the adapted policies improve, within a mean KL of `settings.max_kl`.

    Several processes join the gradient, every Fisher product, and loss and KL of every step that the line search
    tries; each then decides the same by itself.

    Args:
        work: what is computed of a chunk of tasks. Without thinned samples the outer gradient is never compiled,
            since its graph gives the Fisher products.
        meta: meta-parameters that took the supports.
        supports: one batch per inner step, each of all tasks.
        query: the batch taken after adaptation.
        settings: see `TRPO`.
        join: joins what several processes with a share of the tasks found.
    """
    how, tasks = work.how, query.valid.shape[0]
    stride = round(1 / settings.curvature_fraction)
    chunks = list(task_chunks([*supports, query]))
    totals, old = [], []
    products: list[Product] = []
    if stride == 1:
        step_sizes = StepSizeDerivative(how.learner, meta, len(supports))
        for chunk in chunks:
            policies = adapted_policies(how, meta, chunk, step_sizes)
            totals.append(torch.cat([part.view(-1) for part in policies.outer_gradient()]))
            old.append(policies.fixed)
            products.append(policies.fisher_product)
    else:  # the graphs of a chunk are not kept beside those of the next
        found = [work.outer_gradient(meta, chunk) for chunk in chunks]
        totals, old = [each.total for each in found], [each.old for each in found]
        adaptation = concatenate([each.adaptation for each in found])
        products = _thinned_products(work, meta, adaptation, [*supports, query], stride)
    mean = join(torch.stack(totals).sum(0) / tasks)
    # With several processes each would stop elsewhere than the mean of all allows.
    enough = settings.max_kl if join is alone and reads_are_free(query.valid.device) else math.inf

    def fisher(vector: Tensor) -> Tensor:
        return join(torch.stack([product(vector) for product in products]).sum(0) / tasks)

    def evaluate(vector: Tensor) -> tuple[Tensor, Tensor]:
        return loss_and_kl(work, meta.like(vector), chunks, old, join, enough)

    step = trust_region_step(meta.flat(), (mean[0], mean[1:]), fisher, evaluate, settings)
    return meta.like(step.point), step


def loss_and_kl(
    work: ChunkWork,
    meta: MetaParams,
    chunks: Sequence[Sequence[PolicyBatch]],
    old: Iterable[Distribution],
    join: Join = alone,
    enough: float = math.inf,
) -> tuple[Tensor, Tensor]:
    """Return the means over tasks of the outer loss and of the KL from the `old` policies, of `meta` adapted.

    Args:
        work: what is computed of a chunk.
        meta: the meta-parameters.
        chunks: for some tasks each, the support of every inner step, then the query.
        old: for each chunk the policies that took the query.
        join: joins what several processes with a share of the tasks found.
        enough: a KL beyond which its size does not matter: as soon as some tasks alone make the mean larger, as no
            task's is negative, the others are left out of both means.
    """
    tasks = sum(len(query.valid) for *_, query in chunks)
    totals, reached = [], 0.0
    for chunk, before in zip(chunks, old, strict=True):
        totals.append(work.loss_and_kl(meta, chunk, before))
        if enough < math.inf:
            reached += float(totals[-1][1]) / tasks
            if reached > enough:
                break
    loss, kl = join(torch.stack(totals).sum(0) / tasks)
    return loss, kl


class PolicyUpdate(Protocol):
    """An outer update of meta-reinforcement learning, with what it keeps between meta-iterations."""

    def step(
        self, supports: Sequence[PolicyBatch], query: PolicyBatch, progress: float
    ) -> tuple[MetaParams, dict[str, float | Tensor]]:
        """Update once, at `progress` from 0 to 1; return the new meta-parameters and scalars by tag."""

    def tensors(self) -> dict[str, Tensor]:
        """Return what a resumed run needs to continue."""


class TrustRegionUpdate:
    """TRPO as a `PolicyUpdate`.

    Args:
        how: policy, learner and inner objective.
        meta: the meta-parameters to start from.
        settings: see `TRPO`.
        join: joins what several processes with a share of the tasks found.
        compiled: compile what is computed of a chunk of tasks, for each shape of the samples.
    """

    def __init__(
        self,
        how: GradientAdaptation,
        meta: MetaParams,
        settings: TRPO,
        join: Join = alone,
        *,
        compiled: bool = False,
    ) -> None:
        self._work = ChunkWork(how, compiled=compiled)
        self._meta = meta
        self._settings = settings
        self._join = join

    def step(
        self, supports: Sequence[PolicyBatch], query: PolicyBatch, progress: float
    ) -> tuple[MetaParams, dict[str, float | Tensor]]:
        """Take one step in the trust region that the settings have at `progress`."""
        self._meta, step = meta_trust_region_step(
            self._work, self._meta, supports, query, self._settings.at(progress), self._join
        )
        return self._meta, {
            "outer/kl": step.kl,
            "outer/improvement": step.improvement,
            "outer/step_fraction": step.fraction,
        }

    def tensors(self) -> dict[str, Tensor]:
        """Return nothing: no update depends on those before."""
        return {}
