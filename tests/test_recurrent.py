"""RL²: what its memory holds and forgets, its gradient, its advantages, and that a killed run ends the same."""

import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from resumption import assert_same_end, children, no_matplotlib
from torch import Tensor
from torch.testing import assert_close

from mtrl.agents.recurrent import ForgetfulAgent, RecurrentAgent
from mtrl.checkpoint import CheckpointStore
from mtrl.envs.actions import ScaledActions
from mtrl.envs.bandit import Bandit
from mtrl.envs.navigation2d import Navigation2D
from mtrl.envs.task import Task
from mtrl.errors import UsageError
from mtrl.evaluation.adaptation import AdaptationProtocol, adaptation_returns
from mtrl.evaluation.trained import EvaluationSettings, load_run
from mtrl.meta import watching
from mtrl.meta.agent import Transition
from mtrl.meta.parameters import MetaParams
from mtrl.meta.recurrent.gru import gru_sequence, gru_step
from mtrl.meta.recurrent.policy import RecurrentPolicy, recurrent_policy
from mtrl.meta.recurrent.ppo import (
    RL2,
    Minibatch,
    RecurrentUpdate,
    losses,
    trial_advantages,
    value_unit,
)
from mtrl.meta.recurrent.training import RecurrentConfig, meta_train_recurrent
from mtrl.meta.recurrent.trials import TrialCollector, Trials
from mtrl.nets import Params
from mtrl.runs import Run
from mtrl.seeding import numpy_generator, torch_generator

PRELOADED = ["mtrl.meta.recurrent.training", "torch.utils.tensorboard", "torch._dynamo"]

TINY = RecurrentConfig(
    family_options={"horizon": 6, "arms": 3},
    learner=RL2(units=5, minibatches=2, epochs=2),
    tasks_per_batch=8,
    iterations=12,
    evaluate_every=6,
    test_tasks=4,
    checkpoint_every=1,
)
NAVIGATION = replace(
    TINY, family="navigation2d", family_options={"horizon": 6}, episodes_per_trial=3
)


def in_double(params: Params) -> Params:
    return {name: value.double() for name, value in params.items()}


def random_params(policy: RecurrentPolicy, seed: int = 0) -> Params:
    """Return parameters in float64 whose heads are not small."""
    generator = torch.Generator().manual_seed(seed)
    params = in_double(policy.initial(generator))
    for name in ("policy.weight", "policy.bias", "value.weight", "gru.state.bias"):
        noise = torch.randn(params[name].shape, generator=generator, dtype=torch.float64)
        params[name] = params[name] + 0.5 * noise
    return params


class Ending:
    """An environment whose slot i ends its e-th episode after `lengths[e][i]` steps and pays 1 + i a step.

    Its observation is the number of steps since the episode began.
    """

    horizon = 5

    def __init__(self, lengths: list[list[int]]) -> None:
        self._lengths = torch.tensor(lengths)
        self._episode = -1
        self.stepped: list[Tensor] = []

    def reset(self, seeds: Tensor) -> Tensor:
        self._episode += 1
        self._time = torch.zeros(len(seeds), dtype=torch.int64)
        return self._observed()

    def _observed(self) -> Tensor:
        return self._time.unsqueeze(1).double()

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        self.stepped.append(actions)
        self._time = self._time + 1
        ended = self._time >= self._lengths[self._episode]
        pay = 1.0 + torch.arange(len(ended), dtype=torch.float64)
        return self._observed(), pay, ended, self._time >= self.horizon


LENGTHS = [[5, 2, 3], [1, 5, 5], [4, 3, 5]]
POLICY = RecurrentPolicy(observation_size=1, action_size=2, choices=True, units=4)


def collected(policy: RecurrentPolicy = POLICY, seed: int = 0) -> tuple[Trials, Params]:
    params = random_params(policy)
    collector = TrialCollector(policy, trials=3, episodes=3, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    return collector.collect(Ending(LENGTHS), params, generator), params


# The network


def test_a_sequence_is_torchs_gru() -> None:
    torch_gru = torch.nn.GRU(3, 4).double()
    with torch.no_grad():
        torch_gru.bias_hh_l0[:8] = 0.0  # torch has two biases for these gates: one is enough
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(7, 5, 3, generator=generator, dtype=torch.float64)
    first = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    projected = torch.nn.functional.linear(inputs, torch_gru.weight_ih_l0, torch_gru.bias_ih_l0)
    weight, bias = torch_gru.weight_hh_l0, torch_gru.bias_hh_l0[8:]
    ours = gru_sequence(projected, first, weight, bias)
    theirs, _ = torch_gru(inputs, first[None])
    assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    by = torch.randn(7, 5, 4, generator=generator, dtype=torch.float64)
    leaves = (torch_gru.weight_ih_l0, torch_gru.bias_ih_l0, torch_gru.weight_hh_l0)
    assert_close(
        torch.autograd.grad((ours * by).sum(), leaves),
        torch.autograd.grad((theirs * by).sum(), leaves),
        rtol=1e-11,
        atol=1e-11,
    )


def test_the_gradient_is_that_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(1)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)

    first = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    arguments = (leaf(4, 2, 9), leaf(9, 3), leaf(3))
    assert torch.autograd.gradcheck(lambda x, u, b: gru_sequence(x, first, u, b), arguments)


def test_steps_are_the_sequence() -> None:
    generator = torch.Generator().manual_seed(2)
    projected = torch.randn(6, 2, 9, generator=generator, dtype=torch.float64)
    weight = torch.randn(9, 3, generator=generator, dtype=torch.float64)
    bias = torch.randn(3, generator=generator, dtype=torch.float64)
    state = torch.zeros(2, 3, dtype=torch.float64)
    whole = gru_sequence(projected, state, weight, bias)
    for t in range(6):
        state = gru_step(projected[t], state, weight, bias)
        assert_close(state, whole[t], rtol=1e-13, atol=1e-13)


# What is remembered


def test_log_probabilities_and_values_over_the_sequence_are_those_of_acting() -> None:
    trials, params = collected()
    states = POLICY.states(params, trials.inputs, POLICY.begin(3, trials.mask))
    again = POLICY.distribution(params, states).log_prob(trials.actions)
    valid = trials.mask > 0
    assert_close(again[valid], trials.log_probs[valid], rtol=1e-12, atol=1e-12)
    values = POLICY.values(params, states)
    assert_close(values[valid], trials.values[valid], rtol=1e-12, atol=1e-12)
    # The control: the same inputs without the memory of what came before give others.
    alone = POLICY.states(params, trials.inputs[3:], POLICY.begin(3, trials.mask))
    other = POLICY.distribution(params, alone).log_prob(trials.actions[3:])
    assert (other - trials.log_probs[3:])[0].abs().min() > 1e-6


def test_trials_hold_every_step_of_every_episode_in_order_and_nothing_else() -> None:
    trials, _ = collected()
    lengths = np.array(LENGTHS)
    assert_array_equal(trials.mask.sum(0), lengths.sum(0))
    assert len(trials.mask) == lengths.sum(0).max()
    assert_allclose(trials.episode_returns, lengths.T * np.array([[1], [2], [3]]))
    for slot in range(3):
        total = lengths[:, slot].sum()
        assert_array_equal(trials.mask[:total, slot], np.ones(total))
        clock = np.concatenate([np.arange(length) for length in lengths[:, slot]])
        assert_array_equal(trials.inputs[:total, slot, 0], clock)
        ends = np.zeros(total)
        ends[np.cumsum(lengths[:-1, slot])] = 1.0
        assert_array_equal(trials.inputs[:total, slot, -1], ends)
        paid = np.full(total, 1.0 + slot)
        assert_array_equal(trials.rewards[:total, slot], paid)
        assert_array_equal(trials.inputs[1:total, slot, -2], paid[1:])
        taken = torch.nn.functional.one_hot(trials.actions[: total - 1, slot], 2)
        assert_array_equal(trials.inputs[1:total, slot, 1:3], taken)
        assert_array_equal(trials.inputs[0, slot, 1:], np.zeros(4))


def test_a_trial_begins_with_nothing_of_the_trial_before() -> None:
    params = random_params(POLICY)
    collector = TrialCollector(POLICY, trials=3, episodes=3, dtype=torch.float64)
    collector.collect(Ending(LENGTHS), params, torch.Generator().manual_seed(7))
    second = collector.collect(Ending(LENGTHS), params, torch.Generator().manual_seed(0))
    first, _ = collected()
    for name in ("inputs", "actions", "log_probs", "values", "rewards", "mask"):
        assert_array_equal(getattr(second, name), getattr(first, name))


def played(agent: RecurrentAgent, rounds: int, observations: Tensor) -> list[Tensor]:
    """Return the states after each of two steps a round, with an end of the episode after each round."""
    states = []
    generator = torch.Generator().manual_seed(0)
    for _ in range(rounds):
        for step in range(2):
            actions = agent.act(observations, generator)
            states.append(agent._after.clone())
            agent.observe(
                Transition(
                    observations=observations,
                    actions=actions,
                    rewards=torch.ones(observations.shape[:2], dtype=torch.float64),
                    running=torch.ones(observations.shape[:2]),
                    terminated=torch.full(observations.shape[:2], float(step)),
                    next_observations=observations,
                )
            )
        agent.adapt()
    return states


def test_the_agent_remembers_over_episodes_and_forgets_between_tasks() -> None:
    params = random_params(POLICY)
    agent = RecurrentAgent(POLICY, params)
    observations = torch.full((2, 3, 1), 0.5, dtype=torch.float64)
    agent.begin(2)
    first = played(agent, 2, observations)
    assert (first[2] - first[0]).abs().min() > 1e-4
    agent.begin(2)
    again = played(agent, 2, observations)
    assert_array_equal(again[0], first[0])
    forgetful = ForgetfulAgent(POLICY, params)
    forgetful.begin(2)
    forgot = played(forgetful, 2, observations)
    assert_array_equal(forgot[2], forgot[0])


def test_the_agent_takes_the_probabilities_that_training_does() -> None:
    """Its states in an evaluation are those of the policy over the recorded inputs of the whole trial."""
    family = Navigation2D(horizon=4, terminate_at_goal=True)
    tasks = [
        Task(family=family.name, params={"goal": goal, "start": (0.0, 0.0)})
        for goal in ((0.1, 0.1), (0.5, -0.5))
    ]
    policy = recurrent_policy(family.observation_space, family.action_space, 4, 0.5, 1e-6)
    params = policy.initial(torch.Generator().manual_seed(3))
    agent, inputs, states = RecurrentAgent(policy, params), [], []
    episode: list[int] = []

    def watch(number: int, transition: Transition) -> None:
        first = bool(episode) and episode[-1] != number
        episode.append(number)
        inputs.append((transition, first))
        states.append(agent._after)

    protocol = AdaptationProtocol(episodes=1, steps=2)
    adaptation_returns(
        agent, family, tasks, protocol, torch.Generator().manual_seed(4), watch=watch
    )
    state = policy.begin(2, params["value.weight"])
    previous = policy.before_all(2, state)
    for (transition, first), after in zip(inputs, states, strict=True):
        if first:
            previous[:, -1] = 1.0
        row = torch.cat([transition.observations.flatten(0, 1), previous], 1)
        expected = policy.advance(params, row, state)
        running = transition.running.flatten() > 0
        assert_close(after[running], expected[running])
        state = torch.where(running[:, None], expected, state)
        ended = transition.terminated.flatten()
        now = policy.previous(transition.actions.flatten(0, 1), transition.rewards.flatten(), ended)
        previous = torch.where(running[:, None], now, previous)


def test_permuted_tasks_have_permuted_trials() -> None:
    family, order = Bandit(arms=3, horizon=6), torch.tensor([2, 0, 3, 1])
    tasks = family.sample(4, numpy_generator(0, "tasks"), "train")
    policy = recurrent_policy(family.observation_space, family.action_space, 5, 1.0, 1e-6)
    params = random_params(policy)

    class Given:
        """Episodes and noise that go with the task."""

        def __init__(self, places: Tensor) -> None:
            self.env = family.batch([tasks[i] for i in places])
            self.places, self.horizon = places, family.horizon

        def reset(self, seeds: Tensor) -> Tensor:
            return self.env.reset(self.places)

        def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            return self.env.step(actions)

    def trials(places: Tensor) -> Trials:
        collector = TrialCollector(policy, trials=4, episodes=2, dtype=torch.float64)
        noise = torch.rand(6, 4, generator=torch.Generator().manual_seed(5))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RecurrentPolicy, "noise", lambda *_: noise[:, places])
            return collector.collect(Given(places), params, torch.Generator().manual_seed(6))

    straight, permuted = trials(torch.arange(4)), trials(order)
    for name in ("inputs", "actions", "log_probs", "values", "rewards", "mask"):
        assert_close(
            getattr(permuted, name), getattr(straight, name)[:, order], rtol=1e-12, atol=1e-12
        )
    assert_array_equal(permuted.episode_returns, straight.episode_returns[order])


# The update


def test_advantages_pass_over_ends_of_episodes_and_stop_at_the_end_of_the_trial() -> None:
    trials, _ = collected()
    discount, gae_lambda, unit = 0.9, 0.7, 3.0
    advantages, targets = trial_advantages(trials, unit, discount, gae_lambda)
    for slot, total in enumerate(np.array(LENGTHS).sum(0)):
        rewards = trials.rewards[:total, slot].numpy()
        values = np.append(unit * trials.values[:total, slot].numpy(), 0.0)
        errors = rewards + discount * values[1:] - values[:-1]
        for t in range(total):
            powers = (discount * gae_lambda) ** np.arange(total - t)
            expected = (powers * errors[t:]).sum()
            assert_allclose(advantages[t, slot], expected, rtol=1e-12)
            assert_allclose(targets[t, slot], (expected + values[t]) / unit, rtol=1e-12)
        assert_array_equal(advantages[total:, slot], np.zeros(len(advantages) - total))
    # The control: an end of the trial at every end of an episode would give others.
    assert LENGTHS[0][1] == 2
    assert abs(float(advantages[1, 1]) - (2.0 - unit * float(trials.values[1, 1]))) > 0.1


def test_with_lambda_1_targets_are_the_returns_of_the_whole_trial() -> None:
    trials, _ = collected()
    _, targets = trial_advantages(trials, 1.0, 1.0, 1.0)
    totals = trials.episode_returns.sum(1)
    assert_allclose(targets[0], totals, rtol=1e-12)


def test_a_value_of_1_is_a_reward_of_1_in_every_step() -> None:
    assert value_unit(1.0, 100) == 100.0
    assert value_unit(0.5, 3) == 1.75


def minibatch(policy: RecurrentPolicy) -> tuple[Minibatch, Params]:
    trials, params = collected(policy)
    advantages, targets = trial_advantages(trials, 2.0, 0.9, 0.9)
    batch = Minibatch(
        inputs=trials.inputs,
        actions=trials.actions,
        log_probs=trials.log_probs,
        mask=trials.mask,
        advantages=advantages,
        targets=targets,
    )
    return batch, params


@pytest.mark.parametrize("choices", [True, False], ids=["choices", "real"])
def test_the_first_gradient_is_that_of_the_policy_gradient(choices: bool) -> None:
    """At the parameters that took the samples, the surrogate's gradient is the likelihood's, weighted."""
    policy = replace(POLICY, choices=choices)
    batch, params = minibatch(policy)
    leaves = {name: value.requires_grad_() for name, value in params.items()}
    loss, measured = losses(policy, leaves, batch, RL2(value_weight=0.0), 0.0)
    states = policy.states(leaves, batch.inputs, policy.begin(3, batch.mask))
    log_probs = policy.distribution(leaves, states).log_prob(batch.actions)
    likelihood = -(log_probs * batch.advantages * batch.mask).sum() / batch.mask.sum()
    ours, theirs = (
        torch.autograd.grad(each, list(leaves.values()), materialize_grads=True)
        for each in (loss, likelihood)
    )
    assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    assert sum(float(part.abs().sum()) for part in ours) > 0.1
    assert float(measured["outer/clip_share"]) == 0.0
    assert_allclose(measured["outer/kl"], 0.0, atol=1e-12)


def test_what_follows_the_end_of_a_trial_has_no_part_in_the_loss() -> None:
    batch, params = minibatch(POLICY)
    noise = torch.randn(batch.inputs.shape, generator=torch.Generator().manual_seed(0))
    after = (1 - batch.mask).unsqueeze(-1)
    assert after.sum() > 3
    spoiled = replace(batch, inputs=batch.inputs + after * noise)
    settings = RL2()
    expected, _ = losses(POLICY, params, batch, settings, 0.1)
    loss, _ = losses(POLICY, params, spoiled, settings, 0.1)
    assert_close(loss, expected, rtol=1e-12, atol=1e-12)


def test_the_entropy_of_a_policy_without_preference_is_its_logarithm() -> None:
    batch, params = minibatch(POLICY)
    flat = {**params, "policy.weight": 0 * params["policy.weight"]}
    flat["policy.bias"] = torch.full((2,), 0.3, dtype=torch.float64)
    _, measured = losses(POLICY, flat, batch, RL2(), 0.1)
    assert_allclose(measured["outer/entropy"], np.log(2), rtol=1e-12)


def test_an_update_is_the_same_twice_and_raises_the_chance_of_what_paid() -> None:
    policy = RecurrentPolicy(observation_size=1, action_size=2, choices=True, units=4)
    settings = RL2(minibatches=1, epochs=3, learning_rate=1e-2, entropy=0.0)
    ends = []
    for _ in range(2):
        params = random_params(policy)
        meta = MetaParams(params, {})
        collector = TrialCollector(policy, 64, 1, dtype=torch.float64)
        update = RecurrentUpdate(policy, meta, settings, {})
        generator = torch.Generator().manual_seed(0)
        before = after = 0.0
        for _ in range(15):
            trials = collector.collect(PaysForOne(64), params, generator)
            after = float(trials.episode_returns.mean())
            before = before or after
            update.step(trials, 3.0, 0.0, generator)
        assert after > before + 0.4
        ends.append({name: value.clone() for name, value in params.items()})
    for name, value in ends[0].items():
        assert_array_equal(value, ends[1][name])


class PaysForOne:
    """Three steps in which action 1 pays 1."""

    horizon = 3

    def __init__(self, slots: int) -> None:
        self._time, self._slots = 0, slots

    def reset(self, seeds: Tensor) -> Tensor:
        self._time = 0
        return torch.zeros(self._slots, 1, dtype=torch.float64)

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        self._time += 1
        over = torch.full((self._slots,), self._time == 3)
        observation = torch.zeros(self._slots, 1, dtype=torch.float64)
        return observation, (actions == 1).double(), torch.zeros_like(over), over


def test_more_minibatches_than_trials_are_refused() -> None:
    with pytest.raises(UsageError, match="minibatches is 2, and an iteration has 1 trials"):
        replace(TINY, tasks_per_batch=1)


# Whole runs


def train(directory: Path, config: RecurrentConfig, resume: bool = False) -> MetaParams:
    with Run.open(directory, config=config, kind="recurrent", resume=resume) as run:
        return meta_train_recurrent(config, run)


@pytest.fixture(autouse=True)
def _without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "find_spec", no_matplotlib)


def test_killed_at_random_instants_a_run_ends_bit_equal(tmp_path: Path) -> None:
    directory, rng, kills = tmp_path / "run", np.random.default_rng(3), 0
    store = CheckpointStore(directory / "checkpoints")
    with children(train, PRELOADED) as start:
        while kills < 2:
            before = store.steps()
            child = start(directory, NAVIGATION, 0.02)
            while child.exitcode is None and store.steps() == before:
                child.join(0.002)
            child.join(rng.uniform(0, 0.1))
            child.kill()
            child.join()
            assert child.exitcode == -signal.SIGKILL
            kills += 1
    assert 2 <= store.steps()[-1] < NAVIGATION.iterations
    train(directory, NAVIGATION, resume=True)
    train(tmp_path / "reference", NAVIGATION)
    assert_same_end(directory, tmp_path / "reference")


@pytest.mark.parametrize(("config", "points"), [(TINY, 1), (NAVIGATION, 3)], ids=["bandit", "2d"])
def test_a_run_is_evaluated_episode_by_episode(
    tmp_path: Path, config: RecurrentConfig, points: int
) -> None:
    train(tmp_path, replace(config, iterations=2))
    run = load_run(tmp_path)
    settings = run.complete(EvaluationSettings(tasks=5))
    tasks = run.unseen_tasks(settings)
    scores = run.scores(tasks, settings)
    assert scores.shape == (5, points)
    assert_array_equal(run.scores(tasks, settings), scores)
    alone = run.scores(tasks, settings, adapting=False)
    assert_array_equal(alone[:, 0], scores[:, 0])
    if points > 1:
        assert (alone[:, 1:] != scores[:, 1:]).any()


def test_a_short_run_learns_to_pull_what_paid(tmp_path: Path) -> None:
    config = replace(
        TINY,
        family_options={"arms": 2, "horizon": 10},
        learner=RL2(units=16, learning_rate=1e-2),
        tasks_per_batch=128,
        iterations=25,
        evaluate_every=25,
        checkpoint_every=25,
    )
    train(tmp_path, config)
    settings = EvaluationSettings(tasks=1000, seed=5)
    run = load_run(tmp_path)
    returns = run.scores(run.unseen_tasks(settings), settings).mean()
    # A policy that learns nothing earns 5.0 here, whatever it does.
    assert returns > 5.5


def test_unfit_spaces_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no episodes; .* supervised"):
        train(tmp_path, replace(TINY, family="sinusoid", family_options={}))


def scaled(family: Navigation2D, tasks: list[Task]) -> ScaledActions:
    return ScaledActions(family.batch(tasks), family.action_space, "cpu")


def test_real_actions_are_kept_as_sampled_and_shown_within_the_bounds() -> None:
    family = Navigation2D(horizon=6)
    tasks = family.sample(4, numpy_generator(0, "tasks"), "train")
    policy = recurrent_policy(family.observation_space, family.action_space, 4, 2.0, 1e-6)
    params = policy.initial(torch_generator(0, "initial"))
    trials = TrialCollector(policy, 4, 2).collect(
        scaled(family, tasks), params, torch_generator(0, "episodes")
    )
    shown = trials.inputs[1:, :, 2:4]
    assert trials.actions.abs().max() > 1.5
    assert_close(shown, trials.actions[:-1].clamp(-1.0, 1.0))
