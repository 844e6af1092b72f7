"""Facts about the picture of a family's tasks: what is drawn is what is sampled."""

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from mtrl.commands.task_figures import task_picture
from mtrl.envs.registry import get_family
from mtrl.envs.strips import sampled_numbers
from mtrl.figures import save


def _axes(figure: Any) -> list[Any]:
    return [axes for axes in figure.get_axes() if axes.get_visible()]


def _points(axes: Any, label: str) -> np.ndarray:
    (line,) = (line for line in axes.get_lines() if line.get_label() == label)
    return np.asarray(line.get_xydata())


def test_goals_lie_in_the_plane_where_they_are_sampled() -> None:
    family = get_family("navigation2d")
    (plane,) = (a for a in _axes(task_picture(family, seed=3)) if a.get_xlabel() == "goal[0]")
    for split, label in (("train", "training tasks"), ("test", "test tasks")):
        numbers = sampled_numbers(family, split, tasks=300, seed=3)
        expected = np.column_stack([numbers["goal[0]"], numbers["goal[1]"]])
        assert_array_equal(_points(plane, label), expected.astype(float))


def test_every_pair_of_physics_is_a_panel_and_held_out_lengths_are_test_tasks() -> None:
    axes = _axes(task_picture(get_family("cartpole", "extrapolation")))
    panels = {(a.get_xlabel(), a.get_ylabel()): a for a in axes if a.get_xlabel()}
    assert len(panels) == 10
    lengths = panels["gravity", "length"]
    inside = [((y > 0.35) & (y < 0.8)) for y in (_points(lengths, "training tasks")[:, 1],)]
    assert np.all(inside)
    y = _points(lengths, "test tasks")[:, 1]
    assert ((y <= 0.35) | (y >= 0.8)).all()


def test_tasks_that_are_the_same_for_both_splits_are_drawn_once() -> None:
    figure = task_picture(get_family("halfcheetah-direction"))
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "tasks, the same for training and test"
    ]


@pytest.mark.parametrize(
    ("name", "preset", "panels"),
    [
        ("sinusoid", "maml", 2),  # pairs of parameters, curves
        ("bandit", "5-arms", 5),  # all chances together, four bandits
        ("tabular-mdp", "rl2", 7),  # rewards, transitions, four tables, their scale
        ("halfcheetah-velocity", "maml", 1),
        ("hopper-parameters", "default", 6),
    ],
)
def test_each_kind_of_family_has_its_picture(
    name: str, preset: str, panels: int, tmp_path: Any
) -> None:
    figure = task_picture(get_family(name, preset))
    assert len(_axes(figure)) == panels
    assert (
        save(figure, tmp_path / "one.png").read_bytes()
        == save(task_picture(get_family(name, preset)), tmp_path / "two.png").read_bytes()
    )
