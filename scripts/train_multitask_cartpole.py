"""Train one policy on ten cart-poles, some with the motor reversed, and print its return on each.

    python scripts/train_multitask_cartpole.py --dir runs/multitask-cartpole
    python scripts/train_multitask_cartpole.py --dir runs/multitask-cartpole-dqn --tasks 5 --no-scale-rewards algorithm:dqn

Options: those of `mtrl train multitask`. This is that command and `mtrl evaluate` in one.
"""

import sys

from mtrl.agents.networks import MLP, NetworkConfig, OneHot
from mtrl.commands.experiment import experiment
from mtrl.multitask.algorithms import PPO
from mtrl.multitask.config import MultiTaskConfig

CONFIG = MultiTaskConfig(
    family="cartpole",
    preset="wide",
    tasks=10,
    envs_per_task=4,
    algorithm=PPO(
        learning_rate=1e-3,
        final_learning_rate=0.0,
        n_steps=32,
        batch_size=256,
        gae_lambda=0.9,
    ),
    network=NetworkConfig(trunk=MLP(hidden=(64, 64), activation="tanh"), conditioning=OneHot()),
    scale_rewards=True,
    total_steps=500_000,
    evaluate_every=50_000,
    checkpoint_every=50_000,
)

if __name__ == "__main__":
    sys.exit(experiment("multitask", CONFIG))
