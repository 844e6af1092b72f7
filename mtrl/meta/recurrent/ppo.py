"""Proximal policy optimisation (Schulman et al. 2017, arXiv:1707.06347) of a recurrent policy over trials.

What is maximised is the discounted return of the whole trial: the end of an episode inside it is a step
like any other, whose successors count (Duan et al. 2016, section 2.2). Gradients flow back through the
whole trial, and minibatches are of trials, never of parts of one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mtrl.config import check_at_least, check_fraction, check_positive
from mtrl.errors import UsageError
from mtrl.meta.outer import AdamUpdate
from mtrl.meta.parameters import MetaParams, flatten
from mtrl.meta.recurrent.policy import RecurrentPolicy
from mtrl.meta.recurrent.trials import Trials
from mtrl.nets import Params
from mtrl.policies import Categorical
from mtrl.returns import generalized_advantages, standardize

__all__ = [
    "RL2",
    "Minibatch",
    "RecurrentUpdate",
    "check_minibatches",
    "losses",
    "trial_advantages",
    "value_unit",
]


@dataclass(frozen=True, kw_only=True)
class RL2:
    """RL² (Duan et al. 2016): the settings of the policy and of its update."""

    units: int = 64
    """Of the recurrent state."""
    initial_std: float = 1.0
    """Standard deviation of real-valued actions at the start, where 1 is half the width of the action
    space; learned from then on."""
    min_std: float = 1e-6
    """Least standard deviation of real-valued actions."""
    discount: float = 0.99
    """Discount factor per step, over the whole trial."""
    gae_lambda: float = 0.95
    """Lambda of generalised advantage estimation, over the whole trial."""
    learning_rate: float = 1e-3
    """Of Adam, at the first iteration."""
    final_learning_rate: float | None = None
    """At the last iteration, approached linearly; the same as learning_rate if left out."""
    epochs: int = 4
    """Passes over an iteration's trials."""
    minibatches: int = 4
    """Parts that an iteration's trials are divided into."""
    clip: float = 0.2
    """The probability ratio counts between 1 - clip and 1 + clip."""
    value_weight: float = 0.5
    """Weight of the values' loss, in which a value of 1 is a reward of 1 in every step of the trial."""
    entropy: float = 0.01
    """Weight of the policy's entropy at the first iteration, in nats; choices only."""
    final_entropy: float = 0.0
    """The same at the last iteration, approached linearly."""
    max_gradient_norm: float = 0.5
    """Longer gradients are shortened to it."""

    @property
    def name(self) -> str:
        """What tables call it."""
        return "RL2"

    def __post_init__(self) -> None:
        check_positive(self, "units", "initial_std", "min_std", "learning_rate", "epochs")
        check_positive(self, "minibatches", "clip", "max_gradient_norm")
        check_fraction(self, "discount", "gae_lambda")
        check_at_least(self, 0, "final_learning_rate", "value_weight", "entropy", "final_entropy")

    def rate_at(self, progress: float) -> float:
        """Return the learning rate at `progress`, 0 at the first iteration and 1 at the last."""
        last = self.learning_rate if self.final_learning_rate is None else self.final_learning_rate
        return self.learning_rate + progress * (last - self.learning_rate)

    def entropy_at(self, progress: float) -> float:
        """Return the weight of the entropy at `progress`."""
        return self.entropy + progress * (self.final_entropy - self.entropy)


@dataclass(frozen=True)
class Minibatch:
    """Some of the trials, with (time, trials) first.

    Attributes:
        inputs: of the policy.
        actions: as sampled.
        log_probs: of the actions under the policy that took them.
        mask: 1 for the steps of a trial.
        advantages: 0 after the end.
        targets: of the values, in the policy's unit.
    """

    inputs: Tensor
    actions: Tensor
    log_probs: Tensor
    mask: Tensor
    advantages: Tensor
    targets: Tensor


def value_unit(discount: float, steps: int) -> float:
    """Return the discounted return of a reward of 1 in each of `steps` steps.

    Values are counted in it, so that the size of their loss depends on the rewards and not on how
    long a trial is.
    """
    return float(sum(discount**step for step in range(steps)))


def trial_advantages(
    trials: Trials, unit: float, discount: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Return advantages and value targets, each (time, trials).

    Only the end of a trial is an end: nothing follows whose value counts. Ends of episodes inside it
    are not.

    Args:
        trials: whose values are in `unit`.
        unit: see `value_unit`.
        discount: per step.
        gae_lambda: as in `mtrl.returns.generalized_advantages`.

    Returns:
        Advantages in units of reward, and targets in `unit`; both 0 after the end.
    """
    rewards, mask = trials.rewards.t(), trials.mask.t()
    # After the last step of a trial the mask, or time itself, ends.
    following = torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], 1)
    values = torch.cat([trials.values.t() * unit, torch.zeros_like(mask[:, :1])], 1)
    ended = mask * (1 - following)
    advantages = generalized_advantages(rewards, values, ended, mask, discount, gae_lambda)
    targets = (advantages + values[:, :-1]) * mask
    return advantages.t().contiguous(), (targets / unit).t().contiguous()


def losses(
    policy: RecurrentPolicy, params: Params, batch: Minibatch, settings: RL2, entropy_weight: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of a minibatch, and what to log of it, without a graph.

    The parts are means over the valid steps: PPO's clipped surrogate (eq. 7), the squared error of the
    values, and the entropy.
    """
    begin = policy.begin(batch.mask.shape[1], batch.mask)
    states = policy.states(params, batch.inputs, begin)
    distribution = policy.distribution(params, states)
    share = batch.mask / batch.mask.sum()
    change = distribution.log_prob(batch.actions) - batch.log_probs
    ratio = change.exp()
    clipped = ratio.clamp(1 - settings.clip, 1 + settings.clip)
    gain = (torch.minimum(ratio * batch.advantages, clipped * batch.advantages) * share).sum()
    errors = (policy.values(params, states) - batch.targets).square()
    value_loss = (errors * share).sum()
    loss = settings.value_weight * value_loss - gain
    measured = {
        # A sample's estimate that is never negative (Schulman 2020, "Approximating KL divergence").
        "outer/kl": ((ratio - 1 - change) * share).sum(),
        "outer/improvement": gain,
        "outer/value_loss": value_loss,
        "outer/clip_share": ((ratio - clipped).abs().gt(0) * share).sum(),
    }
    measured["outer/entropy"] = (distribution.entropy() * share).sum()
    if isinstance(distribution, Categorical):
        loss = loss - entropy_weight * measured["outer/entropy"]
    return loss, {name: value.detach() for name, value in measured.items()}


class RecurrentUpdate:
    """The update of a policy's parameters, which it modifies in place.

    Args:
        policy: what the parameters are of.
        meta: the parameters.
        settings: see `RL2`.
        saved: tensors of an earlier update to continue with.
    """

    def __init__(
        self,
        policy: RecurrentPolicy,
        meta: MetaParams,
        settings: RL2,
        saved: Mapping[str, Tensor],
    ) -> None:
        self._policy = policy
        self._meta = meta
        self._settings = settings
        self._adam = AdamUpdate(meta)
        self._adam.load_tensors(dict(saved))

    def step(
        self, trials: Trials, unit: float, progress: float, generator: torch.Generator
    ) -> dict[str, Tensor | float]:
        """Take the steps of one iteration; return what to log.

        Args:
            trials: of the iteration.
            unit: of the values; see `value_unit`.
            progress: 0 at the first iteration of a run and 1 at the last.
            generator: of the minibatches.
        """
        settings = self._settings
        whole = self._whole(trials, unit)
        rate, entropy = settings.rate_at(progress), settings.entropy_at(progress)
        rows: list[dict[str, Tensor]] = []
        for _ in range(settings.epochs):
            for batch in _minibatches(whole, settings.minibatches, generator):
                rows.append(self._descend(batch, rate, entropy))
        # Of the last epoch, when the policy is furthest from the one that took the samples.
        last = rows[-settings.minibatches :]
        means = {name: torch.stack([row[name] for row in last]).mean() for name in last[0]}
        return {**means, "outer/learning_rate": rate}

    def tensors(self) -> dict[str, Tensor]:
        """Return the optimiser's state, which a resumed run continues with."""
        return self._adam.tensors()

    def _whole(self, trials: Trials, unit: float) -> Minibatch:
        settings = self._settings
        advantages, targets = trial_advantages(trials, unit, settings.discount, settings.gae_lambda)
        return Minibatch(
            inputs=trials.inputs,
            actions=trials.actions,
            log_probs=trials.log_probs,
            mask=trials.mask,
            advantages=standardize(advantages, trials.mask),
            targets=targets,
        )

    def _descend(self, batch: Minibatch, rate: float, entropy: float) -> dict[str, Tensor]:
        params = {
            name: value.detach().requires_grad_() for name, value in self._meta.params.items()
        }
        loss, measured = losses(self._policy, params, batch, self._settings, entropy)
        parts = torch.autograd.grad(loss, list(params.values()), materialize_grads=True)
        gradient = flatten(dict(zip(params, parts, strict=True)))
        norm = gradient.norm()
        scale = (self._settings.max_gradient_norm / (norm + 1e-6)).clamp(max=1.0)
        self._adam.step(gradient * scale, rate)
        return {**measured, "outer/gradient_norm": norm}


def _minibatches(whole: Minibatch, parts: int, generator: torch.Generator) -> Iterator[Minibatch]:
    """Divide the trials at random into `parts`."""
    trials = whole.mask.shape[1]
    if parts == 1:
        yield whole
        return
    order = torch.randperm(trials, generator=generator, device=generator.device)
    for chosen in order.tensor_split(parts):
        yield Minibatch(
            **{name: part.index_select(1, chosen) for name, part in vars(whole).items()}
        )


def check_minibatches(settings: RL2, trials: int) -> None:
    """Check that every minibatch has a trial.

    Raises:
        UsageError: there are more minibatches than trials.
    """
    if settings.minibatches > trials:
        raise UsageError(
            f"minibatches is {settings.minibatches}, and an iteration has {trials} trials; "
            "set it to at most that"
        )
