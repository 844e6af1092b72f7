"""The trainings of `mtrl reproduce aqil`, each in a process of its own, two at a time or as many as there are cores.

A finished training is a file, whose name ends in a digest of settings and code: it is not repeated,
and other settings or other code start afresh beside it. An interrupted one begins anew; each takes
minutes.
"""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast, get_args

from mtrl.durable import replace_file, reporting
from mtrl.errors import MtrlError
from mtrl.interrupts import Interrupted, Interrupts
from mtrl.reproduce.aqil_training import AqilSettings, Part, Trained, train

__all__ = ["Job", "carry_out_jobs", "jobs_of"]

POLL_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """One training.

    Attributes:
        part: which one.
        seed: of all its random streams.
        settings: that decide it.
        folder: where its file goes.
        code: what identifies the code, so that no numbers of other code are reported as this one's.
    """

    part: Part
    seed: int
    settings: AqilSettings
    folder: Path
    code: Mapping[str, str]

    @property
    def name(self) -> str:
        """What progress and errors call it."""
        return f"{self.part}, seed {self.seed}"

    @property
    def file(self) -> Path:
        """What is written when it is finished."""
        content = json.dumps([asdict(self.settings), dict(self.code)], sort_keys=True)
        digest = hashlib.sha256(content.encode()).hexdigest()[:8]
        return self.folder / f"{self.part}-seed-{self.seed}-{digest}.json"

    @cached_property
    def request(self) -> str:
        """What the process that trains is told."""
        told = {"part": self.part, "seed": self.seed, "settings": asdict(self.settings)}
        return json.dumps(told | {"file": str(self.file)})

    def finished(self) -> tuple[dict[str, Trained], float] | None:
        """Return what each mode did and the seconds that it took, or None while it is not finished."""
        try:
            values = json.loads(self.file.read_bytes())
            made = {mode: Trained.from_json(each) for mode, each in values["modes"].items()}
            return made, float(values["seconds"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise MtrlError(
                f"{self.file}: damaged ({error!r}); delete it, and the training is repeated"
            ) from error


def jobs_of(
    settings: AqilSettings, seeds: Sequence[int], folder: Path, code: Mapping[str, str]
) -> list[Job]:
    """Return all trainings, the long ones first, so that no core idles at the end."""
    parts = sorted(get_args(Part), key=lambda part: part != "imitation")
    return [
        Job(part=part, seed=seed, settings=settings, folder=folder, code=code)
        for part in parts
        for seed in seeds
    ]


def carry_out_jobs(jobs: Sequence[Job], processes: int) -> None:
    """Carry out what is not finished of `jobs`, `processes` at a time.

    Raises:
        Interrupted: a signal asked to stop; what is finished is kept.
        MtrlError: a training failed; the message names it and its log.
    """
    waiting = deque(job for job in jobs if job.finished() is None)
    _say(f"{len(jobs) - len(waiting)} of {len(jobs)} trainings were finished before")
    running: dict[Job, subprocess.Popen[bytes]] = {}
    with Interrupts() as interrupts:
        try:
            while waiting or running:
                while waiting and len(running) < processes:
                    job = waiting.popleft()
                    running[job] = _started(job)
                time.sleep(POLL_SECONDS)
                for job in [job for job, process in running.items() if process.poll() is not None]:
                    with running.pop(job) as process:  # closes its standard input
                        code = process.wait()
                    _check(job, code)
                if interrupts.signal_number is not None:
                    raise Interrupted(
                        "stopped; the same command goes on with the trainings that are not finished",
                        interrupts.signal_number,
                    )
        finally:
            for process in running.values():
                with process:
                    process.kill()


def _started(job: Job) -> subprocess.Popen[bytes]:
    _say(f"{job.name}: started")
    # One thread each: these tensors are small, and the processes share the cores.
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    log = _log(job)
    with reporting("write", log):
        job.folder.mkdir(parents=True, exist_ok=True)
        with open(log, "wb") as errors:
            return subprocess.Popen(
                [sys.executable, "-m", "mtrl.reproduce.aqil_jobs", job.request],
                stdin=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **threads},
                # Ctrl-C in a terminal is for this process, which ends the others.
                start_new_session=True,
            )


def _check(job: Job, code: int) -> None:
    found = job.finished()
    if code != 0 or found is None:
        lines = _log(job).read_text(errors="replace").strip().splitlines() or ["it wrote no error"]
        raise MtrlError(f"{job.name} failed with exit code {code}: {lines[-1]}; see {_log(job)}")
    _log(job).unlink()
    _say(f"{job.name}: finished in {found[1]:.0f} s")


def _log(job: Job) -> Path:
    return job.file.with_suffix(".log")


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def main(request: str) -> None:
    """Train as `request` says, in the process that it was made for."""
    import torch

    # Standard input ends when the process that wants the training dies, and then so does this one.
    threading.Thread(target=_end_when_unwanted, daemon=True).start()
    torch.set_num_threads(1)
    told: dict[str, Any] = json.loads(request)
    given = told["settings"]
    pairs = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    settings, clock = AqilSettings(**given | pairs), time.monotonic()
    made = train(cast(Part, told["part"]), settings, int(told["seed"]))
    values = {
        "seconds": time.monotonic() - clock,
        "modes": {mode: each.to_json() for mode, each in made.items()},
    }
    replace_file(Path(told["file"]), json.dumps(values).encode())


def _end_when_unwanted() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
