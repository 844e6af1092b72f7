"""Returns, advantages and the linear feature baseline, as pure functions of tensors on any device.

Tensors are shaped (..., time), one episode per row; the leading axes are usually (tasks, episodes).
`mask` is 1 while a step belongs to the episode and 0 after it; what rewards, values and
observations hold after the end is ignored, and results are 0 there. Nothing here reads a value
back from the device.

Sources: Schulman et al. 2016 (arXiv:1506.02438) for the advantages; Duan et al. 2016
(arXiv:1604.06778) for the baseline's features, and rllab for its fit.
"""

import torch
from torch import Tensor

__all__ = [
    "discounted_returns",
    "fit_linear_baseline",
    "generalized_advantages",
    "linear_baseline",
    "standardize",
]

_EPSILON = 1e-8
_REGULARIZATION_STEPS = 6


def discounted_returns(rewards: Tensor, mask: Tensor, discount: float) -> Tensor:
    """Return the discounted sum of rewards from each step to the end of its episode.

    A truncated episode counts as if nothing followed; use `generalized_advantages` to bootstrap.

    Args:
        rewards: (..., time).
        mask: (..., time).
        discount: per step, in [0, 1].

    Returns:
        (..., time), 0 after the end.

    Raises:
        ValueError: the shapes differ, or the discount is outside [0, 1].
    """
    _require_fraction("discount", discount)
    _require_same_shape(rewards=rewards, mask=mask)
    return _masked(_discounted_sums(_masked(rewards, mask), discount), mask)


def generalized_advantages(
    rewards: Tensor,
    values: Tensor,
    terminated: Tensor,
    mask: Tensor,
    discount: float,
    gae_lambda: float,
) -> Tensor:
    """Return generalised advantage estimates (Schulman et al. 2016, eq. 16).

    An episode that stops without `terminated` was truncated: the value of the observation it
    stopped at stands for the rewards that were not seen. After a termination nothing follows.
    `advantages + values[..., :-1]` are the matching value targets.

    Args:
        rewards: (..., time).
        values: (..., time + 1), the value of the observation before each step and, last, of the
            observation after the final one. An episode of n < time steps has it at index n.
        terminated: (..., time), 1 at a step that reached a terminal state.
        mask: (..., time).
        discount: per step, in [0, 1].
        gae_lambda: in [0, 1]; 0 gives one-step temporal differences, 1 returns minus values.

    Returns:
        (..., time), 0 after the end.

    Raises:
        ValueError: shapes do not match, or a factor is outside [0, 1].
    """
    _require_fraction("discount", discount)
    _require_fraction("gae_lambda", gae_lambda)
    _require_same_shape(rewards=rewards, terminated=terminated, mask=mask)
    if values.shape != (*rewards.shape[:-1], rewards.shape[-1] + 1):
        raise ValueError(
            f"values {tuple(values.shape)} must have one step more than rewards "
            f"{tuple(rewards.shape)}: append the value of the final observation "
            "(or 0 if running out of time counts as an end)"
        )
    following = values[..., 1:].masked_fill(terminated.bool(), 0.0)
    errors = _masked(rewards + discount * following - values[..., :-1], mask)
    return _masked(_discounted_sums(errors, discount * gae_lambda), mask)


def standardize(advantages: Tensor, mask: Tensor, over: tuple[int, ...] = (-2, -1)) -> Tensor:
    """Shift and scale advantages to mean 0 and standard deviation 1 over the valid steps.

    The mean and the (population) deviation are taken over the axes `over`, by default over the
    episodes and steps of each task, so that no task's scale leaks into another's. 1e-8 is added
    to the deviation: a group of equal values, or of a single one, becomes 0.

    Args:
        advantages: (..., time).
        mask: (..., time).
        over: the axes that share one mean and one deviation.

    Returns:
        (..., time), 0 after the end.

    Raises:
        ValueError: the shapes differ.
    """
    _require_same_shape(advantages=advantages, mask=mask)
    count = mask.to(advantages.dtype).sum(over, keepdim=True).clamp(min=1.0)
    mean = _masked(advantages, mask).sum(over, keepdim=True) / count
    centred = _masked(advantages - mean, mask)
    deviation = (centred.square().sum(over, keepdim=True) / count).sqrt()
    return centred / (deviation + _EPSILON)


def fit_linear_baseline(
    observations: Tensor, returns: Tensor, mask: Tensor, regularization: float = 1e-5
) -> Tensor:
    """Fit each task's returns by least squares on Duan et al.'s features of observation and time.

    The features are [o, o^2, t/100, (t/100)^2, (t/100)^3, 1]. All tasks are solved at once from
    their normal equations in float64, with `regularization` added to the diagonal. Where that
    leaves a task's equations singular its regularisation grows tenfold, up to five times.

    Args:
        observations: (tasks, episodes, time, observation size).
        returns: (tasks, episodes, time).
        mask: (tasks, episodes, time).
        regularization: positive.

    Returns:
        Weights (tasks, 2 * observation size + 4) in float64, for `linear_baseline`. NaN for a task
        that no regularisation saves, as when an observation is infinite.

    Raises:
        ValueError: shapes do not match, or the regularisation is not positive.
    """
    if not regularization > 0:
        raise ValueError(f"regularization must be positive, got {regularization}")
    _require_same_shape(returns=returns, mask=mask)
    if observations.dim() != 4 or observations.shape[:-1] != returns.shape:
        raise ValueError(
            f"observations {tuple(observations.shape)} do not fit returns {tuple(returns.shape)}: "
            "pass (tasks, episodes, time, size) and (tasks, episodes, time); unsqueeze the axes "
            "that are missing, also where there is one task or one feature"
        )
    valid = mask.bool()
    features = _features(observations.masked_fill(~valid.unsqueeze(-1), 0.0))
    features = features.masked_fill_(~valid.unsqueeze(1), 0.0).flatten(2)
    targets = _masked(returns, mask).flatten(1).unsqueeze(-1).double()
    return _solve(features @ features.mT, features @ targets, regularization)


def linear_baseline(observations: Tensor, weights: Tensor) -> Tensor:
    """Predict the return from each observation with the weights of `fit_linear_baseline`.

    Args:
        observations: (tasks, episodes, time, observation size); time may be longer than in the
            fit, to value final observations.
        weights: (tasks, 2 * observation size + 4).

    Returns:
        (tasks, episodes, time), in the observations' type.

    Raises:
        ValueError: the weights do not belong to observations of this size or number of tasks.
    """
    expected = (observations.shape[0], 2 * observations.shape[-1] + 4)
    if observations.dim() != 4 or weights.shape != expected:
        raise ValueError(
            f"weights {tuple(weights.shape)} do not fit observations {tuple(observations.shape)}: "
            "pass observations as (tasks, episodes, time, size) and the weights fitted to the same "
            "tasks, (tasks, 2 * size + 4)"
        )
    values = weights.double().unsqueeze(1) @ _features(observations).flatten(2)
    return values.view(observations.shape[:-1]).to(observations.dtype)


def _discounted_sums(x: Tensor, factor: float) -> Tensor:
    """Return y with y[t] = x[t] + factor * y[t + 1].

    By doubling: after the pass with `reach`, y[t] holds the first 2 * reach terms of its sum. That is
    log2(time) large operations where the recursion takes `time` small ones.
    """
    reach = 1
    while reach < x.shape[-1]:
        head = torch.add(x[..., :-reach], x[..., reach:], alpha=factor**reach)
        x = torch.cat([head, x[..., -reach:]], -1)
        reach *= 2
    return x


def _features(observations: Tensor) -> Tensor:
    """Return float64 features (tasks, features, episodes, time): long rows make the products fast."""
    o = observations.double().movedim(-1, 1)
    t = torch.arange(o.shape[-1], dtype=o.dtype, device=o.device) / 100.0
    clock = torch.stack([t, t**2, t**3, torch.ones_like(t)])
    clock = clock[None, :, None, :].expand(o.shape[0], -1, o.shape[2], -1)
    return torch.cat([o, o.square(), clock], 1)


def _solve(gram: Tensor, moments: Tensor, regularization: float) -> Tensor:
    """Solve (gram + r I) w = moments for each task with the smallest r that works.

    All the candidates are solved and one is selected: testing for failure would wait for the device.
    """
    ladder = regularization * 10.0 ** torch.arange(
        _REGULARIZATION_STEPS, dtype=gram.dtype, device=gram.device
    )
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    factors, failed = torch.linalg.cholesky_ex(gram + ladder[:, None, None, None] * identity)
    candidates = torch.cholesky_solve(moments.expand(len(ladder), *moments.shape), factors)
    candidates = candidates.squeeze(-1)
    solved = (failed == 0) & candidates.isfinite().all(-1)
    first = solved.int().argmax(0)[None, :, None].expand(1, *candidates.shape[1:])
    chosen = candidates.gather(0, first).squeeze(0)
    return chosen.masked_fill(~solved.any(0).unsqueeze(-1), torch.nan)


def _masked(x: Tensor, mask: Tensor) -> Tensor:
    # Not a product: 0 * inf is NaN, and a finished environment may report anything.
    return x.masked_fill(~mask.bool(), 0.0)


def _require_fraction(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must be in [0, 1], got {value}")


def _require_same_shape(**tensors: Tensor) -> None:
    (name, first), *others = tensors.items()
    for other_name, other in others:
        if other.shape != first.shape:
            raise ValueError(
                f"{other_name} {tuple(other.shape)} must have the shape of {name} "
                f"{tuple(first.shape)}: index or expand it to one entry per step "
                "(broadcasting here would mix up episodes)"
            )
