"""Experts: the PID's closed form, what each scripted one reaches, discretised torques, policies."""

import sys
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from stable_baselines3 import PPO

from mtrl.agents.demonstrations import record
from mtrl.agents.experts import (
    PID,
    CartPoleExpert,
    Derivative,
    Expert,
    Gains,
    LunarLanderExpert,
    MountainCarContinuousExpert,
    MountainCarExpert,
    PendulumExpert,
    PolicyExpert,
    model_expert,
    policy_expert,
    restart,
    scripted_expert,
    scripted_families,
)
from mtrl.envs import get_family
from mtrl.envs.pendulum import Pendulum
from mtrl.envs.task import Task
from mtrl.errors import MissingExtraError, UsageError
from mtrl.policies import CategoricalPolicy, GaussianPolicy
from mtrl.seeding import numpy_generator, torch_generator

GAINS = Gains(proportional=0.6, integral=0.00625, derivative=0.8)
ERRORS = np.array([[0.5, -1.0], [0.25, 2.0], [-0.125, 0.0], [1.0, 1.0]])
RATES = np.array([[1.0, 0.0], [-2.0, 0.5], [4.0, -1.0], [0.0, 0.25]])


def outputs(controller: PID) -> np.ndarray:
    return np.array([controller.control(e, r) for e, r in zip(ERRORS, RATES, strict=True)])


def test_the_controller_is_its_closed_form() -> None:
    sums = np.cumsum(ERRORS, axis=0)
    steps = np.diff(ERRORS, axis=0, prepend=ERRORS[:1])
    for derivative, slopes in (("velocity", RATES), ("difference", steps)):
        wanted = 0.6 * ERRORS + 0.00625 * sums + 0.8 * slopes
        found = outputs(PID(GAINS, derivative))  # type: ignore[arg-type]
        assert_allclose(found, wanted, rtol=0, atol=1e-15)


@pytest.mark.parametrize("derivative", ["velocity", "difference"])
def test_a_restarted_slot_begins_anew_and_the_other_goes_on(derivative: Derivative) -> None:
    first, whole = PID(GAINS, derivative), PID(GAINS, derivative)
    outputs(first)
    outputs(whole)
    first.restart(np.array([True, False]))
    continued = first.control(ERRORS[0], RATES[0])
    fresh = PID(GAINS, derivative).control(ERRORS[0], RATES[0])
    uninterrupted = whole.control(ERRORS[0], RATES[0])
    assert_array_equal(continued, [fresh[0], uninterrupted[1]])
    assert continued[0] != uninterrupted[0]


def test_a_memory_of_other_slots_is_refused_and_none_is_needed_without_integral() -> None:
    remembering = PID(GAINS)
    remembering.control(ERRORS[0], RATES[0])
    with pytest.raises(UsageError, match="remembers 2 slots and was asked about 1"):
        remembering.control(ERRORS[0, :1], RATES[0, :1])
    remembering.restart(np.ones(2, np.bool_))
    assert remembering.control(ERRORS[0, :1], RATES[0, :1]).shape == (1,)
    memoryless = PID(Gains(proportional=1.0, derivative=0.5))
    assert not memoryless.remembers
    assert_array_equal(memoryless.control(ERRORS[0], RATES[0]), ERRORS[0] + 0.5 * RATES[0])
    assert memoryless.control(ERRORS[0, :1], RATES[0, :1]).shape == (1,)


def test_an_unknown_derivative_is_refused() -> None:
    with pytest.raises(UsageError, match="derivative is 'slope'"):
        PID(GAINS, "slope")  # type: ignore[arg-type]


def test_the_papers_expert_pushes_under_the_pole_and_is_blind_to_the_cart() -> None:
    leaning = np.array([[0.0, 0.0, 0.1, 0.0], [0.0, 0.0, -0.1, 0.0], [2.0, 2.0, -0.1, 0.0]])
    assert_array_equal(CartPoleExpert.of_paper().actions(leaning), [1, 0, 0])
    assert_array_equal(CartPoleExpert(reversed_motor=True).actions(leaning[:2]), [0, 1])
    # To come back from the right, a cart must first push right until the pole leans left.
    away = np.array([[2.0, 0.0, -0.1, 0.0]])
    assert_array_equal(CartPoleExpert.of_paper().actions(away), [0])
    assert_array_equal(CartPoleExpert().actions(away), [1])


def returns_of(name: str, preset: str, tasks: int, episodes: int, **options: Any) -> np.ndarray:
    family: Any = get_family(name, preset)
    drawn = family.sample(tasks, numpy_generator(0, "tasks"), "train")
    found = []
    for task in drawn:
        envs = family.make_vec([task] * episodes)
        expert = scripted_expert(task, **options)
        found.append(record(expert, envs, episodes=episodes, seed=1).returns)
    return np.array(found)


@pytest.mark.parametrize(("preset", "tasks"), [("gymnasium", 1), ("default-physics", 10)])
def test_cart_poles_are_held_to_the_last_step_on_every_seed(preset: str, tasks: int) -> None:
    assert_array_equal(returns_of("cartpole", preset, tasks, 50 // tasks), 500.0)


def test_the_papers_gains_lose_the_cart_before_the_last_step_on_some_seeds() -> None:
    family: Any = get_family("cartpole", "gymnasium")
    envs = family.make_vec([family.task()] * 50)
    returns = record(CartPoleExpert.of_paper(), envs, episodes=50, seed=1).returns
    assert 0.6 < np.mean(returns == 500) < 0.95


@pytest.mark.parametrize(
    ("derivative", "least", "most"), [("velocity", 3000, 6000), ("difference", 1000, 2500)]
)
def test_on_the_papers_cart_pole_its_expert_lasts_thousands_of_steps(
    derivative: Derivative, least: int, most: int
) -> None:
    family: Any = get_family(
        "cartpole", "aqil", ranges={"failure_angle": 50.0, "step_limit": 8_000}
    )
    envs = family.make_vec([family.task()] * 16)
    demos = record(CartPoleExpert.of_paper(derivative), envs, episodes=16, seed=0)
    assert least < demos.lengths.mean() < most


def test_pendulums_swing_up_and_five_torques_are_as_good() -> None:
    free = returns_of("pendulum", "gymnasium", 1, 40)
    family = Pendulum(ranges={}, split_rule="shared", torques=5)
    chosen = returns_of("pendulum", "five-torques", 1, 40, torques=family.torque_choices)
    # 0 is standing upright from the start; a policy that does nothing has about -1200.
    assert free.mean() > -180
    assert chosen.mean() > -180
    assert free.min() > -400


def test_mountain_cars_reach_the_goal_on_every_seed() -> None:
    assert returns_of("mountaincar", "gymnasium", 1, 40).min() > -130
    assert returns_of("mountaincar", "wide", 10, 4).min() > -200
    assert returns_of("mountaincar-continuous", "wide", 10, 4).min() > 80


def test_a_reversed_motor_needs_the_reversed_rule() -> None:
    family: Any = get_family("mountaincar", "wide")
    task = family.task(force=-0.001)
    right = record(scripted_expert(task), family.make(task), episodes=1, seed=0)
    wrong = record(MountainCarExpert(), family.make(task), episodes=1, seed=0)
    assert right.terminated[-1]
    assert wrong.truncated[-1]


def test_experts_are_there_for_the_families_that_are_listed_and_refused_for_others() -> None:
    for name in scripted_families():
        family: Any = get_family(name, "gymnasium")
        env = family.make(family.task())
        action = scripted_expert(family.task()).actions(env.reset(seed=0)[0][None])
        assert env.action_space.contains(action[0])
    with pytest.raises(UsageError, match="no scripted expert for family 'bandit'"):
        scripted_expert(Task(family="bandit", params={}))
    with pytest.raises(UsageError, match="torques are those of a pendulum"):
        scripted_expert(Task(family="mountaincar", params={"force": 1.0}), np.zeros(3))


def test_a_torque_from_the_grid_is_the_continuous_torque_bit_for_bit() -> None:
    free, grid = (
        Pendulum(ranges={}, split_rule="shared"),
        Pendulum(ranges={}, split_rule="shared", torques=7),
    )
    assert_array_equal(grid.torque_choices, np.linspace(-2, 2, 7, dtype=np.float32))
    one, other = free.make_vec([free.task()] * 7), grid.make_vec([grid.task()] * 7)
    assert_array_equal(one.reset(seed=3)[0], other.reset(seed=3)[0])
    rng = np.random.default_rng(0)
    for _ in range(20):
        choices = rng.permutation(7)
        torques = grid.torque_choices[choices][:, None]
        left, right = one.step(torques), other.step(choices)
        assert_array_equal(left[0], right[0])
        assert_array_equal(left[1], right[1])


def test_choices_are_the_same_on_tensors_and_beyond_a_tasks_own_torque_it_clips() -> None:
    family = Pendulum(ranges={"max_torque": (1.0, 4.0)}, torques=3)
    weak, strong = family.task(max_torque=1.0), family.task(max_torque=4.0)
    batch, envs = family.batch([weak, strong]), family.make_vec([weak, strong])
    assert_array_equal(family.torque_choices, [-4, 0, 4])
    envs.reset(seed=0)
    batch.reset(torch.arange(2))
    reached = envs.step(np.array([2, 2]))
    assert_allclose(batch.step(torch.tensor([2, 2]))[1], reached[1], rtol=1e-12)
    free = Pendulum(ranges={"max_torque": (1.0, 4.0)})
    clipped = free.make_vec([free.task(max_torque=1.0), free.task(max_torque=4.0)])
    clipped.reset(seed=0)
    assert_array_equal(clipped.step(np.array([[1.0], [4.0]], np.float32))[0], reached[0])


@pytest.mark.parametrize("torques", [-1, 1])
def test_numbers_of_torques_without_a_choice_are_refused(torques: int) -> None:
    with pytest.raises(UsageError, match=f"torques of 'pendulum' is {torques}"):
        Pendulum(torques=torques)


def test_the_pendulums_choice_is_the_torque_nearest_to_the_free_one() -> None:
    rng = np.random.default_rng(0)
    angle, speed = rng.uniform(-np.pi, np.pi, 200), rng.uniform(-8, 8, 200)
    seen = np.stack([np.cos(angle), np.sin(angle), speed], axis=1)
    grid = np.linspace(-2, 2, 9)
    free = PendulumExpert().actions(seen)
    chosen = grid[PendulumExpert(grid).actions(seen)]
    assert free.shape == (200, 1)
    assert np.abs(free[:, 0] - chosen).max() <= 0.25 + 1e-6
    with pytest.raises(UsageError, match="torques is empty"):
        PendulumExpert(np.zeros(0))


def test_observations_of_another_environment_are_refused() -> None:
    experts: list[tuple[Expert, str]] = [
        (CartPoleExpert(), "cart-pole takes .slots, 4."),
        (PendulumExpert(), "pendulum takes .slots, 3."),
        (MountainCarContinuousExpert(), "mountain-car takes .slots, 2."),
    ]
    for expert, message in experts:
        with pytest.raises(UsageError, match=message):
            expert.actions(np.zeros((1, 7)))


def test_a_model_of_stable_baselines_is_asked_for_what_it_holds_best() -> None:
    family: Any = get_family("cartpole", "gymnasium")
    model = PPO("MlpPolicy", family.make(family.task()), n_steps=8, batch_size=8, seed=0)
    seen = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    with torch.no_grad():
        logits = model.policy.get_distribution(torch.from_numpy(seen)).distribution.logits  # type: ignore[union-attr]
    assert_array_equal(model_expert(model).actions(seen), logits.argmax(1))


def test_a_policy_of_ours_is_asked_for_its_mean_or_its_likeliest_choice() -> None:
    seen = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    generator = torch_generator(0, "policy")
    gaussian = GaussianPolicy(3, 1, (8,))
    params = gaussian.initial(generator)
    stacked = {name: value[None] for name, value in params.items()}
    mean = gaussian(stacked, torch.from_numpy(seen)[None]).mean[0]  # type: ignore[attr-defined]
    # A policy's 1 is the upper bound of the space.
    space = gym.spaces.Box(-2.0, 2.0, (1,), np.float32)
    wanted = (2 * mean).clamp(-2, 2).detach()
    assert_allclose(policy_expert(gaussian, params, space).actions(seen), wanted, rtol=1e-6)
    categorical = CategoricalPolicy(3, 4, (8,))
    params = categorical.initial(generator)
    logits = categorical({k: v[None] for k, v in params.items()}, torch.from_numpy(seen)[None])
    from_one = gym.spaces.Discrete(4, start=1)
    assert_array_equal(
        policy_expert(categorical, params, from_one).actions(seen),
        1 + logits.logits[0].argmax(-1),  # type: ignore[attr-defined]
    )


def test_a_policy_that_answers_about_others_is_refused_and_a_recurrent_model_too() -> None:
    with pytest.raises(UsageError, match="for 2 observations"):
        PolicyExpert(lambda _: np.zeros(3)).actions(np.zeros((2, 1)))

    class Recurrent:
        def predict(self, observation: Any, *, deterministic: bool = False) -> tuple[Any, Any]:
            return np.zeros(len(observation)), (np.zeros(1),)

    with pytest.raises(UsageError, match="recurrent"):
        model_expert(Recurrent()).actions(np.zeros((2, 1)))


def test_restart_reaches_experts_that_remember_and_leaves_others_alone() -> None:
    expert = CartPoleExpert.of_paper()
    seen = np.array([[0.0, 0.0, 0.1, 0.0]])
    expert.actions(seen)
    restart(expert, np.ones(1, np.bool_))
    assert expert.actions(np.repeat(seen, 2, axis=0)).shape == (2,)
    restart(MountainCarExpert(), np.ones(1, np.bool_))


def test_gymnasiums_lander_heuristic_is_asked_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("gymnasium.envs.box2d.lunar_lander")
    module.heuristic = (  # type: ignore[attr-defined]
        lambda env, s: [s[0], s[1]] if env.unwrapped.continuous else int(s[0])
    )
    monkeypatch.setitem(sys.modules, module.__name__, module)
    seen = np.arange(16.0).reshape(2, 8)
    assert_array_equal(LunarLanderExpert().actions(seen), [0, 8])
    assert_array_equal(LunarLanderExpert(continuous=True).actions(seen), [[0, 1], [8, 9]])


def test_without_box2d_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium.envs.box2d.lunar_lander", None)
    with pytest.raises(MissingExtraError, match=r"gymnasium\[box2d\]"):
        LunarLanderExpert()
