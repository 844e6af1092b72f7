"""Agents that adapt by remembering: RL², whose state is all that it knows about a task."""

import torch
from torch import Tensor

from mtrl.meta.agent import Transition
from mtrl.meta.recurrent.policy import RecurrentPolicy
from mtrl.meta.recurrent.trials import Memory
from mtrl.nets import Params

__all__ = ["ForgetfulAgent", "RecurrentAgent"]


class RecurrentAgent:
    """A meta-learned recurrent policy in trials of several episodes; a `MetaAgent`.

    Every slot (task, episode) of the evaluation has a trial and a memory of its own: the episodes of a
    round are not shown to each other, as a trial knows only what happened in it.

    Args:
        policy: as in meta-training.
        params: its parameters.
    """

    def __init__(self, policy: RecurrentPolicy, params: Params) -> None:
        self._policy = policy
        self._params = params
        self._memory: Memory | None = None
        self._after = torch.empty(0)

    @property
    def name(self) -> str:
        """What tables call it."""
        return "RL2"

    def begin(self, n_tasks: int) -> None:
        """Clear the memory: the next tasks are new."""
        self._memory = None

    def act(self, observations: Tensor, generator: torch.Generator) -> Tensor:
        """Sample actions (tasks, episodes, ...) with what the memory holds."""
        slots, like = observations.shape[:-1], next(iter(self._params.values()))
        if self._memory is None:
            self._memory = Memory(self._policy, slots.numel(), like)
        flat = observations.flatten(0, 1).to(like.dtype)
        inputs = torch.cat([flat, self._memory.previous], 1)
        self._after = self._policy.advance(self._params, inputs, self._memory.state)
        distribution = self._policy.distribution(self._params, self._after)
        noise = self._policy.noise((slots.numel(),), generator)
        actions = distribution.sample(noise.to(like.dtype))
        return actions.view(*slots, *actions.shape[1:])

    def observe(self, transition: Transition) -> None:
        """Keep the state, and what the step was for the next."""
        assert self._memory is not None, "an observation follows an action"
        previous = self._policy.previous(
            transition.actions.flatten(0, 1),
            transition.rewards.flatten().to(self._after.dtype),
            transition.terminated.flatten(),
        )
        self._memory.keep(transition.running.flatten() > 0, self._after, previous)

    def adapt(self) -> None:
        """Note that an episode ended, and go on with the next of the same trial."""
        if self._memory is not None:
            self._memory.end_episode()


class ForgetfulAgent(RecurrentAgent):
    """The same policy that forgets every episode: the baseline that memory must beat."""

    @property
    def name(self) -> str:
        """What tables call it."""
        return "no adaptation"

    def adapt(self) -> None:
        """Forget."""
        self._memory = None
