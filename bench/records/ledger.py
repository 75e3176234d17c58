"""A ledger of files that are made one by one: of each its digest, and that of all it was made of.

A file is sound where its content is the one that the ledger knows, and made of what it would be made of now.
What is gone, empty, damaged, swapped or of other inputs is not, and is made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from bench.errors import DataError, read_file
from bench.records.atomic import writing


class Ledger:
    """One line a file, the newest wins: {"id": "a", "sha256": "12...", "of": "34..."}, and maybe the
    "seconds" that it took.

    Raises DataError where something else than a file lies in its place.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: dict[str, tuple[str, str]] = {}
        self._seconds: dict[str, float] = {}
        data = read_file(path) if path.exists() else b""
        for line in data.split(b"\n"):
            try:
                entry = json.loads(line)
                self._lines[str(entry["id"])] = (str(entry["sha256"]), str(entry["of"]))
                self._seconds[str(entry["id"])] = float(entry.get("seconds", 0.0))
            except (ValueError, TypeError, KeyError, RecursionError):  # torn by a kill: it is made again
                continue

    def add(self, id: str, digest: str, of: str, seconds: float | None = None) -> None:
        """Note that a file was made. It is on disk by now; this line may be lost, and then it is made again.

        Args:
            seconds: What it took, where that is kept.

        Raises WriteError.
        """
        self._lines[id] = (digest, of)
        self._seconds[id] = seconds or 0.0
        took = {} if seconds is None else {"seconds": seconds}
        self._write([{"id": id, "sha256": digest, "of": of, **took}])

    def forget(self, ids: Iterable[str]) -> None:
        """Files were removed: what comes to lie there later is not known. Raises WriteError."""
        gone = [{"id": id, "sha256": "", "of": ""} for id in ids if self.knows(id)]
        for line in gone:
            self._lines[line["id"]] = ("", "")
        if gone:
            self._write(gone)

    def _write(self, lines: Iterable[Mapping[str, object]]) -> None:
        # The first byte ends a line that a kill has torn.
        data = "".join(f"\n{json.dumps(line)}" for line in lines).encode()
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab") as file:
                file.write(data)

    def seconds(self, ids: Iterable[str]) -> float:
        """Sum the seconds that these files took together, in whichever start they were made; as far as it is
        known."""
        return sum(self._seconds.get(id, 0.0) for id in ids)

    def knows(self, id: str) -> bool:
        """Whether a file of that name was made, sound or not."""
        return self._lines.get(id, ("", ""))[0] != ""

    @property
    def ids(self) -> list[str]:
        """The names of all files that were made and not forgotten."""
        return [id for id in self._lines if self.knows(id)]

    def sound(self, files: Mapping[str, Path], of: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the digests of those of the files that are sound, by id.

        Args:
            of: What each would be made of now; None: whatever it was made of.
        """
        found = {}
        for id, path in files.items():
            digest, made_of = self._lines.get(id, ("", ""))
            if not digest or (of is not None and made_of != of[id]):
                continue
            try:
                content = read_file(path)
            except (OSError, DataError):
                continue
            if hashlib.sha256(content).hexdigest() == digest:
                found[id] = digest
        return found
