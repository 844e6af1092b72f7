"""What TensorBoard shows of a meta-training run beside its curves: pictures, a page of charts, settings.

Pictures are drawn at evaluations only, from numbers the evaluation has anyway or from a random stream of their
own: a run with pictures is bit-equal to one without. They need matplotlib, without which a run trains all the
same and says once what to install.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mtrl import figures
from mtrl.config import to_dict
from mtrl.envs.family import FewShotFamily
from mtrl.envs.navigation2d import Navigation2D
from mtrl.envs.task import Task, params_of
from mtrl.evaluation.few_shot import FewShotProtocol
from mtrl.evaluation.statistics import normal_interval
from mtrl.meta.agent import Transition
from mtrl.meta.few_shot import FewShotAdaptation
from mtrl.meta.parameters import MetaParams
from mtrl.runs import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "PICTURED_TASKS",
    "Charts",
    "Drawing",
    "Pictures",
    "Score",
    "Trajectories",
    "adaptation_picture",
    "chart_layout",
    "fits_picture",
    "log_settings",
    "trajectories_picture",
]

logger = logging.getLogger(__name__)

PICTURED_TASKS = 4
"""Held-out tasks in a picture, two in a row: TensorBoard shows pictures small at first."""
CURVE_POINTS = 200

Charts = dict[str, dict[str, list[str]]]
"""Category to chart title to regular expressions for its tags."""
Drawing = Callable[[], "Figure"]
Score = Literal["return", "error"]

_STEP_SIZES = {
    "Mean step size per layer": [r"step_sizes/.+/mean"],
    "Share of negative step sizes per layer": [r"step_sizes/.+/negative_share"],
}
_LAYOUTS: dict[Score, Charts] = {
    "return": {
        "Adaptation": {
            "Held-out tasks: return after k steps": [r"adapt/return_after_\d+"],
            "Training tasks: return before and after": [r"meta/(pre|post)_adapt_return"],
        },
        "Step sizes": _STEP_SIZES,
        "Outer update": {
            "KL divergence": ["outer/kl"],
            "Improvement of the surrogate": ["outer/improvement"],
            "Part of the full step": ["outer/step_fraction"],
        },
        "Speed": {
            "Iterations per second": ["time/iterations_per_second"],
            "Environment steps per second": ["time/env_steps_per_second"],
        },
    },
    "error": {
        "Adaptation": {
            "Held-out tasks: error after k steps": [r"adapt/error_after_\d+"],
            "Training tasks: loss after adaptation": ["meta/train_loss"],
        },
        "Step sizes": _STEP_SIZES,
        "Outer update": {
            "Norm of the meta-gradient": ["outer/gradient_norm"],
            "Learning rate": ["outer/learning_rate"],
        },
        "Speed": {"Iterations per second": ["time/iterations_per_second"]},
    },
}


def chart_layout(score: Score, *, step_sizes: bool) -> Charts:
    """Return the CUSTOM SCALARS page of a run whose adaptation is measured by `score`.

    Without learned step sizes their charts, which would stay empty, are left out.
    """
    return {
        category: charts
        for category, charts in _LAYOUTS[score].items()
        if step_sizes or category != "Step sizes"
    }


def log_settings(run: Run, config: Any, metrics: Mapping[str, float]) -> None:
    """Log the run's settings for the HPARAMS table, beside the scalars named in `metrics`.

    TensorBoard keeps the settings that it read first, so what a resumed run may change is left out.
    """
    fixed = {field.name for field in fields(config) if not field.metadata.get("resumable")}
    settings = {name: value for name, value in to_dict(config).items() if name in fixed}
    run.tracker.hparams(settings, metrics)


class Pictures:
    """Draws into a run's TensorBoard; without matplotlib it says so once and draws nothing."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._available = find_spec("matplotlib") is not None
        if not self._available:
            logger.warning(
                'TensorBoard gets no pictures, which need matplotlib: pip install "mtrl-suite[plot]"'
            )

    def draw(self, iteration: int, drawings: Mapping[str, Drawing]) -> None:
        """Log what each drawing returns under its tag, and the seconds that all of them took."""
        if not self._available:
            return
        started = time.perf_counter()
        for tag, drawing in drawings.items():
            self._run.tracker.image(iteration, tag, drawing())
        self._run.log_time(iteration, {"time/picture_seconds": time.perf_counter() - started})


def adaptation_picture(
    name: str, score: Score, values: NDArray[np.float64], iteration: int
) -> Drawing:
    """Return the drawing of a learner's adaptation curve from scores (tasks, steps + 1)."""

    def draw() -> "Figure":
        intervals = [normal_interval(column) for column in values.T]
        mean, low, high = np.array([(i.estimate, i.low, i.high) for i in intervals]).T
        curve = (np.arange(len(intervals)), mean, low, high)
        return figures.adaptation_curves(
            {f"{name}, mean and 95 % interval": curve},
            ylabel=f"{score} on {len(values)} held-out tasks",
            title=f"after {iteration:,} meta-iterations",
        )

    return draw


class Trajectories:
    """A watcher of `adaptation_returns` that keeps where each pictured task's first episode goes.

    Args:
        last_round: number of the last round; only that one and round 0 are kept.
    """

    def __init__(self, last_round: int) -> None:
        self._last = last_round
        self._points: dict[int, list[torch.Tensor]] = {0: [], last_round: []}

    def __call__(self, number: int, transition: Transition) -> None:
        """Keep the positions of a transition in round `number`."""
        if number not in self._points:
            return
        points = self._points[number]
        if not points:
            points.append(transition.observations[:PICTURED_TASKS, 0])
        ended = transition.running[:PICTURED_TASKS, 0, None] == 0
        points.append(
            transition.next_observations[:PICTURED_TASKS, 0].masked_fill(ended, torch.nan)
        )

    def before(self) -> NDArray[np.float32]:
        """Return the observations before adaptation (tasks, time + 1, features); NaN after the end."""
        return _stacked(self._points[0])

    def after(self) -> NDArray[np.float32]:
        """Return the observations after adaptation, otherwise as `before`."""
        return _stacked(self._points[self._last])


def _stacked(points: Sequence[torch.Tensor]) -> NDArray[np.float32]:
    path: NDArray[np.float32] = torch.stack(list(points), 1).float().cpu().numpy()
    return path


def trajectories_picture(
    family: object, tasks: Sequence[Task], seen: Trajectories, iteration: int
) -> dict[str, Drawing]:
    """Return the drawing of paths to the goals by its tag; none if `family` does not navigate."""
    if not isinstance(family, Navigation2D):
        return {}

    def draw() -> "Figure":
        goals = params_of(tasks[:PICTURED_TASKS])["goal"]
        title = f"held-out tasks after {iteration:,} meta-iterations"
        paths = seen.before(), seen.after()
        return figures.navigation_trajectories(*paths, goals, title=title, per_row=2)

    return {"trajectories/held_out": draw}


def fits_picture(
    how: FewShotAdaptation,
    meta: MetaParams,
    family: FewShotFamily,
    tasks: Sequence[Task],
    protocol: FewShotProtocol,
    generator: torch.Generator,
) -> dict[str, Drawing]:
    """Return the drawing of fits by its tag; none if the tasks are not functions of one number.

    Args:
        how: network and learner.
        meta: the meta-parameters.
        family: the tasks' family.
        tasks: held-out tasks, of which the first few are drawn.
        protocol: shots and steps, as in the evaluation.
        generator: of the points; one of the picture's own.
    """
    if (family.input_size, family.output_size) != (1, 1):
        return {}

    @torch.no_grad()
    def draw() -> "Figure":
        some = tasks[:PICTURED_TASKS]
        support, curve = family.draw(some, protocol.shots, CURVE_POINTS, generator)
        # Query points in order are the task's curve, whatever the family.
        x, order = curve.x.sort(1)
        truth = curve.y.gather(1, order)
        trail = how.adapted(meta, support, protocol.steps)
        before, after = (how.network(params, x) for params in (trail[0], trail[-1]))
        parts = (x, truth, before, after, *support)
        rows = zip(*(part[..., 0].cpu().numpy() for part in parts), strict=True)
        names = ("x", "truth", "before", "after", "support_x", "support_y")
        fits = [figures.FewShotFit(**dict(zip(names, row, strict=True))) for row in rows]
        steps = f"{protocol.steps} step{'s' if protocol.steps > 1 else ''}"
        title = f"held-out tasks, {steps} on {protocol.shots} points"
        return figures.few_shot_fits(fits, title=title, per_row=2)

    return {"figures/held_out_fits": draw}
