"""How a policy adapts to tasks by gradient steps, and the chunks of tasks that it is worked out for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import torch

from mtrl.meta.cavia import check_context
from mtrl.meta.inner import adapt
from mtrl.meta.linearized import LinearizedAdaptation, linearize_adaptation
from mtrl.meta.maml import MetaLearner
from mtrl.meta.objectives import InnerObjective, PolicyBatch, policy_loss
from mtrl.meta.parameters import MetaParams
from mtrl.nets import Params
from mtrl.policies import Policy

__all__ = ["GradientAdaptation", "task_chunks"]

# A chunk's arrays then fit a core's cache and are reused; larger ones go back to the system after every
# operation, and faulting their pages in again costs as much as the arithmetic.
SAMPLES_PER_CHUNK = 5000


@dataclass(frozen=True)
class GradientAdaptation:
    """How a policy adapts by gradient steps: the policy, the learner and the inner objective."""

    policy: Policy
    learner: MetaLearner
    objective: InnerObjective = "likelihood"

    def __post_init__(self) -> None:
        check_context(self.learner, getattr(self.policy, "context", 0))

    def initial(self, generator: torch.Generator) -> MetaParams:
        """Draw the meta-parameters that training starts from."""
        params = self.policy.initial(generator)
        return MetaParams(params, self.learner.initial_step_sizes(params, generator))

    def adapt(self, meta: MetaParams, supports: Sequence[PolicyBatch]) -> Params:
        """Take one inner step per support batch on every task; the result has no graph.

        Without one they are the shared parameters, which have no task axis.
        """
        if not supports:
            return meta.params
        step_sizes = self.learner.step_sizes(meta.step_sizes, meta.params, len(supports))
        loss = policy_loss(self.policy, self.objective)
        chunks = [
            adapt(
                self.learner.start(meta.params, chunk[0].weights.shape[0]),
                step_sizes,
                loss,
                chunk,
                first_order=True,
            )
            for chunk in task_chunks(supports)
        ]
        return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}

    def linearize(
        self, meta: MetaParams, supports: Sequence[PolicyBatch], tasks: int
    ) -> LinearizedAdaptation:
        """Take the same steps for `tasks` tasks and keep what products with their derivative need."""
        return linearize_adaptation(
            self.learner.start(meta.params, tasks),
            self.learner.step_sizes(meta.step_sizes, meta.params, len(supports)),
            policy_loss(self.policy, self.objective),
            supports,
            first_order=self.learner.first_order,
        )


def task_chunks(batches: Sequence[PolicyBatch]) -> Iterator[list[PolicyBatch]]:
    """Cut batches of the same tasks along the task axis; an accelerator works on all tasks at once."""
    weights = batches[0].weights
    tasks, samples = weights.shape
    size = max(1, SAMPLES_PER_CHUNK // samples) if weights.device.type == "cpu" else tasks
    for start in range(0, tasks, size):
        yield [
            PolicyBatch(*(getattr(batch, f.name)[start : start + size] for f in fields(batch)))
            for batch in batches
        ]
