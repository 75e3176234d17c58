"""`python -m bench.testing package.module:Class` checks one method and says which promises it keeps.

With words behind it, such as "two ranks", only the checks with these words in their names.
"""

from __future__ import annotations

import sys
import time
import traceback
from pathlib import Path

import torch

import bench
from bench.display import Display, Terminal
from bench.errors import BenchError, ConfigError
from bench.settings.registry import describe_method, method_names, named_class
from bench.testing import method_checks

USAGE = """\
usage: python -m bench.testing package.module:Class ["two ranks" ...]
A method of ours goes by its name. Words behind it choose the checks that have them in their names."""
OURS, LIBRARY = (str(Path(str(module.__file__)).parent) for module in (bench, torch))


def main(arguments: list[str]) -> int:
    """Print a line for each check; answer the exit code: 0 all hold, 1 one fails, 2 nothing to check."""
    if not arguments or arguments[0].startswith("-"):
        print(USAGE, file=sys.stderr)
        return 2
    place, *words = arguments
    torch.set_num_threads(1)
    try:
        method = describe_method(place) if place in method_names() else named_class(place, f"method {place}")
        checks = list(method_checks(method))
        names = [name for name, _ in checks]
        if unknown := [of for of in words if not any(of in name for name in names)]:
            raise ConfigError(f"no check has {unknown[0]!r} in its name; there are: {', '.join(names)}.")
        checks = [(name, check) for name, check in checks if not words or any(of in name for of in words)]
    except BenchError as error:
        Display().say(f"error: {error}")
        return 2
    failed, said = 0, Display(Terminal())
    reasons: dict[str, str] = {}  # of failures so far, with the check where each came first
    for name, check in checks:
        started = time.monotonic()
        try:
            check()
        except Exception as error:  # of the method that is checked
            failed += 1
            what = str(error) if isinstance(error, AssertionError) else unforeseen(error)
            same = reasons.setdefault(what, name)
            said.say(f"FAILED  {name}: {what or 'no reason given' if same == name else f'as in {same!r}'}")
        else:
            said.say(f"ok      {name} ({time.monotonic() - started:.1f} s)")
    said.say(f"{len(checks) - failed} of {len(checks)} checks hold")
    return 1 if failed else 0


def unforeseen(error: Exception) -> str:
    """Say what an error is, and where: the last line of the method's own code, or of what called it."""
    if isinstance(error, BenchError):
        return f"{type(error).__name__}: {error}"
    files = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    own = [f"{file}, line {line}" for file, line in files if not file.startswith((LIBRARY, OURS, "<"))]
    return f"{type(error).__name__}: {error}" + (f" (at {own[-1]})" if own else "")


if __name__ == "__main__":
    sys.path.insert(0, "")  # a module in the folder that the user stands in
    sys.exit(main(sys.argv[1:]))
