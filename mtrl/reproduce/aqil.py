"""Zhang and Agarwal 2020 on cart-pole: reinforcement learning, imitation, and one after the other."""

import csv
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np

from mtrl.agents.experts import CartPoleExpert, Derivative
from mtrl.evaluation.statistics import Interval
from mtrl.figure_style import (
    GREY,
    INK,
    LARGE,
    MARKERS,
    PALETTE,
    dress,
    legend_below,
    new_figure,
)
from mtrl.reproduce.aqil_results import Comparison, Row, claims, rows_of
from mtrl.reproduce.aqil_training import AqilSettings, Trained, modes, play
from mtrl.reproduce.aqil_training import Part as TrainingPart
from mtrl.reproduce.carry_out import Outcome, Place, record_of, require_figures, write_files
from mtrl.reproduce.jobs import Job, carry_out_jobs
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
from mtrl.versions import library_versions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["QUICK_SETTINGS", "aqil_table", "compare", "jobs_of"]

TITLE = "AQIL: imitation first, then deep Q-learning"
PAPER = "Zhang and Agarwal 2020 (arXiv:2004.00993)"
SEEDS, QUICK_SEEDS = 10, 2
EXPERT_EPISODES = 400
QUICK_SETTINGS = AqilSettings(
    episodes=20,
    imitation_episodes=10,
    step_limit=200,
    environments=5,
    settling_updates=100,
    value_updates=100,
    exploration_share=0.5,
    test_episodes=5,
    test_step_limit=400,
)
_DERIVATIVES: Mapping[Derivative, str] = {
    "difference": "the change of the angle from one step to the next",
    "velocity": "the angular velocity",
}
BLOCK = 10
"""Episodes that the CSV's curves give the mean of."""


def aqil_table(place: Place) -> Outcome:
    """Train all modes on all seeds, and write the page, the numbers and the figure.

    Raises:
        Interrupted: asked to stop by a signal; finished trainings are kept.
        MtrlError: a training failed; the message names it.
        MissingExtraError: matplotlib is not installed.
    """
    require_figures()
    clock, revision = time.monotonic(), commit()
    settings = QUICK_SETTINGS if place.quick else AqilSettings()
    count = QUICK_SEEDS if place.quick else SEEDS
    jobs = jobs_of(
        settings,
        range(count * place.seed, count * (place.seed + 1)),
        place.work / f"reproduce-{place.stem}",
        {**library_versions(), "commit": revision},
    )
    found = {job.name for job in jobs if job.finished() is not None}
    carry_out_jobs(jobs, place.processes)
    trained = time.monotonic()
    comparison, seconds = compare(jobs, settings, place.seed)
    record = replace(
        record_of(place, revision, time.monotonic() - clock),
        processes=place.processes,
        parts=[Part(job.name, seconds[job.name], job.name in found) for job in jobs],
        test_seconds=time.monotonic() - trained,
    )
    return write_files(
        place,
        _page(comparison, settings, record),
        _scores(comparison, record),
        lambda: _figure(comparison, record),
        None if place.quick else all(claims(comparison).values()),
    )


def jobs_of(
    settings: AqilSettings, seeds: Sequence[int], folder: Path, code: Mapping[str, str]
) -> list[Job]:
    """Return all trainings, the long ones first, so that no core idles at the end."""
    parts = sorted(get_args(TrainingPart), key=lambda part: part != "imitation")
    return [
        Job(
            name=f"{part}, seed {seed}",
            stem=f"{part}-seed-{seed}",
            function="mtrl.reproduce.aqil_training:train_part",
            told={"part": part, "settings": asdict(settings), "seed": seed},
            folder=folder,
            code=code,
        )
        for part in parts
        for seed in seeds
    ]


def compare(
    jobs: Sequence[Job], settings: AqilSettings, seed: int
) -> tuple[Comparison, dict[str, float]]:
    """Return the comparison and the seconds of each training by its name."""
    made = {job: each for job in jobs if (each := job.finished()) is not None}
    by_mode = [
        {mode: Trained.from_json(values) for mode, values in each.values.items()}
        for each in made.values()
    ]
    trained = {mode: [each[mode] for each in by_mode if mode in each] for mode in modes(settings)}
    expert = CartPoleExpert.of_paper(settings.derivative)
    levels = [
        play(expert, EXPERT_EPISODES, step_limit=limit, seed=seed, expert=expert)[0]
        for limit in (settings.step_limit, settings.test_step_limit)
    ]
    comparison = Comparison(rows=rows_of(trained), expert=levels[0], expert_test=levels[1])
    return comparison, {job.name: each.seconds for job, each in made.items()}


# The page ---------------------------------------------------------------------------------------------


def _page(comparison: Comparison, settings: AqilSettings, record: Record) -> str:
    found = {} if record.quick else claims(comparison)
    seeds = len(comparison.rows[0].means)
    sections = [
        f"# {TITLE}" + f" ({QUICK})" * record.quick,
        _notice(settings, seeds) if record.quick else "",
        f"Source of the published numbers: {PAPER}, one run, one environment.",
        f"**{sum(found.values())} of {len(found)} claims hold.**" if found else "",
        bullets([f"{'Yes' if met else 'NO'}: {claim}" for claim, met in found.items()]),
        _main_table(comparison),
        (
            f"Mean and best of the true return over training episodes, the means of {seeds} seeds with 95 % "
            "bootstrap intervals over seeds in brackets. The paper's last two numbers are approximate. "
            f"AQIL's mean is {_ratio(comparison.ratio)} times that of reinforcement learning alone. The ratio "
            "depends on how much all modes learn from an episode: with more updates for each, reinforcement learning "
            "alone begins to solve the task within these episodes ([what was tried](aqil-search.md))."
        ),
        f"![Returns and regret to the expert{f', {QUICK}' * record.quick}]({record.stem}.png)",
        "## The expert, and the policies at the end",
        _expert_table(comparison, settings),
        _expert_notes(comparison, settings),
        "## Protocol",
        bullets(_protocol(settings)),
        "## Settings the paper leaves open",
        bullets(_choices(settings)),
        "## How this was made",
        provenance(record),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _notice(settings: AqilSettings, seeds: int) -> str:
    return quick_notice(
        f"{seeds} seeds, {settings.episodes} episodes instead of {AqilSettings().episodes}, each of at most "
        f"{settings.step_limit} steps."
    )


def _ratio(ratio: Interval) -> str:
    return f"{ratio.estimate:.1f}" + (
        "" if np.isnan(ratio.low) else f" [{ratio.low:.1f}, {ratio.high:.1f}]"
    )


def _whole(value: Interval) -> str:
    """Return an interval without decimals: returns are hundreds."""
    if np.isnan(value.low):
        return f"{value.estimate:.0f}"
    return f"{value.estimate:.0f} [{value.low:.0f}, {value.high:.0f}]"


def _main_table(comparison: Comparison) -> str:
    head = ["mode", "paper's mean", "our mean", "paper's best episode", "our best episode"]
    body = [
        [
            row.mode,
            f"{row.paper[0]:.0f}",
            _whole(row.mean),
            f"{row.paper[1]:.0f}",
            f"{_whole(row.best)}, highest {row.bests.max():.0f}",
        ]
        for row in comparison.rows
    ]
    return markdown_table(head, body)


def _expert_table(comparison: Comparison, settings: AqilSettings) -> str:
    head = ["mode", "greedy policy at the end", "regret to the expert", "agreement with the expert"]
    head += ["episodes to the expert's level", "training episodes cut off"]
    expert = float(comparison.expert_test.mean())
    body = [
        [
            row.mode,
            _whole(row.test),
            f"{expert - row.test.estimate:.0f}",
            f"{row.agreement.mean():.0%}",
            _reached(row, comparison.expert_level),
            f"{row.cut_off(settings.step_limit):.1%}",
        ]
        for row in comparison.rows
    ]
    return markdown_table(head, [*body, ["the expert", f"{expert:.0f}", "0", "100%", "", ""]])


def _reached(row: Row, level: float) -> str:
    episodes = row.reached(level)
    there = int(np.isfinite(episodes).sum())
    if there == 0:
        return "never"
    return f"{np.nanmedian(episodes):.0f} (on {there} of {len(episodes)} seeds)"


def _expert_notes(comparison: Comparison, settings: AqilSettings) -> str:
    before, after = comparison.rows[-1].levels.mean(0)
    lines = [
        (
            f"Greedy policies are tested on {settings.test_episodes} episodes a seed, each cut off after "
            f"{settings.test_step_limit:,} steps; regret is the expert's mean return less theirs, so that it "
            "is negative where they are better."
        ),
        (
            f"The expert's mean return under the limit of training is {comparison.expert_level:.0f}. Its level "
            f"counts as reached when the mean of {comparison.rows[0].window} successive training episodes does; the "
            "number is the median over the seeds that reach it."
        ),
        (
            f"At the switch the mean of the Q-values' maximum was {before:.1f}, and {after:.1f} after "
            "it was moved to the level of the true reward."
        ),
    ]
    return "\n\n".join(lines)


def _protocol(settings: AqilSettings) -> tuple[str, ...]:
    return (
        (
            "Gymnasium's cart-pole with the failure angle widened to 50°; an episode also ends where the "
            "cart leaves ±2.4 m. One environment."
        ),
        (
            "True reward: exp(-(θ / 10°)² / 2) a step, θ the pole's angle. Imitation reward: 0.2 of that "
            "and 0.8 exp(-((a_PID - a) / 0.5)² / 2). θ and both actions are of the same state."
        ),
        "Expert: PID on the angle, P = 0.6, I = 0.00625, D = 0.8, asked in the states of the learner, which acts.",
        (
            "Deep Q-learning with a hard maximum and a target network, the same network in both "
            "phases. Every mode has the same number of episodes, but for the shorter imitation."
        ),
        (
            f"{settings.imitation_episodes} episodes of imitation are the beginning of both longer modes: each goes on "
            "from a copy of the same agent."
        ),
        (
            f"**Technical limit**: the paper's episodes have no step limit. Here a training episode is cut off "
            f"after {settings.step_limit:,} steps, as a truncation that the learner does not see as a failure, "
            "so that a policy that balances for ever does not train for ever. It makes the means of good "
            "policies smaller than they would be, and no other."
        ),
    )


def _choices(settings: AqilSettings) -> tuple[str, ...]:
    first, last = settings.exploration
    return (
        (
            f"The expert's D term takes {_DERIVATIVES[settings.derivative]}, its I term the sum of the "
            "angle over steps, in radians. A push has the sign of the output: right where the pole leans "
            "right. Without a limit it lasts about 1,600 steps on average with the change and about 5,600 with the "
            "velocity (20 episodes, cut off after 20,000 steps); no imitator of the "
            "paper's has a mean above 700."
        ),
        "In the Gaussian of the actions they count as 0 and 1, so that a mistake costs 0.8 (1 - exp(-2)).",
        (
            f"{settings.environments} episodes are played side by side, as the x trajectories of the paper's epochs, "
            f"and {settings.updates_per_episode} updates follow the end of each, however long it was. The first "
            f"{settings.episodes} to begin count; what the other environments play until the last of them is over is "
            "learnt from, in all modes alike."
        ),
        (
            f"{'Double' if settings.double else 'Plain'} Q-learning, γ {settings.gamma}, Adam with {settings.learning_rate:g}, batches of "
            f"{settings.batch_size}, a buffer of {settings.buffer_size:,}, a target network that follows by "
            f"{settings.target_rate:g} at each update, layers of {' and '.join(map(str, settings.hidden))} units, "
            f"values that begin {'at 1 / (1 - γ)' if settings.optimistic else 'near 0'}."
        ),
        (
            f"ε falls from {first:g} to {last:g} over the first {settings.exploration_share * settings.episodes:.0f} "
            f"episodes, of imitation as of reinforcement learning from scratch; after the switch it is {last:g}."
        ),
        (
            f"At the switch (`CarryOver`): {settings.settling_updates:,} last updates of imitation with a learning rate that "
            "falls to 0; true rewards for the steps in the buffer, values moved to their level, a new optimiser with "
            f"{settings.learning_rate_factor:g} of the learning rate, the target network a copy, and "
            f"{settings.value_updates:,} updates that learn the values of the imitating policy before it may change. Then "
            f"the large margin of that policy ({settings.margin:g}) stays in the loss, with the weight "
            f"{settings.anchor_weight:g}"
            + (
                f" that becomes {settings.anchor_weight_end:g}."
                if settings.anchor_weight_end != settings.anchor_weight
                else "."
            )
        ),
        "Settings were chosen on seeds from 100 on; none of these is among those of the table.",
    )


# The numbers and the figure ---------------------------------------------------------------------------


def _scores(comparison: Comparison, record: Record) -> str:
    """Return every number as CSV, in full precision; curves as means of ten episodes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["reproduction", "run", "mode", "seed", "quantity", "episode", "value", "low", "high"]
    )
    run = "quick" if record.quick else "full"
    for row in comparison.rows:
        where = [record.name, run, row.mode]
        for name, published, ours, by_seed in (
            ("mean", row.paper[0], row.mean, row.means),
            ("best", row.paper[1], row.best, row.bests),
            ("greedy test", None, row.test, row.test_returns.mean(1)),
        ):
            if published is not None:
                writer.writerow([*where, "", f"{name}, paper", "", repr(published), "", ""])
            bounds = ["" if np.isnan(x) else repr(x) for x in (ours.low, ours.high)]
            writer.writerow([*where, "", name, "", repr(ours.estimate), *bounds])
            for seed, value in enumerate(by_seed.tolist()):
                writer.writerow([*where, seed, name, "", repr(value), "", ""])
        for seed, returns in enumerate(row.returns):
            for start in range(0, len(returns) - BLOCK + 1, BLOCK):
                value = float(returns[start : start + BLOCK].mean())
                writer.writerow(
                    [*where, seed, f"mean of {BLOCK} episodes", start + BLOCK, repr(value), "", ""]
                )
    for name, returns in (("training", comparison.expert), ("test", comparison.expert_test)):
        value = repr(float(returns.mean()))
        writer.writerow(
            [record.name, run, "expert", "", f"mean under the limit of {name}", "", value, "", ""]
        )
    return text.getvalue()


def _figure(comparison: Comparison, record: Record) -> "Figure":
    """Draw returns and regret by episode, and the means beside the paper's."""
    figure = new_figure(11.4, 4.2)
    returns, regret, means = figure.subplots(1, 3)
    level = comparison.expert_level
    for row, colour, marker in zip(comparison.rows, PALETTE, MARKERS, strict=False):
        smoothed = row.smoothed()
        episodes = np.arange(smoothed.shape[1]) + row.window
        for axes, values in ((returns, smoothed), (regret, level - smoothed)):
            _band(axes, episodes, values, colour)
            axes.plot(episodes, values.mean(0), color=colour, lw=1.7, label=row.mode)
        place = list(comparison.rows).index(row)
        errors = np.array([[row.mean.estimate - row.mean.low], [row.mean.high - row.mean.estimate]])
        means.errorbar(
            place,
            row.mean.estimate,
            np.nan_to_num(errors),
            color=colour,
            marker=marker,
            ms=6,
            capsize=3,
        )
        means.plot(place, row.paper[0], color=GREY, marker="x", ms=7, ls="")
    returns.axhline(level, color=GREY, ls="--", lw=1.2)
    returns.set_yscale("log")
    returns.minorticks_off()
    regret.axhline(0, color=GREY, ls="--", lw=1.2, label="the expert")
    means.set_xticks(range(len(comparison.rows)), ["RL", "IL, half", "IL", "IL + RL"])
    means.set_ylim(bottom=0)
    smoothing = f"mean of {comparison.rows[0].window} episodes"
    dress(returns, title="true return", xlabel="training episode", ylabel=smoothing)
    dress(regret, title="regret to the expert", xlabel="training episode", ylabel=smoothing)
    dress(means, title="mean of all episodes (×: paper)", ylabel="true return")
    title = f"{TITLE}: higher returns are better" + f" ({QUICK})" * record.quick
    figure.suptitle(title, fontsize=LARGE, color=INK)
    legend_below(figure, regret)
    return figure


def _band(
    axes: "Axes",
    episodes: "np.ndarray[tuple[int], np.dtype[np.int64]]",
    values: np.ndarray,
    colour: str,
) -> None:
    """Shade the middle half of the seeds."""
    low, high = np.quantile(values, [0.25, 0.75], axis=0)
    axes.fill_between(episodes, low, high, color=colour, alpha=0.18, lw=0)
