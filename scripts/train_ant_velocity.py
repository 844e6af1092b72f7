"""Meta-train an ant that learns from a few episodes how fast to run.

    python scripts/train_ant_velocity.py --dir runs/ant-velocity
    python scripts/train_ant_velocity.py --dir runs/faster --preset extrapolation

Options: those of `mtrl train rl`. This is that command and `mtrl evaluate` in one. Network,
episodes and horizon are the MAML paper's, with half of its tasks per iteration: an ant takes eight
times a half-cheetah's time.
"""

import sys

from mtrl.commands.experiment import experiment
from mtrl.meta.reinforcement import ReinforcementConfig

CONFIG = ReinforcementConfig(
    family="ant-velocity",
    hidden=(100, 100),
    tasks_per_batch=20,
    episodes_per_task=20,
    iterations=200,
    test_steps=3,
)

if __name__ == "__main__":
    sys.exit(experiment("rl", CONFIG))
