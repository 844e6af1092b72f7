"""What the peers that run on torch have in common: the network as a module, the data, Adam."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["TorchProblem"]

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}
_LOSSES = (nn.functional.mse_loss, nn.functional.cross_entropy)


class TorchProblem:
    """A problem's network, step sizes and points on torch.

    Attributes:
        network: with the start's parameters.
        step_sizes: of each parameter of the network; they learn in Meta-SGD only.
        learns_step_sizes: whether they do.
        loss: of what is predicted and y.
        steps: inner steps.
        first_order: whether inner gradients are constants.
    """

    def __init__(self, problem: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        torch.set_num_threads(problem["threads"])
        self._device, self._dtype = problem["device"], getattr(torch, problem["dtype"])
        self.network = self._network(problem)
        self.loss = _LOSSES[problem["work"] == "images"]
        self.steps, self.first_order = problem["inner_steps"], problem["learner"] == "fomaml"
        self.learns_step_sizes = problem["learner"] == "meta-sgd"
        count = len(list(self.network.parameters()))
        with torch.no_grad():
            for i, value in enumerate(self.network.parameters()):
                value.copy_(self._tensor(arrays[f"p{i}"]))
        self.step_sizes = [
            self._tensor(arrays[f"a{i}"]).requires_grad_(self.learns_step_sizes)
            for i in range(count)
        ]
        names = ("support_x", "support_y", "query_x", "query_y")
        self._points = [self._tensor(arrays[name]) for name in names]
        self._adam = torch.optim.Adam(self.learned, problem["learning_rate"])

    @property
    def learned(self) -> list[Tensor]:
        """What the outer update moves, parameters first."""
        return [*self.network.parameters(), *(self.step_sizes if self.learns_step_sizes else [])]

    def adopt_step_sizes(self, step_sizes: list[Tensor]) -> None:
        """Learn a library's own tensors of step sizes in the place of these."""
        self.step_sizes = step_sizes
        rate = self._adam.param_groups[0]["lr"]
        self._adam = torch.optim.Adam(self.learned, rate)

    def tasks(self, count: int | None = None) -> Iterator[Sequence[Tensor]]:
        """Yield support x and y, query x and y of each task, or of the first `count`."""
        return zip(*(part[:count] for part in self._points), strict=True)

    @property
    def count(self) -> int:
        """Tasks."""
        return len(self._points[0])

    def update(self) -> None:
        """Take a step of Adam on the gradients that are there, and clear them."""
        self._adam.step()
        self._adam.zero_grad()

    def take_gradient(self) -> list[np.ndarray]:
        """Return the gradients that are there, and clear them."""
        found = [value.grad for value in self.learned]
        arrays = [
            np.zeros(tuple(value.shape)) if grad is None else grad.double().cpu().numpy()
            for value, grad in zip(self.learned, found, strict=True)
        ]
        self._adam.zero_grad()
        return arrays

    def synchronize(self) -> None:
        """Wait for the device."""
        if self._device.startswith("cuda"):
            torch.cuda.synchronize()

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self._device, self._dtype)

    def _network(self, problem: dict[str, Any]) -> nn.Sequential:
        make = _images if problem["work"] == "images" else _perceptron
        return nn.Sequential(*make(problem)).to(self._device, self._dtype)


def _perceptron(problem: dict[str, Any]) -> Iterator[nn.Module]:
    for i, (inputs, outputs) in enumerate(pairwise(problem["sizes"])):
        if i > 0:
            yield ACTIVATIONS[problem["activation"]]()
        yield nn.Linear(inputs, outputs)


def _images(problem: dict[str, Any]) -> Iterator[nn.Module]:
    """Yield the layers of learn2learn's `MiniImagenetCNN`; running statistics, which it keeps and never uses, are not."""
    channels, height, width = problem["shape"]
    filters, blocks = problem["filters"], problem["blocks"]
    for i in range(blocks):
        yield nn.Conv2d(channels if i == 0 else filters, filters, 3, padding=1)
        yield nn.BatchNorm2d(filters, track_running_stats=False)
        yield nn.ReLU()
        yield nn.MaxPool2d(2)
    yield nn.Flatten()
    yield nn.Linear(filters * (height >> blocks) * (width >> blocks), problem["outputs"])
