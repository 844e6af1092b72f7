"""Rewrite a traced meta-gradient so that what all tasks share is multiplied once.

Adaptation starts from one set of parameters expanded over the tasks, and the meta-gradient is a sum over the tasks.
Traced, both are batched products, one small matrix product per task. Where a factor is the same for all tasks,
or where only the sum over the tasks is asked for, a single product of all tasks' rows on top of each other gives
the same, up to the order of sums. Products that are wanted transposed are computed so: what is derived from them
then lies in memory as the weights do.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from mtrl.meta.traced_graph import operands, shape, tidy, transpose

__all__ = ["join_shared_products"]

_ATEN = torch.ops.aten
_ADD, _SUM = _ATEN.add.Tensor, _ATEN.sum.dim_IntList
_PRODUCT, _PRODUCT_AND_BIAS = _ATEN.bmm.default, _ATEN.baddbmm.default


def join_shared_products(module: GraphModule, example: Sequence[Tensor]) -> GraphModule:
    """Return `module`, a graph of array operations, with fewer and larger matrix products; it is modified.

    Args:
        module: traced by `make_fx`.
        example: its arguments, of the shapes that it was traced with.
    """
    tidy(module, example)
    for rewrite in (_transpose_factors, _join_summed, _join_shared):
        for node in list(module.graph.nodes):
            if node.users and rewrite(module.graph, node):
                tidy(module, example)
    module.recompile()
    return module


def _transpose_factors(graph: Graph, node: Node) -> bool:
    """Replace (A B + C)^T by B^T A^T + C^T, where only the transpose is used; return whether there was one."""
    if not _is_transpose(node):
        return False
    (whole,) = operands(node)
    if not any(_is_product(term) and len(term.users) == 1 for term in _terms(whole, node)):
        return False
    with graph.inserting_before(node):
        node.replace_all_uses_with(_transposed(graph, whole, node))
    return True


def _transposed(graph: Graph, node: Node, user: Node) -> Node:
    """Return the transpose of `node`, taken of what it is made from as far as `user` alone needs it."""
    if _is_transpose(node):
        return operands(node)[0]
    if _terms(node, user) != [node]:
        parts = [_transposed(graph, part, node) for part in operands(node)]
        return graph.call_function(_ADD, tuple(parts))
    if _is_product(node) and list(node.users) == [user]:
        left, right = (transpose(graph, factor) for factor in operands(node))
        return graph.call_function(_PRODUCT, (right, left))
    return transpose(graph, node)


def _join_summed(graph: Graph, node: Node) -> bool:
    """Replace the sum over tasks of what products add up to by joined products and the sum of the rest; as above."""
    if node.target is not _SUM or node.args[1:] != ([0], True):
        return False
    terms = _terms(operands(node)[0], node)
    products = [term for term in terms if _is_product(term) and len(term.users) == 1]
    rest = [term for term in terms if term not in products]
    if not products:
        return False
    with graph.inserting_before(node):
        parts = [_joined(graph, *operands(product)) for product in products]
        parts += [graph.call_function(_SUM, (term, [0], True)) for term in rest]
        total = parts[0]
        for part in parts[1:]:
            total = graph.call_function(_ADD, (total, part))
    node.replace_all_uses_with(total)
    return True


def _terms(node: Node, user: Node) -> list[Node]:
    """Return what adds up to `node`, as far as `user` alone needs the sums between."""
    if node.target is not _ADD or list(node.users) != [user] or node.kwargs:
        return [node]
    parts = operands(node)
    if len(parts) != 2 or any(shape(part) != shape(node) for part in parts):
        return [node]
    return [term for part in parts for term in _terms(part, node)]


def _joined(graph: Graph, left: Node, right: Node) -> Node:
    """Return the sum over tasks of `left` (tasks, rows, inner) times `right` (tasks, inner, columns), (1, rows, columns)."""
    (tasks, rows, inner), columns = shape(left), shape(right)[2]
    beside = graph.call_function(_ATEN.transpose.int, (left, 0, 1))
    beside = graph.call_function(_ATEN.reshape.default, (beside, [rows, tasks * inner]))
    on_top = graph.call_function(_ATEN.reshape.default, (right, [tasks * inner, columns]))
    product = graph.call_function(_ATEN.mm.default, (beside, on_top))
    return graph.call_function(_ATEN.unsqueeze.default, (product, 0))


def _join_shared(graph: Graph, node: Node) -> bool:
    """Replace a batched product by one and the same matrix, and a bias, by a product of all rows; as above."""
    if node.target not in (_PRODUCT, _PRODUCT_AND_BIAS) or node.kwargs:
        return False
    *bias, left, right = operands(node)
    if not all(_is_shared(part) for part in (right, *bias)):
        return False
    if any(shape(part)[1] != 1 for part in bias):
        return False
    tasks, rows, inner = shape(left)
    with graph.inserting_before(node):
        on_top = graph.call_function(_ATEN.reshape.default, (left, [tasks * rows, inner]))
        own = [graph.call_function(_ATEN.select.int, (part, 0, 0)) for part in (*bias, right)]
        target = _ATEN.addmm.default if bias else _ATEN.mm.default
        product = graph.call_function(target, (*own[:-1], on_top, own[-1]))
        again = [tasks, rows, shape(right)[2]]
        node.replace_all_uses_with(graph.call_function(_ATEN.view.default, (product, again)))
    return True


def _is_shared(node: Node) -> bool:
    """Whether all tasks have the same numbers, by their place in memory."""
    found = node.meta["tensor_meta"]
    return found.stride[0] == 0 and len(found.shape) == 3


def _is_product(node: Node) -> bool:
    return node.target is _PRODUCT


def _is_transpose(node: Node) -> bool:
    return node.target is _ATEN.transpose.int and node.args[1:] in ((1, 2), (-2, -1), (-1, -2))
