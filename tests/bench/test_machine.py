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
