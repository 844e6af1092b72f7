"""The grid of Li 2020: carry food from F to home H for ever, through one of two tunnels.

11 x 11 cells, of which the border and a wall across the middle are closed: 74 are free. The way
through tunnel L is longer than that through R. Moves are deterministic in four directions; against
a wall one stays. The paper shows the map only as a picture; where H, F and the tunnels lie is ours.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from mtrl.agents.lifelong.messages import Event, RewardMachine, Transition
from mtrl.errors import UsageError

__all__ = ["MAP", "MOVES", "TIME_LIMIT", "HomeFood"]

MAP = (
    "###########",
    "#.....F...#",
    "#.........#",
    "#.........#",
    "#.........#",
    "#L######R##",
    "#.........#",
    "#.........#",
    "#.........#",
    "#.....H...#",
    "###########",
)
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))
"""Row and column by action: up, right, down, left."""
TIME_LIMIT = 24
"""Steps for a local goal: twice the shortest way."""
FOOD, HOME = "food", "home"


@dataclass(frozen=True, kw_only=True)
class HomeFood:
    """The world: cells are numbered row by row, free ones only.

    Args:
        map: rows of equal length; `#` is a wall, and `H`, `F`, `L` and `R` occur once.

    Raises:
        UsageError: a place is missing or there twice.
    """

    map: Sequence[str] = MAP

    def __post_init__(self) -> None:
        text = "".join(self.map)
        for place in "HFLR":
            if text.count(place) != 1:
                raise UsageError(
                    f"place {place!r} is in the map {text.count(place)} times, not once"
                )

    @cached_property
    def places(self) -> Mapping[tuple[int, int], int]:
        """Cells by row and column."""
        free = [
            (row, column)
            for row, line in enumerate(self.map)
            for column, letter in enumerate(line)
            if letter != "#"
        ]
        return {place: cell for cell, place in enumerate(free)}

    @property
    def cells(self) -> int:
        """How many there are."""
        return len(self.places)

    def cell(self, letter: str) -> int:
        """Return where `letter` is."""
        row = next(row for row, line in enumerate(self.map) if letter in line)
        return self.places[row, self.map[row].index(letter)]

    @cached_property
    def moves(self) -> tuple[tuple[int, ...], ...]:
        """By cell and action, the cell that follows."""
        return tuple(
            tuple(self.places.get((row + down, column + right), cell) for down, right in MOVES)
            for (row, column), cell in self.places.items()
        )

    @cached_property
    def neighbours(self) -> tuple[tuple[int, ...], ...]:
        """By cell, the free cells beside it."""
        return tuple(
            tuple(other for other in row if other != cell) for cell, row in enumerate(self.moves)
        )

    def targets(self) -> dict[str, int]:
        """Return by errand where it ends."""
        return {FOOD: self.cell("F"), HOME: self.cell("H")}

    def manhattan(self, cell: int, other: int) -> int:
        """Return the distance as if there were no walls."""
        places = list(self.places)
        (row, column), (there, over) = places[cell], places[other]
        return abs(row - there) + abs(column - over)

    def distances(self, target: int, without: frozenset[int] = frozenset()) -> list[int | None]:
        """Return the steps of the shortest way from every cell; None where there is none.

        Args:
            target: where the ways end.
            without: cells that may not be entered.
        """
        found: list[int | None] = [None] * self.cells
        found[target] = 0
        pending = deque([target])
        while pending:
            cell = pending.popleft()
            for other in self.neighbours[cell]:
                if found[other] is None and other not in without:
                    found[other] = (found[cell] or 0) + 1
                    pending.append(other)
        return found

    @staticmethod
    def machine(*, left_value: float = 1.0, marks_left: bool = False) -> RewardMachine:
        """Return the paper's rewards: two errands, each in time or late.

        The target reached is worth 1 in time and 0 once the errand has timed out, a time-out -1.
        With `marks_left` a goal also expires, worth 0, when the left tunnel is entered for the first
        time in an errand, and its target reached in time is then worth `left_value`: 8 goals.
        """
        transitions: dict[str, dict[Event, Transition]] = {}
        for errand, following in ((FOOD, HOME), (HOME, FOOD)):
            for left in ("", " by left") if marks_left else ("",):
                for late in ("", " late"):
                    paid = 0.0 if late else (left_value if left else 1.0)
                    ends = {
                        Event.REACHED: Transition(following, paid),
                        Event.TIMED_OUT: Transition(f"{errand}{left} late", -1.0),
                    }
                    if marks_left and not left:
                        ends[Event.PASSED_LEFT] = Transition(f"{errand} by left{late}", 0.0)
                    transitions[f"{errand}{left}{late}"] = ends
        return RewardMachine(start=FOOD, time_limit=TIME_LIMIT, transitions=transitions)

    def events(self, goal: str, machine: RewardMachine) -> dict[int, Event]:
        """Return by cell what happens to `goal` when the cell is entered."""
        found = {self.targets()[goal.split()[0]]: Event.REACHED}
        if Event.PASSED_LEFT in machine.transitions[goal]:
            found[self.cell("L")] = Event.PASSED_LEFT
        return found
