"""Training PEARL: who meets which transitions, exact resumption, evaluation, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from mtrl.agents.pearl.belief import Belief
from mtrl.agents.pearl.policy import LatentPolicy
from mtrl.agents.pearl.replay import Transitions
from mtrl.agents.pearl.settings import PEARL
from mtrl.agents.pearl.update import PearlUpdate
from mtrl.checkpoint import CheckpointStore
from mtrl.envs.navigation2d import Navigation2D
from mtrl.envs.task import Task
from mtrl.errors import UsageError
from mtrl.evaluation.trained import EvaluationSettings, load_run
from mtrl.interrupts import Interrupted
from mtrl.meta.kinds import KINDS
from mtrl.meta.parameters import MetaParams
from mtrl.meta.pearl.config import PearlConfig, pearl_family, pearl_tasks
from mtrl.meta.pearl.training import Collector, build_latent_policy, train_pearl
from mtrl.metrics import read_metrics
from mtrl.runs import Run
from mtrl.seeding import numpy_generator

HORIZON = 6
TINY = PearlConfig(
    family_options={"horizon": HORIZON},
    learner=PEARL(latent=2, hidden=(8,), encoder_hidden=(8,), batch_size=12, context_size=12),
    tasks=5,
    tasks_per_batch=3,
    tasks_per_collection=2,
    replay_size=60,
    gradient_steps=4,
    iterations=6,
    test_tasks=4,
    evaluate_every=3,
    checkpoint_every=2,
)


@pytest.fixture(autouse=True)
def _without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    # They take nearly all the time of a run as short as these.
    monkeypatch.setattr("mtrl.meta.watching.Pictures.draw", lambda *arguments: None)


def train(directory: Path, config: PearlConfig = TINY, *, resume: bool = False) -> MetaParams:
    with Run.open(directory, config=config, kind="pearl", resume=resume) as run:
        return train_pearl(config, run)


def saved(directory: Path) -> dict[str, torch.Tensor]:
    return CheckpointStore(directory / "checkpoints").load().tensors


def training_tasks(config: PearlConfig) -> list[Task]:
    family = pearl_family(config)
    held_out = family.sample(config.test_tasks, numpy_generator(config.seed, "test tasks"), "test")
    return pearl_tasks(config, family, held_out)


def collector(config: PearlConfig = TINY) -> tuple[Collector, list[Task]]:
    family, generator = pearl_family(config), torch.Generator().manual_seed(0)
    tasks = training_tasks(config)
    policy = build_latent_policy(config, family, generator)
    return Collector(config, family, tasks, policy), tasks


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def positions(played: Collector, task: int) -> set[tuple[float, ...]]:
    """Return all positions in the context of a task."""
    drawn = played.context.draw(torch.tensor([task]), 300, generator())
    return set(map(tuple, drawn.observations[0].tolist()))


def goal_distances(transitions: Transitions, tasks: list[Task]) -> torch.Tensor:
    """Return what each transition's reward would be if it were of the task in its row."""
    goals = torch.tensor(np.array([task.params["goal"] for task in tasks]), dtype=torch.float32)
    return -(transitions.next_observations - goals.unsqueeze(1)).norm(dim=-1)


# What is played and drawn


def test_context_and_batch_are_other_transitions_of_the_same_tasks() -> None:
    played, tasks = collector()
    played.explore(generator())
    played.collect(np.array([1, 4]), generator(1))
    chosen = np.array([4, 0, 1])
    context, batch = played.draw(chosen, generator(2))
    own = [tasks[number] for number in chosen]
    for part in (context, batch):
        assert_close(part.rewards[..., 0], goal_distances(part, own), rtol=1e-4, atol=1e-5)
        # In the row of another task the rewards would not fit.
        other = goal_distances(part, [tasks[2]] * 3)
        assert float((part.rewards[..., 0] - other).abs().amin(1).max()) > 0.01
    for first, second in zip(context.observations, batch.observations, strict=True):
        assert first.tolist() != second.tolist()


def test_a_context_is_of_the_newest_collection_and_batches_of_all() -> None:
    played, _ = collector()
    played.explore(generator())
    assert played.context.counts.tolist() == [2 * HORIZON] * 5
    played.collect(np.array([1, 4]), generator(1))
    assert played.replay.counts.tolist() == [12, 24, 12, 12, 24]
    assert played.context.counts.tolist() == [12] * 5
    old = positions(played, 1)
    played.collect(np.array([1, 4]), generator(2))
    new = positions(played, 1)
    # Only the start is the same in every episode.
    assert len(old & new) == 1


def test_a_context_of_the_priors_episodes_alone_if_asked_for() -> None:
    played, _ = collector(replace(TINY, context_episodes="prior", posterior_episodes=2))
    played.explore(generator())
    played.collect(np.array([3]), generator(1))
    assert played.context.counts.tolist() == [12, 12, 12, 6, 12]
    assert played.replay.counts.tolist() == [12, 12, 12, 30, 12]


def test_steps_are_counted_as_they_are_taken() -> None:
    played, _ = collector()
    assert played.explore(generator()) == 5 * 2 * HORIZON
    assert played.collect(np.array([0, 1, 2]), generator()).steps == 3 * 2 * HORIZON


def test_training_and_test_tasks_differ_and_a_collection_has_no_task_twice(tmp_path: Path) -> None:
    train(tmp_path / "run", replace(TINY, tasks_per_collection=5, iterations=1))
    steps = read_metrics(tmp_path / "run" / "metrics.csv")["meta/env_steps"].values
    assert steps == [5 * 2 * HORIZON + 5 * 2 * HORIZON]
    with Run.open(
        tmp_path / "run",
        config=replace(TINY, tasks_per_collection=5, iterations=1),
        kind="pearl",
        resume=True,
    ) as run:
        kept = run.manifest.values
    assert not set(kept["train_tasks"]) & set(kept["test_tasks"])
    assert len(set(kept["train_tasks"])) == 5


# The run


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("reference") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mtrl.meta.watching.Pictures.draw", lambda *arguments: None)
        train(directory)
    return directory


def test_the_same_seed_gives_the_same_bits_and_another_does_not(
    reference: Path, tmp_path: Path
) -> None:
    train(tmp_path / "again")
    assert_close(saved(tmp_path / "again"), saved(reference), rtol=0, atol=0)
    other = train(tmp_path / "other", replace(TINY, seed=1))
    name = "actor.mu.weight"
    assert bool((other.params[name] != saved(reference)[f"meta/params.{name}"]).any())


@pytest.mark.parametrize("iterations", [1, 3])
def test_a_stopped_run_ends_bit_equal(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, iterations: int
) -> None:
    directory = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Run, "stop_requested", property(lambda run: run._logged_step == iterations))
        with pytest.raises(Interrupted, match=f"stopped after saving step {iterations}"):
            train(directory)
    train(directory, resume=True)
    assert_close(saved(directory), saved(reference), rtol=0, atol=0)
    assert (directory / "metrics.csv").read_bytes() == (reference / "metrics.csv").read_bytes()


def test_evaluating_and_saving_more_often_changes_nothing(reference: Path, tmp_path: Path) -> None:
    train(tmp_path / "often", replace(TINY, evaluate_every=1, checkpoint_every=1))
    assert_close(saved(tmp_path / "often"), saved(reference), rtol=0, atol=0)


def test_a_run_is_evaluated_on_unseen_tasks_like_any_other(reference: Path) -> None:
    run = load_run(reference)
    settings = EvaluationSettings(tasks=6, steps=2)
    tasks = run.unseen_tasks(settings)
    adapting, baseline = (run.scores(tasks, settings, adapting=adapts) for adapts in (True, False))
    assert adapting.shape == baseline.shape == (6, 3)
    # Both meet the same first round, and only then does one of them know more.
    np.testing.assert_array_equal(adapting[:, 0], baseline[:, 0])
    assert (adapting[:, 1] != baseline[:, 1]).all()


def test_the_loaded_networks_act_as_the_trained_ones(reference: Path) -> None:
    family, run = pearl_family(TINY), load_run(reference)
    trained, other = (build_latent_policy(TINY, family, generator(seed)) for seed in (1, 2))
    trained.take_over(run.meta.params)
    other.take_over(run.meta.params)
    seen = torch.randn(4, 2, generator=generator()), torch.randn(4, 2, generator=generator(1))
    assert_close(trained.act(*seen, None)[0], other.act(*seen, None)[0], rtol=0, atol=0)
    assert isinstance(trained, LatentPolicy)


# It learns


def test_the_critics_learn_which_task_it_is_from_the_context() -> None:
    """Two tasks that differ in the sign of the reward: only the context tells what the value is."""
    settings = PEARL(
        latent=2,
        hidden=(16,),
        encoder_hidden=(16,),
        discount=0.0,
        learning_rate=1e-2,
        kl_weight=0.01,
        reward_scale=1.0,
        temperature=1e-3,
    )
    networks = LatentPolicy(2, 1, settings, generator())
    update, stream = PearlUpdate(networks, settings), generator(1)
    sign = torch.tensor([1.0, -1.0]).view(2, 1, 1)

    def draw(number: int) -> Transitions:
        here = torch.randn(2, number, 2, generator=stream)
        actions = torch.rand(2, number, 1, generator=stream) * 2 - 1
        return Transitions(here, actions, sign.expand(2, number, 1), here, torch.ones(2, number, 1))

    for _ in range(150):
        seen = update.step(draw(8), draw(32), stream)
    # Without the context both tasks' values are 0, and the two critics' losses 0.5 each.
    assert float(seen["train/critic_loss"]) < 0.1
    belief = Belief(*(part.detach() for part in networks.encoder(draw(8))))
    apart = (belief.mean[0] - belief.mean[1]).norm() / belief.variance.sqrt().max()
    assert float(apart) > 2


# What is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "cartpole", "family_options": {}}, "actions of 'cartpole' are Discrete"),
        ({"family": "sinusoid", "family_options": {}}, "has no episodes"),
        ({"replay_size": 10}, "replay_size is 10 .* 12 come at once"),
    ],
)
def test_what_cannot_be_carried_out_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        KINDS["pearl"].check(replace(TINY, **change))


@pytest.mark.parametrize("name", ["tasks_per_batch", "tasks_per_collection"])
def test_more_tasks_at_once_than_there_are_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} is 6, and there are 5 training tasks"):
        replace(TINY, **{name: 6})


def test_tasks_come_from_a_file_if_there_is_one(tmp_path: Path) -> None:
    drawn = Navigation2D(horizon=HORIZON).sample(4, numpy_generator(3, "file"), "train")
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(f"{task.to_json()}\n" for task in [*drawn, drawn[0]]))
    config = replace(TINY, train_tasks=path)
    assert training_tasks(config) == drawn
    with pytest.raises(UsageError, match="tasks_per_batch is 5, and there are 4 training tasks"):
        training_tasks(replace(config, tasks_per_batch=5))
