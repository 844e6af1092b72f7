"""Train a recurrent policy on bandits with ten pulls, and see what it earns where it never was.

    python scripts/train_rl2_bandit.py --dir runs/rl2-bandit
    python scripts/train_rl2_bandit.py --dir runs/rl2-100-pulls --preset 5-arms

Options: those of `mtrl train recurrent`. This is that command and `mtrl evaluate` in one.
"""

import sys

from mtrl.commands.experiment import experiment
from mtrl.meta.recurrent.ppo import RL2
from mtrl.meta.recurrent.training import RecurrentConfig

CONFIG = RecurrentConfig(
    family="bandit",
    preset="5-arms-10-pulls",
    learner=RL2(units=48, learning_rate=3e-3, final_learning_rate=3e-4),
    tasks_per_batch=512,
    iterations=200,
)

if __name__ == "__main__":
    sys.exit(experiment("recurrent", CONFIG))
