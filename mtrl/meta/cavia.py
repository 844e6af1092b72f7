"""CAVIA (Zintgraf, Shiarlis, Kurin, Hofmann, Whiteson 2019, arXiv:1810.03642): adapt a context, not the network.

The network has inputs that come from context parameters. These are 0 at the start of every task and the only ones
that the inner loop moves; all others are shared by the tasks and learned by the outer loop, through the inner
steps. The context itself is therefore no meta-parameter: it is not saved, and no outer update moves it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mtrl.config import check_positive
from mtrl.errors import UsageError
from mtrl.meta.inner import expand_to_tasks
from mtrl.meta.maml import MetaLearner
from mtrl.nets import CONTEXT, Params

__all__ = ["CAVIA", "check_context", "context_size"]


@dataclass(frozen=True, kw_only=True)
class CAVIA:
    """CAVIA: only context parameters, inputs of the network, adapt."""

    context_size: int = 5
    """Context parameters; the paper has 5 for sinusoids and for navigation."""
    step_size: float = 1.0
    """Step size of the inner loop; the paper's is 1."""
    later_step_scale: float = 1.0
    """Factor on the step size from the second inner step on."""
    inner_steps: int = 1
    """Inner steps in meta-training."""
    first_order: bool = False
    """Ignore second derivatives."""

    def __post_init__(self) -> None:
        check_positive(self, "context_size", "step_size", "inner_steps")

    @property
    def name(self) -> str:
        """Short name for tables and file names."""
        return "CAVIA"

    def initial_step_sizes(self, params: Params, generator: torch.Generator) -> Params:
        """Return no tensors: nothing is learned."""
        return {}

    def start(self, params: Params, tasks: int) -> Params:
        """Return the shared parameters, once per task, and a context of zeros for each."""
        some = next(iter(params.values()))
        context = some.new_zeros(tasks, self.context_size)
        return {**expand_to_tasks(params, tasks), CONTEXT: context}

    def step_sizes(self, learned: Params, params: Params, steps: int) -> Sequence[Params]:
        """Return the fixed step size of the context for each step."""
        first = next(iter(params.values())).new_tensor(self.step_size)
        later = first * self.later_step_scale
        return [{CONTEXT: first if step == 0 else later} for step in range(steps)]


def context_size(learner: object) -> int:
    """Return how many context inputs `learner` wants of the network: none unless it is CAVIA."""
    return learner.context_size if isinstance(learner, CAVIA) else 0


def check_context(learner: MetaLearner, inputs: int) -> None:
    """Check that a network with `inputs` context inputs is what `learner` adapts.

    Raises:
        UsageError: it has more or fewer.
    """
    if context_size(learner) != inputs:
        raise UsageError(
            f"{learner.name} sets {context_size(learner)} context parameters and the network has "
            f"{inputs} inputs for them; give the network context={context_size(learner)}"
        )
