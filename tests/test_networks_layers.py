"""The hyperbolic tangent by NumPy is torch's, with its derivatives, also under torch.func."""

import pytest
import torch
from torch.testing import assert_close

from mtrl.agents.networks.layers import ACTIVATIONS

tanh = ACTIVATIONS["tanh"]


def some(dtype: torch.dtype) -> torch.Tensor:
    drawn = torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (8 * drawn).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_are_torchs_to_the_last_bits(dtype: torch.dtype) -> None:
    ulps = 4 * torch.finfo(dtype).eps
    assert_close(tanh(some(dtype)), torch.tanh(some(dtype)), rtol=ulps, atol=0)
    with torch.inference_mode():
        assert_close(tanh(some(dtype)), torch.tanh(some(dtype)), rtol=ulps, atol=0)


def test_both_derivatives_are_exact() -> None:
    values = (some(torch.float64)[:3] / 8).requires_grad_()
    assert torch.autograd.gradcheck(tanh, values)
    assert torch.autograd.gradgradcheck(tanh, values)


def test_it_can_be_mapped_over_tasks_and_differentiated_there() -> None:
    values = some(torch.float64)
    gradients = torch.func.vmap(torch.func.grad(lambda row: tanh(row).sum()))(values)
    assert_close(gradients, 1 - torch.tanh(values) ** 2, rtol=1e-12, atol=1e-15)


def test_other_devices_and_precisions_have_torchs_own() -> None:
    assert tanh(torch.ones(2, device="meta")).device.type == "meta"
    half = some(torch.bfloat16)
    assert torch.equal(tanh(half), torch.tanh(half))
