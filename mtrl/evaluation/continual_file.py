"""The file of a performance matrix: CSV, a row for each seed and stage, a column for each task.

    # performance matrix: 1 seeds, 2 stages
    seed,stage,learnt,reach,push
    0,0,,0.1,0.0
    0,1,reach,0.9,0.05
    0,2,push,0.4,

Stage 0 is the policy before any training. Scores are written by `repr`, which gives back every bit;
an empty cell was not measured. The first line says how many rows there are and the last one ends in
a newline, so that a file that was cut anywhere is refused.
"""

import csv
import io
import math
import re
from pathlib import Path

import numpy as np

from mtrl.durable import replace_file, reporting
from mtrl.errors import MtrlError
from mtrl.evaluation.continual import PerformanceMatrix

__all__ = ["read_matrix", "write_matrix"]

_TITLE = "# performance matrix: {} seeds, {} stages\n"
_TITLE_PATTERN = re.compile(r"# performance matrix: (\d+) seeds, (\d+) stages\n")
_LEADING = ["seed", "stage", "learnt"]


def write_matrix(path: Path | str, matrix: PerformanceMatrix) -> None:
    """Write the matrix; what was at `path` is replaced at once or stays as it was.

    Raises:
        MtrlError: the disk refuses.
    """
    text = io.StringIO()
    text.write(_TITLE.format(len(matrix.seeds), len(matrix.order)))
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_LEADING, *matrix.tasks])
    for seed, stages in zip(matrix.seeds, matrix.scores.tolist(), strict=True):
        for stage, (learnt, row) in enumerate(zip(("", *matrix.order), stages, strict=True)):
            cells = ["" if math.isnan(score) else repr(score) for score in row]
            writer.writerow([seed, stage, learnt, *cells])
    with reporting("write", Path(path)):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    replace_file(Path(path), text.getvalue().encode())


def read_matrix(path: Path | str) -> PerformanceMatrix:
    """Return the matrix that `write_matrix` wrote, bit for bit.

    Raises:
        MtrlError: the file is missing, cut or damaged; the message names it and the line.
    """
    with reporting("read", Path(path)):
        content = Path(path).read_bytes()
    try:
        return _parse(content.decode())
    except (ValueError, csv.Error) as error:
        raise MtrlError(f"{path} is not a performance matrix: {error}") from error


def _parse(text: str) -> PerformanceMatrix:
    title = _TITLE_PATTERN.match(text)
    if title is None:
        raise ValueError(f"line 1 must read {_TITLE.format('...', '...').strip()!r}")
    if not text.endswith("\n"):
        raise ValueError("its last row is cut")
    seeds, height = int(title[1]), int(title[2]) + 1
    table = csv.reader(io.StringIO(text[title.end() :], newline=""), strict=True)
    header, *rows = list(table) or [[]]
    if header[:3] != _LEADING:
        raise ValueError(f"line 2 must start with {','.join(_LEADING)}, got {','.join(header)!r}")
    if len(rows) != seeds * height:
        raise ValueError(f"it has {len(rows)} rows, and line 1 says {seeds} seeds of {height}")
    _check_rows(rows, height, len(header))
    scores = [[_score(cell, line) for cell in row[3:]] for line, row in enumerate(rows, start=3)]
    return PerformanceMatrix(
        tasks=tuple(header[3:]),
        order=tuple(row[2] for row in rows[1:height]),
        seeds=tuple(int(row[0]) for row in rows[::height]),
        scores=np.reshape(scores, (seeds, height, len(header) - 3)),
    )


def _check_rows(rows: list[list[str]], height: int, width: int) -> None:
    """Check that each row has all its cells, and each seed the same stages in the same order."""
    for index, row in enumerate(rows):
        line = index + 3
        if len(row) != width:
            raise ValueError(f"line {line} has {len(row)} cells, line 2 has {width}")
        if not row[0].isdecimal():
            raise ValueError(f"line {line} has the seed {row[0]!r}: it must be a whole number")
        block, stage = divmod(index, height)
        learnt = rows[stage][2] if stage else ""
        expected = [rows[block * height][0], str(stage), learnt]
        if row[:3] != expected:
            raise ValueError(
                f"line {line} must be seed {expected[0]}, stage {stage}, learnt {learnt!r}, "
                f"got {','.join(row[:3])!r}"
            )


def _score(cell: str, line: int) -> float:
    if not cell:
        return math.nan
    try:
        score = float(cell)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise ValueError(
            f"line {line} has the score {cell!r}: it must be a finite number, or empty where "
            "nothing was measured"
        )
    return score
