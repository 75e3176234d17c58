"""Ids of images, and lists of them: what may be an id, how a list is read, and its digest."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any, cast

from bench.errors import DataError, nearest, refuse_no_file
from datasets.plain_files import is_there


def digest(ids: Iterable[str]) -> str:
    """Hash a list of ids: SHA-256 of the sorted distinct ids, joined by newlines. Order and repeats do not
    matter."""
    return hashlib.sha256("\n".join(sorted(set(ids))).encode()).hexdigest()


def read_lines(path: Path) -> list[str]:
    """Read the stripped lines of a UTF-8 text file, without BOM or CR. Raises DataError if it cannot be
    read."""
    if not is_there(path):
        names = (other.name for other in path.parent.glob("*") if other.is_file())
        near = nearest(path.name, names)
        meant = f" (did you mean {near!r}?)" if near else ""
        raise DataError(f"{path} does not exist{meant}; restore the file.")
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n")]
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text; save it as UTF-8.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); make it a readable text file.") from error


def read_json(path: Path) -> Any:
    """Read a JSON file in UTF-8. Raises DataError where it cannot be read, or an object has a key twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = Counter(key for key, _ in pairs)
        twice = next((key for key in keys if keys[key] > 1), None)
        if twice is not None:
            raise DataError(f"{path} has two entries {twice[:80]!r}; keep one of them.")
        return dict(pairs)

    refuse_no_file(path)
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=once)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is not readable JSON ({error}); write it again.") from error


def is_number(value: object) -> bool:
    """Whether a value of JSON is a number: no bool, no NaN, and none that a float cannot hold, for whole
    numbers of JSON may have thousands of digits."""
    return type(value) in (int, float) and abs(cast(float, value)) <= sys.float_info.max


def read_list(path: Path) -> tuple[str, ...]:
    """Read a list of ids, one a line, e.g. "city/frame_1", in file order; blank lines are skipped.

    Raises DataError for a file that cannot be read, an id that stands twice or is no plain relative path.
    """
    ids = tuple(line for line in read_lines(path) if line)
    for id in ids:
        check_id(id, path)
    refuse_repeats(ids, path)
    return ids


def refuse_repeats(ids: Sequence[str], path: Path) -> None:
    """Raise DataError, naming the file and up to three ids, if an id stands twice in a list."""
    repeated = [id for id, count in Counter(ids).items() if count > 1]
    if repeated:
        raise DataError(f"{path} holds {some(repeated)} more than once; remove the repeats.")


def check_id(id: str, where: Path) -> None:
    """Raise DataError unless `id` is a relative path that stays inside its folder on every system."""
    parts = id.split("/")
    outside = any(part in ("", ".", "..") for part in parts) or "\\" in id or PureWindowsPath(id).anchor
    if outside or not id.isprintable() or max(len(part.encode()) for part in parts) > 200 or len(id) > 200:
        raise DataError(
            f"{where}: {id[:80]!r} cannot be an id; an id is a file name without its ending, at most inside "
            "sub folders (no .., no leading /, no backslash, no control characters)."
        )


def some(ids: Sequence[str]) -> str:
    """Quote the first three ids for an error message, e.g. "'a', 'b', 'c' and 2 more ids"."""
    return ", ".join(repr(id) for id in ids[:3]) + (f" and {len(ids) - 3} more ids" if len(ids) > 3 else "")


# A list beside what is said of it --------------------------------------------------------------------------


def sealed(ids: Iterable[str]) -> str:
    """Hash a list of ids whose order matters: SHA-256 of the ids, joined by newlines."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


def read_sealed(path: Path, dataset: str, mend: str) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Read a list of ids, in its order, and the JSON file beside it: draw1.txt and draw1.json.

    Args:
        mend: What to do; each message ends with it.

    Raises DataError where one of the two is missing or damaged, of another data set, or where the list does
    not have the digest that the JSON file says.
    """
    about = path.with_suffix(".json")
    ids, said = read_list(path), read_json(about)
    if not isinstance(said, dict) or not isinstance(said.get("digest"), str):
        raise DataError(f"{about} does not say the digest of {path.name}; {mend}")
    if said.get("dataset") != dataset:
        raise DataError(f"{about} is of the data set {said.get('dataset')!r}, not of {dataset!r}; {mend}")
    if sealed(ids) != said["digest"]:
        raise DataError(
            f"{path} has changed since it was made: its {len(ids)} ids do not have the digest in {about}; "
            f"{mend}"
        )
    return ids, said
