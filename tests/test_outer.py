"""Adam, conjugate gradients and the trust region against torch, NumPy and problems solved by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from tiny_regression import EXACT, generator, initial_params, meta_params, normal
from torch import Tensor
from torch.testing import assert_close

from mtrl.errors import UsageError
from mtrl.meta.meta_sgd import MetaSGD
from mtrl.meta.outer import TRPO, AdamUpdate, conjugate_gradient, trust_region_step
from mtrl.meta.parameters import MetaParams, as_one

SIZE = 6


def positive_definite(size: int = SIZE) -> Tensor:
    """Return a matrix whose condition number is below a hundred."""
    root = normal(size, size, seed=1)
    return root @ root.T / size + 0.1 * torch.eye(size, dtype=torch.float64)


# Adam


def gradients(meta: MetaParams, seed: int) -> Tensor:
    flat = meta.flat()
    return normal(flat.numel(), seed=seed).to(flat.dtype)


def test_adam_is_torchs_on_parameters_and_step_sizes_with_a_rate_per_update() -> None:
    meta = meta_params(MetaSGD())
    copies = [value.clone().requires_grad_() for value in meta.named().values()]
    theirs = torch.optim.Adam(copies, lr=0.1, foreach=False)
    ours = AdamUpdate(meta)
    for step, rate in enumerate((0.1, 0.1, 0.02, 0.005)):
        gradient = gradients(meta, 10 * step)
        ours.step(gradient, rate)
        theirs.param_groups[0]["lr"] = rate
        for copy, value in zip(copies, meta.like(gradient).named().values(), strict=True):
            copy.grad = value
        theirs.step()
    assert_close(list(meta.named().values()), [copy.detach() for copy in copies], **EXACT)


def test_adam_continued_from_its_tensors_is_bit_equal() -> None:
    params = {name: value.float() for name, value in initial_params().items()}
    meta = MetaParams(params, MetaSGD().initial_step_sizes(params, generator()))
    update = AdamUpdate(meta)
    for step in range(3):
        update.step(gradients(meta, step), 0.1)
    copy = MetaParams.from_named({name: value.clone() for name, value in meta.named().items()})
    resumed = AdamUpdate(copy)
    saved = {name: value.clone() for name, value in update.tensors().items()}
    resumed.load_tensors(saved)
    for step in range(3, 6):
        update.step(gradients(meta, step), 0.05)
        resumed.step(gradients(meta, step), 0.05)
    assert_close(copy.named(), meta.named(), rtol=0, atol=0)
    assert_close(resumed.tensors(), update.tensors(), rtol=0, atol=0)
    # What was loaded is the caller's: training on must not write into it.
    assert_close(saved["params.layers.0.bias.step"], torch.tensor(3.0), rtol=0, atol=0)


def test_adam_not_continued_from_its_tensors_differs() -> None:
    ends = []
    for load in (True, False):
        meta = meta_params(MetaSGD())
        update = AdamUpdate(meta)
        update.step(gradients(meta, 1), 0.1)
        resumed = AdamUpdate(meta)
        if load:
            resumed.load_tensors(update.tensors())
        resumed.step(gradients(meta, 2), 0.1)
        ends.append(meta.flat())
    assert (ends[0] - ends[1]).abs().max() > 1e-3


def test_all_meta_parameters_become_views_of_one_vector_once() -> None:
    meta = meta_params(MetaSGD())
    tensors, before = meta.named(), meta.flat()
    vector = as_one(tensors)
    assert_close(vector, before, rtol=0, atol=0)
    vector += 1
    assert_close(meta.flat(), before + 1, rtol=0, atol=0)
    assert all(
        value is again for value, again in zip(tensors.values(), meta.named().values(), strict=True)
    )
    # A second update of the same meta-parameters must not take them away from the first.
    assert as_one(meta.named()).data_ptr() == vector.data_ptr()
    strayed = dict(reversed(meta.named().items()))
    assert_close(
        as_one(strayed), torch.cat([v.flatten() for v in strayed.values()]), rtol=0, atol=0
    )


# Conjugate gradients


def test_conjugate_gradient_solves_in_as_many_iterations_as_dimensions() -> None:
    matrix, target = positive_definite(), normal(SIZE, seed=2)
    expected = np.linalg.solve(matrix.numpy(), target.numpy())
    actual = conjugate_gradient(lambda v: matrix @ v, target, SIZE)
    # Rounding, amplified by the condition number of about a hundred.
    assert_close(actual, torch.from_numpy(expected), rtol=1e-9, atol=1e-10)
    early = conjugate_gradient(lambda v: matrix @ v, target, SIZE - 2)
    assert (early - actual).abs().max() > 1e-6


@pytest.mark.parametrize("target", [torch.zeros(SIZE), torch.ones(SIZE)])
def test_conjugate_gradient_stays_at_the_solution_once_it_is_there(target: Tensor) -> None:
    solution = conjugate_gradient(lambda v: 2 * v, target, 10)
    assert_close(solution, target / 2, rtol=0, atol=0)


# Trust region

POINT = normal(SIZE, seed=5)
SLOPE = normal(SIZE, seed=6)
FISHER = positive_definite()


def on_a_plane(
    settings: TRPO, kl_factor: float = 1.0, loss_factor: float = 1.0
) -> tuple[Any, Tensor]:
    """Step down the plane `SLOPE`, with a quadratic KL; return the step and the full one by hand."""

    def evaluate(vector: Tensor) -> tuple[Tensor, Tensor]:
        change = vector - POINT
        return loss_factor * SLOPE @ change, kl_factor * 0.5 * change @ FISHER @ change

    start = (torch.zeros((), dtype=torch.float64), SLOPE)
    step = trust_region_step(POINT, start, lambda v: FISHER @ v, evaluate, settings)
    damped = FISHER + settings.damping * torch.eye(SIZE, dtype=torch.float64)
    direction = torch.linalg.solve(damped, SLOPE)
    return step, direction * torch.sqrt(2 * settings.max_kl / (SLOPE @ direction))


def test_the_step_goes_along_the_natural_gradient_to_the_radius() -> None:
    step, full = on_a_plane(TRPO(max_kl=0.03, damping=1e-6))
    assert step.fraction == 1.0
    assert_close(step.point, POINT - full, rtol=1e-8, atol=1e-9)
    # Damping shortens the step a little: by at most damping / the smallest eigenvalue, 0.1.
    assert_close(step.kl, 0.03, rtol=1e-5, atol=0)
    assert_close(step.improvement, (SLOPE @ full).item(), rtol=1e-8, atol=0)


def test_damping_turns_the_step_towards_the_gradient() -> None:
    step, full = on_a_plane(TRPO(damping=100.0))
    assert_close(step.point, POINT - full, rtol=1e-8, atol=1e-9)
    cosine = torch.nn.functional.cosine_similarity(POINT - step.point, SLOPE, dim=0)
    undamped = torch.nn.functional.cosine_similarity(on_a_plane(TRPO())[1], SLOPE, dim=0)
    assert cosine > 0.999 > undamped


def test_the_line_search_goes_back_until_the_kl_is_within_the_radius() -> None:
    # The KL is three times what the Fisher information says: 3 * 0.8**(2 k) <= 1 first for k = 3.
    settings = TRPO(max_kl=0.03, backtrack=0.8)
    step, full = on_a_plane(settings, kl_factor=3.0)
    assert_close(step.point, POINT - 0.8**3 * full, rtol=1e-8, atol=1e-9)
    assert_close(step.fraction, 0.8**3, **EXACT)
    assert step.kl <= settings.max_kl


@pytest.mark.parametrize(
    ("settings", "factors"),
    [
        (TRPO(), {"loss_factor": -1.0}),
        (TRPO(), {"loss_factor": float("nan")}),
        (TRPO(), {"kl_factor": float("nan")}),
        (TRPO(line_search_steps=3), {"kl_factor": 3.0}),
    ],
)
def test_a_step_that_cannot_be_trusted_is_refused(
    settings: TRPO, factors: dict[str, float]
) -> None:
    step, _ = on_a_plane(settings, **factors)
    assert (step.fraction, step.improvement, step.kl) == (0.0, 0.0, 0.0)
    assert_close(step.point, POINT, rtol=0, atol=0)


@pytest.mark.parametrize("slope", [0.0, float("nan")])
def test_without_a_usable_gradient_nothing_moves(slope: float) -> None:
    def never(vector: Tensor) -> tuple[Tensor, Tensor]:
        raise AssertionError("there is no direction to search along")

    start = (torch.zeros(()), torch.full_like(POINT, slope))
    step = trust_region_step(POINT, start, lambda v: FISHER @ v, never, TRPO())
    assert step.fraction == 0.0
    assert_close(step.point, POINT, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_kl": 0.0}, "max_kl must be positive, got 0.0"),
        ({"damping": -1e-5}, "damping must not be negative, got -1e-05"),
        ({"backtrack": 1.0}, "backtrack must lie between 0 and 1, got 1.0"),
        ({"curvature_fraction": 0.0}, r"curvature_fraction must be in \(0, 1\], got 0.0"),
        ({"cg_iterations": 0}, "cg_iterations and line_search_steps must be at least 1"),
        ({"line_search_steps": 0}, "cg_iterations and line_search_steps must be at least 1"),
    ],
)
def test_senseless_settings_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TRPO(**options)


def test_the_radius_goes_geometrically_from_the_first_to_the_last() -> None:
    settings = TRPO(max_kl=0.1, final_max_kl=0.001)
    radii = [settings.at(progress).max_kl for progress in (0.0, 0.5, 1.0)]
    assert radii == pytest.approx([0.1, 0.01, 0.001])
    assert TRPO(max_kl=0.1).at(0.7) == TRPO(max_kl=0.1)
    with pytest.raises(UsageError, match="final_max_kl must be positive, got 0"):
        TRPO(final_max_kl=0)
