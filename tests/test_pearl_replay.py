"""PEARL's replay: tasks kept apart, oldest out first, and what did not happen left out."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from mtrl.agents.pearl.replay import TaskReplay, Transitions
from mtrl.errors import UsageError
from mtrl.meta.agent import Transition


def numbered(values: list[list[float]]) -> Transitions:
    """Return transitions (tasks, n) whose reward is their number, and which end an episode if it is odd."""
    rewards = torch.tensor(values, dtype=torch.float32).unsqueeze(-1)
    observations = torch.cat([rewards, 10 * rewards], -1)
    return Transitions(observations, -rewards, rewards, observations + 1, rewards % 2)


def happened(like: list[list[float]]) -> Tensor:
    return torch.ones(len(like), len(like[0]))


def replay(tasks: int = 3, capacity: int = 4) -> TaskReplay:
    return TaskReplay(tasks, capacity, (2, 1))


def kept(replay: TaskReplay, task: int, seed: int = 0) -> set[float]:
    """Return the numbers of all transitions that are kept of a task."""
    generator = torch.Generator().manual_seed(seed)
    return set(replay.draw(torch.tensor([task]), 200, generator).rewards.flatten().tolist())


def test_each_task_has_its_own_and_the_oldest_go_first() -> None:
    buffer = replay()
    for row in ([[0, 1], [20, 21]], [[2, 3], [22, 23]], [[4, 5], [24, 25]]):
        buffer.add(torch.tensor([0, 2]), numbered(row), happened(row))
    assert buffer.counts.tolist() == [4, 0, 4]
    assert kept(buffer, 0) == {2, 3, 4, 5} and kept(buffer, 2) == {22, 23, 24, 25}


def test_a_transition_stays_whole() -> None:
    buffer = replay()
    row = [[3.0, 8.0]]
    buffer.add(torch.tensor([1]), numbered(row), happened(row))
    drawn = buffer.draw(torch.tensor([1]), 50, torch.Generator().manual_seed(0))
    assert_close(drawn, numbered([drawn.rewards.flatten().tolist()]))


def test_what_did_not_happen_is_not_kept() -> None:
    buffer = replay()
    row = [[0.0, 1.0, 2.0, 3.0], [10.0, 11.0, 12.0, 13.0]]
    buffer.add(torch.tensor([2, 0]), numbered(row), torch.tensor([[1, 0, 1, 0], [0, 0, 0, 1]]))
    assert buffer.counts.tolist() == [1, 0, 2]
    assert kept(buffer, 2) == {0, 2} and kept(buffer, 0) == {13}


def test_a_cleared_task_starts_anew_and_the_others_stay() -> None:
    buffer = replay()
    row = [[0.0, 1.0], [10.0, 11.0]]
    buffer.add(torch.tensor([0, 1]), numbered(row), happened(row))
    buffer.clear(torch.tensor([0]))
    buffer.add(torch.tensor([0]), numbered([[5.0]]), torch.ones(1, 1))
    assert kept(buffer, 0) == {5} and kept(buffer, 1) == {10, 11}


def test_draws_are_uniform_over_what_is_kept() -> None:
    buffer = replay(tasks=1, capacity=10)
    row = [[0.0, 1.0, 2.0, 3.0, 4.0]]
    buffer.add(torch.tensor([0]), numbered(row), happened(row))
    drawn = buffer.draw(torch.tensor([0]), 50_000, torch.Generator().manual_seed(1)).rewards
    counts = drawn.flatten().long().bincount()
    # Ten thousand each, with a standard deviation of 89.
    assert counts.shape == (5,) and int((counts - 10_000).abs().max()) < 450


def test_more_than_fits_is_refused() -> None:
    row = [[0.0, 1.0, 2.0, 3.0, 4.0]]
    with pytest.raises(UsageError, match="replay_size is 4 .* 5 come at once"):
        replay().add(torch.tensor([0]), numbered(row), happened(row))


def test_a_restored_replay_goes_on_as_the_first() -> None:
    buffer, other = replay(), replay()
    row = [[0.0, 1.0, 2.0]]
    buffer.add(torch.tensor([1]), numbered(row), happened(row))
    other.load_tensors({name: value.clone() for name, value in buffer.tensors().items()})
    for each in (buffer, other):
        each.add(torch.tensor([1]), numbered([[3.0, 4.0]]), torch.ones(1, 2))
    assert_close(other.tensors(), buffer.tensors())
    assert kept(other, 1) == {1, 2, 3, 4}


def test_a_round_of_episodes_becomes_the_transitions_of_its_tasks() -> None:
    # Two tasks, two episodes, three steps; the second episode of the first task ends after one.
    running = torch.tensor([[[1.0, 1, 1], [1, 0, 0]], [[1, 1, 1], [1, 1, 1]]])
    number = torch.arange(12.0).view(2, 2, 3)
    steps = [
        Transition(
            observations=number[..., t, None].expand(2, 2, 2),
            actions=-number[..., t, None],
            rewards=number[..., t],
            running=running[..., t],
            terminated=torch.zeros(2, 2),
            next_observations=number[..., t, None].expand(2, 2, 2) + 1,
        )
        for t in range(3)
    ]
    transitions, mask = Transitions.of_steps(steps)
    assert_close(transitions.rewards[..., 0], number.flatten(1))
    assert_close(transitions.observations[..., 1], number.flatten(1))
    assert_close(transitions.next_observations[..., 0], number.flatten(1) + 1)
    assert_close(mask, running.flatten(1))
