"""Where a step waits for the device: operations whose answer the host must know to go on. And where it draws
numbers without a generator of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

LIBRARY = str(Path(torch.__file__).parent)


@contextmanager
def watched() -> Iterator[list[str]]:
    """Collect the waits of the block, each as "aten::nonzero at /path/method.py, line 12".

    The tests run on the CPU, where nothing waits; what is found is what would wait on CUDA.
    """
    found: list[str] = []
    quiet = _Quiet()
    with ExitStack() as stack:
        stack.enter_context(quiet)
        stack.enter_context(_Watch(found, quiet))
        yield found


@contextmanager
def drawn() -> Iterator[list[str]]:
    """Collect the draws of the block from torch's own stream, each as `watched` does. Dropout is none."""
    found: list[str] = []
    dropout = _Dropout()
    with ExitStack() as stack:
        stack.enter_context(dropout)
        stack.enter_context(_Draws(found, dropout))
        yield found


class _Dropout(TorchFunctionMode):
    """Knows when dropout of any kind runs."""

    depth = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        counted = "dropout" in getattr(func, "__name__", "")
        self.depth += counted
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.depth -= counted


class _Draws(TorchDispatchMode):
    def __init__(self, found: list[str], dropout: _Dropout) -> None:
        super().__init__()
        self.found, self.dropout = found, dropout

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        of_its_own = any(isinstance(one, torch.Generator) for one in (*args, *kwargs.values()))
        if torch.Tag.nondeterministic_seeded in func.tags and not of_its_own and not self.dropout.depth:
            self.found.append(f"{func.name()} at {_place(sys._getframe(1))}")
        return func(*args, **kwargs)


class _Quiet(TorchFunctionMode):
    """Knows when a function runs that reads values on the CPU alone: one_hot checks the ids there."""

    depth = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        counted = (
            kwargs.get("num_classes", args[1] if len(args) > 1 else -1) >= 0 if func is F.one_hot else False
        )
        self.depth += counted
        try:
            return func(*args, **kwargs)
        finally:
            self.depth -= counted


class _Watch(TorchDispatchMode):
    def __init__(self, found: list[str], quiet: _Quiet) -> None:
        super().__init__()
        self.found, self.quiet = found, quiet

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        waits = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
        indices = [i for a in args if isinstance(a, list | tuple) for i in a if isinstance(i, Tensor)]
        by_number = "index" in func.name() and all(index.dtype != torch.bool for index in indices)
        if waits & set(func.tags) and not by_number and not self.quiet.depth:
            self.found.append(f"{func.name()} at {_place(sys._getframe(1))}")
        return func(*args, **(kwargs or {}))


def _place(frame: FrameType | None) -> str:
    """File and line of the innermost code that is neither torch's nor of this file."""
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(LIBRARY) and file != __file__ and not file.startswith("<"):
            return f"{file}, line {frame.f_lineno}"
        frame = frame.f_back
    return "an unknown place"
