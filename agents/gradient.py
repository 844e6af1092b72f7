"""Agents that adapt by gradient steps on their own episodes: MAML, Meta-SGD, and no adaptation at all."""

import torch
from torch import Tensor

from mtrl.meta.agent import Transition
from mtrl.meta.inner import adapt
from mtrl.meta.objectives import AdvantageSettings, policy_batch, policy_loss
from mtrl.meta.parameters import MetaParams
from mtrl.meta.policy_adaptation import GradientAdaptation
from mtrl.nets import Params
from mtrl.rollouts import Rollout

__all__ = ["FrozenAgent", "GradientAgent"]


class GradientAgent:
    """A meta-learned policy that takes one inner step per round of episodes; a `MetaAgent`.

    Args:
        how: policy, learner and inner objective, as in meta-training.
        meta: the meta-parameters.
        advantages: how rewards become advantages, as in meta-training.
    """

    def __init__(
        self, how: GradientAdaptation, meta: MetaParams, advantages: AdvantageSettings
    ) -> None:
        self._how = how
        self._meta = meta
        self._advantages = advantages
        self._params: Params = meta.params
        self._transitions: list[Transition] = []
        self._log_probs: list[Tensor] = []
        self._rounds = 0

    @property
    def name(self) -> str:
        """What tables call it."""
        return self._how.learner.name

    def begin(self, n_tasks: int) -> None:
        """Start from the meta-learned initialisation on `n_tasks` new tasks."""
        self._params = self._how.learner.start(self._meta.params, n_tasks)
        self._transitions, self._log_probs = [], []
        self._rounds = 0

    def act(self, observations: Tensor, generator: torch.Generator) -> Tensor:
        """Sample actions (tasks, episodes, ...) from the policy adapted so far."""
        noise = self._how.policy.noise(tuple(observations.shape[:-1]), generator)
        distribution = self._how.policy(self._params, observations)
        actions = distribution.sample(noise)
        self._log_probs.append(distribution.log_prob(actions))
        return actions

    def observe(self, transition: Transition) -> None:
        """Keep the transition for the next adaptation."""
        self._transitions.append(transition)

    def adapt(self) -> None:
        """Take the next inner step on the episodes observed since the last one."""
        batch = policy_batch(_rollout(self._transitions, self._log_probs), self._advantages)
        learner, meta = self._how.learner, self._meta
        step_sizes = learner.step_sizes(meta.step_sizes, meta.params, self._rounds + 1)[-1]
        loss = policy_loss(self._how.policy, self._how.objective)
        self._params = adapt(self._params, [step_sizes], loss, [batch], first_order=True)
        self._transitions, self._log_probs = [], []
        self._rounds += 1


class FrozenAgent(GradientAgent):
    """The same policy without adaptation: the baseline that adaptation must beat."""

    @property
    def name(self) -> str:
        """What tables call it."""
        return "no adaptation"

    def observe(self, transition: Transition) -> None:
        """Ignore it."""

    def adapt(self) -> None:
        """Stay as meta-training left it."""


def _rollout(transitions: list[Transition], log_probs: list[Tensor]) -> Rollout:
    def stacked(field: str) -> Tensor:
        return torch.stack([getattr(step, field) for step in transitions], dim=2)

    return Rollout(
        observations=stacked("observations"),
        actions=stacked("actions"),
        log_probs=torch.stack(log_probs, dim=2),
        rewards=stacked("rewards"),
        mask=stacked("running"),
        terminated=stacked("terminated"),
        final_observations=transitions[-1].next_observations,
    ).trimmed()
