"""Meta-train a policy for random decision processes, and see how near to the best it adapts.

    python scripts/train_tabular_mdp.py --dir runs/tabular_mdp
    python scripts/train_tabular_mdp.py --dir runs/tabular-mdp-maml learner:maml

Options: those of `mtrl train rl`. This is that command and `mtrl evaluate` in one.
"""

import sys

from mtrl.commands.experiment import experiment
from mtrl.meta.meta_sgd import MetaSGD
from mtrl.meta.outer import TRPO
from mtrl.meta.reinforcement import ReinforcementConfig

CONFIG = ReinforcementConfig(
    family="tabular-mdp",
    learner=MetaSGD(initial_step_size=(0.5, 0.5)),
    hidden=(32,),
    activation="tanh",
    outer=TRPO(curvature_fraction=1.0),
    tasks_per_batch=40,
    episodes_per_task=20,
    iterations=100,
    test_steps=3,
)

if __name__ == "__main__":
    sys.exit(experiment("rl", CONFIG))
