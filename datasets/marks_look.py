"""Findings that are worth a look in the points, strokes and boxes that splits grant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from bench.contract import Dataset
from bench.errors import DataError
from bench.labels import IGNORE
from datasets.findings import spread
from datasets.ids import some
from datasets.marks import Mark
from datasets.sparse import Marks, classes_of
from datasets.splits import Split

MUCH_MARKED = 0.5  # of an image: what people click or draw is a hundredth of it


@dataclass(frozen=True)
class MarkFacts:
    """The classes in the marks of an image, and the share of its pixels that points or strokes cover, 0..1;
    of boxes 0."""

    classes: frozenset[int]
    share: float


Looked = Mapping[tuple[str, str], MarkFacts]  # by kind and id


def looked_at(dataset: Dataset, split: Split, most: int | None) -> Looked:
    """Read the marks of a split, of each kind `most` at most, spread over the list; none where they are not
    those that it was made with, which whoever reads them to learn says."""
    found: dict[tuple[str, str], MarkFacts] = {}
    with suppress(DataError):
        marks = Marks(dataset, split)
        for kind, ids in split.sparse.items():
            for id in spread(ids, most):
                found[kind, id] = _facts_of(marks.read(kind, id), dataset.background)
    return found


def _facts_of(mark: Mark, background: int | None) -> MarkFacts:
    share = float((mark != IGNORE).mean()) if isinstance(mark, np.ndarray) else 0.0
    return MarkFacts(classes_of(mark, background), share)


def whole(split: Split, looked: Looked) -> bool:
    """Whether all marks of a split were looked at."""
    return all((kind, id) in looked for kind, ids in split.sparse.items() for id in ids)


def of_marks(splits: Sequence[Split], looked: Mapping[str, Looked]) -> Iterator[str]:
    """Points and strokes that cover most of their image.

    Args:
        looked: By the name of the split.
    """
    for kind in dict.fromkeys(kind for split in splits for kind in split.sparse):
        facts = {id: one for of in looked.values() for (what, id), one in of.items() if what == kind}
        much = sorted(id for id, one in facts.items() if one.share > MUCH_MARKED)
        if much:
            yield (
                f"the {kind} of {len(much)} of {len(facts)} images mark more than half of the image "
                f"({some(much)}); where nothing is marked they must hold {IGNORE}."
            )
