"""The AQIL reproduction: rewards, shared trainings, statistics, and a page whose numbers are the rows'."""

import csv
import io
import json
import math
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from stable_baselines3.common.callbacks import CallbackList, ConvertCallback

from mtrl.agents.experts import CartPoleExpert, PolicyExpert
from mtrl.agents.q_learning import Budget, CarryOver, GradedReward
from mtrl.reproduce import REPRODUCTIONS, aqil, find_reproduction
from mtrl.reproduce.aqil import jobs_of
from mtrl.reproduce.aqil_results import PAPER, Comparison, claims, rows_of
from mtrl.reproduce.aqil_training import (
    AqilSettings,
    Trained,
    _Episodes,
    carry_over,
    make_agent,
    modes,
    play,
    train,
    training_env,
    upright_rewards,
)
from mtrl.reproduce.aqil_watching import EpisodeLog
from mtrl.reproduce.carry_out import Place
from mtrl.runs import Run

TINY = AqilSettings(
    episodes=6,
    imitation_episodes=3,
    step_limit=40,
    environments=2,
    updates_per_episode=3,
    learning_starts=10,
    exploration_share=0.5,
    settling_updates=4,
    value_updates=5,
    test_episodes=2,
    test_step_limit=30,
)
NAMES = modes(AqilSettings())


def states(degrees: list[float]) -> np.ndarray:
    """Return cart-pole states with these angles."""
    return np.array([[0.1, -0.2, math.radians(angle), 0.3] for angle in degrees])


def test_both_rewards_are_the_papers_formula_in_degrees() -> None:
    seen = states([0.0, 10.0, -20.0])
    assert_allclose(upright_rewards(seen), np.exp([0.0, -0.5, -2.0]), rtol=1e-12)
    graded = GradedReward()(seen, np.array([1, 1, 0]), np.array([1, 0, 1]))
    agreement = 0.8 * np.array([1.0, np.exp(-2.0), np.exp(-2.0)])
    assert_allclose(graded, 0.2 * np.exp([0.0, -0.5, -2.0]) + agreement, rtol=1e-12)


def test_the_environment_fails_at_fifty_degrees_and_pays_for_the_state_it_was_in() -> None:
    env = training_env(replace(TINY, step_limit=300, environments=1))
    env.seed(0)
    seen, over = env.reset(), False
    while not over:
        before = math.degrees(seen[0, 2])
        seen, rewards, dones, infos = env.step(np.array([1]))
        assert rewards[0] == pytest.approx(math.exp(-((before / 10) ** 2) / 2), rel=1e-6)
        over = bool(dones[0])
        last = infos[0]["terminal_observation"] if over else seen[0]
        assert over == (abs(math.degrees(last[2])) > 50 or abs(last[0]) > 2.4)
    assert abs(math.degrees(last[2])) > 12
    # The next episode's first step is paid for its own first state.
    _, rewards, _, _ = env.step(np.array([1]))
    assert rewards[0] == pytest.approx(float(upright_rewards(seen)[0]), rel=1e-6)


def test_an_episode_is_cut_off_at_the_technical_limit_as_a_truncation() -> None:
    env = training_env(replace(TINY, step_limit=25, environments=2))
    env.seed(0)
    seen, expert, ends = env.reset(), CartPoleExpert(), []
    for _ in range(25):
        seen, _, dones, infos = env.step(expert.actions(np.asarray(seen)))
        ends.append((dones.tolist(), [info.get("TimeLimit.truncated", False) for info in infos]))
    assert ends == [([False, False], [False, False])] * 24 + [([True, True], [True, True])]


def test_playing_counts_each_episode_once_and_agreement_by_steps() -> None:
    expert = CartPoleExpert.of_paper("difference")
    returns, agreement = play(
        expert, 3, step_limit=50, seed=0, expert=CartPoleExpert.of_paper("difference")
    )
    assert agreement == 1.0
    assert ((returns > 30) & (returns <= 50)).all()
    contrary = PolicyExpert(lambda seen: 1 - CartPoleExpert.of_paper().actions(seen))
    fallen, agreement = play(contrary, 3, step_limit=50, seed=0, expert=CartPoleExpert.of_paper())
    assert agreement < 0.1
    assert (fallen < 20).all()


def test_the_modes_of_the_full_table_are_the_papers_at_equal_episodes() -> None:
    assert NAMES == ("RL 500", "imitation 250", "imitation 500", "imitation 250 + RL 250 (AQIL)")
    assert PAPER == ((331.63, 1949.39), (593.1, 6082.91), (681.91, 4652.33), (2000.0, 13000.0))


@pytest.fixture(scope="module")
def imitated() -> dict[str, Trained]:
    return train("imitation", TINY, 100)


def test_one_imitation_is_the_beginning_of_the_other_two_modes(
    imitated: dict[str, Trained],
) -> None:
    _, short, long, both = modes(TINY)
    assert list(imitated) == [short, long, both]
    assert len(imitated[short].returns) == 3
    assert len(imitated[long].returns) == len(imitated[both].returns) == 6
    assert_array_equal(imitated[long].returns[:3], imitated[short].returns)
    assert_array_equal(imitated[both].returns[:3], imitated[short].returns)
    assert set(imitated[both].switch) >= {"q_before", "q_after"}
    assert not imitated[short].switch


def test_copying_the_agent_leaves_the_longer_imitation_as_it_would_be(
    imitated: dict[str, Trained],
) -> None:
    alone, book = make_agent(TINY, 100), _Episodes()
    expert = CartPoleExpert.of_paper(TINY.derivative)
    alone.pretrain(Budget(episodes=6), expert=expert, callback=book)
    assert_array_equal(imitated[modes(TINY)[2]].returns, book.returns)


def test_episodes_count_in_the_order_in_which_they_begin() -> None:
    ended: list[tuple[int, float]] = []

    def write(found: dict[str, Any], _: dict[str, Any]) -> bool:
        for slot in np.flatnonzero(found["dones"]).tolist():
            ended.append((slot, float(found["infos"][slot]["episode"]["r"])))
        return True

    book, settings = _Episodes(), replace(TINY, environments=3, episodes=5)
    make_agent(settings, 100).finetune(
        Budget(episodes=5), callback=CallbackList([ConvertCallback(write), book])
    )
    # Which episode a slot plays follows from the order of the ends alone.
    playing, begun, wanted = [0, 1, 2], 3, {}
    for slot, value in ended:
        wanted[playing[slot]] = value
        playing[slot], begun = begun, begun + 1
    assert_array_equal(book.returns, [wanted[number] for number in range(5)])


def test_values_begin_at_those_of_an_expert_that_never_errs() -> None:
    agent = make_agent(replace(TINY, gamma=0.98), 100)
    with torch.no_grad():
        values = agent.q_net(torch.zeros(1, 4))
    assert_allclose(values.numpy(), 50.0, atol=0.5)
    for one, two in zip(agent.q_net.parameters(), agent.q_net_target.parameters(), strict=True):
        assert_array_equal(one.detach().numpy(), two.detach().numpy())


def test_what_passes_over_is_as_the_settings_say() -> None:
    how = replace(TINY, margin=0.5, anchor_weight=0.3, anchor_weight_end=0.2)
    made = carry_over(how)
    assert (made.margin, made.anchor_weight, made.anchor_weight_end) == (0.5, 0.3, 0.2)
    assert made.learning_rate_factor == how.learning_rate_factor
    assert (made.settling_updates, made.value_updates) == (4, 5)
    assert made.exploration == how.exploration[1]


def test_the_same_seed_trains_alike_and_another_does_not() -> None:
    made = [train("reinforcement", TINY, seed)[modes(TINY)[0]] for seed in (100, 100, 101)]
    assert made[0].to_json() == made[1].to_json()
    assert made[0].returns.tolist() != made[2].returns.tolist()
    again = Trained.from_json(json.loads(json.dumps(made[0].to_json())))
    assert again.to_json() == made[0].to_json()


def trained(
    means: list[float], *, seeds: int = 6, spread: float = 10.0
) -> dict[str, list[Trained]]:
    """Return trainings of the full table's modes with these mean returns."""
    rng = np.random.default_rng(0)
    made: dict[str, list[Trained]] = {}
    for mode, mean in zip(NAMES, means, strict=True):
        count = 250 if mode == "imitation 250" else 500
        levels = mean + spread * np.linspace(-1, 1, seeds)
        made[mode] = [
            Trained(
                returns=level + np.linspace(-5, 5, count),
                lengths=np.full(count, 10.0),
                test_returns=level + rng.normal(size=20),
                agreement=0.75,
                switch={"q_before": 40.0, "q_after": 80.0} if "AQIL" in mode else {},
            )
            for level in levels
        ]
    return made


def compared(means: list[float], **options: Any) -> Comparison:
    rows = rows_of(trained(means, **options))
    return Comparison(rows=rows, expert=np.full(4, 500.0), expert_test=np.full(4, 700.0))


def test_statistics_of_a_row_are_over_seeds() -> None:
    row = compared([100, 300, 400, 900]).rows[0]
    assert_allclose(row.means, 100 + 10 * np.linspace(-1, 1, 6))
    assert_allclose(row.bests, row.means + 5)
    assert row.mean.estimate == pytest.approx(100)
    assert 90 < row.mean.low < 100 < row.mean.high < 110
    assert row.cut_off(10) == 1
    assert row.cut_off(11) == 0


def test_a_level_is_reached_when_a_mean_of_episodes_reaches_it() -> None:
    row = compared([100, 300, 400, 900], seeds=2, spread=0.0).rows[0]
    # The moving mean of 25 of a line is its middle value: it passes 100 in the middle.
    step = 10 / 499
    wanted = math.ceil(5 / step - 12) + 25
    assert_array_equal(row.reached(100.0), [wanted, wanted])
    assert np.isnan(row.reached(106.0)).all()
    assert_array_equal(row.reached(90.0), [25, 25])


@pytest.mark.parametrize(
    ("means", "spread", "holds"),
    [
        ([100, 300, 400, 900], 10.0, [True, True]),
        ([100, 300, 400, 299], 10.0, [False, False]),
        ([100, 410, 400, 900], 10.0, [False, True]),
        ([310, 300, 400, 1000], 10.0, [False, True]),
        ([100, 200, 250, 290], 10.0, [True, False]),
        # The mean's ratio is 3.5, but seeds differ by more than the half that is left.
        ([100, 200, 250, 350], 90.0, [True, False]),
        ([100, 300, 400, 900], 2000.0, [True, False]),
    ],
)
def test_claims_are_those_of_the_rows(means: list[float], spread: float, holds: list[bool]) -> None:
    assert list(claims(compared(means, spread=spread)).values()) == holds


def test_the_ratio_is_of_means_with_an_interval_over_seeds() -> None:
    ratio = compared([100, 300, 400, 900]).ratio
    assert ratio.estimate == pytest.approx(9.0)
    assert 8 < ratio.low < 9 < ratio.high < 10.2


def test_long_trainings_come_first(tmp_path: Path) -> None:
    made = jobs_of(TINY, range(2), tmp_path, {})
    wanted = [
        "imitation, seed 0",
        "imitation, seed 1",
        "reinforcement, seed 0",
        "reinforcement, seed 1",
    ]
    assert [one.name for one in made] == wanted


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a quick outcome of tiny trainings of one seed."""
    folder = tmp_path_factory.mktemp("aqil")
    place = Place(
        name="aqil", output=folder / "out", work=folder / "work", quick=True, seed=0, processes=2
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aqil, "QUICK_SETTINGS", TINY)
        patch.setattr(aqil, "QUICK_SEEDS", 1)
        patch.setattr(aqil, "EXPERT_EPISODES", 5)
        yield aqil.aqil_table(place)


def test_a_quick_run_says_so_and_is_not_judged(outcome: Any) -> None:
    assert outcome.met is None
    assert outcome.page.name == "aqil-quick.md"
    assert "scaled-down run" in outcome.text
    assert "claims hold" not in outcome.text
    assert outcome.figure.stat().st_size > 10_000


def test_the_pages_numbers_are_those_of_the_trainings(outcome: Any) -> None:
    (work,) = (outcome.page.parent.parent / "work").iterdir()
    stored = {}
    for file in work.glob("*.json"):
        stored |= json.loads(file.read_text())["values"]
    assert sorted(stored) == sorted(modes(TINY))
    scores = list(csv.DictReader(io.StringIO(outcome.scores.read_text())))
    for mode, values in stored.items():
        found = {row["quantity"]: float(row["value"]) for row in scores if row["mode"] == mode}
        assert found["mean"] == pytest.approx(np.mean(values["returns"]))
        assert found["best"] == max(values["returns"])
        line = next(line for line in outcome.text.splitlines() if line.startswith(f"| {mode} |"))
        paper, ours, best = (re.findall(r"\d+", cell)[0] for cell in line.split("|")[2:5])
        assert int(ours) == round(np.mean(values["returns"]))
        assert int(paper) == round(PAPER[modes(TINY).index(mode)][0])
        assert int(best) == round(PAPER[modes(TINY).index(mode)][1])


def test_the_full_page_states_claims_ratio_limit_and_seeds() -> None:
    comparison, settings = compared([100, 300, 400, 900]), AqilSettings()
    record = asdict_record()
    page = aqil._page(comparison, settings, record)
    assert "**2 of 2 claims hold.**" in page
    assert "AQIL's mean is 9.0 [" in page
    assert f"cut off after {settings.step_limit:,} steps" in page
    assert "| RL 500 | 332 | 100 [" in page
    failed = aqil._page(compared([100, 300, 400, 299]), settings, record)
    assert "**0 of 2 claims hold.**" in failed
    assert failed.count("- NO: ") == 2


def asdict_record() -> Any:
    from mtrl.reproduce.carry_out import record_of

    place = Place(name="aqil", output=Path(), work=Path(), quick=False, seed=0)
    return record_of(place, "abc", 1.0)


def test_the_reproduction_is_registered() -> None:
    assert "aqil" in REPRODUCTIONS
    assert find_reproduction("aqil").builder == "mtrl.reproduce.aqil:aqil_table"


def test_tensorboard_has_every_episode_and_the_switch(tmp_path: Path) -> None:
    agent = make_agent(TINY, 100)
    with Run.open(tmp_path, config=TINY, kind="q-imitation") as run:
        log = EpisodeLog(run, expert_level=50.0)
        expert = CartPoleExpert.of_paper(TINY.derivative)
        agent.pretrain(Budget(episodes=3), expert=expert, callback=log)
        agent.finetune(Budget(episodes=2), carry_over=CarryOver(value_updates=5), callback=log)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "metrics.csv").read_text())))
    by_tag: dict[str, list[float]] = {}
    for row in rows:
        by_tag.setdefault(row["tag"].removeprefix("q_imitation/"), []).append(float(row["value"]))
    assert by_tag["return"] == pytest.approx(log.returns)
    assert len(by_tag["return"]) == len(by_tag["environment_reward"]) == 5
    assert len(by_tag["imitation_reward"]) == len(by_tag["agreement"]) == 3
    assert by_tag["regret"][0] == pytest.approx(50 - log.returns[0])
    assert by_tag["regret"][-1] == pytest.approx(50 - np.mean(log.returns))
    assert by_tag["switch/q_after"][0] != by_tag["switch/q_before"][0]
    assert asdict(TINY)["episodes"] == 6
