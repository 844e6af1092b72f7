"""Meta-train an ant that learns from a few episodes in which direction to run.

    python scripts/train_ant_direction.py --dir runs/ant-direction
    python scripts/train_ant_direction.py --dir runs/anywhere --preset any-direction

Options: those of `mtrl train rl`. This is that command and `mtrl evaluate` in one. The MAML paper
has 40 tasks per iteration and 40 episodes per task: `--tasks-per-batch 40 --episodes-per-task 40`.
"""

import sys

from mtrl.commands.experiment import experiment
from mtrl.meta.reinforcement import ReinforcementConfig

CONFIG = ReinforcementConfig(
    family="ant-direction",
    hidden=(100, 100),
    tasks_per_batch=20,
    episodes_per_task=20,
    iterations=200,
    test_steps=3,
)

if __name__ == "__main__":
    sys.exit(experiment("rl", CONFIG))
