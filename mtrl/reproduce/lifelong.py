"""The lifelong setting of Li 2020 (arXiv:2001.09608): bias and guidance in the home-food world."""

import csv
import io
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mtrl.agents.lifelong import HomeFood, PoolSettings, QSettings
from mtrl.agents.lifelong.worlds import TIME_LIMIT
from mtrl.evaluation.statistics import interval
from mtrl.figure_style import (
    GREY,
    INK,
    LARGE,
    PALETTE,
    dress,
    legend_below,
    new_figure,
)
from mtrl.interrupts import Interrupted, Interrupts
from mtrl.progress import Progress, format_duration
from mtrl.reproduce.carry_out import Outcome, Place, record_of, require_figures, write_files
from mtrl.reproduce.lifelong_claims import PAPER, Summary, claims, curve, summarise
from mtrl.reproduce.lifelong_lives import (
    CONDITIONS,
    FULL,
    LEFT,
    LEFT_VALUE,
    POOL,
    PROGRESS,
    QUICK_PLAN,
    Condition,
    LifeRecord,
    Plan,
    Stopped,
    load_or_live,
)
from mtrl.reproduce.page import (
    QUICK,
    Record,
    bullets,
    markdown_table,
    provenance,
    quick_notice,
)
from mtrl.reproduce.provenance import commit
from mtrl.seeding import numpy_generator

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["lifelong_table"]

TITLE = "Bias and guidance in a life without resets"
Array = NDArray[np.float64]
Lives = Mapping[Condition, Sequence[LifeRecord]]
_POOL, _Q = PoolSettings(), QSettings()
DEFINITIONS = (
    (
        "One life is one agent in a grid of 11 x 11 cells, 74 of them free, that is never reset: it "
        "fetches food at F, takes it home to H, and begins again. Two tunnels lead through the wall, L by "
        "the longer way."
    ),
    (
        "Reward is a message: the present local goal, and a value only when the goal before has expired. "
        f"A goal expires when its target is reached (worth 1, or 0 if the errand had timed out before) or after "
        f"{TIME_LIMIT} steps (worth -1; the errand is then late)."
    ),
    (
        "Progress guidance: a time-out is worth 0.01 more for every step of Manhattan distance gained, "
        "with probability 0.8. Sub-optimal guidance instead: the goal also expires in the left tunnel, worth 0.6 "
        f"with probability 0.8 and else -0.2, and the target is then worth {LEFT_VALUE:g} instead of 1."
    ),
    (
        "The learner keeps a pool of policies for every local goal; a policy runs from a goal's beginning "
        "to its expiry, whose value is its score. A biased learner gives a cell the action of one beside it, an "
        "unbiased one any action."
    ),
    (
        "Success is the share of the two errands that the policies held to be best do in time, tried out "
        "beside the life at regular steps. Steps to 100 % are counted to the first trial from which on "
        "all succeed until the life's end; those to the short way likewise, for doing both errands through R."
    ),
)
CHOICES = (
    (
        "The paper shows its map as a picture. Ours has its number of free cells; the wall's row, the "
        "tunnels' columns and the places of H and F are chosen so that the short way takes 12 steps, half "
        "the time limit, and the longer one 18."
    ),
    (
        "The paper names what its pools do and gives no numbers. Ours keep "
        f"{_POOL.size} policies a goal, mutate one with probability {_POOL.mutate:g}, run one again with "
        f"{_POOL.rerun:g} and else try a fresh one; a mutation forgets one action, and each further one "
        f"with probability {_POOL.more_changes:g}. The bias repeats a neighbour's action with probability "
        "0.8. A cell's action is drawn when it is first met. The size was chosen on three lives with other "
        "random numbers."
    ),
    (
        "That is why our lives need far fewer steps than the paper's, and why the ratios are compared and "
        "not the steps."
    ),
    "Every local goal has the full time limit, the one after the left tunnel too.",
    (
        "Per-goal Q-learning is ours, for comparison in the same life: step size "
        f"{_Q.step_size:g}, discount {_Q.discount:g}, exploration {_Q.exploration:g}. A cell does not tell how "
        "much time is left, so that its greedy policy comes and goes."
    ),
)


def lifelong_table(place: Place) -> Outcome:
    """Live all lives that are not kept yet, and write the page, the numbers and the figure.

    Raises:
        Interrupted: asked to stop; finished lives are kept, and the same command goes on.
        MissingExtraError: matplotlib is not installed.
    """
    require_figures()
    clock, revision = time.monotonic(), commit()
    plan = QUICK_PLAN if place.quick else FULL
    lives, found = _live_all(place, plan)
    summaries = {c: summarise(c, records, plan) for c, records in lives.items()}
    record = record_of(place, revision, time.monotonic() - clock)
    held, _ = claims(summaries, numpy_generator(place.seed, "lifelong claims"))
    return write_files(
        place,
        _page(summaries, lives, plan, record, found),
        _scores(summaries, lives, plan, record),
        lambda: _figure(lives, plan, record),
        None if place.quick else all(held.values()),
    )


def _live_all(place: Place, plan: Plan) -> tuple[Lives, int]:
    """Return the lives by condition, and how many of them were kept before."""
    folder = place.work / f"reproduce-{place.stem}"
    seeds = [place.seed * plan.lives + life for life in range(plan.lives)]
    lives: dict[Condition, list[LifeRecord]] = {condition: [] for condition in CONDITIONS}
    kept = 0
    with (
        Interrupts() as interrupts,
        Progress(len(seeds) * len(CONDITIONS), label="lives") as progress,
    ):
        for seed in seeds:
            for condition in CONDITIONS:
                try:
                    record, was_kept = load_or_live(
                        condition, seed, plan, folder, lambda: interrupts.signal_number is not None
                    )
                except Stopped:
                    raise Interrupted(
                        "stopped; finished lives are kept, and the same command goes on",
                        interrupts.signal_number or 2,
                    ) from None
                lives[condition].append(record)
                kept += was_kept
                progress.advance()
    return lives, kept


def _page(
    summaries: Mapping[Condition, Summary], lives: Lives, plan: Plan, record: Record, found: int
) -> str:
    held, times = claims(summaries, _generator(record, "claims"))
    total = sum(len(records) for records in lives.values())
    seconds = sum(life.seconds for records in lives.values() for life in records)
    sections = [
        f"# {TITLE}" + f" ({QUICK})" * record.quick,
        quick_notice("two short lives a condition.") if record.quick else "",
        "Source: Li 2020, Some Insights into Lifelong Reinforcement Learning Systems (arXiv:2001.09608).",
        "" if record.quick else f"**{sum(held.values())} of {len(held)} claims hold.**",
        ""
        if record.quick
        else bullets([f"{'Yes' if met else 'NO'}: {claim}" for claim, met in held.items()]),
        _comparison(summaries, record),
        (
            f"{plan.lives} lives a condition. Steps are means over lives with the 95 % bootstrap interval in "
            f"brackets, to the nearest {plan.probe_every:,}; where not all lives get there, how many do. "
            "In time is the share of all errands in the last tenth of the life, those of tried-out policies included."
        ),
        (
            f"With progress guidance the unbiased learner takes {times} times the steps of the biased one; "
            "the paper's numbers give about 3. A life that does not get there counts with all of its steps."
        ),
        f"![Success by step{f', {QUICK}' * record.quick}]({record.stem}.png)",
        "## Definitions",
        bullets(DEFINITIONS),
        "## What the paper leaves open",
        bullets(CHOICES),
        "## How this was made",
        provenance(record)
        + f"\n- Lives: {total}, of which {found} were found finished; all took {format_duration(seconds)}",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _generator(record: Record, name: str) -> np.random.Generator:
    seed = int(record.command.partition("--seed ")[2] or 0)
    return numpy_generator(seed, f"lifelong {name}")


def _comparison(summaries: Mapping[Condition, Summary], record: Record) -> str:
    head = ["condition", "paper", "a life's steps", "our steps to 100 %", "to the short way"]
    head += ["success at the end", "in time"]
    body = []
    for condition, summary in summaries.items():
        rng = _generator(record, condition.name)
        paper = PAPER.get(condition, "-")
        line = [condition.name, paper, f"{summary.steps / 1e6:g}M"]
        line += [_steps(summary, steps, rng) for steps in (summary.success, summary.short_way)]
        line += [str(interval(shares, rng)) for shares in (summary.final, summary.in_time)]
        body.append(line)
    return markdown_table(head, body)


def _steps(summary: Summary, steps: Array, rng: np.random.Generator) -> str:
    mean = summary.mean(steps, rng)
    if mean is None:
        return f"in {summary.reached(steps)} of {len(steps)} lives"
    return f"{mean.estimate / 1e6:.2f}M [{mean.low / 1e6:.2f}M, {mean.high / 1e6:.2f}M]"


def _scores(
    summaries: Mapping[Condition, Summary], lives: Lives, plan: Plan, record: Record
) -> str:
    """Return every life's numbers as CSV, then the share of success by step that is drawn."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["reproduction", "run", "condition", "life", "quantity", "step", "value"])
    run = "quick" if record.quick else "full"
    for condition, summary in summaries.items():
        where = [record.name, run, condition.name]
        for life, seed in enumerate(r.seed for r in lives[condition]):
            for name in ("success", "short_way"):
                steps = getattr(summary, name)[life]
                value = "" if np.isnan(steps) else int(steps)
                writer.writerow([*where, seed, f"steps to {name.replace('_', ' ')}", "", value])
            for name, shares in (
                ("success at the end", summary.final),
                ("in time", summary.in_time),
            ):
                writer.writerow([*where, seed, name, "", repr(float(shares[life]))])
    for condition, records in lives.items():
        means = np.array([r.success for r in records]).mean(axis=0)
        for probe, value in enumerate(means.tolist(), start=1):
            where = [record.name, run, condition.name, "mean", "success"]
            writer.writerow([*where, probe * plan.probe_every, repr(value)])
    return text.getvalue()


def _figure(lives: Lives, plan: Plan, record: Record) -> "Figure":
    """Draw the map, and for both guidances the success of biased and unbiased lives by step."""
    figure = new_figure(10.5, 3.9)
    grid, *panels = figure.subplots(1, 3, width_ratios=(0.75, 1, 1))
    _map(grid)
    for axes, guidance in zip(panels, (PROGRESS, LEFT), strict=True):
        for condition, records in lives.items():
            if condition.guidance == guidance and condition.learner == POOL:
                _curves(axes, condition, records, plan, record)
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter("")
        axes.set_ylim(-0.03, 1.03)
        title = f"{guidance} guidance"
        dress(axes, title=title, xlabel="steps of the life", ylabel="errands done in time")
    figure.suptitle(f"{TITLE}" + f" ({QUICK})" * record.quick, fontsize=LARGE, color=INK)
    legend_below(figure, panels[1])
    return figure


def _curves(
    axes: "Axes", condition: Condition, records: Sequence[LifeRecord], plan: Plan, record: Record
) -> None:
    steps = plan.probe_every * np.arange(1, plan.probes(condition) + 1)
    mean, low, high = curve(records, _generator(record, f"curve {condition.name}"))
    colour = PALETTE[0] if condition.biased else PALETTE[1]
    label = "biased" if condition.biased else "unbiased"
    axes.fill_between(steps, low, high, color=colour, alpha=0.2, lw=0)
    axes.plot(steps, mean, color=colour, lw=1.7, ls="-" if condition.biased else "--", label=label)
    if condition.guidance == LEFT and condition.biased:
        short = np.array([r.short_way for r in records], float).mean(axis=0)
        axes.plot(steps, short, color=GREY, lw=1.4, ls=":", label="biased, lives on the short way")


def _map(axes: "Axes") -> None:
    world = HomeFood()
    free = np.array([[letter != "#" for letter in line] for line in world.map])
    axes.imshow(free, cmap="gray", vmin=-1.2, vmax=1.0)
    for row, line in enumerate(world.map):
        for column, letter in enumerate(line):
            if letter.isalpha():
                axes.text(column, row, letter, ha="center", va="center", color=INK, weight="bold")
    dress(axes, title="home, food and two tunnels")
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
