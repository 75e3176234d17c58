"""System calls that fail: nothing is lost, and the sentence names the place."""

from __future__ import annotations

import builtins
import errno
import fcntl
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.errors import BenchError

from .trials import Trial, config, run, same, straight, swapped

ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS, errno.EDQUOT)
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
SETS = ("protocol.steps=4", "machine.log_every=2", "machine.checkpoint_every=2", "cam_seeds.refine=none")


class Failing:
    """An open file whose writes fail."""

    def __init__(self, file: Any, error: OSError) -> None:
        self._file, self._error = file, error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Failing:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, data: bytes) -> None:
        self._file.write(data[: len(data) // 2])
        raise self._error


def failing(call: str, number: int, when: int, below: Path) -> Any:
    """The `when`-th such call on a file below a folder fails."""
    owner, name = {
        "open": (builtins, "open"),
        "write": (builtins, "open"),
        "flock": (fcntl, "flock"),
        "rename": (os, "replace"),
    }.get(call, (os, call))
    real: Callable[..., Any] = getattr(owner, name)
    seen = 0

    def place(given: tuple[Any, ...]) -> str:
        first = given[-1] if call == "rename" else given[0]
        if call == "flock" and not isinstance(first, int):
            first = first.fileno()
        return os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else str(first)

    def reads(given: tuple[Any, ...]) -> bool:
        return (
            name == "open"
            and owner is builtins
            and not set("wax+") & set(given[1] if len(given) > 1 else "r")
        )

    def fake(*given: Any, **named: Any) -> Any:
        nonlocal seen
        if reads(given) or not place(given).startswith(str(below)):
            return real(*given, **named)
        seen += 1
        if seen != when and call != "flock":
            return real(*given, **named)
        error = OSError(number, os.strerror(number), None if call in ("fsync", "flock") else place(given))
        if call == "write":
            return Failing(real(*given, **named), OSError(number, os.strerror(number)))
        raise error

    return swapped(owner, name, fake)


def calls(work: Path, draws: random.Random, tried: int) -> Iterator[Trial]:
    for number in range(tried):
        split = ("few", "tags")[number % 6 == 0]
        call = ("open", "write", "fsync", "rename", "mkdir", "flock")[number % 6 if number % 12 else 1]
        most = {"mkdir": 3, "flock": 1}.get(call, 14 if split == "few" else 60)
        code, when = draws.choice(NO_LOCKS if call == "flock" else ERRORS), draws.randint(1, most)
        given = config(work / f"call {number}", "supervised", *SETS, split=split)
        out, said, lost = Path(given.machine.out), "", ""
        try:
            with failing(call, code, when, out):
                run(given)
        except BenchError as error:
            said = str(error)
            lost = "" if str(out) in said and os.strerror(code) in said and ".tmp" not in said else said
        except Exception as error:
            lost = f"{type(error).__name__}: {error}"
        if not lost:
            run(given)
            lost = same(given, straight(work, "supervised", *SETS, split=split))
        row = "a disk without locks" if call == "flock" else "a call that fails while a run writes"
        yield Trial(row, f"{call} {when} with {errno.errorcode[code]} on {split}", not lost, lost)
