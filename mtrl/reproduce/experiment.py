"""What a results page consists of, as data: what is trained, how it is tested, what was published."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from mtrl.evaluation.trained import EvaluationSettings
from mtrl.meta.pearl.config import PearlConfig
from mtrl.meta.recurrent.training import RecurrentConfig
from mtrl.meta.reinforcement import ReinforcementConfig
from mtrl.meta.supervised import SupervisedConfig
from mtrl.reproduce.published import Published

__all__ = ["UNADAPTED", "Column", "Config", "Experiment"]

Config = SupervisedConfig | ReinforcementConfig | RecurrentConfig | PearlConfig
UNADAPTED = "no adaptation"
"""What the target learner's policy is called where it is tested as meta-training left it."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of the table: how runs are tested, and after how many steps the score is read."""

    settings: EvaluationSettings
    steps: int


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A table and everything that is done to fill it: a paper's anew, or one of our own.

    Attributes:
        title: of the page.
        paper: whose table it is; empty if it is not a paper's.
        score: what a number in it is.
        better: which way a score is good.
        rows: what the rows are, for the table's head.
        trainings: row to learner to configuration; learners in the order of the figure.
        columns: column to how it is measured.
        published: the paper's numbers.
        target: the learner that has to be at or better than its published numbers, where there are
            some, and better than every other learner.
        against_unadapted: whether the target's own policy without adaptation is one of the others.
        protocol: what was done, in sentences.
        choices: what the paper does not specify and what was taken, in sentences.
        unconfirmed: (row, column) of published numbers that are quoted from memory.
        scaled_down: in a quick run, what was cut.
    """

    title: str
    paper: str = ""
    score: str
    better: Literal["lower", "higher"]
    rows: str
    trainings: Mapping[str, Mapping[str, Config]]
    columns: Mapping[str, Column]
    published: Published = field(default_factory=dict)
    target: str
    against_unadapted: bool = False
    protocol: tuple[str, ...]
    choices: tuple[str, ...]
    unconfirmed: Collection[tuple[str, str]] = ()
    scaled_down: str = ""
