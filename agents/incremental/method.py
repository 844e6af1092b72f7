"""What every method of incremental learning is to the runner: a few calls around each task."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from mtrl.errors import UsageError

__all__ = ["FineTune", "Method", "MethodSettings", "refuse"]


class Method:
    """Stands beside an agent that learns tasks one after another; on its own it does nothing.

    Args:
        agent: whose updates are changed, until `close`.
        sequence: the number of each stage's task.
        seed: of the method's own chance.
    """

    def __init__(self, agent: BaseAlgorithm, sequence: Sequence[int], seed: int) -> None:
        self.agent, self.sequence, self.seed = agent, tuple(sequence), seed

    def milestones(self, stage: int) -> tuple[float, ...]:
        """Return the shares of a stage's steps after which `at_milestone` is to be called."""
        return ()

    def before_task(self, stage: int) -> None:
        """Prepare for the task of `stage`, whose episodes are about to begin."""

    def at_milestone(self, stage: int) -> None:
        """Do what is due within a stage."""

    def after_task(self, stage: int) -> None:
        """Keep what is to be kept of the task of `stage`; its transitions are still in the buffer."""

    @contextmanager
    def playing(self, task: int) -> Iterator[None]:
        """Within the context, the agent is the one that plays this task."""
        yield

    def state_dict(self) -> dict[str, Any]:
        """Return what the method knows: nested, of tensors, arrays and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned, beside the agent as it was then."""

    def close(self) -> None:
        """Leave the agent's updates as they were before."""


class MethodSettings(ABC):
    """What decides a method."""

    @abstractmethod
    def build(self, agent: BaseAlgorithm, sequence: Sequence[int], seed: int) -> Method:
        """Return the method beside `agent`.

        Raises:
            UsageError: it is not defined for this agent.
        """


@dataclass(frozen=True, kw_only=True)
class FineTune(MethodSettings):
    """Go on learning and guard nothing: what all methods are measured against."""

    def build(self, agent: BaseAlgorithm, sequence: Sequence[int], seed: int) -> Method:
        """Return the method, for any agent."""
        return Method(agent, sequence, seed)


def refuse(method: str, agent: BaseAlgorithm, why: str) -> UsageError:
    """Return the error that `method` is not defined for `agent`."""
    return UsageError(f"{method} is not defined for {type(agent).__name__}: {why}")
