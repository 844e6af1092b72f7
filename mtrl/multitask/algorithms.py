"""Settings of the algorithms, under the names that Stable-Baselines3 gives them."""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from mtrl.config import check_at_least, check_fraction, check_positive

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

    from mtrl.agents.multitask.env import MultiTaskVecEnv

__all__ = ["DQN", "PPO", "SAC"]


@dataclass(frozen=True, kw_only=True)
class PPO:
    """Proximal policy optimisation, with advantages normalised for each task."""

    learning_rate: float = 3e-4
    """Step size of Adam."""
    final_learning_rate: float | None = None
    """What the step size falls to, linearly over the run; it stays as it is if left out."""
    n_steps: int = 128
    """Steps of each environment in a rollout."""
    batch_size: int = 256
    """Samples in a minibatch, of all tasks in equal shares."""
    n_epochs: int = 10
    """Passes over a rollout."""
    gamma: float = 0.99
    """Discount."""
    gae_lambda: float = 0.95
    """Decay of generalised advantage estimation."""
    clip_range: float = 0.2
    """How far a probability ratio may be from 1 in the loss."""
    normalise_per_task: bool = True
    """Whether advantages are normalised within each task of a rollout, rather than each minibatch."""
    ent_coef: float = 0.0
    """Weight of the entropy in the loss."""
    vf_coef: float = 0.5
    """Weight of the values in the loss."""
    max_grad_norm: float = 0.5
    """Length to which gradients are clipped."""
    target_kl: float | None = None
    """KL divergence at which an update ends early."""
    share_trunk: bool = False
    """Whether actions and values have one trunk, in which large values can drown the actions."""

    def __post_init__(self) -> None:
        check_positive(self, "learning_rate", "n_steps", "batch_size", "n_epochs", "clip_range")
        check_positive(self, "max_grad_norm", "target_kl")
        check_at_least(self, 0, "final_learning_rate", "ent_coef", "vf_coef")
        check_fraction(self, "gamma", "gae_lambda")

    def build(
        self, env: "MultiTaskVecEnv", policy: dict[str, Any], **common: Any
    ) -> "BaseAlgorithm":
        """Return the algorithm on `env`, whose policy has the arguments `policy`."""
        from mtrl.agents.multitask.ppo import MultiTaskPPO

        settings = _with_schedule(self, "share_trunk")
        kwargs = {**policy, "share_trunk": self.share_trunk}
        return MultiTaskPPO("MultiTaskPolicy", env, policy_kwargs=kwargs, **settings, **common)


@dataclass(frozen=True, kw_only=True)
class DQN:
    """Deep Q-learning, with a part of the replay buffer for each task."""

    learning_rate: float = 5e-4
    """Step size of Adam."""
    final_learning_rate: float | None = None
    """What the step size falls to, linearly over the run; it stays as it is if left out."""
    buffer_size: int = 100_000
    """Transitions in the replay buffer, of all tasks together."""
    learning_starts: int = 1000
    """Environment steps before the first update."""
    batch_size: int = 128
    """Transitions in a minibatch, of all tasks in equal shares."""
    tau: float = 1.0
    """Share of the networks that an update of the target takes over."""
    gamma: float = 0.99
    """Discount."""
    train_freq: int = 4
    """Steps of every environment between two updates."""
    double: bool = False
    """Whether targets take the value of the action that the trained network prefers (van Hasselt et al.
    2016)."""
    n_steps: int = 1
    """Steps whose rewards a target adds up before a value."""
    gradient_steps: int = 1
    """Gradient steps of an update; -1 for as many as environment steps were taken."""
    target_update_interval: int = 1000
    """Environment steps between two updates of the target."""
    exploration_fraction: float = 0.2
    """Share of the run in which exploration falls."""
    exploration_initial_eps: float = 1.0
    """Share of random actions at the start."""
    exploration_final_eps: float = 0.05
    """Share of random actions when it has fallen."""
    max_grad_norm: float = 10.0
    """Length to which gradients are clipped."""
    steps_per_round: int = 2000
    """Environment steps between two looks at the tasks' returns, which move the objective."""

    def __post_init__(self) -> None:
        check_positive(self, "learning_rate", "buffer_size", "batch_size", "train_freq")
        check_positive(
            self, "target_update_interval", "max_grad_norm", "steps_per_round", "n_steps"
        )
        check_at_least(self, 0, "learning_starts", "final_learning_rate")
        check_at_least(self, -1, "gradient_steps")
        check_fraction(self, "tau", "gamma", "exploration_fraction")
        check_fraction(self, "exploration_initial_eps", "exploration_final_eps")

    def build(
        self, env: "MultiTaskVecEnv", policy: dict[str, Any], **common: Any
    ) -> "BaseAlgorithm":
        """Return the algorithm on `env`, whose policy has the arguments `policy`."""
        from mtrl.agents.multitask.dqn import MultiTaskDQN
        from mtrl.agents.q_learning import DeepQOptions

        settings = _with_schedule(self, "double")
        settings["options"] = DeepQOptions(double=self.double)
        return MultiTaskDQN("MultiTaskPolicy", env, policy_kwargs=policy, **settings, **common)


@dataclass(frozen=True, kw_only=True)
class SAC:
    """Soft actor-critic, with a temperature and a part of the replay buffer for each task."""

    learning_rate: float = 3e-4
    """Step size of Adam."""
    final_learning_rate: float | None = None
    """What the step size falls to, linearly over the run; it stays as it is if left out."""
    buffer_size: int = 100_000
    """Transitions in the replay buffer, of all tasks together."""
    learning_starts: int = 1000
    """Environment steps before the first update."""
    batch_size: int = 256
    """Transitions in a minibatch, of all tasks in equal shares."""
    tau: float = 0.005
    """Share of the networks that an update of the target takes over."""
    gamma: float = 0.99
    """Discount."""
    train_freq: int = 1
    """Steps of every environment between two updates."""
    gradient_steps: int = 1
    """Gradient steps of an update; -1 for as many as environment steps were taken."""
    ent_coef: float | Literal["auto"] = "auto"
    """Temperature of all tasks; "auto" learns one for each."""
    target_update_interval: int = 1
    """Gradient steps between two updates of the target."""
    steps_per_round: int = 2000
    """Environment steps between two looks at the tasks' returns, which move the objective."""

    def __post_init__(self) -> None:
        check_positive(self, "learning_rate", "buffer_size", "batch_size", "train_freq")
        check_positive(self, "target_update_interval", "steps_per_round")
        check_at_least(self, 0, "learning_starts", "final_learning_rate")
        check_at_least(self, -1, "gradient_steps")
        check_fraction(self, "tau", "gamma")

    def build(
        self, env: "MultiTaskVecEnv", policy: dict[str, Any], **common: Any
    ) -> "BaseAlgorithm":
        """Return the algorithm on `env`, whose policy has the arguments `policy`."""
        from mtrl.agents.multitask.sac import MultiTaskSAC

        settings = _with_schedule(self)
        return MultiTaskSAC("MultiTaskPolicy", env, policy_kwargs=policy, **settings, **common)


def _with_schedule(settings: PPO | DQN | SAC, *without: str) -> dict[str, Any]:
    """Return the settings under Stable-Baselines3's names."""
    left_out = ("learning_rate", "final_learning_rate", *without)
    names = [field.name for field in fields(settings) if field.name not in left_out]
    rate = _schedule(settings.learning_rate, settings.final_learning_rate)
    return {name: getattr(settings, name) for name in names} | {"learning_rate": rate}


def _schedule(start: float, end: float | None) -> Any:
    if end is None:
        return start
    from stable_baselines3.common.utils import LinearSchedule

    return LinearSchedule(start, end, 1.0)
