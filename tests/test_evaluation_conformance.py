"""Where successes end episodes early, the reported rate is the true one; "the first to finish" reports another."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from stub_goals import Goals, first_to_finish
from torch import Tensor

from mtrl.envs.task import Task
from mtrl.evaluation.adaptation import AdaptationProtocol, adaptation_returns
from mtrl.meta.agent import Transition
from mtrl.policies import Gaussian
from mtrl.rollouts import collect

FAMILY = Goals()


class Idle:
    """An agent that does nothing and counts what it is shown."""

    name = "idle"

    def __init__(self) -> None:
        self.steps = 0.0

    def begin(self, n_tasks: int) -> None:
        """Nothing is known of tasks."""

    def act(self, observations: Tensor, generator: torch.Generator) -> Tensor:
        return torch.zeros(*observations.shape[:2], 1)

    def observe(self, transition: Transition) -> None:
        self.steps += float(transition.running.sum())

    def adapt(self) -> None:
        """Nothing is learned."""


def rates(tasks: Sequence[Task], episodes: int, steps: int = 0) -> np.ndarray:
    """Return the share of episodes that succeed, which is the return here, by task and round."""
    protocol = AdaptationProtocol(episodes=episodes, steps=steps)
    generator = torch.Generator().manual_seed(0)
    return adaptation_returns(Idle(), FAMILY, tasks, protocol, generator)  # type: ignore[arg-type]


@pytest.mark.parametrize("steps", [1, 31, 32, 150, 250, 400, 499, 500])
def test_one_goal_of_four_is_reported_as_a_quarter(steps: int) -> None:
    tasks = [FAMILY.task(float(goal == 0), steps) for goal in range(4)]
    found = rates(tasks, episodes=3)
    assert_allclose(found[:, 0], [1, 0, 0, 0], rtol=0)
    assert found.mean() == 0.25


@pytest.mark.parametrize(
    ("steps", "goals", "count", "reported"),
    [
        # Of Meta-World 3.1.1's own function, in its layouts of ML10 and ML1, these numbers were measured.
        (150, 4, 3, 1.0),
        (250, 4, 3, 2 / 3),
        (400, 4, 3, 1 / 3),
        (150, 20, 3, 1.0),
    ],
)
def test_the_first_to_finish_report_another_rate(
    steps: int, goals: int, count: int, reported: float
) -> None:
    assert first_to_finish([steps] + [None] * (goals - 1), 500, count) == pytest.approx(reported)
    tasks = [FAMILY.task(float(goal == 0), steps) for goal in range(goals)]
    assert rates(tasks, episodes=count).mean() == pytest.approx(1 / goals)


def test_chances_are_reported_whatever_the_time_to_success() -> None:
    chances = np.array([0.1, 0.5, 0.9, 0.5, 0.0, 1.0])
    tasks = [FAMILY.task(p, s) for p, s in zip(chances, (5, 5, 5, 450, 7, 9), strict=True)]
    episodes = 400
    found = rates(tasks, episodes)[:, 0]
    # Five deviations of a share of so many episodes.
    bound = 5 * np.sqrt(chances * (1 - chances) / episodes)
    assert (abs(found - chances) <= bound).all()
    assert 0 < found[1] < 1


def test_every_round_counts_the_same_episodes_of_every_task() -> None:
    # All succeed at once or never: shares are multiples of one over the episodes, in each round anew.
    tasks = [FAMILY.task(0.5, steps) for steps in (1, 500)]
    found = rates(tasks, episodes=4, steps=2)
    assert found.shape == (2, 3)
    assert_allclose(found * 4, np.round(found * 4), rtol=0, atol=1e-12)
    assert len(np.unique(found)) > 1


def test_an_agent_is_not_shown_what_comes_after_the_end() -> None:
    agent = Idle()
    tasks = [FAMILY.task(1.0, 3), FAMILY.task(0.0, 3)]
    protocol = AdaptationProtocol(episodes=2, steps=0)
    adaptation_returns(agent, FAMILY, tasks, protocol, torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    assert agent.steps == 2 * 3 + 2 * 500


def test_rollouts_for_training_count_them_all_too() -> None:
    class Still:
        def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
            return torch.zeros(*shape, 1)

        def __call__(self, params: dict[str, Tensor], observations: Tensor) -> Gaussian:
            return Gaussian(torch.zeros(*observations.shape[:-1], 1), torch.zeros(1))

    tasks = [FAMILY.task(float(goal == 0), 40) for goal in range(4)]
    batch = FAMILY.batch(tasks, repeats=3)
    rollout = collect(
        batch,
        Still(),  # type: ignore[arg-type]
        {},
        shape=(4, 3),
        generator=torch.Generator().manual_seed(0),
    )
    assert_allclose(rollout.returns.mean(1), [1, 0, 0, 0])
    assert_allclose(rollout.mask.sum(-1).mean(1), [40, 500, 500, 500])
