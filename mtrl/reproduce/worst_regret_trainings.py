"""The tasks, settings and trainings of `mtrl reproduce worst-regret`, each a run directory."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtrl.agents.networks import MLP, NetworkConfig, Shared
from mtrl.agents.objectives import Objective
from mtrl.compare.plan import Kind, Plan
from mtrl.compare.processes import train_all
from mtrl.compare.references import References, cached_references
from mtrl.compare.trainings import Training, trainings_of
from mtrl.config import to_toml
from mtrl.envs.physics import PhysicsFamily
from mtrl.envs.registry import get_family
from mtrl.envs.task import Task
from mtrl.metrics import Series, read_metrics
from mtrl.multitask.algorithms import PPO
from mtrl.multitask.config import MultiTaskConfig, ObjectiveConfig
from mtrl.multitask.tasks import task_names
from mtrl.reproduce.carry_out import Place
from mtrl.runs import METRICS

__all__ = [
    "FULL",
    "HARD",
    "OBJECTIVES",
    "QUICK_SCALE",
    "TASKS",
    "Scale",
    "Trained",
    "agents_of",
    "objective_plan",
    "specialist_plan",
    "the_tasks",
    "train",
]

Array = NDArray[np.float64]

OBJECTIVES: tuple[Objective, ...] = ("mean-return", "worst-regret")
"""What is compared, the baseline first."""

FAMILY, PRESET = "cartpole", "wide"
GYMNASIUM: Mapping[str, float] = {
    "gravity": 9.8,
    "masscart": 1.0,
    "masspole": 0.1,
    "length": 0.5,
    "force_mag": 10.0,
}
DIFFERENCES: Mapping[str, Mapping[str, float]] = {
    "Gymnasium's": {},
    "long pole": {"length": 1.0},
    "low gravity": {"gravity": 5.0},
    "short pole": {"length": 0.35},
    "weaker motor": {"force_mag": 7.0},
    "heavy cart": {"masscart": 2.0},
    "heavy pole": {"masspole": 0.5},
    "hard": {"gravity": 18.0, "masscart": 0.25, "length": 0.2, "force_mag": 20.0},
}
"""Tasks by name, and in what they differ from Gymnasium's."""
TASKS = tuple(DIFFERENCES)
HARD = TASKS.index("hard")

_PPO = PPO(
    learning_rate=2e-3,
    final_learning_rate=0.0,
    n_steps=64,
    batch_size=512,
    gae_lambda=0.9,
    gamma=0.99,
)
_SPECIALIST_PPO = replace(_PPO, batch_size=128, gae_lambda=0.95)
# One network that is not told the task: what one task gains in it, another may lose.
_NETWORK = NetworkConfig(trunk=MLP(hidden=(8,), activation="tanh"), head=Shared())
STEP_SIZE = 6e-4


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is trained.

    Attributes:
        steps: environment steps of an agent, of all tasks together.
        specialist_steps: of each specialist.
        seeds: agents of each objective.
        specialists: of each task; the best of them is the reference.
        episodes: greedy ones of each task in the final evaluation.
    """

    steps: int
    specialist_steps: int
    seeds: int
    specialists: int
    episodes: int


FULL = Scale(steps=100_000, specialist_steps=40_000, seeds=6, specialists=2, episodes=20)
QUICK_SCALE = Scale(steps=4_096, specialist_steps=1_024, seeds=2, specialists=1, episodes=3)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What all trainings gave.

    Attributes:
        references: of the regrets.
        returns: by objective (seeds, tasks), means over the final episodes.
        weights: by objective and seed, of the hard task while training.
        final_weights: by objective (seeds, tasks), at the end of training.
        gaps: by objective (seeds,), average saddle gap at the end; NaN where there is no adversary.
        steps: environment steps, of all trainings.
        seconds: of all trainings, one after the other.
        trainings: how many there are.
        found: how many of them were found finished.
        commits: of the code that finished them.
    """

    references: References
    returns: Mapping[Objective, Array]
    weights: Mapping[Objective, Sequence[Series]]
    final_weights: Mapping[Objective, Array]
    gaps: Mapping[Objective, Array]
    steps: int
    seconds: float
    trainings: int
    found: int
    commits: Sequence[str]


def the_tasks() -> tuple[Task, ...]:
    """Return the tasks in the order of `TASKS`."""
    family = get_family(FAMILY, PRESET)
    assert isinstance(family, PhysicsFamily)
    return tuple(
        family.task("train", **{**GYMNASIUM, **changes}) for changes in DIFFERENCES.values()
    )


def specialist_plan(scale: Scale, seed: int) -> Plan:
    """Return the plan of the specialists, whose seeds count from `seed`."""
    settings = replace(_settings(scale), algorithm=_SPECIALIST_PPO, seed=seed)
    # A specialist's budget is its task's share of the plan's.
    total = scale.specialist_steps * len(TASKS)
    return _plan(replace(settings, total_steps=total), "specialists", scale.specialists, scale)


def objective_plan(
    scale: Scale, seed: int, objective: Objective, references: References | None
) -> Plan:
    """Return the plan of the agents of an objective, whose seeds count from `seed`."""
    config = ObjectiveConfig()
    if objective != "mean-return":
        assert references is not None, "regrets need references"
        best, random = references.best, references.random
        config = ObjectiveConfig(objective=objective, step_size=STEP_SIZE, best=best, random=random)
    settings = replace(_settings(scale), objective=config, seed=seed)
    return _plan(settings, "shared", scale.seeds, scale)


def train(place: Place, scale: Scale, revision: str) -> Trained:
    """Carry out what is not finished yet: specialists first, then agents of every objective.

    Raises:
        Interrupted: asked to stop by a signal; everything up to then is saved.
        MtrlError: a training failed; the message names it.
    """
    folder = place.work / f"reproduce-{place.stem}"
    specialists = specialist_plan(scale, place.seed * scale.specialists)
    alone = trainings_of(specialists, folder, folder / "specialists")
    found = sum(each.scores() is not None for each in alone)
    train_all(alone, place.processes, revision)
    references = cached_references(specialists, folder / "specialists")
    agents: dict[Objective, list[Training]] = {}
    for objective in OBJECTIVES:
        plan = objective_plan(scale, place.seed * scale.seeds, objective, references)
        agents[objective] = agents_of(plan, folder)
    together = [each for of_one in zip(*agents.values(), strict=True) for each in of_one]
    found += sum(each.scores() is not None for each in together)
    train_all(together, place.processes, revision)
    return _gathered(references, agents, [*alone, *together], found)


def _settings(scale: Scale) -> MultiTaskConfig:
    return MultiTaskConfig(
        family=FAMILY,
        preset=PRESET,
        tasks=len(TASKS),
        algorithm=_PPO,
        network=_NETWORK,
        scale_rewards=True,
        envs_per_task=4,
        total_steps=scale.steps,
        log_every=2048,
        # The final evaluation is another: these would only take time.
        evaluate_every=1_000_000,
        eval_episodes=1,
        checkpoint_every=20_480,
    )


def _plan(settings: MultiTaskConfig, kind: Kind, seeds: int, scale: Scale) -> Plan:
    return Plan(
        settings=settings, tasks=the_tasks(), kinds=(kind,), seeds=seeds, episodes=scale.episodes
    )


def agents_of(plan: Plan, folder: Path) -> list[Training]:
    """Return the agents of `objective_plan`, by seed.

    Agents of other references or settings lie beside them, not in their place.
    """
    objective = plan.settings.objective.objective
    settings = to_toml(replace(plan.settings, seed=0)).encode()
    digest = hashlib.sha256(settings).hexdigest()[:8]
    directory = folder / f"{objective}-{digest}"
    found = trainings_of(plan, directory, folder / "specialists")
    return [replace(each, name=f"{objective}, seed {each.config.seed}") for each in found]


def _gathered(
    references: References,
    agents: Mapping[Objective, Sequence[Training]],
    trainings: Sequence[Training],
    found: int,
) -> Trained:
    scores = [score for each in trainings if (score := each.scores()) is not None]
    assert len(scores) == len(trainings), "train_all returns when all are finished"
    curves = {
        objective: [read_metrics(each.directory / METRICS) for each in made]
        for objective, made in agents.items()
    }
    names = task_names(list(the_tasks()))
    tags = [f"multitask/weight/{name}" for name in names]
    missing = Series([], [float("nan")])
    return Trained(
        references=references,
        returns={objective: _returns(made) for objective, made in agents.items()},
        weights={key: [curve[tags[HARD]] for curve in made] for key, made in curves.items()},
        final_weights={
            key: np.array([[curve[tag].values[-1] for tag in tags] for curve in made])
            for key, made in curves.items()
        },
        gaps={
            key: np.array([curve.get("multitask/saddle_gap", missing).values[-1] for curve in made])
            for key, made in curves.items()
        },
        steps=sum(each.steps for each in scores),
        seconds=sum(each.seconds for each in scores),
        trainings=len(trainings),
        found=found,
        commits=sorted({each.commit for each in scores}),
    )


def _returns(trainings: Sequence[Training]) -> Array:
    """Return mean returns (seeds, tasks)."""
    rows = [scores.returns.mean(1) for each in trainings if (scores := each.scores()) is not None]
    return np.array(rows)
