"""The record, in a folder of runs, of the arrays of tasks that a sweep has submitted to a cluster.

<runs>/.slurm/<job>/
    runs.txt    a line a task: the folder of its run, below <runs>
    <N>.yaml    the settings of the run of task N
    <N>.log     what task N said; what its run said is in the run's own sweep.log
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.errors import read_file
from bench.records.atomic import write_atomic


class SubmissionFolder:
    """The files of one array."""

    def __init__(self, runs: Path, job: str) -> None:
        """
        Args:
            runs: The folder of all runs.
            job: The id of the array, or the pattern that the cluster puts in its place.
        """
        self.runs, self.job = runs.absolute(), job
        self.path = self.runs / ".slurm" / job
        self._listing = self.path / "runs.txt"

    @classmethod
    def all_of(cls, runs: Path) -> Iterator[SubmissionFolder]:
        for path in sorted((runs / ".slurm").glob("*/runs.txt")):
            yield cls(runs, path.parent.name)

    def settings(self, task: int | str) -> Path:
        return self.path / f"{task}.yaml"

    def log(self, task: int | str) -> Path:
        return self.path / f"{task}.log"

    def write(self, folders: Sequence[Path], settings: Sequence[str]) -> None:
        """Keep the runs of the tasks and their settings. What lies there is removed: it is of another
        cluster, or of one that has begun to count anew."""
        shutil.rmtree(self.path, ignore_errors=True)
        for task, text in enumerate(settings):
            write_atomic(self.settings(task), text.encode(), synced=False)
        lines = [str(folder.absolute().relative_to(self.runs)) for folder in folders]
        write_atomic(self._listing, "".join(f"{line}\n" for line in lines).encode())

    def read(self) -> list[Path]:
        """Read the folders of the runs, by task."""
        return [self.runs / line for line in read_file(self._listing).decode().splitlines()]
