"""PPO for many tasks against Stable-Baselines3's own, and its gradients task by task."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from counting_family import Counting, task
from numpy.testing import assert_allclose, assert_array_equal
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecEnv, VecMonitor
from torch import Tensor
from torch.testing import assert_close

from mtrl.agents.multitask.env import MultiTaskVecEnv, TaskFailedWarning
from mtrl.agents.multitask.ppo import MultiTaskPPO
from mtrl.agents.networks import MLP, NetworkConfig, OneHot, PerTask, Shared, TaskSpec
from mtrl.agents.objectives import TaskObjective
from mtrl.agents.policies import MultiTaskActorCriticPolicy
from mtrl.envs.registry import get_family
from mtrl.envs.task import Task
from mtrl.errors import UsageError

FAMILY = Counting(horizon=4)
A, B, C = task(1.0, lasts=3), task(-2.0), task(5.0, lasts=2)
NETWORK = NetworkConfig(trunk=MLP(hidden=(8,)), head=PerTask())
SMALL = {"n_steps": 8, "batch_size": 24, "n_epochs": 2, "seed": 0, "device": "cpu"}


def envs(
    tasks: Sequence[Task], slots: int = 6, family: Any = FAMILY, **more: Any
) -> MultiTaskVecEnv:
    return MultiTaskVecEnv(family.make_sb3([tasks[0]] * slots), tasks, **more)


def agent(env: VecEnv, **settings: Any) -> MultiTaskPPO:
    policy = {"network": NETWORK, **settings.pop("policy_kwargs", {})}
    return MultiTaskPPO("MultiTaskPolicy", env, policy_kwargs=policy, **{**SMALL, **settings})


def collected(model: PPO) -> PPO:
    """Take one rollout, as `learn` does before the first update."""
    _, callback = model._setup_learn(10**6)
    callback.on_training_start({}, {})
    assert model.env is not None
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    return model


def parameters(model: PPO) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.policy.named_parameters()}


# Equality with Stable-Baselines3


@pytest.mark.parametrize("family", ["cartpole", "pendulum"])
@pytest.mark.parametrize("normalise", [True, False])
def test_with_one_task_training_is_that_of_stable_baselines3(family: str, normalise: bool) -> None:
    made: Any = get_family(family)
    tasks = made.sample(1, np.random.default_rng(0), "train")
    kwargs = {"network": NETWORK, "spec": TaskSpec(tasks=1)}
    settings = {**SMALL, "normalize_advantage": normalise, "policy_kwargs": kwargs, "n_steps": 50}
    settings |= {"batch_size": 75, "learning_rate": 0.01}
    env = envs(tasks, family=made)
    theirs = PPO(MultiTaskActorCriticPolicy, envs(tasks, family=made), **settings)
    ours = MultiTaskPPO("MultiTaskPolicy", env, normalise_per_task=False, **settings)
    before = parameters(theirs)
    assert_close(parameters(ours), before, rtol=0, atol=0)
    for model in (ours, theirs):
        model.set_random_seed(5)
        model.learn(2 * 6 * 50)
    assert_close(parameters(ours), parameters(theirs), rtol=1e-4, atol=1e-5)
    moved = max((before[name] - value).abs().max() for name, value in parameters(ours).items())
    assert moved > 0.01


def test_a_rollout_is_that_of_stable_baselines3_time_limits_included() -> None:
    tasks = [A, B, C]
    kwargs = {"network": NETWORK, "spec": TaskSpec(tasks=3)}
    settings: dict[str, Any] = {**SMALL, "policy_kwargs": kwargs, "n_steps": 20}
    theirs = PPO(MultiTaskActorCriticPolicy, envs(tasks), **settings)
    ours = agent(envs(tasks), n_steps=20, normalize_advantage=False)
    for model in (ours, theirs):
        model.set_random_seed(5)
        collected(model)
    for name in ("observations", "actions", "episode_starts"):
        ours_, theirs_ = (getattr(model.rollout_buffer, name) for model in (ours, theirs))
        assert_array_equal(ours_, theirs_)
    for name in ("values", "log_probs", "rewards", "advantages", "returns"):
        ours_, theirs_ = (getattr(model.rollout_buffer, name) for model in (ours, theirs))
        assert_allclose(ours_, theirs_, rtol=1e-4, atol=1e-6)
    # Where time was up, the value of the last observation is added: B's episodes, in two slots.
    plain = np.isin(ours.rollout_buffer.rewards, [1, -0.5, -2, 5, -2.5])
    assert (~plain).sum() == 2 * 20 // 4
    lengths = [[one["l"] for one in model.ep_info_buffer or ()] for model in (ours, theirs)]
    assert lengths[0] == lengths[1] != []


# Gradients


def loss_gradients(model: MultiTaskPPO, chosen: int | None) -> dict[str, Tensor]:
    """Return the gradients of PPO's update on the samples of one task, or of all."""
    found: dict[str, Tensor] = {}
    optimizer = model.policy.optimizer

    def note(*_: Any) -> None:
        for name, value in model.policy.named_parameters():
            found[name] = torch.zeros_like(value) if value.grad is None else value.grad.clone()

    handle = optimizer.register_step_pre_hook(note)
    if chosen is not None:
        model.rollout_buffer.included = np.arange(len(model.task_names)) == chosen
    model.n_epochs, model.batch_size, model.max_grad_norm = 1, 10**6, 1e9
    model.train()
    handle.remove()
    return found


@pytest.mark.parametrize("chosen", [0, 1, 2])
def test_a_tasks_loss_moves_the_trunk_and_its_own_head_and_nothing_else(chosen: int) -> None:
    told = NetworkConfig(trunk=MLP(hidden=(8,)), conditioning=OneHot(), head=PerTask())
    model = collected(agent(envs([A, B, C]), policy_kwargs={"network": told}))
    assert isinstance(model, MultiTaskPPO)
    gradients = loss_gradients(model, chosen)
    for name, gradient in gradients.items():
        if "told" in name or name.startswith(("action_net", "value_net")):
            size = gradient.flatten(1).abs().sum(1)
            assert_array_equal(size > 0, np.arange(3) == chosen, err_msg=name)
        else:
            assert gradient.abs().sum() > 0, name


def permuted(model: MultiTaskPPO, order: list[int]) -> dict[str, Tensor]:
    """Return the parameters with the heads in another order."""
    return {
        name: value[order] if name.startswith(("action_net", "value_net")) else value
        for name, value in parameters(model).items()
    }


def test_permuting_tasks_and_heads_permutes_the_result() -> None:
    order, tasks = [2, 0, 1], [A, B, C]
    # The environments stay where they are; only the numbers of their tasks change.
    straight = agent(envs(tasks, assign=False), batch_size=48)
    turned = agent(envs([tasks[i] for i in order], assign=False), batch_size=48)
    turned.policy.load_state_dict({**turned.policy.state_dict(), **permuted(straight, order)})
    for model in (straight, turned):
        assert model.env is not None
        for slot in range(6):
            model.env.env_method("set_task_source", tasks[slot % 3], indices=[slot])
        model.env.seed(3)
        torch.manual_seed(3)
        collected(model)
    assert_array_equal(straight.rollout_buffer.actions, turned.rollout_buffer.actions)
    assert_allclose(
        straight.rollout_buffer.advantages, turned.rollout_buffer.advantages, rtol=1e-4, atol=1e-5
    )
    before = parameters(straight)
    for model in (straight, turned):
        model.train()
    assert_close(parameters(turned), permuted(straight, order), rtol=1e-4, atol=1e-6)
    assert max((before[n] - v).abs().max() for n, v in parameters(straight).items()) > 1e-4


def test_minibatches_of_a_rollout_have_equal_shares() -> None:
    model = collected(agent(envs([A, B, C], slots=7), batch_size=28))
    for batch in model.rollout_buffer.get(14):
        assert abs(batch.observations[:, -3:].sum(0) - 14 / 3).max() < 1


# Task weights


def objective(kind: Any = "worst-return", tasks: int = 3, step_size: float = 0.1) -> TaskObjective:
    return TaskObjective(kind, tuple("abc"[:tasks]), step_size=step_size)


def test_an_objective_moves_the_weights_by_the_returns_of_the_rollout() -> None:
    env = envs([A, B, C], names=["a", "b", "c"])
    model = agent(env, objective=objective())
    collected(model)
    reference = objective()
    reference.update(env.statistics.rollout_returns())
    assert_allclose(model.task_weights, 3 * reference.weights, rtol=1e-5)
    assert_close(model.policy.task_weights, model.task_weights)
    assert_allclose(model.task_weights.mean(), 1, rtol=1e-6)
    assert model.task_weights.argmax() == env.statistics.rollout_returns().argmin()
    assert model.task_weights.max() > 1.1


def test_weights_multiply_the_gradients_of_their_tasks() -> None:
    gradients = []
    for weight in (1.0, 3.0):
        model = collected(agent(envs([A, B, C])))
        assert isinstance(model, MultiTaskPPO)
        model.policy.set_task_weights([weight, 1.0, 1.0])
        gradients.append(loss_gradients(model, None))
    for name in gradients[0]:
        if name.startswith(("action_net", "value_net")):
            once, thrice = gradients[0][name], gradients[1][name]
            assert_close(thrice[0], 3 * once[0], rtol=1e-4, atol=1e-6)
            assert_close(thrice[1:], once[1:], rtol=1e-4, atol=1e-6)


def test_a_task_that_was_never_finished_keeps_its_weight() -> None:
    env = envs([A, task(2.0), C], family=Counting(horizon=100), names=["a", "b", "c"])
    model = agent(env, objective=objective())
    collected(model)
    returns = env.statistics.rollout_returns()
    assert_array_equal(np.isnan(returns), [False, True, False])
    assert_allclose(model.task_weights[1], 1, rtol=1e-6)
    known = np.exp(-0.1 * returns[[0, 2]])
    assert_allclose(model.task_weights[[0, 2]], 2 * known / known.sum(), rtol=1e-5)


@pytest.mark.parametrize("kind", ["worst-regret", "normalised-worst-regret"])
def test_it_keeps_its_weight_under_regrets_too(kind: Any) -> None:
    env = envs([A, task(2.0), C], family=Counting(horizon=100), names=["a", "b", "c"])
    best, random = [9.0, 100.0, 60.0], [0.0, -5.0, 10.0]
    goal = TaskObjective(kind, ("a", "b", "c"), step_size=0.1, best=best, random=random)
    before = goal.weights
    model = agent(env, objective=goal)
    collected(model)
    assert_allclose(goal.weights[1], before[1], rtol=1e-12)
    assert abs(goal.weights - before).max() > 1e-3


def test_without_any_finished_episode_no_weight_moves() -> None:
    env = envs([A, B, C], family=Counting(horizon=100), names=["a", "b", "c"])
    goal = objective()
    collected(agent(env, objective=goal, n_steps=1, batch_size=6))
    assert_allclose(goal.weights, np.full(3, 1 / 3))


# Tasks that fail


def test_a_task_that_fails_is_out_of_training_and_the_others_learn() -> None:
    env = envs([A, task(2.0, breaks=2), C], names=["a", "bad", "c"])
    model = agent(env, objective=TaskObjective("worst-return", env.names, step_size=0.1))
    before = parameters(model)
    with pytest.warns(TaskFailedWarning, match="task bad"):
        model.learn(2 * 6 * 8)
    assert_array_equal(model.task_weights == 0, [False, True, False])
    assert_allclose(model.task_weights.sum(), 2, rtol=1e-6)
    after = parameters(model)
    for name, value in after.items():
        assert torch.isfinite(value).all()
        if name.startswith(("action_net", "value_net")):
            moved = (value - before[name]).flatten(1).abs().sum(1) > 0
            assert_array_equal(moved, [True, False, True], err_msg=name)


# As Stable-Baselines3's


class Heard(BaseCallback):
    """Notes what it is told, and may stop training."""

    def __init__(self, stop_after: int = 10**9) -> None:
        super().__init__()
        self.steps, self.rollouts, self.stop_after = 0, 0, stop_after

    def _on_step(self) -> bool:
        self.steps += 1
        wanted = {"infos", "dones", "rewards", "new_obs", "actions"}
        assert wanted <= self.locals.keys()
        return self.steps < self.stop_after

    def _on_rollout_end(self) -> None:
        self.rollouts += 1


def test_callbacks_are_heard_and_can_stop_it() -> None:
    heard = Heard()
    agent(envs([A, B])).learn(3 * 6 * 8, callback=heard)
    assert (heard.steps, heard.rollouts) == (24, 3)
    model = agent(envs([A, B])).learn(3 * 6 * 8, callback=Heard(stop_after=11))
    assert model.num_timesteps == 6 * 11


def test_returns_of_tasks_are_logged(tmp_path: Path) -> None:
    env = envs([A, task(2.0), C], family=Counting(horizon=100), names=["a", "b", "c"])
    model = agent(env, objective=objective())
    model.set_logger(configure(str(tmp_path), ["json"]))
    collected(model)
    logged = model.logger.name_to_value
    returns = env.statistics.rollout_returns()
    assert_allclose([logged[f"multitask/return/{name}"] for name in "ac"], returns[[0, 2]])
    assert "multitask/return/b" not in logged
    assert_allclose(logged["multitask/weight/a"], model.task_weights[0])
    assert "multitask/saddle_gap" in logged
    assert logged["multitask/failed_tasks"] == 0
    model.logger.close()


def test_predict_and_saving_work_as_for_any_algorithm(tmp_path: Path) -> None:
    model = agent(envs([A, B, C])).learn(48)
    model.save(tmp_path / "agent")
    again = MultiTaskPPO.load(tmp_path / "agent", env=envs([A, B, C]), device="cpu")
    obs = envs([A, B, C]).reset()
    assert_array_equal(
        model.predict(obs, deterministic=True)[0], again.predict(obs, deterministic=True)[0]
    )
    assert_close(parameters(model), parameters(again), rtol=0, atol=0)
    again.learn(48)


def test_other_wrappers_may_lie_over_the_environment() -> None:
    model = agent(VecMonitor(envs([A, B]))).learn(48)
    assert model.task_names == (A.id, B.id)


def test_another_environment_of_the_same_tasks_may_be_set() -> None:
    model, other = agent(envs([A, B])).learn(48), envs([A, B])
    model.set_env(other)
    model.learn(48)
    assert other.statistics.episodes().sum() > 0


# Errors


def test_environments_that_tell_no_task_are_refused() -> None:
    with pytest.raises(UsageError, match="no MultiTaskVecEnv"):
        agent(FAMILY.make_sb3([A, B]))


def test_an_environment_of_other_tasks_is_refused() -> None:
    model = agent(envs([A, B]))
    with pytest.raises(UsageError, match="was made for"):
        model.set_env(envs([B, A]))


def test_an_environment_of_other_spaces_is_refused() -> None:
    pole: Any = get_family("cartpole")
    other = envs(pole.sample(2, np.random.default_rng(0), "train"), family=pole, names=["a", "b"])
    model = agent(envs([A, B], names=["a", "b"]))
    with pytest.raises(UsageError, match="env does not fit"):
        model.set_env(other)


def test_a_policy_for_another_number_of_tasks_is_refused() -> None:
    with pytest.raises(UsageError, match="tells 2 tasks"):
        agent(envs([A, B]), policy_kwargs={"spec": TaskSpec(tasks=3)})


def test_an_objective_of_other_tasks_is_refused() -> None:
    with pytest.raises(UsageError, match="objective weighs tasks a, b, c"):
        agent(envs([A, B]), objective=objective())


def test_an_objective_needs_a_policy_with_task_weights() -> None:
    env = envs([A, B], names=["a", "b"])
    with pytest.raises(UsageError, match="has no task weights"):
        MultiTaskPPO("MlpPolicy", env, objective=objective(tasks=2), **SMALL)
    MultiTaskPPO("MlpPolicy", env, objective=objective("mean-return", tasks=2), **SMALL).learn(48)


# Learning


def test_it_learns_what_a_policy_blind_to_the_task_cannot() -> None:
    tasks = [task(1.0), task(-1.0)]

    def trained(head: Any) -> np.ndarray:
        env = envs(tasks, slots=16)
        network = NetworkConfig(trunk=MLP(hidden=(16,)), head=head)
        settings = {"n_steps": 16, "batch_size": 128, "learning_rate": 0.02, "n_epochs": 4}
        agent(env, policy_kwargs={"network": network}, **settings).learn(16 * 16 * 12)
        return env.statistics.rollout_returns()

    # Best: 4 steps of reward 1, and of -0.5 * -1.
    told, blind = trained(PerTask()), trained(Shared())
    assert (told > [3.5, 1.7]).all()
    assert (blind < [3.5, 1.7]).any()
