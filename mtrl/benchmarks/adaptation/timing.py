"""Time and memory of all variants of a problem."""

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from mtrl.benchmarks.adaptation import navigation, pytorch_maml_rl
from mtrl.benchmarks.adaptation.agreement import LOOP
from mtrl.benchmarks.adaptation.limit import Limit, limits_of, matrix_product
from mtrl.benchmarks.adaptation.ours import adapting, inner_only, meta_step, sampling
from mtrl.benchmarks.adaptation.peers.worker import turn
from mtrl.benchmarks.adaptation.problem import IMAGES, Problem
from mtrl.benchmarks.adaptation.processes import PeerProcess, find_peers
from mtrl.benchmarks.adaptation.settings import AdaptationSettings
from mtrl.benchmarks.measure import (
    Build,
    Turn,
    Variant,
    interleaved,
    memory_growth,
    speedups,
    take_turns,
)
from mtrl.benchmarks.report import Row

__all__ = [
    "COMPILED",
    "OURS",
    "OURSELVES",
    "Memory",
    "Split",
    "measure_limits",
    "measure_memory",
    "measure_navigation",
    "measure_problem",
    "split_of",
]

OURSELVES = OURS, COMPILED = "mtrl", "mtrl, compiled"
THIN = "mtrl, Fisher products on 1/20 of the samples"
TASKWISE = "mtrl, one task at a time"
FEW_TASKS = 4
FEW = f"mtrl, compiled, {FEW_TASKS} tasks at once"
WORKS = {"train": "meta-step", "adapt": "adapt to all", "adapt one": "adapt to one"}


@dataclass(frozen=True, kw_only=True)
class Split:
    """What a meta-iteration's time goes into, in seconds of processor or wall time; medians."""

    work: str
    sampling: float
    inner: float
    outer: float


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Peak growth of resident memory in one meta-step, MiB."""

    work: str
    variant: str
    tasks: int
    inner_steps: int
    mib: float | None


def synchronizer(device: str) -> Callable[[], None]:
    """Return what waits for the device."""
    return torch.cuda.synchronize if device.startswith("cuda") else lambda: None


def measure_problem(problem: Problem, settings: AdaptationSettings) -> list[Row]:
    """Time a meta-step, adaptation to all tasks and to one, of all variants in turns."""
    torch.set_num_threads(settings.threads)
    rows = []
    with ExitStack() as stack:
        found = find_peers(problem, settings.peer_names, settings.peer_folder)
        peers = [
            stack.enter_context(PeerProcess(library, problem, settings.peer_folder))
            for library in found
        ]
        for work, title in WORKS.items():
            variants: dict[str, Turn] = {}
            firsts = {}
            for peer in peers:
                firsts[peer.name] = peer.first(work)
                variants[peer.name] = partial(peer.turn, work)
            for name, make in _ours(problem, work, compiled=settings.compiles(problem)).items():
                firsts[name], variants[name] = _ready(make, problem.device)
            times = take_turns(variants, settings.turns_of(problem), settings.seconds)
            ratios = speedups(times, next(iter(variants)), wall=settings.by_wall)
            rows += [
                Row(
                    work=f"{title}, {problem.title}",
                    variant=name,
                    cpu=[cpu for cpu, _ in times[name]],
                    wall=[wall for _, wall in times[name]],
                    speedups=ratios[name],
                    memory=None,
                    first=firsts[name],
                    tasks=1 if work == "adapt one" else problem.tasks,
                    by_wall=settings.by_wall,
                )
                for name in variants
            ]
    return rows


def _ours(problem: Problem, work: str, *, compiled: bool) -> dict[str, Callable[[], Any]]:
    if work == "train":
        makers: dict[str, Callable[[], Any]] = {OURS: partial(meta_step, problem, False)}
        if compiled:
            makers[COMPILED] = partial(meta_step, problem, True)
        if _chunks(problem):
            makers[TASKWISE] = partial(meta_step, problem, False, 1)
        if compiled and problem.tasks > FEW_TASKS:
            makers[FEW] = partial(meta_step, problem, True, FEW_TASKS)
        return makers
    tasks = 1 if work == "adapt one" else problem.tasks
    makers = {OURS: partial(adapting, problem, tasks, False)}
    if compiled:
        makers[COMPILED] = partial(adapting, problem, tasks, True)
    return makers


def _chunks(problem: Problem) -> bool:
    """Whether ours works on several tasks at once, so that one at a time is another variant, with the least memory."""
    return problem.tasks > 1 and problem.work != IMAGES


def _ready(make: Callable[[], Any], device: str) -> tuple[float, Turn]:
    """Return the seconds until the first step was done, and what gives the steps after it their turn."""
    synchronize, start = synchronizer(device), time.perf_counter()
    step = make()
    step()
    synchronize()
    return time.perf_counter() - start, lambda seconds: turn(step, seconds, synchronize)


def split_of(problem: Problem, settings: AdaptationSettings) -> Split:
    """Return what our meta-step's time goes into: drawing, adapting with a graph, all the rest."""
    steps = {
        "sampling": sampling(problem),
        "inner": inner_only(problem),
        "whole": meta_step(problem, False),
    }
    for step in steps.values():
        step()
    wait = synchronizer(problem.device)
    times = interleaved(steps, settings.turns_of(problem), settings.seconds, wait)
    seconds = {
        name: statistics.median(each[settings.by_wall] for each in turns)
        for name, turns in times.items()
    }
    outer = max(0.0, seconds["whole"] - seconds["inner"])
    title = f"meta-step, {problem.title}"
    return Split(work=title, sampling=seconds["sampling"], inner=seconds["inner"], outer=outer)


def measure_limits(
    problem: Problem, rows: Sequence[Row], settings: AdaptationSettings
) -> list[Limit]:
    """Return how far our variants of the meta-step are from the machine's limit; `rows` are the problem's times."""
    product, wait = matrix_product(problem), synchronizer(problem.device)
    product()
    turns = interleaved({"": product}, settings.turns, settings.seconds, wait)[""]
    seconds = statistics.median(each[settings.by_wall] for each in turns)
    steps = [
        row for row in rows if row.work.startswith(WORKS["train"]) and row.variant in OURSELVES
    ]
    return limits_of(problem, steps, seconds)


def measure_memory(problem: Problem, settings: AdaptationSettings) -> list[Memory]:
    """Return the memory of a meta-step by variant."""
    here = partial(Memory, work=problem.title, tasks=problem.tasks, inner_steps=problem.inner_steps)
    found = []
    for library in find_peers(problem, settings.peer_names, settings.peer_folder):
        with PeerProcess(library, problem, settings.peer_folder) as peer:
            found.append(here(variant=peer.name, mib=peer.memory("train")))
    makers = _ours(problem, "train", compiled=settings.compiles(problem))
    found += [here(variant=name, mib=_own_memory(problem, make)) for name, make in makers.items()]
    return found


def _own_memory(problem: Problem, make: Callable[[], Any]) -> float | None:
    if not problem.device.startswith("cuda"):
        return memory_growth(Build(make, ()))
    step = make()
    step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def navigation_builds(settings: AdaptationSettings) -> dict[str, Build]:
    """Return the variants of a meta-iteration by name, the baseline first."""
    problem = navigation.Problem()
    thin = problem.thin
    ours = {
        LOOP: Build(navigation.looped, (problem,)),
        OURS: Build(navigation.batched, (problem,)),
        THIN: Build(navigation.batched, (thin,)),
    }
    if settings.compiled:
        ours[f"{THIN}, compiled"] = Build(navigation.batched, (replace(thin, compiled=True),))
    if path := settings.pytorch_maml_rl:
        peer = Build(pytorch_maml_rl.iterations, (path.resolve(), problem))
        return {pytorch_maml_rl.PEER: peer} | ours
    return ours


def measure_navigation(settings: AdaptationSettings) -> tuple[list[Row], Split]:
    """Time a meta-iteration on 2-D navigation, and what ours goes into."""
    torch.set_num_threads(settings.threads)
    builds = navigation_builds(settings)
    variants = {name: Variant.ready(build) for name, build in builds.items()}
    steps = {name: variant.step for name, variant in variants.items()}
    times = interleaved(steps, settings.navigation_turns, 0.0)
    ratios = speedups(times, next(iter(builds)))
    rows = [
        Row(
            work="navigation meta-iteration",
            variant=name,
            cpu=[cpu for cpu, _ in times[name]],
            wall=[wall for _, wall in times[name]],
            speedups=ratios[name],
            memory=memory_growth(build) if settings.memory else None,
            first=variants[name].first,
            tasks=navigation.Problem().tasks,
        )
        for name, build in builds.items()
    ]
    return rows, navigation_split(settings.navigation_turns)


def navigation_split(turns: int) -> Split:
    """Return what our meta-iteration's time goes into: episodes, adaptation, the outer update."""
    times = interleaved(navigation.parts(navigation.Problem().thin), turns, 0.0)
    seconds = {name: statistics.median(cpu for cpu, _ in each) for name, each in times.items()}
    return Split(work="navigation meta-iteration", **seconds)
