"""What is measured: works, learners, sizes, and beside whom."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mtrl.benchmarks.adaptation.problem import LEARNERS, NETWORKS, Precision, Problem
from mtrl.benchmarks.adaptation.processes import PEERS
from mtrl.config import check_positive
from mtrl.errors import UsageError

__all__ = ["QUICK", "AdaptationSettings", "problems_of"]

NAVIGATION = "navigation2d"


@dataclass(frozen=True, kw_only=True)
class AdaptationSettings:
    """What is measured, and beside whom."""

    works: str = "sinusoid,navigation2d"
    """Works, with commas between them: sinusoid (1-40-40-1), policy (39-64-64-4), navigation2d (a whole
    meta-iteration of reinforcement learning)."""
    learners: str = "meta-sgd"
    """Learners on sinusoid and policy, with commas between them: maml, fomaml, anil, cavia, meta-sgd."""
    tasks: tuple[int, ...] = (4, 25, 32, 256)
    """Tasks per meta-step on sinusoid and policy."""
    shots: int = 10
    """Support points per task, and as many query points."""
    inner_steps: tuple[int, ...] = (1,)
    """Inner steps."""
    device: str = "cpu"
    """Torch device of our variants, and of peers that run on torch."""
    precision: Precision = "float32"
    """Of all numbers."""
    threads: int = 1
    """CPU threads of every variant."""
    compiled: bool = True
    """Measure our compiled meta-step, too; it takes a C++ compiler and a minute."""
    peers: str = "learn2learn,torchopt,higher,jax,loop"
    """Libraries to compare with, with commas between them; those that are not installed are left out."""
    peer_folder: Path = Path(".peers")
    """Where `scripts/install_peers.py` put them."""
    pytorch_maml_rl: Path | None = None
    """A checkout of pytorch-maml-rl to compare navigation with; without it, only a loop of our own."""
    turns: int = 11
    """Turns of each variant."""
    navigation_turns: int = 5
    """Turns, of one iteration, of each variant on navigation."""
    seconds: float = 0.1
    """Least processor time of a turn."""
    memory: bool = True
    """Measure memory, each variant in a process of its own."""
    memory_inner_steps: tuple[int, ...] = (1, 5)
    """Inner steps for which memory is measured."""

    def __post_init__(self) -> None:
        check_positive(self, "shots", "threads", "turns", "navigation_turns", "seconds")
        choices: dict[str, Any] = {
            "works": (*NETWORKS, NAVIGATION),
            "learners": LEARNERS,
            "peers": tuple(PEERS),
        }
        for name, known in choices.items():
            for each in _split(getattr(self, name)):
                if each not in known:
                    raise UsageError(f"{name} has {each!r}; there are {', '.join(known)}")
        if self.navigation and self.device != "cpu":
            raise UsageError(
                f"device is {self.device!r}, and navigation2d is measured on the CPU; "
                "leave it out of works"
            )
        for name in ("tasks", "inner_steps", "memory_inner_steps"):
            if any(value < 1 for value in getattr(self, name)):
                raise UsageError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def peer_names(self) -> tuple[str, ...]:
        """The libraries, in the order given."""
        return _split(self.peers)

    @property
    def navigation(self) -> bool:
        """Whether the meta-iteration on 2-D navigation is measured."""
        return NAVIGATION in _split(self.works)

    @property
    def by_wall(self) -> bool:
        """Whether wall time counts: on an accelerator the processor only waits."""
        return self.device != "cpu"


QUICK: Mapping[str, Any] = {
    "tasks": (4, 32),
    "turns": 3,
    "navigation_turns": 1,
    "seconds": 0.02,
    "compiled": False,
    "memory_inner_steps": (1,),
}
"""What --quick sets."""


def problems_of(settings: AdaptationSettings) -> list[Problem]:
    """Return the problems of all works but navigation, inner steps and tasks innermost.

    Raises:
        UsageError: settings cannot be carried out.
    """
    found = []
    for work in _split(settings.works):
        if work == NAVIGATION:
            continue
        for learner in _split(settings.learners):
            base = Problem(
                work=work,  # type: ignore[arg-type]  # checked above
                learner=learner,  # type: ignore[arg-type]
                shots=settings.shots,
                precision=settings.precision,
                device=settings.device,
                threads=settings.threads,
            )
            found += [
                replace(base, tasks=tasks, inner_steps=steps)
                for steps in settings.inner_steps
                for tasks in settings.tasks
            ]
    return found


def _split(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
