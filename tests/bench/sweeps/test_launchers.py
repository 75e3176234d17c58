"""Several sweeps of one grid, with a stand-in for the run: they share it, and do not run in lockstep."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bench import pipeline
from bench.display import Display
from bench.plan import plan
from bench.records.atomic import write_atomic
from bench.settings.schema import RunConfig
from bench.sweeps import grid, launch
from bench.sweeps.grid import Cell

Config = Callable[..., RunConfig]
# As `bench run`: some time passes before it claims its folder, it is refused where that is held, and its
# result comes last. A run in BAD fails.
STAND_IN = """#!{python} -S
import fcntl, os, sys, time
from pathlib import Path
folder = Path(os.readlink("/proc/self/fd/2")).parent
with open({starts!r}, "a") as starts:
    starts.write(folder.name + "\\n")
time.sleep(0.3)
with open(folder / ".lock", "a+") as lock:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(6)
    (folder / "failure.txt").unlink(missing_ok=True)
    time.sleep(0.2)
    if folder.name.startswith({bad!r}):
        sys.exit("error: it cannot be")
    if not (folder / "result.json").exists():
        (folder / "result.tmp").write_bytes(Path({result!r}).read_bytes())
        (folder / "result.tmp").rename(folder / "result.json")
"""


@pytest.fixture
def cells(tiny_config: Config) -> list[Cell]:
    given = tiny_config("supervised").model_dump(mode="json", exclude={"method", "split", "seed"})
    span = grid.Span(methods=["supervised"], splits=["few"], seeds=range(24))
    return grid.grid(span, flags=given)[0]


@pytest.fixture
def stand_in(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Callable[[], list[str]]]:
    """stand_in("3-"): runs of seed 3 fail. Answers what gives the names of the folders of all starts."""

    def make(bad: str = "none") -> Callable[[], list[str]]:
        config = tiny_config("supervised", f"machine.out={tmp_path}/other", "protocol.steps=1")
        pipeline.run(plan(config), Display())
        script, starts = tmp_path / "run", tmp_path / "starts"
        script.write_text(
            STAND_IN.format(
                python=sys.executable, starts=str(starts), result=str(plan(config).folder.result), bad=bad
            )
        )
        script.chmod(0o755)
        monkeypatch.setattr(launch.sys, "executable", str(script))
        monkeypatch.setattr(launch, "HELD_SECONDS", 0.5)
        return lambda: starts.read_text().split() if starts.exists() else []

    return make


def launched(cells: Sequence[Cell], launchers: int) -> list[launch.Outcome]:
    with ThreadPoolExecutor(launchers) as pool:
        started = [
            pool.submit(launch._Launcher(cells, 1, lambda line: None).run, []) for _ in range(launchers)
        ]
        return [one.result() for one in started]


@pytest.mark.slow
def test_eight_launchers_start_each_run_once(
    cells: list[Cell], stand_in: Callable[..., Callable[[], list[str]]]
) -> None:
    """All begin with the first run, and none of them sees that another has started it."""
    starts = stand_in()
    outcomes = launched(cells, 8)
    assert all(outcome.failures == [] for outcome in outcomes) and all(cell.done for cell in cells)
    assert len(set(starts())) == 24 and len(starts()) == 24


@pytest.mark.slow
def test_a_run_that_fails_is_tried_by_one_launcher_and_said_by_all(
    cells: list[Cell], stand_in: Callable[..., Callable[[], list[str]]]
) -> None:
    starts = stand_in("1-")
    outcomes = launched(cells[:4], 4)
    assert [len(outcome.failures) for outcome in outcomes] == [1] * 4
    assert all("it cannot be" in outcome.failures[0].reason for outcome in outcomes)
    assert sorted(name[0] for name in starts()) == ["0", "1", "2", "3"]


def test_the_right_to_start_is_given_back(
    cells: list[Cell], stand_in: Callable[..., Callable[[], list[str]]]
) -> None:
    """After a run's end, and with a launcher that is gone."""
    stand_in("0-")
    launched(cells[:1], 1)
    right = cells[0].folder.right_to_start()
    assert right is not None
    launcher = launch._Launcher(cells[:1], 1, lambda line: None)
    launcher._start(cells[0])
    assert launcher.held == [cells[0]] and not launcher.running
    right.close()
    write_atomic(cells[0].folder.failure, b"meanwhile\n")
    launcher._start(cells[0])
    assert [failure.reason for failure in launcher.failures] == ["in another process: meanwhile"]
    assert not launcher.running and cells[0].folder.right_to_start() is not None


def test_a_disk_without_locks_fails_the_run_in_a_sentence(
    cells: list[Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(fcntl, "flock", flock)
    (outcome,) = launched(cells[:1], 1)
    assert "cannot lock files" in outcome.failures[0].reason
