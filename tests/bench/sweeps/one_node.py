"""SLURM with one node, in a folder of its own: what tests of a cluster run on."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "srun", "sinfo")
# cred_expire is also how long a requeued job waits before it starts again: 120 s, where nothing is said.
CONF = """\
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,sched_min_interval=100000,bf_interval=1
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
KillWait=20
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def lacking() -> str:
    """Why SLURM cannot be started here, in words; "" where it can."""
    if os.geteuid() != 0:
        return "SLURM's daemons want to be started by root"
    missing = [program for program in PROGRAMS if not shutil.which(program, path=_path())]
    return f"SLURM is not installed: no {', '.join(missing)}" if missing else ""


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


@contextmanager
def one_node() -> Iterator[Mapping[str, str]]:
    """Start it; gives the environment in which its commands reach it. Ended with the block."""
    with ExitStack() as stack:
        # A short path: that of a socket has at most 107 letters.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp")))
        for name in ("munge", "state", "spool"):
            (folder / name).mkdir()
        ports = [_free_port(), _free_port()]
        host = socket.gethostname().partition(".")[0]
        conf = folder / "slurm.conf"
        conf.write_text(CONF.format(host=host, folder=folder, controller=ports[0], daemon=ports[1]))
        key = folder / "munge" / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        environment = {**os.environ, "PATH": _path(), "SLURM_CONF": str(conf)}
        munge = [f"--{what}={folder}/munge/{what.split('-')[0]}" for what in ("socket", "key-file")]
        munge += [f"--{what}-file={folder}/munge/{what}" for what in ("pid", "seed", "log")]
        for command in (["munged", "--foreground", "--force", *munge], ["slurmctld", "-D"], ["slurmd", "-D"]):
            stack.enter_context(_daemon(command, environment, folder / f"{command[0]}.out"))
        _wait_for_the_node(environment, folder)
        yield environment


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def _daemon(command: list[str], environment: Mapping[str, str], said: Path) -> Iterator[None]:
    with open(said, "wb") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for_the_node(environment: Mapping[str, str], folder: Path) -> None:
    for _ in range(300):
        asked = ["sinfo", "--noheader", "--format=%T"]
        state = subprocess.run(asked, env=environment, capture_output=True, text=True).stdout.strip()
        if state == "idle":
            return
        time.sleep(0.1)
    logs = "\n".join(f"{file.name}:\n{file.read_text()[-2000:]}" for file in folder.glob("*.out"))
    raise AssertionError(f"no idle node, but {state!r}\n{logs}")
