"""Outer updates: what turns a meta-gradient into new meta-parameters.

`trust_region_step` is TRPO (Schulman et al. 2015, arXiv:1502.05477): a natural-gradient direction by conjugate
gradients, scaled to the KL radius, then a backtracking line search on the surrogate and the KL. It knows nothing
of meta-learning: parameters are one flat vector.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.optim.adam import adam

from mtrl.errors import UsageError
from mtrl.host_reads import reads_are_free
from mtrl.meta.parameters import MetaParams, as_one, flatten, unflatten

__all__ = [
    "TRPO",
    "AdamUpdate",
    "DescentUpdate",
    "TrustRegionStep",
    "conjugate_gradient",
    "trust_region_step",
]


@dataclass(frozen=True, kw_only=True)
class TRPO:
    """Settings of the trust-region update."""

    max_kl: float = 0.01
    """Radius of the trust region: mean KL divergence of the new from the old adapted policies."""
    final_max_kl: float | None = None
    """Radius at the end of the run, approached geometrically; the same as max_kl if left out."""
    cg_iterations: int = 10
    """Conjugate-gradient iterations for the natural-gradient direction."""
    damping: float = 1e-5
    """Multiple of the identity added to the Fisher information."""
    line_search_steps: int = 15
    """Step sizes tried before the update is given up."""
    backtrack: float = 0.8
    """Factor between two tried step sizes."""
    curvature_fraction: float = 0.05
    """Share of the samples that the Fisher products use, as every n-th one: 1, 1/2, 1/3, ...; gradient and
    line search always use all."""

    def __post_init__(self) -> None:
        if not self.max_kl > 0:
            raise UsageError(f"max_kl must be positive, got {self.max_kl}")
        if not self.damping >= 0:
            raise UsageError(f"damping must not be negative, got {self.damping}")
        if self.final_max_kl is not None and not self.final_max_kl > 0:
            raise UsageError(f"final_max_kl must be positive, got {self.final_max_kl}")
        if not 0 < self.backtrack < 1:
            raise UsageError(f"backtrack must lie between 0 and 1, got {self.backtrack}")
        if not 0 < self.curvature_fraction <= 1:
            raise UsageError(f"curvature_fraction must be in (0, 1], got {self.curvature_fraction}")
        if self.cg_iterations < 1 or self.line_search_steps < 1:
            raise UsageError("cg_iterations and line_search_steps must be at least 1")

    def at(self, progress: float) -> "TRPO":
        """Return the settings of an update at `progress`, 0 at the first of a run and 1 at the last."""
        if self.final_max_kl is None:
            return self
        radius = self.max_kl * (self.final_max_kl / self.max_kl) ** progress
        return replace(self, max_kl=radius, final_max_kl=None)


@dataclass(frozen=True)
class TrustRegionStep:
    """What one update did; numbers are tensors where the update took place on an accelerator.

    Attributes:
        point: the new parameters.
        improvement: fall of the surrogate loss.
        kl: mean KL divergence from the old to the new policies.
        fraction: part of the full step that was taken; 0 if none was acceptable.
    """

    point: Tensor
    improvement: float | Tensor
    kl: float | Tensor
    fraction: float | Tensor


def conjugate_gradient(
    product: Callable[[Tensor], Tensor], target: Tensor, iterations: int
) -> Tensor:
    """Solve A x = target for a positive definite A known by `product`, starting from zero."""
    return _solve(product, target, iterations)[0]


def _solve(
    product: Callable[[Tensor], Tensor], target: Tensor, iterations: int
) -> tuple[Tensor, Tensor]:
    """Return the solution and the residual target - A x, which conjugate gradients carry along."""
    solution = torch.zeros_like(target)
    residual = target.clone()
    direction = target.clone()
    squared = residual @ residual
    # The floor keeps iterations after convergence from dividing zero by zero, without a host read.
    tiny = torch.finfo(target.dtype).tiny
    for _ in range(iterations):
        image = product(direction)
        length = squared / (direction @ image).clamp(min=tiny)
        solution = solution + length * direction
        residual = residual - length * image
        previous, squared = squared, residual @ residual
        direction = residual + squared / previous.clamp(min=tiny) * direction
    return solution, residual


def trust_region_step(
    point: Tensor,
    start: tuple[Tensor, Tensor],
    fisher_product: Callable[[Tensor], Tensor],
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor]],
    settings: TRPO,
) -> TrustRegionStep:
    """Move `point` down the surrogate loss within the trust region, or leave it where it is.

    Args:
        point: the parameters, one vector.
        start: surrogate loss and its gradient at `point`.
        fisher_product: multiplies the Fisher information at `point` with a vector.
        evaluate: returns surrogate loss and mean KL from `point` at any vector, both scalars.
        settings: see `TRPO`.
    """
    start_loss, gradient = start
    direction, residual = _solve(
        lambda v: fisher_product(v) + settings.damping * v, gradient, settings.cg_iterations
    )
    # direction @ A direction, by A direction = gradient - residual: a product less.
    curvature = direction @ (gradient - residual)
    full = direction * torch.sqrt(2 * settings.max_kl / curvature)
    if not reads_are_free(point.device):
        return _blind_search(point, full, start_loss, evaluate, settings)
    if not bool(torch.isfinite(curvature)) or float(curvature) <= 0:
        return TrustRegionStep(point, 0.0, 0.0, 0.0)
    for attempt in range(settings.line_search_steps):
        fraction = settings.backtrack**attempt
        candidate = point - fraction * full
        loss, kl = evaluate(candidate)
        improvement, divergence = float(start_loss - loss), float(kl)
        if improvement > 0 and divergence <= settings.max_kl:
            return TrustRegionStep(candidate, improvement, divergence, fraction)
    return TrustRegionStep(point, 0.0, 0.0, 0.0)


def _blind_search(
    point: Tensor,
    full: Tensor,
    start_loss: Tensor,
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor]],
    settings: TRPO,
) -> TrustRegionStep:
    """Try every step size and keep the first that is acceptable, without looking at one.

    Where the curvature was of no use `full` is not finite, and neither is a loss: nothing is acceptable then.
    """
    zero = torch.zeros_like(start_loss)
    kept, found = [point, zero, zero, zero], torch.zeros_like(start_loss, dtype=torch.bool)
    for attempt in range(settings.line_search_steps):
        fraction = settings.backtrack**attempt
        candidate = point - fraction * full
        loss, kl = evaluate(candidate)
        improvement = start_loss - loss
        first = ~found & (improvement > 0) & (kl <= settings.max_kl)
        tried = [candidate, improvement, kl, torch.full_like(zero, fraction)]
        kept = [torch.where(first, new, old) for new, old in zip(tried, kept, strict=True)]
        found = found | first
    return TrustRegionStep(*kept)


class AdamUpdate:
    """Adam (Kingma and Ba 2015) on all meta-parameters, in place.

    Args:
        meta: the parameters and step sizes to train; they are modified, and become views of one vector.
    """

    def __init__(self, meta: MetaParams) -> None:
        self._named = meta.named()
        for value in self._named.values():
            value.requires_grad_(False)
        # A dozen small tensors would each be looked after in Python, which takes longer than their arithmetic.
        self._vector = as_one(self._named)
        moments = (torch.zeros_like(self._vector) for _ in range(2))
        self._state = dict(zip(("exp_avg", "exp_avg_sq"), moments, strict=True))
        self._state["step"] = torch.zeros((), device=self._vector.device)

    def step(self, gradient: Tensor, learning_rate: float) -> None:
        """Update all meta-parameters by their gradient, one vector in the order of `MetaParams.flat`."""
        # torch's optimiser around this function takes twice its time.
        adam(
            [self._vector],
            [gradient],
            [self._state["exp_avg"]],
            [self._state["exp_avg_sq"]],
            [],
            [self._state["step"]],
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=learning_rate,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return the state under `<meta-parameter>.<entry>`, the entries named as torch's optimiser names them."""
        found: dict[str, Tensor] = {}
        for entry, whole in self._state.items():
            parts = (
                unflatten(whole, self._named) if whole.ndim else dict.fromkeys(self._named, whole)
            )
            found |= {f"{name}.{entry}": part.clone() for name, part in parts.items()}
        return found

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Continue with a state that `tensors` returned; without any, start."""
        if not tensors:
            return
        for entry, whole in self._state.items():
            parts = {name: tensors[f"{name}.{entry}"] for name in self._named}
            whole.copy_(flatten(parts) if whole.ndim else next(iter(parts.values())))


class DescentUpdate:
    """Plain gradient descent on all meta-parameters, in place.

    Args:
        meta: the parameters and step sizes to train; they are modified, and become views of one vector.
    """

    def __init__(self, meta: MetaParams) -> None:
        self._vector = as_one(meta.named())

    def step(self, gradient: Tensor, learning_rate: float) -> None:
        """Take `learning_rate` times the gradient, in the order of `MetaParams.flat`, off all meta-parameters."""
        self._vector.sub_(gradient, alpha=learning_rate)

    def tensors(self) -> dict[str, Tensor]:
        """Return nothing: no update depends on those before."""
        return {}
