"""Facts about boxes of tasks and automatic domain randomisation."""

import json
import math
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import binomtest, kstest

from mtrl.envs.curricula import Curriculum, DomainRandomization, RandomizationSettings, TaskBox
from mtrl.envs.distributions import Choice
from mtrl.envs.parameters import ParameterSpace, Range
from mtrl.envs.task import Task
from mtrl.errors import CheckpointError, MtrlError, UsageError

SPACE = ParameterSpace("toy", {"speed": Range(2.0, 6.0), "goal": Range(-1.0, 1.0, size=2)})
SHARED = ParameterSpace(
    "toy", {"speed": Range(2.0, 6.0), "mass": Range(9.8, 9.8)}, split_rule="shared"
)
CENTRE = Task(family="toy", params={"speed": 4.0, "mass": 9.8})


def randomization(**settings: Any) -> DomainRandomization:
    values = {"widen_at": 0.8, "narrow_at": 0.2, "queue": 2, "step": 0.1} | settings
    rng = np.random.default_rng(0)
    return DomainRandomization(TaskBox(SHARED), rng, RandomizationSettings(**values), CENTRE)


def test_points_and_tasks_are_each_others() -> None:
    box = TaskBox(SHARED)
    assert box.dimensions == 1
    for point, speed in ((0.0, 2.0), (0.25, 3.0), (1.0, 6.0), (7.0, 6.0)):
        task = box.task(np.array([point]))
        assert task == Task(family="toy", params={"speed": speed, "mass": 9.8})
        assert_allclose(box.point(task), [min(point, 1.0)], atol=1e-7)


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_task_of_a_box_belongs_to_its_split(split: Any) -> None:
    box, rng = TaskBox(SPACE, split=split), np.random.default_rng(0)
    corners = [np.zeros(3), np.ones(3), np.full(3, 0.5)]
    for point in [*corners, *rng.random((40, 3))]:
        task = box.task(point)
        assert SPACE.split_of(task.params) == split == task.split
        # In the order of the names: two goals and a speed. A few float32 steps are below 1e-5.
        assert_allclose(box.point(task), point, atol=1e-5)


def test_what_has_no_box_is_refused_by_name() -> None:
    choice = ParameterSpace("toy", {"a": Choice((1.0, 2.0))}, split_rule="shared")
    with pytest.raises(UsageError, match="'a' is .*not a range"):
        TaskBox(choice)
    constant = ParameterSpace("toy", {"a": Range(1.0, 1.0)}, split_rule="shared")
    with pytest.raises(UsageError, match="no parameter varies"):
        TaskBox(constant)
    holes = ParameterSpace(
        "toy", {"a": Range(0.0, 1.0)}, "interpolation", held_out={"a": ((0.4, 0.6),)}
    )
    with pytest.raises(UsageError, match="held_out leaves holes"):
        TaskBox(holes)


def test_everything_begins_at_the_calibrated_task() -> None:
    curriculum = randomization()
    assert isinstance(curriculum, Curriculum)
    assert {one.task for one in curriculum.propose(20)} == {CENTRE}
    assert_array_equal(curriculum.bounds, [[0.5], [0.5]])
    assert math.isnan(curriculum.entropy)


def at(curriculum: DomainRandomization, bound: int) -> Any:
    """Draw until a proposal tests `bound`: 0 for the lower, 1 for the upper."""
    while True:
        (one,) = curriculum.propose(1)
        if one.label is not None and one.label % 2 == bound:
            return one


def test_full_queues_move_bounds_by_a_step_and_begin_again() -> None:
    curriculum = randomization()
    assert curriculum.lag == 2
    for outcomes, upper in (((1, 1), 0.6), ((0.6, 1), 0.7), ((0.5, 0.5), 0.7), ((0, 0.4), 0.6)):
        for outcome in outcomes:
            curriculum.update(at(curriculum, 1), outcome)
        assert_allclose(curriculum.bounds, [[0.5], [upper]], rtol=1e-12)
    for outcome in (1, 1):
        curriculum.update(at(curriculum, 0), outcome)
    assert_allclose(curriculum.bounds, [[0.4], [0.6]], rtol=1e-12)
    assert_allclose(curriculum.entropy, math.log(0.2), rtol=1e-12)


def test_bounds_stay_in_the_family_and_do_not_cross() -> None:
    curriculum = randomization(queue=1, step=0.3)
    for upper in (0.8, 1.0, 1.0):
        curriculum.update(at(curriculum, 1), 1.0)
        assert_allclose(curriculum.bounds[1], upper)
    for upper in (0.7, 0.5, 0.5):
        curriculum.update(at(curriculum, 1), 0.0)
        assert_allclose(curriculum.bounds[1], upper)
    for lower in (0.2, 0.0, 0.0):
        curriculum.update(at(curriculum, 0), 1.0)
        assert_allclose(curriculum.bounds[0], lower)


def test_only_labelled_results_at_the_present_bound_count() -> None:
    curriculum = randomization(queue=1)
    late = at(curriculum, 1)
    curriculum.update(CENTRE, 1.0)  # the same task, but not as a test of a bound
    assert_array_equal(curriculum.bounds, [[0.5], [0.5]])
    curriculum.update(at(curriculum, 1), 1.0)
    curriculum.update(late, 1.0)  # at a bound that has moved since
    assert_allclose(curriculum.bounds, [[0.5], [0.6]])


def test_draws_are_uniform_within_and_half_of_them_at_the_bounds() -> None:
    curriculum = randomization(queue=1, step=0.3)
    curriculum.update(at(curriculum, 1), 1.0)
    curriculum.update(at(curriculum, 0), 1.0)
    drawn = curriculum.propose(600)
    inside = [one.task.params["speed"] for one in drawn if one.label is None]
    assert binomtest(len(inside), 600, 0.5).pvalue > 1e-3
    assert kstest((np.array(inside) - 2.0) / 4.0, "uniform", (0.2, 0.6)).pvalue > 1e-3
    ends = {one.label % 2: one.task.params["speed"] for one in drawn if one.label is not None}
    assert_allclose([ends[0], ends[1]], [2.8, 5.2], rtol=1e-6)


def test_randomization_goes_on_as_if_never_stopped() -> None:
    first, second = randomization(), randomization()
    for one in first.propose(40):
        first.update(one, 1.0)
    tensors, values = first.state_dict()
    second.load_state_dict(tensors, json.loads(json.dumps(values, allow_nan=False)))
    for one, other in zip(first.propose(60), second.propose(60), strict=True):
        assert one == other
        first.update(one, 1.0)
        second.update(other, 1.0)
    assert first.state_dict() == second.state_dict()
    with pytest.raises(CheckpointError, match="has kind 'alp-gmm'"):
        second.load_state_dict(tensors, values | {"kind": "alp-gmm"})


def test_bad_credits_and_settings_are_refused_by_name() -> None:
    curriculum = randomization()
    outside = Task(family="toy", params={"speed": 7.0, "mass": 9.8})
    with pytest.raises(UsageError, match=rf"{outside.id} .*outside the family's ranges"):
        curriculum.update(outside, 1.0)
    stranger = Task(family="other", params={"speed": 3.0, "mass": 9.8})
    with pytest.raises(UsageError, match=rf"{stranger.id} is of family 'other'"):
        curriculum.update(stranger, 1.0)
    with pytest.raises(MtrlError, match=rf"task {CENTRE.id} .*not finite"):
        curriculum.update(CENTRE, math.nan)
    with pytest.raises(UsageError, match="narrow_at is 1"):
        RandomizationSettings(widen_at=1, narrow_at=1)
    with pytest.raises(UsageError, match="queue is 0"):
        RandomizationSettings(widen_at=1, narrow_at=0, queue=0)
