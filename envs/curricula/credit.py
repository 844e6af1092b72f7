"""How a finished episode becomes what a curriculum is told, the same in every wrapper."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from mtrl.envs.curricula.protocol import Curriculum, Proposal
from mtrl.errors import MtrlError, UsageError

__all__ = ["Judge", "credit", "solved_at"]

Judge = Callable[[float, bool | None], float]
"""Makes an outcome of an episode's return and of its reported success, None if it reported none."""


def solved_at(threshold: float) -> Judge:
    """Return the judge for which an episode succeeds if its return is at least `threshold`.

    Raises:
        UsageError: the threshold is not finite.
    """
    if not math.isfinite(threshold):
        raise UsageError(f"solved_at is {threshold}; give a finite return")
    return lambda total, success: float(total >= threshold)


def credit(
    curriculum: Curriculum, judge: Judge | None, played: Proposal, episode: Mapping[str, Any]
) -> float | None:
    """Tell the curriculum of a finished episode, and return the outcome that it was told.

    A curriculum of scores is told nothing, and None returned: the learner computes them.

    Args:
        curriculum: which proposed it.
        judge: makes the outcome, where it is not the return or the reported success.
        played: the proposal.
        episode: its `task_id`, its return `r` and, if reported, its `success`.

    Raises:
        MtrlError: the environment played another task.
        UsageError: the curriculum asks for success, and the environment reports none.
    """
    if episode["task_id"] != played.task.id:
        raise MtrlError(
            f"the environment played task {episode['task_id']}, the curriculum proposed "
            f"{played.task.id}: put the curriculum's wrapper outside of all that choose tasks"
        )
    if curriculum.outcome == "score":
        return None
    outcome = _outcome(curriculum, judge, played, episode)
    curriculum.update(played, outcome)
    return outcome


def _outcome(
    curriculum: Curriculum, judge: Judge | None, played: Proposal, episode: Mapping[str, Any]
) -> float:
    total, success = float(episode["r"]), episode.get("success")
    if judge is not None:
        return judge(total, success)
    if curriculum.outcome == "return":
        return total
    if success is None:
        raise UsageError(
            f"{type(curriculum).__name__} asks for success, but task {played.task.id} of family "
            f"{played.task.family!r} reports none in its infos; give judge, for example "
            "lambda total, success: float(total >= 195)"
        )
    return float(success)
