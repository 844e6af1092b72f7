"""Pictures in a run's TensorBoard event files: the newest of each tag."""

import logging
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mtrl.tracking import EVENT_FILES

__all__ = ["LoggedPicture", "newest_pictures"]

Format = Literal["png", "gif", "jpg"]
_STARTS: dict[bytes, Format] = {b"\x89PNG\r\n\x1a\n": "png", b"GIF8": "gif", b"\xff\xd8\xff": "jpg"}
# TensorBoard's reader takes 0 for "all", and keeps a random choice of anything less.
_ALL, _NEXT_TO_NONE = 0, 1


class LoggedPicture(NamedTuple):
    """A picture as it was logged: PNG, GIF or JPEG."""

    tag: str
    step: int
    content: bytes
    format: Format


def newest_pictures(directory: Path) -> tuple[list[LoggedPicture], list[str]]:
    """Return the newest picture of each tag, in order of the tags, and what could not be read.

    What a resumed run logged a second time is there once, as TensorBoard shows it.
    """
    if not any(directory.glob(f"{EVENT_FILES}*")):
        return [], ["it has no TensorBoard event file"]
    # Imported here: it takes seconds.
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sizes = dict.fromkeys(
        ("scalars", "histograms", "compressedHistograms", "tensors", "audio"), _NEXT_TO_NONE
    )
    events: Any = EventAccumulator(str(directory), size_guidance={**sizes, "images": _ALL})
    silent = _Silent()
    logger = logging.getLogger("tensorboard")
    logger.addFilter(silent)
    try:
        events.Reload()
    except Exception as error:  # noqa: BLE001  # whatever the file is, the rest is worth a report
        return [], [f"its TensorBoard event files cannot be read: {error}"]
    finally:
        logger.removeFilter(silent)
    pictures, problems = [], []
    for tag in sorted(events.Tags()["images"]):
        newest = events.Images(tag)[-1]
        content = newest.encoded_image_string
        kind = next((kind for start, kind in _STARTS.items() if content.startswith(start)), None)
        if kind is None:
            problems.append(f"the picture {tag} in its event files is neither PNG, GIF nor JPEG")
        else:
            pictures.append(LoggedPicture(tag, newest.step, content, kind))
    return pictures, problems


class _Silent(logging.Filter):
    """Keeps TensorBoard's remarks on the files, such as several in a directory, off the screen."""

    def filter(self, record: logging.LogRecord) -> bool:
        return False
