"""The meta-step that is measured: a network, a learner, points of some tasks, all given and the same for all.

Work "sinusoid" is few-shot regression of waves by 1-40-40-1 with ReLU, work "policy" a policy's size, 39-64-64-4 with
tanh on random points; the loss is the mean squared error. Work "images" tells 5 classes of random images apart by the
convolutional network of learn2learn's examples, 4 blocks of 32 filters; the loss is the cross entropy. The outer update
is Adam.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from mtrl.config import check_positive
from mtrl.envs.sinusoid import Sinusoid
from mtrl.errors import UsageError
from mtrl.meta.anil import ANIL
from mtrl.meta.cavia import CAVIA, context_size
from mtrl.meta.few_shot import FewShotAdaptation
from mtrl.meta.gradient import FewShotTensors
from mtrl.meta.maml import MAML, MetaLearner
from mtrl.meta.meta_sgd import MetaSGD
from mtrl.meta.parameters import MetaParams
from mtrl.nets import MLP, Activation, ConvNet

__all__ = [
    "IMAGES",
    "LEARNERS",
    "NETWORKS",
    "LearnerName",
    "Precision",
    "Problem",
    "WorkName",
]

WorkName = Literal["sinusoid", "policy", "images"]
LearnerName = Literal["maml", "fomaml", "anil", "cavia", "meta-sgd"]
Precision = Literal["float32", "float64", "bfloat16"]
LEARNERS: tuple[LearnerName, ...] = get_args(LearnerName)
NETWORKS: Mapping[WorkName, tuple[tuple[int, ...], Activation]] = MappingProxyType(
    {"sinusoid": ((1, 40, 40, 1), "relu"), "policy": ((39, 64, 64, 4), "tanh")}
)
IMAGES: WorkName = "images"
CLASSES, CHANNELS, QUERY_SHOTS = 5, 3, 15
STEP_SIZE = 0.01


@dataclass(frozen=True, kw_only=True)
class Problem:
    """The size of the work."""

    work: WorkName = "sinusoid"
    """Which network and points."""
    learner: LearnerName = "meta-sgd"
    """Which learner."""
    tasks: int = 32
    """Tasks per meta-step."""
    shots: int = 10
    """Support points per task, and as many query points; of images, support images per class, beside 15 to query."""
    side: int = 84
    """Height and width of images, in pixels."""
    inner_steps: int = 1
    """Inner steps."""
    precision: Precision = "float32"
    """Of all numbers."""
    device: str = "cpu"
    """Torch device."""
    threads: int = 1
    """CPU threads."""
    learning_rate: float = 1e-3
    """Of the outer Adam."""

    def __post_init__(self) -> None:
        check_positive(self, "tasks", "shots", "side", "inner_steps", "threads", "learning_rate")
        for name, choices in (("work", get_args(WorkName)), ("learner", LEARNERS)):
            if getattr(self, name) not in choices:
                raise UsageError(
                    f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(choices)}"
                )

    @property
    def title(self) -> str:
        """What tables call it."""
        steps = f", {self.inner_steps} inner steps" * (self.inner_steps > 1)
        precision = f", {self.precision}" * (self.precision != "float32")
        device = f", {self.device}" * (self.device != "cpu")
        return f"{self.learner} on {self.work}, {self.tasks} tasks{steps}{precision}{device}"

    @property
    def dtype(self) -> torch.dtype:
        """Of all tensors."""
        found: torch.dtype = getattr(torch, self.precision)
        return found

    @property
    def how(self) -> FewShotAdaptation:
        """Our network, learner and error."""
        learner = self._learner
        if self.work == IMAGES:
            return FewShotAdaptation(self._images, learner, "cross-entropy")
        sizes, activation = NETWORKS[self.work]
        return FewShotAdaptation(MLP(sizes, activation, context=context_size(learner)), learner)

    @property
    def _images(self) -> ConvNet:
        return ConvNet((CHANNELS, self.side, self.side), CLASSES)

    @property
    def _learner(self) -> MetaLearner:
        steps = self.inner_steps
        learners: dict[str, MetaLearner] = {
            "maml": MAML(step_size=STEP_SIZE, inner_steps=steps),
            "fomaml": MAML(step_size=STEP_SIZE, inner_steps=steps, first_order=True),
            "anil": ANIL(step_size=STEP_SIZE, inner_steps=steps),
            "cavia": CAVIA(inner_steps=steps),
            "meta-sgd": MetaSGD(initial_step_size=(STEP_SIZE, STEP_SIZE), inner_steps=steps),
        }
        return learners[self.learner]

    def start(self) -> MetaParams:
        """Return the meta-parameters that every variant starts from."""
        named = self.how.initial(torch.Generator().manual_seed(0)).named()
        return MetaParams.from_named(
            {name: value.to(self.device, self.dtype) for name, value in named.items()}
        )

    def points(self) -> FewShotTensors:
        """Return support x and y, query x and y, each (tasks, points, ...); of images, y is 1 for the class."""
        return [part.to(self.device, self.dtype) for part in self._drawn()]

    def _drawn(self) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(1)
        if self.work == "sinusoid":
            family = Sinusoid()
            params = family.sample_params(self.tasks, np.random.default_rng(0), "train")
            support, query = family.draw(params, self.shots, self.shots, generator)
            return [*support, *query]
        if self.work == IMAGES:
            drawn = (self._drawn_images(each, generator) for each in (self.shots, QUERY_SHOTS))
            return [part for points in drawn for part in points]
        (inputs, *_, outputs), _ = NETWORKS[self.work]
        sizes = (inputs, outputs, inputs, outputs)
        return [torch.randn(self.tasks, self.shots, size, generator=generator) for size in sizes]

    def _drawn_images(
        self, shots: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (self.tasks, CLASSES * shots, CHANNELS, self.side, self.side)
        classes = torch.eye(CLASSES).repeat(self.tasks, shots, 1)
        return torch.randn(shape, generator=generator), classes

    def arrays(self) -> dict[str, NDArray[np.float64]]:
        """Return start and points as other libraries get them: p0, p1, ... a0, a1, ... and the four parts."""
        meta = self.start()
        sizes = self.how.learner.step_sizes(meta.step_sizes, meta.params, 1)[0]
        found = {}
        for i, (name, value) in enumerate(meta.params.items()):
            found[f"p{i}"] = value
            found[f"a{i}"] = sizes[name].expand(value.shape) if name in sizes else 0 * value
        names = ("support_x", "support_y", "query_x", "query_y")
        found |= dict(zip(names, self.points(), strict=True))
        return {name: value.double().cpu().numpy() for name, value in found.items()}

    def described(self, folder: Path) -> dict[str, Any]:
        """Return what another library is told beside the arrays; `folder` is its own."""
        told = {"dtype": self.precision, "folder": str(folder), "step_size": STEP_SIZE}
        if self.work == IMAGES:
            return {**asdict(self), **told, **asdict(self._images)}
        sizes, activation = NETWORKS[self.work]
        return {**asdict(self), **told, "sizes": sizes, "activation": activation}
