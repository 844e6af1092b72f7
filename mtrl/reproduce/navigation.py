"""The two tables on 2-D navigation: Li et al. 2017's two starts, and Finn et al. 2017's 2-D point mass."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mtrl.evaluation.trained import EvaluationSettings
from mtrl.meta.maml import MAML
from mtrl.meta.meta_sgd import MetaSGD
from mtrl.meta.objectives import AdvantageSettings
from mtrl.meta.outer import TRPO
from mtrl.meta.reinforcement import ReinforcementConfig
from mtrl.reproduce.experiment import Column, Experiment
from mtrl.reproduce.published import MAML_NAVIGATION, META_SGD_NAVIGATION

__all__ = [
    "MAML_NAVIGATION_SETTINGS",
    "NAVIGATION_SETTINGS",
    "NavigationSize",
    "both_starts",
    "maml_navigation",
    "meta_sgd_navigation",
    "point_mass",
]

COMMON = ReinforcementConfig(
    family="navigation2d",
    family_options={"terminate_at_goal": True},
    hidden=(100, 100),
    activation="relu",
    initializer="fan-in",
    output_scale=0.1,
    initial_std=1.0,
    min_std=0.1,
    inner_objective="ratio",
    advantages=AdvantageSettings(
        discount=0.8, gae_lambda=0.5, standardize=False, bootstrap_horizon=True
    ),
    outer_advantages=AdvantageSettings(discount=0.95, gae_lambda=1.0, standardize=False),
    outer=TRPO(
        max_kl=0.1,
        final_max_kl=0.03,
        curvature_fraction=0.1,
        line_search_steps=10,
        backtrack=0.7,
    ),
    tasks_per_batch=20,
    episodes_per_task=20,
    average_last=10,
    evaluate_every=25,
    checkpoint_every=5,
)
"""What all learners on both tables have in common."""

BOTH_STARTS = replace(COMMON, min_std=0.3)
NAVIGATION_SETTINGS = {
    "MAML": replace(BOTH_STARTS, learner=MAML(step_size=1.0, later_step_scale=0.15)),
    "Meta-SGD": replace(
        BOTH_STARTS,
        learner=MetaSGD(
            initial_step_size=(0.3, 0.3),
            initial_by_prefix={"log_std": (20.0, 20.0)},
            unit=100.0,
            unit_by_prefix={"log_std": 1000.0},
            later_step_scale=0.003,
        ),
    ),
}
"""Li et al.'s table: settings by learner, but for the start.

The table has one step; the scale of later ones is for whoever takes more, as the demo does.
"""

NAVIGATION_CHOICES = (
    "Inner loss: probability ratio, whose Hessian has a lower variance than log-likelihood's.",
    (
        "Advantages in the inner loop: discount 0.8, GAE with λ = 0.5 on a linear feature baseline fitted "
        "per task, not scaled, so that the gradient shrinks as the goal comes near. In the outer update: "
        "discount 0.95, λ = 1, not scaled."
    ),
    (
        "TRPO: KL radius from 0.1 down to 0.03, 10 conjugate-gradient iterations, Fisher products on a "
        "tenth of the samples; gradient and line search on all."
    ),
    (
        "Step sizes: 1 for MAML. Meta-SGD's start at 0.3, and at 20 for the log standard deviation, so that "
        "adaptation itself ends the exploration; learned in units of 100 and 1000, in which the outer "
        "update moves them faster than the parameters."
    ),
    (
        "An episode ends when the goal is reached, as in the authors' code. Initialisation: uniform in "
        "±1/sqrt(inputs), the last layer a tenth of it; standard deviation 1."
    ),
    (
        "Tested are the meta-parameters averaged over the last ten meta-iterations; single ones differ "
        "in how many of the tasks their adapted policies run away on."
    ),
    (
        "The standard deviation is never below 0.3, for the same reason: policies that keep some noise are "
        "trained beyond the way to the goal, and fewer of them run away."
    ),
)
"""What Li et al. do not specify, as `NAVIGATION_SETTINGS` has it."""

MAML_NAVIGATION_SETTINGS = replace(
    COMMON,
    learner=MAML(
        step_size=1.0,
        step_size_by_prefix={"log_std": 120.0},
        later_step_scale=0.25,
        later_step_decay=0.3,
    ),
    test_steps=3,
)
"""Finn et al.'s table."""

MAML_NAVIGATION_CHOICES = (
    *NAVIGATION_CHOICES[:3],
    (
        "Step size 1, and 120 for the log standard deviation, so that adaptation itself ends the exploration; "
        "the paper has one for all parameters. The second step is a quarter of the first, the third 0.3 of the "
        "second, where the paper halves the first for both. Its 0.1 and 0.05 go with advantages scaled to one. "
        "Searched on training tasks by `scripts/search_navigation.py`; what was tried is in navigation-search.md."
    ),
    *NAVIGATION_CHOICES[4:6],
    "The standard deviation is never below 0.1.",
)
"""What Finn et al. do not specify, as `MAML_NAVIGATION_SETTINGS` has it."""

PRESETS = {"fixed start": "fixed-start", "varying start": "varying-start"}
TEST_STEPS = 3


@dataclass(frozen=True, kw_only=True)
class NavigationSize:
    """How much is done; the batch of one meta-iteration is small in tests only."""

    iterations: int
    test_tasks: int
    starts: Sequence[str] = tuple(PRESETS)
    tasks_per_batch: int = 20
    episodes: int = 20
    horizon: int = 100


def meta_sgd_navigation(quick: bool, seed: int) -> Experiment:
    """Return Li et al.'s table: average return after adaptation with fixed and varying start."""
    iterations, tasks = (5, 60) if quick else (100, 600)
    return both_starts(NavigationSize(iterations=iterations, test_tasks=tasks), seed)


def maml_navigation(quick: bool, seed: int) -> Experiment:
    """Return Finn et al.'s table: average return after 0 to 3 steps."""
    iterations, tasks = (10, 60) if quick else (300, 600)
    return point_mass(NavigationSize(iterations=iterations, test_tasks=tasks), seed)


def both_starts(size: NavigationSize, seed: int) -> Experiment:
    """Return Li et al.'s table at any size; see `meta_sgd_navigation`."""
    settings = EvaluationSettings(tasks=size.test_tasks, episodes=size.episodes, steps=1)
    return Experiment(
        title="Meta-SGD and MAML on 2-D navigation",
        paper="Li, Zhou, Chen and Li 2017, Meta-SGD (arXiv:1707.09835), quoted from reviews of it",
        score="return",
        better="higher",
        rows="environment",
        trainings={
            start: {
                name: _sized(config, start, size, seed)
                for name, config in NAVIGATION_SETTINGS.items()
            }
            for start in size.starts
        },
        columns={"1 step": Column(settings=settings, steps=1)},
        published=META_SGD_NAVIGATION,
        target="Meta-SGD",
        protocol=(
            _environment(size),
            "Start at the origin, or uniform in the goals' square.",
            (
                f"{size.iterations} meta-iterations of {size.tasks_per_batch} tasks, {size.episodes} "
                f"episodes each before and {size.episodes} after one inner step; outer update by TRPO, "
                "for Meta-SGD on parameters and step sizes together."
            ),
            _policy(),
            (
                f"Tested on {size.test_tasks} unseen tasks with {size.episodes} + {size.episodes} "
                "episodes; the score is the mean undiscounted return of the latter."
            ),
        ),
        choices=NAVIGATION_CHOICES,
        scaled_down=_scaled_down(size, 100),
    )


def point_mass(size: NavigationSize, seed: int) -> Experiment:
    """Return Finn et al.'s table at any size; see `maml_navigation`."""
    settings = EvaluationSettings(
        tasks=size.test_tasks, episodes=2 * size.episodes, steps=TEST_STEPS
    )
    config = _sized(MAML_NAVIGATION_SETTINGS, "fixed start", size, seed)
    return Experiment(
        title="MAML on 2-D navigation",
        paper="Finn, Abbeel and Levine 2017, MAML (arXiv:1703.03400), appendix, 2-D point mass",
        score="return",
        better="higher",
        rows="environment",
        trainings={"fixed start": {"MAML": config}},
        columns={
            name: Column(settings=settings, steps=steps)
            for steps, name in enumerate(("0 steps", "1 step", "2 steps", "3 steps"))
        },
        published=MAML_NAVIGATION,
        target="MAML",
        protocol=(
            _environment(size),
            (
                f"{size.iterations} meta-iterations (the paper: at most 500) of {size.tasks_per_batch} "
                f"tasks, {size.episodes} episodes each before and {size.episodes} after one inner step; "
                "outer update by TRPO."
            ),
            _policy(),
            (
                f"Tested on {size.test_tasks} unseen tasks with {2 * size.episodes} episodes per step; "
                "the step size is 0.25 of the first in the second step and 0.075 in the third."
            ),
        ),
        choices=MAML_NAVIGATION_CHOICES,
        scaled_down=_scaled_down(size, 300),
    )


def _sized(
    config: ReinforcementConfig, start: str, size: NavigationSize, seed: int
) -> ReinforcementConfig:
    return replace(
        config,
        preset=PRESETS[start],
        family_options=config.family_options | {"horizon": size.horizon},
        iterations=size.iterations,
        tasks_per_batch=size.tasks_per_batch,
        episodes_per_task=size.episodes,
        seed=seed,
    )


def _environment(size: NavigationSize) -> str:
    return (
        "A point in the plane moves by up to 0.1 per step and axis; the reward is minus the distance "
        f"to a hidden goal, uniform in [-0.5, 0.5]²; {size.horizon} steps at most."
    )


def _policy() -> str:
    return (
        "Gaussian policy 2-100-100-2 with ReLU for the mean; the log standard deviation of each "
        "action is a parameter, 0 at the start. It acts in [-1, 1], a tenth of which is the move."
    )


def _scaled_down(size: NavigationSize, full_iterations: int) -> str:
    return (
        f"{size.iterations} of {full_iterations} meta-iterations, {size.test_tasks} of 600 test "
        "tasks."
    )
