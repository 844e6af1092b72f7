"""The trainings of `mtrl reproduce dex`: a process each, as many at a time as there are cores.

A finished training is a file, whose name ends in a digest of settings and code: it is not repeated,
and other settings or other code start afresh beside it. An interrupted one begins anew; each takes a
minute at most.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mtrl.durable import replace_file
from mtrl.errors import MtrlError
from mtrl.reproduce.dex.courses import Course, DexSettings, courses
from mtrl.reproduce.dex.training import Taken, take
from mtrl.side_by_side import side_by_side

__all__ = ["Job", "carry_out_jobs", "jobs_of"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training.

    Attributes:
        course: what the agent is trained on.
        seed: of all its random streams.
        settings: that decide it.
        folder: where its file goes.
        code: what identifies the code, so that no numbers of other code are reported as this one's.
    """

    course: Course
    seed: int
    settings: DexSettings
    folder: Path
    code: Mapping[str, str]

    @property
    def name(self) -> str:
        """What progress and errors call it."""
        return f"{self.course.name}, seed {self.seed}"

    @property
    def file(self) -> Path:
        """What is written when it is finished."""
        # Which levels are trained for longer decides the course, and nothing else.
        settings = asdict(replace(self.settings, goals=()))
        content = json.dumps([self.course.stages, settings, dict(self.code)], sort_keys=True)
        digest = hashlib.sha256(content.encode()).hexdigest()[:8]
        level = self.course.stages[-1].replace(" ", "-")
        return self.folder / f"{self.course.kind}-{level}-seed-{self.seed}-{digest}.json"

    @property
    def log(self) -> Path:
        """Where its process writes errors."""
        return self.file.with_suffix(".log")

    def carry_out(self) -> None:
        """Train, in this process, and keep what it came to."""
        made = take(self.course, self.settings, self.seed)
        replace_file(self.file, json.dumps(made.to_json()).encode())

    def finished(self) -> Taken | None:
        """Return what it came to, or None while it is not finished.

        Raises:
            MtrlError: its file is damaged.
        """
        try:
            values = json.loads(self.file.read_bytes())
            return Taken.from_json(values, len(self.course.stages))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise MtrlError(
                f"{self.file}: damaged ({error!r}); delete it, and the training is repeated"
            ) from error

    def came_to(self) -> str | None:
        """Return in words what it came to, or None while it is not finished."""
        made = self.finished()
        if made is None:
            return None
        reached = f"survives {made.after[-1]:.0f} steps in {self.course.stages[-1]}"
        return f"{reached} after {sum(made.steps):,} steps in {sum(made.seconds):.0f} s"


def jobs_of(
    settings: DexSettings, seeds: Sequence[int], folder: Path, code: Mapping[str, str]
) -> list[Job]:
    """Return all trainings, the long ones first, so that no process idles at the end."""
    return [
        Job(course=course, seed=seed, settings=settings, folder=folder, code=code)
        for course in courses(settings)
        for seed in seeds
    ]


def carry_out_jobs(jobs: Sequence[Job], processes: int) -> None:
    """Carry out what is not finished of `jobs`, `processes` at a time.

    Raises:
        Interrupted: a signal asked to stop; what is finished is kept.
        MtrlError: a training failed; the message names it and its log.
    """
    side_by_side(jobs, processes, modules=[__name__], kept="finished trainings are kept")
