"""Every tag a run may log, in one registry: what it means, in which unit, on which axis.

The horizontal axis is the run's step: environment steps in multi-task runs, meta-iterations in
meta-learning. A tag that is not here cannot be logged, so that no curve is without a meaning.
"""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Literal

from mtrl.errors import UsageError

__all__ = ["TAGS", "Tag", "find_tag", "tags_markdown"]

# What a placeholder stands for; any other name stands for one path component.
PLACEHOLDERS = {"k": r"\d+"}


@dataclass(frozen=True, kw_only=True)
class Tag:
    """One tag, or a pattern such as `adapt/return_after_{k}` that stands for many.

    Attributes:
        pattern: the tag, with placeholders in braces.
        description: one sentence.
        unit: of the values.
        kind: what TensorBoard shows it as; only scalars go to `metrics.csv`.
        wall_clock: depends on the machine's speed, hence kept out of `metrics.csv`, which is
        reproducible. allow_nan: NaN and infinities are meaningful here instead of a failure.
    """

    pattern: str
    description: str
    unit: str = ""
    kind: Literal["scalar", "histogram", "image"] = "scalar"
    wall_clock: bool = False
    allow_nan: bool = False

    def matches(self, name: str) -> bool:
        """Return whether `name` is this tag or an instance of its pattern."""
        return _compiled(self.pattern).fullmatch(name) is not None


TAGS: tuple[Tag, ...] = (
    Tag(pattern="meta/train_loss", description="Outer loss on the training tasks' query sets."),
    Tag(
        pattern="meta/pre_adapt_return",
        description="Undiscounted return on training tasks before adaptation.",
        unit="return",
    ),
    Tag(
        pattern="meta/post_adapt_return",
        description="Undiscounted return on training tasks after adaptation.",
        unit="return",
    ),
    Tag(pattern="meta/env_steps", description="Environment steps taken so far.", unit="steps"),
    Tag(
        pattern="adapt/error_after_{k}",
        description="Error on held-out tasks after k adaptation steps.",
        unit="loss",
    ),
    Tag(
        pattern="adapt/return_after_{k}",
        description="Undiscounted return on held-out tasks after k adaptation steps.",
        unit="return",
    ),
    Tag(
        pattern="step_sizes/{layer}",
        description="Learned step sizes of one layer.",
        kind="histogram",
    ),
    Tag(pattern="step_sizes/{layer}/mean", description="Mean learned step size of one layer."),
    Tag(
        pattern="step_sizes/{layer}/negative_share",
        description="Share of one layer's step sizes below zero.",
        unit="fraction",
    ),
    Tag(pattern="outer/gradient_norm", description="L2 norm of the meta-gradient."),
    Tag(pattern="outer/learning_rate", description="Step size of the outer optimiser."),
    Tag(
        pattern="outer/kl",
        description="Mean KL from the old to the new adapted policies.",
        unit="nats",
    ),
    Tag(
        pattern="outer/improvement",
        description="Rise of the surrogate objective in the accepted outer step.",
    ),
    Tag(
        pattern="outer/step_fraction",
        description="Part of the full TRPO step that the line search took; 0 = refused.",
        unit="fraction",
    ),
    Tag(
        pattern="time/iterations_per_second",
        description="Iterations per second of wall-clock time.",
        unit="1/s",
        wall_clock=True,
    ),
    Tag(
        pattern="time/env_steps_per_second",
        description="Environment steps per second of wall-clock time.",
        unit="1/s",
        wall_clock=True,
    ),
    Tag(
        pattern="time/picture_seconds",
        description="Time that an evaluation's pictures took to draw.",
        unit="s",
        wall_clock=True,
    ),
    Tag(pattern="figures/{name}", description="A figure.", kind="image"),
    Tag(
        pattern="trajectories/{name}",
        description="Paths before and after adaptation.",
        kind="image",
    ),
    Tag(pattern="videos/{name}", description="An episode as an animation.", kind="image"),
)


def find_tag(name: str, kind: Literal["scalar", "histogram", "image"] = "scalar") -> Tag:
    """Return the registry's entry for `name`.

    Raises:
        UsageError: no entry matches, or it is of another kind; the message names the nearest tag.
    """
    tag = _lookup(name)
    if tag is None:
        near = difflib.get_close_matches(name, [tag.pattern for tag in TAGS], n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(f"unknown tag {name}; {hint}Tags are declared in mtrl.tags.TAGS")
    if tag.kind != kind:
        raise UsageError(f"tag {name} is for a {tag.kind}, and was given a {kind}")
    return tag


def tags_markdown(tags: Iterable[Tag] = TAGS) -> str:
    """Return a Markdown table of `tags`."""
    lines = ["| tag | shows | unit | meaning |", "|---|---|---|---|"]
    lines += [f"| `{tag.pattern}` | {tag.kind} | {tag.unit} | {tag.description} |" for tag in tags]
    return "\n".join(lines) + "\n"


@cache
def _lookup(name: str) -> Tag | None:
    return next((tag for tag in TAGS if tag.matches(name)), None)


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    # Odd parts are the placeholders' names.
    parts = re.split(r"{(\w+)}", pattern)
    pieces = [
        PLACEHOLDERS.get(part, "[^/]+") if index % 2 else re.escape(part)
        for index, part in enumerate(parts)
    ]
    return re.compile("".join(pieces))
