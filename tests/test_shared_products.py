"""Joined products give what the traced graph gave, and are joined where that is right, and only there."""

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from tiny_regression import normal
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close
from traced_graphs import products

from mtrl.meta.anil import ANIL
from mtrl.meta.cavia import CAVIA, context_size
from mtrl.meta.few_shot import FewShotAdaptation
from mtrl.meta.gradient import MetaGradient
from mtrl.meta.maml import MAML, MetaLearner
from mtrl.meta.meta_sgd import MetaSGD
from mtrl.meta.parameters import MetaParams
from mtrl.meta.shared_products import join_shared_products
from mtrl.nets import MLP, Activation

TASKS, SHOTS = 4, 3
LEARNERS: dict[str, MetaLearner] = {
    "Meta-SGD": MetaSGD(),
    "Meta-SGD, two steps": MetaSGD(inner_steps=2),
    "MAML, first order": MAML(first_order=True),
    "ANIL": ANIL(inner_steps=2),
    "CAVIA": CAVIA(context_size=2),
}


def joined(function: Callable[..., list[Tensor]], *arguments: Tensor) -> Counter[str]:
    """Return the products after joining, once results are seen to be the same."""
    module = make_fx(function)(*arguments)
    expected = module(*arguments)
    found = join_shared_products(module, arguments)(*arguments)
    # Sums of a few dozen terms of order 1, in another order.
    assert_close(found, expected, rtol=0, atol=1e-12)
    return products(module)


def traced(learner: MetaLearner, activation: Activation) -> tuple[GraphModule, list[Tensor]]:
    how = FewShotAdaptation(MLP((2, 5, 4, 3), activation, context=context_size(learner)), learner)
    start = how.initial(torch.Generator().manual_seed(0)).named()
    meta = MetaParams.from_named({name: value.double() for name, value in start.items()})
    data = [normal(TASKS, SHOTS, size, seed=i) for i, size in enumerate((2, 3, 2, 3))]
    arguments = [*meta.named().values(), *data]
    function = MetaGradient(learner, how.loss)._function(list(meta.named()))
    return make_fx(function)(*arguments), arguments


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("learner", LEARNERS.values(), ids=LEARNERS)
def test_the_meta_gradient_is_the_same(learner: MetaLearner, activation: Activation) -> None:
    module, arguments = traced(learner, activation)
    expected, before = module(*arguments), products(module)
    assert_close(join_shared_products(module, arguments)(*arguments), expected, rtol=0, atol=1e-12)
    assert products(module)["bmm"] < before["bmm"]
    assert products(module).total() == before.total()


def test_nothing_is_multiplied_by_a_shared_matrix_task_by_task() -> None:
    module, arguments = traced(MetaSGD(), "tanh")
    join_shared_products(module, arguments)
    batched = [node for node in module.graph.nodes if "bmm" in str(node.target)]
    assert batched
    for node in batched:
        assert all(factor.meta["tensor_meta"].stride[0] for factor in node.args)


def test_a_shared_factor_is_multiplied_with_all_rows_at_once() -> None:
    x, weight, bias = normal(TASKS, SHOTS, 2), normal(2, 5, seed=1), normal(1, 5, seed=2)

    def affine(x: Tensor, weight: Tensor, bias: Tensor) -> list[Tensor]:
        expanded = weight.expand(TASKS, 2, 5)
        return [torch.baddbmm(bias.expand(TASKS, 1, 5), x, expanded), torch.bmm(x, expanded)]

    assert joined(affine, x, weight, bias) == {"addmm": 1, "mm": 1}


def test_a_bias_for_each_row_or_task_keeps_its_product() -> None:
    x, weight = normal(TASKS, SHOTS, 2), normal(2, 5, seed=1)
    of_rows, of_tasks = normal(SHOTS, 5, seed=2), normal(TASKS, 1, 5, seed=3)

    def affine(x: Tensor, weight: Tensor, of_rows: Tensor, of_tasks: Tensor) -> list[Tensor]:
        expanded = weight.expand(TASKS, 2, 5)
        biases = (of_rows.expand(TASKS, SHOTS, 5), of_tasks)
        return [torch.baddbmm(bias, x, expanded) for bias in biases]

    assert joined(affine, x, weight, of_rows, of_tasks) == {"baddbmm": 2}


def test_a_scaled_product_stays() -> None:
    x, weight, bias = normal(TASKS, SHOTS, 2), normal(2, 5, seed=1), normal(1, 5, seed=2)

    def scaled(x: Tensor, weight: Tensor, bias: Tensor) -> list[Tensor]:
        factors = bias.expand(TASKS, 1, 5), x, weight.expand(TASKS, 2, 5)
        return [torch.baddbmm(*factors, beta=0.5, alpha=3.0)]

    assert joined(scaled, x, weight, bias) == {"baddbmm": 1}


def test_products_that_are_only_summed_over_tasks_become_one_each() -> None:
    a, b, c = normal(TASKS, 4, SHOTS), normal(TASKS, SHOTS, 5, seed=1), normal(TASKS, 5, 4, seed=2)

    def total(a: Tensor, b: Tensor, c: Tensor) -> list[Tensor]:
        product = torch.bmm(a, b)
        whole = (product + product) + (torch.bmm(b.mT, a.mT) + c).mT
        return [whole.sum(0, keepdim=True)]

    assert joined(total, a, b, c) == {"mm": 3}


def test_a_product_that_is_wanted_for_each_task_too_stays() -> None:
    a, b = normal(TASKS, 4, SHOTS), normal(TASKS, SHOTS, 5, seed=1)

    def both(a: Tensor, b: Tensor) -> list[Tensor]:
        product = torch.bmm(a, b)
        return [product.sum(0, keepdim=True), product.square()]

    assert joined(both, a, b) == {"bmm": 1}


@pytest.mark.parametrize("axis", [1, 2])
def test_sums_over_other_axes_stay(axis: int) -> None:
    a, b = normal(TASKS, 4, SHOTS), normal(TASKS, SHOTS, 5, seed=1)

    def total(a: Tensor, b: Tensor) -> list[Tensor]:
        return [torch.bmm(a, b).sum(axis, keepdim=True)]

    assert joined(total, a, b) == {"bmm": 1}


def test_a_transposed_product_is_computed_so() -> None:
    a, b = normal(TASKS, 4, SHOTS), normal(TASKS, SHOTS, 5, seed=1)

    def transposed(a: Tensor, b: Tensor) -> list[Tensor]:
        return [torch.bmm(a, b).transpose(1, 2) * 2]

    module = make_fx(transposed)(a, b)
    assert module(a, b)[0].stride() == (20, 1, 5)
    assert_close(
        join_shared_products(module, (a, b))(a, b)[0],
        transposed(a, b)[0],
        rtol=0,
        atol=1e-12,
    )
    assert module(a, b)[0].is_contiguous()
