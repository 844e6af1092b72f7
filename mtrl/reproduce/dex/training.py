"""Training an agent through a course, measured before and after every stage."""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from stable_baselines3.common.callbacks import BaseCallback

from mtrl.agents.incremental import IncrementalRunner, TaskSequence
from mtrl.agents.multitask.env import MultiTaskVecEnv
from mtrl.agents.multitask.ppo import MultiTaskPPO
from mtrl.agents.multitask.statistics import RewardScaling
from mtrl.agents.networks import MLP, NetworkConfig, Shared
from mtrl.envs.hexagon import LEVELS
from mtrl.reproduce.dex.courses import Course, DexSettings
from mtrl.reproduce.dex.playing import hexagon_family, survival

__all__ = ["Taken", "make_agent", "network_digest", "take"]


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What a course cost and gave; lists have an entry per stage.

    Attributes:
        steps: environment steps of training.
        seconds: of training, without those of measuring.
        before: mean survival on the stage's level before it is trained, in steps.
        after: the same after.
        longest_before: longest survival of an episode, before.
        longest_after: the same after.
        curves: mean survival at `Course.curve_steps`.
        begun: digest of the network with which the stage begins.
        ended: digest of the network with which it ends.
        last: mean survival on each of the course's levels in the end, by level.
    """

    steps: list[int]
    seconds: list[float]
    before: list[float]
    after: list[float]
    longest_before: list[float]
    longest_after: list[float]
    curves: list[list[float]]
    begun: list[str]
    ended: list[str]
    last: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return JSON values, from which `from_json` makes an equal one."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any], stages: int) -> Self:
        """Return what `to_json` wrote of a course of so many stages.

        Raises:
            TypeError, ValueError: these are no such values.
        """
        made = cls(**values)
        lists = [value for value in asdict(made).values() if isinstance(value, list)]
        if any(len(value) != stages for value in lists):
            raise ValueError(f"lists must have {stages} entries, one per stage")
        return made


def make_agent(settings: DexSettings, seed: int) -> MultiTaskPPO:
    """Return an untrained agent; that of a seed is the same for every course.

    Its environments know all levels, whichever of them the course has. The network is not told which
    one it plays.
    """
    network = NetworkConfig(trunk=MLP(hidden=settings.hidden, activation="tanh"), head=Shared())
    return MultiTaskPPO(
        "MultiTaskPolicy",
        _environments(settings),
        n_steps=settings.rollout,
        batch_size=settings.batch_size,
        n_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        gamma=settings.gamma,
        gae_lambda=settings.gae_lambda,
        ent_coef=settings.entropy,
        policy_kwargs={"network": network, "share_trunk": False},
        seed=seed,
        device="cpu",
    )


def _environments(settings: DexSettings) -> MultiTaskVecEnv:
    tasks = [LEVELS[name] for name in settings.levels]
    slots = [tasks[slot % len(tasks)] for slot in range(settings.environments)]
    return MultiTaskVecEnv(
        hexagon_family().make_sb3(slots),
        tasks,
        names=settings.levels,
        scaling=RewardScaling(discount=settings.gamma),
    )


def network_digest(agent: Any) -> str:
    """Return 16 hexadecimal digits for the parameters of an agent's network, bit for bit."""
    digest = hashlib.sha256()
    for name, value in sorted(agent.policy.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


class _Scorer:
    """Scores what the page shows: a stage's level before and after it, and all levels in the end."""

    def __init__(self, course: Course, settings: DexSettings) -> None:
        self._course, self._settings = course, settings
        self.longest: dict[tuple[int, str], float] = {}

    def __call__(self, agent: Any, task: int) -> float:
        done = agent.num_timesteps // self._settings.steps
        stages, level = self._course.stages, self._settings.levels[task]
        wanted = set(stages) if done == len(stages) else set(stages[max(0, done - 1) : done + 1])
        if level not in wanted:
            return float("nan")
        found = survival(agent, self._settings, level, self._settings.episodes)
        self.longest[done, level] = float(found.max())
        return float(found.mean())


class _Watch(BaseCallback):
    """Times the training of one stage, and draws its learning curve between its ends."""

    def __init__(self, course: Course, settings: DexSettings, stage: int) -> None:
        super().__init__()
        self._settings, self._level = settings, course.stages[stage]
        start, inner = stage * settings.steps, course.curve_steps(stage, settings)[1:-1]
        self._inner = {start + step for step in inner}
        self.curve: list[float] = []
        self.seconds = 0.0

    def _on_training_start(self) -> None:
        self._clock = time.perf_counter()

    def _on_rollout_start(self) -> None:
        if self.num_timesteps not in self._inner:
            return
        self._pause()
        episodes = self._settings.curve_episodes
        found = survival(self.model, self._settings, self._level, episodes)
        self.curve.append(float(found.mean()))
        self._clock = time.perf_counter()

    def _on_training_end(self) -> None:
        self._pause()

    def _pause(self) -> None:
        self.seconds += time.perf_counter() - self._clock

    def _on_step(self) -> bool:
        return True


def take(course: Course, settings: DexSettings, seed: int) -> Taken:
    """Train an agent of a seed through a course, and measure it before and after every stage."""
    agent, scorer = make_agent(settings, seed), _Scorer(course, settings)
    sequence = TaskSequence(
        order=course.stages, steps=(settings.steps,), switch=course.switch, seed=seed
    )
    runner = IncrementalRunner(agent, sequence, scorer)
    begun, ended, watches = [], [], []
    for stage in range(len(course.stages)):
        begun.append(network_digest(agent))
        watches.append(_Watch(course, settings, stage))
        runner.run(watches[-1], stages=1)
        ended.append(network_digest(agent))
    scores = runner.matrix.by_stage[0]  # (1 + stages, stages)
    own = range(len(course.stages))
    before = [float(scores[stage, stage]) for stage in own]
    after = [float(scores[stage + 1, stage]) for stage in own]
    return Taken(
        steps=[settings.steps for _ in own],
        seconds=[watch.seconds for watch in watches],
        before=before,
        after=after,
        longest_before=[scorer.longest[stage, course.stages[stage]] for stage in own],
        longest_after=[scorer.longest[stage + 1, course.stages[stage]] for stage in own],
        curves=[[before[stage], *watches[stage].curve, after[stage]] for stage in own],
        begun=begun,
        ended=ended,
        last={level: float(scores[-1, course.stages.index(level)]) for level in course.stages},
    )
