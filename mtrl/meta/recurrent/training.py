"""Meta-training of recurrent policies: RL² (Duan et al. 2016, arXiv:1611.02779).

Each iteration draws tasks, runs one trial of each with the policy, and updates the policy by PPO on the
return of whole trials. What the policy's state has to hold in order to do well in a trial is learned; at
test nothing but the state changes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mtrl.agents.recurrent import RecurrentAgent
from mtrl.config import check_at_least, check_positive
from mtrl.envs.actions import ScaledActions, to_space
from mtrl.envs.episodes import episode_batch
from mtrl.envs.family import TaskFamily
from mtrl.envs.registry import get_family
from mtrl.envs.task import Task, split_digest
from mtrl.errors import MtrlError, UsageError
from mtrl.evaluation.adaptation import AdaptationProtocol, adaptation_returns
from mtrl.family_files import keep_family, with_kept_family
from mtrl.meta.parameters import MetaParams
from mtrl.meta.recurrent.policy import RecurrentPolicy, recurrent_policy
from mtrl.meta.recurrent.ppo import RL2, RecurrentUpdate, check_minibatches, value_unit
from mtrl.meta.recurrent.trials import TrialCollector, Trials
from mtrl.meta.session import Session
from mtrl.meta.task_source import TrainingTasks
from mtrl.meta.watching import Charts, Trajectories, trajectories_picture
from mtrl.progress import Progress
from mtrl.rollouts import episode_steps
from mtrl.runs import Run
from mtrl.seeding import Streams, numpy_generator, torch_generator

__all__ = ["RecurrentConfig", "build_recurrent_policy", "meta_train_recurrent", "recurrent_family"]

CHARTS: Charts = {
    "Adaptation": {
        "Held-out tasks: return of the episode after k others": [r"adapt/return_after_\d+"],
        "Training tasks: return of a trial's first and last episode": [
            r"meta/(pre|post)_adapt_return"
        ],
    },
    "Outer update": {
        "KL divergence": ["outer/kl"],
        "Entropy": ["outer/entropy"],
        "Loss of the values": ["outer/value_loss"],
        "Norm of the gradient": ["outer/gradient_norm"],
    },
    "Speed": {
        "Iterations per second": ["time/iterations_per_second"],
        "Environment steps per second": ["time/env_steps_per_second"],
    },
}


@dataclass(frozen=True, kw_only=True)
class RecurrentConfig:
    """Meta-training of a recurrent policy on a reinforcement-learning family."""

    family: str = "bandit"
    """Task family; `mtrl families` lists them. One that ends in .toml is read from that file."""
    preset: str | None = None
    """The family's preset; its first if left out."""
    family_options: dict[str, bool | int | float] = field(default_factory=dict)
    """Arguments of the family that replace the preset's, such as horizon."""
    learner: RL2 = field(default_factory=RL2)
    """The policy and its update."""
    tasks_per_batch: int = 256
    """Tasks per iteration, with a trial each."""
    episodes_per_trial: int = 1
    """Episodes of a trial. The policy remembers those before; a bandit's only episode is a trial."""
    max_episode_steps: int | None = None
    """Steps after which episodes are cut off, where the family does not do so before."""
    iterations: int = field(default=300, metadata={"resumable": True})
    """Meta-iterations."""
    train_tasks: Path | None = None
    """File of tasks to train on, one in JSON per line, in place of drawing new ones."""
    test_tasks: int = 100
    """Held-out tasks that the adaptation curve is measured on during training."""
    test_trials: int = 4
    """Trials of each of these tasks."""
    seed: int = 0
    """Of all random streams."""
    device: str = field(default="cpu", metadata={"resumable": True})
    """Torch device."""
    evaluate_every: int = 20
    """Iterations between two adaptation curves."""
    checkpoint_every: int = field(default=20, metadata={"resumable": True})
    """Iterations between two checkpoints."""

    def __post_init__(self) -> None:
        check_positive(self, "tasks_per_batch", "episodes_per_trial", "max_episode_steps")
        check_positive(self, "iterations", "test_tasks", "test_trials")
        check_positive(self, "evaluate_every", "checkpoint_every")
        check_at_least(self, 0, "seed")
        check_minibatches(self.learner, self.tasks_per_batch)

    @property
    def test_steps(self) -> int:
        """Adaptation steps of the curve: the episodes of a trial that come after its first."""
        return self.episodes_per_trial - 1

    @property
    def episodes_per_task(self) -> int:
        """Episodes per task and step of the curve: each is of a trial of its own."""
        return self.test_trials


def recurrent_family(config: RecurrentConfig) -> TaskFamily:
    """Return the family that `config` names.

    Raises:
        UsageError: there is no such family or preset, it is supervised, or its episodes are too
            long.
    """
    family = get_family(config.family, config.preset, **config.family_options)
    if not isinstance(family, TaskFamily):
        raise UsageError(
            f"family {config.family!r} has no episodes; train it with `mtrl train supervised`"
        )
    episode_steps(family.horizon, config.max_episode_steps)
    return family


def build_recurrent_policy(config: RecurrentConfig, family: TaskFamily) -> RecurrentPolicy:
    """Return the policy that `config` describes, as the spaces of `family` need it.

    Raises:
        UsageError: observations are no vector, or actions neither a vector nor a choice.
    """
    to_space(family.action_space, config.device)  # refuses spaces that no policy acts in
    learner = config.learner
    return recurrent_policy(
        family.observation_space,
        family.action_space,
        learner.units,
        learner.initial_std,
        learner.min_std,
    )


def meta_train_recurrent(config: RecurrentConfig, run: Run) -> MetaParams:
    """Meta-train as `config` says, recording in `run`; return the final parameters.

    Raises:
        Interrupted: asked to stop by a signal; everything up to then is saved.
        UsageError: the configuration cannot be carried out.
        MtrlError: a return or parameter is not finite.
    """
    # -- what is trained, and on what ---------------------------------------------------------
    keep_family(config.family, run.directory, run.manifest)
    family = recurrent_family(with_kept_family(config, run.directory))
    held_out = family.sample(config.test_tasks, numpy_generator(config.seed, "test tasks"), "test")
    tasks = TrainingTasks(family, config.train_tasks, held_out)
    run.manifest.pin(test_tasks=[task.id for task in held_out], test_digest=split_digest(held_out))
    policy = build_recurrent_policy(config, family)
    streams = Streams(config.seed, config.device)
    session = Session(
        run,
        streams,
        lambda: MetaParams(policy.initial(streams.generator("initial")), {}),
        "return",
        charts=CHARTS,
    )
    update = RecurrentUpdate(policy, session.meta, config.learner, session.extra)
    collector = TrialCollector(
        policy, config.tasks_per_batch, config.episodes_per_trial, config.device
    )
    steps = config.episodes_per_trial * episode_steps(family.horizon, config.max_episode_steps)
    unit = value_unit(config.learner.discount, steps)
    env_steps = int(session.counters.get("env_steps", 0))

    # -- the loop -----------------------------------------------------------------------------
    with Progress(config.iterations, done=session.done, label=config.learner.name) as progress:
        for iteration in range(session.done + 1, config.iterations + 1):
            batch = tasks.sample(config.tasks_per_batch, streams.rng("tasks"))
            episodes = episode_batch(family, batch, device=config.device)
            trials = collector.collect(
                ScaledActions(episodes, family.action_space, config.device),
                session.meta.params,
                streams.generator("episodes"),
                config.max_episode_steps,
            )
            _check_returns(family, batch, trials, iteration)
            share = (iteration - 1) / max(config.iterations - 1, 1)
            measured = update.step(trials, unit, share, streams.generator("minibatches"))

            # -- record -----------------------------------------------------------------------
            taken = int(trials.steps)
            env_steps += taken
            first, last_episode = (float(trials.episode_returns[:, i].mean()) for i in (0, -1))
            run.log(
                iteration,
                {
                    "meta/pre_adapt_return": first,
                    "meta/post_adapt_return": last_episode,
                    "meta/env_steps": env_steps,
                    **measured,
                },
            )
            session.log_speed(iteration, taken)
            progress.advance({"first": first, "last": last_episode})
            last = iteration == config.iterations
            if iteration % config.evaluate_every == 0 or last:
                _evaluate(session, policy, family, held_out, config, iteration)
            # A stopped run records nothing that an uninterrupted one would not.
            if iteration % config.checkpoint_every == 0 or last or run.stop_requested:
                session.save(iteration, update.tensors(), {"env_steps": env_steps})
            if run.stop_requested and not last:
                raise run.interruption()
    return session.learned


def _check_returns(
    family: TaskFamily, tasks: Sequence[Task], trials: Trials, iteration: int
) -> None:
    """Refuse returns that are not finite, by the name of the family and the task."""
    finite = trials.episode_returns.isfinite().all(1)
    if not bool(finite.all()):
        task = tasks[int(finite.int().argmin())]
        raise MtrlError(
            f"family {family.name!r}, task {task.id} {dict(task.params)}: a return is not "
            f"finite in iteration {iteration}; narrow the family's ranges so that its dynamics "
            "do not diverge"
        )


def _evaluate(
    session: Session,
    policy: RecurrentPolicy,
    family: TaskFamily,
    held_out: list[Task],
    config: RecurrentConfig,
    iteration: int,
) -> None:
    # A generator of its own, the same at every evaluation: curves differ by the parameters only, and
    # measuring more or less often changes nothing in training.
    generator = torch_generator(config.seed, "evaluation", config.device)
    agent = RecurrentAgent(policy, session.learned.params)
    protocol = AdaptationProtocol(
        episodes=config.test_trials,
        steps=config.test_steps,
        max_episode_steps=config.max_episode_steps,
    )
    seen = Trajectories(config.test_steps)
    returns = adaptation_returns(agent, family, held_out, protocol, generator, watch=seen)
    paths = trajectories_picture(family, held_out, seen, iteration)
    session.log_evaluation(iteration, config, returns, paths)
