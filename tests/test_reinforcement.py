"""The reinforcement-learning loop learns, adapts on fresh episodes, and refuses what it cannot do."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from noisy_walk import NoisyWalk
from numpy.testing import assert_allclose
from torch import Tensor
from torch.testing import assert_close

from mtrl.agents.gradient import FrozenAgent, GradientAgent
from mtrl.checkpoint import CheckpointStore
from mtrl.curricula import Uniform
from mtrl.envs.batched import BatchedEnv, TensorParams
from mtrl.envs.navigation2d import Navigation2D
from mtrl.envs.registry import get_family
from mtrl.envs.task import Task
from mtrl.errors import MtrlError, UsageError
from mtrl.evaluation.adaptation import AdaptationProtocol, adaptation_returns
from mtrl.evaluation.statistics import PairedDifference, interval, paired_difference
from mtrl.evaluation.trained import EvaluationSettings, load_run
from mtrl.meta import reinforcement, session
from mtrl.meta.anil import ANIL
from mtrl.meta.cavia import CAVIA
from mtrl.meta.inner import expand_to_tasks
from mtrl.meta.maml import MAML
from mtrl.meta.meta_sgd import MetaSGD
from mtrl.meta.objectives import AdvantageSettings, PolicyBatch, policy_batch
from mtrl.meta.outer import TRPO
from mtrl.meta.parameters import MetaParams
from mtrl.meta.policy_adaptation import GradientAdaptation
from mtrl.meta.proximal import PROMP
from mtrl.meta.reinforcement import (
    ReinforcementConfig,
    build_policy,
    meta_train_reinforcement,
    reinforcement_family,
)
from mtrl.meta.reptile import Reptile
from mtrl.meta.supervised import SupervisedConfig, meta_train_supervised
from mtrl.meta.trust_region import loss_and_kl
from mtrl.metrics import read_metrics
from mtrl.nets import Params
from mtrl.rollouts import Chance, Rollout, collect, play
from mtrl.runs import Run
from mtrl.seeding import Streams, numpy_generator, torch_generator

# torch scripts its own decompositions when the first derivative by a direction is taken.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

TINY = ReinforcementConfig(
    hidden=(6,),
    family_options={"horizon": 8},
    tasks_per_batch=2,
    episodes_per_task=3,
    iterations=3,
    evaluate_every=2,
    checkpoint_every=2,
    test_tasks=4,
)
SHORT = replace(
    TINY,
    hidden=(16, 16),
    family_options={"horizon": 20},
    tasks_per_batch=8,
    episodes_per_task=8,
    iterations=12,
    evaluate_every=100,
)


def train(directory: Path, config: ReinforcementConfig, resume: bool = False) -> MetaParams:
    with Run.open(directory, config=config, kind="rl", resume=resume) as run:
        return meta_train_reinforcement(config, run)


# It learns


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> MetaParams:
    return train(tmp_path_factory.mktemp("trained") / "run", SHORT)


def returns_of(meta: MetaParams, agent: type[GradientAgent]) -> np.ndarray:
    """Return (tasks, 2) on tasks and noise that no part of training has seen."""
    family = get_family(SHORT.family, SHORT.preset, **SHORT.family_options)
    assert isinstance(family, Navigation2D)
    tasks = family.sample(60, numpy_generator(1234, "unseen"), "test")
    protocol = AdaptationProtocol(episodes=SHORT.episodes_per_task)
    how = build_policy(SHORT, family)
    generator = torch_generator(1234, "unseen")
    return adaptation_returns(
        agent(how, meta, SHORT.advantages), family, tasks, protocol, generator
    )


def test_after_a_short_run_adaptation_helps_on_unseen_tasks(trained: MetaParams) -> None:
    adapted, frozen = (returns_of(trained, agent)[:, -1] for agent in (GradientAgent, FrozenAgent))
    gain = paired_difference(adapted, frozen, np.random.default_rng(0))
    assert gain.low > 2.0, str(gain)
    family = Navigation2D(horizon=20)
    tasks = family.sample(60, numpy_generator(1234, "unseen"), "test")
    still = family.standing_still_returns(tasks).mean()
    assert interval(adapted, np.random.default_rng(0)).low > still + 1


def test_before_training_adaptation_does_not_help_as_much() -> None:
    streams = Streams(SHORT.seed)
    how = build_policy(SHORT, Navigation2D(horizon=20))
    untrained = how.initial(streams.generator("initial"))
    adapted, frozen = (
        returns_of(untrained, agent)[:, -1] for agent in (GradientAgent, FrozenAgent)
    )
    assert paired_difference(adapted, frozen, np.random.default_rng(0)).high < 1.5


def test_step_sizes_and_parameters_both_moved(trained: MetaParams) -> None:
    start = build_policy(SHORT, Navigation2D(horizon=20)).initial(
        Streams(SHORT.seed).generator("initial")
    )
    for name, value in trained.named().items():
        assert (value != start.named()[name]).any(), name


@pytest.mark.parametrize("outer", [TRPO(), PROMP()], ids=["TRPO", "ProMP"])
def test_the_last_iterations_are_averaged_and_training_goes_on_from_the_last(
    tmp_path: Path, outer: TRPO | PROMP
) -> None:
    config = replace(SHORT, outer=outer, iterations=4)
    averaged = train(tmp_path / "averaged", replace(config, average_last=3)).flat()
    last = [
        train(tmp_path / str(iterations), replace(config, iterations=iterations)).flat()
        for iterations in (2, 3, 4)
    ]
    assert_close(averaged, torch.stack(last).mean(0), rtol=1e-6, atol=1e-7)
    assert (last[-1] - averaged).abs().max() > 1e-3
    kept = load_run(tmp_path / "averaged").meta.flat()
    assert_close(kept, averaged, rtol=0, atol=0)


def test_the_logged_returns_and_steps_are_those_of_the_episodes(
    tmp_path: Path, spied: list["Collected"]
) -> None:
    train(tmp_path, replace(TINY, iterations=2))
    metrics = read_metrics(tmp_path / "metrics.csv")
    before, after = spied[0::2], spied[1::2]
    for tag, some in (("pre", before), ("post", after)):
        expected = [float(each.rollout.rewards.sum(2).mean()) for each in some]
        assert_allclose(metrics[f"meta/{tag}_adapt_return"].values, expected, rtol=1e-6)
    # Two tasks of three episodes of eight steps, before and after.
    assert metrics["meta/env_steps"].values == [96.0, 192.0]


# Other learners and outer updates


@pytest.mark.parametrize(
    "changes",
    [
        {"learner": CAVIA()},
        {"learner": ANIL(step_size=0.5)},
        {"learner": MAML(step_size=0.5), "outer": PROMP(learning_rate=1e-2)},
    ],
    ids=["CAVIA", "ANIL", "ProMP"],
)
def test_other_learners_and_outer_updates_learn_to_adapt_too(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    # About 3 above the unadapted policy; before training 0.05, 1.2 and 1.6.
    config = replace(SHORT, **changes)
    gain = adapted_gain(config, train(tmp_path, config))
    untrained = build_policy(config, reinforcement_family(config)).initial(
        Streams(config.seed).generator("initial")
    )
    assert gain.low > 2.0, str(gain)
    assert gain.low > 1.5 * adapted_gain(config, untrained).mean


def test_compiled_a_run_is_the_same_up_to_rounding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Traced and rewritten; the compiler itself is left out.
    made = []
    monkeypatch.setattr(
        "mtrl.meta.compiled._compiled", lambda graph, device: made.append(graph) or graph
    )
    # Some episodes end at the goal; all samples are as long as the horizon.
    options: dict[str, bool | int | float] = {"horizon": 20, "terminate_at_goal": True}
    # Ten iterations of conjugate gradients amplify rounding a billion times.
    outer = TRPO(cg_iterations=2, damping=0.1, curvature_fraction=0.5)
    config = replace(TINY, family_options=options, iterations=2, outer=outer)
    expected = train(tmp_path / "off", config)
    found = train(tmp_path / "on", replace(config, compile="on"))
    # The outer gradient, loss and KL, and the two parts of a Fisher product; of one shape each.
    assert len(made) == 4
    assert_close(found.flat(), expected.flat(), rtol=1e-4, atol=1e-5)


def test_alone_a_run_leaves_candidates_that_are_too_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enough = []

    def spying(*arguments: Any) -> tuple[Tensor, Tensor]:
        enough.append(arguments[-1])
        return loss_and_kl(*arguments)

    monkeypatch.setattr("mtrl.meta.trust_region.loss_and_kl", spying)
    train(tmp_path / "run", replace(TINY, iterations=1, outer=TRPO(max_kl=0.02)))
    assert set(enough) == {0.02}


def test_only_trpo_is_compiled() -> None:
    with pytest.raises(UsageError, match="compile is for the outer update trpo"):
        replace(TINY, outer=PROMP(), compile="on")


def test_a_context_is_the_tasks_and_no_part_of_what_is_saved(
    tmp_path: Path, spied: list["Collected"]
) -> None:
    config = replace(TINY, learner=CAVIA(context_size=3), iterations=2)
    meta = train(tmp_path, config)
    assert "context" not in meta.params
    assert meta.params["layers.0.weight"].shape == (6, 5)
    saved = CheckpointStore(tmp_path / "checkpoints").load().tensors
    assert not any("context" in name for name in saved)
    for before, after in zip(spied[0::2], spied[1::2], strict=True):
        assert_close(before.params["context"], torch.zeros(2, 3), rtol=0, atol=0)
        assert after.params["context"].abs().min() > 0
        for name in meta.params:
            assert_close(after.params[name], before.params[name], rtol=0, atol=0)
    # Evaluation needs nothing else either.
    run, settings = load_run(tmp_path), EvaluationSettings(tasks=3)
    adapted, frozen = (
        run.scores(run.unseen_tasks(settings), settings, adapting=flag) for flag in (True, False)
    )
    assert_allclose(adapted[:, 0], frozen[:, 0], rtol=0)
    assert np.abs(adapted[:, 1] - frozen[:, 1]).min() > 0


# Choices and other units


def adapted_gain(config: ReinforcementConfig, meta: MetaParams) -> PairedDifference:
    """Return how much the adapted policy is above the unadapted on unseen tasks."""
    family = reinforcement_family(config)
    tasks = family.sample(80, numpy_generator(1234, "unseen"), "test")
    how, protocol = build_policy(config, family), AdaptationProtocol(episodes=5)
    adapted, frozen = (
        adaptation_returns(
            agent(how, meta, config.advantages),
            family,
            tasks,
            protocol,
            torch_generator(1234, "unseen"),
        )[:, 1]
        for agent in (GradientAgent, FrozenAgent)
    )
    return paired_difference(adapted, frozen, np.random.default_rng(0))


def test_choices_are_learned_and_adapted(tmp_path: Path) -> None:
    config = replace(
        TINY,
        family="bandit",
        family_options={"arms": 3, "horizon": 20},
        learner=MetaSGD(initial_step_size=(0.5, 0.5)),
        tasks_per_batch=20,
        episodes_per_task=5,
        iterations=20,
        evaluate_every=100,
    )
    meta = train(tmp_path, config)
    untrained = build_policy(config, reinforcement_family(config)).initial(
        Streams(config.seed).generator("initial")
    )
    gain = adapted_gain(config, meta)
    assert gain.low > 1.0, str(gain)
    assert gain.mean > 2 * adapted_gain(config, untrained).mean
    assert sorted(meta.params) == ["layers.0.bias", "layers.0.weight", "layers.1.bias"] + [
        "layers.1.weight"
    ]


@pytest.mark.parametrize("family", ["pendulum", "noisy-walk"])
def test_the_environment_gets_actions_of_its_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spied: list["Collected"], family: str
) -> None:
    if family == "noisy-walk":
        monkeypatch.setattr(reinforcement, "get_family", lambda *_, **options: NoisyWalk(**options))
    given: list[Tensor] = []
    step = BatchedEnv.step

    def seen(env: BatchedEnv, action: Tensor) -> Any:
        given.append(action)
        return step(env, action)

    monkeypatch.setattr(BatchedEnv, "step", seen)
    train(tmp_path, replace(TINY, family=family, initial_std=3.0, iterations=1, evaluate_every=9))
    for number, time in ((0, 0), (1, 7)):
        rollout = spied[number].rollout
        taken = rollout.actions[:, :, time].flatten(0, 1)
        expected = taken - 1 if family == "noisy-walk" else 2 * taken.clamp(-1, 1)
        assert_close(given[8 * number + time], expected, rtol=0, atol=0)
    every = torch.cat([action.flatten() for action in given]).unique().tolist()
    if family == "noisy-walk":
        assert every == [-1, 0, 1]
    else:
        assert (min(every), max(every)) == (-2.0, 2.0)


# The inner loop


@dataclass(frozen=True)
class Collected:
    params: Params
    rollout: Rollout


@pytest.fixture
def spied(monkeypatch: pytest.MonkeyPatch) -> list[Collected]:
    """Collect every call of `play` by the loop: with which parameters, and what came of it."""
    calls: list[Collected] = []

    def spy(env: Any, policy: Any, params: Params, chance: Chance) -> Rollout:
        rollout = play(env, policy, params, chance)
        calls.append(Collected({name: value.clone() for name, value in params.items()}, rollout))
        return rollout

    monkeypatch.setattr(reinforcement, "play", spy)
    return calls


def test_each_inner_step_gets_fresh_episodes_of_the_policy_adapted_so_far(
    tmp_path: Path, spied: list[Collected]
) -> None:
    learner = MetaSGD(inner_steps=2, initial_step_size=(0.1, 0.1))
    config = replace(TINY, learner=learner, iterations=1)
    train(tmp_path, config)
    first, second, third = spied
    how = build_policy(config, Navigation2D(horizon=8))
    meta = how.initial(Streams(config.seed).generator("initial"))
    batches = [policy_batch(each.rollout, config.advantages) for each in (first, second)]
    expected: list[Params] = [expand_to_tasks(meta.params, 2)]
    for batch in batches:
        expected.append(gradient_step(how, expected[-1], batch))
    for each, params in zip((first, second, third), expected, strict=True):
        assert_close(each.params, params, rtol=1e-5, atol=1e-6)
    actions = [each.rollout.actions for each in (first, second, third)]
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert not np.intersect1d(actions[one].numpy(), actions[other].numpy()).size
        assert (spied[one].params["log_std"] != spied[other].params["log_std"]).all()


def gradient_step(how: GradientAdaptation, params: Params, batch: PolicyBatch) -> Params:
    """REINFORCE with a step size of 0.1, task by task, written without the package's inner loop."""
    after: list[Params] = []
    for task in range(len(batch.actions)):
        own = {name: value[task].detach().requires_grad_() for name, value in params.items()}
        gaussian = how.policy(own, batch.observations[task])
        normal = torch.distributions.Normal(gaussian.mean, gaussian.log_std.exp())
        loss = -(normal.log_prob(batch.actions[task]).sum(-1) * batch.weights[task]).sum()
        gradients = torch.autograd.grad(loss, list(own.values()))
        moved = zip(own.items(), gradients, strict=True)
        after.append({name: value.detach() - 0.1 * g for (name, value), g in moved})
    return {name: torch.stack([own[name] for own in after]) for name in params}


@pytest.mark.parametrize("learner", [MetaSGD(inner_steps=2), MAML(inner_steps=2)])
def test_the_inner_step_does_not_depend_on_the_number_of_tasks(learner: MetaSGD | MAML) -> None:
    how = build_policy(replace(TINY, learner=learner), Navigation2D(horizon=8))
    meta = doubled(how.initial(torch_generator(0, "initial")))
    batches = [batch_of(how, meta, seed) for seed in (1, 2)]
    together = how.adapt(meta, batches)
    for task in range(5):
        alone = how.adapt(meta, [only(batch, task) for batch in batches])
        for name, value in alone.items():
            assert_close(value[0], together[name][task], rtol=0, atol=1e-12)


def doubled(meta: MetaParams) -> MetaParams:
    parts = (meta.params, meta.step_sizes)
    return MetaParams(*({name: value.double() for name, value in part.items()} for part in parts))


def batch_of(how: GradientAdaptation, meta: MetaParams, seed: int) -> PolicyBatch:
    family = Navigation2D(horizon=8)
    tasks = family.sample(5, numpy_generator(seed, "tasks"), "train")
    env = BatchedEnv(family, family.tensors(tasks, repeats=3, dtype=torch.float64))
    params = expand_to_tasks(meta.params, 5)
    generator = torch_generator(seed, "episodes")
    rollout = collect(env, how.policy, params, shape=(5, 3), generator=generator)
    rollout = replace(
        rollout, **{f.name: getattr(rollout, f.name).double() for f in fields(Rollout)}
    )
    return policy_batch(rollout, AdvantageSettings())


def only(batch: PolicyBatch, task: int) -> PolicyBatch:
    return PolicyBatch(*(getattr(batch, f.name)[task : task + 1] for f in fields(batch)))


# Faults


@dataclass(frozen=True, kw_only=True)
class Faulty(Navigation2D):
    """Navigation whose rewards turn NaN once, after a number of steps of the whole batch."""

    steps_left: ClassVar[list[int]] = []

    def step(
        self, params: TensorParams, state: Tensor, action: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        self.steps_left[0] -= 1
        position, reward, ended = super().step(params, state, action, noise)
        return position, reward * (torch.nan if self.steps_left[0] == 0 else 1.0), ended


IN_TRAINING = r"family 'navigation2d', task \w+ .*'goal'.*: a return is not finite in iteration 3"


@pytest.mark.parametrize(
    ("steps", "where"),
    [
        # 16 steps an iteration, and 16 more where it is evaluated, which is at the second.
        (16 + 16 + 16 + 3, IN_TRAINING),
        (16 + 16 + 16 + 8 + 3, IN_TRAINING),
        (16 + 16 + 16 + 16 + 3, "adapt/return_after_0 is nan at step 3"),
        (16 + 16 + 16 + 16 + 8 + 3, "adapt/return_after_1 is nan at step 3"),
    ],
)
def test_a_reward_that_is_nan_names_the_curve_and_step_and_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int, where: str
) -> None:
    straight = train(tmp_path / "straight", TINY)
    monkeypatch.setattr(reinforcement, "get_family", lambda *_, **options: Faulty(**options))
    Faulty.steps_left[:] = [steps]
    with pytest.raises(MtrlError, match=where):
        train(tmp_path / "run", TINY)
    assert CheckpointStore(tmp_path / "run" / "checkpoints").steps() == [2]
    assert "nan" not in (tmp_path / "run" / "metrics.csv").read_text()
    resumed = train(tmp_path / "run", TINY, resume=True)
    assert_close(resumed.named(), straight.named(), rtol=0, atol=0)


@dataclass(frozen=True, kw_only=True)
class Buttons(Navigation2D):
    """Navigation by two buttons at once."""

    action_space = gym.spaces.MultiBinary(2)  # type: ignore[assignment]  # what is to be refused


def test_a_family_whose_actions_no_policy_gives_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reinforcement, "get_family", lambda *_, **options: Buttons(**options))
    with pytest.raises(UsageError, match=r"actions are MultiBinary\(2\)"):
        train(tmp_path, TINY)


def test_episodes_without_an_end_are_refused_and_cut_off_if_asked_to(
    tmp_path: Path, spied: list["Collected"]
) -> None:
    endless = replace(TINY, family="cartpole", preset="aqil", family_options={}, test_tasks=1)
    with pytest.raises(UsageError, match="set max_episode_steps to 100000 or less"):
        train(tmp_path / "endless", endless)
    train(tmp_path / "cut", replace(endless, max_episode_steps=9))
    assert {tuple(each.rollout.mask.shape) for each in spied} == {(2, 3, 9)}


def test_a_family_without_batched_dynamics_is_refused(tmp_path: Path) -> None:
    config = replace(TINY, family="sinusoid", family_options={})
    with pytest.raises(UsageError, match=r"'sinusoid' has no episodes; .* supervised"):
        train(tmp_path, config)


def test_a_supervised_run_refuses_a_family_of_environments(tmp_path: Path) -> None:
    config = SupervisedConfig(family="navigation2d")
    with (
        Run.open(tmp_path, config=config, kind="supervised") as run,
        pytest.raises(UsageError, match=r"'navigation2d' has no labelled points; .*`mtrl train"),
    ):
        meta_train_supervised(config, run)


@pytest.mark.parametrize("relabel", [False, True])
def test_a_held_out_task_in_training_is_refused_whatever_its_label(
    tmp_path: Path, relabel: bool
) -> None:
    family = Navigation2D(horizon=8)
    held_out = family.sample(TINY.test_tasks, numpy_generator(TINY.seed, "test tasks"), "test")
    leaked = held_out[1]
    if relabel:
        leaked = Task(family=leaked.family, params=leaked.params, split="train")
    tasks = [*family.sample(3, numpy_generator(9, "train"), "train"), leaked]
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(f"{task.to_json()}\n" for task in tasks))
    with pytest.raises(UsageError, match=leaked.id):
        train(tmp_path / "run", replace(TINY, train_tasks=path))
    path.write_text("".join(f"{task.to_json()}\n" for task in tasks[:3]))
    train(tmp_path / "good", replace(TINY, train_tasks=path))


def test_a_run_records_its_held_out_tasks(tmp_path: Path) -> None:
    train(tmp_path, TINY)
    with Run.open(tmp_path, config=TINY, kind="rl", resume=True) as run:
        ids = run.manifest.values["test_tasks"]
    family = Navigation2D(horizon=8)
    expected = family.sample(TINY.test_tasks, numpy_generator(TINY.seed, "test tasks"), "test")
    assert ids == [task.id for task in expected]


# Configuration of both loops


def spy_on(value: Any, reads: set[str], prefix: str = "") -> Any:
    """Return a copy of a configuration, an instance of its class, that notes which fields are read."""
    names = {field.name for field in fields(value)}

    class Spy(type(value)):  # type: ignore[misc]  # a class of the run
        def __getattribute__(self, name: str) -> Any:
            if name in names:
                reads.add(prefix + name)
            return super().__getattribute__(name)

    copy = object.__new__(Spy)
    for name in names:
        inner = getattr(value, name)
        if is_dataclass(inner):
            inner = spy_on(inner, reads, f"{prefix}{name}.")
        object.__setattr__(copy, name, inner)
    return copy


def field_names(value: Any, prefix: str = "") -> Iterator[str]:
    for field in fields(value):
        yield prefix + field.name
        inner = getattr(value, field.name)
        if is_dataclass(inner):
            yield from field_names(inner, f"{prefix}{field.name}.")


LEARNERS = [
    *(MetaSGD(inner_steps=2), MetaSGD(per_step=True), MAML(inner_steps=2)),
    *(ANIL(inner_steps=2), CAVIA(inner_steps=2)),
]


TINY_SUPERVISED = SupervisedConfig(hidden=(4,), tasks_per_batch=2, test_tasks=3, iterations=1)


@pytest.mark.parametrize(
    ("configs", "loop"),
    [
        (
            [replace(TINY, iterations=1, learner=learner) for learner in LEARNERS]
            + [replace(TINY, iterations=1, outer=PROMP())]
            + [
                replace(
                    TINY, iterations=1, curriculum=Uniform(), curriculum_tasks=4, solved_at=-1.0
                )
            ],
            meta_train_reinforcement,
        ),
        (
            [replace(TINY_SUPERVISED, learner=learner) for learner in (*LEARNERS, Reptile())]
            + [replace(TINY_SUPERVISED, curriculum=Uniform(), curriculum_tasks=4, solved_at=1.0)],
            meta_train_supervised,
        ),
    ],
    ids=["rl", "supervised"],
)
def test_every_field_is_read_by_some_run(
    tmp_path: Path,
    configs: list[ReinforcementConfig | SupervisedConfig],
    loop: Callable[[Any, Run], MetaParams],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # It lists all settings for TensorBoard, which is not a use.
    monkeypatch.setattr(session, "log_settings", lambda *_: None)
    reads, known = set[str](), set[str]()
    for index, each in enumerate(configs):
        with Run.open(tmp_path / str(index), config=each, kind="any") as run:
            loop(spy_on(each, reads), run)
        known |= set(field_names(each))
    assert sorted(known - reads) == []


def test_a_return_that_is_not_finite_is_refused_with_family_and_task() -> None:
    family = Navigation2D()
    tasks = family.sample(3, numpy_generator(0, "tasks"), "train")
    rewards = torch.zeros(3, 2, 4)
    fields_of = {field.name: torch.zeros(3, 2, 4) for field in fields(Rollout)}
    rollout = Rollout(**{**fields_of, "rewards": rewards})
    reinforcement._check_returns(family, tasks, [rollout], 1)
    rewards[1, 0, 2] = torch.nan
    with pytest.raises(MtrlError, match=f"'navigation2d', task {tasks[1].id} .*'goal'.*narrow"):
        reinforcement._check_returns(family, tasks, [rollout], 1)
