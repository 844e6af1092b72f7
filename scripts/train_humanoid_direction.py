"""Meta-train a humanoid that learns from a few episodes in which direction to walk.

    python scripts/train_humanoid_direction.py --dir runs/humanoid-direction
    python scripts/train_humanoid_direction.py --dir runs/anywhere --preset any-direction

Options: those of `mtrl train rl`. This is that command and `mtrl evaluate` in one.
"""

import sys

from mtrl.commands.experiment import experiment
from mtrl.meta.reinforcement import ReinforcementConfig

CONFIG = ReinforcementConfig(
    family="humanoid-direction",
    hidden=(100, 100),
    tasks_per_batch=20,
    episodes_per_task=20,
    iterations=200,
    test_steps=1,
)

if __name__ == "__main__":
    sys.exit(experiment("rl", CONFIG))
