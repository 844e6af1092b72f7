"""Balanced gradients of a trunk against an explicit backward pass for every task, in float64."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from mtrl.agents.balancing import (
    FAMO,
    BalancedTrunk,
    BalancerConfig,
    CAGrad,
    GradNorm,
    NashMTL,
    PCGrad,
    Sum,
    UPGrad,
    combine,
    weigh_rows,
)
from mtrl.agents.networks import (
    CNN,
    MLP,
    Embedding,
    Film,
    MixtureOfExperts,
    NetworkConfig,
    OneHot,
    ParameterCompositions,
    SoftModules,
    TaskInput,
    TaskParameters,
    TaskSpec,
)
from mtrl.errors import UsageError

TASKS, CONTEXT, OUTPUTS = 4, 3, 2
SPEC = TaskSpec(tasks=TASKS, context=CONTEXT)
TRUNKS = {
    "mlp": (MLP(hidden=(6, 4)), OneHot()),
    "mlp-blind": (MLP(hidden=(6, 4), activation="tanh"), None),
    "mlp-film": (MLP(hidden=(6, 4)), Film(code=Embedding(size=2))),
    "mlp-parameters": (MLP(hidden=(6, 4)), TaskParameters()),
    "soft-modules": (SoftModules(encoder=(6, 5), layers=3, modules=2, width=4), OneHot()),
    "moore": (MixtureOfExperts(experts=3, hidden=(6, 4)), OneHot()),
    "mixture": (
        MixtureOfExperts(experts=3, hidden=(6, 4), orthogonal=False, gate="softmax"),
        OneHot(),
    ),
    "paco": (ParameterCompositions(sets=3, hidden=(6, 4)), OneHot()),
    "cnn": (CNN(channels=(2, 3), kernels=(4, 3), strides=(2, 1), units=5), OneHot()),
}
INDEXES = {
    "equal": [0, 1, 2, 3, 0, 1, 2, 3],
    "unequal": [2, 2, 2, 2, 0, 2, 2, 1, 2, 2, 3],
    "absent": [3, 1, 1, 3, 1],
    "one-task": [2, 2, 2],
    "one-row": [1],
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Case:
    """A network, a batch and a loss that is a mean over the batch's rows."""

    def __init__(self, trunk: str = "mlp", index: list[int] = INDEXES["unequal"]) -> None:
        kind, conditioning = TRUNKS[trunk]
        shape = (2, 12, 12) if trunk == "cnn" else (5,)
        config = NetworkConfig(trunk=kind, conditioning=conditioning)
        self.network = config.build(shape, OUTPUTS, spec=SPEC, generator=generator(3)).double()
        chance = generator(4)
        rows = len(index)
        draw = {"generator": chance, "dtype": torch.float64}
        with torch.no_grad():
            # So that no parameter is at a value, 0 say, that hides its part.
            for parameter in self.network.parameters():
                parameter += 0.2 * torch.randn(parameter.shape, **draw)
        self.observations = torch.randn(rows, *shape, **draw)
        self.task = TaskInput(torch.tensor(index), torch.randn(rows, CONTEXT, **draw))
        self.targets = 3 * torch.randn(rows, OUTPUTS, **draw)
        self.trunk = self.network.trunk

    def row_losses(self, trunk: nn.Module) -> Tensor:
        features = trunk(self.observations, self.task)
        return (self.network.head(features, self.task) - self.targets).square().mean(1)

    def gradients(self, trunk: nn.Module) -> list[Tensor]:
        """Of the batch's mean loss: the trunk's, then the head's."""
        self.network.zero_grad()
        self.row_losses(trunk).mean().backward()
        return [parameter.grad for parameter in self.network.parameters()]

    def of_tasks(self) -> Tensor:
        """Gradients (tasks, parameters) of the trunk, one backward pass for each task."""
        found = []
        for task in range(TASKS):
            losses = self.row_losses(self.trunk) * (self.task.index == task)
            parts = torch.autograd.grad(losses.mean(), list(self.trunk.parameters()))
            found.append(torch.cat([part.flatten() for part in parts]))
        return torch.stack(found)

    def balanced(self, config: BalancerConfig) -> BalancedTrunk:
        return BalancedTrunk(self.trunk, config.build(TASKS, generator(5)), SPEC)

    def trunk_gradient(self, trunk: nn.Module) -> Tensor:
        count = len(list(self.trunk.parameters()))
        return torch.cat([part.flatten() for part in self.gradients(trunk)[:count]])


@pytest.mark.parametrize("name", TRUNKS)
@pytest.mark.parametrize("index", INDEXES)
def test_gradients_are_those_of_a_backward_pass_for_each_task(name: str, index: str) -> None:
    case = Case(name, INDEXES[index])
    tasks = case.of_tasks()
    expected, balance = combine(PCGrad().build(TASKS, generator(5)), tasks)
    balanced = case.balanced(PCGrad())
    assert_close(case.trunk_gradient(balanced), expected, rtol=1e-9, atol=1e-11)
    assert balanced.weights is not None and balanced.norms is not None
    assert_close(balanced.weights, balance.weights, rtol=1e-8, atol=1e-9)
    assert_close(balanced.norms, tasks.norm(dim=1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("config", [CAGrad(), GradNorm(), UPGrad(), NashMTL(), FAMO()])
def test_every_balancer_reaches_the_trunk(config: BalancerConfig) -> None:
    case = Case()
    expected, _ = combine(config.build(TASKS, generator(5)), case.of_tasks())
    assert_close(case.trunk_gradient(case.balanced(config)), expected, rtol=1e-7, atol=1e-9)


def test_conflicts_are_cosines_of_tasks_gradients() -> None:
    case = Case(index=INDEXES["absent"])
    balanced = case.balanced(UPGrad())
    assert balanced.conflicts is None
    case.gradients(balanced)
    tasks = case.of_tasks()
    expected = nn.functional.cosine_similarity(tasks[:, None], tasks[None], dim=2)
    expected[[0, 2]] = expected[:, [0, 2]] = math.nan
    assert balanced.conflicts is not None
    assert_close(balanced.conflicts, expected, rtol=1e-9, atol=1e-12, equal_nan=True)
    assert not balanced.conflicts.requires_grad
    assert balanced.seconds > 0


@pytest.mark.parametrize("config", [PCGrad(), UPGrad(), NashMTL()])
def test_heads_keep_their_gradients_to_the_bit(config: BalancerConfig) -> None:
    case = Case()
    first_of_head = len(list(case.trunk.parameters()))
    plain = [gradient.clone() for gradient in case.gradients(case.trunk)]
    balanced = case.gradients(case.balanced(config))
    for ours, theirs in zip(balanced[first_of_head:], plain[first_of_head:], strict=True):
        assert_close(ours, theirs, rtol=0, atol=0)
    assert any(
        not torch.equal(ours, theirs)
        for ours, theirs in zip(balanced[:first_of_head], plain[:first_of_head], strict=True)
    )


@pytest.mark.parametrize("name", TRUNKS)
def test_sum_is_the_bare_trunk_to_the_bit(name: str) -> None:
    case = Case(name)
    plain = [gradient.clone() for gradient in case.gradients(case.trunk)]
    balanced = case.balanced(Sum())
    for ours, theirs in zip(case.gradients(balanced), plain, strict=True):
        assert_close(ours, theirs, rtol=0, atol=0)
    assert balanced.balance is None
    assert balanced.seconds == 0
    watched = case.balanced(Sum(watch=True))
    for ours, theirs in zip(case.gradients(watched), plain, strict=True):
        assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    assert watched.conflicts is not None


def test_features_are_the_bare_trunks_to_the_bit() -> None:
    case = Case()
    for trunk in (case.balanced(UPGrad()), case.balanced(UPGrad()).eval()):
        made = trunk(case.observations, case.task)
        assert_close(made, case.trunk(case.observations, case.task), rtol=0, atol=0)
    balanced = case.balanced(UPGrad())
    assert (balanced.shape, balanced.features) == (case.trunk.shape, case.trunk.features)
    assert list(balanced.parameters()) == list(case.trunk.parameters())


def test_two_heads_on_one_pass_are_balanced_as_one_loss() -> None:
    case = Case()
    other = nn.Linear(case.trunk.features, 1).double()

    def gradient(trunk: nn.Module, rows: Tensor) -> Tensor:
        features = trunk(case.observations, case.task)
        actor = (case.network.head(features, case.task) - case.targets).square().mean(1)
        losses = (actor + 0.5 * other(features).squeeze(1)) * rows
        parts = torch.autograd.grad(losses.mean(), list(case.trunk.parameters()))
        return torch.cat([part.flatten() for part in parts])

    index = case.task.index
    assert index is not None
    tasks = torch.stack([gradient(case.trunk, index == task) for task in range(TASKS)])
    found = gradient(case.balanced(UPGrad()), torch.ones_like(index))
    expected, _ = combine(UPGrad().build(TASKS, generator()), tasks)
    assert_close(found, expected, rtol=1e-8, atol=1e-10)


def test_outside_of_training_gradients_are_ordinary() -> None:
    case = Case()
    plain = case.trunk_gradient(case.trunk)
    balanced = case.balanced(UPGrad())
    with balanced.unbalanced():
        assert_close(case.trunk_gradient(balanced), plain, rtol=0, atol=0)
    assert_close(case.trunk_gradient(balanced.eval()), plain, rtol=0, atol=0)
    assert balanced.balance is None
    assert float((case.trunk_gradient(balanced.train()) - plain).norm()) > 1e-3


@pytest.mark.parametrize("name", ["mlp-parameters", "soft-modules", "moore", "cnn"])
def test_observations_and_contexts_get_ordinary_gradients(name: str) -> None:
    case = Case(name)
    context = case.task.context
    assert context is not None

    def gradients(trunk: nn.Module) -> list[Tensor | None]:
        inputs = [case.observations.clone(), context.clone()]
        for tensor in inputs:
            tensor.requires_grad_()
        features = trunk(inputs[0], TaskInput(case.task.index, inputs[1]))
        return list(torch.autograd.grad(features.square().sum(), inputs, allow_unused=True))

    for ours, theirs in zip(gradients(case.balanced(PCGrad())), gradients(case.trunk), strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["mlp-blind", "paco"])
def test_finite_differences_agree(name: str) -> None:
    case = Case(name, INDEXES["absent"])
    balanced = case.balanced(Sum(watch=True))
    named = dict(balanced.named_parameters())

    def features(observations: Tensor, *values: Tensor) -> Tensor:
        params = dict(zip(named, values, strict=True))
        return functional_call(balanced, params, (observations, case.task))

    # Smooth: no finite difference may step over the corner of a rectifier.
    case.trunk._activation = torch.tanh
    inputs = [case.observations.requires_grad_(), *named.values()]
    assert torch.autograd.gradcheck(features, inputs)


def test_frozen_parameters_get_no_gradient_and_do_not_count() -> None:
    case = Case()
    frozen, *free = case.trunk.parameters()
    frozen.requires_grad_(False)
    balanced = case.balanced(UPGrad())
    case.row_losses(balanced).mean().backward()
    assert frozen.grad is None
    parts = [
        torch.autograd.grad((case.row_losses(case.trunk) * (case.task.index == task)).mean(), free)
        for task in range(TASKS)
    ]
    tasks = torch.stack([torch.cat([p.flatten() for p in of_task]) for of_task in parts])
    expected, _ = combine(UPGrad().build(TASKS, generator()), tasks)
    found = torch.cat([p.grad.flatten() for p in free if p.grad is not None])
    assert_close(found, expected, rtol=1e-8, atol=1e-10)
    for parameter in free:
        parameter.requires_grad_(False)
    assert not balanced(case.observations, case.task).requires_grad


def test_reported_losses_serve_the_next_backward_pass_only() -> None:
    case = Case()
    config = FAMO()
    balanced = case.balanced(config)
    losses = torch.tensor([1.0, 2.0, 3.0, 4.0])
    balanced.report_losses(losses)
    expected, _ = combine(config.build(TASKS, generator()), case.of_tasks(), losses)
    assert_close(case.trunk_gradient(balanced), expected, rtol=1e-9, atol=1e-11)
    expected, _ = combine(config.build(TASKS, generator()), case.of_tasks())
    assert_close(case.trunk_gradient(balanced), expected, rtol=1e-9, atol=1e-11)


def conflicting() -> Case:
    """Two tasks with the same observations and head whose errors are nearly opposed."""
    case = Case("mlp-blind", [0] * 6 + [1] * 6)
    case.observations = torch.cat([case.observations[:6], case.observations[:6]])
    with torch.no_grad():
        for parameter in case.network.head.parameters():
            parameter[1] = parameter[0]
        made = case.network(case.observations, case.task)
    large, noise = case.targets.chunk(2)
    case.targets = made + torch.cat([large, -0.1 * large + 0.03 * noise])
    return case


@pytest.mark.parametrize(("config", "harmed"), [(Sum(), 1), (UPGrad(), 0)])
def test_a_step_along_the_sum_harms_a_task_and_one_of_upgrad_does_not(
    config: BalancerConfig, harmed: int
) -> None:
    case = conflicting()

    def task_losses() -> Tensor:
        losses = case.row_losses(case.trunk).detach()
        return torch.stack([losses[:6].mean(), losses[6:].mean()])

    before, tasks = task_losses(), case.of_tasks()[:2]
    found = case.trunk_gradient(case.balanced(config))
    # The projection that UPGrad stops at is exactly orthogonal, but for rounding.
    assert int((tasks @ found < -1e-9).sum()) == harmed
    assert bool((tasks @ found > 1e-3).any())
    with torch.no_grad():
        for parameter in case.trunk.parameters():
            parameter -= 1e-3 * parameter.grad
    risen = task_losses() - before > 1e-4 * before
    assert int(risen.sum()) == harmed


def test_work_grows_with_the_number_of_tasks_by_the_gram_matrix_only() -> None:
    def flops(tasks: int, config: BalancerConfig) -> int:
        spec = TaskSpec(tasks=tasks)
        trunk = MLP(hidden=(64, 64)).build((32,), OneHot(), spec, generator())
        balanced = BalancedTrunk(trunk, config.build(tasks, generator()), spec)
        task = TaskInput(torch.arange(512) % tasks)
        features = balanced(torch.randn(512, 32, generator=generator()), task)
        with FlopCounterMode(display=False) as counter:
            features.sum().backward()
        return counter.get_total_flops()

    # The rows of the one-hot table are parameters, too.
    gram = 2 * 32**2 * (33 * 64 + 65 * 64 + 32 * 64)
    many = flops(32, UPGrad()) - gram
    assert many < 1.2 * flops(2, UPGrad())
    # Less than three: one backward pass, a forward pass again, and combining.
    assert flops(2, UPGrad()) < 3 * flops(2, Sum())


def test_a_parameter_changed_before_the_backward_pass_is_an_error() -> None:
    case = Case()
    loss = case.row_losses(case.balanced(UPGrad())).mean()
    with torch.no_grad():
        next(iter(case.trunk.parameters())).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_copy_is_balanced_on_its_own() -> None:
    case = Case()
    balanced = case.balanced(PCGrad())
    copied = copy.deepcopy(balanced)
    copied(case.observations, case.task).sum().backward()
    assert balanced.balance is None and copied.balance is not None
    assert all(parameter.grad is None for parameter in balanced.parameters())


def test_an_empty_batch_has_empty_features() -> None:
    case = Case()
    none = TaskInput(torch.zeros(0, dtype=torch.int64), torch.zeros(0, CONTEXT).double())
    features = case.balanced(UPGrad())(case.observations[:0], none)
    features.sum().backward()
    assert features.shape == (0, case.trunk.features)


def test_what_cannot_be_balanced_is_refused() -> None:
    case = Case("mlp-parameters")
    with pytest.raises(UsageError, match="for 3 tasks and the network for 4"):
        BalancedTrunk(case.trunk, UPGrad().build(3, generator()), SPEC)
    with pytest.raises(UsageError, match="balancing needs the number"):
        case.balanced(UPGrad())(case.observations, TaskInput(None, case.task.context))
    case.trunk.register_buffer("mean", torch.zeros(1))
    with pytest.raises(UsageError, match="buffers"):
        case.balanced(UPGrad())
    with pytest.raises(UsageError, match="observations have shape"):
        Case().balanced(UPGrad())(torch.zeros(2, 3), TaskInput(torch.zeros(2).long()))


# Weights of rows


def test_weighing_rows_weighs_the_loss_of_each_row() -> None:
    case = Case()
    weights = torch.tensor([0.5, 0.0, 2.0, 1.5], dtype=torch.float64)
    rows = weights[case.task.index]
    case.network.zero_grad()
    (case.row_losses(case.trunk) * rows).mean().backward()
    expected = [parameter.grad.clone() for parameter in case.network.parameters()]
    case.network.zero_grad()
    outputs = case.network(case.observations, case.task)
    weighed = weigh_rows(outputs, weights, case.task.index)
    assert_close(weighed, outputs, rtol=0, atol=0)
    (weighed - case.targets).square().mean().backward()
    for parameter, gradient in zip(case.network.parameters(), expected, strict=True):
        assert_close(parameter.grad, gradient, rtol=1e-12, atol=1e-14)


def test_unit_weights_change_no_gradient() -> None:
    case = Case()
    outputs = case.network(case.observations, case.task).detach().requires_grad_()
    scale = torch.randn(outputs.shape, generator=generator(), dtype=torch.float64)
    (weigh_rows(outputs, torch.ones(TASKS), case.task.index) * scale).sum().backward()
    assert_close(outputs.grad, scale, rtol=0, atol=0)


def test_weighed_rows_may_have_any_shape_and_weights_get_no_gradient() -> None:
    outputs = torch.randn(3, 2, 4, generator=generator(), dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([2.0, 3.0], requires_grad=True)
    weigh_rows(outputs, weights, torch.tensor([1, 0, 1])).sum().backward()
    expected = torch.tensor([3.0, 2.0, 3.0]).double().view(3, 1, 1).expand(3, 2, 4)
    assert_close(outputs.grad, expected, rtol=0, atol=0)
    assert weights.grad is None


def test_weights_of_rows_reach_the_balancer() -> None:
    case = Case()
    weights = torch.tensor([0.5, 1.0, 2.0, 1.5], dtype=torch.float64)
    expected, _ = combine(UPGrad().build(TASKS, generator()), weights[:, None] * case.of_tasks())
    features = case.balanced(UPGrad())(case.observations, case.task)
    outputs = weigh_rows(case.network.head(features, case.task), weights, case.task.index)
    case.network.zero_grad()
    (outputs - case.targets).square().mean().backward()
    found = torch.cat([parameter.grad.flatten() for parameter in case.trunk.parameters()])
    assert_close(found, expected, rtol=1e-8, atol=1e-10)
