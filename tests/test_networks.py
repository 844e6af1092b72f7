"""Networks for many tasks against plain loops over samples, in float64."""

import dataclasses
import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mtrl.agents.networks import (
    CNN,
    MLP,
    Embedding,
    Film,
    MixtureOfExperts,
    MultiTaskNetwork,
    NetworkConfig,
    OneHot,
    ParameterCompositions,
    PerTask,
    Shared,
    SoftModules,
    TaskInput,
    TaskParameters,
    TaskSpec,
    orthonormal,
)
from mtrl.agents.networks.layers import blocks, period_of
from mtrl.config import from_toml, to_toml
from mtrl.config_docs import field_docs
from mtrl.errors import UsageError

TASKS, BATCH, OUTPUTS, SHAPE, CONTEXT = 3, 7, 2, (5,), 4
CODES = [OneHot(), Embedding(size=3), TaskParameters()]
TRUNKS = {
    "mlp": MLP(hidden=(6, 4)),
    "soft-modules": SoftModules(encoder=(6, 5), layers=3, modules=2, width=4),
    "moore": MixtureOfExperts(experts=3, hidden=(6, 4)),
    "mixture": MixtureOfExperts(experts=3, hidden=(6, 4), orthogonal=False, gate="softmax"),
    "paco": ParameterCompositions(sets=3, hidden=(6, 4)),
}
IMAGES = CNN(channels=(2, 3), kernels=(4, 3), strides=(2, 1), units=5)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def built(config: NetworkConfig, *, tasks: int = TASKS, shape=SHAPE, seed: int = 0):
    spec = TaskSpec(tasks=tasks, context=CONTEXT)
    return config.build(shape, OUTPUTS, spec=spec, generator=generator(seed)).double()


def stirred(network: MultiTaskNetwork) -> MultiTaskNetwork:
    """Move every parameter, so that none is at a value (0, say) that hides its part."""
    chance = generator(9)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=chance, dtype=torch.float64)
    return network


def batch(shape=SHAPE, tasks: int = TASKS, size: int = BATCH) -> tuple[Tensor, TaskInput]:
    chance = generator(1)
    observations = torch.randn(size, *shape, generator=chance, dtype=torch.float64)
    context = torch.randn(size, CONTEXT, generator=chance, dtype=torch.float64)
    return observations, TaskInput(torch.arange(size) % tasks, context)


def sample(task: TaskInput, place: int) -> tuple[int, Tensor]:
    assert task.index is not None and task.context is not None
    return int(task.index[place]), task.context[place]


def code_map(module: nn.Module, number: int, context: Tensor) -> Tensor:
    """Multiply the code of one task, written out, by the matrix of its map."""
    weights = dict(module.named_parameters())
    if "embedding" in weights:
        return weights["weight"] @ weights["embedding"][number]
    if weights["weight"].shape[1] == CONTEXT:
        return weights["weight"] @ context
    unit = torch.zeros(len(weights["weight"]), dtype=torch.float64)
    unit[number] = 1
    return unit @ weights["weight"]


def affine(layer: nn.Module, x: Tensor, group: int = 0) -> Tensor:
    weights = dict(layer.named_parameters())
    return weights["weight"][group] @ x + weights["bias"][group]


def mlp(trunk, x: Tensor, number: int, context: Tensor) -> Tensor:
    for i, layer in enumerate(trunk.layers):
        x = affine(layer, x)
        if i == 0 and trunk.told.code is not None:
            x = x + code_map(trunk.told.code, number, context)
        x = x.relu()
    return x


def soft_modules(trunk, x: Tensor, number: int, context: Tensor) -> Tensor:
    """Yang et al. 2020, equations 2 to 6, module by module."""
    n, depth = 2, len(trunk.layers)
    first, second = trunk.encoder.layers
    f = affine(second, affine(first, x).relu())
    joint = f * code_map(trunk.code, number, context)
    g = [f.relu()] * n
    logits = None
    for layer in range(depth):
        if logits is None:
            logits = affine(trunk.to_logits[0], joint.relu())
        else:
            up = affine(trunk.from_logits[layer - 1], logits)
            logits = affine(trunk.to_logits[layer], (up * joint).relu())
        made = [affine(trunk.layers[layer], g[j], j).relu() for j in range(n)]
        g = []
        for i in range(n):
            shares = logits[i * n : (i + 1) * n].exp()
            shares = shares / shares.sum()
            g.append(sum(shares[j] * made[j] for j in range(n)))
    return torch.cat(g)


def mixture(trunk, x: Tensor, number: int, context: Tensor, *, orthogonal: bool) -> Tensor:
    first, second = trunk.experts.layers
    said = [affine(second, affine(first, x, k).relu(), k) for k in range(3)]
    weights = code_map(trunk.gate, number, context)
    if not orthogonal:
        weights = weights.exp() / weights.exp().sum()
        return sum(weights[k] * said[k] for k in range(3))
    columns = np.stack([one.detach().numpy() for one in said], axis=1)
    basis, triangle = np.linalg.qr(columns)
    basis = torch.from_numpy(basis * np.sign(np.diag(triangle)))
    return basis @ weights


def paco(trunk, x: Tensor, number: int, context: Tensor) -> Tensor:
    w = code_map(trunk.composition, number, context)
    for layer in trunk.layers:
        theta = {
            name: sum(w[k] * part[k] for k in range(3)) for name, part in layer.named_parameters()
        }
        x = (theta["weight"] @ x + theta["bias"]).relu()
    return x


LOOPS: dict[str, Callable[..., Tensor]] = {
    "mlp": mlp,
    "soft-modules": soft_modules,
    "moore": lambda *of: mixture(*of, orthogonal=True),
    "mixture": lambda *of: mixture(*of, orthogonal=False),
    "paco": paco,
}


def looped(network, features: Callable[..., Tensor], observations, task: TaskInput) -> Tensor:
    rows = []
    for place, observation in enumerate(observations):
        number, context = sample(task, place)
        group = number if network.head.affine.groups > 1 else 0
        seen = features(network.trunk, observation, number, context)
        rows.append(affine(network.head.affine, seen, group))
    return torch.stack(rows)


@pytest.mark.parametrize("head", [Shared(), PerTask()], ids=["shared", "per-task"])
@pytest.mark.parametrize("code", CODES, ids=lambda code: type(code).__name__)
@pytest.mark.parametrize("name", TRUNKS)
def test_a_network_is_the_loop_over_its_samples(name: str, code, head) -> None:
    config = NetworkConfig(trunk=TRUNKS[name], conditioning=code, head=head)
    network = stirred(built(config))
    observations, task = batch()
    with torch.no_grad():
        expected = looped(network, LOOPS[name], observations, task)
        torch.testing.assert_close(network(observations, task), expected, rtol=1e-11, atol=1e-11)


def test_an_unconditioned_mlp_is_torch_s_own() -> None:
    network = built(NetworkConfig(trunk=MLP(hidden=(6,), activation="tanh"), head=Shared()))
    weights = list(network.parameters())
    plain = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, OUTPUTS)).double()
    for ours, theirs in zip(weights, plain.parameters(), strict=True):
        theirs.data = ours[0].detach()
    observations, task = batch()
    torch.testing.assert_close(network(observations, task), plain(observations))


@pytest.mark.parametrize("code", CODES, ids=lambda code: type(code).__name__)
def test_film_scales_and_shifts_before_each_activation(code) -> None:
    network = stirred(built(NetworkConfig(trunk=MLP(hidden=(6, 4)), conditioning=Film(code=code))))

    def filmed(trunk, x: Tensor, number: int, context: Tensor) -> Tensor:
        told = code_map(trunk.told.code, number, context)
        for layer, start, units in zip(trunk.layers, (0, 12), (6, 4), strict=True):
            gamma, beta = told[start : start + units], told[start + units : start + 2 * units]
            x = ((1 + gamma) * affine(layer, x) + beta).relu()
        return x

    observations, task = batch()
    torch.testing.assert_close(
        network(observations, task), looped(network, filmed, observations, task)
    )


def test_film_starts_from_the_unconditioned_network() -> None:
    filmed = built(NetworkConfig(conditioning=Film(), trunk=MLP(hidden=(6, 4)), head=Shared()))
    plain = built(NetworkConfig(trunk=MLP(hidden=(6, 4)), head=Shared()))
    plain.load_state_dict(filmed.state_dict(), strict=False)
    observations, task = batch()
    torch.testing.assert_close(filmed(observations, task), plain(observations, task))


def test_one_hot_is_a_unit_vector_appended_to_the_observation() -> None:
    network = stirred(built(NetworkConfig(trunk=MLP(hidden=(6,)), conditioning=OneHot())))
    observations, task = batch()
    unit = nn.functional.one_hot(task.index, TASKS).double()
    weight, bias, rows = (
        dict(network.trunk.named_parameters())[name]
        for name in ("layers.0.weight", "layers.0.bias", "told.code.weight")
    )
    appended = torch.cat([weight[0], rows.T], 1)
    expected = nn.functional.linear(torch.cat([observations, unit], 1), appended, bias[0]).relu()
    torch.testing.assert_close(network.trunk(observations, task), expected)


@pytest.mark.parametrize("conditioning", [None, OneHot(), Film()], ids=["none", "code", "film"])
def test_images_pass_through_torch_s_convolutions(conditioning) -> None:
    config = NetworkConfig(trunk=IMAGES, conditioning=conditioning, head=Shared())
    network = stirred(built(config, shape=(1, 12, 10)))
    pixels = torch.randint(0, 256, (BATCH, 1, 12, 10), generator=generator(), dtype=torch.uint8)
    _, task = batch()
    convolutions = [nn.Conv2d(1, 2, 4, 2).double(), nn.Conv2d(2, 3, 3, 1).double()]
    for ours, theirs in zip(network.trunk.kernels, convolutions, strict=True):
        theirs.weight.data = ours.weight[0].detach().reshape(theirs.weight.shape)
        theirs.bias.data = ours.bias[0].detach()
    told = [torch.zeros(BATCH, 2 * units, dtype=torch.float64) for units in (2, 3, 5)]
    if conditioning is not None:
        rows = network.trunk.told.code.weight[task.index]
        told = list(rows.split([4, 6, 10], 1)) if rows.shape[1] == 20 else told
        told[2] = torch.cat([told[2][:, :5], rows], 1) if rows.shape[1] == 5 else told[2]

    def move(hidden: Tensor, by: Tensor) -> Tensor:
        gamma, beta = (
            part.reshape(*part.shape, *[1] * (hidden.ndim - 2)) for part in by.chunk(2, 1)
        )
        return ((1 + gamma) * hidden + beta).relu()

    hidden = pixels.double() / 255
    for convolution, by in zip(convolutions, told, strict=False):
        hidden = move(convolution(hidden), by)
    last = network.trunk.last
    hidden = move(nn.functional.linear(hidden.flatten(1), last.weight[0], last.bias[0]), told[2])
    torch.testing.assert_close(network.trunk(pixels, task), hidden)
    torch.testing.assert_close(network.trunk(pixels.double() / 255, task), hidden)


def test_the_experts_of_moore_are_orthonormal_for_every_sample() -> None:
    network = built(NetworkConfig(trunk=TRUNKS["moore"], conditioning=OneHot()))
    observations, _ = batch(size=50)
    vectors = network.trunk.expert_features(observations)
    gram = torch.bmm(vectors, vectors.transpose(1, 2))
    unit = torch.eye(3, dtype=torch.float64).expand_as(gram)
    torch.testing.assert_close(gram, unit, rtol=0, atol=1e-10)
    plain = dataclasses.replace(TRUNKS["moore"], orthogonal=False)
    other = built(NetworkConfig(trunk=plain, conditioning=OneHot()))
    said = other.trunk.expert_features(observations).detach()
    assert float((torch.bmm(said, said.transpose(1, 2)) - unit).abs().max()) > 0.1


def test_nearly_parallel_vectors_still_become_orthonormal() -> None:
    vectors = torch.randn(4, 3, 6, generator=generator(), dtype=torch.float64)
    vectors[:, 1:] = vectors[:, :1] + 1e-6 * vectors[:, 1:]
    basis = orthonormal(vectors)
    unit = torch.eye(3, dtype=torch.float64).expand(4, 3, 3)
    torch.testing.assert_close(torch.bmm(basis, basis.transpose(1, 2)), unit, rtol=0, atol=1e-10)


def test_a_silent_and_a_repeated_expert_leave_finite_gradients() -> None:
    vectors = torch.randn(2, 3, 5, generator=generator(), dtype=torch.float64)
    vectors[:, 1] = 0
    vectors[:, 2] = vectors[:, 0]
    vectors.requires_grad_()
    basis = orthonormal(vectors)
    torch.testing.assert_close(basis[:, 1], torch.zeros(2, 5, dtype=torch.float64))
    (basis * torch.arange(5.0)).sum().backward()
    assert vectors.grad is not None and bool(torch.isfinite(vectors.grad).all())


def test_routing_shares_are_positive_and_sum_to_one() -> None:
    network = stirred(built(NetworkConfig(trunk=TRUNKS["soft-modules"], conditioning=OneHot())))
    shares = torch.stack(network.trunk.routing(*batch()))
    assert shares.shape == (3, BATCH, 2, 2) and bool((shares > 0).all())
    torch.testing.assert_close(shares.sum(-1), torch.ones(3, BATCH, 2, dtype=torch.float64))


@pytest.mark.parametrize("name", TRUNKS)
def test_a_task_s_loss_touches_the_trunk_and_its_own_head_only(name: str) -> None:
    network = stirred(built(NetworkConfig(trunk=TRUNKS[name], conditioning=OneHot())))
    observations, task = batch()
    (network(observations, task)[task.index == 1] ** 2).sum().backward()
    for parameter in network.head_parameters():
        others = parameter.grad[[0, 2]]
        torch.testing.assert_close(others, torch.zeros_like(others), rtol=0, atol=0)
        assert bool((parameter.grad[1] != 0).any())
    assert any(bool((parameter.grad != 0).any()) for parameter in network.trunk_parameters())


def test_gradients_of_heads_are_those_of_a_loop() -> None:
    network = stirred(built(NetworkConfig(trunk=TRUNKS["mlp"], conditioning=Embedding(size=3))))
    observations, task = batch()
    parameters = list(network.parameters())
    ours = torch.autograd.grad((network(observations, task) ** 2).sum(), parameters)
    looped_loss = (looped(network, mlp, observations, task) ** 2).sum()
    for one, other in zip(ours, torch.autograd.grad(looped_loss, parameters), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", TRUNKS)
def test_gradients_of_all_tasks_in_one_vmap_are_those_of_a_loop(name: str) -> None:
    network = stirred(built(NetworkConfig(trunk=TRUNKS[name], conditioning=OneHot())))
    trunk = dict(network.trunk.named_parameters())
    observations, _ = batch(size=12)
    features = observations.view(TASKS, 4, *SHAPE)

    def loss(parameters: dict[str, Tensor], seen: Tensor, number: Tensor) -> Tensor:
        of = TaskInput(number.expand(4))
        told = torch.func.functional_call(network.trunk, parameters, (seen, of))
        return (network.head(told, of) ** 2).sum()

    numbers = torch.arange(TASKS)
    gradients = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(trunk, features, numbers)
    for number in range(TASKS):
        one = loss(trunk, features[number], numbers[number])
        for (place, _), expected in zip(
            trunk.items(), torch.autograd.grad(one, list(trunk.values())), strict=True
        ):
            torch.testing.assert_close(gradients[place][number], expected)


@pytest.mark.parametrize("head", [Shared(), PerTask()], ids=["shared", "per-task"])
def test_trunk_and_head_share_nothing_and_are_everything(head) -> None:
    network = built(NetworkConfig(conditioning=Film(code=Embedding()), head=head))
    trunk, heads = set(network.trunk_parameters()), set(network.head_parameters())
    assert trunk and heads and not trunk & heads
    assert trunk | heads == set(network.parameters())


@pytest.mark.parametrize("name", TRUNKS)
def test_renumbering_the_tasks_renumbers_nothing_else(name: str) -> None:
    config = NetworkConfig(trunk=TRUNKS[name], conditioning=OneHot())
    network, other = stirred(built(config)), stirred(built(config))
    order = torch.tensor([2, 0, 1])
    gates = {"told.code.weight", "code.weight", "gate.weight", "composition.weight"}
    with torch.no_grad():
        for parameter in other.head_parameters():
            parameter.copy_(parameter[order].clone())
        for place, parameter in other.trunk.named_parameters():
            if place in gates:
                parameter.copy_(parameter[order].clone())
    observations, task = batch()
    renumbered = TaskInput(order.argsort()[task.index])
    torch.testing.assert_close(other(observations, renumbered), network(observations, task))


def flops(part: Callable[..., Tensor], *inputs) -> int:
    """Count the arithmetic of `part` and of its gradient."""
    with FlopCounterMode(display=False) as counter:
        part(*inputs).sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("code", [OneHot(), Embedding(size=3)], ids=["one-hot", "embedding"])
@pytest.mark.parametrize("name", TRUNKS)
def test_a_trunk_costs_the_same_per_sample_for_2_and_50_tasks(name: str, code) -> None:
    config = NetworkConfig(trunk=TRUNKS[name], conditioning=code, head=Shared())
    few, many = (
        flops(built(config, tasks=tasks), *batch(tasks=tasks, size=64)) for tasks in (2, 50)
    )
    assert few == many > 0


@pytest.mark.parametrize("shares", ["equal", "one-task-has-all"])
@pytest.mark.parametrize("tasks", [1, 2, 7, 50, 1000])
def test_a_head_per_task_costs_at_most_two_shared_ones_or_one_of_128_outputs(
    tasks: int, shares: str
) -> None:
    spec, features = TaskSpec(tasks=tasks), torch.randn(64, 16, requires_grad=True)
    index = torch.arange(64) % tasks if shares == "equal" else torch.full((64,), tasks - 1)
    shared, own = (
        flops(head.build(16, OUTPUTS, spec, generator()), features, TaskInput(index))
        for head in (Shared(), PerTask())
    )
    turns = shares == "one-task-has-all" or tasks <= 16
    if tasks * OUTPUTS > 24 and turns:
        assert own == pytest.approx(shared, rel=0.1)
    elif tasks * OUTPUTS <= 128:
        assert own == tasks * shared
    else:
        assert shared <= own < 2 * shared


SHARES = {
    "equal": lambda tasks: torch.arange(23) % tasks,
    "turns from the third on": lambda tasks: (torch.arange(23) % 5 + 2).flip(0) % tasks,
    "nearly turns": lambda tasks: torch.cat((torch.arange(22) % 5, torch.tensor([0]))) % tasks,
    "one-task-has-all": lambda tasks: torch.full((23,), tasks - 1),
}


@pytest.mark.parametrize("tasks", [2, 20, 90])
@pytest.mark.parametrize("shares", SHARES)
def test_narrow_and_wide_heads_equal_a_loop_over_samples(tasks: int, shares: str) -> None:
    head = PerTask().build(5, OUTPUTS, TaskSpec(tasks=tasks), generator()).double()
    features = torch.randn(23, 5, dtype=torch.float64, requires_grad=True)
    index = SHARES[shares](tasks)
    wanted = torch.randn(23, OUTPUTS, dtype=torch.float64)
    looped = torch.stack(
        [
            head.affine.weight[task] @ sample + head.affine.bias[task]
            for sample, task in zip(features, index.tolist(), strict=True)
        ]
    )
    made = head(features, TaskInput(index))
    torch.testing.assert_close(made, looped)
    leaves = [features, *head.parameters()]
    ours, theirs = (torch.autograd.grad((out * wanted).sum(), leaves) for out in (made, looped))
    torch.testing.assert_close(ours, theirs)


def test_computing_all_heads_would_fail_the_bound() -> None:
    features = torch.randn(64, 16, requires_grad=True)
    heads = PerTask().build(16, OUTPUTS, TaskSpec(tasks=50), generator()).affine
    shared = Shared().build(16, OUTPUTS, TaskSpec(tasks=50), generator())
    assert flops(heads.of_one, features) == 50 * flops(shared, features, TaskInput())


@pytest.mark.parametrize(
    ("numbers", "period"),
    [
        ([0, 1, 2] * 4, 3),
        ([2, 0, 1] * 4 + [2], 3),
        ([0, 1, 0, 2] * 4, None),  # the first task comes twice in a turn: looked for no further
        ([0, 1, 2] * 4 + [1], None),
        ([0, 1, 2] * 3, None),  # too few turns to be worth it
        ([1] * 8, 1),
        (list(range(8)), None),
        ([0], None),
        ([], None),
    ],
)
def test_turns_are_found_where_every_sample_repeats(numbers: list[int], period: int | None) -> None:
    assert period_of(torch.tensor(numbers, dtype=torch.int64)) == period


@pytest.mark.parametrize("groups", [1, 2, 5, 40])
def test_blocks_hold_every_sample_once_beside_its_like(groups: int) -> None:
    chance = generator()
    for size in (0, 1, 4, 23):
        for bound in (1, groups):
            index = torch.randint(0, bound, (size,), generator=chance) + groups - bound
            slots, owners, length = blocks(index, groups)
            np.testing.assert_array_equal(owners[slots // length], index)
            assert len(set(slots.tolist())) == size


@pytest.mark.parametrize("initializer", ["fan-in", "orthogonal"])
@pytest.mark.parametrize("name", TRUNKS)
def test_the_generator_alone_decides_the_parameters(name: str, initializer: str) -> None:
    trunk = dataclasses.replace(TRUNKS[name], initializer=initializer)
    config = NetworkConfig(trunk=trunk, conditioning=Embedding(), head=PerTask())
    torch.manual_seed(1)
    once = built(config).state_dict()
    state = torch.get_rng_state()
    again, other = built(config).state_dict(), built(config, seed=1).state_dict()
    torch.testing.assert_close(torch.get_rng_state(), state, rtol=0, atol=0)
    torch.testing.assert_close(once, again, rtol=0, atol=0)
    weights = [name for name in once if name.endswith("weight")]
    assert all(not torch.equal(once[name], other[name]) for name in weights)


def test_orthogonal_weights_are_sqrt_2_times_orthonormal_columns() -> None:
    trunk = MLP(hidden=(8,), initializer="orthogonal")
    weight = next(built(NetworkConfig(trunk=trunk)).trunk_parameters())[0]
    torch.testing.assert_close(
        weight.T @ weight, 2 * torch.eye(5, dtype=torch.float64), atol=1e-5, rtol=0
    )


def test_composed_weights_start_as_large_as_plain_ones() -> None:
    spec, chance = TaskSpec(tasks=2000), generator()
    config = ParameterCompositions(sets=4, hidden=(3,))
    trunk = config.build((2,), OneHot(), spec, chance)
    (rows,) = (part for name, part in trunk.named_parameters() if name == "composition.weight")
    squares = float(rows.detach().square().sum(1).mean())
    np.testing.assert_allclose(squares, 1, atol=5 * np.sqrt(2 / 4 / 2000))


CONFIGS = [
    NetworkConfig(trunk=trunk, conditioning=conditioning, head=head)
    for trunk, conditioning, head in itertools.product(
        (*TRUNKS.values(), IMAGES), (None, *CODES, Film(code=Embedding())), (Shared(), PerTask())
    )
]


def test_every_configuration_comes_back_from_toml(tmp_path: Path) -> None:
    for config in CONFIGS:
        (tmp_path / "network.toml").write_text(to_toml(config))
        assert from_toml(NetworkConfig, tmp_path / "network.toml") == config


def test_every_field_is_documented() -> None:
    kinds = {type(part) for config in CONFIGS for part in vars(config).values() if part is not None}
    for kind in (NetworkConfig, TaskSpec, *kinds):
        assert all(field_docs(kind).values()), kind


GOOD = TaskInput(torch.zeros(BATCH, dtype=torch.int64), torch.zeros(BATCH, CONTEXT).double())
WRONG_INPUTS = {
    r"observations have shape \(7, 4\); .* \(batch, 5\)": (torch.zeros(BATCH, 4), GOOD),
    r"task.index\[0\] is 3; .* tasks 0 to 2": (
        None,
        dataclasses.replace(GOOD, index=GOOD.index + 3),
    ),
    r"task.index\[0\] is -1": (None, dataclasses.replace(GOOD, index=GOOD.index - 1)),
    r"task.index is torch.int32": (None, dataclasses.replace(GOOD, index=GOOD.index.int())),
    r"task.index has shape \(6,\) beside 7": (
        None,
        dataclasses.replace(GOOD, index=GOOD.index[1:]),
    ),
    r"task.index is missing; a head per task": (None, dataclasses.replace(GOOD, index=None)),
    r"task.context is missing": (None, dataclasses.replace(GOOD, context=None)),
    r"task.context has shape \(7, 3\); .* \(batch, 4\)": (
        None,
        dataclasses.replace(GOOD, context=GOOD.context[:, 1:]),
    ),
    r"task.context\[0\] is \[nan, .* finite": (
        None,
        dataclasses.replace(GOOD, context=GOOD.context / 0),
    ),
}


@pytest.mark.parametrize("message", WRONG_INPUTS)
def test_wrong_inputs_are_refused_by_name(message: str) -> None:
    network = built(NetworkConfig(trunk=MLP(hidden=(4,)), conditioning=TaskParameters()))
    observations, task = WRONG_INPUTS[message]
    if observations is None:
        observations = torch.zeros(BATCH, *SHAPE).double()
    with pytest.raises(UsageError, match=message):
        network(observations, task)


WRONG_CONFIGS: dict[str, Callable[[], object]] = {
    "tasks is 0": lambda: TaskSpec(tasks=0),
    "context is -1": lambda: TaskSpec(tasks=1, context=-1),
    "conditioning is none with the trunk soft-modules": lambda: built(
        NetworkConfig(trunk=SoftModules())
    ),
    "conditioning is film with the trunk mixture-of-experts": lambda: built(
        NetworkConfig(trunk=MixtureOfExperts(), conditioning=Film())
    ),
    "conditioning is none with the trunk parameter-compositions": lambda: built(
        NetworkConfig(trunk=ParameterCompositions())
    ),
    "context has length 0": lambda: NetworkConfig(conditioning=TaskParameters()).build(
        SHAPE, OUTPUTS, spec=TaskSpec(tasks=2), generator=generator()
    ),
    "experts is 5 with 4 features": lambda: MixtureOfExperts(experts=5, hidden=(4,)),
    "hidden is ()": lambda: MLP(hidden=()),
    "differ in length": lambda: CNN(kernels=(3,)),
    "needs images of shape": lambda: built(NetworkConfig(trunk=CNN())),
    "too large for an image": lambda: built(NetworkConfig(trunk=CNN()), shape=(3, 16, 16)),
    "outputs 0": lambda: NetworkConfig().build(
        SHAPE, 0, spec=TaskSpec(tasks=1), generator=generator()
    ),
    "scale must be above 0": lambda: PerTask(scale=0.0),
    "size must be at least 1": lambda: Embedding(size=0),
}


@pytest.mark.parametrize("message", WRONG_CONFIGS)
def test_parts_that_do_not_go_together_are_refused(message: str) -> None:
    with pytest.raises(UsageError) as caught:
        WRONG_CONFIGS[message]()
    assert message in str(caught.value)


def test_networks_need_neither_stable_baselines3_nor_gymnasium() -> None:
    code = "import sys, mtrl.agents.networks; sys.stdout.write(' '.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"stable_baselines3", "gymnasium"} & set(run.stdout.split())
