"""Meta-train a policy that swings up pendulums, and see how it adapts to unseen lengths.

    python scripts/train_pendulum.py --dir runs/pendulum
    python scripts/train_pendulum.py --dir runs/pendulum-wide --preset wide --iterations 100

Options: those of `mtrl train rl`. This is that command and `mtrl evaluate` in one.
"""

import sys

from mtrl.commands.experiment import experiment
from mtrl.meta.meta_sgd import MetaSGD
from mtrl.meta.outer import TRPO
from mtrl.meta.reinforcement import ReinforcementConfig

CONFIG = ReinforcementConfig(
    family="pendulum",
    preset="extrapolation",
    learner=MetaSGD(initial_step_size=(0.5, 0.5)),
    hidden=(32, 32),
    activation="tanh",
    outer=TRPO(curvature_fraction=1.0),
    tasks_per_batch=10,
    episodes_per_task=20,
    iterations=30,
)

if __name__ == "__main__":
    sys.exit(experiment("rl", CONFIG))
