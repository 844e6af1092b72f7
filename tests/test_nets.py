"""Networks against torch's layers, and the Gaussian against torch's distributions."""

import math

import pytest
import torch
from tiny_policy import POLICY, policy_params
from tiny_regression import EXACT, generator, normal
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence
from torch.testing import assert_close

from mtrl.meta.inner import expand_to_tasks
from mtrl.nets import MLP, Activation, Gaussian, GaussianPolicy, Params

LAYERS = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}


def torch_twin(activation: Activation, params: Params) -> torch.nn.Module:
    layers = torch.nn.Linear(3, 5), torch.nn.Linear(5, 4), torch.nn.Linear(4, 2)
    for layer, (weight, bias) in zip(
        layers, zip(*[iter(params.values())] * 2, strict=True), strict=True
    ):
        layer.weight.data, layer.bias.data = weight, bias
    hidden = LAYERS[activation]
    return torch.nn.Sequential(layers[0], hidden(), layers[1], hidden(), layers[2])


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_shared_and_per_task_parameters_give_what_torchs_layers_give(
    activation: Activation,
) -> None:
    network = MLP((3, 5, 4, 2), activation)
    each = [{n: v.double() for n, v in network.initial(generator(s)).items()} for s in range(3)]
    inputs = normal(3, 6, 3)
    twins = [torch_twin(activation, params) for params in each]
    expected = torch.stack([twin(x) for twin, x in zip(twins, inputs, strict=True)]).detach()
    stacked = {name: torch.stack([params[name] for params in each]) for name in each[0]}
    assert_close(network(stacked, inputs), expected, **EXACT)
    assert_close(network(each[0], inputs), twins[0](inputs).detach(), **EXACT)
    assert_close(network(each[0], inputs[1]), twins[0](inputs[1]).detach(), **EXACT)
    assert_close(network(expand_to_tasks(each[0], 3), inputs), network(each[0], inputs), **EXACT)


@pytest.mark.parametrize("seed", [0, 1])
def test_fan_in_weights_and_biases_fill_torchs_range(seed: int) -> None:
    params = MLP((400, 100, 1)).initial(generator(seed))
    for name in ("layers.0.weight", "layers.0.bias"):
        value = params[name]
        assert value.abs().max() <= 1 / 20
        # Uniform on [-b, b]: standard deviation b / sqrt(3); a hundred values know it to 5 %.
        assert_close(value.std().item(), 0.05 / math.sqrt(3), rtol=0.2, atol=0)
        assert abs(value.mean()) < 4 * 0.05 / math.sqrt(3 * value.numel())


def test_xavier_weights_fill_glorots_range_and_biases_are_zero() -> None:
    params = MLP((400, 100, 1), initializer="xavier").initial(generator())
    bound = math.sqrt(6 / 500)
    assert_close(params["layers.0.weight"].abs().max().item(), bound, rtol=1e-3, atol=0)
    assert_close(params["layers.0.bias"], torch.zeros(100), rtol=0, atol=0)


def test_the_generator_alone_decides_the_parameters() -> None:
    first, again, other = (MLP((3, 4, 2)).initial(generator(s)) for s in (1, 1, 2))
    assert_close(first, again, rtol=0, atol=0)
    for name, value in first.items():
        assert (value - other[name]).abs().min() > 0


def distribution(gaussian: Gaussian) -> Independent:
    deviation = gaussian.log_std.exp().expand_as(gaussian.mean)
    return Independent(Normal(gaussian.mean, deviation), 1)


def gaussians() -> tuple[Gaussian, Gaussian]:
    """Two of each task, whose deviation the samples share."""
    first = Gaussian(normal(2, 5, 3, seed=1), 0.3 * normal(2, 1, 3, seed=2))
    return first, Gaussian(normal(2, 5, 3, seed=3), 0.3 * normal(2, 1, 3, seed=4))


def test_log_prob_and_kl_are_those_of_torch() -> None:
    one, other = gaussians()
    actions = normal(2, 5, 3, seed=9)
    assert_close(one.log_prob(actions), distribution(one).log_prob(actions), **EXACT)
    for p, q in ((one, other), (other, one)):
        assert_close(p.kl(q), kl_divergence(distribution(p), distribution(q)), **EXACT)
    assert_close(one.kl(one), torch.zeros(2, 5, dtype=torch.float64), **EXACT)


def test_samples_have_the_mean_and_deviation() -> None:
    gaussian, noise = gaussians()[0], normal(2, 5, 3, seed=9)
    expected = distribution(gaussian).mean + distribution(gaussian).stddev * noise
    assert_close(gaussian.sample(noise), expected, **EXACT)


def test_the_fisher_product_is_the_hessian_of_the_weighted_kl() -> None:
    gaussian, _ = gaussians()
    weights = normal(2, 5, seed=5).abs()
    mean_size, shape = gaussian.mean.numel(), gaussian.mean.shape

    def unpack(vector: Tensor) -> Gaussian:
        return Gaussian(vector[:mean_size].view(shape), vector[mean_size:].view(2, 1, 3))

    def weighted_kl(vector: Tensor) -> Tensor:
        return (gaussian.kl(unpack(vector)) * weights).sum()

    at = torch.cat([part.reshape(-1) for part in gaussian])
    hessian = torch.autograd.functional.hessian(weighted_kl, at)
    tangent = normal(len(at), seed=6)
    product = gaussian.fisher(unpack(tangent), weights)
    assert isinstance(hessian, Tensor)
    assert_close(torch.cat([part.reshape(-1) for part in product]), hessian @ tangent, **EXACT)


def test_a_policys_deviation_is_a_parameter_of_each_task() -> None:
    params = policy_params()
    per_task = {n: torch.stack([v, v + 0.3]) for n, v in params.items()}
    observations = normal(2, 5, 2)
    shared, separate = POLICY(params, observations), POLICY(per_task, observations)
    assert_close(shared.log_std.expand(5, 2), params["log_std"].expand(5, 2), rtol=0, atol=0)
    assert separate.log_std.shape == (2, 1, 2)
    assert_close(separate.log_std[:, 0], per_task["log_std"], rtol=0, atol=0)
    assert_close(separate.mean[0], shared.mean[0], **EXACT)
    assert (separate.mean[1] - shared.mean[1]).abs().min() > 1e-3


def test_a_policy_starts_with_the_deviation_asked_for_and_never_reaches_zero() -> None:
    policy = GaussianPolicy(2, 3, initial_std=0.25)
    params = policy.initial(generator())
    observations = torch.zeros(4, 2)
    expected = torch.full((1, 3), math.log(0.25))
    assert_close(policy(params, observations).log_std, expected, rtol=0, atol=0)
    collapsed = policy(params | {"log_std": torch.full((3,), -1e4)}, observations)
    floor = torch.full((1, 3), math.log(1e-6))
    assert_close(collapsed.log_std, floor, rtol=0, atol=0)
    assert torch.isfinite(collapsed.log_prob(collapsed.mean)).all()
