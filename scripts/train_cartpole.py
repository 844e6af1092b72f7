"""Meta-train a policy that balances poles, and see how it adapts to lengths it has not seen.

    python scripts/train_cartpole.py --dir runs/cartpole
    python scripts/train_cartpole.py --dir runs/cartpole-wide --preset wide-extrapolation --iterations 40

Options: those of `mtrl train rl`. This is that command and `mtrl evaluate` in one.
"""

import sys

from mtrl.commands.experiment import experiment
from mtrl.meta.meta_sgd import MetaSGD
from mtrl.meta.reinforcement import ReinforcementConfig

CONFIG = ReinforcementConfig(
    family="cartpole",
    preset="extrapolation",
    learner=MetaSGD(initial_step_size=(0.5, 0.5)),
    hidden=(32, 32),
    activation="tanh",
    tasks_per_batch=10,
    episodes_per_task=20,
    iterations=8,
)

if __name__ == "__main__":
    sys.exit(experiment("rl", CONFIG))
