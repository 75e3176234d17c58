"""Do the locks on a folder of runs hold between the machines of a cluster? Asked by two tasks.

The first task takes a lock and tells the second, which must be refused; then the first gives it back, and the
second must get it. They tell each other by files in the folder, since that is all they share.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError, ConfigError
from bench.records.atomic import locked, write_atomic
from bench.sweeps.cluster import Cluster, called

WAIT_SECONDS = 120.0  # for the other task's file: a network disk shows it after up to a minute
POLL_SECONDS = 0.2
START_SECONDS = 1800.0  # for the two tasks, whose cluster may be busy


@dataclass(frozen=True)
class LockVerdict:
    """Whether the locks hold, and between which machines."""

    hold: bool
    said: str


def ask(runs: Path, cluster: Cluster) -> LockVerdict:
    """Start the two tasks, each on a machine of its own where the cluster has two, and wait for them.

    Raises ConfigError for what SLURM refuses, or where a task has failed.
    """
    runs = runs.absolute()
    folder = runs / f".locks-{os.urandom(4).hex()}"
    of = [f"--partition={cluster.partition}"] if cluster.partition else []
    nodes = min(2, sum(map(int, called(["sinfo", "--noheader", "--format=%D", *of]).split())))
    spread = ["--nodes=2", "--ntasks-per-node=1"] if nodes > 1 else ["--nodes=1"]
    command = ["srun", "--ntasks=2", *spread, "--job-name=frugalseg"]
    command += ["--kill-on-bad-exit=1", *cluster.options]
    task = [sys.executable, "-m", "bench.sweeps.locks", str(folder)]
    made = not runs.exists()
    folder.mkdir(parents=True)
    try:
        called([*command, *task], seconds=START_SECONDS)
        first, second = ((folder / f"answer{number}").read_text().split() for number in (0, 1))
    except OSError as error:
        raise ConfigError(
            f"{runs} is not one folder for all machines of the cluster: what a task wrote is not there "
            f"({error.strerror}); put it on a disk that they share, with --out."
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if made:
            runs.rmdir()
    return judge(first, second)


def judge(first: Sequence[str], second: Sequence[str]) -> LockVerdict:
    """Judge the locks by the answers of two tasks: the machine of each, and of the second what it saw.

    judge(["n1"], ["n2", "refused", "got"]) -> LockVerdict(True, "locks hold between n1 and n2").
    """
    one, (other, while_held, when_free) = first[0], second
    between = (
        f"between {one} and {other}" if one != other else f"between two tasks on {one}, the only machine"
    )
    if while_held == "got":
        return LockVerdict(
            False, f"a lock held on {one} is not seen on {other}: a run could be started twice"
        )
    if when_free != "got":
        return LockVerdict(False, f"a lock that {one} has given back stays held on {other}")
    return LockVerdict(True, f"locks hold {between}")


def take_part(folder: Path, number: int) -> None:
    """Be one of the two tasks.

    Raises BenchError where the folder is not there, cannot be locked, or the other task does not answer.
    """
    host = socket.gethostname()
    if not folder.is_dir():
        raise BenchError(f"{host} does not see {folder.parent}: put it where all machines see it (--out).")
    with open(folder / "lock", "a") as file:
        if number == 0:
            locked(file.fileno(), folder.parent, fcntl.LOCK_EX)
            _tell(folder, "held", host)
            _told(folder, "tried")
            fcntl.flock(file.fileno(), fcntl.LOCK_UN)
            _tell(folder, "free", host)
            _tell(folder, "answer0", host)
        else:
            _told(folder, "held")
            while_held = _try(file.fileno(), folder)
            _tell(folder, "tried", host)
            _told(folder, "free")
            _tell(folder, "answer1", f"{host} {while_held} {_try(file.fileno(), folder)}")


def _try(file: int, folder: Path) -> str:
    """Try to take the lock, and give it back at once."""
    if not locked(file, folder.parent, fcntl.LOCK_EX | fcntl.LOCK_NB):
        return "refused"
    fcntl.flock(file, fcntl.LOCK_UN)
    return "got"


def _tell(folder: Path, what: str, said: str) -> None:
    write_atomic(folder / what, said.encode())


def _told(folder: Path, what: str) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while what not in os.listdir(folder):  # a network disk remembers longer that a single file was not there
        if time.monotonic() > end:
            raise BenchError(
                f"{socket.gethostname()} sees no file of the other task in {folder.parent}: put it on a disk "
                "that all machines share (--out)."
            )
        time.sleep(POLL_SECONDS)


def mount_of(path: Path, mounts: str) -> str:
    """Find what a path lies on, by the text of /proc/self/mountinfo: "nfs4 (rw,local_lock=all)".

    "" where the text does not say.
    """
    found = ("", "")
    for line in mounts.splitlines():
        words, _, behind = line.partition(" - ")
        place, kind = words.split()[4], behind.split()
        if path.is_relative_to(place) and len(place) >= len(found[0]):
            found = (place, f"{kind[0]} ({kind[-1]})")
    return found[1]


if __name__ == "__main__":
    try:
        take_part(Path(sys.argv[1]), int(os.environ["SLURM_PROCID"]))
    except BenchError as failure:
        sys.exit(f"error: {failure}")
