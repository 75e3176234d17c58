"""Processes at one folder at one time: no file is half, no change is lost, one run is one process's."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from .stops import CHECKOUT
from .trials import Trial

WRITERS = """
import sys
from pathlib import Path
from bench.records.atomic import write_atomic
file, own = Path(sys.argv[1]), sys.argv[2]
for number in range(40):
    write_atomic(file, (own * 5000).encode())
    data = file.read_bytes()
    assert len(data) == 5000 and len(set(data)) == 1, "half a file"
"""
COUNTERS = """
import sys
from pathlib import Path
from bench.records.atomic import folder_claimed, write_atomic
file = Path(sys.argv[1])
for number in range(25):
    with folder_claimed(file.parent):
        write_atomic(file, str(int(file.read_text() or 0) + 1 if file.exists() else 1).encode())
"""
CLAIMS = """
import os, sys, time
from pathlib import Path
from bench.errors import InUse
from bench.records.folders import RunFolder
folder = RunFolder(Path(sys.argv[1]).parent / "run")
for number in range(60):
    try:
        with folder.claimed():
            inside = folder.path / "inside"
            os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
            time.sleep(0.002)
            inside.unlink()
    except InUse as error:
        assert "in use by" in str(error)
"""


def races(work: Path, draws: random.Random, tried: int) -> Iterator[Trial]:
    """`tried` of each kind, of two to eight processes."""
    for kind, program in {"writers": WRITERS, "counters": COUNTERS, "claims": CLAIMS}.items():
        for number in range(tried):
            file, many = work / f"{kind} {number}" / "file", draws.randint(2, 8)
            file.parent.mkdir()
            started = [
                subprocess.Popen(
                    [sys.executable, "-c", program, str(file), "abcdefgh"[one]],
                    cwd=CHECKOUT,
                    stderr=subprocess.PIPE,
                    text=True,
                )
                for one in range(many)
            ]
            said = [process.communicate(timeout=120)[1] for process in started]
            lost = next((text for text in said if text), "")
            if kind == "counters" and not lost and int(file.read_text()) != 25 * many:
                lost = f"{file.read_text()} of {25 * many} changes"
            if list(file.parent.glob(".*.tmp")):
                lost = "litter"
            yield Trial(f"{kind} of one folder at a time", f"{many} processes", not lost, lost)
