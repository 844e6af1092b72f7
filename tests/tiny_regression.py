"""A tiny regression problem in float64, on which meta-learning can be checked to rounding."""

from collections.abc import Callable

import torch
from torch import Tensor

from mtrl.meta.few_shot import FewShotAdaptation
from mtrl.meta.maml import MetaLearner
from mtrl.meta.parameters import MetaParams
from mtrl.nets import MLP, Params

# Sums of a few dozen products of order 1 in double precision stay far below this.
EXACT = {"rtol": 0.0, "atol": 1e-12}
NETWORK = MLP((2, 4, 1), "tanh")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def initial_params(seed: int = 0) -> Params:
    return {name: value.double() for name, value in NETWORK.initial(generator(seed)).items()}


def points(tasks: int, shots: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return x (tasks, shots, 2) and y (tasks, shots, 1); a task's points do not depend on `tasks`."""
    pairs = [
        (normal(shots, 2, seed=100 * seed + i), normal(shots, 1, seed=100 * seed + i + 50))
        for i in range(tasks)
    ]
    x, y = zip(*pairs, strict=True)
    return torch.stack(x), torch.stack(y)


def squared_error(params: Params, data: tuple[Tensor, Tensor]) -> Tensor:
    x, y = data
    return (NETWORK(params, x) - y).square().mean((1, 2))


def one_task_error(params: Params, data: tuple[Tensor, Tensor]) -> Tensor:
    """The same for one task, written without the network's class."""
    x, y = data
    hidden = torch.tanh(x @ params["layers.0.weight"].T + params["layers.0.bias"])
    return (hidden @ params["layers.1.weight"].T + params["layers.1.bias"] - y).square().mean()


def random_step_sizes(params: Params, steps: int) -> list[Params]:
    """Return a step size of order 0.1 for every value and step; negative ones among them."""
    return [
        {
            name: 0.1 * normal(*value.shape, seed=10 * step + i)
            for i, (name, value) in enumerate(params.items())
        }
        for step in range(steps)
    ]


def with_grad(params: Params) -> Params:
    return {name: value.clone().requires_grad_() for name, value in params.items()}


def meta_params(learner: MetaLearner, seed: int = 0, params: Params | None = None) -> MetaParams:
    """Return parameters and step sizes of order 0.1 that all differ, so that no mix-up goes unseen."""
    params = initial_params(seed) if params is None else params
    learned = learner.initial_step_sizes(params, generator(seed))
    step_sizes = {
        name: value + 0.05 * normal(*value.shape, seed=seed + 7 + i)
        for i, (name, value) in enumerate(learned.items())
    }
    return MetaParams(params, step_sizes)


def regressor(learner: MetaLearner) -> FewShotAdaptation:
    return FewShotAdaptation(NETWORK, learner)


def adapt_in_a_loop(
    params: Params,
    step_sizes: list[Params],
    loss: Callable[[Params, tuple[Tensor, Tensor]], Tensor],
    data: tuple[Tensor, Tensor],
    *,
    first_order: bool = False,
) -> list[Params]:
    """Adapt to one task after another with plain autograd; the reference for the batched inner loop."""
    adapted = []
    for x, y in zip(*data, strict=True):
        current = dict(params)
        for alpha in step_sizes:
            moving = [current[name] for name in alpha]
            gradients = torch.autograd.grad(
                loss(current, (x, y)), moving, create_graph=not first_order
            )
            stepped = {
                name: current[name] - alpha[name] * gradient
                for name, gradient in zip(alpha, gradients, strict=True)
            }
            current = current | stepped
        adapted.append(current)
    return adapted
