"""Submits the runs of a grid to SLURM, one task each, and asks where they stand in its queue.

A task is `sweep --config FILE` with the settings of one run: the claims, logs and failures of its run are
those of every sweep. All state is on disk, so the array knows nothing of what a task has done.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError, ConfigError, Interrupted
from bench.outlook import duration, last_like
from bench.records.submissions import SubmissionFolder
from bench.sweeps.cluster import Cluster, called, check_slurm
from bench.sweeps.grid import Cell, Failure, counted

# A task gets SIGTERM this number of seconds before its time is up, to write its checkpoint; SLURM looks
# once a minute, and so may send it one minute sooner.
WARNED, SOONER = 60, 60
# A task of an array goes by ARRAY_TASK: the id of its job alone may mean the whole array.
TASK = """\
#!/bin/bash
{command} --config {settings} & child=$!
trap 'again=1; kill -TERM $child' TERM  # bash does not pass signals on, and `wait` ends with one
while again=; wait $child; code=$?; [ -n "$again" ]; do :; done
task=${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID
# What was stopped, or had not begun, goes on later, unless scancel ended the task: then it runs no longer.
if [[ $code = {stopped} || $code = 143 ]]; then
    scontrol show job $task | grep -qE 'JobState=RUNNING|Reason=TimeLimit' && exec scontrol requeue $task
fi
exit $code
"""


@dataclass(frozen=True)
class Submission:
    """Outcome for the runs of a grid that were to be submitted."""

    job: str | None  # of the array; None where nothing was left to submit
    failures: list[Failure]  # runs that are done by other code or data


def submit_grid(
    cells: Sequence[Cell],
    cluster: Cluster,
    say: Callable[[str], None],
    at_a_time: int | None = None,
    overwrite: bool = False,
) -> Submission:
    """Submit, as one array, the runs that are not done, not running and not in the queue.

    Args:
        at_a_time: How many tasks of the array may run at a time; None: as many as the cluster lets.
        overwrite: Runs of other code or data start again, done or not.

    Raises ConfigError for what SLURM refuses, or a time limit that is too short; nothing is submitted then.
    """
    queued = queue(cells[0].plan.config.machine.runs)
    changed = [] if overwrite else [cell for cell in cells if cell.changed]
    left = [cell for cell in cells if not cell.done and cell not in changed]
    waiting = [cell for cell in left if cell.folder.path.absolute() in queued]
    held = [cell for cell in left if cell not in waiting and cell.folder.holder()]
    to_do = [cell for cell in left if cell not in waiting and cell not in held]
    done = len(cells) - len(left) - len(changed)
    for number, what in ((done, "done already"), (len(waiting), "in the queue already")):
        if number:
            say(f"{number} of {counted(len(cells))} {what}")
    if held:
        say(f"{counted(len(held))} in use by other processes: left to them")
    failures = [Failure(cell.label, cell.changed, cell.folder.sweep_log) for cell in changed]
    if not to_do:
        return Submission(None, failures)
    refuse_short(to_do, cluster.time)
    job = _submit(to_do, cluster, at_a_time, overwrite)
    folder = SubmissionFolder(cells[0].plan.config.machine.runs, job)
    say(f"submitted: {counted(len(to_do))} as job {job}, kept in {folder.path}")
    return Submission(job, failures)


def _submit(cells: Sequence[Cell], cluster: Cluster, at_a_time: int | None, overwrite: bool) -> str:
    """Submit an array, held until its files lie in the folder of its id; the id."""
    runs = cells[0].plan.config.machine.runs.absolute()
    logs = SubmissionFolder(runs, "%A").log("%a").relative_to(runs)
    limit = f"%{at_a_time}" if at_a_time else ""
    command = ["sbatch", "--parsable", "--hold", f"--array=0-{len(cells) - 1}{limit}", "--requeue"]
    command += ["--open-mode=append", f"--signal=B:TERM@{WARNED}", "--job-name=frugalseg", "--ntasks=1"]
    command += [f"--output={str(runs).replace('%', '%%')}/{logs}", *cluster.options]
    job = called(command, _task(runs, cluster.gpus, overwrite)).strip().partition(";")[0]
    try:
        texts = [cell.plan.config.to_yaml() for cell in cells]
        SubmissionFolder(runs, job).write([cell.folder.path for cell in cells], texts)
        called(["scontrol", "release", job])
    except BaseException:
        with suppress(BenchError):
            called(["scancel", job])
        raise
    return job


def _task(runs: Path, gpus: int | None, overwrite: bool) -> str:
    """Write the script of each task of an array."""
    command = [sys.executable, "-m", "bench", "sweep"]
    command += ["--overwrite"] if overwrite else []
    command += ["--gpus", str(gpus)] if gpus else []
    settings = SubmissionFolder(runs, "$SLURM_ARRAY_JOB_ID").settings("$SLURM_ARRAY_TASK_ID")
    place = f"{shlex.quote(str(runs))}/{settings.relative_to(runs)}"
    return TASK.format(command=shlex.join(command), settings=place, stopped=Interrupted.exit_code)


def queue(runs: Path) -> Mapping[Path, str]:
    """Ask SLURM about the tasks of earlier submissions that it has not ended.

    Gives its words by the folder of their run: "job 12_3 PENDING (Priority)".

    Raises ConfigError where SLURM is not there or does not answer.
    """
    known = {folder.job: folder.read() for folder in SubmissionFolder.all_of(runs)}
    if not known:
        check_slurm()
        return {}
    found = {}
    for line in called(["squeue", "--me", "--noheader", "--array", "--format=%F|%K|%T|%r"]).splitlines():
        job, task, state, why = line.split("|", 3)
        if job in known and task.isdecimal() and int(task) < len(known[job]):
            because = f" ({why})" if why != "None" else ""
            found[known[job][int(task)]] = f"job {job}_{task} {state}{because}"
    return found


def refuse_short(cells: Sequence[Cell], time: str | None) -> None:
    """Raise ConfigError for a time limit in which a task could not reach its next checkpoint. The newest
    finished run of the same method and protocol says where a whole run takes less."""
    limit = seconds_of(time) if time else None
    if limit is None:  # of the partition; or not a time, as sbatch will say
        return
    left = limit - WARNED - SOONER
    for cell in {(cell.plan.method.name, cell.plan.config.protocol.hash): cell for cell in cells}.values():
        last, machine = last_like(cell.plan), cell.plan.config.machine
        needed = 60 * machine.checkpoint_minutes
        if last is not None:
            steps = min(machine.checkpoint_every or last.steps, last.steps)
            needed = min(needed, last.train_seconds / last.steps * steps)
        if left < needed or left <= 0:
            raise ConfigError(
                f"--time {time} is too short: a task is told to stop {WARNED} s before its end, or up to "
                f"{SOONER} s sooner, and {cell.plan.method.name} writes its first checkpoint after about "
                f"{duration(needed)}; give more, or lower machine.checkpoint_minutes."
            )


TIMES = re.compile(r"(?:(?P<days>\d+)-)?(?P<parts>\d+(?::\d+){0,2})")


def seconds_of(time: str) -> int | None:
    """Read a time limit as sbatch does: 90 -> 5400, 1:30 -> 90, 2:00:00 -> 7200, 1-12 -> 129600; None where
    it is none, such as UNLIMITED."""
    found = TIMES.fullmatch(time.strip())
    if found is None:
        return None
    parts = list(map(int, found["parts"].split(":")))
    if found["days"] is not None:  # days-hours[:minutes[:seconds]]
        hours, minutes, seconds = [*parts, 0, 0][:3]
        return ((int(found["days"]) * 24 + hours) * 60 + minutes) * 60 + seconds
    hours, minutes, seconds = parts if len(parts) == 3 else [0, *parts, 0][:3]
    return (hours * 60 + minutes) * 60 + seconds
