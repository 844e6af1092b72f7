"""Split a traced function into what its first argument has no part in, and the rest.

A function that is called many times with all other arguments the same, as the products of conjugate gradients are,
then computes the first part once.
"""

from torch.fx import Graph, GraphModule, Node

__all__ = ["split_off_constants"]


def split_off_constants(module: GraphModule) -> tuple[GraphModule, GraphModule]:
    """Return two modules that one after the other compute what `module` does.

    Args:
        module: a graph of array operations with a list of results, traced by `make_fx`.

    Returns:
        The first takes all arguments but the first and returns a list; the second takes the first argument and then what
        is in that list.
    """
    first = next(iter(module.graph.nodes))
    changing = {first}
    for node in module.graph.nodes:
        if node.op == "output" or changing.intersection(node.all_input_nodes):
            changing.add(node)
    wanted = [
        node
        for node in module.graph.nodes
        if node not in changing and (changing.intersection(node.users))
    ]
    return _constants(module, changing, wanted), _rest(module, changing, first, wanted)


def _constants(module: GraphModule, changing: set[Node], wanted: list[Node]) -> GraphModule:
    graph, copies = Graph(), dict[Node, Node]()
    for node in module.graph.nodes:
        if node not in changing and node.op != "output":
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output([copies[node] for node in wanted])
    graph.eliminate_dead_code()
    return GraphModule(module, graph)


def _rest(module: GraphModule, changing: set[Node], first: Node, wanted: list[Node]) -> GraphModule:
    graph, copies = Graph(), dict[Node, Node]()
    for node in (first, *wanted):
        copies[node] = graph.placeholder(f"given_{node.name}")
    for node in module.graph.nodes:
        if node in changing and node is not first:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    return GraphModule(module, graph)
