"""What both training loops do around an iteration: restore, log step sizes, save, stop when asked."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from mtrl.errors import MtrlError
from mtrl.meta.parameters import MetaParams
from mtrl.runs import Run
from mtrl.seeding import Streams

__all__ = ["Session"]


class Session:
    """The state of one meta-training run beside its loop: streams, meta-parameters, what is done.

    Args:
        run: the open run directory.
        streams: the run's random streams.
        initial: draws the meta-parameters of a run that starts.

    Attributes:
        meta: the meta-parameters, restored if the run is resumed.
        done: iterations done before.
        extra: tensors that the loop saved beside the meta-parameters.
        counters: JSON values that the loop saved.
    """

    def __init__(self, run: Run, streams: Streams, initial: Callable[[], MetaParams]) -> None:
        self.run = run
        self.streams = streams
        self.done = 0
        self.extra: dict[str, Tensor] = {}
        self.counters: dict[str, Any] = {}
        if run.restored is None:
            self.meta = initial()
        else:
            self._restore(run.restored.tensors, run.restored.state)
        self._clock = time.perf_counter()
        self._clocked = self.done

    def _restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        groups: dict[str, dict[str, Tensor]] = {"meta": {}, "streams": {}, "extra": {}}
        for key, value in tensors.items():
            group, _, name = key.partition("/")
            groups[group][name] = value
        to_device = {name: value.to(self.streams.device) for name, value in groups["meta"].items()}
        self.meta = MetaParams.from_named(to_device)
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
        for name, value in self.meta.named().items():
            if not bool(torch.isfinite(value).all()):
                raise MtrlError(
                    f"{name} is not finite after iteration {iteration}, so it is not saved; "
                    "resume from the checkpoint before with a smaller outer step"
                )
        tensors, streams = self.streams.state_dict()
        content = {f"meta/{name}": value for name, value in self.meta.named().items()}
        content |= {f"streams/{name}": value for name, value in tensors.items()}
        content |= {f"extra/{name}": value for name, value in extra.items()}
        state = {"iteration": iteration, "streams": streams, "counters": dict(counters)}
        self.run.save(iteration, content, state)

    def log_step_sizes(self, iteration: int) -> None:
        """Log, for each learned step-size tensor, its mean, share of negative values and histogram."""
        values: dict[str, Tensor] = {}
        for name, learned in self.meta.step_sizes.items():
            values[f"step_sizes/{name}/mean"] = learned.mean()
            values[f"step_sizes/{name}/negative_share"] = (learned < 0).float().mean()
            self.run.tracker.histogram(iteration, f"step_sizes/{name}", learned)
        self.run.log(iteration, values)

    def log_speed(self, iteration: int) -> None:
        """Log iterations per second since the last call."""
        now = time.perf_counter()
        if iteration > self._clocked:
            speed = (iteration - self._clocked) / (now - self._clock)
            self.run.log_time(iteration, {"time/iterations_per_second": speed})
        self._clock, self._clocked = now, iteration
