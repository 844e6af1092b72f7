"""Meta-train a policy that finds a hidden goal after a few episodes, and see how it adapts.

    python scripts/train_navigation2d.py --dir runs/navigation
    python scripts/train_navigation2d.py --dir runs/maml --preset varying-start learner:maml

The options are those of `mtrl train rl`; this script is that command and `mtrl evaluate` in one,
and a place to start an experiment of your own.
"""

import sys

import torch

from mtrl.cli import guarded
from mtrl.commands.train import parse_training
from mtrl.evaluation.report import adaptation_table
from mtrl.evaluation.trained import EvaluationSettings, anchor_scores, load_run
from mtrl.meta.kinds import KINDS
from mtrl.meta.reinforcement import meta_train_reinforcement
from mtrl.runs import Run


def main() -> None:
    """Meta-train, then measure the return on unseen tasks."""
    kind = KINDS["rl"]
    options = parse_training(kind, sys.argv[1:], "train_navigation2d.py")
    torch.set_num_threads(options.threads)
    kind.check(options.settings)
    with Run.open(options.directory, config=options.settings, kind=kind.name) as run:
        meta_train_reinforcement(options.settings, run)

    trained = load_run(options.directory)
    settings = EvaluationSettings(tasks=100, steps=3)
    tasks = trained.unseen_tasks(settings)
    scores = {options.settings.learner.name: trained.scores(tasks, settings)}
    scores |= anchor_scores(trained.family, tasks, settings.steps or 0)
    print(f"{trained.score_name} on {settings.tasks} unseen tasks, mean [95% interval]")
    print(adaptation_table(scores, settings.seed))


if __name__ == "__main__":
    sys.exit(guarded(main))
