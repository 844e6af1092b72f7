"""Facts about the MuJoCo families: Gymnasium's physics to the last bit, and the tasks' rewards."""

import copy
import sys
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from mtrl.envs import get_family
from mtrl.envs.robots.ant import AntDirection, AntGoal, AntVelocity
from mtrl.envs.robots.family import MujocoFamily
from mtrl.envs.robots.half_cheetah import HalfCheetahDirection, HalfCheetahVelocity
from mtrl.envs.robots.humanoid import HumanoidDirection
from mtrl.envs.robots.planar_walkers import HopperParameters, Walker2dParameters
from mtrl.envs.task import Task
from mtrl.errors import MissingExtraError, MtrlError, UsageError

Info = dict[str, Any]
SCALED = {"mass": 1.5, "damping": 0.75, "friction": 0.5, "gravity": 1.25}
NAMES = ["halfcheetah-velocity", "halfcheetah-direction", "ant-velocity", "ant-direction"]
NAMES += ["ant-goal", "hopper-parameters", "walker2d-parameters", "humanoid-direction"]


def ant_others(info: Info) -> float:
    # Gymnasium's weights: 0.5 of the squared action, 0.0005 of the squared contact forces.
    return 0.05 + 0.01 * info["reward_ctrl"] + info["reward_contact"]


def ant_goal(info: Info, torso: np.ndarray) -> float:
    return 4.0 - abs(torso[0] - 1.0) - abs(torso[1] + 2.0) + ant_others(info)


# Rewards recomputed from what Gymnasium's environment reports.
CASES: list[tuple[MujocoFamily, dict[str, float], Callable[[Info, float, Any], float]]] = [
    (
        HalfCheetahVelocity(),
        {"velocity": 1.3},
        lambda info, _, __: -abs(info["x_velocity"] - 1.3) + 0.5 * info["reward_ctrl"],
    ),
    (
        HalfCheetahDirection(),
        {"direction": -1.0},
        lambda info, _, __: -info["x_velocity"] + 0.5 * info["reward_ctrl"],
    ),
    (
        AntVelocity(),
        {"velocity": 0.7},
        lambda info, _, __: 1.0 - abs(info["x_velocity"] - 0.7) + ant_others(info),
    ),
    (
        AntDirection(),
        {"angle": 180.0},
        lambda info, _, __: -info["x_velocity"] + ant_others(info),
    ),
    (
        AntGoal(),
        {"goal_x": 1.0, "goal_y": -2.0},
        lambda info, _, data: ant_goal(info, data.body("torso").xpos),
    ),
    (HopperParameters(), SCALED, lambda _, reward, __: reward),
    (Walker2dParameters(), SCALED, lambda _, reward, __: reward),
    (HumanoidDirection(), {"angle": 0.0}, lambda _, reward, __: reward),
    (
        get_family("humanoid-direction", "any-direction"),  # type: ignore[list-item]
        {"angle": 90.0},
        lambda info, reward, _: reward + 1.25 * (info["y_velocity"] - info["x_velocity"]),
    ),
]
IDS = [f"{family.name}-{len(family.parameters.vector(family.task(**p)))}" for family, p, _ in CASES]


def gymnasium_env(family: MujocoFamily, task: Task) -> Any:
    """Return Gymnasium's environment; for `SCALED` physics, with the fields set one by one."""
    env: Any = gym.make(family.robot.gymnasium_id).unwrapped
    if "mass" in task.params:
        for body in range(env.model.nbody):
            env.model.body_mass[body] = env.model.body_mass[body] * task.params["mass"]
            env.model.body_inertia[body] = env.model.body_inertia[body] * task.params["mass"]
        env.model.dof_damping[:] = env.model.dof_damping * task.params["damping"]
        env.model.geom_friction[:] = env.model.geom_friction * task.params["friction"]
        env.model.opt.gravity[:] = env.model.opt.gravity * task.params["gravity"]
        mujoco.mj_setConst(env.model, env.data)
    return env


def start_alike(peer: Any, state: np.ndarray) -> np.ndarray:
    """Put Gymnasium's environment into a state, as its own reset does; return the observation."""
    mujoco.mj_resetData(peer.model, peer.data)
    peer.set_state(state[: peer.model.nq], state[peer.model.nq :])
    return peer._get_obs()


@pytest.mark.parametrize(("family", "params", "expected"), CASES, ids=IDS)
def test_whole_episodes_are_those_of_gymnasium(
    family: MujocoFamily, params: dict[str, float], expected: Callable[[Info, float, Any], float]
) -> None:
    task = family.task(**params)
    env, peer = family.make(task), gymnasium_env(family, task)
    space = env.action_space
    space.seed(0)
    for seed in range(3):
        obs, _ = env.reset(seed=seed)
        assert_array_equal(obs, start_alike(peer, env._slots.env.state[0]))
        over, steps = False, 0
        while not over:
            action, steps = space.sample(), steps + 1
            obs, reward, terminated, truncated, _ = env.step(action)
            peer_obs, peer_reward, peer_terminated, _, info = peer.step(action)
            assert_array_equal(obs, peer_obs)
            assert terminated == peer_terminated
            # The control cost is computed in float32 and the humanoid's centre in another order.
            assert_allclose(reward, expected(info, peer_reward, peer.data), rtol=0, atol=2e-6)
            over = terminated or truncated
        assert terminated or steps == 200


def test_random_actions_let_walkers_fall_and_the_cheetah_run_on() -> None:
    """Without ends of both kinds, the comparison above would say little."""
    ends = {}
    for family in (HopperParameters(), Walker2dParameters(), HalfCheetahVelocity()):
        envs = family.make_vec(["train"] * 4, seed=0)
        envs.reset()
        envs.action_space.seed(0)
        flags = [envs.step(envs.action_space.sample())[2:4] for _ in range(200)]
        ends[family.name] = np.sum([[a.sum(), b.sum()] for a, b in flags], axis=0).tolist()
    assert ends["hopper-parameters"][0] > 10
    assert ends["walker2d-parameters"][0] > 10
    assert ends["halfcheetah-velocity"] == [0, 4]


@pytest.mark.parametrize("family", [HopperParameters(), Walker2dParameters()])
def test_factors_of_one_give_gymnasiums_own_model(family: MujocoFamily) -> None:
    ones = family.model(family.task())
    own = gym.make(family.robot.gymnasium_id).unwrapped.model
    for name in ("body_mass", "body_inertia", "dof_damping", "geom_friction", "dof_invweight0"):
        assert_array_equal(getattr(ones, name), getattr(own, name))
    assert_array_equal(ones.opt.gravity, own.opt.gravity)


@pytest.mark.parametrize("name", SCALED)
def test_every_factor_changes_the_trajectory(name: str) -> None:
    """Negative control of the comparison with scaled physics."""
    family = HopperParameters()
    tasks = [family.task(), family.task(**{name: 1.2})]
    envs = family.make_vec(tasks, seed=0)
    envs.reset(seed=[1, 1])
    for _ in range(15):
        obs = envs.step(np.full((2, 3), 0.5, np.float32))[0]
    assert np.abs(obs[0] - obs[1]).max() > 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_spaces_and_starts_are_gymnasiums(name: str) -> None:
    family = get_family(name)
    assert isinstance(family, MujocoFamily)
    peer: Any = gym.make(family.robot.gymnasium_id).unwrapped
    assert family.observation_space == peer.observation_space
    assert family.action_space == peer.action_space
    assert family.render_fps == peer.metadata["render_fps"]
    assert family.robot.start_noise == peer._reset_noise_scale
    assert family.horizon == 200


def test_first_states_follow_gymnasiums_distribution() -> None:
    """Uniform positions; normal velocities for the cheetah, uniform ones for the hopper."""
    for family, normal in ((HalfCheetahVelocity(), True), (HopperParameters(), False)):
        batch = family.slot_batch([family.task()] * 500)
        batch.reset(np.arange(500), np.zeros(500, np.int64))
        positions = batch._bodies.qpos - batch._bodies.start
        scale = family.robot.start_noise
        uniform = stats.uniform(-scale, 2 * scale)
        velocities = stats.norm(0, scale) if normal else uniform
        assert stats.kstest(positions.ravel(), uniform.cdf).pvalue > 0.01
        assert stats.kstest(batch._bodies.qvel.ravel(), velocities.cdf).pvalue > 0.01


def trajectory(family: MujocoFamily, tasks: list[Task], seeds: list[int]) -> np.ndarray:
    """Return the observations (steps, slots, numbers); a slot's actions are its seed's."""
    envs = family.make_vec(tasks)
    rows = [envs.reset(seed=seeds)[0]]
    streams = [np.random.default_rng(seed) for seed in seeds]
    shape = family.action_space.shape
    for _ in range(40):
        actions = [family.robot.strength * stream.uniform(-1, 1, shape) for stream in streams]
        rows.append(envs.step(np.array(actions, np.float32))[0].copy())
    return np.array(rows)


@pytest.mark.parametrize("make", [HopperParameters, HalfCheetahVelocity, AntGoal])
def test_a_trajectory_depends_on_its_task_and_seed_alone(
    make: Callable[..., MujocoFamily],
) -> None:
    """Not on the number of slots or threads, nor on what the other slots do."""
    tasks = make().sample(5, np.random.default_rng(0), "train")
    alone = [trajectory(make(threads=1), [task], [i]) for i, task in enumerate(tasks)]
    for threads in (1, 3):
        together = trajectory(make(threads=threads), tasks, list(range(5)))
        assert_array_equal(together, np.concatenate(alone, axis=1))
    assert (together[:, 0] != trajectory(make(), tasks[:1], [9])[:, 0]).any()


def test_different_tasks_differ_in_reward_alone() -> None:
    family = HalfCheetahDirection()
    envs = family.make_vec([family.task(direction=1.0), family.task(direction=-1.0)])
    envs.reset(seed=[4, 4])
    action = np.full((2, 6), 0.5, np.float32)
    obs, reward, *_ = envs.step(action)
    assert_array_equal(obs[0], obs[1])
    # What is left of the sum of opposite rewards is twice the control cost.
    assert_allclose(reward.sum(), -2 * 0.05 * 6 * 0.25, rtol=1e-6)


def test_the_batch_plays_one_episode_per_slot_and_stands_still_after_it() -> None:
    family = HopperParameters(horizon=60)
    tasks = family.sample(3, np.random.default_rng(0), "train")
    batch = family.batch(tasks, repeats=2)
    singles = [family.make(task) for task in tasks for _ in range(2)]
    first = [env.reset(seed=5 + i)[0] for i, env in enumerate(singles)]
    obs = batch.reset(torch.arange(6) + 5)
    assert obs.dtype == torch.float32
    assert_array_equal(obs.numpy(), np.array(first, np.float32))
    over = np.zeros(6, bool)
    rng = np.random.default_rng(0)
    for _ in range(65):
        actions = rng.uniform(-1, 1, (6, 3)).astype(np.float32)
        last = obs.clone()
        obs, reward, terminated, truncated = batch.step(torch.from_numpy(actions))
        for i in range(6):
            if over[i]:
                assert_array_equal(obs[i], last[i])
                assert reward[i] == 0
                continue
            single = singles[i].step(actions[i])
            assert_array_equal(obs[i].numpy(), single[0].astype(np.float32))
            assert reward[i] == np.float32(single[1])
            assert (terminated[i], truncated[i]) == single[2:4]
        over = (terminated | truncated).numpy()
    assert over.all()
    assert_array_equal(batch.reset(torch.arange(6) + 5).numpy(), np.array(first, np.float32))


def test_no_fall_ends_an_episode_where_the_family_says_so() -> None:
    family = HopperParameters(terminate_when_unhealthy=False, horizon=100)
    envs = family.make_vec(["train"] * 4, seed=0)
    envs.reset()
    envs.action_space.seed(0)
    flags = [envs.step(envs.action_space.sample())[2] for _ in range(100)]
    assert not np.any(flags)


@pytest.mark.parametrize("name", ["halfcheetah-direction", "ant-direction", "humanoid-direction"])
def test_directions_say_that_their_splits_are_the_same(name: str) -> None:
    family = get_family(name)
    assert family.splits_overlap
    rng = np.random.default_rng(0)
    assert len(set(family.sample(20, rng, "train"))) == 2


@pytest.mark.parametrize("preset", ["interpolation", "extrapolation"])
@pytest.mark.parametrize("name", [name for name in NAMES if "direction" not in name])
def test_test_tasks_lie_in_the_held_out_range(name: str, preset: str) -> None:
    family = get_family(name, preset)
    assert isinstance(family, MujocoFamily)
    rng = np.random.default_rng(0)
    for held, intervals in family.held_out.items():
        for split, inside in (("train", False), ("test", True)):
            values = [task.params[held] for task in family.sample(200, rng, split)]
            found = np.any([(low <= v) & (v <= high) for low, high in intervals for v in values])
            everywhere = all(any(lo <= v <= hi for lo, hi in intervals) for v in values)
            assert everywhere if inside else not found, (held, split)


def test_mujoco_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)
    family = HalfCheetahVelocity()  # described without MuJoCo
    assert family.observation_space.shape == (17,)
    for make in (
        lambda: family.make("train"),
        lambda: family.make_vec(["train"]),
        lambda: family.batch([family.task()]),
    ):
        with pytest.raises(
            MissingExtraError, match=r"'halfcheetah-velocity'.*mtrl-suite\[mujoco\]"
        ):
            make()


def test_a_mujoco_that_cannot_be_imported_is_told_from_a_missing_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "mujoco.py").write_text("raise AttributeError('no OSMesa')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mujoco")
    with pytest.raises(MtrlError, match=r"'ant-goal' needs MuJoCo.*no OSMesa.*MUJOCO_GL"):
        AntGoal().make("train")


def test_a_diverging_simulation_names_family_and_task(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its warning into a file there
    family = HopperParameters(ranges={"damping": (1.0, 1e7)}, terminate_when_unhealthy=False)
    good, bad = family.task(), family.task(damping=1e7)
    envs = family.make_vec([good, bad], seed=0)
    message = f"environment 1 of family 'hopper-parameters', task {bad.id}.*diverged"
    with pytest.raises(MtrlError, match=message):
        envs.reset()
        for _ in range(50):
            envs.step(np.ones((2, 3), np.float32))
    batch = family.batch([good, bad])
    with pytest.raises(MtrlError, match=message):
        batch.reset(torch.arange(2))
        for _ in range(50):
            batch.step(torch.ones(2, 3))


def test_wrong_tasks_options_and_actions_are_refused() -> None:
    family = HalfCheetahVelocity()
    with pytest.raises(UsageError, match="'halfcheetah-velocity': velocity is 5.0"):
        family.make(Task(family=family.name, params={"velocity": 5.0}))
    with pytest.raises(UsageError, match="'velocity' is nan"):
        Task(family=family.name, params={"velocity": float("nan")})
    with pytest.raises(UsageError, match="'hopper-parameters': mass goes down to 0.0"):
        HopperParameters(ranges={"mass": (0.0, 1.0)})
    with pytest.raises(UsageError, match="no parameter 'speed'"):
        HalfCheetahVelocity(ranges={"speed": (0.0, 1.0)})
    with pytest.raises(UsageError, match="threads of 'ant-goal' is 0"):
        AntGoal(threads=0)
    task = family.task()
    batch = family.batch([task, task])
    with pytest.raises(UsageError, match=r"seeds has shape \(3,\); give 2"):
        batch.reset(torch.arange(3))
    batch.reset(torch.arange(2))
    actions = torch.zeros(2, 6)
    actions[1, 3] = torch.nan
    with pytest.raises(UsageError, match=f"environment 1 .*task {task.id}.*not finite"):
        batch.step(actions)


def test_pictures_show_the_state_and_say_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []

    def draw(env: Any) -> np.ndarray:
        shown.append(env.data.qpos.copy())
        return np.zeros((4, 4, 3), np.uint8)

    monkeypatch.setattr("gymnasium.envs.mujoco.mujoco_env.MujocoEnv.render", draw)
    env = HalfCheetahVelocity().make("train", "rgb_array")
    env.reset(seed=0)
    env.step(np.ones(6, np.float32))
    assert env.render().shape == (4, 4, 3)  # type: ignore[union-attr]
    assert_array_equal(shown[-1], env._slots.env.state[0, :9])

    def fail(env: Any) -> np.ndarray:
        raise RuntimeError("no display")

    monkeypatch.setattr("gymnasium.envs.mujoco.mujoco_env.MujocoEnv.render", fail)
    with pytest.raises(MtrlError, match="'halfcheetah-velocity' cannot be drawn.*MUJOCO_GL"):
        env.render()
    env.close()


def test_models_of_slots_are_shared_and_never_changed() -> None:
    family = Walker2dParameters()
    one, other = family.sample(2, np.random.default_rng(0), "train")
    batch = family.slot_batch([one, other, one])
    models = batch._bodies.models
    assert models[0] is models[2]
    assert models[0] is not models[1]
    own = gym.make("Walker2d-v5").unwrapped.model
    plain = HalfCheetahVelocity().slot_batch([HalfCheetahVelocity().task()] * 2)
    assert plain._bodies.models[0] is plain._bodies.models[1]
    assert_array_equal(family.model(family.task()).body_mass, copy.copy(own).body_mass)
