"""Interquartile mean, intervals, profiles and chances of improvement are rliable's, on the same scores.

rliable takes a seed and ignores it, so that its bounds differ from call to call; they are compared up to what many
resamples leave to chance. It runs in an environment of its own: `python scripts/install_peers.py rliable`.
"""

import json
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from mtrl.evaluation.statistics import (
    Interval,
    iqm,
    performance_profile,
    probability_of_improvement,
    stratified_interval,
)

FOLDER = Path(__file__).resolve().parent.parent / ".peers" / "rliable"
RUNS, TASKS, RESAMPLES = 8, 6, 3_000
THRESHOLDS = [-1.0, 0.0, 0.5, 1.0, 2.0]

pytestmark = pytest.mark.skipif(
    # Written last: an environment that is half made has its Python.
    not (FOLDER / "installed.txt").exists(),
    reason="rliable is not there: python scripts/install_peers.py rliable",
)

THEIRS = """
import json, sys
import numpy as np
from rliable import library, metrics
given = json.load(sys.stdin)
x, y = (np.array(given[name]) for name in "xy")
thresholds, reps = np.array(given["thresholds"]), given["resamples"]
aggregate = lambda scores: np.array([metrics.aggregate_iqm(scores), metrics.aggregate_mean(scores)])
points, bounds = library.get_interval_estimates({"x": x}, aggregate, reps=reps)
chance, chances = library.get_interval_estimates(
    {"x,y": (x, y)}, metrics.probability_of_improvement, reps=reps
)
profile, profiles = library.create_performance_profile({"x": x}, thresholds, reps=reps)
found = {
    "aggregates": points["x"], "bounds": bounds["x"],
    "chance": chance["x,y"], "chances": chances["x,y"],
    "profile": profile["x"], "profiles": profiles["x"],
}
print(json.dumps({name: np.asarray(value).tolist() for name, value in found.items()}))
"""


def scores() -> tuple[np.ndarray, np.ndarray]:
    """Return scores of two learners whose tasks differ in height and spread, with ties among them."""
    rng = np.random.default_rng(7)
    height, spread = np.linspace(-1, 2, TASKS), np.linspace(0.2, 1.5, TASKS)
    x, y = height + spread * rng.standard_t(3, size=(2, RUNS, TASKS))
    return x, np.where(rng.random(y.shape) < 0.2, x, y - 0.3)


@cache
def theirs() -> dict[str, Any]:
    x, y = scores()
    given = {"x": x.tolist(), "y": y.tolist(), "thresholds": THRESHOLDS, "resamples": RESAMPLES}
    done = subprocess.run(
        [FOLDER / "bin" / "python", "-W", "ignore", "-c", THEIRS],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def assert_same_bounds(ours: Interval, bounds: Any) -> None:
    """Compare bounds up to a twelfth of the interval, nearly five deviations of two quantiles of so many resamples."""
    low, high = np.ravel(bounds)
    assert_allclose([ours.low, ours.high], [low, high], rtol=0, atol=(high - low) / 12)


def test_the_interquartile_mean_and_its_interval_are_rliables() -> None:
    x, _ = scores()
    found = theirs()
    assert_allclose(iqm(x), found["aggregates"][0], rtol=1e-12)
    ours = stratified_interval(x, rng(), resamples=RESAMPLES)
    assert_same_bounds(ours, np.array(found["bounds"])[:, 0])
    mean = stratified_interval(x, rng(), lambda s: s.mean((-2, -1)), resamples=RESAMPLES)
    assert_allclose(mean.estimate, found["aggregates"][1], rtol=1e-12)
    assert_same_bounds(mean, np.array(found["bounds"])[:, 1])


def test_the_chance_of_improvement_and_its_interval_are_rliables() -> None:
    x, y = scores()
    ours = probability_of_improvement(x, y, rng(), resamples=RESAMPLES)
    assert_allclose(ours.estimate, np.ravel(theirs()["chance"])[0], rtol=1e-12)
    assert_same_bounds(ours, theirs()["chances"])


def test_the_profile_and_its_bounds_are_rliables() -> None:
    x, _ = scores()
    ours = performance_profile(x, THRESHOLDS, rng(), resamples=RESAMPLES)
    assert_allclose(ours.share, theirs()["profile"], rtol=1e-12)
    # Shares move by a 48th at a time.
    assert_allclose([ours.low, ours.high], theirs()["profiles"], rtol=0, atol=1.01 / 48)
