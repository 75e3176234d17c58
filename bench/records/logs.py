"""Reads what lies beside a result: the lines of metrics.jsonl, the counts of counts.npz, activation maps."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

from bench.errors import DataError, read_file

if TYPE_CHECKING:
    import numpy as np


def metrics_torn(path: Path) -> bool:
    """Whether `read_metrics` leaves out a last line that a kill has torn."""
    lines = _lines(path)
    return bool(lines) and _metrics_line(lines[-1]) is None


def not_as_written(path: Path) -> DataError:
    """Make the error for a file that lies beside a result and is not the one of its run."""
    return DataError(
        f"{path} is not as its run has written it: it was damaged or edited; restore it, or make the run "
        "again with --overwrite."
    )


def _read(path: Path, digest: str | None) -> bytes:
    """Read the content of a file. Raises DataError unless it is that of the digest, where one is given."""
    data = read_file(path)
    if digest not in (None, hashlib.sha256(data).hexdigest()):
        raise not_as_written(path)
    return data


def read_metrics(path: Path, digest: str | None = None) -> list[dict[str, Any]]:
    """Read the lines of metrics.jsonl, e.g. `{"step": 100, "lr": 0.01}`; [] without the file. A last line
    torn by a kill is left out.

    Args:
        digest: The file's SHA-256 as the run has recorded it; None for a run of before it did, or one that is
            not done.

    Raises DataError where another line is no JSON object with a step, or the file is not that of the run.
    """
    lines = _lines(path)
    if lines:
        _read(path, digest)
    found = []
    for number, text in enumerate(lines, 1):
        line = _metrics_line(text)
        if line is not None:
            found.append(line)
        elif number < len(lines):
            raise DataError(f"{path}, line {number} is damaged; move the file away.")
    return found


def whole_lines(path: Path) -> list[tuple[bytes, int]]:
    """Read the lines of a log to go on with, each with its step; [] without the file. A last line that a kill
    has torn is left out.

    Raises DataError for a line that was not written so.
    """
    found = []
    lines = _lines(path)
    ended = bool(lines) and read_file(path).endswith(b"\n")
    for number, text in enumerate(lines, 1):
        line = _metrics_line(text)
        if line is not None:
            found.append((text, line["step"]))
        elif number < len(lines) or ended or not _torn(text):
            raise DataError(
                f"{path}, line {number} is damaged; move the file away, and the run goes on with a log that "
                "begins at its checkpoint."
            )
    return found


def _torn(text: bytes) -> bool:
    """Whether a line that was not written to its end may look so; a power cut may leave zeros behind it."""
    written = text.rstrip(b"\0")
    head = b'{"step": '
    begun = written.isascii() and (written.startswith(head) or head.startswith(written))
    return begun and (written != text or not text.endswith(b"}"))


def _lines(path: Path) -> list[bytes]:
    """Split at line feeds alone, which JSON does not hold; [] without the file or in an empty one."""
    data = read_file(path) if path.exists() else b""
    return data.removesuffix(b"\n").split(b"\n") if data else []


def _metrics_line(text: bytes) -> dict[str, Any] | None:
    """None where it is no JSON object with a step. Whole numbers beyond int64 are read as float, inf if need
    be."""
    try:
        line = json.loads(text, parse_int=lambda digits: int(digits) if len(digits) < 19 else float(digits))
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) and type(line.get("step")) is int else None


def read_counts(path: Path, digest: str | None = None) -> dict[str, np.ndarray]:
    """counts.npz: "ids" (N) and, per scored module, N C C confusion counts (truth in rows).

    Args:
        digest: As of `read_metrics`.

    Raises DataError where it is damaged, holds anything else, or is not that of the run.
    """
    import numpy as np

    mend = "score the run again, or move the file away."
    try:
        with np.load(io.BytesIO(_read(path, digest)), allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
            ids = found["ids"]
    except DataError:
        raise
    except Exception as error:  # of a dozen kinds: of zip, of zlib, of the header, of memory it asks for
        raise DataError(f"{path} cannot be read ({type(error).__name__}: {error}); {mend}") from error
    counts = {name: array for name, array in found.items() if name != "ids"}
    sound = ids.ndim == 1 and ids.dtype.kind == "U" and len(set(ids.tolist())) == len(ids)
    for array in counts.values():
        square = array.ndim == 3 and array.shape == (ids.size, array.shape[1], array.shape[1])
        sound = sound and square and array.dtype.kind in "iu"
    if not sound:
        raise DataError(f"{path} does not hold one confusion matrix of whole numbers per image; {mend}")
    return found


def read_maps(path: Path) -> tuple[list[int], np.ndarray]:
    """Read the tags of an image and their activation maps, K h w float32, from maps/<id>.npz.

    Raises DataError where the file is damaged.
    """
    import numpy as np

    try:
        with np.load(io.BytesIO(read_file(path)), allow_pickle=False) as file:
            return file["classes"].tolist(), file["maps"].astype(np.float32)
    except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
        raise DataError(
            f"{path} cannot be read ({error}); remove it and the seeds.json of its seeds, and `cam-seeds` "
            "makes both again."
        ) from error
