"""MuJoCo model fields as task parameters."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mtrl.envs.contexts.targets import get_path
from mtrl.errors import MissingExtraError, UsageError

__all__ = ["Model", "ModelField"]

# The accessor of a model that gives one thing's rows by name; degrees of freedom are a joint's.
_ACCESSORS = {"jnt": "joint", "dof": "joint"}


@dataclass(frozen=True)
class ModelField:
    """A field of the MuJoCo model, such as `"body_mass"` or `"opt.gravity"`.

    Args:
        field: its dotted name in `mujoco.MjModel`.
        of: the body, geom, joint, ... whose numbers are meant; all of them if left out.
        index: which of its numbers, such as 2 for the vertical one of `opt.gravity`; all if left out.
        mode: whether the task's number multiplies the model's own or replaces it.
    """

    field: str
    of: str | None = None
    index: int | None = None
    mode: Literal["scale", "set"] = "scale"

    def read(self, model: Any) -> NDArray[Any]:
        """Return a copy of the numbers.

        Raises:
            UsageError: the model lacks the field or the thing, or there are no such numbers.
        """
        owner, name = self._place(model)
        return np.array(self._part(getattr(owner, name)))

    def write(self, model: Any, values: NDArray[Any]) -> None:
        """Set the numbers; `values` has the shape that `read` returns, or one that broadcasts."""
        owner, name = self._place(model)
        if isinstance(getattr(owner, name), np.ndarray):
            self._part(getattr(owner, name))[...] = values
        else:
            setattr(owner, name, values.item())

    def _part(self, value: Any) -> Any:
        """Return the indexed part; of an array, one that shares its memory."""
        array = np.asarray(value)
        if array.dtype.kind not in "fiu":
            raise UsageError(f"model field {self.field!r} is {value!r}, which is no number")
        if self.index is None:
            return array
        if array.ndim == 0 or not -len(array) <= self.index < len(array):
            raise UsageError(
                f"model field {self.field!r} has {array.size} numbers; index is {self.index}"
            )
        return array[self.index, ...]

    def _place(self, model: Any) -> tuple[Any, str]:
        """Return what has the numbers as an attribute, and the attribute's name."""
        what = "model field"
        if self.of is None:
            *way, name = self.field.split(".")
            owner = get_path(model, way, what)
        else:
            get_path(model, [self.field], what)
            prefix, _, name = self.field.partition("_")
            owner = self._thing(model, _ACCESSORS.get(prefix, prefix))
            what = f"model field {self.field!r} of {self.of!r}:"
        get_path(owner, [name], what)
        return owner, name

    def _thing(self, model: Any, kind: str) -> Any:
        try:
            return getattr(model, kind)(self.of)
        except (AttributeError, TypeError):
            raise UsageError(
                f"model field {self.field!r} is not of named things; leave out `of`"
            ) from None
        except KeyError as error:  # MuJoCo's message lists the names that there are
            raise UsageError(f"model field {self.field!r}: {error.args[0]}") from None


class Model:
    """A MuJoCo model, with the numbers that it had before tasks changed them.

    Args:
        env: the unwrapped environment, whose `model` it is.
        fields: those that change, by parameter.

    Raises:
        UsageError: there is no such model, or it lacks a field.
        MissingExtraError: mujoco is not installed.
    """

    def __init__(self, env: Any, fields: dict[str, ModelField]) -> None:
        try:
            import mujoco
        except ImportError as error:
            raise MissingExtraError(
                'model fields need mujoco; pip install "mtrl-suite[mujoco]"'
            ) from error
        self._model = getattr(env, "model", None)
        if not isinstance(self._model, mujoco.MjModel):
            raise UsageError(
                f"{type(env).__name__} has no MuJoCo model to set fields of; vary attributes"
            )
        self._fields = fields
        self._original = {name: field.read(self._model) for name, field in fields.items()}
        self._scratch = mujoco.MjData(self._model)
        self._set_const = mujoco.mj_setConst

    def set(self, params: dict[str, Any]) -> None:
        """Give each field its original numbers, then the task's, and derive what follows from them.

        Two parameters may scale the same numbers; both factors count.
        """
        for name, field in self._fields.items():
            field.write(self._model, self._original[name])
        for name, field in self._fields.items():
            value = np.asarray(params[name])
            scaled = field.mode == "scale"
            field.write(self._model, value * field.read(self._model) if scaled else value)
        # The masses of subtrees and the weights of constraints are constants of the model too.
        self._set_const(self._model, self._scratch)
