"""The main job in about two minutes: `make demo`.

Meta-SGD and MAML learn, side by side on a CPU core each, to find a hidden goal in the plane from
their own episodes. Then both meet goals that they have never seen, and so does Meta-SGD's policy
without adaptation. Stopped at any instant and called again, it continues.
"""

import sys
from dataclasses import replace
from pathlib import Path

from mtrl.errors import MissingExtraError, guarded
from mtrl.evaluation.report import adaptation_table, draw_curves, paired_rows
from mtrl.evaluation.trained import EvaluationSettings, anchor_scores, load_run
from mtrl.reproduce.navigation import NAVIGATION_SETTINGS
from mtrl.reproduce.trainings import Training, train_all
from mtrl.versions import library_versions

FOLDER = Path("runs/demo")
ITERATIONS = 60
SETTINGS = EvaluationSettings(tasks=200, episodes=20, steps=3)


def main() -> None:
    """Train both, measure both on the same unseen tasks, say where everything is."""
    trainings = {
        name: Training(
            name=name,
            config=replace(config, iterations=ITERATIONS),
            folder=FOLDER,
            code=library_versions(),
        )
        for name, config in NAVIGATION_SETTINGS.items()
    }
    print(
        f"Meta-training on 2-D navigation: {' and '.join(trainings)}, {ITERATIONS} iterations each"
    )
    train_all(list(trainings.values()), processes=2)

    runs = {name: load_run(training.directory) for name, training in trainings.items()}
    meta_sgd = runs["Meta-SGD"]
    tasks = meta_sgd.unseen_tasks(SETTINGS)
    scores = {
        name: run.scores(tasks, SETTINGS)
        for name, run in sorted(runs.items(), reverse=True)  # Meta-SGD first
    }
    scores["no adaptation"] = meta_sgd.scores(tasks, SETTINGS, adapting=False)
    scores |= anchor_scores(meta_sgd.family, tasks, SETTINGS.steps or 0)

    print(f"\nReturn on {len(tasks)} unseen goals, mean [95% interval]; higher is better\n")
    print(adaptation_table(scores, SETTINGS.seed))
    print("", paired_rows("Meta-SGD", "MAML", scores, SETTINGS.seed), sep="\n")
    _draw(FOLDER / "adaptation.png", scores)
    print(f"Curves, step sizes and paths: {Path(sys.executable).parent / 'mtrl'} watch {FOLDER}")


def _draw(path: Path, scores: dict) -> None:
    try:
        draw_curves(
            path, scores, SETTINGS.seed, title="2-D navigation, unseen goals", ylabel="return"
        )
        print(f"\nFigure: {path}")
    except MissingExtraError as error:
        print(f"\nNo figure: {error}")


if __name__ == "__main__":
    sys.exit(guarded(main))
