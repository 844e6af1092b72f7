"""Trainings in processes of their own: what names their files, what is repeated, and how they fail and end."""

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from mtrl.errors import MtrlError
from mtrl.reproduce.jobs import Job, carry_out_jobs
from mtrl.side_by_side import work_alone


def job(folder: Path, **changes: Any) -> Job:
    given: dict[str, Any] = {
        "name": "reading, seed 3",
        "stem": "reading-seed-3",
        "function": "json:loads",
        "told": {"s": "[1, 2]"},
        "code": {},
    }
    return Job(folder=folder, **given | changes)


def test_function_arguments_and_code_name_the_file(tmp_path: Path) -> None:
    files = {
        job(tmp_path).file,
        job(tmp_path, function="json:dumps").file,
        job(tmp_path, told={"s": "[1, 3]"}).file,
        job(tmp_path, code={"commit": "other"}).file,
    }
    assert len(files) == 4
    assert job(tmp_path, name="called otherwise").file in files
    assert all(file.name.startswith("reading-seed-3-") for file in files)


def test_a_training_is_the_function_of_what_it_is_told(tmp_path: Path) -> None:
    one, other = job(tmp_path), job(tmp_path, told={"s": "{}"})
    assert one.finished() is None
    carry_out_jobs([one, other], 2)
    found = [each.finished() for each in (one, other)]
    assert [each.values for each in found if each is not None] == [[1, 2], {}]
    assert sorted(tmp_path.iterdir()) == sorted([one.file, other.file])


def test_a_finished_training_is_read_and_not_repeated(tmp_path: Path) -> None:
    one = job(tmp_path, function="no_such_module:train")
    one.file.write_text(json.dumps({"seconds": 3.0, "values": [0.5]}))
    carry_out_jobs([one], 1)
    found = one.finished()
    assert found is not None
    assert (found.values, found.seconds) == ([0.5], 3.0)


@pytest.mark.parametrize("content", ["{", "[]", '{"seconds": 1.0}'])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    one = job(tmp_path)
    one.file.write_text(content)
    with pytest.raises(MtrlError, match=f"{one.file}: damaged"):
        one.finished()


def test_a_failed_training_is_reported_by_name_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(MtrlError, match=r"reading, seed 3 failed with exit code 1: .*Expecting"):
        carry_out_jobs([job(tmp_path, told={"s": "{"})], 1)


def test_a_training_ends_when_nobody_wants_it_any_more(tmp_path: Path) -> None:
    endless = job(tmp_path, function="subprocess:call", told={"args": ["sleep", "40"]})
    context = multiprocessing.get_context("forkserver")
    wanted, held = context.Pipe(duplex=False)
    process = context.Process(target=work_alone, args=(endless, wanted))
    process.start()
    held.close()
    process.join(35)
    assert process.exitcode not in (0, None)
    assert endless.finished() is None
