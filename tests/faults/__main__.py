"""`python -m tests.faults [--long] [part ...]`: prints the table; exit code 1 where something is lost."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from .campaign import PARTS, trials
from .trials import Trial, table


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Break runs on purpose.")
    parser.add_argument("--long", action="store_true", help="more of each, about half an hour")
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; default: all")
    asked = parser.parse_args()
    if unknown := sorted(set(asked.parts) - set(PARTS)):
        parser.error(f"no part {unknown[0]!r}; give some of {', '.join(PARTS)}")
    found: list[Trial] = []
    with tempfile.TemporaryDirectory(prefix="faults-") as work:
        for name in asked.parts or PARTS:
            began = time.monotonic()
            found += trials(name, Path(work), asked.long)
            print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    print(table(found))
    return 0 if all(trial.survived for trial in found) else 1


if __name__ == "__main__":
    sys.exit(main())
