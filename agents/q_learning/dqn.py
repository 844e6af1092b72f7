"""Stable-Baselines3's DQN with double Q-learning, n-step returns, priorities, margins and soft values."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import DQN
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.torch_layers import FlattenExtractor, NatureCNN
from stable_baselines3.dqn.policies import QNetwork
from torch import Tensor, nn

from mtrl.agents.q_learning import losses
from mtrl.agents.q_learning.batch import ReplayBatch, Successors
from mtrl.agents.q_learning.features import ScaledFeatures
from mtrl.agents.q_learning.options import DeepQOptions
from mtrl.agents.q_learning.prioritized import PrioritizedReplayBuffer
from mtrl.agents.q_learning.replay import QReplayBuffer, ReplaySettings
from mtrl.errors import UsageError

__all__ = ["DeepQ", "LossTerms", "replay_arguments"]

# Alike in training and in evaluation. Telling each module which of the two it is costs a walk over all of them
# for every action and every update, a tenth of the time on a small network.
MODELESS = frozenset(
    {
        nn.Conv2d,
        nn.Flatten,
        nn.Linear,
        nn.ReLU,
        nn.Sequential,
        nn.Tanh,
        FlattenExtractor,
        NatureCNN,
        QNetwork,
        ScaledFeatures,
    }
)


@dataclass(frozen=True)
class LossTerms:
    """What a batch's loss is made of.

    Attributes:
        terms: each term by name, weighted; their sum is the loss.
        errors: (batch, 1), of the one-step target, or of the n-step one where only that counts; without
            a gradient.
    """

    terms: dict[str, Tensor]
    errors: Tensor

    @property
    def total(self) -> Tensor:
        """The loss."""
        first, *others = self.terms.values()
        return sum(others, first)


def replay_arguments(
    options: DeepQOptions, given: dict[str, Any], settings: ReplaySettings
) -> dict[str, Any]:
    """Return `given` keyword arguments of DQN with the buffer that `options` need.

    Raises:
        UsageError: they name another buffer, or Stable-Baselines3's own n-step returns.
    """
    for name in ("replay_buffer_class", "replay_buffer_kwargs", "n_steps"):
        if given.get(name) not in (None, 1):
            raise UsageError(
                f"{name} is {given[name]!r}; DeepQ makes its buffer from its options, say there how "
                "steps are replayed"
            )
    if options.prioritized is None:
        return given | {
            "replay_buffer_class": QReplayBuffer,
            "replay_buffer_kwargs": {"settings": settings},
        }
    return given | {
        "replay_buffer_class": PrioritizedReplayBuffer,
        "replay_buffer_kwargs": {"settings": settings, "priorities": options.prioritized},
    }


class DeepQ(DQN):
    """DQN whose loss and replay `options` decide; with none of them it is DQN, update for update.

    Args:
        policy: as of DQN; anything with `q_net`, `q_net_target` and `optimizer`.
        env: as of DQN.
        options: the loss and the replay.
        **other: whatever else DQN takes.

    Raises:
        UsageError: options and a replay buffer given beside them that contradict each other.
    """

    def __init__(
        self, policy: Any, env: Any, *, options: DeepQOptions | None = None, **other: Any
    ) -> None:
        self.options = options or DeepQOptions()
        if self.options.uses_own_buffer:
            settings = ReplaySettings(
                n_steps=self.options.n_steps,
                gamma=other.get("gamma", 0.99),
                seed=other.get("seed"),
            )
            other = replay_arguments(self.options, other, settings)
        super().__init__(policy, env, **other)

    # Acting -------------------------------------------------------------------------------------------

    def _setup_model(self) -> None:
        super()._setup_model()
        self._has_modes = any(type(module) not in MODELESS for module in self.q_net.modules())

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        if self.options.behaviour == "greedy" and self._has_modes:
            return super()._sample_action(learning_starts, action_noise, n_envs)
        warming_up = self.num_timesteps < learning_starts
        if warming_up or self._explores():
            actions = np.array([self.action_space.sample() for _ in range(n_envs)])
        else:
            actions = self._chosen_actions()
        return actions, actions

    def _explores(self) -> bool:
        if self.options.behaviour == "greedy":
            # Stable-Baselines3's own stream: with all options off, actions are its DQN's.
            return bool(np.random.rand() < self.exploration_rate)  # noqa: NPY002
        return float(torch.rand(())) < self.exploration_rate

    @torch.no_grad()
    def _chosen_actions(self) -> NDArray[Any]:
        assert self._last_obs is not None
        q_values = self.q_net(self.policy.obs_to_tensor(self._last_obs)[0])
        if self.options.behaviour == "greedy":
            found: NDArray[Any] = q_values.argmax(1).cpu().numpy()
            return found
        chances = torch.softmax(q_values / self.options.temperature, 1)
        found = chances.multinomial(1).squeeze(1).cpu().numpy()
        return found

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        from_start = kwargs.get("reset_num_timesteps", args[2] if len(args) > 2 else True)
        if isinstance(self.replay_buffer, QReplayBuffer) and (from_start or self._last_obs is None):
            # The environment is about to be reset in the middle of an episode.
            self.replay_buffer.cut()
        return super()._setup_learn(*args, **kwargs)

    # Learning -----------------------------------------------------------------------------------------

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Make `gradient_steps` updates; see `DQN.train`."""
        if self._has_modes:
            self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        self._anneal_importance_weights()
        made = [self._update(self._sample(batch_size)) for _ in range(gradient_steps)]
        self._n_updates += gradient_steps
        self._record(made)

    def _anneal_importance_weights(self) -> None:
        buffer = self.replay_buffer
        if isinstance(buffer, PrioritizedReplayBuffer):
            how, past = buffer.priorities, 1 - self._current_progress_remaining
            buffer.beta = how.beta + (how.beta_end - how.beta) * min(max(past, 0.0), 1.0)

    def _sample(self, batch_size: int) -> ReplayBatch:
        assert self.replay_buffer is not None
        return ReplayBatch.of(self.replay_buffer.sample(batch_size, env=self._vec_normalize_env))

    def _update(self, batch: ReplayBatch) -> dict[str, Tensor]:
        """Make one step of the optimiser; return the loss and its terms."""
        found = self.loss_terms(batch)
        loss = found.total
        self.descend(loss)
        if isinstance(self.replay_buffer, PrioritizedReplayBuffer) and batch.indices is not None:
            self.replay_buffer.update_priorities(
                batch.indices, found.errors.squeeze(1).cpu().numpy()
            )
        shown = {"loss": loss.detach()}
        if len(found.terms) > 1:
            shown |= {f"loss_{name}": term.detach() for name, term in found.terms.items()}
        return shown

    def descend(self, loss: Tensor) -> None:
        """Make one step of the optimiser down the gradient of `loss`, clipped."""
        optimizer = self.policy.optimizer
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        # Asking the optimiser saves a walk over all modules; no other parameter has a gradient.
        trained = [one for group in optimizer.param_groups for one in group["params"]]
        torch.nn.utils.clip_grad_norm_(trained, self.max_grad_norm)
        optimizer.step()

    def loss_terms(self, batch: ReplayBatch) -> LossTerms:
        """Return the terms of the loss on `batch` at the present weights; see `DeepQOptions`."""
        how = self.options
        q_values = self.q_net(batch.observations)
        predicted = losses.values_of_actions(q_values, batch.actions)
        terms, errors = {}, None
        for name, weight, after in (
            ("one_step", how.one_step_weight, batch.one_step),
            ("n_step", how.n_step_weight, batch.n_step),
        ):
            if weight > 0:
                target = self.targets(after)
                mean = losses.weighted_mean(predicted, target, batch.weights, how.error)
                terms[name] = mean if weight == 1 else weight * mean
                errors = (target - predicted).detach() if errors is None else errors
        terms |= self.regularizers(q_values, batch)
        assert errors is not None  # DeepQOptions refuses both weights 0
        return LossTerms(terms, errors)

    def regularizers(self, q_values: Tensor, batch: ReplayBatch) -> dict[str, Tensor]:
        """Return the terms that are no errors against targets.

        Args:
            q_values: (batch, actions), of the batch's states.
            batch: what is learnt from.
        """
        how, terms = self.options, {}
        if how.margin_weight > 0 and batch.demonstrations is not None:
            margins = losses.large_margins(q_values, batch.actions, how.margin)
            weights = 1.0 if batch.weights is None else batch.weights
            terms["margin"] = how.margin_weight * (weights * margins * batch.demonstrations).mean()
        if how.l2 > 0:
            terms["l2"] = how.l2 * losses.l2_penalty(self.q_net.parameters())
        return terms

    @torch.no_grad()
    def targets(self, after: Successors) -> Tensor:
        """Return the targets, (batch, 1), that the options' backup makes of what follows."""
        q_values = self.q_net_target(after.observations)
        if self.options.backup == "soft":
            values = losses.soft_values(q_values, self.options.temperature)
        elif self.options.double:
            values = losses.chosen_values(q_values, self.q_net(after.observations))
        else:
            values = losses.hard_values(q_values)
        discounts = self.gamma if after.discounts is None else after.discounts
        return losses.targets(after.rewards, after.dones, discounts, values)

    def _record(self, made: list[dict[str, Tensor]]) -> None:
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for name in made[0] if made else ():
            values = [terms[name].item() for terms in made]
            self.logger.record(f"train/{name}", float(np.mean(values)))
