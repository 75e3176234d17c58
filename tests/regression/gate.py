"""Runs the regression gate: the sweeps of runs.yaml, then `bench check`. Prints each command before it runs.

python tests/regression/gate.py              into a folder that is removed afterwards
python tests/regression/gate.py --out DIR    into a folder that is kept; the same command goes on with it
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
RUNS = Path(__file__).with_name("runs.yaml")
BASELINES = Path(__file__).with_name("baselines.json")


def grid() -> dict[str, Any]:
    """What runs.yaml says: "seeds", "set" of all, and "sweeps", each with "split", "methods", "set",
    and "exact", what exact.py runs beside them."""
    return yaml.safe_load(RUNS.read_text())


def settings(sweep: dict[str, Any]) -> list[str]:
    """The options of a sweep and of each of its runs."""
    return [word for text in (*grid()["set"], *sweep.get("set", ())) for word in ("--set", text)]


def sweep_commands(out: Path, jobs: int) -> list[list[str]]:
    """The arguments of `python -m bench` that make the runs."""
    seeds = ",".join(map(str, grid()["seeds"]))
    common = ["--dataset", "shapes", "--seed", seeds, "--jobs", str(jobs), "--out", str(out)]
    return [
        ["sweep", "--method", ",".join(of["methods"]), "--split", of["split"], *settings(of), *common]
        for of in grid()["sweeps"]
    ]


def bench(arguments: list[str]) -> int:
    print("$", shlex.join(["OMP_NUM_THREADS=1", "python", "-m", "bench", *arguments]), flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments], cwd=ROOT, env=environment, check=False
    ).returncode


def run(out: Path, jobs: int, baseline: Path) -> int:
    """The exit code: that of the first sweep that fails, else that of `check`."""
    for command in sweep_commands(out, jobs):
        if code := bench(command):
            return code
    return bench(["check", "--strict", "--baseline", str(baseline), str(out)])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder of the runs")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--baseline", type=Path, default=BASELINES)
    given = parser.parse_args()
    baseline = given.baseline.resolve()
    if given.out is not None:
        return run(given.out.resolve(), given.jobs, baseline)
    with TemporaryDirectory(prefix="regress-") as scratch:
        return run(Path(scratch), given.jobs, baseline)


if __name__ == "__main__":
    sys.exit(main())
