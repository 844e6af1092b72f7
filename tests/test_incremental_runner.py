"""Sequences of tasks: switches, equality with plain training, scores, resumption, and forgetting."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecNormalize
from tiny_incremental import dqn, envs, parameters, ppo, quiet, runner, sac
from torch.testing import assert_close

from mtrl.agents.incremental import (
    AGEM,
    EWC,
    MAS,
    BehaviourCloningReplay,
    EpisodeScorer,
    FineTune,
    IncrementalRunner,
    MethodSettings,
    PackNet,
    TaskSequence,
    TaskSwitch,
)
from mtrl.agents.incremental.schedules import Span, schedules
from mtrl.agents.incremental.switch import switch_task
from mtrl.agents.multitask.ppo import MultiTaskPPO
from mtrl.errors import CheckpointError, UsageError

ALL_KEPT = TaskSwitch(replay_buffer="keep", optimiser="keep", learning_rate="reset")


# Equality with Stable-Baselines3


@pytest.mark.parametrize("make", [ppo, dqn])
def test_fine_tuning_is_plain_learning_bit_for_bit(make: Any) -> None:
    order = ("up", "down", "up")
    ours = make("up", "down")
    assert runner(ours, *order, steps=96, switch=ALL_KEPT, method=FineTune()).run()
    # Made after, because both draw from the global streams, which the seed of each sets.
    theirs = make("up", "down")
    for name in order:
        env: Any = theirs.get_env()
        env.env_method("set_task_source", env.tasks[env.names.index(name)])
        theirs.learn(96, log_interval=None, reset_num_timesteps=True)
    assert_close(parameters(ours), parameters(theirs), rtol=0, atol=0)
    assert ours.num_timesteps == 3 * 96
    fresh = parameters(make("up", "down"))
    assert any((fresh[name] != value).any() for name, value in parameters(ours).items())


# What a switch is


class Watch(BaseCallback):
    """Keeps copies of the last rollout of PPO."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        model: Any = self.model
        buffer = model.rollout_buffer
        self.last = {
            name: getattr(buffer, name).copy()
            for name in ("rewards", "returns", "values", "episode_starts", "observations")
        }


def test_a_switch_bootstraps_the_episodes_in_flight_in_ppo() -> None:
    # 16 steps are two episodes of 6 and 4 steps of a third, which is in flight at the switch.
    agent = ppo("up", "down", n_steps=16, batch_size=32, gae_lambda=0.9)
    watch, run = Watch(), runner(agent, "up", "down", steps=64)
    before = agent.policy.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    run.run(watch, stages=1)
    first = watch.last
    reached = torch.as_tensor(agent._last_obs)
    other = ppo("up", "down")
    other.policy.load_state_dict(before)
    with torch.no_grad():
        values = other.policy.predict_values(reached).squeeze(1).numpy()
    assert (np.abs(values) > 1e-3).any()
    assert_allclose(first["returns"][-1], first["rewards"][-1] + 0.5 * values, rtol=1e-5)
    run.run(watch, stages=1)
    # The next rollout begins with first states, all of the new task.
    assert_array_equal(watch.last["episode_starts"][0], 1)
    assert_array_equal(watch.last["observations"][..., -1], 1)


def test_a_switch_is_a_truncation_in_the_replay_buffer() -> None:
    agent = dqn("up", "down")
    runner(agent, "up", "down", steps=64).run(stages=1)
    buffer: Any = agent.replay_buffer
    newest = (buffer.positions[0] - 1 - np.arange(4)) % buffer.capacity
    dones, timeouts = buffer.dones.reshape(-1), buffer.timeouts.reshape(-1)
    assert_array_equal(dones[newest], 0)
    marked_before = timeouts.sum()
    switch_task(agent, TaskSwitch(replay_buffer="keep"), 0, 1)
    assert_array_equal(dones[newest], 1)
    assert_array_equal(timeouts[newest], 1)
    assert timeouts.sum() == marked_before + 4
    # What learning sees of it: not over, so that the value of what comes after counts.
    samples = buffer._gather(newest, None)
    assert_array_equal(samples.dones.numpy(), 0)
    assert agent._last_obs is None


def test_a_termination_stays_one() -> None:
    agent = dqn("up", "down")
    runner(agent, "up", "down", steps=64).run(stages=1)
    buffer: Any = agent.replay_buffer
    newest = (buffer.positions[0] - 1 - np.arange(4)) % buffer.capacity
    buffer.dones.reshape(-1)[newest[0]] = 1
    switch_task(agent, TaskSwitch(replay_buffer="keep"), 0, 1)
    assert buffer.timeouts.reshape(-1)[newest[0]] == 0
    assert_array_equal(buffer._gather(newest, None).dones.numpy().ravel(), [1, 0, 0, 0])


def learnt(make: Any = dqn, steps: int = 96, **settings: Any) -> Any:
    agent = make("up", "down", **settings)
    runner(agent, "up", "down", steps=steps).run(stages=1)
    return agent


def test_replay_buffer_is_kept_emptied_or_thinned() -> None:
    kept = {}
    for choice in ("keep", "reset", "warm"):
        agent = learnt()
        rewards = agent.replay_buffer.rewards.reshape(-1)[:96].copy()
        switch_task(agent, TaskSwitch(replay_buffer=choice, warm_transitions=10), 0, 1)
        kept[choice] = agent.replay_buffer.counts.tolist()
        if choice == "warm":
            assert_array_equal(agent.replay_buffer.rewards.reshape(-1)[:10], rewards[-10:])
            assert agent.replay_buffer.positions.tolist() == [10, 0]
    assert kept == {"keep": [96, 0], "reset": [0, 0], "warm": [10, 0]}


def test_optimiser_is_kept_emptied_or_loses_its_direction() -> None:
    for choice in ("keep", "reset", "warm"):
        agent = learnt()
        before = {k: {n: v.clone() for n, v in s.items()} for k, s in state_of(agent).items()}
        switch_task(agent, TaskSwitch(optimiser=choice), 0, 1)
        after = state_of(agent)
        if choice == "reset":
            assert not after
            continue
        for key, old in before.items():
            assert_close(after[key]["exp_avg_sq"], old["exp_avg_sq"], rtol=0, atol=0)
            first = old["exp_avg"] if choice == "keep" else torch.zeros_like(old["exp_avg"])
            assert_close(after[key]["exp_avg"], first, rtol=0, atol=0)
            assert after[key]["step"] == old["step"] > 0


def state_of(agent: Any) -> Any:
    return agent.policy.optimizer.state


def test_target_network_lags_on_or_follows() -> None:
    for choice, share in (("keep", 0.0), ("warm", 0.5), ("reset", 1.0)):
        agent = learnt()
        old = [part.clone() for part in agent.q_net_target.parameters()]
        switch_task(agent, TaskSwitch(target_network=choice), 0, 1)
        trained = list(agent.q_net.parameters())
        assert any((a != b).any() for a, b in zip(old, trained, strict=True))
        for part, before, online in zip(agent.q_net_target.parameters(), old, trained, strict=True):
            assert_close(part, before.lerp(online, share), rtol=1e-6, atol=1e-7)


def test_moments_of_a_normaliser_are_kept_forgotten_or_made_light() -> None:
    for choice, count in (("keep", 100.0001), ("warm", 20.0), ("reset", 1e-4)):
        env = VecNormalize(envs("up", "down"), norm_obs=False, gamma=0.5)
        policy = {"network": ppo("up", "down").policy.network}
        agent = quiet(MultiTaskPPO("MultiTaskPolicy", env, policy_kwargs=policy, device="cpu"))
        env.ret_rms.update(np.arange(100.0))
        switch_task(agent, TaskSwitch(normalisers=choice, warm_count=20), 0, 1)
        assert_allclose(env.ret_rms.count, count)
        assert_allclose(env.ret_rms.mean, 0 if choice == "reset" else 49.5, rtol=1e-5, atol=1e-9)


def test_temperature_of_a_new_task() -> None:
    for choice, expected in (("keep", -0.2), ("warm", -0.7), ("reset", np.log(0.3))):
        agent = sac(ent_coef="auto_0.3")
        assert agent.log_ent_coef is not None
        agent.log_ent_coef.data.copy_(torch.tensor([-0.7, -0.2]))
        switch_task(agent, TaskSwitch(exploration=choice), 0, 1)
        assert_allclose(agent.log_ent_coef.tolist(), [-0.7, expected], rtol=1e-6)


SPAN = Span(start=200, length=100, total=400, first=False)


@pytest.mark.parametrize(
    ("choice", "at", "rate", "share"),
    [
        ("keep", 250, 0.375, 0.0),
        ("reset", 250, 0.5, 0.1),
        ("warm", 250, 0.5, 0.1),
        ("warm", 205, 0.95 * 0.5, 0.2),
        ("reset", 205, 0.95, 0.875),
    ],
)
def test_schedules_run_over_the_stage_or_the_sequence(
    choice: Any, at: int, rate: float, share: float
) -> None:
    # From 1 to 0 in either, and exploration from 1 to 0.1 in 36 % or 18 % of it.
    agent = dqn("up", "down", exploration_fraction=0.36, exploration_final_eps=0.1)
    agent.lr_schedule = lambda remaining: remaining
    agent.num_timesteps = at
    how = TaskSwitch(learning_rate=choice, exploration=choice)
    with schedules(agent, how, SPAN):
        assert_allclose(agent.lr_schedule(0.123), rate)
        found = agent.exploration_schedule(0.123)
        assert agent.learning_starts == (216 if choice == "reset" else 16)
    expected = {0.0: 0.1}.get(share, share)
    assert_allclose(found, expected)
    assert agent.learning_starts == 16
    assert agent.lr_schedule(0.123) == 0.123


# Scores and refusals


def test_the_matrix_has_a_row_before_training_and_one_after_each_stage() -> None:
    agent = ppo("up", "down")
    order = ("down", "up")
    run = runner(agent, *order, steps=480, seed=3)
    run.run(stages=1)
    matrix = run.matrix
    assert (matrix.tasks, matrix.order, matrix.seeds) == (("up", "down"), order, (3,))
    assert np.isnan(matrix.scores[0, 2]).all() and not np.isnan(matrix.scores[0, :2]).any()
    # The best of "down" is 6 steps of action 0, which earns half of what action 1 earns in "up".
    assert matrix.scores[0, 1, 1] == 3
    assert run.run() and run.done
    assert run.matrix.scores[0, 2, 0] == 6


def test_what_is_refused() -> None:
    agent = ppo("up", "down")
    with pytest.raises(UsageError, match=r"order has 'left', and the tasks are up, down"):
        runner(agent, "left")
    with pytest.raises(UsageError, match=r"steps are \(1, 2\) for 3 stages"):
        TaskSequence(order=("a", "b", "c"), steps=(1, 2))
    with pytest.raises(UsageError, match="AGEM is not defined for MultiTaskSAC"):
        AGEM().build(sac(), (0, 1), 0)
    with pytest.raises(UsageError, match="does not tell successes"):
        EpisodeScorer(envs("up"), score="success")(ppo("up"), 0)
    with pytest.raises(UsageError, match="learning_starts is 16 and a stage has 10 steps"):
        runner(dqn("up", "down"), "up", steps=10)
    other = runner(ppo("up", "down"), "down", "up")
    run = runner(agent, "up", "down")
    run.run(stages=1)
    with pytest.raises(CheckpointError, match="sequence up, down"):
        other.load_state_dict(*run.state_dict())


# Resumption


class Save(BaseCallback):
    """Saves the run at the start of the rollout that begins at `step`."""

    def __init__(self, run: IncrementalRunner, step: int) -> None:
        super().__init__()
        self.run, self.step = run, step

    def _on_rollout_start(self) -> None:
        if self.num_timesteps == self.step:
            tensors, values = self.run.state_dict()
            self.saved = {name: tensor.clone() for name, tensor in tensors.items()}, values

    def _on_step(self) -> bool:
        return True


METHODS: list[MethodSettings] = [
    EWC(coefficient=10.0, states=32),
    PackNet(retrain_share=0.5),
    BehaviourCloningReplay(memory_per_task=20, batch_size=8),
    AGEM(memory_per_task=20, batch_size=8),
    MAS(coefficient=1.0, states=8),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
@pytest.mark.parametrize("make", [ppo, dqn])
def test_a_run_cut_in_the_middle_of_a_stage_goes_on_bit_for_bit(make: Any, method: Any) -> None:
    whole = runner(make("up", "down"), "up", "down", "up", steps=96, method=method)
    save = Save(whole, 144)
    whole.run(save)
    again = runner(make("up", "down"), "up", "down", "up", steps=96, method=method)
    again.load_state_dict(*save.saved)
    assert again.stage == 1
    assert again.run()
    assert_close(parameters(again.agent), parameters(whole.agent), rtol=0, atol=0)
    assert_array_equal(again.matrix.scores, whole.matrix.scores)
    assert_close(again.method.state_dict(), whole.method.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_a_run_cut_between_stages_goes_on_bit_for_bit(method: Any) -> None:
    whole = runner(ppo("up", "down"), "up", "down", steps=96, method=method)
    whole.run(stages=1)
    tensors, values = whole.state_dict()
    saved = {name: tensor.clone() for name, tensor in tensors.items()}, values
    whole.run()
    again = runner(ppo("up", "down"), "up", "down", steps=96, method=method)
    again.load_state_dict(*saved)
    assert again.stage == 1 and again.run()
    assert_close(parameters(again.agent), parameters(whole.agent), rtol=0, atol=0)
    assert_array_equal(again.matrix.scores, whole.matrix.scores)


# Forgetting


def test_fine_tuning_forgets_what_ewc_packnet_and_cloning_keep() -> None:
    lost = {}
    methods: dict[str, MethodSettings] = {
        "fine-tune": FineTune(),
        "ewc": EWC(coefficient=50.0, states=64, smallest=0.0),
        "packnet": PackNet(),
        "cloning": BehaviourCloningReplay(policy_coefficient=10.0),
    }
    for name, method in methods.items():
        # A policy without any chance left has no Fisher information: entropy keeps some.
        agent = ppo("up", "down", ent_coef=0.3)
        run = runner(agent, "up", "down", steps=960, method=method)
        assert run.run()
        scores = run.matrix.scores[0]
        # All learn both tasks.
        assert (scores[1, 0], scores[2, 1]) == (6, 3), name
        lost[name] = scores[1, 0] - scores[2, 0]
    assert lost["fine-tune"] > 3
    assert max(lost["ewc"], lost["packnet"], lost["cloning"]) <= 1, lost


# Scores


def test_drawn_actions_are_the_same_at_every_call_and_move_no_stream() -> None:
    agent = ppo("up", "down")
    best, drawn = (
        EpisodeScorer(envs("up", "down", slots=50), actions=actions)
        for actions in ("best", "drawn")
    )
    before = torch.get_rng_state(), agent.action_space.np_random.bit_generator.state
    first, _ = drawn.episodes(agent, 0)
    assert_array_equal(torch.get_rng_state(), before[0])
    assert agent.action_space.np_random.bit_generator.state == before[1]
    torch.rand(5)
    assert_array_equal(drawn.episodes(agent, 0)[0], first)
    # A new policy hardly prefers anything: drawn actions give episodes of every kind.
    assert len(set(first.tolist())) > len(set(best.episodes(agent, 0)[0].tolist()))
    other = EpisodeScorer(envs("up", "down", slots=50), actions="drawn", seed=1)
    assert (other.episodes(agent, 0)[0] != first).any()


def test_scaled_scores_are_cut_episode_by_episode() -> None:
    agent = ppo("up", "down")
    plain = EpisodeScorer(envs("up", "down", slots=50), actions="drawn")
    returns, _ = plain.episodes(agent, 0)
    low, high = np.quantile(returns, [0.2, 0.7])
    scaled = EpisodeScorer(
        envs("up", "down", slots=50), score="scaled", bounds=[(low, high)] * 2, actions="drawn"
    )
    expected = [min(1.0, max(0.0, (each - low) / (high - low))) for each in returns]
    assert_allclose(scaled(agent, 0), np.mean(expected))
    # Cutting the mean instead would be another number.
    assert abs(np.mean(expected) - (returns.mean() - low) / (high - low)) > 0.01
    with pytest.raises(UsageError, match="give bounds"):
        EpisodeScorer(envs("up", "down"), score="scaled", bounds=[(0.0, 1.0)])
