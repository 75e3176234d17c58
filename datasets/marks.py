"""The digests of points, strokes and boxes, and the index that keeps them beside the splits."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from bench.errors import DataError
from bench.labels import BOXES, Box
from datasets.boxes import BOXES_FILE
from datasets.ids import read_json
from datasets.plain_files import is_there

Mark = np.ndarray | tuple[Box, ...]  # of an image: points or strokes, H W uint8; or boxes


def mark_digest(mark: Mark) -> str:
    """Sixteen hex digits of the marks of an image."""
    if isinstance(mark, np.ndarray):
        content = f"{mark.shape}".encode() + mark.tobytes()
    else:
        content = repr([tuple(box) for box in sorted(mark)]).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def marks_digest(index: Mapping[str, str], ids: Collection[str]) -> str:
    """SHA-256 of the marks of some images, by the digest of each; one that the index lacks counts as "-"."""
    lines = (f"{id}:{index.get(id, '-')}" for id in sorted(ids))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def index_file(place: Path, kind: str) -> Path:
    return place / f"{kind}.index.json"


def archive_file(place: Path, kind: str) -> Path:
    """Where marks that were made of masks lie."""
    return place / (BOXES_FILE if kind == BOXES else f"{kind}.zip")


def read_index(place: Path, kind: str, mend: str) -> dict[str, str]:
    """Read the digest of each image's marks: {"train_0001": "3f2a9c0b1d4e5f60"}. Raises DataError, ending
    with `mend`, where there is no such index."""
    path = index_file(place, kind)
    table = read_json(path) if is_there(path) else None
    digests = table.get("digests") if isinstance(table, dict) else None
    if not isinstance(digests, dict) or not all(isinstance(one, str) for one in digests.values()):
        raise DataError(f"{path} is missing or no index of {kind}; {mend}")
    return digests
