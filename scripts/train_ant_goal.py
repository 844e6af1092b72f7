"""Meta-train an ant that learns from a few episodes where to go, and test it on unseen places.

    python scripts/train_ant_goal.py --dir runs/ant-goal
    python scripts/train_ant_goal.py --dir runs/further --preset extrapolation

Options: those of `mtrl train rl`. This is that command and `mtrl evaluate` in one. Network,
episodes and horizon are those of the MAML paper's other ants.
"""

import sys

from mtrl.commands.experiment import experiment
from mtrl.meta.reinforcement import ReinforcementConfig

CONFIG = ReinforcementConfig(
    family="ant-goal",
    hidden=(100, 100),
    tasks_per_batch=20,
    episodes_per_task=20,
    iterations=200,
    test_steps=3,
)

if __name__ == "__main__":
    sys.exit(experiment("rl", CONFIG))
