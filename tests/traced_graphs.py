"""What tests ask of a traced graph."""

from collections import Counter

from torch.fx import GraphModule


def products(module: GraphModule) -> Counter[str]:
    """Return how often each kind of matrix product occurs."""
    targets = (node.target for node in module.graph.nodes if node.op == "call_function")
    names = Counter(str(target).split(".")[1] for target in targets)
    return Counter({name: names[name] for name in ("mm", "addmm", "bmm", "baddbmm") if names[name]})
