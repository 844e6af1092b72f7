"""What is compared, what counts as the same training, and what scores say about sharing."""

import csv
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mtrl.agents.balancing import PCGrad, Sum
from mtrl.agents.networks import (
    CNN,
    MLP,
    MixtureOfExperts,
    NetworkConfig,
    OneHot,
    ParameterCompositions,
    PerTask,
    Shared,
    SoftModules,
    Unshared,
)
from mtrl.cli import main
from mtrl.commands.compare import parse_comparison
from mtrl.compare.page import Effort, Facts, render_page, render_scores
from mtrl.compare.picture import draw_figure
from mtrl.compare.plan import (
    Kind,
    Plan,
    blind_config,
    parse_kinds,
    plain_trunk,
    specialist_config,
    unshared_config,
)
from mtrl.compare.playing import RandomAgent, final_returns
from mtrl.compare.references import cached_references, references_of, with_references
from mtrl.compare.results import chance_of_a_flag, summarise, transfer_flag
from mtrl.compare.trainings import (
    Scores,
    Training,
    specialist_digest,
    specialists_of,
    trainings_of,
)
from mtrl.config import kind_name, to_toml
from mtrl.envs.registry import get_family
from mtrl.errors import MtrlError, UsageError
from mtrl.evaluation.statistics import Interval, iqm
from mtrl.multitask.algorithms import DQN, PPO
from mtrl.multitask.config import MultiTaskConfig, ObjectiveConfig
from mtrl.multitask.evaluation import play_episodes
from mtrl.multitask.tasks import multitask_env, train_tasks

SETTINGS = MultiTaskConfig(
    preset="wide",
    tasks=3,
    network=NetworkConfig(
        trunk=MLP(hidden=(6, 5), activation="tanh"), conditioning=OneHot(), head=PerTask(scale=0.5)
    ),
    balancer=PCGrad(),
    objective=ObjectiveConfig(objective="worst-return"),
    total_steps=301,
    log_every=90,
    evaluate_every=200,
    seed=7,
)
FAMILY = get_family("cartpole", "wide")
TASKS = tuple(train_tasks(SETTINGS, FAMILY))
PLAN = Plan(
    settings=SETTINGS,
    tasks=TASKS,
    kinds=("specialists", "shared", "unshared", "blind"),
    seeds=2,
    episodes=4,
)


# What is trained


def test_every_agent_has_an_equal_budget_the_same_algorithm_and_its_own_network() -> None:
    specialist = specialist_config(SETTINGS, 3, Path("one.jsonl"), 5)
    assert (specialist.total_steps, specialist.log_every, specialist.seed) == (100, 30, 5)
    assert specialist.network == NetworkConfig(
        trunk=MLP(hidden=(6, 5), activation="tanh"), head=Shared(scale=0.5)
    )
    assert (specialist.balancer, specialist.objective) == (Sum(), ObjectiveConfig())
    unshared, blind = unshared_config(SETTINGS), blind_config(SETTINGS)
    assert unshared.network == NetworkConfig(
        trunk=Unshared(hidden=(6, 5), activation="tanh"), head=PerTask(scale=0.5)
    )
    assert blind.network == specialist.network
    for each in (unshared, blind):
        assert each == replace(SETTINGS, network=each.network, balancer=Sum())
    for each in (specialist, unshared, blind):
        assert (each.algorithm, each.envs_per_task) == (SETTINGS.algorithm, SETTINGS.envs_per_task)


@pytest.mark.parametrize(
    ("trunk", "plain"),
    [
        (CNN(units=9), CNN(units=9)),
        (Unshared(hidden=(4,)), MLP(hidden=(4,))),
        (MixtureOfExperts(hidden=(8, 4), activation="elu"), MLP(hidden=(8, 4), activation="elu")),
        (ParameterCompositions(hidden=(4, 4)), MLP(hidden=(4, 4))),
        (SoftModules(encoder=(9,), layers=2, modules=3, width=4), MLP(hidden=(9, 12, 12))),
    ],
    ids=str,
)
def test_the_network_of_one_task_has_the_same_layers(trunk: Any, plain: Any) -> None:
    assert plain_trunk(trunk) == plain


def test_what_the_budget_loses_is_said() -> None:
    assert PLAN.specialist_steps == 100
    assert "each specialist has 100, all of them together 1 fewer" in PLAN.rounding
    assert replace(PLAN, settings=replace(SETTINGS, total_steps=300)).rounding == ""
    assert replace(PLAN, kinds=("shared",)).rounding == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"episodes": 0}, "episodes must be at least 1"),
        ({"tasks": TASKS[:1]}, "fewer than 2 tasks"),
        ({"tasks": (TASKS[0], TASKS[0])}, "twice"),
        ({"settings": replace(SETTINGS, total_steps=2)}, "total_steps is 2 for 3 tasks"),
        ({"settings": replace(SETTINGS, network=NetworkConfig(trunk=Unshared()))}, "unshared"),
        ({"settings": replace(SETTINGS, network=NetworkConfig(trunk=CNN()))}, "images"),
    ],
)
def test_plans_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(PLAN, **changes)


def test_agents_are_named_in_one_order_and_unknown_ones_refused() -> None:
    assert parse_kinds("blind, shared,shared") == ("shared", "blind")
    for text, message in (("shared,all", "agents has 'all'"), (",", "agents is empty")):
        with pytest.raises(UsageError, match=message):
            parse_kinds(text)


# What counts as the same specialist


def test_a_specialist_is_known_by_its_task_and_what_decides_its_numbers() -> None:
    base = specialist_config(SETTINGS, 3, Path("a.jsonl"), 0)
    same = {
        "task_file": Path("b.jsonl"),
        "tasks": 9,
        "log_every": 7,
        "evaluate_every": 7,
        "eval_episodes": 3,
        "checkpoint_every": 7,
    }
    others: dict[str, Any] = {
        "seed": 1,
        "total_steps": 99,
        "envs_per_task": 5,
        "algorithm": PPO(gamma=0.98),
        "network": NetworkConfig(trunk=MLP(hidden=(7,)), head=Shared()),
        "preset": "default-physics",
        "family_options": {"horizon": 100},
    }
    digest = specialist_digest(base, TASKS[0])
    for name, value in same.items():
        assert specialist_digest(replace(base, **{name: value}), TASKS[0]) == digest, name
    changed = {specialist_digest(replace(base, **{n: v}), TASKS[0]) for n, v in others.items()}
    changed |= {digest, specialist_digest(base, TASKS[1])}
    assert len(changed) == len(others) + 2


def test_a_family_s_file_counts_by_its_content(tmp_path: Path) -> None:
    one, copy = tmp_path / "one.toml", tmp_path / "copy.toml"
    for path in (one, copy):
        path.write_text("a = 1\n")
    base = specialist_config(SETTINGS, 3, Path("a.jsonl"), 0)
    digests = [specialist_digest(replace(base, family=str(p)), TASKS[0]) for p in (one, copy)]
    one.write_text("a = 2\n")
    digests.append(specialist_digest(replace(base, family=str(one)), TASKS[0]))
    assert digests[0] == digests[1] != digests[2]


def test_other_balancers_tasks_and_objectives_of_the_shared_agent_find_the_same_specialists(
    tmp_path: Path,
) -> None:
    settings = replace(SETTINGS, balancer=Sum(), objective=ObjectiveConfig(), total_steps=202)
    fewer = replace(PLAN, settings=settings, tasks=TASKS[:2], seeds=1, kinds=("specialists",))
    more = replace(PLAN, settings=replace(SETTINGS, total_steps=303))
    ours = {each.directory for each in specialists_of(fewer, tmp_path)}
    assert len(ours) == 2
    assert ours < {each.directory for each in specialists_of(more, tmp_path)}


def test_trainings_of_all_tasks_come_first_and_pair_up_by_seed(tmp_path: Path) -> None:
    found = trainings_of(PLAN, tmp_path, tmp_path / "cache")
    assert [each.name for each in found[:3]] == [
        "shared agent, seed 7",
        "shared agent, seed 8",
        "unshared agent, seed 7",
    ]
    assert len(found) == 3 * 2 + 3 * 2
    for each in found:
        assert each.config.task_file is not None and each.config.task_file.is_absolute()
        assert tuple(train_tasks(each.config, FAMILY)) == each.tasks
    assert {each.config.seed for each in found[6:]} == {7, 8}


# Scores in files


def finish(training: Training, value: float, random: float = 5.0) -> None:
    """Write scores of `value` into the directory of a training."""
    training.directory.mkdir(parents=True, exist_ok=True)
    returns = np.full((len(training.tasks), training.episodes), value)
    scores = Scores(
        returns=returns, random=0 * returns + random, steps=3, seconds=1.5, commit="abc"
    )
    training.scores_file.write_text(scores.to_json(training.tasks))


def test_scores_come_back_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    (first, second, *_) = specialists_of(PLAN, tmp_path)
    assert first.scores() is None
    finish(first, 0.1)
    scores = first.scores()
    assert scores is not None and scores.random is not None
    assert_array_equal(scores.returns, np.full((1, 4), 0.1))
    assert (scores.steps, scores.seconds, scores.commit) == (3, 1.5, "abc")
    assert replace(first, episodes=5).scores() is None
    good = json.loads(first.scores_file.read_text())
    damaged = [
        "{",
        "[]",
        json.dumps(good | {"tasks": ["0" * 16]}),
        json.dumps(good | {"returns": [[1.0]]}),
        json.dumps(good | {"returns": [[1.0, 2.0, float("nan"), 3.0]]}),
        json.dumps({name: value for name, value in good.items() if name != "steps"}),
    ]
    for content in damaged:
        first.scores_file.write_text(content)
        with pytest.raises(MtrlError, match="scores-4.json is damaged .* delete it"):
            first.scores()
    assert second.scores() is None


def test_a_directory_of_other_settings_is_refused_and_of_others_that_do_not_matter_is_not(
    tmp_path: Path,
) -> None:
    (first, *_) = specialists_of(PLAN, tmp_path)
    assert first.stored_config is first.config
    first.directory.mkdir()
    (first.directory / "manifest.json").write_text("{}")
    kept = replace(first.config, log_every=1, task_file=Path("elsewhere.jsonl"))
    for config, fits in ((kept, True), (replace(kept, seed=99), False)):
        (first.directory / "config.toml").write_text(to_toml(config))
        again = replace(first)
        if fits:
            assert again.stored_config == config
        else:
            with pytest.raises(MtrlError, match="seed differs from that of specialist of task_0"):
                _ = again.stored_config


def test_references_are_the_best_specialist_of_each_task_in_their_order(tmp_path: Path) -> None:
    trainings = specialists_of(PLAN, tmp_path)
    for place, training in enumerate(trainings):
        finish(training, 10.0 * place, random=float(place // 2))
    references = cached_references(PLAN, tmp_path)
    assert references.best == (10.0, 30.0, 50.0)
    assert references.random == (0.0, 1.0, 2.0)
    settings = with_references(SETTINGS, references, tmp_path / "tasks.jsonl")
    assert settings.objective.objective == "worst-regret"
    assert (settings.objective.best, settings.tasks) == (references.best, 3)
    assert references_of(PLAN, trainings) == references
    trainings[3].scores_file.unlink()
    with pytest.raises(UsageError, match="specialist of task_1, seed 8 is not finished"):
        cached_references(PLAN, tmp_path)


# What scores say

SCORES: Mapping[Kind, np.ndarray[Any, Any]] = {
    "specialists": np.array([[10.0, 20.0, 30.0], [12.0, 21.0, 30.0]]),
    "shared": np.array([[15.0, 14.0, 33.0], [16.0, 15.0, 29.0]]),
    "blind": np.array([[1.0, 25.0, 2.0], [1.0, 26.0, 40.0]]),
}
NAMES = ("a", "b", "c")


def test_summary_by_hand() -> None:
    summary = summarise(SCORES, NAMES, random=np.array([1.0, 0.5, 10.0]))
    transfers = [row.transfer for row in summary.tasks]
    assert_allclose([each.estimate for each in transfers if each], [4.5, -6.0, 1.0])
    assert [row.flag for row in summary.tasks] == ["positive", "negative", "not told apart"]
    assert summary.flagged("negative") == ["b"]
    assert summary.tasks[0].scores["shared"].estimate == 15.5
    # Of six sorted scores one is cut from each end: 14, 15, 15, 16 | 29, 33.
    shared = summary.overall["shared"]
    assert shared.iqm.estimate == np.mean([15, 15, 16, 29])
    # Of two scores none is cut.
    assert shared.lowest_iqm == 14.5
    five = summarise(
        {"shared": np.array([[1.0, 9.0], [2, 9], [3, 9], [5, 9], [90, 9]])}, ("a", "b")
    )
    assert five.overall["shared"].lowest_iqm == np.mean([2, 3, 5])
    assert (shared.worst_name, shared.worst.estimate) == ("b", 14.5)
    assert (summary.overall["blind"].worst_name, summary.overall["blind"].worst.estimate) == (
        "a",
        1.0,
    )
    # Specialists have 11, 20.5 and 30 on average: 10, 20 and 20 above random actions.
    normalised = (SCORES["shared"] - [1.0, 0.5, 10.0]) / [10.0, 20.0, 20.0]
    assert shared.normalised is not None
    assert_allclose(shared.normalised.estimate, iqm(normalised))
    # Against specialists: all pairs of a, none of b, and of c 33 beats both and 29 none.
    assert_allclose(summary.improvement["specialists"].estimate, (1 + 0 + 0.5) / 3)
    assert_allclose(summary.improvement["blind"].estimate, (1 + 0 + 0.5) / 3)
    assert "shared" not in summary.improvement


def test_no_scale_without_specialists_above_random_actions() -> None:
    bad = summarise(SCORES, NAMES, random=np.array([1.0, 20.5, 10.0]))
    assert all(row.normalised is None for row in bad.overall.values())
    alone = summarise({"shared": SCORES["shared"]}, NAMES)
    assert alone.improvement == {} and alone.tasks[0].flag is None
    assert alone.overall["shared"].normalised is None


def test_a_score_that_is_not_finite_is_refused() -> None:
    scores = {kind: values.copy() for kind, values in SCORES.items()}
    scores["blind"][1, 2] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        summarise(scores, NAMES)


@pytest.mark.parametrize(
    ("low", "high", "flag"),
    [
        (0.1, 2.0, "positive"),
        (-2.0, -0.1, "negative"),
        (-0.1, 2.0, "not told apart"),
        (0.0, 2.0, "not told apart"),
        (-2.0, 0.0, "not told apart"),
        (0.0, 0.0, "not told apart"),
        (np.nan, np.nan, "not told apart"),
    ],
)
def test_a_flag_needs_the_whole_interval_on_one_side(low: float, high: float, flag: str) -> None:
    assert transfer_flag(Interval(estimate=1.0, low=low, high=high)) == flag


def test_pairs_share_what_their_seed_does_to_both() -> None:
    luck = np.array([[0.0], [50.0], [100.0], [150.0]])
    scores: Mapping[Kind, Any] = {"specialists": luck, "shared": luck + 1}
    (row,) = summarise(scores, ["a"]).tasks
    assert row.transfer is not None and row.flag == "positive"
    assert_allclose((row.transfer.low, row.transfer.high), 1.0)


@pytest.mark.parametrize("seeds", [3, 5])
def test_few_seeds_flag_noise_as_often_as_said(seeds: int) -> None:
    noise = np.random.default_rng(0).normal(size=(2, seeds, 300))
    scores: Mapping[Kind, Any] = {"specialists": noise[0], "shared": noise[1]}
    flags = [
        transfer_flag(Interval(estimate=0.0, low=low, high=high))
        for low, high in zip(
            (noise[1] - noise[0]).min(0), (noise[1] - noise[0]).max(0), strict=True
        )
    ]
    certain = np.mean([flag != "not told apart" for flag in flags])
    assert_allclose(certain, chance_of_a_flag(seeds), atol=0.05)
    few = {kind: values[:, :40] for kind, values in scores.items()}
    rows = summarise(few, [str(i) for i in range(40)]).tasks
    found = np.array([row.flag != "not told apart" for row in rows])
    # Bounds are within the smallest and the largest difference, so that one sign is one flag.
    assert found[[flag != "not told apart" for flag in flags[:40]]].all()
    assert chance_of_a_flag(6) < 0.05 < chance_of_a_flag(5) and chance_of_a_flag(1) == 0


# The files

FACTS = Facts(
    command="mtrl compare --dir x",
    commit="abc",
    processes=2,
    seconds=3.0,
    efforts={
        "specialists": Effort(trainings=6, found=4, steps=1200, seconds=61, commits=["abc", "old"])
    },
)
THREE = replace(PLAN, kinds=("specialists", "shared", "blind"))


def test_the_page_says_what_the_summary_says() -> None:
    summary = summarise(SCORES, NAMES, random=np.array([1.0, 0.5, 10.0]))
    page = render_page(THREE, summary, FACTS, figure="x.png")
    assert "positive on 1, negative on 1 (b), not told apart from none on 1 of 3 tasks" in page
    for row, flag in zip(summary.tasks, ("positive", "negative", "not told apart"), strict=True):
        cells = " | ".join(str(row.scores[kind]) for kind in THREE.kinds)
        sign = "+" if flag != "negative" else ""
        assert f"| {row.name} | {cells} | {sign}{row.transfer} | {flag} |" in page
    for kind, name in (("shared", "shared trunk"), ("blind", "not told the task")):
        row = summary.overall[kind]
        cells = (name, row.iqm, row.normalised, f"{row.lowest_iqm:.2f}", row.worst_name, row.worst)
        assert "| " + " | ".join(map(str, cells)) + " |" in page
    for text in (
        str(summary.improvement["specialists"]),
        "With 2 seeds that happens on 50% of tasks or more",
        "each specialist has 100, all of them together 1 fewer",
        "`mtrl compare --dir x`",
        "| specialists | 6 | 4 | 1,200 | 1:01 | abc, old |",
        f'kind = "{kind_name(PCGrad)}"',
        TASKS[2].id,
    ):
        assert text in page
    many = render_page(replace(THREE, seeds=6), summary, FACTS, figure="x.png")
    assert "of tasks or more where there is no transfer" not in many


def test_the_scores_are_runs_by_tasks_in_full_precision() -> None:
    scores = {"shared": SCORES["shared"] / 3}
    text = render_scores(replace(PLAN, kinds=("shared",)), scores, np.array([0.1, 0.2, 0.3]))
    head, *rows = csv.reader(text.splitlines())
    assert head == ["agent", "seed", "task_0", "task_1", "task_2"]
    assert [row[:2] for row in rows] == [["shared", "7"], ["shared", "8"], ["random", ""]]
    assert_array_equal(np.array([row[2:] for row in rows[:2]], float), SCORES["shared"] / 3)


def test_the_figure_shows_every_mean_and_colours_transfer_by_its_flag() -> None:
    pytest.importorskip("matplotlib")
    summary = summarise(SCORES, NAMES)
    tasks, overall, transfer, _ = draw_figure(THREE, summary).axes
    points = {
        line.get_label(): line.get_ydata() for line in tasks.lines if line.get_marker() != "None"
    }
    assert_array_equal(points["shared trunk"], SCORES["shared"].mean(0))
    assert_array_equal(points["not told the task"], SCORES["blind"].mean(0))
    assert len([line for line in overall.lines if line.get_marker() != "None"]) == 3
    marks = [line for line in transfer.lines if line.get_marker() == "o"]
    assert_array_equal([line.get_ydata()[0] for line in marks], [4.5, -6.0, 1.0])
    assert len({line.get_color() for line in marks}) == 3
    alone = draw_figure(
        replace(THREE, kinds=("shared",)), summarise({"shared": SCORES["shared"]}, NAMES)
    )
    assert len(alone.axes) == 2


# The last episodes


class Leaning:
    """Pushes the way that the pole leans, and remembers what it was told."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.told: list[Any] = []

    def predict(self, observation: Any, *_: Any) -> Any:
        self.told.append(observation[:, 4:])
        return (observation[:, 2] > 0).astype(np.int64), None


def test_every_agent_begins_the_same_episodes_whatever_its_other_tasks() -> None:
    many = Leaning(3)
    together = final_returns(many, FAMILY, TASKS, 3)
    alone = [final_returns(Leaning(1), FAMILY, [task], 3)[0] for task in TASKS]
    assert_array_equal(together, alone)
    assert len(np.unique(together)) > 3
    seen = {tuple(row) for told in many.told for row in told.tolist()}
    assert seen == {(1, 0, 0), (0, 1, 0), (0, 0, 1)}


def test_random_actions_are_random_and_the_same_again() -> None:
    one, other = (final_returns(RandomAgent(FAMILY.action_space), FAMILY, TASKS, 3) for _ in "ab")
    assert_array_equal(one, other)
    env = multitask_env(FAMILY, [TASKS[0]], 30, seed=1)
    actions = RandomAgent(FAMILY.action_space).predict(env.reset())[0]
    assert 5 < actions.sum() < 25
    scores = play_episodes(RandomAgent(FAMILY.action_space), env)
    assert 5 < scores.returns.mean() < 100


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seeds", "0"], "seeds must be at least 1, got 0"),
        (["--processes", "0"], "processes must be at least 1"),
        (["--agents", "shared,everything"], "agents has 'everything'"),
        (["--name", "a/b"], "give the folder as output"),
        (["--tasks", "1"], "fewer than 2 tasks"),
        (["--tasks", "5", "--total-steps", "4"], "total_steps is 4 for 5 tasks"),
        (["--config", "nowhere.toml"], "cannot read nowhere.toml"),
        (["--total-stepz", "4"], "unknown option --total-stepz"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "compare"
    assert main(["compare", "--dir", str(directory), *options]) == 2
    assert message in capsys.readouterr().err
    assert not directory.exists()


def test_a_file_of_settings_comes_before_the_defaults_and_after_options(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(to_toml(replace(SETTINGS, algorithm=DQN(tau=0.5), balancer=Sum())))
    given = ["--dir", "x", "--config", str(path), "--tasks", "4", "--agents", "shared,blind"]
    options = parse_comparison([*given, "--algorithm.gamma", "0.9"])
    assert options.settings.algorithm == DQN(tau=0.5, gamma=0.9)
    assert (options.settings.tasks, options.settings.total_steps) == (4, 301)
    assert (options.directory, options.seeds) == (Path("x"), 5)
