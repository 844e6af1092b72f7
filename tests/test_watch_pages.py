"""`mtrl watch` over HTTP, and that docs/tensorboard.md says what it shows."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mtrl.incremental.watching import CHARTS as INCREMENTAL_CHARTS
from mtrl.meta.kinds import KINDS
from mtrl.meta.pearl.training import CHARTS as PEARL_CHARTS
from mtrl.meta.recurrent.training import CHARTS as RECURRENT_CHARTS
from mtrl.meta.reinforcement import ReinforcementConfig, meta_train_reinforcement
from mtrl.meta.supervised import SupervisedConfig, meta_train_supervised
from mtrl.meta.watching import Charts, chart_layout
from mtrl.metrics import read_metrics
from mtrl.multitask.watching import charts as multitask_charts
from mtrl.reproduce.aqil_watching import CHARTS as Q_IMITATION_CHARTS
from mtrl.runs import Run
from mtrl.tags import TAGS, tags_markdown

# torch scripts its own decompositions when the first derivative by a direction is taken.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "tensorboard.md").read_text()
LAYOUTS: dict[str, Charts] = {
    "supervised": chart_layout("error", step_sizes=True),
    "rl": chart_layout("return", step_sizes=True),
    "recurrent": RECURRENT_CHARTS,
    "pearl": PEARL_CHARTS,
    "multitask": multitask_charts(curriculum=True),
    "incremental": INCREMENTAL_CHARTS,
}
SCRIPTS: dict[str, Charts] = {"q-imitation": Q_IMITATION_CHARTS}
"""Layouts of kinds of run that a script makes and no command."""
SUPERVISED = SupervisedConfig(
    hidden=(6,), tasks_per_batch=3, iterations=4, log_every=1, evaluate_every=2, test_tasks=4
)
REINFORCEMENT = ReinforcementConfig(
    hidden=(6,),
    family_options={"horizon": 8},
    tasks_per_batch=2,
    episodes_per_task=3,
    iterations=3,
    evaluate_every=3,
    test_tasks=4,
)


def train(directory: Path, config: SupervisedConfig, *, resume: bool = False) -> None:
    with Run.open(directory, config=config, kind="supervised", resume=resume) as run:
        meta_train_supervised(config, run)


# The page


def section(title: str) -> str:
    (found,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


def table(text: str) -> list[list[str]]:
    """Return the cells of the table in a text, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_the_table_of_tags_is_the_registry_and_nothing_more() -> None:
    assert tags_markdown() in section("Tags")
    assert [row[0] for row in table(section("Tags"))] == [f"`{tag.pattern}`" for tag in TAGS]


def test_every_chart_of_every_kind_is_on_the_page_and_no_other() -> None:
    assert set(LAYOUTS) == set(KINDS), "describe the new kind's pages in docs/tensorboard.md"
    expected = [
        [f"`{kind}`", category, title, ", ".join(f"`{tag}`" for tag in tags).replace("|", r"\|")]
        for kind, layout in (LAYOUTS | SCRIPTS).items()
        for category, charts in layout.items()
        for title, tags in charts.items()
    ]
    assert table(section("Charts")) == expected


def test_the_pages_have_a_column_for_every_kind() -> None:
    head = section("Pages by kind of run").strip().splitlines()[0]
    assert re.findall(r"`([\w-]+)`", head) == list(KINDS)


# `mtrl watch`


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a resumed run of each learning rate and a run of navigation."""
    pytest.importorskip("matplotlib")
    root = tmp_path_factory.mktemp("watched")
    train(root / "sine" / "quick", replace(SUPERVISED, iterations=2))
    train(root / "sine" / "quick", SUPERVISED, resume=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mtrl.meta.watching.Pictures.draw", lambda *arguments: None)
        train(root / "sine" / "slow", replace(SUPERVISED, learning_rate=1e-4))
    with Run.open(root / "nav", config=REINFORCEMENT, kind="rl") as run:
        meta_train_reinforcement(REINFORCEMENT, run)
    return root


def watched(directory: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "mtrl", "watch", str(directory), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class Board:
    """A running TensorBoard."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert found is not None, line
        self._address = f"{found[0]}data/"

    def raw(self, path: str, body: dict[str, Any] | None = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self._address}{path}", data, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            content = answer.read()
        return bytes(content)

    def get(self, path: str, body: dict[str, Any] | None = None) -> Any:
        return json.loads(self.raw(path, body))

    def wait(self, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not ready():
            assert time.monotonic() < deadline, f"there are only {self.get('runs')}"
            time.sleep(0.2)


@pytest.fixture(scope="module")
def board(runs: Path) -> Iterator[Board]:
    with watched(runs) as process:
        try:
            serving = Board(process)
            serving.wait(lambda: len(serving.get("runs")) == 3)
            serving.wait(lambda: len(serving.get("plugin/scalars/tags")) == 3)
            yield serving
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()


def test_runs_are_named_by_their_directories(board: Board) -> None:
    assert sorted(board.get("runs")) == ["nav", "sine/quick", "sine/slow"]


def test_the_pages_that_are_documented_have_something_to_show(board: Board) -> None:
    active = {name for name, entry in board.get("plugins_listing").items() if entry["enabled"]}
    pages = [cell for row in table(section("Pages by kind of run")) for cell in row[0].split(", ")]
    named = {page.lower().replace("time series", "timeseries").replace(" ", "_") for page in pages}
    assert named == active - {"text", "mesh"}


def test_every_logged_scalar_is_served_and_declared(runs: Path, board: Board) -> None:
    served = board.get("plugin/scalars/tags")
    for run, tags in served.items():
        logged = {
            tag
            for file in ("metrics.csv", "timings.csv")
            for tag in read_metrics(runs / run / file)
        }
        assert set(tags) == logged
        for tag in tags:
            assert any(entry.kind == "scalar" and entry.matches(tag) for entry in TAGS), tag


def test_a_resumed_run_shows_each_step_once_and_the_values_of_its_file(
    runs: Path, board: Board
) -> None:
    tag = "meta/train_loss"
    query = urllib.parse.urlencode({"run": "sine/quick", "tag": tag})
    points = board.get(f"plugin/scalars/scalars?{query}")
    series = read_metrics(runs / "sine" / "quick" / "metrics.csv")[tag]
    assert [step for _, step, _ in points] == series.steps == [1, 2, 3, 4]
    assert [value for _, _, value in points] == pytest.approx(series.values, rel=1e-6)


def test_images_are_those_that_the_page_names(board: Board) -> None:
    images = board.get("plugin/images/tags")
    (row,) = (row for row in table(section("Pages by kind of run")) if row[0] == "IMAGES")
    supervised, reinforcement, *_ = (set(re.findall(r"`(\w+/\w+)`", cell)) for cell in row[1:])
    assert set(images["sine/quick"]) == supervised
    assert set(images["nav"]) == reinforcement
    query = urllib.parse.urlencode({"run": "nav", "tag": "trajectories/held_out", "sample": 0})
    (shown,) = board.get(f"plugin/images/images?{query}")
    picture = board.raw(f"plugin/images/individualImage?{shown['query']}")
    assert shown["step"] == 3 and picture.startswith(b"\x89PNG")


def test_the_layout_is_that_of_both_kinds_and_every_chart_finds_its_curves(board: Board) -> None:
    layout = board.get("plugin/custom_scalars/layout")
    served = {
        (category["title"], chart["title"]): chart["multiline"]["tag"]
        for category in layout["category"]
        for chart in category["chart"]
    }
    rows = table(section("Charts"))
    documented = {(row[1], row[2]) for row in rows if row[0] in ("`supervised`", "`rl`")}
    assert set(served) == documented
    for kind, run in (("supervised", "sine/quick"), ("rl", "nav")):
        for charts in LAYOUTS[kind].values():
            for patterns in charts.values():
                query = urllib.parse.urlencode({"run": run, "tag": patterns[0]})
                answer = board.get(f"plugin/custom_scalars/scalars?{query}")
                assert answer["regex_valid"] and answer["tag_to_events"], patterns


def test_step_sizes_have_histograms(board: Board) -> None:
    tags = board.get("plugin/histograms/tags")
    assert "step_sizes/log_std" in tags["nav"]
    assert {"step_sizes/layers.0.weight", "step_sizes/layers.1.bias"} <= set(tags["sine/slow"])


def compare(runs: Path, board: Board, tag: str) -> None:
    """Check that HPARAMS has each run with what it differs in and with its last score."""
    request = {
        "experimentName": "",
        "allowedStatuses": ["STATUS_SUCCESS", "STATUS_UNKNOWN", "STATUS_RUNNING"],
        "colParams": [{"metric": {"tag": tag}}],
        "startIndex": 0,
        "sliceSize": 10,
    }
    groups = board.get("plugin/hparams/session_groups", request)["sessionGroups"]
    rates = {group["name"]: group["hparams"]["learning_rate"] for group in groups}
    assert rates == {"quick": 1e-3, "slow": 1e-4}
    for group in groups:
        (value,) = (m["value"] for m in group["metricValues"] if m["name"]["tag"] == tag)
        logged = read_metrics(runs / "sine" / group["name"] / "metrics.csv")[tag]
        assert value == pytest.approx(logged.values[-1], rel=1e-6)


def test_runs_that_start_later_appear_and_compare_and_a_damaged_one_hides_none(
    runs: Path, tmp_path: Path
) -> None:
    with watched(tmp_path) as process:
        try:
            board = Board(process)
            assert board.get("runs") == []
            (tmp_path / "bad").mkdir()
            (tmp_path / "bad" / "events.out.tfevents.1.x.1.0").write_bytes(b"\xff" * 500)
            for name in ("quick", "slow"):
                shutil.copytree(runs / "sine" / name, tmp_path / name)
            board.wait(lambda: {"quick", "slow"} <= set(board.get("plugin/scalars/tags")))
            compare(runs, board, "adapt/error_after_1")
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert f"no run in {tmp_path} yet; it will appear here" in err
    assert "Traceback" not in err
