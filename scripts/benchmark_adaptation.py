"""Measure adaptation against the libraries in use: time and memory, after checking that results agree.

    python scripts/install_peers.py
    python scripts/benchmark_adaptation.py
    python scripts/benchmark_adaptation.py --pytorch-maml-rl ../pytorch-maml-rl --out docs/results

`docs/benchmarks.md` explains what is measured. Exit status 1 if results disagree; nothing is timed then.
"""

import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from benchmarks import navigation, pytorch_maml_rl, sinusoid
from benchmarks.measure import Build, Variant, interleaved, memory_growth, speedups
from benchmarks.report import Agreement, Row, csv_text, page, table

from mtrl.cli import guarded

EXACT, SINGLE = 1e-10, 1e-4
LOOP = "loop over tasks (ours)"


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What to measure."""

    tasks: tuple[int, ...] = (4, 25, 32, 256)
    """Tasks per meta-step on the sinusoid; none leaves it out."""
    compiled: bool = True
    """Measure the compiled meta-step, too; it takes a C++ compiler and a minute."""
    navigation: bool = True
    """Measure the meta-iteration on 2-D navigation."""
    pytorch_maml_rl: Path | None = None
    """A checkout of pytorch-maml-rl to compare navigation with; without it, only a loop of our own."""
    turns: int = 11
    """Turns of each variant on the sinusoid."""
    navigation_turns: int = 5
    """Turns, of one iteration, of each variant on navigation."""
    seconds: float = 0.1
    """Least processor time of a turn on the sinusoid."""
    memory: bool = True
    """Measure memory, each variant in a process of its own."""
    out: Path | None = None
    """Folder for benchmark.md and benchmark.csv."""


def agreements(settings: Benchmark) -> list[Agreement]:
    """Compare results with the peers', on problems small enough to wait for."""
    found = []
    if settings.tasks:
        what = "meta-gradients on the sinusoid, mtrl and learn2learn"
        double = sinusoid.disagreement(70, torch.float64)
        found.append(Agreement(what=f"{what}, float64", difference=double, tolerance=EXACT))
    if settings.tasks and settings.compiled:
        single = sinusoid.disagreement(4, torch.float32, compiled=True)
        found.append(
            Agreement(what=f"{what}, compiled, float32", difference=single, tolerance=SINGLE)
        )
    if settings.navigation:
        # Few iterations of conjugate gradients: ten amplify rounding a billion times.
        trpo = replace(navigation.Problem().trpo, cg_iterations=4)
        small = navigation.Problem(tasks=3, episodes=4, horizon=20, trpo=trpo)
        what = "TRPO steps on navigation, mtrl and"
        looped = navigation.disagreement(small)
        found.append(Agreement(what=f"{what} {LOOP}, float64", difference=looped, tolerance=EXACT))
        if path := settings.pytorch_maml_rl:
            peer = pytorch_maml_rl.disagreement(path, small)
            found.append(
                Agreement(
                    what=f"{what} {pytorch_maml_rl.PEER}, float32",
                    difference=peer,
                    tolerance=SINGLE,
                )
            )
    return found


def navigation_builds(settings: Benchmark) -> dict[str, Build]:
    """Return the variants by name, the baseline first."""
    problem = navigation.Problem()
    thin = replace(problem, trpo=replace(problem.trpo, curvature_fraction=0.05))
    ours = {
        LOOP: Build(navigation.looped, (problem,)),
        "mtrl": Build(navigation.batched, (problem,)),
        "mtrl, Fisher products on 1/20 of the samples": Build(navigation.batched, (thin,)),
    }
    if path := settings.pytorch_maml_rl:
        peer = Build(pytorch_maml_rl.iterations, (path.resolve(), problem))
        return {pytorch_maml_rl.PEER: peer} | ours
    return ours


def measure(
    work: str, builds: dict[str, Build], settings: Benchmark, turns: int, seconds: float
) -> list[Row]:
    """Time all variants in turns, and take the memory of each."""
    variants = {name: Variant.ready(build) for name, build in builds.items()}
    times = interleaved({name: v.step for name, v in variants.items()}, turns, seconds)
    ratios = speedups(times, next(iter(builds)))
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
        for name, build in builds.items()
    ]


def main(settings: Benchmark) -> int:
    """Compare, measure, print; return the exit status."""
    torch.set_num_threads(1)
    checked = agreements(settings)
    print(*checked, sep="\n")
    if not all(agreement.holds for agreement in checked):
        print("results disagree: nothing is timed", file=sys.stderr)
        return 1
    rows = []
    for tasks in settings.tasks:
        builds = sinusoid.builds(tasks, compiled=settings.compiled)
        work = f"sinusoid meta-step, {tasks} tasks"
        rows += measure(work, builds, settings, settings.turns, settings.seconds)
    if settings.navigation:
        builds = navigation_builds(settings)
        rows += measure(
            "navigation meta-iteration", builds, settings, settings.navigation_turns, 0.0
        )
    print(table(rows))
    if settings.out is not None:
        settings.out.mkdir(parents=True, exist_ok=True)
        command = shlex.join(["python", "scripts/benchmark_adaptation.py", *sys.argv[1:]])
        (settings.out / "benchmark.md").write_text(page(command, checked, rows), encoding="utf-8")
        (settings.out / "benchmark.csv").write_text(csv_text(rows), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(tyro.cli(Benchmark))))
