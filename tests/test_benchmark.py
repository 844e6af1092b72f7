"""The adaptation benchmark: its variants do the same work, and its tables say what was measured."""

import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mtrl.errors import UsageError
from mtrl.meta import trust_region
from mtrl.meta.outer import TRPO

sys.path.append(str(Path(__file__).resolve().parent.parent / "scripts"))
benchmark = import_module("benchmark_adaptation")
gym_stand_in, measure, navigation, peer, report, sinusoid = (
    import_module(f"benchmarks.{name}")
    for name in (
        "gym_stand_in",
        "measure",
        "navigation",
        "pytorch_maml_rl",
        "report",
        "sinusoid",
    )
)

TINY = navigation.Problem(tasks=3, episodes=4, horizon=10, hidden=(8, 8))


# The variants


def test_the_loop_takes_our_step(monkeypatch: pytest.MonkeyPatch) -> None:
    # One iteration of conjugate gradients depends on the gradient and one Fisher product, more on more.
    for iterations in (1, 4):
        problem = replace(TINY, trpo=replace(TINY.trpo, cg_iterations=iterations))
        assert navigation.disagreement(problem) < 1e-12
        monkeypatch.setattr(trust_region, "SAMPLES_PER_CHUNK", 40)
        assert navigation.disagreement(problem) < 1e-12


def test_a_step_with_another_curvature_is_not_the_loops() -> None:
    assert navigation.disagreement(replace(TINY, trpo=TRPO(curvature_fraction=0.5))) > 1e-2


def test_both_iterations_step_at_the_size_of_the_problem() -> None:
    for variant in (navigation.batched, navigation.looped):
        step = variant(TINY)()
        assert 0 < step.kl <= TINY.trpo.max_kl
        assert step.improvement > 0


def test_our_meta_gradient_is_learn2learns() -> None:
    assert sinusoid.disagreement(3, torch.float64) < 1e-10


def test_a_meta_gradient_at_other_step_sizes_is_not_learn2learns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    theirs = sinusoid.their_learner
    start = sinusoid.start

    def elsewhere(meta: Any) -> Any:
        monkeypatch.setattr(sinusoid, "STEP_SIZE", 0.02)
        return theirs(start(torch.float64))

    monkeypatch.setattr(sinusoid, "their_learner", elsewhere)
    assert sinusoid.disagreement(3, torch.float64) > 1e-3


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


# Measuring


def test_variants_take_turns() -> None:
    calls: list[str] = []
    times = measure.interleaved(
        {name: lambda name=name: calls.append(name) for name in "ab"}, turns=2, seconds=0.0
    )
    assert calls == ["a", "b", "a", "b"]
    assert [len(turns) for turns in times.values()] == [2, 2]


def test_a_turn_lasts_and_divides_by_its_steps() -> None:
    def step() -> None:
        sum(range(20_000))

    ((cpu, wall),) = measure.interleaved({"a": step}, turns=1, seconds=0.05)["a"]
    assert 0 < cpu < 0.02
    assert wall > 0


def test_speedups_compare_within_a_turn() -> None:
    times = {"peer": [(8.0, 9.0), (4.0, 9.0)], "ours": [(2.0, 9.0), (0.5, 9.0)]}
    assert measure.speedups(times, "peer") == {"peer": [1.0, 1.0], "ours": [4.0, 8.0]}


def hoard() -> Callable[[], float]:
    """Return a step that needs 64 MiB for a moment."""
    return lambda: float(torch.ones(16 * 2**20).sum())


@pytest.mark.skipif(not measure.CLEAR.exists(), reason="needs Linux's peak of resident memory")
def test_memory_is_what_a_step_needs_at_its_peak() -> None:
    assert 62 < measure.memory_growth(measure.Build(hoard)) < 70


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


def test_the_file_has_every_turn() -> None:
    header, *lines = report.csv_text([ROW]).splitlines()
    assert header == "work,variant,turn,cpu_s,wall_s,speedup,memory_mib"
    assert lines[2] == "w,ours,2,0.004,0.01,20,1.2"
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("difference", "holds"), [(0.0, True), (1e-10, True), (2e-10, False), (float("nan"), False)]
)
def test_agreement_has_a_tolerance(difference: float, holds: bool) -> None:
    agreement = report.Agreement(what="x", difference=difference, tolerance=1e-10)
    assert agreement.holds is holds
    assert ("DISAGREE" in str(agreement)) is not holds


def test_nothing_is_timed_where_results_disagree(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = report.Agreement(what="x", difference=1.0, tolerance=0.1)
    monkeypatch.setattr(benchmark, "agreements", lambda settings: [wrong])
    monkeypatch.delattr(benchmark, "measure")
    assert benchmark.main(benchmark.Benchmark()) == 1
    output = capsys.readouterr()
    assert output.out == "x: DISAGREE, 1.0e+00 (at most 1e-01)\n"
    assert output.err == "results disagree: nothing is timed\n"


def test_the_page_and_the_file_are_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right = report.Agreement(what="same", difference=0.0, tolerance=0.1)
    monkeypatch.setattr(benchmark, "agreements", lambda settings: [right])
    monkeypatch.setattr(benchmark, "measure", lambda *_: [ROW])
    monkeypatch.setattr(sys, "argv", ["x", "--tasks", "4"])
    settings = benchmark.Benchmark(tasks=(4,), navigation=False, out=tmp_path / "results")
    assert benchmark.main(settings) == 0
    page = (tmp_path / "results" / "benchmark.md").read_text(encoding="utf-8")
    assert "`python scripts/benchmark_adaptation.py --tasks 4`" in page
    assert report.table([ROW]) in page
    assert "- same: agree" in page
    assert (tmp_path / "results" / "benchmark.csv").read_text() == report.csv_text([ROW])
    assert capsys.readouterr().out.endswith(report.table([ROW]) + "\n")
