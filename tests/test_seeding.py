"""Streams: named, independent of each other, the same in every process, and continued exactly."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from torch.testing import assert_close

from mtrl.checkpoint import CheckpointStore
from mtrl.seeding import Streams, numpy_generator, torch_generator


def draw(streams: Streams, name: str) -> tuple[np.ndarray, torch.Tensor]:
    return (
        streams.rng(name).random(5),
        torch.rand(5, generator=streams.generator(name), dtype=torch.float64),
    )


def assert_same(
    one: tuple[np.ndarray, torch.Tensor], other: tuple[np.ndarray, torch.Tensor]
) -> None:
    assert_array_equal(one[0], other[0])
    assert_close(one[1], other[1], rtol=0, atol=0)


def test_drawing_more_from_one_stream_or_asking_in_another_order_changes_no_other() -> None:
    plain, busy = Streams(3), Streams(3)
    first = draw(plain, "tasks")
    for _ in range(7):
        draw(busy, "evaluation")
    assert_same(draw(busy, "tasks"), first)


def test_a_name_is_one_stream_that_goes_on() -> None:
    streams = Streams(3)
    assert streams.rng("a") is streams.rng("a")
    assert streams.generator("a") is streams.generator("a")
    first, second = draw(streams, "a"), draw(streams, "a")
    assert not set(first[0]) & set(second[0])
    assert not set(first[1].tolist()) & set(second[1].tolist())


def test_names_seeds_and_libraries_give_different_numbers() -> None:
    values = [
        *draw(Streams(3), "a"),
        *draw(Streams(3), "b"),
        *draw(Streams(4), "a"),
    ]
    numbers = [float(number) for array in values for number in array]
    assert len(set(numbers)) == len(numbers)


SCRIPT = """
import torch
from mtrl.seeding import numpy_generator, torch_generator
print(numpy_generator(5, "x").integers(2**62), torch_generator(5, "x").initial_seed())
"""


def test_another_process_with_other_hashes_gives_the_same_numbers() -> None:
    here = f"{numpy_generator(5, 'x').integers(2**62)} {torch_generator(5, 'x').initial_seed()}"
    there = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={"PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.strip() == here


def test_numbers_do_not_change_between_releases() -> None:
    assert numpy_generator(0, "tasks").integers(2**31, size=2).tolist() == [1372105815, 2047301415]
    assert torch_generator(0, "tasks").initial_seed() == 661262892899684313


def test_a_restored_state_continues_bit_for_bit(tmp_path: Path) -> None:
    streams = Streams(11)
    for name in ("a", "b"):
        draw(streams, name)
    store = CheckpointStore(tmp_path)
    tensors, values = streams.state_dict()
    store.save(0, tensors, values)
    ahead = {name: draw(streams, name) for name in ("a", "b", "never asked before")}

    restored = Streams(0)
    checkpoint = store.load()
    restored.load_state_dict(checkpoint.tensors, checkpoint.state)
    assert restored.seed == 11
    for name in ("never asked before", "b", "a"):
        assert_same(draw(restored, name), ahead[name])


def test_a_saved_state_does_not_move_with_the_streams() -> None:
    streams = Streams(2)
    draw(streams, "a")
    tensors, values = streams.state_dict()
    ahead = draw(streams, "a")
    streams.load_state_dict(tensors, values)
    assert_same(draw(streams, "a"), ahead)


def test_a_stream_first_drawn_after_the_save_starts_afresh() -> None:
    streams = Streams(2)
    draw(streams, "a")
    saved = streams.state_dict()
    first = draw(streams, "b")
    streams.load_state_dict(*saved)
    assert_same(draw(streams, "b"), first)


def test_global_generators_are_neither_read_nor_moved() -> None:
    before = torch.get_rng_state()
    first = draw(Streams(1), "a")
    torch.rand(3)
    assert_same(draw(Streams(1), "a"), first)
    torch.set_rng_state(before)
    draw(Streams(1), "b")
    assert_close(torch.get_rng_state(), before)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="seed must not be negative, got -1"):
        Streams(-1)
