"""One expert for many tasks: each slot hears its own task's, and memories stay apart."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from mtrl.agents.experts import CartPoleExpert, PolicyExpert, TaskExperts
from mtrl.errors import UsageError


def told(observations: np.ndarray, tasks: list[int], count: int) -> np.ndarray:
    return np.concatenate([observations, np.eye(count)[tasks]], 1)


def test_each_slot_is_answered_by_its_own_tasks_expert() -> None:
    experts = [PolicyExpert(lambda seen, task=task: seen[:, 0] + task) for task in (0, 10, 20)]
    seen = np.arange(8.0).reshape(4, 2)
    answers = TaskExperts(experts).actions(told(seen, [2, 0, 1, 2], 3))
    assert_array_equal(answers, seen[:, 0] + [20, 0, 10, 20])


def test_reversed_motors_are_pushed_the_other_way() -> None:
    experts = TaskExperts([CartPoleExpert(), CartPoleExpert(reversed_motor=True)])
    leaning = np.tile([0.0, 0.0, 0.1, 0.0], (2, 1))
    assert_array_equal(experts.actions(told(leaning, [0, 1], 2)), [1, 0])


def test_experts_that_remember_keep_the_slots_apart() -> None:
    rng = np.random.default_rng(0)
    alone = [CartPoleExpert.of_paper("difference") for _ in range(2)]
    together = TaskExperts([CartPoleExpert.of_paper("difference") for _ in range(2)])
    ended = np.array([False, True])
    for step in range(30):
        seen = rng.normal(size=(2, 4))
        wanted = [alone[slot].actions(seen[slot : slot + 1])[0] for slot in range(2)]
        assert_array_equal(together.actions(told(seen, [1, 0], 2)), wanted)
        if step == 10:
            together.restart(ended)
            alone[1].restart(np.array([True]))


def test_other_observations_and_no_experts_are_refused() -> None:
    with pytest.raises(UsageError, match="experts is empty"):
        TaskExperts([])
    experts = TaskExperts([CartPoleExpert(), CartPoleExpert()])
    with pytest.raises(UsageError, match="no one-hot contexts"):
        experts.actions(np.full((1, 6), 0.5))
    with pytest.raises(UsageError, match="no one-hot contexts"):
        experts.actions(np.zeros((1, 6)))
