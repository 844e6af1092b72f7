"""The meta-gradient: in chunks as in one piece, compiled as traced, and in bounded memory."""

import ctypes
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tiny_regression import EXACT, NETWORK, generator, meta_params, points, squared_error
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close

from mtrl.errors import UsageError
from mtrl.meta.compiled import TensorFunction, compile_traced, has_compiler
from mtrl.meta.gradient import FewShotTensors, MetaGradient
from mtrl.meta.inner import adapt, expand_to_tasks
from mtrl.meta.maml import MAML
from mtrl.meta.meta_sgd import MetaSGD
from mtrl.meta.outer import AdamUpdate
from mtrl.meta.parameters import MetaParams

TASKS = 7
LEARNERS = {
    "Meta-SGD": MetaSGD(inner_steps=2),
    "Meta-SGD, first order": MetaSGD(first_order=True, granularity="layer", per_step=True),
    "MAML": MAML(inner_steps=2),
    "frozen trunk": MetaSGD(adapted=("layers.1",)),
}
each_learner = pytest.mark.parametrize("learner", LEARNERS.values(), ids=LEARNERS)


def data(tasks: int = TASKS, query_shots: int = 6) -> FewShotTensors:
    return (*points(tasks), *points(tasks, query_shots, seed=1))


@each_learner
def test_it_is_the_gradient_of_the_mean_query_loss(learner: MAML | MetaSGD) -> None:
    meta = meta_params(learner)
    leaves = {name: value.clone().requires_grad_() for name, value in meta.named().items()}
    current = MetaParams.from_named(leaves)
    x, y, query_x, query_y = data()
    adapted = adapt(
        expand_to_tasks(current.params, TASKS),
        learner.step_sizes(current.step_sizes, current.params, learner.inner_steps),
        squared_error,
        [(x, y)] * learner.inner_steps,
        first_order=learner.first_order,
    )
    losses = squared_error(adapted, (query_x, query_y))
    loss = losses.mean()
    expected = torch.autograd.grad(loss, list(leaves.values()))
    outcome = MetaGradient(learner, squared_error)(meta, data())
    assert_close(outcome.loss, loss.detach(), **EXACT)
    assert_close(outcome.losses, losses.detach(), **EXACT)
    gradient = meta.like(outcome.gradient).named()
    assert_close(list(gradient.values()), list(expected), **EXACT)
    assert all(float(value.abs().max()) > 0 for value in gradient.values())


@each_learner
@pytest.mark.parametrize("chunk", [1, 3])
def test_chunks_add_up(learner: MAML | MetaSGD, chunk: int) -> None:
    meta = meta_params(learner)
    whole = MetaGradient(learner, squared_error, chunk=TASKS)(meta, data())
    parts = MetaGradient(learner, squared_error, chunk=chunk)(meta, data())
    assert_close((parts.loss, parts.gradient), (whole.loss, whole.gradient), **EXACT)
    assert_close(parts.losses, whole.losses, **EXACT)


def test_the_meta_parameters_are_not_touched() -> None:
    meta = meta_params(MetaSGD())
    before = {name: value.clone() for name, value in meta.named().items()}
    MetaGradient(MetaSGD(), squared_error)(meta, data())
    assert_close(meta.named(), before, rtol=0, atol=0)
    assert not any(value.requires_grad for value in meta.named().values())


# torch's compiler uses parts of torch that torch deprecates.
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.skipif(not has_compiler(torch.device("cpu")), reason="no C++ compiler")
def test_compiled_it_is_the_same() -> None:
    learner = MetaSGD()
    meta = meta_params(learner)
    ours = MetaGradient(learner, squared_error, compiled=True)(meta, data())
    expected = MetaGradient(learner, squared_error)(meta, data())
    # Fused loops add in another order: rounding of double precision, a few hundred terms.
    assert_close(ours.loss, expected.loss, rtol=1e-12, atol=0)
    assert_close(ours.losses, expected.losses, rtol=1e-12, atol=0)
    assert_close(ours.gradient, expected.gradient, rtol=1e-10, atol=1e-13)


def test_it_is_compiled_once_for_each_shape_that_occurs(monkeypatch: pytest.MonkeyPatch) -> None:
    traced = []

    def trace(function: TensorFunction, example: Sequence[Tensor]) -> TensorFunction:
        traced.append([tuple(part.shape[:2]) for part in example[-4:]])
        return make_fx(function)(*example)

    monkeypatch.setattr("mtrl.meta.compiled.compile_traced", trace)
    learner = MetaSGD(inner_steps=2)
    meta = meta_params(learner)
    compiled = MetaGradient(learner, squared_error, chunk=4, compiled=True)
    eager = MetaGradient(learner, squared_error, chunk=4)
    for batch in (data(8), data(6), data(4, query_shots=2), data(8)):
        ours, expected = compiled(meta, batch), eager(meta, batch)
        assert_close((ours.loss, ours.gradient), (expected.loss, expected.gradient), **EXACT)
    shapes = [((tasks, 5), (tasks, query)) for tasks, query in ((4, 6), (2, 6), (4, 2))]
    assert traced == [[support, support, query, query] for support, query in shapes]


def test_on_cuda_kernels_become_a_graph_whose_results_outlive_the_next_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: dict[str, object] = {}
    place = torch.zeros(3, 3)

    def compile_as_graph(graph: TensorFunction, **how: object) -> TensorFunction:
        asked.update(how)

        def replay(*arguments: Tensor) -> list[Tensor]:
            # What a CUDA graph does: one place for the results of all calls.
            return [place.add_(1)]

        return replay

    monkeypatch.setattr(torch, "compile", compile_as_graph)
    with FakeTensorMode():
        # Of a GPU that need not be there.
        example = [torch.empty(3, 3, device="cuda")]
        compiled = compile_traced(lambda x: [x @ x], example)
    (first,), (second,) = compiled(), compiled()
    assert asked["mode"] == "reduce-overhead"
    assert_close((first, second), (torch.ones(3, 3), torch.full((3, 3), 2.0)), rtol=0, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@each_learner
def test_compiled_on_a_gpu_it_is_the_same(learner: MAML | MetaSGD) -> None:
    meta = meta_params(learner)
    there = MetaParams.from_named({name: value.cuda() for name, value in meta.named().items()})
    compiled = MetaGradient(learner, squared_error, chunk=3, compiled=True)
    for query_shots in (6, 6, 4, 6):
        given = data(query_shots=query_shots)
        expected = MetaGradient(learner, squared_error)(meta, given)
        ours = compiled(there, [part.cuda() for part in given])
        assert_close(ours.losses.cpu(), expected.losses, rtol=1e-12, atol=0)
        assert_close(ours.gradient.cpu(), expected.gradient, rtol=1e-10, atol=1e-13)


def test_without_a_compiler_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert not has_compiler(torch.device("cpu"))
    with pytest.raises(UsageError, match=r"install g\+\+ or clang\+\+, or set compile to off"):
        compile_traced(lambda x: [x], [torch.ones(1)])


class Mallinfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def allocated_bytes() -> int:
    """Return what is allocated: a long process has freed room that its resident size would hide growth in."""
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = Mallinfo
    info = mallinfo()
    return int(info.uordblks + info.hblkhd)


linux = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33")


@linux
def test_a_thousand_meta_iterations_do_not_grow_the_memory() -> None:
    learner = MetaSGD()
    params = NETWORK.initial(generator())
    meta = MetaParams(params, learner.initial_step_sizes(params, generator()))
    batch = tuple(part.float() for part in data())
    gradient, update = MetaGradient(learner, squared_error, chunk=4), AdamUpdate(meta)

    def iterate(count: int) -> None:
        for _ in range(count):
            update.step(gradient(meta, batch).gradient, 1e-3)

    iterate(200)
    before = allocated_bytes()
    iterate(1000)
    # A graph kept per iteration would be some 20 kB, 20 MB in all; the allocator's own slack is less.
    assert allocated_bytes() - before < 4 * 2**20


@linux
def test_the_memory_test_would_notice_a_graph_kept_per_iteration() -> None:
    learner = MetaSGD()
    meta = meta_params(learner)
    support, kept, before = points(TASKS), [], allocated_bytes()
    for _ in range(1000):
        leaves = {n: v.clone().requires_grad_() for n, v in meta.params.items()}
        start = expand_to_tasks(leaves, TASKS)
        (alpha,) = learner.step_sizes(meta.step_sizes, meta.params, 1)
        kept.append(adapt(start, [alpha], squared_error, [support]))
    assert allocated_bytes() - before > 4 * 2**20
