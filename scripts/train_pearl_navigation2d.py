"""Meta-train PEARL to find a hidden goal by guessing it, and see how its guesses get better.

    python scripts/train_pearl_navigation2d.py --dir runs/pearl
    python scripts/train_pearl_navigation2d.py --dir runs/sparing --tasks 160 --learner.latent 8

The options are those of `mtrl train pearl`; this script is that command and `mtrl evaluate` in one,
and a place to start an experiment of your own.
"""

import sys

from mtrl.commands.experiment import experiment
from mtrl.meta.pearl.config import PearlConfig

CONFIG = PearlConfig(
    family="navigation2d",
    family_options={"horizon": 20},
    tasks=80,
    tasks_per_collection=20,
    initial_episodes=5,
    prior_episodes=2,
    posterior_episodes=2,
    iterations=60,
    test_steps=4,
)

if __name__ == "__main__":
    sys.exit(experiment("pearl", CONFIG))
