"""Joint training, fine-tuning and the oracle: trained without an inner loop, and told what they should be."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from tiny_policy import CHOOSING, POLICY, policy_meta, samples
from tiny_regression import EXACT, NETWORK, initial_params, points, squared_error
from torch import Tensor
from torch.testing import assert_close

from mtrl.envs.bandit import Bandit
from mtrl.envs.cartpole import CartPole
from mtrl.envs.navigation2d import Navigation2D
from mtrl.envs.sinusoid import Sinusoid
from mtrl.envs.tabular_mdp import TabularMDP
from mtrl.envs.task import Task
from mtrl.envs.told import ToldFamily, ToldFewShotFamily
from mtrl.errors import UsageError
from mtrl.evaluation.trained import EvaluationSettings, load_run
from mtrl.meta.baselines import FineTune, Oracle
from mtrl.meta.chunk_work import ChunkWork
from mtrl.meta.few_shot import FewShotAdaptation
from mtrl.meta.gradient import MetaGradient
from mtrl.meta.maml import MAML
from mtrl.meta.objectives import surrogate
from mtrl.meta.outer import TRPO
from mtrl.meta.parameters import MetaParams
from mtrl.meta.policy_adaptation import GradientAdaptation
from mtrl.meta.proximal import PROMP, policies_along, proximal_losses
from mtrl.meta.reinforcement import ReinforcementConfig, meta_train_reinforcement
from mtrl.meta.supervised import SupervisedConfig, meta_train_supervised
from mtrl.meta.trust_region import meta_trust_region_step
from mtrl.metrics import read_metrics
from mtrl.policies import Policy
from mtrl.runs import Run

# torch scripts its own decompositions when the first derivative by a direction is taken.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

JOINT = [FineTune(), Oracle()]
names = [learner.name for learner in JOINT]


@pytest.fixture(autouse=True)
def _without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtrl.meta.watching.Pictures.draw", lambda *arguments: None)


# What is trained


@pytest.mark.parametrize("learner", JOINT, ids=names)
def test_the_gradient_is_that_of_the_shared_parameters_alone(learner: FineTune | Oracle) -> None:
    params = initial_params()
    data = (*points(3, seed=1), *points(3, seed=2))
    meta = MetaParams(params, {})
    ours = MetaGradient(learner, squared_error)(meta, data)
    leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
    loss = (NETWORK(leaves, data[2].flatten(0, 1)) - data[3].flatten(0, 1)).square().mean()
    gradient = torch.autograd.grad(loss, list(leaves.values()))
    assert_close(ours.loss, loss.detach(), **EXACT)
    assert_close(list(meta.like(ours.gradient).named().values()), list(gradient), **EXACT)


@pytest.mark.parametrize("policy", [POLICY, CHOOSING], ids=["real numbers", "choices"])
def test_the_policy_step_is_the_natural_gradient_of_the_shared_policy(policy: Policy) -> None:
    how, meta = GradientAdaptation(policy, FineTune()), policy_meta(FineTune(), policy)
    query = samples(meta.params, 4, policy)

    def shared(vector: Tensor) -> tuple[Tensor, Tensor]:
        old, new = (policy(meta.like(v).params, query.observations) for v in (meta.flat(), vector))
        return surrogate(new, query).mean(), (old.kl(new) * query.valid).sum(1).mean()

    point = meta.flat().requires_grad_()
    (gradient,) = torch.autograd.grad(shared(point)[0], point)
    fisher = torch.autograd.functional.hessian(lambda v: shared(v)[1], meta.flat())
    assert isinstance(fisher, Tensor)
    settings = TRPO(max_kl=0.01, damping=0.1, cg_iterations=60, curvature_fraction=1.0)
    after, step = meta_trust_region_step(ChunkWork(how), meta, [], query, settings)
    direction = torch.linalg.solve(fisher + 0.1 * torch.eye(len(gradient)).double(), gradient)
    full = direction * torch.sqrt(2 * settings.max_kl / (gradient @ direction))
    assert step.fraction > 0
    assert_close(after.flat(), meta.flat() - step.fraction * full, rtol=0, atol=1e-9)
    # A twentieth of the samples for the curvature bends the step, and does not break it.
    thin, _ = meta_trust_region_step(
        ChunkWork(how), meta, [], query, replace(settings, curvature_fraction=0.5)
    )
    assert (thin.flat() - after.flat()).abs().max() > 1e-6


def test_the_clipped_step_has_no_penalty_where_nothing_comes_before_adaptation() -> None:
    how, meta = GradientAdaptation(POLICY, FineTune(), "ratio"), policy_meta(FineTune())
    query = samples(meta.params, 4)
    policies = list(policies_along(how, meta, [], query))
    losses = proximal_losses(policies, policies, [query], PROMP(kl_penalty=100.0))
    assert_close(losses, -query.weights.sum(1), **EXACT)


# What happens at test


def test_fine_tuning_takes_mamls_steps_at_test() -> None:
    meta, support = MetaParams(initial_params(), {}), points(3)
    tuned, maml = (
        FewShotAdaptation(NETWORK, learner).adapted(meta, support, 3)[-1]
        for learner in (
            FineTune(step_size=0.2, later_step_scale=0.5),
            MAML(step_size=0.2, later_step_scale=0.5),
        )
    )
    assert_close(tuned, maml, rtol=0, atol=0)
    assert (tuned["layers.0.weight"] - meta.params["layers.0.weight"]).abs().max() > 1e-3


def test_the_oracle_stays_as_it_is() -> None:
    meta = MetaParams(initial_params(), {})
    trail = FewShotAdaptation(NETWORK, Oracle()).adapted(meta, points(3), 2)
    assert len(trail) == 3
    for name, value in meta.params.items():
        assert_close(trail[-1][name], value.expand(3, *value.shape), rtol=0, atol=0)


# The oracle is told the task


def sinusoids(n: int) -> tuple[Sinusoid, list[Task]]:
    family = Sinusoid(min_frequency=0.8, max_frequency=1.2)
    return family, family.sample(n, np.random.default_rng(0), "train")


def test_told_points_are_the_points_and_the_context() -> None:
    family, tasks = sinusoids(3)
    told = ToldFewShotFamily(family)
    plain = family.draw(tasks, 4, 5, torch.Generator().manual_seed(1))
    stacked = family.sample_params(3, np.random.default_rng(0), "train")
    for source in (tasks, stacked):
        drawn = told.draw(source, 4, 5, torch.Generator().manual_seed(1))
        for (x, y), (told_x, told_y) in zip(plain, drawn, strict=True):
            assert told_x.shape[-1] == told.input_size == 4
            assert_close(told_x[..., :1], x, rtol=0, atol=0)
            assert_close(told_y, y, rtol=0, atol=0)
            for i, task in enumerate(tasks):
                expected = torch.from_numpy(family.context(task)).expand(x.shape[1], 3)
                assert_close(told_x[i, :, 1:], expected, rtol=0, atol=0)


@pytest.mark.parametrize("family", [Navigation2D(horizon=4), CartPole(), TabularMDP(), Bandit()])
def test_told_episodes_are_the_episodes_and_the_context(family: Navigation2D) -> None:
    tasks = family.sample(2, np.random.default_rng(0), "train")
    told, seeds = ToldFamily(family), torch.arange(6)
    plain_batch, batch = family.batch(tasks, repeats=3), told.batch(tasks, repeats=3)
    contexts = np.repeat([family.context(task) for task in tasks], 3, axis=0)
    plain, seen = plain_batch.reset(seeds), batch.reset(seeds)
    for _ in range(3):
        size = plain.shape[1]
        assert_close(seen[:, :size], plain, rtol=0, atol=0)
        assert_array_equal(seen[:, size:].numpy(), contexts)
        assert seen.shape[1:] == told.observation_space.shape
        discrete = family.action_space.shape == ()
        actions = torch.zeros(6, dtype=torch.long) if discrete else torch.ones(6, 2)
        plain, seen = plain_batch.step(actions)[0], batch.step(actions)[0]


def test_a_told_environment_observes_what_the_batch_does() -> None:
    told = ToldFamily(Navigation2D(horizon=4))
    tasks = told.sample(2, np.random.default_rng(0), "train")
    first = told.batch(tasks).reset(torch.arange(2))
    for row, task in zip(first.numpy(), tasks, strict=True):
        env = told.make(task)
        assert_array_equal(env.reset(seed=0)[0], row)
        assert env.observation_space.shape == told.observation_space.shape
    vector = told.make_vec(tasks, seed=0)
    assert_array_equal(vector.reset(seed=0)[0], first.numpy())
    vector.close()


# They train in the same loops

POINTS = SupervisedConfig(
    tasks_per_batch=16, iterations=400, test_tasks=64, evaluate_every=400, compile="off"
)
EPISODES = ReinforcementConfig(
    hidden=(16, 16),
    family_options={"horizon": 20},
    tasks_per_batch=4,
    episodes_per_task=6,
    iterations=2,
    test_tasks=4,
)


def test_knowing_the_task_is_worth_more_than_training_on_all(tmp_path: Path) -> None:
    after = {}
    for learner in JOINT:
        config, directory = replace(POINTS, learner=learner), tmp_path / learner.name
        with Run.open(directory, config=config, kind="supervised") as run:
            meta_train_supervised(config, run)
        found = load_run(directory)
        settings = EvaluationSettings(tasks=100, steps=2)
        after[learner.name] = found.scores(found.unseen_tasks(settings), settings).mean(0)
    # One curve for all tasks leaves an error near the variance between tasks, which is about 4.
    assert after["oracle"][0] < 0.6 * after["fine-tuning"][0]
    assert_array_equal(after["oracle"], after["oracle"][:1].repeat(3))
    assert after["fine-tuning"][1] != after["fine-tuning"][0]


@pytest.mark.parametrize("learner", JOINT, ids=names)
@pytest.mark.parametrize("outer", [TRPO(), PROMP()], ids=["TRPO", "ProMP"])
def test_joint_training_meets_no_episodes_before_adaptation(
    tmp_path: Path, learner: FineTune | Oracle, outer: TRPO | PROMP
) -> None:
    config = replace(EPISODES, learner=learner, outer=outer)
    with Run.open(tmp_path / "run", config=config, kind="rl") as run:
        meta = meta_train_reinforcement(config, run)
    metrics = read_metrics(tmp_path / "run" / "metrics.csv")
    assert metrics["meta/env_steps"].values == [4 * 6 * 20, 2 * 4 * 6 * 20]
    assert metrics["meta/pre_adapt_return"] == metrics["meta/post_adapt_return"]
    assert max(metrics["outer/improvement"].values) > 0
    inputs = 2 + 2 * isinstance(learner, Oracle)
    assert meta.params["layers.0.weight"].shape == (16, inputs)
    found = load_run(tmp_path / "run")
    settings = EvaluationSettings(tasks=3, steps=1)
    tasks: Sequence[Task] = found.unseen_tasks(settings)
    assert found.scores(tasks, settings).shape == (3, 2)
    # The family is still the one that knows its anchors.
    assert isinstance(found.family, Navigation2D)


def test_the_oracle_refuses_observations_that_are_no_vectors() -> None:
    class Pictures(Navigation2D):
        @property
        def observation_space(self) -> object:
            return CartPole().action_space

    with pytest.raises(UsageError, match="an oracle reads the task beside a vector"):
        ToldFamily(Pictures())
