"""A ledger of files that are made one by one: of each its digest, and that of all it was made of.

A file is sound where its content is the one that the ledger knows, and made of what it would be made of now.
What is gone, empty, damaged, swapped or of other inputs is not, and is made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from bench.records.atomic import writing


class Ledger:
    """One line a file, the newest wins: {"id": "a", "sha256": "12...", "of": "34..."}."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: dict[str, tuple[str, str]] = {}
        data = path.read_bytes() if path.exists() else b""
        for line in data.split(b"\n"):
            try:
                entry = json.loads(line)
                self._lines[str(entry["id"])] = (str(entry["sha256"]), str(entry["of"]))
            except (ValueError, TypeError, KeyError, RecursionError):  # torn by a kill: it is made again
                continue

    def add(self, id: str, digest: str, of: str) -> None:
        """A file was made. It is on disk by now; this line may be lost, and then it is made again.

        Raises WriteError.
        """
        self._lines[id] = (digest, of)
        # The first byte ends a line that a kill has torn.
        line = f"\n{json.dumps({'id': id, 'sha256': digest, 'of': of})}".encode()
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab") as file:
                file.write(line)

    def sound(self, files: Mapping[str, Path], of: Mapping[str, str] | None = None) -> dict[str, str]:
        """The digests of those of the files that are sound, by id.

        Args:
            of: What each would be made of now; None: whatever it was made of.
        """
        found = {}
        for id, path in files.items():
            digest, made_of = self._lines.get(id, ("", ""))
            if not digest or (of is not None and made_of != of[id]):
                continue
            try:
                content = path.read_bytes()
            except OSError:
                continue
            if hashlib.sha256(content).hexdigest() == digest:
                found[id] = digest
        return found
