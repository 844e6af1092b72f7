"""The bandits, settings and trainings of `mtrl reproduce rl2-bandits`, each a run directory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mtrl.envs.bandit import Bandit
from mtrl.meta.recurrent.ppo import RL2
from mtrl.meta.recurrent.training import RecurrentConfig
from mtrl.reproduce.trainings import Training
from mtrl.versions import library_versions

__all__ = ["FULL", "QUICK_SCALE", "SETTINGS", "Scale", "Setting", "training_config", "trainings_of"]


class Setting(NamedTuple):
    """Bandits of one kind, all of whose pulls are one trial."""

    pulls: int
    arms: int

    def __str__(self) -> str:
        return f"{self.pulls} pulls, {self.arms} arms"

    @property
    def family(self) -> Bandit:
        """The task family."""
        return Bandit(arms=self.arms, horizon=self.pulls)


SETTINGS = (Setting(10, 5), Setting(10, 10), Setting(100, 5), Setting(100, 10))


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is trained and tested.

    Attributes:
        iterations: of a training, by setting.
        seeds: trainings of each setting.
        bandits: that every policy is tested on, once each.
        tuning: training bandits that the width of UCB1 is chosen on.
    """

    iterations: Mapping[Setting, int]
    seeds: int
    bandits: int
    tuning: int


FULL = Scale(
    iterations=dict(zip(SETTINGS, (250, 250, 500, 1000), strict=True)),
    seeds=2,
    bandits=4_000,
    tuning=4_000,
)
QUICK_SCALE = Scale(
    iterations=dict(zip(SETTINGS, (10, 10, 3, 3), strict=True)), seeds=2, bandits=200, tuning=200
)

LEARNERS = {
    10: RL2(
        units=48,
        learning_rate=4e-3,
        final_learning_rate=3e-4,
        discount=0.98,
        minibatches=8,
    ),
    100: RL2(
        units=48,
        learning_rate=6e-3,
        final_learning_rate=3e-4,
        discount=0.98,
        entropy=0.03,
        minibatches=8,
    ),
}
"""By pulls."""
TRIALS = {10: 512, 100: 256}
"""Of an iteration, by pulls."""


def training_config(setting: Setting, scale: Scale, seed: int) -> RecurrentConfig:
    """Return the settings of one training."""
    iterations = scale.iterations[setting]
    return RecurrentConfig(
        family="bandit",
        family_options={"arms": setting.arms, "horizon": setting.pulls},
        learner=LEARNERS[setting.pulls],
        tasks_per_batch=TRIALS[setting.pulls],
        iterations=iterations,
        seed=seed,
        # The test is another: these would only take time.
        evaluate_every=iterations,
        test_tasks=100,
        test_trials=1,
        checkpoint_every=20,
    )


def trainings_of(
    scale: Scale, first_seed: int, folder: Path, commit: str
) -> dict[Setting, Sequence[Training]]:
    """Return the trainings of every setting, seeds counting from `first_seed`.

    Args:
        scale: how much is trained.
        first_seed: of each setting's trainings.
        folder: where the run directories go.
        commit: of the code, so that no numbers of other code are reported as this one's.
    """
    code = {**library_versions(), "commit": commit}
    return {
        setting: [
            Training(
                name=f"{setting}, seed {seed}",
                config=training_config(setting, scale, seed),
                folder=folder,
                code=code,
            )
            for seed in range(first_seed, first_seed + scale.seeds)
        ]
        for setting in SETTINGS
    }
