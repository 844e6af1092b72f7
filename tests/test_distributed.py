"""Meta-batches over two processes: the numbers of one process, one sum a step, one stop, a clear end."""

from pathlib import Path

import numpy as np
import pytest
import torch
from distributed_worker import ARGUMENTS, CHOSEN, META_STEPS, meta_steps
from safetensors.torch import load_file
from torch.testing import assert_close
from two_processes import ends, learned, start_two, train_alone, train_together

from mtrl.commands.train import parse_training, train
from mtrl.errors import UsageError
from mtrl.meta.distributed import Processes, join, processes_of
from mtrl.meta.kinds import KINDS
from mtrl.metrics import read_metrics

# Sums of a few dozen terms in another order, through eight steps of Adam.
DOUBLE = {"rtol": 1e-12, "atol": 1e-14}
SINGLE = {"rtol": 1e-4, "atol": 1e-6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where two processes have trained everything that is looked at here."""
    return train_together(tmp_path_factory.mktemp("together"), "everything", 5)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where one process has trained the same: `whole` and `chosen`."""
    place = tmp_path_factory.mktemp("alone")
    runs: dict[str, list[str]] = {"whole": [], "chosen": CHOSEN}
    return train_alone(
        place,
        [
            ["supervised", "--dir", str(place / name), *ARGUMENTS, *more]
            for name, more in runs.items()
        ],
    )


def test_two_processes_take_the_meta_steps_of_one_up_to_rounding(folder: Path) -> None:
    expected = meta_steps(Processes())
    for rank in (0, 1):
        found = load_file(folder / f"steps-{rank}.safetensors")
        found.pop("sums")
        assert found.keys() == expected.keys()
        assert_close(found, dict(expected), **DOUBLE)


def test_both_processes_hold_the_same_bits(folder: Path) -> None:
    first, second = (load_file(folder / f"steps-{rank}.safetensors") for rank in (0, 1))
    assert_close(first, second, rtol=0, atol=0)


def test_a_meta_step_is_one_sum_of_gradient_loss_and_the_wish_to_stop(folder: Path) -> None:
    found = load_file(folder / "steps-0.safetensors")
    sums = found.pop("sums").tolist()
    # Of the result, the loss is one number; what is added to the rest says who wants to stop.
    assert sums == [sum(value.numel() for value in found.values()) + 1] * META_STEPS


@pytest.mark.parametrize("name", ["whole", "chosen"])
def test_a_run_of_two_processes_is_that_of_one_up_to_rounding(
    name: str, folder: Path, alone: Path
) -> None:
    # With a curriculum too: both processes hear all errors and draw the same tasks.
    assert_close(learned(folder / name), learned(alone / name), **SINGLE)
    series, expected = (read_metrics(each / name / "metrics.csv") for each in (folder, alone))
    assert series.keys() == expected.keys()
    for tag, one in expected.items():
        assert series[tag].steps == one.steps
        np.testing.assert_allclose(
            series[tag].values, one.values, rtol=1e-4, atol=1e-6, err_msg=tag
        )


def test_a_signal_to_one_process_stops_both_and_they_resume_to_the_same_bits(folder: Path) -> None:
    for rank in (0, 1):
        assert (folder / f"codes-{rank}").read_text() == "0 143 0 0"
    assert_close(learned(folder / "stopped"), learned(folder / "whole"), rtol=0, atol=0)
    first, second = (folder / name / "metrics.csv" for name in ("stopped", "whole"))
    assert first.read_bytes() == second.read_bytes()


def test_one_process_records_the_run(folder: Path) -> None:
    assert len(list((folder / "whole").glob("events.out.tfevents.*"))) == 1
    assert len(list((folder / "stopped").glob("events.out.tfevents.*"))) == 2


def test_a_process_that_dies_ends_the_other_with_an_error(tmp_path: Path) -> None:
    (code, errors), (killed, _) = ends(start_two("die", tmp_path, 1))
    assert (code, killed) == (1, 9)
    last = errors.splitlines()[-1]
    assert last.startswith("mtrl: process 0 of 2 lost another one (")
    assert "mtrl train --resume" in last


def test_shares_cover_the_batch_once() -> None:
    tasks = list(range(12))
    shares = [tasks[Processes(rank, 3).share(12)] for rank in range(3)]
    assert shares == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_numbers_of_tasks_come_together_in_the_order_of_the_batch() -> None:
    numbers = torch.arange(12, dtype=torch.float64)
    each = [Processes(rank, 3) for rank in range(3)]
    sent = [one.placed(numbers[one.share(12)], 12) for one in each]
    # What `mean` makes of them.
    assert_close(torch.stack(sent).sum(0) / 3, numbers, rtol=0, atol=0)
    assert Processes().placed(numbers, 12) is numbers


def test_a_batch_that_does_not_divide_is_refused_with_both_numbers() -> None:
    with pytest.raises(UsageError, match="tasks_per_batch is 10 for 4 processes"):
        Processes(1, 4).share(10)


def test_alone_nothing_is_sent_and_no_bit_changes() -> None:
    values = {"x": torch.tensor([0.1, 0.2])}
    mean, stop = Processes().mean(values, stop=True)
    assert mean["x"] is values["x"] and stop
    Processes().wait()


def test_torchrun_says_which_process_this_is() -> None:
    assert processes_of({}) == Processes()
    given = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
    assert processes_of(given) == Processes(5, 8, 1)
    assert processes_of({"RANK": "1", "WORLD_SIZE": "2"}) == Processes(1, 2, 0)


@pytest.mark.parametrize(
    "change", [{"RANK": "8"}, {"WORLD_SIZE": "two"}, {"LOCAL_RANK": ""}, {"RANK": "-1"}]
)
def test_an_environment_without_sense_is_refused(change: dict[str, str]) -> None:
    given = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"} | change
    with pytest.raises(UsageError, match="start several processes with torchrun"):
        processes_of(given)


def test_one_gpu_for_several_processes_is_refused() -> None:
    with pytest.raises(UsageError, match="'cuda:0' for 2 processes; write 'cuda'"):
        join(Processes(0, 2), "cuda:0").__enter__()


def test_a_kind_that_does_not_split_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    kind = KINDS["recurrent"]
    options = parse_training(kind, ["--dir", str(tmp_path / "run")], "mtrl train recurrent")
    with pytest.raises(UsageError, match="2 processes, and `mtrl train recurrent` runs in one"):
        train(kind, options)
    assert not (tmp_path / "run").exists()
