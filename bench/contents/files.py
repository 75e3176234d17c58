"""SHA-256 of many files, kept in a cache of the user's by size, times and inode: a second look costs one
`stat` a file."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from bench.errors import DataError, read_file, refuse_no_file
from bench.records.atomic import write_atomic
from bench.settings.base import expanded

THREADS = 8  # a disk or a network answers several at a time; hashing holds no lock
# A file may change again within the tick of its file system's clock, with the same size: what is younger than
# this when it is read is read again next time.
YOUNG_NS = 2_000_000_000

Stamp = tuple[int, ...]


def sha256(path: Path) -> str:
    """Compute the digest of a file. Raises DataError for what is missing or is no file."""
    refuse_no_file(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def combined(digests: Mapping[str, str]) -> str:
    """One digest of many, by name, in any order: combined({"a": "12...", "b": "34..."})."""
    return hashlib.sha256(json.dumps(dict(digests), sort_keys=True).encode()).hexdigest()


def cache_folder() -> Path | None:
    """$FRUGALSEG_CACHE, else frugalseg in $XDG_CACHE_HOME, else in ~/.cache; None where there is no home."""
    place = os.environ.get("FRUGALSEG_CACHE")
    if place:
        return expanded(place)
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        return None
    return Path(base) / "frugalseg"


class FileDigests:
    """Digests of files, by a function of the path; what the cache knows is not read again.

    Several processes may share a cache: the last that writes wins, and what is lost is read again. A cache
    that is damaged or cannot be written is as good as none.

    Args:
        name: Of the file in the cache folder, such as "camvid-1a2b3c4d".
        how: Reads a file and gives its digest.
    """

    def __init__(self, name: str, how: Callable[[Path], str] = sha256) -> None:
        folder = cache_folder()
        self._file = folder / f"{name}.json" if folder else None
        self._how = how
        self._known = self._read()

    def of(self, paths: Iterable[Path]) -> dict[Path, str]:
        """Compute the digest of each path: {Path("a.png"): "9f86d081..."}.

        Raises DataError, with up to three of the files, where some are missing or cannot be read.
        """
        asked = list(dict.fromkeys(paths))
        now = time.time_ns()
        found: dict[Path, str] = {}
        new: dict[Path, Stamp] = {}
        wrong: list[str] = []
        for path in asked:
            try:
                stamp = _stamp(path)
            except OSError as error:
                wrong.append(_said(path, error))
                continue
            known = self._known.get(str(path))
            if known is not None and known[0] == stamp:
                found[path] = known[1]
            else:
                new[path] = stamp
        with ThreadPoolExecutor(THREADS) as pool:
            for path, digest in zip(new, pool.map(self._tried, new), strict=True):
                if isinstance(digest, OSError):
                    wrong.append(_said(path, digest))
                else:
                    found[path] = digest
        if wrong:
            more = f" ({len(wrong)} such files)" if len(wrong) > 1 else ""
            raise DataError("\n".join(wrong[:3]) + more)
        old = {path: stamp for path, stamp in new.items() if max(stamp[1:3]) < now - YOUNG_NS}
        if old:
            self._keep({str(path): (stamp, found[path]) for path, stamp in old.items()})
        return {path: found[path] for path in asked}

    def _tried(self, path: Path) -> str | OSError:
        try:
            return self._how(path)
        except OSError as error:
            return error

    def _read(self) -> dict[str, tuple[Stamp, str]]:
        """Read the cache; it is empty where there is none, or a damaged one.

        Its own digest is in the first line, for a flipped bit must not look like another mask.
        """
        if self._file is None:
            return {}
        try:
            digest, _, body = read_file(self._file).partition(b"\n")
            if hashlib.sha256(body).hexdigest().encode() != digest:
                return {}
            return {path: (tuple(stamp), known) for path, (*stamp, known) in json.loads(body).items()}
        except (DataError, OSError, ValueError, TypeError, AttributeError):
            return {}

    def _keep(self, new: Mapping[str, tuple[Stamp, str]]) -> None:
        self._known = {**self._read(), **self._known, **new}
        if self._file is None:
            return
        body = json.dumps({path: [*stamp, known] for path, (stamp, known) in self._known.items()}).encode()
        with suppress(OSError):  # a full or read-only home costs the next start its seconds, and no more
            write_atomic(self._file, hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


def _stamp(path: Path) -> Stamp:
    """Size, time of change of content and of the entry, inode, device. Raises OSError for what is no file:
    a pipe would be waited for."""
    seen = path.stat()
    if not stat.S_ISREG(seen.st_mode):
        raise OSError("it is no regular file")
    return seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino, seen.st_dev


def _said(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return f"{path} does not exist; restore the file or remove it from the lists."
    return f"{path} cannot be read ({error.strerror or error}); mend the file or remove it from the lists."
