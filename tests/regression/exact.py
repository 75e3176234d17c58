"""Runs every method for a few steps, by this code and by that of a commit: both must give the same bits.

python tests/regression/exact.py                    compare with the commit of exact.yaml
python tests/regression/exact.py --faults           and plant faults, each of which must change bits
python tests/regression/exact.py --record REASON    from now on, compare with the current commit

Bits agree on one machine alone, so none are kept: the commit's code is taken from the history and run beside
this one, with the same packages. Where bits have changed, the `version` of the method must be higher than at
the commit, or, where what all methods share has changed, PROTOCOL_VERSION (SEED_VERSION for CAM seeds).
Numbers of before are then those of another method or protocol, and no table mixes the two. A change of
settings, such as another default, needs a higher version of the method, or a new commit in exact.yaml.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = Path(__file__).with_name("exact.yaml")
CONTROL = "nothing"  # among the faults: the same code once more, which must be the same bits
# A large step and a quick teacher: confident within a few steps, so that thresholds, masks and queues decide.
SHORT = {
    "protocol.steps": 16,
    "protocol.optimizer.lr": 0.02,
    "protocol.schedule.warmup_steps": 2,
    "cam_seeds.protocol.steps": 16,
    "cam_seeds.protocol.optimizer.lr": 0.02,
    "machine.device": "cpu",
    "machine.threads": 1,
    "machine.workers": 0,
    "machine.log_every": 1,
    "machine.tensorboard": False,
}
KNOBS = {"ema_decay": 0.8, "warmup": 0.25}  # of the methods that have them


@dataclass(frozen=True)
class Cell:
    method: str
    split: str

    def __str__(self) -> str:
        return f"{self.method} on {self.split}"


def cells() -> list[Cell]:
    """Each method of the gate, on its split."""
    from gate import grid

    return [
        Cell(method, of["split"]) for of in (*grid()["sweeps"], *grid()["exact"]) for method in of["methods"]
    ]


# Making runs ------------------------------------------------------------------------------------------------


def make(code: Path, out: Path, faults: Sequence[str]) -> None:
    """In this process, by the code of a checkout: the runs of all cells that it knows, or, for each fault,
    that of one cell, into a folder of its name."""
    sys.path.insert(0, str(code))
    if not faults:
        for cell in cells():
            train(cell, out)
        return
    from plants import CASES, SEMI, WEAK, nothing

    for name in faults:
        case = CASES.get(name)
        split, methods = (SEMI, case.semi) if case and case.semi else (WEAK, case.weak if case else ())
        cell = Cell(methods[0], split) if methods else cells()[0]
        with case.plant() if case else nothing():
            train(cell, out / name)


def train(cell: Cell, out: Path) -> None:
    import bench
    from bench.settings.registry import method_names

    if cell.method in method_names():  # the commit may not have it yet
        bench.run(cell.method, "shapes", cell.split, 0, out=out, set=settings_of(cell))


def settings_of(cell: Cell) -> dict[str, Any]:
    from bench.settings.registry import describe_method

    known = describe_method(cell.method).knobs.model_fields
    return {**SHORT, **{f"method.{name}": value for name, value in KNOBS.items() if name in known}}


def started(code: Path, out: Path, faults: Iterable[str] = ()) -> subprocess.Popen[bytes]:
    """A process that makes runs; what it says goes to a file beside them."""
    out.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, __file__, "--make", str(out), "--code", str(code), *faults]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with open(out / "log.txt", "ab") as log:
        return subprocess.Popen(words, cwd=code, env=environment, stdout=log, stderr=subprocess.STDOUT)


def finish(processes: Mapping[Path, subprocess.Popen[bytes]]) -> None:
    """Wait for all. Raises Failed, with the end of what it said, where one has failed."""
    codes = {out: process.wait() for out, process in processes.items()}
    for out, code in codes.items():
        if code:
            said = (out / "log.txt").read_text(errors="replace").splitlines()[-20:]
            raise Failed("\n".join([*said, f"the runs below {out.name} ended with code {code}."]))


class Failed(Exception):
    """Nothing could be compared; the message says why."""


# The code of before -----------------------------------------------------------------------------------------


def reference() -> str:
    return yaml.safe_load(REFERENCE.read_text())["commit"]


def git(*arguments: str) -> bytes:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=False)
    if done.returncode:
        raise Failed(done.stderr.decode(errors="replace").strip())
    return done.stdout


def unpack(commit: str, to: Path) -> None:
    """The files of a commit. Raises Failed where the history does not have it."""
    try:
        archive = git("archive", "--format=tar", commit)
    except Failed as error:
        raise Failed(
            f"the code of commit {commit[:12]}, named in {REFERENCE.name}, is not in this checkout "
            f"({error}): get the whole history with `git fetch --unshallow`, or compare in a full clone."
        ) from error
    with tarfile.open(fileobj=BytesIO(archive)) as tar:
        tar.extractall(to, filter="data")


def record(reason: str) -> None:
    if git("status", "--porcelain", "--untracked-files=no").strip():
        raise Failed("there are changes that no commit holds; commit them, then record.")
    commit = git("rev-parse", "HEAD").decode().strip()
    head = REFERENCE.read_text().splitlines()[0]
    body = yaml.safe_dump({"commit": commit, "reason": reason}, sort_keys=False, width=1000)
    REFERENCE.write_text(f"{head}\n{body}")


# Comparing --------------------------------------------------------------------------------------------------


def runs_below(out: Path) -> dict[tuple[str, str], Any]:
    """The runs by method and split."""
    from bench.gate.runs import find_groups

    runs = [run for group in find_groups([out]).values() for run in group.runs.values()]
    return {(run.result.method, run.result.split): run for run in runs}


def changes(before: Path, now: Path) -> Iterator[tuple[str, str | None]]:
    """What has changed of each run that both folders have, None where nothing has or a version says so."""
    from bench.gate.exact import change

    old, new = runs_below(before), runs_below(now)
    for key in sorted(old.keys() & new.keys()):
        yield f"{key[0]} on {key[1]}", change(old[key], new[key])


def compare(scratch: Path, faults: Sequence[str]) -> bool:
    """Make all runs, two processes at a time; print a table; whether all is as it should be."""
    commit = reference()
    unpack(commit, scratch / "code")
    now, before = scratch / "now", scratch / "before"
    finish({before: started(scratch / "code", before), now: started(ROOT, now)})
    good = True
    print(f"\n{'run':28} against commit {commit[:12]}")
    for name, what in changes(before, now):
        good &= what is None
        print(f"{name:28} {'ok' if what is None else f'CHANGED: {what}'}", flush=True)
    if faults:
        planted = scratch / "faults"
        halves = {planted / str(i): [*faults[i::2], CONTROL] for i in (0, 1)}
        finish({out: started(ROOT, out, names) for out, names in halves.items()})
        print(f"\n{'fault':28} what it changes")
        for out, names in halves.items():
            for name in names:
                found = list(changes(now, out / name))  # with that of the classifier behind CAM seeds
                moved = [f"{cell}: {what}" for cell, what in found if what is not None]
                good &= bool(found) and bool(moved) == (name != CONTROL)
                print(f"{name:28} {'; '.join(moved) or 'nothing'}", flush=True)
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--faults", action="store_true", help="plant faults, too")
    parser.add_argument("--record", metavar="REASON", help="compare with the current commit from now on")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--code", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("names", nargs="*", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.make:
        make(given.code, given.make, given.names)
        return 0
    sys.path.insert(0, str(ROOT))  # a script has its own folder there, and the checkout is meant
    from plants import FAULTS, SUBTLE

    try:
        if given.record:
            record(given.record)
            return 0
        with TemporaryDirectory(prefix="exact-") as scratch:
            good = compare(Path(scratch), [*FAULTS, *SUBTLE] if given.faults else [])
    except Failed as error:
        print(error, file=sys.stderr)
        return 3
    if not good:
        print(
            "\nBits have moved. A change that is meant raises the `version` of the method, or "
            "PROTOCOL_VERSION. One that cannot, such as other settings, is recorded: "
            "exact.py --record REASON, and commit."
        )
    return 0 if good else 4


if __name__ == "__main__":
    sys.exit(main())
