"""Reproductions of published tables, and tables of our own on other families, one command each.

Importing this gives their names and summaries only; what carries one out is imported when it runs.
"""

import difflib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mtrl.errors import UsageError

if TYPE_CHECKING:
    from mtrl.reproduce.carry_out import Outcome, Place

__all__ = ["REPRODUCTIONS", "Calculation", "Reproduction", "find_reproduction"]


@dataclass(frozen=True)
class Reproduction:
    """One table and how to make it.

    Attributes:
        name: on the command line, and of the files it writes.
        summary: one line.
        builder: `module:function` that returns the `Experiment` for (quick, seed).
    """

    name: str
    summary: str
    builder: str

    def run(
        self, output: Path, quick: bool = False, seed: int = 0, work: Path = Path("runs")
    ) -> "Outcome":
        """Train, test, and write `<name>.md`, `.csv` and `.png`; with `quick`, `<name>-quick.*`.

        Interrupted at any instant and called again, it continues: trainings are resumed from their
        run directories, and finished ones are not repeated.

        Args:
            output: folder for the three files, made if missing.
            quick: a scaled-down run, which says so in everything it writes.
            seed: of all random streams.
            work: folder for the trainings' run directories, `reproduce-<name>[-quick]/<part>`.

        Raises:
            Interrupted: asked to stop by a signal; everything up to then is saved.
            MtrlError: a training failed; the message names it.
            MissingExtraError: matplotlib is not installed.
        """
        from mtrl.reproduce.carry_out import Place

        place = Place(name=self.name, output=output, work=work, quick=quick, seed=seed)
        return self._carry_out(place)

    def _carry_out(self, place: "Place") -> "Outcome":
        from mtrl.reproduce.carry_out import carry_out

        return carry_out(self._load()(place.quick, place.seed), place)

    def _load(self) -> Callable[..., Any]:
        module, _, function = self.builder.partition(":")
        loaded: Callable[..., Any] = getattr(importlib.import_module(module), function)
        return loaded


@dataclass(frozen=True)
class Calculation(Reproduction):
    """A table made in its own way: its `builder` makes the files of a `Place`, hence an `Outcome`."""

    def _carry_out(self, place: "Place") -> "Outcome":
        outcome: Outcome = self._load()(place)
        return outcome


REPRODUCTIONS: Mapping[str, Reproduction] = MappingProxyType(
    {
        name: Reproduction(name, summary, f"mtrl.reproduce.{builder}")
        for name, summary, builder in (
            (
                "meta-sgd-regression",
                "Meta-SGD against MAML on sinusoids of varying frequency (Li et al. 2017)",
                "regression:meta_sgd_regression",
            ),
            (
                "meta-sgd-navigation",
                "Meta-SGD against MAML on 2-D navigation, both starts (Li et al. 2017)",
                "navigation:meta_sgd_navigation",
            ),
            (
                "maml-regression",
                "MAML on sinusoids after 1, 5 and 10 steps (Finn et al. 2017)",
                "regression:maml_regression",
            ),
            (
                "maml-navigation",
                "MAML on 2-D navigation after 0 to 3 steps (Finn et al. 2017)",
                "navigation:maml_navigation",
            ),
            (
                "adaptation-cartpole",
                "Meta-SGD on cart-poles beyond the training lengths, adapted or not",
                "adaptation:cartpole",
            ),
            (
                "adaptation-pendulum",
                "Meta-SGD on pendulums beyond the training lengths, adapted or not",
                "adaptation:pendulum",
            ),
            (
                "adaptation-halfcheetah-direction",
                "Meta-SGD on half-cheetahs that run forward or backward, adapted or not",
                "adaptation:halfcheetah_direction",
            ),
            (
                "adaptation-halfcheetah-velocity",
                "Meta-SGD on half-cheetahs that run at a hidden velocity, adapted or not",
                "adaptation:halfcheetah_velocity",
            ),
        )
    }
    | {
        "aqil": Calculation(
            "aqil",
            "Imitation, then deep Q-learning, on cart-pole (Zhang and Agarwal 2020)",
            "mtrl.reproduce.aqil:aqil_table",
        ),
        "curricula": Calculation(
            "curricula",
            "Steps to solve a range of mountain cars: uniform tasks against curricula",
            "mtrl.reproduce.curricula:curricula_table",
        ),
        "dex": Calculation(
            "dex",
            "One hexagon level after another, against from scratch (Erickson and Zhao 2017)",
            "mtrl.reproduce.dex.experiment:dex_table",
        ),
        "incremental": Calculation(
            "incremental",
            "Nine ways to learn six tasks one after another: what is kept and carried over",
            "mtrl.reproduce.incremental.experiment:incremental_table",
        ),
        "lifelong": Calculation(
            "lifelong",
            "Bias and guidance in a life without resets (Li 2020)",
            "mtrl.reproduce.lifelong:lifelong_table",
        ),
        "minimax-deviation": Calculation(
            "minimax-deviation",
            "Minimax deviation on short samples (Schlesinger and Vodolazskiy 2017)",
            "mtrl.reproduce.minimax_deviation:minimax_deviation_table",
        ),
        "pearl-navigation": Calculation(
            "pearl-navigation",
            "PEARL against RL² on 2-D navigation, by environment steps (Rakelly et al. 2019)",
            "mtrl.reproduce.pearl_navigation:pearl_navigation_table",
        ),
        "multitask-pretraining": Calculation(
            "multitask-pretraining",
            "Steps to solve five new cart-poles, with the experts of five others first or not",
            "mtrl.reproduce.multitask_pretraining:multitask_pretraining_table",
        ),
        "q-pretraining": Calculation(
            "q-pretraining",
            "Episodes to the expert's level on cart-pole and mountain car, with an expert first or not",
            "mtrl.reproduce.q_pretraining:q_pretraining_table",
        ),
        "rl2-bandits": Calculation(
            "rl2-bandits",
            "RL² on Bernoulli bandits against Gittins' policy (Duan et al. 2016)",
            "mtrl.reproduce.rl2_bandits:rl2_bandits_table",
        ),
        "worst-regret": Calculation(
            "worst-regret",
            "Worst regret against mean return on cart-poles of which one is hard",
            "mtrl.reproduce.worst_regret:worst_regret_table",
        ),
    }
)


def find_reproduction(name: str) -> Reproduction:
    """Return the reproduction called `name`.

    Raises:
        UsageError: there is none; the message names the nearest.
    """
    if name not in REPRODUCTIONS:
        close = difflib.get_close_matches(name, REPRODUCTIONS, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UsageError(
            f"unknown reproduction {name!r}: {hint}there are {', '.join(REPRODUCTIONS)}"
        )
    return REPRODUCTIONS[name]
