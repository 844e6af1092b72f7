"""Error on held-out supervised tasks after 0, 1, ... k adaptation steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mtrl.envs.family import FewShotFamily
from mtrl.envs.task import Task
from mtrl.meta.few_shot import FewShotAdaptation
from mtrl.meta.parameters import MetaParams

__all__ = ["FewShotProtocol", "few_shot_errors"]

# Tasks evaluated at once: enough to be quick, few enough for the cache.
CHUNK = 256


@dataclass(frozen=True, kw_only=True)
class FewShotProtocol:
    """How a few-shot learner is tested: support points, query points, inner steps."""

    shots: int
    query_shots: int = 100
    steps: int = 1


@torch.no_grad()
def few_shot_errors(
    how: FewShotAdaptation,
    meta: MetaParams,
    family: FewShotFamily,
    tasks: Sequence[Task] | Mapping[str, NDArray[Any]],
    protocol: FewShotProtocol,
    generator: torch.Generator,
) -> NDArray[np.float64]:
    """Return the query error of every task after 0, 1, ... `protocol.steps` steps, (tasks, steps + 1).

    Two learners given the same tasks and generators in the same state see the same points, so that their
    errors can be compared in pairs.
    """
    support, query = family.draw(tasks, protocol.shots, protocol.query_shots, generator)
    rows = []
    for x, y, query_x, query_y in zip(
        *(torch.split(part, CHUNK) for part in (*support, *query)), strict=True
    ):
        trail = how.adapted(meta, (x, y), protocol.steps)
        rows.append(torch.stack([how.loss(params, (query_x, query_y)) for params in trail], 1))
    return torch.cat(rows).double().cpu().numpy()
