"""One Q-network, two phases: imitate an expert, then learn from the true reward."""

from copy import deepcopy
from dataclasses import replace
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.type_aliases import MaybeCallback, RolloutReturn
from stable_baselines3.common.utils import LinearSchedule, polyak_update
from torch import Tensor, nn

from mtrl.agents.experts import Expert, restart
from mtrl.agents.q_learning import switching
from mtrl.agents.q_learning.batch import ReplayBatch
from mtrl.agents.q_learning.budget import Budget
from mtrl.agents.q_learning.carry_over import CarryOver
from mtrl.agents.q_learning.dqn import DeepQ, replay_arguments
from mtrl.agents.q_learning.methods import Aqil, Method, Sqil
from mtrl.agents.q_learning.progress import Phase, Progress
from mtrl.agents.q_learning.replay import QReplayBuffer, ReplaySettings
from mtrl.agents.q_learning.transitions import Transitions
from mtrl.errors import UsageError

__all__ = ["QImitation"]

# A budget in episodes has no number of steps; Stable-Baselines3 wants one.
UNBOUNDED = 2**62


class QImitation(DeepQ):
    """Deep Q-learning that starts from an expert: `pretrain`, then `finetune`.

        agent = QImitation("MlpPolicy", env, method=Aqil())
        agent.pretrain(Budget(episodes=250), expert=CartPoleExpert.of_paper())
        agent.finetune(Budget(episodes=250))

    `finetune` without `pretrain` is plain reinforcement learning. Exploration and the learning rate's
    schedule run once through each phase. Each phase begins with a reset of the environments and ends
    with the rollout in which its budget is used up, so with a few steps more than the budget where
    that is no multiple of a rollout.

    `progress` and the buffer have the state that a checkpoint needs beside DQN's. After loading one, set
    `expert` if the phase asks one, and call `go_on`.

    Args:
        policy: as of DQN.
        env: as of DQN; its observations are one array, and an expert sees them unnormalised.
        method: `Aqil`, `Sqil` or `Dqfd`; the losses of both phases.
        updates_per_episode: updates that follow the end of each episode, however long it was, in place of
            those that follow steps; where DQN counts calls of all environments together between two
            refreshes of the target network, updates are counted then. A policy that balances for thousands
            of steps needs no more updates than one that falls.
        **other: what else DQN takes.

    Attributes:
        expert: who is asked, while someone is.
        anchor: the Q-network as it was at the last switch; before one it means nothing.
        progress: which phase is under way, and what happened at the switch.
    """

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        method: Method | None = None,
        updates_per_episode: int | None = None,
        **other: Any,
    ) -> None:
        if updates_per_episode is not None and updates_per_episode < 1:
            raise UsageError(
                f"updates_per_episode is {updates_per_episode}; it must be at least 1, or None"
            )
        self.updates_per_episode = updates_per_episode
        self.method: Method = method or Aqil()
        self.expert: Expert | None = None
        how = self.method.imitation
        settings = ReplaySettings(
            n_steps=how.n_steps,
            gamma=other.get("gamma", 0.99),
            demonstration_share=self.method.demonstration_share,
            seed=other.get("seed"),
        )
        super().__init__(policy, env, **replay_arguments(how, other, settings))
        self.progress = Progress(exploration=self._own_exploration())

    def _setup_model(self) -> None:
        super()._setup_model()
        # Always there, so that agents are saved and loaded with the same parts at any time.
        self.anchor: nn.Module = deepcopy(self.q_net).requires_grad_(False)

    @property
    def buffer(self) -> QReplayBuffer:
        """The replay buffer."""
        assert isinstance(self.replay_buffer, QReplayBuffer)
        return self.replay_buffer

    # The two phases -----------------------------------------------------------------------------------

    def pretrain(
        self,
        budget: Budget,
        *,
        expert: Expert | None = None,
        demonstrations: Transitions | None = None,
        callback: MaybeCallback = None,
    ) -> Self:
        """Imitate; the method says whom.

        Own steps from before are forgotten, since no expert has graded them.

        Args:
            budget: in steps or episodes, or for DQfD, which takes no step, in updates.
            expert: for AQIL.
            demonstrations: for SQIL and DQfD; they join those given before.
            callback: as of `learn`; DQfD calls none.

        Raises:
            UsageError: another teacher or unit than the method needs.
        """
        self._check_teacher(expert, demonstrations, budget)
        self.expert = expert
        self.buffer.reset()
        self.buffer.demonstration_share = self.method.demonstration_share
        self.buffer.imitation_weight = self.method.imitation_weight
        if demonstrations is not None:
            self.buffer.add_demonstrations(demonstrations)
        self.progress = Progress(exploration=self._own_exploration(), pretrained=True)
        return self._begin("imitation", budget, callback)

    def finetune(
        self,
        budget: Budget,
        *,
        carry_over: CarryOver | None = None,
        callback: MaybeCallback = None,
    ) -> Self:
        """Learn from the true reward.

        Args:
            budget: in steps or episodes.
            carry_over: what passes over from imitation; without it, the defaults. A further call goes on
                with reinforcement learning, at the lowest exploration rate.
            callback: as of `learn`.

        Raises:
            UsageError: a budget in updates, or something to carry over and no imitation before.
        """
        if budget.updates is not None:
            raise UsageError(
                f"the budget is {budget.updates} updates; give it in steps or episodes"
            )
        if self.progress.pretrained:
            self._switch(carry_over or CarryOver())
        elif carry_over is not None:
            raise UsageError(
                "carry_over is given, and nothing was imitated since the last switch; call pretrain first"
            )
        elif self.progress.switch:
            _, last, fraction = self.progress.exploration
            self.progress.exploration = (last, last, fraction)
        return self._begin("reinforcement", budget, callback)

    def go_on(self, callback: MaybeCallback = None) -> Self:
        """Finish the phase that a callback, an interruption or the end of a process broke off.

        Raises:
            UsageError: there is none, or it asks an expert and `expert` is None.
        """
        phase = self.progress.phase
        if phase is None:
            raise UsageError("no phase is under way; call pretrain or finetune")
        imitating = phase.kind == "imitation"
        self.options = self.method.imitation if imitating else self.method.reinforcement
        self.exploration_schedule = LinearSchedule(*self.progress.exploration)
        asks = imitating or self.progress.anneals()
        if asks and self.method.teacher == "expert" and self.expert is None:
            raise UsageError("the phase under way asks an expert; set the agent's expert")
        if phase.budget.updates is not None:
            self._imitate_offline(phase)
        else:
            end = phase.first_step + (phase.budget.steps or UNBOUNDED)
            self.learn(end - self.num_timesteps, callback, reset_num_timesteps=False)
        if phase.past(self.num_timesteps) >= 1:
            self.progress.phase = None
        return self

    def _begin(
        self,
        kind: Literal["imitation", "reinforcement"],
        budget: Budget,
        callback: MaybeCallback,
    ) -> Self:
        self.progress.phase = Phase(kind=kind, budget=budget, first_step=self.num_timesteps)
        # A phase's episodes begin in it.
        self._last_obs = None
        self.progress.phase.begin_episodes(self.n_envs)
        if self.expert is not None:
            restart(self.expert, np.ones(self.n_envs, bool))
        return self.go_on(callback)

    def _switch(self, carry_over: CarryOver) -> None:
        progress = self.progress
        progress.carry_over, progress.pretrained = carry_over, False
        progress.switch = switching.switch(self, carry_over)
        progress.value_updates_due = carry_over.value_updates
        progress.updates_from = self.num_timesteps + carry_over.warmup_steps
        first, last, fraction = self._own_exploration()
        if carry_over.exploration is not None:
            first = carry_over.exploration
        progress.exploration = (first, min(first, last), fraction)
        # The first action reads it before any step has asked the schedule.
        self.exploration_rate = first
        if not progress.anneals():
            self.expert = None

    def _own_exploration(self) -> tuple[float, float, float]:
        return (
            self.exploration_initial_eps,
            self.exploration_final_eps,
            self.exploration_fraction,
        )

    def _check_teacher(
        self, expert: Expert | None, demonstrations: Transitions | None, budget: Budget
    ) -> None:
        given = {"expert": expert, "demonstrations": demonstrations}
        needed = self.method.teacher
        if [name for name, value in given.items() if value is not None] != [needed]:
            raise UsageError(
                f"{self.method.name} learns from {needed} and nothing else; pass {needed}="
            )
        if (budget.updates is None) != self.method.takes_steps:
            units = "steps or episodes" if self.method.takes_steps else "updates"
            raise UsageError(f"{self.method.name} imitates for a number of {units}, got {budget}")

    def _imitate_offline(self, phase: Phase) -> None:
        self._setup_learn(0, reset_num_timesteps=False)
        self._update_until(phase, phase.budget.amount)
        self.logger.dump(self.num_timesteps)

    def _update_until(self, phase: Phase, last: int) -> None:
        """Update until the phase has had `last` updates, with the target network in step."""
        every = self.updates_per_target
        while phase.updates < last:
            # Up to the next refresh, so that an interrupted phase refreshes at the same updates.
            count = min(every - phase.updates % every, last - phase.updates)
            self._update_current_progress_remaining(self.num_timesteps, 0)
            super().train(count, self.batch_size)
            phase.updates += count
            if phase.updates % every == 0:
                self.refresh_target()

    # What Stable-Baselines3 calls on the way ----------------------------------------------------------

    def collect_rollouts(self, *args: Any, **kwargs: Any) -> RolloutReturn:
        """See `OffPolicyAlgorithm.collect_rollouts`; the last of a phase ends learning."""
        made = super().collect_rollouts(*args, **kwargs)
        phase = self.progress.phase
        if phase is not None and phase.past(self.num_timesteps) >= 1:
            return made._replace(continue_training=False)
        return made

    def _update_info_buffer(
        self, infos: list[dict[str, Any]], dones: NDArray[Any] | None = None
    ) -> None:
        super()._update_info_buffer(infos, dones)
        if self.progress.phase is not None and dones is not None:
            self.progress.phase.end_episodes(np.flatnonzero(dones).tolist())

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        phase = self.progress.phase
        if phase is None:
            super()._update_current_progress_remaining(num_timesteps, total_timesteps)
        else:
            self._current_progress_remaining = 1 - phase.past(num_timesteps)

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        made = super()._setup_learn(*args, **kwargs)
        for name, value in self.progress.switch.items():
            excluded = "tensorboard" if isinstance(value, str) else None
            self.logger.record(f"switch/{name}", value, exclude=excluded)
        return made

    def _on_step(self) -> None:
        if self.updates_per_episode is None:
            super()._on_step()
        else:
            # Without the target network, which is refreshed by updates.
            self.exploration_rate = self.exploration_schedule(self._current_progress_remaining)
        phase, carried = self.progress.phase, self.progress.carry_over
        if phase is not None and carried is not None and self.progress.anneals():
            past = phase.past(self.num_timesteps)
            self.buffer.imitation_weight = max(0.0, 1 - past / carried.imitation_anneal)

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        # What was pretrained must not be covered by random first steps.
        starts = 0 if self.progress.switch else learning_starts
        return super()._sample_action(starts, action_noise, n_envs)

    def _store_transition(
        self,
        replay_buffer: Any,
        buffer_action: NDArray[Any],
        new_obs: Any,
        reward: NDArray[Any],
        dones: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        # Read before the call, which replaces them by the next ones.
        normalised = self._vec_normalize_env is not None
        states: Any = self._last_original_obs if normalised else self._last_obs
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)
        if self.expert is not None and self.buffer.imitation_weight > 0:
            self.buffer.label_newest(self._grade(states, buffer_action))
            restart(self.expert, dones)
            self.logger.record_mean("imitation/environment_reward", float(np.mean(reward)))

    def _grade(self, states: NDArray[Any], actions: NDArray[Any]) -> NDArray[np.float64]:
        """Return what the expert thinks of actions, (n_envs,), and log it."""
        assert self.expert is not None and isinstance(self.method, Aqil)
        wanted = self._checked(self.expert.actions(states), len(states))
        rewards = self.method.reward(states, actions, wanted)
        agreement = float(np.mean(wanted == actions.reshape(-1)))
        self.logger.record_mean("imitation/agreement", agreement)
        self.logger.record_mean("imitation/reward", float(rewards.mean()))
        return rewards

    def _checked(self, actions: NDArray[Any], count: int) -> NDArray[Any]:
        found = np.asarray(actions).reshape(-1)
        number = int(getattr(self.action_space, "n", 0))
        if len(found) != count or not (found.astype(np.int64) % number == found).all():
            raise UsageError(
                f"the expert's actions are {found.tolist()}; {count} of 0 to {number - 1} are "
                "needed, the expert is of another environment"
            )
        return found

    # Learning -----------------------------------------------------------------------------------------

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Make `gradient_steps` updates, once the phase's warm-up is over; see `DQN.train`."""
        progress = self.progress
        if self.num_timesteps < progress.updates_from:
            return
        if progress.value_updates_due and progress.carry_over is not None:
            margin = progress.carry_over.margin
            switching.learn_values(self, progress.value_updates_due, margin)
            progress.value_updates_due = 0
        if self.updates_per_episode is None or progress.phase is None:
            super().train(gradient_steps, batch_size)
        else:
            ended = progress.phase.begun - self.n_envs
            self._update_until(progress.phase, ended * self.updates_per_episode)

    def _update_learning_rate(self, optimizers: Any) -> None:
        super()._update_learning_rate(optimizers)
        carried, phase = self.progress.carry_over, self.progress.phase
        if carried is not None and phase is not None and phase.kind == "reinforcement":
            for group in self.policy.optimizer.param_groups:
                group["lr"] *= carried.learning_rate_factor

    def _sample(self, batch_size: int) -> ReplayBatch:
        batch = super()._sample(batch_size)
        weight = self.method.own_weight if isinstance(self.method, Sqil) else 1.0
        imitating = self.buffer.imitation_weight > 0
        if weight == 1 or not imitating or batch.demonstrations is None:
            return batch
        return replace(batch, weights=torch.where(batch.demonstrations, 1.0, weight))

    def regularizers(self, q_values: Tensor, batch: ReplayBatch) -> dict[str, Tensor]:
        """See `DeepQ.regularizers`; after the switch the pretrained policy's margin is one more."""
        terms = super().regularizers(q_values, batch)
        phase, carried = self.progress.phase, self.progress.carry_over
        if phase is None or carried is None or phase.kind == "imitation":
            return terms
        weight = carried.anchor_weight_at(phase.past(self.num_timesteps))
        if weight > 0:
            margins = switching.anchor_margins(self, q_values, batch, carried.margin)
            terms["anchor"] = weight * margins.mean()
        return terms

    def update_once(self) -> None:
        """Make one update from a batch of the buffer."""
        self._update(self._sample(self.batch_size))

    @property
    def updates_per_target(self) -> int:
        """Updates between two refreshes of the target network, as many as when steps are taken."""
        if self.updates_per_episode is not None:
            return max(1, self.target_update_interval // self.n_envs)
        frequency: Any = self.train_freq
        per_step: float = max(self.gradient_steps, 1) / (frequency.frequency * self.n_envs)
        return max(1, round(self.target_update_interval * per_step))

    def refresh_target(self) -> None:
        """Move the target network towards the network, by `tau`."""
        polyak_update(self.q_net.parameters(), self.q_net_target.parameters(), self.tau)
        polyak_update(self.batch_norm_stats, self.batch_norm_stats_target, 1.0)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "anchor", "expert"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        modules, tensors = super()._get_torch_save_params()
        return [*modules, "anchor"], tensors
