"""How many tasks a meta-gradient works on at once: as many as a measured memory bound allows.

More tasks at once cost less time each until what is kept for the outer derivative no longer fits the processor's
cache; on an accelerator, until its memory is full. What one more task takes is measured by counting the bytes of
all arrays that are alive at the same time while the gradient of one task, and of two, is computed. Counted and not
read off the process, it is the same at every start, and so are the chunks of a run that is resumed.
"""

import math
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["default_bound", "peak_bytes", "tasks_at_once"]

# On the sinusoid that is 128 tasks at once; a quarter of them took half as long again, twice as many no less.
CACHE_BOUND = 5 * 2**20
FREE_SHARE = 0.5


def default_bound(device: torch.device) -> int:
    """Return the bytes that a chunk may take: what caches hold, or half of the accelerator's free memory."""
    if device.type != "cuda":
        return CACHE_BOUND
    free, _ = torch.cuda.mem_get_info(device)
    return int(free * FREE_SHARE)


def tasks_at_once(gradient: Callable[[int], object], most: int, bound: int) -> int:
    """Return how many tasks, from 1 to `most`, to work on at once, so that it takes at most `bound` bytes.

    Of what the bound allows it is the number that leaves chunks of the same size, or nearly.

    Args:
        gradient: computes that of so many tasks.
        most: tasks of a meta-batch.
        bound: bytes; one task is worked on even if it takes more.
    """
    if most == 1:
        return 1
    one, two = (peak_bytes(partial(gradient, count)) for count in (1, 2))
    allowed = max(1, 1 + (bound - one) // max(1, two - one))
    chunks = math.ceil(most / allowed)
    return math.ceil(most / chunks)


def peak_bytes(work: Callable[[], object]) -> int:
    """Return the largest number of bytes that arrays made in `work` take at the same time."""
    counted = _LiveBytes()
    with counted:
        work()
    return counted.peak


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
    """Counts the bytes of arrays that operations make, as long as they live."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for storage in _storages((args, kwargs)):
            self._note(storage, 0)
        made = func(*args, **(kwargs or {}))
        for storage in _storages(made):
            self._note(storage, storage.nbytes())
        return made

    def _note(self, storage: UntypedStorage, size: int) -> None:
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def _storages(values: Any) -> list[UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
