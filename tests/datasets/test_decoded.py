"""What is decoded once: the same pixels, shared with forked workers, no more than there is room for."""

import multiprocessing
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from bench.contract import Dataset
from bench.errors import DataError
from datasets.decoded import DecodedOnce

SIZES = {"a": (4, 6), "b": (5, 3), "c": (2, 2)}
BYTES = 4 * 6 * 3 + 4 * 6  # of the image and the mask of "a"


class Counted(Dataset):
    """Notes in a file each time that something is decoded, from whatever process."""

    name = "counted"
    classes = ("x", "y")

    def __init__(self, log: Path) -> None:
        self.log = log
        log.touch()

    def ids(self, listing: str) -> tuple[str, ...]:
        return tuple(SIZES)

    def image(self, id: str) -> np.ndarray:
        self._note(f"image {id}")
        return np.full((*SIZES[id], 3), list(SIZES).index(id) + 1, np.uint8)

    def mask(self, id: str) -> np.ndarray:
        self._note(f"mask {id}")
        if id == "c":
            raise DataError("c.png cannot be decoded")
        return np.full(SIZES[id], list(SIZES).index(id), np.uint8)

    def _note(self, what: str) -> None:
        with self.log.open("a") as file:
            file.write(what + "\n")

    @property
    def decoded(self) -> dict[str, int]:
        return dict(Counter(self.log.read_text().splitlines()))


@pytest.fixture
def counted(tmp_path: Path) -> Counted:
    return Counted(tmp_path / "log")


def test_each_is_decoded_once_and_stays_as_it_is(counted: Counted) -> None:
    once = DecodedOnce(counted, SIZES)
    for _ in range(3):
        for number, id in enumerate(SIZES):
            assert np.array_equal(once.image(id), np.full((*SIZES[id], 3), number + 1))
        for number, id in enumerate("ab"):
            assert np.array_equal(once.mask(id), np.full(SIZES[id], number))
    assert counted.decoded == {"image a": 1, "image b": 1, "image c": 1, "mask a": 1, "mask b": 1}
    with pytest.raises(ValueError, match="read-only"):
        once.image("a")[0] = 0


def test_what_finds_no_room_is_decoded_each_time(counted: Counted) -> None:
    once = DecodedOnce(counted, SIZES, room=BYTES + 1)
    for _ in range(2):
        assert (once.image("a"), once.mask("a"), once.image("b"))[2].shape == (5, 3, 3)
        once.image("c")
    assert counted.decoded == {"image a": 1, "mask a": 1, "image b": 2, "image c": 2}


def test_a_machine_without_so_much_memory_decodes_each_time(counted: Counted) -> None:
    once = DecodedOnce(counted, SIZES, room=2**60)
    assert [once.image("a").shape for _ in range(2)] == [(4, 6, 3)] * 2
    assert counted.decoded == {"image a": 2}


def test_an_error_is_not_kept_and_an_unknown_id_is_read(counted: Counted) -> None:
    once = DecodedOnce(counted, ["c"])
    for _ in range(2):
        with pytest.raises(DataError, match=r"c\.png"):
            once.mask("c")
        once.image("b")
    assert counted.decoded == {"mask c": 2, "image b": 2}


def _ask(once: DecodedOnce) -> None:
    for id in SIZES:
        once.image(id)


def test_forked_workers_share_what_one_of_them_decoded(counted: Counted) -> None:
    once = DecodedOnce(counted, SIZES)
    fork = multiprocessing.get_context("fork")
    for _ in range(2):
        worker = fork.Process(target=_ask, args=(once,))
        worker.start()
        worker.join()
        assert worker.exitcode == 0
    _ask(once)
    assert counted.decoded == {"image a": 1, "image b": 1, "image c": 1}
    _ask(pickle.loads(pickle.dumps(once)))  # as a spawned worker has it
    assert counted.decoded == {"image a": 2, "image b": 2, "image c": 2}


def test_a_lock_that_a_killed_worker_left_shut_stops_nobody(
    counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.decoded.PATIENCE", 0.01)
    once = DecodedOnce(counted, SIZES)
    with once._lock:
        assert once.image("a").shape == (4, 6, 3)
    assert once.image("a").shape == (4, 6, 3)
    assert counted.decoded == {"image a": 2}
