"""A trunk per task against as many single networks with the same parameters, in float64."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mtrl.agents.networks import (
    MLP,
    Film,
    MultiTaskNetwork,
    NetworkConfig,
    OneHot,
    PerTask,
    TaskInput,
    TaskSpec,
    Unshared,
)
from mtrl.config import from_toml, to_toml
from mtrl.errors import UsageError

TASKS, SHAPE, OUTPUTS = 3, (5,), 2
UNSHARED = NetworkConfig(trunk=Unshared(hidden=(6, 4), activation="tanh"))
# More units of all tasks together than are computed for all of them.
WIDE = NetworkConfig(trunk=Unshared(hidden=(50, 44), activation="tanh"))
WIDTHS = pytest.mark.parametrize("config", [UNSHARED, WIDE], ids=["narrow", "wide"])


def built(config: NetworkConfig, tasks: int = TASKS, seed: int = 0) -> MultiTaskNetwork:
    chance = torch.Generator().manual_seed(seed)
    return config.build(SHAPE, OUTPUTS, spec=TaskSpec(tasks=tasks), generator=chance).double()


def batch(index: list[int]) -> tuple[Tensor, TaskInput]:
    chance = torch.Generator().manual_seed(1)
    observations = torch.randn(len(index), *SHAPE, generator=chance, dtype=torch.float64)
    return observations, TaskInput(torch.tensor(index))


def separate(network: MultiTaskNetwork, task: int) -> nn.Sequential:
    """Return torch's own network with the parameters of one task."""
    layers: list[nn.Module] = []
    for affine in _affines(network):
        weight, bias = affine["weight"][task], affine["bias"][task]
        layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64)
        layer.load_state_dict({"weight": weight, "bias": bias})
        layers += [layer, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def _affines(network: MultiTaskNetwork) -> Iterator[dict[str, Tensor]]:
    for layer in (*network.trunk.get_submodule("layers").children(), network.head.affine):
        yield {name: value.detach() for name, value in layer.named_parameters()}


# In equal shares, in unequal ones, and with a task that has no sample.
SHARES = pytest.mark.parametrize("index", [[0, 1, 2, 0, 1, 2], [2, 2, 0, 2, 1, 2, 2], [1, 1, 0]])


@SHARES
@WIDTHS
@pytest.mark.parametrize("with_gradients", [True, False])
def test_it_is_as_many_separate_networks(
    index: list[int], config: NetworkConfig, with_gradients: bool
) -> None:
    network = built(config)
    observations, task = batch(index)
    singles = [separate(network, number) for number in range(TASKS)]
    expected = torch.stack([singles[i](x) for i, x in zip(index, observations, strict=True)])
    with torch.set_grad_enabled(with_gradients):
        torch.testing.assert_close(network(observations, task), expected)


@SHARES
@WIDTHS
def test_gradients_are_those_of_the_separate_networks(
    index: list[int], config: NetworkConfig
) -> None:
    network = built(config)
    observations, task = batch(index)
    (network(observations, task) ** 3).sum().backward()
    ours = [parameter.grad for parameter in network.parameters()]
    for number in range(TASKS):
        single = separate(network, number)
        rows = observations[task.index == number]
        (single(rows) ** 3).sum().backward()
        for gradient, parameter in zip(ours, single.parameters(), strict=True):
            assert gradient is not None and parameter.grad is not None
            torch.testing.assert_close(gradient[number], parameter.grad)


@WIDTHS
def test_a_task_s_loss_touches_its_own_parameters_only(config: NetworkConfig) -> None:
    network = built(config)
    observations, task = batch([0, 1, 2, 1, 0])
    assert task.index is not None
    (network(observations, task)[task.index == 1] ** 2).sum().backward()
    for parameter in network.parameters():
        assert parameter.grad is not None
        others = parameter.grad[[0, 2]]
        torch.testing.assert_close(others, torch.zeros_like(others), rtol=0, atol=0)
        assert bool((parameter.grad[1] != 0).any())


def test_a_shared_trunk_fails_that_test() -> None:
    network = built(NetworkConfig(trunk=MLP(hidden=(6, 4)), conditioning=OneHot()))
    observations, task = batch([0, 1, 2])
    before = network(observations, task)[2]
    with torch.no_grad():
        network.get_parameter("trunk.layers.0.weight").mul_(2)
    assert not torch.equal(network(observations, task)[2], before)


def flops(config: NetworkConfig, tasks: int, index: list[int]) -> int:
    """Count the arithmetic of a trunk and of its gradient."""
    trunk, (observations, task) = built(config, tasks).trunk, batch(index)
    with FlopCounterMode(display=False) as counter:
        trunk(observations, task).sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("equal", [True, False], ids=["equal", "one-task-has-all"])
@pytest.mark.parametrize("tasks", [3, 7, 50, 1000])
def test_a_sample_costs_at_most_twice_that_of_one_network(tasks: int, equal: bool) -> None:
    index = [place % tasks if equal else tasks - 1 for place in range(64)]
    one = flops(NetworkConfig(trunk=MLP(hidden=(50, 44))), 1, [0] * 64)
    assert one <= flops(WIDE, tasks, index) < 2 * one


def test_renumbering_the_tasks_renumbers_nothing_else() -> None:
    network, other = built(UNSHARED), built(UNSHARED)
    order = torch.tensor([2, 0, 1])
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.copy_(parameter[order].clone())
    observations, task = batch([0, 1, 2, 2])
    assert task.index is not None
    renumbered = TaskInput(order.argsort()[task.index])
    torch.testing.assert_close(other(observations, renumbered), network(observations, task))


def test_every_task_starts_elsewhere_and_the_generator_decides_where() -> None:
    one, same, other = built(UNSHARED), built(UNSHARED), built(UNSHARED, seed=1)
    for name, parameter in one.named_parameters():
        assert not torch.equal(parameter[0], parameter[1])
        torch.testing.assert_close(same.get_parameter(name), parameter, rtol=0, atol=0)
        assert not torch.equal(other.get_parameter(name), parameter)


@pytest.mark.parametrize("conditioning", [OneHot(), Film()])
def test_what_it_cannot_use_is_refused(conditioning: OneHot | Film) -> None:
    with pytest.raises(UsageError, match="conditioning is .* with the trunk unshared.*leave"):
        built(NetworkConfig(trunk=Unshared(), conditioning=conditioning))
    with pytest.raises(UsageError, match="hidden is"):
        Unshared(hidden=())
    with pytest.raises(UsageError, match="a trunk per task needs the number"):
        built(UNSHARED)(batch([0])[0], TaskInput())


def test_it_comes_back_from_toml(tmp_path: Path) -> None:
    config = NetworkConfig(trunk=Unshared(hidden=(3,)), head=PerTask(scale=0.5))
    path = tmp_path / "network.toml"
    path.write_text(to_toml(config))
    assert 'kind = "unshared"' in path.read_text()
    assert from_toml(NetworkConfig, path) == config
