"""Films of episodes as arrays of frames, uint8 (time, height, width, 3), and as animated GIFs."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl.errors import UsageError

__all__ = ["Frames", "check_frames", "gif_bytes", "side_by_side", "smaller", "thinned"]

Frames = NDArray[np.uint8]

_GAP = 6
"""White pixels between two films."""


def check_frames(frames: NDArray[Any]) -> Frames:
    """Return `frames`.

    Raises:
        UsageError: they are not uint8 (time, height, width, 3), or there are none.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise UsageError(
            f"pictures are uint8 (height, width, 3), got {frames.dtype} {frames.shape[1:]}, "
            f"{len(frames)} of them"
        )
    return frames


def thinned(frames: Frames, at_most: int) -> Frames:
    """Return `at_most` frames evenly spread over a film, its first and last among them."""
    if at_most < 2:
        raise UsageError(f"at_most is {at_most}; a film has at least 2 frames")
    if len(frames) <= at_most:
        return frames
    chosen = np.linspace(0, len(frames) - 1, at_most).round().astype(np.int64)
    return np.asarray(frames[chosen])


def smaller(frames: Frames, width: int) -> Frames:
    """Return the film at most `width` pixels wide, its proportions kept."""
    from PIL import Image

    _, rows, columns, _ = check_frames(frames).shape
    if columns <= width:
        return frames
    size = (width, max(1, round(rows * width / columns)))
    shrunk = [Image.fromarray(frame).resize(size, Image.Resampling.BOX) for frame in frames]
    return np.stack([np.asarray(picture) for picture in shrunk])


def side_by_side(films: Sequence[Frames]) -> Frames:
    """Return films in one, left to right; one that is over shows its last frame until all are.

    Raises:
        UsageError: none, or films of different heights.
    """
    if not films or len({film.shape[1] for film in films}) > 1:
        heights = ", ".join(str(film.shape[1]) for film in films)
        raise UsageError(f"films side by side need one height, got {heights or 'no film'}")
    length = max(map(len, films))
    gap = np.full((length, films[0].shape[1], _GAP, 3), 255, np.uint8)
    parts: list[Frames] = []
    for film in films:
        held = np.minimum(np.arange(length), len(film) - 1)
        parts += [gap, check_frames(film)[held]]
    return np.concatenate(parts[1:], axis=2)


def gif_bytes(frames: Frames, fps: float) -> bytes:
    """Return an animated GIF that repeats for ever.

    A GIF counts in hundredths of a second, and viewers slow down what is faster than 50 a second.
    """
    from PIL import Image

    if not 0 < fps <= 50:
        raise UsageError(f"fps is {fps}; a GIF shows more than 0 and at most 50 frames a second")
    first, *others = (Image.fromarray(frame) for frame in check_frames(frames))
    buffer = io.BytesIO()
    first.save(
        buffer, format="GIF", save_all=True, append_images=others, duration=1000 / fps, loop=0
    )
    return buffer.getvalue()
