"""The trainings of `mtrl reproduce incremental`: run directories, and what is read from them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl.config import from_dict, to_dict
from mtrl.evaluation.continual import PerformanceMatrix, pooled
from mtrl.evaluation.continual_file import read_matrix
from mtrl.incremental.config import IncrementalConfig
from mtrl.incremental.curves import stage_areas, stage_curves
from mtrl.metrics import read_metrics
from mtrl.reproduce.carry_out import Place
from mtrl.reproduce.incremental.plan import (
    METHODS,
    TASKS,
    Scale,
    scratch_config,
    sequence_config,
)
from mtrl.reproduce.jobs import Finished, Job, carry_out_jobs
from mtrl.runs import MANIFEST, METRICS, Run

__all__ = ["Trained", "train", "train_and_read"]

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What all trainings gave.

    Attributes:
        matrices: by method, of all seeds.
        areas: by method (seeds, stages), mean heights of the learning curves.
        scratch: (seeds, tasks), the same of tasks learnt alone.
        alone: (seeds, tasks), scores of tasks learnt alone.
        seconds: of all trainings, one after another.
        trainings: how many processes there were.
        found: how many of them were found finished.
    """

    matrices: Mapping[str, PerformanceMatrix]
    areas: Mapping[str, Array]
    scratch: Array
    alone: Array
    seconds: float
    trainings: int
    found: int


def train(place: Place, scale: Scale, code: Mapping[str, str]) -> Trained:
    """Carry out what is not finished yet, and return what all of it gave.

    Raises:
        Interrupted: asked to stop by a signal; the same command goes on.
        MtrlError: a training failed; the message names it.
    """
    seeds = range(place.seed * scale.seeds, (place.seed + 1) * scale.seeds)
    methods = {
        (method, seed): _job(
            place, f"{method}, seed {seed}", [sequence_config(scale, method, seed)], code
        )
        for seed in seeds
        for method in METHODS
    }
    alone = {
        seed: _job(
            place,
            f"each task alone, seed {seed}",
            [scratch_config(scale, task, seed) for task in TASKS],
            code,
        )
        for seed in seeds
    }
    jobs = [*methods.values(), *alone.values()]
    found = sum(job.finished() is not None for job in jobs)
    carry_out_jobs(jobs, place.processes)
    runs = {key: _runs(job) for key, job in methods.items()}
    references = [_runs(job) for job in alone.values()]
    return Trained(
        matrices={m: _pooled([runs[m, s][0] for s in seeds]) for m in METHODS},
        areas={m: np.array([runs[m, s][0]["areas"] for s in seeds]) for m in METHODS},
        scratch=np.array([[each["areas"][0] for each in of_seed] for of_seed in references]),
        alone=np.array([[_own_score(each) for each in of_seed] for of_seed in references]),
        seconds=sum(_finished(job).seconds for job in jobs),
        trainings=len(jobs),
        found=found,
    )


def train_and_read(configs: list[dict[str, Any]], directory: str) -> list[dict[str, Any]]:
    """Train a run for each configuration, continuing what is there; return scores and areas.

    Args:
        configs: JSON values of `IncrementalConfig`.
        directory: the run directories are in it.
    """
    from mtrl.incremental.training import MATRIX, train_incremental

    read = []
    for number, values in enumerate(configs):
        place = Path(directory) / str(number)
        config = from_dict(IncrementalConfig, values)
        resume = (place / MANIFEST).exists()
        with Run.open(place, config=config, kind="incremental", resume=resume, keep=1) as run:
            train_incremental(config, run)
        matrix = read_matrix(place / MATRIX)
        curves = stage_curves(read_metrics(place / METRICS), matrix.order)
        read.append(
            {
                "seed": matrix.seeds[0],
                "tasks": list(matrix.tasks),
                "order": list(matrix.order),
                "scores": matrix.scores[0].tolist(),
                "areas": stage_areas(curves).tolist(),
            }
        )
    return read


def _job(place: Place, name: str, configs: list[IncrementalConfig], code: Mapping[str, str]) -> Job:
    stem = name.lower().replace(",", "").replace(" ", "-")
    job = Job(
        name=name,
        stem=stem,
        function="mtrl.reproduce.incremental.trainings:train_and_read",
        told={"configs": [to_dict(config) for config in configs]},
        folder=place.work / f"reproduce-{place.stem}",
        code=code,
    )
    # The run directories lie beside the file, named like it by settings and code.
    return replace(job, told={**job.told, "directory": str(job.file.with_suffix(""))})


def _finished(job: Job) -> Finished:
    finished = job.finished()
    assert finished is not None, "carry_out_jobs returns when all are finished"
    return finished


def _runs(job: Job) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = _finished(job).values
    return found


def _own_score(run: Mapping[str, Any]) -> float:
    """Return the score, of a run that learns one task, on that task."""
    return float(run["scores"][-1][run["tasks"].index(run["order"][0])])


def _pooled(runs: list[dict[str, Any]]) -> PerformanceMatrix:
    matrix = pooled(
        [
            PerformanceMatrix(
                tasks=tuple(each["tasks"]),
                order=tuple(each["order"]),
                seeds=(each["seed"],),
                scores=np.array([each["scores"]]),
            )
            for each in runs
        ]
    )
    assert matrix is not None, "agents of a method differ in their seed only"
    return matrix
