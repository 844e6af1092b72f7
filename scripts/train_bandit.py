"""Meta-train a policy on bandits, and see how near to the best arm each step of adaptation comes.

    python scripts/train_bandit.py --dir runs/bandit
    python scripts/train_bandit.py --dir runs/bandit-10-arms --preset 10-arms

Options: those of `mtrl train rl`. This is that command and `mtrl evaluate` in one.
"""

import sys

from mtrl.commands.experiment import experiment
from mtrl.meta.meta_sgd import MetaSGD
from mtrl.meta.outer import TRPO
from mtrl.meta.reinforcement import ReinforcementConfig

CONFIG = ReinforcementConfig(
    family="bandit",
    learner=MetaSGD(initial_step_size=(0.5, 0.5)),
    hidden=(16,),
    activation="tanh",
    outer=TRPO(curvature_fraction=1.0),
    tasks_per_batch=40,
    episodes_per_task=5,
    iterations=100,
    test_steps=3,
)

if __name__ == "__main__":
    sys.exit(experiment("rl", CONFIG))
