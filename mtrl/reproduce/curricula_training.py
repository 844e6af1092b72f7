"""The worlds, the learner and one training of `mtrl reproduce curricula`.

The learner is semi-gradient Q-learning on tiles (Sutton and Barto 2018, chapters 9 and 10), several
environments side by side: it learns in seconds, so that every curriculum is tried with many seeds.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl import curricula
from mtrl.envs.curricula import VectorCurriculumSource, solved_at
from mtrl.envs.mountaincar import MountainCar, MountainCarContinuous
from mtrl.envs.task import Task
from mtrl.seeding import numpy_generator

__all__ = ["CURRICULA", "UNIFORM", "WORLDS", "Job", "Trained", "World", "train", "train_told"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]

UNIFORM = "uniform"
_SLOTS = 8
_TILINGS, _TILES = 8, 8
_HORIZON = 200
_EPISODES = 2


@dataclass(frozen=True, kw_only=True)
class World:
    """A family, and the range of its tasks.

    Attributes:
        name: in tables.
        family: what simulates it.
        parameter: what varies.
        low, high: its bounds, from the easiest to the hardest.
        solved_at: return from which on an episode is a success.
        best: return that nobody exceeds.
        first_values: what Q-values begin at: above what they are where the goal is never reached, so
            that what was not tried yet is tried.
        exploration: share of random actions.
        actions: what the learner chooses among, as the environment takes them.
    """

    name: str
    family: MountainCar | MountainCarContinuous
    parameter: str
    low: float
    high: float
    solved_at: float
    best: float
    first_values: float
    exploration: float
    actions: tuple[Any, ...]

    def tasks(self, count: int) -> list[Task]:
        """Return `count` tasks, evenly spread over the range, the easiest first."""
        values = np.linspace(self.low, self.high, count)
        return [self.family.task("train", **{self.parameter: float(each)}) for each in values]


def _car(kind: type[Any], bounds: tuple[float, float]) -> Any:
    return kind(ranges={"goal_position": bounds}, split_rule="shared", horizon=_HORIZON)


WORLDS: Mapping[str, World] = {
    world.name: world
    for world in (
        World(
            name="mountaincar",
            family=_car(MountainCar, (-0.5, 0.3)),
            parameter="goal_position",
            low=-0.5,
            high=0.3,
            solved_at=-199.0,
            best=0.0,
            first_values=-60.0,
            exploration=0.1,
            actions=(0, 1, 2),
        ),
        World(
            name="mountaincar-continuous",
            family=_car(MountainCarContinuous, (-0.5, 0.3)),
            parameter="goal_position",
            low=-0.5,
            high=0.3,
            solved_at=50.0,
            best=100.0,
            first_values=10.0,
            exploration=0.1,
            actions=([-1.0], [0.0], [1.0]),
        ),
    )
}

_MADE: Mapping[str, Callable[[World, int], curricula.CurriculumConfig]] = {
    UNIFORM: lambda world, count: curricula.Uniform(),
    "staged": lambda world, count: curricula.Staged(
        stages=5, window=20, promote_at=0.7, rehearsal=0.1
    ),
    "learning progress": lambda world, count: curricula.LearningProgress(
        window=2 * count, uniform=0.1
    ),
    "teacher-student": lambda world, count: curricula.TeacherStudent(),
    "learnability": lambda world, count: curricula.Learnability(keep=count // 5, window=8),
    "worst regret": lambda world, count: curricula.WorstRegret(best=(world.best,), window=count),
    "ALP-GMM": lambda world, count: curricula.AlpGmm(
        lowest=min(0.0, world.best - _HORIZON), highest=world.best, fit_every=100, most_components=4
    ),
    "domain randomisation": lambda world, count: curricula.DomainRandomization(
        widen_at=world.solved_at + 10,
        narrow_at=min(-1e3, world.solved_at),
        queue=5,
        step=0.05,
        start={world.parameter: world.low},
    ),
}
CURRICULA = tuple(_MADE)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training.

    Attributes:
        world: name of the world.
        curriculum: name of the curriculum.
        seed: of all random streams.
        steps: at most.
        every: steps from one evaluation to the next.
        tasks: evenly spread over the range, of a list and of every evaluation.
        threshold: mean success on them at which the training ends.
    """

    world: str
    curriculum: str
    seed: int
    steps: int
    every: int
    tasks: int
    threshold: float


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training did.

    Attributes:
        steps: environment steps until the threshold; None if it was not reached.
        curve: mean success at every evaluation.
        seconds: that it took.
    """

    steps: int | None
    curve: tuple[float, ...]
    seconds: float


class _TileQ:
    """Q-values of a few actions, the sum of one weight from each of several grids of tiles."""

    def __init__(self, world: World, seed: int) -> None:
        space = world.family.observation_space
        self._low = space.low.astype(np.float64)
        self._width = (space.high.astype(np.float64) - self._low) / _TILES
        # Grids are displaced by odd multiples of a fraction of a tile (chapter 9.5.4).
        odd = 1 + 2 * np.arange(len(self._low))
        self._displaced = np.arange(_TILINGS)[:, None] * odd / _TILINGS % 1.0
        self._shape = np.full(len(self._low), _TILES + 1)
        size = int(self._shape.prod())
        self._first = size * np.arange(_TILINGS)
        self._weights = np.full(
            (_TILINGS * size, len(world.actions)), world.first_values / _TILINGS
        )
        self._rng = numpy_generator(seed, "actions of curricula")

    def look(self, observations: Any) -> tuple[Array, Index]:
        """Return the values (rows, actions) and tiles (rows, tilings) of what is seen."""
        places = (observations - self._low) / self._width
        cells = np.floor(places[:, None] + self._displaced).astype(np.int64)
        cells = np.clip(cells, 0, self._shape - 1)
        tiles = np.ravel_multi_index(tuple(np.moveaxis(cells, -1, 0)), self._shape) + self._first
        return self._weights[tiles].sum(1), tiles

    def act(self, values: Array, exploration: float) -> Index:
        """Return greedy actions, of equal ones any, or now and then random ones."""
        ties = values + 1e-9 * self._rng.random(values.shape)
        greedy: Index = ties.argmax(1)
        random = self._rng.random(len(values)) < exploration
        return np.where(random, self._rng.integers(values.shape[1], size=len(values)), greedy)

    def learn(self, tiles: Index, actions: Index, errors: Array) -> None:
        """Move the values of actions (rows,) by 0.2 of their errors (rows,)."""
        np.add.at(self._weights, (tiles, actions[:, None]), 0.2 / _TILINGS * errors[:, None])


_DISCOUNT = 0.99


def train(job: Job) -> Trained:
    """Train until the threshold is reached or the steps are spent."""
    clock, world = time.monotonic(), WORLDS[job.world]
    tasks = world.tasks(job.tasks)
    settings = _MADE[job.curriculum](world, job.tasks)
    curriculum = settings.build(
        world.family, tasks, numpy_generator(job.seed, "curriculum of curricula")
    )
    judge = solved_at(world.solved_at) if curriculum.outcome == "success" else None
    envs = VectorCurriculumSource(
        world.family.make_vec(["train"] * _SLOTS), curriculum, judge=judge
    )
    learner, moves = _TileQ(world, job.seed), np.array(world.actions)
    curve: list[float] = []
    observations, _ = envs.reset(seed=job.seed)
    for step in range(_SLOTS, job.steps + 1, _SLOTS):
        values, tiles = learner.look(observations)
        actions = learner.act(values, world.exploration)
        observations, rewards, terminated, truncated, info = envs.step(moves[actions])
        last = observations.copy()
        for slot in (terminated | truncated).nonzero()[0]:
            last[slot] = info["final_obs"][slot]
        following = learner.look(last)[0].max(1)
        targets = rewards + _DISCOUNT * np.where(terminated, 0.0, following)
        learner.learn(tiles, actions, targets - values[np.arange(_SLOTS), actions])
        if step % job.every < _SLOTS:
            curve.append(_success(world, tasks, learner))
            if curve[-1] >= job.threshold:
                return _trained(step, curve, clock)
    return _trained(None, curve, clock)


def _trained(steps: int | None, curve: Sequence[float], clock: float) -> Trained:
    return Trained(steps=steps, curve=tuple(curve), seconds=time.monotonic() - clock)


def _success(world: World, tasks: Sequence[Task], learner: _TileQ) -> float:
    """Return the share of successes of greedy episodes, the same number of every task."""
    envs = world.family.make_vec(list(tasks) * _EPISODES)
    observations, _ = envs.reset(seed=77)
    totals, running = np.zeros(envs.num_envs), np.ones(envs.num_envs, np.bool_)
    moves = np.array(world.actions)
    while running.any():
        values, _ = learner.look(observations)
        observations, rewards, terminated, truncated, _ = envs.step(moves[values.argmax(1)])
        totals[running] += rewards[running]
        running &= ~(terminated | truncated)
    return float((totals >= world.solved_at).mean())


def train_told(**job: Any) -> dict[str, Any]:
    """Train as the fields of a `Job` say, and return the fields of a `Trained` but for the time."""
    made = train(Job(**job))
    return {"steps": made.steps, "curve": list(made.curve)}
