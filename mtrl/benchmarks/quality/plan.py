"""What is compared: learners by families by seeds, and how each is trained and tested."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mtrl.benchmarks.quality.learners import (
    LEARNERS,
    Base,
    Contender,
    check_learners,
    contender,
    default_settings,
)
from mtrl.benchmarks.quality.trial_learners import TRIAL_LEARNERS
from mtrl.config import check_at_least, check_positive, from_toml
from mtrl.errors import UsageError
from mtrl.evaluation.trained import EvaluationSettings
from mtrl.meta.kinds import kind_of
from mtrl.meta.reinforcement import ReinforcementConfig
from mtrl.meta.supervised import SupervisedConfig

__all__ = ["QUICK", "Entry", "QualitySettings", "entries_of", "family_settings"]

DEFAULT_LEARNERS = "maml,fomaml,anil,cavia,meta-sgd,reptile,rl2,pearl,fine-tune,scratch,oracle"
STEP_SIZES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


@dataclass(frozen=True, kw_only=True)
class QualitySettings:
    """Which learners on which families, how often, and how they are tested."""

    learners: str = DEFAULT_LEARNERS
    """Learners, with commas between them: maml, fomaml, anil, cavia, meta-sgd, reptile, rl2, pearl, fine-tune,
    scratch, no-adaptation, oracle."""
    families: str = "sinusoid,navigation2d"
    """Families, with commas between them; `mtrl families` lists them."""
    seeds: int = 5
    """Trainings of each learner on each family, with seeds that count from --seed."""
    seed: int = 0
    """First of the seeds; test tasks and resamples follow from it, too."""
    iterations: int | None = None
    """Meta-iterations of every training; as the family's settings say if left out."""
    steps: int = 3
    """Adaptation steps at test: scores are taken after 0, 1, ... of them."""
    trial_episodes: int = 5
    """Episodes of a trial of rl2 and pearl: scores are those of the first, second, ..., so after 0, 1, ... of them."""
    tasks: int = 100
    """Unseen tasks of each family, the same for all learners and seeds."""
    shots: int | None = None
    """Support points per task at test on supervised families; as in training if left out."""
    episodes: int | None = None
    """Episodes per task and step at test on the others, and trials of rl2 and pearl; as in MAML's training if left
    out."""
    step_sizes: tuple[float, ...] = STEP_SIZES
    """Among which fine-tune's and scratch's step size at test is chosen, for each training on its own."""
    validation_tasks: int = 40
    """Tasks of the training split on which it is chosen."""
    points: int = 10
    """Points of each curve over training."""
    reference: str = "maml"
    """Learner that the others are compared with; the first one if it does not take part."""
    configs: dict[str, Path] = field(default_factory=dict)
    """TOML file of settings by family, such as a run's config.toml, in place of those built in."""

    def __post_init__(self) -> None:
        check_positive(self, "seeds", "iterations", "steps", "tasks", "shots", "episodes", "points")
        check_positive(self, "validation_tasks")
        check_at_least(self, 2, "trial_episodes")
        check_at_least(self, 0, "seed")
        if not self.step_sizes or min(self.step_sizes) <= 0:
            raise UsageError(f"step_sizes is {self.step_sizes}; give positive ones, at least one")
        check_learners(self.learner_names)
        if not self.family_names:
            raise UsageError("families is empty; name at least one")
        if self.reference not in LEARNERS:
            raise UsageError(
                f"reference is {self.reference!r}; it must be one of {', '.join(LEARNERS)}"
            )
        for family in self.configs:
            if family not in self.family_names:
                raise UsageError(
                    f"configs has settings for {family!r}, which does not take part; "
                    "add it to families"
                )

    @property
    def learner_names(self) -> tuple[str, ...]:
        """The learners by name, in the order given."""
        return _split(self.learners)

    @property
    def family_names(self) -> tuple[str, ...]:
        """The families by name, in the order given."""
        return tuple(dict.fromkeys(_split(self.families)))

    @property
    def all_seeds(self) -> range:
        """The seeds of each learner."""
        return range(self.seed, self.seed + self.seeds)


QUICK: Mapping[str, Any] = {"seeds": 2, "tasks": 40, "steps": 2, "points": 4}
"""What --quick sets, beside the iterations of each family in `family_settings`."""

_QUICK_ITERATIONS = {SupervisedConfig: 1_000, ReinforcementConfig: 5}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One learner on one family with one seed.

    Attributes:
        family, learner: by name.
        contender: how it is trained, its seed included, and whether it adapts.
        evaluation: how it is tested.
        step_sizes: among which the one at test is chosen, if one is.
        validation_tasks: training tasks on which it is.
    """

    family: str
    learner: str
    contender: Contender
    evaluation: EvaluationSettings
    step_sizes: tuple[float, ...] = ()
    validation_tasks: int = 0

    @property
    def experience(self) -> list[int]:
        """What it has seen of a task when each of its scores is taken: episodes, or labelled points."""
        points = (self.evaluation.steps or 0) + 1
        if not self.contender.adapting:
            return [0] * points
        if isinstance(self.contender.config, SupervisedConfig):
            # Every step is on the same points.
            return [0] + [self.evaluation.shots or 0] * (points - 1)
        trial = self.learner in TRIAL_LEARNERS
        return [step * (1 if trial else self.evaluation.episodes or 0) for step in range(points)]

    @property
    def seed(self) -> int:
        """The seed of its training."""
        return self.contender.config.seed

    @property
    def name(self) -> str:
        """What progress and errors call it."""
        return f"{self.family}, {LEARNERS[self.learner]}, seed {self.seed}"


def family_settings(settings: QualitySettings, family: str, *, quick: bool = False) -> Base:
    """Return what learners on `family` have in common, and MAML in particular.

    Raises:
        UsageError: there is no such family, or its file is wrong.
    """
    base = default_settings(family)
    if family in settings.configs:
        base = from_toml(type(base), settings.configs[family])
        if base.family != family:
            raise UsageError(f"{settings.configs[family]} is for {base.family!r}, not {family!r}")
    iterations = settings.iterations or (
        _QUICK_ITERATIONS[type(base)] if quick else base.iterations
    )
    every = max(1, iterations // settings.points)
    changes: dict[str, Any] = {
        "iterations": iterations,
        "evaluate_every": every,
        "checkpoint_every": every,
        "test_steps": settings.steps,
    }
    if isinstance(base, SupervisedConfig):
        changes["log_every"] = every
    changed: Base = replace(base, **changes)
    return changed


def entries_of(settings: QualitySettings, *, quick: bool = False) -> list[Entry]:
    """Return everything that is compared, family by family; a learner without a form there is left out.

    Raises:
        UsageError: settings cannot be carried out.
    """
    entries = []
    for family in settings.family_names:
        found = list(_of_family(settings, family, quick=quick))
        if not found:
            raise UsageError(
                f"none of {settings.learners} has a form on {family}; name another learner, or "
                "leave the family out"
            )
        entries += found
    return entries


def _of_family(settings: QualitySettings, family: str, *, quick: bool) -> Iterator[Entry]:
    base = family_settings(settings, family, quick=quick)
    for name in settings.learner_names:
        found = contender(name, base, settings.trial_episodes)
        if found is None:
            continue
        kind_of(found.config).check(found.config)
        for seed in settings.all_seeds:
            yield Entry(
                family=family,
                learner=name,
                contender=replace(found, config=replace(found.config, seed=seed)),
                evaluation=_evaluation(settings, base, trial=name in TRIAL_LEARNERS),
                step_sizes=settings.step_sizes if found.tuned else (),
                validation_tasks=settings.validation_tasks if found.tuned else 0,
            )


def _evaluation(settings: QualitySettings, base: Base, *, trial: bool) -> EvaluationSettings:
    common = EvaluationSettings(
        steps=settings.trial_episodes - 1 if trial else settings.steps,
        tasks=settings.tasks,
        seed=settings.seed,
    )
    if isinstance(base, SupervisedConfig):
        return replace(common, shots=settings.shots or base.shots)
    return replace(common, episodes=settings.episodes or base.episodes_per_task)


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
