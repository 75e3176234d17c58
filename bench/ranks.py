"""The processes of one run, its ranks, as torchrun starts them: what they decide together.

Rank 0 claims, writes and speaks. What any rank meets, such as a signal or an image that cannot be read, ends
all of them at the same place, since a rank that went on alone would wait for the others for ever. With one
rank each of these functions does what it says of that rank, and needs no torch.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from bench.errors import BenchError, ConfigError, DataError, Interrupted, InUse, MachineError
from bench.machine import CUBLAS, FIXED_WORKSPACE, Stop, choose_device

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")
E = TypeVar("E", bound=Exception)
# How long a rank waits for another one: CAM seeds are refined by rank 0 alone. A rank that is gone is noticed
# at once.
PATIENCE = timedelta(days=2)
KINDS = (InUse, ConfigError, DataError, MachineError, Interrupted, BenchError)  # subclasses come first
# What gloo and nccl say of a process that is gone.
LOST = re.compile(r"Connection (closed|reset) by peer|Broken pipe|gloo|NCCL|[Cc]onnection.*(refused|aborted)")

_talk: Any = None  # the group of ranks that speak through the CPU, where there are several
_have_met = False  # what goes wrong before is the same for all


def started() -> int:
    """How many ranks torchrun has started of this run; 1 where it was not started by torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def on_this_machine() -> int:
    """How many of them share the cores of this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if started() > 1 else 1


def count() -> int:
    """How many ranks have met."""
    return 1 if _talk is None else _talk.size()


def number() -> int:
    """Of this rank, from 0 on."""
    return 0 if _talk is None else _talk.rank()


def is_first() -> bool:
    """Whether this process writes and speaks; known before the ranks have met."""
    return started() == 1 or os.environ["RANK"] == "0"


def check_devices(device: str, processes: int) -> None:
    """Raise ConfigError where this number of processes of one machine cannot have a device each.

    Args:
        device: As `bench.machine.choose_device` gives it.
    """
    import torch

    if ":" in device:
        raise ConfigError(
            f"machine.device is {device!r}, and each of several processes takes its own; use cuda."
        )
    if device == "cuda" and processes > torch.cuda.device_count():
        raise ConfigError(
            f"{processes} processes need a CUDA device each, and torch sees {torch.cuda.device_count()}; "
            "start no more than that."
        )


@contextmanager
def met(device: str, deterministic: bool = False) -> Iterator[None]:
    """Let the ranks that torchrun has started find each other, for the block.

    Args:
        device: As machine.device says: of "cuda" each takes the one of its number on its machine.
        deterministic: As of `bench.machine.use_device`, which comes too late for it where ranks meet.

    Raises ConfigError for a device that ranks cannot share.
    """
    global _talk, _have_met
    if started() == 1:
        yield
        return
    import torch
    import torch.distributed as dist

    from bench.pool import end_with_parent

    device = choose_device(device)
    check_devices(device, on_this_machine())
    end_with_parent()  # torchrun has put it into a session of its own
    if device == "cuda":
        if deterministic:
            os.environ.setdefault(CUBLAS, FIXED_WORKSPACE)
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=PATIENCE)
    # Barriers of nccl would keep a core and the GPU busy.
    _talk = dist.new_group(backend="gloo", timeout=PATIENCE) if device == "cuda" else dist.group.WORLD
    _have_met = True
    try:
        with lost_ranks():
            yield
            highest([0])  # or the first to end would be an error for the others
    finally:
        _talk = None
    dist.destroy_process_group()  # not behind an error, where a rank may be gone that it would wait for


@contextmanager
def lost_ranks() -> Iterator[None]:
    """Turn what a rank sees of another one's end into a BenchError of one sentence."""
    try:
        yield
    except RuntimeError as error:
        if count() == 1 or not LOST.search(str(error)):
            raise
        raise BenchError(
            "another process of this run has ended, so this one ends too; what was saved before is kept, go "
            "on with --resume."
        ) from error


# Agreeing ---------------------------------------------------------------------------------------------------


def highest(values: Iterable[int]) -> list[int]:
    """Return the highest of all ranks, of each value."""
    if count() == 1:
        return list(values)
    import torch
    import torch.distributed as dist

    given = torch.tensor(list(values), dtype=torch.int64)
    dist.all_reduce(given, dist.ReduceOp.MAX, group=_talk)
    return [int(value) for value in given]


def of_all(value: T) -> list[T]:
    """Collect what each rank gives, in the order of the ranks; anything that can be pickled."""
    if count() == 1:
        return [value]
    import torch.distributed as dist

    found: list[Any] = [None] * count()
    dist.all_gather_object(found, value, group=_talk)
    return found


def share(items: list[T]) -> list[T]:
    """Return this rank's part of a list: of N ranks, every N-th item."""
    return items[number() :: count()]


def put_together(parts: np.ndarray) -> np.ndarray:
    """Of each rank what it has found of its `share`: what all found, in the order of the list."""
    if count() == 1:
        return parts
    import numpy as np

    every = of_all(parts)
    whole = np.empty((sum(map(len, every)), *parts.shape[1:]), parts.dtype)
    for place, part in enumerate(every):
        whole[place :: count()] = part
    return whole


@contextmanager
def together() -> Iterator[None]:
    """Raise on every rank what any of them has raised in the block, when all are through.

    In the block no rank may wait for another one once something can fail.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as caught:
        if count() == 1:
            raise
        error = caught
    if count() > 1 and highest([error is not None])[0]:
        _raise(error)


def first_alone(work: Callable[[], T]) -> T:
    """Let rank 0 do what it does for all. Gives what it gives, or raises what it raises, on every rank.

    What it gives can be pickled.
    """
    answer: Any = None
    with together():
        if number() == 0:
            answer = work()
    return answer if count() == 1 else of_all(answer)[0]


def _raise(own: Exception | None) -> None:
    """Raise what the first rank that has something to raise has, elsewhere as an error of ours."""
    kind = next((place for place, kind in enumerate(KINDS) if isinstance(own, kind)), None)
    text = f"{own}" if kind is not None else f"{type(own).__name__}: {own}"
    told = of_all(None if own is None else (kind, text))
    place, (kind, text) = next((place, one) for place, one in enumerate(told) if one is not None)
    ours = own is not None and place == number()
    error = own if ours else KINDS[-1 if kind is None else kind](text)
    assert error is not None, "it is this rank's own, or made here"
    raise alike(error)


def alike(error: E) -> E:
    """Mark the error as one that all ranks raise, so that one of them says it: see `speaks_of`. Return it."""
    error.of_all_ranks = True  # type: ignore[attr-defined]
    return error


def speaks_of(error: BaseException) -> bool:
    """Whether this process is the one that says an error: rank 0, or a rank that is alone with its own."""
    shared = any(hasattr(one, "of_all_ranks") for one in (error, error.__cause__))
    return is_first() or (_have_met and not shared)


class JointStop(Stop):
    """A stop that all ranks come to know at the same step, of whichever has had the signal."""

    def __init__(self, own: Stop) -> None:
        self._own = own

    @property
    def own(self) -> Stop:
        return self._own

    def check(self) -> None:
        try:
            super().check()
        except Interrupted as error:
            raise alike(error) from None


def agreed_stop(stop: Stop) -> Stop:
    """Return the stop to look at between steps, where every rank must find the same."""
    return stop if count() == 1 else JointStop(stop)


def in_step(items: Iterable[T], stop: Stop, asks: Callable[[], bool]) -> Iterator[tuple[T, bool]]:
    """Go through as many items on every rank, one at a time. Raises on all of them what getting an item
    raises on one.

    Args:
        stop: As `agreed_stop` gives it; it may change with each item.
        asks: Asked before each item; beside the item comes whether any rank has said yes.
    """
    if count() == 1:
        yield from ((item, asks()) for item in items)
        return
    own, end = iter(items), object()
    while True:
        item: Any = end
        error: Exception | None = None
        try:
            item = next(own, end)
        except Exception as caught:
            error = caught
        failed, asked, yes = highest([error is not None, stop.own.signal or 0, asks()])
        if failed:
            _raise(error)
        stop.signal = signal.Signals(asked) if asked else None
        if item is end:
            return
        yield item, bool(yes)
