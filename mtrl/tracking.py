"""TensorBoard: scalars, histograms, pictures, animations, hyperparameters and a chart layout.

After a resume the event files show each step once: TensorBoard hides what lies at or beyond
`purge_step`, provided that it reads the sessions in order. It orders files by a name made of clock
and process id, which a clock set back or a quick restart upsets; so earlier sessions' files are
renamed by sequence.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mtrl.films import check_frames, gif_bytes
from mtrl.tags import find_tag

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Tracker"]

EVENT_FILES = "events.out.tfevents."
EARLIER_SESSIONS = f"{EVENT_FILES}0000000000."
FLUSH_SECONDS = 20


class Tracker:
    """Writes TensorBoard events of one run into `directory`.

    Args:
        directory: the run's directory.
        purge_step: on resume, the first step whose earlier events are to be hidden.
    """

    def __init__(self, directory: Path | str, purge_step: int | None = None) -> None:
        # Imported here: it takes a second, which a command that logs nothing need not wait.
        from torch.utils.tensorboard import SummaryWriter

        _number_earlier_sessions(Path(directory))
        self._writer: Any = SummaryWriter(
            str(directory), purge_step=purge_step, flush_secs=FLUSH_SECONDS
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log one point on each tag's curve."""
        for tag, value in values.items():
            find_tag(tag)
            self._writer.add_scalar(tag, value, step)

    def histogram(self, step: int, tag: str, values: torch.Tensor | np.ndarray) -> None:
        """Log the distribution of `values`, of any shape."""
        find_tag(tag, "histogram")
        if isinstance(values, torch.Tensor):
            values = values.detach().cpu().numpy()
        self._writer.add_histogram(tag, np.asarray(values).ravel(), step)

    def image(self, step: int, tag: str, picture: "np.ndarray | Figure") -> None:
        """Log a picture: uint8 (height, width, 3), or a matplotlib figure."""
        find_tag(tag, "image")
        buffer = io.BytesIO()
        if isinstance(picture, np.ndarray):
            from PIL import Image

            Image.fromarray(check_frames(picture[None])[0]).save(buffer, format="PNG")
        else:
            picture.savefig(buffer, format="png")
        self._add_encoded(step, tag, buffer.getvalue())

    def animation(self, step: int, tag: str, frames: np.ndarray, fps: float = 20.0) -> None:
        """Log frames, uint8 (time, height, width, 3), as an animated GIF among the images."""
        find_tag(tag, "image")
        self._add_encoded(step, tag, gif_bytes(frames, fps))

    def hparams(self, config: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Log a run's settings for the HPARAMS table beside the scalars named in `metrics`.

        Nested tables become `table.field`; what is not a number becomes text. It goes into
        the run's own event file, so that no sub-run appears.
        """
        from torch.utils.tensorboard import summary

        make: Any = summary.hparams
        for part in make(_flat_settings(config), dict(metrics)):
            self._writer.file_writer.add_summary(part)

    def layout(self, charts: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
        """Log the CUSTOM SCALARS page: category -> chart title -> regexes for its tags."""
        self._writer.add_custom_scalars(
            {
                category: {title: ["Multiline", list(tags)] for title, tags in group.items()}
                for category, group in charts.items()
            }
        )

    def flush(self) -> None:
        """Hand all events to the operating system."""
        self._writer.flush()

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()

    def _add_encoded(self, step: int, tag: str, encoded: bytes) -> None:
        from PIL import Image
        from tensorboard.compat.proto.summary_pb2 import Summary

        width, height = Image.open(io.BytesIO(encoded)).size
        image = Summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=encoded
        )
        summary = Summary(value=[Summary.Value(tag=tag, image=image)])
        self._writer.file_writer.add_summary(summary, step)


def _number_earlier_sessions(directory: Path) -> None:
    names = sorted(path.name for path in directory.glob(f"{EVENT_FILES}*"))
    numbered = [name for name in names if name.startswith(EARLIER_SESSIONS)]
    clocked = [name for name in names if not name.startswith(EARLIER_SESSIONS)]
    for index, name in enumerate(clocked, start=len(numbered)):
        (directory / name).rename(directory / f"{EARLIER_SESSIONS}{index:06d}")


def _flat_settings(config: Mapping[str, Any], prefix: str = "") -> dict[str, int | float | str]:
    flat: dict[str, int | float | str] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flat_settings(value, f"{prefix}{name}.")
        elif isinstance(value, bool):
            # torch would store 1, which reads as a number in the table.
            flat[prefix + name] = str(value).lower()
        else:
            flat[prefix + name] = value if isinstance(value, int | float) else str(value)
    return flat
