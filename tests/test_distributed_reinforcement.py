"""Meta-batches of reinforcement learning over two processes: the numbers of one, and how many sums they take."""

from pathlib import Path

import numpy as np
import pytest
import torch
from distributed_worker import (
    META_STEPS,
    OUTER_UPDATES,
    RL_ARGUMENTS,
    RL_RUNS,
    outer_steps,
)
from safetensors.torch import load_file
from torch.testing import assert_close
from two_processes import learned, train_alone, train_together

from mtrl.meta.distributed import Processes
from mtrl.metrics import read_metrics
from mtrl.rollouts import Chance, Rollout

# Conjugate gradients amplify the rounding of sums in another order; the systems here are small and damped.
DOUBLE = {"rtol": 1e-9, "atol": 1e-11}
SINGLE = {"rtol": 2e-3, "atol": 2e-4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where two processes have trained everything that is looked at here."""
    place = tmp_path_factory.mktemp("together")
    return train_together(place, "reinforcement", 3 + len(RL_RUNS))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where one process has trained the same."""
    place = tmp_path_factory.mktemp("alone")
    return train_alone(
        place,
        [
            ["rl", "--dir", str(place / name), *RL_ARGUMENTS, *more]
            for name, more in RL_RUNS.items()
        ],
    )


def taken(folder: Path, rank: int) -> dict[str, torch.Tensor]:
    return load_file(folder / f"outer-{rank}.safetensors")


@pytest.mark.parametrize("name", OUTER_UPDATES)
def test_two_processes_take_the_outer_steps_of_one_up_to_rounding(name: str, folder: Path) -> None:
    expected = outer_steps(Processes(), OUTER_UPDATES[name])
    found = taken(folder, 0)
    assert_close({key: found[f"{name}/{key}"] for key in expected}, expected, **DOUBLE)


def test_both_processes_hold_the_same_bits(folder: Path) -> None:
    assert_close(taken(folder, 0), taken(folder, 1), rtol=0, atol=0)


def test_promp_takes_a_sum_per_step_and_trpo_one_per_look_at_the_batch(folder: Path) -> None:
    whole, thin, promp = np.diff([0, *taken(folder, 0)["sums"].tolist()])
    steps = META_STEPS // 2
    # Each step of Adam, and loss and divergence before the first and after the last.
    assert promp == steps * (OUTER_UPDATES["promp"].steps + 2)
    # The gradient, ten products, and one to fifteen tries of the line search.
    for count in (whole, thin):
        assert steps * (1 + 10 + 1) <= count <= steps * (1 + 10 + 15)


@pytest.mark.parametrize("name", RL_RUNS)
def test_a_run_of_two_processes_is_that_of_one_up_to_rounding(
    name: str, folder: Path, alone: Path
) -> None:
    series, expected = (read_metrics(each / name / "metrics.csv") for each in (folder, alone))
    assert series.keys() == expected.keys()
    for tag, one in expected.items():
        assert series[tag].steps == one.steps
        np.testing.assert_allclose(
            series[tag].values, one.values, rtol=2e-3, atol=2e-5, err_msg=tag
        )
    # Whole numbers are the same ones.
    assert series["meta/env_steps"].values == expected["meta/env_steps"].values
    assert_close(learned(folder / name), learned(alone / name), **SINGLE)


def test_a_signal_to_one_process_stops_both_and_they_resume_to_the_same_bits(folder: Path) -> None:
    for rank in (0, 1):
        assert (folder / f"codes-{rank}").read_text() == "0 0 0 143 0"
    assert_close(learned(folder / "stopped"), learned(folder / "promp"), rtol=0, atol=0)
    first, second = (folder / name / "metrics.csv" for name in ("stopped", "promp"))
    assert first.read_bytes() == second.read_bytes()


def test_chance_of_some_tasks_is_their_part_of_that_of_all() -> None:
    seeds = torch.arange(12).view(4, 3)
    noise = torch.arange(5 * 12 * 2).view(5, 4, 3, 2)
    some = Chance(seeds, noise).of(slice(2, 4))
    assert_close(some.seeds, seeds[2:], rtol=0, atol=0)
    assert_close(some.noise, noise[:, 2:], rtol=0, atol=0)


def test_a_rollout_that_is_filled_up_and_cut_again_is_itself() -> None:
    def numbers(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=torch.Generator().manual_seed(len(shape)))

    rollout = Rollout(
        observations=numbers(2, 3, 4, 5),
        actions=numbers(2, 3, 4, 2),
        log_probs=numbers(2, 3, 4),
        rewards=numbers(2, 3, 4),
        mask=torch.ones(2, 3, 4),
        terminated=torch.zeros(2, 3, 4),
        final_observations=numbers(2, 3, 5),
    )
    longer = rollout.lasting(7)
    assert longer.observations.shape == (2, 3, 7, 5)
    assert longer.mask[:, :, 4:].sum() == 0
    assert_close(longer.returns, rollout.returns, rtol=0, atol=0)
    assert longer.longest == 4
    for name, value in vars(longer.trimmed()).items():
        assert_close(value, getattr(rollout, name), rtol=0, atol=0)
