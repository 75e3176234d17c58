"""Runs a grid minus what is done. Each run is a process of its own, so that none of them stops the others.

Several sweeps may share a grid, on one machine or on several that share the folder of all runs: a run in use
elsewhere is passed over and looked at again at the end.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import TextIO

from bench.errors import DataError, Interrupted, InUse, MachineError, refuse_no_file
from bench.machine import stop_signals, threads_for
from bench.outlook import duration
from bench.records.atomic import refuse_no_folder, write_atomic
from bench.settings.schema import RunConfig
from bench.sweeps.grid import Cell, Failure, counted

POLL_SECONDS = 0.1  # between looks at the processes
HELD_SECONDS = 2.0  # between looks at runs that another process holds


@dataclass
class Worker:
    cell: Cell
    process: subprocess.Popen[bytes]
    log_from: int  # where in the log this start begins
    right: TextIO  # to start the run, which no other sweep has until this is closed
    began: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Outcome:
    failures: list[Failure]
    stopped_by: int | None  # the signal that ended the sweep


def run_grid(
    cells: Sequence[Cell], jobs: int, say: Callable[[str], None], overwrite: bool = False, gpus_each: int = 1
) -> Outcome:
    """Run what is not done, `jobs` at a time, with one line per run that ends.

    With `overwrite` runs of other code or data are started again, done or not. Each run has
    `gpus_each` CUDA devices, where there are any.

    The first SIGINT, SIGTERM, SIGHUP or SIGQUIT is passed on: the runs finish their step, save, and are
    waited for. A second one kills them.

    Raises ConfigError where no folder can hold the runs.
    """
    for root in {cell.plan.config.machine.runs for cell in cells}:
        refuse_no_folder(root)
    with stop_signals() as seen:
        return _Launcher(cells, jobs, say, overwrite, gpus_each).run(seen)


class _Launcher:
    def __init__(
        self,
        cells: Sequence[Cell],
        jobs: int,
        say: Callable[[str], None],
        overwrite: bool = False,
        gpus_each: int = 1,
    ) -> None:
        self._say, self.jobs, self.overwrite = say, max(1, min(jobs, len(cells))), overwrite
        self.gpus_each = gpus_each
        self.devices = gpus(cells[0].plan.config.machine.device) if cells else []
        self.todo = deque(cell for cell in cells if not cell.done)
        self.held: list[Cell] = []  # in use by another process
        self.failed_before = {cell.folder.path: cell.failure for cell in self.todo}
        self.look_again = 0.0
        self.running: dict[int, Worker] = {}
        self.failures: list[Failure] = []
        self.total, self.ended, self.ran = len(cells), len(cells) - len(self.todo), 0
        self.began = time.monotonic()
        self.stopping = self.killing = False

    def say(self, line: str) -> None:
        """Print a line. If stdout is a closed pipe, the runs go on all the same."""
        with suppress(OSError, SystemExit):  # rich answers a broken pipe with SystemExit
            self._say(line)

    def run(self, seen: list[int]) -> Outcome:
        if self.ended:
            self.say(f"{self.ended} of {counted(self.total)} done already")
        try:
            while True:
                ended = [slot for slot, of in self.running.items() if of.process.poll() is not None]
                if seen and not self.stopping:  # before their ends are judged: it may have ended them
                    self._stop(seen[0])
                for slot in ended:
                    self._settle(self.running.pop(slot))
                if len(seen) > 1 and not self.killing:
                    self._kill()
                while not self.stopping and len(self.running) < self.jobs and (cell := self._next()):
                    self._start(cell)
                if not self.running and (self.stopping or not (self.todo or self.held)):
                    return Outcome(self.failures, seen[0] if seen else None)
                time.sleep(POLL_SECONDS)
        finally:  # whatever happens here, no run is left behind
            for worker in self.running.values():
                worker.process.terminate()
            for worker in self.running.values():
                worker.process.wait()

    def _next(self) -> Cell | None:
        """Find a run that nobody holds."""
        now = time.monotonic()
        if not self.todo and now >= self.look_again:
            self.todo.extend(self.held)
            self.held.clear()
        while self.todo:
            cell = self.todo.popleft()
            if not (cell.done or self._refuses(cell)) and cell.folder.holder():
                self._hold(cell)
            elif not self._settled(cell):
                return cell
        return None

    def _settled(self, cell: Cell) -> bool:
        """Whether another sweep has brought a run to its end, good or bad."""
        if cell.done:
            self._end(cell, "done by another process")
        elif said := self._refuses(cell):
            self._fail(cell, said)
        elif (failure := cell.failure) and failure != self.failed_before[cell.folder.path]:
            self._fail(cell, f"in another process: {failure[0]}")
        else:
            return False
        return True

    def _refuses(self, cell: Cell) -> str:
        """Why a finished run is not taken, in words, unless it is to be started again."""
        return "" if self.overwrite else cell.changed

    def _hold(self, cell: Cell) -> None:
        if not self.look_again:
            self.say("runs in use by other processes are passed over and looked at again at the end")
        self.held.append(cell)
        self.look_again = time.monotonic() + HELD_SECONDS

    def _start(self, cell: Cell) -> None:
        try:
            right = cell.folder.right_to_start()
            if right is None:
                self._hold(cell)
            elif self._settled(cell):  # since the look
                right.close()
            else:
                self._launch(cell, right)
        except (OSError, DataError, MachineError) as error:  # not to be written, or not to be locked
            self._fail(cell, f"it could not be started ({error}); mend what is named, or remove the folder")

    def _launch(self, cell: Cell, right: TextIO) -> None:
        slot = min(set(range(self.jobs)) - self.running.keys())
        config = with_threads(cell.plan.config, self.jobs)
        environment = dict(os.environ)
        if self.devices:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(share(self.devices, slot, self.gpus_each))
        how = ["--overwrite" if self.overwrite and cell.outdated else "--resume"]
        how += ["--gpus", str(self.gpus_each)] if self.gpus_each > 1 else []
        if cell.folder.sweep_log.exists():
            refuse_no_file(cell.folder.sweep_log)
        with TemporaryFile() as settings, open(cell.folder.sweep_log, "ab") as log:
            settings.write(config.to_yaml().encode())
            settings.seek(0)
            process = subprocess.Popen(
                [sys.executable, "-m", "bench", "run", "--config", "/dev/stdin", *how],
                stdin=settings,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=environment,
                start_new_session=True,  # a terminal's Ctrl-C reaches the sweep alone, which passes it on
            )
            self.running[slot] = Worker(cell, process, log.tell(), right)
        self.say(f"started: {cell.label}  {cell.folder.sweep_log}")

    def _stop(self, number: int) -> None:
        self.stopping = True
        for worker in self.running.values():
            worker.process.terminate()
        if self.running:
            self.say(
                f"{signal.Signals(number).name}: waiting for {counted(len(self.running))} to save; a second "
                "signal kills them, and they lose the steps since their last checkpoint"
            )

    def _kill(self) -> None:
        """With their loader processes: each run is a session of its own."""
        self.killing = True
        for worker in self.running.values():
            with suppress(ProcessLookupError):
                os.killpg(worker.process.pid, signal.SIGKILL)

    def _settle(self, worker: Worker) -> None:
        """Say what became of a run that ended; then another sweep may start it."""
        with worker.right:
            self._say_end(worker)

    def _say_end(self, worker: Worker) -> None:
        cell, code = worker.cell, worker.process.returncode
        result = cell.result if code == 0 else None
        if result is not None:
            self.ran += 1
            spent = duration(time.monotonic() - worker.began)
            self._end(cell, f"mIoU {100 * result.predictor.miou:.1f} % in {spent}")
        elif code == InUse.exit_code:
            self._hold(cell)
        elif not (self.stopping and code in STOPPED):
            # Without an error it has a result, of other code or data: they were changed while it ran.
            why = cell.changed if code == 0 else ""
            why = why or reason(code, said(cell.folder.sweep_log, worker.log_from))
            self.ran += 1
            with suppress(OSError):
                write_atomic(cell.folder.failure, f"{why}\n".encode())
            self._fail(cell, why, saved=code == Interrupted.exit_code)

    def _fail(self, cell: Cell, why: str, saved: bool = False) -> None:
        self.failures.append(Failure(cell.label, why, cell.folder.sweep_log, saved))
        self._end(cell, f"failed: {why}")

    def _end(self, cell: Cell, what: str) -> None:
        self.ended += 1
        spent = time.monotonic() - self.began
        left = self.total - self.ended
        eta = f", about {duration(spent / self.ran * left)} to go" if left and self.ran else ""
        self.say(f"[{self.ended}/{self.total}] {cell.label}: {what}; {duration(spent)} so far{eta}")


# Exit codes of a run that was asked to stop: it saved (75), was signalled outside its handler, or was killed.
STOPPED = (
    Interrupted.exit_code,
    *(128 + number for number in (signal.SIGTERM, signal.SIGINT)),
    *(-number for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL)),
)


def with_threads(config: RunConfig, jobs: int) -> RunConfig:
    """Return the settings of a run with the threads that it has as one of `jobs` at a time."""
    threads = threads_for(config.machine.threads, config.machine.workers, jobs)
    return config.model_copy(update={"machine": config.machine.model_copy(update={"threads": threads})})


def share(devices: Sequence[str], slot: int, each: int) -> list[str]:
    """Pick the devices of one of the runs at a time: share("abcd", 1, 2) -> c d.

    Runs share devices where there are too few.
    """
    return [
        devices[place % len(devices)] for place in range(slot * each, slot * each + min(each, len(devices)))
    ]


def gpus(device: str) -> list[str]:
    """List the CUDA devices to spread runs over: CUDA_VISIBLE_DEVICES, else all that the driver lists.

    None where the device is the CPU or one that the settings name.
    """
    if device not in ("auto", "cuda"):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None and shutil.which("nvidia-smi"):
        command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
        try:
            listed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired):  # a driver that hangs: the runs find out by themselves
            return []
        visible = ",".join(listed.stdout.split()) if listed.returncode == 0 else None
    return [name.strip() for name in (visible or "").split(",") if name.strip()]


def said(log: Path, start: int) -> str:
    """Find the last error in a run's log after `start`, as one line; without any, the last line."""
    try:
        with open(log, "rb") as file:
            file.seek(start)
            text = file.read().decode(errors="replace")
    except OSError:  # removed meanwhile
        return ""
    return last_words(text)


def last_words(text: str) -> str:
    """Find the last error in what a run said, as one line; without any, the last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [place for place, line in enumerate(lines) if line.startswith("error: ")]
    return " ".join(lines[(errors or [-1])[-1] :])


def reason(code: int, last_words: str) -> str:
    """Why a run failed, from its exit code and the last it said."""
    if code < 0:
        hint = " (out of memory?)" if code == -signal.SIGKILL else ""
        return f"killed by {signal.Signals(-code).name}{hint}; the same command goes on with it"
    if code == Interrupted.exit_code:
        return "stopped by a signal from elsewhere, and saved; the same command goes on with it"
    return last_words.removeprefix("error: ") or f"ended with code {code} and without a result"
