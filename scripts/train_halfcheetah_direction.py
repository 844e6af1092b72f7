"""Meta-train a half-cheetah that learns from a few episodes whether to run forward or backward.

    python scripts/train_halfcheetah_direction.py --dir runs/halfcheetah-direction
    python scripts/train_halfcheetah_direction.py --dir runs/maml learner:maml

Options: those of `mtrl train rl`. This is that command and `mtrl evaluate` in one. Network, episodes
and tasks per iteration are the MAML paper's; there are two tasks, in training and in the test.
"""

import sys

from mtrl.commands.experiment import experiment
from mtrl.meta.reinforcement import ReinforcementConfig

CONFIG = ReinforcementConfig(
    family="halfcheetah-direction",
    hidden=(100, 100),
    tasks_per_batch=40,
    episodes_per_task=20,
    iterations=200,
    test_steps=3,
)

if __name__ == "__main__":
    sys.exit(experiment("rl", CONFIG))
