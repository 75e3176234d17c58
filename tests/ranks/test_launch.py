"""`run --gpus N`: exit codes, signals and kills, by the command line, in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from scenarios import config
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from bench.plan import plan
from bench.records.folders import RunFolder
from bench.records.logs import read_metrics
from bench.records.schema import read_result
from bench.testing import tiny
from bench.torchrun import _began

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, str(Path(__file__).with_name("on_cpu.py")), "run"]
STEPS = 80
LONG = (f"protocol.steps={STEPS}", "protocol.evaluation.every=0")
SAVING = (*LONG, "machine.checkpoint_every=2")
SECONDS = 60  # that a loaded machine may take to end processes; a rank alone would wait for the other


@pytest.fixture
def place(tmp_path: Path) -> Path:
    tiny.make(tmp_path / "data")
    return tmp_path


def started(place: Path, *sets: str, processes: int = 2) -> tuple[subprocess.Popen[str], RunFolder]:
    given = config("supervised", place, "runs", *sets)
    (place / "run.yaml").write_text(given.to_yaml())
    command = [*COMMAND, "--config", str(place / "run.yaml"), "--gpus", str(processes), "--resume"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    return process, plan(given).folder


def saved(folder: RunFolder) -> None:
    """Wait for a checkpoint."""
    limit = time.monotonic() + 300
    while not folder.checkpoint.exists():
        assert time.monotonic() < limit, "no checkpoint"
        time.sleep(0.1)


def children(process: subprocess.Popen[str]) -> list[int]:
    text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(pid) for pid in text.split() if b"on_cpu.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def gone(pids: list[int]) -> bool:
    def alive(pid: int) -> bool:
        try:
            return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False

    return not any(map(alive, pids))


def test_a_signal_is_waited_for_a_kill_ends_all_and_the_run_goes_on(place: Path) -> None:
    """Code 75 after SIGTERM; a rank that is killed ends the other within seconds; the rest is trained."""
    process, folder = started(place, *SAVING)
    saved(folder)
    pids = children(process)
    assert len(pids) == 2
    process.terminate()
    _, said = process.communicate(timeout=300)
    assert process.returncode == 75, said
    assert said.count("stopped:") == 1 and "SIGTERM" in said and "Traceback" not in said
    assert gone(pids) and folder.checkpoint.exists() and not folder.result.exists()

    before = folder.checkpoint.stat().st_mtime_ns
    process, _ = started(place, *SAVING)
    while folder.checkpoint.stat().st_mtime_ns == before:
        assert process.poll() is None
        time.sleep(0.1)
    pids = children(process)
    os.kill(pids[1], signal.SIGKILL)
    killed = time.monotonic()
    _, said = process.communicate(timeout=300)
    assert time.monotonic() - killed < SECONDS and gone(pids)
    assert process.returncode == 1 and "killed by SIGKILL" in said and "--resume" in said
    assert folder.checkpoint.exists() and not folder.result.exists()

    process, _ = started(place, *LONG)
    _, said = process.communicate(timeout=500)
    assert process.returncode == 0, said
    starts = json.loads(folder.provenance.read_text())
    assert [start["ranks"] for start in starts] == [2, 2, 2]
    assert (read_result(folder.result).steps, len(read_metrics(folder.metrics))) == (STEPS, STEPS)
    first, then, last = (start["first_step"] for start in starts)
    assert first == 0 < then <= last, "it went on"


def test_a_short_run_ends_well_and_a_bad_image_gives_its_code(place: Path) -> None:
    process, folder = started(place, "protocol.steps=3")
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0 and folder.result.exists(), said
    assert json.loads(folder.provenance.read_text())[0]["ranks"] == 2
    (place / "data" / "tinyset" / "images" / "train_01.png").write_bytes(b"no image")
    process, _ = started(place, "protocol.steps=3", "protocol.clip=1")
    _, said = process.communicate(timeout=300)
    assert process.returncode == 3 and said.count("error:") == 1 and "train_01" in said, said


@pytest.mark.parametrize(("processes", "words"), [(3, "protocol.batch.labeled is 4, and 3 processes")])
def test_what_cannot_be_shared_is_refused_before_anything_starts(
    place: Path, processes: int, words: str
) -> None:
    process, folder = started(place, processes=processes)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 2 and words in " ".join(said.split()) and not folder.path.exists()


def test_processes_that_cannot_join_their_norms_are_refused_before_they_start(place: Path) -> None:
    """By the real command line, without the stand-in: one sentence, and no folder."""
    given = config("supervised", place, "runs")
    (place / "run.yaml").write_text(given.to_yaml())
    command = [sys.executable, "-m", "bench", "run", "--config", str(place / "run.yaml"), "--gpus", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("error:") == 1 and "needs CUDA devices" in done.stderr
    assert not plan(given).folder.root.exists()
    done = subprocess.run(
        [*command, "--dry-run", "--device", "cpu"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2


def test_a_rank_that_was_killed_is_what_the_others_ended_of() -> None:
    """Torch may see both at once, or the others first; what ends much later is not the cause."""
    ended, killed = (
        ProcessFailure(rank, 1, code, "nowhere") for rank, code in ((0, 1), (1, -signal.SIGKILL))
    )
    for later, cause in ((-1, killed), (0, killed), (2, killed), (60, ended)):
        ended.timestamp, killed.timestamp = 1000, 1000 + later
        assert min((ended, killed), key=_began) is cause
