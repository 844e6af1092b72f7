"""Facts about `ContextFamily`: the wrapped environment with its attributes set, and nothing else."""

import json
import os
import pickle
import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from context_envs import Fragile
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.testing import assert_array_equal

from mtrl.envs.cartpole import CartPole
from mtrl.envs.contexts.family import ContextFamily
from mtrl.envs.contexts.model_fields import ModelField
from mtrl.envs.contexts.targets import Attribute, Keyword
from mtrl.envs.distributions import Choice, Normal, Range
from mtrl.envs.family import TaskFamily
from mtrl.envs.task import Task, assert_disjoint
from mtrl.errors import MissingExtraError, MtrlError, UsageError

DERIVED = {"total_mass": "masspole + masscart", "polemass_length": "masspole * length"}


def pole(**arguments: Any) -> ContextFamily:
    """CartPole, whose pole varies unless the arguments say otherwise."""
    ranges = {"length": (0.25, 1.0), "masspole": (0.05, 0.3)}
    given = {"ranges": ranges, "derived": DERIVED} | arguments
    return ContextFamily(name="pole", env="CartPole-v1", **given)


def cheetah(**arguments: Any) -> ContextFamily:
    ranges = {"torso": (0.5, 2.0), "gravity": (0.5, 1.5)}
    targets = {
        "torso": ModelField("body_mass", "torso"),
        "gravity": ModelField("opt.gravity", index=2),
    }
    given = {"ranges": ranges, "targets": targets} | arguments
    return ContextFamily(name="cheetah", env="HalfCheetah-v5", **given)


def fragile(**arguments: Any) -> ContextFamily:
    return ContextFamily(name="fragile", env=Fragile, horizon=5, **arguments)


def trajectory(env: gym.Env[Any, Any], seed: int, actions: Any, **options: Any) -> list[Any]:
    """Return every observation, reward and flag of an episode."""
    seen: list[Any] = [env.reset(seed=seed, **options)[0]]
    for action in actions:
        seen.append(env.step(action)[:4])
        if seen[-1][2] or seen[-1][3]:
            break
    return seen


def assert_same(one: list[Any], other: list[Any]) -> None:
    assert len(one) == len(other)
    assert_array_equal(one[0], other[0])
    for mine, theirs in zip(one[1:], other[1:], strict=True):
        assert_array_equal(mine[0], theirs[0])
        assert mine[1:] == theirs[1:]


# One environment of Gymnasium's


def test_an_episode_is_gymnasiums_with_the_attributes_set() -> None:
    family = pole()
    task = family.task(length=0.8, masspole=0.25)
    theirs = gym.make("CartPole-v1")
    inner = theirs.unwrapped
    inner.length, inner.masspole = 0.8, 0.25
    inner.total_mass, inner.polemass_length = 0.25 + 1.0, 0.25 * 0.8
    actions = np.random.default_rng(0).integers(2, size=500)
    lengths = []
    for seed in range(10):
        ours = trajectory(family.make(task), seed, actions)
        assert_same(ours, trajectory(theirs, seed, actions))
        lengths.append(len(ours))
    assert min(lengths) < max(lengths) < 500  # they ended by themselves, each in its own way


def test_without_derived_attributes_a_new_mass_is_half_a_mass() -> None:
    """The trap that the documentation warns of: it must be there for the warning to be true."""
    task = pole().task(length=0.5, masspole=0.3)
    actions = [0, 1] * 10
    half = trajectory(pole(derived={}).make(task), 0, actions)
    whole = trajectory(pole().make(task), 0, actions)
    assert_array_equal(half[0], whole[0])
    assert (half[5][0] != whole[5][0]).any()


def test_an_episode_is_that_of_our_batched_cartpole() -> None:
    family = pole()
    batched = CartPole(ranges={"length": (0.25, 1.0), "masspole": (0.05, 0.3)})
    tasks = family.sample(4, np.random.default_rng(0), "train")
    theirs = batched.batch([batched.task(**task.params) for task in tasks])
    theirs.reset(torch.arange(4))
    envs = [family.make(task) for task in tasks]
    for i, env in enumerate(envs):
        env.reset(seed=i)
        theirs.state[i] = torch.as_tensor(env.wrapped.unwrapped.state)
    running = set(range(4))
    for action in np.random.default_rng(1).integers(2, size=(200, 4)):
        obs, reward, terminated, truncated = theirs.step(torch.from_numpy(action))
        for i in sorted(running):
            mine = envs[i].step(int(action[i]))
            assert_array_equal(mine[0], obs[i].numpy())
            assert mine[1:4] == (reward[i].item(), terminated[i].item(), truncated[i].item())
            running -= {i} if mine[2] else set()
    assert not running


def test_model_fields_are_scaled_from_the_models_own() -> None:
    family = cheetah()
    theirs = gym.make("HalfCheetah-v5")
    model = theirs.unwrapped.model
    torso, gravity = model.body("torso").mass[0], model.opt.gravity[2]
    env = family.make(family.task(torso=1.5, gravity=0.5))
    for scale in (1.5, 2.0, 0.5):  # not one on top of the other
        env.reset(seed=0, options={"task": family.task(torso=scale, gravity=0.5)})
        own = env.wrapped.unwrapped.model
        assert own.body("torso").mass[0] == scale * torso
        assert own.opt.gravity[2] == 0.5 * gravity
        assert own.body("bfoot").mass[0] == model.body("bfoot").mass[0]
        # What MuJoCo computes from masses has followed.
        rest = model.body_subtreemass[0] - torso
        np.testing.assert_allclose(own.body_subtreemass[0], rest + scale * torso, rtol=1e-12)


def test_a_model_scaled_by_one_is_gymnasiums_to_the_last_bit() -> None:
    family = cheetah()
    other, plain = family.task(torso=2.0, gravity=1.5), family.task(torso=1.0, gravity=1.0)
    env, theirs = family.make(other), gym.make("HalfCheetah-v5")
    actions = np.random.default_rng(0).uniform(-1, 1, (60, 6)).astype(np.float32)
    heavy = trajectory(env, 3, actions)
    expected = trajectory(theirs, 3, actions)
    assert (heavy[9][0] != expected[9][0]).any()
    assert_same(trajectory(env, 3, actions, options={"task": plain}), expected)


def test_model_fields_can_be_set_whole_and_by_index_and_where_they_are_scalars() -> None:
    family = ContextFamily(
        name="hopper",
        env="Hopper-v5",
        ranges={"slip": (0.1, 2.0), "wind": Range(-1.0, 1.0, 3), "air": (0.0, 2.0), "all": (1, 2)},
        targets={
            "slip": ModelField("geom_friction", "floor", 0, "set"),
            "wind": ModelField("opt.wind", mode="set"),
            "air": ModelField("opt.density", mode="set"),
            "all": ModelField("dof_damping"),
        },
    )
    before = gym.make("Hopper-v5").unwrapped.model
    env = family.make(family.task(slip=0.7, wind=(0.1, 0.2, 0.3), air=1.25, all=2.0))
    env.reset(seed=0)
    model = env.wrapped.unwrapped.model
    assert_array_equal(model.geom("floor").friction[1:], before.geom("floor").friction[1:])
    assert model.geom("floor").friction[0] == 0.7
    assert_array_equal(model.opt.wind, [0.1, 0.2, 0.3])
    assert model.opt.density == 1.25
    assert_array_equal(model.dof_damping, 2 * before.dof_damping)


def test_attributes_keep_their_kind_and_may_be_nested() -> None:
    family = fragile(
        ranges={
            "many": Choice([2.0, 7.0]),
            "on": Choice([0.0, 1.0]),
            "pair": Range(-1.0, 1.0, 2),
            "unwrapped.how": Normal(0.0, 1e-3),
        },
        targets={"many": Attribute("unwrapped.counts")},
    )
    env = family.make(
        Task(
            family="fragile",
            params={"many": 7, "on": 1, "pair": (0.5, -0.5)} | {"unwrapped.how": 0.125},
        )
    )
    env.reset(seed=0)
    inner = env.wrapped.unwrapped
    assert (repr(inner.counts), repr(inner.on), inner.how) == ("7", "True", 0.125)
    assert_array_equal(inner.pair, [0.5, -0.5])
    assert inner.pair.dtype == np.float64


def test_constructor_keywords_make_the_environment_anew_only_when_they_change() -> None:
    family = ContextFamily(
        name="reward",
        env="CartPole-v1",
        ranges={"length": (0.25, 1.0)},
        targets={"rule": Keyword("sutton_barto_reward", (False, True))},
    )
    env = family.make("train")
    wrapped = []
    for rule, length in ((0, 0.5), (0, 0.75), (1, 0.75)):
        env.reset(seed=0, options={"task": family.task(rule=rule, length=length)})
        wrapped.append(env.wrapped)
        assert env.step(0)[1] == (0.0 if rule else 1.0)
        assert env.wrapped.unwrapped.length == length
    assert wrapped[0] is wrapped[1] is not wrapped[2]


def test_a_callable_takes_fixed_keywords_and_a_horizon() -> None:
    def make(**keywords: Any) -> gym.Env[Any, Any]:
        assert keywords == {"sutton_barto_reward": True}
        return gym.make("CartPole-v1", max_episode_steps=-1, **keywords)

    ranges = {"length": (0.25, 1.0)}
    family = ContextFamily(
        name="f", env=make, ranges=ranges, keywords={"sutton_barto_reward": True}, horizon=4
    )
    seen = trajectory(family.make("train"), 0, [0, 1] * 10)
    assert [step[1:] for step in seen[1:]] == [(0.0, False, False)] * 3 + [(0.0, False, True)]
    with pytest.raises(UsageError, match="'f'.*no time limit of its own; set horizon"):
        ContextFamily(name="f", env=make, ranges=ranges, keywords={"sutton_barto_reward": True})
    assert pole().horizon == 500 and pole(horizon=9).horizon == 9


# The contract of a family


@pytest.mark.filterwarnings("ignore:.*A Box observation space")
@pytest.mark.parametrize("family", [pole(), cheetah()], ids=lambda family: family.name)
def test_the_checker_passes_and_it_is_a_task_family(family: ContextFamily) -> None:
    assert isinstance(family, TaskFamily)
    check_env(family.make("train"), skip_render_check=True)


def test_the_vector_face_is_one_environment_per_slot() -> None:
    family = pole(horizon=12)
    task = family.sample(1, np.random.default_rng(0), "train")[0]
    sources: list[Any] = [task, "train", "test"]
    ours = family.make_vec(sources, seed=5)
    makers = [lambda source=source: family.make(source) for source in sources]
    theirs = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
    assert ours.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    mine, peer = ours.reset(), theirs.reset(seed=5)
    ended = 0
    for action in np.random.default_rng(2).integers(2, size=(60, 3)):
        assert_array_equal(mine[0], peer[0])
        assert_array_equal(mine[-1]["task_id"], peer[-1]["task_id"])
        mine, peer = ours.step(action), theirs.step(action)
        assert_array_equal(mine[1:4], peer[1:4])
        ended += int((mine[2] | mine[3]).sum())
        if "final_info" in mine[-1]:
            assert_array_equal(mine[-1]["final_info"]["task_id"], peer[-1]["final_info"]["task_id"])
    assert ended > 10
    with pytest.raises(UsageError, match="seed has 2 entries; give one, or 3"):
        ours.reset(seed=[1, 2])
    with pytest.raises(UsageError, match="tasks is empty"):
        family.make_vec([])


def test_the_sb3_face_is_one_environment_per_slot() -> None:
    family = pole(horizon=12)
    ours = family.make_sb3(["train", "test"], seed=5)
    singles = [family.make("train"), family.make("test")]
    assert_array_equal(ours.reset(), [env.reset(seed=5 + i)[0] for i, env in enumerate(singles)])
    ends = {True: 0, False: 0}
    for action in np.random.default_rng(2).integers(2, size=(60, 2)):
        obs, reward, done, infos = ours.step(action)
        for i, env in enumerate(singles):
            last, single_reward, terminated, truncated, info = env.step(action[i])
            assert (reward[i], done[i]) == (single_reward, terminated or truncated)
            assert infos[i]["task_id"] == info["task_id"]
            if done[i]:
                assert_array_equal(infos[i]["terminal_observation"], last)
                assert infos[i]["TimeLimit.truncated"] is (truncated and not terminated)
                ends[truncated] += 1
                last, _ = env.reset()
            assert_array_equal(obs[i], last)
    assert ends[True] and ends[False]


def test_task_and_noise_are_two_streams() -> None:
    """The second episode of a seed is the same whatever the first was, and however long."""
    family = pole()
    one, other = family.sample(2, np.random.default_rng(0), "train")
    drawing, told = family.make("train"), family.make(one)
    drawing.reset(seed=3)
    told.reset(seed=3)
    for _ in range(5):
        told.step(0)
    first, info = drawing.reset()
    second, told_info = told.reset(options={"task": other})
    assert_array_equal(first, second)
    assert told_info == {"task_id": other.id} != info
    assert drawing.task.split == "train"
    assert told.reset()[1]["task_id"] == one.id
    told.set_task_source("test")
    told.reset()
    assert told.task.split == "test"


def test_an_unseeded_environment_is_reproduced_by_the_seed_it_reports() -> None:
    env, again = pole().make("train"), pole().make("train")
    obs, info = env.reset()
    obs_again, info_again = again.reset(seed=env.np_random_seed)
    assert_array_equal(obs, obs_again)
    assert info == info_again


def test_splits_follow_the_rule_and_share_no_task() -> None:
    rng = np.random.default_rng(0)
    held = pole(split_rule="extrapolation", held_out={"length": [(0.8, 1.0)]})
    for family in (pole(), held):
        train, test = family.sample(200, rng, "train"), family.sample(200, rng, "test")
        assert_disjoint(train, test)
        assert not family.splits_overlap
    assert max(task.params["length"] for task in held.sample(200, rng, "train")) < 0.8
    assert min(task.params["length"] for task in held.sample(200, rng, "test")) >= 0.8
    assert pole(split_rule="shared").splits_overlap
    task = held.sample(1, rng, "test")[0]
    assert_array_equal(
        held.context(task), np.float32([task.params["length"], task.params["masspole"]])
    )


SCRIPT = """
import json, sys
import numpy as np
from mtrl.envs.contexts.family import ContextFamily
family = ContextFamily(name="pole", env="CartPole-v1", ranges={"masspole": (0.05, 0.3), "length": (0.25, 1.0)},
    derived={"total_mass": "masspole + masscart", "polemass_length": "masspole * length"})
env = family.make("train")
seen = [[env.reset(seed=11)[0].tolist(), env.task.id]]
for action in [0, 1, 1, 0, 0]:
    seen.append([env.step(action)[0].tolist(), env.reset()[1]["task_id"]])
sys.stdout.write(json.dumps(seen))
"""


def test_another_process_with_another_hash_seed_sees_the_same() -> None:
    # Ours is drawn at random, unless it is given to all of the tests.
    other = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=os.environ | {"PYTHONHASHSEED": other, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    env = pole().make("train")
    seen = [[env.reset(seed=11)[0].tolist(), env.task.id]]
    for action in [0, 1, 1, 0, 0]:
        seen.append([env.step(action)[0].tolist(), env.reset()[1]["task_id"]])
    assert json.loads(run.stdout) == seen


def test_a_family_goes_through_a_pipe_without_its_idle_environments() -> None:
    family = pole()
    task = family.sample(1, np.random.default_rng(0), "train")[0]
    family.batch([task]).close()
    assert len(family._idle) == 1
    again = pickle.loads(pickle.dumps(family))
    assert again == family and again._idle == []
    assert_same(trajectory(family.make(task), 1, [0] * 9), trajectory(again.make(task), 1, [0] * 9))


# What is refused, and how


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"env": "CartPol-v1"}, "'f'.*Did you mean: `CartPole`"),
        ({"ranges": {}}, "'f': ranges is empty"),
        ({"ranges": {"lenght": (0.1, 1.0)}}, "'f': attribute 'lenght'.*did you mean 'length'"),
        ({"ranges": {"length": (1.0, 0.1)}}, "'f': range of 'length' is .* low must not exceed"),
        ({"ranges": {"length": (float("nan"), 0.1)}}, "'f': range of 'length' is .*nan"),
        ({"ranges": {"length": 0.5}}, "all parameters are constants"),
        ({"ranges": {"spec": (0.0, 1.0)}}, "'f': attribute 'spec' cannot be set.*not a number"),
        ({"targets": {"lenth": Attribute("length")}}, "target 'lenth' has no range.*'length'"),
        ({"targets": {"length": Keyword("sutton_barto")}}, "keyword 'sutton_barto'; did you mean"),
        ({"keywords": {"lenght": 1}}, "CartPole-v1 takes no keyword 'lenght'"),
        ({"targets": {"length": ModelField("body_mass")}}, "CartPoleEnv has no MuJoCo model"),
        ({"derived": {"total_mass": "masspol + 1"}}, "'masspol'.*did you mean 'masspole'"),
        ({"derived": {"total_mas": "masspole"}}, "'total_mas'.*did you mean 'total_mass'"),
        ({"derived": {"total_mass": "f(1)"}}, "'f': derived: .*is not arithmetic"),
        ({"derived": {"total_mass": "1 / 0"}}, "'1 / 0' cannot be computed"),
        ({"derived": {"total_mass": "spec + 1"}}, "attribute 'spec' is .*not a number"),
        ({"horizon": -1}, "'f': horizon is -1"),
        ({"split_rule": "extrapolation"}, "'f': split_rule is 'extrapolation' and held_out is"),
    ],
)
def test_a_family_that_cannot_be_is_refused_when_it_is_made(
    arguments: dict[str, Any], problem: str
) -> None:
    given = {"env": "CartPole-v1", "ranges": {"length": (0.25, 1.0)}} | arguments
    with pytest.raises(UsageError, match=problem):
        ContextFamily(name="f", **given)


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        (
            ModelField("body_mas", "torso"),
            "'body_mas' is missing in MjModel; did you mean 'body_mass'",
        ),
        (
            ModelField("body_mass", "tors"),
            "'body_mass': Invalid name 'tors'. Valid names: .*'torso'",
        ),
        (ModelField("opt.grav"), "'grav' is missing in MjOption; did you mean 'gravity'"),
        (ModelField("opt.gravity", index=3), "has 3 numbers; index is 3"),
        (ModelField("nbody", "torso"), "not of named things; leave out `of`"),
        (ModelField("names"), "which is no number"),
        (Keyword("ctrl_cost_wieght"), "'ctrl_cost_wieght'; did you mean 'ctrl_cost_weight'"),
    ],
)
def test_a_wrong_model_field_is_refused(target: Any, problem: str) -> None:
    with pytest.raises(UsageError, match=f"'cheetah'.*{problem}"):
        cheetah(ranges={"x": (0.5, 2.0)}, targets={"x": target})


def test_attributes_that_cannot_be_set_are_refused() -> None:
    with pytest.raises(UsageError, match="'fragile': attribute 'fixed' cannot be set"):
        fragile(ranges={"fixed": (0.0, 1.0)})
    with pytest.raises(UsageError, match=r"'pair' cannot be set.*its shape is \(2,\)"):
        fragile(ranges={"pair": Range(0.0, 1.0, 3)})


def test_a_missing_package_is_named() -> None:
    with pytest.raises(MissingExtraError, match="'lander' needs a package.*Box2D is not installed"):
        ContextFamily(name="lander", env="LunarLander-v3", ranges={"gravity": (-12.0, -5.0)})


def test_an_environment_that_cannot_be_made_is_named_with_its_cause() -> None:
    with pytest.raises(MtrlError, match="'fragile'.*cannot be made.*grumpy.*not today"):
        fragile(ranges={"how": (0.0, 1.0)}, keywords={"mood": "grumpy"})


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        (1, r"failed in step: RuntimeError\('boom'\)"),
        (2, r"failed in step: SystemExit\(3\)"),
        (3, "failed in step: the observation is .*nan.*, which is not finite"),
        (4, "failed in step: the reward is inf, which is not finite"),
        (5, r"failed in reset: OSError\('no disk'\)"),
    ],
)
def test_a_failing_environment_is_named_with_task_and_cause(how: int, problem: str) -> None:
    family = fragile(ranges={"how": Choice([float(i) for i in range(6)])}, split_rule="shared")
    task, calm = family.task(how=how), family.task(how=0)
    named = rf"'fragile', task {task.id} {{'how': {how}\.0}}, {problem}"
    env = family.make(task)
    with pytest.raises(MtrlError, match=named):
        env.reset(seed=0)
        env.step(0)
    with pytest.raises(UsageError, match="the episode is over"):
        env.step(0)
    env.reset(seed=0, options={"task": calm})
    assert env.step(0)[1] == 0.0
    batch = family.batch([calm, task])
    with pytest.raises(MtrlError, match=named):
        batch.reset(torch.arange(2))
        batch.step(torch.zeros(2, dtype=torch.int64))


def test_a_formula_that_fails_for_one_task_is_named_with_it() -> None:
    family = fragile(ranges={"how": (-1.0, 1.0)}, derived={"counts": "1 / how"})
    task = family.task(how=0.0)
    with pytest.raises(MtrlError, match=f"{task.id}.*'1 / how' cannot be computed: .*division"):
        family.make(task).reset()


def test_tasks_and_actions_that_are_not_the_familys_are_refused() -> None:
    family = pole()
    with pytest.raises(UsageError, match=r"'pole': length is 3\.0, outside"):
        family.task(length=3.0, masspole=0.1)
    with pytest.raises(UsageError, match="sizes"):
        family.task(length=0.5)
    stranger = Task(family="else", params={"length": 0.5, "masspole": 0.1})
    with pytest.raises(UsageError, match="'else', not 'pole'"):
        family.make(stranger)
    env = family.make("train")
    with pytest.raises(UsageError, match=r"call reset\(\) before step"):
        env.step(0)
    with pytest.raises(UsageError, match="has no task before"):
        _ = env.task
    for options, problem in (({"task": stranger}, "not 'pole'"), ({"task": 3}, "is 3; it must")):
        with pytest.raises(UsageError, match=problem):
            env.reset(options=options)
    env.reset(seed=0)
    with pytest.raises(UsageError, match=f"'pole', task {env.task.id}: action 2 is not in Discr"):
        env.step(2)
    with pytest.raises(UsageError, match="split is 'validation'"):
        family.make("validation")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="render_mode is 'ansi'; family 'pole' has"):
        family.make("train", render_mode="ansi")
    cheetah_env = cheetah().make("train")
    cheetah_env.reset(seed=0)
    with pytest.raises(UsageError, match="action .*nan.* is not in Box"):
        cheetah_env.step(np.full(6, np.nan, np.float32))


def test_other_options_are_the_wrapped_environments() -> None:
    family = fragile(ranges={"how": (0.0, 0.5)})
    env = family.make("train")
    assert env.reset(options={"low": 1})[1]["options"] == {"low": 1}
    assert env.reset()[1]["options"] is None
