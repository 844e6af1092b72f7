"""ProMP: its steps against a loop over tasks written with torch's distributions, and what each part does."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_policy import CHOOSING, POLICY, SAMPLES, TASKS, policy_meta, samples
from tiny_regression import EXACT
from torch import Tensor
from torch.distributions import Categorical, Independent, Normal, kl_divergence
from torch.testing import assert_close

from mtrl.config import from_dict, to_dict
from mtrl.errors import UsageError
from mtrl.meta import policy_adaptation
from mtrl.meta.cavia import CAVIA, context_size
from mtrl.meta.maml import MAML, MetaLearner
from mtrl.meta.meta_sgd import MetaSGD
from mtrl.meta.outer import TRPO
from mtrl.meta.parameters import MetaParams
from mtrl.meta.policy_adaptation import GradientAdaptation
from mtrl.meta.proximal import PROMP, ProximalUpdate
from mtrl.meta.reinforcement import ReinforcementConfig
from mtrl.nets import Params
from mtrl.policies import Policy

# Steps so long that ratios leave the clipped range, and a penalty that matters.
SETTINGS = PROMP(learning_rate=0.05, clip=0.1, kl_penalty=0.5)
LEARNERS = {
    "MAML, 2 steps": MAML(step_size=0.3, inner_steps=2),
    "MAML, first order": MAML(step_size=0.3, first_order=True),
    "Meta-SGD": MetaSGD(),
    "CAVIA": CAVIA(context_size=3),
}
each_learner = pytest.mark.parametrize("learner", LEARNERS.values(), ids=LEARNERS)


class Problem:
    """One meta-batch, and an outer update of it."""

    def __init__(self, learner: MetaLearner, policy: Policy = POLICY) -> None:
        policy = replace(policy, context=context_size(learner))  # type: ignore[type-var]
        self.how = GradientAdaptation(policy, learner, "ratio")
        self.meta = policy_meta(learner, policy)
        params = learner.start(self.meta.params, TASKS)
        self.supports = []
        for step in range(learner.inner_steps):
            self.supports.append(samples(params, 10 * step, policy))
            params = self.how.adapt(self.meta, self.supports)
        self.query = samples(params, 50, policy)

    def copy(self) -> MetaParams:
        return self.meta.like(self.meta.flat().clone())

    def step(self, settings: PROMP = SETTINGS) -> tuple[MetaParams, dict[str, float]]:
        update = ProximalUpdate(self.how, self.copy(), settings, {})
        return update.step(self.supports, self.query, 0.0)


# Written anew: one task at a time, with torch's distributions and plain autograd.


def distribution(params: Params, observations: Tensor) -> Any:
    inputs = observations
    if "context" in params:
        inputs = torch.cat([inputs, params["context"].expand(len(inputs), -1)], 1)
    hidden = torch.tanh(inputs @ params["layers.0.weight"].T + params["layers.0.bias"])
    output = hidden @ params["layers.1.weight"].T + params["layers.1.bias"]
    if "log_std" not in params:
        return Categorical(logits=output)
    return Independent(Normal(output, params["log_std"].exp()), 1)


def hand_policies(problem: Problem, meta: MetaParams, task: int) -> list[Any]:
    learner = problem.how.learner
    params = {n: v[task] for n, v in learner.start(meta.params, TASKS).items()}
    policies = []
    sizes = learner.step_sizes(meta.step_sizes, meta.params, len(problem.supports))
    for alpha, support in zip(sizes, problem.supports, strict=True):
        leaves = {n: v if v.requires_grad else v.requires_grad_() for n, v in params.items()}
        policy = distribution(leaves, support.observations[task])
        policies.append(policy)
        ratio = torch.exp(policy.log_prob(support.actions[task]) - support.log_probs[task])
        loss = -(ratio * support.weights[task]).sum()
        wanted = [leaves[name] for name in alpha]
        slopes = torch.autograd.grad(loss, wanted, create_graph=True)
        if learner.first_order:
            slopes = tuple(slope.detach() for slope in slopes)
        moved = zip(alpha.items(), slopes, strict=True)
        params = leaves | {name: leaves[name] - size * slope for (name, size), slope in moved}
    return [*policies, distribution(params, problem.query.observations[task])]


def hand_loss(problem: Problem, meta: MetaParams, old: list[list[Any]], settings: PROMP) -> Tensor:
    losses = []
    for task in range(TASKS):
        *earlier, last = hand_policies(problem, meta, task)
        query, total = problem.query, torch.zeros((), dtype=torch.float64)
        log_probs = last.log_prob(query.actions[task])
        for sample in range(SAMPLES):
            ratio = torch.exp(log_probs[sample] - query.log_probs[task, sample])
            low, high = 1 - settings.clip, 1 + settings.clip
            clipped = torch.clip(ratio, low, high)
            weight = query.weights[task, sample]
            total = total - torch.minimum(ratio * weight, clipped * weight)
        for before, after, support in zip(old[task], earlier, problem.supports, strict=False):
            mean = (kl_divergence(before, after) * support.valid[task]).sum()
            total = total + settings.kl_penalty * mean / len(earlier)
        losses.append(total)
    return torch.stack(losses).mean()


def hand_step(problem: Problem, settings: PROMP) -> MetaParams:
    frozen = problem.copy()
    old = [hand_policies(problem, frozen, task) for task in range(TASKS)]
    for policy in itertools.chain(*old):
        detach(policy)
    leaves = {n: v.clone().requires_grad_() for n, v in problem.meta.named().items()}
    adam = torch.optim.Adam(list(leaves.values()), lr=settings.learning_rate, foreach=False)
    for _ in range(settings.steps):
        adam.zero_grad()
        hand_loss(problem, MetaParams.from_named(leaves), old, settings).backward()
        adam.step()
    return MetaParams.from_named({name: value.detach() for name, value in leaves.items()})


def detach(policy: Any) -> None:
    if isinstance(policy, Categorical):
        policy.logits = policy.logits.detach()
    else:
        policy.base_dist.loc = policy.base_dist.loc.detach()
        policy.base_dist.scale = policy.base_dist.scale.detach()


@pytest.mark.parametrize("policy", [POLICY, CHOOSING], ids=["real numbers", "choices"])
@each_learner
def test_its_steps_are_those_of_a_loop_over_tasks(learner: MetaLearner, policy: Policy) -> None:
    problem = Problem(learner, policy)
    meta, _ = problem.step()
    # Five steps of Adam, whose first ones divide gradients by their own size.
    assert_close(meta.named(), hand_step(problem, SETTINGS).named(), rtol=0, atol=1e-9)
    assert (meta.flat() - problem.meta.flat()).abs().max() > 0.05


@pytest.mark.parametrize(
    "changes",
    [{"learning_rate": 0.02}, {"steps": 4}, {"clip": 10.0}, {"kl_penalty": 0.0}],
    ids=lambda changes: next(iter(changes)),
)
def test_every_setting_changes_the_update(changes: dict[str, Any]) -> None:
    problem = Problem(MAML(step_size=0.3))
    usual, other = problem.step()[0].flat(), problem.step(replace(SETTINGS, **changes))[0].flat()
    assert (usual - other).abs().max() > 1e-3


def test_what_it_reports_is_what_the_new_policies_do() -> None:
    problem = Problem(MAML(step_size=0.3))
    meta, measured = problem.step()
    with torch.enable_grad():
        old = [hand_policies(problem, problem.copy(), task)[-1] for task in range(TASKS)]
        new = [hand_policies(problem, meta, task)[-1] for task in range(TASKS)]
    query, gains, kls = problem.query, [], []
    for task, (before, after) in enumerate(zip(old, new, strict=True)):
        ratio = torch.exp(after.log_prob(query.actions[task]) - query.log_probs[task])
        gains.append(((ratio - 1) * query.weights[task]).sum().item())
        kls.append((kl_divergence(before, after) * query.valid[task]).sum().item())
    expected = {"outer/kl": sum(kls) / TASKS, "outer/improvement": sum(gains) / TASKS}
    assert_close({name: float(value) for name, value in measured.items()}, expected, **EXACT)
    assert measured["outer/improvement"] > 0


def test_the_penalty_holds_back_the_policies_before_adaptation() -> None:
    problem = Problem(MAML(step_size=0.3))

    def moved(penalty: float) -> float:
        meta, _ = problem.step(replace(SETTINGS, kl_penalty=penalty))
        policies = (
            problem.how.policy(m.params, problem.supports[0].observations)
            for m in (problem.meta, meta)
        )
        before, after = policies
        return float((before.kl(after) * problem.supports[0].valid).sum())

    assert moved(100.0) < 0.5 * moved(0.0)


@each_learner
def test_chunks_of_tasks_change_nothing(
    learner: MetaLearner, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = Problem(learner)
    together = problem.step()[0].flat()
    monkeypatch.setattr(policy_adaptation, "SAMPLES_PER_CHUNK", 1)  # one task at a time
    assert_close(problem.step()[0].flat(), together, rtol=0, atol=1e-10)


@pytest.mark.parametrize("restore", [True, False])
def test_it_continues_from_its_tensors(restore: bool) -> None:
    problem = Problem(MetaSGD())
    straight = ProximalUpdate(problem.how, problem.copy(), SETTINGS, {})
    meta, _ = straight.step(problem.supports, problem.query, 0.0)
    copy = meta.like(meta.flat().clone())
    saved = {name: value.clone() for name, value in straight.tensors().items()}
    resumed = ProximalUpdate(problem.how, copy, SETTINGS, saved if restore else {})
    ends = [u.step(problem.supports, problem.query, 0.5)[0].flat() for u in (straight, resumed)]
    if restore:
        assert_close(ends[1], ends[0], rtol=0, atol=0)
    else:
        assert (ends[1] - ends[0]).abs().max() > 1e-3


# Settings


def test_configurations_from_before_there_was_a_choice_are_read_and_written_as_they_were() -> None:
    config = ReinforcementConfig(outer=TRPO(max_kl=0.02))
    table = to_dict(config)
    assert "kind" not in table["outer"]
    assert from_dict(ReinforcementConfig, table) == config
    assert from_dict(ReinforcementConfig, {"outer": {"kind": "trpo", "max_kl": 0.02}}) == config


def test_its_settings_survive_the_file() -> None:
    config = ReinforcementConfig(outer=PROMP(clip=0.2))
    table = to_dict(config)
    assert table["outer"]["kind"] == "promp"
    assert from_dict(ReinforcementConfig, table) == config


def test_the_likelihood_is_refused_because_it_cannot_be_used_twice() -> None:
    with pytest.raises(UsageError, match="inner_objective is 'likelihood', but ProMP .* 'ratio'"):
        ReinforcementConfig(outer=PROMP(), inner_objective="likelihood")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be above 0, got 0.0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"clip": 0.0}, "clip must be above 0, got 0.0"),
        ({"kl_penalty": -1.0}, "kl_penalty must be at least 0, got -1.0"),
    ],
)
def test_senseless_settings_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PROMP(**options)
