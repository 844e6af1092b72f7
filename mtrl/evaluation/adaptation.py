"""Return on held-out tasks after 0, 1, ... k rounds of adaptation.

Every task gets the same number of episodes in every round, and every one of them counts: none is left out
because it took long. A round's episodes are both the score after the rounds before and the data of the next.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mtrl.envs.actions import ScaledActions
from mtrl.envs.episodes import episode_batch
from mtrl.envs.family import TaskFamily
from mtrl.envs.task import Task
from mtrl.meta.agent import MetaAgent, Transition
from mtrl.rollouts import CHECK_EVERY, episode_steps

__all__ = ["AdaptationProtocol", "adaptation_returns", "episode_seeds", "run_round"]


@dataclass(frozen=True, kw_only=True)
class AdaptationProtocol:
    """How adaptation is measured.

    Attributes:
        episodes: per task and round.
        steps: rounds of adaptation; the curve has one point more.
        max_episode_steps: cuts episodes off, if the family does not do so before.
        tasks_at_once: bounds the memory; results do not depend on which tasks share a batch beyond noise.
    """

    episodes: int = 20
    steps: int = 1
    tasks_at_once: int = 100
    max_episode_steps: int | None = None


@torch.no_grad()
def adaptation_returns(
    agent: MetaAgent,
    family: TaskFamily,
    tasks: Sequence[Task],
    protocol: AdaptationProtocol,
    generator: torch.Generator,
    *,
    watch: Callable[[int, Transition], None] | None = None,
) -> NDArray[np.float64]:
    """Return the mean undiscounted return of every task after each number of rounds, (tasks, steps + 1).

    Two agents given the same tasks and generators in the same state meet the same tasks and draw the same
    action noise, so that their returns can be compared in pairs.

    Args:
        agent: adapts; see `MetaAgent`.
        family: the tasks' family.
        tasks: held-out tasks.
        protocol: see `AdaptationProtocol`.
        generator: of episodes' seeds and action noise, on the device to run on.
        watch: called with the round and each transition of the first batch of tasks.
    """
    rows = []
    for first in range(0, len(tasks), protocol.tasks_at_once):
        some = tasks[first : first + protocol.tasks_at_once]
        agent.begin(len(some))
        rounds = []
        for step in range(protocol.steps + 1):
            observer = None if watch is None or first > 0 else _Watch(watch, step)
            rounds.append(run_round(agent, family, some, protocol, generator, observer))
            if step < protocol.steps:
                agent.adapt()
        rows.append(torch.stack(rounds, 1))
    return torch.cat(rows).double().cpu().numpy()


@dataclass(frozen=True)
class _Watch:
    call: Callable[[int, Transition], None]
    step: int

    def __call__(self, transition: Transition) -> None:
        self.call(self.step, transition)


def episode_seeds(episodes: int, generator: torch.Generator) -> torch.Tensor:
    """Draw the seeds of a round's episodes, int64 (episodes,), task by task."""
    return torch.randint(2**62, (episodes,), generator=generator, device=generator.device)


def run_round(
    agent: MetaAgent,
    family: TaskFamily,
    tasks: Sequence[Task],
    protocol: AdaptationProtocol,
    generator: torch.Generator,
    watch: Callable[[Transition], None] | None,
) -> torch.Tensor:
    """Run whole episodes of every task at once; return each task's mean return (tasks,).

    Args:
        agent: acts, and is shown each transition.
        family: the tasks' family.
        tasks: what is played.
        protocol: how many episodes of each, and their length.
        generator: of episodes' seeds and action noise, on the device to run on.
        watch: called with each transition.
    """
    shape, device = (len(tasks), protocol.episodes), generator.device
    batch = episode_batch(family, tasks, repeats=protocol.episodes, device=device)
    env = ScaledActions(batch, family.action_space, device)
    observations = env.reset(episode_seeds(shape[0] * shape[1], generator)).view(*shape, -1)
    running = torch.ones(shape, device=device)
    returns = torch.zeros(shape, device=device)
    for step in range(episode_steps(family.horizon, protocol.max_episode_steps)):
        if step and step % CHECK_EVERY == 0 and not running.any():
            break
        actions = agent.act(observations, generator)
        following, rewards, terminated, truncated = env.step(actions.flatten(0, 1))
        transition = Transition(
            observations=observations,
            actions=actions,
            rewards=rewards.view(shape).to(running.dtype) * running,
            running=running,
            terminated=terminated.view(shape) * running,
            next_observations=following.view(*shape, -1),
        )
        agent.observe(transition)
        if watch is not None:
            watch(transition)
        returns = returns + transition.rewards
        running = running.masked_fill((terminated | truncated).view(shape), 0.0)
        observations = transition.next_observations
    return returns.mean(1)
