"""Meta-train a network that fits a sine wave from a few points, and see how it adapts.

    python scripts/train_sinusoid.py --dir runs/sinusoid
    python scripts/train_sinusoid.py --dir runs/maml --preset meta-sgd learner:maml --learner.step-size 0.01

The options are those of `mtrl train supervised`; this script is that command and `mtrl evaluate` in
one, and a place to start an experiment of your own.
"""

import sys

import torch

from mtrl.cli import guarded
from mtrl.commands.train import parse_training
from mtrl.evaluation.report import adaptation_table
from mtrl.evaluation.trained import EvaluationSettings, load_run
from mtrl.meta.kinds import KINDS
from mtrl.meta.supervised import meta_train_supervised
from mtrl.runs import Run


def main() -> None:
    """Meta-train, then measure the error on unseen tasks."""
    kind = KINDS["supervised"]
    options = parse_training(kind, sys.argv[1:], "train_sinusoid.py")
    torch.set_num_threads(options.threads)
    kind.check(options.settings)
    with Run.open(options.directory, config=options.settings, kind=kind.name) as run:
        meta_train_supervised(options.settings, run)

    trained = load_run(options.directory)
    settings = EvaluationSettings(tasks=500, steps=3)
    scores = trained.scores(trained.unseen_tasks(settings), settings)
    print(f"{trained.score_name} on {settings.tasks} unseen tasks, mean [95% interval]")
    print(adaptation_table({options.settings.learner.name: scores}, settings.seed))


if __name__ == "__main__":
    sys.exit(guarded(main))
