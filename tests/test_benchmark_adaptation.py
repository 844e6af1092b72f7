"""The adaptation benchmark: its variants do the same work, and its tables say what was measured."""

import csv
import importlib.util
import io
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mtrl.benchmarks import measure, report
from mtrl.benchmarks.adaptation import (
    agreement,
    carry_out,
    gym_stand_in,
    limit,
    navigation,
    ours,
    page,
)
from mtrl.benchmarks.adaptation import pytorch_maml_rl as peer
from mtrl.benchmarks.adaptation.peers import worker
from mtrl.benchmarks.adaptation.problem import LEARNERS, Problem
from mtrl.benchmarks.adaptation.processes import PEERS, PeerProcess, find_peers
from mtrl.benchmarks.adaptation.settings import (
    AdaptationSettings,
    memory_problems_of,
    problems_of,
)
from mtrl.benchmarks.adaptation.timing import Memory, Split, measure_limits
from mtrl.commands.benchmark_adaptation import parse_adaptation
from mtrl.envs.navigation2d import STEP_SIZE
from mtrl.errors import MtrlError, UsageError
from mtrl.meta import policy_adaptation
from mtrl.meta.gradient import MetaGradient
from mtrl.meta.outer import TRPO

FOLDER = Path(__file__).resolve().parent.parent / ".peers"
TINY = navigation.Problem(tasks=3, episodes=4, horizon=10, hidden=(8, 8))
EXACT = Problem(tasks=3, shots=4, precision="float64")
IMAGES = Problem(
    work="images", learner="maml", tasks=2, shots=1, side=16, inner_steps=2, precision="float64"
)


# The same results


def gradient(problem: Problem) -> list[np.ndarray]:
    return [value.double().numpy() for value in ours.gradient_of(problem, False).values()]


@pytest.mark.parametrize("learner", ["meta-sgd", "maml", "fomaml"])
def test_a_peers_process_has_our_meta_gradient(learner: Any) -> None:
    problem = replace(EXACT, learner=learner, work="policy", inner_steps=2)
    # The loop needs nothing but torch; others are compared with before every measurement.
    with PeerProcess(PEERS["loop"], problem, FOLDER) as process:
        assert agreement.difference(gradient(problem), process.gradient()) < 1e-12
        cpu, wall = process.turn("adapt one", 0.0)
        assert cpu > 0
        assert wall > 0


def test_a_network_of_torchs_modules_has_our_meta_gradient_on_images() -> None:
    with PeerProcess(PEERS["loop"], IMAGES, FOLDER) as process:
        theirs = process.gradient()
    assert agreement.difference(gradient(IMAGES), theirs) < 1e-11
    first_order = gradient(replace(IMAGES, learner="fomaml"))
    assert agreement.difference(first_order, theirs) > 1e-3


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        *((name, EXACT) for name in PEERS if name != "loop"),
        # It has an order of parameters of its own.
        ("torchopt", IMAGES),
    ],
)
def test_an_installed_library_has_our_meta_gradient(name: str, problem: Problem) -> None:
    if not PEERS[name].is_there(FOLDER):
        pytest.skip(f"{name} is not there: python scripts/install_peers.py {name}")
    with PeerProcess(PEERS[name], problem, FOLDER) as process:
        theirs = process.gradient()
    assert agreement.difference(gradient(problem), theirs) < 1e-11
    other = replace(problem, shots=problem.shots + 1)
    assert agreement.difference(gradient(other), theirs) > 1e-3


def test_tasks_of_images_one_by_one_have_the_gradient_of_all_at_once() -> None:
    meta, points = IMAGES.start(), IMAGES.points()
    whole = MetaGradient(IMAGES.how.learner, IMAGES.how.loss, chunk=IMAGES.tasks)
    found = [value.numpy() for value in meta.like(whole(meta, points).gradient).named().values()]
    assert agreement.difference(gradient(IMAGES), found) < 1e-12
    large = replace(IMAGES, side=84)
    ours = MetaGradient(large.how.learner, large.how.loss)
    ours(large.start(), large.points())
    assert ours.chunk == 1


def test_a_library_that_does_not_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(MtrlError, match="learn2learn does not run: .*install_peers.py learn2learn"):
        PeerProcess(PEERS["learn2learn"], EXACT, tmp_path)


def test_libraries_take_part_where_they_are_installed_and_have_the_learner(tmp_path: Path) -> None:
    names = tuple(PEERS)
    assert [each.name for each in find_peers(EXACT, names, tmp_path)] == ["loop"]
    # An installation that broke off does not count.
    (tmp_path / "torchopt" / "bin").mkdir(parents=True)
    (tmp_path / "torchopt" / "bin" / "python").touch()
    assert [each.name for each in find_peers(EXACT, names, tmp_path)] == ["loop"]
    (tmp_path / "torchopt" / "installed.txt").touch()
    assert [e.name for e in find_peers(EXACT, names, tmp_path)] == ["torchopt", "loop"]
    first_order = replace(EXACT, learner="fomaml")
    assert [e.name for e in find_peers(first_order, names, tmp_path)] == ["loop"]
    assert find_peers(replace(EXACT, learner="cavia"), names, tmp_path) == []
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax" / "installed.txt").touch()
    assert [e.name for e in find_peers(EXACT, names, tmp_path)] == ["torchopt", "jax", "loop"]
    assert [e.name for e in find_peers(IMAGES, names, tmp_path)] == ["torchopt", "loop"]


def test_a_peer_that_does_not_install_keeps_no_other_from_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = FOLDER.parent / "scripts" / "install_peers.py"
    spec = importlib.util.spec_from_file_location("install_peers", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # Those of which the benchmark reads whether they are there.
    assert set(module.INSTALLERS) == {*PEERS, "rliable"} - {"loop"}
    made: list[Path] = []

    def fail(folder: Path) -> None:
        raise subprocess.CalledProcessError(1, "pip")

    monkeypatch.setattr(module, "INSTALLERS", {"one": fail, "two": made.append})
    monkeypatch.setattr(sys, "argv", ["install_peers.py", "--folder", str(tmp_path)])
    with pytest.raises(SystemExit, match="not installed: one;"):
        module.main()
    assert made == [tmp_path / "two"]


@pytest.mark.parametrize(
    ("learner", "work"),
    [(name, "sinusoid") for name in LEARNERS]
    + [(name, "images") for name in LEARNERS if name != "cavia"],
)
def test_every_learner_steps_and_adapts(learner: Any, work: Any) -> None:
    problem = Problem(learner=learner, work=work, tasks=3, shots=4, side=16, inner_steps=2)
    queries = {"sinusoid": (4, 1), "images": (5 * 15, 5)}[work]
    for make in (
        lambda: ours.meta_step(problem, False),
        lambda: ours.inner_only(problem),
        lambda: ours.sampling(problem),
    ):
        make()()
    assert ours.adapting(problem, 3, False)().shape == (3, *queries)
    one = ours.adapting(problem, 1, False)()
    torch.testing.assert_close(one, ours.adapting(problem, 3, False)()[:1])
    assert not one.requires_grad


def test_the_peers_actions_are_a_tenth_of_ours() -> None:
    tasks = TINY.family.sample(TINY.tasks, np.random.default_rng(0), "train")
    ours, theirs = (replace(TINY, peer_actions=flag).env(tasks) for flag in (False, True))
    seeds = torch.arange(TINY.tasks * TINY.episodes)
    torch.testing.assert_close(theirs.reset(seeds), ours.reset(seeds), rtol=0, atol=0)
    actions = torch.linspace(-2, 2, 2 * len(seeds)).view(-1, 2)
    stepped = theirs.step(STEP_SIZE * actions)
    # Rounding of a product and a quotient.
    torch.testing.assert_close(stepped, ours.step(actions), rtol=1e-6, atol=1e-6)


def test_a_thin_problem_differs_in_its_fisher_products_only() -> None:
    assert TINY.thin.trpo.curvature_fraction == TRPO().curvature_fraction < 1
    assert replace(TINY.thin, trpo=TINY.trpo) == TINY


def test_the_loop_takes_our_step(monkeypatch: pytest.MonkeyPatch) -> None:
    # One iteration of conjugate gradients depends on the gradient and one Fisher product, more on more.
    for iterations in (1, 4):
        problem = replace(TINY, trpo=replace(TINY.trpo, cg_iterations=iterations))
        assert navigation.disagreement(problem) < 1e-12
        monkeypatch.setattr(policy_adaptation, "SAMPLES_PER_CHUNK", 40)
        assert navigation.disagreement(problem) < 1e-12


def test_a_step_with_another_curvature_is_not_the_loops() -> None:
    assert navigation.disagreement(replace(TINY, trpo=TRPO(curvature_fraction=0.5))) > 1e-2


def test_both_iterations_step_at_the_size_of_the_problem() -> None:
    for variant in (navigation.batched, navigation.looped):
        step = variant(TINY)()
        assert 0 < step.kl <= TINY.trpo.max_kl
        assert step.improvement > 0


def test_an_iteration_is_measured_in_three_parts() -> None:
    parts = navigation.parts(TINY)
    assert list(parts) == ["sampling", "inner", "outer"]
    for part in parts.values():
        part()


def test_a_folder_without_the_peer_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"{tmp_path} is no checkout of pytorch-maml-rl"):
        peer.Peer(tmp_path, TINY)


# gym's stand-in


class Counter:
    """An environment that observes how many steps it has made, and ends by itself at `end`."""

    observation_space = action_space = None

    def __init__(self, end: int) -> None:
        self.end = end

    def reset(self) -> Any:
        self.steps = 0
        return np.zeros(1)

    def step(self, action: Any) -> Any:
        self.steps += 1
        return np.full(1, self.steps), 0.0, self.steps == self.end, {}


@pytest.mark.parametrize(("end", "length"), [(2, 2), (9, 4)])
def test_an_episode_ends_by_itself_or_at_the_limit(end: int, length: int) -> None:
    env = gym_stand_in.TimeLimit(Counter(end), 4)
    for _ in range(2):
        env.reset()
        dones = [env.step(None)[2] for _ in range(length)]
        assert dones == [False] * (length - 1) + [True]


# Settings


def test_problems_are_all_combinations_but_navigation() -> None:
    settings = AdaptationSettings(
        works="policy,navigation2d,sinusoid", learners="maml,anil", tasks=(4, 8), inner_steps=(1, 3)
    )
    problems = problems_of(settings)
    assert len({problem.title for problem in problems}) == len(problems) == 2 * 2 * 2 * 2
    assert settings.navigation
    assert not AdaptationSettings(works="policy").navigation


def test_images_have_settings_of_their_own() -> None:
    settings = AdaptationSettings(
        works="images,sinusoid",
        tasks=(8,),
        turns=7,
        image_learners="anil",
        image_tasks=(1, 2),
        image_inner_steps=(3,),
        image_turns=2,
    )
    one, two, other = problems_of(settings)
    assert (one.title, two.title) == tuple(
        f"anil on images, {tasks} tasks, 3 inner steps" for tasks in (1, 2)
    )
    assert (one.shots, other.shots) == (1, 10)
    assert [part.shape for part in two.points()[::2]] == [(2, n, 3, 84, 84) for n in (5, 75)]
    assert [settings.turns_of(problem) for problem in (one, other)] == [2, 7]
    assert [settings.compiles(problem) for problem in (one, other)] == [False, True]


def test_memory_is_measured_once_for_a_number_of_inner_steps() -> None:
    settings = AdaptationSettings(
        works="sinusoid,images",
        tasks=(4,),
        inner_steps=(1, 2),
        memory_inner_steps=(1, 5),
        image_learners="maml",
        image_inner_steps=(2,),
    )
    sizes = [(each.work, each.inner_steps) for each in memory_problems_of(settings)]
    assert sizes == [("sinusoid", 1), ("sinusoid", 5), ("images", 2)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"works": "sine"}, "works has 'sine'; there are sinusoid, policy, images, navigation2d"),
        ({"learners": "reptile"}, "learners has 'reptile'"),
        ({"peers": "garage"}, "peers has 'garage'"),
        (
            {"image_learners": "cavia"},
            "image_learners has 'cavia'; there are maml, fomaml, anil, meta",
        ),
        ({"image_tasks": (0,)}, "image_tasks must be at least 1"),
        ({"tasks": (0,)}, "tasks must be at least 1"),
        ({"device": "cuda"}, "navigation2d is measured on the CPU"),
    ],
)
def test_settings_that_mean_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        AdaptationSettings(**options)


def test_quick_sets_what_is_not_given() -> None:
    quick = parse_adaptation(["--quick", "--tasks", "3"]).settings
    assert (quick.tasks, quick.turns, quick.compiled) == ((3,), 3, False)
    assert parse_adaptation([]).settings == AdaptationSettings()


# Measuring


def test_variants_take_turns() -> None:
    calls: list[str] = []
    times = measure.interleaved(
        {name: lambda name=name: calls.append(name) for name in "ab"}, turns=2, seconds=0.0
    )
    assert calls == ["a", "b", "a", "b"]
    assert [len(turns) for turns in times.values()] == [2, 2]


def test_a_turn_lasts_divides_by_its_steps_and_waits_for_the_device() -> None:
    calls: list[str] = []

    def step() -> None:
        calls.append("step")
        sum(range(20_000))

    cpu, wall = worker.turn(step, 0.05, lambda: calls.append("wait"))
    assert 0 < cpu < 0.02
    assert wall > 0
    assert calls[0] == calls[-1] == "wait"
    assert calls.count("wait") == 2


def test_speedups_compare_within_a_turn_by_the_clock_that_counts() -> None:
    times = {"peer": [(8.0, 9.0), (4.0, 6.0)], "ours": [(2.0, 3.0), (0.5, 1.0)]}
    assert measure.speedups(times, "peer") == {"peer": [1.0, 1.0], "ours": [4.0, 8.0]}
    assert measure.speedups(times, "peer", wall=True)["ours"] == [3.0, 6.0]


def hoard() -> Callable[[], float]:
    """Return a step that needs 64 MiB for a moment."""
    return lambda: float(torch.ones(16 * 2**20).sum())


@pytest.mark.skipif(not measure.CLEAR.exists(), reason="needs Linux's peak of resident memory")
def test_memory_is_what_a_step_needs_at_its_peak() -> None:
    found = measure.memory_growth(measure.Build(hoard))
    assert found is not None
    assert 62 < found < 70


# The limit


def test_operations_are_two_for_each_product_of_a_matrix_multiply_or_convolution() -> None:
    matrices, images = torch.ones(3, 4), torch.ones(2, 3, 8, 8)
    kernels = torch.ones(5, 3, 3, 3, requires_grad=True)

    def step() -> None:
        (matrices @ matrices.T).tanh()
        torch.nn.functional.conv2d(images, kernels, padding=1).sum().backward()

    # The gradient by the kernels takes as many as the convolution.
    assert limit.operations_of(step) == 2 * 3 * 4 * 3 + 2 * (2 * 2 * 5 * 8 * 8 * 3 * 3 * 3)


def test_a_meta_steps_operations_are_those_of_its_formula() -> None:
    problem = Problem(tasks=3, shots=4, learner="fomaml")
    weights = [1 * 40, 40 * 40, 40 * 1]
    # Forward, by weights, and by inputs but the first layer's; inner and outer, two for each product.
    once = 2 * 3 * 4 * (2 * sum(weights) + sum(weights[1:]))
    assert limit.operations_of(ours.meta_step(problem, False)) == 2 * once


def test_the_share_is_of_the_matrix_products_rate() -> None:
    problem = Problem(tasks=3, shots=4, learner="fomaml")
    rows = [
        replace(ROW, work=f"{work}, {problem.title}", variant=variant)
        for work in ("meta-step", "adapt to all")
        for variant in ("higher 0.2.1", "mtrl", "mtrl, compiled")
    ]
    found = limit.limits_of(problem, rows[1:3], product=0.1)
    assert [each.variant for each in found] == ["mtrl", "mtrl, compiled"]
    assert found[0].peak == 2 * 1024**3 / 0.1
    assert found[0].rate == found[0].operations / 0.002
    assert found[0].share == found[0].rate / found[0].peak
    settings = AdaptationSettings(turns=1, seconds=0.01)
    measured = measure_limits(problem, rows, settings)
    assert [(each.work, each.variant) for each in measured] == [
        (f"meta-step, {problem.title}", name) for name in ("mtrl", "mtrl, compiled")
    ]


# Reporting

ROW = report.Row(
    work="w",
    variant="ours",
    cpu=[0.001, 0.002, 0.004],
    wall=[0.01, 0.01, 0.01],
    speedups=[10.0, 30.0, 20.0],
    memory=1.25,
    first=0.5,
)
SIZED = replace(ROW, work="meta-step, meta-sgd on sinusoid, 4 tasks", tasks=4)


def test_the_table_has_medians_and_ranges() -> None:
    header, rule, first, second = report.table([ROW, replace(ROW, memory=None)]).splitlines()
    assert [cell.strip() for cell in first.strip("|").split("|")] == [
        "w",
        "ours",
        "2.00",
        "10.00",
        "20.0 (10.0 to 30.0)",
        "1.2",
        "0.5",
    ]
    assert second.split("|")[6].strip() == "-"
    assert len({len(line) for line in (header, rule, first, second)}) == 1


def test_rates_are_tasks_over_the_time_that_counts() -> None:
    assert SIZED.rate == 4 / 0.002
    assert replace(SIZED, by_wall=True).rate == 4 / 0.01
    assert ROW.rate is None
    header, _, first, second = report.table([SIZED, ROW]).splitlines()
    assert header.split("|")[-2].strip() == "adaptations/s"
    assert [line.split("|")[-2].strip() for line in (first, second)] == ["2,000", "-"]
    slow = report.table([replace(SIZED, cpu=[1.6])]).splitlines()[2]
    assert slow.split("|")[-2].strip() == "2.5"


def test_the_file_has_every_turn() -> None:
    header, *lines = report.csv_text([ROW]).splitlines()
    assert header == "work,variant,turn,cpu_s,wall_s,speedup,memory_mib"
    assert lines[2] == "w,ours,2,0.004,0.01,20,1.2"
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("difference", "holds"), [(0.0, True), (1e-10, True), (2e-10, False), (float("nan"), False)]
)
def test_agreement_has_a_tolerance(difference: float, holds: bool) -> None:
    found = report.Agreement(what="x", difference=difference, tolerance=1e-10)
    assert found.holds is holds
    assert ("DISAGREE" in str(found)) is not holds


def test_the_difference_is_over_the_largest_entry() -> None:
    one, other = [np.array([1.0, 2.0]), np.array([3.0])], [np.array([1.0, 2.5]), np.array([-5.0])]
    assert agreement.difference(one, other) == 8 / 5
    assert np.isnan(agreement.difference(one, [np.array([np.nan, 1.0]), np.array([1.0])]))


def test_nothing_is_timed_where_results_disagree(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = report.Agreement(what="x", difference=1.0, tolerance=0.1)
    monkeypatch.setattr(carry_out, "agreements", lambda settings: [wrong])
    monkeypatch.delattr(carry_out, "measure_problem")
    with pytest.raises(MtrlError, match="nothing is timed: x: DISAGREE, 1.0e\\+00"):
        carry_out.measure_adaptation(AdaptationSettings(), "x")


def test_the_files_are_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    right = report.Agreement(what="same", difference=0.0, tolerance=0.1)
    split = Split(work="s", sampling=0.001, inner=0.002, outer=0.0034)
    memory = Memory(work="m", variant="ours", tasks=4, inner_steps=5, mib=1.25)
    share = limit.Limit(work="l", variant="mtrl", operations=10**8, seconds=0.01, peak=4e10)
    monkeypatch.setattr(carry_out, "agreements", lambda settings: [right])
    monkeypatch.setattr(carry_out, "measure_problem", lambda *_: [SIZED])
    monkeypatch.setattr(carry_out, "split_of", lambda *_: split)
    monkeypatch.setattr(carry_out, "measure_limits", lambda *_: [share])
    monkeypatch.setattr(carry_out, "measure_memory", lambda *_: [memory])
    settings = AdaptationSettings(
        works="sinusoid", tasks=(4,), peers="higher", peer_folder=tmp_path
    )
    files = carry_out.Files(tmp_path / "results", "speed")
    output = carry_out.measure_adaptation(settings, "the command", files)
    text = (tmp_path / "results" / "speed.md").read_text(encoding="utf-8")
    assert text == output.text
    assert "`the command`" in text
    assert report.table([SIZED]) in text
    assert "](speed.png)" in text
    assert "- same: agree" in text
    assert "| s | 1.00 | 2.00 | 3.40 |" in text
    assert "| l | mtrl | 100.0 | 10.0 | 40.0 | 25% |" in text
    assert "| m | ours | 5 | 4 | 1.2 |" in text
    assert "Not installed and left out: higher." in text
    written = (tmp_path / "results" / "speed.csv").read_text()
    assert len(list(csv.DictReader(io.StringIO(written)))) == 3
    assert [path.name for path in output.files] == [
        "speed.md",
        "speed.csv",
        "speed.png",
        "speed",
    ]
    (run,) = (tmp_path / "results" / "tensorboard" / "speed").iterdir()
    assert list(run.glob("events.out.tfevents.*"))


def test_the_figure_has_a_panel_for_each_work() -> None:
    pytest.importorskip("matplotlib")
    rows = [
        replace(SIZED, work=SIZED.work.replace("4 tasks", f"{n} tasks"), tasks=n, variant=name)
        for n in (4, 32)
        for name in ("mtrl", "loop")
    ]
    figure = page.draw_figure(page.Measured(agreements=[], rows=rows))
    assert figure is not None
    (axes,) = figure.axes
    assert axes.get_title() == "meta-step, meta-sgd on sinusoid"
    assert [list(line.get_xdata()) for line in axes.lines] == [[4, 32], [4, 32]]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["4", "32"]
    assert page.draw_figure(page.Measured(agreements=[], rows=[ROW])) is None


def test_adapting_to_one_task_is_drawn_once() -> None:
    pytest.importorskip("matplotlib")
    one = replace(SIZED, work="adapt to one, maml on sinusoid, 4 tasks", tasks=1)
    again = replace(one, work="adapt to one, maml on sinusoid, 32 tasks", cpu=[1.0])
    figure = page.draw_figure(page.Measured(agreements=[], rows=[one, again]))
    assert figure is not None
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [one.rate]
    assert axes.get_xlabel() == "adaptations per second, 1 task in a step"


def test_one_number_of_tasks_is_drawn_as_bars() -> None:
    pytest.importorskip("matplotlib")
    names = [*"abcdef", "mtrl, compiled", "mtrl"]
    rows = [replace(SIZED, variant=name, cpu=[0.004 / (i + 1)]) for i, name in enumerate(names)]
    other = [replace(row, work=row.work.replace("sinusoid", "policy")) for row in rows[1:]]
    figure = page.draw_figure(page.Measured(agreements=[], rows=rows + other))
    assert figure is not None
    for axes, shown in zip(figure.axes, (rows, other), strict=True):
        assert [bar.get_width() for bar in axes.patches] == [row.rate for row in shown]
    colours = [[bar.get_facecolor() for bar in axes.patches] for axes in figure.axes]
    assert colours[0][1:] == colours[1]
    assert len(set(colours[0])) == len(names)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names
