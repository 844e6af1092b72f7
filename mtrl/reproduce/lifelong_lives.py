"""Lives in the home-food world: the conditions that are compared, one life, and where it is kept."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

from mtrl.agents.lifelong import (
    HomeFood,
    LeftFirst,
    Life,
    PolicyPool,
    PoolSettings,
    Progress,
    QMemory,
    QSettings,
    SameAsNeighbours,
    Unbiased,
)
from mtrl.agents.lifelong.hooks import Guidance
from mtrl.agents.lifelong.life import Learner
from mtrl.durable import replace_file, reporting
from mtrl.errors import MtrlError
from mtrl.seeding import numpy_generator

__all__ = [
    "CONDITIONS",
    "FULL",
    "LEFT",
    "POOL",
    "PROGRESS",
    "QUICK_PLAN",
    "Condition",
    "LifeRecord",
    "Plan",
    "Q",
    "Stopped",
    "live",
    "load_or_live",
]

POOL: Final = "policy pool"
Q: Final = "per-goal Q-learning"
PROGRESS: Final = "progress"
LEFT: Final = "sub-optimal"
LEFT_VALUE = 0.8
"""What the target is worth by the left tunnel, where that is praised."""
VERSION = 1
"""Of what a life does; a kept life of another version is lived again."""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Who lives with which prior knowledge.

    Attributes:
        guidance: which of the paper's two.
        biased: whether policies give similar observations the same action.
        learner: the paper's, or ours for comparison.
    """

    guidance: Literal["progress", "sub-optimal"]
    biased: bool
    learner: Literal["policy pool", "per-goal Q-learning"] = POOL

    @property
    def name(self) -> str:
        """In tables and file names."""
        bias = "biased" if self.biased else "unbiased"
        return f"{self.guidance} guidance, {bias}" + f", {self.learner}" * (self.learner != POOL)


CONDITIONS = (
    Condition(guidance=PROGRESS, biased=False),
    Condition(guidance=PROGRESS, biased=True),
    Condition(guidance=LEFT, biased=False),
    Condition(guidance=LEFT, biased=True),
    Condition(guidance=PROGRESS, biased=False, learner=Q),
    Condition(guidance=PROGRESS, biased=True, learner=Q),
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long and how often: steps of a life by learner, steps from probe to probe, lives."""

    steps: int
    steps_of_q: int
    probe_every: int
    lives: int

    def probes(self, condition: Condition) -> int:
        """Return how many probes a life has."""
        return (self.steps if condition.learner == POOL else self.steps_of_q) // self.probe_every


FULL = Plan(steps=6_000_000, steps_of_q=1_000_000, probe_every=20_000, lives=10)
QUICK_PLAN = Plan(steps=200_000, steps_of_q=100_000, probe_every=20_000, lives=2)


@dataclass(frozen=True, kw_only=True)
class LifeRecord:
    """What is kept of a life; lists have one entry per probe.

    Attributes:
        condition: name.
        seed: of the life.
        success: share of the errands that the policies held to be best do in time.
        short_way: whether they do both, and neither by the left tunnel.
        left: whether they do an errand by the left tunnel.
        completed: errands done in the life since the probe before.
        in_time: those of them in which nothing timed out.
        heard: messages with a value since the probe before.
        seconds: that the life took.
    """

    condition: str
    seed: int
    success: list[float]
    short_way: list[bool]
    left: list[bool]
    completed: list[int]
    in_time: list[int]
    heard: list[int]
    seconds: float

    def first_lasting(self, holds: list[bool]) -> int | None:
        """Return the number of the probe from which on `holds` to the end; None if it does not."""
        lasting = len(holds)
        while lasting > 0 and holds[lasting - 1]:
            lasting -= 1
        return None if lasting == len(holds) else lasting + 1


class Stopped(Exception):
    """A life was asked to stop; nothing of it is kept."""


def born(condition: Condition, seed: int) -> Life:
    """Return a life at its first step."""
    world = HomeFood()
    bias = SameAsNeighbours(world) if condition.biased else Unbiased()
    rng = partial(numpy_generator, seed)
    name = f"lifelong, {condition.name}"
    learner: Learner
    if condition.learner == POOL:
        learner = PolicyPool(world.cells, bias, rng(f"{name}, learner"))
    else:
        learner = QMemory(world.cells, bias, rng(f"{name}, learner"))
    guidance: Guidance = Progress(world)
    machine = world.machine()
    if condition.guidance == LEFT:
        guidance, machine = LeftFirst(), world.machine(left_value=LEFT_VALUE, marks_left=True)
    return Life(world, machine, learner, rng(f"{name}, guidance"), guidance)


def live(condition: Condition, seed: int, plan: Plan, stopped: Callable[[], bool]) -> LifeRecord:
    """Live one life to its end, probing as the plan says.

    Raises:
        Stopped: `stopped`, which is asked at every probe, says so.
    """
    clock, life = time.monotonic(), born(condition, seed)
    record = LifeRecord(
        condition=condition.name,
        seed=seed,
        success=[],
        short_way=[],
        left=[],
        completed=[],
        in_time=[],
        heard=[],
        seconds=0.0,
    )
    for _ in range(plan.probes(condition)):
        if stopped():
            raise Stopped
        before = life.completed, life.in_time
        record.heard.append(len(life.live(plan.probe_every)))
        record.completed.append(life.completed - before[0])
        record.in_time.append(life.in_time - before[1])
        probe = life.probe()
        record.success.append(probe.success)
        record.short_way.append(probe.by_the_short_way)
        record.left.append(any(probe.left[e] for e, n in probe.steps.items() if n is not None))
    return LifeRecord(**{**asdict(record), "seconds": time.monotonic() - clock})


def load_or_live(
    condition: Condition, seed: int, plan: Plan, folder: Path, stopped: Callable[[], bool]
) -> tuple[LifeRecord, bool]:
    """Return the life kept in `folder` if it is this one, else live and keep it; and whether it was.

    Raises:
        Stopped: see `live`.
        MtrlError: the file cannot be read or written.
    """
    path = folder / f"{condition.name.replace(', ', '-').replace(' ', '-')}-{seed}.json"
    facts = {
        "version": VERSION,
        "condition": asdict(condition),
        "seed": seed,
        "plan": {**asdict(plan), "lives": None},
        "settings": [asdict(PoolSettings()), asdict(QSettings())],
    }
    kept = _read(path)
    if kept is not None and kept.get("facts") == facts:
        return LifeRecord(**kept["record"]), True
    record = live(condition, seed, plan, stopped)
    with reporting("write", folder):
        folder.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps({"facts": facts, "record": asdict(record)}).encode())
    return record, False


def _read(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    with reporting("read", path):
        text = path.read_bytes()
    try:
        kept = json.loads(text)
    except ValueError as error:
        raise MtrlError(f"{path} is damaged ({error}); delete it") from error
    return kept if isinstance(kept, dict) else None
