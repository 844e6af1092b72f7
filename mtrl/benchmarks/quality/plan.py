"""What is compared: learners by families by seeds, and how each is trained and tested."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mtrl.benchmarks.quality.learners import (
    LEARNERS,
    Config,
    Contender,
    check_learners,
    contender,
    default_settings,
)
from mtrl.config import check_at_least, check_positive, from_toml
from mtrl.errors import UsageError
from mtrl.evaluation.trained import EvaluationSettings
from mtrl.meta.kinds import get_kind
from mtrl.meta.reinforcement import ReinforcementConfig
from mtrl.meta.supervised import SupervisedConfig

__all__ = ["QUICK", "Entry", "QualitySettings", "entries_of", "family_settings"]

DEFAULT_LEARNERS = "maml,fomaml,anil,cavia,meta-sgd,reptile,fine-tune,scratch,oracle"


@dataclass(frozen=True, kw_only=True)
class QualitySettings:
    """Which learners on which families, how often, and how they are tested."""

    learners: str = DEFAULT_LEARNERS
    """Learners, with commas between them: maml, fomaml, anil, cavia, meta-sgd, reptile, fine-tune, scratch,
    no-adaptation, oracle."""
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
    tasks: int = 100
    """Unseen tasks of each family, the same for all learners and seeds."""
    shots: int | None = None
    """Support points per task at test on supervised families; as in training if left out."""
    episodes: int | None = None
    """Episodes per task and step at test on the others; as in training if left out."""
    points: int = 10
    """Points of each curve over training."""
    reference: str = "maml"
    """Learner that the others are compared with; the first one if it does not take part."""
    configs: dict[str, Path] = field(default_factory=dict)
    """TOML file of settings by family, such as a run's config.toml, in place of those built in."""

    def __post_init__(self) -> None:
        check_positive(self, "seeds", "iterations", "steps", "tasks", "shots", "episodes", "points")
        check_at_least(self, 0, "seed")
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
    """

    family: str
    learner: str
    contender: Contender
    evaluation: EvaluationSettings

    @property
    def seed(self) -> int:
        """The seed of its training."""
        return self.contender.config.seed

    @property
    def name(self) -> str:
        """What progress and errors call it."""
        return f"{self.family}, {LEARNERS[self.learner]}, seed {self.seed}"


def family_settings(settings: QualitySettings, family: str, *, quick: bool = False) -> Config:
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
    changed: Config = replace(base, **changes)
    return changed


def entries_of(settings: QualitySettings, *, quick: bool = False) -> list[Entry]:
    """Return everything that is compared, family by family; a learner without a form there is left out.

    Raises:
        UsageError: settings cannot be carried out.
    """
    return [
        entry
        for family in settings.family_names
        for entry in _of_family(settings, family, quick=quick)
    ]


def _of_family(settings: QualitySettings, family: str, *, quick: bool) -> Iterator[Entry]:
    base = family_settings(settings, family, quick=quick)
    supervised = isinstance(base, SupervisedConfig)
    evaluation = EvaluationSettings(
        steps=settings.steps,
        tasks=settings.tasks,
        seed=settings.seed,
        shots=settings.shots if supervised else None,
        episodes=None if supervised else settings.episodes,
    )
    for name in settings.learner_names:
        found = contender(name, base)
        if found is None:
            continue
        get_kind("supervised" if supervised else "rl").check(found.config)
        for seed in settings.all_seeds:
            seeded = replace(found, config=replace(found.config, seed=seed))
            yield Entry(family=family, learner=name, contender=seeded, evaluation=evaluation)


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
