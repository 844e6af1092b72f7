"""What the episodes of a meta-iteration came to, over all processes that played a share of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mtrl.meta.distributed import Processes
from mtrl.rollouts import Rollout

__all__ = ["Played", "played_by_all"]


@dataclass(frozen=True)
class Played:
    """The episodes of an iteration.

    Attributes:
        before: mean return before adaptation.
        after: mean return after it.
        steps: environment steps of all of them.
        returns: (tasks, episodes), after adaptation.
    """

    before: float
    after: float
    steps: int
    returns: Tensor


def played_by_all(
    processes: Processes, rollouts: Sequence[Rollout], *, stop: bool
) -> tuple[Played, bool]:
    """Return what all processes' episodes came to, and whether any of them asks to stop; one sum.

    Args:
        processes: those that share the meta-batch.
        rollouts: this one's, before each inner step and after the last.
        stop: whether this one asks to stop.

    Raises:
        MtrlError: another process is gone.
    """
    first, last = rollouts[0].returns, rollouts[-1].returns
    tasks, episodes = last.shape
    # In double precision, in which a count of steps is exact.
    own = {
        "before": first.mean().double(),
        "after": last.mean().double(),
        "steps": torch.stack([rollout.steps for rollout in rollouts]).double().sum(),
        "returns": processes.placed(last.double().flatten(), processes.count * last.numel()),
    }
    mean, stop = processes.mean(own, stop=stop)
    played = Played(
        before=float(mean["before"]),
        after=float(mean["after"]),
        steps=round(float(mean["steps"]) * processes.count),
        returns=mean["returns"].view(processes.count * tasks, episodes),
    )
    return played, stop
