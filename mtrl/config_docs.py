"""The sentence under each field of a configuration, for the docs; tyro shows the same in --help."""

import ast
import dataclasses
import inspect
import itertools
import textwrap

__all__ = ["field_docs"]


def field_docs(cls: type) -> dict[str, str]:
    """Return the documentation of each field of dataclass `cls`, in order; "" where there is none.

    It is the text literal under the field, inherited fields included, or the metadata entry "help".
    """
    written: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            written |= _attribute_docstrings(base)
    return {
        field.name: written.get(field.name, field.metadata.get("help", ""))
        for field in dataclasses.fields(cls)
    }


def _attribute_docstrings(cls: type) -> dict[str, str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    docs = {}
    for statement, below in itertools.pairwise(body):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            docs[statement.target.id] = inspect.cleandoc(below.value.value)
    return docs
