"""Meta-training of PEARL (Rakelly et al. 2019, algorithm 1).

Each iteration plays some of the training tasks, first on guesses from the prior, then on guesses from what those
episodes say, and takes gradient steps on transitions of other tasks too. A task's newest episodes are what its
belief is inferred from in a gradient step; critics and actor learn from all of its transitions so far. The two are
drawn apart: the belief has to hold for transitions that it was not inferred from.
"""

from dataclasses import dataclass

import numpy as np
import torch

from mtrl.agents.pearl.agent import PearlAgent
from mtrl.agents.pearl.policy import LatentPolicy
from mtrl.agents.pearl.replay import TaskReplay, Transitions
from mtrl.agents.pearl.update import PearlUpdate
from mtrl.envs.family import TaskFamily
from mtrl.envs.task import Task, split_digest
from mtrl.errors import MtrlError
from mtrl.evaluation.adaptation import AdaptationProtocol, adaptation_returns, run_round
from mtrl.family_files import keep_family, with_kept_family
from mtrl.meta.agent import Transition
from mtrl.meta.parameters import MetaParams
from mtrl.meta.pearl.config import PearlConfig, pearl_family, pearl_sizes, pearl_tasks
from mtrl.meta.session import Session
from mtrl.meta.watching import Charts, Trajectories, trajectories_picture
from mtrl.progress import Progress
from mtrl.rollouts import episode_steps
from mtrl.runs import Run
from mtrl.seeding import Streams, numpy_generator, torch_generator

__all__ = ["CHARTS", "Collector", "build_latent_policy", "train_pearl"]

CHARTS: Charts = {
    "Adaptation": {
        "Held-out tasks: return after k rounds": [r"adapt/return_after_\d+"],
        "Training tasks: return on guesses from prior and posterior": [
            r"meta/(pre|post)_adapt_return"
        ],
    },
    "Belief": {
        "Divergence from the prior": ["context/divergence"],
        "Deviation of the latents": ["context/deviation"],
    },
    "Updates": {
        "Loss of the critics": ["train/critic_loss"],
        "Loss of the actor": ["train/actor_loss"],
        "Temperature": ["train/ent_coef"],
    },
    "Speed": {
        "Iterations per second": ["time/iterations_per_second"],
        "Environment steps per second": ["time/env_steps_per_second"],
    },
}
"""The CUSTOM SCALARS page."""


def build_latent_policy(
    config: PearlConfig, family: TaskFamily, generator: torch.Generator
) -> LatentPolicy:
    """Return the networks that `config` describes, sized for `family`, drawn from `generator` (on the CPU)."""
    return LatentPolicy(*pearl_sizes(family), config.learner, generator, config.device)


@dataclass(frozen=True)
class Played:
    """What a collection gave: mean returns on guesses from prior and posterior, and its steps."""

    before: float
    after: float
    steps: int


class Collector:
    """Plays training tasks and keeps what happens: all of it, and what beliefs are inferred from.

    Args:
        config: how much is played and kept.
        family: the tasks' family.
        tasks: the training tasks.
        policy: acts.

    Attributes:
        replay: all transitions of each task.
        context: those of a task's newest collection.
    """

    def __init__(
        self, config: PearlConfig, family: TaskFamily, tasks: list[Task], policy: LatentPolicy
    ) -> None:
        self._config, self._family, self._tasks, self._policy = config, family, tasks, policy
        steps = episode_steps(family.horizon, config.max_episode_steps)
        together = config.prior_episodes + config.posterior_episodes
        recent = steps * max(config.initial_episodes, together)
        count, sizes, device = len(tasks), policy.sizes, config.device
        self.replay = TaskReplay(count, config.replay_size, sizes, device)
        self.context = TaskReplay(count, recent, sizes, device)

    def explore(self, generator: torch.Generator) -> int:
        """Play every task on guesses from the prior, so that each has a context; return the steps."""
        everything = np.arange(len(self._tasks))
        agent = self._agent(len(everything))
        _, steps = self._play(
            agent, everything, self._config.initial_episodes, generator, context=True
        )
        return steps

    def collect(self, chosen: np.ndarray, generator: torch.Generator) -> Played:
        """Play the tasks of these numbers anew, before and after inference."""
        config = self._config
        agent = self._agent(len(chosen))
        self.context.clear(torch.as_tensor(chosen, device=config.device))
        before, first = self._play(agent, chosen, config.prior_episodes, generator, context=True)
        agent.adapt()
        inferred = config.context_episodes == "all"
        after, second = self._play(
            agent, chosen, config.posterior_episodes, generator, context=inferred
        )
        return Played(before, after, first + second)

    def draw(
        self, chosen: np.ndarray, generator: torch.Generator
    ) -> tuple[Transitions, Transitions]:
        """Draw a context and a batch of the tasks of these numbers."""
        tasks = torch.as_tensor(chosen, device=self._config.device)
        learner = self._config.learner
        context = self.context.draw(tasks, learner.context_size, generator)
        return context, self.replay.draw(tasks, learner.batch_size, generator)

    def _agent(self, tasks: int) -> PearlAgent:
        agent = PearlAgent(self._policy)
        agent.begin(tasks)
        return agent

    @torch.no_grad()
    def _play(
        self,
        agent: PearlAgent,
        chosen: np.ndarray,
        episodes: int,
        generator: torch.Generator,
        *,
        context: bool,
    ) -> tuple[float, int]:
        """Play a round and keep it; return the mean return and the steps taken."""
        seen: list[Transition] = []
        protocol = AdaptationProtocol(
            episodes=episodes, max_episode_steps=self._config.max_episode_steps
        )
        tasks = [self._tasks[number] for number in chosen]
        returns = run_round(agent, self._family, tasks, protocol, generator, seen.append)
        _check_returns(self._family, tasks, returns)
        transitions, happened = Transitions.of_steps(seen)
        numbers = torch.as_tensor(chosen, device=self._config.device)
        for kept in (self.replay, self.context) if context else (self.replay,):
            kept.add(numbers, transitions, happened)
        return float(returns.mean()), int(happened.sum())

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return all that is kept, for `load_tensors`."""
        parts = {"replay": self.replay, "context": self.context}
        return {
            f"{name}/{key}": value
            for name, part in parts.items()
            for key, value in part.tensors().items()
        }

    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        """Continue with what `tensors` returned."""
        for name, part in {"replay": self.replay, "context": self.context}.items():
            prefix = f"{name}/"
            own = {key: value for key, value in tensors.items() if key.startswith(prefix)}
            part.load_tensors({key.removeprefix(prefix): value for key, value in own.items()})


def train_pearl(config: PearlConfig, run: Run) -> MetaParams:
    """Meta-train as `config` says, recording in `run`; return the networks' parameters.

    Raises:
        Interrupted: asked to stop by a signal; everything up to then is saved.
        UsageError: the configuration cannot be carried out.
        MtrlError: a return or parameter is not finite.
    """
    # -- what is trained, and on what ---------------------------------------------------------
    keep_family(config.family, run.directory, run.manifest)
    family = pearl_family(with_kept_family(config, run.directory))
    held_out = family.sample(config.test_tasks, numpy_generator(config.seed, "test tasks"), "test")
    tasks = pearl_tasks(config, family, held_out)
    run.manifest.pin(test_tasks=[task.id for task in held_out], test_digest=split_digest(held_out))
    run.manifest.pin(train_tasks=[task.id for task in tasks], train_digest=split_digest(tasks))
    streams = Streams(config.seed, config.device)
    policy = build_latent_policy(config, family, torch_generator(config.seed, "initial"))
    session = Session(
        run, streams, lambda: MetaParams(policy.learned(), {}), "return", charts=CHARTS
    )
    update = PearlUpdate(policy, config.learner)
    collector = Collector(config, family, tasks, policy)
    if session.done:
        policy.take_over(session.meta.params)
        session.meta = MetaParams(policy.learned(), {})
        update.load_tensors(session.extra)
        collector.load_tensors(session.extra)
    env_steps = int(session.counters.get("env_steps", 0))

    # -- the loop -----------------------------------------------------------------------------
    with Progress(config.iterations, done=session.done, label=config.learner.name) as progress:
        for iteration in range(session.done + 1, config.iterations + 1):
            taken = collector.explore(streams.generator("episodes")) if iteration == 1 else 0
            chosen = _choose(len(tasks), config.tasks_per_collection, streams)
            played = collector.collect(chosen, streams.generator("episodes"))
            sums: dict[str, torch.Tensor] = {}
            for _ in range(config.gradient_steps):
                chosen = _choose(len(tasks), config.tasks_per_batch, streams)
                context, batch = collector.draw(chosen, streams.generator("batches"))
                seen = update.step(context, batch, streams.generator("noise"))
                sums = {tag: sums.get(tag, 0) + value for tag, value in seen.items()}

            # -- record -----------------------------------------------------------------------
            taken += played.steps
            env_steps += taken
            means = {tag: value / config.gradient_steps for tag, value in sums.items()}
            run.log(
                iteration,
                {
                    "meta/pre_adapt_return": played.before,
                    "meta/post_adapt_return": played.after,
                    "meta/env_steps": env_steps,
                    **means,
                },
            )
            session.log_speed(iteration, taken)
            progress.advance({"before": played.before, "after": played.after})
            last = iteration == config.iterations
            if iteration % config.evaluate_every == 0 or last:
                _evaluate(session, policy, family, held_out, config, iteration)
            # A stopped run records nothing that an uninterrupted one would not.
            if iteration % config.checkpoint_every == 0 or last or run.stop_requested:
                extra = update.tensors() | collector.tensors()
                session.save(iteration, extra, {"env_steps": env_steps})
            if run.stop_requested and not last:
                raise run.interruption()
    return session.learned


def _choose(tasks: int, size: int, streams: Streams) -> np.ndarray:
    """Choose `size` of the tasks' numbers, none twice."""
    return streams.rng("tasks").choice(tasks, size, replace=False)


def _check_returns(family: TaskFamily, tasks: list[Task], returns: torch.Tensor) -> None:
    """Refuse returns that are not finite, by the name of the family and the task."""
    finite = returns.isfinite()
    if not bool(finite.all()):
        task = tasks[int(finite.int().argmin())]
        raise MtrlError(
            f"family {family.name!r}, task {task.id} {dict(task.params)}: a return is not finite; "
            "narrow the family's ranges so that its dynamics do not diverge"
        )


def _evaluate(
    session: Session,
    policy: LatentPolicy,
    family: TaskFamily,
    held_out: list[Task],
    config: PearlConfig,
    iteration: int,
) -> None:
    # A generator of its own, the same at every evaluation: curves differ by the parameters only, and
    # measuring more or less often changes nothing in training.
    generator = torch_generator(config.seed, "evaluation", config.device)
    protocol = AdaptationProtocol(
        episodes=config.episodes_per_task,
        steps=config.test_steps,
        max_episode_steps=config.max_episode_steps,
    )
    seen = Trajectories(config.test_steps)
    agent = PearlAgent(policy)
    returns = adaptation_returns(agent, family, held_out, protocol, generator, watch=seen)
    paths = trajectories_picture(family, held_out, seen, iteration)
    session.log_evaluation(iteration, config, returns, paths)
