"""Scores as (runs, tasks, steps), and the two files that hold every one of them for others to read.

The CSV has a row for each score: family, learner, seed, task, steps, score. The JSON has them as nested lists:

    {"format": "mtrl-quality-1",
     "families": {FAMILY: {"score": "return", "better": "higher", "tasks": [ID, ...], "seeds": [0, ...],
                           "steps": [0, 1, ...], "scores": {LEARNER: [seed][task][steps]}}}}

so that `numpy.array(families[FAMILY]["scores"][LEARNER])[:, :, k]` is the (runs, tasks) that rliable and its like
take. Where adaptation diverged there is the worst score that any learner has on the family; how many of a
learner's scores that are is in `diverged`.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mtrl.errors import MtrlError

__all__ = ["FORMAT", "FamilyScores", "read_json", "to_csv", "to_json", "with_worst_for_diverged"]

FORMAT = "mtrl-quality-1"
Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class FamilyScores:
    """Scores of learners on the same unseen tasks of one family.

    Attributes:
        family: by name.
        score: "return" or "error".
        tasks: ids.
        seeds: of the trainings.
        scores: by learner, (seeds, tasks, steps + 1), all finite.
        diverged: by learner, how many of them stand for an adaptation that diverged.
    """

    family: str
    score: Literal["return", "error"]
    tasks: Sequence[str]
    seeds: Sequence[int]
    scores: Mapping[str, Array]
    diverged: Mapping[str, int]

    @property
    def better(self) -> Literal["higher", "lower"]:
        """Which scores are good."""
        return "higher" if self.score == "return" else "lower"

    @property
    def steps(self) -> int:
        """Adaptation steps."""
        return int(next(iter(self.scores.values())).shape[2]) - 1

    def upwards(self, learner: str, steps: int) -> Array:
        """Return the scores (seeds, tasks) after `steps`, with their sign changed if lower is better."""
        values = self.scores[learner][:, :, steps]
        return values if self.better == "higher" else -values


def with_worst_for_diverged(
    scores: Mapping[str, Array], better: Literal["higher", "lower"]
) -> tuple[dict[str, Array], dict[str, int]]:
    """Return the scores with the worst finite one in the place of those that are not, and their numbers.

    Raises:
        MtrlError: no score is finite.
    """
    everything = np.concatenate([values.ravel() for values in scores.values()])
    finite = everything[np.isfinite(everything)]
    if not finite.size:
        raise MtrlError("every adaptation diverged; take smaller step sizes")
    worst = finite.min() if better == "higher" else finite.max()
    filled = {name: np.where(np.isfinite(values), values, worst) for name, values in scores.items()}
    return filled, {name: int((~np.isfinite(values)).sum()) for name, values in scores.items()}


def to_csv(families: Sequence[FamilyScores]) -> str:
    """Return a row for each score, in full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["family", "learner", "seed", "task", "steps", "score"])
    for family in families:
        for learner, table in family.scores.items():
            for seed, runs in zip(family.seeds, table.tolist(), strict=True):
                for task, row in zip(family.tasks, runs, strict=True):
                    for steps, score in enumerate(row):
                        writer.writerow([family.family, learner, seed, task, steps, repr(score)])
    return text.getvalue()


def to_json(families: Sequence[FamilyScores], facts: Mapping[str, Any]) -> str:
    """Return the nested lists, with `facts` on how they were made beside them."""
    content = {
        family.family: {
            "score": family.score,
            "better": family.better,
            "tasks": list(family.tasks),
            "seeds": list(family.seeds),
            "steps": list(range(family.steps + 1)),
            "scores": {name: table.tolist() for name, table in family.scores.items()},
            "diverged": dict(family.diverged),
        }
        for family in families
    }
    return json.dumps({"format": FORMAT, **facts, "families": content})


def read_json(text: str) -> list[FamilyScores]:
    """Read what `to_json` wrote.

    Raises:
        MtrlError: it is something else, or of another format.
    """
    try:
        values = json.loads(text)
        if values["format"] != FORMAT:
            raise ValueError(f"format {values['format']!r}, not {FORMAT!r}")
        return [
            FamilyScores(
                family=name,
                score=each["score"],
                tasks=each["tasks"],
                seeds=each["seeds"],
                scores={k: np.array(table, np.float64) for k, table in each["scores"].items()},
                diverged=each["diverged"],
            )
            for name, each in values["families"].items()
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MtrlError(f"not a file of scores: {error!r}") from error
