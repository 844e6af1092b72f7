"""Measure multi-task PPO against Stable-Baselines3's PPO on the same cart-pole tasks, and over tasks.

    python scripts/benchmark_multitask.py
    python scripts/benchmark_multitask.py --out docs/results

Both have the same hyperparameters, and networks of the same hidden layers that are told the task.
The peer steps Gymnasium's environments, their physics set to those of the tasks, in a `DummyVecEnv`
with monitors. Everything runs on one thread; a speed-up is of processor time.
"""

import os
import shlex
import statistics
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import tyro
from benchmarks.multitask import OURS, PEER, Problem, builds, step_of

from mtrl.benchmarks.measure import Build, Variant, interleaved, memory_growth, speedups
from mtrl.benchmarks.report import Row, csv_text, table
from mtrl.errors import guarded
from mtrl.versions import library_versions


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    problem: Problem = field(default_factory=Problem)
    """Tasks, environments and hyperparameters."""
    few: int = 2
    """Tasks of the baseline when time per sample is compared over numbers of tasks."""
    many: int = 50
    """Tasks that it is compared with."""
    turns: int = 11
    """Turns of each variant; the median is reported."""
    memory: bool = True
    """Measure memory, each variant in a process of its own."""
    out: Path | None = None
    """Folder for multitask-speed.md and multitask-speed.csv."""


def measure(work: str, made: dict[str, Build], settings: Settings) -> list[Row]:
    """Time all variants in turns of one step each, and take the memory of each."""
    variants = {name: Variant.ready(build) for name, build in made.items()}
    times = interleaved({name: v.step for name, v in variants.items()}, settings.turns, 0.0)
    ratios = speedups(times, next(iter(made)))
    return [
        Row(
            work=work,
            variant=name,
            cpu=[cpu for cpu, _ in times[name]],
            wall=[wall for _, wall in times[name]],
            speedups=ratios[name],
            memory=memory_growth(build) if settings.memory else None,
            first=variants[name].first,
        )
        for name, build in made.items()
    ]


def over_tasks(settings: Settings) -> dict[str, Build]:
    """Return iterations of the same size on few and on many tasks."""
    problems = (replace(settings.problem, tasks=tasks) for tasks in (settings.few, settings.many))
    return {
        f"{OURS}, {problem.tasks} tasks": Build(step_of, (problem, OURS, "iteration"))
        for problem in problems
    }


def verdicts(rows: list[Row]) -> list[str]:
    """Return a sentence for each of the three targets."""
    ours = [row for row in rows if row.variant.startswith(OURS)]
    rollout, whole, _, many = (statistics.median(row.speedups) for row in ours)
    return [
        f"A rollout is collected {rollout:.2f} times as fast as by {PEER} (wanted: 3 or more).",
        f"An iteration is {whole:.2f} times as fast (wanted: 1.2 or more).",
        f"{ours[-1].variant} take {1 / many:.2f} times the time per sample (wanted: 1.3 or less).",
    ]


def page(settings: Settings, rows: list[Row]) -> str:
    """Return the page: what ran where, and the table."""
    command = shlex.join(["python", "scripts/benchmark_multitask.py", *sys.argv[1:]])
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    problem = settings.problem
    return f"""# Speed of multi-task PPO

Made by `{command}` with {versions}, on one thread of a machine with {os.cpu_count()} cores.
`multitask-speed.csv` has every turn.

{problem.tasks} cart-pole tasks of wide ranges in {problem.envs} environments, {problem.steps} steps of
each per rollout, minibatches of {problem.batch}, {problem.epochs} passes. Networks for actions and for
values have hidden layers of {" and ".join(map(str, problem.units))} units with tanh and are told the
task by its unit vector; ours have a head per task besides. The peer steps Gymnasium's own environments
with the attributes of the tasks set, or ours one by one.

{chr(10).join(f"- {sentence}" for sentence in verdicts(rows))}

Medians over turns that alternate in one process; a speed-up is the median of each turn's ratio of processor
time (lowest to highest). An iteration is a rollout and the training on it. Memory is the growth of resident
memory in one step of a fresh process, at its peak.

{table(rows)}
"""


def main(settings: Settings) -> int:
    """Measure and print; return the exit status."""
    torch.set_num_threads(1)
    rows = measure("rollout", builds(settings.problem, "rollout"), settings)
    rows += measure("iteration", builds(settings.problem, "iteration"), settings)
    rows += measure("iteration by tasks", over_tasks(settings), settings)
    print(table(rows))
    print(*verdicts(rows), sep="\n")
    if settings.out is not None:
        settings.out.mkdir(parents=True, exist_ok=True)
        (settings.out / "multitask-speed.md").write_text(page(settings, rows), encoding="utf-8")
        (settings.out / "multitask-speed.csv").write_text(csv_text(rows), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(tyro.cli(Settings, description=__doc__))))
