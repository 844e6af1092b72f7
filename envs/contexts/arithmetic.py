"""Arithmetic written as text: what a file may say about one number in terms of others.

Numbers, names, `+ - * / **`, signs and parentheses; nothing else, so that a file from a stranger can
compute and do nothing besides.
"""

import ast
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from mtrl.errors import UsageError

__all__ = ["Expression"]

_BINARY: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: math.pow,
}
_UNARY: dict[type[ast.unaryop], Callable[[float], float]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}


@dataclass(frozen=True)
class Expression:
    """A formula such as `"masscart + masspole"`; names may be dotted.

    Raises:
        UsageError: the text is no formula; the message shows the part that is not.
    """

    text: str

    def __post_init__(self) -> None:
        _ = self.names  # refuses what is not arithmetic

    @cached_property
    def _tree(self) -> ast.expr:
        try:
            return ast.parse(self.text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise UsageError(f"{self.text!r} is not a formula; write one as 'a + 2 * b'") from None

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names in it, each once, in the order in which they appear."""
        return tuple(dict.fromkeys(self._names(self._tree)))

    def _names(self, node: ast.expr) -> list[str]:
        match node:
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                return self._names(left) + self._names(right)
            case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
                return self._names(operand)
            case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
                return []
            case ast.Name() | ast.Attribute():
                return [self._dotted(node)]
        raise self._refusal(node)

    def _dotted(self, node: ast.expr) -> str:
        name = ast.unparse(node)
        parts = name.split(".")
        if not all(part.isidentifier() and not part.startswith("_") for part in parts):
            raise self._refusal(node)
        return name

    def _refusal(self, node: ast.expr) -> UsageError:
        return UsageError(
            f"{ast.unparse(node)!r} in the formula {self.text!r} is not arithmetic; "
            "there are numbers, names and + - * / **"
        )

    def value(self, lookup: Callable[[str], float]) -> float:
        """Return the number that it is where each name is `lookup(name)`.

        All numbers are floats: a power of whole numbers could take for ever.

        Raises:
            ArithmeticError: a division by zero, or a result too large.
            ValueError: a power that is no real number.
        """
        return self._value(self._tree, lookup)

    def _value(self, node: ast.expr, lookup: Callable[[str], float]) -> float:
        match node:
            case ast.BinOp(left=left, op=op, right=right):
                return _BINARY[type(op)](self._value(left, lookup), self._value(right, lookup))
            case ast.UnaryOp(op=sign, operand=operand):
                return _UNARY[type(sign)](self._value(operand, lookup))
            case ast.Constant(value=value):
                return float(value)  # type: ignore[arg-type]  # `_names` refused all but numbers
        return float(lookup(ast.unparse(node)))
