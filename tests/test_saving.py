"""Agents saved without pickle: they go on to the last bit, and what does not fit is refused by name."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3, HerReplayBuffer
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize
from torch.testing import assert_close

from mtrl.agents.multitask.replay_buffer import MultiTaskReplayBuffer
from mtrl.agents.networks import MLP, NetworkConfig, Shared, TaskSpec
from mtrl.agents.policies import MultiTaskActorCriticPolicy
from mtrl.agents.saving import agent_state, load_agent, load_agent_state, save_agent
from mtrl.agents.saving.buffers import buffer_state, cut_episodes, load_buffer
from mtrl.agents.saving.tree import pack, unpack
from mtrl.checkpoint import CheckpointStore
from mtrl.envs.registry import get_family
from mtrl.errors import CheckpointError, UsageError

pytestmark = pytest.mark.filterwarnings("ignore:.*target network update interval")


def small() -> dict[str, Any]:
    """Return what Stable-Baselines3 adds to: each agent has its own."""
    return {"net_arch": [8]}


def batched(family: str, *, slots: int = 3) -> VecMonitor:
    sources = ["train", "test", "train", "test", "train"][:slots]
    return VecMonitor(get_family(family).make_sb3(sources, seed=3))


def ppo(**changes: Any) -> PPO:
    settings = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "policy_kwargs": small()}
    env = VecNormalize(batched("cartpole"))
    return PPO("MlpPolicy", env, seed=1, device="cpu", **settings | changes)


def a2c() -> A2C:
    env = batched("pendulum")
    return A2C("MlpPolicy", env, seed=1, device="cpu", policy_kwargs=small(), use_sde=True)


def dqn(**changes: Any) -> DQN:
    settings = {
        "learning_starts": 30,
        "buffer_size": 150,
        "target_update_interval": 30,
        "optimize_memory_usage": True,
        "replay_buffer_kwargs": {"handle_timeout_termination": False},
        "policy_kwargs": small(),
    }
    return DQN("MlpPolicy", batched("cartpole"), seed=1, device="cpu", **settings | changes)


def sac() -> SAC:
    env = batched("pendulum")
    settings: dict[str, Any] = {"learning_starts": 30, "buffer_size": 300, "n_steps": 2}
    return SAC("MlpPolicy", env, seed=1, device="cpu", policy_kwargs=small(), **settings)


def td3() -> TD3:
    env = VecNormalize(batched("pendulum"))
    settings: dict[str, Any] = {"learning_starts": 30, "buffer_size": 300}
    return TD3("MlpPolicy", env, seed=1, device="cpu", policy_kwargs=small(), **settings)


Make = Callable[[], BaseAlgorithm]
ALL = pytest.mark.parametrize("make", [ppo, a2c, dqn, sac, td3])


def assert_same_agent(one: BaseAlgorithm, other: BaseAlgorithm) -> None:
    """Everything that a checkpoint holds is equal: parameters, buffers, streams, episodes."""
    (ours, our_values), (theirs, their_values) = agent_state(one), agent_state(other)
    assert list(ours) == list(theirs)
    for name in ours:
        assert_close(ours[name], theirs[name], rtol=0, atol=0, equal_nan=True, msg=name)
    assert json.dumps(our_values) == json.dumps(their_values)


def disturb() -> None:
    """Draw from every global stream, as another process would not have."""
    torch.rand(5)
    np.random.rand(7)  # noqa: NPY002


# Exact continuation


@ALL
def test_saved_and_loaded_in_between_it_ends_bit_equal(make: Make, tmp_path: Path) -> None:
    agent = make()
    agent.learn(90)
    save_agent(agent, tmp_path)
    agent.learn(90, reset_num_timesteps=False)
    disturb()
    assert agent.env is not None
    loaded = load_agent(type(agent), tmp_path, make().env)
    assert loaded.num_timesteps < agent.num_timesteps
    loaded.learn(90, reset_num_timesteps=False)
    assert_same_agent(loaded, agent)


def test_without_the_environment_s_state_it_would_not(tmp_path: Path) -> None:
    agent = dqn()
    agent.learn(60)
    tensors, state = agent_state(agent)
    agent.learn(60, reset_num_timesteps=False)
    state["parts"]["environment"] = None
    for name in [name for name in tensors if name.startswith("environment")]:
        del tensors[name]
    loaded = dqn()
    load_agent_state(loaded, tensors, state)
    loaded.learn(60, reset_num_timesteps=False)
    with pytest.raises(AssertionError):
        assert_same_agent(loaded, agent)


@ALL
def test_a_loaded_agent_predicts_the_same(make: Make, tmp_path: Path) -> None:
    agent = make()
    agent.learn(60)
    save_agent(agent, tmp_path)
    loaded = load_agent(type(agent), tmp_path, make().env, continue_training=False)
    seen = np.random.default_rng(0).normal(size=(50, *agent.observation_space.shape))
    for deterministic in (True, agent.use_sde):
        made = []
        for each in (agent, loaded):
            torch.manual_seed(0)
            made.append(each.predict(seen.astype(np.float32), deterministic=deterministic)[0])
        assert_array_equal(*made)


def test_for_prediction_the_number_of_environments_may_differ(tmp_path: Path) -> None:
    agent = ppo()
    agent.learn(48)
    save_agent(agent, tmp_path)
    env = VecNormalize(batched("cartpole", slots=1), training=False)
    load_agent(PPO, tmp_path, env, continue_training=False)
    assert isinstance(agent.env, VecNormalize)
    assert_array_equal(env.obs_rms.mean, agent.env.obs_rms.mean)
    with pytest.raises(CheckpointError, match="environments is 3 in the checkpoint and 1 here"):
        load_agent(PPO, tmp_path, env)
    with pytest.raises(CheckpointError, match="trained in 1 VecNormalize"):
        load_agent(PPO, tmp_path, batched("cartpole"), continue_training=False)


def test_an_agent_that_never_learned_is_saved_too(tmp_path: Path) -> None:
    agent = ppo()
    save_agent(agent, tmp_path)
    agent.learn(48)
    disturb()
    loaded = load_agent(PPO, tmp_path, ppo().env)
    loaded.learn(48)
    assert_same_agent(loaded, agent)


# Environments that cannot say where they are


class Sighted(gym.Env[Any, Any]):
    """Ten steps in which nothing happens; remembers the seeds of its resets."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
        self.seeds: list[int | None] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.seeds.append(seed)
        self.steps = 0
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        obs = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return obs, 1.0, False, self.steps == 10, {}


def test_elsewhere_episodes_in_flight_are_cut_and_new_seeds_begin(tmp_path: Path) -> None:
    def make() -> SAC:
        env = DummyVecEnv([Sighted, Sighted])
        settings: dict[str, Any] = {"learning_starts": 100, "buffer_size": 100, "n_steps": 3}
        return SAC("MlpPolicy", env, seed=4, device="cpu", policy_kwargs=small(), **settings)

    agent = make()
    agent.learn(2 * 13)
    save_agent(agent, tmp_path)
    env = DummyVecEnv([Sighted, Sighted])
    loaded = load_agent(SAC, tmp_path, env)
    assert loaded._last_obs is None
    assert loaded.replay_buffer is not None
    # Step 10 was the first end; the episodes cut after 13 count as ended by time, not as finished.
    assert_array_equal(loaded.replay_buffer.dones[:13].nonzero()[0], [9, 9, 12, 12])
    assert_array_equal(loaded.replay_buffer.timeouts[:13].nonzero()[0], [9, 9, 12, 12])
    loaded.learn(4, reset_num_timesteps=False)
    begun = [each.seeds[-1] for each in env.envs]
    assert begun[1] == begun[0] + 1
    assert begun[0] not in (4, 5)
    assert agent.num_timesteps == 26
    again = DummyVecEnv([Sighted, Sighted])
    load_agent(SAC, tmp_path, again).learn(4, reset_num_timesteps=False)
    assert [each.seeds[-1] for each in again.envs] == begun


def test_an_environment_wrapped_otherwise_is_refused(tmp_path: Path) -> None:
    agent = dqn()
    agent.learn(12)
    save_agent(agent, tmp_path)
    env = get_family("cartpole").make_sb3(["train"] * 3)
    with pytest.raises(
        CheckpointError, match="was VecMonitor of BatchedVecEnv .* is BatchedVecEnv"
    ):
        load_agent(DQN, tmp_path, env)


# Refusals


class Payload:
    """A pickle that leaves a mark when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def flip_a_byte(file: Path, mark: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def truncate(file: Path, mark: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def plant_a_pickle(file: Path, mark: Path) -> None:
    file.write_bytes(pickle.dumps(Payload(mark)))


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", [flip_a_byte, truncate, plant_a_pickle])
def test_a_damaged_file_is_refused_by_name(
    tmp_path: Path, name: str, damage: Callable[[Path, Path], None]
) -> None:
    agent, mark = ppo(), tmp_path / "mark"
    folder = save_agent(agent, tmp_path / "agent")
    damage(folder / name, mark)
    with pytest.raises(CheckpointError, match=name):
        load_agent(PPO, tmp_path / "agent", agent.env)
    assert not mark.exists()


def test_another_architecture_is_refused_by_the_tensor_and_both_shapes(tmp_path: Path) -> None:
    save_agent(ppo(), tmp_path)
    with pytest.raises(
        CheckpointError,
        match=r"modules/policy/mlp_extractor\.policy_net\.0\.weight is .* \(8, 4\) in the checkpoint "
        r"and .* \(9, 4\) here",
    ):
        load_agent(PPO, tmp_path, ppo().env, policy_kwargs={"net_arch": [9]})
    with pytest.raises(CheckpointError, match=r"policy_net\.2\.bias is here and not in it"):
        load_agent(PPO, tmp_path, ppo().env, policy_kwargs={"net_arch": [8, 8]})


def test_another_algorithm_or_space_is_refused(tmp_path: Path) -> None:
    save_agent(ppo(), tmp_path)
    with pytest.raises(CheckpointError, match="is a PPO, not a A2C"):
        load_agent(A2C, tmp_path, ppo().env)
    with pytest.raises(CheckpointError, match="observation space is Box"):
        load_agent(PPO, tmp_path, VecNormalize(batched("pendulum")))


def test_missing_and_added_tensors_are_refused_by_name() -> None:
    tensors, state = agent_state(ppo())
    name = "modules/policy/value_net.weight"
    lacking = {key: value for key, value in tensors.items() if key != name}
    with pytest.raises(CheckpointError, match=f"tensor {name} is missing"):
        load_agent_state(ppo(), lacking, state)
    with pytest.raises(CheckpointError, match="tensor modules/other belongs to nothing"):
        load_agent_state(ppo(), tensors | {"modules/other": torch.zeros(1)}, state)


def test_another_optimiser_is_refused(tmp_path: Path) -> None:
    save_agent(ppo(), tmp_path)
    changed = small() | {"optimizer_class": torch.optim.SGD, "optimizer_kwargs": {"momentum": 0.9}}
    with pytest.raises(CheckpointError, match=r"optimizers/policy\.optimizer/groups/0/"):
        load_agent(PPO, tmp_path, ppo().env, policy_kwargs=changed)


def test_what_is_no_agent_is_refused(tmp_path: Path) -> None:
    CheckpointStore(tmp_path).save(0, {}, {})
    with pytest.raises(CheckpointError, match="not one of an agent"):
        load_agent(PPO, tmp_path, ppo().env)


# Arguments


def test_a_function_must_be_given_again(tmp_path: Path) -> None:
    def falling(progress: float) -> float:
        return 1e-3 * progress

    save_agent(ppo(learning_rate=falling), tmp_path)
    with pytest.raises(UsageError, match=r"learning_rate of the saved agent .* give it again"):
        load_agent(PPO, tmp_path, ppo().env)
    assert load_agent(PPO, tmp_path, ppo().env, learning_rate=falling).learning_rate is falling


def test_arguments_come_back_as_they_were(tmp_path: Path) -> None:
    network = NetworkConfig(trunk=MLP(hidden=(7,)), head=Shared())
    agent = PPO(
        MultiTaskActorCriticPolicy,
        batched("cartpole"),
        learning_rate=LinearSchedule(1e-3, 1e-4, 0.5),
        clip_range=0.15,
        gamma=0.9,
        n_steps=16,
        batch_size=48,
        seed=6,
        device="cpu",
        policy_kwargs={
            "network": network,
            "spec": TaskSpec(tasks=1, context=2),
            "optimizer_class": torch.optim.AdamW,
        },
    )
    save_agent(agent, tmp_path)
    loaded = load_agent(PPO, tmp_path, batched("cartpole"), device="cpu")
    assert loaded.policy_class is MultiTaskActorCriticPolicy
    assert loaded.policy_kwargs == agent.policy_kwargs
    assert isinstance(loaded.policy.optimizer, torch.optim.AdamW)
    for name in ("gamma", "n_steps", "batch_size", "seed", "n_epochs"):
        assert getattr(loaded, name) == getattr(agent, name)
    for progress in (1.0, 0.7, 0.2):
        assert loaded.lr_schedule(progress) == agent.lr_schedule(progress)
        assert loaded.clip_range(progress) == agent.clip_range(progress) == 0.15


def test_a_checkpoint_cannot_name_a_class_that_is_not_listed(tmp_path: Path) -> None:
    save_agent(ppo(), tmp_path / "good")
    kept = CheckpointStore(tmp_path / "good").load()
    kept.state["arguments"]["given"]["seed"] = {"$": "class", "name": "Popen"}
    CheckpointStore(tmp_path / "bad").save(kept.step, kept.tensors, kept.state)
    with pytest.raises(CheckpointError, match="Popen"):
        load_agent(PPO, tmp_path / "bad", ppo().env)


# Buffers

VECTOR = gym.spaces.Box(-1, 1, (3,), np.float32)
PICTURE = gym.spaces.Box(0, 255, (4, 4, 1), np.uint8)
ACTION = gym.spaces.Discrete(3)


def fill(buffer: Any, space: gym.Space[Any], steps: int) -> None:
    rng = np.random.default_rng(steps)
    space.seed(0)
    for _ in range(steps):
        one, two = (
            gym.vector.utils.concatenate(
                space,
                [space.sample() for _ in range(2)],
                gym.vector.utils.create_empty_array(space, 2),
            )
            for _ in range(2)
        )
        buffer.add(one, two, rng.integers(3, size=2), rng.random(2), rng.random(2) < 0.2, [{}, {}])


@pytest.mark.parametrize("steps", [0, 3, 10, 14])
@pytest.mark.parametrize("space", [VECTOR, PICTURE, gym.spaces.Dict(seen=VECTOR, shown=PICTURE)])
def test_only_the_filled_part_is_stored_and_comes_back(space: gym.Space[Any], steps: int) -> None:
    kind = DictReplayBuffer if isinstance(space, gym.spaces.Dict) else ReplayBuffer
    buffer, empty = (kind(20, space, ACTION, "cpu", n_envs=2) for _ in range(2))
    fill(buffer, space, steps)
    state = buffer_state(buffer)
    rows = min(steps, 10)
    assert {len(array) for array in state["arrays"].values()} == {2 * rows}
    shown = state["arrays"].get("observations.shown", state["arrays"].get("observations"))
    assert shown.dtype == (np.float32 if space is VECTOR else np.uint8)
    load_buffer(empty, "buffer", state)
    assert (empty.pos, empty.full) == (steps % 10, steps >= 10)
    for name, kept in buffer_state(empty)["arrays"].items():
        assert_array_equal(kept, state["arrays"][name])


def test_a_buffer_of_shared_observations_keeps_the_one_ahead() -> None:
    settings = {"optimize_memory_usage": True, "handle_timeout_termination": False}
    buffer, other = (ReplayBuffer(20, VECTOR, ACTION, "cpu", 2, **settings) for _ in range(2))
    fill(buffer, VECTOR, 3)
    load_buffer(other, "buffer", buffer_state(buffer))
    assert_array_equal(other.observations[:4], buffer.observations[:4])
    assert np.abs(buffer.observations[3]).min() > 0


def test_a_buffer_of_many_tasks_stores_what_each_task_has() -> None:
    space = gym.spaces.Box(-1, 1, (3 + 2,), np.float32)
    buffer, other = (MultiTaskReplayBuffer(40, space, ACTION, "cpu", 2, tasks=2) for _ in range(2))
    rng = np.random.default_rng(0)
    for step in range(6):
        obs = rng.random((2, 5)).astype(np.float32)
        obs[:, 3:] = np.eye(2)[[0, 0 if step < 4 else 1]]
        buffer.add(obs, obs, rng.integers(3, size=2), rng.random(2), np.zeros(2), [{}, {}])
    state = buffer_state(buffer)
    assert len(state["arrays"]["rewards"]) == 12 < buffer.rewards.size
    load_buffer(other, "buffer", state)
    drawn = []
    for each in (buffer, other):
        np.random.seed(0)  # noqa: NPY002
        drawn.append(each.sample(64))
    for one, two in zip(*drawn, strict=True):
        if one is not None:
            assert_close(one, two, rtol=0, atol=0)
    state["arrays"]["counts"] = np.array([30, 2])
    with pytest.raises(CheckpointError, match="no room"):
        load_buffer(other, "buffer", state)


def test_a_buffer_of_another_size_is_refused() -> None:
    buffer, smaller = (ReplayBuffer(size, VECTOR, ACTION, "cpu", 2) for size in (40, 10))
    fill(buffer, VECTOR, 15)
    with pytest.raises(CheckpointError, match="was at row 15, and has 5 here"):
        load_buffer(smaller, "buffers/replay_buffer", buffer_state(buffer))


def test_goals_are_relabelled_as_before_and_infos_refused() -> None:
    class Goals(gym.Env[Any, Any]):
        observation_space = gym.spaces.Dict(
            observation=VECTOR, achieved_goal=VECTOR, desired_goal=VECTOR
        )
        action_space = ACTION

        def compute_reward(self, achieved: Any, desired: Any, info: Any) -> Any:
            return -np.abs(achieved - desired).sum(-1)

    env = DummyVecEnv([Goals, Goals])
    space = Goals.observation_space
    buffer, other = (HerReplayBuffer(40, space, ACTION, env, "cpu", n_envs=2) for _ in range(2))
    fill(buffer, space, 15)
    load_buffer(other, "buffer", buffer_state(buffer))
    drawn = []
    for each in (buffer, other):
        np.random.seed(0)  # noqa: NPY002
        drawn.append(each.sample(16))
    assert_close(drawn[0].observations, drawn[1].observations, rtol=0, atol=0)
    assert_close(drawn[0].rewards, drawn[1].rewards, rtol=0, atol=0)
    cut_episodes(other)
    assert other.dones[14].all()
    told = HerReplayBuffer(40, space, ACTION, env, "cpu", n_envs=2, copy_info_dict=True)
    told.infos[0, 0] = {"key": object()}
    with pytest.raises(UsageError, match="infos holds Python objects"):
        buffer_state(told)


# Values


def test_values_come_back_as_they_were() -> None:
    value = {
        "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "words": np.array([2**32 - 1, 0], np.uint32),
        "flags": np.array([True, False]),
        "single": np.float32(0.1),
        "nested": [1, (2.5, "text", None), {"deep": torch.arange(3)}],
        "huge": 2**90,
    }
    tensors: dict[str, torch.Tensor] = {}
    packed = json.loads(json.dumps(pack(value, "at", tensors)))
    left = dict(tensors)
    made = unpack(packed, "at", left)
    assert left == {}
    assert made["columns"].flags.fnc
    assert made["nested"][1] == (2.5, "text", None)
    assert made["huge"] == 2**90
    assert type(made["single"]) is np.float32
    for name in ("columns", "words", "flags", "single"):
        assert made[name].dtype == value[name].dtype  # type: ignore[attr-defined]
        assert_array_equal(made[name], value[name])
    made["columns"][0, 0] = 5.0
    assert tensors["at/columns"][0, 0] == 0.0
    for wrong in ({"at": object()}, {1: 2}, {"at": {1, 2}}, np.array([None])):
        with pytest.raises(UsageError):
            pack(wrong, "at", {})
