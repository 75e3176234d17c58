"""Cores by one rule: those a process is bound to, and no more than its container grants."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench import machine


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of control groups that grants everything, on a machine of 64 cores."""
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("quota", "share", "cores"),
    [("max 100000", 64, 64), ("200000 100000", 2, 2), ("150000 100000", 1.5, 1), ("50000 100000", 0.5, 1)],
)
def test_a_container_grants_a_share_of_the_cores(
    quota: str, share: float, cores: int, container: Path
) -> None:
    (container / "cpu.max").write_text(f"{quota}\n")
    assert machine.core_share() == share and machine.cores() == cores


@pytest.mark.parametrize(("quota", "cores"), [(-1, 64), (300_000, 3)])
def test_older_control_groups_count_too(quota: int, cores: int, container: Path) -> None:
    (container / "cpu").mkdir()
    (container / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (container / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert machine.cores() == cores


def test_a_system_that_binds_no_process_has_all_cores(
    container: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """macOS has no sched_getaffinity."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 10)
    assert machine.cores() == 10


# Threads --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "asked", "said", "workers", "jobs", "threads"),
    [
        (8, None, None, 1, 1, 7),  # a worker loads, the others compute
        (8, None, None, 0, 1, 8),
        (2, None, None, 1, 1, 1),
        (1, None, None, 4, 1, 1),  # one at least
        (8, 3, "2", 1, 1, 3),  # as asked for
        (8, None, "2", 1, 1, 2),  # as the user's environment says
        (8, None, "many", 1, 1, 7),
        (8, None, None, 1, 2, 3),  # each of two runs has half of the cores, and a worker
        (8, None, "8", 1, 2, 3),
        (2.5, None, None, 1, 1, 1),  # of a container
    ],
)
def test_threads_are_the_cores_that_workers_leave(
    monkeypatch: pytest.MonkeyPatch,
    share: float,
    asked: int | None,
    said: str | None,
    workers: int,
    jobs: int,
    threads: int,
) -> None:
    monkeypatch.setattr(machine, "core_share", lambda: share)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert machine.threads_for(asked, workers, jobs) == threads


@pytest.mark.parametrize(("said", "found"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_wait_passively_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, said: str | None, found: str
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", said or "")
    if said is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    machine.wait_passively()
    assert os.environ["OMP_WAIT_POLICY"] == found
    monkeypatch.delenv("OMP_WAIT_POLICY")
