"""Do locks hold between two tasks? Two processes of this machine are the tasks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from one_node import lacking, one_node

from bench import doctor
from bench.sweeps import locks
from bench.sweeps.cluster import Cluster

CHECKOUT = Path(__file__).resolve().parents[3]
MOUNTS = """\
21 1 0:20 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
44 21 0:41 / /home/us rw,nosuid shared:9 - nfs4 server:/us rw,vers=4.2,local_lock=none
45 21 0:42 / /home rw shared:9 - nfs server:/ rw,vers=3,nolock
"""


def tasks(folder: Path, program: str) -> list[subprocess.Popen[str]]:
    environments = ({**os.environ, "SLURM_PROCID": str(number)} for number in (0, 1))
    return [
        subprocess.Popen(
            [sys.executable, "-c", program, str(folder)],
            env=of,
            cwd=CHECKOUT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for of in environments
    ]


TASK = "import os, sys; from pathlib import Path; from bench.sweeps.locks import take_part\n{}\n"
TASK += "take_part(Path(sys.argv[1]), int(os.environ['SLURM_PROCID']))"
NO_LOCKS = "import fcntl; fcntl.flock = lambda file, how: None"


@pytest.mark.parametrize(("changed", "hold"), [("", True), (NO_LOCKS, False)], ids=["locks", "no locks"])
def test_two_tasks_find_out(changed: str, hold: bool, tmp_path: Path) -> None:
    for task in tasks(tmp_path, TASK.format(changed)):
        assert task.wait(60) == 0, task.communicate()
    first, second = ((tmp_path / f"answer{number}").read_text().split() for number in (0, 1))
    assert locks.judge(first, second).hold == hold


def test_what_the_answers_mean() -> None:
    assert locks.judge(["a"], ["b", "refused", "got"]) == locks.LockVerdict(
        True, "locks hold between a and b"
    )
    assert "only machine" in locks.judge(["a"], ["a", "refused", "got"]).said
    twice = locks.judge(["a"], ["b", "got", "got"])
    assert not twice.hold and "held on a is not seen on b" in twice.said
    assert not locks.judge(["a"], ["b", "refused", "refused"]).hold


def test_the_kind_of_disk() -> None:
    assert locks.mount_of(Path("/home/us/runs"), MOUNTS) == "nfs4 (rw,vers=4.2,local_lock=none)"
    assert locks.mount_of(Path("/home/users"), MOUNTS) == "nfs (rw,vers=3,nolock)"
    assert locks.mount_of(Path("/srv"), MOUNTS) == "ext4 (rw,errors=remount-ro)"


def test_a_folder_that_a_task_does_not_see(tmp_path: Path) -> None:
    with pytest.raises(locks.BenchError, match="does not see"):
        locks.take_part(tmp_path / "gone", 0)


def test_a_disk_that_loses_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = locks.LockVerdict(False, "a lock held on a is not seen on b: a run could be started twice")
    monkeypatch.setattr(doctor, "ask", lambda out, cluster: lost)
    check = doctor._locks(tmp_path, Cluster())
    assert check.state == "fail" and f"{tmp_path} is on " in check.detail and "NFS 4" in check.fix


@pytest.mark.skipif(bool(lacking()), reason=lacking())
@pytest.mark.slow
def test_the_doctor_asks_two_tasks_of_slurm(tmp_path: Path) -> None:
    def asked(*options: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "bench",
            "doctor",
            "--cluster",
            "--out",
            str(tmp_path / "runs"),
            *options,
        ]
        return subprocess.run(command, cwd=CHECKOUT, env=node, capture_output=True, text=True)

    node: Mapping[str, str]
    with one_node() as node:
        found = asked()
        assert "ok   locks: locks hold between two tasks on " in found.stdout, found
        refused = asked("--partition", "nope")
        assert refused.returncode == 5 and "srun refuses: invalid partition specified: nope" in refused.stdout
    assert not (tmp_path / "runs").exists()
