"""Measures of continual learning: by hand, by loops, where undefined, and through the file."""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from numpy.testing import assert_allclose, assert_array_equal

from mtrl.continual_figures import forgetting_heatmap, performance_heatmap, transfer_table
from mtrl.errors import MissingExtraError, MtrlError
from mtrl.evaluation.continual import (
    MATRIX_MEASURES,
    PerformanceMatrix,
    average_performance,
    chaudhry_forgetting,
    cw_backward_transfer,
    cw_forgetting,
    cw_forward_transfer,
    forgetting_so_far,
    gem_backward_transfer,
    gem_forward_transfer,
    interval_table,
    learning_area,
    negative_transfer,
    pooled,
)
from mtrl.evaluation.continual_file import read_matrix, write_matrix

NAN = math.nan
# Row 0 is the untrained policy. Task b is best after stage 1, before its own training.
BY_HAND = [
    [0.1, 0.2, 0.0],
    [0.9, 0.8, 0.1],
    [0.5, 0.7, 0.3],
    [0.6, 0.4, 1.0],
]


def matrix(scores: Any, order: str = "abc", tasks: str = "abc") -> PerformanceMatrix:
    """Return a matrix of tasks named by single letters."""
    return PerformanceMatrix(
        tasks=tuple(tasks), order=tuple(order), seeds=tuple(range(len(scores))), scores=scores
    )


def random_matrix(seeds: int = 4, stages: int = 5) -> PerformanceMatrix:
    names = "abcdefgh"[:stages]
    scores = np.random.default_rng(0).normal(size=(seeds, 1 + stages, stages))
    return matrix(scores, order=names, tasks=names)


@pytest.mark.parametrize(
    ("measure", "values", "mean"),
    [
        (average_performance, [0.6, 0.4, 1.0], 2.0 / 3),
        (cw_forgetting, [0.3, 0.3, 0.0], 0.6 / 3),
        (cw_backward_transfer, [-0.3, -0.3, 0.0], -0.6 / 3),
        (chaudhry_forgetting, [0.3, 0.4, NAN], 0.7 / 2),
        (gem_backward_transfer, [-0.3, -0.3, NAN], -0.6 / 2),
        (gem_forward_transfer, [NAN, 0.6, 0.3], 0.9 / 2),
    ],
)
def test_each_definition_by_hand(measure: Any, values: list[float], mean: float) -> None:
    result = measure(matrix([BY_HAND]))
    assert result.name == measure.__name__ and MATRIX_MEASURES[result.name] is measure
    assert_allclose(result.values, [values], atol=1e-15)
    assert_allclose(result.means, [mean], rtol=1e-14)


def by_loops(scores: np.ndarray) -> dict[str, float]:
    """Return every mean of one seed as the papers write it, R[i, j] with indices from 1."""
    count = scores.shape[1]
    r = {(i, j): float(scores[i, j - 1]) for i in range(count + 1) for j in range(1, count + 1)}
    last = count
    backward = [r[last, i] - r[i, i] for i in range(1, last)]
    forward = [r[i - 1, i] - r[0, i] for i in range(2, last + 1)]
    peaks = [max(r[k, j] for k in range(1, last)) for j in range(1, last)]
    chaudhry = [peak - r[last, j] for j, peak in enumerate(peaks, start=1)]
    forgotten = [r[i, i] - r[last, i] for i in range(1, last + 1)]
    return {
        "average_performance": sum(r[last, i] for i in range(1, last + 1)) / last,
        "cw_forgetting": sum(forgotten) / last,
        "cw_backward_transfer": -sum(forgotten) / last,
        "chaudhry_forgetting": sum(chaudhry) / (last - 1),
        "gem_backward_transfer": sum(backward) / (last - 1),
        "gem_forward_transfer": sum(forward) / (last - 1),
    }


def test_the_definitions_equal_loops_over_their_sums() -> None:
    scores = random_matrix()
    for name, measure in MATRIX_MEASURES.items():
        expected = [by_loops(seed)[name] for seed in scores.scores]
        assert_allclose(measure(scores).means, expected, rtol=1e-12, err_msg=name)


def test_columns_may_be_in_another_order_than_the_stages() -> None:
    plain = matrix([BY_HAND])
    mixed = matrix(np.array([BY_HAND])[:, :, [2, 0, 1]], tasks="cab")
    for measure in MATRIX_MEASURES.values():
        assert_array_equal(measure(mixed).values, measure(plain).values)


def test_a_task_that_is_never_trained_is_in_no_measure() -> None:
    plain = matrix([BY_HAND])
    column = np.full((1, 4, 1), 7.0)
    wider = matrix(np.concatenate([column, plain.scores], axis=2), tasks="xabc")
    for measure in MATRIX_MEASURES.values():
        assert_array_equal(measure(wider).values, measure(plain).values)


def test_a_task_that_returns_counts_once_for_each_of_its_stages() -> None:
    twice = matrix([[[0.0, 0.0], [0.8, 0.1], [0.2, 0.6], [0.9, 0.5]]], order="aba", tasks="ab")
    assert_allclose(cw_forgetting(twice).values, [[-0.1, 0.1, 0.0]], atol=1e-15)
    assert_allclose(gem_forward_transfer(twice).values, [[NAN, 0.1, 0.2]], atol=1e-15)
    assert_allclose(average_performance(twice).means, [(0.9 + 0.5 + 0.9) / 3])


def test_one_stage_has_no_transfer_between_tasks() -> None:
    single = matrix([[[0.1], [0.7]]], order="a", tasks="a")
    assert_array_equal(average_performance(single).means, [0.7])
    assert_array_equal(cw_forgetting(single).means, [0.0])
    for measure in (chaudhry_forgetting, gem_backward_transfer, gem_forward_transfer):
        assert_array_equal(measure(single).values, [[NAN]])
        assert_array_equal(measure(single).means, [NAN])


def test_equal_performance_is_neither_forgotten_nor_transferred() -> None:
    equal = matrix(np.full((3, 4, 3), 0.1 + 0.2))
    for name, measure in MATRIX_MEASURES.items():
        wanted = 0.1 + 0.2 if name == "average_performance" else 0.0
        assert_allclose(measure(equal).means, np.full(3, wanted), rtol=1e-15, err_msg=name)


def test_what_was_not_measured_makes_undefined_only_what_needs_it() -> None:
    scores = np.array([BY_HAND, BY_HAND])
    scores[1, 1, 1] = NAN  # task b before its training: GEM's forward and Chaudhry's maximum
    holes = matrix(scores)
    undefined = {
        name for name, measure in MATRIX_MEASURES.items() if np.isnan(measure(holes).means[1])
    }
    assert undefined == {"chaudhry_forgetting", "gem_forward_transfer"}
    rng = np.random.default_rng(0)
    interval = chaudhry_forgetting(holes).interval(rng)
    assert all(math.isnan(number) for number in (interval.estimate, interval.low, interval.high))
    # The mean of the seeds that happen to have one would have been 0.35.
    assert_allclose(chaudhry_forgetting(holes).means[0], 0.35)


def test_the_matrix_of_the_first_stages_is_that_of_a_shorter_run() -> None:
    short = matrix([BY_HAND]).through(2)
    expected = matrix([BY_HAND[:3]], order="ab")
    assert short.order == expected.order
    assert_array_equal(short.scores, expected.scores)
    assert_allclose(chaudhry_forgetting(short).values, [[0.4, NAN]], atol=1e-15)
    with pytest.raises(ValueError, match="between 1 and 3, got 4"):
        matrix([BY_HAND]).through(4)


def test_forgetting_so_far_ends_in_the_forgetting() -> None:
    lost = forgetting_so_far(matrix([BY_HAND]))
    assert_allclose(lost[0], [[0, NAN, NAN], [0.4, 0, NAN], [0.3, 0.3, 0]], atol=1e-15)
    scores = random_matrix()
    assert_array_equal(forgetting_so_far(scores)[:, -1], cw_forgetting(scores).values)
    for stage in range(1, 6):
        # After every stage it is what a run that ended there would have forgotten.
        expected = cw_forgetting(scores.through(stage)).values
        assert_array_equal(forgetting_so_far(scores)[:, stage - 1, :stage], expected)


def test_learning_area_is_the_integral_of_the_broken_line() -> None:
    assert_allclose(learning_area([0, 10, 40], [0.0, 0.6, 1.0]), (3 + 24) / 40)
    steps = np.array([0, 3, 7, 20])
    curves = np.random.default_rng(1).uniform(size=(2, 3, 4))
    fine = np.linspace(0, 20, 20_001)
    for seed, stage in np.ndindex(2, 3):
        heights = np.interp((fine[1:] + fine[:-1]) / 2, steps, curves[seed, stage])
        assert_allclose(learning_area(steps, curves)[seed, stage], heights.mean(), rtol=1e-9)


@pytest.mark.parametrize("height", [0.1, 0.7, 1.0])
def test_a_flat_curve_has_exactly_its_height(height: float) -> None:
    steps = np.cumsum(np.r_[0.0, np.random.default_rng(2).uniform(0.1, 1, 50)])
    assert_array_equal(learning_area(steps, np.full(51, height)), height)


@pytest.mark.parametrize(
    ("steps", "curves", "message"),
    [
        ([1, 2], [0, 1], "increase from 0"),
        ([0, 2, 2], [0, 1, 1], "increase from 0"),
        ([0], [0], "increase from 0"),
        ([0, 1, 2], [0, 1], "each of the 3 steps"),
    ],
)
def test_a_curve_that_does_not_cover_its_period_is_refused(
    steps: list[int], curves: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        learning_area(steps, curves)


def test_cw_forward_transfer_by_hand() -> None:
    # Faster, much slower (below -1, not clipped), as fast.
    result = cw_forward_transfer([[0.8, 0.0, 0.5]], [[0.5, 0.8, 0.4], [0.7, 0.6, 0.6]])
    assert_allclose(result.values, [[0.5, -0.7 / 0.3, 0.0]], atol=1e-14)
    assert_allclose(result.means, [(0.5 - 0.7 / 0.3) / 3])


def test_cw_forward_transfer_is_undefined_where_scratch_cannot_be_beaten() -> None:
    result = cw_forward_transfer([[0.8, 0.9], [0.8, 1.0]], [[0.6, 1.0], [0.6, 1.0]])
    assert_allclose(result.values, [[0.5, NAN], [0.5, NAN]])
    assert np.isnan(result.means).all()
    first, second = result.stage_intervals(np.random.default_rng(0))
    assert first.estimate == pytest.approx(0.5) and math.isnan(second.estimate)


def test_areas_that_are_not_success_rates_are_refused() -> None:
    with pytest.raises(ValueError, match="areas must be between 0 and 1, got 0.5 to 200.0"):
        cw_forward_transfer([[0.5, 200.0]], [[0.5, 0.5]])
    with pytest.raises(ValueError, match=r"\(1, 2\) and scratch \(1, 1\)"):
        cw_forward_transfer([[0.5, 0.6]], [[0.5]])
    with pytest.raises(ValueError, match="scratch must have shape"):
        cw_forward_transfer([[0.5]], [0.5])


def test_negative_transfer_is_flagged_where_the_seeds_agree() -> None:
    rng = np.random.default_rng(3)
    scratch = 0.6 + 0.02 * rng.normal(size=(5, 4))
    # Worse, better, undecided, not measured.
    areas = 0.6 + 0.02 * rng.normal(size=(6, 4)) + [-0.3, 0.3, 0.0, NAN]
    areas[:, 2] = scratch[:, 2].mean() - 0.001 + 0.02 * np.array([-1, 1, -1, 1, -1, 1])
    flags = negative_transfer(areas, scratch, rng)
    assert_array_equal(flags, [True, False, False, False])
    # A single seed shows a sign and no more.
    assert_array_equal(negative_transfer(areas[:1], scratch, rng), np.zeros(4, dtype=bool))


def test_intervals_contain_the_mean_and_shrink_with_seeds() -> None:
    widths = []
    for seeds in (5, 20, 320):
        measure = cw_forgetting(random_matrix(seeds, stages=3))
        interval = measure.interval(np.random.default_rng(0), resamples=1_000)
        assert interval.estimate == pytest.approx(float(measure.means.mean()))
        assert interval.low < interval.estimate < interval.high
        widths.append(interval.high - interval.low)
    assert widths[0] > 1.3 * widths[1] > 1.3 * 2.5 * widths[2]


def test_most_intervals_hold_the_truth() -> None:
    rng = np.random.default_rng(4)
    hits = 0
    for _ in range(100):
        # The true forgetting is 0.5, of which the mean takes (0.5 + 0) / 2.
        scores = rng.normal(size=(12, 3, 2)) * 0.2 + [[0, 0], [1, 0], [0.5, 1]]
        interval = cw_forgetting(matrix(scores, order="ab", tasks="ab")).interval(
            rng, confidence=0.9, resamples=400
        )
        hits += interval.low <= 0.25 <= interval.high
    assert 80 <= hits <= 98


def test_interval_table_holds_stages_then_the_mean() -> None:
    measures = [cw_forgetting(random_matrix()), gem_forward_transfer(random_matrix())]
    table = interval_table(measures, np.random.default_rng(0), resamples=200)
    assert table.shape == (6, 2, 3)
    for column, measure in enumerate(measures):
        assert_allclose(table[:5, column, 0], measure.values.mean(0))
        assert_allclose(table[5, column, 0], measure.means.mean())
    assert_array_equal(np.isnan(table).any(-1), [[False, True]] + [[False, False]] * 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": ("a", "a", "c")}, "tasks must differ"),
        ({"tasks": ("a", "nan", "c")}, "'nan' cannot name a task"),
        ({"tasks": ("a", "b\n", "c")}, "cannot name a task"),
        ({"tasks": ("a", "", "c")}, "'' cannot name a task"),
        ({"order": ("a", "b", "z")}, "order trains 'z'"),
        ({"order": ()}, "order must not be empty"),
        ({"seeds": (1, 1)}, "seeds must differ"),
        ({"seeds": (-1, 1)}, "seeds must not be negative"),
        ({"seeds": (0,)}, r"shape \(1, 4, 3\) .*got \(2, 4, 3\)"),
    ],
)
def test_what_is_no_matrix_is_refused(change: dict[str, Any], message: str) -> None:
    whole = {"tasks": ("a", "b", "c"), "order": ("a", "b", "c"), "seeds": (0, 1)}
    with pytest.raises(ValueError, match=message):
        PerformanceMatrix(**{**whole, **change}, scores=np.array([BY_HAND, BY_HAND]))


def test_an_infinite_score_is_named_and_scores_cannot_be_changed() -> None:
    scores = np.array([BY_HAND])
    kept = matrix(scores)
    scores[0, 2, 1] = np.inf
    assert kept.scores[0, 2, 1] == 0.7
    with pytest.raises(ValueError, match="seed 0 after stage 2 on task 'b' is infinite"):
        matrix(scores)
    with pytest.raises(ValueError, match="read-only"):
        kept.scores[0, 0, 0] = 1.0


def test_the_file_gives_back_every_bit(tmp_path: Path) -> None:
    scores = np.random.default_rng(5).normal(size=(2, 4, 3)) * 10.0 ** np.arange(-8, 1, 4)
    scores[1, 0, 2] = NAN
    whole = PerformanceMatrix(
        tasks=("push, hard", 'say "é"', "c"),
        order=("c", "push, hard", "c"),
        seeds=(7, 3),
        scores=scores,
    )
    path = tmp_path / "new" / "matrix.csv"
    for _ in range(2):  # the second time over the first
        write_matrix(path, whole)
    back = read_matrix(path)
    assert (back.tasks, back.order, back.seeds) == (whole.tasks, whole.order, whole.seeds)
    assert_array_equal(back.scores.view(np.int64), whole.scores.view(np.int64))
    assert [file.name for file in path.parent.iterdir()] == ["matrix.csv"]


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "matrix.csv"
    write_matrix(path, matrix([BY_HAND, BY_HAND]))
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(MtrlError, match="matrix.csv is not a performance matrix"):
            read_matrix(path)


def replacing(old: str, new: str) -> Callable[[str], str]:
    return lambda text: text.replace(old, new, 1)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (replacing("0.9", "nan"), "line 4 has the score 'nan'"),
        (replacing("0.9", "inf"), "line 4 has the score 'inf'"),
        (replacing("0.9", "0.9x"), "line 4 has the score '0.9x'"),
        (replacing("0.9,", ""), "line 4 has 5 cells, line 2 has 6"),
        (replacing("learnt,a,b", "learnt,a,nan"), "'nan' cannot name a task"),
        (replacing("learnt,a,b", "learnt,a,a"), "tasks must differ"),
        (replacing("2 seeds", "3 seeds"), "8 rows, and line 1 says 3 seeds of 4"),
        (replacing("# performance", "# another"), "line 1 must read '# performance matrix"),
        (replacing("seed,", "run,"), "line 2 must start with seed,stage,learnt"),
        (replacing("\n1,0", "\nnan,0"), "line 7 has the seed 'nan'"),
        (replacing("\n1,2", "\n1,3"), "line 9 must be seed 1, stage 2"),
        (replacing("1,2,b", "1,2,a"), "line 9 must be seed 1, stage 2, learnt 'b'"),
        (replacing("0,0,,", "0,0,a,"), "line 3 must be seed 0, stage 0, learnt ''"),
        (lambda text: text.replace("\n1,", "\n0,"), "seeds must differ"),
        (lambda text: text + "2,0,,0.1,0.2,0.0\n", "9 rows, and line 1 says 2 seeds of 4"),
        (lambda text: text.splitlines(keepends=True)[0], "line 2 must start with"),
        (lambda text: text + '"', "last row is cut"),
        (lambda text: text + '"\n', "not a performance matrix"),
        (lambda text: "", "line 1 must read"),
    ],
)
def test_a_damaged_file_is_refused_by_name(
    tmp_path: Path, damage: Callable[[str], str], message: str
) -> None:
    path = tmp_path / "matrix.csv"
    write_matrix(path, matrix([BY_HAND, BY_HAND]))
    path.write_text(damage(path.read_text()))
    with pytest.raises(MtrlError, match=message) as caught:
        read_matrix(path)
    assert str(path) in str(caught.value)


def test_a_file_of_other_bytes_or_none_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "matrix.csv"
    with pytest.raises(MtrlError, match="cannot read .*matrix.csv"):
        read_matrix(path)
    path.write_bytes(b"seed,stage,learnt,\xff\n")
    with pytest.raises(MtrlError, match="matrix.csv is not a performance matrix"):
        read_matrix(path)


def texts(axes: Axes) -> dict[tuple[int, int], str]:
    """Map (row, column) to what the cell says."""
    return {
        (round(t.get_position()[1]), round(t.get_position()[0])): t.get_text() for t in axes.texts
    }


def test_the_performance_picture_says_every_score_and_frames_what_was_learnt() -> None:
    scores = np.array(BY_HAND)[:, [2, 0, 1]]
    scores[0, 0] = NAN
    axes = performance_heatmap(scores, tasks=["c", "a", "b"], order=["a", "b", "c"]).axes[0]
    said = texts(axes)
    assert {cell: float(text) for cell, text in said.items()} == {
        cell: value for cell, value in np.ndenumerate(scores) if not np.isnan(value)
    }
    frames = [tuple(np.round(line.get_xydata()[:-1].mean(0)).astype(int)) for line in axes.lines]
    assert frames == [(1, 1), (2, 2), (0, 3)]
    with pytest.raises(ValueError, match="4 rows and 2 columns"):
        performance_heatmap(scores, tasks=["a", "b"], order=["a", "b", "a"])


def test_the_forgetting_picture_is_symmetric_about_nothing_lost() -> None:
    lost = forgetting_so_far(matrix([BY_HAND]))[0]
    axes = forgetting_heatmap(lost, order=["a", "b", "c"]).axes[0]
    assert texts(axes).keys() == {(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)}
    assert texts(axes)[1, 0] == "0.40"
    (image,) = axes.images
    low, high = image.get_clim()
    assert -low == high == pytest.approx(0.4)


def test_the_transfer_picture_colours_by_what_is_better_and_flags() -> None:
    cells = np.array([[[0.5, 0.4, 0.6], [-0.2, -0.3, -0.1]], [[-1.0, NAN, NAN], [NAN] * 3]])
    columns = {"CW forgetting": False, "CW forward transfer": True}
    figure = transfer_table(cells, rows=["1: a", "2: b"], columns=columns, negative=[True, False])
    (axes,) = figure.axes
    assert texts(axes)[0, 0] == "0.50 [0.40, 0.60]"
    assert texts(axes)[1, 0] == "-1.00 (no interval)" and texts(axes)[1, 1] == "undefined"
    shades = axes.images[0].get_array()
    assert_allclose(shades.filled(NAN), [[-0.5, -1.0], [1.0, NAN]])
    rows = [label.get_text() for label in axes.get_yticklabels()]
    assert "negative" in rows[0] and "negative" not in rows[1]
    with pytest.raises(ValueError, match="1 flags do not fit 2 rows"):
        transfer_table(cells, rows=["1", "2"], columns=columns, negative=[True])


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.colors", None)
    for draw in (
        lambda: performance_heatmap([[0.0], [1.0]], tasks=["a"], order=["a"]),
        lambda: forgetting_heatmap([[0.0]], order=["a"]),
        lambda: transfer_table(np.zeros((1, 1, 3)), rows=["a"], columns={"b": True}, negative=[0]),
    ):
        with pytest.raises(MissingExtraError, match=r"mtrl-suite\[plot\]"):
            draw()


def test_matrices_of_several_runs_become_one_where_they_fit() -> None:
    def of_seed(seed: int, order: tuple[str, ...] = ("a", "b")) -> PerformanceMatrix:
        scores = np.arange(6.0).reshape(1, 3, 2) + seed
        return PerformanceMatrix(tasks=("a", "b"), order=order, seeds=(seed,), scores=scores)

    together = pooled([of_seed(0), of_seed(3)])
    assert together is not None
    assert together.seeds == (0, 3)
    np.testing.assert_array_equal(together.scores[1] - together.scores[0], np.full((3, 2), 3.0))
    assert pooled([of_seed(0), of_seed(0)]) is None
    assert pooled([of_seed(0), of_seed(3, ("b", "a"))]) is None
