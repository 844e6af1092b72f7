"""The step size at test of a learner that was not trained to take steps, chosen on training tasks.

Fine-tuning from joint training and learning from scratch have no step size of their own. Given MAML's, which
belongs to another initialisation, they would lose to it by that alone; so every training tries a declared grid on
tasks of the training split and takes the best, as whoever fine-tunes would. Test tasks have no part in it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from mtrl.errors import MtrlError
from mtrl.evaluation.trained import EvaluationSettings, TrainedRun
from mtrl.meta.baselines import FineTune
from mtrl.meta.reinforcement import ReinforcementConfig
from mtrl.meta.supervised import SupervisedConfig
from mtrl.meta.task_source import TrainingTasks
from mtrl.seeding import numpy_generator

__all__ = ["Search", "Tried", "best", "search_step_size", "with_step_size"]

# Added to the seed of the test, whose episodes and points validation must not meet.
VALIDATION = 1_000_003


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A candidate.

    Attributes:
        step_size: of the first step.
        later_step_scale: factor on it from the second step on.
        score: mean on the validation tasks after the last step; None where adaptation diverged.
    """

    step_size: float
    later_step_scale: float
    score: float | None = None

    def __str__(self) -> str:
        later = self.later_step_scale
        return f"{self.step_size:g}" + (f", later {self.step_size * later:g}" if later != 1 else "")


@dataclass(frozen=True, kw_only=True)
class Search:
    """All candidates, and the one that is taken to the test."""

    tried: Sequence[Tried]
    chosen: Tried

    def to_dict(self) -> dict[str, Any]:
        """Return it in JSON's types."""
        return {"tried": [asdict(each) for each in self.tried], "chosen": asdict(self.chosen)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Search":
        """Read what `to_dict` returned.

        Raises:
            KeyError, TypeError: it is something else.
        """
        tried = tuple(Tried(**each) for each in values["tried"])
        return cls(tried=tried, chosen=Tried(**values["chosen"]))


def search_step_size(
    run: TrainedRun, grid: Sequence[float], evaluation: EvaluationSettings, tasks: int
) -> Search:
    """Try every step size of `grid` on `tasks` training tasks, and choose.

    A learner whose later steps are scaled is tried with and without.

    Raises:
        MtrlError: adaptation diverged with all of them.
    """
    settings = replace(evaluation, seed=evaluation.seed + VALIDATION, tasks=tasks)
    source = TrainingTasks(run.family, getattr(run.config, "train_tasks", None), [])
    chosen_on = source.sample(tasks, numpy_generator(settings.seed, "validation tasks"))
    scales = sorted({1.0, getattr(run.config.learner, "later_step_scale", 1.0)}, reverse=True)
    tried = []
    for scale in scales:
        for size in grid:
            candidate = Tried(step_size=size, later_step_scale=scale)
            scores = with_step_size(run, candidate).raw_scores(chosen_on, settings)[:, -1]
            mean = float(scores.mean()) if np.isfinite(scores).all() else None
            tried.append(replace(candidate, score=mean))
    better: Literal["lower", "higher"] = "lower" if "error" in run.score_name else "higher"
    return Search(tried=tuple(tried), chosen=best(tried, better))


def best(tried: Sequence[Tried], better: Literal["lower", "higher"]) -> Tried:
    """Return the candidate with the best score; of several, the one that moves least.

    Raises:
        MtrlError: adaptation diverged with all of them.
    """
    sign = 1 if better == "higher" else -1
    finite = [each for each in tried if each.score is not None and math.isfinite(each.score)]
    if not finite:
        sizes = ", ".join(f"{each.step_size:g}" for each in tried)
        raise MtrlError(f"adaptation diverged with every step size of {sizes}; give smaller ones")
    return max(finite, key=lambda each: (sign * (each.score or 0.0), -each.step_size))


def with_step_size(run: TrainedRun, tried: Tried) -> TrainedRun:
    """Return a run of joint training as it is tested with a candidate."""
    assert isinstance(run.config, SupervisedConfig | ReinforcementConfig), "others take no steps"
    learner = FineTune(step_size=tried.step_size, later_step_scale=tried.later_step_scale)
    config: SupervisedConfig | ReinforcementConfig = replace(run.config, learner=learner)
    return replace(run, config=config)
