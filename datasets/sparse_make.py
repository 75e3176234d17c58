"""Makes points, strokes and boxes of the masks of a data set, or reads its own, and writes their index.

An act of the owner of a data set (`data splits --make --kind`), as `splits_make` is. The rule is in
`sparse_rule`; its draws are named after the kind, the data set and the image, so a mark depends on nothing
else.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from bench.errors import DataError
from bench.labels import BOXES, DRAWN, IGNORE, POINTS, Box
from bench.randomness import numpy_for
from bench.records.atomic import write_atomic
from datasets import sparse_rule
from datasets.boxes import BOXES_FILE, to_coco
from datasets.encodings import refuse_disagreement
from datasets.ids import read_json, some
from datasets.marks import Mark, archive_file, index_file, mark_digest, marks_digest
from datasets.plain_files import is_there
from datasets.sparse import own, refuse_misplaced, to_archive
from datasets.splits import FROM_MASKS, FROM_RECORD, MarkRecord, Split

if TYPE_CHECKING:
    from bench.contract import Dataset

MOST_WRONG = 0.5  # share of marked pixels: a person clicks wrong now and then
MIXED_SHARES = ("1_16", "1_8")  # whose images keep their masks, where the others have sparse labels


def names_of(kind: str) -> tuple[str, ...]:
    """Return the names of the splits that are made for a kind: ("points", "1_16+points", "1_8+points")."""
    return (kind, *(f"{share}+{kind}" for share in MIXED_SHARES))


def made_of(
    kind: str, dataset: Dataset, id: str, mask: np.ndarray, found: Sequence[sparse_rule.Region] | None = None
) -> Mark:
    """Make the marks of one image by the rule. `found` are the regions of its mask, where they are known."""
    if kind == BOXES:
        return sparse_rule.boxes(mask, dataset.background, found)
    draw = sparse_rule.points if kind == POINTS else sparse_rule.scribbles
    return draw(mask, numpy_for(0, kind, dataset.name, id), found)


class Marking:
    """Takes the marks of a data set's images one by one, as their masks are read.

    Args:
        kinds: Of `SPARSE`. A kind of which the data set has a record of its own is read from there.
        ids: The images, of which the first says whether there is such a record.
    """

    def __init__(self, dataset: Dataset, kinds: Collection[str], ids: Sequence[str]) -> None:
        self.dataset = dataset
        self.source = {
            kind: FROM_MASKS if own(dataset, kind, ids[0]) is None else FROM_RECORD for kind in kinds
        }
        for kind, source in self.source.items():
            if source == FROM_RECORD and kind in DRAWN:
                refuse_disagreement(dataset, ids, kind)
        self.marks: dict[str, dict[str, Mark]] = {kind: {} for kind in kinds}
        # Of the points or strokes of the data set's own: marked pixels of which the mask says another class.
        self._wrong: dict[str, dict[str, int]] = {kind: {} for kind in kinds}
        self._marked: Counter[str] = Counter()

    def look(self, id: str, mask: np.ndarray) -> None:
        """Take the marks of one image, from the data set's own record or made of the mask. Raises DataError
        where marks of the data set's own are missing, or do not lie on the mask."""
        of_masks = FROM_MASKS in self.source.values()
        found = tuple(sparse_rule.regions(mask)) if of_masks else ()
        for kind, source in self.source.items():
            mark = own(self.dataset, kind, id) if source == FROM_RECORD else None
            if mark is None:
                mark = made_of(kind, self.dataset, id, mask, found)
            else:
                where = f"the {kind} of {id!r} of {self.dataset.name} ({kind}/{id}.png)"
                refuse_misplaced(where, mark, mask)
                self._compare(kind, id, mark, mask)
            self.marks[kind][id] = mark

    def _compare(self, kind: str, id: str, mark: Mark, mask: np.ndarray) -> None:
        if isinstance(mark, np.ndarray):
            marked = mark != IGNORE
            self._marked[kind] += int(marked.sum())
            if wrong := int((marked & (mark != mask)).sum()):
                self._wrong[kind][id] = wrong

    def write(self, place: Path) -> None:
        """Write what was made, and the index of each kind, beside the splits in `place`.

        Raises DataError where most pixels of the data set's own points or strokes contradict its masks.
        """
        for kind, wrong in self._wrong.items():
            if (count := sum(wrong.values())) > MOST_WRONG * self._marked[kind]:
                raise DataError(
                    f"{count:,} of the {self._marked[kind]:,} pixels that the {kind} of {self.dataset.name} "
                    f"mark are of another class in its masks ({some(sorted(wrong))}); correct one of the "
                    f"two: {kind} hold class ids, whatever dataset.yaml says of masks."
                )
        for kind, marks in self.marks.items():
            if self.source[kind] == FROM_MASKS:
                write_atomic(archive_file(place, kind), _archive(kind, marks, self.dataset.classes))
            write_index(place, kind, self.source[kind], marks)

    def granted(self, split: Split, place: Path) -> Split:
        """Return the split with what it says of the marks that it grants."""
        said = {
            kind: MarkRecord(self.source[kind], marks_digest(digests_of(self.marks[kind]), ids))
            for kind, ids in split.sparse.items()
        }
        return replace(split, marks=said, place=place)


def digests_of(marks: Mapping[str, Mark]) -> dict[str, str]:
    return {id: mark_digest(mark) for id, mark in marks.items()}


def write_index(place: Path, kind: str, source: str, marks: Mapping[str, Mark], add: bool = False) -> None:
    """Write KIND.index.json.

    Args:
        add: Keep what it says of other images.
    """
    path = index_file(place, kind)
    before = read_json(path).get("digests", {}) if add and is_there(path) else {}
    digests = {**before, **digests_of(marks)}
    made = source == FROM_MASKS
    rule = {"rule": sparse_rule.RULE, "rule_version": sparse_rule.RULE_VERSION} if made else {}
    lines = ",\n".join(f"  {json.dumps(id)}: {json.dumps(digests[id])}" for id in sorted(digests))
    head = "".join(f" {json.dumps(key)}: {json.dumps(value)},\n" for key, value in rule.items())
    source_line = f' "source": {json.dumps(source)},\n'
    write_atomic(path, f'{{\n{source_line}{head} "digests": {{\n{lines}\n }}\n}}\n'.encode())


def _archive(kind: str, marks: Mapping[str, Mark], classes: Sequence[str]) -> bytes:
    if kind in DRAWN:
        return to_archive(cast(Mapping[str, np.ndarray], marks))
    return to_coco(cast(Mapping[str, tuple[Box, ...]], marks), classes)


def with_own_marks(split: Split, dataset: Dataset, place: Path) -> Split:
    """Return the split with what it says of its marks, all of which the data set has a record of. Writes
    their index, or adds to it. Opens no mask. Raises DataError where there is no record, or none of an
    image."""
    said = {}
    for kind, ids in split.sparse.items():
        if kind in DRAWN:
            refuse_disagreement(dataset, ids, kind)
        found = {id: own(dataset, kind, id) for id in ids}
        if lacking := [id for id, mark in found.items() if mark is None]:
            file = BOXES_FILE if kind == BOXES else f"{kind}/{lacking[0]}.png"
            raise DataError(
                f"{dataset.name}: {lacking[0]!r} is granted its {kind}, and the data set has no {file}; "
                "add it."
            )
        marks = {id: mark for id, mark in found.items() if mark is not None}
        write_index(place, kind, FROM_RECORD, marks, add=True)
        said[kind] = MarkRecord(FROM_RECORD, marks_digest(digests_of(marks), ids))
    return replace(split, marks=said, place=place)
