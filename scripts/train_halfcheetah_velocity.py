"""Meta-train a half-cheetah that learns from a few episodes how fast to run.

    python scripts/train_halfcheetah_velocity.py --dir runs/halfcheetah-velocity
    python scripts/train_halfcheetah_velocity.py --dir runs/faster --preset extrapolation

Options: those of `mtrl train rl`. This is that command and `mtrl evaluate` in one. Episodes have 100
steps. The outer update moves step sizes ten times as fast as parameters: large ones undo what they
should teach, until they are learned.
"""

import sys

from mtrl.commands.experiment import experiment
from mtrl.meta.meta_sgd import MetaSGD
from mtrl.meta.objectives import AdvantageSettings
from mtrl.meta.outer import TRPO
from mtrl.meta.reinforcement import ReinforcementConfig

CONFIG = ReinforcementConfig(
    family="halfcheetah-velocity",
    preset="pytorch-maml-rl",
    learner=MetaSGD(initial_step_size=(0.2, 0.2), unit=10.0),
    hidden=(32, 32),
    activation="tanh",
    initial_std=0.5,
    advantages=AdvantageSettings(discount=0.95, gae_lambda=0.9),
    outer_advantages=AdvantageSettings(discount=0.97, gae_lambda=0.95),
    outer=TRPO(max_kl=0.02, curvature_fraction=0.25),
    tasks_per_batch=20,
    episodes_per_task=20,
    iterations=200,
    test_tasks=20,
    test_steps=3,
)

if __name__ == "__main__":
    sys.exit(experiment("rl", CONFIG))
