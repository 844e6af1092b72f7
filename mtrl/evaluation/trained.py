"""How a finished or running run adapts to unseen tasks, from the newest checkpoint in its directory."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mtrl.agents.gradient import FrozenAgent, GradientAgent
from mtrl.agents.recurrent import ForgetfulAgent, RecurrentAgent
from mtrl.checkpoint import CheckpointStore
from mtrl.config import check_at_least, check_positive, from_toml
from mtrl.envs.family import FewShotFamily, TaskFamily
from mtrl.envs.registry import family_spec
from mtrl.envs.task import Task
from mtrl.errors import MtrlError, UsageError
from mtrl.evaluation.adaptation import AdaptationProtocol, adaptation_returns
from mtrl.evaluation.few_shot import FewShotProtocol, few_shot_errors
from mtrl.family_files import family_digest, is_family_file, with_kept_family
from mtrl.manifest import read_manifest
from mtrl.meta.agent import MetaAgent
from mtrl.meta.few_shot import FewShotPredictor
from mtrl.meta.kinds import check_device, get_kind
from mtrl.meta.parameters import MetaParams
from mtrl.meta.pearl.config import PearlConfig, pearl_family
from mtrl.meta.recurrent.training import (
    RecurrentConfig,
    build_recurrent_policy,
    recurrent_family,
)
from mtrl.meta.reinforcement import (
    ReinforcementConfig,
    build_policy,
    reinforcement_family,
    seen_episodes,
)
from mtrl.meta.supervised import (
    SupervisedConfig,
    build_regressor,
    few_shot_family,
    seen_points,
)
from mtrl.runs import CHECKPOINTS, CONFIG, MANIFEST
from mtrl.seeding import numpy_generator, torch_generator

__all__ = ["EvaluationSettings", "Scores", "TrainedRun", "anchor_scores", "load_run"]

Scores = NDArray[np.float64]
"""One score per task and number of adaptation steps, (tasks, steps + 1)."""


@runtime_checkable
class Anchored(Protocol):
    """A family that knows how far from nothing and from the best a return is."""

    def standing_still_returns(self, tasks: Sequence[Task]) -> Scores:
        """Return each task's return when nothing is done."""

    def oracle_returns(self, tasks: Sequence[Task]) -> Scores:
        """Return each task's highest return."""


@runtime_checkable
class Exact(Protocol):
    """A family that knows the expected return of acting at random and of acting best."""

    def uniform_returns(self, tasks: Sequence[Task]) -> Scores:
        """Return each task's return of uniformly random actions."""

    def optimal_returns(self, tasks: Sequence[Task]) -> Scores:
        """Return each task's highest expected return."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """How runs are evaluated; what is left out is as in the run's own training."""

    steps: int | None = None
    """Adaptation steps; the run's own test_steps if left out."""
    tasks: int = 200
    """Unseen tasks, drawn from the family's test split."""
    shots: int | None = None
    """Support points per task in a supervised run; the run's own number if left out."""
    episodes: int | None = None
    """Episodes per task and step in a reinforcement-learning run; the run's own number if left out."""
    seed: int = 0
    """Of tasks and noise: every run evaluated with it meets the same."""
    device: str = "cpu"
    """Torch device."""

    def __post_init__(self) -> None:
        check_at_least(self, 0, "seed")
        check_positive(self, "steps", "tasks", "shots", "episodes")


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """What meta-training made.

    Attributes:
        directory: of the run.
        config: its settings.
        meta: the meta-parameters of its newest good checkpoint.
        iteration: meta-iterations done by then.
    """

    directory: Path
    config: SupervisedConfig | ReinforcementConfig | RecurrentConfig | PearlConfig
    meta: MetaParams
    iteration: int

    @property
    def family(self) -> TaskFamily | FewShotFamily:
        """The task family that it was trained on."""
        if isinstance(self.config, SupervisedConfig):
            return few_shot_family(self.config.family, self.config.preset)
        if isinstance(self.config, RecurrentConfig):
            return recurrent_family(self.config)
        if isinstance(self.config, PearlConfig):
            return pearl_family(self.config)
        return reinforcement_family(self.config)

    @property
    def score_name(self) -> str:
        """What a score is, and in which direction it is good."""
        if isinstance(self.config, SupervisedConfig):
            return "mean squared error (lower is better)"
        return "undiscounted return (higher is better)"

    @property
    def tasks_name(self) -> str:
        """What the test tasks are called in a table, which says so where training met the same ones."""
        if self.family.splits_overlap:
            return "tasks (the family has few: training and test tasks are the same by design)"
        return "unseen tasks"

    @property
    def task_setting(self) -> dict[str, Any]:
        """What decides which tasks it meets: only runs that agree in it can be compared."""
        family, preset = self.config.family, self.config.preset
        options = getattr(self.config, "family_options", {})
        spec = family_spec(family)
        preset = next(iter(spec.presets)) if preset is None else preset
        setting = {"family": spec.name, "preset": preset, "family_options": options}
        # Each run has a copy of its own, so that the paths say nothing.
        return setting | ({"file": family_digest(family)} if is_family_file(family) else {})

    def complete(self, settings: EvaluationSettings) -> EvaluationSettings:
        """Return `settings` with what was left out filled in from the run's own training.

        Raises:
            UsageError: a setting has no meaning for this kind of run, or the device is not there.
        """
        check_device(settings.device)
        steps = settings.steps or self.config.test_steps or None
        if isinstance(self.config, SupervisedConfig):
            if settings.episodes is not None:
                raise UsageError("episodes is for reinforcement-learning runs; this takes shots")
            return replace(settings, steps=steps, shots=settings.shots or self.config.shots)
        if settings.shots is not None:
            raise UsageError("shots is for supervised runs; this one takes episodes")
        episodes = settings.episodes or self.config.episodes_per_task
        return replace(settings, steps=steps, episodes=episodes)

    def unseen_tasks(self, settings: EvaluationSettings) -> list[Task]:
        """Draw tasks of the test split; runs on the same family get the same."""
        return self.family.sample(
            settings.tasks, numpy_generator(settings.seed, "evaluation tasks"), "test"
        )

    def scores(
        self, tasks: Sequence[Task], settings: EvaluationSettings, *, adapting: bool = True
    ) -> Scores:
        """Measure the score of every task after 0, 1, ... steps of adaptation.

        Runs given the same tasks and settings meet the same noise, so that their scores pair up.
        Without `adapting`, the meta-learned parameters are left as they are: the baseline.

        Raises:
            UsageError: a setting has no meaning for this kind of run, or the device is not there.
            MtrlError: adaptation diverged on a task, so that there is no mean to state.
        """
        return _finite(self.raw_scores(tasks, settings, adapting=adapting))

    def agent(self, *, adapting: bool = True) -> tuple[TaskFamily, MetaAgent]:
        """Return the family as the learner sees it, and what acts in it on the CPU.

        Raises:
            UsageError: it is a run on supervised tasks, in which nothing acts.
        """
        if isinstance(self.config, SupervisedConfig):
            raise UsageError(f"{self.directory} is a supervised run: nothing acts in it")
        return _family_and_agent(self.config, self.meta, adapting)

    def predictor(self, *, steps: int | None = None, compiled: bool = False) -> FewShotPredictor:
        """Return what adapts to labelled points, as many inner steps as in the run's own test if left out.

        It predicts on the CPU. An oracle's inputs end in the task's context.

        Raises:
            UsageError: it is not a run on supervised tasks.
        """
        if not isinstance(self.config, SupervisedConfig):
            raise UsageError(
                f"{self.directory} is no supervised run: there are no points to predict"
            )
        how = build_regressor(self.config, seen_points(self.config))
        steps = self.config.test_steps if steps is None else steps
        return FewShotPredictor(how, self.meta, steps=steps, compiled=compiled)

    def raw_scores(
        self, tasks: Sequence[Task], settings: EvaluationSettings, *, adapting: bool = True
    ) -> Scores:
        """Measure as `scores` does; where adaptation diverged, the score is not finite."""
        complete = self.complete(settings)
        on_device = {name: value.to(settings.device) for name, value in self.meta.named().items()}
        meta = MetaParams.from_named(on_device)
        if isinstance(self.config, SupervisedConfig):
            return _errors(self.config, meta, tasks, complete, adapting)
        return _returns(self.config, meta, tasks, complete, adapting)


def load_run(directory: Path | str) -> TrainedRun:
    """Return the run in `directory`.

    Raises:
        UsageError: there is no run.
        MtrlError: it has no checkpoint yet, or none that is good.
    """
    directory = Path(directory)
    if not (directory / MANIFEST).exists():
        raise UsageError(f"no run in {directory}; `mtrl train` makes one")
    kind = get_kind(read_manifest(directory / MANIFEST)["kind"])
    checkpoint = CheckpointStore(directory / CHECKPOINTS).load()
    prefix = "meta/"
    named = {
        name.removeprefix(prefix): tensor
        for name, tensor in checkpoint.tensors.items()
        if name.startswith(prefix)
    }
    return TrainedRun(
        directory=directory,
        config=with_kept_family(from_toml(kind.config, directory / CONFIG), directory),
        meta=MetaParams.from_named(named),
        iteration=checkpoint.step,
    )


def anchor_scores(
    family: TaskFamily | FewShotFamily, tasks: Sequence[Task], steps: int
) -> dict[str, Scores]:
    """Return by name what needs no learner, if the family knows: acting without aim, and the best."""
    returns: dict[str, Scores] = {}
    if isinstance(family, Anchored):
        returns["standing still"] = family.standing_still_returns(tasks)
        returns["best possible"] = family.oracle_returns(tasks)
    if isinstance(family, Exact):
        returns["random actions"] = family.uniform_returns(tasks)
        returns["best possible"] = family.optimal_returns(tasks)
    return {name: np.repeat(each[:, None], steps + 1, axis=1) for name, each in returns.items()}


def _finite(scores: Scores) -> Scores:
    diverged = (~np.isfinite(scores)).sum(0)
    for steps, tasks in enumerate(diverged.tolist()):
        if tasks:
            raise MtrlError(
                f"adaptation diverged on {tasks} of {len(scores)} tasks by step {steps}; "
                f"evaluate with fewer steps than {steps}, or train longer or with more inner steps"
            )
    return scores


def _errors(
    config: SupervisedConfig,
    meta: MetaParams,
    tasks: Sequence[Task],
    settings: EvaluationSettings,
    adapting: bool,
) -> Scores:
    family = seen_points(config)
    how = build_regressor(config, family)
    protocol = FewShotProtocol(shots=settings.shots or 0, steps=settings.steps or 0)
    generator = torch_generator(settings.seed, "evaluation points", settings.device)
    errors = few_shot_errors(how, meta, family, tasks, protocol, generator)
    return errors if adapting else np.repeat(errors[:, :1], errors.shape[1], axis=1)


def _returns(
    config: ReinforcementConfig | RecurrentConfig | PearlConfig,
    meta: MetaParams,
    tasks: Sequence[Task],
    settings: EvaluationSettings,
    adapting: bool,
) -> Scores:
    family, agent = _family_and_agent(config, meta, adapting)
    protocol = AdaptationProtocol(
        episodes=settings.episodes or 0,
        steps=settings.steps or 0,
        max_episode_steps=config.max_episode_steps,
    )
    generator = torch_generator(settings.seed, "evaluation episodes", settings.device)
    return adaptation_returns(agent, family, tasks, protocol, generator)


def _family_and_agent(
    config: ReinforcementConfig | RecurrentConfig | PearlConfig, meta: MetaParams, adapting: bool
) -> tuple[TaskFamily, MetaAgent]:
    """Return the family as the learner sees it, and the agent that adapts or does not."""
    if isinstance(config, RecurrentConfig):
        family = recurrent_family(config)
        remembering = RecurrentAgent if adapting else ForgetfulAgent
        return family, remembering(build_recurrent_policy(config, family), meta.params)
    if isinstance(config, PearlConfig):
        family = pearl_family(config)
        return family, _pearl_agent(config, family, meta, adapting)
    family = seen_episodes(config)
    how = build_policy(config, family)
    return family, (GradientAgent if adapting else FrozenAgent)(how, meta, config.advantages)


def _pearl_agent(
    config: PearlConfig, family: TaskFamily, meta: MetaParams, adapting: bool
) -> MetaAgent:
    # Stable-Baselines3 takes seconds to import, and other runs do without it.
    from mtrl.agents.pearl.agent import PearlAgent, PriorAgent
    from mtrl.meta.pearl.training import build_latent_policy

    there = replace(config, device=str(meta.device))
    policy = build_latent_policy(there, family, torch_generator(config.seed, "initial"))
    policy.take_over(meta.params)
    return (PearlAgent if adapting else PriorAgent)(policy)
