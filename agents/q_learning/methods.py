"""The three methods of Q-imitation: what each rewards, replays and minimises.

- AQIL: an expert grades every action of the learner; hard-max Q-learning of that grade (Zhang and Agarwal
  2020, arXiv:2004.00993).
- SQIL: demonstrations are worth 1 and the learner's own steps 0, in batches of one half each; soft
  Q-learning (Reddy et al. 2019, arXiv:1905.11108). With a hard maximum it is called SQIL-hard-max here.
- DQfD: Q-learning of the true reward on demonstrations, with n-step returns and a large margin for the
  expert's actions, without any step; then on both (Hester et al. 2017, arXiv:1704.03732).
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from mtrl.agents.q_learning.graded_reward import GradedReward
from mtrl.agents.q_learning.options import DeepQOptions
from mtrl.agents.q_learning.prioritized import PrioritySettings
from mtrl.errors import UsageError

__all__ = ["Aqil", "Dqfd", "Method", "Sqil", "sqil_hard_max"]


@dataclass(frozen=True, kw_only=True)
class Aqil:
    """The learner acts, and an expert is asked in every state what it would have done.

    The paper's pseudo-code runs trajectories of the expert; a learner that never errs sees no grade but
    the best, hence its own are run here. Source: arXiv:2004.00993, algorithm 1.

    Raises:
        UsageError: a soft backup, which is SQIL's, or phases that replay in different ways.
    """

    reward: GradedReward = field(default_factory=GradedReward)
    """What an action is worth."""
    imitation: DeepQOptions = field(default_factory=DeepQOptions)
    """The loss while imitating."""
    reinforcement: DeepQOptions = field(default_factory=DeepQOptions)
    """The loss afterwards."""

    teacher: ClassVar[Literal["expert", "demonstrations"]] = "expert"
    imitation_weight: ClassVar[float] = 1.0
    demonstration_share: ClassVar[float | None] = None
    takes_steps: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.imitation.backup != "hard":
            raise UsageError(
                "AQIL's imitation has a hard backup; a soft one with rewards 1 and 0 is Sqil"
            )
        _check_same_replay(self)

    @property
    def name(self) -> str:
        """As in tables."""
        return "aqil"


def _soft() -> DeepQOptions:
    return DeepQOptions(backup="soft", behaviour="boltzmann", error="squared")


@dataclass(frozen=True, kw_only=True)
class Sqil:
    """Demonstrations are worth 1, own steps 0.

    A termination leaves the value 0 on both sides alike. Since no reward is negative, the learner still
    prefers long episodes; where the task is to end them soon, that works against it.

    Raises:
        UsageError: settings out of range, or phases that replay in different ways.
    """

    imitation: DeepQOptions = field(default_factory=_soft)
    """The loss while imitating; the paper's backup is soft."""
    reinforcement: DeepQOptions = field(default_factory=DeepQOptions)
    """The loss afterwards."""
    demonstration_share: float = 0.5
    """Of a batch, while imitating."""
    own_weight: float = 1.0
    """Weight of the errors on own steps; the paper's lambda_samp."""

    teacher: ClassVar[Literal["expert", "demonstrations"]] = "demonstrations"
    imitation_weight: ClassVar[float] = 1.0
    takes_steps: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.own_weight < 0:
            raise UsageError(f"own_weight is {self.own_weight}; it must not be negative")
        if self.imitation.prioritized is not None:
            raise UsageError("SQIL draws fixed shares; leave prioritized out of its options")
        _check_same_replay(self)

    @property
    def name(self) -> str:
        """As in tables: the variant with a hard maximum has a name of its own."""
        return "sqil" if self.imitation.backup == "soft" else "sqil-hard-max"


def sqil_hard_max() -> Sqil:
    """Return SQIL with a maximum for the soft value and epsilon-greedy actions, as often implemented."""
    return Sqil(imitation=DeepQOptions())


def _dqfd() -> DeepQOptions:
    return DeepQOptions(
        double=True,
        n_steps=10,
        n_step_weight=1.0,
        margin_weight=1.0,
        l2=1e-5,
        prioritized=PrioritySettings(),
    )


@dataclass(frozen=True, kw_only=True)
class Dqfd:
    """Demonstrations only, then both, with one loss; the defaults are the paper's.

    Demonstrations need the environment's rewards. The paper's exploration afterwards is 0.01, its
    target's period 10,000.

    Raises:
        UsageError: options without a margin, or phases that replay in different ways.
    """

    imitation: DeepQOptions = field(default_factory=_dqfd)
    """The loss on demonstrations."""
    reinforcement: DeepQOptions = field(default_factory=_dqfd)
    """The loss afterwards."""

    teacher: ClassVar[Literal["expert", "demonstrations"]] = "demonstrations"
    imitation_weight: ClassVar[float] = 0.0
    demonstration_share: ClassVar[float | None] = None
    takes_steps: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.imitation.margin_weight == 0:
            raise UsageError(
                "margin_weight is 0; without a margin actions that were never shown are not held back, "
                "set it above 0"
            )
        _check_same_replay(self)

    @property
    def name(self) -> str:
        """As in tables."""
        return "dqfd"


Method = Aqil | Sqil | Dqfd


def _check_same_replay(method: "Aqil | Sqil | Dqfd") -> None:
    for name in ("n_steps", "prioritized"):
        first, second = getattr(method.imitation, name), getattr(method.reinforcement, name)
        if first != second:
            raise UsageError(
                f"{name} is {first} while imitating and {second} afterwards; one buffer serves both, "
                "make them equal"
            )
