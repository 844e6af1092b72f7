"""Train a recurrent policy that searches for a hidden goal and remembers where it was.

    python scripts/train_rl2_navigation2d.py --dir runs/rl2-navigation2d

Options: those of `mtrl train recurrent`. This is that command and `mtrl evaluate` in one.
"""

import sys

from mtrl.commands.experiment import experiment
from mtrl.meta.recurrent.ppo import RL2
from mtrl.meta.recurrent.training import RecurrentConfig

CONFIG = RecurrentConfig(
    family="navigation2d",
    learner=RL2(initial_std=0.5, min_std=0.05, final_learning_rate=1e-4),
    tasks_per_batch=128,
    episodes_per_trial=3,
    iterations=300,
)

if __name__ == "__main__":
    sys.exit(experiment("recurrent", CONFIG))
