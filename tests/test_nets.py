"""Networks against torch's layers."""

import math

import pytest
import torch
from tiny_regression import EXACT, generator, normal
from torch.testing import assert_close

from mtrl.errors import UsageError
from mtrl.meta.few_shot import FewShotAdaptation
from mtrl.meta.inner import expand_to_tasks
from mtrl.meta.maml import MAML
from mtrl.nets import CONTEXT, MLP, Activation, ConvNet, Params, output_layer

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


def test_the_output_scale_shrinks_the_last_layer_only() -> None:
    plain = MLP((3, 5, 2)).initial(generator(0))
    scaled = MLP((3, 5, 2), output_scale=0.1).initial(generator(0))
    for name, value in plain.items():
        assert_close(scaled[name], 0.1 * value if name.startswith("layers.1") else value)


# Context


def test_context_inputs_are_further_inputs_that_a_parameter_gives() -> None:
    network, wide = MLP((3, 5, 2), context=2), MLP((5, 5, 2))
    params = {name: value.double() for name, value in network.initial(generator()).items()}
    assert_close(network.initial(generator()), wide.initial(generator()), rtol=0, atol=0)
    inputs, context = normal(4, 6, 3), normal(4, 2, seed=1)
    rows = torch.cat([inputs, context[:, None].expand(4, 6, 2)], -1)
    expected = wide(params, rows)
    per_task = {**expand_to_tasks(params, 4), CONTEXT: context}
    assert_close(network(per_task, inputs), expected, **EXACT)
    assert_close(network(params | {CONTEXT: context[1]}, inputs[1]), expected[1], **EXACT)
    assert_close(network(params | {CONTEXT: context[1]}, inputs)[1], expected[1], **EXACT)
    assert (network(params | {CONTEXT: 0 * context[1]}, inputs)[1] - expected[1]).abs().min() > 0


def test_the_output_layer_is_the_last_by_number() -> None:
    params = MLP((1,) * 13).initial(generator())
    assert output_layer(params) == ["layers.11.weight", "layers.11.bias"]
    shuffled = dict(reversed(params.items())) | {"log_std": torch.zeros(1)}
    assert set(output_layer(shuffled)) == {"layers.11.weight", "layers.11.bias"}
    with pytest.raises(UsageError, match="no last layer: no parameter of log_std is a layer's"):
        output_layer({"log_std": torch.zeros(1)})


# Convolutions

SMALL = ConvNet((2, 9, 12), outputs=3, filters=4, blocks=2)


def conv_params(seed: int) -> Params:
    params = {name: value.double() for name, value in SMALL.initial(generator(seed)).items()}
    # Negative scales, too: pooling and normalisation must not change places.
    return {name: value + normal(*value.shape, seed=seed) for name, value in params.items()}


def torch_convolutions(params: Params) -> torch.nn.Module:
    layers: list[torch.nn.Module] = []
    for inputs in (2, 4):
        layers += [
            torch.nn.Conv2d(inputs, 4, 3, padding=1),
            torch.nn.BatchNorm2d(4, track_running_stats=False),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(2),
        ]
    twin = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(4 * 2 * 3, 3)).double()
    for own, value in zip(twin.parameters(), params.values(), strict=True):
        own.data = value
    return twin


@pytest.mark.parametrize("batch", [5, 20])
def test_convolutions_are_torchs_with_relu_before_pooling(batch: int) -> None:
    each = [conv_params(seed) for seed in range(3)]
    images = normal(3, batch, 2, 9, 12)
    twins = [torch_convolutions(params) for params in each]
    expected = torch.stack([twin(x) for twin, x in zip(twins, images, strict=True)]).detach()
    stacked = {name: torch.stack([params[name] for params in each]) for name in each[0]}
    assert_close(SMALL(stacked, images), expected, **EXACT)
    assert_close(SMALL(each[0], images[0]), expected[0], **EXACT)
    shared = SMALL(expand_to_tasks(each[0], 3), images)
    assert_close(SMALL(each[0], images), shared, **EXACT)
    assert_close(shared[0], expected[0], **EXACT)
    # What accelerators do.
    assert_close(torch.func.vmap(SMALL._outputs)(stacked, images), expected, **EXACT)


def test_images_are_normalised_with_those_beside_them() -> None:
    params, images = conv_params(0), normal(5, 2, 9, 12)
    assert (SMALL(params, images)[:4] - SMALL(params, images[:4])).abs().max() > 1e-3


def test_an_image_that_blocks_pool_away_is_refused() -> None:
    with pytest.raises(UsageError, match=r"shape is \(3, 84, 15\), and 4 blocks .* least 16 by 16"):
        ConvNet((3, 84, 15))


def test_fan_in_convolutions_fill_torchs_range() -> None:
    params = ConvNet(filters=100, blocks=2).initial(generator())
    bound = 1 / math.sqrt(100 * 9)
    assert_close(params["layers.1.weight"].abs().max().item(), bound, rtol=1e-2, atol=0)
    assert_close(params["layers.1.bias"].abs().max().item(), bound, rtol=0.05, atol=0)
    assert_close(params["layers.1.scale"], torch.ones(100), rtol=0, atol=0)
    assert params["layers.2.weight"].shape == (5, 100 * 21 * 21)


def test_the_cross_entropy_is_torchs() -> None:
    how = FewShotAdaptation(MLP((3, 5, 4)), MAML(), "cross-entropy")
    params = {name: value.double() for name, value in how.network.initial(generator()).items()}
    x, classes = normal(2, 6, 3), torch.arange(12).reshape(2, 6) % 4
    logits = how.network(params, x)
    expected = [
        torch.nn.functional.cross_entropy(*pair) for pair in zip(logits, classes, strict=True)
    ]
    own = how.loss(params, (x, torch.eye(4, dtype=torch.float64)[classes]))
    assert_close(own, torch.stack(expected), **EXACT)
