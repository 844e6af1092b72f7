"""Beliefs of PEARL: products of Gaussians and the divergence from the prior, against closed forms."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence
from torch.testing import assert_close

from mtrl.agents.pearl.belief import Belief, prior_belief, product_of_gaussians

# Sums of a few terms of order 1 in double precision.
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def factors(tasks: int = 3, number: int = 7, latent: int = 2, seed: int = 0) -> Belief:
    generator = torch.Generator().manual_seed(seed)
    shape = (tasks, number, latent)
    mean = torch.randn(shape, generator=generator, dtype=torch.float64)
    return Belief(mean, torch.rand(shape, generator=generator, dtype=torch.float64) + 0.1)


def in_order(belief: Belief, order: Tensor) -> Belief:
    return Belief(*(part[:, order] for part in belief))


def test_two_gaussians_by_hand() -> None:
    # N(1, 1) N(4, 1/2): precisions 1 and 2 add to 3, and the mean is (1 * 1 + 2 * 4) / 3.
    pair = Belief(torch.tensor([[1.0], [4.0]]), torch.tensor([[1.0], [0.5]]))
    product = product_of_gaussians(pair)
    assert_close(product.mean, torch.tensor([3.0]))
    assert_close(product.variance, torch.tensor([1 / 3]))


def test_the_product_is_proportional_to_the_densities_product() -> None:
    parts = factors(tasks=1, latent=1)
    product = product_of_gaussians(parts)
    grid = torch.linspace(-3, 3, 41, dtype=torch.float64)
    logs = Normal(parts.mean[0, :, 0], parts.variance[0, :, 0].sqrt()).log_prob(grid[:, None])
    own = Normal(product.mean[0, 0], product.variance[0, 0].sqrt()).log_prob(grid)
    difference = logs.sum(1) - own
    assert_close(difference, difference[:1].expand(41), **EXACT)


def test_one_factor_is_its_own_product() -> None:
    one = factors(number=1)
    assert_close(product_of_gaussians(one), Belief(one.mean[:, 0], one.variance[:, 0]), **EXACT)


def test_the_order_of_the_context_does_not_matter() -> None:
    parts = factors()
    mixed = in_order(parts, torch.tensor([4, 0, 6, 2, 5, 1, 3]))
    assert_close(product_of_gaussians(mixed), product_of_gaussians(parts), **EXACT)


def test_a_product_may_be_taken_part_by_part() -> None:
    parts = factors()
    first, rest = (
        product_of_gaussians(in_order(parts, torch.arange(*ends))) for ends in ((0, 3), (3, 7))
    )
    both = Belief(*(torch.stack(pair, -2) for pair in zip(first, rest, strict=True)))
    assert_close(product_of_gaussians(both), product_of_gaussians(parts), **EXACT)


def test_what_did_not_happen_does_not_count() -> None:
    parts = factors()
    weights = torch.tensor([[1, 1, 0, 1, 0, 0, 0], [1, 1, 0, 1, 0, 0, 0], [1, 1, 0, 1, 0, 0, 0]])
    found = product_of_gaussians(parts, weights)
    expected = product_of_gaussians(in_order(parts, torch.tensor([0, 1, 3])))
    assert_close(found, expected, **EXACT)


def test_more_factors_make_a_belief_narrower() -> None:
    parts = factors(number=50)
    spreads = [
        product_of_gaussians(in_order(parts, torch.arange(n))).variance for n in (1, 5, 25, 50)
    ]
    for wider, narrower in itertools.pairwise(spreads):
        assert bool((narrower < wider).all())


def test_the_divergence_is_that_of_torch_distributions() -> None:
    belief = product_of_gaussians(factors())
    own = Independent(Normal(belief.mean, belief.variance.sqrt()), 1)
    prior = Independent(Normal(torch.zeros_like(belief.mean), torch.ones_like(belief.mean)), 1)
    assert_close(belief.divergence(), kl_divergence(own, prior), **EXACT)


def test_the_divergence_of_the_prior_is_nothing_and_of_a_shift_half_its_square() -> None:
    assert_close(prior_belief(2, 3).divergence(), torch.zeros(2))
    shifted = Belief(torch.tensor([[3.0, 4.0]]), torch.ones(1, 2))
    assert_close(shifted.divergence(), torch.tensor([12.5]))


@pytest.mark.parametrize("seed", range(2))
def test_samples_have_the_beliefs_mean_and_variance(seed: int) -> None:
    belief = Belief(torch.tensor([2.0, -1.0]), torch.tensor([0.25, 4.0]))
    noise = torch.randn(40_000, 2, generator=torch.Generator().manual_seed(seed))
    drawn = belief.sample(noise)
    # Five standard errors of the mean and of the variance.
    assert_close(drawn.mean(0), belief.mean, rtol=0, atol=0.05)
    assert_close(drawn.var(0), belief.variance, rtol=0.036, atol=0)
