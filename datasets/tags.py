"""Image tags: which classes are in an image. Read from a record, never from the masks of a run's split.

The record is the tags.json of the data set. A data set without one has its tags.json beside the splits: `data
splits --make` wrote it from the masks, for the owner of the data set. The MANIFEST of a split that grants
tags says which of the two it was made with (`tag_source`) and holds the digest of the tags.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import DataError, did_you_mean
from bench.randomness import numpy_for
from datasets.splits import Split

if TYPE_CHECKING:
    from bench.contract import Dataset

TagTable = dict[str, tuple[int, ...]]


def read_tags(path: Path, classes: tuple[str, ...]) -> TagTable:
    """Read a JSON file of tags, {"a": [4, 1], "b": ["cat"]}, as sorted class ids: {"a": (1, 4), "b": (7,)}.

    Raises DataError, which names the file and the entry, for anything else.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is not readable JSON ({error}); write it again.") from error
    if not isinstance(table, dict):
        raise DataError(f"{path} must map each id to a list of class ids.")
    return {id: _entry(path, id, tags, classes) for id, tags in table.items()}


def _entry(path: Path, id: str, tags: object, classes: tuple[str, ...]) -> tuple[int, ...]:
    ids = []
    for tag in tags if isinstance(tags, list) else ():
        if isinstance(tag, str) and tag not in classes:
            raise DataError(
                f"{path}: the entry of {id!r} has the unknown tag {tag!r}{did_you_mean(tag, classes)}"
            )
        ids.append(classes.index(tag) if isinstance(tag, str) else tag)
    whole = isinstance(tags, list) and all(type(tag) is int and 0 <= tag < len(classes) for tag in ids)
    if not whole or len(set(ids)) < len(ids):
        raise DataError(
            f"{path}: the entry of {id!r} is {tags!r}; it must be a list of different class ids in "
            f"0..{len(classes) - 1}, or of class names."
        )
    return tuple(sorted(ids))


def tag_digest(table: Mapping[str, Collection[int]], background: int | None) -> str:
    """Hash the tags of all ids with SHA-256, without background: it may be left out of a record."""
    lines = [f"{id}:{','.join(map(str, sorted(set(table[id]) - {background})))}" for id in sorted(table)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def recorded(dataset: Dataset, ids: Iterable[str], file: Path | None) -> TagTable:
    """Look up the tags of the ids: in the data set's own record, else in `file`.

    Raises DataError where there is no record, or none of an id.
    """
    beside = read_tags(file, tuple(dataset.classes)) if file is not None and file.is_file() else {}
    table: TagTable = {}
    for id in ids:
        own = dataset.tags(id)
        if own is None and id not in beside:
            where = f"{file} has no entry for it" if beside else "the data set has no tags.json"
            raise DataError(
                f"{dataset.name}: {id!r} is granted its tags, but {where}; add one, or make the splits anew "
                "with `data splits --make`."
            )
        table[id] = beside[id] if own is None else own
    return table


def load_tags(dataset: Dataset, split: Split, shuffled_by: int | None = None) -> TagTable:
    """Give the classes each tagged image of the split may hold: its tags, and background where there is one.

    Args:
        shuffled_by: A seed, for a control run: the tag sets are dealt out anew among the images, so that
            how often a class occurs stays, and which image it is said of becomes wrong.

    Raises:
        DataError: There is no record, it is not the one that the split was made with, or no image has a tag.
    """
    if not split.tags:
        return {}
    background = dataset.background
    table = recorded(dataset, split.tags, split.tag_file)
    if tag_digest(table, background) != split.tag_digest:
        raise DataError(
            f"the tags of {dataset.name} are not those that its split {split.name!r} was made with; restore "
            f"the record ({split.tag_source}), or make the splits anew with `data splits --make`."
        )
    if not any(set(tags) - {background} for tags in table.values()):
        raise DataError(
            f"none of the {len(table)} tagged images of {dataset.name} has a tag; there is nothing to learn "
            "from: complete tags.json."
        )
    sets = list(table.values())
    if shuffled_by is not None:
        sets = [sets[i] for i in numpy_for(shuffled_by, "shuffled tags").permutation(len(sets))]
    own = set() if background is None else {background}
    return {id: tuple(sorted({*tags, *own})) for id, tags in zip(table, sets, strict=True)}
