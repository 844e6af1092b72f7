"""What TensorBoard shows of a multi-task run: curves of all tasks in one chart, gradients, conflicts."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mtrl.agents.balancing import BalancedTrunk
from mtrl.agents.policies import MultiTaskPolicy
from mtrl.figure_style import MEDIUM, new_figure
from mtrl.meta.watching import Charts, Drawing
from mtrl.multitask.evaluation import TaskScores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "CHARTS",
    "CURRICULUM_CHARTS",
    "balancer_seconds",
    "charts",
    "conflict_pictures",
    "evaluation_values",
    "gradient_values",
    "recorded_values",
]

CHARTS: Charts = {
    "Tasks": {
        "Evaluation: return of every task": ["eval/return/.+"],
        "Evaluation: success of every task": ["eval/success/.+"],
        "Training: return of every task": ["multitask/return/.+"],
        "Training: success of every task": ["multitask/success/.+"],
        "Weight of every task": ["multitask/weight/.+"],
        "Mean and worst return": ["eval/mean_return", "eval/worst_return"],
    },
    "Gradients": {
        "Norm in trunk and heads": ["gradient/trunk_norm", "gradient/head_norm"],
        "Conflict between tasks": ["conflict/.+/mean_cosine", "conflict/.+/negative_share"],
    },
    "Speed": {
        "Environment steps per second": ["time/env_steps_per_second"],
        "Seconds in the balancer": ["time/balancer_seconds"],
    },
}
"""The CUSTOM SCALARS page."""
CURRICULUM_CHARTS: Charts = {
    "Curriculum": {
        "Probability of every task": ["curriculum/probability/.+"],
        "Share of the episodes that every task had": ["curriculum/share/.+"],
        "Success of every task since the last point": ["curriculum/success/.+"],
        "Learning progress": ["curriculum/progress/.+", "curriculum/progress"],
        "Learnability": ["curriculum/learnability/.+"],
        "Weight of the adversary": ["curriculum/weight/.+"],
        "Score and staleness": ["curriculum/score/.+", "curriculum/staleness/.+"],
        "Stage": ["curriculum/stage"],
        "Mean of the parameters played": ["curriculum/mean/.+"],
        "Deviation of the parameters played": ["curriculum/deviation/.+"],
        "Bounds": ["curriculum/lower/.+", "curriculum/upper/.+"],
        "Entropy": ["curriculum/entropy"],
        "Divergence from the target": ["curriculum/divergence"],
    }
}
"""What it has in addition with a curriculum; charts that a curriculum has no numbers for stay empty."""

_RECORDED = ("multitask/", "train/", "rollout/exploration_rate")


def charts(*, curriculum: bool) -> Charts:
    """Return the CUSTOM SCALARS page of a run with or without a curriculum."""
    return CHARTS | (CURRICULUM_CHARTS if curriculum else {})


def recorded_values(recorded: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers among what an algorithm recorded in its logger that a run logs."""
    return {
        tag: float(value)
        for tag, value in recorded.items()
        if tag.startswith(_RECORDED) and isinstance(value, bool | int | float | np.generic)
    }


def gradient_values(policy: MultiTaskPolicy) -> dict[str, float]:
    """Return the length of the last gradient in trunks and heads, and how far tasks disagreed.

    There is none before the first update.
    """
    parts = {
        "gradient/trunk_norm": policy.trunk_parameters(),
        "gradient/head_norm": policy.head_parameters(),
    }
    values = {tag: _norm(part) for tag, part in parts.items() if _has_gradient(part)}
    for name, cosines in _conflicts(policy).items():
        pairs = cosines[~np.eye(len(cosines), dtype=bool)]
        known = pairs[np.isfinite(pairs)]
        if len(known):
            values[f"conflict/{name}/mean_cosine"] = float(known.mean())
            values[f"conflict/{name}/negative_share"] = float((known < 0).mean())
    return values


def balancer_seconds(policy: MultiTaskPolicy) -> float:
    """Return the wall time that balancing took in the last backward pass, of all trunks."""
    trunks = policy.trunks().values()
    return sum(trunk.seconds for trunk in trunks if isinstance(trunk, BalancedTrunk))


def evaluation_values(scores: TaskScores, names: Sequence[str]) -> dict[str, float]:
    """Return the mean return of each task by its tag, of all tasks, and of the worst."""
    means = scores.returns.mean(1)
    values = {f"eval/return/{name}": float(mean) for name, mean in zip(names, means, strict=True)}
    for name, share in zip(names, scores.successes, strict=True):
        if np.isfinite(share):
            values[f"eval/success/{name}"] = float(share)
    return values | {
        "eval/mean_return": float(means.mean()),
        "eval/worst_return": float(means.min()),
    }


def conflict_pictures(
    policy: MultiTaskPolicy, names: Sequence[str], step: int
) -> dict[str, Drawing]:
    """Return drawings of the cosines between tasks' last gradients, by tag, for each trunk."""

    def drawing(trunk: str, cosines: NDArray[np.float64]) -> Drawing:
        return lambda: _heat_map(cosines, names, f"{trunk} trunk after {step:,} steps")

    return {
        f"figures/conflict_{trunk}": drawing(trunk, cosines)
        for trunk, cosines in _conflicts(policy).items()
    }


def _has_gradient(parameters: list[nn.Parameter]) -> bool:
    return any(parameter.grad is not None for parameter in parameters)


def _norm(parameters: list[nn.Parameter]) -> float:
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients))


def _conflicts(policy: MultiTaskPolicy) -> dict[str, NDArray[np.float64]]:
    return {
        name: trunk.conflicts.numpy()
        for name, trunk in policy.trunks().items()
        if isinstance(trunk, BalancedTrunk) and trunk.conflicts is not None
    }


def _heat_map(cosines: NDArray[np.float64], names: Sequence[str], title: str) -> "Figure":
    """Draw cosines (tasks, tasks): red where tasks pull apart, blue where together, grey unknown."""
    size = 2.5 + 0.3 * len(names)
    figure = new_figure(size + 1, size)
    axes = figure.subplots()
    axes.set_facecolor("#D0D0D0")
    picture = axes.imshow(cosines, cmap="RdBu", vmin=-1, vmax=1)
    places = range(len(names))
    axes.set_xticks(places, names, rotation=90, fontsize=MEDIUM)
    axes.set_yticks(places, names, fontsize=MEDIUM)
    axes.set_title(title, fontsize=MEDIUM)
    figure.colorbar(picture, ax=axes, label="cosine of the tasks' gradients")
    return figure
