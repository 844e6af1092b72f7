"""Tasks' gradients of a shared trunk, combined so that no task drowns another.

A trunk wrapped in `BalancedTrunk` gets balanced gradients from the ordinary `loss.backward()` of any
algorithm, and everything else gets its own. `weigh_rows` weighs tasks' losses in the same way.
"""

from mtrl.agents.balancing.balancer import Balance, Balancer, combine
from mtrl.agents.balancing.cagrad import CAGrad
from mtrl.agents.balancing.famo import FAMO
from mtrl.agents.balancing.gradnorm import GradNorm
from mtrl.agents.balancing.nash_mtl import NashMTL
from mtrl.agents.balancing.pcgrad import PCGrad
from mtrl.agents.balancing.plain_sum import Sum
from mtrl.agents.balancing.row_weights import weigh_rows
from mtrl.agents.balancing.trunk_gradient import BalancedTrunk
from mtrl.agents.balancing.upgrad import UPGrad

__all__ = [
    "FAMO",
    "Balance",
    "BalancedTrunk",
    "Balancer",
    "BalancerConfig",
    "CAGrad",
    "GradNorm",
    "NashMTL",
    "PCGrad",
    "Sum",
    "UPGrad",
    "combine",
    "weigh_rows",
]

BalancerConfig = Sum | PCGrad | CAGrad | GradNorm | UPGrad | NashMTL | FAMO
"""The settings of a balancer; `mtrl.config.kind_name` gives its name on the command line."""
