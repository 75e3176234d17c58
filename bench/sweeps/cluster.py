"""Requests to a cluster, and calls of SLURM's commands. Needs nothing of a run."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from bench.errors import ConfigError, MachineError


@dataclass(frozen=True)
class Cluster:
    """Resources that the tasks of an array ask for. None is what the cluster gives by itself."""

    partition: str | None = None
    time: str | None = None  # as sbatch takes it, such as 90, 2:00:00 or 1-12
    account: str | None = None
    cpus: int | None = None
    gpus: int | None = None
    more: tuple[str, ...] = ()  # options of sbatch, as they are: --qos=high

    @property
    def options(self) -> list[str]:
        said = {
            "partition": self.partition,
            "time": self.time,
            "account": self.account,
            "cpus-per-task": self.cpus,
            "gres": f"gpu:{self.gpus}" if self.gpus else None,
        }
        return [*(f"--{key}={value}" for key, value in said.items() if value is not None), *self.more]


def check_slurm() -> None:
    if not shutil.which("sbatch"):
        raise ConfigError(
            "there is no sbatch on the PATH: SLURM is called from a login node of its cluster; go there, or "
            "leave out --engine slurm (or --cluster), to stay on this machine."
        )


def called(command: Sequence[str], given: str = "", seconds: float | None = 120) -> str:
    """Call a command of SLURM, and return what it prints.

    Args:
        given: Its standard input.
        seconds: How long it may take; None: as long as it does.

    Raises ConfigError with what it says where it refuses, and MachineError where it does not answer.
    """
    check_slurm()
    try:
        ended = subprocess.run(
            command, input=given, capture_output=True, text=True, timeout=seconds, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MachineError(f"{command[0]} of SLURM does not answer ({error}); try again later.") from error
    if ended.returncode:
        lines = [
            line.removeprefix(f"{command[0]}: ").removeprefix("error: ") for line in ended.stderr.splitlines()
        ]
        said = "; ".join(line for line in lines if line and not line.startswith("Try "))
        raise ConfigError(f"{command[0]} refuses: {said or f'exit code {ended.returncode}'}.")
    return ended.stdout
