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
        pattern="outer/value_loss",
        description="Squared error of a recurrent policy's values, in units of a trial's length.",
    ),
    Tag(
        pattern="outer/entropy",
        description="Mean entropy of a recurrent policy; the differential one where actions are numbers.",
        unit="nats",
    ),
    Tag(
        pattern="outer/clip_share",
        description="Share of the steps whose probability ratio is beyond PPO's clip.",
        unit="fraction",
    ),
    Tag(
        pattern="outer/step_fraction",
        description="Part of the full TRPO step that the line search took; 0 = refused.",
        unit="fraction",
    ),
    Tag(
        pattern="context/divergence",
        description="Mean KL divergence from PEARL's prior to its beliefs about tasks.",
        unit="nats",
    ),
    Tag(
        pattern="context/deviation",
        description="Mean standard deviation of PEARL's beliefs about a latent.",
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
        pattern="benchmark/milliseconds",
        description="Time of one step of a variant in `mtrl benchmark adaptation`, median.",
        unit="ms",
        wall_clock=True,
    ),
    Tag(
        pattern="benchmark/speedup",
        description="How often that time goes into the first variant's.",
        wall_clock=True,
    ),
    Tag(
        pattern="benchmark/adaptations_per_second",
        description="Tasks adapted to per second, median.",
        unit="1/s",
        wall_clock=True,
    ),
    Tag(
        pattern="time/picture_seconds",
        description="Time that an evaluation's pictures took to draw.",
        unit="s",
        wall_clock=True,
    ),
    Tag(
        pattern="multitask/return/{task}",
        description="Mean undiscounted return of a task's training episodes since the last round.",
        unit="return",
    ),
    Tag(
        pattern="multitask/length/{task}",
        description="Mean length of a task's latest training episodes.",
        unit="steps",
    ),
    Tag(
        pattern="multitask/success/{task}",
        description="Share of successes among a task's latest training episodes.",
        unit="fraction",
    ),
    Tag(
        pattern="multitask/weight/{task}",
        description="What a task's loss is multiplied by; mean 1 over the tasks.",
    ),
    Tag(pattern="multitask/ent_coef/{task}", description="SAC's temperature of a task."),
    Tag(
        pattern="multitask/saddle_gap",
        description="How far weights and agent are from a saddle point; the objective's loss.",
    ),
    Tag(
        pattern="multitask/failed_tasks",
        description="Tasks left out of training because they gave numbers that are not finite.",
        unit="tasks",
    ),
    Tag(
        pattern="eval/return/{task}",
        description="Mean undiscounted return of a task in an evaluation; NaN if it failed.",
        unit="return",
        allow_nan=True,
    ),
    Tag(
        pattern="eval/success/{task}",
        description="Share of successes of a task in an evaluation.",
        unit="fraction",
    ),
    Tag(
        pattern="eval/mean_return",
        description="Mean over tasks of the returns in an evaluation.",
        unit="return",
        allow_nan=True,
    ),
    Tag(
        pattern="eval/worst_return",
        description="The lowest mean return of a task in an evaluation.",
        unit="return",
        allow_nan=True,
    ),
    Tag(
        pattern="gradient/trunk_norm",
        description="L2 norm of the last gradient in the trunks, after clipping.",
    ),
    Tag(
        pattern="gradient/head_norm",
        description="L2 norm of the last gradient in the heads, after clipping.",
    ),
    Tag(
        pattern="conflict/{trunk}/mean_cosine",
        description="Mean cosine between two tasks' gradients of a trunk.",
    ),
    Tag(
        pattern="conflict/{trunk}/negative_share",
        description="Share of pairs of tasks whose gradients of a trunk point apart.",
        unit="fraction",
    ),
    Tag(
        pattern="incremental/stage",
        description="Stage of the sequence that the step belongs to, from 1; 0 before any training.",
    ),
    Tag(
        pattern="incremental/score/{task}",
        description="Score of a task: while it is learnt, and of every task after each stage.",
    ),
    Tag(
        pattern="incremental/{measure}",
        description="A measure of the performance matrix as if training ended after this stage.",
    ),
    Tag(
        pattern="curriculum/probability/{task}",
        description="Probability of a task to be proposed next.",
        unit="fraction",
    ),
    Tag(
        pattern="curriculum/share/{task}",
        description="Share of the credited episodes since the last point that a task had.",
        unit="fraction",
    ),
    Tag(
        pattern="curriculum/success/{task}",
        description="Mean success of a task's credited episodes since the last point.",
        unit="fraction",
    ),
    Tag(
        pattern="curriculum/progress/{task}",
        description="Absolute learning progress of a task, as its curriculum defines it.",
    ),
    Tag(
        pattern="curriculum/progress",
        description="ALP-GMM's mean absolute learning progress, of returns scaled to [0, 1].",
    ),
    Tag(
        pattern="curriculum/learnability/{task}",
        description="p (1 - p) of a task's success rate p.",
    ),
    Tag(
        pattern="curriculum/weight/{task}",
        description="The adversary's weight of a task.",
        unit="fraction",
    ),
    Tag(pattern="curriculum/score/{task}", description="Level replay's score of a task."),
    Tag(
        pattern="curriculum/staleness/{task}",
        description="Draws since a task's last one.",
        unit="draws",
    ),
    Tag(pattern="curriculum/stage", description="The present stage, from 0."),
    Tag(
        pattern="curriculum/mean/{parameter}",
        description="Mean of a task parameter over the credited episodes since the last point.",
    ),
    Tag(
        pattern="curriculum/deviation/{parameter}",
        description="Standard deviation of the same.",
    ),
    Tag(
        pattern="curriculum/lower/{parameter}",
        description="Lower bound of a task parameter under domain randomisation.",
    ),
    Tag(pattern="curriculum/upper/{parameter}", description="Its upper bound."),
    Tag(
        pattern="curriculum/entropy",
        description="Entropy of the tasks' probabilities; of domain randomisation, the mean "
        "logarithm of its widths, NaN while one is 0.",
        unit="nats",
        allow_nan=True,
    ),
    Tag(
        pattern="curriculum/divergence",
        description="KL divergence from self-paced learning's target.",
        unit="nats",
    ),
    Tag(
        pattern="train/explained_variance",
        description="Share of the returns' variance that the values explain; NaN if they have none.",
        allow_nan=True,
    ),
    Tag(
        pattern="train/{name}",
        description="What Stable-Baselines3's algorithm records of its updates.",
    ),
    Tag(
        pattern="rollout/exploration_rate",
        description="DQN's share of random actions.",
        unit="fraction",
    ),
    Tag(
        pattern="time/balancer_seconds",
        description="Time that balancing took in the last backward pass.",
        unit="s",
        wall_clock=True,
    ),
    Tag(
        pattern="q_imitation/return",
        description="True return of a training episode, in both phases.",
        unit="return",
    ),
    Tag(
        pattern="q_imitation/environment_reward",
        description="True reward per step of a training episode.",
    ),
    Tag(
        pattern="q_imitation/imitation_reward",
        description="Imitation reward per step of the latest episodes, while an expert is asked.",
    ),
    Tag(
        pattern="q_imitation/agreement",
        description="Share of the latest steps in which the learner did what the expert would.",
        unit="fraction",
    ),
    Tag(
        pattern="q_imitation/regret",
        description="The expert's mean return less that of the latest training episodes.",
        unit="return",
    ),
    Tag(
        pattern="q_imitation/q_level",
        description="Mean over an episode's states of the highest Q-value.",
    ),
    Tag(
        pattern="q_imitation/switch/{name}",
        description="What the change to the true reward did to the Q-values: levels, slope, offset.",
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
