"""Our tanh is torch's, and so are its first and second derivatives, also under torch.func and where operations are traced."""

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close

from mtrl.activations import tanh


def values(dtype: torch.dtype) -> Tensor:
    drawn = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    extremes = torch.tensor([0.0, 1e-4, -1e-4, 50.0, -50.0], dtype=torch.float64)
    return torch.cat([4 * drawn, extremes]).to(dtype)


def derivatives(function: object, x: Tensor) -> list[Tensor]:
    x = x.detach().requires_grad_()
    y = function(x)  # type: ignore[operator]
    weights = torch.linspace(-1, 1, len(x), dtype=x.dtype)
    (first,) = torch.autograd.grad((y * weights).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad((first * weights).sum(), x)
    return [y.detach(), first.detach(), second]


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 5e-7), (torch.float64, 0.0)])
def test_it_and_its_derivatives_are_torchs(dtype: torch.dtype, error: float) -> None:
    ours, theirs = derivatives(tanh, values(dtype)), derivatives(torch.tanh, values(dtype))
    assert_close(ours, theirs, rtol=0, atol=error)


def test_values_are_torchs_to_the_last_bits() -> None:
    x, ulps = values(torch.float32), 4 * torch.finfo(torch.float32).eps
    assert_close(tanh(x), torch.tanh(x), rtol=ulps, atol=0)
    with torch.inference_mode():
        assert_close(tanh(x), torch.tanh(x), rtol=ulps, atol=0)


def test_it_never_leaves_minus_one_to_one() -> None:
    assert tanh(values(torch.float32)).abs().max() == 1


def test_it_can_be_mapped_over_tasks_and_differentiated_there() -> None:
    x = values(torch.float32)[:1000].view(50, 20)
    gradients = torch.func.vmap(torch.func.grad(lambda row: tanh(row).sum()))(x)
    assert_close(gradients, 1 - torch.tanh(x) ** 2, rtol=0, atol=5e-7)


def test_traced_it_is_an_operation_and_not_a_constant() -> None:
    x = values(torch.float32)
    traced = make_fx(tanh)(torch.zeros_like(x))
    assert_close(traced(x), torch.tanh(x), rtol=0, atol=5e-7)


def test_other_devices_and_precisions_have_torchs_own() -> None:
    assert tanh(torch.ones(2, device="meta")).device.type == "meta"
    half = values(torch.bfloat16)
    assert torch.equal(tanh(half), torch.tanh(half))
