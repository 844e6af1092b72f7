"""Meta-training on reinforcement-learning tasks: the loop of all gradient-based meta-learners.

Each iteration draws tasks, takes inner policy-gradient steps on episodes of every task, collects episodes with the
adapted policies, and moves the meta-parameters by TRPO on those (Finn et al. 2017, algorithm 3; Li et al. 2017,
algorithm 2) or by ProMP (Rothfuss et al. 2019, algorithm 1). Episodes are collected afresh for every inner step.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym

from mtrl.agents.gradient import GradientAgent
from mtrl.config import check_at_least, check_positive
from mtrl.curricula import CurriculumConfig
from mtrl.envs.actions import ScaledActions, to_space
from mtrl.envs.episodes import episode_batch
from mtrl.envs.family import TaskFamily
from mtrl.envs.registry import get_family
from mtrl.envs.task import Task, split_digest
from mtrl.envs.told import ToldFamily
from mtrl.errors import MtrlError, UsageError
from mtrl.evaluation.adaptation import AdaptationProtocol, adaptation_returns
from mtrl.family_files import keep_family, with_kept_family
from mtrl.meta.anil import ANIL
from mtrl.meta.baselines import FineTune, Oracle
from mtrl.meta.cavia import CAVIA, context_size
from mtrl.meta.maml import MAML
from mtrl.meta.meta_sgd import MetaSGD
from mtrl.meta.objectives import AdvantageSettings, InnerObjective, PolicyBatch, policy_batch
from mtrl.meta.outer import TRPO
from mtrl.meta.parameters import MetaParams
from mtrl.meta.proximal import PROMP, ProximalUpdate
from mtrl.meta.reptile import Reptile
from mtrl.meta.session import Session
from mtrl.meta.task_source import ChosenTasks, TrainingTasks
from mtrl.meta.trust_region import GradientAdaptation, PolicyUpdate, TrustRegionUpdate
from mtrl.meta.watching import Trajectories, trajectories_picture
from mtrl.nets import Activation, Initializer
from mtrl.policies import CategoricalPolicy, GaussianPolicy, Policy
from mtrl.progress import Progress
from mtrl.rollouts import Rollout, collect, episode_steps
from mtrl.runs import Run
from mtrl.seeding import Streams, numpy_generator, torch_generator

__all__ = [
    "ReinforcementConfig",
    "build_policy",
    "chosen_tasks",
    "meta_train_reinforcement",
    "reinforcement_family",
    "seen_episodes",
]


@dataclass(frozen=True, kw_only=True)
class ReinforcementConfig:
    """Meta-training on a reinforcement-learning family."""

    family: str = "navigation2d"
    """Task family; `mtrl families` lists them. One that ends in .toml is read from that file."""
    preset: str | None = None
    """The family's preset; its first if left out."""
    family_options: dict[str, bool | int | float] = field(default_factory=dict)
    """Arguments of the family that replace the preset's, such as terminate_at_goal."""
    learner: MetaSGD | MAML | ANIL | CAVIA | FineTune | Oracle = field(default_factory=MetaSGD)
    """Meta-learner."""
    hidden: tuple[int, ...] = (100, 100)
    """Units of the policy's hidden layers."""
    activation: Activation = "relu"
    """Of the hidden layers."""
    initializer: Initializer = "xavier"
    """How the network's parameters are drawn."""
    output_scale: float = 1.0
    """Factor on the initial parameters of the last layer; a small one starts without a preference."""
    initial_std: float = 1.0
    """Standard deviation of real-valued actions at the start, where 1 is half the width of the action
    space; learned from then on."""
    min_std: float = 1e-6
    """Least standard deviation of real-valued actions."""
    inner_objective: InnerObjective = "ratio"
    """Inner loss: log-likelihood (MAML) or probability ratio (ProMP; a Hessian of lower variance)."""
    advantages: AdvantageSettings = field(default_factory=AdvantageSettings)
    """How rewards become advantages in the inner loop."""
    outer_advantages: AdvantageSettings = field(default_factory=AdvantageSettings)
    """The same for the outer update."""
    outer: TRPO | PROMP = field(default_factory=TRPO, metadata={"default_kind": "trpo"})
    """The outer update."""
    tasks_per_batch: int = 20
    """Tasks per meta-iteration."""
    episodes_per_task: int = 20
    """Episodes per task for each inner step, and again after adaptation."""
    max_episode_steps: int | None = None
    """Steps after which episodes are cut off, where the family does not do so before."""
    iterations: int = field(default=100, metadata={"resumable": True})
    """Meta-iterations."""
    average_last: int = 1
    """Meta-iterations whose meta-parameters are averaged into what is evaluated and kept; 1 is the last
    alone. Training itself goes on from the last."""
    train_tasks: Path | None = None
    """File of tasks to train on, one in JSON per line, in place of drawing new ones."""
    curriculum: CurriculumConfig | None = None
    """What chooses the tasks of every iteration, by the returns after adaptation; chance if left out."""
    curriculum_tasks: int = 50
    """Tasks that a curriculum over a list chooses among, where no file lists them."""
    solved_at: float | None = None
    """Return from which on an episode counts as a success, for curricula that ask for it."""
    test_tasks: int = 40
    """Held-out tasks that the adaptation curve is measured on during training."""
    test_steps: int = 1
    """Adaptation steps of that curve."""
    seed: int = 0
    """Of all random streams."""
    device: str = field(default="cpu", metadata={"resumable": True})
    """Torch device."""
    evaluate_every: int = 10
    """Iterations between two adaptation curves."""
    checkpoint_every: int = field(default=10, metadata={"resumable": True})
    """Iterations between two checkpoints."""

    def __post_init__(self) -> None:
        check_positive(self, "tasks_per_batch", "episodes_per_task", "iterations")
        check_positive(self, "initial_std", "min_std", "output_scale")
        check_positive(self, "test_tasks", "test_steps", "evaluate_every", "checkpoint_every")
        check_positive(self, "max_episode_steps", "average_last", "curriculum_tasks")
        check_at_least(self, 0, "seed")
        self._check_combinations()

    def _check_combinations(self) -> None:
        if isinstance(self.learner, Reptile):
            raise UsageError(
                "Reptile has no form for reinforcement learning; "
                "use MAML with first_order, which is nearest to it"
            )
        if isinstance(self.outer, PROMP) and self.inner_objective != "ratio":
            raise UsageError(
                f"inner_objective is {self.inner_objective!r}, but ProMP updates several times on the "
                "same episodes, which takes the probability ratio; set it to 'ratio'"
            )


def build_policy(config: ReinforcementConfig, family: TaskFamily) -> GradientAdaptation:
    """Return the policy and learner that `config` describes, as the spaces of `family` need them.

    Raises:
        UsageError: observations are no vector, or actions neither a vector nor a choice.
    """
    return GradientAdaptation(_policy(config, family), config.learner, config.inner_objective)


def _policy(config: ReinforcementConfig, family: TaskFamily) -> Policy:
    to_space(family.action_space, config.device)  # refuses spaces that no policy acts in
    observations, actions = family.observation_space, family.action_space
    shape = observations.shape if isinstance(observations, gym.spaces.Box) else None
    if shape is None or len(shape) != 1:
        raise UsageError(
            f"observations of {config.family!r} are {observations}; meta-training takes vectors of "
            "real numbers, so choose another family, or write `flatten = true` in the family's file"
        )
    (size,) = shape
    network = (config.hidden, config.activation, config.initializer, config.output_scale)
    context = context_size(config.learner)
    if isinstance(actions, gym.spaces.Discrete):
        return CategoricalPolicy(size, int(actions.n), *network, context=context)
    (dimensions,) = actions.shape or ()
    deviation = (config.initial_std, config.min_std)
    return GaussianPolicy(size, dimensions, *network, *deviation, context=context)


def reinforcement_family(config: ReinforcementConfig) -> TaskFamily:
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


def seen_episodes(config: ReinforcementConfig) -> TaskFamily:
    """Return the family as the learner sees it: the oracle reads the task beside each observation."""
    family = reinforcement_family(config)
    return ToldFamily(family) if isinstance(config.learner, Oracle) else family


def meta_train_reinforcement(config: ReinforcementConfig, run: Run) -> MetaParams:
    """Meta-train as `config` says, recording in `run`; return the final meta-parameters.

    Raises:
        Interrupted: asked to stop by a signal; everything up to then is saved.
        UsageError: the configuration cannot be carried out.
        MtrlError: a return or parameter is not finite.
    """
    # -- what is trained, and on what ---------------------------------------------------------
    keep_family(config.family, run.directory, run.manifest)
    family = seen_episodes(with_kept_family(config, run.directory))
    held_out = family.sample(config.test_tasks, numpy_generator(config.seed, "test tasks"), "test")
    tasks = TrainingTasks(family, config.train_tasks, held_out)
    run.manifest.pin(test_tasks=[task.id for task in held_out], test_digest=split_digest(held_out))
    how = build_policy(config, family)
    streams = Streams(config.seed, config.device)
    session = Session(
        run,
        streams,
        lambda: how.initial(streams.generator("initial")),
        "return",
        average_last=config.average_last,
    )
    update = _outer_update(config, how, session)
    env_steps = int(session.counters.get("env_steps", 0))
    chosen = chosen_tasks(config, family, tasks)
    if chosen is not None and "curriculum" in session.counters:
        chosen.load_state(session.counters["curriculum"])

    # -- the loop -----------------------------------------------------------------------------
    with Progress(config.iterations, done=session.done, label=config.learner.name) as progress:
        for iteration in range(session.done + 1, config.iterations + 1):
            if chosen is None:
                batch = tasks.sample(config.tasks_per_batch, streams.rng("tasks"))
            else:
                batch = chosen.sample(config.tasks_per_batch)
            rollouts, supports, query = _collect_meta_batch(config, how, family, session, batch)
            share = (iteration - 1) / max(config.iterations - 1, 1)
            meta, measured = update.step(supports, query, share)
            session.advance(meta)
            if chosen is not None:
                chosen.credit(rollouts[-1].returns)

            # -- record: the first look at a value of this iteration ----------------------------
            _check_returns(family, batch, rollouts, iteration)
            taken = sum(int(rollout.steps) for rollout in rollouts)
            env_steps += taken
            before, after = (float(rollouts[i].returns.mean()) for i in (0, -1))
            run.log(
                iteration,
                {
                    "meta/pre_adapt_return": before,
                    "meta/post_adapt_return": after,
                    "meta/env_steps": env_steps,
                    **measured,
                    **(chosen.values() if chosen else {}),
                },
            )
            session.log_speed(iteration, taken)
            progress.advance({"before": before, "after": after})
            last = iteration == config.iterations
            if iteration % config.evaluate_every == 0 or last:
                _evaluate(session, how, family, held_out, config, iteration)
            # A stopped run records nothing that an uninterrupted one would not.
            if iteration % config.checkpoint_every == 0 or last or run.stop_requested:
                counters = {"env_steps": env_steps}
                session.save(iteration, update.tensors(), counters | _curriculum_state(chosen))
            if run.stop_requested and not last:
                raise run.interruption()
    return session.learned


def chosen_tasks(
    config: ReinforcementConfig, family: TaskFamily, tasks: TrainingTasks
) -> ChosenTasks | None:
    """Return the tasks that the curriculum of `config` chooses, None without one.

    Raises:
        UsageError: a curriculum that does not fit the family, or that meta-training cannot tell.
    """
    if config.curriculum is None:
        return None
    listed = tasks.different(
        config.curriculum_tasks, numpy_generator(config.seed, "curriculum tasks")
    )
    rng = numpy_generator(config.seed, "curriculum")
    return ChosenTasks(config.curriculum.build(family, listed, rng), config.solved_at)


def _curriculum_state(chosen: ChosenTasks | None) -> dict[str, Any]:
    return {} if chosen is None else {"curriculum": chosen.state()}


def _outer_update(
    config: ReinforcementConfig, how: GradientAdaptation, session: Session
) -> PolicyUpdate:
    if isinstance(config.outer, PROMP):
        return ProximalUpdate(how, session.meta, config.outer, session.extra)
    return TrustRegionUpdate(how, session.meta, config.outer)


def _collect_meta_batch(
    config: ReinforcementConfig,
    how: GradientAdaptation,
    family: TaskFamily,
    session: Session,
    tasks: Sequence[Task],
) -> tuple[list[Rollout], list[PolicyBatch], PolicyBatch]:
    """Collect episodes before each inner step and after the last, adapting in between."""
    generator = session.streams.generator("episodes")
    episodes = episode_batch(family, tasks, repeats=config.episodes_per_task, device=config.device)
    env = ScaledActions(episodes, family.action_space, config.device)
    policy_params = how.learner.start(session.meta.params, len(tasks))
    shape = (len(tasks), config.episodes_per_task)
    rollouts: list[Rollout] = []
    batches: list[PolicyBatch] = []
    for _ in range(config.learner.inner_steps + 1):
        if batches:
            policy_params = how.adapt(session.meta, batches)
        rollouts.append(
            collect(
                env,
                how.policy,
                policy_params,
                shape=shape,
                generator=generator,
                max_episode_steps=config.max_episode_steps,
            )
        )
        adapted = len(batches) == config.learner.inner_steps
        settings = config.outer_advantages if adapted else config.advantages
        batches.append(policy_batch(rollouts[-1], settings))
    return rollouts, batches[:-1], batches[-1]


def _check_returns(
    family: TaskFamily, tasks: Sequence[Task], rollouts: list[Rollout], iteration: int
) -> None:
    """Refuse returns that are not finite, by the name of the family and the task.

    Looked at once the iteration is done: a batch on a device never waits for a value.
    """
    for rollout in rollouts:
        finite = rollout.returns.isfinite().flatten(1).all(1)
        if not bool(finite.all()):
            task = tasks[int(finite.int().argmin())]
            raise MtrlError(
                f"family {family.name!r}, task {task.id} {dict(task.params)}: a return is not "
                f"finite in iteration {iteration}; narrow the family's ranges so that its dynamics "
                "do not diverge"
            )


def _evaluate(
    session: Session,
    how: GradientAdaptation,
    family: TaskFamily,
    held_out: list[Task],
    config: ReinforcementConfig,
    iteration: int,
) -> None:
    # A generator of its own, the same at every evaluation: curves differ by the parameters only, and
    # measuring more or less often changes nothing in training.
    generator = torch_generator(config.seed, "evaluation", config.device)
    agent = GradientAgent(how, session.learned, config.advantages)
    protocol = AdaptationProtocol(
        episodes=config.episodes_per_task,
        steps=config.test_steps,
        max_episode_steps=config.max_episode_steps,
    )
    seen = Trajectories(config.test_steps)
    returns = adaptation_returns(agent, family, held_out, protocol, generator, watch=seen)
    paths = trajectories_picture(family, held_out, seen, iteration)
    session.log_evaluation(iteration, config, returns, paths)
