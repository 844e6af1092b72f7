"""Batched environments say where they are, and go on to the last bit from there."""

import json
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from mtrl.envs.registry import get_family
from mtrl.envs.sb3_env import BatchedVecEnv
from mtrl.errors import CheckpointError, UsageError

SLOTS = 4


def make(name: str, seed: int, **options: Any) -> BatchedVecEnv:
    """Two slots with a task each, and two that draw one at every reset."""
    family = get_family(name, **options)
    tasks = family.sample(2, np.random.default_rng(seed), "train")
    env = family.make_sb3([*tasks, "train", "test"], seed=seed)
    env.reset()
    return env


def play(env: BatchedVecEnv, steps: int, actions: np.random.Generator) -> list[Any]:
    space = env.action_space
    space.seed(int(actions.integers(2**31)))
    return [env.step(np.array([space.sample() for _ in range(SLOTS)])) for _ in range(steps)]


def through_json(values: Any) -> Any:
    return json.loads(json.dumps(values))


@pytest.mark.parametrize(
    "name",
    [
        *("acrobot", "bandit", "cartpole", "mountaincar", "navigation2d", "pendulum"),
        *("tabular-mdp", "halfcheetah-velocity", "ant-goal"),
    ],
)
def test_what_follows_is_the_same_to_the_last_bit(name: str) -> None:
    if "-" in name and name != "tabular-mdp":
        pytest.importorskip("mujoco")
    env, other = make(name, 3), make(name, 9)
    play(env, 37, np.random.default_rng(0))
    tensors, values = env.state_dict()
    kept = {name: tensor.clone() for name, tensor in tensors.items()}
    # Long enough for episodes of every family to end, and tasks to be drawn.
    straight = play(env, 230, np.random.default_rng(1))
    other.load_state_dict(tensors, through_json(values))
    resumed = play(other, 230, np.random.default_rng(1))
    for one, two in zip(straight, resumed, strict=True):
        for ours, theirs in zip(one[:3], two[:3], strict=True):
            assert_array_equal(ours, theirs)
        assert repr(one[3]) == repr(two[3])
    assert env.get_attr("task") == other.get_attr("task")
    assert env.reset_infos == other.reset_infos
    for key, tensor in tensors.items():
        assert_array_equal(kept[key], tensor, err_msg="playing on wrote into the state")


def test_a_source_that_was_changed_is_kept() -> None:
    env, other = make("cartpole", 3), make("cartpole", 4)
    task = get_family("cartpole").sample(1, np.random.default_rng(8), "test")[0]
    env.env_method("set_task_source", task, indices=[1])
    env.env_method("set_task_source", "test", indices=[0])
    other.load_state_dict(*env.state_dict())
    assert other.get_attr("task_source") == ["test", task, "train", "test"]


def test_without_the_task_streams_other_tasks_would_follow() -> None:
    env, other = make("bandit", 3), make("bandit", 4)
    play(env, 50, np.random.default_rng(0))
    tensors, values = env.state_dict()
    values["streams"] = make("bandit", 5).state_dict()[1]["streams"]
    other.load_state_dict(tensors, values)
    for each in (env, other):
        play(each, 130, np.random.default_rng(1))
    assert env.get_attr("task")[:2] == other.get_attr("task")[:2]
    assert env.get_attr("task")[2:] != other.get_attr("task")[2:]


def test_states_that_do_not_fit_are_refused() -> None:
    env = make("cartpole", 3)
    tensors, values = env.state_dict()
    fewer = get_family("cartpole").make_sb3(["train"])
    with pytest.raises(CheckpointError, match="has 4 environments of 'cartpole', and there are 1"):
        fewer.load_state_dict(tensors, values)
    with pytest.raises(
        CheckpointError, match=r"state is float64 \(4, 3\) in .*float64 \(4, 4\) here"
    ):
        env.load_state_dict(tensors | {"state": tensors["state"][:, :3]}, values)
    with pytest.raises(CheckpointError, match="steps is missing"):
        lacking = {name: tensors[name] for name in ("seeds", "episodes", "state")}
        env.load_state_dict(lacking, values)
    with pytest.raises(UsageError, match="is of family 'cartpole', not 'pendulum'"):
        make("pendulum", 3).load_state_dict(tensors, values)


def test_there_is_nothing_to_save_before_the_first_reset_or_while_a_seed_waits() -> None:
    fresh = get_family("cartpole").make_sb3(["train"])
    with pytest.raises(UsageError, match="reset"):
        fresh.state_dict()
    env = make("cartpole", 3)
    env.seed(5)
    with pytest.raises(UsageError, match="wait for the next reset"):
        env.state_dict()
