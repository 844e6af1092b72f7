"""learn2learn's MAML and MetaSGD: the same meta-gradients, and checkpoints both ways."""

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peers import load_learn2learn
from tiny_regression import EXACT, NETWORK, initial_params, meta_params, points, squared_error
from torch import Tensor
from torch.testing import assert_close

from mtrl.errors import CheckpointError, UsageError
from mtrl.meta.few_shot import FewShotAdaptation
from mtrl.meta.gradient import MetaGradient
from mtrl.meta.inner import adapt, expand_to_tasks, per_task
from mtrl.meta.interop import from_learn2learn, read_learn2learn, to_learn2learn
from mtrl.meta.maml import MAML
from mtrl.meta.meta_sgd import MetaSGD
from mtrl.meta.parameters import MetaParams
from mtrl.nets import Params

TASKS = 3
NAMES = {
    "0.weight": "layers.0.weight",
    "0.bias": "layers.0.bias",
    "2.weight": "layers.1.weight",
    "2.bias": "layers.1.bias",
}
Learner = MAML | MetaSGD
Points = tuple[Tensor, Tensor]


@pytest.fixture(scope="module")
def theirs() -> SimpleNamespace:
    # Fails where learn2learn is missing, naming the command that fetches it: `make test` runs that first.
    return load_learn2learn()


def module() -> torch.nn.Module:
    layers = torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)
    return torch.nn.Sequential(*layers).double()


def twin(theirs: SimpleNamespace, learner: Learner, meta: MetaParams) -> Any:
    """Return learn2learn's learner with our meta-parameters, loaded by its own means."""
    if isinstance(learner, MetaSGD):
        made = theirs.MetaSGD(module(), lr=0.5, first_order=learner.first_order)
    else:
        made = theirs.MAML(module(), lr=learner.step_size, first_order=learner.first_order)
    made.load_state_dict(to_learn2learn(meta, learner, NAMES))
    return made


def their_query_losses(made: Any, support: Points, query: Points, steps: int) -> list[Tensor]:
    losses = []
    for x, y, query_x, query_y in zip(*support, *query, strict=True):
        clone = made.clone()
        for _ in range(steps):
            clone.adapt(torch.nn.functional.mse_loss(clone(x), y))
        losses.append(torch.nn.functional.mse_loss(clone(query_x), query_y))
    return losses


@pytest.mark.parametrize("cls", [MAML, MetaSGD])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
def test_meta_gradients_are_learn2learns(
    theirs: SimpleNamespace, cls: Any, first_order: bool, steps: int
) -> None:
    learner = cls(first_order=first_order, inner_steps=steps)
    meta, support, query = meta_params(learner), points(TASKS), points(TASKS, seed=1)
    made = twin(theirs, learner, meta)
    loss = torch.stack(their_query_losses(made, support, query, steps)).mean()
    expected = torch.autograd.grad(loss, list(made.parameters()))
    ours = MetaGradient(learner, squared_error)(meta, (*support, *query))
    assert_close(ours.loss, loss.detach(), **EXACT)
    # learn2learn's parameters are the module's, then the step sizes: ours too.
    assert_close(list(meta.like(ours.gradient).named().values()), list(expected), **EXACT)


@pytest.mark.parametrize("cls", [MAML, MetaSGD])
def test_a_first_order_gradient_is_another_one(theirs: SimpleNamespace, cls: Any) -> None:
    # Negative control: the comparison above can tell the two apart.
    support, query = points(TASKS), points(TASKS, seed=1)
    made = twin(theirs, cls(), meta_params(cls()))
    loss = torch.stack(their_query_losses(made, support, query, 1)).mean()
    expected = torch.autograd.grad(loss, list(made.parameters()))
    learner = cls(first_order=True)
    meta = meta_params(learner)
    ours = MetaGradient(learner, squared_error)(meta, (*support, *query))
    differences = [
        float((a - b).abs().max())
        for a, b in zip(meta.like(ours.gradient).named().values(), expected, strict=True)
    ]
    assert max(differences) > 1e-3


# Checkpoints


def trained(theirs: SimpleNamespace, learner: Learner) -> Any:
    """Return learn2learn's learner after a few of its own outer updates."""
    made = twin(theirs, learner, meta_params(learner))
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
    for seed in range(3):
        losses = their_query_losses(made, points(TASKS, seed=seed), points(TASKS, seed=9), 1)
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        optimizer.step()
    return made


@pytest.mark.parametrize("learner", [MAML(step_size=0.2), MetaSGD()], ids=["MAML", "MetaSGD"])
def test_a_checkpoint_of_learn2learn_adapts_the_same_here(
    theirs: SimpleNamespace, learner: Learner, tmp_path: Path
) -> None:
    made = trained(theirs, learner)
    torch.save(made.state_dict(), tmp_path / "their.pt")
    meta = from_learn2learn(read_learn2learn(tmp_path / "their.pt"), learner, NAMES)
    support, query = points(TASKS), points(TASKS, seed=1)
    adapted = FewShotAdaptation(NETWORK, learner).adapted(meta, support, 2)[-1]
    for task in range(TASKS):
        clone = made.clone()
        for _ in range(2):
            clone.adapt(torch.nn.functional.mse_loss(clone(support[0][task]), support[1][task]))
        expected = clone(query[0][task]).detach()
        assert_close(NETWORK(adapted, query[0])[task], expected, **EXACT)


@pytest.mark.parametrize("learner", [MAML(), MetaSGD()], ids=["MAML", "MetaSGD"])
def test_there_and_back_nothing_changes(theirs: SimpleNamespace, learner: Learner) -> None:
    state = trained(theirs, learner).state_dict()
    meta = from_learn2learn(state, learner, NAMES)
    back = to_learn2learn(meta, learner, NAMES)
    assert list(back) == list(state)
    assert_close(back, dict(state), rtol=0, atol=0)
    assert list(meta.params) == list(NAMES.values())
    assert list(meta.step_sizes) == (list(NAMES.values()) if isinstance(learner, MetaSGD) else [])


def test_what_was_imported_shares_no_memory(theirs: SimpleNamespace) -> None:
    made = trained(theirs, MetaSGD())
    meta = from_learn2learn(made.state_dict(), MetaSGD(), NAMES)
    before = meta.flat()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(1.0)
    assert_close(meta.flat(), before, rtol=0, atol=0)
    assert not any(value.requires_grad for value in meta.named().values())


def test_without_names_any_module_goes_on_under_its_own(theirs: SimpleNamespace) -> None:
    learner, net = MetaSGD(), module()
    made = twin(theirs, learner, meta_params(learner))
    meta = from_learn2learn(made.state_dict(), learner)
    assert list(meta.params) == list(NAMES)

    def loss(params: Params, data: Points) -> Tensor:
        prediction = torch.func.functional_call(net, params, (data[0],))
        return torch.nn.functional.mse_loss(prediction, data[1])

    support, query = points(TASKS), points(TASKS, seed=1)
    adapted = adapt(
        expand_to_tasks(meta.params, TASKS),
        learner.step_sizes(meta.step_sizes, meta.params, 1),
        per_task(loss),
        [support],
    )
    expected = torch.stack(their_query_losses(made, support, query, 1)).detach()
    assert_close(per_task(loss)(adapted, query), expected, **EXACT)


@pytest.mark.parametrize("granularity", ["tensor", "layer", "scalar"])
@pytest.mark.parametrize("positive", [False, True])
def test_shared_and_positive_step_sizes_are_exported_as_they_act(
    theirs: SimpleNamespace, granularity: Any, positive: bool
) -> None:
    learner = MetaSGD(granularity=granularity, positive=positive)
    meta, support, query = meta_params(learner), points(TASKS), points(TASKS, seed=1)
    adapted = FewShotAdaptation(NETWORK, learner).adapted(meta, support, 1)[-1]
    losses = their_query_losses(twin(theirs, learner, meta), support, query, 1)
    assert_close(squared_error(adapted, query), torch.stack(losses).detach(), **EXACT)


# What is refused


def state(learner: Learner) -> dict[str, Tensor]:
    return to_learn2learn(meta_params(learner), learner, NAMES)


def test_every_missing_entry_is_refused_by_name() -> None:
    for key in state(MetaSGD()):
        damaged = state(MetaSGD())
        del damaged[key]
        with pytest.raises(UsageError, match=f"^{key} is missing"):
            from_learn2learn(damaged, MetaSGD(), NAMES)


@pytest.mark.parametrize("key", ["lrs.4", "module.4.weight", "optimizer", "lrs"])
def test_an_unknown_entry_is_refused_by_name(key: str) -> None:
    with pytest.raises(UsageError, match=f"^{key} is unknown: a MetaSGD of this module"):
        from_learn2learn(state(MetaSGD()) | {key: torch.zeros(1)}, MetaSGD(), NAMES)


def test_the_wrong_learner_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^lrs.0 is unknown: a MAML"):
        from_learn2learn(state(MetaSGD()), MAML(), NAMES)
    with pytest.raises(UsageError, match=r"^lrs.0 is missing: .* MetaSGD"):
        from_learn2learn(state(MAML()), MetaSGD(), NAMES)


def test_step_sizes_of_another_shape_are_refused() -> None:
    swapped = state(MetaSGD())
    swapped["lrs.0"], swapped["lrs.1"] = swapped["lrs.1"], swapped["lrs.0"]
    with pytest.raises(UsageError, match=r"lrs.0 is shaped \(4,\) and its parameter .* \(4, 2\)"):
        from_learn2learn(swapped, MetaSGD(), NAMES)


def test_a_buffer_is_refused() -> None:
    buffer = {"module.1.num_batches_tracked": torch.tensor(3)}
    with pytest.raises(UsageError, match=r"module.1.num_batches_tracked is of torch.int64"):
        from_learn2learn(state(MAML()) | buffer, MAML())


@pytest.mark.parametrize(
    ("learner", "option"),
    [
        (MAML(step_size_by_prefix={"layers.1": 0.5}), "step_size_by_prefix"),
        (MAML(later_step_scale=0.5), "later_step_scale"),
        (MAML(later_step_decay=0.5), "later_step_decay"),
        (MAML(adapted=("layers.1",)), "adapted"),
        (MetaSGD(adapted=("layers.1",)), "adapted"),
        (MetaSGD(per_step=True), "per_step"),
        (MetaSGD(later_step_scale=0.5), "later_step_scale"),
    ],
)
def test_what_learn2learn_cannot_do_is_refused_both_ways(learner: Learner, option: str) -> None:
    meta = MetaParams(initial_params(), {})
    with pytest.raises(UsageError, match=f"^{option} is .* no equivalent"):
        to_learn2learn(meta, learner, NAMES)
    with pytest.raises(UsageError, match=f"^{option} is .* no equivalent"):
        from_learn2learn(state(MAML()), learner, NAMES)


@pytest.mark.parametrize("options", [{"granularity": "layer"}, {"positive": True}])
def test_its_step_sizes_fit_meta_sgd_per_parameter_only(options: dict[str, Any]) -> None:
    (option,) = options
    with pytest.raises(UsageError, match=f"^{option} is "):
        from_learn2learn(state(MetaSGD()), MetaSGD(**options), NAMES)


def test_names_that_do_not_fit_are_refused() -> None:
    names = {**NAMES, "2.bias": "layers.9.bias"}
    with pytest.raises(UsageError, match=r"unknown or missing: layers.1.bias, layers.9.bias"):
        to_learn2learn(meta_params(MAML()), MAML(), names)


class Hostile:
    """Unpickled, it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_file_with_code_in_it_is_refused_and_the_code_not_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "hostile.pt", tmp_path / "trace"
    torch.save({"module.0.weight": Hostile(trace)}, path)
    with pytest.raises(CheckpointError, match="hostile.pt is damaged or holds more than tensors"):
        read_learn2learn(path)
    path.write_bytes(pickle.dumps(Hostile(trace), protocol=2))
    with pytest.raises(CheckpointError, match="hostile.pt is damaged or holds more than tensors"):
        read_learn2learn(path)
    assert not trace.exists()


@pytest.mark.parametrize("content", [[1, 2], {"lr": 0.1}, torch.ones(2)])
def test_a_file_that_is_no_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="other.pt is not a state dict"):
        read_learn2learn(tmp_path / "other.pt")


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_cut_file_is_refused_and_a_missing_one_named(tmp_path: Path, share: float) -> None:
    path = tmp_path / "cut.pt"
    torch.save(state(MAML()), path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(CheckpointError, match="cut.pt is damaged"):
        read_learn2learn(path)
    with pytest.raises(CheckpointError, match="cannot read .*absent.pt: No such file"):
        read_learn2learn(tmp_path / "absent.pt")
