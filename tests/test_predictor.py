"""A predictor adapts as training does, and compiled it predicts the same."""

from pathlib import Path

import pytest
import torch
from tiny_regression import normal
from torch import Tensor
from torch.testing import assert_close

from mtrl.errors import UsageError
from mtrl.evaluation.trained import TrainedRun, load_run
from mtrl.meta.anil import ANIL
from mtrl.meta.cavia import CAVIA, context_size
from mtrl.meta.compiled import has_compiler
from mtrl.meta.few_shot import FewShotAdaptation, FewShotPredictor
from mtrl.meta.maml import MAML, MetaLearner
from mtrl.meta.meta_sgd import MetaSGD
from mtrl.meta.parameters import MetaParams
from mtrl.meta.reinforcement import ReinforcementConfig
from mtrl.meta.supervised import SupervisedConfig, meta_train_supervised
from mtrl.nets import MLP
from mtrl.runs import Run

TASKS, SHOTS, QUERIES = 3, 4, 6
LEARNERS: dict[str, MetaLearner] = {
    "MAML": MAML(step_size=0.1),
    "Meta-SGD": MetaSGD(),
    "ANIL": ANIL(step_size=0.1),
    "CAVIA": CAVIA(context_size=2),
}
each_learner = pytest.mark.parametrize("learner", LEARNERS.values(), ids=LEARNERS)
compiles = pytest.mark.skipif(not has_compiler(torch.device("cpu")), reason="no C++ compiler")


def adaptation(learner: MetaLearner) -> tuple[FewShotAdaptation, MetaParams]:
    network = MLP((2, 5, 4, 1), "tanh", context=context_size(learner))
    how = FewShotAdaptation(network, learner)
    start = how.initial(torch.Generator().manual_seed(0)).named()
    return how, MetaParams.from_named({name: value.double() for name, value in start.items()})


def points(tasks: int = TASKS) -> tuple[tuple[Tensor, Tensor], Tensor]:
    x, y = normal(tasks, SHOTS, 2), normal(tasks, SHOTS, 1, seed=1)
    return (x, y), normal(tasks, QUERIES, 2, seed=2)


@each_learner
@pytest.mark.parametrize("steps", [1, 3])
def test_it_predicts_what_the_adapted_network_gives(learner: MetaLearner, steps: int) -> None:
    how, meta = adaptation(learner)
    support, query_x = points()
    adapted = how.adapted(meta, support, steps)[-1]
    found = FewShotPredictor(how, meta, steps=steps)(support, query_x)
    assert_close(found, how.network(adapted, query_x), rtol=0, atol=0)
    assert not found.requires_grad
    unadapted = how.network(how.adapted(meta, support, 0)[0], query_x)
    assert (found - unadapted).abs().max() > 1e-3


# torch's compiler uses parts of torch that torch deprecates.
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@compiles
@each_learner
def test_compiled_it_predicts_the_same(learner: MetaLearner) -> None:
    how, meta = adaptation(learner)
    plain, compiled = (FewShotPredictor(how, meta, steps=2, compiled=flag) for flag in (0, 1))
    for tasks in (3, 1, 3):
        support, query_x = points(tasks)
        # Fused loops add in another order: rounding of double precision.
        assert_close(compiled(support, query_x), plain(support, query_x), rtol=1e-12, atol=1e-12)


def test_training_on_does_not_change_it() -> None:
    how, meta = adaptation(MetaSGD())
    support, query_x = points()
    predict = FewShotPredictor(how, meta, steps=1)
    before = predict(support, query_x)
    for value in meta.named().values():
        value += 1
    assert_close(predict(support, query_x), before, rtol=0, atol=0)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=compiles)])
def test_points_that_do_not_belong_together_are_named(compiled: bool) -> None:
    how, meta = adaptation(MetaSGD())
    predict = FewShotPredictor(how, meta, steps=1, compiled=compiled)
    (x, y), query_x = points()
    with pytest.raises(ValueError, match="x and query_x need the same tasks, got 3 and 2"):
        predict((x, y), query_x[1:])
    # Without its last axis a label would be subtracted from the outputs of all points.
    for wrong in (y[:, 1:], y[1:], y[..., 0], y.expand(-1, -1, 2)):
        with pytest.raises(ValueError, match=r"labels need the shape of the outputs, \(3, 4, 1\)"):
            predict((x, wrong), query_x)


def test_a_run_gives_the_predictor_of_what_it_learnt(tmp_path: Path) -> None:
    config = SupervisedConfig(
        hidden=(8,), tasks_per_batch=4, iterations=2, test_tasks=2, test_steps=2, checkpoint_every=2
    )
    with Run.open(tmp_path / "run", config=config, kind="supervised") as run:
        meta = meta_train_supervised(config, run)
    trained = load_run(tmp_path / "run")
    x, y, query_x = (torch.linspace(-1, 1, size).view(1, -1, 1) for size in (5, 5, 7))
    how = FewShotAdaptation(MLP((1, 8, 1), "relu"), config.learner)
    for steps in (None, 1):
        expected = FewShotPredictor(how, meta, steps=steps or config.test_steps)
        found = trained.predictor(steps=steps)((x, y), query_x)
        assert_close(found, expected((x, y), query_x), rtol=0, atol=0)


def test_a_run_of_episodes_has_no_predictor(tmp_path: Path) -> None:
    config = ReinforcementConfig()
    run = TrainedRun(directory=tmp_path, config=config, meta=MetaParams({}, {}), iteration=0)
    with pytest.raises(UsageError, match="no supervised run: there are no points to predict"):
        run.predictor()
