"""Balancers against hand-computed vectors, optimality conditions and plain loops, in float64."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from mtrl.agents.balancing import (
    FAMO,
    BalancerConfig,
    CAGrad,
    GradNorm,
    NashMTL,
    PCGrad,
    Sum,
    UPGrad,
    combine,
)
from mtrl.agents.balancing.nash_mtl import bargaining_solution
from mtrl.agents.balancing.pcgrad import surgery_weights
from mtrl.agents.balancing.upgrad import projection_weights
from mtrl.config import kind_name
from mtrl.errors import CheckpointError, UsageError

SUM = Sum(watch=True)
ALL: list[BalancerConfig] = [
    SUM,
    PCGrad(),
    CAGrad(),
    GradNorm(),
    UPGrad(),
    NashMTL(damping=0.0),
    FAMO(),
]
ORDERED = [config for config in ALL if config != PCGrad()]
NAMES = {"ids": lambda config: kind_name(type(config))}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(*values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def random_rows(tasks: int, parameters: int, seed: int) -> Tensor:
    """Rows of lengths that differ by up to a hundred, most of them in conflict with another."""
    chance = generator(seed)
    directions = torch.randn(tasks, parameters, generator=chance, dtype=torch.float64)
    lengths = 10 ** (2 * torch.rand(tasks, 1, generator=chance, dtype=torch.float64))
    return directions * lengths


def direction(config: BalancerConfig, gradients: Tensor, seed: int = 0) -> Tensor:
    return combine(config.build(len(gradients), generator(seed)), gradients)[0]


def exactly(actual: Tensor, expected: Tensor, atol: float = 1e-12) -> None:
    """Compare up to rounding; solvers that iterate state their own tolerance."""
    assert_close(actual, expected, rtol=1e-12, atol=atol)


# Hand-computed vectors


def test_names_are_the_papers() -> None:
    names = ["sum", "pc-grad", "ca-grad", "grad-norm", "up-grad", "nash-mtl", "famo"]
    assert [kind_name(type(config)) for config in ALL] == names


CONFLICT = rows((1, 0), (-1, 1))


@pytest.mark.parametrize("config", [PCGrad(), UPGrad()], **NAMES)
def test_two_conflicting_gradients_are_projected_off_each_other(config: BalancerConfig) -> None:
    # g1 + g2 / 2 = (1/2, 1/2) and g2 + g1 = (0, 1).
    exactly(direction(config, CONFLICT), torch.tensor([0.5, 1.5], dtype=torch.float64))


@pytest.mark.parametrize(("c", "expected"), [(0.0, 1.0), (0.5, 1 / 3), (0.9, 0.1 / 1.9)])
def test_cagrad_of_two_opposed_numbers(c: float, expected: float) -> None:
    # g0 = 1/2 moves by c / 2 towards -1, the one served least; times 2 / (1 + c).
    found = direction(CAGrad(c=c), rows((2,), (-1,)))
    assert_close(found, torch.tensor([expected], dtype=torch.float64), rtol=0, atol=1e-7)


def test_cagrad_of_mirrored_gradients_is_their_sum() -> None:
    found = direction(CAGrad(c=0.5), rows((1, 0.2), (-1, 0.2)))
    assert_close(found, torch.tensor([0, 0.4], dtype=torch.float64), rtol=0, atol=1e-7)


def test_cagrad_where_no_combination_serves_all() -> None:
    # The first two cancel and w puts all on them: any d = (0, y) serves the least served task by 0.
    found = direction(CAGrad(c=0.5), rows((1, 0), (-1, 0), (0, 1)))
    assert abs(float(found[0])) < 1e-6
    assert 1 / 3 - 1e-6 <= float(found[1]) <= 1 + 1e-6


@pytest.mark.parametrize("cosine", [-0.9, -0.5, 0.0, 0.5, 1.0])
def test_nash_mtl_of_two_gradients(cosine: float) -> None:
    # alpha_i = a / |g_i| with a^2 (1 + cosine) = 1.
    gradients = rows((3, 0), (0.5 * cosine, 0.5 * math.sqrt(1 - cosine**2)))
    _, balance = combine(NashMTL(damping=0.0).build(2, generator()), gradients)
    scale = float(torch.linalg.matrix_norm(gradients, 2)) / math.sqrt(1 + cosine)
    expected = scale / torch.tensor([3, 0.5], dtype=torch.float64)
    assert_close(balance.weights, expected, rtol=1e-7, atol=0)


def test_nash_mtl_bounds_weights_of_gradients_that_cancel() -> None:
    weights = combine(NashMTL(damping=0.01).build(2, generator()), rows((1,), (-1,)))[1].weights
    # (1 - cosine) + damping leaves a^2 * 0.01 = 1, times the root of the eigenvalue 2.
    expected = torch.full((2,), 10 * math.sqrt(2), dtype=torch.float64)
    assert_close(weights, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("cosine", [-0.4, 0.0, 0.7])
def test_three_gradients_at_equal_angles(cosine: float) -> None:
    gram = torch.full((3, 3), cosine, dtype=torch.float64)
    gradients = torch.linalg.cholesky(gram.fill_diagonal_(1.0))
    plain = gradients.sum(0)
    for config in (UPGrad(), CAGrad(), FAMO(), GradNorm()):
        found = direction(config, gradients)
        assert_close(found / found.norm(), plain / plain.norm(), rtol=0, atol=1e-7)
    alpha = bargaining_solution(gram.numpy())
    np.testing.assert_allclose(alpha, np.full(3, 1 / math.sqrt(1 + 2 * cosine)), rtol=1e-12)
    # Each gives up its part along the two others: v (1 + cosine) = -cosine of either.
    longer = (1 - cosine) / (1 + cosine) if cosine < 0 else 1.0
    exactly(direction(UPGrad(), gradients), longer * plain)


def test_gradnorm_takes_the_step_of_its_equation() -> None:
    balancer = GradNorm(step_size=0.1).build(2, generator())
    gradients = rows((3, 0), (0, 1))
    exactly(combine(balancer, gradients)[0], gradients.sum(0))
    # Lengths 3 and 1 of mean 2: weights 1 - 0.1 * 3 / 2 and 1 + 0.1 * 1 / 2, scaled to sum 2.
    expected = torch.tensor([0.85, 1.05], dtype=torch.float64) * 2 / 1.9
    exactly(combine(balancer, gradients)[1].weights, expected)


def test_gradnorm_lengthens_gradients_of_tasks_that_lag() -> None:
    balancer = GradNorm(step_size=0.1, asymmetry=2.0).build(2, generator())
    gradients = rows((1, 0), (0, 1))
    combine(balancer, gradients, torch.tensor([4.0, 1.0]))
    # Both at rate 1 and of the target length: nothing moved.
    exactly(
        combine(balancer, gradients, torch.tensor([2.0, 1.0]))[1].weights, torch.ones(2).double()
    )
    # Rates 2/3 and 4/3: targets 4/9 and 16/9 lie on either side of the length 1.
    expected = torch.tensor([0.9, 1.1], dtype=torch.float64)
    exactly(combine(balancer, gradients, torch.tensor([2.0, 1.0]))[1].weights, expected)


def test_gradnorm_makes_lengths_equal_in_the_end() -> None:
    balancer = GradNorm(step_size=2e-3).build(3, generator())
    gradients = rows((8, 0, 0), (0, 2, 0), (0, 0, 1))
    for _ in range(1500):
        found, _ = combine(balancer, gradients)
    # Lengths of weights that sum to 3: 3 / (1/8 + 1/2 + 1). A step is 0.07 of length at most.
    assert_close(found, torch.full((3,), 24 / 13).double(), rtol=0, atol=0.1)


def test_famo_with_losses_takes_the_step_of_its_algorithm() -> None:
    balancer = FAMO(step_size=0.5, decay=0.0).build(2, generator())
    gradients = rows((1, 0), (0, 1))
    first = combine(balancer, gradients, torch.tensor([2.0, 1.0]))[1].weights
    # Shares 1/4 and 1/2, scaled to sum 2.
    exactly(first, torch.tensor([2, 4], dtype=torch.float64) / 3)
    losses = torch.tensor([1.0, 3.0], dtype=torch.float64)
    second = combine(balancer, gradients, losses)[1].weights
    # log L fell by log 2 and by -log 3; J' delta is +- (log 2 + log 3) / 4.
    logits = torch.tensor([-1, 1], dtype=torch.float64) * 0.5 * math.log(6) / 4
    shares = logits.softmax(0) / losses
    exactly(second, 2 * shares / shares.sum())


def test_famo_without_losses_descends_its_dual_problem() -> None:
    gradients = random_rows(3, 5, seed=4)
    config = FAMO(step_size=0.3, decay=0.1)
    balancer = config.build(3, generator())
    start = torch.tensor([0.5, -0.2, 0.1], dtype=torch.float64)
    balancer.load_state_dict({"logits": start.tolist(), "log_losses": [None] * 3})
    logits = start.clone().requires_grad_()
    units = gradients / gradients.norm(dim=1, keepdim=True)
    (0.5 * (logits.softmax(0) @ units).square().sum()).backward()
    assert logits.grad is not None
    shares = start.softmax(0) / gradients.norm(dim=1)
    exactly(combine(balancer, gradients)[1].weights, 3 * shares / shares.sum())
    expected = start - 0.3 * (logits.grad + 0.1 * start)
    exactly(torch.tensor(balancer.state_dict()["logits"], dtype=torch.float64), expected)


# What holds for all of them


@pytest.mark.parametrize("config", ALL, **NAMES)
def test_equal_gradients_give_the_plain_sum(config: BalancerConfig) -> None:
    gradient = torch.tensor([0.3, -2.0, 1.0], dtype=torch.float64)
    found = direction(config, gradient.expand(4, 3).clone())
    # The interior point of CAGrad and the damping of Nash-MTL keep a small distance.
    assert_close(found, 4 * gradient, rtol=1e-7, atol=0)


@pytest.mark.parametrize("config", ALL, **NAMES)
def test_one_task_keeps_its_gradient(config: BalancerConfig) -> None:
    gradient = rows((0.3, -2.0, 1.0))
    assert_close(direction(config, gradient), gradient[0], rtol=1e-7, atol=0)


@pytest.mark.parametrize("config", ALL, **NAMES)
def test_tasks_without_a_gradient_do_not_distort_the_others(config: BalancerConfig) -> None:
    gradients = random_rows(3, 4, seed=2)
    nothing = torch.zeros(4, dtype=torch.float64)
    padded = torch.stack([nothing, gradients[0], nothing, gradients[1], gradients[2]])
    found, balance = combine(config.build(5, generator()), padded)
    exactly(found, direction(config, gradients), atol=1e-10)
    assert balance.weights[[0, 2]].tolist() == [0, 0]
    assert balance.conflicts[0].isnan().all()


@pytest.mark.parametrize("config", ALL, **NAMES)
def test_no_gradient_at_all_gives_zero(config: BalancerConfig) -> None:
    found, balance = combine(config.build(2, generator()), torch.zeros(2, 3))
    assert_close(found, torch.zeros(3), rtol=0, atol=0)
    assert_close(balance.norms, torch.zeros(2).double(), rtol=0, atol=0)


@pytest.mark.parametrize("config", ORDERED, **NAMES)
@pytest.mark.parametrize("seed", range(4))
def test_permuting_tasks_permutes_weights(config: BalancerConfig, seed: int) -> None:
    gradients = random_rows(4, 6, seed)
    order = torch.tensor([2, 0, 3, 1])
    _, straight = combine(config.build(4, generator()), gradients)
    _, permuted = combine(config.build(4, generator()), gradients[order])
    assert_close(permuted.weights, straight.weights[order], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("config", ALL, **NAMES)
def test_scaling_all_gradients_scales_the_result(config: BalancerConfig) -> None:
    gradients = random_rows(4, 6, seed=7)
    for factor in (1e-4, 300.0):
        found = direction(config, factor * gradients)
        assert_close(found, factor * direction(config, gradients), rtol=1e-9, atol=0)


@pytest.mark.parametrize("config", ALL, **NAMES)
def test_float32_gradients_of_many_parameters(config: BalancerConfig) -> None:
    gradients = random_rows(6, 40, seed=1)
    found = direction(config, gradients.float())
    assert found.dtype == torch.float32
    expected = direction(config, gradients)
    assert float((found - expected).norm() / expected.norm()) < 1e-4


@pytest.mark.parametrize("config", ALL, **NAMES)
def test_a_gradient_that_is_not_finite_is_not_hidden(config: BalancerConfig) -> None:
    balancer = config.build(3, generator())
    before = json.dumps(balancer.state_dict())
    gradients = random_rows(3, 4, seed=3)
    gradients[1, 2] = math.nan
    found, balance = combine(balancer, gradients)
    assert found.isnan().tolist() == [False, False, True, False]
    assert balance.weights.tolist() == [1, 1, 1]
    assert json.dumps(balancer.state_dict()) == before


# Each method's own promise


@pytest.mark.parametrize("config", [PCGrad(), UPGrad()], **NAMES)
def test_without_a_conflict_the_plain_sum(config: BalancerConfig) -> None:
    gradients = random_rows(5, 6, seed=5).abs()
    exactly(direction(config, gradients), gradients.sum(0))


@pytest.mark.parametrize("seed", range(5))
def test_pcgrad_is_the_papers_loop(seed: int) -> None:
    gradients = random_rows(5, 3, seed).numpy()
    orders = torch.rand(5, 5, generator=generator(seed)).argsort(1).numpy()
    projected = gradients.copy()
    for task, others in enumerate(orders):
        for other in others:
            product = projected[task] @ gradients[other]
            if other != task and product < 0:
                projected[task] -= (
                    product / (gradients[other] @ gradients[other]) * gradients[other]
                )
    weights = surgery_weights(gradients @ gradients.T, orders)
    np.testing.assert_allclose(weights @ gradients, projected.sum(0), rtol=1e-9)


def test_pcgrad_draws_its_orders_from_the_passed_generator() -> None:
    gradients = random_rows(5, 3, seed=0)
    again = direction(PCGrad(), gradients, seed=1)
    assert_close(direction(PCGrad(), gradients, seed=1), again, rtol=0, atol=0)
    found = {tuple(direction(PCGrad(), gradients, seed=seed).tolist()) for seed in range(8)}
    assert len(found) > 1


def projected(gram: np.ndarray, task: int) -> np.ndarray:
    """Weights of one gradient's projection, by trying every set of active constraints."""
    tasks = len(gram)
    for size in range(tasks):
        for active in itertools.combinations(range(tasks), size):
            added = np.zeros(tasks)
            chosen = list(active)
            added[chosen] = -np.linalg.pinv(gram[np.ix_(chosen, chosen)]) @ gram[chosen, task]
            weights = added + np.eye(tasks)[task]
            if added.min() >= -1e-9 and (gram @ weights).min() >= -1e-9 * gram.max():
                return weights
    raise AssertionError("some set of constraints is active")


@pytest.mark.parametrize("parameters", [2, 3, 8])
@pytest.mark.parametrize("seed", range(5))
def test_upgrad_adds_projections_onto_the_dual_cone(parameters: int, seed: int) -> None:
    gradients = random_rows(4, parameters, seed).numpy()
    gram = gradients @ gradients.T
    expected = sum(projected(gram, task) for task in range(4)) @ gradients
    found = projection_weights(gram) @ gradients
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(gradients).max())


@pytest.mark.parametrize("parameters", [2, 5, 40])
@pytest.mark.parametrize("seed", range(5))
def test_upgrad_harms_no_task_and_the_sum_does(parameters: int, seed: int) -> None:
    gradients = random_rows(6, parameters, seed)
    gradients[1] = -0.5 * gradients[0] + 0.01 * gradients[1]
    units = gradients / gradients.norm(dim=1, keepdim=True)
    assert float((units @ direction(UPGrad(), gradients)).min()) > -1e-9 * gradients.norm()
    assert float((units @ gradients.sum(0)).min()) < -1e-3 * gradients.norm()


@pytest.mark.parametrize("c", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("seed", range(4))
def test_cagrad_is_optimal_within_its_ball(c: float, seed: int) -> None:
    gradients = random_rows(4, 3, seed)
    gradients /= gradients.norm(dim=1).max()
    _, balance = combine(CAGrad(c=c).build(4, generator()), gradients)
    moved = balance.weights * (1 + c) - 1
    mean, radius = gradients.mean(0), c * gradients.mean(0).norm()
    d = (balance.weights * (1 + c)) @ gradients / 4
    assert float((d - mean).norm()) <= float(radius) * (1 + 1e-9)
    # By weak duality no d in the ball serves its least served task by more than this, for any w.
    w = moved / moved.sum()
    assert float(w.min()) >= 0
    bound = (w @ gradients) @ mean + radius * (w @ gradients).norm()
    served = (gradients @ d).min()
    assert_close(served, bound, rtol=0, atol=1e-7)
    # The plain mean serves it by less.
    assert float((gradients @ mean).min()) < float(served)


def test_cagrad_with_no_room_is_the_sum() -> None:
    gradients = random_rows(4, 3, seed=0)
    exactly(direction(CAGrad(c=0.0), gradients), gradients.sum(0))


@pytest.mark.parametrize("tasks", [2, 5, 30])
def test_nash_mtl_solves_the_bargaining_equation(tasks: int) -> None:
    gradients = random_rows(tasks, 60, seed=tasks)
    gram = gradients @ gradients.T
    _, balance = combine(NashMTL(damping=0.0).build(tasks, generator()), gradients)
    alpha = balance.weights / torch.linalg.matrix_norm(gradients, 2)
    assert float(alpha.min()) > 0
    assert_close(gram @ alpha, 1 / alpha, rtol=1e-8, atol=0)


def test_nash_mtl_is_never_shorter_than_the_sum() -> None:
    for seed in range(10):
        gradients = random_rows(5, 7, seed)
        assert direction(NashMTL(damping=0.0), gradients).norm() >= gradients.sum(0).norm()


@pytest.mark.parametrize("config", [NashMTL(), FAMO()], **NAMES)
def test_a_tasks_scale_does_not_turn_the_direction(config: BalancerConfig) -> None:
    gradients = random_rows(3, 5, seed=6)
    scaled = gradients * torch.tensor([[1.0], [50.0], [0.1]], dtype=torch.float64)
    turned = [found / found.norm() for found in (direction(config, g) for g in (gradients, scaled))]
    assert_close(turned[0], turned[1], rtol=0, atol=1e-8)
    plain = [g.sum(0) / g.sum(0).norm() for g in (gradients, scaled)]
    assert float((plain[0] - plain[1]).norm()) > 0.1


# TorchJD's documentation gives these for its own implementations, in the papers' scales.
DOCUMENTED = rows((-4, 1, 1), (6, 1, 1))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (UPGrad(), [0.2929, 1.9004, 1.9004]),
        (PCGrad(), [0.5848, 3.8012, 3.8012]),
        (CAGrad(c=0.5), [0.1835, 1.2041, 1.2041]),
        (NashMTL(damping=0.0), [0.0542, 0.7061, 0.7061]),
    ],
)
def test_documented_directions_of_another_implementation(
    config: BalancerConfig, expected: list[float]
) -> None:
    found, theirs = direction(config, DOCUMENTED), torch.tensor(expected).double()
    # Theirs add a regulariser of 1e-4 and are printed to four places.
    assert_close(found / found.norm(), theirs / theirs.norm(), rtol=0, atol=2e-4)
    # What each module says of its scale against the paper's.
    factors = {PCGrad: 1.0, UPGrad: 2.0, CAGrad: 2 / 1.5}
    if type(config) in factors:
        ratio = found.norm() / theirs.norm()
        assert float(ratio) == pytest.approx(factors[type(config)], rel=1e-3)


@pytest.mark.parametrize(
    ("config", "scale", "name", "arguments"),
    [(UPGrad(), 4, "UPGrad", {}), (CAGrad(c=0.5), 4 / 1.5, "CAGrad", {"c": 0.5})],
)
@pytest.mark.parametrize("seed", range(3))
def test_another_implementation_agrees(
    config: BalancerConfig, scale: float, name: str, arguments: dict[str, float], seed: int
) -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    try:
        aggregator = getattr(aggregation, name)(**arguments)
    except ImportError as error:
        pytest.skip(f"torchjd lacks what {name} needs: {error}")
    gradients = random_rows(4, 6, seed) / 100
    expected = scale * aggregator(gradients)
    error = (direction(config, gradients) - expected).norm() / expected.norm()
    assert float(error) < 1e-2


# State and errors


@pytest.mark.parametrize("config", ALL, **NAMES)
def test_a_saved_balancer_continues_as_the_first(config: BalancerConfig) -> None:
    first, second = config.build(4, generator(1)), config.build(4, generator(2))
    for seed in range(3):
        combine(first, random_rows(4, 5, seed))
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for seed in range(3):
        gradients = random_rows(4, 5, seed)
        assert_close(combine(second, gradients)[0], combine(first, gradients)[0], rtol=0, atol=0)


def test_gradnorms_first_losses_are_saved() -> None:
    config = GradNorm(asymmetry=1.0)
    first, second = config.build(2, generator()), config.build(2, generator())
    gradients = rows((1, 0), (0, 1))
    combine(first, gradients, torch.tensor([5.0, 1.0]))
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    losses = torch.tensor([1.0, 1.0])
    for _ in range(2):
        found = [combine(each, gradients, losses)[1].weights for each in (first, second)]
        assert_close(found[0], found[1], rtol=0, atol=0)
    assert found[0][0] < 1


def test_the_state_of_another_balancer_is_refused() -> None:
    state = GradNorm().build(3, generator()).state_dict()
    with pytest.raises(CheckpointError, match="first_losses"):
        FAMO().build(3, generator()).load_state_dict(state)
    with pytest.raises(CheckpointError, match="weights of 3 tasks, this run has 2"):
        GradNorm().build(2, generator()).load_state_dict(state)
    with pytest.raises(CheckpointError, match="generator on cpu"):
        PCGrad().build(2, generator()).load_state_dict({"generator": "00ff"})


@pytest.mark.parametrize("config", [FAMO(), GradNorm(asymmetry=1.5)], **NAMES)
def test_losses_must_be_positive(config: BalancerConfig) -> None:
    with pytest.raises(UsageError, match="positive loss"):
        combine(config.build(2, generator()), CONFLICT, torch.tensor([1.0, -1.0]))


def test_asymmetry_needs_losses() -> None:
    with pytest.raises(UsageError, match="asymmetry 1.5.*set asymmetry to 0"):
        combine(GradNorm(asymmetry=1.5).build(2, generator()), CONFLICT)


def test_losses_of_absent_tasks_are_not_read() -> None:
    balancer = FAMO().build(3, generator())
    gradients = rows((1, 0), (0, 0), (0, 1))
    weights = combine(balancer, gradients, torch.tensor([1.0, math.nan, 3.0]))[1].weights
    exactly(weights, torch.tensor([1.5, 0, 0.5], dtype=torch.float64))


def test_another_number_of_tasks_is_refused() -> None:
    with pytest.raises(UsageError, match=r"gram has shape \(2, 2\); it must be \(3, 3\)"):
        combine(UPGrad().build(3, generator()), CONFLICT)
    with pytest.raises(UsageError, match=r"losses has shape \(3,\)"):
        combine(FAMO().build(2, generator()), CONFLICT, torch.ones(3))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: CAGrad(c=1.0), "c must be at least 0 and below 1, got 1.0"),
        (lambda: NashMTL(damping=-1.0), "damping must be at least 0"),
        (lambda: GradNorm(step_size=0.0), "step_size must be above 0"),
        (lambda: GradNorm(asymmetry=-1.0), "asymmetry must be at least 0"),
        (lambda: FAMO(decay=-1.0), "decay must be at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(made, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        made()
