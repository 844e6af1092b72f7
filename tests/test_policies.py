"""Policies and their distributions against torch's distributions and dense Hessians."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from scipy.stats import chisquare
from tiny_policy import POLICY, policy_params
from tiny_regression import EXACT, generator, normal
from torch import Tensor
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Independent, Normal, kl_divergence
from torch.testing import assert_close

from mtrl.policies import Categorical, CategoricalPolicy, Gaussian, GaussianPolicy

# Real numbers


def distribution(gaussian: Gaussian) -> Independent:
    deviation = gaussian.log_std.exp().expand_as(gaussian.mean)
    return Independent(Normal(gaussian.mean, deviation), 1)


def gaussians() -> tuple[Gaussian, Gaussian]:
    """Two of each task, whose deviation the samples share."""
    first = Gaussian(normal(2, 5, 3, seed=1), 0.3 * normal(2, 1, 3, seed=2))
    return first, Gaussian(normal(2, 5, 3, seed=3), 0.3 * normal(2, 1, 3, seed=4))


def test_the_gaussians_log_prob_and_kl_are_those_of_torch() -> None:
    one, other = gaussians()
    actions = normal(2, 5, 3, seed=9)
    assert_close(one.log_prob(actions), distribution(one).log_prob(actions), **EXACT)
    for p, q in ((one, other), (other, one)):
        assert_close(p.kl(q), kl_divergence(distribution(p), distribution(q)), **EXACT)
        assert_close(p.entropy(), distribution(p).entropy(), **EXACT)
    assert_close(one.kl(one), torch.zeros(2, 5, dtype=torch.float64), **EXACT)


def test_gaussian_samples_have_the_mean_and_deviation() -> None:
    gaussian, noise = gaussians()[0], normal(2, 5, 3, seed=9)
    expected = distribution(gaussian).mean + distribution(gaussian).stddev * noise
    assert_close(gaussian.sample(noise), expected, **EXACT)


def test_the_gaussians_fisher_product_is_the_hessian_of_the_weighted_kl() -> None:
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


def test_a_gaussian_policy_draws_normal_noise_for_each_dimension() -> None:
    drawn = GaussianPolicy(2, 3).noise((5, 4), generator(1))
    assert_close(drawn, torch.randn((5, 4, 3), generator=generator(1)), rtol=0, atol=0)


# Choices

SHARES = torch.tensor([0.5, 0.05, 0.3, 0.15], dtype=torch.float64)


def categoricals() -> tuple[Categorical, Categorical]:
    return Categorical(normal(2, 5, 4, seed=1)), Categorical(3 * normal(2, 5, 4, seed=3))


def test_the_categoricals_log_prob_and_kl_are_those_of_torch() -> None:
    one, other = categoricals()
    actions = torch.randint(4, (2, 5), generator=generator(2))
    p, q = (TorchCategorical(logits=each.logits) for each in (one, other))
    assert_close(one.log_prob(actions), p.log_prob(actions), **EXACT)
    assert_close(one.kl(other), kl_divergence(p, q), **EXACT)
    assert_close(other.kl(one), kl_divergence(q, p), **EXACT)
    assert_close(one.entropy(), p.entropy(), **EXACT)
    assert_close(one.kl(one), torch.zeros(2, 5, dtype=torch.float64), **EXACT)


def test_the_categoricals_fisher_product_is_the_hessian_of_the_weighted_kl() -> None:
    one, _ = categoricals()
    weights = normal(2, 5, seed=5).abs()

    def weighted_kl(vector: Tensor) -> Tensor:
        return (one.kl(Categorical(vector.view_as(one.logits))) * weights).sum()

    hessian = torch.autograd.functional.hessian(weighted_kl, one.logits.flatten())
    assert isinstance(hessian, Tensor)
    tangent = normal(*one.logits.shape, seed=6)
    (product,) = one.fisher(Categorical(tangent), weights)
    assert_close(product.flatten(), hessian @ tangent.flatten(), **EXACT)
    # All logits moved alike are the same distribution.
    (still,) = one.fisher(Categorical(torch.ones_like(tangent)), weights)
    assert_close(still, torch.zeros_like(still), **EXACT)


def test_choices_come_with_their_probabilities() -> None:
    drawn = 20_000
    noise = CategoricalPolicy(1, 4).noise((drawn,), generator(3))
    counts = Categorical(SHARES.log().expand(drawn, 4)).sample(noise).bincount().numpy()
    assert chisquare(counts, drawn * SHARES.numpy()).pvalue > 0.01
    # The test would notice two shares exchanged.
    assert chisquare(counts, drawn * SHARES[[0, 1, 3, 2]].numpy()).pvalue < 1e-9


def test_each_part_of_the_unit_interval_is_a_choice() -> None:
    noise = torch.tensor([0.0, 0.4999, 0.5001, 0.5499, 0.5501, 0.8499, 0.8501, 1 - 2**-24])
    choices = Categorical((SHARES.log() + 7).expand(8, 4)).sample(noise)
    assert_array_equal(choices.numpy(), [0, 0, 1, 1, 2, 2, 3, 3])


def test_a_choice_is_possible_even_where_rounding_leaves_none() -> None:
    # In float32 these sum up to less than the highest noise.
    logits = torch.zeros(1, 6000)
    highest = torch.tensor([1 - 2**-24])
    assert 0 <= int(Categorical(logits).sample(highest)) < 6000
    impossible = Categorical(torch.tensor([[-200.0, 0.0, -200.0]]))
    assert_array_equal(impossible.sample(torch.tensor([0.0])).numpy(), [1])


@pytest.mark.parametrize("order", [(2, 0, 3, 1), (3, 2, 1, 0)])
def test_renaming_the_choices_changes_nothing_else(order: tuple[int, ...]) -> None:
    one, other = categoricals()
    renamed, other_renamed = (Categorical(each.logits[..., order]) for each in (one, other))
    actions = torch.randint(4, (2, 5), generator=generator(2))
    names = torch.tensor(np.argsort(order))
    assert_close(renamed.log_prob(names[actions]), one.log_prob(actions), **EXACT)
    assert_close(renamed.kl(other_renamed), one.kl(other), **EXACT)
    weights, tangent = normal(2, 5, seed=5), normal(2, 5, 4, seed=6)
    product = one.fisher(Categorical(tangent), weights).logits
    moved = renamed.fisher(Categorical(tangent[..., order]), weights).logits
    assert_close(moved, product[..., order], **EXACT)


def test_a_categorical_policys_logits_are_its_networks() -> None:
    policy = CategoricalPolicy(3, 4, hidden=(5,))
    params = policy.initial(generator())
    observations = torch.randn(2, 6, 3, generator=generator(1))
    distribution = policy(params, observations)
    assert_close(distribution.logits, policy.network(params, observations), rtol=0, atol=0)
    assert distribution.sample(policy.noise((2, 6), generator())).shape == (2, 6)


def test_no_deviation_falls_below_the_least() -> None:
    policy = GaussianPolicy(2, 2, hidden=(3,), min_std=0.25)
    params = policy.initial(generator(0)) | {"log_std": torch.tensor([-9.0, 0.5])}
    std = policy(params, torch.zeros(1, 2)).log_std.exp()
    assert_close(std, torch.tensor([[0.25, math.exp(0.5)]]))
