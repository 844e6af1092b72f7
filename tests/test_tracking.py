"""TensorBoard, read back from the event files; and the registry of tags."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from mtrl import tracking
from mtrl.errors import UsageError
from mtrl.tags import TAGS, Tag, find_tag, tags_markdown
from mtrl.tracking import Tracker

LOSS = "meta/train_loss"


def read(directory: Path) -> Any:
    events = EventAccumulator(str(directory), size_guidance={"images": 0, "tensors": 0})
    events.Reload()
    return events


def steps(directory: Path) -> list[int]:
    return [event.step for event in read(directory).Scalars(LOSS)]


def log_steps(directory: Path, first: int, last: int, purge_step: int | None = None) -> None:
    tracker = Tracker(directory, purge_step=purge_step)
    for step in range(first, last):
        tracker.scalars(step, {LOSS: float(step)})
    tracker.close()


def test_scalars_and_histograms_come_back(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path)
    tracker.scalars(3, {LOSS: 0.5, "adapt/return_after_2": -8.0})
    tracker.histogram(3, "step_sizes/layer0", torch.tensor([[-1.0, 1.0], [2.0, 2.0]]))
    tracker.close()
    events = read(tmp_path)
    assert [(event.step, event.value) for event in events.Scalars("adapt/return_after_2")] == [
        (3, -8)
    ]
    (histogram,) = events.Histograms("step_sizes/layer0")
    value = histogram.histogram_value
    assert (value.min, value.max, value.num, value.sum) == (-1, 2, 4, 4)


def test_after_a_resume_every_step_is_there_once(tmp_path: Path) -> None:
    log_steps(tmp_path, 0, 8)
    log_steps(tmp_path, 5, 12, purge_step=5)
    log_steps(tmp_path, 7, 9, purge_step=7)
    assert steps(tmp_path) == list(range(9))


def test_a_resume_from_scratch_hides_everything_before(tmp_path: Path) -> None:
    log_steps(tmp_path, 0, 8)
    log_steps(tmp_path, 0, 3, purge_step=0)
    assert steps(tmp_path) == [0, 1, 2]


def set_clock_back(directory: Path) -> None:
    """Rename the newest session's file as if it had been started far in the future."""
    (newest,) = directory.glob("events.out.tfevents.[1-9]*")
    newest.rename(directory / "events.out.tfevents.9999999999.host.1.0")


def test_a_clock_set_back_between_sessions_does_not_bring_the_old_tail_back(tmp_path: Path) -> None:
    log_steps(tmp_path, 0, 8)
    set_clock_back(tmp_path)
    log_steps(tmp_path, 5, 12, purge_step=5)
    set_clock_back(tmp_path)
    log_steps(tmp_path, 10, 13, purge_step=10)
    assert steps(tmp_path) == list(range(13))


def test_without_numbered_sessions_a_clock_set_back_loses_the_resumed_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "_number_earlier_sessions", lambda directory: None)
    log_steps(tmp_path, 0, 8)
    set_clock_back(tmp_path)
    log_steps(tmp_path, 5, 12, purge_step=5)
    assert steps(tmp_path) != list(range(12))


def test_hyperparameters_are_in_the_run_itself(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path)
    config = {"seed": 3, "hidden": [40, 40], "learner": {"kind": "maml", "first_order": True}}
    tracker.hparams(config, {LOSS: 0.5})
    tracker.close()
    assert [path for path in tmp_path.rglob("*") if path.is_dir()] == []
    content = read(tmp_path).PluginTagToContent("hparams")
    start = HParamsPluginData.FromString(content["_hparams_/session_start_info"])
    fields = start.session_start_info.hparams
    assert fields["seed"].number_value == 3
    assert fields["hidden"].string_value == "[40, 40]"
    assert fields["learner.kind"].string_value == "maml"
    assert fields["learner.first_order"].string_value == "true"
    experiment = HParamsPluginData.FromString(content["_hparams_/experiment"]).experiment
    assert [metric.name.tag for metric in experiment.metric_infos] == [LOSS]


def test_the_chart_layout_comes_back(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path)
    tracker.layout({"Adaptation": {"Return": [r"adapt/return_after_\d+"], "Loss": [LOSS]}})
    tracker.close()
    (event,) = read(tmp_path).Tensors("custom_scalars__config__")
    (category,) = Layout.FromString(event.tensor_proto.string_val[0]).category
    assert category.title == "Adaptation"
    assert [(chart.title, list(chart.multiline.tag)) for chart in category.chart] == [
        ("Return", [r"adapt/return_after_\d+"]),
        ("Loss", [LOSS]),
    ]


def test_a_picture_comes_back_pixel_for_pixel(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    tracker = Tracker(tmp_path)
    tracker.image(2, "trajectories/task0", picture)
    tracker.close()
    (event,) = read(tmp_path).Images("trajectories/task0")
    assert (event.step, event.height, event.width) == (2, 4, 6)
    assert_array_equal(np.asarray(Image.open(io.BytesIO(event.encoded_image_string))), picture)


def test_a_matplotlib_figure_becomes_a_picture(tmp_path: Path) -> None:
    figures = pytest.importorskip("matplotlib.figure")
    figure = figures.Figure(figsize=(2, 1), dpi=50)
    figure.add_subplot().plot([0, 1])
    tracker = Tracker(tmp_path)
    tracker.image(0, "figures/curve", figure)
    tracker.close()
    (event,) = read(tmp_path).Images("figures/curve")
    assert (event.width, event.height) == (100, 50)


def test_frames_become_an_animated_gif(tmp_path: Path) -> None:
    frames = np.zeros((3, 8, 10, 3), dtype=np.uint8)
    frames[1, :, :5] = 255
    frames[2, :, :, 0] = 255
    tracker = Tracker(tmp_path)
    tracker.animation(1, "videos/task0", frames, fps=10)
    tracker.close()
    (event,) = read(tmp_path).Images("videos/task0")
    gif: Any = Image.open(io.BytesIO(event.encoded_image_string))
    assert (gif.format, gif.n_frames, gif.size, gif.info["duration"]) == ("GIF", 3, (10, 8), 100)
    for index, frame in enumerate(frames):
        gif.seek(index)
        assert_allclose(np.asarray(gif.convert("RGB")), frame, atol=1)


@pytest.mark.parametrize(
    "picture", [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 1), np.uint8)]
)
def test_a_picture_of_another_form_is_refused(tmp_path: Path, picture: np.ndarray) -> None:
    tracker = Tracker(tmp_path)
    with pytest.raises(UsageError, match=r"pictures are uint8 \(height, width, 3\), got"):
        tracker.image(0, "figures/x", picture)
    tracker.close()


def test_a_tag_of_another_kind_is_refused(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path)
    with pytest.raises(
        UsageError, match="tag step_sizes/layer0 is for a histogram, and was given a scalar"
    ):
        tracker.scalars(0, {"step_sizes/layer0": 1.0})
    with pytest.raises(UsageError, match="is for a scalar, and was given a histogram"):
        tracker.histogram(0, LOSS, np.ones(2))
    tracker.close()


# The registry


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("meta/train_loss", "meta/train_loss"),
        ("adapt/return_after_10", "adapt/return_after_{k}"),
        ("step_sizes/body.0.weight", "step_sizes/{layer}"),
        ("step_sizes/body.0.weight/negative_share", "step_sizes/{layer}/negative_share"),
    ],
)
def test_a_pattern_stands_for_its_instances(name: str, pattern: str) -> None:
    assert [tag.pattern for tag in TAGS if tag.matches(name)] == [pattern]


@pytest.mark.parametrize(
    "name",
    [
        "adapt/return_after_x",
        "adapt/return_after_",
        "meta/train_loss2",
        "step_sizes/a/b",
        "metaXtrain_loss",
    ],
)
def test_what_is_not_registered_is_refused(name: str) -> None:
    assert [tag for tag in TAGS if tag.matches(name)] == []
    with pytest.raises(UsageError, match=f"unknown tag {name}"):
        find_tag(name)


def test_a_dot_in_a_pattern_is_a_dot() -> None:
    assert Tag(pattern="a.b/{x}", description="").matches("a.b/c")
    assert not Tag(pattern="a.b/{x}", description="").matches("aXb/c")


def test_tags_are_unique_and_described() -> None:
    assert len({tag.pattern for tag in TAGS}) == len(TAGS)
    for tag in TAGS:
        assert tag.description.endswith("."), tag.pattern
        assert tag.pattern.startswith(("time/", "benchmark/")) == tag.wall_clock, tag.pattern


def test_the_table_lists_every_tag() -> None:
    rows = tags_markdown().splitlines()
    assert rows[0].count("|") == rows[1].count("|") == 5
    assert [row.split("`")[1] for row in rows[2:]] == [tag.pattern for tag in TAGS]
    assert tags_markdown([Tag(pattern="a/b", description="C.", unit="m")]).splitlines()[2:] == [
        "| `a/b` | scalar | m | C. |"
    ]
