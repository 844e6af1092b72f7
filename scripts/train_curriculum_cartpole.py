"""Train one policy on ten cart-poles, those that it is learning most about more often; print each return.

    python scripts/train_curriculum_cartpole.py --dir runs/curriculum-cartpole
    python scripts/train_curriculum_cartpole.py --dir runs/curriculum-cartpole-replay curriculum:level-replay

Options: those of `mtrl train multitask`. This is that command and `mtrl evaluate` in one.
"""

import sys

from mtrl.agents.networks import MLP, NetworkConfig, OneHot
from mtrl.commands.experiment import experiment
from mtrl.curricula import LearningProgress
from mtrl.multitask.algorithms import PPO
from mtrl.multitask.config import MultiTaskConfig

CONFIG = MultiTaskConfig(
    family="cartpole",
    preset="wide",
    tasks=10,
    envs_per_task=4,
    curriculum=LearningProgress(window=40),
    solved_at=195.0,
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
