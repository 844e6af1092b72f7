"""What deep Q-learning adds to Stable-Baselines3's DQN: everything off is that DQN."""

from dataclasses import dataclass
from typing import Literal

from mtrl.agents.q_learning.losses import ErrorKind
from mtrl.agents.q_learning.prioritized import PrioritySettings
from mtrl.errors import UsageError

__all__ = ["DeepQOptions"]


@dataclass(frozen=True, kw_only=True)
class DeepQOptions:
    """The loss of a batch, and how its steps are drawn.

    The loss is one_step_weight * J_1 + n_step_weight * J_n + margin_weight * J_E + l2 * |theta|^2: the
    error against the one-step target, that against the n-step target, the large margin of
    demonstrations (0 on other steps) and the squared parameters, biases included. All but the last are
    means over the batch with the importance weights.

    Raises:
        UsageError: values out of range, or fields that contradict each other.
    """

    double: bool = False
    """Double Q-learning: the online network chooses the action whose target value counts."""
    backup: Literal["hard", "soft"] = "hard"
    """The value of a state: the maximum, or the soft one of `temperature`."""
    temperature: float = 1.0
    """Of the soft value and of Boltzmann actions, in units of the return."""
    behaviour: Literal["greedy", "boltzmann"] = "greedy"
    """What acts wherever epsilon-greedy does not act at random."""
    error: ErrorKind = "huber"
    """Of an error against a target: Huber as in Stable-Baselines3, or half the square."""
    n_steps: int = 1
    """Steps of J_n."""
    one_step_weight: float = 1.0
    """Of J_1."""
    n_step_weight: float = 0.0
    """Of J_n; DQfD's lambda_1. For plain n-step learning set it to 1 and one_step_weight to 0."""
    margin_weight: float = 0.0
    """Of J_E; DQfD's lambda_2."""
    margin: float = 0.8
    """By how much the expert's action is to lead."""
    l2: float = 0.0
    """Of the squared parameters; DQfD's lambda_3."""
    prioritized: PrioritySettings | None = None
    """Prioritised replay; none draws all steps alike."""

    def __post_init__(self) -> None:
        for name in ("one_step_weight", "n_step_weight", "margin_weight", "margin", "l2"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must not be negative")
        if self.temperature <= 0:
            raise UsageError(f"temperature is {self.temperature}; it must be positive")
        if self.one_step_weight == self.n_step_weight == 0:
            raise UsageError("one_step_weight and n_step_weight are both 0; one must be positive")
        if (self.n_steps > 1) != (self.n_step_weight > 0):
            raise UsageError(
                f"n_steps is {self.n_steps} and n_step_weight {self.n_step_weight}; n-step learning "
                "needs more than one step and a positive weight, set both or none"
            )
        if self.double and self.backup == "soft":
            raise UsageError(
                "double is on and backup is soft; a soft value chooses no action, turn one off"
            )

    @property
    def uses_own_buffer(self) -> bool:
        """Whether sampling needs more than Stable-Baselines3's buffer."""
        return self.n_steps > 1 or self.prioritized is not None
