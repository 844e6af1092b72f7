"""How long a phase of learning lasts."""

from dataclasses import dataclass

from mtrl.errors import UsageError

__all__ = ["Budget"]

UNITS = ("steps", "episodes", "updates")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """A number of exactly one unit.

    Raises:
        UsageError: none or several units, or a number below 1.
    """

    steps: int | None = None
    """Steps of all environments together."""
    episodes: int | None = None
    """Episodes of all environments together: the first so many to begin. What the others play while the last
    of them goes on is learnt from, and does not count."""
    updates: int | None = None
    """Updates of the network without any step, for learning from demonstrations alone."""

    def __post_init__(self) -> None:
        given = [name for name in UNITS if getattr(self, name) is not None]
        if len(given) != 1:
            raise UsageError(
                f"a budget has exactly one of {', '.join(UNITS)}, got {given or 'none'}"
            )
        if self.amount < 1:
            raise UsageError(f"{self.unit} is {self.amount}; a budget is at least 1")

    @property
    def unit(self) -> str:
        """Which of the three is given."""
        return next(name for name in UNITS if getattr(self, name) is not None)

    @property
    def amount(self) -> int:
        """Of the unit."""
        amount: int = getattr(self, self.unit)
        return amount

    def split(self, share: float) -> tuple["Budget", "Budget"]:
        """Return two budgets that add up to this one, the first with `share` of it.

        Raises:
            UsageError: one of them would be empty.
        """
        first = round(share * self.amount)
        if not 0 < first < self.amount:
            raise UsageError(
                f"{share} of {self.amount} {self.unit} leaves one part empty; choose a share between"
            )
        return Budget(**{self.unit: first}), Budget(**{self.unit: self.amount - first})
