"""What both training loops do around an iteration: restore, measure and show, save."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtrl.errors import MtrlError
from mtrl.meta.maml import MetaLearner
from mtrl.meta.meta_sgd import MetaSGD
from mtrl.meta.parameters import MetaParams
from mtrl.meta.watching import (
    Charts,
    Drawing,
    Pictures,
    Score,
    adaptation_picture,
    chart_layout,
    log_settings,
)
from mtrl.runs import Run
from mtrl.seeding import Streams

__all__ = ["Session"]


class Session:
    """The state of one meta-training run beside its loop: streams, meta-parameters, what is done.

    Args:
        run: the open run directory.
        streams: the run's random streams.
        initial: draws the meta-parameters of a run that starts.
        score: what adaptation is measured by.
        average_last: how many iterations' meta-parameters `learned` averages.
        charts: the CUSTOM SCALARS page, in place of the score's own.

    Attributes:
        meta: the meta-parameters that training is at, restored if the run is resumed.
        done: iterations done before.
        extra: tensors that the loop saved beside the meta-parameters.
        counters: JSON values that the loop saved.
    """

    def __init__(
        self,
        run: Run,
        streams: Streams,
        initial: Callable[[], MetaParams],
        score: Score,
        *,
        average_last: int = 1,
        charts: Charts | None = None,
    ) -> None:
        self.run = run
        self.streams = streams
        self.done = 0
        self.extra: dict[str, Tensor] = {}
        self.counters: dict[str, Any] = {}
        self._recent: deque[Tensor] = deque(maxlen=average_last)
        if run.restored is None:
            self.meta = initial()
            own = chart_layout(score, step_sizes=bool(self.meta.step_sizes))
            run.tracker.layout(own if charts is None else charts)
        else:
            self._restore(run.restored.tensors, run.restored.state)
        self._score: Score = score
        self._pictures = Pictures(run)
        self._clock = time.perf_counter()
        self._clocked = self.done

    @property
    def learned(self) -> MetaParams:
        """What is evaluated and saved: the mean of the latest meta-parameters (Polyak and Juditsky 1992).

        The surface of returns is noisy, and a single iterate can adapt badly on a few tasks where its
        neighbours do not.
        """
        if len(self._recent) <= 1:
            return self.meta
        return self.meta.like(torch.stack(list(self._recent)).mean(0))

    def advance(self, meta: MetaParams) -> None:
        """Take the meta-parameters that an iteration arrived at."""
        self.meta = meta
        if self._recent.maxlen != 1:
            self._recent.append(meta.flat())

    def _restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        groups: dict[str, dict[str, Tensor]] = {
            name: {} for name in ("meta", "recent", "streams", "extra")
        }
        for key, value in tensors.items():
            group, _, name = key.partition("/")
            groups[group][name] = value
        to_device = {name: value.to(self.streams.device) for name, value in groups["meta"].items()}
        self.meta = MetaParams.from_named(to_device)
        if groups["recent"]:
            self._recent.extend(groups["recent"]["iterates"].to(self.streams.device))
            self.meta = self.meta.like(self._recent[-1].clone())
        self.extra = groups["extra"]
        self.done, self.counters = state["iteration"], state["counters"]
        # Last, so that nothing drawn while restoring counts.
        self.streams.load_state_dict(groups["streams"], state["streams"])

    def save(
        self, iteration: int, extra: Mapping[str, Tensor], counters: Mapping[str, Any]
    ) -> None:
        """Make a checkpoint of everything after `iteration` iterations.

        Raises:
            MtrlError: a meta-parameter is not finite; the checkpoints before are kept.
        """
        learned = self.learned.named()
        for name, value in learned.items():
            if not bool(torch.isfinite(value).all()):
                raise MtrlError(
                    f"{name} is not finite after iteration {iteration}, so it is not saved; "
                    "resume from the checkpoint before with a smaller outer step"
                )
        tensors, streams = self.streams.state_dict()
        content = {f"meta/{name}": value for name, value in learned.items()}
        if self._recent:
            content["recent/iterates"] = torch.stack(list(self._recent))
        content |= {f"streams/{name}": value for name, value in tensors.items()}
        content |= {f"extra/{name}": value for name, value in extra.items()}
        state = {"iteration": iteration, "streams": streams, "counters": dict(counters)}
        self.run.save(iteration, content, state)

    def log_evaluation(
        self,
        iteration: int,
        config: Any,
        scores: NDArray[np.float64],
        drawings: Mapping[str, Drawing],
    ) -> None:
        """Log the adaptation curve, the step sizes and the pictures; at the end also the settings.

        Args:
            iteration: iterations done.
            config: the loop's configuration.
            scores: (tasks, steps + 1) on held-out tasks after 0, 1, ... adaptation steps.
            drawings: further pictures by tag.
        """
        mean = scores.mean(0)
        curve = {f"adapt/{self._score}_after_{k}": float(mean[k]) for k in range(len(mean))}
        self.run.log(iteration, curve)
        self._log_step_sizes(iteration, config.learner)
        name = config.learner.name
        picture = adaptation_picture(name, self._score, scores, iteration)
        self._pictures.draw(iteration, {"figures/adaptation_curve": picture, **drawings})
        if iteration == config.iterations:
            log_settings(self.run, config, curve)
        self._clock, self._clocked = time.perf_counter(), iteration

    def _log_step_sizes(self, iteration: int, learner: MetaLearner) -> None:
        values: dict[str, Tensor] = {}
        for name, stored in self.learned.step_sizes.items():
            in_logarithm = isinstance(learner, MetaSGD) and learner.positive
            alpha = stored.exp() if in_logarithm else stored
            values[f"step_sizes/{name}/mean"] = alpha.mean()
            values[f"step_sizes/{name}/negative_share"] = (alpha < 0).float().mean()
            self.run.tracker.histogram(iteration, f"step_sizes/{name}", alpha)
        self.run.log(iteration, values)

    def log_speed(self, iteration: int, env_steps: int | None = None) -> None:
        """Log iterations per second, evaluations left out, since the last call.

        `env_steps` are the environment steps taken since then, where there are any.
        """
        now = time.perf_counter()
        if iteration > self._clocked:
            seconds = now - self._clock
            speeds = {"time/iterations_per_second": (iteration - self._clocked) / seconds}
            if env_steps is not None:
                speeds["time/env_steps_per_second"] = env_steps / seconds
            self.run.log_time(iteration, speeds)
        self._clock, self._clocked = now, iteration
