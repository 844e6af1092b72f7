"""Supervised meta-training: reproducible, resumable, refusing what it should, and it learns."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from mtrl.checkpoint import CheckpointStore
from mtrl.envs.registry import get_family
from mtrl.envs.sinusoid import Sinusoid
from mtrl.errors import MtrlError, UsageError
from mtrl.evaluation.trained import EvaluationSettings, load_run
from mtrl.meta.anil import ANIL
from mtrl.meta.cavia import CAVIA
from mtrl.meta.maml import MAML, MetaLearner
from mtrl.meta.meta_sgd import MetaSGD
from mtrl.meta.parameters import MetaParams
from mtrl.meta.reptile import Reptile
from mtrl.meta.supervised import SupervisedConfig, meta_train_supervised
from mtrl.metrics import read_metrics
from mtrl.runs import Run
from mtrl.seeding import numpy_generator

TINY = SupervisedConfig(
    hidden=(6,),
    tasks_per_batch=5,
    chunk=2,
    iterations=20,
    test_tasks=4,
    log_every=5,
    evaluate_every=10,
    checkpoint_every=10,
    compile="off",
)


def train(directory: Path, config: SupervisedConfig = TINY, *, resume: bool = False) -> MetaParams:
    with Run.open(directory, config=config, kind="supervised", resume=resume) as run:
        return meta_train_supervised(config, run)


def metrics(directory: Path) -> bytes:
    return (directory / "metrics.csv").read_bytes()


def steps_saved(directory: Path) -> list[int]:
    return list(CheckpointStore(directory / "checkpoints").steps())


@pytest.fixture(autouse=True)
def _without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    # They take nearly all the time of a run as short as these.
    monkeypatch.setattr("mtrl.meta.watching.Pictures.draw", lambda *arguments: None)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MetaParams]:
    directory = tmp_path_factory.mktemp("reference") / "run"
    return directory, train(directory)


Reference = tuple[Path, MetaParams]


def test_the_same_configuration_gives_the_same_bits(reference: Reference, tmp_path: Path) -> None:
    # The reference run, made before pictures are switched off, has some: they change nothing.
    directory, meta = reference
    again = train(tmp_path / "again")
    assert_close(again.named(), meta.named(), rtol=0, atol=0)
    assert metrics(tmp_path / "again") == metrics(directory)


def test_another_seed_gives_other_parameters_and_numbers(
    reference: Reference, tmp_path: Path
) -> None:
    directory, meta = reference
    other = train(tmp_path / "other", replace(TINY, seed=1))
    assert (other.flat() - meta.flat()).abs().min() > 0
    ours, theirs = (read_metrics(d / "metrics.csv") for d in (directory, tmp_path / "other"))
    assert ours.keys() == theirs.keys()
    for tag in ("meta/train_loss", "adapt/error_after_0", "adapt/error_after_1"):
        assert ours[tag].values[0] != theirs[tag].values[0]


@pytest.mark.parametrize("learner", [MetaSGD(), MAML(first_order=True)], ids=["Meta-SGD", "MAML"])
def test_stopped_half_way_and_resumed_it_ends_bit_equal(
    tmp_path: Path, learner: MetaSGD | MAML
) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    config = replace(TINY, learner=learner)
    expected = train(whole, config)
    # Ten is a multiple of every interval: the last iteration of a run records itself in any case.
    train(halves, replace(config, iterations=10))
    actual = train(halves, config, resume=True)
    assert_close(actual.named(), expected.named(), rtol=0, atol=0)
    assert metrics(halves) == metrics(whole)
    ours, theirs = (CheckpointStore(d / "checkpoints").load() for d in (halves, whole))
    assert (ours.step, ours.state) == (theirs.step, theirs.state)
    assert_close(ours.tensors, theirs.tensors, rtol=0, atol=0)


def test_measuring_more_often_changes_nothing_in_training(
    reference: Reference, tmp_path: Path
) -> None:
    config = replace(TINY, log_every=2, evaluate_every=4, checkpoint_every=3, test_tasks=7)
    often = train(tmp_path / "often", config)
    assert_close(often.named(), reference[1].named(), rtol=0, atol=0)


@pytest.mark.parametrize("chunk", [1, 5])
def test_the_chunk_changes_rounding_only(reference: Reference, tmp_path: Path, chunk: int) -> None:
    meta = train(tmp_path / "run", replace(TINY, chunk=chunk))
    # Twenty updates of Adam amplify single-precision rounding where a gradient is near zero.
    assert_close(meta.named(), reference[1].named(), rtol=0, atol=1e-4)


def test_a_run_works_on_as_many_tasks_as_its_memory_allows_and_is_resumed_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(TINY, chunk=None, chunk_memory=1e-6)
    one_by_one = train(tmp_path / "one", replace(TINY, chunk=1))
    assert_close(train(tmp_path / "small", small).named(), one_by_one.named(), rtol=0, atol=0)
    train(tmp_path / "resumed", replace(small, iterations=10))
    monkeypatch.delattr("mtrl.meta.gradient.tasks_at_once")
    resumed = train(tmp_path / "resumed", small, resume=True)
    assert_close(resumed.named(), one_by_one.named(), rtol=0, atol=0)


def test_the_learning_rate_falls_along_half_a_cosine(tmp_path: Path) -> None:
    train(tmp_path / "run", replace(TINY, schedule="cosine"))
    series = read_metrics(tmp_path / "run" / "metrics.csv")["outer/learning_rate"]
    phase = np.pi * (np.array(series.steps) - 1) / TINY.iterations
    expected = TINY.learning_rate * (1 + np.cos(phase)) / 2
    np.testing.assert_allclose(series.values, expected, rtol=1e-12)


@pytest.mark.parametrize(
    "learner", [ANIL(), CAVIA(), Reptile()], ids=lambda learner: str(learner.name)
)
def test_a_run_of_another_learner_is_loaded_and_evaluated(
    tmp_path: Path, learner: ANIL | CAVIA | Reptile
) -> None:
    meta = train(tmp_path / "run", replace(TINY, learner=learner))
    run = load_run(tmp_path / "run")
    assert run.config.learner == learner
    assert_close(run.meta.named(), meta.named(), rtol=0, atol=0)
    settings = EvaluationSettings(tasks=3, steps=2)
    tasks = run.unseen_tasks(settings)
    adapted, frozen = (run.scores(tasks, settings, adapting=flag) for flag in (True, False))
    np.testing.assert_array_equal(frozen, np.repeat(adapted[:, :1], 3, axis=1))
    assert np.abs(np.diff(adapted)).min() > 0


# Tasks


def test_tasks_listed_in_a_file_are_trained_on(reference: Reference, tmp_path: Path) -> None:
    tasks = Sinusoid().sample(3, np.random.default_rng(1), "train")
    path = write_tasks(tmp_path, [task.to_json() for task in tasks])
    meta = train(tmp_path / "run", replace(TINY, train_tasks=path))
    assert (meta.flat() - reference[1].flat()).abs().max() > 0


def write_tasks(folder: Path, lines: list[str]) -> Path:
    path = folder / "tasks.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_file_with_a_task_of_the_test_split_is_refused_by_name(tmp_path: Path) -> None:
    family = Sinusoid()
    good, bad = (family.sample(1, np.random.default_rng(1), s)[0] for s in ("train", "test"))
    path = write_tasks(tmp_path, [good.to_json(), bad.to_json()])
    with pytest.raises(UsageError, match=f"a test task in training: {bad.id} in {path}"):
        train(tmp_path / "run", replace(TINY, train_tasks=path))


def test_a_test_task_that_says_it_is_for_training_is_refused_all_the_same(tmp_path: Path) -> None:
    family = get_family(TINY.family, TINY.preset)
    held_out = family.sample(TINY.test_tasks, numpy_generator(TINY.seed, "test tasks"), "test")
    disguised = replace(held_out[2], split="train")
    path = write_tasks(tmp_path, [disguised.to_json()])
    with pytest.raises(UsageError, match=f"a test task in training: {disguised.id}"):
        train(tmp_path / "run", replace(TINY, train_tasks=path))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["", ""], "holds no task; write one task in JSON per line"),
        (["not a task"], "tasks.jsonl, line 1: not a task in JSON"),
        (['{"family": "navigation2d", "params": {"goal": [0, 0]}, "split": "train"}'], "sinusoid"),
    ],
)
def test_a_file_that_is_no_list_of_its_tasks_is_refused(
    tmp_path: Path, lines: list[str], message: str
) -> None:
    path = write_tasks(tmp_path, lines)
    with pytest.raises(UsageError, match=message):
        train(tmp_path / "run", replace(TINY, train_tasks=path))


def test_a_missing_file_of_tasks_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read tasks from .*absent.jsonl"):
        train(tmp_path / "run", replace(TINY, train_tasks=tmp_path / "absent.jsonl"))


def test_a_reinforcement_learning_family_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'navigation2d' has no labelled points; train it with"):
        train(tmp_path / "run", replace(TINY, family="navigation2d"))


def test_the_run_lists_the_tasks_it_is_tested_on(reference: Reference) -> None:
    family = get_family(TINY.family, TINY.preset)
    held_out = family.sample(TINY.test_tasks, numpy_generator(TINY.seed, "test tasks"), "test")
    manifest = (reference[0] / "manifest.json").read_text()
    assert all(task.id in manifest for task in held_out)


# Divergence


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint_before(
    tmp_path: Path,
) -> None:
    # Adam's first step has the length of the learning rate: from then on the loss overflows.
    config = replace(TINY, learning_rate=1e25, log_every=1, checkpoint_every=1)
    with pytest.raises(MtrlError, match=r"meta/train_loss is (inf|nan) at step 2; lower"):
        train(tmp_path / "run", config)
    assert steps_saved(tmp_path / "run") == [1]
    saved = CheckpointStore(tmp_path / "run" / "checkpoints").load()
    assert all(bool(torch.isfinite(v).all()) for k, v in saved.tensors.items() if "meta" in k)


def test_parameters_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    config = replace(TINY, learning_rate=1e25, checkpoint_every=1, log_every=1000)
    with pytest.raises(MtrlError, match="is not finite after iteration 2, so it is not saved"):
        train(tmp_path / "run", config)
    assert steps_saved(tmp_path / "run") == [1]


@pytest.mark.parametrize(
    "name",
    ["shots", "query_shots", "tasks_per_batch", "iterations", "chunk", "test_tasks", "test_steps"],
)
def test_counts_below_one_are_refused_by_name(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} must be at least 1, got -3"):
        SupervisedConfig(**{name: -3})


# Learning


LEARNING = SupervisedConfig(
    preset="meta-sgd",
    learning_rate=1e-2,
    iterations=300,
    evaluate_every=300,
    test_tasks=300,
    compile="off",
)


def errors_after(
    directory: Path, learner: MetaLearner, seed: int, config: SupervisedConfig = LEARNING
) -> list[float]:
    """Return the errors before adaptation and after the last of the configuration's steps."""
    train(directory, replace(config, learner=learner, seed=seed))
    series = read_metrics(directory / "metrics.csv")
    return [series[f"adapt/error_after_{k}"].values[-1] for k in (0, config.test_steps)]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_step_pays_and_meta_sgds_pays_more_than_mamls(tmp_path: Path, seed: int) -> None:
    # Sinusoids of varying frequency, 300 meta-iterations: about 3.3 before and 1.3 (MAML) or 0.85
    # (Meta-SGD) after one step on ten points.
    before, maml = errors_after(tmp_path / "maml", MAML(step_size=0.01), seed)
    untouched, meta_sgd = errors_after(tmp_path / "meta-sgd", MetaSGD(), seed)
    assert maml < 0.7 * before
    assert meta_sgd < 0.4 * untouched
    assert meta_sgd < 0.85 * maml


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_anil_and_cavia_pay_in_one_step_and_reptile_in_five(tmp_path: Path, seed: int) -> None:
    # 200 meta-iterations: about 3.3 before; after it 1.7 with ANIL, 1.1 with CAVIA, 0.7 with Reptile. Training
    # on all tasks together, which is Reptile with one inner step, leaves 2.3 after the same five.
    short = replace(LEARNING, iterations=200)
    longer = replace(short, query_shots=40, test_steps=5)
    before, anil = errors_after(tmp_path / "anil", ANIL(), seed, short)
    assert anil < 0.65 * before
    before, cavia = errors_after(tmp_path / "cavia", CAVIA(), seed, short)
    assert cavia < 0.45 * before
    before, reptile = errors_after(tmp_path / "reptile", Reptile(), seed, longer)
    assert reptile < 0.35 * before
    _, joint = errors_after(tmp_path / "joint", Reptile(inner_steps=1), seed, longer)
    assert reptile < 0.5 * joint
