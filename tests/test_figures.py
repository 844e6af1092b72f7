"""Figures hold the data they were given, draw the same bytes twice, and need matplotlib only when made."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from numpy.testing import assert_allclose

from mtrl.errors import MissingExtraError
from mtrl.figures import (
    FewShotFit,
    adaptation_curves,
    comparison_grid,
    few_shot_fits,
    navigation_trajectories,
    save,
    step_size_histograms,
    to_image,
)

STEPS = np.arange(4)
CURVES = {
    "Meta-SGD": (STEPS, STEPS**2, STEPS**2 - 0.5, STEPS**2 + 0.25),
    "MAML": (STEPS, 2.0 * STEPS, 2.0 * STEPS - 1.0, 2.0 * STEPS + 1.0),
}


def lines(axes: Axes) -> dict[str, np.ndarray]:
    """Map each label to the (points, 2) that its line shows."""
    return {str(line.get_label()): line.get_xydata() for line in axes.lines}


def curves() -> Figure:
    return adaptation_curves(CURVES, ylabel="return", title="unseen tasks")


def test_adaptation_curves_show_means_and_intervals() -> None:
    (axes,) = curves().axes
    assert (axes.get_ylabel(), axes.get_title()) == ("return", "unseen tasks")
    for band, (name, (steps, mean, low, high)) in zip(
        axes.collections, CURVES.items(), strict=True
    ):
        assert_allclose(lines(axes)[name], np.stack([steps, mean], -1), rtol=0)
        corners = {(x, y) for x, y in band.get_paths()[0].vertices}
        expected = {*zip(steps, low, strict=True), *zip(steps, high, strict=True)}
        assert corners == expected


def test_comparison_grid_puts_each_number_in_its_cell() -> None:
    estimates = np.random.default_rng(0).uniform(size=(2, 2, 2, 3))
    tables = np.stack([estimates, estimates - 0.1, estimates + 0.2], -1)
    tables[0, 0, 0, 0, 1:] = np.nan
    results = {
        learner: dict(zip(["paper", "ours"], tables[i], strict=True))
        for i, learner in enumerate(["MAML", "Meta-SGD"])
    }
    figure = comparison_grid(
        results, panels=["5 shots", "10 shots"], columns=["a", "b", "c"], ylabel="error"
    )
    for row, axes in enumerate(figure.axes):
        assert axes.get_title() == ["5 shots", "10 shots"][row]
        assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c"]
        for index, (label, points) in enumerate(lines(axes).items()):
            learner, source = label.split(", ")
            table = np.asarray(results[learner][source])[row]
            assert_allclose(points[:, 1], table[:, 0], rtol=0)
            # Marks stay nearest to their own column.
            assert_allclose(np.round(points[:, 0]), [0, 1, 2], rtol=0)
            known = ~np.isnan(table[:, 1])
            whiskers = [s for s in axes.collections[index].get_segments() if len(s) == 2]
            assert_allclose(np.array(whiskers)[:, :, 1], table[known, 1:], rtol=0)
        hollow = {to_hex(line.get_markerfacecolor()) == "#ffffff" for line in axes.lines[::2]}
        assert hollow == {True}


def test_our_numbers_alone_are_named_by_the_learner() -> None:
    tables = {name: {"ours": np.ones((1, 1, 3))} for name in ("MAML", "Meta-SGD")}
    figure = comparison_grid(tables, panels="a", columns="b", ylabel="")
    assert figure.axes[0].get_legend_handles_labels()[1] == ["MAML", "Meta-SGD"]


def test_comparison_grid_refuses_a_table_that_its_labels_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"MAML, paper: .*\(1, 3, 3\) .* 2 panels and 3 columns"):
        comparison_grid(
            {"MAML": {"paper": np.ones((1, 3, 3))}}, panels="ab", columns="abc", ylabel=""
        )


def test_navigation_shows_both_paths_start_and_goal_of_every_task() -> None:
    rng = np.random.default_rng(1)
    before, after, goals = (rng.normal(size=s) for s in [(5, 9, 2), (5, 9, 2), (5, 2)])
    before[0, 4:] = np.nan
    figure = navigation_trajectories(before, after, goals)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == 5
    for task, axes in enumerate(shown):
        found = lines(axes)
        assert_allclose(found["before adaptation"], before[task], rtol=0)
        assert_allclose(found["after adaptation"], after[task], rtol=0)
        assert_allclose(found["start"], after[task, :1], rtol=0)
        assert_allclose(found["goal"], goals[task : task + 1], rtol=0)
        # Nothing may fall outside the panel, and a distance is the same in both directions.
        assert axes.get_xlim() == axes.get_ylim()
        assert axes.get_xlim()[1] > np.nanmax(np.abs([*before, *after]))


def test_step_size_histograms_count_every_parameter_on_its_side_of_zero() -> None:
    sizes = {
        "mixed": np.random.default_rng(2).normal(0.5, 1.0, size=(20, 30)),
        "positive": np.full(8, 0.01),
        "negative": np.linspace(-0.3, -0.1, 7),
        "zero": np.zeros(3),
    }
    figure = step_size_histograms(sizes)
    for axes, (name, values) in zip(figure.axes, sizes.items(), strict=True):
        share = (values < 0).mean()
        assert axes.get_title() == f"{name}: {share:.0%} negative"
        below = [bar for bar in axes.patches if bar.get_x() + bar.get_width() / 2 < 0]
        above = [bar for bar in axes.patches if bar.get_x() + bar.get_width() / 2 > 0]
        assert sum(bar.get_height() for bar in below) == (values < 0).sum()
        assert sum(bar.get_height() for bar in above) == (values >= 0).sum()


def test_few_shot_fits_show_curve_predictions_and_support() -> None:
    x = np.linspace(-5.0, 5.0, 50)
    fit = FewShotFit(
        x=x,
        truth=np.sin(x),
        before=0 * x,
        after=0.9 * np.sin(x),
        support_x=[1, 2],
        support_y=[3, 4],
    )
    figure = few_shot_fits([fit, fit])
    for axes in figure.axes:
        found = lines(axes)
        assert_allclose(found["task"], np.stack([x, np.sin(x)], -1), rtol=0)
        assert_allclose(found["before adaptation"], np.stack([x, 0 * x], -1), rtol=0)
        assert_allclose(found["after adaptation"], np.stack([x, 0.9 * np.sin(x)], -1), rtol=0)
        assert_allclose(found["support"], [[1, 3], [2, 4]], rtol=0)


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one task or layer"):
        step_size_histograms({})


def test_saved_bytes_depend_on_the_data_alone(tmp_path: Path) -> None:
    first = save(curves(), tmp_path / "first.png").read_bytes()
    second = save(curves(), tmp_path / "second.png").read_bytes()
    assert first == second
    other = adaptation_curves(CURVES, ylabel="return", title="train tasks")
    assert save(other, tmp_path / "other.png").read_bytes() != first
    for text in (b"tEXt", b"iTXt", b"tIME"):
        assert text not in first


def test_image_is_the_figure_in_pixels() -> None:
    figure = curves()
    image = to_image(figure)
    width, height = (figure.get_size_inches() * figure.dpi).astype(int)
    assert (image.shape, image.dtype) == ((height, width, 3), np.uint8)
    # White in the corner; the first learner's blue somewhere.
    assert_allclose(image[0, 0], [255, 255, 255], rtol=0)
    assert (image == [0x00, 0x72, 0xB2]).all(-1).any()


BLOCKED = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "matplotlib":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Block())
from mtrl.errors import MissingExtraError
from mtrl.figures import adaptation_curves

try:
    adaptation_curves({}, ylabel="")
except MissingExtraError as error:
    sys.exit(str(error))
"""


def test_without_matplotlib_the_module_imports_and_drawing_names_the_extra() -> None:
    """In its own process: matplotlib is long imported in this one."""
    result = subprocess.run(
        [sys.executable, "-c", BLOCKED], check=False, capture_output=True, text=True
    )
    assert result.stderr.strip() == 'figures need matplotlib: pip install "mtrl-suite[plot]"'
    assert result.returncode == 1
    assert issubclass(MissingExtraError, ImportError)


def test_drawing_leaves_pyplot_alone() -> None:
    code = (
        "import sys, mtrl.figures as f\n"
        "assert 'matplotlib' not in sys.modules\n"
        "f.to_image(f.step_size_histograms({'a': [1.0]}))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("per_row", [2, 4])
def test_the_legend_lies_within_the_picture(per_row: int) -> None:
    paths = np.random.default_rng(0).uniform(-0.5, 0.5, (4, 9, 2))
    figure = navigation_trajectories(paths, paths, paths[:, 0], per_row=per_row)
    to_image(figure)
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width
    assert box.y0 >= 0 and box.y1 <= figure.bbox.height
