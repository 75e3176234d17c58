"""A grid on SLURM: one real node where it is installed, and elsewhere stand-ins for its commands."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from commandline import Typed
from one_node import lacking, one_node

from bench import machine, pipeline
from bench.display import Display
from bench.plan import plan
from bench.records.folders import RunFolder
from bench.records.submissions import SubmissionFolder
from bench.settings.schema import RunConfig
from bench.sweeps import slurm

CHECKOUT = Path(__file__).resolve().parents[3]
Config = Callable[..., RunConfig]
Command = Callable[..., subprocess.CompletedProcess[str]]
REAL = pytest.mark.skipif(bool(lacking()), reason=lacking())
GRID = ("--method", "supervised", "--split", "few", "--seed", "0-5", "--engine", "slurm")


@pytest.fixture
def settings(tiny_config: Config, tmp_path: Path) -> Path:
    """The tiny run as a file, without method, split and seed."""
    config = tiny_config("supervised", "protocol.steps=120", "machine.checkpoint_every=10")
    given = config.model_dump(mode="json", exclude={"method", "split", "seed"})
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(given))
    return path


@pytest.fixture
def here(settings: Path, typed: Typed) -> Callable[..., Any]:
    """here("--engine", "slurm"): the sweep in this process; its exit code and what it says."""
    return lambda *words: typed("sweep", *words, "--config", settings)


# On a node ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def node() -> Iterator[Mapping[str, str]]:
    with one_node() as environment:
        yield environment


@pytest.fixture
def sweep(node: Mapping[str, str], settings: Path) -> Command:
    environment = {**node, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "bench", "sweep", *arguments, "--config", str(settings)]
        ended = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True)
        assert "Traceback" not in ended.stderr, ended.stderr
        return ended

    return call


def wait_for(what: Callable[[], Any], seconds: float = 600) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen")


def starts(folder: Path) -> list[int]:
    return [start["first_step"] for start in RunFolder(folder).read_provenance()]


@REAL
@pytest.mark.slow
def test_a_grid_survives_a_stop_a_kill_and_a_cancelled_task(
    node: Mapping[str, str], sweep: Command, tmp_path: Path
) -> None:
    """Each run finishes once: the stopped one by itself, the others with the same command."""

    def call(*command: str) -> str:
        return subprocess.run(command, env=node, check=True, capture_output=True, text=True).stdout

    first = sweep(*GRID)
    assert first.returncode == 0, first
    (job,) = re.findall(r"submitted: 6 runs as job (\d+)", first.stdout)
    runs = SubmissionFolder(tmp_path / "runs", job).read()
    assert len(runs) == 6

    def caught(but: list[int]) -> int:
        """A task whose run trains, has a checkpoint, and is none of those."""
        for _ in range(6000):
            for task, folder in enumerate(map(RunFolder, runs)):
                if task not in but and folder.checkpoint.exists() and folder.holder():
                    return task
            time.sleep(0.05)
        raise AssertionError("no run trains")

    stopped = caught([])
    # The signal arrives at once; SLURM 22.05 answers all the same that it did not, and scancel sends another
    # one after five seconds.
    with suppress(subprocess.TimeoutExpired):
        signalled = ["scancel", "--signal=TERM", "--batch", f"{job}_{stopped}"]
        subprocess.run(signalled, env=node, check=True, timeout=3)
    again = sweep(*GRID, "--status")
    assert again.returncode == 0 and "in the queue" in again.stdout.splitlines()[0], again
    assert re.search(rf"to do .*; job {job}_5 PENDING \(\w+\)", again.stdout), again.stdout
    killed = caught([stopped])
    holder = RunFolder(runs[killed]).holder() or ""
    os.kill(int(holder.split()[1]), signal.SIGKILL)
    cancelled = caught([stopped, killed])
    call("scancel", f"{job}_{cancelled}")
    wait_for(lambda: not call("squeue", "--noheader"))

    states = {task: RunFolder(run).result.exists() for task, run in enumerate(runs)}
    assert {task for task, done in states.items() if not done} == {killed, cancelled}
    assert len(starts(runs[stopped])) == 2 and starts(runs[stopped])[1] > 0
    assert "killed by SIGKILL" in RunFolder(runs[killed]).failure.read_text()
    assert RunFolder(runs[cancelled]).checkpoint.exists() and len(starts(runs[cancelled])) == 1

    second = sweep(*GRID)
    assert second.returncode == 0 and "4 of 6 runs done already" in second.stdout, second
    assert "submitted: 2 runs as job" in second.stdout
    wait_for(lambda: not call("squeue", "--noheader"))
    assert all(RunFolder(run).result.exists() for run in runs)
    for task, run in enumerate(runs):
        assert len(starts(run)) == (2 if task in (stopped, killed, cancelled) else 1), task
        assert task not in (killed, cancelled) or starts(run)[1] > 0

    third = sweep(*GRID)
    assert third.returncode == 0 and "6 of 6 runs done already" in third.stdout, third
    assert "submitted" not in third.stdout and re.search(r"supervised .*\(6\)", third.stdout)


@REAL
@pytest.mark.slow
def test_what_slurm_refuses_is_one_sentence(node: Mapping[str, str], sweep: Command, tmp_path: Path) -> None:
    for options, said in (
        (["--partition", "nope"], "sbatch refuses: invalid partition specified: nope"),
        (["--frobnicate=2"], "sbatch refuses: unrecognized option '--frobnicate=2'"),
        (["--gpus", "2"], "sbatch refuses: "),
    ):
        ended = sweep(*GRID, *options)
        assert ended.returncode == 2 and said in ended.stderr and len(ended.stderr.splitlines()) == 1, ended
    asked = subprocess.run(["squeue", "--noheader"], env=node, capture_output=True, text=True)
    assert asked.stdout == "" and not (tmp_path / "runs").exists()


# Anywhere ---------------------------------------------------------------------------------------------------

# Each writes its name and options in a line, and behind it its standard input.
STAND_IN = """#!/bin/bash
echo "$(basename "$0") $*" >> {calls}
case $(basename "$0") in
sbatch) cat > {script}; echo 7 ;;
squeue) cat {queue} ;;
scontrol) [ "$1" != show ] || cat {shown} ;;
esac
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what stand-ins of SLURM's commands were `calls` with, and what they say: `queue`, and of
    a job `shown`; `script` is what was submitted."""
    folder = tmp_path / "cluster"
    (folder / "bin").mkdir(parents=True)
    files = {name: folder / name for name in ("calls", "script", "queue", "shown")}
    for file in files.values():
        file.touch()
    for name in ("sbatch", "squeue", "scontrol", "scancel"):
        program = folder / "bin" / name
        program.write_text(STAND_IN.format(**files))
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    return folder


def test_options_go_to_sbatch_and_settings_to_the_folder_of_the_job(
    here: Callable[..., tuple[int, str, str]], cluster: Path, tmp_path: Path
) -> None:
    asked = ["--partition", "gpu", "--time", "2:00:00", "--cpus", "4", "--gpus", "2", "--account", "us"]
    code, out, err = here(*GRID, *asked, "--jobs", "3", "--qos=high", "--exclusive")
    assert code == 0 and "submitted: 6 runs as job 7" in out, err
    submitted, released = (cluster / "calls").read_text().splitlines()
    words = submitted.split()
    assert {"--array=0-5%3", "--requeue", "--hold", "--partition=gpu", "--time=2:00:00"} <= set(words)
    assert words[-6:] == [
        *("--time=2:00:00", "--account=us", "--cpus-per-task=4", "--gres=gpu:2", "--qos=high", "--exclusive"),
    ]
    assert released == "scontrol release 7", "held until its files lie there"
    folder = SubmissionFolder(tmp_path / "runs", "7")
    assert f"--output={folder.log('%a')}".replace("/7/", "/%A/") in words
    assert [run.name[:2] for run in folder.read()] == ["0-", "1-", "2-", "3-", "4-", "5-"]
    assert yaml.safe_load(folder.settings(4).read_text())["seed"] == 4
    assert "-m bench sweep --gpus 2 --config " in (cluster / "script").read_text()


@pytest.mark.parametrize(
    "how", [["--engine", "slurm"], [], ["--dry-run"], ["--dry-run", "--cost"]], ids=" ".join
)
def test_gpus_that_cannot_share_a_batch_are_refused_before_anything_is_submitted_or_started(
    how: list[str], here: Callable[..., tuple[int, str, str]], cluster: Path, tmp_path: Path
) -> None:
    grid = GRID[: GRID.index("--engine")]
    code, out, err = here(*grid, "--gpus", "3", *how)
    assert code == 2 and "protocol.batch.labeled is 2, and 3 processes cannot" in f"{out}{err}"
    assert (cluster / "calls").read_text() == "" and not (tmp_path / "runs").exists()


def test_what_is_done_running_or_queued_is_not_submitted_again(
    here: Callable[..., tuple[int, str, str]], cluster: Path, tiny_config: Config
) -> None:
    sets = ("protocol.steps=120", "machine.checkpoint_every=10")
    assert here(*GRID)[0] == 0
    pipeline.run(plan(tiny_config("supervised", *sets, "protocol.steps=2", seed=0)), Display())
    (cluster / "queue").write_text("7|1|PENDING|Priority\n7|2|RUNNING|None\n6|3|PENDING|Priority\n")
    (cluster / "calls").write_text("")
    with plan(tiny_config("supervised", *sets, seed=3)).folder.claimed():
        code, out, _ = here(*GRID)
        assert code == 0 and "2 of 6 runs in the queue already" in out
        assert "1 run in use by other processes: left to them" in out
        assert "--array=0-2 " in (cluster / "calls").read_text()
    # another job of the same id, as this stand-in has but one: tasks 0, 1, 2 are now of the seeds 0, 4, 5
    code, out, _ = here(*GRID, "--status")
    head, *lines = out.splitlines()
    assert head == "6 runs: 6 to do, 2 in the queue"
    assert lines[4].startswith("to do        supervised on tinyset few, seed 4; job 7_1 PENDING (Priority)  ")
    assert lines[5].startswith("to do        supervised on tinyset few, seed 5; job 7_2 RUNNING  ")
    assert "job" not in "".join(lines[:4])
    shown = json.loads(here(*GRID, "--status", "--json")[1])
    assert [run["queued"] for run in shown["runs"]] == [
        *[""] * 4,
        "job 7_1 PENDING (Priority)",
        "job 7_2 RUNNING",
    ]


def test_without_slurm_one_sentence_says_so(
    here: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for more in ((), ("--status",)):
        code, _, err = here(*GRID, *more)
        assert code == 2 and "there is no sbatch on the PATH" in err
    assert not (tmp_path / "runs").exists()


def test_a_time_limit_shorter_than_a_checkpoint_is_refused(
    here: Callable[..., tuple[int, str, str]], cluster: Path, tiny_config: Config, tmp_path: Path
) -> None:
    code, _, err = here(*GRID, "--time", "6:59")
    assert code == 2 and "--time 6:59 is too short: a task is told to stop 60 s before its end" in err
    assert "supervised writes its first checkpoint after about 5 min" in err, "every five minutes"
    config = tiny_config("supervised", "protocol.steps=2", f"machine.out={tmp_path}/o")
    result = pipeline.run(plan(config), Display())
    like = plan(tiny_config("supervised", "protocol.steps=120")).config.protocol.hash
    of_others = {"protocol_hash": like, "train_seconds": 2400.0, "steps": 120}
    folder = RunFolder(tmp_path / "runs/tinyset/few/supervised/9-00000000")
    folder.write_result(result.model_copy(update=of_others))  # 20 s a step, and a checkpoint every 10 steps
    code, _, err = here(*GRID, "--time", "5:19")
    assert code == 2 and "after about 3 min" in err
    code, _, err = here(*GRID, "--time", "2", "--set", "machine.checkpoint_minutes=1e-6")
    assert code == 2, "nothing is left"
    assert (cluster / "calls").read_text() == ""
    assert here(*GRID, "--time", "5:21")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--engine", "slurm", "--qos", "high"],
            "--qos high: an option that is sbatch's own is one word, --qos=high",
        ),
        (["--partition", "gpu"], "--partition is for a cluster; add --engine slurm"),
        (["--engine", "slrum"], "did you mean 'slurm'?"),
        (["--qos=high"], "No such option"),
    ],
)
def test_slips_of_the_command_line(
    arguments: list[str], said: str, here: Callable[..., tuple[int, str, str]], cluster: Path
) -> None:
    code, _, err = here("--method", "supervised", "--split", "few", *arguments)
    assert code == 2 and said in " ".join(err.split())
    assert (cluster / "calls").read_text() == ""


def test_a_submission_whose_files_cannot_be_written_is_cancelled(
    here: Callable[..., tuple[int, str, str]], cluster: Path, tmp_path: Path
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / ".slurm").touch()
    code, _, err = here(*GRID)
    assert code != 0 and "is no folder" in err
    assert (cluster / "calls").read_text().splitlines()[-1] == "scancel 7"


@pytest.mark.parametrize(
    ("state", "signal_is", "requeued", "code"),
    [
        ("RUNNING Reason=None", "handled", True, 0),
        ("RUNNING Reason=None", "SIG_DFL", True, 0),  # before the sweep of the task listens to it
        ("COMPLETING Reason=TimeLimit", "handled", True, 0),
        ("COMPLETING Reason=None", "handled", False, 75),
    ],
    ids=["stopped", "stopped at its start", "out of time", "cancelled"],
)
def test_a_stopped_task_is_requeued_and_a_cancelled_one_is_not(
    state: str, signal_is: str, requeued: bool, code: int, cluster: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "my runs"  # a blank in its name
    SubmissionFolder(runs, "7").write([], [""] * 3)
    saved = tmp_path / "run.py"
    saved.write_text(
        "import pathlib, signal, sys, time\n"
        "assert sys.argv[-2] == '--config' and pathlib.Path(sys.argv[-1]).name == '2.yaml'\n"
        "assert pathlib.Path(sys.argv[-1]).exists()\n"
        "def handled(*_):\n    time.sleep(0.3)\n    sys.exit(75)\n"
        "SIG_DFL = signal.SIG_DFL\n"
        f"signal.signal(signal.SIGTERM, {signal_is})\nprint('runs', flush=True)\ntime.sleep(60)\n"
    )
    script = slurm._task(runs, None, False).replace("-m bench sweep", str(saved))
    (cluster / "shown").write_text(f"JobId=9 JobState={state}\n")
    environment = {**os.environ, "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}
    task = subprocess.Popen(["bash", "-c", script], env=environment, stdout=subprocess.PIPE, text=True)
    assert task.stdout is not None and task.stdout.readline() == "runs\n"
    task.terminate()
    assert task.wait(20) == code
    calls = (cluster / "calls").read_text().splitlines()
    assert calls[0] == "scontrol show job 7_2", "not the whole array"
    assert calls[1:] == (["scontrol requeue 7_2"] if requeued else [])


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        *(("90", 5400), ("1:30", 90), ("2:00:00", 7200), ("1-12", 129600), ("1-2:30", 95400)),
        *(("0-0:1:1", 61), ("UNLIMITED", None), ("soon", None)),
    ],
)
def test_time_limits_are_read_as_sbatch_does(time: str, seconds: int | None) -> None:
    assert slurm.seconds_of(time) == seconds


def test_a_task_uses_the_cores_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(machine, "_container_share", lambda: float("inf"))
    assert machine.cores() == 64
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "8")
    assert machine.cores() == 8
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "4")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert machine.cores() == 4 and machine.threads_for(None, workers=1) == 3
