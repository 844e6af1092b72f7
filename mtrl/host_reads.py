"""Whether the host may look at a tensor's value while a meta-iteration runs."""

import torch

__all__ = ["reads_are_free"]


def reads_are_free(device: torch.device) -> bool:
    """Return whether looking at a value waits for nothing.

    On a CPU everything that was asked for is done. An accelerator works behind the host, which each look makes wait
    until it has caught up; there, what could be skipped after a look is computed and masked instead.
    """
    return device.type == "cpu"
