"""Facts about classic control: the dynamics are Gymnasium's, and the tasks are what they say."""

import math
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from mtrl.envs.acrobot import Acrobot
from mtrl.envs.batched import BatchedEnv
from mtrl.envs.cartpole import NO_LIMIT, CartPole
from mtrl.envs.mountaincar import MountainCar, MountainCarContinuous
from mtrl.envs.pendulum import Pendulum
from mtrl.envs.physics import PhysicsFamily
from mtrl.envs.registry import family_spec, get_family
from mtrl.envs.task import Task, assert_disjoint
from mtrl.errors import MissingExtraError, UsageError

CLASSES = [CartPole, Pendulum, Acrobot, MountainCar, MountainCarContinuous]
NAMES = [family.name for family in CLASSES]

# Gymnasium squares with pow(), whose last bit is not always that of a product, and takes the cosine
# of the mountain car from libm where we take NumPy's: both show in the last bits of float64, which
# an acrobot's 500 steps amplify: it is chaotic. Everything else is equal to the last bit.
STATE_TOLERANCE = {"acrobot": 1e-3, "mountaincar": 1e-9, "mountaincar-continuous": 1e-6}
# The torque's part of the cost is squared in float32: one of its last bits, of up to 0.016.
REWARD_TOLERANCE = {"pendulum": 2e-9}


def _of(name: str, preset: str, **overrides: Any) -> PhysicsFamily:
    family = get_family(name, preset, **overrides)
    assert isinstance(family, PhysicsFamily)
    return family


def _set_attributes(env: Any, name: str, params: dict[str, Any]) -> None:
    """Set a task's values on Gymnasium's environment, written out independently of the family."""
    if name == "cartpole":
        env.gravity, env.tau = params["gravity"], params["tau"]
        env.masscart, env.masspole, env.length = (
            params["masscart"],
            params["masspole"],
            params["length"],
        )
        env.total_mass = env.masspole + env.masscart
        env.polemass_length = env.masspole * env.length
        env.force_mag = params["force_mag"]
        env.theta_threshold_radians = params["failure_angle"] * 2 * math.pi / 360
    elif name == "acrobot":
        env.AVAIL_TORQUE = [-params["torque"], 0.0, params["torque"]]
        env.dt = params["dt"]
        for key in set(params) - {"torque", "dt"}:
            setattr(env, key.upper(), params[key])
    else:
        for key, value in params.items():
            setattr(env, key, value)


def _peer(family: PhysicsFamily, task: Task) -> Any:
    limit = int(task.params.get("step_limit", family.horizon))
    peer = gym.make(family.gymnasium_id, max_episode_steps=limit)
    peer.reset(seed=0)
    _set_attributes(peer.unwrapped, family.name, dict(task.params))
    return peer


def _policy(family: PhysicsFamily, seed: int) -> Any:
    """Random actions, held for a while: a car and an acrobot get further with them."""
    rng = np.random.default_rng(seed)
    space, held = family.action_space, None
    space.seed(seed)
    while True:
        if held is None or rng.random() < 0.2:
            held = space.sample()
        yield held


def _episode(family: PhysicsFamily, task: Task, seed: int) -> tuple[bool, bool]:
    """Play one episode on both sides from the same state; return how it ended."""
    ours, peer = family.make(task), _peer(family, task)
    ours.reset(seed=seed)
    state = ours._slots.env.state[0]
    peer.unwrapped.state = state.copy()
    actions = _policy(family, seed)
    state_tolerance = STATE_TOLERANCE.get(family.name, 0.0)
    while True:
        action = next(actions)
        mine, theirs = ours.step(action), peer.step(action)
        assert mine[2:4] == theirs[2:4]
        assert_allclose(mine[1], theirs[1], rtol=0, atol=REWARD_TOLERANCE.get(family.name, 0.0))
        assert_allclose(
            ours._slots.env.state[0], np.array(peer.unwrapped.state), rtol=0, atol=state_tolerance
        )
        assert mine[0].dtype == theirs[0].dtype == np.float32
        # Numbers so close may fall on two sides of a float32's border: one of its last bits.
        assert_allclose(
            mine[0], theirs[0], rtol=2.0**-23 * bool(state_tolerance), atol=state_tolerance
        )
        if mine[2] or mine[3]:
            return mine[2], mine[3]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("preset", ["gymnasium", "default-physics", "wide"])
def test_whole_episodes_equal_gymnasium(name: str, preset: str) -> None:
    family = _of(name, preset)
    tasks = family.sample(3, np.random.default_rng(0), "train")
    if preset != "wide":
        tasks.append(family.task())
    for seed, task in enumerate(tasks):
        _episode(family, task, seed)


@pytest.mark.parametrize("preset", ["gymnasium", "wide"])
def test_single_steps_of_an_acrobot_equal_gymnasium(preset: str) -> None:
    """From the same state, so that nothing is amplified: a few of float64's last bits remain."""
    family = _of("acrobot", preset)
    task = family.sample(1, np.random.default_rng(0), "train")[0]
    ours, peer, actions = family.make(task), _peer(family, task), _policy(family, 0)
    ours.reset(seed=0)
    for _ in range(400):
        peer.unwrapped.state = ours._slots.env.state[0].copy()
        action = next(actions)
        mine, theirs = ours.step(action), peer.step(action)
        # 1e-13: speeds are up to 28, so that their last bit is 4e-15.
        assert_allclose(ours._slots.env.state[0], peer.unwrapped.state, rtol=0, atol=1e-13)
        assert mine[1:4] == theirs[1:4]
        if mine[2] or mine[3]:
            ours.reset()
            peer.reset()


@pytest.mark.parametrize("name", NAMES)
def test_gymnasium_itself_is_the_task_of_the_default_values(name: str) -> None:
    """The parameters' defaults are the attributes of Gymnasium's unchanged environment."""
    family = _of(name, "gymnasium")
    unchanged, task = gym.make(family.gymnasium_id).unwrapped, family.task()
    changed = gym.make(family.gymnasium_id).unwrapped
    _set_attributes(changed, name, dict(task.params))
    for key in family.attributes(task):
        assert getattr(changed, key) == getattr(unchanged, key)
        assert getattr(family.gymnasium_env(task), key) == getattr(unchanged, key)
    assert family.observation_space == unchanged.observation_space
    assert family.action_space == unchanged.action_space
    assert family.horizon == gym.spec(family.gymnasium_id).max_episode_steps
    assert family.render_fps == unchanged.metadata["render_fps"]
    assert family.sample(2, np.random.default_rng(0), "test") == [family.task("test")] * 2


@pytest.mark.parametrize("name", NAMES)
def test_a_task_is_not_the_default_environment(name: str) -> None:
    """Negative control: parameters that had no effect would pass the equalities with defaults."""
    family = _of(name, "wide")
    task = family.sample(1, np.random.default_rng(1), "train")[0]
    for key, value in task.params.items():
        if value == family.defaults[key] or key in ("step_limit", "goal_velocity"):
            continue
        changed = Task(family=name, params={**family.defaults, key: value})
        states = np.array(
            [
                _states_after(family, played, 60)
                for played in (changed, Task(family=name, params=family.defaults))
            ]
        )
        if key in ("goal_position", "max_torque"):
            continue  # seen in the ends of episodes and in clipped actions only
        assert (states[0] != states[1]).any(), key


def _states_after(family: PhysicsFamily, task: Task, steps: int) -> np.ndarray:
    batch = BatchedEnv(family, family.tensors([task] * 4))
    actions = _policy(family, 5)
    for _ in range(steps):
        batch.step(torch.from_numpy(np.array([next(actions)] * 4)))
    return batch.state.numpy()


@pytest.mark.parametrize("name", NAMES)
def test_torch_and_numpy_agree_to_the_last_bits(name: str) -> None:
    """The path that a GPU takes, on the CPU: sine and cosine may differ in the last bit."""
    family = _of(name, "wide")
    tasks = family.sample(64, np.random.default_rng(0), "train")
    params = family.tensors(tasks)
    env = BatchedEnv(family, params)
    family.action_space.seed(0)
    derived = family.derive(params)
    for _ in range(20):
        action = torch.from_numpy(np.array([family.action_space.sample() for _ in tasks]))
        state = env.state.clone()
        expected = family.step(derived, state, action, torch.empty(64, 0))
        env.step(action)
        running = env._running
        # float32 has 24 bits, and the acrobot's four evaluations multiply errors.
        tolerance = 1e-6 if family.dtype == torch.float32 else 1e-11
        assert_allclose(expected[0][running], env.state[running], rtol=tolerance, atol=tolerance)
        assert expected[0].dtype == env.state.dtype == family.dtype


@pytest.mark.parametrize("name", NAMES)
def test_first_states_are_distributed_as_gymnasiums(name: str) -> None:
    family = _of(name, "gymnasium")
    n = 2000
    batch = BatchedEnv(family, family.tensors([family.task()] * n))
    peer = gym.make(family.gymnasium_id).unwrapped
    peer.reset(seed=0)
    theirs = []
    for _ in range(n):
        peer.reset()
        theirs.append(np.array(peer.state))
    for ours, other in zip(batch.state.numpy().T, np.array(theirs).T, strict=True):
        if (other == 0).all():
            assert_array_equal(ours, other)
        else:
            # Ten columns are looked at, of fixed draws.
            assert stats.ks_2samp(ours, other).pvalue > 1e-3


def test_observations_stay_in_their_space() -> None:
    for name in NAMES:
        family = _of(name, "wide")
        envs = family.make_vec(["train"] * 8, seed=0)
        envs.reset()
        envs.action_space.seed(0)
        for _ in range(200):
            obs, *_ = envs.step(envs.action_space.sample())
            assert envs.observation_space.contains(obs), name


def test_a_reversed_motor_mirrors_the_actions() -> None:
    family = CartPole(ranges={"force_mag": ((-10.0, -5.0), (5.0, 10.0))})
    forwards, backwards = (
        BatchedEnv(family, family.tensors([family.task(force_mag=force)] * 3))
        for force in (10.0, -10.0)
    )
    for action in (torch.tensor([0, 1, 1]), torch.tensor([1, 1, 0])):
        one, other = forwards.step(action), backwards.step(1 - action)
        assert_array_equal(one[0].numpy(), other[0].numpy())


def test_step_limits_are_the_tasks_own() -> None:
    family = CartPole(ranges={"step_limit": (3.0, 7.0), "failure_angle": 90.0})
    tasks = [family.task(step_limit=limit) for limit in (3.0, 5.5, 7.0)]
    envs, batch = family.make_vec(tasks), BatchedEnv(family, family.tensors(tasks))
    envs.reset(seed=0)
    ends = {0: 0, 1: 0, 2: 0}
    for step in range(1, 8):
        action = np.full(3, step % 2)
        _, _, terminated, truncated, _ = envs.step(action)
        assert not terminated.any()
        for slot in np.flatnonzero(truncated):
            ends[int(slot)] = ends[int(slot)] or step
        truncated_there = batch.step(torch.from_numpy(action))[3]
        assert_array_equal(truncated_there.numpy(), [step >= 3, step >= 5, step >= 7])
    assert ends == {0: 3, 1: 5, 2: 7}
    assert family.horizon == 7


def test_aqil_has_fifty_degrees_and_no_cap() -> None:
    family = _of("cartpole", "aqil")
    task = family.task()
    assert family.horizon == NO_LIMIT
    batch = BatchedEnv(family, family.tensors([task]))
    degrees = torch.tensor([[0.0, 0.0, math.radians(angle), 0.0] for angle in (49.9, -50.1)])
    for state, over in zip(degrees.double(), (False, True), strict=True):
        batch.reset(torch.arange(1))
        batch.state = state[None]
        assert batch.step(torch.zeros(1, dtype=torch.int64))[2].item() == over
    batch.reset(torch.arange(1))
    batch.steps = torch.tensor([10_000_000])
    assert not batch.step(torch.zeros(1, dtype=torch.int64))[3].item()


@pytest.mark.parametrize("name", NAMES)
def test_constants_are_exact(name: str) -> None:
    """A constant of 9.8 is not float32's 9.800000190734863."""
    family = _of(name, "default-physics")
    for task in family.sample(3, np.random.default_rng(0), "train"):
        for key in set(family.defaults) - set(family.ranges):
            assert task.params[key] == family.defaults[key]
    params = family.sample_params(3, np.random.default_rng(0), "train")
    tasks = family.sample(3, np.random.default_rng(0), "train")
    for key, values in params.items():
        assert_array_equal(values, [task.params[key] for task in tasks])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rule", ["interpolation", "extrapolation"])
def test_held_out_tasks_are_where_the_preset_says(name: str, rule: str) -> None:
    family = _of(name, rule)
    ((key, intervals),) = family.held_out.items()
    train = family.sample(300, np.random.default_rng(0), "train")
    test = family.sample(300, np.random.default_rng(0), "test")
    assert_disjoint(train, test)

    def held(task: Task) -> bool:
        return any(
            np.float32(low) <= task.params[key] <= np.float32(high) for low, high in intervals
        )

    assert not any(held(task) for task in train)
    assert all(held(task) for task in test)
    values = np.array([task.params[key] for task in train])
    ends = np.array([task.params[key] for task in test])
    if rule == "extrapolation":
        assert ends.min() < values.min() < values.max() < ends.max()
    else:
        assert values.min() < ends.min() < ends.max() < values.max()
    assert {family.parameters.split_of(task.params) for task in train} == {"train"}
    assert {family.parameters.split_of(task.params) for task in test} == {"test"}
    assert not family.splits_overlap


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"ranges": {"mass": 1.0}}, "no parameter 'mass'; there are gravity"),
        ({"ranges": {"length": (0.0, 1.0)}}, "length goes down to 0.0; it must be positive"),
        ({"ranges": {"length": (1.0, 0.5)}}, "low must not exceed high"),
        ({"ranges": {"step_limit": (0.5, 9.0)}}, "step_limit of 'cartpole'"),
        ({"ranges": {}}, "all parameters are constants.*'shared'"),
        ({"split_rule": "novelty"}, "'novelty'.*'random', 'interpolation'"),
        ({"split_rule": "interpolation"}, "need intervals by name"),
        ({"held_out": {"length": ((0.5, 0.6),)}}, "'random' and held_out"),
        (
            {"split_rule": "extrapolation", "held_out": {"length": ((0.5, 0.6),)}},
            r"'length' is \[0.5, 0.6\].*at one end of the range \[0.25, 1.0\]",
        ),
        (
            {"split_rule": "interpolation", "held_out": {"length": ((0.9, 1.0),)}},
            "inside the range",
        ),
        (
            {"split_rule": "interpolation", "held_out": {"tau": ((0.9, 1.0),)}},
            "'tau' is not a number that varies",
        ),
    ],
)
def test_impossible_families_are_refused(arguments: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        CartPole(**arguments)


def test_a_task_outside_the_ranges_is_refused_by_name() -> None:
    family = CartPole()
    for params in ({"length": 1.5}, {"failure_angle": 50.0}, {"masscart": -1.0}):
        task = Task(family="cartpole", params={**family.defaults, **params})
        ((name, value),) = params.items()
        with pytest.raises(
            UsageError, match=f"{task.id} of 'cartpole': {name} is {value}, outside"
        ):
            family.make(task)
    with pytest.raises(UsageError, match="'length' is nan"):
        family.task(length=math.nan)


def test_every_preset_draws_from_its_ranges() -> None:
    for name in NAMES:
        for preset in family_spec(name).presets:
            family = _of(name, preset)
            for task in family.sample(20, np.random.default_rng(0), "train"):
                family.parameters.check(task)
                assert set(family.units) == set(task.params)


def test_wide_cart_poles_have_motors_of_both_signs_and_none_that_is_feeble() -> None:
    forces = _of("cartpole", "wide").sample_params(500, np.random.default_rng(0), "train")
    assert 0.4 < (forces["force_mag"] > 0).mean() < 0.6
    assert np.abs(forces["force_mag"]).min() >= 5


@pytest.mark.parametrize("name", NAMES)
def test_pictures_are_gymnasiums(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    family = _of(name, "wide")
    task, other = family.sample(2, np.random.default_rng(0), "train")
    env = family.make(task, render_mode="rgb_array")
    env.reset(seed=0)
    peer = gym.make(family.gymnasium_id, render_mode="rgb_array").unwrapped
    for played in (task, other):
        env.reset(options={"task": played})
        peer.reset(seed=0)
        _set_attributes(peer, name, dict(played.params))
        peer.state = env._slots.env.state[0].copy()
        actions = _policy(family, 0)
        for _ in range(5):
            action = next(actions)
            env.step(action)
            peer.step(action)
        picture = env.render()
        assert picture is not None
        assert picture.dtype == np.uint8
        assert_array_equal(picture, peer.render())
    env.close()
    window = family.make(task, render_mode="human")
    window.reset(seed=0)
    assert window.render() is None
    window.close()


def test_without_pygame_rendering_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pygame", None)
    env = CartPole().make("train", render_mode="rgb_array")
    env.reset(seed=0)
    with pytest.raises(MissingExtraError, match=r'pip install "mtrl-suite\[classic-control\]"'):
        env.render()
