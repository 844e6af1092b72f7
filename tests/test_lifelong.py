"""Facts about a life without resets: ways through the grid, messages, hooks, and what learners keep."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from mtrl.agents.lifelong import (
    Event,
    HomeFood,
    LeftFirst,
    Life,
    Message,
    PolicyPool,
    PoolSettings,
    Progress,
    QMemory,
    QSettings,
    RewardMachine,
    SameAsNeighbours,
    Unbiased,
    unguided,
)
from mtrl.agents.lifelong.hooks import UNDECIDED, Chances, Expiry
from mtrl.agents.lifelong.messages import Transition
from mtrl.agents.lifelong.worlds import MAP, TIME_LIMIT
from mtrl.errors import UsageError

UP, RIGHT, DOWN, LEFT = range(4)
WORLD = HomeFood()
PLAIN, MARKED = WORLD.machine(), WORLD.machine(left_value=0.8, marks_left=True)
# From H, at row 9 and column 6, to F, at row 1 and column 6.
BY_RIGHT = [RIGHT] * 2 + [UP] * 8 + [LEFT] * 2
BY_LEFT = [LEFT] * 5 + [UP] * 8 + [RIGHT] * 5
TO_LEFT_TUNNEL = 5 + 4


def chances(seed: int = 0) -> Chances:
    return Chances(np.random.default_rng(seed))


def back(way: Sequence[int]) -> list[int]:
    return [(action + 2) % 4 for action in reversed(way)]


class Script:
    """Does as it is told and remembers what it heard."""

    def __init__(self, actions: Sequence[int]) -> None:
        self.actions = list(actions)
        self.heard: list[Message] = []
        self.cells: list[int] = []

    def begin(self, cell: int, message: Message) -> None:
        self.heard.append(message)

    def act(self, cell: int) -> int:
        return self.actions.pop(0)

    def hear(self, cell: int, message: Message) -> None:
        self.cells.append(cell)
        self.heard.append(message)

    def greedy(self, goal: str) -> list[int]:
        return [UNDECIDED] * WORLD.cells


def lived(actions: Sequence[int], machine: RewardMachine = PLAIN) -> tuple[Life, Script]:
    script = Script(actions)
    life = Life(WORLD, machine, script, np.random.default_rng(0))
    life.live(len(actions))
    return life, script


# The grid


def test_the_grid_is_the_papers_in_size_and_its_left_way_is_the_longer() -> None:
    assert (len(MAP), {len(line) for line in MAP}) == (11, {11})
    assert WORLD.cells == 74
    home, food = WORLD.cell("H"), WORLD.cell("F")
    left, right = frozenset({WORLD.cell("L")}), frozenset({WORLD.cell("R")})
    for start, end in ((home, food), (food, home)):
        # Eight rows apart, and twice two columns aside by R, twice five by L.
        assert WORLD.distances(end)[start] == WORLD.distances(end, left)[start] == 8 + 4
        assert WORLD.distances(end, right)[start] == 8 + 10 <= TIME_LIMIT
        assert WORLD.distances(end, left | right)[start] is None
    assert WORLD.manhattan(home, food) == 8


def test_moves_are_undone_by_their_opposites_and_walls_stop_them() -> None:
    for cell, row in enumerate(WORLD.moves):
        for action, other in enumerate(row):
            if other != cell:
                assert WORLD.moves[other][(action + 2) % 4] == cell
                assert WORLD.manhattan(cell, other) == 1
    assert sum(len(row) for row in WORLD.neighbours) == sum(
        other != cell for cell, row in enumerate(WORLD.moves) for other in row
    )
    # In the tunnels one cannot turn aside.
    for letter in "LR":
        tunnel = WORLD.cell(letter)
        assert WORLD.moves[tunnel][LEFT] == WORLD.moves[tunnel][RIGHT] == tunnel


def test_a_map_needs_its_places() -> None:
    with pytest.raises(UsageError, match="place 'L' is in the map 0 times"):
        HomeFood(map=[line.replace("L", "#") for line in MAP])


# Messages


def test_an_errand_done_in_time_is_worth_one_and_the_next_begins_where_it_ended() -> None:
    life, script = lived([*BY_RIGHT, *back(BY_RIGHT)])
    assert script.cells[11] == WORLD.cell("F") and script.cells[23] == WORLD.cell("H")
    silent = [Message("food")] * 12, [Message("home")] * 11
    assert script.heard == [
        *silent[0],
        Message("home", 1.0),
        *silent[1],
        Message("food", 1.0),
    ]
    assert (life.steps, life.completed, life.in_time) == (24, 2, 2)


def test_a_goal_expires_after_its_time_limit_and_is_late_from_then_on() -> None:
    waiting = [DOWN] * TIME_LIMIT  # against the wall below home
    life, script = lived([*waiting, *waiting, *BY_RIGHT, *back(BY_RIGHT)])
    assert script.heard[:TIME_LIMIT] == [Message("food")] * TIME_LIMIT
    assert script.heard[TIME_LIMIT] == Message("food late", -1.0)
    assert script.heard[2 * TIME_LIMIT] == Message("food late", -1.0)
    # Done late, it is worth nothing; the errand after it is not late.
    assert script.heard[2 * TIME_LIMIT + 12] == Message("home", 0.0)
    assert script.heard[-1] == Message("food", 1.0)
    assert (life.completed, life.in_time) == (2, 1)


def test_reached_in_the_last_step_is_reached() -> None:
    way = [DOWN] * (TIME_LIMIT - 12) + BY_RIGHT
    assert lived(way)[1].heard[-1] == Message("home", 1.0)
    assert lived([DOWN, *way])[1].heard[-2] == Message("food late", -1.0)


def test_the_left_tunnel_is_a_goals_end_once_in_an_errand_where_it_is_marked() -> None:
    wandering = [*BY_LEFT[:TO_LEFT_TUNNEL], UP, DOWN, *BY_LEFT[TO_LEFT_TUNNEL:]]
    assert [m for m in lived(wandering)[1].heard if m.value is not None] == [Message("home", 1.0)]
    _, script = lived(wandering, MARKED)
    assert [m for m in script.heard if m.value is not None] == [
        Message("food by left", 0.0),
        Message("home", 0.8),
    ]
    assert script.heard[TO_LEFT_TUNNEL] == Message("food by left", 0.0)
    assert lived(BY_RIGHT, MARKED)[1].heard[-1] == Message("home", 1.0)
    late = [DOWN] * TIME_LIMIT + BY_LEFT
    assert [m for m in lived(late, MARKED)[1].heard if m.value is not None] == [
        Message("food late", -1.0),
        Message("food by left late", 0.0),
        Message("home", 0.0),
    ]


def test_there_are_four_goals_and_eight_where_the_left_tunnel_is_marked() -> None:
    assert len(PLAIN.goals) == 4
    assert len(MARKED.goals) == 8


def test_what_a_life_hears_is_a_word_of_its_language_and_other_messages_are_not() -> None:
    for machine in (PLAIN, MARKED):
        actions = np.random.default_rng(0).integers(4, size=20_000).tolist()
        heard = lived(actions, machine)[1].heard
        assert Counter(m.value is None for m in heard)[False] > 500
        assert machine.speaks(heard)
        assert not machine.speaks([Message("home"), *heard])
        assert not machine.speaks([*heard, Message(heard[-1].goal, 2.0)])
        expired = next(place for place, m in enumerate(heard) if m.value is not None)
        guided = heard[expired]._replace(value=-0.97)
        assert not machine.speaks([*heard[:expired], guided])
        assert machine.speaks([*heard[:expired], guided], values=False)
    assert not PLAIN.speaks([Message("food"), Message("food", -1.0)])


def test_a_machine_without_a_time_out_or_with_a_lost_goal_is_refused() -> None:
    out = {Event.TIMED_OUT: Transition("a", -1.0)}
    assert RewardMachine(start="a", time_limit=1, transitions={"a": out}).goals == ("a",)
    with pytest.raises(UsageError, match="'b' never times out"):
        away = {Event.TIMED_OUT: Transition("b", 0.0)}
        RewardMachine(start="a", time_limit=1, transitions={"a": away})
    with pytest.raises(UsageError, match=r"\['b'\] cannot be reached from 'a'"):
        RewardMachine(start="a", time_limit=1, transitions={"a": out, "b": out})
    with pytest.raises(UsageError, match="time_limit is 0"):
        RewardMachine(start="a", time_limit=0, transitions={"a": out})


# Hooks


def expiry(event: Event, value: float, end: str = "H", goal: str = "food") -> Expiry:
    return Expiry(goal, event, value, WORLD.cell("H"), WORLD.cell(end))


def test_progress_raises_a_time_out_by_the_distance_gained_eight_times_in_ten() -> None:
    guidance, luck = Progress(WORLD), chances()
    # R is 4 rows and 2 columns from F, H 8 rows.
    values = [guidance(expiry(Event.TIMED_OUT, -1.0, "R"), luck) for _ in range(2000)]
    counts = Counter(round(value, 12) for value in values)
    assert counts.keys() == {-1.0, -0.98}
    assert stats.binomtest(counts[-0.98], 2000, 0.8).pvalue > 1e-3
    assert stats.binomtest(counts[-0.98], 2000, 0.7).pvalue < 1e-3
    # On the way home the same cell is further away than where it began.
    always = Progress(WORLD, chance=1.0)
    assert_allclose(always(expiry(Event.TIMED_OUT, -1.0, "R", "home late"), luck), -1.06)
    assert always(expiry(Event.REACHED, 1.0, "F"), luck) == 1.0
    assert unguided(expiry(Event.TIMED_OUT, -1.0, "R"), luck) == -1.0


def test_the_left_tunnel_is_praised_eight_times_in_ten_and_nothing_else_is() -> None:
    guidance, luck = LeftFirst(), chances()
    counts = Counter(guidance(expiry(Event.PASSED_LEFT, 0.0, "L"), luck) for _ in range(2000))
    assert counts.keys() == {0.6, -0.2}
    assert stats.binomtest(counts[0.6], 2000, 0.8).pvalue > 1e-3
    for event, value in ((Event.REACHED, 0.8), (Event.TIMED_OUT, -1.0)):
        assert guidance(expiry(event, value), luck) == value
    with pytest.raises(UsageError, match="blame is -0.2 and praise 1.5"):
        LeftFirst(praise=1.5)


def test_guidance_changes_what_is_heard_and_not_what_happens() -> None:
    actions = np.random.default_rng(3).integers(4, size=5000).tolist()
    lives = []
    for guidance in (unguided, LeftFirst()):
        script = Script(actions)
        life = Life(WORLD, MARKED, script, np.random.default_rng(0), guidance)
        life.live(5000)
        lives.append((life, script))
    (_, plain), (_, guided) = lives
    assert plain.cells == guided.cells
    assert [m.goal for m in plain.heard] == [m.goal for m in guided.heard]
    assert any(m.value == 0.6 for m in guided.heard) and all(m.value != 0.6 for m in plain.heard)


def test_the_bias_repeats_a_decided_neighbour_and_is_free_where_there_is_none() -> None:
    home, luck = WORLD.cell("H"), chances()
    undecided = [UNDECIDED] * WORLD.cells
    beside = undecided.copy()
    above, right = WORLD.moves[home][UP], WORLD.moves[home][RIGHT]
    beside[above], beside[right] = DOWN, LEFT
    for share in (1.0, 0.6, 0.0):
        bias = SameAsNeighbours(WORLD, share)
        counts = Counter(bias.draw(home, beside, luck) for _ in range(4000))
        # A quarter of what is not repeated falls on each action.
        expected = [share / 2 * (action in (DOWN, LEFT)) + (1 - share) / 4 for action in range(4)]
        assert_allclose([counts[action] / 4000 for action in range(4)], expected, atol=0.03)
        free = Counter(bias.draw(home, undecided, luck) for _ in range(4000))
        assert_allclose([free[action] / 4000 for action in range(4)], 0.25, atol=0.03)
    plain = Counter(Unbiased().draw(home, beside, luck) for _ in range(4000))
    assert_allclose([plain[action] / 4000 for action in range(4)], 0.25, atol=0.03)
    with pytest.raises(UsageError, match="share is 1.5"):
        SameAsNeighbours(WORLD, 1.5)


def test_biased_policies_go_further_than_unbiased_ones() -> None:
    def span(bias: SameAsNeighbours | Unbiased) -> float:
        found = []
        for seed in range(300):
            pool = PolicyPool(WORLD.cells, bias, np.random.default_rng(seed))
            pool.begin(WORLD.cell("H"), Message("food"))
            cell, seen = WORLD.cell("H"), set()
            for _ in range(TIME_LIMIT):
                seen.add(cell)
                cell = WORLD.moves[cell][pool.act(cell)]
            found.append(len(seen))
        return float(np.mean(found))

    assert span(SameAsNeighbours(WORLD)) > 1.3 * span(Unbiased())


# The pool


def pool_of(settings: PoolSettings, seed: int = 0) -> PolicyPool:
    return PolicyPool(WORLD.cells, Unbiased(), np.random.default_rng(seed), settings)


def policy_with(action: int) -> list[int]:
    return [action] * WORLD.cells


def test_a_full_pool_lets_a_policy_in_that_is_as_good_as_the_worst() -> None:
    pool = pool_of(PoolSettings(size=2))
    for score, action in ((0.5, UP), (-1.0, RIGHT)):
        pool.keep("food", score, policy_with(action))
    pool.keep("food", -1.5, policy_with(DOWN))
    assert [(s, p[0]) for s, p in pool.pools["food"]] == [(0.5, UP), (-1.0, RIGHT)]
    pool.keep("food", -1.0, policy_with(LEFT))
    assert [(s, p[0]) for s, p in pool.pools["food"]] == [(0.5, UP), (-1.0, LEFT)]
    assert pool.greedy("food") == policy_with(UP)
    pool.keep("food", 0.5, policy_with(DOWN))
    assert pool.greedy("food") == policy_with(DOWN)
    assert set(pool.greedy("home")) == {UNDECIDED}


def test_a_policy_is_the_same_from_a_goals_beginning_to_its_end() -> None:
    pool = pool_of(PoolSettings())
    pool.begin(0, Message("food"))
    first = [pool.act(cell) for cell in range(WORLD.cells)]
    pool.hear(0, Message("food"))
    assert [pool.act(cell) for cell in range(WORLD.cells)] == first
    pool.hear(0, Message("home", -0.9))
    assert pool.pools == {"food": [(-0.9, first)]}


def test_goals_have_memories_of_their_own() -> None:
    pool = pool_of(PoolSettings())
    pool.begin(0, Message("food"))
    for goal, value in (("home", 1.0), ("food", -1.0), ("food late", -1.0), ("home", 0.0)):
        pool.act(0)
        pool.hear(0, Message(goal, value))
    scores = {goal: [score for score, _ in kept] for goal, kept in pool.pools.items()}
    # The second policy for food may be the first one run again, scored anew.
    assert scores["home"] == [-1.0] and scores["food late"] == [0.0]
    assert scores["food"][-1] == -1.0


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (PoolSettings(mutate=0.0, rerun=1.0, size=1), "rerun"),
        (PoolSettings(mutate=1.0, rerun=0.0, size=1, more_changes=0.0), "mutated"),
        (PoolSettings(mutate=0.0, rerun=0.0, size=1), "fresh"),
    ],
)
def test_what_is_generated(settings: PoolSettings, expected: str) -> None:
    pool = pool_of(settings)
    pool.keep("food", 1.0, policy_with(UP))
    pool.begin(0, Message("food"))
    # Run again, a policy is out of the pool until it has a new score.
    assert len(pool.pools["food"]) == (expected != "rerun")
    forgotten = sum(action == UNDECIDED for action in pool._policy)
    assert forgotten == {"rerun": 0, "mutated": 1, "fresh": WORLD.cells}[expected]
    pool.act(0)
    pool.hear(0, Message("home", -1.0))
    kept = [(score, policy) for score, policy in pool.pools["food"]]
    assert kept == [(-1.0 if expected == "rerun" else 1.0, policy_with(UP))]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 0}, "size is 0"),
        ({"mutate": 0.8, "rerun": 0.3}, "together at most 1"),
        ({"more_changes": 1.0}, "more_changes is 1.0"),
    ],
)
def test_settings_of_the_pool_are_checked(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PoolSettings(**wrong)  # type: ignore[arg-type]  # wrong on purpose


# Action values


def test_q_updates_equal_hand_values() -> None:
    q = QMemory(
        3,
        Unbiased(),
        np.random.default_rng(0),
        QSettings(step_size=0.5, discount=0.9, exploration=0.0),
    )
    q.begin(0, Message("food"))
    food = q.tables["food"]
    food[0], food[1] = [0.0, 0.4, 0.0, 0.0], [0.0, 0.0, 0.8, 0.0]
    assert q.act(0) == RIGHT
    q.hear(1, Message("food"))
    # 0.4 + 0.5 * (0.9 * 0.8 - 0.4)
    assert_allclose(food[0], [0.0, 0.56, 0.0, 0.0], rtol=1e-15)
    assert q.act(1) == DOWN
    q.hear(2, Message("home", -1.0))
    # 0.8 + 0.5 * (-1 - 0.8): nothing comes from what follows, however good.
    assert_allclose(food[1], [0.0, 0.0, -0.1, 0.0], rtol=1e-15)
    assert q.tables["home"] == [[0.0] * 4 for _ in range(3)]
    assert q.greedy("food") == [RIGHT, UP, UNDECIDED]
    with pytest.raises(UsageError, match="discount is 2"):
        QSettings(discount=2)


def test_q_explores_as_often_as_it_is_told() -> None:
    q = QMemory(1, Unbiased(), np.random.default_rng(0), QSettings(exploration=0.4, step_size=0.0))
    q.begin(0, Message("food"))
    q.tables["food"][0] = [0.0, 1.0, 0.0, 0.0]
    counts = Counter(q.act(0) for _ in range(4000))
    assert_allclose([counts[a] / 4000 for a in range(4)], [0.1, 0.7, 0.1, 0.1], atol=0.03)


# Lives


def life_of(kind: str, seed: int, biased: bool = True) -> Life:
    bias = SameAsNeighbours(WORLD) if biased else Unbiased()
    rng = np.random.default_rng(seed)
    learner = (PolicyPool if kind == "pool" else QMemory)(WORLD.cells, bias, rng)
    return Life(WORLD, PLAIN, learner, np.random.default_rng(seed + 1), Progress(WORLD))


@pytest.mark.parametrize("kind", ["pool", "q"])
def test_a_life_is_its_seeds_and_does_not_depend_on_pauses_or_probes(kind: str) -> None:
    whole, again, paused, other = (life_of(kind, seed) for seed in (0, 0, 0, 5))
    heard = whole.live(9000)
    assert again.live(9000) == heard
    parts = []
    for _ in range(9):
        parts += paused.live(1000)
        paused.probe()
    assert parts == heard and paused.cell == whole.cell
    assert other.live(9000) != heard


@pytest.mark.parametrize("kind", ["pool", "q"])
def test_learners_learn_both_errands(kind: str) -> None:
    life = life_of(kind, 1)
    assert life.probe().success == 0.0
    best, young = 0.0, 0.0
    for decade in range(30):
        life.live(10_000)
        best = max(best, life.probe().success)
        if decade == 2:
            young = life.in_time / life.steps
    assert best == 1.0
    # Errands in time per step of the whole life, of which youth is a tenth.
    assert life.in_time / life.steps > 2 * young


def test_a_probe_follows_the_best_policies_and_says_which_tunnel_they_take() -> None:
    def fixed(way: Sequence[int], start: int) -> list[int]:
        policy, cell = [UNDECIDED] * WORLD.cells, start
        for action in way:
            policy[cell] = action
            cell = WORLD.moves[cell][action]
        return policy

    pool = pool_of(PoolSettings())
    life = Life(WORLD, MARKED, pool, np.random.default_rng(0))
    home, food, tunnel = (WORLD.cell(letter) for letter in "HFL")
    pool.keep("home", 1.0, fixed(back(BY_RIGHT), food))
    assert life.probe().steps == {"food": None, "home": 12}
    assert life.probe().success == 0.5
    pool.keep("food", 0.6, fixed(BY_LEFT[:TO_LEFT_TUNNEL], home))
    assert life.probe().success == 0.5  # nothing is known of how to go on from the tunnel
    pool.keep("food by left", 0.8, fixed(BY_LEFT[TO_LEFT_TUNNEL:], tunnel))
    probe = life.probe()
    assert probe.steps == {"food": 18, "home": 12} and probe.left == {"food": True, "home": False}
    assert probe.success == 1.0 and not probe.by_the_short_way
    pool.keep("food", 1.0, fixed(BY_RIGHT, home))
    assert life.probe().steps == {"food": 12, "home": 12} and life.probe().by_the_short_way
    assert (life.steps, life.cell) == (0, home)
