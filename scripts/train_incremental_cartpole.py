"""Train one policy on four cart-poles, one after another, and print what it kept and carried over.

    python scripts/train_incremental_cartpole.py --dir runs/incremental-cartpole
    python scripts/train_incremental_cartpole.py --dir runs/incremental-cartpole-ewc method:ewc --method.coefficient 20

The second and the last have the motor reversed. Options: those of `mtrl train incremental`. This is that
command and `mtrl evaluate` in one.
"""

import sys

from mtrl.agents.incremental import TaskSwitch
from mtrl.agents.networks import MLP, OneHot, Shared
from mtrl.commands.experiment import experiment
from mtrl.incremental.config import IncrementalConfig, ListedTask, NetworkSettings
from mtrl.multitask.algorithms import PPO

CONFIG = IncrementalConfig(
    families=("cartpole:wide",),
    tasks={
        "usual": ListedTask(family="cartpole"),
        "reversed": ListedTask(family="cartpole", params={"force_mag": -10.0}),
        "long": ListedTask(family="cartpole", params={"length": 1.0}),
        "long reversed": ListedTask(family="cartpole", params={"length": 1.0, "force_mag": -10.0}),
    },
    steps_per_task=40_000,
    switch=TaskSwitch(learning_rate="reset"),
    algorithm=PPO(learning_rate=1e-3, final_learning_rate=0.0, n_steps=64, ent_coef=0.01),
    network=NetworkSettings(
        trunk=MLP(hidden=(64, 64), activation="tanh"), conditioning=OneHot(), head=Shared()
    ),
)

if __name__ == "__main__":
    sys.exit(experiment("incremental", CONFIG))
