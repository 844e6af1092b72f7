"""Adaptation curves: every task and episode counts once, rounds do not leak, pairs share their noise."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import Tensor

from mtrl.agents.gradient import FrozenAgent, GradientAgent
from mtrl.envs.batched import BatchedFamily
from mtrl.envs.navigation2d import Navigation2D
from mtrl.envs.task import Task
from mtrl.evaluation.adaptation import AdaptationProtocol, adaptation_returns
from mtrl.meta.agent import Transition
from mtrl.meta.maml import MAML
from mtrl.meta.meta_sgd import MetaSGD
from mtrl.meta.objectives import AdvantageSettings, policy_batch
from mtrl.meta.policy_adaptation import GradientAdaptation
from mtrl.policies import GaussianPolicy
from mtrl.rollouts import Rollout
from mtrl.seeding import numpy_generator, torch_generator

FAMILY = Navigation2D(terminate_at_goal=True, horizon=30)
GOALS = [(0.35, -0.2), (0.05, 0.0), (-0.4, 0.45), (0.0, 0.0), (0.1, 0.3)]
TASKS = [
    Task(family="navigation2d", params={"goal": goal, "start": (0.0, 0.0)}, split="test")
    for goal in GOALS
]


class Oracle:
    """Stands still in round 0 and walks straight to the goal from the first adaptation on."""

    name = "oracle"

    def __init__(self, goals: Tensor) -> None:
        self.goals = goals
        self.asked: list[int] = []
        self.moving = 0.0
        self.first = 0

    def begin(self, n_tasks: int) -> None:
        self.now = self.goals[self.first : self.first + n_tasks]
        self.first += n_tasks
        self.asked.append(n_tasks)
        self.moving = 0.0

    def act(self, observations: Tensor, generator: torch.Generator) -> Tensor:
        away = (self.now[:, None] - observations) / 0.1
        return self.moving * away.clamp(-1, 1)

    def observe(self, transition: Transition) -> None:
        self.last = transition

    def adapt(self) -> None:
        self.moving = 1.0


@pytest.mark.parametrize("tasks_at_once", [1, 2, 5])
def test_the_curve_is_the_exact_return_before_and_after(tasks_at_once: int) -> None:
    agent = Oracle(torch.tensor(GOALS))
    protocol = AdaptationProtocol(episodes=3, steps=2, tasks_at_once=tasks_at_once)
    returns = adaptation_returns(agent, FAMILY, TASKS, protocol, torch_generator(0, "test"))
    # Reaching the goal ends the episode, and the rewards after the end are none.
    still = FAMILY.standing_still_returns(TASKS)
    best = FAMILY.oracle_returns(TASKS)
    assert_allclose(returns, np.stack([still, best, best], 1), atol=1e-5)


def test_every_task_is_put_before_the_agent_once() -> None:
    agent = Oracle(torch.tensor(GOALS))
    protocol = AdaptationProtocol(episodes=1, steps=1, tasks_at_once=2)
    adaptation_returns(agent, FAMILY, TASKS, protocol, torch_generator(0, "test"))
    assert agent.asked == [2, 2, 1]


class Coin:
    """Reaches the goal in one step in a known share of episodes and never otherwise."""

    name = "coin"

    def __init__(self, successes: int) -> None:
        self.successes = successes

    def begin(self, n_tasks: int) -> None: ...

    def act(self, observations: Tensor, generator: torch.Generator) -> Tensor:
        actions = torch.zeros_like(observations)
        actions[:, : self.successes, 0] = 1.0
        return actions

    def observe(self, transition: Transition) -> None: ...

    def adapt(self) -> None: ...


@pytest.mark.parametrize("successes", [0, 1, 2, 4])
def test_quick_successes_do_not_crowd_out_failures(successes: int) -> None:
    # One step from the goal: a success ends at once, a failure lasts for the whole horizon.
    task = Task(family="navigation2d", params={"goal": (0.1, 0.0), "start": (0.0, 0.0)})
    protocol = AdaptationProtocol(episodes=4, steps=0)
    returns = adaptation_returns(
        Coin(successes), FAMILY, [task], protocol, torch_generator(0, "test")
    )
    assert_allclose(returns, [[-0.1 * FAMILY.horizon * (4 - successes) / 4]], atol=1e-5)


def gradient_agent(learner: MAML | MetaSGD, kind: type[GradientAgent]) -> GradientAgent:
    how = GradientAdaptation(GaussianPolicy(2, 2, hidden=(8,)), learner, "ratio")
    return kind(how, how.initial(torch_generator(1, "initial")), AdvantageSettings())


def returns_of(agent: GradientAgent, family: BatchedFamily = FAMILY) -> np.ndarray:
    protocol = AdaptationProtocol(episodes=6, steps=2, tasks_at_once=3)
    tasks = FAMILY.sample(5, numpy_generator(0, "tasks"), "test")
    return adaptation_returns(agent, family, tasks, protocol, torch_generator(7, "noise"))


def test_two_learners_meet_the_same_episodes_before_they_differ() -> None:
    small = returns_of(gradient_agent(MAML(step_size=0.01), GradientAgent))
    large = returns_of(gradient_agent(MAML(step_size=0.5), GradientAgent))
    assert_array_equal(small[:3, 0], large[:3, 0])
    assert (small[:, 1] != large[:, 1]).all()


def test_without_adaptation_rounds_differ_by_noise_only() -> None:
    frozen = returns_of(gradient_agent(MAML(step_size=0.5), FrozenAgent))
    adapted = returns_of(gradient_agent(MAML(step_size=0.5), GradientAgent))
    still = returns_of(gradient_agent(MAML(step_size=1e-12), GradientAgent))
    assert_allclose(frozen, still, rtol=1e-5)
    assert np.abs(adapted - frozen)[:, 1:].max() > 1e-2


def test_the_agent_adapts_as_meta_training_does() -> None:
    learner = MetaSGD(initial_step_size=(0.05, 0.05))
    agent = gradient_agent(learner, GradientAgent)
    tasks = FAMILY.sample(3, numpy_generator(0, "tasks"), "test")
    seen: list[tuple[int, Transition]] = []
    protocol = AdaptationProtocol(episodes=4, steps=1)
    adaptation_returns(
        agent,
        FAMILY,
        tasks,
        protocol,
        torch_generator(3, "n"),
        watch=lambda k, t: seen.append((k, t)),
    )
    first = [transition for k, transition in seen if k == 0]
    stacked = {
        name: torch.stack([getattr(step, name) for step in first], 2)
        for name in ("observations", "actions", "rewards", "running", "terminated")
    }
    stacked["mask"] = stacked.pop("running")
    how = GradientAdaptation(GaussianPolicy(2, 2, hidden=(8,)), learner, "ratio")
    meta = how.initial(torch_generator(1, "initial"))
    before = how.policy(meta.params, stacked["observations"].flatten(1, 2))
    stacked["log_probs"] = before.log_prob(stacked["actions"].flatten(1, 2)).view(3, 4, -1)
    rollout = Rollout(final_observations=first[-1].next_observations, **stacked)
    batch = policy_batch(rollout, AdvantageSettings())
    adapted = how.adapt(meta, [batch])
    acting = next(transition for k, transition in seen if k == 1)
    expected = how.policy(adapted, acting.observations)
    noise = torch.randn(acting.actions.shape, generator=torch_generator(11, "again"))
    actions = agent.act(acting.observations, torch_generator(11, "again"))
    torch.testing.assert_close(actions, expected.sample(noise))
