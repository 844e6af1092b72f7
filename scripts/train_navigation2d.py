"""Meta-train a policy that finds a hidden goal after a few episodes, and see how it adapts.

    python scripts/train_navigation2d.py --dir runs/navigation2d
    python scripts/train_navigation2d.py --dir runs/maml --preset varying-start learner:maml

The options are those of `mtrl train rl`; this script is that command and `mtrl evaluate` in one,
and a place to start an experiment of your own.
"""

import sys

from mtrl.commands.experiment import experiment
from mtrl.meta.reinforcement import ReinforcementConfig

CONFIG = ReinforcementConfig(
    family="navigation2d",
    test_steps=3,
)

if __name__ == "__main__":
    sys.exit(experiment("rl", CONFIG))
