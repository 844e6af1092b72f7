"""Films against what a GIF reader finds in them."""

import io

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from mtrl.errors import UsageError
from mtrl.films import Frames, gif_bytes, side_by_side, smaller, thinned


def film(length: int, height: int = 4, width: int = 6, first: int = 0) -> Frames:
    """Each frame has one grey level: its number."""
    levels = np.arange(first, first + length, dtype=np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (length, height, width, 3)).copy()


def test_a_gif_has_every_frame_for_its_time_and_repeats() -> None:
    frames = film(5) * 50
    read = Image.open(io.BytesIO(gif_bytes(frames, 20.0)))
    assert (read.n_frames, read.info["loop"]) == (5, 0)  # type: ignore[attr-defined]
    for number, frame in enumerate(frames):
        read.seek(number)
        assert read.info["duration"] == 50
        assert_array_equal(np.asarray(read.convert("RGB")), frame)


def test_thinning_keeps_both_ends_and_even_distances() -> None:
    assert_array_equal(thinned(film(101), 11)[:, 0, 0, 0], np.arange(0, 101, 10))
    assert_array_equal(thinned(film(7), 7), film(7))
    assert_array_equal(thinned(film(3), 9), film(3))


def test_a_smaller_film_is_the_mean_of_its_blocks() -> None:
    frames = np.random.default_rng(0).integers(256, size=(2, 4, 8, 3), dtype=np.uint8)
    means = frames.reshape(2, 2, 2, 4, 2, 3).mean((2, 4))
    assert np.abs(smaller(frames, 4).astype(float) - means).max() <= 1
    assert_array_equal(smaller(frames, 8), frames)


def test_a_film_that_is_over_shows_its_last_frame() -> None:
    joined = side_by_side([film(2, width=3), film(4, width=5, first=100)])
    assert joined.shape == (4, 4, 3 + 6 + 5, 3)
    assert_array_equal(joined[:, 0, 0, 0], [0, 1, 1, 1])
    assert_array_equal(joined[:, 0, -1, 0], [100, 101, 102, 103])
    assert (joined[:, :, 3:9] == 255).all()


def test_what_is_no_film_is_refused() -> None:
    with pytest.raises(UsageError, match="need one height, got 4, 5"):
        side_by_side([film(2), film(2, height=5)])
    with pytest.raises(UsageError, match="got no film"):
        side_by_side([])
    with pytest.raises(UsageError, match="fps is 60"):
        gif_bytes(film(2), 60)
    with pytest.raises(UsageError, match="at least 2 frames"):
        thinned(film(2), 1)
    with pytest.raises(UsageError, match="pictures are uint8"):
        gif_bytes(film(2).astype(np.float32), 10)  # type: ignore[arg-type]
