"""Our own meta-step and adaptation on a problem."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from mtrl.benchmarks.adaptation.problem import Problem
from mtrl.meta.few_shot import FewShotPredictor
from mtrl.meta.gradient import MetaGradient
from mtrl.meta.inner import adapt
from mtrl.meta.outer import AdamUpdate

__all__ = ["adapting", "gradient_of", "inner_only", "meta_step", "sampling"]

Step = Callable[[], Any]


def meta_step(problem: Problem, compiled: bool, chunk: int | None = None) -> Step:
    """Return a meta-step: gradient and Adam; with so many tasks at once, or as many as its measured memory allows."""
    how, meta, points = problem.how, problem.start(), problem.points()
    gradient = MetaGradient(how.learner, how.loss, chunk=chunk, compiled=compiled)
    update = AdamUpdate(meta)
    return lambda: update.step(gradient(meta, points).gradient, problem.learning_rate)


def gradient_of(problem: Problem, compiled: bool) -> Mapping[str, Tensor]:
    """Return the meta-gradient by name, parameters first."""
    how = problem.how
    gradient = MetaGradient(how.learner, how.loss, compiled=compiled)
    meta = problem.start()
    return meta.like(gradient(meta, problem.points()).gradient).named()


def adapting(problem: Problem, tasks: int, compiled: bool) -> Step:
    """Return adaptation to the first `tasks` tasks and the prediction of their query points, without derivatives."""
    steps = problem.inner_steps
    predict = FewShotPredictor(problem.how, problem.start(), steps=steps, compiled=compiled)
    x, y, query_x, _ = (part[:tasks] for part in problem.points())
    return lambda: predict((x, y), query_x)


def inner_only(problem: Problem) -> Step:
    """Return the adaptation that a meta-step differentiates through, with its graph, and no more."""
    how, meta, points = problem.how, problem.start(), problem.points()
    leaves = {name: value.detach().requires_grad_() for name, value in meta.named().items()}
    tracked = meta.from_named(leaves)
    support = (points[0], points[1])

    def step() -> Any:
        learner = how.learner
        sizes = learner.step_sizes(tracked.step_sizes, tracked.params, problem.inner_steps)
        start = learner.start(tracked.params, problem.tasks)
        supports = [support] * problem.inner_steps
        return adapt(start, sizes, how.loss, supports, first_order=learner.first_order)

    return step


def sampling(problem: Problem) -> Step:
    """Return the drawing of a meta-batch's tasks and points."""
    return problem.points
