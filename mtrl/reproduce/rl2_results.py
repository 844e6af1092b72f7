"""What RL² and the policies that know the prior earn on the same unseen bandits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from mtrl.agents.bandits.gittins import optimal_reward
from mtrl.agents.bandits.policies import (
    UCB1,
    BanditAgent,
    BanditPolicy,
    Greedy,
    Random,
    Thompson,
    discounted_gittins,
    finite_horizon_gittins,
)
from mtrl.agents.recurrent import RecurrentAgent
from mtrl.envs.task import Task
from mtrl.evaluation.adaptation import AdaptationProtocol, adaptation_returns
from mtrl.evaluation.statistics import Interval, interval
from mtrl.evaluation.trained import TrainedRun
from mtrl.meta.agent import MetaAgent
from mtrl.meta.recurrent.training import (
    RecurrentConfig,
    build_recurrent_policy,
    recurrent_family,
)
from mtrl.reproduce.rl2_trainings import Setting
from mtrl.seeding import numpy_generator, torch_generator

__all__ = ["EXACT_PULLS", "SHARE", "WIDTHS", "Rewards", "Row", "measure", "ratio_interval"]

Array = NDArray[np.float64]

SHARE = 0.95
"""Of Gittins' reward, that RL² has to have."""
WIDTHS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
"""Of UCB1's bonus, of which the best on training bandits is taken."""
EXACT_PULLS = 10
"""Up to so many pulls the best reward there is can be calculated."""
RESAMPLES = 2_000


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one policy earns on the bandits of one setting.

    Attributes:
        reward: mean total reward, with an interval over bandits, and for RL² over trainings too.
        share: of Gittins' reward on the same bandits, likewise.
    """

    reward: Interval
    share: Interval


@dataclass(frozen=True, kw_only=True)
class Rewards:
    """All policies on the bandits of one setting.

    Attributes:
        setting: which.
        bandits: how many.
        rows: by policy.
        seeds: RL² by training: mean rewards.
        shares: RL² by training: shares of Gittins' reward.
        width: of UCB1, as chosen.
        best_arm: mean over these bandits of always pulling the best arm, exact.
        optimal: of the Bayes-optimal policy over all bandits, exact; None for many pulls.
    """

    setting: Setting
    bandits: int
    rows: Mapping[str, Row]
    seeds: Sequence[float]
    shares: Sequence[float]
    width: float
    best_arm: float
    optimal: float | None

    def met(self, published: float | None) -> bool:
        """Return whether RL² has its share of our Gittins, by its whole interval, and of a published one."""
        row = self.rows["RL2"]
        enough = published is None or row.reward.estimate >= SHARE * published
        return enough and row.share.low >= SHARE


def measure(
    setting: Setting, runs: Sequence[TrainedRun], *, bandits: int, tuning: int, seed: int
) -> Rewards:
    """Test every policy on the same `bandits` unseen bandits, whose payments have the same noise.

    Args:
        setting: which bandits.
        runs: RL², a run per training.
        bandits: how many.
        tuning: training bandits that the width of UCB1 is chosen on.
        seed: of bandits, noise and resamples.
    """
    family, name = setting.family, str(setting)
    tasks = family.sample(bandits, numpy_generator(seed, f"test bandits, {name}"), "test")
    width = _best_width(setting, tuning, seed)
    policies: list[BanditPolicy] = [Random(), Greedy(), Thompson(), UCB1(width)]
    policies.append(discounted_gittins(setting.pulls, 1 - 1 / setting.pulls))
    policies.append(finite_horizon_gittins(setting.pulls))
    earn = partial(_rewards, setting, tasks, seed)
    earned = {policy.name: earn(BanditAgent(policy, setting.arms))[None] for policy in policies}
    earned["RL2"] = np.stack([earn(_agent(run)) for run in runs])
    gittins = earned["Gittins"]
    rng = numpy_generator(seed, f"bootstrap, {name}")
    rows = {
        each: Row(
            reward=_reward_interval(values, rng), share=ratio_interval(values, gittins[0], rng)
        )
        for each, values in earned.items()
    }
    means = earned["RL2"].mean(1)
    return Rewards(
        setting=setting,
        bandits=bandits,
        rows=rows,
        seeds=means.tolist(),
        shares=(means / gittins.mean()).tolist(),
        width=width,
        best_arm=float(family.optimal_returns(tasks).mean()),
        optimal=optimal_reward(setting.arms, setting.pulls)
        if setting.pulls <= EXACT_PULLS
        else None,
    )


def ratio_interval(
    values: Array, reference: Array, rng: np.random.Generator, resamples: int = RESAMPLES
) -> Interval:
    """Return the ratio of two means with its 95 % bootstrap interval over tasks and trainings.

    Tasks are resampled for both at once, as they are pairs, and trainings independently of them.

    Args:
        values: (trainings, tasks).
        reference: (tasks,), on the same tasks.
        rng: of the resamples.
        resamples: how many.
    """
    trainings, tasks = values.shape
    drawn = rng.multinomial(tasks, np.full(tasks, 1 / tasks), size=resamples)
    means = np.full((resamples, trainings), 1 / trainings)
    if trainings > 1:
        means = rng.multinomial(trainings, means[0], size=resamples) / trainings
    resampled = ((drawn @ values.T) * means).sum(1) / (drawn @ reference)
    low, high = np.quantile(resampled, [0.025, 0.975])
    estimate = float(values.mean() / reference.mean())
    return Interval(estimate=estimate, low=float(low), high=float(high))


def _reward_interval(values: Array, rng: np.random.Generator) -> Interval:
    if len(values) == 1:
        return interval(values[0], rng, resamples=RESAMPLES)
    return ratio_interval(values, np.ones(values.shape[1]), rng)


def _rewards(setting: Setting, tasks: Sequence[Task], seed: int, agent: MetaAgent) -> Array:
    """Return the total reward of a trial with each bandit (tasks,)."""
    # All at once: the payments' noise then does not depend on what a policy draws.
    protocol = AdaptationProtocol(episodes=1, steps=0, tasks_at_once=len(tasks))
    generator = torch_generator(seed, f"test pulls, {setting}")
    rewards: Array = adaptation_returns(agent, setting.family, tasks, protocol, generator)[:, 0]
    return rewards


def _best_width(setting: Setting, tuning: int, seed: int) -> float:
    rng = numpy_generator(seed, f"tuning bandits, {setting}")
    tasks = setting.family.sample(tuning, rng, "train")
    means = [
        _rewards(setting, tasks, seed, BanditAgent(UCB1(width), setting.arms)).mean()
        for width in WIDTHS
    ]
    return WIDTHS[int(np.argmax(means))]


def _agent(run: TrainedRun) -> RecurrentAgent:
    assert isinstance(run.config, RecurrentConfig)
    policy = build_recurrent_policy(run.config, recurrent_family(run.config))
    return RecurrentAgent(policy, run.meta.params)
