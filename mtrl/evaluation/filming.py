"""Films of an agent at work on a task: before and after it adapted, or as it is.

What is filmed is what is measured: an evaluation's own episode is played again, with its seed and its
actions, in the family's environment that can be drawn.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from mtrl.envs.actions import to_space
from mtrl.envs.family import TaskFamily
from mtrl.envs.task import Task
from mtrl.errors import MtrlError
from mtrl.evaluation.adaptation import AdaptationProtocol, episode_seeds, run_round
from mtrl.films import Frames, smaller
from mtrl.meta.agent import MetaAgent, Transition

__all__ = ["Episode", "Film", "film_adaptation", "play_again"]


@dataclass(kw_only=True)
class Episode:
    """An episode that was played.

    Attributes:
        seed: of the reset that began it.
        actions: those of its steps, as the environment takes them.
        total: undiscounted return.
    """

    seed: int
    actions: list[NDArray[Any]] = field(default_factory=list)
    total: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Film:
    """An episode to look at.

    Attributes:
        frames: the first observation and what each step led to.
        fps: at how many a second the family's time passes as it would.
        total: undiscounted return.
    """

    frames: Frames
    fps: float
    total: float


def film_adaptation(
    agent: MetaAgent,
    family: TaskFamily,
    task: Task,
    protocol: AdaptationProtocol,
    generator: torch.Generator,
) -> tuple[Episode, Episode]:
    """Return the first episode of the first round and that of the last: before and after adaptation.

    Args:
        agent: adapts to the task from scratch.
        family: as the agent sees it.
        task: what is played.
        protocol: as of an evaluation.
        generator: of seeds and action noise, on the CPU.
    """
    agent.begin(1)
    bounded = to_space(family.action_space, generator.device)
    rounds = []
    for step in range(protocol.steps + 1):
        seeds = episode_seeds(protocol.episodes, generator.clone_state())
        episode = Episode(seed=int(seeds[0]))

        def keep(transition: Transition, episode: Episode = episode) -> None:
            if transition.running[0, 0]:
                episode.actions.append(bounded(transition.actions[0, :1])[0].cpu().numpy())
                episode.total += float(transition.rewards[0, 0])

        with torch.no_grad():
            run_round(agent, family, [task], protocol, generator, keep)
        rounds.append(episode)
        if step < protocol.steps:
            agent.adapt()
    return rounds[0], rounds[-1]


def play_again(family: TaskFamily, task: Task, episode: Episode, *, width: int) -> Film:
    """Return the film of an episode, at most `width` pixels wide.

    Raises:
        UsageError: the family cannot be drawn.
        MissingExtraError: what draws it is not installed.
        MtrlError: played again, the episode has another return.
    """
    env = family.make(task, render_mode="rgb_array")
    played = _Replay(env, episode.seed, episode.actions)
    try:
        frames = np.concatenate([smaller(picture[None], width) for picture in played])
    finally:
        env.close()
    if not np.isclose(played.total, episode.total, rtol=1e-3, atol=1e-3):
        raise MtrlError(
            f"task {task.id} of family {family.name!r}: an episode's return was {episode.total:g}, and "
            f"{played.total:g} when played again; its environment and its batch differ, or its chance "
            "does not depend on the seed alone"
        )
    fps = float(env.metadata.get("render_fps") or 30)
    return Film(frames=frames, fps=fps, total=played.total)


class _Replay:
    """An episode's pictures, one by one; `total` is what it has returned by then."""

    def __init__(self, env: gym.Env[Any, Any], seed: int, actions: Sequence[NDArray[Any]]) -> None:
        self._env, self._seed, self._actions = env, seed, actions
        self.total = 0.0

    def __iter__(self) -> Iterator[Frames]:
        self._env.reset(seed=self._seed)
        yield self._picture()
        for action in self._actions:
            _, reward, terminated, truncated, _ = self._env.step(action)
            self.total += float(reward)
            yield self._picture()
            if terminated or truncated:
                return

    def _picture(self) -> Frames:
        picture = self._env.render()
        if not isinstance(picture, np.ndarray):
            drawn = type(picture).__name__
            raise MtrlError(f"{self._env} drew {drawn} where a picture was wanted")
        return picture
