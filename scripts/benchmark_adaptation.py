"""Measure adaptation against the libraries in use: `mtrl benchmark adaptation`, from a checkout.

    python scripts/install_peers.py
    python scripts/benchmark_adaptation.py
    python scripts/benchmark_adaptation.py --pytorch-maml-rl ../pytorch-maml-rl --out docs/results

`docs/benchmarks.md` explains what is measured. Exit status 1 if results disagree; nothing is timed then.
"""

import sys

from mtrl.commands.benchmark_adaptation import run
from mtrl.errors import guarded

if __name__ == "__main__":
    sys.exit(guarded(lambda: run(sys.argv[1:])))
