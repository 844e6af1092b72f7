"""Sinusoid regression: y = A sin(omega x + b).

Finn et al. 2017 (section 5.1, preset `maml`) and Li et al. 2017 (preset `meta-sgd`) regress it.
Task parameters: `amplitude` A in [0.1, 5], `phase` b in [0, pi] radians, and `frequency` omega in
radians per unit of x: 1 in the preset `maml`, in [0.8, 1.2] in `meta-sgd`. Inputs are uniform in
[-5, 5].
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtrl.envs.family import FamilySpec, FewShotBatch
from mtrl.envs.parameters import ParameterSpace, Range
from mtrl.envs.task import Split, Task, params_of

__all__ = ["Sinusoid", "sinusoid"]


def _column(values: NDArray[Any], like: Tensor) -> Tensor:
    """Return one value per task in the shape that broadcasts over (tasks, points, 1)."""
    return torch.from_numpy(values).to(like)[:, None, None]


@dataclass(frozen=True, kw_only=True)
class Sinusoid:
    """The family, a `FewShotFamily`.

    Args:
        min_frequency, max_frequency: bounds of the uniform frequency; equal bounds fix it.
        input_limit: inputs are uniform in [-input_limit, input_limit].
    """

    min_frequency: float = 1.0
    max_frequency: float = 1.0
    input_limit: float = 5.0
    name: ClassVar[str] = "sinusoid"
    units: ClassVar[Mapping[str, str]] = {
        "amplitude": "units of y",
        "frequency": "radians per unit of x",
        "phase": "radians",
    }
    input_size: ClassVar[int] = 1
    output_size: ClassVar[int] = 1
    splits_overlap: ClassVar[bool] = False

    @cached_property
    def parameters(self) -> ParameterSpace:
        """The distribution of the tasks."""
        ranges = {
            "amplitude": Range(0.1, 5.0),
            "frequency": Range(self.min_frequency, self.max_frequency),
            "phase": Range(0.0, math.pi),
        }
        return ParameterSpace(self.name, ranges)

    def sample(self, n: int, rng: np.random.Generator, split: Split) -> list[Task]:
        """Draw `n` tasks of `split`."""
        return self.parameters.sample(n, rng, split)

    def sample_params(
        self, n: int, rng: np.random.Generator, split: Split
    ) -> dict[str, NDArray[np.float32]]:
        """Draw what `sample` draws from the same generator, as parameters stacked by name."""
        return self.parameters.sample_params(n, rng, split)

    def context(self, task: Task) -> NDArray[np.float32]:
        """Return amplitude, frequency if it varies, and phase."""
        return self.parameters.vector(task)

    def targets(self, params: Mapping[str, NDArray[Any]], x: Tensor) -> Tensor:
        """Return y at `x`, shaped (tasks, points, 1), for parameters shaped (tasks,)."""
        amplitude, frequency, phase = (
            _column(params[name], x) for name in ("amplitude", "frequency", "phase")
        )
        return amplitude * torch.sin(frequency * x + phase)

    def draw(
        self,
        tasks: Sequence[Task] | Mapping[str, NDArray[Any]],
        shots: int,
        query_shots: int,
        generator: torch.Generator,
    ) -> tuple[FewShotBatch, FewShotBatch]:
        """Draw support and query points of every task, float32 on the generator's device.

        Args:
            tasks: tasks, or their stacked parameters as `sample_params` gives them.
            shots: support points per task.
            query_shots: query points per task, drawn independently of the support.
            generator: decides the inputs; the labels are exact.
        """
        params = tasks if isinstance(tasks, Mapping) else params_of(tasks)
        shape = (len(params["amplitude"]), shots + query_shots, 1)
        uniform = torch.rand(shape, generator=generator, device=generator.device)
        x = (2.0 * uniform - 1.0) * self.input_limit
        y = self.targets(params, x)
        support = FewShotBatch(x[:, :shots], y[:, :shots])
        return support, FewShotBatch(x[:, shots:], y[:, shots:])


sinusoid = FamilySpec(
    name="sinusoid",
    factory=Sinusoid,
    presets={"maml": {}, "meta-sgd": {"min_frequency": 0.8, "max_frequency": 1.2}},
    summary="regress a sine wave of unknown amplitude and phase, and frequency in meta-sgd",
)
