"""Do all compute the same? Asked on problems small enough to wait for, before anything is timed."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from mtrl.benchmarks.adaptation import navigation, pytorch_maml_rl
from mtrl.benchmarks.adaptation.ours import adapting, gradient_of
from mtrl.benchmarks.adaptation.problem import Problem
from mtrl.benchmarks.adaptation.processes import PeerProcess, find_peers
from mtrl.benchmarks.adaptation.settings import AdaptationSettings, problems_of
from mtrl.benchmarks.report import Agreement

__all__ = ["LOOP", "agreements", "difference"]

EXACT, SINGLE = 1e-10, 1e-4
SMALL_TASKS, SMALL_SIDE = 5, 28
LOOP = "loop over tasks (ours)"
Arrays = Sequence[NDArray[np.float64]]


def agreements(settings: AdaptationSettings) -> list[Agreement]:
    """Compare our meta-gradients, compiled ones too, predictions and TRPO steps with the peers'."""
    found = []
    small = {(p.work, p.learner, p.inner_steps): p for p in problems_of(settings)}
    for problem in small.values():
        found += _meta_gradients(problem, settings)
    return found + (_trust_region_steps(settings) if settings.navigation else [])


def difference(ours: Arrays, theirs: Arrays) -> float:
    """Return the largest difference of two gradients over the largest entry of the second."""
    largest = max(float(np.abs(each).max()) for each in theirs)
    pairs = zip(ours, theirs, strict=True)
    return max(float(np.abs(own - other).max()) for own, other in pairs) / largest


def _gradient(problem: Problem, compiled: bool) -> list[NDArray[np.float64]]:
    return [value.double().cpu().numpy() for value in gradient_of(problem, compiled).values()]


def _meta_gradients(problem: Problem, settings: AdaptationSettings) -> list[Agreement]:
    exact = replace(problem, tasks=SMALL_TASKS, side=SMALL_SIDE, precision="float64")
    ours = _gradient(exact, compiled=False)
    what = f"meta-gradients of {replace(exact, precision='float32').title}, mtrl and"
    found = []
    for library in find_peers(exact, settings.peer_names, settings.peer_folder):
        with PeerProcess(library, exact, settings.peer_folder) as peer:
            apart = difference(ours, peer.gradient())
            name = peer.name
        found.append(Agreement(what=f"{what} {name}, float64", difference=apart, tolerance=EXACT))
    if settings.compiles(problem):
        found += _compiled(exact, ours, what)
    return found


def _compiled(exact: Problem, gradient: Arrays, what: str) -> list[Agreement]:
    """Return how our compiled meta-gradient and predictions in float32 compare with ours of `exact`."""
    single = replace(exact, precision="float32")
    predictions = [
        [adapting(problem, problem.tasks, compiled)().double().cpu().numpy()]
        for problem, compiled in ((single, True), (exact, False))
    ]
    differences = {
        what: difference(_gradient(single, compiled=True), gradient),
        what.replace("meta-gradients", "predictions after adaptation"): difference(*predictions),
    }
    return [
        Agreement(what=f"{each} itself compiled, float32", difference=apart, tolerance=SINGLE)
        for each, apart in differences.items()
    ]


def _trust_region_steps(settings: AdaptationSettings) -> list[Agreement]:
    # Few iterations of conjugate gradients: ten amplify rounding a billion times.
    trpo = replace(navigation.Problem().trpo, cg_iterations=4)
    small = navigation.Problem(tasks=3, episodes=4, horizon=20, trpo=trpo)
    what = "TRPO steps on navigation, mtrl and"
    torch.set_num_threads(settings.threads)
    looped = navigation.disagreement(small)
    found = [Agreement(what=f"{what} {LOOP}, float64", difference=looped, tolerance=EXACT)]
    if settings.compiled:
        thin = replace(small, trpo=replace(trpo, curvature_fraction=0.5))
        found.append(
            Agreement(
                what=f"{what} mtrl, compiled, float32",
                difference=navigation.compiled_disagreement(thin),
                tolerance=SINGLE,
            )
        )
    if path := settings.pytorch_maml_rl:
        peer = pytorch_maml_rl.disagreement(path, small)
        name = f"{what} {pytorch_maml_rl.PEER}, float32"
        found.append(Agreement(what=name, difference=peer, tolerance=SINGLE))
    return found
