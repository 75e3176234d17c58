"""Digests of files and their cache: read once, read again when anything changed, remade when damaged."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path

import pytest

from bench.contents.files import FileDigests, cache_folder, combined, sha256
from bench.errors import DataError
from bench.records.ledger import Ledger


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FRUGALSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "data.json"


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    found = []
    for name in ("a", "b", "ä b"):
        path = tmp_path / name
        path.write_bytes(name.encode() * 100)
        found.append(path)
    return found


class Reads(list[str]):
    """The names of the files that were read."""

    def __call__(self, path: Path) -> str:
        self.append(path.name)
        return sha256(path)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Reads:
    monkeypatch.setattr("bench.contents.files.YOUNG_NS", -(10**12))  # a file of this moment is old enough
    return Reads()


def of(paths: list[Path], read: Reads) -> dict[Path, str]:
    return FileDigests("data", read).of(paths)


def test_a_digest_is_that_of_the_bytes(files: list[Path]) -> None:
    found = FileDigests("data").of(files)
    assert found == {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    assert list(found) == files and FileDigests("data").of([]) == {}


def test_what_the_cache_knows_is_not_read_again(files: list[Path], read: Reads, cache: Path) -> None:
    first = of(files, read)
    assert sorted(read) == ["a", "b", "ä b"] and cache.exists()
    assert of(files, read) == first and len(read) == 3


def test_what_has_changed_is_read_again(files: list[Path], read: Reads) -> None:
    """The same size and the same time of the content: the time of the entry tells."""
    first = of(files, read)
    seen = files[0].stat()
    with open(files[0], "r+b") as file:
        file.write(b"z")
    os.utime(files[0], ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert (files[0].stat().st_mtime_ns, files[0].stat().st_size) == (seen.st_mtime_ns, seen.st_size)
    files[1].rename(files[1].with_name("kept"))
    files[1].write_bytes(b"c" * 100)
    second = of(files, read)
    assert [second[path] == first[path] for path in files] == [False, False, True]
    assert second == {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_young_file_is_read_each_time(files: list[Path], cache: Path) -> None:
    """It may change once more within a tick of the clock, with the same size."""
    FileDigests("data").of(files)
    assert not cache.exists()


@pytest.mark.parametrize("harm", ["flipped", "cut", "empty", "list", "gone", "folder"])
def test_a_damaged_cache_is_remade(files: list[Path], read: Reads, cache: Path, harm: str) -> None:
    first, sound = of(files, read), cache.read_bytes()
    place = sound.index(first[files[0]].encode())
    flipped = sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :]
    body = b"[]"
    listed = hashlib.sha256(body).hexdigest().encode() + b"\n" + body
    cache.unlink()
    if harm == "folder":
        cache.mkdir()
    elif harm != "gone":
        cache.write_bytes({"flipped": flipped, "cut": sound[:-9], "empty": b"", "list": listed}[harm])
    assert of(files, read) == first and len(read) == 6
    if harm != "folder":
        assert cache.read_bytes() == sound or of(files, read) == first


def test_a_cache_that_cannot_be_written_costs_time_alone(
    files: list[Path], read: Reads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FRUGALSEG_CACHE", str(tmp_path / "file" / "inside"))
    assert of(files, read) == of(files, read) and len(read) == 6


def test_several_at_a_time_leave_a_sound_cache(files: list[Path], read: Reads) -> None:
    threads = [threading.Thread(target=of, args=(files[n % 3 :], read)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert of(files, read) == {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_what_is_missing_or_no_file_is_named_and_not_waited_for(tmp_path: Path, files: list[Path]) -> None:
    os.mkfifo(tmp_path / "pipe")
    began = time.monotonic()
    with pytest.raises(
        DataError, match=r"(?s)gone does not exist; restore.*pipe cannot be read.*2 such files"
    ):
        FileDigests("data").of([*files, tmp_path / "gone", tmp_path / "pipe"])
    assert time.monotonic() - began < 5


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("FRUGALSEG_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "frugalseg"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "frugalseg"


def test_one_digest_of_many_is_of_names_and_contents() -> None:
    one = combined({"a": "1", "b": "2"})
    assert one == combined({"b": "2", "a": "1"})
    assert (
        len({one, combined({"a": "2", "b": "1"}), combined({"a": "1"}), combined({"a": "1", "c": "2"})}) == 4
    )


# The ledger of files that are made one by one ---------------------------------------------------------------


@pytest.fixture
def ledger(tmp_path: Path) -> tuple[Ledger, dict[str, Path]]:
    """Files a and b, made of x, and their lines."""
    files = {id: tmp_path / f"{id}.bin" for id in "ab"}
    made = Ledger(tmp_path / "made.jsonl")
    for id, path in files.items():
        path.write_bytes(id.encode())
        made.add(id, sha256(path), "x")
    return made, files


def sound(ledger: Ledger, files: dict[str, Path], of: str | None = None) -> list[str]:
    return sorted(Ledger(ledger.path).sound(files, None if of is None else dict.fromkeys(files, of)))


def test_only_what_is_as_it_was_made_is_sound(ledger: tuple[Ledger, dict[str, Path]]) -> None:
    made, files = ledger
    assert sound(made, files) == sound(made, files, "x") == ["a", "b"] and sound(made, files, "y") == []
    for harm in (b"", b"A", b"b"):  # empty, damaged, another's
        files["a"].write_bytes(harm)
        assert sound(made, files) == ["b"]
    files["a"].unlink()
    assert sound(made, files) == ["b"] and sound(made, {"c": files["b"]}) == []


def test_the_newest_line_counts_and_a_torn_one_does_not(ledger: tuple[Ledger, dict[str, Path]]) -> None:
    made, files = ledger
    Ledger(made.path).add("a", sha256(files["a"]), "y")
    assert sound(made, files, "y") == ["a"]
    made.path.write_bytes(made.path.read_bytes()[:-9])
    assert sound(made, files, "y") == [] and sound(made, files, "x") == ["a", "b"]
    Ledger(made.path).add("a", sha256(files["a"]), "y")
    assert sound(made, files, "y") == ["a"]
    made.path.write_bytes(b"\x00[]\n{}\nnull\n7")
    assert sound(made, files) == []
