"""Train one policy on cart-poles and hexagons, one after another, and print what it kept.

    python scripts/train_incremental_two_families.py --dir runs/incremental-two
    python scripts/train_incremental_two_families.py --dir runs/incremental-two-cloning method:behaviour-cloning-replay

Cart-pole's observations are padded to the length of hexagon's, and it has a third action that means the
same as its first. These are fine-tuning's settings of `mtrl reproduce incremental`. Options: those of `mtrl train incremental`. This is
that command and `mtrl evaluate` in one.
"""

import sys
from dataclasses import replace

from mtrl.commands.experiment import experiment
from mtrl.reproduce.incremental.plan import BASELINE, FULL, sequence_config

CONFIG = replace(sequence_config(FULL, BASELINE, seed=0), log_every=2048)

if __name__ == "__main__":
    sys.exit(experiment("incremental", CONFIG))
