"""Sparse labels: the points, strokes and boxes that a split grants. Read from a record, never from masks.

The record is that of the data set (points/ID.png, scribbles/ID.png, boxes.json), or what `data splits --make
--kind` has made of the masks, for the owner of the data set: points.zip and scribbles.zip, which hold
ID.png, and boxes.json, beside the splits. Of both, KIND.index.json beside the splits has a digest of the
marks of each image, and the MANIFEST of a split one of those that it grants. What has changed since is
refused when it is read.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from bench.errors import DataError
from bench.labels import BOXES, IGNORE, Box
from datasets.boxes import read_boxes
from datasets.marks import Mark, archive_file, mark_digest, marks_digest, read_index
from datasets.plain_files import is_there
from datasets.splits import FROM_MASKS, Split, command, root_of

if TYPE_CHECKING:
    from bench.contract import Dataset


def own(dataset: Dataset, kind: str, id: str) -> Mark | None:
    """Read the marks of an image from the data set's own record; None where it has none of the kind.

    Raises DataError where the record lacks the image, or is not sound.
    """
    return dataset.boxes(id) if kind == BOXES else dataset.drawn(id, kind)


def classes_of(mark: Mark, background: int | None) -> frozenset[int]:
    """Return the classes that marks say something of. What lies outside of all boxes is background, if there
    is one."""
    if isinstance(mark, np.ndarray):
        return frozenset(np.unique(mark).tolist()) - {IGNORE}
    return frozenset(box.label for box in mark) | (set() if background is None else {background})


class Marks:
    """Reads the marks that a split grants; each process of a pool may hold a copy.

    Raises DataError where the records are not those that the split was made with.
    """

    def __init__(self, dataset: Dataset, split: Split) -> None:
        assert split.place is not None, "a split that grants marks says where they lie"
        self.dataset, self.place = dataset, split.place
        self.ids = {kind: frozenset(ids) for kind, ids in split.sparse.items()}
        self.from_masks = {kind: split.marks[kind].source == FROM_MASKS for kind in self.ids}
        self.index: dict[str, dict[str, str]] = {}
        self._archives: dict[str, Mapping[str, bytes | tuple[Box, ...]]] = {}
        for kind, ids in self.ids.items():
            index = read_index(self.place, kind, self._mend(kind))
            if not index.keys() >= ids or marks_digest(index, ids) != split.marks[kind].digest:
                raise DataError(
                    f"the {kind} of {dataset.name} are not those that its split {split.name!r} was made "
                    f"with; {self._mend(kind)}"
                )
            self.index[kind] = index

    def drawn(self, kind: str, id: str) -> np.ndarray:
        """Points or strokes of an image: H W uint8, class ids, 255 elsewhere."""
        mark = self.read(kind, id)
        assert isinstance(mark, np.ndarray), "boxes are asked for with `boxes`"
        return mark

    def boxes(self, id: str) -> tuple[Box, ...]:
        mark = self.read(BOXES, id)
        assert isinstance(mark, tuple), "points and strokes are asked for with `drawn`"
        return mark

    def read(self, kind: str, id: str) -> Mark:
        """Read the marks of one kind of an image. Raises DataError for marks that are not granted, missing,
        or other than the split was made with."""
        if id not in self.ids.get(kind, frozenset()):
            raise DataError(f"{id!r} of {self.dataset.name} is not granted its {kind}.")
        mark = self._made(kind, id) if self.from_masks[kind] else own(self.dataset, kind, id)
        if mark is None or mark_digest(mark) != self.index[kind][id]:
            raise DataError(
                f"the {kind} of {id!r} of {self.dataset.name} have changed since its splits were made; "
                f"{self._mend(kind)}"
            )
        return mark

    def _mend(self, kind: str) -> str:
        make = command(self.dataset.name, root_of(self.place), f"--make --kind {kind}")
        return f"restore it, or make the splits anew with `{make}`."

    def _made(self, kind: str, id: str) -> Mark | None:
        if kind not in self._archives:
            path, mend = archive_file(self.place, kind), self._mend(kind)
            if not is_there(path):
                raise DataError(f"{path} is missing; {mend}")
            if kind == BOXES:
                try:
                    self._archives[kind] = read_boxes(path, self.dataset.classes)
                except DataError as error:
                    raise DataError(f"{str(error).rstrip('.')}; {mend}") from error
            else:
                self._archives[kind] = read_archive(path, self.ids[kind], mend)
        found = self._archives[kind].get(id)
        return decoded(archive_file(self.place, kind), id, found) if isinstance(found, bytes) else found


def problems(dataset: Dataset, splits: Iterable[Split]) -> Iterator[str]:
    """Yield what is wrong with the marks that splits grant, a sentence for each kind and image."""
    seen: set[tuple[str, str]] = set()
    for split in splits:
        try:
            marks = Marks(dataset, split) if split.sparse else None
        except DataError as error:
            yield str(error)
            continue
        if marks is None:
            continue
        for kind, ids in marks.ids.items():
            for id in sorted(ids):
                if (kind, id) in seen:
                    continue
                seen.add((kind, id))
                try:
                    marks.read(kind, id)
                except DataError as error:
                    yield str(error)


def read_archive(path: Path, ids: Collection[str], mend: str) -> dict[str, bytes]:
    """Read the PNG files of some images, and of no others, as they lie in a zip. Raises DataError where one
    is not there."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {id: archive.read(f"{id}.png") for id in ids}
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is damaged ({error}); {mend}") from error


def decoded(path: Path, id: str, data: bytes) -> np.ndarray:
    """Decode the PNG file of an image's points or strokes, H W uint8. Raises DataError, which names the
    archive and the id, for what is no PNG of greys."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            if picture.mode != "L":
                raise ValueError(f"mode {picture.mode}")
            return np.array(picture)
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        raise DataError(f"{path}: {id}.png cannot be decoded ({error}); restore the file.") from error


def to_archive(marks: Mapping[str, np.ndarray]) -> bytes:
    """Return a zip of PNG files, always the same bytes for the same marks and libraries."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for id in sorted(marks):
            picture = io.BytesIO()
            Image.fromarray(marks[id]).save(picture, format="PNG")
            # Without a date of its own an entry has that of 1980.
            archive.writestr(zipfile.ZipInfo(f"{id}.png"), picture.getvalue())
    return buffer.getvalue()


def refuse_misplaced(where: str, mark: Mark, mask: np.ndarray) -> None:
    """Raise DataError for points or strokes of another size than the mask, or on void."""
    if not isinstance(mark, np.ndarray):
        return
    if mark.shape != mask.shape:
        raise DataError(
            f"{where} are {mark.shape[1]}x{mark.shape[0]} but the image is {mask.shape[1]}x{mask.shape[0]} "
            "pixels; draw them on the image itself."
        )
    rows, columns = np.nonzero((mark != IGNORE) & (mask == IGNORE))
    if len(rows):
        raise DataError(
            f"{where} mark row {rows[0]}, column {columns[0]} as {mark[rows[0], columns[0]]}, where the mask "
            f"has no label ({IGNORE}); correct one of the two."
        )
