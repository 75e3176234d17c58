"""Disks that fail, and disks that cannot lock: a sentence with the place, and no litter."""

from __future__ import annotations

import builtins
import errno
import fcntl
import os
import pickle
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.errors import BenchError, MachineError
from bench.records.atomic import (
    NoPlainFile,
    WriteError,
    folder_claimed,
    locked,
    refuse_no_plain_file,
    write_atomic,
    writing,
)
from bench.records.folders import RunFolder
from bench.records.shared_folders import SeedFolder

DISK = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there",
    errno.EIO: "look at that disk",
    errno.EACCES: "make that folder writable",
    errno.EROFS: "mount it for writing",
}


def failing(monkeypatch: pytest.MonkeyPatch, call: str, number: int, at: int = 1) -> None:
    """Let the `at`-th call from now on fail with an error of this number, as the system words it."""
    places: dict[str, tuple[Any, str]] = {
        "mkdir": (os, "mkdir"),
        "open": (builtins, "open"),
        "fsync": (os, "fsync"),
        "rename": (os, "replace"),
        "open folder": (os, "open"),
    }
    owner, name = places[call]
    real, count = getattr(owner, name), 0

    def fail(*given: Any, **named: Any) -> Any:
        nonlocal count
        count += 1
        if count != at:
            return real(*given, **named)
        if call == "fsync":  # names no file
            raise OSError(number, os.strerror(number))
        raise OSError(number, os.strerror(number), str(given[0]))

    monkeypatch.setattr(owner, name, fail)


@pytest.mark.parametrize("number", DISK, ids=errno.errorcode.get)
@pytest.mark.parametrize(
    ("call", "at"), [("mkdir", 1), ("open", 1), ("fsync", 1), ("fsync", 2), ("rename", 1), ("open folder", 1)]
)
def test_a_file_that_cannot_be_written_is_said_with_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, at: int, number: int
) -> None:
    path = tmp_path / "run" / "checkpoint.pt"
    if call != "mkdir":
        write_atomic(path, b"old")
    with monkeypatch.context() as patch, pytest.raises(WriteError) as caught:
        failing(patch, call, number, at)
        write_atomic(path, b"new")
    said = str(caught.value)
    assert said.startswith(f"checkpoint.pt cannot be written in {path.parent}: {os.strerror(number)}; ")
    assert (
        DISK[number] in said and said.endswith(", then give the same command again.") and ".tmp" not in said
    )
    assert isinstance(caught.value, BenchError) and caught.value.exit_code == 1
    assert caught.value.errno == number
    again = pickle.loads(pickle.dumps(caught.value))  # it comes from a process of a pool as it is
    assert str(again) == said
    if call != "mkdir":
        replaced = call == "open folder" or at == 2
        assert path.read_bytes() == (b"new" if replaced else b"old") and os.listdir(path.parent) == [
            path.name
        ]


@pytest.mark.parametrize("what", ["a pipe", "a device", "a link to a device", "a folder", "the output"])
def test_what_is_no_plain_file_is_not_written_over(tmp_path: Path, what: str) -> None:
    """Root may rename a file over /dev/null, and then nobody has one."""
    place = tmp_path / "place"
    made: dict[str, Callable[[], Any]] = {
        "a pipe": lambda: os.mkfifo(place),
        "a device": lambda: os.mknod(place, stat.S_IFCHR | 0o600, os.makedev(1, 3)),
        "a link to a device": lambda: place.symlink_to("/dev/zero"),
        "a folder": place.mkdir,
        "the output": lambda: place.symlink_to(f"/proc/self/fd/{os.open(tmp_path / 'log', os.O_CREAT)}"),
    }
    try:
        made[what]()
    except PermissionError:
        pytest.skip("only root makes a device")
    before = place.lstat()
    with pytest.raises(NoPlainFile, match=rf"^{place} is no plain file .*; give another name\.$"):
        refuse_no_plain_file(place)
    assert place.lstat().st_ino == before.st_ino and place.lstat().st_mode == before.st_mode
    assert {path.name for path in tmp_path.iterdir()} <= {"place", "log"}


def test_a_new_name_a_file_and_a_link_to_one_may_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NoPlainFile, match="is no plain file"):
        refuse_no_plain_file(Path())
    refuse_no_plain_file(Path("new"))
    (tmp_path / "old").touch()
    (tmp_path / "link").symlink_to("old")
    refuse_no_plain_file(Path("link"))


def test_the_innermost_file_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(WriteError, match=r"b cannot be written in /a"),
        writing(tmp_path),
        writing(Path("/a/b")),
    ):
        raise OSError(errno.EIO, "Input/output error")


def test_the_file_is_named_where_removing_the_temporary_one_fails_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    failing(monkeypatch, "fsync", errno.EIO)
    monkeypatch.setattr(Path, "unlink", read_only)
    with pytest.raises(WriteError, match="file cannot be written in .*Input/output error"):
        write_atomic(tmp_path / "file", b"")


def test_two_containers_on_one_disk_write_under_different_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their processes may have the same number, and their machines the same name."""
    seen, replace = [], os.replace
    monkeypatch.setattr(os, "getpid", lambda: 7)
    monkeypatch.setattr(os, "replace", lambda a, b: (seen.append(Path(a).name), replace(a, b)))
    for _ in range(2):
        write_atomic(tmp_path / "file", b"")
    assert len(set(seen)) == 2 and all(name.startswith(".") and name.endswith(".tmp") for name in seen)


def test_a_name_as_long_as_the_disk_allows(tmp_path: Path) -> None:
    """The temporary one must not be longer."""
    write_atomic(tmp_path / ("x" * 255), b"data")
    assert os.listdir(tmp_path) == ["x" * 255]


# Locks ------------------------------------------------------------------------------------------------------

NO_LOCKS = [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EIO]
HOLD: dict[str, Callable[[Path], Any]] = {
    "run": lambda path: RunFolder(path).claimed(),
    "CAM seeds": lambda path: SeedFolder(path, "id").claimed(lambda: pytest.fail("it waits")),
    "records": folder_claimed,
}


@pytest.fixture(params=NO_LOCKS, ids=errno.errorcode.get)
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    def flock(*_: Any) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", flock)
    return os.strerror(request.param)


@pytest.mark.parametrize("what", HOLD)
def test_a_disk_without_locks_is_a_sentence(tmp_path: Path, no_locks: str, what: str) -> None:
    folder = tmp_path / "folder"
    with pytest.raises(MachineError) as caught, HOLD[what](folder):
        pass
    said = str(caught.value)
    assert said.startswith(f"{folder} lies on a file system that cannot lock files ({no_locks})")
    assert "choose a folder on another disk" in said and caught.value.exit_code == 5


def test_a_disk_without_locks_knows_no_holder_and_gives_no_right_to_start(
    tmp_path: Path, no_locks: str
) -> None:
    (tmp_path / ".lock").write_text("process 1 on here")
    assert RunFolder(tmp_path).holder() is None
    with pytest.raises(MachineError, match="cannot lock files"):
        RunFolder(tmp_path).right_to_start()


def test_a_lock_that_is_held_is_none_of_ours(tmp_path: Path) -> None:
    with open(tmp_path / "file", "w") as one, open(tmp_path / "file") as two:
        assert locked(one.fileno(), tmp_path, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert not locked(two.fileno(), tmp_path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with open(tmp_path / "file") as three:
        assert locked(three.fileno(), tmp_path, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_the_right_to_start_a_run_is_that_of_one(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    right = folder.right_to_start()
    assert right is not None and folder.right_to_start() is None
    with folder.claimed():  # the run itself is not kept from its folder
        assert folder.right_to_start() is None
    right.close()
    again = folder.right_to_start()
    assert again is not None
    again.close()


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC], ids=errno.errorcode.get)
def test_a_folder_that_cannot_be_claimed_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    for what in ("mkdir", "open"):
        with monkeypatch.context() as patch, pytest.raises(WriteError, match=rf"in {tmp_path}/run: "):
            failing(patch, what, number)
            with RunFolder(tmp_path / "run").claimed():
                pass


def test_a_lock_file_on_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    said = rf"cannot be written in {tmp_path}: No space left"
    with pytest.raises(WriteError, match=said), RunFolder(tmp_path).claimed():
        pass
