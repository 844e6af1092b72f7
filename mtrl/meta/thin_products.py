"""Write matrix products with a single row, column or inner index as element-wise arithmetic.

A call of a matrix product takes longer than the arithmetic of one so thin: the first and last layer of a regression
have many. Written out, the compiler joins them with what comes before and after, which saves their results' way through
memory, too.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from mtrl.meta.traced_graph import operands, shape, tidy, transpose

__all__ = ["write_out_thin_products"]

_ATEN = torch.ops.aten
_PRODUCTS = tuple(getattr(_ATEN, name).default for name in ("mm", "bmm", "addmm", "baddbmm"))


def write_out_thin_products(module: GraphModule, example: Sequence[Tensor]) -> GraphModule:
    """Return `module`, a graph of array operations, without products that are thin; it is modified.

    Args:
        module: traced by `make_fx`.
        example: its arguments, of the shapes that it was traced with.
    """
    tidy(module, example)
    for node in list(module.graph.nodes):
        if node.target in _PRODUCTS and not node.kwargs:
            with module.graph.inserting_before(node):
                written = _written_out(module.graph, node)
            if written is not None:
                node.replace_all_uses_with(written)
    tidy(module, example)
    module.recompile()
    return module


def _written_out(graph: Graph, node: Node) -> Node | None:
    *bias, left, right = operands(node)
    rows, inner, columns = shape(left)[-2], shape(left)[-1], shape(right)[-1]
    if inner == 1:
        product = graph.call_function(_ATEN.mul.Tensor, (left, right))
    elif columns == 1:
        product = _summed(graph, left, transpose(graph, right), -1)
    elif rows == 1:
        product = _summed(graph, transpose(graph, left), right, -2)
    else:
        return None
    return graph.call_function(_ATEN.add.Tensor, (product, *bias)) if bias else product


def _summed(graph: Graph, left: Node, right: Node, axis: int) -> Node:
    terms = graph.call_function(_ATEN.mul.Tensor, (left, right))
    return graph.call_function(_ATEN.sum.dim_IntList, (terms, [axis], True))
