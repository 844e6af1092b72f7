"""Meta-training on supervised few-shot tasks: the regression loop of all gradient-based meta-learners.

Each iteration draws tasks, adapts to each on its support points, and moves the meta-parameters down the
gradient of the mean query loss with Adam (Finn et al. 2017, algorithm 2; Li et al. 2017, algorithm 1). Reptile
puts another vector in the gradient's place.
"""

import io
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from mtrl.config import check_at_least, check_positive
from mtrl.curricula import CurriculumConfig
from mtrl.envs.family import FewShotFamily
from mtrl.envs.registry import get_family
from mtrl.envs.task import Task, split_digest
from mtrl.envs.told import ToldFewShotFamily
from mtrl.errors import UsageError
from mtrl.evaluation.few_shot import FewShotProtocol, few_shot_errors
from mtrl.meta.anil import ANIL
from mtrl.meta.baselines import FineTune, Oracle
from mtrl.meta.cavia import CAVIA, context_size
from mtrl.meta.compiled import has_compiler
from mtrl.meta.distributed import Processes
from mtrl.meta.few_shot import FewShotAdaptation
from mtrl.meta.gradient import FewShotTensors, MetaGradient
from mtrl.meta.maml import MAML
from mtrl.meta.meta_sgd import MetaSGD
from mtrl.meta.outer import AdamUpdate, DescentUpdate
from mtrl.meta.parameters import MetaParams
from mtrl.meta.reptile import Reptile, ReptileGradient
from mtrl.meta.session import Session
from mtrl.meta.task_source import ChosenTasks, TrainingTasks, chosen_tasks, curriculum_state
from mtrl.meta.watching import fits_picture
from mtrl.nets import MLP, Activation, Initializer
from mtrl.progress import Progress
from mtrl.runs import Run
from mtrl.seeding import Streams, numpy_generator, torch_generator

__all__ = [
    "SupervisedConfig",
    "build_regressor",
    "few_shot_family",
    "meta_train_supervised",
    "seen_points",
]

# Below this many iterations, compiling takes longer than it saves.
COMPILE_PAYS = 10_000
ALONE = Processes()


@dataclass(frozen=True, kw_only=True)
class SupervisedConfig:
    """Meta-training on a supervised family."""

    family: str = "sinusoid"
    """Task family; `mtrl families` lists them."""
    preset: str | None = None
    """The family's preset; its first if left out."""
    learner: MetaSGD | MAML | ANIL | CAVIA | Reptile | FineTune | Oracle = field(
        default_factory=MetaSGD
    )
    """Meta-learner."""
    hidden: tuple[int, ...] = (40, 40)
    """Units of the hidden layers."""
    activation: Activation = "relu"
    """Of the hidden layers."""
    initializer: Initializer = "fan-in"
    """How the network's parameters are drawn."""
    shots: int = 10
    """Support points per task."""
    query_shots: int = 10
    """Query points per task."""
    tasks_per_batch: int = 25
    """Tasks per meta-iteration."""
    iterations: int = field(default=60_000, metadata={"resumable": True})
    """Meta-iterations."""
    learning_rate: float = 1e-3
    """Of the outer Adam, or of Reptile's interpolation."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Outer learning rate over the run: constant, or down to zero along half a cosine."""
    train_tasks: Path | None = None
    """File of tasks to train on, one in JSON per line, in place of drawing new ones."""
    curriculum: CurriculumConfig | None = None
    """What chooses the tasks of every iteration, by minus the query errors after adaptation; chance if left out."""
    curriculum_tasks: int = 50
    """Tasks that a curriculum over a list chooses among, where no file lists them."""
    solved_at: float | None = None
    """Largest query error with which a task counts as a success, for curricula that ask for it."""
    test_tasks: int = 100
    """Held-out tasks that the adaptation curve is measured on during training."""
    test_steps: int = 1
    """Adaptation steps of that curve."""
    chunk: int | None = None
    """Tasks worked on at once; as many as chunk_memory allows if left out."""
    chunk_memory: float | None = None
    """MiB that the tasks worked on at once may take; what caches hold, or half of an accelerator's, if left out."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the meta-gradient: worth half a minute from about ten thousand iterations on."""
    seed: int = 0
    """Of all random streams."""
    device: str = field(default="cpu", metadata={"resumable": True})
    """Torch device."""
    log_every: int = 100
    """Iterations between two rows of metrics."""
    evaluate_every: int = 5_000
    """Iterations between two adaptation curves."""
    checkpoint_every: int = field(default=5_000, metadata={"resumable": True})
    """Iterations between two checkpoints."""

    def __post_init__(self) -> None:
        counts = (
            "shots",
            "query_shots",
            "tasks_per_batch",
            "iterations",
            "test_tasks",
            "test_steps",
            "curriculum_tasks",
        )
        check_positive(self, *counts, "chunk", "log_every", "evaluate_every", "checkpoint_every")
        check_positive(self, "chunk_memory")
        check_positive(self, "learning_rate")
        check_at_least(self, 0, "seed")


def build_regressor(config: SupervisedConfig, family: FewShotFamily) -> FewShotAdaptation:
    """Return the network and learner that `config` describes, sized for `family`."""
    sizes = (family.input_size, *config.hidden, family.output_size)
    context = context_size(config.learner)
    network = MLP(sizes, config.activation, config.initializer, context=context)
    return FewShotAdaptation(network, config.learner)


def few_shot_family(name: str, preset: str | None) -> FewShotFamily:
    """Return the supervised family `name`.

    Raises:
        UsageError: there is no such family or preset, or it is a reinforcement-learning one.
    """
    family = get_family(name, preset)
    if not isinstance(family, FewShotFamily):
        raise UsageError(f"family {name!r} has no labelled points; train it with `mtrl train rl`")
    return family


def seen_points(config: SupervisedConfig) -> FewShotFamily:
    """Return the family as the learner sees it: the oracle reads the task beside each input."""
    family = few_shot_family(config.family, config.preset)
    return ToldFewShotFamily(family) if isinstance(config.learner, Oracle) else family


def meta_train_supervised(
    config: SupervisedConfig, run: Run, processes: Processes = ALONE
) -> MetaParams:
    """Meta-train as `config` says, recording in `run`; return the final meta-parameters.

    Args:
        config: the settings.
        run: records; in all processes but the first, a `Follower`.
        processes: those that share each meta-batch.

    Raises:
        Interrupted: asked to stop by a signal; everything up to then is saved.
        UsageError: the configuration cannot be carried out.
        MtrlError: the loss is not finite, or another process is gone.
    """
    # -- what is trained, and on what ---------------------------------------------------------
    family = seen_points(config)
    held_out = family.sample(config.test_tasks, numpy_generator(config.seed, "test tasks"), "test")
    tasks = TrainingTasks(family, config.train_tasks, held_out)
    run.manifest.pin(test_tasks=[task.id for task in held_out], test_digest=split_digest(held_out))
    how = build_regressor(config, family)
    streams = Streams(config.seed, config.device)
    session = Session(run, streams, lambda: how.initial(streams.generator("initial")), "error")
    compiled = session.counters.get("compiled", _should_compile(config))
    gradient_of = ReptileGradient if isinstance(config.learner, Reptile) else MetaGradient
    gradient = gradient_of(
        config.learner,
        how.loss,
        chunk=session.counters.get("chunk", config.chunk),
        memory=None if config.chunk_memory is None else round(config.chunk_memory * 2**20),
        compiled=compiled,
    )
    update = _outer_update(config, session)
    chosen = chosen_tasks(config, family, tasks, session.counters)
    share = processes.share(config.tasks_per_batch)
    shown = None if processes.leads else io.StringIO()

    # -- the loop -----------------------------------------------------------------------------
    label = config.learner.name
    with Progress(config.iterations, done=session.done, label=label, stream=shown) as progress:
        for iteration in range(session.done + 1, config.iterations + 1):
            # Drawn for all tasks everywhere: what a process meets does not depend on how many there are.
            points = _draw_points(config, family, chosen or tasks, streams)
            own = gradient(session.meta, [part[share] for part in points])
            joined = {"loss": own.loss, "gradient": own.gradient}
            if chosen:
                joined["losses"] = processes.placed(own.losses, config.tasks_per_batch)
            mean, stop = processes.mean(joined, stop=run.stop_requested)
            learning_rate = _learning_rate(config, iteration)
            update.step(mean["gradient"], learning_rate)

            # -- record: the first look at a value of this iteration ----------------------------
            if chosen:
                chosen.credit(mean["losses"][:, None])
            last = iteration == config.iterations
            if iteration % config.log_every == 0 or last:
                loss = float(mean["loss"])
                run.log(
                    iteration,
                    {
                        "meta/train_loss": loss,
                        "outer/gradient_norm": mean["gradient"].norm(),
                        "outer/learning_rate": learning_rate,
                        **(chosen.values() if chosen else {}),
                    },
                )
                session.log_speed(iteration)
                progress.advance({"loss": loss}, iteration - progress.done)
            if processes.leads and (iteration % config.evaluate_every == 0 or last):
                _evaluate(session, how, family, held_out, config, iteration)
            if processes.count == 1:
                stop = run.stop_requested
            # A stopped run records nothing that an uninterrupted one would not.
            if iteration % config.checkpoint_every == 0 or last or stop:
                counters = {"compiled": compiled, "chunk": gradient.chunk}
                counters |= curriculum_state(chosen)
                session.save(iteration, update.tensors(), counters)
            if stop and not last:
                raise run.interruption()
    return session.meta


def _draw_points(
    config: SupervisedConfig,
    family: FewShotFamily,
    tasks: TrainingTasks | ChosenTasks,
    streams: Streams,
) -> FewShotTensors:
    batch = (
        tasks.sample(config.tasks_per_batch)
        if isinstance(tasks, ChosenTasks)
        else tasks.sample_params(config.tasks_per_batch, streams.rng("tasks"))
    )
    support, query = family.draw(
        batch, config.shots, config.query_shots, streams.generator("points")
    )
    return (*support, *query)


def _outer_update(config: SupervisedConfig, session: Session) -> AdamUpdate | DescentUpdate:
    if isinstance(config.learner, Reptile) and config.learner.outer == "interpolation":
        return DescentUpdate(session.meta)
    update = AdamUpdate(session.meta)
    update.load_tensors(session.extra)
    return update


def _learning_rate(config: SupervisedConfig, iteration: int) -> float:
    if config.schedule == "constant":
        return config.learning_rate
    phase = math.pi * (iteration - 1) / config.iterations
    return config.learning_rate * 0.5 * (1 + math.cos(phase))


def _should_compile(config: SupervisedConfig) -> bool:
    if config.compile == "auto":
        return config.iterations >= COMPILE_PAYS and has_compiler(torch.device(config.device))
    return config.compile == "on"


def _evaluate(
    session: Session,
    how: FewShotAdaptation,
    family: FewShotFamily,
    held_out: list[Task],
    config: SupervisedConfig,
    iteration: int,
) -> None:
    # A generator of its own, the same at every evaluation: curves differ by the parameters only, and
    # measuring more or less often changes nothing in training.
    generator = torch_generator(config.seed, "evaluation", config.device)
    protocol = FewShotProtocol(shots=config.shots, steps=config.test_steps)
    errors = few_shot_errors(how, session.meta, family, held_out, protocol, generator)
    points = torch_generator(config.seed, "pictures", config.device)
    fits = fits_picture(how, session.meta, family, held_out, protocol, points)
    session.log_evaluation(iteration, config, errors, fits)
