"""What rewriting a traced graph of array operations needs to know about its nodes."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.passes.shape_prop import ShapeProp

__all__ = ["operands", "shape", "tidy", "transpose"]


def tidy(module: GraphModule, example: Sequence[Tensor]) -> None:
    """Drop what is not used any more, and note shapes and places in memory of what is."""
    module.graph.eliminate_dead_code()
    ShapeProp(module).propagate(*example)


def operands(node: Node) -> list[Node]:
    """Return the arguments that are themselves results."""
    return [part for part in node.args if isinstance(part, Node)]


def shape(node: Node) -> tuple[int, ...]:
    """Return the shape that `tidy` noted."""
    return tuple(node.meta["tensor_meta"].shape)


def transpose(graph: Graph, node: Node) -> Node:
    """Return a new node with the last two axes of `node` exchanged."""
    return graph.call_function(torch.ops.aten.transpose.int, (node, -2, -1))
