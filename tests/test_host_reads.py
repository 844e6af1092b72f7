"""A whole meta-iteration looks at no value on the way: on an accelerator the host would have to wait for it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from mtrl.envs.actions import ScaledActions
from mtrl.envs.curricula import TeacherStudent
from mtrl.envs.navigation2d import Navigation2D
from mtrl.envs.sinusoid import Sinusoid
from mtrl.meta import outer
from mtrl.meta.anil import ANIL
from mtrl.meta.cavia import CAVIA
from mtrl.meta.distributed import Processes
from mtrl.meta.few_shot import FewShotAdaptation
from mtrl.meta.gradient import MetaGradient
from mtrl.meta.maml import MAML, MetaLearner
from mtrl.meta.meta_sgd import MetaSGD
from mtrl.meta.objectives import AdvantageSettings, PolicyBatch, policy_batch
from mtrl.meta.outer import TRPO, AdamUpdate, trust_region_step
from mtrl.meta.policy_adaptation import GradientAdaptation
from mtrl.meta.proximal import PROMP, ProximalUpdate
from mtrl.meta.reptile import Reptile, ReptileGradient
from mtrl.meta.task_source import ChosenTasks
from mtrl.meta.trust_region import PolicyUpdate, TrustRegionUpdate
from mtrl.nets import MLP
from mtrl.policies import GaussianPolicy
from mtrl.rollouts import collect

# torch scripts its own decompositions when the first derivative by a direction is taken.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

READS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique")
METHODS = ("cpu", "numpy", "tolist", "item")


class HostReadError(AssertionError):
    """A value was looked at."""


class Guard(TorchDispatchMode):
    """Refuses the operations that hand a value to the host, or whose shape depends on one."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.name().partition("::")[2].partition(".")[0]
        # Indexing by a mask counts the mask's entries.
        masked = name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        if name.startswith(READS) or masked:
            raise HostReadError(f"{name} is read by the host")
        return func(*args, **(kwargs or {}))


@contextmanager
def no_host_reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail on any look at a value, also by the methods that do not reach the dispatcher on a CPU."""

    def refusing(name: str) -> Callable[..., Any]:
        def refuse(*arguments: Any) -> Any:
            raise HostReadError(f"Tensor.{name} is read by the host")

        return refuse

    with monkeypatch.context() as patched, Guard():
        for name in METHODS:
            patched.setattr(Tensor, name, refusing(name))
        yield


LOOKS: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda x: x[0].item(),
    "bool": lambda x: bool(x[0] > 0),
    "float": lambda x: float(x[0]),
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(),
    "cpu": lambda x: x.cpu(),
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 0],
    "any": lambda x: (x > 0).any() or None,
}


@pytest.mark.parametrize("look", LOOKS)
def test_the_guard_sees_every_way_to_look(look: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.arange(3.0)
    with pytest.raises(HostReadError), no_host_reads(monkeypatch):
        LOOKS[look](x)
    with no_host_reads(monkeypatch):
        assert (x * 2 + x[None, :1]).sum().shape == ()


# Supervised


@pytest.mark.parametrize(
    "learner",
    [MetaSGD(inner_steps=2), MAML(), MAML(first_order=True), ANIL(), CAVIA(), Reptile()],
    ids=lambda learner: learner.name,
)
def test_a_supervised_iteration_looks_at_nothing(
    learner: MetaLearner, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = learner.context_size if isinstance(learner, CAVIA) else 0
    how, family = FewShotAdaptation(MLP((1, 8, 1), context=context), learner), Sinusoid()
    meta, generator = how.initial(torch.Generator().manual_seed(0)), torch.Generator()
    gradient_of = ReptileGradient if isinstance(learner, Reptile) else MetaGradient
    gradient, update = gradient_of(learner, how.loss, chunk=2), AdamUpdate(meta)
    before = meta.flat().clone()
    with no_host_reads(monkeypatch):
        for _ in range(2):
            params = family.sample_params(5, np.random.default_rng(0), "train")
            support, query = family.draw(params, 4, 4, generator)
            update.step(gradient(meta, (*support, *query)).gradient, 1e-3)
    assert (meta.flat() != before).any()


def test_a_curriculum_looks_between_iterations_only(monkeypatch: pytest.MonkeyPatch) -> None:
    family, learner = Sinusoid(), MAML()
    tasks = family.sample(6, np.random.default_rng(0), "train")
    curriculum = TeacherStudent(tasks, np.random.default_rng(1))
    chosen = ChosenTasks(curriculum, None, errors=True)
    how, generator = FewShotAdaptation(MLP((1, 8, 1)), learner), torch.Generator()
    meta = how.initial(torch.Generator().manual_seed(0))
    gradient, update = MetaGradient(learner, how.loss, chunk=2), AdamUpdate(meta)
    processes = Processes()
    for _ in range(2):
        with no_host_reads(monkeypatch):
            support, query = family.draw(chosen.sample(5), 4, 4, generator)
            found = gradient(meta, (*support, *query))
            errors = processes.placed(found.losses, 5)[:, None]
            update.step(found.gradient, 1e-3)
        before = curriculum.estimates
        with pytest.raises(HostReadError), no_host_reads(monkeypatch):
            chosen.credit(errors)
        chosen.credit(errors)
        assert (curriculum.estimates != before).any()


# Reinforcement learning


class Iteration:
    """Episodes of navigation before and after adaptation, then an outer update."""

    def __init__(self, learner: MetaLearner, kind: TRPO | PROMP) -> None:
        family = Navigation2D(horizon=40, terminate_at_goal=True)
        self.how = GradientAdaptation(GaussianPolicy(2, 2, (8,)), learner, "ratio")
        self.meta = self.how.initial(torch.Generator().manual_seed(0))
        self.update: PolicyUpdate = (
            TrustRegionUpdate(self.how, self.meta, kind)
            if isinstance(kind, TRPO)
            else ProximalUpdate(self.how, self.meta, kind, {})
        )
        tasks = family.sample(3, np.random.default_rng(0), "train")
        self.env = ScaledActions(family.batch(tasks, repeats=4), family.action_space, "cpu")
        self.generator = torch.Generator().manual_seed(1)

    def __call__(self) -> dict[str, float | Tensor]:
        supports: list[PolicyBatch] = []
        params = self.how.learner.start(self.meta.params, 3)
        for _ in range(self.how.learner.inner_steps):
            supports.append(self._episodes(params))
            params = self.how.adapt(self.meta, supports)
        self.meta, measured = self.update.step(supports, self._episodes(params), 0.0)
        return measured

    def _episodes(self, params: dict[str, Tensor]) -> PolicyBatch:
        rollout = collect(self.env, self.how.policy, params, shape=(3, 4), generator=self.generator)
        return policy_batch(rollout, AdvantageSettings())


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the code believe that its tensors are on an accelerator."""
    for module in ("mtrl.rollouts", "mtrl.meta.outer", "mtrl.meta.trust_region"):
        monkeypatch.setattr(f"{module}.reads_are_free", lambda device: False)


@pytest.mark.parametrize(
    "learner", [MetaSGD(inner_steps=2), MAML(step_size=0.5)], ids=lambda learner: learner.name
)
@pytest.mark.parametrize(
    "kind", [TRPO(), TRPO(curvature_fraction=1.0), PROMP()], ids=["thin TRPO", "TRPO", "ProMP"]
)
def test_a_reinforcement_learning_iteration_looks_at_nothing(
    learner: MetaLearner, kind: TRPO | PROMP, monkeypatch: pytest.MonkeyPatch, elsewhere: None
) -> None:
    iteration = Iteration(learner, kind)
    before = iteration.meta.flat().clone()
    with no_host_reads(monkeypatch):
        measured = iteration()
    assert (iteration.meta.flat() != before).any()
    assert all(isinstance(value, Tensor) for value in measured.values())
    assert float(measured["outer/improvement"]) > 0


def test_on_a_cpu_it_looks_where_that_saves_work(monkeypatch: pytest.MonkeyPatch) -> None:
    iteration = Iteration(MAML(), TRPO())
    with pytest.raises(HostReadError), no_host_reads(monkeypatch):
        iteration()


def test_looking_and_not_looking_give_the_same_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    looking, blind = (Iteration(MetaSGD(), TRPO(curvature_fraction=1.0)) for _ in range(2))
    seen = looking()
    with monkeypatch.context() as patched:
        patched.setattr("mtrl.rollouts.reads_are_free", lambda device: False)
        patched.setattr("mtrl.meta.outer.reads_are_free", lambda device: False)
        patched.setattr("mtrl.meta.trust_region.reads_are_free", lambda device: False)
        unseen = blind()
    assert_close(blind.meta.flat(), looking.meta.flat(), rtol=0, atol=0)
    # The share of the step is a number of the host's own in one, in single precision in the other.
    assert {k: float(v) for k, v in unseen.items()} == pytest.approx(seen, rel=1e-6)


# The line search


def searched(blind: bool, curvature: float, radius: float, monkeypatch: Any) -> Any:
    """Minimise sum(x^4) from ones, with a made-up curvature; the KL is the squared distance."""
    with monkeypatch.context() as patched:
        patched.setattr(outer, "reads_are_free", lambda device: not blind)
        point = torch.ones(2, dtype=torch.float64)
        return trust_region_step(
            point,
            (point.pow(4).sum(), 4 * point.pow(3)),
            lambda vector: curvature * vector,
            lambda x: (x.pow(4).sum(), (x - point).square().sum()),
            TRPO(max_kl=radius, damping=0.0),
        )


@pytest.mark.parametrize(
    ("curvature", "radius"),
    [(1.0, 0.1), (0.05, 0.1), (1.0, 30.0), (1e-9, 1e-9), (-1.0, 0.1), (float("nan"), 0.1)],
)
def test_both_searches_take_the_same_step(
    curvature: float, radius: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, unseen = (searched(blind, curvature, radius, monkeypatch) for blind in (False, True))
    assert_close(unseen.point, seen.point, rtol=0, atol=0)
    for name in ("improvement", "kl", "fraction"):
        assert float(getattr(unseen, name)) == float(getattr(seen, name))
    assert (float(seen.fraction) > 0) is bool(curvature > 0 and float(seen.kl) > 0)
