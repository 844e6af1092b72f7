"""Meta-train a half-cheetah that learns from a few episodes how fast to run.

    python scripts/train_halfcheetah_velocity.py --dir runs/halfcheetah-velocity
    python scripts/train_halfcheetah_velocity.py --dir runs/faster --preset extrapolation

Options: those of `mtrl train rl`. This is that command and `mtrl evaluate` in one. Network,
episodes and horizon are the MAML paper's, with half of its tasks per iteration.
"""

import sys

from mtrl.commands.experiment import experiment
from mtrl.meta.reinforcement import ReinforcementConfig

CONFIG = ReinforcementConfig(
    family="halfcheetah-velocity",
    hidden=(100, 100),
    tasks_per_batch=20,
    episodes_per_task=20,
    iterations=200,
    test_steps=3,
)

if __name__ == "__main__":
    sys.exit(experiment("rl", CONFIG))
