"""Meta-train a policy that drives out of valleys, and see how it adapts to unseen gravity.

    python scripts/train_mountaincar.py --dir runs/mountaincar
    python scripts/train_mountaincar.py --dir runs/mountaincar-maml learner:maml

Options: those of `mtrl train rl`. This is that command and `mtrl evaluate` in one.
"""

import sys

from mtrl.commands.experiment import experiment
from mtrl.meta.outer import TRPO
from mtrl.meta.reinforcement import ReinforcementConfig

CONFIG = ReinforcementConfig(
    family="mountaincar",
    preset="extrapolation",
    hidden=(32, 32),
    activation="tanh",
    outer=TRPO(curvature_fraction=1.0),
    tasks_per_batch=10,
    episodes_per_task=10,
    iterations=100,
)

if __name__ == "__main__":
    sys.exit(experiment("rl", CONFIG))
