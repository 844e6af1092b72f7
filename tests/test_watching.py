"""What TensorBoard shows of a run, read back from its event files and from TensorBoard itself."""

import io
import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.testing import assert_close

from mtrl import figures
from mtrl.agents.balancing import PCGrad
from mtrl.checkpoint import CheckpointStore
from mtrl.envs.registry import get_family
from mtrl.envs.sinusoid import Sinusoid
from mtrl.evaluation.few_shot import FewShotProtocol, few_shot_errors
from mtrl.meta import watching
from mtrl.meta.agent import Transition
from mtrl.meta.few_shot import FewShotAdaptation
from mtrl.meta.maml import MAML
from mtrl.meta.meta_sgd import MetaSGD
from mtrl.meta.reinforcement import ReinforcementConfig, meta_train_reinforcement
from mtrl.meta.supervised import SupervisedConfig, meta_train_supervised
from mtrl.meta.watching import (
    PICTURED_TASKS,
    Trajectories,
    adaptation_picture,
    chart_layout,
    fits_picture,
    trajectories_picture,
)
from mtrl.metrics import read_metrics
from mtrl.multitask.algorithms import DQN, PPO, SAC
from mtrl.multitask.config import MultiTaskConfig, ObjectiveConfig
from mtrl.multitask.training import train_multitask
from mtrl.nets import MLP
from mtrl.runs import Run
from mtrl.seeding import numpy_generator, torch_generator
from mtrl.tags import TAGS

# torch scripts its own decompositions when the first derivative by a direction is taken.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

Config = SupervisedConfig | ReinforcementConfig

SUPERVISED = SupervisedConfig(
    hidden=(6,),
    tasks_per_batch=3,
    iterations=4,
    log_every=1,
    evaluate_every=2,
    test_tasks=5,
    test_steps=2,
)
REINFORCEMENT = ReinforcementConfig(
    hidden=(6,),
    family_options={"horizon": 8},
    tasks_per_batch=2,
    episodes_per_task=3,
    iterations=4,
    evaluate_every=2,
    test_tasks=5,
    test_steps=2,
)
SMALL = MultiTaskConfig(
    tasks=2, envs_per_task=1, log_every=100, evaluate_every=200, eval_episodes=1
)
WAITING = {"learning_starts": 100, "batch_size": 12, "steps_per_round": 90}
MULTITASK = (
    replace(
        SMALL,
        algorithm=PPO(n_steps=32, batch_size=32, n_epochs=1),
        balancer=PCGrad(),
        objective=ObjectiveConfig(objective="worst-return"),
        total_steps=400,
    ),
    replace(SMALL, algorithm=DQN(**WAITING), total_steps=400),
    replace(SMALL, family="pendulum", algorithm=SAC(**WAITING), total_steps=600),
)
BOTH = pytest.mark.parametrize("name", ["supervised", "rl"])


def train(directory: Path, config: Config, resume: bool = False) -> None:
    with Run.open(directory, config=config, kind="meta", resume=resume) as run:
        if isinstance(config, SupervisedConfig):
            meta_train_supervised(config, run)
        else:
            meta_train_reinforcement(config, run)


def read(directory: Path) -> Any:
    guidance = dict.fromkeys(("scalars", "images", "histograms", "tensors"), 0)
    events = EventAccumulator(str(directory), size_guidance=guidance)
    events.Reload()
    return events


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of one run of each loop."""
    pytest.importorskip("matplotlib")
    root = tmp_path_factory.mktemp("runs")
    train(root / "supervised", SUPERVISED)
    train(root / "rl", REINFORCEMENT)
    return root


def picture(event: Any) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(event.encoded_image_string)).convert("RGB"))


# Read back from the event files


@BOTH
def test_curves_of_tensorboard_and_the_metrics_file_are_the_same(runs: Path, name: str) -> None:
    events, scalars = read(runs / name), set[str]()
    for file in ("metrics.csv", "timings.csv"):
        for tag, series in read_metrics(runs / name / file).items():
            shown = events.Scalars(tag)
            assert [event.step for event in shown] == series.steps
            assert_allclose([event.value for event in shown], series.values, rtol=1e-6)
            scalars.add(tag)
    assert set(events.Tags()["scalars"]) == scalars


def test_every_declared_tag_is_logged_by_one_of_the_loops(runs: Path, tmp_path: Path) -> None:
    directories = [runs / "supervised", runs / "rl"]
    for index, config in enumerate(MULTITASK):
        directories.append(tmp_path / str(index))
        with Run.open(directories[-1], config=config, kind="multitask") as run:
            train_multitask(config, run)
    logged = [
        tag
        for directory in directories
        for kind in ("scalars", "images", "histograms")
        for tag in read(directory).Tags()[kind]
    ]
    silent = {tag.pattern for tag in TAGS if not any(map(tag.matches, logged))}
    # Episodes as animations belong to families that render, successes to those that report them.
    # Those of other kinds of run are logged in the tests of theirs.
    others = ("q_imitation/", "incremental/", "curriculum/", "context/", "benchmark/")
    recurrent = {"outer/value_loss", "outer/entropy", "outer/clip_share"}
    assert {pattern for pattern in silent - recurrent if not pattern.startswith(others)} == {
        "videos/{name}",
        "multitask/success/{task}",
        "eval/success/{task}",
    }


@BOTH
def test_the_adaptation_curve_has_a_tag_for_each_k_at_each_evaluation(
    runs: Path, name: str
) -> None:
    metrics = read_metrics(runs / name / "metrics.csv")
    score = {"supervised": "error", "rl": "return"}[name]
    assert {tag for tag in metrics if tag.startswith("adapt/")} == {
        f"adapt/{score}_after_{k}" for k in range(3)
    }
    for k in range(3):
        assert metrics[f"adapt/{score}_after_{k}"].steps == [2, 4]


@BOTH
def test_step_sizes_are_those_of_the_checkpoint(runs: Path, name: str) -> None:
    events = read(runs / name)
    stored = CheckpointStore(runs / name / "checkpoints").load().tensors
    layers = [key for key in stored if key.startswith("meta/step_sizes.")]
    assert len(layers) >= 4
    for key in layers:
        tag = key.replace("meta/step_sizes.", "step_sizes/")
        alpha = stored[key].double().numpy()
        last = {field: events.Scalars(f"{tag}/{field}")[-1] for field in ("mean", "negative_share")}
        assert {event.step for event in last.values()} == {4}
        assert_allclose(last["mean"].value, alpha.mean(), rtol=1e-5, atol=1e-7)
        assert_allclose(last["negative_share"].value, (alpha < 0).mean(), rtol=1e-6)
        histogram = events.Histograms(tag)[-1].histogram_value
        assert histogram.num == alpha.size
        assert_allclose((histogram.min, histogram.max), (alpha.min(), alpha.max()), rtol=1e-6)


def test_step_sizes_learned_as_logarithms_are_shown_as_what_they_are(tmp_path: Path) -> None:
    learner = MetaSGD(positive=True, granularity="scalar", initial_step_size=(0.05, 0.05))
    train(tmp_path, replace(SUPERVISED, learner=learner, iterations=1))
    metrics = read_metrics(tmp_path / "metrics.csv")
    # One step of Adam moves the logarithm by its learning rate of 0.001.
    assert_allclose(metrics["step_sizes/all/mean"].values, [0.05], rtol=2e-3)
    assert metrics["step_sizes/all/negative_share"].values == [0.0]


@BOTH
def test_pictures_are_there_once_per_evaluation_and_show_something(runs: Path, name: str) -> None:
    events = read(runs / name)
    other = {"supervised": "figures/held_out_fits", "rl": "trajectories/held_out"}[name]
    assert set(events.Tags()["images"]) == {"figures/adaptation_curve", other}
    for tag in events.Tags()["images"]:
        shown = events.Images(tag)
        assert [event.step for event in shown] == [2, 4]
        pixels = picture(shown[-1])
        assert pixels.shape == (shown[-1].height, shown[-1].width, 3)
        # The colour of what adapts, on white.
        blue = (np.abs(pixels.astype(int) - (0x00, 0x72, 0xB2)).max(-1) < 8).sum()
        assert blue > 50
        assert (pixels == 255).all(-1).mean() > 0.3


@BOTH
def test_drawing_time_is_recorded_beside_what_depends_on_the_machine(runs: Path, name: str) -> None:
    seconds = read_metrics(runs / name / "timings.csv")["time/picture_seconds"]
    assert seconds.steps == [2, 4]
    assert min(seconds.values) > 0


@BOTH
def test_every_chart_of_the_layout_finds_curves_and_the_adaptation_chart_all_k(
    runs: Path, name: str
) -> None:
    events = read(runs / name)
    (event,) = events.Tensors("custom_scalars__config__")
    layout = Layout.FromString(event.tensor_proto.string_val[0])
    assert [category.title for category in layout.category] == [
        "Adaptation",
        "Step sizes",
        "Outer update",
        "Speed",
    ]
    for category in layout.category:
        for chart in category.chart:
            assert matching(events, chart), chart.title
    held_out = layout.category[0].chart[0]
    assert len(matching(events, held_out)) == 3
    if name == "rl":
        assert matching(events, layout.category[0].chart[1]) == [
            "meta/pre_adapt_return",
            "meta/post_adapt_return",
        ]


def matching(events: Any, chart: Any) -> list[str]:
    return [
        tag
        for pattern in chart.multiline.tag
        for tag in events.Tags()["scalars"]
        if re.match(pattern, tag)
    ]


def test_a_learner_without_step_sizes_has_no_charts_and_no_histograms_of_them(
    tmp_path: Path,
) -> None:
    train(tmp_path, replace(SUPERVISED, learner=MAML(), iterations=1))
    events = read(tmp_path)
    (event,) = events.Tensors("custom_scalars__config__")
    titles = [c.title for c in Layout.FromString(event.tensor_proto.string_val[0]).category]
    assert titles == ["Adaptation", "Outer update", "Speed"]
    assert events.Tags()["histograms"] == []
    assert "Step sizes" in chart_layout("error", step_sizes=True)


@BOTH
def test_hyperparameters_are_those_that_a_resume_cannot_change(runs: Path, name: str) -> None:
    content = read(runs / name).PluginTagToContent("hparams")
    start = HParamsPluginData.FromString(content["_hparams_/session_start_info"])
    settings = start.session_start_info.hparams
    assert settings["tasks_per_batch"].number_value == {"supervised": 3, "rl": 2}[name]
    assert settings["learner.kind"].string_value == "meta-sgd"
    assert not {"iterations", "device", "checkpoint_every"} & set(settings)
    experiment = HParamsPluginData.FromString(content["_hparams_/experiment"]).experiment
    metrics = {info.name.tag for info in experiment.metric_infos}
    assert metrics == {tag for tag in read(runs / name).Tags()["scalars"] if "adapt/" in tag[:6]}


def events_with(directory: Path, tag: str) -> int:
    """Count the records of `tag` over all event files, purged ones included."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    return sum(
        value.tag == tag
        for file in directory.glob("events.out.tfevents.*")
        for event in LegacyEventFileLoader(str(file)).Load()
        for value in event.summary.value
    )


@BOTH
def test_resuming_a_finished_run_writes_layout_and_hyperparameters_no_second_time(
    runs: Path, name: str
) -> None:
    config = {"supervised": SUPERVISED, "rl": REINFORCEMENT}[name]
    train(runs / name, config, resume=True)
    for tag in ("custom_scalars__config__", "_hparams_/session_start_info"):
        assert events_with(runs / name, tag) == 1


# Pictures


def test_a_run_without_matplotlib_is_bit_equal_and_says_once_what_to_install(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watching, "find_spec", lambda name: None)
    train(tmp_path, REINFORCEMENT)
    assert read(tmp_path).Tags()["images"] == []
    (record,) = caplog.records
    assert record.getMessage() == (
        'TensorBoard gets no pictures, which need matplotlib: pip install "mtrl-suite[plot]"'
    )
    names = ["metrics.csv", *(f"checkpoints/{4:012d}/{n}" for n in CHECKPOINT_FILES)]
    for name in names:
        assert (tmp_path / name).read_bytes() == (runs / "rl" / name).read_bytes()
    assert "picture" not in (tmp_path / "timings.csv").read_text()


CHECKPOINT_FILES = ("tensors.safetensors", "state.json")


def test_positions_are_kept_from_the_start_to_the_end_of_the_first_episode() -> None:
    seen = Trajectories(last_round=2)
    # Two tasks, two episodes; the first task's first episode ends at its second step.
    running = torch.tensor([[[1, 1], [1, 1]], [[1, 1], [1, 1]], [[0, 1], [1, 1]]]).float()
    for number in range(3):
        for step in range(3):
            position = 100.0 * number + torch.arange(8.0).reshape(2, 2, 2)
            seen(
                number, transition(position + 10 * step, position + 10 * (step + 1), running[step])
            )
    nan = [np.nan, np.nan]
    assert_array_equal(
        seen.before(),
        [[[0, 1], [10, 11], [20, 21], nan], [[4, 5], [14, 15], [24, 25], [34, 35]]],
    )
    assert_array_equal(seen.after()[1], seen.before()[1] + 200)


def transition(now: torch.Tensor, following: torch.Tensor, running: torch.Tensor) -> Transition:
    zeros = torch.zeros_like(running)
    return Transition(now, now, zeros, running, zeros, following)


def test_only_navigation_has_paths_to_a_goal() -> None:
    family = get_family("navigation2d")
    tasks = family.sample(6, numpy_generator(0, "x"), "test")
    assert list(trajectories_picture(family, tasks, Trajectories(1), 3)) == [
        "trajectories/held_out"
    ]
    assert trajectories_picture(get_family("sinusoid"), tasks, Trajectories(1), 3) == {}


def test_fits_are_the_task_and_the_predictions_and_use_only_the_generator_they_are_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[figures.FewShotFit] = []
    monkeypatch.setattr(figures, "few_shot_fits", lambda fits, **options: drawn.extend(fits))
    family = Sinusoid(min_frequency=0.8, max_frequency=1.2)
    how = FewShotAdaptation(MLP((1, 8, 1)), MAML(step_size=0.05))
    meta = how.initial(torch_generator(0, "initial"))
    tasks = family.sample(6, numpy_generator(0, "tasks"), "test")
    protocol = FewShotProtocol(shots=7, query_shots=watching.CURVE_POINTS, steps=2)
    (draw,) = fits_picture(
        how, meta, family, tasks, protocol, torch_generator(0, "pictures")
    ).values()
    before = torch.get_rng_state()
    draw()
    assert_close(torch.get_rng_state(), before)
    assert len(drawn) == PICTURED_TASKS
    errors = few_shot_errors(
        how, meta, family, tasks[:PICTURED_TASKS], protocol, torch_generator(0, "pictures")
    )
    for task, fit, error in zip(tasks, drawn, errors, strict=False):
        x, truth = np.asarray(fit.x), np.asarray(fit.truth)
        assert (np.diff(x) >= 0).all()
        p = task.params
        wave = p["amplitude"] * np.sin(p["frequency"] * x + p["phase"])
        assert_allclose(truth, wave, atol=1e-5)
        for predicted, expected in ((fit.before, error[0]), (fit.after, error[-1])):
            assert_allclose(np.square(np.asarray(predicted) - truth).mean(), expected, rtol=1e-4)
        assert np.asarray(fit.support_x).shape == (7,)


@dataclass(frozen=True, kw_only=True)
class WideSinusoid(Sinusoid):
    output_size: ClassVar[int] = 2


def test_tasks_that_are_no_curves_are_not_drawn() -> None:
    how = FewShotAdaptation(MLP((1, 4, 2)), MAML())
    meta = how.initial(torch_generator(0, "initial"))
    family, generator = WideSinusoid(), torch_generator(0, "pictures")
    assert fits_picture(how, meta, family, [], FewShotProtocol(shots=5), generator) == {}


def test_the_adaptation_picture_draws_means_and_normal_intervals() -> None:
    scores = np.array([[0.0, 2.0], [2.0, 6.0], [4.0, 10.0]])
    axes = adaptation_picture("X", "return", scores, 1200)().axes[0]
    assert_allclose(axes.lines[0].get_ydata(), [2.0, 6.0])
    # Standard deviations of 2 and 4 over three tasks.
    half = 1.959964 * np.array([2.0, 4.0]) / np.sqrt(3)
    low, high = axes.collections[0].get_datalim(axes.transData).intervaly
    assert_allclose((low, high), (min([2, 6] - half), max([2, 6] + half)), rtol=1e-6)
    assert axes.get_ylabel() == "return on 3 held-out tasks"
    assert axes.get_title() == "after 1,200 meta-iterations"


# TensorBoard itself


@pytest.fixture(scope="module")
def address(runs: Path) -> Iterator[str]:
    """Serve the runs with TensorBoard on the loopback address; return where."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(runs)]
    options = ["--host", "127.0.0.1", "--port", "0", "--load_fast", "false"]
    server = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        found = None
        while found is None:
            line = server.stderr.readline()
            assert line, f"TensorBoard ended with {server.wait()}"
            found = re.search(r"http://127\.0\.0\.1:\d+/", line)
        yield f"{found[0]}data/"
    finally:
        server.terminate()
        server.communicate()


def get(url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as response:
        content = response.read()
        json_like = response.headers["Content-Type"].startswith("application/json")
        return json.loads(content) if json_like else content


def test_tensorboard_serves_curves_charts_pictures_and_hyperparameters(
    runs: Path, address: str
) -> None:
    deadline = time.monotonic() + 60
    while len(get(f"{address}runs")) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    scalars = get(f"{address}plugin/scalars/tags")
    assert {"adapt/return_after_2", "meta/post_adapt_return"} <= set(scalars["rl"])
    assert {"adapt/error_after_2", "outer/learning_rate"} <= set(scalars["supervised"])
    assert "step_sizes/log_std" in get(f"{address}plugin/histograms/tags")["rl"]

    layout = get(f"{address}plugin/custom_scalars/layout")
    charts = {
        chart["title"]: chart for category in layout["category"] for chart in category["chart"]
    }
    (pattern,) = charts["Held-out tasks: return after k steps"]["multiline"]["tag"]
    query = f"plugin/custom_scalars/scalars?run=rl&tag={urllib.request.quote(pattern)}"
    curves = get(f"{address}{query}")["tag_to_events"]
    assert {tag: [step for _, step, _ in points] for tag, points in curves.items()} == {
        f"adapt/return_after_{k}": [2, 4] for k in range(3)
    }

    assert "trajectories/held_out" in get(f"{address}plugin/images/tags")["rl"]
    query = "plugin/images/images?run=rl&tag=trajectories%2Fheld_out&sample=0"
    newest = get(f"{address}{query}")[-1]
    written = read(runs / "rl").Images("trajectories/held_out")[-1]
    assert newest["step"] == written.step
    png = get(f"{address}plugin/images/individualImage?{newest['query']}")
    assert png == written.encoded_image_string

    experiment = get(f"{address}plugin/hparams/experiment", {"experimentName": ""})
    assert "learner.kind" in {info["name"] for info in experiment["hparamInfos"]}
    request = {"experimentName": "", "allowedStatuses": ["STATUS_SUCCESS"], "startIndex": 0}
    groups = get(
        f"{address}plugin/hparams/session_groups",
        request | {"sliceSize": 10, "colParams": [{"metric": {"tag": "adapt/return_after_2"}}]},
    )["sessionGroups"]
    assert {group["name"]: group["hparams"]["family"] for group in groups} == {
        "rl": "navigation2d",
        "supervised": "sinusoid",
    }
