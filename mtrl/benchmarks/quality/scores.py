"""Scores as (runs, tasks, steps), and the two files that hold every one of them for others to read.

The CSV has a row for each score: family, learner, seed, task, steps, seen, trained, step_size, score. The JSON has
them as nested lists:

    {"format": "mtrl-quality-2",
     "families": {FAMILY: {"score": "return", "better": "higher", "tasks": [ID, ...], "seeds": [0, ...],
                           "scores": {LEARNER: [seed][task][steps]},
                           "seen": {LEARNER: [steps]}, "seen_unit": "episodes",
                           "trained": {LEARNER: [seed]}, "trained_unit": "environment steps",
                           "diverged": {LEARNER: 0}, "step_sizes": {LEARNER: [seed]}}}}

so that `numpy.array(families[FAMILY]["scores"][LEARNER])[:, :, k]` is the (runs, tasks) that rliable and its like
take. Learners differ in how many steps they take and in what a step costs: `seen` is what a learner has seen of a
task when a score is taken, `trained` what each training took. Where adaptation diverged there is the worst score
that any learner has on the family; how many of a learner's scores that are is in `diverged`. `step_sizes` is how
those of the learners that have none of their own were chosen.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mtrl.benchmarks.quality.step_sizes import Search
from mtrl.errors import MtrlError

__all__ = [
    "FORMAT",
    "FamilyScores",
    "LearnerScores",
    "read_json",
    "to_csv",
    "to_json",
    "with_worst_for_diverged",
]

FORMAT = "mtrl-quality-2"
Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class LearnerScores:
    """Scores of one learner on one family.

    Attributes:
        values: (seeds, tasks, steps + 1), all finite.
        seen: (steps + 1), what it had seen of a task when they were taken: episodes, or labelled points.
        trained: (seeds), what each training took: environment steps, or meta-iterations; 0 without training.
        diverged: how many of the scores stand for an adaptation that diverged.
        searches: for each seed how its step size was chosen; empty if it has its own.
    """

    values: Array
    seen: Sequence[int]
    trained: Sequence[float]
    diverged: int = 0
    searches: Sequence[Search] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class FamilyScores:
    """Scores of learners on the same unseen tasks of one family.

    Attributes:
        family: by name.
        score: "return" or "error".
        tasks: ids.
        seeds: of the trainings.
        learners: what each reached, by its name.
    """

    family: str
    score: Literal["return", "error"]
    tasks: Sequence[str]
    seeds: Sequence[int]
    learners: Mapping[str, LearnerScores]

    @property
    def better(self) -> Literal["higher", "lower"]:
        """Which scores are good."""
        return "higher" if self.score == "return" else "lower"

    @property
    def seen_unit(self) -> str:
        """What experience on a task is counted in."""
        return "episodes" if self.score == "return" else "labelled points"

    @property
    def trained_unit(self) -> str:
        """What training is counted in."""
        return "environment steps" if self.score == "return" else "meta-iterations"

    def last_upwards(self, learner: str) -> Array:
        """Return the last scores (seeds, tasks), with their sign changed if lower is better."""
        values = self.learners[learner].values[:, :, -1]
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
    writer.writerow(
        ["family", "learner", "seed", "task", "steps", "seen", "trained", "step_size", "score"]
    )
    for family in families:
        for name, learner in family.learners.items():
            for place, runs in enumerate(learner.values.tolist()):
                seed, trained = family.seeds[place], int(learner.trained[place])
                size = learner.searches[place].chosen.step_size if learner.searches else ""
                for task, row in zip(family.tasks, runs, strict=True):
                    for steps, score in enumerate(row):
                        where = [family.family, name, seed, task, steps, learner.seen[steps]]
                        writer.writerow([*where, trained, size, repr(score)])
    return text.getvalue()


def to_json(families: Sequence[FamilyScores], facts: Mapping[str, Any]) -> str:
    """Return the nested lists, with `facts` on how they were made beside them."""
    content = {family.family: _to_dict(family) for family in families}
    return json.dumps({"format": FORMAT, **facts, "families": content})


def _to_dict(family: FamilyScores) -> dict[str, Any]:
    learners = family.learners
    return {
        "score": family.score,
        "better": family.better,
        "tasks": list(family.tasks),
        "seeds": list(family.seeds),
        "scores": {name: each.values.tolist() for name, each in learners.items()},
        "seen": {name: list(each.seen) for name, each in learners.items()},
        "seen_unit": family.seen_unit,
        "trained": {name: list(each.trained) for name, each in learners.items()},
        "trained_unit": family.trained_unit,
        "diverged": {name: each.diverged for name, each in learners.items()},
        "step_sizes": {
            name: [search.to_dict() for search in each.searches]
            for name, each in learners.items()
            if each.searches
        },
    }


def read_json(text: str) -> list[FamilyScores]:
    """Read what `to_json` wrote.

    Raises:
        MtrlError: it is something else, or of another format.
    """
    try:
        values = json.loads(text)
        if values["format"] != FORMAT:
            raise ValueError(f"format {values['format']!r}, not {FORMAT!r}")
        return [_from_dict(name, each) for name, each in values["families"].items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MtrlError(f"not a file of scores: {error!r}") from error


def _from_dict(family: str, values: Mapping[str, Any]) -> FamilyScores:
    learners = {
        name: LearnerScores(
            values=np.array(table, np.float64),
            seen=values["seen"][name],
            trained=values["trained"][name],
            diverged=values["diverged"][name],
            searches=[Search.from_dict(each) for each in values["step_sizes"].get(name, ())],
        )
        for name, table in values["scores"].items()
    }
    return FamilyScores(
        family=family,
        score=values["score"],
        tasks=values["tasks"],
        seeds=values["seeds"],
        learners=learners,
    )
