"""A checkpoint is the one that was written, or it is refused; a failed save leaves the one before."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.errors import DataError
from bench.records import atomic as bench_files
from bench.training import checkpoint


def state(step: int) -> dict[str, Any]:
    weight = torch.full((3, 4), float(step))
    return {
        "step": step,
        "run_id": "abc",
        "method": {"weight": weight, "queue": torch.arange(5)},
        "optimizer": {
            "state": {0: {"exp_avg": weight * 2}},
            "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99)}],
        },
        "curve": [{"step": 1, "miou": 0.5}],
    }


def same(found: dict[str, Any], step: int) -> bool:
    wanted = state(step)
    return (
        found["step"] == step
        and found["curve"] == wanted["curve"]
        and torch.equal(found["method"]["weight"], wanted["method"]["weight"])
        and torch.equal(found["method"]["queue"], wanted["method"]["queue"])
        and found["optimizer"]["param_groups"] == wanted["optimizer"]["param_groups"]
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "run" / "checkpoint.pt"
    checkpoint.save(file, state(1))
    return file


def files(path: Path) -> set[str]:
    return {file.name for file in path.parent.iterdir()}


def test_round_trip(path: Path) -> None:
    assert same(checkpoint.load(path, "cpu"), 1)
    checkpoint.save(path, state(2))
    assert same(checkpoint.load(path, "cpu"), 2)
    assert files(path) == {"checkpoint.pt", "checkpoint.pt.sha256.json"}


def test_it_is_an_ordinary_file_of_torch(path: Path) -> None:
    assert same(torch.load(path, weights_only=True), 1)


def test_remove_leaves_nothing_and_may_be_repeated(path: Path) -> None:
    checkpoint.remove(path)
    checkpoint.remove(path)
    assert files(path) == set()


class Full:
    """A file that takes half of what is written and then finds the disk full."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def __enter__(self) -> Full:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, data: bytes) -> None:
        self.file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")


def fail_at(monkeypatch: pytest.MonkeyPatch, call: str, number: int, error: int) -> None:
    """Let the `number`-th `call` of the saving that follows raise."""
    count = 0
    opened, real = open, {"fsync": os.fsync, "replace": os.replace}

    def due() -> bool:
        nonlocal count
        count += 1
        return count == number

    def failing(*arguments: Any) -> Any:
        if due():
            raise OSError(error, os.strerror(error))
        return real[call](*arguments)

    def open_(*arguments: Any) -> Any:
        file = opened(*arguments)
        return Full(file) if due() else file

    if call == "write":
        monkeypatch.setattr(bench_files, "open", open_, raising=False)
    else:
        monkeypatch.setattr(bench_files.os, call, failing)


# A save writes three files: digests, state, digests. Each is fsynced, as is its folder.
POINTS = [("write", n) for n in (1, 2, 3)] + [("replace", n) for n in (1, 2, 3)]
POINTS += [("fsync", n) for n in range(1, 7)]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EACCES])
@pytest.mark.parametrize(("call", "number"), POINTS)
def test_a_failed_save_surfaces_and_harms_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, error: int
) -> None:
    """At every point: the error is raised, a whole state is there (the new one once it is in place), no
    litter."""
    with monkeypatch.context() as patch:
        fail_at(patch, call, number, error)
        with pytest.raises(OSError) as caught:
            checkpoint.save(path, state(2))
        assert caught.value.errno in (error, errno.ENOSPC)
    replaced = (call, number) in {("write", 3), ("replace", 3), ("fsync", 4), ("fsync", 5), ("fsync", 6)}
    assert same(checkpoint.load(path, "cpu"), 2 if replaced else 1)
    assert files(path) == {"checkpoint.pt", "checkpoint.pt.sha256.json"}
    checkpoint.save(path, state(3))
    assert same(checkpoint.load(path, "cpu"), 3)


def test_a_failed_first_save_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.pt"
    fail_at(monkeypatch, "write", 2, errno.ENOSPC)
    with pytest.raises(OSError):
        checkpoint.save(path, state(1))
    assert not path.exists() and not list(tmp_path.glob(".*"))


class Killed(BaseException):
    """Stands for the end of the process."""


def killed_before(monkeypatch: pytest.MonkeyPatch, number: int) -> Callable[[Path, bytes], None]:
    """write_atomic that ends the process before the `number`-th file of a save."""
    count = 0

    def write(path: Path, data: bytes) -> None:
        nonlocal count
        count += 1
        if count == number:
            raise Killed
        bench_files.write_atomic(path, data)

    monkeypatch.setattr(checkpoint, "write_atomic", write)
    return write


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_kill_between_the_writes_leaves_a_state_however_often_it_happens(
    path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The list of digests must admit the file that is there after any number of interrupted saves in a
    row."""
    for step in (2, 3, 4, 5):
        with monkeypatch.context() as patch:
            killed_before(patch, number)
            with pytest.raises(Killed):
                checkpoint.save(path, state(step))
        assert same(checkpoint.load(path, "cpu"), step if number == 3 else 1)
    checkpoint.save(path, state(6))
    assert same(checkpoint.load(path, "cpu"), 6)
    assert len(checkpoint._digests(path)) == 1, "the list does not grow"


def test_no_flipped_bit_is_accepted(path: Path) -> None:
    """torch.load alone accepts a share of these and returns other numbers."""
    good, rng = path.read_bytes(), random.Random(0)
    for _ in range(60):
        bad = bytearray(good)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        path.write_bytes(bad)
        with pytest.raises(DataError, match=r"checkpoint.pt is damaged.*[Rr]emove the folder .*run it again"):
            checkpoint.load(path, "cpu")


def test_no_truncation_is_accepted(path: Path) -> None:
    good, rng = path.read_bytes(), random.Random(0)
    for length in [0, 1, len(good) - 1, *(rng.randrange(len(good)) for _ in range(17))]:
        path.write_bytes(good[:length])
        with pytest.raises(DataError, match="is damaged"):
            checkpoint.load(path, "cpu")


@pytest.mark.parametrize("text", [None, "", "[", "[" * 9999, "{}", "3", "\x00", '["0000"]', '{"a": 1}'])
def test_without_a_sound_digest_it_is_refused(path: Path, text: str | None) -> None:
    beside = path.with_name("checkpoint.pt.sha256.json")
    beside.unlink() if text is None else beside.write_text(text)
    with pytest.raises(DataError, match="is damaged"):
        checkpoint.load(path, "cpu")
    checkpoint.save(path, state(2))
    assert same(checkpoint.load(path, "cpu"), 2)


class Evil:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.target),))


def test_a_malicious_pickle_does_not_run(path: Path, tmp_path: Path) -> None:
    """Even with a digest that fits: only plain tensors and containers are ever built."""
    target = tmp_path / "ran"
    torch.save({"step": 1, "method": Evil(target)}, path)
    zipped = path.read_bytes()
    for data in (zipped, pickle.dumps(Evil(target)), pickle.dumps({"x": Evil(target)}, protocol=4)):
        path.write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        path.with_name("checkpoint.pt.sha256.json").write_text(json.dumps([digest]))
        with pytest.raises(DataError, match="not a checkpoint of ours"):
            checkpoint.load(path, "cpu")
        assert not target.exists()
    pickle.loads(pickle.dumps(Evil(target)))
    assert target.exists(), "the attack itself works"
