"""What DQN and SAC for many tasks have in common: the replay buffer, and rounds of the objective."""

from typing import Any

from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv

from mtrl.agents.multitask.algorithm import MultiTaskAlgorithm
from mtrl.agents.multitask.env import find_multi_task_env
from mtrl.agents.multitask.replay_buffer import MultiTaskReplayBuffer
from mtrl.agents.multitask.statistics import RewardScale, RewardScaling
from mtrl.errors import UsageError

__all__ = ["MultiTaskOffPolicyAlgorithm"]


class MultiTaskOffPolicyAlgorithm(MultiTaskAlgorithm, OffPolicyAlgorithm):
    """`MultiTaskAlgorithm` for algorithms that replay transitions.

    Minibatches have equal shares of the tasks; see `MultiTaskReplayBuffer`. A task that fails (see
    `MultiTaskVecEnv`) is in no later one.

    Args:
        policy: as of `MultiTaskAlgorithm`.
        env: as of `MultiTaskAlgorithm`.
        steps_per_round: environment steps after which the tasks' returns are looked at: means over the
            episodes since the last time. They are logged, and move the objective.
        reward_scaling: how each task's rewards are scaled as they are drawn from the buffer; None leaves
            them as they are. Scaling in the environment would replay rewards at an outdated scale.
        **other: as of `MultiTaskAlgorithm`.

    Raises:
        UsageError: see `MultiTaskAlgorithm`; or what the replay buffer cannot do.
    """

    def __init__(
        self,
        policy: str | type[Any],
        env: GymEnv | str | None,
        *,
        steps_per_round: int = 2000,
        reward_scaling: RewardScaling | None = None,
        **other: Any,
    ) -> None:
        if steps_per_round < 1:
            raise UsageError(f"steps_per_round is {steps_per_round}; it must be at least 1")
        self.steps_per_round = steps_per_round
        self.reward_scaling = reward_scaling
        self.reward_scale: RewardScale | None = None
        super().__init__(policy, env, **other)

    def _with_tasks(self, policy: str | type[Any], settings: dict[str, Any]) -> dict[str, Any]:
        made = super()._with_tasks(policy, settings)
        if made.get("replay_buffer_class") is not None:
            return made
        own = {
            "tasks": len(self.task_names),
            "n_steps": made.get("n_steps", 1),
            "gamma": made.get("gamma", 0.99),
        }
        return {
            **made,
            # The parent warns of a number of steps beside a buffer that is not its own.
            "n_steps": 1,
            "replay_buffer_class": MultiTaskReplayBuffer,
            "replay_buffer_kwargs": own | (made.get("replay_buffer_kwargs") or {}),
        }

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        from_start = kwargs.get("reset_num_timesteps", args[2] if len(args) > 2 else True)
        if isinstance(self.replay_buffer, MultiTaskReplayBuffer) and (
            from_start or self._last_obs is None
        ):
            # The environment is about to be reset in the middle of episodes.
            self.replay_buffer.cut()
        return super()._setup_learn(*args, **kwargs)

    def _setup_model(self) -> None:
        super()._setup_model()
        if self.reward_scaling is None:
            return
        if not isinstance(self.replay_buffer, MultiTaskReplayBuffer):
            raise UsageError(
                f"reward_scaling is set, and {type(self.replay_buffer).__name__} does not scale by "
                "tasks; leave replay_buffer_class out"
            )
        # There is one already where the algorithm was loaded.
        self.reward_scale = self.reward_scale or RewardScale(
            self.reward_scaling, tasks=len(self.task_names), slots=self.n_envs
        )
        self.replay_buffer.reward_scale = self.reward_scale

    def _on_step(self) -> None:
        super()._on_step()
        assert self.env is not None
        own = find_multi_task_env(self.env)
        if isinstance(self.replay_buffer, MultiTaskReplayBuffer):
            self.replay_buffer.included = own.healthy.copy()
        before, after = self.num_timesteps - self.n_envs, self.num_timesteps
        if before // self.steps_per_round < after // self.steps_per_round:
            self._end_round(own)
            own.statistics.begin_rollout()
