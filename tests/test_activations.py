"""Our tanh is torch's, and so are its first and second derivatives."""

import pytest
import torch
from tiny_regression import generator
from torch import Tensor
from torch.testing import assert_close

from mtrl.activations import tanh


def values(dtype: torch.dtype) -> Tensor:
    x = torch.randn(1000, generator=generator(), dtype=dtype) * 4
    return torch.cat([x, torch.tensor([0.0, 1e-4, -1e-4, 50.0, -50.0], dtype=dtype)])


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


def test_it_never_leaves_minus_one_to_one() -> None:
    assert tanh(values(torch.float32)).abs().max() == 1
