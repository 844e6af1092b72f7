"""TRPO on meta-parameters against dense matrices and autograd through the inner loop."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_policy import CHOOSING, POLICY, policy_meta, samples
from tiny_regression import EXACT
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close

from mtrl.meta import policy_adaptation
from mtrl.meta.anil import ANIL
from mtrl.meta.cavia import CAVIA, context_size
from mtrl.meta.chunk_work import ChunkWork, adapted_policies
from mtrl.meta.compiled import has_compiler
from mtrl.meta.constant_part import split_off_constants
from mtrl.meta.fisher import StepSizeDerivative
from mtrl.meta.inner import adapt
from mtrl.meta.maml import MAML, MetaLearner
from mtrl.meta.meta_sgd import MetaSGD
from mtrl.meta.objectives import PolicyBatch, policy_loss, surrogate_loss
from mtrl.meta.outer import TRPO
from mtrl.meta.parameters import MetaParams
from mtrl.meta.policy_adaptation import GradientAdaptation, task_chunks
from mtrl.meta.trust_region import (
    Join,
    _thinned_products,
    alone,
    loss_and_kl,
    meta_trust_region_step,
)
from mtrl.nets import Params
from mtrl.policies import Distribution, Policy

LEARNERS = {
    "parameter": MetaSGD(),
    "tensor, 2 steps of their own": MetaSGD(granularity="tensor", per_step=True, inner_steps=2),
    "layer, positive, 2 steps": MetaSGD(
        granularity="layer", positive=True, inner_steps=2, later_step_scale=0.5
    ),
    "scalar, first order": MetaSGD(granularity="scalar", first_order=True, inner_steps=2),
    "frozen trunk": MetaSGD(adapted=("layers.1", "log_std")),
    "MAML": MAML(step_size=0.2, inner_steps=2),
    "MAML, first order": MAML(step_size=0.2, first_order=True),
    "ANIL": ANIL(step_size=0.2),
    "CAVIA": CAVIA(context_size=3, inner_steps=2),
}
each_learner = pytest.mark.parametrize("learner", LEARNERS.values(), ids=LEARNERS)


class Problem:
    """One meta-batch, and its adaptation written with autograd."""

    def __init__(self, learner: MetaLearner, policy: Policy = POLICY) -> None:
        policy = replace(policy, context=context_size(learner))  # type: ignore[type-var]
        self.how = GradientAdaptation(policy, learner)
        self.meta = policy_meta(learner, policy)
        steps = range(learner.inner_steps)
        start = learner.start(self.meta.params, 2)
        self.supports = [samples(start, 10 * i, policy) for i in steps]
        self.query = samples(self.adapted(self.meta.flat()), 50, policy)

    def adapted(self, vector: Tensor) -> Params:
        meta, learner = self.meta.like(vector), self.how.learner
        return adapt(
            learner.start(meta.params, 2),
            learner.step_sizes(meta.step_sizes, meta.params, len(self.supports)),
            policy_loss(self.how.policy, self.how.objective),
            self.supports,
            first_order=learner.first_order,
        )

    def policy(self, vector: Tensor) -> Distribution:
        return self.how.policy(self.adapted(vector), self.query.observations)

    def kl(self, vector: Tensor) -> Tensor:
        with torch.no_grad():
            old = self.policy(self.meta.flat())
        return (old.kl(self.policy(vector)) * self.query.valid).sum(1).mean()

    def surrogate(self, vector: Tensor) -> Tensor:
        return surrogate_loss(self.how.policy, self.adapted(vector), self.query).mean()

    def gradient(self) -> Tensor:
        vector = self.meta.flat().requires_grad_()
        return torch.autograd.grad(self.surrogate(vector), vector)[0]

    def fisher(self) -> Tensor:
        hessian = torch.autograd.functional.hessian(self.kl, self.meta.flat())
        assert isinstance(hessian, Tensor)
        return hessian

    def step(self, settings: TRPO) -> tuple[MetaParams, float, float, float]:
        meta, step = meta_trust_region_step(
            ChunkWork(self.how), self.meta, self.supports, self.query, settings
        )
        return meta, step.improvement, step.kl, step.fraction


def fisher_product(
    problem: Problem, how: GradientAdaptation | None = None, stride: int = 1
) -> Callable[[Tensor], Tensor]:
    """Return the product with the mean of the tasks' Fisher informations."""
    how, meta, supports = how or problem.how, problem.meta, problem.supports
    step_sizes = StepSizeDerivative(how.learner, meta, len(supports))
    chunk = [*supports, problem.query]
    policies = adapted_policies(how, meta, chunk, step_sizes)
    products = [policies.fisher_product]
    if stride > 1:
        adaptation = policies.derivative.adaptation
        products = _thinned_products(ChunkWork(how), meta, adaptation, chunk, stride)
    return lambda vector: torch.stack([product(vector) for product in products]).sum(0) / 2


@pytest.mark.parametrize("policy", [POLICY, CHOOSING], ids=["real numbers", "choices"])
@each_learner
def test_the_fisher_product_is_the_hessian_of_the_mean_kl(
    learner: MetaLearner, policy: Policy
) -> None:
    if policy is CHOOSING and "log_std" in getattr(learner, "adapted", ()):
        learner = replace(learner, adapted=("layers.1",))
    problem = Problem(learner, policy)
    product = fisher_product(problem)
    size = len(problem.meta.flat())
    ours = torch.stack([product(row) for row in torch.eye(size, dtype=torch.float64)])
    assert ours.abs().max() > 0.01
    assert_close(ours, problem.fisher(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("policy", [POLICY, CHOOSING], ids=["real numbers", "choices"])
@each_learner
def test_the_step_is_the_natural_gradient_of_the_adapted_policies(
    learner: MetaLearner, policy: Policy
) -> None:
    if policy is CHOOSING and "log_std" in getattr(learner, "adapted", ()):
        learner = replace(learner, adapted=("layers.1",))
    problem = Problem(learner, policy)
    settings = TRPO(max_kl=0.01, damping=0.1, cg_iterations=60, curvature_fraction=1.0)
    meta, improvement, kl, fraction = problem.step(settings)
    gradient = problem.gradient()
    identity = torch.eye(len(gradient), dtype=torch.float64)
    direction = torch.linalg.solve(problem.fisher() + settings.damping * identity, gradient)
    full = direction * torch.sqrt(2 * settings.max_kl / (gradient @ direction))
    expected = problem.meta.flat() - fraction * full
    assert fraction > 0
    assert_close(meta.flat(), expected, rtol=0, atol=1e-9)
    # What the step reports is what the new meta-parameters do.
    before, after = (problem.surrogate(m.flat()).item() for m in (problem.meta, meta))
    assert_close(improvement, before - after, **EXACT)
    assert_close(kl, problem.kl(meta.flat()).item(), **EXACT)
    assert 0 < kl <= settings.max_kl
    assert improvement > 0


def test_the_radius_bounds_the_step() -> None:
    problem = Problem(MetaSGD())
    kls = [
        problem.step(TRPO(max_kl=radius, curvature_fraction=1.0))[2]
        for radius in (1e-4, 1e-3, 1e-2)
    ]
    for kl, radius in zip(kls, (1e-4, 1e-3, 1e-2), strict=True):
        assert 0.2 * radius < kl <= radius


def test_adapting_for_acting_gives_the_linearised_point() -> None:
    problem = Problem(MetaSGD(inner_steps=2))
    acting = problem.how.adapt(problem.meta, problem.supports)
    linear = problem.how.linearize(
        problem.meta, problem.supports, problem.query.weights.shape[0]
    ).adapted
    assert_close(acting, linear, **EXACT)
    assert not any(value.requires_grad for value in acting.values())


def test_both_inner_objectives_adapt_alike_but_bend_differently() -> None:
    # Rothfuss et al. 2019: the same gradient where the samples were taken, another Hessian.
    problem = Problem(MetaSGD())
    ratio = replace(problem.how, objective="ratio")
    adapted = problem.how.adapt(problem.meta, problem.supports)
    assert_close(ratio.adapt(problem.meta, problem.supports), adapted, **EXACT)
    vector = torch.ones_like(problem.meta.flat())
    products = [fisher_product(problem, how)(vector) for how in (problem.how, ratio)]
    assert (products[0] - products[1]).abs().max() > 1e-3


def test_the_curvature_may_use_a_share_of_the_samples() -> None:
    problem = Problem(MetaSGD())
    whole, half = (problem.step(TRPO(curvature_fraction=share)) for share in (1.0, 0.5))
    assert (whole[0].flat() - half[0].flat()).abs().max() > 1e-4
    product = fisher_product(problem, stride=2)
    vector = problem.gradient()
    assert_close(product(vector) @ vector, vector @ product(vector), **EXACT)


@pytest.mark.parametrize("fraction", [1.0, 0.5])
@each_learner
def test_chunks_of_tasks_change_nothing(
    learner: MetaLearner, fraction: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = Problem(learner)
    settings = TRPO(damping=0.1, curvature_fraction=fraction)
    together = problem.step(settings)[0].flat()
    monkeypatch.setattr(policy_adaptation, "SAMPLES_PER_CHUNK", 1)  # one task at a time
    assert_close(problem.step(settings)[0].flat(), together, rtol=0, atol=1e-10)


class Counting(ChunkWork):
    """Counts the chunks that the line search looked at."""

    seen = 0

    def loss_and_kl(self, *arguments: Any) -> Tensor:
        self.seen += 1
        return super().loss_and_kl(*arguments)


def test_a_divergence_that_is_enough_ends_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_adaptation, "SAMPLES_PER_CHUNK", 1)
    problem = Problem(MAML())
    chunks = list(task_chunks([*problem.supports, problem.query]))
    old = [ChunkWork(problem.how).outer_gradient(problem.meta, chunk).old for chunk in chunks]
    away = problem.meta.like(problem.meta.flat() + 0.1)
    work = Counting(problem.how)
    whole = float(loss_and_kl(work, away, chunks, old)[1])
    first = float(work.loss_and_kl(away, chunks[0], old[0])[1]) / len(chunks)
    assert 0 < first < whole
    for enough, looked_at in ((0.9 * first, 1), (1.1 * first, 2), (whole, 2)):
        work.seen = 0
        found = float(loss_and_kl(work, away, chunks, old, enough=enough)[1])
        assert work.seen == looked_at
        assert found == pytest.approx(first if looked_at == 1 else whole, rel=1e-12)


@each_learner
def test_leaving_a_candidate_that_is_too_far_changes_no_step(
    learner: MetaLearner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy_adaptation, "SAMPLES_PER_CHUNK", 1)  # one task at a time
    problem = Problem(learner)
    # So little damping makes the full step many times too long.
    settings = TRPO(damping=1e-8, max_kl=0.05, backtrack=0.5, curvature_fraction=1.0)

    def step(join: Join) -> tuple[Tensor, float, float, int]:
        work = Counting(problem.how)
        given = work, problem.meta, problem.supports, problem.query, settings, join
        meta, found = meta_trust_region_step(*given)
        return meta.flat(), float(found.kl), float(found.improvement), work.seen

    early, everything = step(alone), step(lambda mean: mean)
    assert early[3] <= everything[3]
    assert_close(early[:3], everything[:3], rtol=0, atol=0)


@pytest.mark.parametrize("policy", [POLICY, CHOOSING], ids=["real numbers", "choices"])
@pytest.mark.parametrize("fraction", [1.0, 0.5])
@each_learner
def test_traced_for_the_compiler_it_is_the_same(
    learner: MetaLearner, fraction: float, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    if policy is CHOOSING and "log_std" in getattr(learner, "adapted", ()):
        learner = replace(learner, adapted=("layers.1",))
    problem = Problem(learner, policy)
    settings = TRPO(damping=0.1, curvature_fraction=fraction)
    expected = problem.step(settings)
    monkeypatch.setattr("mtrl.meta.compiled._compiled", lambda graph, device: graph)
    work = ChunkWork(problem.how, compiled=True)
    for _ in range(2):
        meta, step = meta_trust_region_step(
            work, problem.meta, problem.supports, problem.query, settings
        )
        assert_close(meta.flat(), expected[0].flat(), rtol=0, atol=1e-10)
        assert_close((step.improvement, step.kl), expected[1:3], rtol=1e-8, atol=1e-12)


# torch's compiler uses parts of torch that torch deprecates.
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.skipif(not has_compiler(torch.device("cpu")), reason="no C++ compiler")
def test_compiled_it_is_the_same() -> None:
    problem = Problem(MetaSGD())
    settings = TRPO(damping=0.1, curvature_fraction=0.5)
    expected = problem.step(settings)
    work = ChunkWork(problem.how, compiled=True)
    meta, step = meta_trust_region_step(
        work, problem.meta, problem.supports, problem.query, settings
    )
    assert step.fraction == expected[3] > 0
    assert_close(meta.flat(), expected[0].flat(), rtol=0, atol=1e-10)


def test_what_does_not_change_is_computed_once() -> None:
    def function(vector: Tensor, matrix: Tensor, other: Tensor) -> list[Tensor]:
        return [matrix.exp() @ vector, vector + 1, other.sin()]

    example = [torch.rand(3), torch.rand(3, 3), torch.rand(2)]
    constant, rest = split_off_constants(make_fx(function)(*example))
    known = constant(*example[1:])
    for vector in (example[0], torch.rand(3)):
        assert_close(rest(vector, *known), function(vector, *example[1:]), rtol=0, atol=0)
    targets = [str(node.target) for node in rest.graph.nodes if node.op == "call_function"]
    assert sorted(targets) == ["aten.add.Tensor", "aten.mv.default"]


def test_a_query_without_advantages_changes_nothing() -> None:
    problem = Problem(MetaSGD())
    problem.query = replace(problem.query, weights=torch.zeros_like(problem.query.weights))
    meta, improvement, kl, fraction = problem.step(TRPO())
    assert (improvement, kl, fraction) == (0.0, 0.0, 0.0)
    assert_close(meta.flat(), problem.meta.flat(), rtol=0, atol=0)


def test_a_parameter_that_the_policy_does_not_use_is_left_alone() -> None:
    learner = MetaSGD()
    problem = Problem(learner)
    meta, *_ = problem.step(TRPO())
    spare = torch.ones(3, dtype=torch.float64)
    problem.meta = MetaParams(
        problem.meta.params | {"value_head": spare},
        problem.meta.step_sizes | {"value_head": 0.1 * spare},
    )
    wider, *_ = problem.step(TRPO())
    assert_close(wider.params["value_head"], spare, rtol=0, atol=0)
    assert_close({name: wider.params[name] for name in meta.params}, meta.params, **EXACT)


def test_padding_takes_no_part() -> None:
    problem = Problem(MetaSGD())
    expected, *_ = problem.step(TRPO())

    def poisoned(batch: PolicyBatch) -> PolicyBatch:
        observations = batch.observations.clone()
        observations[1, -2:] = 9.0
        return replace(batch, observations=observations)

    problem.supports = [poisoned(support) for support in problem.supports]
    problem.query = poisoned(problem.query)
    actual, *_ = problem.step(TRPO())
    assert_close(actual.flat(), expected.flat(), rtol=0, atol=1e-10)
