"""Facts about tasks and their splits."""

import dataclasses
import hashlib
import os
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy import stats

from mtrl.envs.navigation2d import Navigation2D
from mtrl.envs.parameters import ParameterSpace, Range, TaskStream
from mtrl.envs.registry import family_spec, get_family
from mtrl.envs.task import (
    SPLITS,
    Params,
    Split,
    Task,
    assert_disjoint,
    params_of,
    split_digest,
)
from mtrl.errors import UsageError

SPACE = ParameterSpace("f", {"goal": Range(-0.5, 0.5, size=2), "speed": Range(1.0, 3.0)})


def _task(**changes: object) -> Task:
    return dataclasses.replace(
        Task(family="f", params={"speed": 0.1, "goal": (0.25, -1.0)}, split="train"), **changes
    )


def test_id_is_a_hash_of_canonical_json_in_every_process() -> None:
    canonical = b'["f",{"goal":[0.25,-1.0],"speed":0.1}]'
    constant = hashlib.sha256(canonical).hexdigest()[:16]
    assert _task().id == constant
    program = (
        "from mtrl.envs.task import Task;"
        "print(Task(family='f', params={'goal': (0.25, -1), 'speed': 0.1}).id)"
    )
    for hash_seed in ("0", "1", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", program]
        printed = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        )
        assert printed.stdout.strip() == constant


def test_id_depends_on_family_and_parameters_and_on_nothing_else() -> None:
    task = _task()
    assert _task(split="test").id == task.id
    assert _task(params={"goal": np.array([0.25, -1.0]), "speed": np.float64(0.1)}).id == task.id
    assert _task(params={"goal": [0.25, -1], "speed": 0.1}).id == task.id
    others = [_task(family="g"), _task(params={"goal": (0.25, -1.0), "speed": 0.1 + 1e-16 * 2})]
    others += [_task(params={"goal": (-1.0, 0.25), "speed": 0.1}), _task(params={"goal": (0.25,)})]
    assert len({task.id, *(other.id for other in others)}) == 5


def test_negative_zero_is_zero() -> None:
    assert Task(family="f", params={"a": -0.0}).id == Task(family="f", params={"a": 0}).id


def test_equal_tasks_hash_equal_and_split_tells_tasks_apart() -> None:
    same = _task(params={"goal": (0.25, -1.0), "speed": 0.1})
    assert same == _task()
    assert hash(same) == hash(_task())
    assert _task(split="test") != _task()


def test_a_task_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        _task().family = "g"  # type: ignore[misc]
    with pytest.raises(TypeError, match="does not support item assignment"):
        _task().params["speed"] = 1.0  # type: ignore[index]


@pytest.mark.parametrize("value", [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -0.1, 2.0**-30])
def test_json_and_pickle_round_trips_are_exact(value: float) -> None:
    task = _task(params={"a": value, "b": (value, 1.0)}, split="test")
    for again in (Task.from_json(task.to_json()), pickle.loads(pickle.dumps(task))):
        assert again == task
        assert again.id == task.id
        assert again.params["a"] == value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), (0.0, -float("inf")), "x", None])
def test_a_parameter_that_is_no_finite_number_is_refused_by_name(value: object) -> None:
    with pytest.raises(UsageError, match="'speed'"):
        Task(family="f", params={"speed": value})


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"family": "f", "params": 3, "split": "train"}'])
def test_text_that_is_no_task_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="task"):
        Task.from_json(text)


def test_unknown_split_is_refused() -> None:
    with pytest.raises(UsageError, match="'validation'.*'train', 'test'"):
        _task(split="validation")
    with pytest.raises(UsageError, match="'validation'"):
        SPACE.sample(1, np.random.default_rng(0), "validation")  # type: ignore[arg-type]


def test_params_of_stacks_by_name() -> None:
    stacked = params_of([_task(), _task(params={"goal": (1.0, 2.0), "speed": 3.0})])
    assert_array_equal(stacked["goal"], [[0.25, -1.0], [1.0, 2.0]])
    assert_array_equal(stacked["speed"], [0.1, 3.0])


@pytest.mark.parametrize(
    "other",
    [
        _task(family="g"),
        _task(params={"goal": (0.0, 0.0)}),
        _task(params={"goal": (0.0,), "speed": 1.0}),
    ],
)
def test_params_of_refuses_tasks_of_different_kinds(other: Task) -> None:
    with pytest.raises(UsageError, match="stacked|unequal"):
        params_of([_task(), other])


def test_digest_is_that_of_the_set() -> None:
    rng = np.random.default_rng(0)
    tasks = SPACE.sample(5, rng, "train")
    assert split_digest(tasks) == split_digest([*reversed(tasks), tasks[0]])
    assert split_digest(tasks) != split_digest(tasks[:4])


def test_assert_disjoint_names_the_shared_task() -> None:
    train = SPACE.sample(5, np.random.default_rng(0), "train")
    test = SPACE.sample(5, np.random.default_rng(0), "test")
    assert_disjoint(train, test)
    stolen = dataclasses.replace(test[3], split="train")
    with pytest.raises(UsageError, match=f"a test task in training: {stolen.id}"):
        assert_disjoint([*train, stolen], test)


def test_sampled_splits_are_disjoint_on_the_values_themselves() -> None:
    rows = {
        split: np.column_stack(list(SPACE.sample_params(10_000, rng, split).values()))
        for split, rng in (("train", np.random.default_rng(0)), ("test", np.random.default_rng(0)))
    }
    assert rows["train"].shape == rows["test"].shape == (10_000, 3)
    assert {row.tobytes() for row in rows["train"]}.isdisjoint(
        row.tobytes() for row in rows["test"]
    )


def test_splits_are_disjoint_even_where_few_values_exist() -> None:
    # Eleven float32 values lie in this range: "continuous, hence disjoint" would fail here.
    low = 1.0
    space = ParameterSpace("few", {"a": Range(low, low + 10 * 2.0**-23)})
    values = {
        split: set(space.sample_params(2_000, np.random.default_rng(0), split)["a"].tolist())
        for split in ("train", "test")
    }
    assert values["train"].isdisjoint(values["test"])
    assert len(values["train"] | values["test"]) == 11


@pytest.mark.parametrize("split", ["train", "test"])
def test_both_splits_follow_the_uniform_distribution(split: str) -> None:
    params = SPACE.sample_params(10_000, np.random.default_rng(1), split)
    assert params["goal"].shape == (10_000, 2)
    for column, low, width in (
        (params["goal"][:, 0], -0.5, 1),
        (params["goal"][:, 1], -0.5, 1),
        (params["speed"], 1, 2),
    ):
        assert stats.kstest(column, "uniform", (low, width)).pvalue > 0.01
    # Independent coordinates: a shared hash bit must not tie them together.
    assert abs(np.corrcoef(params["goal"].T)[0, 1]) < 0.03


def test_the_fast_path_draws_the_tasks_that_sample_draws() -> None:
    tasks = SPACE.sample(100, np.random.default_rng(2), "test")
    params = SPACE.sample_params(100, np.random.default_rng(2), "test")
    for name, stacked in params_of(tasks).items():
        assert params[name].dtype == np.float32
        assert_array_equal(params[name].astype(np.float64), stacked)
    assert {SPACE.split_of(task.params) for task in tasks} == {"test"}
    assert {task.split for task in tasks} == {"test"}


def test_split_of_does_not_hang_on_the_sign_of_zero_or_on_rounding() -> None:
    for value in (0.0, 1 / 3):
        params = {"goal": (value, 0.0), "speed": 1.0}
        expected = SPACE.split_of(params)
        assert SPACE.split_of({"goal": (np.float32(value), -0.0), "speed": 1.0}) == expected


def test_one_draw_of_many_seeds_covers_both_halves_evenly() -> None:
    drawn = [
        SPACE.sample_params(1, np.random.default_rng(s), "train")["speed"][0] for s in range(400)
    ]
    assert stats.kstest(drawn, "uniform", (1, 2)).pvalue > 0.01


def test_zero_tasks_are_an_empty_draw() -> None:
    assert SPACE.sample(0, np.random.default_rng(0), "train") == []
    assert SPACE.sample_params(0, np.random.default_rng(0), "train")["goal"].shape == (0, 2)


def test_impossible_spaces_are_refused() -> None:
    with pytest.raises(UsageError, match="'a'.*low must not exceed high"):
        ParameterSpace("f", {"a": Range(1.0, 0.0)})
    with pytest.raises(UsageError, match="constants"):
        ParameterSpace("f", {"a": Range(1.0, 1.0)})


def test_vector_holds_what_varies() -> None:
    space = ParameterSpace("f", {"b": Range(0, 1), "a": Range(2, 2), "c": Range(0, 1, size=2)})
    task = Task(family="f", params={"a": 2.0, "b": 0.5, "c": (0.25, 0.75)})
    assert_array_equal(space.vector(task), np.array([0.5, 0.25, 0.75], np.float32))


def test_check_refuses_another_familys_task() -> None:
    with pytest.raises(UsageError, match="'g', not 'f'"):
        SPACE.check(_task(family="g"))
    with pytest.raises(UsageError, match="parameters of sizes"):
        SPACE.check(_task(params={"goal": (0.0, 0.0, 0.0), "speed": 1.0}))


@pytest.mark.parametrize("name", ["cartpole", "navigation2d", "tabular-mdp"])
@pytest.mark.parametrize("preset", [0, 3])
def test_a_stream_draws_what_sampling_one_by_one_draws(name: str, preset: int) -> None:
    presets = list(family_spec(name).presets)
    family: Any = get_family(name, presets[preset % len(presets)])
    rng, stream = np.random.default_rng(5), family.task_stream(np.random.default_rng(5))
    assert isinstance(stream, TaskStream)
    for number in range(60):
        split = SPLITS[number // 3 % 2]  # also in the middle of what is drawn ahead
        if number == 20:
            stream = pickle.loads(pickle.dumps(stream))
        drawn = stream.next(split)
        (expected,) = family.sample(1, rng, split)
        assert (drawn, drawn.split, drawn.id) == (expected, split, expected.id)
        assert drawn.params == Params(dict(expected.params))  # as if it had been checked


def test_a_family_that_samples_in_its_own_way_is_asked() -> None:
    class Only(Navigation2D):
        def sample(self, n: int, rng: np.random.Generator, split: Split) -> list[Task]:
            return [Task(family=self.name, params={"goal": (0.5, 0.5), "start": (0.0, 0.0)})] * n

    env = Only().make("train")
    env.reset(seed=0)
    assert env.task.params["goal"] == (0.5, 0.5)


def test_ranges_that_overflow_are_refused() -> None:
    space = ParameterSpace("f", {"x": Range(-3e38, 3e38)})
    with np.errstate(over="ignore"), pytest.raises(UsageError, match="not finite"):
        space.sample(1, np.random.default_rng(0), "train")
