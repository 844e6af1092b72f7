"""Everything that a run's files say, and what is wrong with them.

A file that is damaged or missing costs what it holds and no more: it becomes a sentence in the
record's problems.
"""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from mtrl.checkpoint import Checkpoint, CheckpointStore
from mtrl.durable import reporting
from mtrl.errors import MtrlError
from mtrl.evaluation.continual import PerformanceMatrix
from mtrl.evaluation.continual_file import read_matrix
from mtrl.manifest import read_manifest
from mtrl.metrics import Series, read_metrics
from mtrl.report.evaluation import Evaluation, read_episodes, read_evaluation
from mtrl.report.events import LoggedPicture, newest_pictures
from mtrl.runs import CHECKPOINTS, CONFIG, MANIFEST, METRICS, TIMINGS

__all__ = ["LoggedSession", "RunRecord", "read_run"]

T = TypeVar("T")

STEP_SIZES = "meta/step_sizes."
ONLY_LEARNERS = {"recurrent": "rl2", "pearl": "pearl"}
"""The learner of each kind of run that has no other, which its configuration therefore does not name."""
MATRIX_START = b"# performance matrix:"


class LoggedSession(NamedTuple):
    """A start or a resumption of a run."""

    started: str
    command: str
    versions: dict[str, str]


@dataclass(frozen=True, kw_only=True, eq=False)
class RunRecord:
    """A run as its files tell it; what they do not tell is empty or None.

    Attributes:
        directory: of the run, as it was named.
        name: what to call it.
        kind: as after `mtrl train`; None if the manifest is damaged.
        settings: the configuration, flat: `learner.kind`, which is there too where a kind has one learner only.
        sessions: its start and its resumptions.
        metrics: every tag's series.
        timings: the same for what depends on the machine.
        saved_step: the step of its newest good checkpoint.
        step_sizes: by layer, those learned by then.
        evaluation: what `mtrl evaluate` wrote of a run that adapts.
        episodes: what it wrote of one that does not: returns (episodes,) by task.
        matrices: performance matrices by file name.
        pictures: the newest of each tag.
        problems: what is damaged or missing, a sentence each.
    """

    directory: Path
    name: str
    kind: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    sessions: tuple[LoggedSession, ...] = ()
    metrics: dict[str, Series] = field(default_factory=dict)
    timings: dict[str, Series] = field(default_factory=dict)
    saved_step: int | None = None
    step_sizes: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    evaluation: Evaluation | None = None
    episodes: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    matrices: dict[str, PerformanceMatrix] = field(default_factory=dict)
    pictures: tuple[LoggedPicture, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def last_step(self) -> int | None:
        """The step at which it ends: of iterations or environment steps; None if it is not known."""
        total = self.settings.get("iterations", self.settings.get("total_steps"))
        return total if isinstance(total, int) else None

    @property
    def finished(self) -> bool | None:
        """Whether it is saved up to its last step, or stage; None if that is not known."""
        if self.kind == "incremental":
            # Stages end with rollouts, so that their steps do not tell.
            return any(
                bool(np.isfinite(each.scores[:, -1]).all()) for each in self.matrices.values()
            )
        if self.last_step is None:
            return None
        return self.saved_step is not None and self.saved_step >= self.last_step


class _Reader:
    """Reads the files of one run, and keeps what went wrong."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.problems: list[str] = []

    def attempt(self, read: Callable[[Path], T], name: str, default: T) -> T:
        """Return what `read` makes of the file or folder `name`, or `default` and a problem."""
        try:
            return read(self.directory / name)
        except MtrlError as error:
            if str(error) not in self.problems:
                self.problems.append(str(error))
            return default


def read_run(directory: Path, name: str) -> RunRecord:
    """Return everything that the files in `directory` tell."""
    reader = _Reader(directory)
    nothing: dict[str, Any] = {}
    manifest = reader.attempt(read_manifest, MANIFEST, nothing)
    settings = reader.attempt(_read_settings, CONFIG, nothing)
    kind = None if "kind" not in manifest else str(manifest["kind"])
    if settings and kind in ONLY_LEARNERS:
        settings = {**settings, "learner.kind": ONLY_LEARNERS[kind]}
    no_series: dict[str, Series] = {}
    no_episodes: dict[str, NDArray[np.float64]] = {}
    checkpoint = _newest(reader)
    pictures, complaints = newest_pictures(directory)
    reader.problems += complaints
    return RunRecord(
        directory=directory,
        name=name,
        kind=kind,
        settings=settings,
        sessions=_sessions(reader, manifest),
        metrics=reader.attempt(read_metrics, METRICS, no_series),
        timings=reader.attempt(read_metrics, TIMINGS, no_series),
        saved_step=None if checkpoint is None else checkpoint.step,
        step_sizes=_step_sizes(checkpoint, settings),
        evaluation=reader.attempt(read_evaluation, "", None),
        episodes=reader.attempt(read_episodes, "", no_episodes),
        matrices=_matrices(reader),
        pictures=tuple(pictures),
        problems=tuple(reader.problems),
    )


def _read_settings(path: Path) -> dict[str, Any]:
    with reporting("read", path):
        content = path.read_bytes()
    try:
        return _flat(tomllib.loads(content.decode()))
    except (ValueError, RecursionError) as error:
        raise MtrlError(f"{path} is damaged: {error}") from error


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _sessions(reader: _Reader, manifest: Mapping[str, Any]) -> tuple[LoggedSession, ...]:
    try:
        return tuple(
            LoggedSession(
                str(session["started"]),
                str(session["command"]),
                {str(name): str(version) for name, version in session["versions"].items()},
            )
            for session in manifest.get("sessions", ())
        )
    except (TypeError, KeyError, AttributeError):
        path = reader.directory / MANIFEST
        reader.problems.append(f"{path} is damaged: a session has no start, command or versions")
        return ()


def _newest(reader: _Reader) -> Checkpoint | None:
    store = CheckpointStore(reader.directory / CHECKPOINTS)
    if not store.steps():
        reader.problems.append("it has no checkpoint yet")
        return None
    newest = reader.attempt(lambda path: store.load(), CHECKPOINTS, None)
    if newest is not None:
        reader.problems += [
            f"{error}; the checkpoint of step {newest.step} is used" for error in store.rejected
        ]
    return newest


def _step_sizes(
    checkpoint: Checkpoint | None, settings: Mapping[str, Any]
) -> dict[str, NDArray[np.float64]]:
    if checkpoint is None:
        return {}
    stored = {
        name.removeprefix(STEP_SIZES): tensor.double().numpy()
        for name, tensor in checkpoint.tensors.items()
        if name.startswith(STEP_SIZES) and tensor.numel()
    }
    # Those that must stay positive are learned as logarithms.
    in_logarithm = settings.get("learner.positive") is True
    return {name: np.exp(value) if in_logarithm else value for name, value in stored.items()}


def _matrices(reader: _Reader) -> dict[str, PerformanceMatrix]:
    found = {}
    for path in sorted(reader.directory.glob("*.csv")):
        if _starts_as_matrix(path):
            matrix = reader.attempt(read_matrix, path.name, None)
            if matrix is not None:
                found[path.name] = matrix
    return found


def _starts_as_matrix(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(MATRIX_START)) == MATRIX_START
    except OSError:  # not a file, or not ours to read: whose it is was said before, if it matters
        return False
