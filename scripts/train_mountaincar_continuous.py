"""Meta-train a policy that doses the force on a car in a valley; see how it adapts to new engines.

    python scripts/train_mountaincar_continuous.py --dir runs/mountaincar_continuous
    python scripts/train_mountaincar_continuous.py --dir runs/mountaincar-maml learner:maml

Options: those of `mtrl train rl`. This is that command and `mtrl evaluate` in one.
"""

import sys

from mtrl.commands.experiment import experiment
from mtrl.meta.outer import TRPO
from mtrl.meta.reinforcement import ReinforcementConfig

CONFIG = ReinforcementConfig(
    family="mountaincar-continuous",
    preset="extrapolation",
    hidden=(32, 32),
    activation="tanh",
    outer=TRPO(curvature_fraction=1.0),
    tasks_per_batch=10,
    episodes_per_task=10,
    iterations=50,
)

if __name__ == "__main__":
    sys.exit(experiment("rl", CONFIG))
