"""Thin products written out give what the products gave, and products with something to them stay."""

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from tiny_regression import normal
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close
from traced_graphs import products

from mtrl.meta.few_shot import FewShotAdaptation
from mtrl.meta.gradient import MetaGradient
from mtrl.meta.meta_sgd import MetaSGD
from mtrl.meta.parameters import MetaParams
from mtrl.meta.shared_products import join_shared_products
from mtrl.meta.thin_products import write_out_thin_products
from mtrl.nets import MLP

TASKS, SHOTS = 4, 3
# Rows, inner index and columns, of which one is 1.
THIN = {"one row": (1, 5, 4), "one inner index": (5, 1, 4), "one column": (5, 4, 1)}
each_thin = pytest.mark.parametrize("sizes", THIN.values(), ids=THIN)


def written_out(function: Callable[..., list[Tensor]], *arguments: Tensor) -> Counter[str]:
    """Return the products that are left, once results are seen to be the same in value and shape."""
    module = make_fx(function)(*arguments)
    expected = module(*arguments)
    found = write_out_thin_products(module, arguments)(*arguments)
    # Sums of up to five terms of order 1, in another order.
    assert_close(found, expected, rtol=0, atol=1e-14)
    return products(module)


@each_thin
def test_a_thin_product_is_written_out(sizes: tuple[int, int, int]) -> None:
    rows, inner, columns = sizes
    a, b = normal(rows, inner), normal(inner, columns, seed=1)
    assert written_out(lambda a, b: [torch.mm(a, b)], a, b) == {}


@each_thin
def test_a_thin_product_for_each_task_is_written_out(sizes: tuple[int, int, int]) -> None:
    rows, inner, columns = sizes
    a, b = normal(TASKS, rows, inner), normal(TASKS, inner, columns, seed=1)
    assert written_out(lambda a, b: [torch.bmm(a, b)], a, b) == {}


@each_thin
def test_its_bias_is_added(sizes: tuple[int, int, int]) -> None:
    rows, inner, columns = sizes
    a, b = normal(TASKS, rows, inner), normal(TASKS, inner, columns, seed=1)
    bias, shared = normal(TASKS, 1, columns, seed=2), normal(columns, seed=3)

    def affine(a: Tensor, b: Tensor, bias: Tensor, shared: Tensor) -> list[Tensor]:
        return [torch.baddbmm(bias, a, b), torch.addmm(shared, a[0], b[0])]

    assert written_out(affine, a, b, bias, shared) == {}


def test_a_product_with_a_square_in_it_stays() -> None:
    a, b = normal(TASKS, 2, 5), normal(TASKS, 5, 2, seed=1)
    assert written_out(lambda a, b: [torch.bmm(a, b)], a, b) == {"bmm": 1}


def test_a_scaled_product_stays() -> None:
    a, b, bias = normal(TASKS, 5, 1), normal(TASKS, 1, 4, seed=1), normal(TASKS, 5, 4, seed=2)

    def scaled(a: Tensor, b: Tensor, bias: Tensor) -> list[Tensor]:
        return [torch.baddbmm(bias, a, b, beta=0.5, alpha=3.0)]

    assert written_out(scaled, a, b, bias) == {"baddbmm": 1}


def test_of_a_regressions_meta_gradient_the_square_layers_products_are_left() -> None:
    how = FewShotAdaptation(MLP((1, 5, 5, 1), "relu"), MetaSGD())
    start = how.initial(torch.Generator().manual_seed(0)).named()
    meta = MetaParams.from_named({name: value.double() for name, value in start.items()})
    data = [normal(TASKS, SHOTS, 1, seed=i) for i in range(4)]
    arguments = [*meta.named().values(), *data]
    module = make_fx(MetaGradient(MetaSGD(), how.loss)._function(list(meta.named())))(*arguments)
    expected = module(*arguments)
    joined = products(join_shared_products(module, arguments))
    left = write_out_thin_products(module, arguments)
    assert_close(left(*arguments), expected, rtol=0, atol=1e-12)
    assert 0 < products(left).total() < joined.total() / 2
    for node in left.graph.nodes:
        if node.target in (torch.ops.aten.mm.default, torch.ops.aten.bmm.default):
            assert all(1 not in factor.meta["tensor_meta"].shape[-2:] for factor in node.args)
