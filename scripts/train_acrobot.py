"""Meta-train a policy that swings up acrobots, and see how it adapts to unseen masses.

    python scripts/train_acrobot.py --dir runs/acrobot
    python scripts/train_acrobot.py --dir runs/acrobot-wide --preset wide --iterations 200

Options: those of `mtrl train rl`. This is that command and `mtrl evaluate` in one.
"""

import sys

from mtrl.commands.experiment import experiment
from mtrl.meta.meta_sgd import MetaSGD
from mtrl.meta.outer import TRPO
from mtrl.meta.reinforcement import ReinforcementConfig

CONFIG = ReinforcementConfig(
    family="acrobot",
    preset="extrapolation",
    learner=MetaSGD(initial_step_size=(0.5, 0.5)),
    hidden=(32, 32),
    activation="tanh",
    outer=TRPO(curvature_fraction=1.0),
    tasks_per_batch=10,
    episodes_per_task=20,
    iterations=50,
)

if __name__ == "__main__":
    sys.exit(experiment("rl", CONFIG))
