"""A sum tree over arrays: draws in proportion to priorities and changes many of them at once.

Schaul et al. 2016 (arXiv:1511.05952, appendix B.2.1) store priorities in the leaves of a tree whose
nodes are the sums of their children. Here a node has 32 children, which makes a tree of a
million leaves four levels deep: NumPy's cost is per call, so few wide levels beat many narrow ones.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["SumTree"]

FAN_OUT = 32


class SumTree:
    """Non-negative masses of `size` leaves, at first all zero.

    A node is always summed anew from its children, never changed by a difference: no error builds up,
    and a tree made from the same leaves is the same to the last bit.

    Args:
        size: number of leaves, at least 1.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        # From the leaves up; a level has one row for each node of the level above it.
        self._levels: list[NDArray[np.float64]] = []
        rows = size
        while not self._levels or rows > 1:
            rows = -(-rows // FAN_OUT)
            self._levels.append(np.zeros((rows, FAN_OUT)))

    @property
    def total(self) -> float:
        """The sum of all masses."""
        return float(self._levels[-1].sum())

    @property
    def masses(self) -> NDArray[np.float64]:
        """The leaves, (size,); a view that must not be written to."""
        leaves: NDArray[np.float64] = self._levels[0].reshape(-1)[: self.size]
        return leaves

    def update(self, leaves: NDArray[np.int64], masses: NDArray[np.float64] | float) -> None:
        """Set the masses of `leaves`, (batch,); of a leaf named twice the last mass counts."""
        self._levels[0].reshape(-1)[leaves] = masses
        # A parent that several leaves share is summed several times, which costs less than finding it out.
        for level, above in zip(self._levels, self._levels[1:], strict=False):
            leaves = leaves // FAN_OUT
            above.reshape(-1)[leaves] = level[leaves].sum(1)

    def fill(self, masses: NDArray[np.float64]) -> None:
        """Set the masses of all leaves, (size,)."""
        self._levels[0].reshape(-1)[: self.size] = masses
        for level, above in zip(self._levels, self._levels[1:], strict=False):
            above.reshape(-1)[: len(level)] = level.sum(1)

    def find(self, points: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the leaves in whose stretch of [0, total) the points, (batch,), lie.

        A leaf's stretch is as long as its mass, in the order of the leaves; a leaf without mass is never
        found. Points beyond the total fall on the last leaf that has mass. The total must not be 0.
        """
        node = np.zeros(len(points), dtype=np.int64)
        row = np.arange(len(points))
        for level in reversed(self._levels):
            ends = level[node].cumsum(1)
            # Rounding may leave a point at the very end of its node, where no child has any mass.
            points = np.minimum(points, np.nextafter(ends[:, -1], 0.0))
            child = (ends <= points[:, None]).sum(1)
            before = np.where(child > 0, ends[row, child - 1], 0.0)
            points = points - before
            node = node * FAN_OUT + child
        return node
