"""Demonstrations: recorded alike everywhere, files to the last bit, every refusal by name."""

import json
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.testing import assert_array_equal
from safetensors import numpy as safetensors

from mtrl.agents.demonstrations import (
    Demonstrations,
    TaskDemonstrations,
    from_minari,
    load_minari,
    read_demonstrations,
    record,
    record_tasks,
    save_minari,
    to_minari,
    write_demonstrations,
)
from mtrl.agents.demonstrations.data import ARRAYS
from mtrl.agents.experts import CartPoleExpert, MountainCarExpert, PolicyExpert, scripted_expert
from mtrl.agents.q_learning.transitions import Transitions
from mtrl.envs import get_family
from mtrl.envs.task import Task
from mtrl.errors import MissingExtraError, MtrlError, UsageError
from mtrl.seeding import numpy_generator

SEEN = gym.spaces.Box(-10.0, 10.0, (2,), np.float32)
CHOICES = gym.spaces.Discrete(3)


def small() -> Demonstrations:
    """Return an episode of three steps that terminates and one of two that is cut off."""
    states = np.arange(14, dtype=np.float32).reshape(7, 2) / 2
    first, second = states[:4], states[4:]
    return Demonstrations(
        observation_space=SEEN,
        action_space=CHOICES,
        observations=np.concatenate([first[:-1], second[:-1]]),
        actions=np.array([0, 1, 2, 1, 0]),
        rewards=np.array([1.0, 0.5, -1.0, 0.1, 0.2]),
        next_observations=np.concatenate([first[1:], second[1:]]),
        terminated=np.array([False, False, True, False, False]),
        truncated=np.array([False, False, False, False, True]),
        ends=np.array([3, 5]),
    )


def family(name: str = "cartpole", preset: str = "gymnasium", **options: Any) -> Any:
    return get_family(name, preset, **options)


def short() -> Any:
    """Return cart-poles whose episodes are cut off after 8 to 12 steps."""
    return family(preset="wide", ranges={"step_limit": (8, 12), "length": (0.4, 0.6)})


def assert_same(found: Demonstrations, wanted: Demonstrations) -> None:
    for field in fields(Demonstrations):
        one, other = getattr(found, field.name), getattr(wanted, field.name)
        if isinstance(other, np.ndarray):
            assert one.dtype == other.dtype
            assert_array_equal(one, other)
        else:
            assert one == other


def test_episodes_are_rows_between_bounds() -> None:
    demos = small()
    assert (len(demos), demos.episodes) == (5, 2)
    assert_array_equal(demos.lengths, [3, 2])
    assert_array_equal(demos.returns, [0.5, 0.1 + 0.2])
    assert_array_equal(demos.episode(1).actions, [1, 0])
    assert [len(episode.rewards) for episode in demos] == [3, 2]
    assert_same(demos.select([0, 1]), demos)
    turned = demos.select([1, 0])
    assert_array_equal(turned.ends, [2, 5])
    assert_array_equal(turned.actions, [1, 0, 0, 1, 2])
    as_transitions: Transitions = demos
    assert_array_equal(
        as_transitions.terminated | as_transitions.truncated, demos.terminated | demos.truncated
    )


def with_value(name: str, row: Any, value: Any) -> dict[str, Any]:
    array = getattr(small(), name).copy()
    array[row] = value
    return {name: array}


REFUSED: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "none at all": (
        lambda: {name: getattr(small(), name)[:0] for name in (*ARRAYS, "ends")},
        "the demonstrations are empty",
    ),
    "a row too few": (
        lambda: {"actions": small().actions[:-1]},
        r"actions are int64 of shape \(4,\)",
    ),
    "another size": (
        lambda: {"observations": small().observations[:, :1]},
        r"observations are float32 of shape \(5, 1\); 5 steps of this environment need float32 of",
    ),
    "another type": (
        lambda: {"next_observations": small().next_observations.astype(np.float64)},
        "next_observations are float64",
    ),
    "a space without arrays": (
        lambda: {"observation_space": gym.spaces.Dict({"a": SEEN})},
        "the space of observations is Dict",
    ),
    "a reward NaN": (
        lambda: with_value("rewards", 1, np.nan),
        r"rewards\[1\] is nan, which is not fin",
    ),
    "an observation NaN": (
        lambda: with_value("observations", (2, 0), np.nan),
        r"observations\[2\] is .*nan.*, which is not finite",
    ),
    "an infinite observation": (
        lambda: with_value("next_observations", (4, 1), np.inf),
        r"next_observations\[4\] is .*, which is not finite",
    ),
    "an action of no choice": (
        lambda: with_value("actions", 3, 3),
        r"actions\[3\] is 3, which is not in the space Discrete\(3\)",
    ),
    "an observation out of bounds": (
        lambda: with_value("next_observations", (4, 0), 11),
        r"next_observations\[4\] is .*, which is not in the space Box",
    ),
    "bounds that end early": (
        lambda: {"ends": np.array([3, 4])},
        r"bounds do not add up: they end after \[3, 4\] of 5 steps",
    ),
    "bounds that go back": (lambda: {"ends": np.array([5, 3, 5])}, "bounds do not add up"),
    "bounds of no integers": (lambda: {"ends": np.array([3.0, 5.0])}, "ends are float64"),
    "an end that the flags lack": (
        lambda: {"ends": np.array([2, 3, 5])},
        "an episode goes on after step 1",
    ),
    "a flag inside an episode": (
        lambda: with_value("truncated", 3, True),
        "an episode ends in step 3",
    ),
    "an open end": (
        lambda: with_value("truncated", 4, False),
        "an episode goes on after step 4",
    ),
    "a missing step": (
        lambda: with_value("observations", 1, 0),
        r"next_observations\[0\] are not observations\[1\]",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_learned_from_is_refused_by_name(case: str) -> None:
    changes, message = REFUSED[case]
    with pytest.raises(UsageError, match=message):
        replace(small(), **changes())


def test_one_step_episodes_are_episodes() -> None:
    demos = record(
        PolicyExpert(lambda seen: np.ones(len(seen), np.int64)),
        family(ranges={"step_limit": 1}).make("train"),
        episodes=3,
        seed=0,
    )
    assert_array_equal(demos.lengths, [1, 1, 1])


def test_recording_is_playing_step_by_step() -> None:
    cartpole = short()
    task = cartpole.task(step_limit=9)
    demos = record(CartPoleExpert.of_paper("difference"), cartpole.make(task), episodes=2, seed=5)
    env, expert = cartpole.make(task), CartPoleExpert.of_paper("difference")
    obs, _ = env.reset(seed=5)
    for row in range(18):
        assert_array_equal(demos.observations[row], obs)
        action = int(expert.actions(obs[None])[0])
        assert demos.actions[row] == action
        obs, reward, terminated, truncated, _ = env.step(action)
        assert_array_equal(demos.next_observations[row], obs)
        assert (demos.rewards[row], demos.terminated[row]) == (reward, terminated)
        assert demos.truncated[row] == truncated == (row in (8, 17))
        if truncated:
            expert.restart(np.ones(1, np.bool_))
            obs, _ = env.reset()


def test_three_kinds_of_environments_give_the_same_episodes() -> None:
    cartpole = short()
    task = cartpole.task(step_limit=10)
    faces = [
        cartpole.make_vec([task] * 3),
        SyncVectorEnv([lambda: cartpole.make(task)] * 3, autoreset_mode=AutoresetMode.SAME_STEP),
        cartpole.make_sb3([task] * 3),
    ]
    recorded = [record(CartPoleExpert.of_paper(), env, episodes=7, seed=3) for env in faces]
    assert_same(recorded[1], recorded[0])
    assert_same(recorded[2], recorded[0])
    assert recorded[0].episodes == 7
    alone = record(CartPoleExpert.of_paper(), cartpole.make(task), episodes=3, seed=3)
    # The first of three sub-environments has the first share, of three episodes.
    assert_same(recorded[0].select([0, 1, 2]), alone)


def test_short_episodes_have_no_more_than_their_share() -> None:
    # One of two cart-poles falls at once: the first six to end would be almost all its own.
    cartpole = family(
        preset="wide", ranges={"step_limit": 40, "gravity": (2, 20), "length": (0.1, 2)}
    )
    weak, good = cartpole.task(gravity=20.0, length=0.1), cartpole.task()
    never = PolicyExpert(
        lambda seen: np.where(np.arange(len(seen)) == 0, 1, CartPoleExpert().actions(seen))
    )
    demos = record(never, cartpole.make_vec([weak, good]), episodes=6, seed=0)
    assert demos.episodes == 6
    assert (demos.lengths[:3] < 20).all()
    assert_array_equal(demos.lengths[3:], [40, 40, 40])


def test_what_cannot_be_recorded_is_refused() -> None:
    cartpole = family()
    expert = CartPoleExpert()
    with pytest.raises(UsageError, match="episodes is 0"):
        record(expert, cartpole.make("train"), episodes=0, seed=0)
    late = SyncVectorEnv([lambda: cartpole.make("train")])
    with pytest.raises(UsageError, match="AutoresetMode.SAME_STEP"):
        record(expert, late, episodes=1, seed=0)
    with pytest.raises(UsageError, match="env is a str"):
        record(expert, "CartPole-v1", episodes=1, seed=0)


def test_a_file_gives_back_every_bit(tmp_path: Path) -> None:
    pendulum = family("pendulum", horizon=5)
    continuous = record(
        scripted_expert(pendulum.task()), pendulum.make("train"), episodes=2, seed=0
    )
    for demos in (small(), continuous):
        write_demonstrations(demos, tmp_path / "demos.safetensors")
        found = read_demonstrations(
            tmp_path / "demos.safetensors",
            observation_space=demos.observation_space,
            action_space=demos.action_space,
        )
        assert_same(found, demos)


def test_the_same_demonstrations_are_the_same_file(tmp_path: Path) -> None:
    for name in ("one", "other"):
        write_demonstrations(small(), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "other"]


def test_demonstrations_of_other_spaces_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "demos"
    write_demonstrations(small(), path)
    with pytest.raises(
        UsageError, match=r"action_space is Discrete\(3\), and the environment's is Disc"
    ):
        read_demonstrations(path, action_space=gym.spaces.Discrete(2))
    wider = gym.spaces.Box(-10.0, 10.5, (2,), np.float32)
    with pytest.raises(UsageError, match="the demonstrations' observation_space is Box"):
        read_demonstrations(path, observation_space=wider)


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, -1])
def test_a_file_cut_off_anywhere_is_refused_by_name(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "demos"
    write_demonstrations(small(), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if kept == 0.5 else int(kept)])
    with pytest.raises(MtrlError, match=f"{path}: "):
        read_demonstrations(path)


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "demos"
    write_demonstrations(small(), path)
    data = path.read_bytes()
    for place in range(0, len(data), 7):
        changed = bytearray(data)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(MtrlError, match=str(path)):
            read_demonstrations(path)


def test_other_files_and_later_versions_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "demos"
    with pytest.raises(MtrlError, match="cannot read .*demos"):
        read_demonstrations(path)
    path.write_bytes(safetensors.save({"rewards": np.zeros(3)}))
    with pytest.raises(MtrlError, match="no demonstrations of this format"):
        read_demonstrations(path)
    for header in ({"format": "something"}, {"format": "mtrl-demonstrations", "version": 2}):
        text = json.dumps(header)
        path.write_bytes(
            safetensors.save({}, {"mtrl": json.dumps({"header": text, "sha256": _sha(text)})})
        )
        with pytest.raises(MtrlError, match="its format is 'something'|its version is 2"):
            read_demonstrations(path)


def _sha(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()


def test_bad_content_is_refused_also_where_the_digests_are_right(tmp_path: Path) -> None:
    path = tmp_path / "demos"
    demos = small()
    # Nobody may change them; a program that writes files of its own may hold anything.
    demos.rewards[0] = np.nan
    write_demonstrations(demos, path)
    with pytest.raises(UsageError, match=rf"{path}: rewards\[0\] is nan"):
        read_demonstrations(path)


def test_per_task_sets_come_back_in_order(tmp_path: Path) -> None:
    cartpole = short()
    tasks = cartpole.sample(3, numpy_generator(0, "tasks"), "train")
    sets = record_tasks(cartpole, tasks, scripted_expert, episodes=2, seed=0)
    sets.write(tmp_path)
    found = TaskDemonstrations.read(tmp_path, cartpole)
    assert list(found) == tasks
    assert (found.family, len(found)) == ("cartpole", 3)
    for task in tasks:
        assert_same(found[task], sets[task])
        assert (found[task].lengths == int(task.params["step_limit"])).all()  # type: ignore[arg-type]


def test_what_is_recorded_of_a_task_does_not_depend_on_the_others() -> None:
    cartpole = short()
    tasks = cartpole.sample(3, numpy_generator(0, "tasks"), "train")
    all_three = record_tasks(cartpole, tasks, scripted_expert, episodes=1, seed=0)
    alone = record_tasks(cartpole, tasks[2:], scripted_expert, episodes=1, seed=0)
    assert_same(alone[tasks[2]], all_three[tasks[2]])
    starts = [demos.observations[0] for demos in all_three.values()]
    assert np.abs(starts[0] - starts[1]).max() > 0


def test_sets_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="of no task"):
        TaskDemonstrations({})
    one, other = (Task(family=name, params={}) for name in ("a", "b"))
    with pytest.raises(UsageError, match=r"several families, \['a', 'b'\]"):
        TaskDemonstrations({one: small(), other: small()})
    second = Task(family="a", params={"x": 1})
    wider = replace(small(), action_space=gym.spaces.Discrete(4))
    with pytest.raises(UsageError, match=rf"task {second.id}: its action_space is Discrete\(4\)"):
        TaskDemonstrations({one: small(), second: wider})
    cartpole = short()
    with pytest.raises(UsageError, match="the same task twice"):
        record_tasks(
            cartpole, [cartpole.task(step_limit=9)] * 2, scripted_expert, episodes=1, seed=0
        )
    TaskDemonstrations({one: small()}).write(tmp_path)
    with pytest.raises(UsageError, match="are of family 'a', and this is 'cartpole'"):
        TaskDemonstrations.read(tmp_path, cartpole)


def test_a_damaged_set_is_refused_by_name(tmp_path: Path) -> None:
    one, second = Task(family="a", params={}), Task(family="a", params={"x": 1})
    TaskDemonstrations({one: small(), second: small().select([0])}).write(tmp_path)
    first, other = (tmp_path / f"{task.id}.safetensors" for task in (one, second))
    kept = other.read_bytes()
    other.write_bytes(first.read_bytes())
    with pytest.raises(
        MtrlError, match=f"{other}: has 2 episodes and 5 steps, and by manifest.json 1 "
    ):
        TaskDemonstrations.read(tmp_path)
    other.write_bytes(kept)
    first.unlink()
    with pytest.raises(MtrlError, match=f"cannot read {first}"):
        TaskDemonstrations.read(tmp_path)
    manifest = tmp_path / "manifest.json"
    for text in ("[]", '{"format": "other", "version": 1, "tasks": []}'):
        manifest.write_text(text)
        with pytest.raises(MtrlError, match=f"{manifest}: "):
            TaskDemonstrations.read(tmp_path)


class FakeDataset:
    """What `minari.MinariDataset` offers, of episodes as `minari.EpisodeData` has them."""

    def __init__(self, episodes: list[Any]) -> None:
        self.observation_space, self.action_space = SEEN, CHOICES
        self._episodes = episodes

    def iterate_episodes(self) -> list[Any]:
        return self._episodes


def as_dataset(demos: Demonstrations) -> FakeDataset:
    return FakeDataset([SimpleNamespace(**episode) for episode in to_minari(demos)])


def test_minaris_episodes_have_one_observation_more_and_come_back() -> None:
    demos = small()
    episodes = to_minari(demos)
    assert [len(episode["observations"]) for episode in episodes] == [4, 3]
    assert_array_equal(episodes[0]["observations"][-1], demos.next_observations[2])
    assert_array_equal(episodes[1]["truncations"], [False, True])
    assert_same(from_minari(as_dataset(demos)), demos)


def test_a_minari_episode_that_just_stops_was_cut_off() -> None:
    dataset = as_dataset(small())
    dataset.iterate_episodes()[1].truncations = np.zeros(2, np.bool_)
    assert_same(from_minari(dataset), small())


def test_minari_episodes_that_do_not_fit_are_refused() -> None:
    dataset = as_dataset(small())
    dataset.iterate_episodes()[1].actions = np.array([1])
    with pytest.raises(UsageError, match="episode 1 has 3 observations, 1 actions, 2 rewards"):
        from_minari(dataset)
    dataset = as_dataset(small())
    dataset.iterate_episodes()[0].observations = {"a": np.zeros(4)}
    with pytest.raises(UsageError, match="episode 0 has observations of the space"):
        from_minari(dataset)


def test_without_minari_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minari", None)
    for call in (lambda: load_minari("a/b-v0"), lambda: save_minari(small(), "a/b-v0")):
        with pytest.raises(MissingExtraError, match='pip install "minari'):
            call()


def test_datasets_of_minari_are_loaded_and_made_by_its_own_functions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: dict[str, Any] = {}

    def load_dataset(dataset_id: str) -> Any:
        if dataset_id not in made:
            raise FileNotFoundError(dataset_id)
        return made[dataset_id]

    def create(dataset_id: str, buffer: list[Any], **details: Any) -> Any:
        assert details == {"observation_space": SEEN, "action_space": CHOICES, "author": "me"}
        made[dataset_id] = FakeDataset(buffer)
        return made[dataset_id]

    minari, collector = ModuleType("minari"), ModuleType("minari.data_collector")
    minari.load_dataset = load_dataset  # type: ignore[attr-defined]
    minari.create_dataset_from_buffers = create  # type: ignore[attr-defined]
    collector.EpisodeBuffer = SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "minari", minari)
    monkeypatch.setitem(sys.modules, "minari.data_collector", collector)
    save_minari(small(), "a/b-v0", author="me")
    assert_same(load_minari("a/b-v0", action_space=CHOICES), small())
    with pytest.raises(UsageError, match="no dataset 'a/c-v0'"):
        load_minari("a/c-v0")
    with pytest.raises(UsageError, match="the environment's is Discrete.2."):
        load_minari("a/b-v0", action_space=gym.spaces.Discrete(2))


def test_mountain_car_demonstrations_end_at_the_goal() -> None:
    car = family("mountaincar")
    demos = record(MountainCarExpert(), car.make_vec([car.task()] * 4), episodes=4, seed=0)
    assert_array_equal(demos.terminated[demos.ends - 1], True)
    assert_array_equal(demos.returns, -demos.lengths)
