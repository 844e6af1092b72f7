"""Facts about the sinusoid tasks."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from torch.testing import assert_close

from mtrl.envs import get_family
from mtrl.envs.sinusoid import Sinusoid
from mtrl.envs.task import Task

META_SGD = Sinusoid(min_frequency=0.8, max_frequency=1.2)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("preset", "frequency"), [("maml", (1.0, 1.0)), ("meta-sgd", (0.8, 1.2))])
def test_presets_draw_from_the_papers_ranges(preset: str, frequency: tuple[float, float]) -> None:
    family = get_family("sinusoid", preset)
    params = family.sample_params(10_000, np.random.default_rng(0), "train")
    for name, (low, high) in {
        "amplitude": (0.1, 5.0),
        "phase": (0.0, math.pi),
        "frequency": frequency,
    }.items():
        if low == high:
            assert_array_equal(params[name], np.full(10_000, low, np.float32))
        else:
            assert stats.kstest(params[name], "uniform", (low, high - low)).pvalue > 0.01


def test_labels_are_the_sine_of_the_inputs() -> None:
    tasks = META_SGD.sample(3, np.random.default_rng(0), "test")
    support, query = META_SGD.draw(tasks, 5, 7, _generator())
    for batch, shots in ((support, 5), (query, 7)):
        assert batch.x.shape == batch.y.shape == (3, shots, 1)
        assert batch.x.dtype == batch.y.dtype == torch.float32
        for task, x, y in zip(tasks, batch.x.double().numpy(), batch.y.numpy(), strict=True):
            p = task.params
            # 2e-5: float32 arguments up to 10, times an amplitude of up to 5.
            expected = p["amplitude"] * np.sin(p["frequency"] * x + p["phase"])
            assert_allclose(y, expected, atol=2e-5)


def test_inputs_are_uniform_and_query_is_not_support() -> None:
    tasks = META_SGD.sample(100, np.random.default_rng(0), "train")
    support, query = META_SGD.draw(tasks, 50, 50, _generator())
    for batch in (support, query):
        assert stats.kstest(batch.x.numpy().ravel(), "uniform", (-5, 10)).pvalue > 0.01
    assert not np.isin(support.x.numpy(), query.x.numpy()).all(axis=1).any()


def test_stacked_parameters_draw_what_tasks_draw() -> None:
    tasks = META_SGD.sample(8, np.random.default_rng(3), "train")
    params = META_SGD.sample_params(8, np.random.default_rng(3), "train")
    for one, other in zip(
        META_SGD.draw(tasks, 5, 5, _generator()),
        META_SGD.draw(params, 5, 5, _generator()),
        strict=True,
    ):
        assert_close(one, other, rtol=0, atol=0)


def test_the_generator_decides_the_points() -> None:
    params = META_SGD.sample_params(4, np.random.default_rng(0), "train")
    first = META_SGD.draw(params, 5, 5, _generator(1))
    assert_close(first, META_SGD.draw(params, 5, 5, _generator(1)), rtol=0, atol=0)
    assert (first[0].x != META_SGD.draw(params, 5, 5, _generator(2))[0].x).all()


def test_predicting_zero_costs_the_published_anchor() -> None:
    """E[A^2] E[sin^2] = (5^3 - 0.1^3) / (3 * 4.9) / 2 = 4.25: the phase covers half a period."""
    exact = (5**3 - 0.1**3) / (3 * 4.9) / 2
    assert round(exact, 2) == 4.25
    params = META_SGD.sample_params(20_000, np.random.default_rng(0), "test")
    per_task = (META_SGD.draw(params, 0, 20, _generator())[1].y ** 2).mean(dim=(1, 2)).numpy()
    assert abs(per_task.mean() - exact) < 4 * per_task.std() / 20_000**0.5


def test_a_known_task() -> None:
    task = Task(family="sinusoid", params={"amplitude": 2.0, "frequency": 1.0, "phase": 0.0})
    params = {name: np.array([value]) for name, value in task.params.items()}
    x = torch.tensor([[[0.0], [math.pi / 2], [-math.pi / 2]]], dtype=torch.float64)
    assert_close(
        Sinusoid().targets(params, x), torch.tensor([[[0.0], [2.0], [-2.0]]], dtype=torch.float64)
    )
    assert_array_equal(Sinusoid().context(task), np.float32([2.0, 0.0]))
    assert_array_equal(META_SGD.context(task), np.float32([2.0, 1.0, 0.0]))
