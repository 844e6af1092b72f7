"""The picture of a family's tasks: where training and test tasks lie, and what some look like."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtrl.envs.dynamics import Dynamics
from mtrl.envs.family import FewShotFamily, TaskFamily
from mtrl.envs.strips import sampled_numbers
from mtrl.envs.tabular_mdp import TabularMDP
from mtrl.envs.task import SPLITS, Task
from mtrl.errors import MissingExtraError
from mtrl.figure_style import GREY, INK, LARGE, PALETTE, SMALL, dress, legend_below, new_figure
from mtrl.seeding import numpy_generator, torch_generator

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["task_picture"]

Family = TaskFamily | FewShotFamily
Numbers = Mapping[str, Mapping[str, NDArray[Any]]]
"""By kind of task (train, test, or both), the numbers of `sampled_numbers`."""
_TASKS = 300
_EXAMPLES = 4
_LINES = ("-", "--", "-.", ":")
"""One look per example."""
_MOST_PAIRED = 5
"""More numbers than this are drawn one by one instead of in pairs."""
_MOST_COLUMNS = 5
_MOST_BARS = 20
_LOOK = {"train": (PALETTE[0], "o"), "test": (PALETTE[1], "s"), "both": (PALETTE[0], "o")}
_LEGEND = {
    "train": "training tasks",
    "test": "test tasks",
    "both": "tasks, the same for training and test",
}


class _Examples(NamedTuple):
    """What some tasks look like: how many panels they take, and what draws them."""

    panels: int
    draw: Callable[[list["Axes"]], None]


def task_picture(family: Family, *, seed: int = 0) -> "Figure":
    """Draw sampled training and test tasks by their varying parameters, above some examples.

    The examples are the curves of a supervised family, rendered first states where that takes no
    simulator, and bars or tables of parameters of many numbers.

    Args:
        family: whose tasks.
        seed: of the tasks.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    kinds = [("both", SPLITS[0])] if family.splits_overlap else [(s, s) for s in SPLITS]
    drawn: Numbers = {
        kind: sampled_numbers(family, split, tasks=_TASKS, seed=seed) for kind, split in kinds
    }
    cells = _cells(drawn)
    rows = -(-len(cells) // _MOST_COLUMNS)
    columns = -(-len(cells) // rows)
    heights = [0.5 + 2.1 * rows * bool(cells[0]), 2.4]
    examples = _examples(family, seed)
    figure = new_figure(max(7.0, 2.3 * columns), sum(heights[: 1 + (examples is not None)]))
    parts: Any = [figure]
    if examples is not None:
        parts = figure.subfigures(2, 1, height_ratios=heights)
        examples.draw(list(parts[1].subplots(1, examples.panels, squeeze=False)[0]))
    panels = parts[0].subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(cells) :]:
        axes.set_visible(False)
    for axes, cell in zip(panels, cells, strict=False):
        _draw_cell(axes, drawn, cell)
    figure.suptitle(f"tasks of {family.name}", fontsize=LARGE, color=INK)
    legend_below(figure, panels[0])
    return figure


def _cells(drawn: Numbers) -> list[tuple[str, ...]]:
    """Return the labels that each panel shows: pairs where there are few numbers, else one each."""
    numbers = next(iter(drawn.values()))
    labels = [label for label, values in numbers.items() if len(values) == _TASKS]
    if len(labels) < len(numbers) or not 2 <= len(labels) <= _MOST_PAIRED:
        return [(label,) for label in numbers] or [()]
    return list(combinations(labels, 2))


def _draw_cell(axes: "Axes", drawn: Numbers, cell: tuple[str, ...]) -> None:
    if not cell:
        axes.set_axis_off()
        axes.plot([], [], "o", color=PALETTE[0], label="one task: all parameters are constant")
        return
    if len(cell) == 1:
        _histogram(axes, {kind: numbers[cell[0]] for kind, numbers in drawn.items()})
        dress(axes, xlabel=cell[0], ylabel="count")
        return
    for kind, numbers in drawn.items():
        colour, marker = _LOOK[kind]
        x, y = (numbers[label] for label in cell)
        axes.plot(x, y, marker, color=colour, ms=3, alpha=0.6, mew=0, label=_LEGEND[kind])
    if cell[0].split("[")[0] == cell[1].split("[")[0]:
        axes.set_aspect("equal")  # two coordinates of one place
    axes.locator_params(nbins=4)
    dress(axes, xlabel=cell[0], ylabel=cell[1])


def _histogram(axes: "Axes", numbers: Mapping[str, NDArray[Any]]) -> None:
    everything = np.concatenate(list(numbers.values()))
    edges = np.histogram_bin_edges(everything, bins=20)
    for kind, values in numbers.items():
        counts = np.histogram(values, edges)[0]
        axes.stairs(counts, edges, color=_LOOK[kind][0], fill=True, alpha=0.35)
        axes.stairs(counts, edges, color=_LOOK[kind][0], lw=1.4, label=_LEGEND[kind])
    axes.locator_params(nbins=5)


def _examples(family: Family, seed: int) -> _Examples | None:
    """Return what some training tasks look like, if there is a way to show it."""
    tasks = family.sample(_EXAMPLES, numpy_generator(seed, "example tasks"), "train")
    if isinstance(family, FewShotFamily):
        if family.input_size == family.output_size == 1:
            return _Examples(1, lambda panels: _curves(panels[0], family, tasks, seed))
        return None
    if isinstance(family, TabularMDP):
        return _Examples(_EXAMPLES, lambda panels: _tables(panels, family, tasks))
    if isinstance(family, Dynamics) and "rgb_array" in family.render_modes:
        try:
            frames = [_first_frame(family, task, seed) for task in tasks]
        except MissingExtraError:  # the parameters are worth a picture without the frames
            return None
        titles = [_title(family, task) for task in tasks]
        if all((frame == frames[0]).all() for frame in frames):
            frames, titles = frames[:1], ["all tasks look like this"]
        return _Examples(len(frames), lambda panels: _frames(panels, frames, titles))
    sizes = {n: len(v) for n, v in tasks[0].params.items() if isinstance(v, tuple)}
    several = [name for name, size in sizes.items() if 2 < size <= _MOST_BARS]
    if several:
        return _Examples(_EXAMPLES, lambda panels: _bars(panels, tasks, several[0]))
    return None


def _curves(axes: "Axes", family: FewShotFamily, tasks: Sequence[Task], seed: int) -> None:
    points, _ = family.draw(tasks, 300, 1, torch_generator(seed, "example points"))
    for x, y, style in zip(points.x[..., 0], points.y[..., 0], _LINES, strict=True):
        order = x.argsort()
        axes.plot(x[order].numpy(), y[order].numpy(), style, color=PALETTE[0], lw=1.5)
    dress(axes, title=f"{_EXAMPLES} training tasks", xlabel="x", ylabel="y")


def _first_frame(family: Dynamics, task: Task, seed: int) -> NDArray[Any]:
    env: Any = family.make(task, render_mode="rgb_array")  # type: ignore[attr-defined]
    try:
        env.reset(seed=seed)
        return np.asarray(env.render())
    finally:
        env.close()


def _title(family: Dynamics, task: Task) -> str:
    ranges = family.parameters.ranges
    shown = [
        f"{name} {' '.join(f'{number:.3g}' for number in np.atleast_1d(value))}"
        for name, value in task.params.items()
        if ranges[name].constant is None
    ]
    return textwrap.fill(", ".join(shown), 30)


def _frames(panels: list["Axes"], frames: list[NDArray[Any]], titles: list[str]) -> None:
    for axes, frame, title in zip(panels, frames, titles, strict=True):
        axes.imshow(frame)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color(GREY)
        axes.set_title(title, fontsize=SMALL - 1.5, color=INK)


def _bars(panels: list["Axes"], tasks: Sequence[Task], name: str) -> None:
    rows = [np.asarray(task.params[name]) for task in tasks]
    for number, (axes, row) in enumerate(zip(panels, rows, strict=True), start=1):
        axes.bar(range(len(row)), row, color=PALETTE[0])
        axes.locator_params(axis="x", integer=True)
        axes.set_ylim(min(0.0, *map(np.min, rows)), max(map(np.max, rows)))
        title = f"training task {number}"
        dress(axes, title=title, xlabel="index", ylabel=name if number == 1 else "")


def _tables(panels: list["Axes"], family: TabularMDP, tasks: Sequence[Task]) -> None:
    rewards, _ = family.tables(tasks)
    for number, (axes, table) in enumerate(zip(panels, rewards, strict=True), start=1):
        image = axes.imshow(table.T, vmin=rewards.min(), vmax=rewards.max(), cmap="cividis")
        axes.locator_params(integer=True)
        title = f"training task {number}"
        dress(axes, title=title, xlabel="state", ylabel="action" if number == 1 else "")
        axes.grid(False)
    bar = panels[0].figure.colorbar(image, ax=panels, shrink=0.8)
    bar.set_label("mean reward", fontsize=SMALL, color=INK)
    bar.ax.tick_params(labelsize=SMALL - 1)
