"""Trace a meta-gradient once, derivatives of derivatives included, and let torch compile the result.

`torch.compile` does not differentiate twice. Tracing the whole computation first, inner and outer derivative
together, leaves one flat graph of array operations without any automatic differentiation in it. Products that the
tasks share are joined there (see `shared_products`), and thin ones written out (see `thin_products`). What calls the
compiled kernels is itself compiled on a CPU; on CUDA they are recorded as a CUDA graph, so that a call launches all of
them at once.
"""

import os
import shutil
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from mtrl.errors import UsageError
from mtrl.meta.constant_part import split_off_constants
from mtrl.meta.shared_products import join_shared_products
from mtrl.meta.thin_products import write_out_thin_products

__all__ = [
    "CompiledByShape",
    "PreparedByShape",
    "TensorFunction",
    "compile_prepared",
    "compile_traced",
    "has_compiler",
]

TensorFunction = Callable[..., Sequence[Tensor]]
Prepared = Callable[[Tensor], Sequence[Tensor]]
"""A function of one more argument, the others given."""


def has_compiler(device: torch.device) -> bool:
    """Return whether torch can compile for `device` here: on a CPU that takes a C++ compiler."""
    if device.type != "cpu":
        return True
    return any(shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++") if name)


def compile_traced(function: TensorFunction, example: Sequence[Tensor]) -> TensorFunction:
    """Compile `function` for tensors of exactly the shapes, types and device of `example`.

    Results are the caller's to keep, on every device.

    Args:
        function: takes and returns tensors; may call `torch.autograd.grad`. It must not look at values.
        example: arguments to trace with.

    Raises:
        UsageError: there is no compiler.
    """
    return _compiled(_traced(function, example), example[0].device)


def compile_prepared(
    function: TensorFunction, example: Sequence[Tensor]
) -> Callable[..., Prepared]:
    """Compile `function` as two: what depends on its first argument, and all else, which is then computed once.

    Args:
        function, example: as for `compile_traced`.

    Returns:
        What takes all other arguments and returns the function of the first.

    Raises:
        UsageError: there is no compiler.
    """
    parts = split_off_constants(_traced(function, example))
    constant, rest = (_compiled(part, example[0].device) for part in parts)

    def prepare(*others: Tensor) -> Prepared:
        known = constant(*others)
        return lambda first: rest(first, *known)

    return prepare


def _traced(function: TensorFunction, example: Sequence[Tensor]) -> GraphModule:
    if not has_compiler(example[0].device):
        raise UsageError(
            "compile: no C++ compiler found; install g++ or clang++, or set compile to off"
        )
    joined = join_shared_products(make_fx(function)(*example), example)
    return write_out_thin_products(joined, example)


def _compiled(graph: GraphModule, device: torch.device) -> TensorFunction:
    if device.type != "cuda":
        # Calling a few dozen kernels from Python takes as long as small ones do.
        return torch.compile(graph, fullgraph=True, dynamic=False, options={"cpp_wrapper": True})
    replayed = torch.compile(graph, fullgraph=True, dynamic=False, mode="reduce-overhead")
    # A CUDA graph writes each call's results where those of the call before are.
    return lambda *arguments: [result.clone() for result in replayed(*arguments)]


class CompiledByShape:
    """A function of tensors that is compiled for each combination of shapes that occurs; see `compile_traced`."""

    def __init__(self, function: TensorFunction) -> None:
        self._function = function
        self._made: dict[tuple[torch.Size, ...], TensorFunction] = {}

    def __call__(self, *arguments: Tensor) -> Sequence[Tensor]:
        """Return what the function does; results have no graph.

        Raises:
            UsageError: there is no compiler.
        """
        shapes = tuple(argument.shape for argument in arguments)
        if shapes not in self._made:
            self._made[shapes] = compile_traced(self._function, arguments)
        with torch.no_grad():
            return self._made[shapes](*arguments)


class PreparedByShape:
    """A function of a tensor and of others that stay the same, compiled likewise; see `compile_prepared`."""

    def __init__(self, function: TensorFunction) -> None:
        self._function = function
        self._made: dict[tuple[torch.Size, ...], Callable[..., Prepared]] = {}

    def __call__(self, example: Tensor, *others: Tensor) -> Prepared:
        """Return the function of the first argument, given the others; `example` is one to trace with.

        Raises:
            UsageError: there is no compiler.
        """
        shapes = tuple(argument.shape for argument in (example, *others))
        if shapes not in self._made:
            self._made[shapes] = compile_prepared(self._function, [example, *others])
        with torch.no_grad():
            prepared = self._made[shapes](*others)
        return torch.no_grad()(prepared)
