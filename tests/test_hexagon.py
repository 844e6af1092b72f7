"""Facts about `hexagon`: when walls hit, what is seen of them, who survives, and how hard levels are."""

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3
from stable_baselines3.common.vec_env import DummyVecEnv

from mtrl.commands.task_figures import task_picture
from mtrl.envs.batched import BatchedEnv
from mtrl.envs.hexagon import FURTHEST_SIGHT, LEVELS, START, Hexagon, _next_opening
from mtrl.envs.hexagon_picture import HUB, PIXELS
from mtrl.envs.hexagon_players import greedy_actions, planned_actions
from mtrl.envs.registry import get_family
from mtrl.envs.task import Task
from mtrl.errors import UsageError

LEFT, STAY, RIGHT = 0, 1, 2
# Speeds and distances that floating-point numbers hold exactly.
EXACT = {"wall_speed": 1 / 64, "spacing": 7 / 8, "thickness": 1 / 8, "player_speed": 1 / 4}
ONE = Hexagon(ranges=EXACT, split_rule="shared")
WALL = (238, 154, 60)


def params_of(family: Hexagon, **values: float) -> dict[str, np.ndarray]:
    task = Task(family="hexagon", params={**Hexagon.defaults, **EXACT, **values})
    return family.derive({name: np.array([v]) for name, v in task.params.items()})


def state_of(
    angle: float, distance: float, openings: tuple[float, float, float], turn: float = 0.0
) -> np.ndarray:
    return np.array([[angle, distance, turn, 1.0, *openings, 0.5, 0.5, 0.5]])


def advance(params: dict[str, np.ndarray], state: np.ndarray, action: int) -> tuple[Any, Any, Any]:
    noise = np.array([[0.0, 0.9, 0.5, 0.5, 0.5]])
    return Hexagon().step(params, state, np.array([action]), noise)


def survived(player: str, tasks: list[Task], repeats: int, horizon: int = 500) -> np.ndarray:
    """Return the steps that a player survives, shaped (tasks, repeats)."""
    family = Hexagon(horizon=horizon)
    env = BatchedEnv(family, family.tensors(tasks, repeats=repeats))
    generator = torch.Generator().manual_seed(0)
    total, obs = torch.zeros(env.num_slots, dtype=torch.float64), env.observe()
    for _ in range(horizon):
        if player == "planned":
            action = planned_actions(env.params, env.state)
        elif player == "greedy":
            action = greedy_actions(env.params, obs)
        elif player == "random":
            action = torch.randint(3, (env.num_slots,), generator=generator)
        else:
            action = torch.full((env.num_slots,), STAY)
        obs, reward, terminated, truncated = env.step(action)
        total += reward
        if bool((terminated | truncated).all()):
            break
    return total.reshape(len(tasks), repeats).numpy()


# What happens


def test_who_stands_still_dies_when_the_first_wall_without_an_opening_there_arrives() -> None:
    family = Hexagon(ranges={**EXACT, "openings": 2.0}, split_rule="shared")
    env = BatchedEnv(family, family.tensors([family.task()], repeats=64))
    deaths = torch.zeros(64)
    expected, found = torch.zeros(64), torch.zeros(64, dtype=torch.bool)
    for step in range(1, 400):
        before = env.state.clone()
        _, reward, terminated, _ = env.step(torch.full((64,), STAY))
        angle, opening = before[:, 0], before[:, 4]
        shut = (angle - opening) % 3 >= 1
        # The nearest wall arrives when its distance, a multiple of the speed, is used up.
        arrives = step + (before[:, 1] / EXACT["wall_speed"]).ceil() - 1
        new = shut & ~found & (before[:, 1] > 0)
        expected, found = torch.where(new, arrives, expected), found | new
        deaths = torch.where(terminated & (deaths == 0), torch.tensor(float(step)), deaths)
        assert_array_equal(reward.numpy(), (deaths == 0).numpy())
    assert_array_equal(deaths.numpy(), expected.numpy())
    # By hand: walls arrive after 6/8, 13/8, 20/8, ... lengths at 1/64 a step.
    assert set(deaths.tolist()) <= {48.0 + 56 * k for k in range(6)}
    assert {48.0, 104.0} <= set(deaths.tolist())


def test_the_first_wall_is_survived_by_chance_as_often_as_it_is_open() -> None:
    n = 4000
    for openings, gap in ((1.0, 1.0), (2.0, 1.5), (3.0, 1.0)):
        family = Hexagon(ranges={**EXACT, "openings": openings, "gap": gap}, split_rule="shared")
        env = BatchedEnv(family, family.tensors([family.task()], repeats=n))
        for _ in range(int(START / EXACT["wall_speed"])):
            terminated = env.step(torch.full((n,), STAY))[2]
        alive = n - int(terminated.sum())
        assert stats.binomtest(alive, n, openings * gap / 6).pvalue > 1e-3
        assert stats.binomtest(alive, n, openings * gap / 6 - 0.05).pvalue < 1e-3


@pytest.mark.parametrize(("moves", "alive"), [(7, False), (8, True), (9, True)])
def test_an_opening_is_reached_if_there_are_steps_enough(moves: int, alive: bool) -> None:
    # Two sides to the right of the opening's end, at a quarter of a side per step: eight moves.
    params = params_of(ONE)
    state = state_of(0.0, moves / 64, (2.0, 0.0, 0.0))
    for step in range(moves):
        state, reward, hit = advance(params, state, LEFT)
        assert hit[0] == (step == moves - 1 and not alive)
        assert reward[0] == 1.0 - hit[0]


def test_a_wall_that_passes_shuts_the_player_in_and_then_the_next_one_is_nearest() -> None:
    params = params_of(ONE)
    inside = state_of(2.5, 0.0, (2.0, 4.0, 1.0))
    assert not advance(params, inside, LEFT)[2][0]  # 2.75
    further = state_of(2.75, 0.0, (2.0, 4.0, 1.0))
    assert advance(params, further, LEFT)[2][0]  # 3.0 is outside of [2, 3)
    # After seven more steps the wall, 8/64 thick, still has 1/64 to go.
    state = inside
    for _ in range(7):
        state, _, hit = advance(params, state, STAY)
        assert not hit[0] and state[0, 4] == 2.0
    state, _, _ = advance(params, state, STAY)
    assert_array_equal(state[0, 4:6], [4.0, 1.0])
    assert state[0, 1] == EXACT["spacing"] - EXACT["thickness"]
    assert not advance(params, state, LEFT)[2][0]


def test_around_the_middle_angles_begin_again() -> None:
    params = params_of(ONE)
    assert_allclose(advance(params, state_of(5.9, 0.5, (0, 0, 0)), LEFT)[0][0, 0], 0.15)
    assert_allclose(advance(params, state_of(0.1, 0.5, (0, 0, 0)), RIGHT)[0][0, 0], 5.85)
    # An opening from 5.5 to 6.5 holds 5.75 and 0.25, and not 0.75.
    for angle, hit in ((5.75, False), (0.25, False), (0.75, True), (5.25, True)):
        assert advance(params, state_of(angle, 0.0, (5.5, 0, 0)), STAY)[2][0] == hit


def test_openings_move_by_as_many_sides_as_the_jump_says() -> None:
    n = 20_000
    uniform = (np.arange(n) + 0.5) / n
    params = {"jump": np.full(n, 2.5), "sides": np.full(n, 8.0)}
    after = _next_opening(params, np.full(n, 4.0), uniform)
    values, counts = np.unique(after - 4, return_counts=True)
    assert_array_equal(values, [-3, -2, -1, 1, 2, 3])
    # One side, two and (half as often) three, as often to the left as to the right.
    assert_allclose(counts / n, [0.1, 0.2, 0.2, 0.2, 0.2, 0.1], atol=1e-3)


# What is seen


def test_an_observation_by_hand() -> None:
    family = Hexagon()
    params = params_of(family, gap=1.5, sight=1.2, noise=0.3)
    state = state_of(1.0, 0.25, (2.0, 5.0, 0.0), turn=math.pi / 3)
    state[0, 7:] = [0.5, 1.0, 0.0]  # no blur, 0.3 sides to the left, hidden anyway
    seen = family.observe(params, state)[0]
    assert seen.dtype == np.float32
    sixty = math.pi / 3
    first, second = sixty + 2.75 * sixty, sixty + (5.75 + 0.3) * sixty
    expected = [math.cos(2 * sixty), math.sin(2 * sixty), 0.25]
    expected += [0.25, math.cos(first), math.sin(first)]
    expected += [1.125, math.cos(second), math.sin(second)]
    expected += [1.2, 0.0, 0.0]
    assert_allclose(seen, expected, atol=1e-6)


def test_of_several_openings_the_nearest_is_seen() -> None:
    family = Hexagon()
    params = params_of(family, openings=3.0)
    # Middles at 0.5, 2.5 and 4.5; from 3.7 the last is nearest, from 5.9 the first.
    for angle, middle in ((3.7, 4.5), (5.9, 0.5), (1.4, 0.5), (1.6, 2.5)):
        seen = family.observe(params, state_of(angle, 0.25, (2.0, 0.0, 0.0)))[0]
        radians = middle * math.pi / 3
        assert_allclose(seen[4:6], [math.cos(radians), math.sin(radians)], atol=1e-6)


def test_how_it_is_seen_never_changes_what_happens() -> None:
    plain = LEVELS["one gate"]
    disguise = {"rotation_speed": 0.1, "reversal": 0.5, "noise": 0.4, "sight": 0.75}
    hidden = Task(family="hexagon", params={**plain.params, **disguise})
    family = Hexagon()
    envs = [BatchedEnv(family, family.tensors([task], repeats=64)) for task in (plain, hidden)]
    generator = torch.Generator().manual_seed(1)
    for step in range(60):
        action = torch.randint(3, (64,), generator=generator)
        one, other = (env.step(action) for env in envs)
        for left, right in zip(one[1:], other[1:], strict=True):
            assert_array_equal(left.numpy(), right.numpy())
        assert_array_equal(envs[0].state[:, [0, 1, 4]].numpy(), envs[1].state[:, [0, 1, 4]].numpy())
        if step == 9:  # before the first wall; the view has turned by one radian
            apart = (one[0] - other[0])[:, :2].norm(dim=1)
            assert_allclose(apart.numpy(), 2 * math.sin(0.5), atol=1e-6)
    assert one[2].any()


def test_the_view_turns_by_the_rotation_speed_until_a_wall_turns_it_back() -> None:
    params = params_of(ONE, rotation_speed=0.05, reversal=0.25)
    state = state_of(2.5, -0.1, (2.0, 2.0, 2.0))
    for flip, sense in ((0.3, 1.0), (0.2, -1.0)):
        noise = np.array([[0.0, flip, 0.5, 0.5, 0.5]])
        # At -0.1 the wall needs two more steps to be 1/8 away.
        one, _, _ = Hexagon().step(params, state, np.array([STAY]), noise)
        two, _, _ = Hexagon().step(params, one, np.array([STAY]), noise)
        assert_allclose([one[0, 2], two[0, 2]], [0.05, 0.1])
        assert (one[0, 3], two[0, 3]) == (1.0, sense)


def test_the_picture_has_walls_openings_and_the_player_where_they_are() -> None:
    family = Hexagon()
    task = Task(family="hexagon", params=Hexagon.defaults)
    state = state_of(0.5, 0.5, (0.0, 3.0, 0.0))[0]

    def pixel(image: np.ndarray, degrees: float, height: float) -> tuple[int, ...]:
        scale = PIXELS / 2 / (HUB + FURTHEST_SIGHT)
        x = height * math.cos(math.radians(degrees)) * scale
        y = height * math.sin(math.radians(degrees)) * scale
        return tuple(image[int(PIXELS / 2 - y), int(PIXELS / 2 + x)].tolist())

    image = family.render(task, state)
    assert image.shape == (PIXELS, PIXELS, 3) and image.dtype == np.uint8
    wall = HUB + 0.55
    # The middle of side k is at 30 + 60 k degrees; the opening is side 0, and the player in it.
    seen = [pixel(image, 30 + 60 * side, wall) == WALL for side in range(6)]
    assert seen == [False, True, True, True, True, True]
    assert pixel(image, 30, HUB) == (250, 250, 250)
    # One side further: the next wall is beyond what is seen.
    assert pixel(image, 90, HUB + 1.2) != WALL
    state[2] = math.radians(60)
    turned = family.render(task, state)
    assert [pixel(turned, 30 + 60 * side, wall) == WALL for side in range(6)] == [
        True,
        False,
        True,
        True,
        True,
        True,
    ]
    near = Task(family="hexagon", params={**Hexagon.defaults, "sight": 0.4})
    assert pixel(family.render(near, state), 30, wall) != WALL


# How hard it is


def test_levels_are_in_order_for_random_greedy_and_idle_players_and_can_be_survived() -> None:
    tasks = list(LEVELS.values())
    assert len(tasks) >= 8
    for task in tasks:
        Hexagon().parameters.check(task)
    luck, idle = (survived(player, tasks, 1000) for player in ("random", "idle"))
    greedy, planned = (survived(player, tasks, 60) for player in ("greedy", "planned"))
    assert (np.diff(luck.mean(1)) < 0).all()
    assert (np.diff(idle.mean(1)) < 0).all()
    # A player without foresight survives where it sees well, and the less the more blurred it is.
    assert (greedy[:6] == 500).all()
    assert (np.diff(greedy.mean(1)[5:]) < 0).all() and greedy[-1].mean() < 200
    assert (greedy.mean(1) > 3 * luck.mean(1)).all()
    assert (planned == 500).all()
    # Nobody dies before the first wall arrives.
    first = np.array([math.ceil(START / task.params["wall_speed"]) for task in tasks])
    assert_array_equal(luck.min(1), first - 1)
    assert_array_equal(idle.min(1), first - 1)


def test_every_task_of_the_default_preset_can_be_survived() -> None:
    tasks = Hexagon().sample(200, np.random.default_rng(0), "test")
    assert (survived("planned", tasks, 1) == 500).all()


def test_a_task_that_cannot_be_survived_is_not() -> None:
    """The control of the two tests above: the planning player has no magic."""
    ranges = {"player_speed": 0.05, "wall_speed": 0.045, "spacing": 0.8}
    family = Hexagon(ranges=ranges, split_rule="shared")
    env = BatchedEnv(family, family.tensors([family.task()], repeats=50))
    for _ in range(500):
        terminated = env.step(planned_actions(env.params, env.state))[2]
    assert terminated.all()


# The faces


def faces_family() -> Hexagon:
    return get_family("hexagon", horizon=60)


def test_checkers_pass() -> None:
    env = gym.make("mtrl/Hexagon-v0", render_mode="rgb_array")
    check_env(env.unwrapped)
    check_env_for_sb3(faces_family().make("train"))


def test_vector_sb3_and_device_faces_equal_single_environments() -> None:
    family = faces_family()
    tasks = [
        LEVELS["three gates"],
        LEVELS["storm"],
        *family.sample(2, np.random.default_rng(0), "train"),
    ]
    makers = [lambda task=task: family.make(task) for task in tasks]
    vector, sync = (
        family.make_vec(tasks),
        SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP),
    )
    sb3, dummy = family.make_sb3(tasks), DummyVecEnv(makers)
    batch = BatchedEnv(family, family.tensors(tasks))
    observations = [vector.reset(seed=5)[0], sync.reset(seed=5)[0]]
    sb3.seed(5), dummy.seed(5)
    observations += [sb3.reset(), dummy.reset(), batch.reset(torch.arange(4) + 5).numpy()]
    rng, ended = np.random.default_rng(1), 0
    for _ in range(300):
        for other in observations[1:]:
            assert_array_equal(observations[0], other)
        action = rng.integers(3, size=4)
        results = [vector.step(action), sync.step(action)]
        flat, single = sb3.step(action), dummy.step(action)
        _, reward, terminated, truncated = batch.step(torch.from_numpy(action))
        done = terminated | truncated
        ended += int(terminated.sum())
        observations = [results[0][0], results[1][0], flat[0], single[0]]
        observations.append(batch.reset_where(done).numpy())
        for other in (results[1][1], flat[1], single[1], reward.numpy()):
            assert_array_equal(results[0][1], other)
        for other in (flat[2], single[2], done.numpy()):
            assert_array_equal(results[0][2] | results[0][3], other)
    assert ended > 10


def test_tensors_give_what_arrays_give() -> None:
    family = Hexagon()
    tasks = family.sample(64, np.random.default_rng(3), "train")
    params = family.tensors(tasks)
    rng = np.random.default_rng(4)
    first = rng.random((64, family.reset_noise))
    arrays = family.derive({name: value.numpy() for name, value in params.items()})
    tensors = family.derive(params)
    state, peer = family.reset(arrays, first), family.reset(tensors, torch.from_numpy(first))
    for _ in range(80):
        noise, action = rng.random((64, family.step_noise)), rng.integers(3, size=64)
        state, reward, hit = family.step(arrays, state, action, noise)
        peer, paid, ended = family.step(
            tensors, peer, torch.from_numpy(action), torch.from_numpy(noise)
        )
        assert_allclose(peer.numpy(), state, rtol=0, atol=1e-12)
        assert_array_equal(paid.numpy(), reward)
        assert_array_equal(ended.numpy(), hit)
        seen = family.observe(arrays, state)
        assert_allclose(family.observe(tensors, peer).numpy(), seen, rtol=0, atol=1e-6)
        assert_array_equal(planned_actions(tensors, peer).numpy(), planned_actions(arrays, state))


def test_the_picture_of_its_tasks_shows_them() -> None:
    titles = [axes.get_title() for axes in task_picture(get_family("hexagon", "pattern")).axes]
    assert sum("wall_speed" in title for title in titles) == 4


def test_presets_vary_what_they_say() -> None:
    def varying(preset: str) -> set[str]:
        space = get_family("hexagon", preset).parameters
        return {name for name, how in space.ranges.items() if how.constant is None}

    pattern, representation = varying("pattern"), varying("representation")
    assert pattern == {"wall_speed", "spacing", "gap", "openings", "jump"}
    assert representation == {"rotation_speed", "reversal", "noise", "sight"}
    assert varying("default") == varying("levels") == pattern | representation
    assert get_family("hexagon", "levels").splits_overlap
    rng = np.random.default_rng(0)
    family = get_family("hexagon", "extrapolation")
    assert min(t.params["wall_speed"] for t in family.sample(50, rng, "test")) >= 0.038
    assert max(t.params["wall_speed"] for t in family.sample(50, rng, "train")) < 0.038


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"sides": 2.0}, "sides is 2.0; give a whole number from 3"),
        ({"sides": (4.0, 8.0)}, "or a Choice of them"),
        ({"openings": 1.5}, "openings is 1.5"),
        ({"spacing": 0.12}, "spacing less thickness goes down to 0.02; it must exceed wall_speed"),
        ({"gap": 2.0}, "gap times openings goes up to 6 sides; nothing is left shut"),
        ({"sight": 2.0}, "at most 1.25"),
    ],
)
def test_what_makes_no_game_is_refused(ranges: dict[str, Any], message: str) -> None:
    usual = Hexagon().ranges
    with pytest.raises(UsageError, match=message):
        Hexagon(ranges={**usual, **ranges})
