"""Meta-train a policy that dodges walls which close in, and test it on walls that it has not seen.

    python scripts/train_hexagon.py --dir runs/hexagon
    python scripts/train_hexagon.py --dir runs/hexagon-patterns --preset pattern --iterations 20

Options: those of `mtrl train rl`. This is that command and `mtrl evaluate` in one.
"""

import sys

from mtrl.commands.experiment import experiment
from mtrl.meta.meta_sgd import MetaSGD
from mtrl.meta.outer import TRPO
from mtrl.meta.reinforcement import ReinforcementConfig

CONFIG = ReinforcementConfig(
    family="hexagon",
    learner=MetaSGD(initial_step_size=(0.5, 0.5)),
    hidden=(32, 32),
    activation="tanh",
    outer=TRPO(curvature_fraction=1.0),
    tasks_per_batch=20,
    episodes_per_task=20,
    iterations=60,
)

if __name__ == "__main__":
    sys.exit(experiment("rl", CONFIG))
