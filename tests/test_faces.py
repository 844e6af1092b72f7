"""Facts about the four faces of a family: they are one environment."""

import copy
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from noisy_walk import NoisyWalk
from numpy.testing import assert_array_equal
from stable_baselines3 import A2C
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from mtrl.envs import registry
from mtrl.envs.acrobot import Acrobot
from mtrl.envs.bandit import Bandit
from mtrl.envs.batched import BatchedEnv, BatchedFamily
from mtrl.envs.cartpole import CartPole
from mtrl.envs.distributions import Choice
from mtrl.envs.faces import FacedFamily
from mtrl.envs.family import TaskFamily
from mtrl.envs.mountaincar import MountainCar, MountainCarContinuous
from mtrl.envs.navigation2d import Navigation2D
from mtrl.envs.pendulum import Pendulum
from mtrl.envs.registry import get_family
from mtrl.envs.robots.ant import AntDirection, AntGoal, AntVelocity
from mtrl.envs.robots.half_cheetah import HalfCheetahVelocity
from mtrl.envs.robots.headings import ANY_HEADING
from mtrl.envs.robots.humanoid import HumanoidDirection
from mtrl.envs.robots.planar_walkers import HopperParameters, Walker2dParameters
from mtrl.envs.tabular_mdp import TabularMDP
from mtrl.envs.task import Task
from mtrl.errors import MissingExtraError, MtrlError, UsageError

BATCHED: list[BatchedFamily] = [
    NoisyWalk(),
    Navigation2D(varying_start=True, terminate_at_goal=True, horizon=30),
    # Ranges that let random actions end some episodes early and leave others to their limit.
    CartPole(ranges={"length": (0.1, 0.5), "step_limit": Choice([5.0, 40.0])}),
    Pendulum(horizon=30),
    Acrobot(ranges={"link_mass_1": (0.5, 1.5), "torque": (5.0, 30.0)}, horizon=30),
    MountainCar(ranges={"goal_position": (-0.5, -0.35), "force": (0.001, 0.002)}, horizon=30),
    MountainCarContinuous(ranges={"goal_position": (-0.5, -0.35)}, horizon=30),
    Bandit(horizon=30),
    TabularMDP(states=4, actions=3, horizon=30),
]
# Seconds per test: simulated bodies whose physics tests/test_mujoco.py compares with Gymnasium's.
HEAVY: list[FacedFamily] = [
    AntVelocity(horizon=30),
    AntDirection(ranges=ANY_HEADING, split_rule="random", horizon=30),
    AntGoal(horizon=30),
    Walker2dParameters(horizon=30),
    HumanoidDirection(ranges=ANY_HEADING, split_rule="random", horizon=30),
]
LIGHT: list[FacedFamily] = [
    *BATCHED,
    HalfCheetahVelocity(horizon=30, threads=2),
    HopperParameters(horizon=30),
]
IDS = {spec.kwargs["family"]: spec.id for spec in gym.registry.values() if spec.namespace == "mtrl"}
# Families that are registered and not named above join by themselves.
OTHERS: list[Any] = [
    get_family(name, horizon=30)
    for name in sorted(IDS.keys() - {family.name for family in [*LIGHT, *HEAVY]})
]
FAMILIES = [*LIGHT, *(pytest.param(f, marks=pytest.mark.slow) for f in [*HEAVY, *OTHERS])]
NEVER_TERMINATE = {"pendulum", "bandit", "tabular-mdp", "halfcheetah-velocity"}
STEPS = 1000
SLOTS = 4


def _installed(family: Any) -> Any:
    """Return `family`, or skip the test where a package that it needs is not installed."""
    try:
        family.check_installed()
    except MissingExtraError as error:
        pytest.skip(str(error))
    return family


def _sources(family: FacedFamily) -> list[Any]:
    """Two given tasks and two slots that draw theirs, one from each split."""
    tasks = family.sample(2, np.random.default_rng(0), "train")
    if isinstance(family, Navigation2D):
        tasks[0] = Task(family=family.name, params={"goal": (0.1, 0.0), "start": (0.0, 0.0)})
    return [*tasks, "train", "test"]


def _actions(family: FacedFamily, n: int = STEPS) -> np.ndarray:
    space = family.action_space
    space.seed(0)
    drawn = np.array([[space.sample() for _ in range(SLOTS)] for _ in range(n)])
    if isinstance(space, gym.spaces.Box):
        drawn *= 2  # beyond the bounds: the family clips
        drawn[:, 0] = drawn[:, 0].round()  # a walk on the grid that the first slot's goal lies on
    return drawn


def _sync(family: FacedFamily) -> SyncVectorEnv:
    makers = [lambda source=source: family.make(source) for source in _sources(family)]
    return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)


def _assert_same(one: Any, other: Any) -> None:
    """Compare nested dictionaries, sequences and arrays, types and dtypes included."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            _assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            _assert_same(left, right)
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        if one.dtype == object:
            _assert_same(one.tolist(), other.tolist())
        elif one.shape != other.shape or one.tobytes() != other.tobytes():
            # Equal bytes are equal numbers, and thousands of these comparisons would take minutes.
            assert_array_equal(one, other)
    else:
        assert one == other


@pytest.fixture(params=FAMILIES, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> FacedFamily:
    return _installed(request.param)


def test_vector_env_equals_sync_vector_env(family: FacedFamily) -> None:
    ours, theirs = family.make_vec(_sources(family)), _sync(family)
    _assert_same(ours.reset(seed=5), theirs.reset(seed=5))
    ended = np.zeros(2, int)
    for action in _actions(family):
        mine, peer = ours.step(action), theirs.step(action)
        _assert_same(mine, peer)
        ended += mine[2].sum(), mine[3].sum()
    # Terminations and truncations must have occurred for the above to mean much.
    assert family in OTHERS or (ended[0] > 5) != (family.name in NEVER_TERMINATE)
    assert ended[1] > 5
    _assert_same(ours.reset(), theirs.reset())
    _assert_same(ours.reset(seed=[9, 8, 7, None]), theirs.reset(seed=[9, 8, 7, None]))
    task = family.sample(1, np.random.default_rng(7), "test")[0]
    _assert_same(ours.reset(options={"task": task}), theirs.reset(options={"task": task}))
    for action in _actions(family, 60):
        _assert_same(ours.step(action), theirs.step(action))
    _assert_same(ours.np_random_seed, theirs.np_random_seed)


def test_vector_env_has_the_spaces_and_metadata_of_sync_vector_env(family: FacedFamily) -> None:
    ours, theirs = family.make_vec(_sources(family)), _sync(family)
    for name in ("num_envs", "metadata", "render_mode", "single_observation_space"):
        assert getattr(ours, name) == getattr(theirs, name)
    for name in ("single_action_space", "observation_space", "action_space"):
        assert getattr(ours, name) == getattr(theirs, name)


def test_sb3_env_equals_dummy_vec_env(family: FacedFamily) -> None:
    makers = [lambda source=source: family.make(source) for source in _sources(family)]
    ours, theirs = family.make_sb3(_sources(family)), DummyVecEnv(makers)
    assert ours.seed(5) == theirs.seed(5)
    _assert_same(ours.reset(), theirs.reset())
    _assert_same(ours.reset_infos, theirs.reset_infos)
    for action in _actions(family):
        _assert_same(ours.step(action), theirs.step(action))
        _assert_same(ours.reset_infos, theirs.reset_infos)
    task = family.sample(1, np.random.default_rng(7), "test")[0]
    for env in (ours, theirs):
        env.set_options({"task": task})
    _assert_same(ours.reset(), theirs.reset())
    _assert_same(ours.reset_infos, theirs.reset_infos)
    _assert_same(ours.reset(), theirs.reset())
    _assert_same(ours.get_attr("task"), theirs.get_attr("task"))


@pytest.mark.parametrize("family", BATCHED, ids=lambda family: family.name)
def test_batch_with_resets_equals_the_gymnasium_faces(family: BatchedFamily) -> None:
    """The loop of a vector face written by hand on `BatchedEnv`, against single environments."""
    tasks = family.sample(SLOTS, np.random.default_rng(0), "train")
    batch, singles = BatchedEnv(family, family.tensors(tasks)), [family.make(t) for t in tasks]
    obs = batch.reset(torch.arange(SLOTS) + 5)
    assert_array_equal(obs.numpy(), [env.reset(seed=5 + i)[0] for i, env in enumerate(singles)])
    for action in _actions(family):
        obs, reward, terminated, truncated = batch.step(torch.from_numpy(action))
        for i, env in enumerate(singles):
            single = env.step(action[i])
            assert_array_equal(single[0], obs[i].numpy())
            assert single[1:4] == (reward[i].item(), terminated[i].item(), truncated[i].item())
        done = terminated | truncated
        if done.any():
            obs = batch.reset_where(done)
            for i in torch.nonzero(done).flatten().tolist():
                assert_array_equal(singles[i].reset()[0], obs[i].numpy())


# Bounds that the checkers would rather have otherwise are Gymnasium's own.
def bounds_of_gymnasium(test: Any) -> Any:
    for message in ("A Box observation space", "For Box action spaces", "We recommend you to use"):
        test = pytest.mark.filterwarnings(f"ignore:.*{message}")(test)
    return test


@bounds_of_gymnasium
def test_gymnasium_and_sb3_checkers_pass(family: FacedFamily) -> None:
    # Other render modes need a specification; the registered environment's are checked below.
    check_env(family.make("train"), skip_render_check=True)
    if family.name != "noisy-walk":  # SB3 has no discrete space from -1
        check_env_for_sb3(family.make("train"))


@bounds_of_gymnasium
@pytest.mark.parametrize("name", IDS)
def test_checker_passes_for_every_registered_environment(name: str) -> None:
    _installed(get_family(name))
    env = gym.make(IDS[name])
    # Pictures of classic control need pygame; tests/test_classic_control.py has theirs.
    check_env(env.unwrapped, skip_render_check="human" in env.metadata["render_modes"])


def test_every_family_with_environments_is_registered_with_gymnasium() -> None:
    ours = {name for name in registry._BUILT_IN if isinstance(get_family(name), TaskFamily)}
    assert set(IDS) == ours
    assert len(IDS) == sum(name.startswith("mtrl/") for name in gym.registry)


@pytest.mark.parametrize("name", IDS)
def test_every_registered_environment_survives_its_specification(name: str) -> None:
    _installed(get_family(name))
    env = gym.make(IDS[name], task="test")
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.spec == env.spec
    _assert_same(env.reset(seed=3), again.reset(seed=3))
    envs = gym.make_vec(IDS[name], num_envs=3, task="test")
    obs, info = envs.reset(seed=3)
    first, first_info = env.reset(seed=3)
    assert_array_equal(obs[0], first)
    assert info["task_id"][0] == first_info["task_id"]


def test_task_id_is_in_every_info(family: FacedFamily) -> None:
    task = family.sample(1, np.random.default_rng(0), "train")[0]
    env = family.make(task)
    assert env.reset(seed=0)[1] == {"task_id": task.id}
    assert env.step(env.action_space.sample())[4] == {"task_id": task.id}
    assert env.task is task


def test_a_task_in_options_is_for_one_episode(family: FacedFamily) -> None:
    own, other = family.sample(2, np.random.default_rng(0), "train")
    env = family.make(own)
    ids = [env.reset(options=options)[1]["task_id"] for options in (None, {"task": other}, None)]
    assert ids == [own.id, other.id, own.id]


def test_drawn_tasks_come_from_the_split_and_from_the_seed(family: FacedFamily) -> None:
    env = family.make("test")
    env.reset(seed=3)
    drawn = []
    for _ in range(20):
        env.reset()
        drawn.append(env.task)
    assert {task.split for task in drawn} == {"test"}
    if not family.splits_overlap:
        assert {family.parameters.split_of(task.params) for task in drawn} == {"test"}
        assert len(set(drawn)) == 20
    env.reset(seed=3)
    assert [env.reset()[1]["task_id"] for _ in range(20)] == [task.id for task in drawn]


def test_what_happens_in_an_episode_does_not_depend_on_how_its_task_was_chosen() -> None:
    family = NoisyWalk()
    drawing = family.make("train")
    drawing.reset(seed=3)
    obs, _ = drawing.reset()
    told = family.make(family.sample(1, np.random.default_rng(9), "train")[0])
    told.reset(seed=3)
    told_obs, _ = told.reset(options={"task": drawing.task})
    assert_array_equal(obs, told_obs)
    for _ in range(3):
        assert_array_equal(drawing.step(1)[0], told.step(1)[0])


def test_an_unseeded_environment_is_reproduced_by_the_seed_it_reports() -> None:
    env, again = NoisyWalk().make("train"), NoisyWalk().make("train")
    obs, info = env.reset()
    obs_again, info_again = again.reset(seed=env.np_random_seed)
    assert_array_equal(obs, obs_again)
    assert info == info_again
    assert (NoisyWalk().make("train").reset()[0] != obs).any()


def test_seed_of_make_vec_is_that_of_the_first_reset() -> None:
    family = NoisyWalk()
    given, later = family.make_vec(["train"] * 3, seed=4), family.make_vec(["train"] * 3)
    _assert_same(given.reset(), later.reset(seed=4))
    _assert_same(given.reset(), later.reset())
    assert_array_equal(family.make_sb3(["train"] * 3, seed=4).reset(), later.reset(seed=4)[0])


def test_a_copied_or_pickled_environment_goes_on_alike(family: FacedFamily) -> None:
    envs = family.make_vec(_sources(family), seed=0)
    envs.reset()
    actions = _actions(family, 60)
    for action in actions[:20]:
        envs.step(action)
    others = [copy.deepcopy(envs), pickle.loads(pickle.dumps(envs))]
    for action in actions[20:]:
        expected = envs.step(action)
        for other in others:
            _assert_same(other.step(action), expected)


def test_returned_arrays_are_the_callers() -> None:
    family = Navigation2D()
    written, kept = (family.make_vec(["train"] * 2, seed=0) for _ in range(2))
    written.reset()[0][:] = 99.0
    kept.reset()
    action = np.ones((2, 2), np.float32)
    for _ in range(3):
        mine, expected = written.step(action), kept.step(action)
        _assert_same(mine, expected)
        for array in mine[:4]:
            array[:] = 1


@pytest.mark.parametrize(
    ("action", "problem"),
    [
        (np.zeros(3, np.float32), r"shape \(3,\), wanted \(2,\)"),
        (np.array([0.0, np.nan], np.float32), "is not in Box"),
        (np.array([np.inf, 0.0], np.float32), "is not in Box"),
    ],
)
def test_a_bad_action_is_refused_with_family_and_task(action: np.ndarray, problem: str) -> None:
    env = Navigation2D().make("train")
    env.reset(seed=0)
    with pytest.raises(UsageError, match=f"'navigation2d', task {env.task.id}.*{problem}"):
        env.step(action)


def test_a_bad_action_in_a_batch_is_refused_with_the_task_of_its_slot() -> None:
    family = Navigation2D()
    tasks = family.sample(3, np.random.default_rng(0), "train")
    actions = np.zeros((3, 2), np.float32)
    actions[1, 0] = np.nan
    vector, sb3 = family.make_vec(tasks), family.make_sb3(tasks)
    vector.reset()
    sb3.reset()
    for env in (vector, sb3):
        with pytest.raises(UsageError, match=f"environment 1 .*task {tasks[1].id}"):
            env.step(actions)
    walk = NoisyWalk().make("train")
    walk.reset()
    with pytest.raises(UsageError, match="action 2 is not in Discrete"):
        walk.step(2)


@dataclass(frozen=True, kw_only=True)
class Diverging(Navigation2D):
    """Navigation in which one goal lets the observation, and another the reward, diverge."""

    def step(self, params: Any, state: Any, action: Any, noise: Any) -> Any:
        state, reward, terminated = super().step(params, state, action, noise)
        far = params["goal"][:, :1] > 1.0
        return state / (~far), reward / (params["goal"][:, 1] < 1.0), terminated


@pytest.mark.parametrize(
    ("goal", "said"),
    [((2.0, 0.0), r"the observation is \[inf inf\]"), ((0.0, 2.0), "the reward is -inf")],
)
def test_diverging_dynamics_are_refused_with_family_task_and_parameters(
    goal: tuple[float, float], said: str
) -> None:
    family = Diverging()
    good, bad = (
        Task(family=family.name, params={"goal": where, "start": (0.5, 0.5)})
        for where in ((0.0, 0.0), goal)
    )
    message = f"environment 1 of family 'navigation2d', task {bad.id} .*'goal'.*{said}.*narrow"
    for env in (family.make_vec([good, bad, good]), family.make_sb3([good, bad, good])):
        env.reset()
        with pytest.raises(MtrlError, match=message):
            env.step(np.zeros((3, 2), np.float32))
    single = family.make(bad)
    single.reset()
    with pytest.raises(MtrlError, match=said):
        single.step(np.zeros(2, np.float32))


def test_an_observation_that_begins_with_nan_is_refused_and_a_huge_one_is_not() -> None:
    class Starting(Navigation2D):
        start: ClassVar[float] = float("nan")

        def reset(self, params: Any, noise: Any) -> Any:
            return params["start"] + self.start

    with pytest.raises(MtrlError, match=r"observation is \[nan nan\], which is not finite"):
        Starting().make_vec(["train"] * 2).reset()
    Starting.start = 1e30  # its square is beyond float32
    huge = Starting().make_vec(["train"] * 2)
    with pytest.warns(RuntimeWarning, match="overflow"):
        assert (huge.reset()[0] > 1e29).all()


def test_steps_out_of_order_are_refused() -> None:
    env = Navigation2D(horizon=1).make("train")
    with pytest.raises(UsageError, match=r"call reset\(\) before step"):
        env.step(np.zeros(2, np.float32))
    env.reset()
    assert env.step(np.zeros(2, np.float32))[3]
    with pytest.raises(UsageError, match=f"{env.task.id}: the episode is over"):
        env.step(np.zeros(2, np.float32))


def test_wrong_sources_options_and_seeds_are_refused() -> None:
    family, stranger = Navigation2D(), NoisyWalk().sample(1, np.random.default_rng(0), "train")[0]
    with pytest.raises(UsageError, match="'noisy-walk', not 'navigation2d'"):
        family.make(stranger)
    with pytest.raises(UsageError, match="split is 'validation'"):
        family.make("validation")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="tasks is empty"):
        family.make_vec([])
    env, envs = family.make("train"), family.make_vec(["train"] * 2)
    with pytest.raises(UsageError, match="'noisy-walk', not 'navigation2d'"):
        env.reset(options={"task": stranger})
    with pytest.raises(UsageError, match=r"options\['task'\] is 3"):
        env.reset(options={"task": 3})
    with pytest.raises(UsageError, match="seed has 3 entries"):
        envs.reset(seed=[1, 2, 3])
    with pytest.raises(UsageError, match="SAME_STEP"):
        envs.reset(options={"reset_mask": np.array([True, False])})


def test_task_source_can_be_changed_between_episodes() -> None:
    family = Navigation2D(horizon=2)
    first, second, third = family.sample(3, np.random.default_rng(0), "train")
    env = family.make_sb3([first, first], seed=0)
    env.reset()
    env.env_method("set_task_source", second, indices=[1])
    still = np.zeros((2, 2), np.float32)
    seen = [[info["task_id"] for info in env.step(still)[3]] for _ in range(4)]
    assert seen == [[first.id, first.id]] * 2 + [[first.id, second.id]] * 2
    assert env.get_attr("task_source", 1) == [second]
    single = family.make(first)
    single.reset()
    single.set_task_source(third)
    assert single.reset()[1]["task_id"] == third.id
    single.set_task_source("test")
    single.reset()
    assert single.task.split == "test"


def test_sb3_env_answers_for_its_attributes() -> None:
    env = Navigation2D().make_sb3(["train"] * 2, seed=0)
    assert env.env_is_wrapped(Monitor) == [False, False]
    assert env.get_attr("render_mode") == [None, None]
    assert not env.has_attr("no_such_attribute")
    with pytest.raises(UsageError, match="'task'.*set_task_source"):
        env.set_attr("task", None)


def test_sb3_learns_the_same_on_our_env_as_on_its_own() -> None:
    """One policy update: every number that the algorithm saw was the same."""
    family = Navigation2D(varying_start=True, terminate_at_goal=True)

    def learn(env: Any) -> np.ndarray:
        model = A2C("MlpPolicy", env, n_steps=150, seed=0, device="cpu")
        model.learn(300)
        return np.concatenate([p.detach().numpy().ravel() for p in model.policy.parameters()])

    ours = VecMonitor(family.make_sb3(["train"] * 2))
    theirs = make_vec_env(lambda: family.make("train"), n_envs=2)
    assert_array_equal(learn(ours), learn(theirs))


def test_a_task_survives_the_trip_through_a_vector_info() -> None:
    family = Navigation2D(horizon=1)
    envs = family.make_vec(["train"] * 3, seed=0)
    _, before = envs.reset()
    *_, info = envs.step(np.zeros((3, 2), np.float32))
    assert_array_equal(info["final_info"]["task_id"], before["task_id"])
    assert set(info["task_id"]).isdisjoint(before["task_id"])


def test_tasks_are_what_the_environment_plays() -> None:
    task = Task(family="navigation2d", params={"goal": (0.25, -0.5), "start": (0.125, 0.0)})
    env = Navigation2D().make(task)
    assert_array_equal(env.reset()[0], np.float32([0.125, 0.0]))
    # Standing still 0.5 below and 0.125 beside the goal.
    assert env.step(np.zeros(2, np.float32))[1] == -np.hypot(np.float32(0.125), np.float32(0.5))


PLAY = """
import hashlib, sys
import numpy as np
from mtrl.envs import get_family

for name in sys.argv[1:]:
    envs = get_family(name).make_vec(["train", "test", "train"], seed=3)
    obs, info = envs.reset()
    digest = hashlib.sha256(obs.tobytes() + " ".join(info["task_id"]).encode())
    envs.action_space.seed(0)
    for _ in range(40):
        obs, reward, *_ = envs.step(envs.action_space.sample())
        digest.update(obs.tobytes() + np.asarray(reward).tobytes())
    print(name, digest.hexdigest())
"""


def test_the_same_seed_gives_the_same_trajectory_in_every_process() -> None:
    names = [family.name for family in LIGHT if family.name in IDS] + ["ant-goal"]

    def play(hash_seed: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", PLAY, *names],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    one, other = play("1"), play("4242")
    assert one == other
    assert len(one.splitlines()) == len(names)
