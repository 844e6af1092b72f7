"""Train one policy on mountain cars with stronger and weaker engines, stage by stage; print each return.

    python scripts/train_curriculum_mountaincar.py --dir runs/curriculum-mountaincar
    python scripts/train_curriculum_mountaincar.py --dir runs/curriculum-mountaincar-box curriculum:alp-gmm --curriculum.lowest -200 --curriculum.highest 0

Options: those of `mtrl train multitask`. This is that command and `mtrl evaluate` in one.
"""

import sys

from mtrl.agents.networks import MLP, NetworkConfig, Shared
from mtrl.commands.experiment import experiment
from mtrl.curricula import Staged
from mtrl.multitask.algorithms import DQN
from mtrl.multitask.config import MultiTaskConfig

CONFIG = MultiTaskConfig(
    family="mountaincar",
    preset="default-physics",
    tasks=12,
    envs_per_task=1,
    curriculum=Staged(stages=4, by="force", falling=True, window=30, rehearsal=0.2),
    solved_at=-199.0,
    algorithm=DQN(
        learning_rate=1e-3,
        buffer_size=100_000,
        train_freq=4,
        gradient_steps=4,
        target_update_interval=600,
        exploration_final_eps=0.1,
    ),
    network=NetworkConfig(trunk=MLP(hidden=(128, 128)), head=Shared()),
    total_steps=300_000,
    evaluate_every=20_000,
    checkpoint_every=20_000,
)

if __name__ == "__main__":
    sys.exit(experiment("multitask", CONFIG))
