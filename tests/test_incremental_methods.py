"""What methods do to gradients and weights, against hand values and independent computations."""

from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback
from tiny_incremental import (
    OWN,
    SHARED,
    dqn,
    envs,
    gaussian_ppo,
    parameters,
    ppo,
    quiet,
    runner,
    sac,
    seen,
)
from torch import Tensor
from torch.distributions import Categorical, Independent, Normal, kl_divergence
from torch.testing import assert_close

from mtrl.agents.incremental import (
    AGEM,
    EWC,
    L2,
    MAS,
    BehaviourCloningReplay,
    ColumnsTrunk,
    EpisodeScorer,
    FineTune,
    IncrementalRunner,
    MethodSettings,
    OnlineEWC,
    PackNet,
    ProgressiveColumns,
    TaskSequence,
    TaskSwitch,
)
from mtrl.agents.incremental.acting import acting_network, acting_optimizer, split_states
from mtrl.agents.incremental.agem import projected
from mtrl.agents.incremental.cloning import divergence
from mtrl.agents.incremental.hooks import UpdateHooks
from mtrl.agents.incremental.importance import fisher
from mtrl.agents.incremental.packnet import prune
from mtrl.agents.incremental.switch import switch_task
from mtrl.agents.networks import MixtureOfExperts, NetworkConfig, OneHot, PerTask, Shared, TaskInput
from mtrl.agents.q_learning.batch import ReplayBatch
from mtrl.errors import UsageError

# Hooks


def test_a_term_put_in_before_the_backward_pass_is_clipped_with_the_loss() -> None:
    part = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = torch.optim.SGD([part], lr=1.0)
    hooks = UpdateHooks(optimizer)
    hooks.before_backward(lambda: setattr(part, "grad", torch.tensor([0.0, 4.0])))
    optimizer.zero_grad()
    (3 * part[0]).backward()  # type: ignore[no-untyped-call]
    # (3, 4) of length 5, clipped to 1.
    torch.nn.utils.clip_grad_norm_([part], 1.0)
    optimizer.step()
    assert_close(part.detach(), torch.tensor([1 - 0.6, 2 - 0.8]), rtol=1e-5, atol=1e-5)
    hooks.remove()
    optimizer.zero_grad()
    assert part.grad is None


# Quadratic penalties


def trained(make: Any, method: MethodSettings, **settings: Any) -> tuple[Any, Any]:
    """Return an agent after task "up", and the method beside it."""
    agent = make("up", "down", **settings)
    run = runner(agent, "up", "down", steps=96, method=method)
    run.run(stages=1)
    return agent, run.method


def moved(agent: Any) -> None:
    """Move all parameters by 0.1 or so."""
    chance = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for part in agent.policy.parameters():
            part += 0.1 * torch.randn(part.shape, generator=chance)


@pytest.mark.parametrize("make", [ppo, dqn, lambda *names: sac()])
def test_the_gradient_of_ewc_is_that_of_its_penalty(make: Any) -> None:
    agent = make("up", "down")
    method = EWC(coefficient=7.0).build(agent, (0, 1), 0)
    network = acting_network(agent)
    named = dict(network.named_parameters())
    chance = torch.Generator().manual_seed(2)
    for name, part in method.guarded.items():
        drawn = torch.rand(part.shape, generator=chance)
        method.kept[name] = (drawn, part.detach() + 0.3)
    moved(agent)
    acting_optimizer(agent).zero_grad()
    added = {name: part.grad for name, part in named.items() if part.grad is not None}
    assert added.keys() == method.kept.keys()
    for name, (importance, anchor) in method.kept.items():
        assert_close(added[name], 14.0 * importance * (named[name].detach() - anchor))
    penalty = sum((i * (named[n] - a) ** 2).sum() for n, (i, a) in method.kept.items())
    assert_close(method.penalty(), 7.0 * penalty, check_dtype=False)
    # Neither critics nor values are held.
    others = [p for g in acting_optimizer(agent).param_groups for p in g["params"]]
    held = {id(part) for part in named.values()}
    assert all(part.grad is None for part in others if id(part) not in held)


def test_ewc_measures_the_fisher_information_of_the_task_that_ends() -> None:
    agent, method = trained(ppo, EWC(states=10_000, smallest=0.0))
    rollout = agent.rollout_buffer.observations.reshape(-1, agent.observation_space.shape[0])
    expected = fisher(acting_network(agent), split_states(agent, rollout))
    for name, (importance, anchor) in method.kept.items():
        assert_close(importance, expected[name], rtol=1e-4, atol=1e-7)
        assert_close(anchor, dict(acting_network(agent).named_parameters())[name].detach())
    assert sum(float(i.sum()) for i, _ in method.kept.values()) > 0.01
    # The other task's one-hot code had no part in it.
    code = method.kept["trunk.told.code.weight"][0]
    assert code[0].sum() > 0
    assert_close(code[1], torch.zeros_like(code[1]), rtol=0, atol=0)


def test_heads_that_tasks_have_alone_are_not_held() -> None:
    _, method = trained(dqn, EWC(), network=OWN)
    assert method.kept and not any(name.startswith("head.") for name in method.kept)
    _, shared = trained(dqn, EWC(), network=SHARED)
    assert any(name.startswith("head.") for name in shared.kept)


PAIRS = ((torch.tensor([1.0, 0.0, 2.0]), torch.tensor([1.0, 5.0, 4.0])),) + (
    (torch.tensor([3.0, 0.0, 2.0]), torch.tensor([2.0, 7.0, 0.0])),
)


def test_two_anchors_have_the_gradient_of_the_sum_of_both_penalties() -> None:
    importance, anchor = EWC().merge(*PAIRS)
    at = torch.tensor([0.5, 1.0, -1.0])
    both = sum(i * (at - a) for i, a in PAIRS)
    assert_close(importance * (at - anchor), both, check_dtype=False)
    # 1 at 1 and 3 at 2 are 4 at 1.75.
    assert_close(anchor, torch.tensor([1.75, 7.0, 2.0]))


def test_the_other_merges() -> None:
    (old, _), (_, last) = PAIRS
    summed = EWC(anchors="last").merge(*PAIRS)
    assert_close(summed, (torch.tensor([4.0, 0.0, 4.0]), last), rtol=0, atol=0)
    assert_close(MAS().merge(*PAIRS), summed, rtol=0, atol=0)
    faded = OnlineEWC(decay=0.5).merge(*PAIRS)
    assert_close(faded, (torch.tensor([3.5, 0.0, 3.0]), last), rtol=0, atol=0)
    thrice = OnlineEWC(decay=0.5).merge(faded, (old, last))
    assert_close(thrice[0], torch.tensor([2.75, 0.0, 3.5]), rtol=0, atol=0)
    assert_close(L2().merge(*PAIRS), PAIRS[1], rtol=0, atol=0)


def test_l2_holds_all_alike_and_a_coefficient_of_0_holds_nothing() -> None:
    _, method = trained(ppo, L2())
    assert all((importance == 1).all() for importance, _ in method.kept.values())
    plain, free = ppo("up", "down"), None
    runner(plain, "up", "down").run()
    free = ppo("up", "down")
    runner(free, "up", "down", method=L2(coefficient=0.0)).run()
    assert_close(parameters(free), parameters(plain), rtol=0, atol=0)
    held = ppo("up", "down")
    runner(held, "up", "down", method=L2(coefficient=100.0)).run()
    assert any((parameters(held)[n] != v).any() for n, v in parameters(plain).items())


# PackNet


def test_each_stage_keeps_its_exact_share_and_the_largest() -> None:
    weights = torch.tensor([[0.1, -5.0, 0.3, 4.0], [-0.2, 3.0, -0.05, 2.0], [1.0, 0.0, 0.0, 6.0]])
    owner = torch.zeros(3, 4, dtype=torch.int64)
    first = prune(weights, owner, 0, 3)
    assert [int((first == stage).sum()) for stage in range(3)] == [4, 8, 0]
    kept = weights[first == 0].abs().sort().values
    assert_close(kept, torch.tensor([3.0, 4.0, 5.0, 6.0]))
    second = prune(weights, first, 1, 3)
    assert [int((second == stage).sum()) for stage in range(3)] == [4, 4, 4]
    assert_close(second == 0, first == 0)
    assert_close(weights[second == 1].abs().min(), torch.tensor(0.2))
    assert_close(prune(weights, second, 2, 3), second)


class Outputs(BaseCallback):
    """Notes what the network says of old tasks at each rollout of later ones."""

    def __init__(self, run: IncrementalRunner) -> None:
        super().__init__()
        self.run, self.noted = run, dict[int, list[Tensor]]()

    def note(self) -> None:
        for task in self.run.tasks[: self.run.stage]:
            self.noted.setdefault(task, []).append(said(self.run, task))

    def _on_rollout_start(self) -> None:
        self.note()

    def _on_step(self) -> bool:
        return True


def said(run: IncrementalRunner, task: int) -> Tensor:
    agent: Any = run.agent
    states = split_states(agent, seen(agent, task))
    with run.method.playing(task), torch.no_grad():
        outputs: Tensor = acting_network(agent)(*states.columns())
    return outputs.clone()


def decaying(*names: str, **settings: Any) -> Any:
    """Return PPO whose optimiser moves weights that have no gradient."""
    optimizer = {"optimizer_class": torch.optim.AdamW, "optimizer_kwargs": {"weight_decay": 0.1}}
    return ppo(*names, policy_kwargs=optimizer, **settings)


@pytest.mark.parametrize("network", [SHARED, OWN], ids=["shared head", "own heads"])
@pytest.mark.parametrize("make", [ppo, decaying, dqn])
def test_old_tasks_are_computed_to_the_bit_for_ever(make: Any, network: NetworkConfig) -> None:
    agent = make("up", "down", "far", network=network)
    run = runner(agent, "up", "down", "far", steps=96, method=PackNet(retrain_share=0.5))
    outputs = Outputs(run)
    run.run(outputs)
    outputs.note()
    assert [len(outputs.noted[task]) >= 3 for task in (0, 1)] == [True, True]
    for noted in outputs.noted.values():
        for later in noted[1:]:
            assert_close(later, noted[0], rtol=0, atol=0)
    # What it would be without: the weights of later tasks are in the way.
    states = split_states(agent, seen(agent, 0))
    bare = acting_network(agent)(*states.columns())
    assert (bare - outputs.noted[0][0]).abs().max() > 1e-4
    method: Any = run.method
    for owner in method.owners.values():
        counts = torch.bincount(owner.flatten(), minlength=3).tolist()
        first = owner.numel() * 2 // 3
        assert counts == [owner.numel() - first, first - first // 2, first // 2]


def test_packnet_packs_the_actor_of_sac() -> None:
    agent = sac()
    run = pendulums(agent, PackNet(retrain_share=0.5))
    run.run(stages=1)
    before, critics = said(run, 0), parameters(agent)
    run.run()
    assert_close(said(run, 0), before, rtol=0, atol=0)
    now = parameters(agent)
    assert any((now[n] != v).any() for n, v in critics.items() if n.startswith("critic."))
    assert any((now[n] != v).any() for n, v in critics.items() if n.startswith("actor."))


def test_a_deviation_is_frozen_too_though_the_switch_resets_it() -> None:
    # The default switch sets the deviation of PPO's actions back.
    agent = gaussian_ppo()
    run = pendulums(agent, PackNet(retrain_share=0.5), steps=32)
    run.run(stages=1)
    before = said(run, 0)
    assert (before[:, 1:] != 0).all()
    run.run()
    assert_close(said(run, 0), before, rtol=0, atol=0)
    free = gaussian_ppo()
    run = pendulums(free, FineTune(), steps=32)
    run.run(stages=1)
    switch_task(free, TaskSwitch(exploration="keep"), 0, 1)
    trained_std = free.policy.log_std.detach().clone()
    switch_task(free, TaskSwitch(exploration="warm"), 0, 1)
    assert_close(free.policy.log_std.detach(), trained_std / 2)
    switch_task(free, TaskSwitch(exploration="reset"), 0, 1)
    assert_close(free.policy.log_std.detach(), torch.zeros_like(trained_std), rtol=0, atol=0)


@pytest.mark.parametrize("method", [EWC(states=16), OnlineEWC(states=16), MAS(states=16), L2()])
def test_penalties_hold_the_actor_of_sac(method: MethodSettings) -> None:
    agent = sac()
    run = pendulums(agent, method)
    assert run.run()
    made: Any = run.method
    assert all(torch.isfinite(i).all() and (i >= 0).all() for i, _ in made.kept.values())
    named = {f"actor.network.{name}" for name in made.kept}
    assert named <= parameters(agent).keys()


def pendulums(agent: Any, method: MethodSettings, steps: int = 24) -> IncrementalRunner:
    sequence = TaskSequence(order=("t0", "t1"), steps=(steps,), method=method)
    return IncrementalRunner(agent, sequence, lambda played, task: 0.0)


def test_packnet_refuses_other_trunks() -> None:
    network = NetworkConfig(trunk=MixtureOfExperts(), conditioning=OneHot())
    with pytest.raises(UsageError, match="PackNet is not defined for MultiTaskPPO: its trunk"):
        PackNet().build(ppo("up", "down", network=network), (0, 1), 0)


# A-GEM


def test_the_projection_has_hand_values() -> None:
    gradient = torch.tensor([1.0, -2.0, 3.0])
    # g.r = -2 and |r|^2 = 4.
    against = torch.tensor([0.0, 0.0, -2.0]) + torch.tensor([0.0, 0.0, 0.0])
    assert_close(projected(gradient, against), torch.tensor([1.0, -2.0, 0.0]))
    skew = torch.tensor([-1.0, 1.0, 0.0])
    assert_close(projected(gradient, skew), torch.tensor([-0.5, -0.5, 3.0]))
    along = torch.tensor([1.0, 0.0, 0.0])
    assert_close(projected(gradient, along), gradient, rtol=0, atol=0)
    assert_close(projected(gradient, torch.zeros(3)), gradient, rtol=0, atol=0)


@pytest.mark.parametrize("make", [ppo, dqn])
def test_no_step_raises_the_memory_loss_to_first_order(make: Any) -> None:
    # All rows in every batch, so that the gradient of reference can be computed again.
    agent, method = trained(make, AGEM(memory_per_task=8, batch_size=4000))
    moved(agent)
    optimizer = agent.policy.optimizer
    parts = [part for group in optimizer.param_groups for part in group["params"]]
    method.memory._chance.manual_seed(9)
    reference = torch.autograd.grad(method.memory_loss(drawn(method)), parts, allow_unused=True)
    flat = flattened(parts, reference)
    chance = torch.Generator().manual_seed(1)
    for sign in (-1.0, 1.0):
        own = sign * flat + 0.1 * flat.norm() * torch.randn(len(flat), generator=chance)
        place = 0
        for part in parts:
            part.grad = own[place : place + part.numel()].view_as(part).clone()
            place += part.numel()
        method.memory._chance.manual_seed(9)
        method._project()
        after = torch.cat([part.grad.flatten() for part in parts])
        agreement = float(after @ flat) / float(flat @ flat)
        if sign < 0:
            assert abs(agreement) < 1e-4 and float(own @ flat) < 0
        else:
            assert_close(after, own, rtol=0, atol=0)


def drawn(method: Any) -> Any:
    return method.memory.draw(method.settings.batch_size)


def flattened(parts: Any, gradients: Any) -> Tensor:
    filled = [
        torch.zeros_like(p) if g is None else g for p, g in zip(parts, gradients, strict=True)
    ]
    return torch.cat([each.flatten() for each in filled])


def test_the_memory_loss_is_that_of_the_algorithm() -> None:
    agent, method = trained(dqn, AGEM(memory_per_task=1000))
    buffer, rows = agent.replay_buffer, np.arange(agent.replay_buffer.counts[0])
    expected = agent.loss_terms(ReplayBatch.of(buffer._gather(rows, None))).total
    assert_close(method.memory_loss(method.memory.rows), expected)


# Cloning


def test_divergences_are_those_of_torch() -> None:
    chance = torch.Generator().manual_seed(0)
    old, new = torch.randn(2, 5, 4, generator=chance, dtype=torch.float64)
    expected = kl_divergence(Categorical(logits=old), Categorical(logits=new))
    assert_close(divergence("logits", old, new), expected)
    pairs = [Independent(Normal(o[:, :2], o[:, 2:].exp()), 1) for o in (old, new)]
    assert_close(divergence("gaussian", old, new), kl_divergence(*pairs))
    with pytest.raises(ValueError, match="no distribution"):
        divergence("values", old, new)


def test_cloning_adds_the_gradient_of_divergence_and_squared_error() -> None:
    how = BehaviourCloningReplay(policy_coefficient=3.0, value_coefficient=0.7, memory_per_task=9)
    agent, method = trained(ppo, how)
    moved(agent)
    (memory,) = method.memory.stages
    observations = memory["observations"]
    assert len(observations) == 9
    old = Categorical(logits=memory["outputs"])
    new = agent.policy.get_distribution(observations).distribution
    values = agent.policy.predict_values(observations).squeeze(1)
    loss = 3.0 * kl_divergence(old, new).mean()
    loss = loss + 0.7 * (values - memory["values"]).square().mean()
    assert_close(method.cloning_loss(memory), loss)
    parts = [part for group in agent.policy.optimizer.param_groups for part in group["params"]]
    method.memory._chance.manual_seed(4)
    expected = torch.autograd.grad(method.cloning_loss(drawn(method)), parts, allow_unused=True)
    method.memory._chance.manual_seed(4)
    agent.policy.optimizer.zero_grad()
    assert_close(flattened(parts, [part.grad for part in parts]), flattened(parts, expected))
    assert flattened(parts, expected).norm() > 1e-3


def test_of_dqn_values_are_cloned_and_of_sac_the_actor() -> None:
    agent, method = trained(dqn, BehaviourCloningReplay(value_coefficient=0.5))
    moved(agent)
    (memory,) = method.memory.stages
    error = agent.q_net(memory["observations"]) - memory["outputs"]
    assert_close(method.cloning_loss(memory), 0.5 * error.square().mean())
    other = sac()
    run = pendulums(other, BehaviourCloningReplay(policy_coefficient=2.0))
    run.run(stages=1)
    moved(other)
    clone: Any = run.method
    (memory,) = clone.memory.stages
    mean, log_std, _ = other.actor.get_action_dist_params(memory["observations"])
    new = Independent(Normal(mean, log_std.exp()), 1)
    told = memory["outputs"].chunk(2, 1)
    old = Independent(Normal(told[0], told[1].exp()), 1)
    assert_close(clone.cloning_loss(memory), 2.0 * kl_divergence(old, new).mean())
    first, second = other.critic(memory["observations"], memory["actions"])
    squares = [
        (made.squeeze(1) - memory["values"][:, place]).square().mean()
        for place, made in enumerate((first, second))
    ]
    assert_close(clone.critic_loss(memory), 0.5 * (squares[0] + squares[1]))
    other.critic.optimizer.zero_grad()
    assert any(float(part.grad.abs().sum()) > 0 for part in other.critic.parameters())


# Progressive columns

COLUMNS = NetworkConfig(trunk=ColumnsTrunk(hidden=(6, 5), adapter=3), head=PerTask())  # type: ignore[arg-type]


def test_a_column_sees_those_before_it_and_sends_them_no_gradient() -> None:
    agent = ppo("up", "down", "far", network=COLUMNS)
    trunk: Any = agent.policy.trunks()["shared"]
    observations = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    first, second, _ = trunk.columns

    def affine(layer: Any, inputs: Tensor) -> Tensor:
        return inputs @ layer.weight[0].T + layer.bias[0]

    below = [torch.relu(affine(column.layers[0], observations)) for column in (first, second)]
    narrow = torch.relu(affine(second.narrow["1_0"], second.scales["1_0"] * below[0]))
    lateral = narrow @ second.widen["1_0"][0].T
    expected = torch.relu(affine(second.layers[1], below[1]) + lateral)
    made = trunk(observations, TaskInput(torch.ones(4, dtype=torch.int64)))
    assert_close(made, expected)
    assert lateral.abs().max() > 1e-4
    made.square().sum().backward()
    # The column below took part, and would have had a gradient.
    assert all(
        float(part.grad.abs().sum()) == 0 for part in first.parameters() if part.grad is not None
    )
    assert float(second.layers[0].weight.grad.abs().sum()) > 0
    assert float(second.scales["1_0"].grad.abs()) > 0


@pytest.mark.parametrize("make", [ppo, dqn])
def test_old_columns_are_frozen(make: Any) -> None:
    agent = make("up", "down", network=COLUMNS)
    run = runner(agent, "up", "down", steps=96, method=ProgressiveColumns())
    run.run(stages=1)
    before, said_before = parameters(agent), said(run, 0)
    run.run()
    after = parameters(agent)
    old = [name for name in after if ".columns.0." in name and "target" not in name]
    new = [name for name in after if ".columns.1." in name and "target" not in name]
    assert old and all((after[name] == before[name]).all() for name in old)
    assert any((after[name] != before[name]).any() for name in new)
    assert_close(said(run, 0), said_before, rtol=0, atol=0)


def test_old_columns_of_sac_are_frozen_in_actor_and_critics() -> None:
    agent = sac(network=COLUMNS)
    run = pendulums(agent, ProgressiveColumns())
    run.run(stages=1)
    before, said_before = parameters(agent), said(run, 0)
    run.run()
    assert_close(said(run, 0), said_before, rtol=0, atol=0)
    after = parameters(agent)
    for number, changes in ((0, False), (1, True)):
        names = [n for n in after if f".columns.{number}." in n and "target" not in n]
        found = {n.split(".")[0] for n in names if (after[n] != before[n]).any()}
        assert found == ({"actor", "critic"} if changes else set())


def test_what_columns_refuse() -> None:
    with pytest.raises(UsageError, match="use NetworkConfig"):
        ProgressiveColumns().build(ppo("up", "down"), (0, 1), 0)
    with pytest.raises(UsageError, match=r"meets tasks \[1, 0\]"):
        ProgressiveColumns().build(ppo("up", "down", network=COLUMNS), (1, 0), 0)
    shared = NetworkConfig(trunk=ColumnsTrunk(), head=Shared())  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="its tasks share a head"):
        ProgressiveColumns().build(ppo("up", "down", network=shared), (0, 1), 0)


def test_methods_that_know_the_network_refuse_a_foreign_policy() -> None:
    agent = quiet(ppo("up", "down").__class__("MlpPolicy", ppo("up", "down").get_env()))
    with pytest.raises(UsageError, match="ActorCriticPolicy, of which incremental methods"):
        EWC().build(agent, (0, 1), 0)
    assert FineTune().build(agent, (0, 1), 0).milestones(0) == ()


def test_closing_a_method_leaves_plain_updates() -> None:
    plain = ppo("up", "down")
    plain.learn(96, log_interval=None)
    agent = ppo("up", "down")
    for method in (L2(), PackNet(), AGEM(), BehaviourCloningReplay()):
        made = method.build(agent, (0, 1), 0)
        made.close()
    agent.learn(96, log_interval=None)
    assert_close(parameters(agent), parameters(plain), rtol=0, atol=0)
    assert "zero_grad" not in vars(agent.policy.optimizer)


def test_scores_of_the_same_agent_are_the_same() -> None:
    agent, scorer = ppo("up", "down"), EpisodeScorer(envs("up", "down"), seed=3)
    assert scorer(agent, 0) == scorer(agent, 0)
    assert scorer(agent, 0) != scorer(agent, 1)
