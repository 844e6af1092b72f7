"""Meta-train a network that fits a sine wave from a few points, and see how it adapts.

    python scripts/train_sinusoid.py --dir runs/sinusoid
    python scripts/train_sinusoid.py --dir runs/maml learner:maml --learner.step-size 0.01

The options are those of `mtrl train supervised`; this script is that command and
`mtrl evaluate` in one, and a place to start an experiment of your own.
"""

import sys

from mtrl.commands.experiment import experiment
from mtrl.meta.supervised import SupervisedConfig

CONFIG = SupervisedConfig(test_steps=3)

if __name__ == "__main__":
    sys.exit(experiment("supervised", CONFIG))
