"""Agents that adapt by inference: PEARL, which believes more about a task with every transition it sees."""

import torch
from torch import Tensor

from mtrl.agents.pearl.belief import Belief, prior_belief, product_of_gaussians
from mtrl.agents.pearl.policy import LatentPolicy
from mtrl.agents.pearl.replay import Transitions
from mtrl.meta.agent import Transition

__all__ = ["PearlAgent", "PriorAgent"]


class PearlAgent:
    """A policy that acts on a guess about the task, one for each episode; a `MetaAgent`.

    Guesses are drawn from what is believed about the task: the prior in the first rounds, from then on the
    product of what all transitions so far say. So the first rounds explore by guessing, and the later ones
    guess better (posterior sampling).

    Args:
        policy: the networks.
        prior_rounds: rounds in which guesses are drawn from the prior.
        stochastic: whether actions are drawn, as in training, or the most likely ones; those tell less about a
            task, as an agent that stands still sees the same reward again and again.
    """

    def __init__(
        self, policy: LatentPolicy, *, prior_rounds: int = 1, stochastic: bool = True
    ) -> None:
        self._policy = policy
        self._prior_rounds = prior_rounds
        self._stochastic = stochastic
        self._rounds = 0
        self._evidence: Belief | None = None
        self._prior = prior_belief(0, policy.latent)
        self._guesses: Tensor | None = None
        self._seen: list[Transition] = []

    @property
    def name(self) -> str:
        """What tables call it."""
        return "PEARL"

    @property
    def belief(self) -> Belief:
        """What guesses are drawn from, (tasks, latent)."""
        if self._evidence is None or self._rounds < self._prior_rounds:
            return self._prior
        return self._evidence

    def begin(self, n_tasks: int) -> None:
        """Know nothing of `n_tasks` new tasks."""
        device = next(self._policy.parameters()).device
        self._prior = prior_belief(n_tasks, self._policy.latent, device)
        self._rounds, self._evidence, self._guesses, self._seen = 0, None, None, []

    @torch.no_grad()
    def act(self, observations: Tensor, generator: torch.Generator) -> Tensor:
        """Return actions (tasks, episodes, actions) for what is guessed in each episode."""
        slots = observations.shape[:-1]
        if self._guesses is None:
            noise = _normal((*slots, self._policy.latent), generator)
            self._guesses = Belief(*(part.unsqueeze(1) for part in self.belief)).sample(noise)
        flat, size = observations.float().flatten(0, 1), self._policy.sizes[1]
        drawn = _normal((len(flat), size), generator) if self._stochastic else None
        actions, _ = self._policy.act(flat, self._guesses.flatten(0, 1), drawn)
        return actions.view(*slots, size)

    def observe(self, transition: Transition) -> None:
        """Keep the transition for the next adaptation."""
        self._seen.append(transition)

    @torch.no_grad()
    def adapt(self) -> None:
        """Take what was observed since the last call into the belief, and guess anew."""
        found = self._policy.encoder(*Transitions.of_steps(self._seen))
        if self._evidence is not None:
            both = zip(self._evidence, found, strict=True)
            found = product_of_gaussians(Belief(*(torch.stack(pair, -2) for pair in both)))
        self._evidence, self._guesses, self._seen = found, None, []
        self._rounds += 1


class PriorAgent(PearlAgent):
    """The same policy that learns nothing about the task: the baseline that inference must beat."""

    @property
    def name(self) -> str:
        """What tables call it."""
        return "no adaptation"

    def observe(self, transition: Transition) -> None:
        """Ignore it."""

    def adapt(self) -> None:
        """Guess anew, from the prior."""
        self._guesses = None


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device)
