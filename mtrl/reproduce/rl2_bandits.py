"""RL² on Bernoulli bandits against the policies that know how the bandits are drawn (Duan et al. 2016)."""

import csv
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mtrl.config import to_toml
from mtrl.evaluation.statistics import Interval
from mtrl.evaluation.trained import load_run
from mtrl.figure_style import (
    GREY,
    INK,
    LARGE,
    PALETTE,
    dress,
    legend_below,
    new_figure,
)
from mtrl.metrics import read_metrics
from mtrl.reproduce.carry_out import Outcome, Place, record_of, require_figures, write_files
from mtrl.reproduce.page import (
    QUICK,
    Part,
    Record,
    bullets,
    markdown_table,
    provenance,
    quick_notice,
)
from mtrl.reproduce.provenance import commit
from mtrl.reproduce.rl2_results import SHARE, Rewards, measure
from mtrl.reproduce.rl2_trainings import (
    FULL,
    QUICK_SCALE,
    SETTINGS,
    Scale,
    Setting,
    training_config,
    trainings_of,
)
from mtrl.reproduce.trainings import Training, train_all
from mtrl.runs import METRICS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["rl2_bandits_table"]

TITLE = "RL² on Bernoulli bandits"
PUBLISHED: Mapping[str, Mapping[Setting, float]] = {
    "Gittins": {Setting(10, 5): 6.6, Setting(100, 5): 78.3, Setting(100, 10): 82.8},
    "UCB1": {Setting(10, 5): 6.7, Setting(100, 5): 78.0, Setting(100, 10): 82.4},
    "RL2": {Setting(10, 5): 6.7, Setting(100, 5): 78.7, Setting(100, 10): 83.5},
}
"""Duan et al. 2016, table 1, as quoted second-hand; there are no numbers here for 10 pulls of 10 arms."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """What the page is made of."""

    rewards: Sequence[Rewards]
    trainings: Mapping[Setting, Sequence[Training]]
    scale: Scale
    place: Place
    record: Record

    @property
    def met(self) -> list[bool]:
        """Whether each setting's target is met."""
        return [each.met(PUBLISHED["Gittins"].get(each.setting)) for each in self.rewards]


def rl2_bandits_table(place: Place) -> Outcome:
    """Train what is not trained yet, test, and write the page, the numbers and the figure.

    Raises:
        Interrupted: asked to stop; every training is saved, and the same command goes on.
        MtrlError: a training failed; the message names it.
        MissingExtraError: matplotlib is not installed.
    """
    require_figures()
    clock, revision = time.monotonic(), commit()
    scale = QUICK_SCALE if place.quick else FULL
    folder = place.work / f"reproduce-{place.stem}"
    trainings = trainings_of(scale, place.seed * scale.seeds, folder, revision)
    # The longest first: at the end no process is left alone with one of them.
    queue = [each for setting in reversed(SETTINGS) for each in trainings[setting]]
    found = {each.name for each in queue if each.finished}
    train_all(queue, place.processes)
    trained = time.monotonic()
    rewards = [
        measure(
            setting,
            [load_run(each.directory) for each in trainings[setting]],
            bandits=scale.bandits,
            tuning=scale.tuning,
            seed=place.seed,
        )
        for setting in SETTINGS
    ]
    record = replace(
        record_of(place, revision, time.monotonic() - clock),
        processes=place.processes,
        parts=[Part(each.name, each.seconds, each.name in found) for each in queue],
        test_seconds=time.monotonic() - trained,
    )
    made = Made(rewards=rewards, trainings=trainings, scale=scale, place=place, record=record)
    return write_files(
        place,
        _page(made),
        _scores(made),
        lambda: _figure(made),
        None if place.quick else all(made.met),
    )


def _page(made: Made) -> str:
    record, scale = made.record, made.scale
    sections = [
        f"# {TITLE}" + f" ({QUICK})" * record.quick,
        quick_notice("a few iterations of each training, and few bandits.") if record.quick else "",
        (
            "Source of the published numbers: Duan et al. 2016 (arXiv:1611.02779), table 1, as quoted "
            "second-hand."
        ),
        "" if record.quick else _verdict(made),
        _rewards(made),
        (
            f"Mean total reward of a trial (higher is better) over {scale.bandits:,} unseen bandits, one trial each, "
            "the same bandits and the same noise for all policies, with the 95 % bootstrap interval in brackets: over "
            f"bandits, and for RL² over bandits and its {scale.seeds} trainings."
        ),
        f"![Reward while training{f', {QUICK}' * record.quick}]({record.stem}.png)",
        "## RL² against Gittins",
        _shares(made),
        (
            f"The target is a share of at least {SHARE:.0%} of our Gittins policy's reward on the same bandits, by "
            f"the whole interval, and of at least {SHARE:.0%} of the published one."
        ),
        "## The policies",
        bullets(_policies(made)),
        "## Training",
        bullets(_training(made)),
        *(_settings(setting, scale) for setting in (SETTINGS[0], SETTINGS[-1])),
        "## How this was made",
        provenance(record),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _verdict(made: Made) -> str:
    worst = min(each.rows["RL2"].share.estimate for each in made.rewards)
    return (
        f"**Target met in {sum(made.met)} of {len(made.met)} settings**: RL² earns at least "
        f"{SHARE:.0%} of what Gittins' policy earns; its lowest share is {worst:.1%}."
    )


def _rewards(made: Made) -> str:
    head = ["policy", *(str(each.setting) for each in made.rewards)]
    body = [
        [name, *(_shown(each.rows[name].reward) for each in made.rewards)]
        for name in made.rewards[0].rows
    ]
    exact = ["-" if each.optimal is None else f"{each.optimal:.2f}" for each in made.rewards]
    body.append(["Bayes-optimal (exact)", *exact])
    body.append(["always the best arm (exact)", *(f"{each.best_arm:.2f}" for each in made.rewards)])
    for name, numbers in PUBLISHED.items():
        line = [numbers.get(each.setting) for each in made.rewards]
        body.append([f"paper's {name}", *("-" if x is None else f"{x:.1f}" for x in line)])
    return markdown_table(head, body)


def _shares(made: Made) -> str:
    head = ["setting", "share of our Gittins", "by training", "share of the paper's", "target met"]
    body = []
    for each, met in zip(made.rewards, made.met, strict=True):
        share, paper = each.rows["RL2"].share, PUBLISHED["Gittins"].get(each.setting)
        reward = each.rows["RL2"].reward.estimate
        body.append(
            [
                str(each.setting),
                f"{share.estimate:.1%} [{share.low:.1%}, {share.high:.1%}]",
                ", ".join(f"{one:.1%}" for one in each.shares),
                "-" if paper is None else f"{reward / paper:.1%}",
                "not judged" if made.record.quick else "yes" if met else "no",
            ]
        )
    return markdown_table(head, body)


def _policies(made: Made) -> list[str]:
    widths = ", ".join(f"{each.width:g} ({each.setting})" for each in made.rewards)
    return [
        (
            "All but RL² are told that every arm's chance is uniform in [0, 1], and start from its prior Beta(1, 1). "
            "RL² is told nothing: it finds out in training."
        ),
        (
            "Gittins is the index for the pulls that remain, without a discount. Gittins, discounted, is the classical "
            "index, for pulls discounted for ever by 1 - 1/pulls. Both are calculated by dynamic programming, to less "
            "than 0.001. Neither is optimal for a fixed number of pulls; for 10 the table has what is."
        ),
        (
            "UCB1 pulls the arm of the highest mean + width * sqrt(2 log t / n). Its width is the best of several on "
            f"{made.scale.tuning:,} training bandits: {widths}. With the width 1 of the paper that introduced it, it "
            "explores too much for so few pulls."
        ),
        "Thompson draws a chance for every arm from its posterior and pulls the highest.",
        "Greedy pulls the arm of the highest posterior mean.",
    ]


def _training(made: Made) -> list[str]:
    scale = made.scale
    steps = []
    for setting in SETTINGS:
        config = training_config(setting, scale, 0)
        pulls = config.iterations * config.tasks_per_batch * setting.pulls
        steps.append(f"{pulls / 1e6:.1f} million ({setting})")
    return [
        (
            "A trial is all the pulls of one bandit. The policy is a GRU that is given the arm that it pulled and what "
            "it paid; its state is cleared between bandits and is all that it learns with after training."
        ),
        (
            f"It is trained by PPO on whole trials, with {', '.join(steps)} pulls in a training. Duan et al. train by TRPO."
        ),
        "At test actions are sampled, as in training, not the most likely ones.",
        (
            "Settings were chosen in short pilots of single trainings, some of them with the seed 0; their test bandits were "
            "others than those of this page."
        ),
    ]


def _settings(setting: Setting, scale: Scale) -> str:
    config = training_config(setting, scale, 0)
    return f"Settings for {setting}:\n\n```toml\n{to_toml(config).strip()}\n```"


def _shown(value: Interval) -> str:
    return f"{value.estimate:.2f} [{value.low:.2f}, {value.high:.2f}]"


def _scores(made: Made) -> str:
    """Return every number as CSV, in full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = "reproduction,run,pulls,arms,policy,quantity,seed,estimate,low,high,bandits"
    writer.writerow(head.split(","))
    run = "quick" if made.record.quick else "full"
    for each in made.rewards:
        where = [made.record.name, run, each.setting.pulls, each.setting.arms]
        for name, row in each.rows.items():
            for quantity, value in (("reward", row.reward), ("share of Gittins", row.share)):
                numbers = [repr(x) for x in (value.estimate, value.low, value.high)]
                writer.writerow([*where, name, quantity, "", *numbers, each.bandits])
        first = made.place.seed * made.scale.seeds
        for index, (reward, share) in enumerate(zip(each.seeds, each.shares, strict=True)):
            for quantity, one in (("reward", reward), ("share of Gittins", share)):
                writer.writerow(
                    [*where, "RL2", quantity, first + index, repr(one), "", "", each.bandits]
                )
        exact = {"always the best arm": each.best_arm, "Bayes-optimal": each.optimal}
        for name, known in exact.items():
            if known is not None:
                writer.writerow([*where, name, "reward", "", repr(known), "", "", ""])
        for name, published in PUBLISHED.items():
            if each.setting in published:
                numbers = [repr(published[each.setting]), "", "", ""]
                writer.writerow([*where, f"paper's {name}", "reward", "", *numbers])
    return text.getvalue()


def _figure(made: Made) -> "Figure":
    """Draw RL²'s reward while it trains, a panel a setting, with the other policies as lines."""
    figure = new_figure(11.5, 3.6)
    panels = figure.subplots(1, len(SETTINGS))
    lines = {"Gittins": "-", "Thompson": "--", "greedy": ":"}
    for axes, each in zip(panels, made.rewards, strict=True):
        for index, training in enumerate(made.trainings[each.setting]):
            steps, returns = _curve(training)
            label = "RL² in training" if index == 0 else None
            axes.plot(steps, returns, color=PALETTE[0], lw=1.2, alpha=0.8, label=label)
        for name, style in lines.items():
            level = each.rows[name].reward.estimate
            axes.axhline(level, color=GREY, lw=1.2, ls=style, label=name)
        dress(axes, title=str(each.setting), xlabel="pulls so far, millions")
    panels[0].set_ylabel("mean total reward")
    figure.suptitle(f"{TITLE}" + f" ({QUICK})" * made.record.quick, fontsize=LARGE, color=INK)
    legend_below(figure, panels[0])
    return figure


def _curve(training: Training) -> tuple[list[float], list[float]]:
    """Return millions of pulls and the mean reward of the latest iterations, up to ten."""
    curves = read_metrics(training.directory / METRICS)
    steps = np.array(curves["meta/env_steps"].values) / 1e6
    returns = np.array(curves["meta/post_adapt_return"].values)
    summed = np.concatenate([[0.0], returns.cumsum()])
    ends = np.arange(1, len(summed))
    starts = np.maximum(ends - 10, 0)
    smooth = (summed[ends] - summed[starts]) / (ends - starts)
    return steps.tolist(), smooth.tolist()
