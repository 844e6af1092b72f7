"""Train one policy on several half-cheetah tasks, and print its return on each.

    python scripts/train_multitask_halfcheetah.py --dir runs/multitask-velocity
    python scripts/train_multitask_halfcheetah.py --dir runs/multitask-direction \\
        --family halfcheetah-direction --tasks 2 --envs-per-task 16

The tasks are velocities to run at, or with the second command the two directions. Options: those of
`mtrl train multitask`. This is that command and `mtrl evaluate` in one. Episodes have 100 steps; the
preset "maml" has 200.
"""

import sys

from mtrl.agents.networks import MLP, NetworkConfig, OneHot
from mtrl.commands.experiment import experiment
from mtrl.multitask.algorithms import PPO
from mtrl.multitask.config import MultiTaskConfig

CONFIG = MultiTaskConfig(
    family="halfcheetah-velocity",
    preset="pytorch-maml-rl",
    tasks=8,
    envs_per_task=4,
    algorithm=PPO(final_learning_rate=0.0, n_steps=256, batch_size=512),
    network=NetworkConfig(trunk=MLP(hidden=(128, 128), activation="tanh"), conditioning=OneHot()),
    scale_rewards=True,
    total_steps=1_000_000,
    log_every=8192,
    evaluate_every=100_000,
    checkpoint_every=100_000,
)

if __name__ == "__main__":
    sys.exit(experiment("multitask", CONFIG))
