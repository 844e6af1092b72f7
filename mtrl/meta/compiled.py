"""Trace a meta-gradient once, derivatives of derivatives included, and let torch compile the result.

`torch.compile` does not differentiate twice. Tracing the whole computation first, inner and outer derivative
together, leaves one flat graph of array operations without any automatic differentiation in it. Products that the
tasks share are joined there (see `shared_products`). On CUDA the compiled kernels are recorded as a CUDA graph, so that
a call launches all of them at once.
"""

import os
import shutil
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from mtrl.errors import UsageError
from mtrl.meta.shared_products import join_shared_products

__all__ = ["TensorFunction", "compile_traced", "has_compiler"]

TensorFunction = Callable[..., Sequence[Tensor]]


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
    if not has_compiler(example[0].device):
        raise UsageError(
            "compile: no C++ compiler found; install g++ or clang++, or set compile to off"
        )
    graph = join_shared_products(make_fx(function)(*example), example)
    if example[0].device.type != "cuda":
        return torch.compile(graph, fullgraph=True, dynamic=False)
    replayed = torch.compile(graph, fullgraph=True, dynamic=False, mode="reduce-overhead")
    # A CUDA graph writes each call's results where those of the call before are.
    return lambda *arguments: [result.clone() for result in replayed(*arguments)]
