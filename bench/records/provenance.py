"""How a run was made: versions, hardware, commit. Recorded with every start; nothing here may stop a run."""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import tomllib
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("bench", "methods", "datasets", "reports")
VARIABLES = ("OMP_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG", "PYTHONHASHSEED")


def collect(command: Sequence[str], cores: int) -> dict[str, Any]:
    """Time, command, versions, hardware and commit, fit for JSON; no user, host or home folder.

    Args:
        command: The words that make the run, without folders.
        cores: How many this process may use.
    """
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(command),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions(),
        "cpu": {"model": cpu_model(), "cores": cores},
        "torch": _torch(),
        "git": commit(ROOT),
        "environment": {name: os.environ.get(name) for name in VARIABLES},
    }


def cpu_model() -> str:
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        match = None
    return match[1] if match else platform.processor() or platform.machine()


def versions() -> dict[str, str | None]:
    """Installed version of every dependency but those for development; None where it is not installed."""
    return {name: _installed(name) for name in dependencies()}


@cache  # each reads a file of mail headers, and a process may start many runs
def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def dependencies() -> list[str]:
    """Names from pyproject.toml of the checkout, or from the metadata of an installed copy."""
    try:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())
        table = project["project"]
        groups = [
            *table.get("optional-dependencies", {}).items(),
            *project.get("dependency-groups", {}).items(),
        ]
        lines = [*table["dependencies"], *(line for name, group in groups if name != "dev" for line in group)]
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        try:
            lines = metadata.requires("frugalseg") or []
        except metadata.PackageNotFoundError:
            lines = []
    names = [re.match(r"[A-Za-z0-9._-]+", line) for line in lines if isinstance(line, str)]
    return list(dict.fromkeys(name[0] for name in names if name))


def commit(root: Path) -> dict[str, Any] | None:
    """Commit of the checkout at `root`, and whether a run may differ from it; None outside a git checkout.

    It may where a file of the commit has changed, and where a new one lies in one of `PACKAGES`.
    """
    # A hook or an outer git command sets GIT_DIR and friends, which would name another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=5, check=True)
        return done.stdout

    try:
        # An installed copy may lie in an environment inside another project's checkout.
        if Path(git("rev-parse", "--show-toplevel").strip()).resolve() != root.resolve():
            return None
        lines = git("status", "--porcelain=v2", "--branch").splitlines()
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    name = next((line.split()[-1] for line in lines if line.startswith("# branch.oid ")), None)
    return {
        "commit": None if name == "(initial)" else name,
        "dirty": any(_matters(line) for line in lines),
    }


def _matters(line: str) -> bool:
    """Of a line of `git status`: "? notes.txt" names a new file, which no code of ours reads."""
    if not line.startswith("? "):
        return not line.startswith("#")
    return line[2:].strip('"').partition("/")[0] in PACKAGES


def _torch() -> dict[str, Any] | None:
    try:
        import torch

        # To ask for names would open the GPUs, for a run on the CPU too.
        count = torch.cuda.device_count() if torch.cuda.is_initialized() else 0
        gpus = [torch.cuda.get_device_name(i) for i in range(count)]
        return {
            "version": str(torch.__version__),
            "threads": torch.get_num_threads(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "gpus": gpus,
            "cuda": torch.version.cuda if gpus else None,
            "cudnn": torch.backends.cudnn.version() if gpus else None,
            "driver": _driver() if gpus else None,
        }
    except (ImportError, OSError, RuntimeError, AssertionError):  # a broken installation or driver
        return None


def _driver() -> str | None:
    try:
        match = re.search(r"\s(\d+\.\d+[\d.]*)\s", Path("/proc/driver/nvidia/version").read_text())
    except OSError:
        return None
    return match[1] if match else None


# Where a word, a value, or an entry of a YAML list or mapping begins: a path from a root, or from . .. or ~
_PLACE = re.compile(r"""(?<![^=,\s{\["'])(?:file://|~\w*|\.{1,2})?/[^,{}\[\]"']*""")


def without_folders(command: str) -> str:
    """Shorten a recorded command: of every path from a root, `.`, `..` or `~` the last part alone is kept, of
    `/data/a.yaml` `a.yaml`. Return "" where it cannot be read.

    Folders are of one machine, and a sweep keeps settings in one of its own, whose name tells nothing and
    would differ every time.
    """
    try:
        words = shlex.split(command)
    except ValueError:
        return ""
    return shlex.join(_PLACE.sub(lambda found: Path(found[0]).name, word) for word in words)
