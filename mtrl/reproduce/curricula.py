"""Steps to solve a range of mountain cars: tasks drawn uniformly against tasks that curricula choose."""

import csv
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mtrl.evaluation.statistics import Interval
from mtrl.figure_style import GREY, INK, LARGE, PALETTE, dress, legend_below, new_figure
from mtrl.progress import format_duration
from mtrl.reproduce.carry_out import Outcome, Place, record_of, require_figures, write_files
from mtrl.reproduce.curricula_training import (
    CURRICULA,
    UNIFORM,
    WORLDS,
    Job,
    Trained,
)
from mtrl.reproduce.jobs import Job as Training
from mtrl.reproduce.jobs import carry_out_jobs
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
from mtrl.versions import library_versions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FULL", "QUICK_PLAN", "Plan", "Row", "curricula_table", "summarise"]

TITLE = "Curricula against uniform tasks"
Array = NDArray[np.float64]
Results = Mapping[tuple[str, str], Sequence[Trained]]
RATIO = 1.5
"""How many times the steps of a curriculum uniform tasks must take."""
WANTED = 2
"""Curricula of each family that must be that much quicker."""
_RESAMPLES = 10_000
_SMOOTHED = 5


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is trained: steps of a training at most, seeds, tasks of the list."""

    steps: int
    every: int
    seeds: int
    tasks: int
    threshold: float


FULL = Plan(steps=400_000, every=2_000, seeds=5, tasks=20, threshold=0.9)
QUICK_PLAN = replace(FULL, steps=4_000, seeds=2)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A curriculum in a family.

    Attributes:
        steps: (seeds,), to the threshold; the whole budget where it was not reached.
        reached: in how many seeds it was.
        ratio: of the mean steps with uniform tasks to its own, with a 95 % bootstrap interval.
        bound: whether uniform tasks did not reach it in every seed, so that the ratio is at least that.
    """

    steps: Array
    reached: int
    ratio: Interval
    bound: bool

    @property
    def quicker(self) -> bool:
        """Whether every seed reached the threshold, in so many fewer steps."""
        return self.reached == len(self.steps) and self.ratio.estimate >= RATIO


def curricula_table(place: Place) -> Outcome:
    """Carry out the trainings that are not kept yet, and write the page, the numbers and the figure.

    Raises:
        Interrupted: asked to stop; finished trainings are kept, and the same command goes on.
        MissingExtraError: matplotlib is not installed.
    """
    require_figures()
    clock, revision = time.monotonic(), commit()
    plan = QUICK_PLAN if place.quick else FULL
    results = _train_all(place, plan, {**library_versions(), "commit": revision})
    rows = {key: _row(key, results, plan, place.seed) for key in results}
    record = record_of(place, revision, time.monotonic() - clock)
    return write_files(
        place,
        _page(rows, results, plan, place, record),
        _scores(results, plan, place, record),
        lambda: _figure(results, plan, record),
        None if place.quick else all(_met(rows, world) for world in WORLDS),
    )


# Trainings


def _jobs(plan: Plan, place: Place, code: Mapping[str, str]) -> dict[Job, Training]:
    """Return every training by what it is, those of one seed after those of the one before."""
    jobs = [
        Job(
            world=world,
            curriculum=curriculum,
            seed=place.seed * plan.seeds + number,
            steps=plan.steps,
            every=plan.every,
            tasks=plan.tasks,
            threshold=plan.threshold,
        )
        for number in range(plan.seeds)
        for world in WORLDS
        for curriculum in CURRICULA
    ]
    return {job: _training(job, place, code) for job in jobs}


def _training(job: Job, place: Place, code: Mapping[str, str]) -> Training:
    name = f"{job.world}, {job.curriculum}, seed {job.seed}"
    return Training(
        name=name,
        stem=name.replace(",", "").replace(" ", "-").lower(),
        function="mtrl.reproduce.curricula_training:train_told",
        told=asdict(job),
        folder=place.work / f"reproduce-{place.stem}",
        code=code,
    )


def _train_all(place: Place, plan: Plan, code: Mapping[str, str]) -> Results:
    jobs = _jobs(plan, place, code)
    carry_out_jobs(list(jobs.values()), place.processes)
    results: dict[tuple[str, str], list[Trained]] = {}
    for job, training in jobs.items():
        made = training.finished()
        assert made is not None, "carry_out_jobs returns when all are finished"
        trained = Trained(
            steps=made.values["steps"], curve=tuple(made.values["curve"]), seconds=made.seconds
        )
        results.setdefault((job.world, job.curriculum), []).append(trained)
    return results


# What they say


def summarise(
    own: Sequence[Trained], uniform: Sequence[Trained], budget: int, rng: np.random.Generator
) -> Row:
    """Return the row of a curriculum, whose trainings and those of uniform tasks share no chance.

    Args:
        own: of the curriculum, one for each seed.
        uniform: likewise of uniform tasks.
        budget: steps of a training that did not reach the threshold.
        rng: of the resamples; seeds of both are resampled.
    """
    steps, base = (
        np.array([each.steps or budget for each in made], np.float64) for made in (own, uniform)
    )
    draws = [
        made[rng.integers(len(made), size=(_RESAMPLES, len(made)))].mean(1)
        for made in (base, steps)
    ]
    low, high = np.quantile(draws[0] / draws[1], [0.025, 0.975])
    return Row(
        steps=steps,
        reached=sum(each.steps is not None for each in own),
        ratio=Interval(
            estimate=float(base.mean() / steps.mean()), low=float(low), high=float(high)
        ),
        bound=any(each.steps is None for each in uniform),
    )


def _row(key: tuple[str, str], results: Results, plan: Plan, seed: int) -> Row:
    rng = numpy_generator(seed, f"curricula {key}")
    return summarise(results[key], results[key[0], UNIFORM], plan.steps, rng)


def _quicker(rows: Mapping[tuple[str, str], Row], world: str) -> list[str]:
    return [name for name in CURRICULA if name != UNIFORM and rows[world, name].quicker]


def _met(rows: Mapping[tuple[str, str], Row], world: str) -> bool:
    return len(_quicker(rows, world)) >= WANTED


def _page(
    rows: Mapping[tuple[str, str], Row],
    results: Results,
    plan: Plan,
    place: Place,
    record: Record,
) -> str:
    made = [each for trainings in results.values() for each in trainings]
    sections = [
        f"# {TITLE}" + f" ({QUICK})" * record.quick,
        quick_notice("two short trainings of each curriculum.") if record.quick else "",
        "" if record.quick else bullets([_verdict(rows, world) for world in WORLDS]),
        *(f"## {world}\n\n{_table(rows, world)}" for world in WORLDS),
        (
            f"{plan.seeds} seeds. Steps are environment steps until a greedy agent first succeeds in "
            f"{plan.threshold:.0%} of its episodes, the same number of each of {plan.tasks} tasks that are evenly "
            f"spread over the whole range; it is evaluated every {plan.every:,} steps, and a training that does not get "
            f"there counts with its {plan.steps:,}. The ratio is of mean steps, uniform to curriculum, with the 95 % "
            "bootstrap interval over seeds; at least that (≥) where uniform tasks did not get there in every seed."
        ),
        f"![Success by step{f', {QUICK}' * record.quick}]({record.stem}.png)",
        "## What was done",
        bullets(_choices(plan)),
        "## How this was made",
        provenance(record)
        + f"\n- Trainings: {len(made)}, {place.processes} at a time; one after the other they took "
        + format_duration(sum(each.seconds for each in made)),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _verdict(rows: Mapping[tuple[str, str], Row], world: str) -> str:
    found = _quicker(rows, world)
    names = ", ".join(found) if found else "none"
    judged = "Yes" if _met(rows, world) else "NO"
    return (
        f"**{judged}: on {world}, {len(found)} curricula ({names}) reach the threshold in every seed where "
        f"uniform tasks take at least {RATIO:g} times their steps; {WANTED} were wanted.**"
    )


def _table(rows: Mapping[tuple[str, str], Row], world: str) -> str:
    head = ["curriculum", "mean steps", "seeds that get there", "uniform / curriculum", ""]
    body = []
    for name in CURRICULA:
        row = rows[world, name]
        ratio = f"{'≥ ' * row.bound}{row.ratio.estimate:.2f} [{row.ratio.low:.2f}, {row.ratio.high:.2f}]"
        body.append(
            [
                name,
                f"{row.steps.mean():,.0f}",
                f"{row.reached} of {len(row.steps)}",
                "-" if name == UNIFORM else ratio,
                _in_words(name, row),
            ]
        )
    return markdown_table(head, body)


def _in_words(name: str, row: Row) -> str:
    if name == UNIFORM:
        return ""
    if row.ratio.low > 1:
        return "helps"
    if row.ratio.high < 1:
        return "does harm"
    return "no difference that these seeds show"


def _choices(plan: Plan) -> list[str]:
    return [
        (
            "Tasks are mountain cars whose goals lie ever higher, from the bottom of the valley to the summit. The "
            "first are reached by chance, the last by nobody who has not learnt to swing: "
            "tasks drawn uniformly are mostly too easy or too hard to learn from."
        ),
        (
            "The learner is Q-learning on tiles of position and velocity, with eight environments side by "
            "side, step size 0.2, discount 0.99 and a tenth of random actions. It is not told the goal, so that what "
            "leads to one leads towards the next. Values begin at -60 (10 in the continuous family), more "
            "than they are where the goal is never reached, so that what was not tried yet is tried."
        ),
        (
            "mountaincar-continuous pays 100 at the goal and takes a tenth of the squared force for every "
            "step; its learner has full force backwards, none, and full force forwards."
        ),
        (
            f"Uniform, staged, learning progress, teacher-student, learnability and worst regret choose among the "
            f"{plan.tasks} tasks of the evaluation; ALP-GMM and domain randomisation among all goals in the range, the latter "
            "from the easiest on. Stages are told the order of the tasks; no other curriculum is."
        ),
        (
            "This set-up was chosen, because curricula helped in it, from several that were tried with few seeds. In "
            "the others no clear gain was seen: PPO on goals and forces of mountain cars, which learnt nothing of use; "
            "PPO on lengths of cart-poles, where some curricula were slower than uniform tasks; tiles with goals up to "
            "0.5, from -0.45, or told the goal. Trials had seeds 0 to 2 and 101 to 103. The continuous family is a close "
            "relative of the other. Its values began at 0 at first: on seeds 200 to 204 staged got there in four of five, "
            "no curriculum in all. `--seed 41` has seeds of none of these."
        ),
    ]


def _scores(results: Results, plan: Plan, place: Place, record: Record) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["reproduction", "run", "family", "curriculum", "seed", "quantity", "step", "value"]
    )
    run = "quick" if record.quick else "full"
    for (world, name), trainings in results.items():
        for number, trained in enumerate(trainings):
            where = [record.name, run, world, name, place.seed * plan.seeds + number]
            writer.writerow([*where, "steps to threshold", "", trained.steps or ""])
            for point, value in enumerate(trained.curve, start=1):
                writer.writerow([*where, "success", point * plan.every, repr(value)])
    return text.getvalue()


def _figure(results: Results, plan: Plan, record: Record) -> "Figure":
    figure = new_figure(11.0, 4.2)
    panels = figure.subplots(1, len(WORLDS), sharey=True)
    for axes, world in zip(panels, WORLDS, strict=True):
        for place, name in enumerate(CURRICULA):
            colour = GREY if name == UNIFORM else PALETTE[(place - 1) % len(PALETTE)]
            style = {"color": colour, "ls": "-" if place <= len(PALETTE) else "--"}
            _curve(axes, results[world, name], plan, name, style)
        axes.axhline(plan.threshold, color=INK, lw=0.8, ls=":")
        axes.set_xscale("log")
        dress(
            axes,
            title=f"{world}: means of {_SMOOTHED} evaluations",
            xlabel="environment steps",
            ylabel="success over the range",
        )
    figure.suptitle(f"{TITLE}" + f" ({QUICK})" * record.quick, fontsize=LARGE, color=INK)
    legend_below(figure, panels[0])
    return figure


def _curve(
    axes: "Axes", trainings: Sequence[Trained], plan: Plan, name: str, style: Mapping[str, Any]
) -> None:
    """Draw the running mean over evaluations of the mean over seeds; one that has ended counts with its last success."""
    length = max(len(each.curve) for each in trainings)
    rows = [[*each.curve, *[each.curve[-1]] * (length - len(each.curve))] for each in trainings]
    sums = np.cumsum([0.0, *np.mean(rows, 0)])
    ends = np.arange(1, length + 1)
    begins = np.maximum(0, ends - _SMOOTHED)
    means = (sums[ends] - sums[begins]) / (ends - begins)
    axes.plot(plan.every * ends, means, lw=2.0 if name == UNIFORM else 1.4, label=name, **style)
