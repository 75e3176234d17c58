"""Plants faults, one at a time, and says whether the regression gate catches them. Edits no file.

python tests/regression/plant.py --out DIR                  clean runs, then all gross faults: some hours
python tests/regression/plant.py --out DIR --only no_ema    one fault, or a clean condition, by its name
python tests/regression/plant.py --list

A fault is planted into the process of every run, by replacing a function. The gate runs of the methods it
touches are made with it, below DIR/<fault>, and compared with the baselines, method by method until one of
them does not hold: then the fault is caught. With --thorough all methods are run, which says who catches it.
A clean condition repeats all gate runs with nothing planted, and with what rounds otherwise: other threads,
other instructions of the CPU. What differs there is a false alarm. Without a file of baselines the runs of
DIR/clean become it. The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, product
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # a script has its own folder there, and the checkout is meant

from gate import BASELINES, grid, settings  # noqa: E402
from plants import CASES, CLEAN, FAULTS, SEMI, WEAK  # noqa: E402

from bench.gate.baselines import read_baselines  # noqa: E402
from bench.gate.runs import find_groups  # noqa: E402
from bench.gate.tolerant import compare  # noqa: E402
from bench.gate.verdict import FAULTS as ALARMS  # noqa: E402
from bench.gate.verdict import VerdictRow  # noqa: E402

# The runs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    case: str
    method: str
    split: str
    seed: int

    def arguments(self, out: Path) -> list[str]:
        """Of `python -m bench`."""
        extra = [word for text in CASES[self.case].settings for word in ("--set", text)]
        cell = [
            "--method",
            self.method,
            "--dataset",
            "shapes",
            "--split",
            self.split,
            "--seed",
            str(self.seed),
        ]
        sweep = next(
            of for of in grid()["sweeps"] if of["split"] == self.split and self.method in of["methods"]
        )
        return ["run", *cell, *settings(sweep), *extra, "--resume", "--out", str(out / self.case)]


def jobs_of(name: str) -> list[Job]:
    """The runs of a case, every seed of a method before the next method."""
    case = CASES[name]
    cells = [(method, split) for split, of in ((SEMI, case.semi), (WEAK, case.weak)) for method in of]
    return [Job(name, method, split, seed) for (method, split), seed in product(cells, grid()["seeds"])]


def perform(job: Job, out: Path) -> str | None:
    """Make a run in a process of its own. Answers why it failed."""
    log = out / job.case / f"{job.method}-{job.split}-{job.seed}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    done = log.with_suffix(".done")
    if done.exists():
        return None
    command = [sys.executable, __file__, "--plant", job.case, *job.arguments(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **CASES[job.case].environment}
    with open(log, "w") as file:
        code = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, check=False
        ).returncode
    if code == 0:
        done.touch()
        return None
    return f"{job.method} on {job.split}, seed {job.seed}, ended with code {code} ({log})"


def planted(name: str, arguments: list[str]) -> None:
    """`python -m bench` in this process, with the fault."""
    with CASES[name].plant():
        from bench import cli

        sys.argv = ["bench", *arguments]
        cli.main()


# The verdicts -----------------------------------------------------------------------------------------------


def make(jobs: Sequence[Job], out: Path, at_once: int) -> list[str]:
    """The runs that are not done; answers the failures."""
    with ThreadPoolExecutor(at_once) as pool:
        return [reason for reason in pool.map(lambda job: perform(job, out), jobs) if reason]


@dataclass(frozen=True)
class Verdict:
    failures: list[str]  # runs that came to no end
    broken: set[str]  # baselines that do not hold
    compared: set[str]


def judge(name: str, out: Path, baseline: Path, at_once: int, thorough: bool) -> Verdict:
    """Make the runs of a case and compare them: of a fault method by method, until a baseline is broken."""
    verdict = Verdict([], set(), set())
    jobs = jobs_of(name)
    steps = [jobs]
    if name not in CLEAN and not thorough:
        steps = [list(of) for _, of in groupby(jobs, key=lambda job: (job.method, job.split))]
    for step in steps:
        verdict.failures.extend(make(step, out, at_once))
        if verdict.failures:
            break
        rows = [row for row in examine(name, out, baseline) if row.label not in verdict.compared]
        for row in rows:
            if row.figure == "miou" or row.verdict in ALARMS:
                print(line_of(row), flush=True)
        verdict.compared.update(row.label for row in rows)
        verdict.broken.update(row.label for row in rows if row.verdict in ALARMS)
        if verdict.broken:
            break
    return verdict


def line_of(row: VerdictRow) -> str:
    shown = [f"{x:.4g}" if x is not None else "-" for x in (row.baseline, row.now, row.tolerance)]
    return "  {:44} {:28} {:>9} -> {:>9} ± {:8} {}".format(row.label, row.figure, *shown, row.verdict)


def examine(name: str, out: Path, baseline: Path) -> list[VerdictRow]:
    """What the gate says of the runs of a case that are there.

    It compares all methods at once: those that have no run yet are those of DIR/clean. Seeds are compared as
    a mean, so methods of which some have no run are left out.
    """
    baselines = read_baselines(baseline)
    found = find_groups([out / name])
    clean = find_groups([out / "clean"]) if (out / "clean").exists() else {}
    rows = compare(baselines, {**clean, **found}, baselines.family)
    labels = {group.key.label for group in found.values()}
    partly = {row.label for row in rows if row.verdict == "missing"}
    return [row for row in rows if row.baseline is not None and row.label in labels - partly]


def main() -> int:
    if sys.argv[1:2] == ["--plant"]:
        planted(sys.argv[2], sys.argv[3:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder of the runs")
    parser.add_argument(
        "--only", action="append", choices=list(CASES), metavar="NAME", help="may be repeated"
    )
    parser.add_argument("--baseline", type=Path, default=BASELINES)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--thorough", action="store_true", help="all methods that a fault touches")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    given = parser.parse_args()
    if given.list or given.out is None:
        for name, case in CASES.items():
            print(f"{name:20} {len(jobs_of(name)):3} runs  {case.plant.__doc__ or 'clean'}")
        return 0
    out, baseline, failed = given.out.resolve(), given.baseline.resolve(), False
    if not baseline.exists():
        baseline = out / "baselines.json"
        if not baseline.exists():
            print("no baselines: making them of clean runs", flush=True)
            if failures := make(jobs_of("clean"), out, given.jobs):
                print("\n".join(failures))
                return 1
            command = [
                "check",
                "--baseline",
                str(baseline),
                "--update",
                "--allow-dirty",
                "--allow-weak",
                "--reason",
                "clean runs",
            ]
            print("$", shlex.join(["python", "-m", "bench", *command, str(out / "clean")]), flush=True)
            subprocess.run(
                [sys.executable, "-m", "bench", *command, str(out / "clean")], cwd=ROOT, check=True
            )

    lines = []
    for name in given.only or (*CLEAN, *FAULTS):
        print(f"{name}: {CASES[name].plant.__doc__ if name not in CLEAN else 'clean'}", flush=True)
        verdict = judge(name, out, baseline, given.jobs, given.thorough)
        if verdict.failures:
            print(*verdict.failures, sep="\n")
            lines.append(f"{name:20} {len(verdict.failures)} RUNS FAILED")
            failed = True
            continue
        bad, of = len(verdict.broken), len(verdict.compared)
        if name not in CLEAN:
            said = f"{'caught' if bad else 'NOT CAUGHT'}, by {bad} of {of} baselines"
        else:
            said = f"{bad} FALSE ALARMS" if bad else "no false alarm"
            said += f" of {of} baselines"
        failed |= bool(bad) if name in CLEAN else name in FAULTS and not bad
        lines.append(f"{name:20} {said}")
        print(f"  {said}", flush=True)
    print("", *lines, sep="\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
