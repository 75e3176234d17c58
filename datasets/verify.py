"""Looks at a data set: is every listed file sound, and what is in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bench.contract import IGNORE, Dataset
from bench.errors import DataError
from datasets.encodings import disagreement, refuse_disagreement
from datasets.splits import LISTS, Split

OnItem = Callable[[int, int], None]


@dataclass(frozen=True)
class ClassRow:
    """Counts one class of a list: its pixels, their share (0..1) of all pixels with 255, and its images."""

    id: int
    name: str
    pixels: int
    share: float
    images: int


@dataclass(frozen=True)
class Stats:
    """Describes a list in numbers: a row per class and a last one for 255, and the number of images by
    (height, width), e.g. {(360, 480): 233}."""

    dataset: str
    listing: str
    images: int
    rows: tuple[ClassRow, ...]
    sizes: dict[tuple[int, int], int]


def verify(dataset: Dataset, splits: Sequence[Split], on_item: OnItem | None = None) -> list[str]:
    """Open every image of the splits, and the mask of every id whose pixels one of them grants or scores.

    Returns a sentence for each problem, none if all is well. `on_item(done, total)` is called after each id.
    """
    ids = sorted({id for split in splits for list_ in LISTS for id in getattr(split, list_)})
    masked = {id for split in splits for id in (*split.pixel, *split.eval)}
    # A dict for its order: an unreadable image also fails the size check of its mask, with the same sentence.
    problems: dict[str, None] = {}
    if said := disagreement(dataset, sorted(masked)):
        problems[said] = None
    for done, id in enumerate(ids, 1):
        for read in (dataset.image, dataset.mask) if id in masked else (dataset.image,):
            try:
                read(id)
            except DataError as error:
                problems[str(error)] = None
        if on_item:
            on_item(done, len(ids))
    return list(problems)


def stats(dataset: Dataset, listing: str, on_item: OnItem | None = None) -> Stats:
    """Count the masks of a list ("train", "val", "test"). Raises DataError for a missing or invalid file."""
    ids = dataset.ids(listing)
    refuse_disagreement(dataset, ids)
    pixels, images = np.zeros(IGNORE + 1, np.int64), np.zeros(IGNORE + 1, np.int64)
    sizes: Counter[tuple[int, int]] = Counter()
    for done, id in enumerate(ids, 1):
        mask = dataset.mask(id)
        count = np.bincount(mask.ravel(), minlength=IGNORE + 1)
        pixels += count
        images += count > 0
        sizes[mask.shape[0], mask.shape[1]] += 1
        if on_item:
            on_item(done, len(ids))
    total = max(int(pixels.sum()), 1)
    names = [*enumerate(dataset.classes), (IGNORE, "ignore")]
    rows = tuple(
        ClassRow(c, name, int(pixels[c]), int(pixels[c]) / total, int(images[c])) for c, name in names
    )
    return Stats(dataset.name, listing, len(ids), rows, dict(sizes.most_common()))
