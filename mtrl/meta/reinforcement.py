"""Meta-training on reinforcement-learning tasks: the loop of all gradient-based meta-learners.

Each iteration draws tasks, takes inner policy-gradient steps on episodes of every task, collects episodes with the
adapted policies, and moves the meta-parameters by TRPO on those (Finn et al. 2017, algorithm 3; Li et al. 2017,
algorithm 2) or by ProMP (Rothfuss et al. 2019, algorithm 1). Episodes are collected afresh for every inner step.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

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
from mtrl.host_reads import reads_are_free
from mtrl.meta.anil import ANIL
from mtrl.meta.baselines import FineTune, Oracle
from mtrl.meta.cavia import CAVIA, context_size
from mtrl.meta.distributed import Processes
from mtrl.meta.maml import MAML
from mtrl.meta.meta_sgd import MetaSGD
from mtrl.meta.objectives import AdvantageSettings, InnerObjective, PolicyBatch, policy_batch
from mtrl.meta.outer import TRPO
from mtrl.meta.parameters import MetaParams
from mtrl.meta.played import played_by_all
from mtrl.meta.policy_adaptation import GradientAdaptation
from mtrl.meta.proximal import PROMP, ProximalUpdate
from mtrl.meta.reptile import Reptile
from mtrl.meta.session import Session
from mtrl.meta.task_source import TrainingTasks, chosen_tasks, curriculum_state
from mtrl.meta.trust_region import PolicyUpdate, TrustRegionUpdate, alone
from mtrl.meta.watching import Trajectories, trajectories_picture
from mtrl.nets import Activation, Initializer
from mtrl.policies import CategoricalPolicy, GaussianPolicy, Policy
from mtrl.progress import Progress
from mtrl.rollouts import Rollout, draw_chance, episode_steps, play
from mtrl.runs import Run
from mtrl.seeding import Streams, numpy_generator, torch_generator

__all__ = [
    "ReinforcementConfig",
    "build_policy",
    "meta_train_reinforcement",
    "reinforcement_family",
    "seen_episodes",
]

ALONE = Processes()


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
    compile: Literal["on", "off"] = "off"
    """Compile TRPO's outer update: up to half a minute for each shape, which pays from some hundred iterations on. Samples are
    then as long as the horizon, however early episodes end."""
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
        if isinstance(self.outer, PROMP) and self.compile == "on":
            raise UsageError(
                "compile is for the outer update trpo; set it to off, or outer to trpo"
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


def meta_train_reinforcement(
    config: ReinforcementConfig, run: Run, processes: Processes = ALONE
) -> MetaParams:
    """Meta-train as `config` says, recording in `run`; return the final meta-parameters.

    Args:
        config: the settings.
        run: records; in all processes but the first, a `Follower`.
        processes: those that share each meta-batch.

    Raises:
        Interrupted: asked to stop by a signal; everything up to then is saved.
        UsageError: the configuration cannot be carried out.
        MtrlError: a return or parameter is not finite, or another process is gone.
    """
    # -- what is trained, and on what ---------------------------------------------------------
    if processes.leads:
        keep_family(config.family, run.directory, run.manifest)
    processes.wait()
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
    update = _outer_update(config, how, session, processes)
    share = processes.share(config.tasks_per_batch)
    shown = None if processes.leads else io.StringIO()
    env_steps = int(session.counters.get("env_steps", 0))
    chosen = chosen_tasks(config, family, tasks, session.counters)

    # -- the loop -----------------------------------------------------------------------------
    label = config.learner.name
    with Progress(config.iterations, done=session.done, label=label, stream=shown) as progress:
        for iteration in range(session.done + 1, config.iterations + 1):
            if chosen is None:
                batch = tasks.sample(config.tasks_per_batch, streams.rng("tasks"))
            else:
                batch = chosen.sample(config.tasks_per_batch)
            rollouts, supports, query = _collect_meta_batch(
                config, how, family, session, processes, batch[share]
            )
            done = (iteration - 1) / max(config.iterations - 1, 1)
            meta, measured = update.step(supports, query, done)
            session.advance(meta)

            # -- record: the first look at a value of this iteration ----------------------------
            _check_returns(family, batch[share], rollouts, iteration)
            seen, stop = played_by_all(processes, rollouts, stop=run.stop_requested)
            if chosen is not None:
                chosen.credit(seen.returns)
            env_steps += seen.steps
            run.log(
                iteration,
                {
                    "meta/pre_adapt_return": seen.before,
                    "meta/post_adapt_return": seen.after,
                    "meta/env_steps": env_steps,
                    **measured,
                    **(chosen.values() if chosen else {}),
                },
            )
            session.log_speed(iteration, seen.steps)
            progress.advance({"before": seen.before, "after": seen.after})
            last = iteration == config.iterations
            if processes.leads and (iteration % config.evaluate_every == 0 or last):
                _evaluate(session, how, family, held_out, config, iteration)
            if processes.count == 1:
                stop = run.stop_requested
            # A stopped run records nothing that an uninterrupted one would not.
            if iteration % config.checkpoint_every == 0 or last or stop:
                counters = {"env_steps": env_steps}
                session.save(iteration, update.tensors(), counters | curriculum_state(chosen))
            if stop and not last:
                raise run.interruption()
    return session.learned


def _outer_update(
    config: ReinforcementConfig, how: GradientAdaptation, session: Session, processes: Processes
) -> PolicyUpdate:
    join = processes.joined if processes.count > 1 else alone
    if isinstance(config.outer, PROMP):
        return ProximalUpdate(how, session.meta, config.outer, session.extra, join)
    compiled = config.compile == "on"
    return TrustRegionUpdate(how, session.meta, config.outer, join, compiled=compiled)


def _collect_meta_batch(
    config: ReinforcementConfig,
    how: GradientAdaptation,
    family: TaskFamily,
    session: Session,
    processes: Processes,
    tasks: Sequence[Task],
) -> tuple[list[Rollout], list[PolicyBatch], PolicyBatch]:
    """Collect episodes before each inner step and after the last, adapting in between.

    Args:
        config, how, family, session: of the run.
        processes: those that share the meta-batch.
        tasks: this process's.
    """
    generator = session.streams.generator("episodes")
    episodes = episode_batch(family, tasks, repeats=config.episodes_per_task, device=config.device)
    env = ScaledActions(episodes, family.action_space, config.device)
    policy_params = how.learner.start(session.meta.params, len(tasks))
    horizon = episode_steps(env.horizon, config.max_episode_steps)
    # Drawn for all tasks everywhere: what a process meets does not depend on how many there are.
    shape = (horizon, config.tasks_per_batch, config.episodes_per_task)
    share = processes.share(config.tasks_per_batch)
    rollouts: list[Rollout] = []
    batches: list[PolicyBatch] = []
    for _ in range(config.learner.inner_steps + 1):
        if batches:
            policy_params = how.adapt(session.meta, batches)
        chance = draw_chance(how.policy, shape, generator).of(share)
        rollout = play(env, how.policy, policy_params, chance)
        if config.compile == "on":
            rollout = rollout.lasting(horizon)
        elif reads_are_free(generator.device):
            # As long as the longest of all, so that thinned samples are the same ones.
            rollout = rollout.lasting(processes.most(rollout.longest))
        rollouts.append(rollout)
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
