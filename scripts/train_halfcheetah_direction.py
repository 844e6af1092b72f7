"""Meta-train a half-cheetah that learns from a few episodes whether to run forward or backward.

    python scripts/train_halfcheetah_direction.py --dir runs/halfcheetah-direction
    python scripts/train_halfcheetah_direction.py --dir runs/maml learner:maml

Options: those of `mtrl train rl`. This is that command and `mtrl evaluate` in one. There are two tasks,
in training and in the test. Episodes have 100 steps, and advantages look about 20 steps ahead: velocity
pays at once, and what comes later is noise to the action.
"""

import sys

from mtrl.commands.experiment import experiment
from mtrl.meta.meta_sgd import MetaSGD
from mtrl.meta.objectives import AdvantageSettings
from mtrl.meta.outer import TRPO
from mtrl.meta.reinforcement import ReinforcementConfig

CONFIG = ReinforcementConfig(
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

if __name__ == "__main__":
    sys.exit(experiment("rl", CONFIG))
