"""Writing files: a kill or a power cut leaves the old one or the new one, and one process at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.errors import BenchError, ConfigError, MachineError, first_there

MEND = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there, or ask for a larger quota",
    errno.EACCES: "make that folder writable, or choose another",
    errno.EPERM: "make that folder writable, or choose another",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EROFS: "mount it for writing, or choose another folder",
}


class WriteError(OSError, BenchError):
    """A file that could not be written, as a sentence with its folder; an OSError with its errno all the
    same."""

    then = "give the same command again"  # what to do once it is mended; who knows better sets it

    def __str__(self) -> str:
        path, mend = Path(self.filename), MEND.get(self.errno or 0, "look at that disk")
        return f"{path.name} cannot be written in {path.parent}: {self.strerror}; {mend}, then {self.then}."


class NoFolder(WriteError, ConfigError):
    """Something else lies where a folder is needed."""

    def __str__(self) -> str:
        return str(self.args[0])


def refuse_no_folder(folder: Path) -> None:
    """Raise NoFolder where a file, a pipe, or a link that leads nowhere lies at `folder` or above it."""
    there = first_there(folder)
    if os.path.lexists(there) and not there.is_dir():
        raise NoFolder(f"{there} is no folder; give a folder, which is made where need be.")


class NoPlainFile(NoFolder):
    """Something else lies where a file is to be written."""


def refuse_no_plain_file(path: Path) -> None:
    """Raise NoPlainFile where a device, a pipe or a folder lies at `path`, which the user names, or a link to
    one. A file in its place would take it from the whole machine: root may do that to /dev/null."""
    try:
        plain = stat.S_ISREG(path.stat().st_mode) and not _is_stream(path)
    except OSError:  # nothing is there, or whoever writes it says what is wrong
        return
    if not plain:
        raise NoPlainFile(f"{path} is no plain file (a folder, a pipe or a device); give another name.")


def _is_stream(path: Path) -> bool:
    """Whether a path is /dev/stdout or another link to what a process has open."""
    return path.is_symlink() and os.readlink(path).startswith("/proc/")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into a WriteError that names `path`: the system names a temporary file,
    or none where a write or a sync fails. Raises NoFolder where no folder can hold it."""
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        refuse_no_folder(path.parent)
        raise WriteError(error.errno, error.strerror or str(error), str(path.absolute())) from error


def write_atomic(path: Path, data: bytes | memoryview, synced: bool = True) -> None:
    """Write a file that appears whole or not at all, and survives a power cut once this returns. Raises
    WriteError.

    What lies at `path` is replaced, whatever it is: a path that the user names goes through
    `refuse_no_plain_file` first.

    Args:
        synced: False for one of many files that a ledger knows by their digests, and that are made again
            where a power cut took them.
    """
    # Told apart by chance, not by process: two containers that share a disk may have the same numbers. Short,
    # or a name that is as long as names may be would have none.
    temporary = path.with_name(f".{path.name[:50]}.{os.urandom(8).hex()}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                if synced:
                    os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            with suppress(OSError):  # the error before this one tells more
                temporary.unlink(missing_ok=True)
        if not synced:
            return
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def locked(file: int, folder: Path, how: int) -> bool:
    """Lock an open file until it is closed; whether it is ours, False where another process holds it.

    Args:
        folder: Where the file lies, for the error.
        how: fcntl.LOCK_EX or LOCK_SH, with LOCK_NB to not wait.

    Raises MachineError where the file system has no locks.
    """
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        return False
    except OSError as error:
        raise MachineError(
            f"{folder} lies on a file system that cannot lock files ({error.strerror}), so two processes "
            "could write there at once; choose a folder on another disk (--out, for runs), or mount this one "
            "with locks."
        ) from error
    return True


@contextmanager
def folder_claimed(folder: Path) -> Iterator[None]:
    """Hold a folder, made if need be, for this process; a second process waits."""
    refuse_no_folder(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    held = os.open(folder, os.O_RDONLY)  # the folder itself: a lock file would be one more to commit
    try:
        locked(held, folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)
