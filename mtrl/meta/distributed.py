"""Meta-batches split over processes that `torchrun` starts, joined by sums.

Every process draws the same tasks and points, or episodes' seeds and noise, from the same named streams and works on
its share of them, so that results depend on the number of processes by the order of sums only. What they found,
gradients and what is logged, goes through one flat buffer and one all-reduce; parameters and optimiser are then the
same, bit for bit, in every process, and nothing else is ever sent. Outer updates that take several looks at the
meta-batch, as those of reinforcement learning do, take a sum for each. One process alone sends nothing.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed

from mtrl.errors import MtrlError, UsageError
from mtrl.meta.parameters import flatten, unflatten

__all__ = ["Processes", "join", "processes_of"]

# How long the others wait for one that hangs; one that dies is noticed at once.
PATIENCE = timedelta(minutes=30)


@dataclass(frozen=True)
class Processes:
    """The processes that share a run, seen from one of them.

    Attributes:
        rank: which one this is, from 0.
        count: how many there are.
        local: which one this is on its machine.
    """

    rank: int = 0
    count: int = 1
    local: int = 0

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes the run directory."""
        return self.rank == 0

    def share(self, tasks: int) -> slice:
        """Return which of a batch's `tasks` are this process's.

        Raises:
            UsageError: the processes cannot have equal shares.
        """
        if tasks % self.count:
            raise UsageError(
                f"tasks_per_batch is {tasks} for {self.count} processes; make it a multiple of "
                f"{self.count}, or let torchrun start a number of processes that divides it"
            )
        size = tasks // self.count
        return slice(self.rank * size, (self.rank + 1) * size)

    def placed(self, own: Tensor, tasks: int) -> Tensor:
        """Return this process's numbers at their places in the batch, such that `mean` has everyone's.

        Args:
            own: (share of the tasks,).
            tasks: of the whole batch.
        """
        if self.count == 1:
            return own
        whole = own.new_zeros(tasks)
        whole[self.share(tasks)] = own * self.count
        return whole

    def mean(
        self, values: Mapping[str, Tensor], *, stop: bool = False
    ) -> tuple[dict[str, Tensor], bool]:
        """Return the means over the processes, and whether any of them asks to stop.

        All processes get the same bits and so stop after the same iteration.

        Args:
            values: of the same dtype, names and shapes in every process.
            stop: whether this one asks to stop.

        Raises:
            MtrlError: another process is gone.
        """
        if self.count == 1:
            return dict(values), stop
        flat = flatten(values)
        joined = self.joined(torch.cat([flat, flat.new_tensor([stop])]))
        return unflatten(joined[:-1], values), bool(joined[-1] > 0)

    def joined(self, values: Tensor) -> Tensor:
        """Return the mean of a tensor over the processes, the same bits in all of them.

        Raises:
            MtrlError: another process is gone.
        """
        if self.count == 1:
            return values
        buffer = values.clone()
        with self._others():
            distributed.all_reduce(buffer)
        return buffer / self.count

    def most(self, number: int) -> int:
        """Return the largest of the processes' numbers; they are on the CPU.

        Raises:
            MtrlError: another process is gone.
        """
        if self.count == 1:
            return number
        buffer = torch.tensor(number)
        with self._others():
            distributed.all_reduce(buffer, distributed.ReduceOp.MAX)
        return int(buffer)

    def wait(self) -> None:
        """Return once every process has come here.

        Raises:
            MtrlError: another process is gone.
        """
        if self.count > 1:
            with self._others():
                distributed.barrier()

    @contextmanager
    def _others(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise MtrlError(
                f"process {self.rank} of {self.count} lost another one ({reason}); see what that one "
                "says, then start all of them again with `mtrl train --resume RUNDIR`"
            ) from error


def processes_of(environment: Mapping[str, str]) -> Processes:
    """Return the processes that `torchrun` describes in the environment; one alone without it.

    Raises:
        UsageError: the description makes no sense.
    """
    if "RANK" not in environment and "WORLD_SIZE" not in environment:
        return Processes()
    # Where one process is started on each machine, nobody counts them there.
    given = {"RANK": "", "WORLD_SIZE": "", "LOCAL_RANK": "0"}
    given = {name: environment.get(name, default) for name, default in given.items()}
    try:
        rank, count, local = map(int, given.values())
    except ValueError:
        rank, count, local = -1, 0, 0
    if not (0 <= rank < count and local >= 0):
        values = ", ".join(f"{name}={value}" for name, value in given.items())
        raise UsageError(f"{values} in the environment; start several processes with torchrun")
    return Processes(rank, count, local)


@contextmanager
def join(processes: Processes, device: str) -> Iterator[None]:
    """Connect the processes while entered: by gloo on the CPU, by nccl on GPUs, one for each.

    Raises:
        UsageError: `device` names one GPU for all of them.
        MtrlError: they cannot be connected.
    """
    if processes.count == 1:
        yield
        return
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu and torch.device(device).index is not None:
        raise UsageError(
            f"device is {device!r} for {processes.count} processes; write 'cuda', and each takes one"
        )
    if on_gpu:
        torch.cuda.set_device(processes.local)
    try:
        distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise MtrlError(
            f"process {processes.rank} of {processes.count} cannot reach the others ({reason}); "
            "start them together with torchrun"
        ) from error
    try:
        yield
    finally:
        distributed.destroy_process_group()
