"""`mtrl report`: what it says is what the runs' files say, and a damaged file costs only itself."""

import json
import re
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mtrl.checkpoint import CheckpointStore
from mtrl.cli import main
from mtrl.config import to_toml
from mtrl.errors import MtrlError, UsageError
from mtrl.evaluation.continual import PerformanceMatrix, cw_forgetting
from mtrl.evaluation.continual_file import write_matrix
from mtrl.evaluation.statistics import interval, iqm, stratified_interval
from mtrl.meta.kinds import KINDS
from mtrl.meta.maml import MAML
from mtrl.meta.meta_sgd import MetaSGD
from mtrl.meta.reinforcement import ReinforcementConfig, meta_train_reinforcement
from mtrl.meta.supervised import SupervisedConfig, meta_train_supervised
from mtrl.metrics import Series, read_metrics
from mtrl.report.build import build_report
from mtrl.report.curves import adaptation_curves, held_out_tags, tag_curve
from mtrl.report.details import matrices_section
from mtrl.report.discover import find_runs, run_names
from mtrl.report.evaluation import read_episodes, read_evaluation
from mtrl.report.grouping import arenas, differing, grouped
from mtrl.report.markdown import render_markdown
from mtrl.report.page import Code, Gallery, Marked, Page, Problems, Section, Table, Text
from mtrl.report.reading import RunRecord, read_run
from mtrl.report.tasks import task_curves, tasks_section
from mtrl.runs import Run
from mtrl.seeding import numpy_generator

# torch scripts its own decompositions when the first derivative by a direction is taken.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

SUPERVISED = SupervisedConfig(
    hidden=(6,),
    tasks_per_batch=5,
    chunk=2,
    iterations=20,
    test_tasks=4,
    test_steps=2,
    log_every=5,
    evaluate_every=10,
    checkpoint_every=10,
    compile="off",
)
REINFORCEMENT = ReinforcementConfig(
    hidden=(6,),
    family_options={"horizon": 8},
    tasks_per_batch=2,
    episodes_per_task=3,
    iterations=3,
    evaluate_every=2,
    checkpoint_every=2,
    test_tasks=4,
)
LAST_ERROR = "adapt/error_after_2"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make three seeds of Meta-SGD, all evaluated, one of MAML, and one run of navigation."""
    root = tmp_path_factory.mktemp("made") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        # Drawing takes nearly all the time; the run of navigation has its pictures.
        patch.setattr("mtrl.meta.watching.Pictures.draw", lambda *arguments: None)
        for seed in range(3):
            train(root / "sine" / f"sgd-{seed}", replace(SUPERVISED, seed=seed))
        train(root / "sine" / "maml", replace(SUPERVISED, learner=MAML(step_size=0.02)))
    train(root / "nav", REINFORCEMENT)
    for seed in range(3):
        run = str(root / "sine" / f"sgd-{seed}")
        assert main(["evaluate", run, "--tasks", "6", "--steps", "2"]) == 0
    return root


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    # Drawing takes nearly all the time of a report; tests/test_report_html.py draws.
    monkeypatch.setattr("mtrl.report.drawing.find_spec", lambda name: None)


def train(directory: Path, config: SupervisedConfig | ReinforcementConfig) -> None:
    if isinstance(config, SupervisedConfig):
        with Run.open(directory, config=config, kind="supervised") as run:
            meta_train_supervised(config, run)
    else:
        with Run.open(directory, config=config, kind="rl") as run:
            meta_train_reinforcement(config, run)


def report(*directories: Path, seed: int = 0) -> Page:
    return build_report(find_runs(directories), kinds=KINDS.keys(), seed=seed)


def section(page: Page, title: str) -> Section:
    (found,) = (each for each in page.sections if each.title == title)
    return found


def tables(page: Page, title: str) -> list[Table]:
    return [block for block in section(page, title).blocks if isinstance(block, Table)]


def rows(table: Table) -> list[dict[str, str]]:
    return [dict(zip(table.header, row, strict=True)) for row in table.rows]


def text_of(page: Page) -> str:
    return render_markdown(page, "pictures")[0]


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    """Return a copy of one supervised run, to be damaged."""
    return Path(shutil.copytree(made / "sine" / "sgd-0", tmp_path / "copied"))


def problems_of(directory: Path) -> str:
    return "\n".join(read_run(directory, "copied").problems)


# Which directories are runs


def test_runs_are_found_below_a_directory_and_once(made: Path) -> None:
    found = find_runs([made, made / "nav", made / "sine" / ".." / "nav"])
    assert [path.name for path in found] == ["nav", "maml", "sgd-0", "sgd-1", "sgd-2"]


def test_a_checkpoint_is_no_run_although_it_has_a_manifest(made: Path) -> None:
    checkpoints = made / "nav" / "checkpoints"
    assert list(checkpoints.glob("*/manifest.json"))
    with pytest.raises(UsageError, match=r"no run in .*checkpoints; `mtrl train` makes one"):
        find_runs([checkpoints])


def test_runs_of_one_name_are_told_apart_by_their_paths() -> None:
    names = run_names([Path("/a/x"), Path("/b/x"), Path("/b/y")])
    assert names == ["/a/x", "/b/x", "y"]


# Numbers


def test_a_group_is_the_runs_that_differ_in_the_seed_only(made: Path) -> None:
    runs = [read_run(path, path.name) for path in find_runs([made])]
    groups = grouped(runs)
    assert [[run.name for run in group.runs] for group in groups] == [
        ["nav"],
        ["maml"],
        ["sgd-0", "sgd-1", "sgd-2"],
    ]
    assert [group.label for group in groups] == [
        "meta-sgd, navigation2d",
        "maml, sinusoid",
        "meta-sgd, sinusoid",
    ]
    assert {name: len(members) for name, members in arenas(groups).items()} == {
        "navigation2d": 1,
        "sinusoid": 2,
    }


def record(name: str, **settings: Any) -> RunRecord:
    return RunRecord(directory=Path(name), name=name, kind="k", settings=settings)


def test_a_copy_of_a_run_is_no_second_seed() -> None:
    groups = grouped([record("a", seed=0), record("b", seed=1), record("copy", seed=0)])
    assert [[run.name for run in group.runs] for group in groups] == [["a", "b"], ["copy"]]
    assert len({group.label for group in groups}) == 2


def test_settings_of_another_type_differ() -> None:
    assert differing([{"a": 1, "b": True, "c": 2}, {"a": 1.0, "b": True}]) == ["a", "c"]


def with_metrics(name: str, seed: int, series: Series) -> RunRecord:
    return replace(record(name, seed=seed), metrics={LAST_ERROR: series})


def test_a_curve_is_the_iqm_of_the_runs_over_the_steps_that_all_have() -> None:
    values = np.array([[1.0, 7.0], [2.0, 8.0], [4.0, 9.0], [30.0, 100.0]])
    runs = [
        with_metrics(f"r{seed}", seed, Series([5, 10], list(pair)))
        for seed, pair in enumerate(values)
    ]
    runs[0] = with_metrics("r0", 0, Series([5, 10, 15], [*values[0], 3.0]))
    (group,) = grouped(runs)
    curve = tag_curve(group, LAST_ERROR, 3)
    assert curve is not None
    assert curve.x == (5, 10) and curve.over == "4 runs"
    # A quarter of four is cut from each end.
    assert [point.estimate for point in curve.intervals] == [3.0, 8.5]
    again = stratified_interval(values[:, :1], numpy_generator(3, "report"))
    assert curve.intervals[0] == again


def test_one_run_has_its_own_values_and_no_interval() -> None:
    (group,) = grouped([with_metrics("a", 0, Series([5, 10], [1.5, 2.5]))])
    curve = tag_curve(group, LAST_ERROR, 0)
    assert curve is not None
    _, estimate, low, high = curve.bands
    assert_array_equal(estimate, [1.5, 2.5])
    assert np.isnan([low, high]).all()


def test_a_long_curve_is_thinned_to_some_points_and_keeps_its_end() -> None:
    (group,) = grouped([with_metrics("a", 0, Series(list(range(1001)), [0.0] * 1001))])
    curve = tag_curve(group, LAST_ERROR, 0)
    assert curve is not None
    assert len(curve.x) <= 300 and curve.x[-1] == 1000
    assert len(set(np.diff(curve.x))) == 1


def test_a_value_that_is_not_finite_leaves_a_gap() -> None:
    series = [Series([1, 2], [1.0, np.inf]), Series([1, 2], [3.0, 4.0])]
    (group,) = grouped([with_metrics(str(i), i, each) for i, each in enumerate(series)])
    curve = tag_curve(group, LAST_ERROR, 0)
    assert curve is not None
    assert curve.intervals[0].estimate == 2.0 and np.isnan(curve.intervals[1].estimate)


def test_adaptation_of_several_seeds_is_the_iqm_over_runs_and_tasks(made: Path) -> None:
    runs = [read_run(made / "sine" / f"sgd-{seed}", f"sgd-{seed}") for seed in range(3)]
    scores = np.stack([run.evaluation.scores for run in runs if run.evaluation is not None])
    assert scores.shape == (3, 6, 3)
    (curve,) = adaptation_curves(grouped(runs), 0).values()
    assert_allclose([point.estimate for point in curve.intervals], iqm(scores.transpose(2, 0, 1)))
    expected = stratified_interval(scores[:, :, 2], numpy_generator(0, "report"))
    assert curve.intervals[2] == expected
    assert curve.over == "3 runs"


def test_adaptation_of_one_run_has_its_interval_over_tasks(made: Path) -> None:
    run = read_run(made / "sine" / "sgd-0", "sgd-0")
    assert run.evaluation is not None
    (curve,) = adaptation_curves(grouped([run]), 0).values()
    assert curve.over == "6 tasks"
    expected = interval(run.evaluation.scores[:, 1], numpy_generator(0, "report"))
    assert curve.intervals[1] == expected


def test_without_an_evaluation_adaptation_is_what_training_logged_last(made: Path) -> None:
    run = read_run(made / "sine" / "maml", "maml")
    (curve,) = adaptation_curves(grouped([run]), 0).values()
    metrics = read_metrics(made / "sine" / "maml" / "metrics.csv")
    expected = [metrics[f"adapt/error_after_{k}"].values[-1] for k in range(3)]
    assert [point.estimate for point in curve.intervals] == expected


def test_held_out_tags_are_in_order_of_their_steps() -> None:
    metrics = {f"adapt/return_after_{k}": Series([1], [0.0]) for k in (10, 2, 0)}
    run = replace(record("a"), metrics=metrics | {"adapt/other": Series([1], [0.0])})
    assert held_out_tags([run]) == [f"adapt/return_after_{k}" for k in (0, 2, 10)]


def test_step_sizes_are_those_of_the_newest_checkpoint(made: Path) -> None:
    page = report(made / "sine" / "sgd-0", made / "sine" / "sgd-1")
    stored = [
        CheckpointStore(made / "sine" / f"sgd-{seed}" / "checkpoints").load().tensors
        for seed in range(2)
    ]
    (table,) = tables(page, "Step sizes")
    layers = [name for name in stored[0] if name.startswith("meta/step_sizes.")]
    assert len(table.rows) == len(layers) == 4
    for row in rows(table):
        key = f"meta/step_sizes.{row['layer']}"
        alpha = np.concatenate([each[key].double().numpy().ravel() for each in stored])
        assert row["mean"] == f"{alpha.mean():.4g}"
        assert row["negative"] == f"{(alpha < 0).mean():.1%}"
        assert row["number"] == str(alpha.size)


def test_step_sizes_learned_as_logarithms_are_shown_as_what_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtrl.meta.watching.Pictures.draw", lambda *arguments: None)
    learner = MetaSGD(positive=True, granularity="scalar", initial_step_size=(0.05, 0.05))
    train(tmp_path / "run", replace(SUPERVISED, learner=learner, iterations=1))
    (values,) = read_run(tmp_path / "run", "run").step_sizes.values()
    # One step of Adam moves the logarithm by its learning rate of 0.001.
    assert_allclose(values, 0.05, rtol=2e-3)


def test_single_tasks_are_the_mean_over_runs_and_ordered_by_what_changed(made: Path) -> None:
    page = report(made / "sine")
    evaluations = [read_evaluation(made / "sine" / f"sgd-{seed}") for seed in range(3)]
    scores = np.mean([each.scores for each in evaluations if each is not None], axis=0)
    spread, single = tables(page, "Tasks")
    assert rows(spread)[2] == {
        "over tasks": "median",
        "before": f"{np.median(scores[:, 0]):.4g}",
        "after 1": f"{np.median(scores[:, 1]):.4g}",
        "after 2": f"{np.median(scores[:, 2]):.4g}",
    }
    change = np.sort(scores[:, 2] - scores[:, 0])
    assert [row["change"] for row in rows(single)] == [f"{each:.4g}" for each in change]
    first = evaluations[0]
    assert first is not None and {row["task"] for row in rows(single)} == set(first.tasks)


def test_differing_settings_stand_out_and_the_others_are_listed_once(made: Path) -> None:
    different, same = tables(report(made / "sine"), "Settings")
    by_name = {row[0]: row[1:] for row in different.rows}
    assert by_name["learner.kind"] == ("maml", "meta-sgd")
    assert all(isinstance(cell, Marked) for cell in by_name["learner.kind"])
    assert by_name["seed"] == ("0", "0, 1, 2")
    shared = dict(same.rows)
    assert shared["hidden"] == "[6]" and shared["device"] == "cpu"
    assert not shared.keys() & by_name.keys()


def test_commands_resume_evaluate_and_watch_each_run(made: Path, tmp_path: Path) -> None:
    odd = tmp_path / "with space"
    shutil.copytree(made / "sine" / "maml", odd)
    (code,) = (b for b in section(report(odd), "Going on").blocks if isinstance(b, Code))
    assert code.text.splitlines() == [
        f"mtrl train --resume '{odd}'  # finished: give more --iterations",
        f"mtrl evaluate '{odd}'",
        f"mtrl watch '{odd}'",
    ]
    (said,) = (b for b in section(report(odd), "Made by").blocks if isinstance(b, Code))
    manifest = json.loads((odd / "manifest.json").read_text())
    assert said.text == manifest["sessions"][0]["command"]


def test_time_is_what_timings_say(made: Path) -> None:
    timings = read_metrics(made / "nav" / "timings.csv")
    (table,) = tables(report(made / "nav"), "Time and memory")
    found = {row["tag"]: row for row in rows(table)}
    assert found.keys() == timings.keys()
    speeds = timings["time/env_steps_per_second"].values
    row = found["time/env_steps_per_second"]
    assert (row["unit"], row["median"]) == ("1/s", f"{np.median(speeds):.4g}")
    assert "No run recorded its memory." in text_of(report(made / "nav"))


def test_pictures_before_and_after_adaptation_are_the_newest_in_the_event_files(made: Path) -> None:
    run = read_run(made / "nav", "nav")
    shown = {picture.tag: picture for picture in run.pictures}
    assert set(shown) == {"figures/adaptation_curve", "trajectories/held_out"}
    assert {picture.step for picture in run.pictures} == {3}
    (gallery,) = (
        block
        for block in section(report(made / "nav"), "Pictures of the runs").blocks
        if isinstance(block, Gallery)
    )
    contents = [picture.content for picture in gallery.pictures]
    assert shown["trajectories/held_out"].content in contents
    assert all(content.startswith(b"\x89PNG") for content in contents)


def test_matrices_of_a_run_have_their_measures(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = np.random.default_rng(0).uniform(size=(3, 3, 2))
    matrix = PerformanceMatrix(
        tasks=("reach", "pu$h_"), order=("reach", "pu$h_"), seeds=(0, 1, 2), scores=scores
    )
    write_matrix(copied / "performance.csv", matrix)
    page = report(copied)
    monkeypatch.setattr("mtrl.report.drawing.find_spec", find_spec)
    drawn = matrices_section(grouped([read_run(copied, "copied")]), 0)[0].blocks
    measured, measures = tables(page, "Transfer and forgetting")
    assert measured.rows[2][1:] == tuple(f"{score:.4g}" for score in scores.mean(0)[2])
    last = rows(measures)[-1]
    mean = cw_forgetting(matrix).means.mean()
    assert float(last["cw_forgetting"].split()[0]) == pytest.approx(mean, abs=0.006)
    assert rows(measures)[0]["gem_forward_transfer"] == "undefined"
    (gallery,) = (block for block in drawn if isinstance(block, Gallery))
    assert len(gallery.pictures) == 3
    assert b"pu$h_" in gallery.pictures[0].content


def test_a_run_that_does_not_adapt_has_its_return_on_each_of_its_tasks(tmp_path: Path) -> None:
    lines = [
        f"{task},id,{i},{i + shift}" for task, shift in (("up", 0), ("do|wn", 9)) for i in range(4)
    ]
    (tmp_path / "evaluation.csv").write_text("\n".join(["task,id,episode,return", *lines]) + "\n")
    assert read_evaluation(tmp_path) is None
    episodes = read_episodes(tmp_path)
    assert_array_equal(episodes["do|wn"], [9.0, 10.0, 11.0, 12.0])
    metrics = {
        "eval/mean_return": Series([10, 20], [1.0, 2.0]),
        "eval/return/up": Series([10, 20], [3.0, 4.0]),
        "eval/return/do|wn": Series([10], [np.nan]),
    }
    run = replace(record("a", total_steps=30), metrics=metrics, episodes=episodes, saved_step=32)
    assert run.finished
    evaluated, logged = (
        block for block in tasks_section(grouped([run]), 0).blocks if isinstance(block, Table)
    )
    expected = interval(episodes["up"], numpy_generator(0, "report"))
    assert evaluated.rows[0] == ("up", str(expected))
    assert logged.rows == (("up", "4"), ("do|wn", "nan"))
    ((name, tag, curves),) = task_curves(grouped([run]), 0)
    assert (name, tag, list(curves)) == ("a", "eval/return/...", ["do|wn", "up"])
    many = {f"eval/return/{i:02}": Series([1], [0.0]) for i in range(20)}
    ((name, _, curves),) = task_curves(grouped([replace(run, metrics=many)]), 0)
    assert name == "a, 12 of 20 tasks" and len(curves) == 12


def test_another_seed_gives_other_intervals_and_the_same_estimates(made: Path) -> None:
    (first, *_), (second, *_) = (
        tables(report(made / "sine", seed=seed), "Adaptation") for seed in (0, 1)
    )
    assert first != second
    for one, other in zip(first.rows, second.rows, strict=True):
        assert [cell.split(" ")[0] for cell in one] == [cell.split(" ")[0] for cell in other]


def test_a_report_changes_nothing_in_a_run(made: Path) -> None:
    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}

    before = content()
    report(made)
    assert content() == before


# Damage


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("manifest.json", b"{", "manifest.json is damaged"),
        ("manifest.json", None, "cannot read .*manifest.json"),
        ("manifest.json", b'{"kind": "rl", "sessions": [3]}', "manifest.json is damaged"),
        ("config.toml", b"= 3", "config.toml is damaged"),
        ("config.toml", b"\xff", "config.toml is damaged"),
        ("metrics.csv", b"what\n", "metrics.csv is not a metrics file"),
        ("metrics.csv", b"step,tag,value\n1,a,b\n", "metrics.csv, line 2"),
        ("timings.csv", None, "cannot read .*timings.csv"),
        ("evaluation.csv", b"learner,task,steps,score\na,b,0,nan\n", "evaluation.csv is damaged"),
        ("evaluation.csv", b"learner,task,steps,score\n", "evaluation.csv is damaged"),
        ("evaluation.csv", b"task,id,episode,return\na,b,0,x\n", "evaluation.csv is damaged"),
        ("evaluation.csv", b"\xff", "evaluation.csv is damaged"),
        ("evaluation.json", b"[]", "evaluation.json is damaged"),
        ("stages.csv", b"# performance matrix: 1", "stages.csv is not a performance matrix"),
    ],
)
def test_a_damaged_file_is_named_and_the_rest_is_reported(
    name: str, content: bytes | None, said: str, copied: Path
) -> None:
    if content is None:
        (copied / name).unlink()
    else:
        (copied / name).write_bytes(content)
    page = report(copied)
    (problems,) = (b for b in section(page, "What is missing").blocks if isinstance(b, Problems))
    assert re.search(said, "\n".join(problems.items))
    assert "Traceback" not in text_of(page)
    if name != "metrics.csv":
        assert tables(page, "Learning curves")
    assert tables(page, "Step sizes")


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(copied: Path) -> None:
    newest = copied / "checkpoints" / f"{20:012d}" / "tensors.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    record = read_run(copied, "copied")
    assert record.saved_step == 10 and record.finished is False
    (problem,) = record.problems
    assert "tensors.safetensors" in problem and "the checkpoint of step 10 is used" in problem
    assert "unfinished, 10 of 20" in text_of(report(copied))


def test_damaged_event_files_cost_the_pictures_only(made: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made / "nav", tmp_path / "nav"))
    (events,) = folder.glob("events.out.tfevents.*")
    whole = events.read_bytes()
    events.write_bytes(whole[: len(whole) // 2])
    half = read_run(folder, "nav")
    assert half.metrics == read_run(made / "nav", "nav").metrics
    events.write_bytes(b"\xff" * 100)
    assert read_run(folder, "nav").pictures == ()
    events.unlink()
    assert "it has no TensorBoard event file" in read_run(folder, "nav").problems


def test_an_evaluation_of_an_earlier_iteration_is_pointed_out(copied: Path) -> None:
    facts = json.loads((copied / "evaluation.json").read_text())
    facts["runs"][0]["iteration"] = 10
    (copied / "evaluation.json").write_text(json.dumps(facts))
    said = "copied: its evaluation is of iteration 10, and it is saved at 20: evaluate it again"
    assert said in text_of(report(copied))


def test_an_unfinished_run_says_so_and_has_no_word_of_more_iterations(copied: Path) -> None:
    longer = to_toml(replace(SUPERVISED, iterations=40))
    (copied / "config.toml").write_text(longer)
    text = text_of(report(copied))
    assert "copied: it is unfinished, 20 of 40" in text
    assert "give more --iterations" not in text


def test_a_run_that_was_killed_at_once_has_a_report(tmp_path: Path) -> None:
    with Run.open(tmp_path / "run", config=SUPERVISED, kind="supervised"):
        pass
    text = text_of(report(tmp_path / "run"))
    assert "run: it has no checkpoint yet" in text
    assert "run: it has logged nothing, so that it has no curves" in text
    assert "nothing saved" in text
    assert "No run has logged an evaluation." in text


def test_a_run_of_an_unknown_kind_shows_what_it_logged(copied: Path) -> None:
    manifest = json.loads((copied / "manifest.json").read_text())
    (copied / "manifest.json").write_text(json.dumps(manifest | {"kind": "dreaming"}))
    text = text_of(report(copied))
    assert "its kind 'dreaming' is unknown here" in text
    assert "mtrl train --resume" not in text.split("## Going on")[1]
    assert "meta/train" in text


def test_a_tag_of_another_version_is_shown_without_a_meaning(copied: Path) -> None:
    with open(copied / "metrics.csv", "a") as file:
        file.write("20,dream/depth,0.5\n")
    last = next(t for t in tables(report(copied), "Training curves") if "show" in t.caption)
    assert ("dream/depth", "", "unknown to this version of mtrl") in last.rows


def test_without_matplotlib_there_are_the_tables_and_a_word_of_what_to_install(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtrl.report.build.find_spec", lambda name: None)
    page = report(made / "sine")
    assert 'pip install "mtrl-suite\\[plot\\]"' in text_of(page)
    blocks = [block for each in page.sections for block in each.blocks]
    assert not any(isinstance(block, Gallery) for block in blocks)
    assert tables(page, "Learning curves") and tables(page, "Adaptation")


# The command


def test_the_command_writes_a_page_a_text_and_its_pictures(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert (
        main(["report", str(made / "nav"), str(made / "sine" / "maml"), "--output", str(out)]) == 0
    )
    assert f"Report of 2 runs: written to {out}: report.html, report.md" in capsys.readouterr().err
    text = (out / "report.md").read_text()
    named = re.findall(r"\]\((report-pictures/[^)]+)\)", text)
    assert {f"report-pictures/{p.name}" for p in (out / "report-pictures").iterdir()} == set(named)
    assert (out / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert "made 2" not in text


def test_one_directory_has_its_report_in_it_and_a_second_report_is_the_same(copied: Path) -> None:
    assert main(["report", str(copied)]) == 0
    first = (copied / "report.html").read_bytes()
    assert main(["report", str(copied)]) == 0
    assert (copied / "report.html").read_bytes() == first
    assert main(["report", str(copied), "--dated"]) == 0
    assert re.search(
        rb"<title>Report of copied, made 2\d\d\d-", (copied / "report.html").read_bytes()
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name a directory that `mtrl train` made"),
        (["nowhere"], "no directory nowhere"),
        (["."], "no run in .; `mtrl train` makes one"),
        ([".", "."], "several directories need --output FOLDER"),
        ([".", "--seed", "-1"], "seed must be at least 0, got -1"),
    ],
)
def test_a_wrong_request_is_one_line(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", *arguments]) == 2
    out, err = capsys.readouterr()
    assert said in err and err.count("\n") == 1 and out == ""
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_cannot_be_written_is_named(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["report", str(made / "nav"), "--output", str(tmp_path / "file")]) == 1
    assert f"cannot write {tmp_path / 'file'}" in capsys.readouterr().err


# evaluation.csv


def test_an_evaluation_knows_its_own_scores_from_others(tmp_path: Path) -> None:
    lines = ["learner,task,steps,score"]
    for learner, base in (("own", 0.0), ("other", 10.0), ("best", 20.0)):
        lines += [f"{learner},t{t},{k},{base + t + k / 4}" for t in range(2) for k in range(2)]
    (tmp_path / "evaluation.csv").write_text("\n".join(lines) + "\n")
    facts = {"runs": [{"directory": "a", "iteration": 7}, {"directory": "b", "iteration": 9}]}
    (tmp_path / "evaluation.json").write_text(json.dumps(facts))
    found = read_evaluation(tmp_path)
    assert found is not None
    assert_array_equal(found.scores, [[0.0, 0.25], [1.0, 1.25]])
    assert (found.tasks, list(found.anchors), found.iteration) == (("t0", "t1"), ["best"], 7)


@pytest.mark.parametrize(
    "rows",
    ["a,t,1,0.5", "a,t,0,0.5\na,u,0,0.5\na,u,1,0.5", "a,t,0,0.5\nb,u,0,0.5", "a,t,0", "a,t,0,x"],
)
def test_an_evaluation_with_gaps_is_refused(rows: str, tmp_path: Path) -> None:
    (tmp_path / "evaluation.csv").write_text(f"learner,task,steps,score\n{rows}\n")
    with pytest.raises(MtrlError, match="evaluation.csv is damaged"):
        read_evaluation(tmp_path)


def test_text_blocks_are_never_empty(made: Path) -> None:
    blocks = [block for each in report(made).sections for block in each.blocks]
    assert all(block.text.strip() for block in blocks if isinstance(block, Text | Code))
    assert all(block.rows for block in blocks if isinstance(block, Table))
