"""What passes from imitation to reinforcement learning: a choice, not an accident."""

from dataclasses import dataclass
from typing import Literal

from mtrl.errors import UsageError

__all__ = ["CarryOver"]


@dataclass(frozen=True, kw_only=True)
class CarryOver:
    """What becomes of each part of the agent at the switch; the defaults are made not to collapse.

    A pretrained policy is lost after the switch in six ways; each default answers one of the first five.

    1. *Random actions.* An exploration rate that starts at 1 again replaces the policy by noise, and the
       buffer's content by what noise visits. `exploration` starts at 0.05.
    2. *Old rewards.* Imitation rewards left in the buffer say what the expert would do, not what the task
       is worth; they pull targets to the old scale for as long as the ring remembers them. Each step keeps
       both rewards, so `buffer="relabel"` shows the true ones and keeps the states, which are those that
       the pretrained policy visits. An empty buffer would be worse: the first updates would fit few and
       alike steps.
    3. *Another scale.* Under the true reward, values may lie far from the present ones (where +1 a step
       becomes -1 a step, 1 / (1 - gamma) becomes its negative). The first errors are then as large as the
       values, and gradients that move the level of all actions at once scramble the small gaps between
       them, which are the policy. `q_scale="shift"` moves the level beforehand, in the output's bias, with
       every gap as it was. It is not `"rescale"`, since a fitted slope is often negative (the further the
       goal, the more expert-like steps remain, and the more costly ones), and then says nothing about the
       gaps. Adam's second moments belong to the old errors, and the target network would lag behind:
       `optimiser="reset"`, `target="sync"`.
    4. *Values of nothing.* At the right level the values still do not tell good states from bad ones under
       the true reward, and a maximum over untrue values takes what is overrated most. `value_updates`
       updates first learn the values of the pretrained policy itself, and keep it as it is.
    5. *Gaps too small to see.* Imitation rewards separate the actions of every state; a true reward often
       does not: with the pole upright either push costs nothing that the next push cannot mend. Errors of
       function approximation then choose, and a policy that kept every episode to its end is lost within
       a few thousand updates although its values are right to a few per cent (seen on cart-pole). The
       large margin of DQfD, for the pretrained policy's actions, stays in the loss as an anchor with
       `anchor_weight`: it decides where the true gap is below about `margin`, and gives way where more is
       to be gained. For unhindered improvement in the end let `anchor_weight_end` be 0.
    6. *A bad moment.* A policy that imitates swings from update to update, and what the anchor holds is
       the one of the last. On a cart-pole without a step limit such snapshots kept the pole up for 2,700 to
       4,700 steps. `settling_updates` end imitation with a learning rate that falls to 0, and a lower
       `anchor_weight` lets reinforcement learning mend what is left, at a lower
       `learning_rate_factor`; `mtrl reproduce aqil` has all three.

    `bare_switch()` has none of this, for comparison.
    """

    buffer: Literal["relabel", "clear", "keep"] = "relabel"
    """The learner's own steps: with true rewards from now on; forgotten; or with imitation rewards for
    ever beside new steps with true ones, for comparison."""
    demonstrations: Literal["keep", "drop"] = "keep"
    """Those in the buffer; kept ones have their true rewards (or, with buffer="keep", none but 1)."""
    optimiser: Literal["reset", "keep"] = "reset"
    """The optimiser's moments."""
    learning_rate_factor: float = 1.0
    """What the learning rate is multiplied by after the switch."""
    target: Literal["sync", "keep"] = "sync"
    """The target network: a copy of the network, or left behind as it is."""
    exploration: float | None = 0.05
    """Exploration rate at the switch, which falls to `exploration_final_eps` over
    `exploration_fraction` of the phase; it never rises. None starts the algorithm's own schedule anew."""
    q_scale: Literal["shift", "rescale", "keep"] = "shift"
    """The values: moved to the level of the true rewards; slope and level fitted; or as they are."""
    settling_updates: int = 0
    """Last updates of imitation on what is in the buffer, before anything else, with a learning rate that
    falls to 0: what passes over is then no snapshot of a policy that swings from update to update."""
    value_updates: int = 1000
    """Updates that learn the value of the pretrained policy before it may change; no environment steps."""
    margin: float = 0.8
    """By how much the pretrained policy's action is to lead, in units of the return."""
    anchor_weight: float = 1.0
    """Weight, at the switch, of the large margin of the pretrained policy's actions in the loss."""
    anchor_weight_end: float = 1.0
    """The same at the end of the phase, reached linearly."""
    warmup_steps: int = 0
    """Environment steps of the phase before its first update; needed if the buffer is cleared."""
    imitation_anneal: float = 0.0
    """Share of the phase during which the reward passes from imitation to true; 0 switches at once."""

    def __post_init__(self) -> None:
        if self.exploration is not None and not 0 <= self.exploration <= 1:
            raise UsageError(f"exploration is {self.exploration}; a rate lies between 0 and 1")
        if not 0 <= self.imitation_anneal <= 1:
            raise UsageError(f"imitation_anneal is {self.imitation_anneal}; a share is 0 to 1")
        if self.learning_rate_factor <= 0:
            raise UsageError(
                f"learning_rate_factor is {self.learning_rate_factor}; it must be positive"
            )
        for name in (
            "settling_updates",
            "value_updates",
            "warmup_steps",
            "margin",
            "anchor_weight",
            "anchor_weight_end",
        ):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must not be negative")
        if self.buffer == "clear" and self.warmup_steps == 0:
            raise UsageError(
                "buffer is clear and warmup_steps 0; the first update would see a single step, let "
                "warmup_steps collect some"
            )
        if self.imitation_anneal > 0 and (self.q_scale != "keep" or self.value_updates):
            raise UsageError(
                f"imitation_anneal is {self.imitation_anneal}, so that the rewards at the switch are "
                "still imitation's; set q_scale to keep and value_updates to 0"
            )

    @classmethod
    def bare_switch(cls) -> "CarryOver":
        """Return a switch of the reward in new steps alone: all else goes on as it was.

        Exploration starts anew, as the algorithm has it.
        """
        return cls(
            buffer="keep",
            optimiser="keep",
            target="keep",
            exploration=None,
            q_scale="keep",
            value_updates=0,
            anchor_weight=0.0,
            anchor_weight_end=0.0,
        )

    def anchor_weight_at(self, past: float) -> float:
        """Return the weight of the anchor after a share `past` of the phase."""
        return self.anchor_weight + past * (self.anchor_weight_end - self.anchor_weight)
