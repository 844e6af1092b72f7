"""The replay buffer of many tasks against Stable-Baselines3's, and against a queue for each task."""

from collections import Counter, deque
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from scipy.stats import chisquare
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer

from mtrl.agents.multitask.replay_buffer import MultiTaskReplayBuffer
from mtrl.agents.multitask.statistics import RewardScale, RewardScaling
from mtrl.errors import UsageError

SIZE = 2
ACTIONS: tuple[gym.Space[Any], ...] = (gym.spaces.Discrete(3), gym.spaces.Box(-1, 1, (2,)))


def space(tasks: int) -> gym.Space[Any]:
    return gym.spaces.Box(-np.inf, np.inf, (SIZE + tasks,), np.float32)


def buffer(
    capacity: int,
    tasks: int,
    *,
    n_envs: int = 1,
    actions: gym.Space[Any] = ACTIONS[0],
    **several: Any,
) -> MultiTaskReplayBuffer:
    return MultiTaskReplayBuffer(
        capacity, space(tasks), actions, device="cpu", n_envs=n_envs, tasks=tasks, **several
    )


def steps(
    index: list[int], tasks: int, number: float, chance: np.random.Generator
) -> tuple[Any, ...]:
    """A transition in each environment; the first number of an observation is the step's own."""
    rows = len(index)
    seen = chance.normal(size=(2, rows, SIZE)).astype(np.float32)
    seen[:, :, 0] = number + np.arange(rows) / 100
    obs, successor = np.concatenate([seen, np.stack([np.eye(tasks)[index]] * 2)], 2)
    late, done = chance.random((2, rows)) < 0.5
    infos = [{"TimeLimit.truncated": bool(up)} for up in late & done]
    return obs, successor, chance.integers(3, size=rows), chance.normal(size=rows), done, infos


@pytest.mark.parametrize("actions", ACTIONS)
@pytest.mark.parametrize(("n_envs", "added"), [(1, 7), (1, 25), (3, 2), (3, 9)])
def test_with_one_task_it_stores_and_draws_what_the_usual_buffer_does(
    n_envs: int, added: int, actions: gym.Space[Any]
) -> None:
    ours = buffer(20, 1, n_envs=n_envs, actions=actions)
    theirs = ReplayBuffer(20, space(1), actions, device="cpu", n_envs=n_envs)
    chance = np.random.default_rng(0)
    for number in range(added):
        step = list(steps([0] * n_envs, 1, number, chance))
        if actions.shape:
            step[2] = chance.normal(size=(n_envs, 2))
        ours.add(*step)
        theirs.add(*step)
        assert (ours.pos, ours.full, ours.size()) == (theirs.pos, theirs.full, theirs.size())
    drawn = []
    for each in (ours, theirs):
        np.random.seed(5)  # noqa: NPY002
        drawn.append([each.sample(16), each.sample(3)])
    for mine, expected in zip(*drawn, strict=True):
        for a, b in zip(mine[:5], expected[:5], strict=True):
            assert a.dtype == b.dtype
            torch.testing.assert_close(a, b, rtol=0, atol=0)


class Played:
    """What several environments did, step by step, to add up returns the slow way."""

    def __init__(self) -> None:
        self.rows: list[list[dict[str, Any]]] = []

    def add(self, step: tuple[Any, ...]) -> None:
        obs, successor, _, reward, done, infos = step
        self.rows.append(
            [
                {"obs": obs[i], "next": successor[i], "reward": reward[i], "done": bool(done[i])}
                | {"late": infos[i]["TimeLimit.truncated"], "cut": False}
                for i in range(len(obs))
            ]
        )

    def returns(self, row: int, slot: int, n: int, gamma: float) -> tuple[Any, ...]:
        """Next observation, whether it is terminal, the return and the discount."""
        total, weight = 0.0, 1.0
        for taken, steps_of_all in enumerate(self.rows[row:]):
            now = steps_of_all[slot]
            total, weight = total + weight * now["reward"], weight * gamma
            if now["done"] or now["cut"] or taken + 1 == n:
                break
        return now["next"], now["done"] and not now["late"], total, weight


@pytest.mark.parametrize(("n_envs", "capacity", "n"), [(1, 12, 3), (3, 40, 4), (3, 200, 2)])
def test_returns_of_several_steps_equal_those_added_up_one_by_one(
    n_envs: int, capacity: int, n: int
) -> None:
    ours = buffer(capacity, 2, n_envs=n_envs, n_steps=n, gamma=0.8)
    chance, played = np.random.default_rng(3), Played()
    tasks = [place % 2 for place in range(n_envs)]
    for number in range(50):
        step = steps(tasks, 2, number, chance)
        ours.add(*step)
        played.add(step)
        if number == 30:
            ours.cut()
            for now in played.rows[-1]:
                now["cut"] = True
        # An environment's task changes where an episode ends.
        tasks = [
            int(chance.integers(2)) if over else t for over, t in zip(step[4], tasks, strict=True)
        ]
    drawn = ours.sample(300)
    assert drawn.discounts is not None
    for i, obs in enumerate(drawn.observations.numpy()):
        row, slot = int(obs[0] + 1e-3), round((obs[0] - int(obs[0] + 1e-3)) * 100)
        last, over, total, weight = played.returns(row, slot, n, 0.8)
        assert_array_equal(drawn.next_observations[i], last.astype(np.float32))
        assert drawn.dones[i] == over
        assert drawn.rewards[i].item() == pytest.approx(total, abs=1e-5)
        assert drawn.discounts[i].item() == pytest.approx(weight)


def test_with_one_task_returns_of_several_steps_are_those_of_the_usual_buffer() -> None:
    settings: dict[str, Any] = {"device": "cpu", "n_envs": 2, "n_steps": 3, "gamma": 0.9}
    ours = buffer(40, 1, n_envs=2, n_steps=3, gamma=0.9)
    theirs = NStepReplayBuffer(40, space(1), ACTIONS[0], **settings)
    chance = np.random.default_rng(0)
    for number in range(33):
        step = list(steps([0, 0], 1, number, chance))
        ours.add(*step)
        theirs.add(*step)
    drawn = []
    for each in (ours, theirs):
        np.random.seed(5)  # noqa: NPY002
        drawn.append(each.sample(64))
    for mine, expected in zip(*drawn, strict=True):
        torch.testing.assert_close(mine, expected)


def test_each_task_keeps_its_latest_transitions_whoever_played_them() -> None:
    tasks, n_envs = 3, 5
    ours, chance = buffer(30, tasks, n_envs=n_envs), np.random.default_rng(1)
    assert ours.capacity == 10
    queues = [deque[float](maxlen=10) for _ in range(tasks)]
    for number in range(40):
        # The third task is rare, and changes its environments.
        index = chance.choice(tasks, n_envs, p=[0.5, 0.4, 0.1]).tolist()
        step = steps(index, tasks, number, chance)
        ours.add(*step)
        for task, row in zip(index, step[0], strict=True):
            queues[task].append(row[0])
        assert_array_equal(ours.counts, [len(queue) for queue in queues])
    kept = ours.observations.reshape(tasks, 10, -1)
    for task, queue in enumerate(queues):
        found = kept[task, : len(queue)]
        assert_array_equal(sorted(found[:, 0]), sorted(np.float32(queue)))
        assert_array_equal(found[:, SIZE + task], 1)


def test_one_task_s_flood_evicts_nothing_of_another() -> None:
    ours, chance = buffer(20, 2), np.random.default_rng(0)
    for number in range(3):
        ours.add(*steps([1], 2, number, chance))
    before = ours.observations.reshape(2, 10, -1)[1].copy()
    for number in range(500):
        ours.add(*steps([0], 2, number, chance))
    assert_array_equal(ours.observations.reshape(2, 10, -1)[1], before)
    assert_array_equal(ours.counts, [10, 3])
    assert not ours.full


def test_of_more_transitions_than_fit_in_one_step_the_last_are_kept() -> None:
    ours = buffer(8, 4, n_envs=8)
    assert ours.capacity == 2
    ours.add(*steps([0, 0, 0, 0, 0, 1, 1, 1], 4, 0, np.random.default_rng(0)))
    kept = ours.observations.reshape(4, 2, -1)[:2, :, 0]
    assert_array_equal(np.sort(kept), np.float32([[0.03, 0.04], [0.06, 0.07]]))


def drawn_tasks(ours: MultiTaskReplayBuffer, batch_size: int) -> list[int]:
    seen = ours.sample(batch_size).observations[:, SIZE:]
    return np.bincount(seen.argmax(1).numpy(), minlength=ours.tasks).tolist()


def filled(tasks: int, present: list[int]) -> MultiTaskReplayBuffer:
    """Transitions whose number grows with the task's, so that shares are not those of the counts."""
    ours, chance = buffer(20 * tasks, tasks), np.random.default_rng(0)
    for task in present:
        for number in range(3 + 4 * task):
            ours.add(*steps([task], tasks, number, chance))
    return ours


def test_shares_are_equal_and_the_rest_goes_to_each_task_alike() -> None:
    ours = filled(4, [0, 1, 2, 3])
    assert drawn_tasks(ours, 64) == [16] * 4
    extra = np.zeros(4)
    np.random.seed(0)  # noqa: NPY002
    for _ in range(1000):
        shares = np.array(drawn_tasks(ours, 10))
        assert shares.sum() == 10
        assert set(shares.tolist()) == {2, 3}
        extra += shares - 2
    assert chisquare(extra).pvalue > 0.01
    # A batch smaller than the number of tasks.
    assert sorted(drawn_tasks(ours, 3)) == [0, 1, 1, 1]


def test_a_task_never_visited_or_left_out_has_no_share() -> None:
    ours = filled(4, [0, 1, 3])
    assert drawn_tasks(ours, 9) == [3, 3, 0, 3]
    ours.included = np.array([True, False, True, True])
    assert drawn_tasks(ours, 8) == [4, 0, 0, 4]
    ours.included[:] = False
    with pytest.raises(UsageError, match="no task that is included has a transition"):
        ours.sample(4)
    ours.included[:] = True
    ours.reset()
    for empty in (ours, buffer(10, 1)):
        with pytest.raises(UsageError, match="raise learning_starts"):
            empty.sample(4)


def test_all_of_a_task_s_transitions_are_drawn_alike() -> None:
    ours = filled(2, [0, 1])
    np.random.seed(0)  # noqa: NPY002
    batch = ours.sample(4400)
    of_second = batch.observations[batch.observations[:, SIZE + 1] == 1, 0]
    counts = Counter(of_second.tolist())
    assert len(counts) == 7
    assert chisquare(list(counts.values())).pvalue > 0.01


def test_the_parts_of_a_transition_stay_together_and_time_up_is_no_end() -> None:
    ours, chance = buffer(60, 3, n_envs=2), np.random.default_rng(3)
    known = {}
    for number in range(15):
        index = chance.choice(3, 2).tolist()
        obs, successor, action, reward, done, infos = step = steps(index, 3, number, chance)
        ours.add(*step)
        for row in range(2):
            end = done[row] and not infos[row]["TimeLimit.truncated"]
            parts = [*obs[row], action[row], *successor[row], end, reward[row]]
            known[float(np.float32(obs[row, 0]))] = np.array(parts, np.float32)
    rows = torch.cat([part.float() for part in ours.sample(50)[:5]], 1).numpy()
    for row in rows:
        assert_array_equal(row, known[float(row[0])])
    assert {0.0, 1.0} == set(rows[:, -2].tolist())


@pytest.mark.parametrize("tasks", [1, 3])
def test_rewards_are_scaled_as_they_are_drawn_by_what_is_known_then(tasks: int) -> None:
    ours, chance = buffer(120, tasks, n_envs=4), np.random.default_rng(3)
    ours.reward_scale = RewardScale(RewardScaling(discount=0.9), tasks=tasks, slots=4)
    again = RewardScale(RewardScaling(discount=0.9), tasks=tasks, slots=4)
    for number in range(20):
        index = np.arange(4) % tasks
        obs, successor, action, reward, done, infos = steps(index.tolist(), tasks, number, chance)
        reward *= 10.0**index
        ours.add(obs, successor, action, reward, done, infos)
        again.update(reward, index)
        again.begin(done)
    np.random.seed(1)  # noqa: NPY002
    batch = ours.sample(30)
    ours.reward_scale = None
    np.random.seed(1)  # noqa: NPY002
    raw = ours.sample(30)
    owners = raw.observations[:, SIZE:].argmax(1).numpy()
    deviations = np.sqrt(again.variance + 1e-8)
    expected = np.clip(raw.rewards.numpy()[:, 0] / deviations[owners], -10, 10)
    np.testing.assert_allclose(batch.rewards.numpy()[:, 0], expected, rtol=1e-5)
    assert batch.rewards.dtype == torch.float32
    assert deviations.max() > 30 * deviations.min() or tasks == 1


def test_an_observation_without_a_one_hot_context_is_refused() -> None:
    ours = buffer(10, 2, n_envs=2)
    obs, *rest = steps([0, 1], 2, 0, np.random.default_rng(0))
    for wrong in ([0.5, 0.5], [0.0, 0.0], [1.0, 1.0], [np.nan, 1.0]):
        obs[1, SIZE:] = wrong
        with pytest.raises(UsageError, match="context of environment 1 .* not one-hot; wrap"):
            ours.add(obs, *rest)
    assert_array_equal(ours.counts, [0, 0])


def test_what_cannot_be_a_buffer_is_refused() -> None:
    with pytest.raises(UsageError, match="tasks is 0"):
        buffer(10, 0)
    with pytest.raises(UsageError, match="buffer_size is 3 for 5 tasks"):
        buffer(3, 5)
    for wrong in (gym.spaces.Discrete(4), gym.spaces.Box(0, 1, (2,)), gym.spaces.Box(0, 1, (3, 3))):
        with pytest.raises(UsageError, match="ends in the one-hot context of 2 tasks"):
            MultiTaskReplayBuffer(10, wrong, ACTIONS[0], tasks=2)
    with pytest.raises(UsageError, match="gives each task room for 4 transitions"):
        buffer(10, 2, n_envs=3, n_steps=2)
    with pytest.raises(UsageError, match=r"n_steps is 2 and gamma 1\.5"):
        buffer(10, 2, n_steps=2, gamma=1.5)
    with pytest.raises(UsageError, match="optimize_memory_usage is True"):
        MultiTaskReplayBuffer(10, space(2), ACTIONS[0], tasks=2, optimize_memory_usage=True)
