"""Tables of our own: on families without a published one, does adaptation help on unseen tasks?

The same policy is tested twice on the same tasks and noise, adapted and as meta-training left it.
"""

from dataclasses import dataclass, replace

from mtrl.evaluation.trained import EvaluationSettings
from mtrl.meta.meta_sgd import MetaSGD
from mtrl.meta.objectives import AdvantageSettings
from mtrl.meta.outer import TRPO
from mtrl.meta.reinforcement import ReinforcementConfig
from mtrl.reproduce.experiment import Column, Experiment

__all__ = [
    "CARTPOLE",
    "HALFCHEETAH_DIRECTION",
    "HALFCHEETAH_VELOCITY",
    "PENDULUM",
    "cartpole",
    "halfcheetah_direction",
    "halfcheetah_velocity",
    "pendulum",
]

CARTPOLE = ReinforcementConfig(
    family="cartpole",
    preset="wide-extrapolation",
    learner=MetaSGD(initial_step_size=(0.5, 0.5)),
    hidden=(32, 32),
    activation="tanh",
    outer=TRPO(curvature_fraction=1.0),
    tasks_per_batch=10,
    episodes_per_task=20,
    iterations=40,
)
"""As `scripts/train_cartpole.py`."""

PENDULUM = replace(CARTPOLE, family="pendulum", preset="extrapolation", iterations=30)
"""As `scripts/train_pendulum.py`."""

HALFCHEETAH_DIRECTION = ReinforcementConfig(
    family="halfcheetah-direction",
    preset="pytorch-maml-rl",
    learner=MetaSGD(initial_step_size=(0.5, 0.5)),
    hidden=(64, 64),
    activation="tanh",
    initial_std=0.6,
    advantages=AdvantageSettings(discount=0.95, gae_lambda=0.9),
    outer_advantages=AdvantageSettings(discount=0.97, gae_lambda=0.95),
    outer=TRPO(max_kl=0.02, curvature_fraction=0.25),
    tasks_per_batch=20,
    episodes_per_task=20,
    iterations=200,
    test_tasks=10,
    test_steps=3,
)
"""As `scripts/train_halfcheetah_direction.py`."""

HALFCHEETAH_VELOCITY = replace(
    HALFCHEETAH_DIRECTION,
    family="halfcheetah-velocity",
    learner=MetaSGD(initial_step_size=(0.2, 0.2), unit=10.0),
    hidden=(32, 32),
    initial_std=0.5,
    test_tasks=20,
)
"""As `scripts/train_halfcheetah_velocity.py`."""

STEPS = 3


@dataclass(frozen=True, kw_only=True)
class Question:
    """Does adaptation help on unseen tasks of one family?

    Attributes:
        title: of the page.
        tasks: what differs between training and test tasks, in a sentence.
        config: the settings.
        choices: what is to be said of them, in sentences.
        seeds: trainings.
        test_tasks: unseen tasks.
    """

    title: str
    tasks: str
    config: ReinforcementConfig
    choices: tuple[str, ...]
    seeds: int = 3
    test_tasks: int = 200


CLASSIC_CONTROL_CHOICES = (
    (
        "The settings are those of the family's script in `scripts/`. They were chosen in runs with seed 0, "
        "some of them by looking at test tasks; every other seed of this page trains and tests afresh."
    ),
    "TRPO: KL radius 0.01, 10 conjugate-gradient iterations, all samples in the Fisher products.",
    "Advantages: the linear feature baseline fitted per task, scaled to one.",
)


def cartpole(quick: bool, seed: int) -> Experiment:
    """Return the table of cart-poles with shorter and longer poles."""
    question = Question(
        title="Meta-SGD on cart-poles beyond the training lengths",
        tasks=(
            "Pole, masses, motor and gravity vary, and some motors are reversed; test tasks have shorter and "
            "longer poles than any in training (preset `wide-extrapolation`)."
        ),
        config=CARTPOLE,
        choices=CLASSIC_CONTROL_CHOICES,
    )
    return compare(question, quick, seed)


def pendulum(quick: bool, seed: int) -> Experiment:
    """Return the table of pendulums outside the training ranges."""
    question = Question(
        title="Meta-SGD on pendulums beyond the training lengths",
        tasks=(
            "Mass, length and gravity vary; test tasks have shorter and longer pendulums than any in training "
            "(preset `extrapolation`)."
        ),
        config=PENDULUM,
        choices=CLASSIC_CONTROL_CHOICES,
    )
    return compare(question, quick, seed)


def halfcheetah_direction(quick: bool, seed: int) -> Experiment:
    """Return the table of half-cheetahs that run forward or backward, as Finn et al. 2017's table 5."""
    question = Question(
        title="Meta-SGD on half-cheetahs that run forward or backward",
        tasks=(
            "Two tasks, forward and backward: training and test tasks are the same by design, as in Finn et al. "
            "2017 (MAML), whose table 5 has -50.7 before adaptation and 293 / 313 / 316 after 1 / 2 / 3 steps, on "
            "another simulator's cheetah and episodes of 200 steps. Compare the shape, not the values."
        ),
        config=HALFCHEETAH_DIRECTION,
        choices=(
            "The settings are those of `scripts/train_halfcheetah_direction.py`, chosen in runs with seed 0.",
            (
                "Policy 17-64-64-6, tanh; standard deviation 0.6 at first. TRPO: KL radius 0.02, Fisher products "
                "on a quarter of the samples."
            ),
            (
                "Advantages scaled to one, on the linear feature baseline: discount 0.95 and λ = 0.9 in the inner "
                "loop, 0.97 and 0.95 in the outer one. With 0.99 and 1 the same network gained nothing in 50 "
                "meta-iterations at a step size of 0.1, and little at 0.5."
            ),
        ),
        seeds=1,
        test_tasks=40,
    )
    return compare(question, quick, seed)


def halfcheetah_velocity(quick: bool, seed: int) -> Experiment:
    """Return the table of half-cheetahs that run at a hidden velocity."""
    question = Question(
        title="Meta-SGD on half-cheetahs that run at a hidden velocity",
        tasks=(
            "The velocity is uniform in [0, 2] m/s; test tasks have velocities that no training task has (the task "
            "itself decides its split). Finn et al. 2017 show such curves (figure 5) without numbers."
        ),
        config=HALFCHEETAH_VELOCITY,
        choices=(
            "The settings are those of `scripts/train_halfcheetah_velocity.py`, chosen in runs with seed 0.",
            (
                "Policy 17-32-32-6, tanh; standard deviation 0.5 at first. TRPO: KL radius 0.02, Fisher products "
                "on a quarter of the samples. Step sizes start at 0.2 and are learned in units of 10."
            ),
            (
                "Advantages scaled to one, on the linear feature baseline: discount 0.95 and λ = 0.9 in the inner "
                "loop, 0.97 and 0.95 in the outer one. Tried before, with two layers of 64 units: step sizes from "
                "0.5 in units of 1, which gave -123 before and after adaptation at 120 meta-iterations; with a KL "
                "radius of 0.05, discounts of 0.9 and standard deviation 0.4, -131 before and -144 after at 80."
            ),
        ),
        seeds=1,
    )
    return compare(question, quick, seed)


def compare(question: Question, quick: bool, seed: int) -> Experiment:
    """Return the table that answers `question`, a row per training seed.

    Args:
        question: what to train, and on what it is tested.
        quick: scaled down.
        seed: decides the training seeds, and the test tasks.
    """
    config = question.config
    iterations, test_tasks = (2, 4) if quick else (config.iterations, question.test_tasks)
    settings = EvaluationSettings(tasks=test_tasks, steps=STEPS)
    seeds = [100 * seed + i for i in range(question.seeds)]
    name = config.learner.name
    return Experiment(
        title=question.title,
        score="return",
        better="higher",
        rows="training seed",
        trainings={
            str(each): {name: replace(config, seed=each, iterations=iterations)} for each in seeds
        },
        columns={f"{k} step{'s' * (k > 1)}": Column(settings=settings, steps=k) for k in (1, 2, 3)},
        target=name,
        against_unadapted=True,
        protocol=(
            question.tasks,
            (
                f"{iterations} meta-iterations of {config.tasks_per_batch} tasks, {config.episodes_per_task} "
                "episodes each before and after one inner step; outer update by TRPO on parameters and step sizes."
            ),
            (
                f"Tested on {test_tasks} tasks with {config.episodes_per_task} episodes per step; the same policy "
                "is tested on the same tasks and noise as meta-training left it."
            ),
        ),
        choices=question.choices,
        scaled_down=(
            f"{iterations} of {config.iterations} meta-iterations, {test_tasks} of "
            f"{question.test_tasks} test tasks."
        ),
    )
