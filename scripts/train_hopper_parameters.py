"""Meta-train a hopper that adapts to another mass, damping, friction and gravity.

    python scripts/train_hopper_parameters.py --dir runs/hopper-parameters
    python scripts/train_hopper_parameters.py --dir runs/masses --preset extrapolation

Options: those of `mtrl train rl`. This is that command and `mtrl evaluate` in one.
"""

import sys

from mtrl.commands.experiment import experiment
from mtrl.meta.reinforcement import ReinforcementConfig

CONFIG = ReinforcementConfig(
    family="hopper-parameters",
    hidden=(100, 100),
    tasks_per_batch=20,
    episodes_per_task=20,
    iterations=200,
    test_steps=1,
)

if __name__ == "__main__":
    sys.exit(experiment("rl", CONFIG))
