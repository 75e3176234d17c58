"""The machine as a process must know it: the device, the cores it may use, the signals that ask it to stop.

Needs no torch until a device is chosen.
"""

from __future__ import annotations

import ctypes
import math
import os
import re
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import FrameType
from typing import ClassVar

from bench.errors import BenchError, ConfigError, Interrupted, MachineError

# A signal that comes so soon after the first is the same wish: it may reach a run both by itself and from the
# sweep that has started it.
REPEAT_SECONDS = 2.0
CGROUP = Path("/sys/fs/cgroup")
CUBLAS, FIXED_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"  # its sums then have one order (cuBLAS manual)
FIRST_WITH_TF32 = (8, 0)  # compute capability: Ampere


def choose_device(name: str) -> str:
    """Turn "auto", "cpu", "cuda" or "cuda:1" into a device of torch, such as "cpu".

    Raises ConfigError for a CUDA device where torch sees none, and for any other name.
    """
    import torch

    if not isinstance(name, str) or not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,9})?", name):
        from bench.settings.schema import DEVICES  # here, because `--help` is quick

        raise ConfigError(f"unknown device {name!r:.80}; use {DEVICES}.")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(
            f"machine.device is {name!r}, but torch sees no CUDA device; use --device cpu or auto."
        )
    _, _, number = name.partition(":")
    if name.startswith("cuda") and number and int(number) >= torch.cuda.device_count():
        raise ConfigError(
            f"machine.device is {name!r}, but torch sees {torch.cuda.device_count()} CUDA devices, counted "
            "from 0; use one of them, or auto."
        )
    return name


def use_device(device: str, precision: str = "fp32", deterministic: bool = False) -> None:
    """Make it the device that this process draws, allocates and computes on, and measure its memory anew.

    A device of the CPU opens no GPU.

    Args:
        device: As `choose_device` gives it.
        precision: That of the protocol. Only "tf32" has TF32, which torch gives convolutions unasked.
        deterministic: Refuse what may give other bits the next time.

    Raises ConfigError where the GPU cannot do that, or no longer.
    """
    import torch

    if torch.are_deterministic_algorithms_enabled() != deterministic:  # to say so loads torch's compiler: 2 s
        torch.use_deterministic_algorithms(deterministic)
    if device.startswith("cuda"):
        if deterministic and CUBLAS not in os.environ:
            if torch.cuda.is_initialized():
                raise ConfigError(
                    "machine.deterministic must be set before CUDA starts; begin a new process, or set "
                    f"{CUBLAS}={FIXED_WORKSPACE} before this one."
                )
            os.environ[CUBLAS] = FIXED_WORKSPACE
        if (index := torch.device(device).index) is not None:  # "cuda" is the one in use, torch's word for it
            torch.cuda.set_device(index)
        if precision == "tf32" and torch.cuda.get_device_capability() < FIRST_WITH_TF32:
            raise ConfigError(
                f"protocol.precision tf32 is not known to {torch.cuda.get_device_name()}; use fp32 or fp16."
            )
        allow_tf32(precision == "tf32")
        torch.cuda.reset_peak_memory_stats()
        return
    if precision in ("fp16", "tf32"):
        raise ConfigError(f"protocol.precision {precision} needs a CUDA device; use bf16 or fp32.")
    with suppress(OSError, AttributeError):  # no glibc, or no Linux: then it is the peak of the process
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what an earlier run has freed is no part of this one
        Path("/proc/self/clear_refs").write_text("5")


def allow_tf32(wanted: bool) -> None:
    """Whether convolutions and products of a GPU may round their factors to 10 bits. Opens no GPU."""
    import torch

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = wanted


@contextmanager
def trying_out(each_shape: bool) -> Iterator[None]:
    """Whether cuDNN tries out, for each shape that comes within the block, which of its ways is the fastest:
    good for crops of one size, bad for images of many, and never the same bits the next time."""
    import torch

    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = each_shape
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextmanager
def any_shapes(compiled: bool) -> Iterator[None]:
    """For images of many sizes: within the block none of them is tried out or compiled for."""
    import torch

    eager = torch.compiler.set_stance("force_eager") if compiled else nullcontext()
    with trying_out(each_shape=False), eager:
        yield


def cpp_compiler() -> str | None:
    """Find the C++ compiler that torch.compile would call on a CPU: $CXX, else the system's."""
    given = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    return shutil.which(given.split()[0])


def check_compiler(device: str) -> None:
    """Raise MachineError where --compile would find no compiler at the first step."""
    c = os.environ.get("CC", "").split()[:1]
    found = cpp_compiler() if device == "cpu" else any(map(shutil.which, (*c, "gcc", "clang")))
    if not found:
        needed = "g++ (or name another in CXX)" if device == "cpu" else "gcc (or name another in CC)"
        raise MachineError(
            f"--compile needs a compiler, and there is none: install {needed}, or leave it out."
        )


@contextmanager
def memory_errors(when: Callable[[], str], advice: str) -> Iterator[None]:
    """Turn a lack of memory, of a GPU or of the CPU, into a BenchError "out of memory WHEN: ADVICE"."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        raise BenchError(f"out of memory {when()}: {advice}") from error


def lacks_memory(error: BaseException) -> bool:
    # torch says it of a GPU by a class of its own, of the CPU and of a loading worker by a text.
    words = ("DefaultCPUAllocator", "bad_alloc", "MemoryError")
    said = any(word in str(error) for word in words)
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or said


def peak_memory_mib(device: str) -> float:
    """Return the most memory that this process has used since `use_device`, in MiB: of that GPU, or of the
    machine."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 2**10  # bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def memory() -> tuple[int, int | None]:
    """Bytes of memory that this machine, or its container, has in all, and of them those that are free; None
    where the system does not say."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free: int | None = None
    try:
        match = re.search(r"^MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
        free = int(match[1]) * 1024 if match else None
        limit = int((CGROUP / "memory.max").read_text())
        total = min(total, limit)
        free = min(total if free is None else free, limit - int((CGROUP / "memory.current").read_text()))
    except (OSError, ValueError):  # no /proc, no control group, or "max"
        pass
    return total, free


def core_share() -> float:
    """Count the cores that this process may use: those it is bound to, and no more than the share that its
    container grants, such as 1.5 of 64, or than its task of a cluster has."""
    # macOS binds no process to cores, so its Python has no such call.
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(bound, _container_share(), _task_share())


def cores() -> int:
    """Count the processes or threads that can work at once: `core_share` in whole cores, at least 1."""
    return max(1, int(core_share()))


def _container_share() -> float:
    """Cores granted by control groups, of version 2 or 1; infinite where they grant all."""
    for read in (_quota_v2, _quota_v1):
        try:
            quota, period = read()
            if quota > 0 and period > 0:
                return quota / period
        except (OSError, ValueError):  # no such control group, or "max"
            continue
    return math.inf


def _task_share() -> float:
    """Cores of a task of SLURM, which need not bind it to them; infinite elsewhere. The second name is always
    set anew; the first, which is the share of one of several tasks, may be left of the job that submitted."""
    said = (os.environ.get(name, "") for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"))
    return min((int(cores) for cores in said if cores.isdecimal() and int(cores)), default=math.inf)


def _quota_v2() -> tuple[int, int]:
    quota, period = (CGROUP / "cpu.max").read_text().split()
    return int(quota), int(period)


def _quota_v1() -> tuple[int, int]:
    quota, period = (int((CGROUP / "cpu" / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
    return quota, period


def wait_passively() -> None:
    """Let threads of torch that wait for each other sleep. Without it they spin, and where another process
    holds a core, those that have work wait for those that spin: a step takes ten times as long and more.

    To be called before torch is imported; a process that is started later inherits it.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read once, by GNU's OpenMP and by LLVM's


def threads_for(threads: int | None, workers: int, jobs: int = 1) -> int:
    """Count the threads of a run on the CPU: as asked for, else by $OMP_NUM_THREADS, else the cores that
    `jobs` runs at a time, each with its loading workers, leave to one of them; at least 1."""
    if threads:
        return threads
    said = os.environ.get("OMP_NUM_THREADS", "")
    if jobs == 1 and said.isdecimal() and int(said) > 0:
        return int(said)
    return max(1, cores() // jobs - workers)


def keep_freed_memory(largest: int = 1 << 30) -> None:
    """Let the C library keep what a step frees for the next one, not give it back to the system: a step of
    the CPU would pay for thousands of page faults. Nothing happens where that library is not glibc.

    Args:
        largest: Bytes of a tensor; a larger one is given back, and so takes up no room beside the next.
    """
    try:
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(-3, largest)  # M_MMAP_THRESHOLD: no block of its own for a tensor below that
        library.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD: the heap does not shrink
    except (OSError, AttributeError):
        pass


# Signals ----------------------------------------------------------------------------------------------------

WAIT_SECONDS = 0.5  # between two looks at what another process holds


def waiter(say: Callable[[str], None], stop: Stop, what: str) -> Callable[[], None]:
    """Give what waits a moment for another process each time it is called, says so once, and ends with a
    signal.

    Args:
        what: What the other one does: "makes these CAM seeds".
    """
    told = False

    def wait() -> None:
        nonlocal told
        if not told:
            say(f"another process {what}; waiting for it")
            told = True
        stop.check()
        time.sleep(WAIT_SECONDS)

    return wait


class Stop:
    """Set by the first SIGTERM or SIGINT."""

    current: ClassVar[Stop | None] = None  # of the outermost `stoppable`
    signal: int | None = None

    @property
    def own(self) -> Stop:
        """The stop that the signals of this process set."""
        return self

    def check(self) -> None:
        if self.signal is not None:
            raise Interrupted(f"stopped by {signal.Signals(self.signal).name}")


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Let the first SIGTERM or SIGINT ask a run to stop after its step; a later one, but for a hasty repeat,
    ends the process at once.

    Inside another one it is the same: a signal that comes as an inner run ends still stops the outer.
    """
    if Stop.current is not None:
        yield Stop.current
        return
    stop, first = Stop(), 0.0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal first
        now = time.monotonic()
        if stop.signal is None:
            stop.signal, first = number, now
        elif now - first > REPEAT_SECONDS:
            raise SystemExit(128 + number)

    try:
        restore = _listen((signal.SIGTERM, signal.SIGINT), handle)
    except ValueError:  # not the main thread: signals are the caller's business
        yield stop
        return
    Stop.current = stop
    try:
        yield stop
    finally:
        Stop.current = None
        restore()


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Gather the signals that ask a sweep to stop, as they come in, but for hasty repeats. What the caller
    ignores, as under nohup, stays ignored."""
    seen: list[int] = []
    last = -math.inf

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > REPEAT_SECONDS:
            seen.append(number)
        last = now

    asked = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    restore = _listen([number for number in asked if signal.getsignal(number) is not signal.SIG_IGN], handle)
    try:
        yield seen
    finally:
        restore()


def _listen(numbers: Sequence[int], handle: Callable[[int, FrameType | None], None]) -> Callable[[], None]:
    """Set the handler of signals; answers how to put back the ones before."""
    before = {number: signal.signal(number, handle) for number in numbers}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    return restore
