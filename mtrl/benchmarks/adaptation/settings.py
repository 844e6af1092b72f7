"""What is measured: works, learners, sizes, and beside whom."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mtrl.benchmarks.adaptation.problem import (
    IMAGES,
    LEARNERS,
    NETWORKS,
    Precision,
    Problem,
)
from mtrl.benchmarks.adaptation.processes import PEERS
from mtrl.config import check_positive
from mtrl.errors import UsageError

__all__ = ["QUICK", "AdaptationSettings", "memory_problems_of", "problems_of"]

NAVIGATION = "navigation2d"


@dataclass(frozen=True, kw_only=True)
class AdaptationSettings:
    """What is measured, and beside whom."""

    works: str = "sinusoid,images,navigation2d"
    """Works, with commas between them: sinusoid (1-40-40-1), policy (39-64-64-4), images (4 convolutions on 84x84
    pixels, 5 classes, 1 shot, 15 queries), navigation2d (a whole meta-iteration of reinforcement learning)."""
    learners: str = "meta-sgd"
    """Learners on sinusoid and policy, with commas between them: maml, fomaml, anil, cavia, meta-sgd."""
    tasks: tuple[int, ...] = (4, 25, 32, 256)
    """Tasks per meta-step on sinusoid and policy."""
    shots: int = 10
    """Support points per task, and as many query points."""
    inner_steps: tuple[int, ...] = (1,)
    """Inner steps on sinusoid and policy."""
    image_learners: str = "maml,meta-sgd"
    """Learners on images, with commas between them: maml, fomaml, anil, meta-sgd."""
    image_tasks: tuple[int, ...] = (4,)
    """Tasks per meta-step on images."""
    image_inner_steps: tuple[int, ...] = (1, 5)
    """Inner steps on images."""
    device: str = "cpu"
    """Torch device of our variants, and of peers that run on torch."""
    precision: Precision = "float32"
    """Of all numbers."""
    threads: int = 1
    """CPU threads of every variant."""
    compiled: bool = True
    """Measure ours compiled on sinusoid, policy and navigation2d, too; it takes a C++ compiler and some minutes."""
    peers: str = "learn2learn,torchopt,higher,jax,loop"
    """Libraries to compare with, with commas between them; those that are not installed are left out."""
    peer_folder: Path = Path(".peers")
    """Where `scripts/install_peers.py` put them."""
    pytorch_maml_rl: Path | None = None
    """A checkout of pytorch-maml-rl to compare navigation with; without it, only a loop of our own."""
    turns: int = 11
    """Turns of each variant on sinusoid and policy."""
    image_turns: int = 5
    """Turns of each variant on images."""
    navigation_turns: int = 5
    """Turns, of one iteration, of each variant on navigation."""
    seconds: float = 0.1
    """Least processor time of a turn."""
    memory: bool = True
    """Measure memory, each variant in a process of its own."""
    memory_inner_steps: tuple[int, ...] = (1, 5)
    """Inner steps for which memory is measured on sinusoid and policy; on images all are."""

    def __post_init__(self) -> None:
        check_positive(self, "shots", "threads", "seconds")
        check_positive(self, "turns", "image_turns", "navigation_turns")
        choices: dict[str, Any] = {
            "works": (*NETWORKS, IMAGES, NAVIGATION),
            "learners": LEARNERS,
            # The convolutional network has no inputs for a context.
            "image_learners": tuple(name for name in LEARNERS if name != "cavia"),
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
        counts = ("tasks", "inner_steps", "memory_inner_steps", "image_tasks", "image_inner_steps")
        for name in counts:
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

    def turns_of(self, problem: Problem) -> int:
        """Return the turns of each variant on `problem`."""
        return self.image_turns if problem.work == IMAGES else self.turns

    def compiles(self, problem: Problem) -> bool:
        """Return whether our compiled meta-step is measured on `problem`."""
        return self.compiled and problem.work != IMAGES

    @property
    def by_wall(self) -> bool:
        """Whether wall time counts: on an accelerator the processor only waits."""
        return self.device != "cpu"


QUICK: Mapping[str, Any] = {
    "tasks": (4, 32),
    "image_learners": "meta-sgd",
    "image_tasks": (2,),
    "image_inner_steps": (1,),
    "turns": 3,
    "image_turns": 1,
    "navigation_turns": 1,
    "seconds": 0.02,
    "compiled": False,
    "memory_inner_steps": (1,),
}
"""What --quick sets."""


def problems_of(settings: AdaptationSettings) -> list[Problem]:
    """Return the problems of all works but navigation, tasks innermost."""
    return [
        problem
        for work in _split(settings.works)
        if work != NAVIGATION
        for problem in _problems(work, settings)
    ]


def _problems(work: str, settings: AdaptationSettings) -> list[Problem]:
    images = work == IMAGES
    base = Problem(
        work=work,  # type: ignore[arg-type]  # the settings are checked
        shots=1 if images else settings.shots,
        precision=settings.precision,
        device=settings.device,
        threads=settings.threads,
    )
    return [
        replace(base, learner=learner, inner_steps=steps, tasks=tasks)  # type: ignore[arg-type]  # as above
        for learner in _split(settings.image_learners if images else settings.learners)
        for steps in (settings.image_inner_steps if images else settings.inner_steps)
        for tasks in (settings.image_tasks if images else settings.tasks)
    ]


def memory_problems_of(settings: AdaptationSettings) -> list[Problem]:
    """Return the problems, each once, whose memory is measured."""
    found: dict[Problem, None] = {}
    for problem in problems_of(settings):
        own = (problem.inner_steps,)
        steps = own if problem.work == IMAGES else settings.memory_inner_steps
        found |= dict.fromkeys(replace(problem, inner_steps=count) for count in steps)
    return list(found)


def _split(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
