"""Facts about formulas in text: arithmetic, and nothing else."""

import pytest

from mtrl.envs.contexts.arithmetic import Expression
from mtrl.errors import UsageError

VALUES = {"a": 3.0, "b": 0.1, "limits.high": 7.0}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a + b", 3.0 + 0.1),
        ("a - b * 2", 3.0 - 0.1 * 2),
        ("(a - b) * 2", (3.0 - 0.1) * 2),
        ("-a ** 2 / b", -(3.0**2) / 0.1),
        ("+limits.high - 1e-3", 7.0 - 1e-3),
        ("2 ** -1", 0.5),
    ],
)
def test_a_formula_has_the_value_that_python_gives_it(text: str, value: float) -> None:
    assert Expression(text).value(VALUES.__getitem__) == value


def test_names_come_in_order_and_once() -> None:
    assert Expression("b * a + limits.high / b").names == ("b", "a", "limits.high")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("__import__('os').getcwd()", "__import__"),
        ("a.__class__", "a.__class__"),
        ("a if b else 1", "a if b else 1"),
        ("a < b", "a < b"),
        ("[a][0]", r"\[a\]\[0\]"),
        ("a + True", "True"),
        ("'a' * 9", "'a'"),
        ("a // b", "a // b"),
        ("(lambda: a)()", "lambda"),
        ("a.b().c", r"a\.b\(\)\.c"),
    ],
)
def test_what_is_not_arithmetic_is_refused_before_it_runs(text: str, part: str) -> None:
    with pytest.raises(UsageError, match=f"{part}.*is not arithmetic"):
        Expression(text)


def test_what_is_no_expression_is_refused() -> None:
    for text in ("", "a +", "a = 1", "a b"):
        with pytest.raises(UsageError, match="is not a formula"):
            Expression(text)


def test_whole_numbers_are_floats_so_that_powers_end() -> None:
    with pytest.raises(OverflowError):
        Expression("9 ** 9 ** 9 ** 9").value(VALUES.__getitem__)
    with pytest.raises(ZeroDivisionError):
        Expression("a / (b - b)").value(VALUES.__getitem__)
    with pytest.raises(ValueError):
        Expression("(-a) ** b").value(VALUES.__getitem__)
