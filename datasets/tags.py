"""Image tags: which classes are in an image. Read from a record, never from the masks of a run's split.

The record is the tags.json of the data set. A data set without one has its tags.json beside the splits: `data
splits --make` wrote it from the masks, for the owner of the data set. The MANIFEST of a split that grants
tags says which of the two it was made with (`tag_source`) and holds the digest of the tags.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

from bench.errors import ConfigError, DataError, did_you_mean
from bench.randomness import numpy_for
from datasets.draws import draws_in, is_drawn
from datasets.ids import read_json
from datasets.plain_files import is_there
from datasets.splits import Split, command, find_split, root_of

if TYPE_CHECKING:
    from bench.contract import Dataset

TagTable = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class TagRecord:
    """A file of tags, and sentences that its user should read."""

    path: Path
    table: TagTable
    notes: tuple[str, ...] = ()

    def of(self, id: str) -> tuple[int, ...]:
        """Return the tags of an image. Raises NoEntry, with the entry that may be meant."""
        if id in self.table:
            return self.table[id]
        near = [key for key in self.table if PurePosixPath(key).stem == PurePosixPath(id).name]
        meant = f" (there is {near[0]!r}; an entry is an id, without ending)" if near else ""
        raise NoEntry(
            f"{self.path} has no entry for {id!r}{meant}; add its class ids (an empty list if none)."
        )


class NoEntry(DataError):
    """A record of tags lacks an image."""


def read_tags(path: Path, classes: tuple[str, ...]) -> TagTable:
    """Read the tags of a file, as `read_record` does."""
    return read_record(path, classes).table


def read_record(path: Path, classes: tuple[str, ...]) -> TagRecord:
    """Read a JSON file of tags, {"a": [4, 1], "b": ["cat"]}, as sorted class ids: {"a": (1, 4), "b": (7,)}.

    A file where each entry is a vector of 0 and 1, one number for each class, is read as such, and said:
    {"a": [0, 1, 1]} gives {"a": (1, 2)}. Tags that are the same everywhere are said too.

    Raises DataError, which names the file and the entry, for anything else, and for a file that may be read
    both ways.
    """
    table = read_json(path)
    if not isinstance(table, dict):
        raise DataError(f"{path} must map each id to a list of class ids.")
    vectors = _are_vectors(path, table, len(classes))
    read = _from_vector if vectors else _entry
    found = {id: read(path, id, tags, classes) for id, tags in table.items()}
    said = []
    if vectors:
        id = next(iter(found))
        names = ", ".join(repr(classes[c]) for c in found[id]) or "no class"
        said.append(
            f"{path} is read as vectors of 0 and 1, one number for each of the {len(classes)} classes: "
            f"{id!r} holds {names}."
        )
    if len(found) > 1 and len(set(found.values())) == 1:
        names = ", ".join(repr(classes[c]) for c in next(iter(found.values()))) or "no class"
        said.append(
            f"{path} gives all {len(found)} images the same tags ({names}); nothing can be learned from them."
        )
    return TagRecord(path, found, tuple(said))


def _are_vectors(path: Path, table: Mapping[str, object], classes: int) -> bool:
    """Whether the entries are vectors of 0 and 1. [1, 0] alone may also be the ids 0 and 1: the whole file
    decides, since ids are in no order and of no fixed length only by chance.

    Raises DataError where both may be meant, and for vectors of another length than the list of classes.
    """
    entries = [tags for tags in table.values() if tags != []]
    if not entries or not all(map(_is_binary, entries)):
        return False
    lists: list[Sequence[Any]] = [tags for tags in entries if isinstance(tags, list)]
    lengths = {len(tags) for tags in lists}
    as_ids = all(type(tag) is int for tags in lists for tag in tags)
    usual = as_ids and all(list(tags) == sorted(set(tags)) for tags in lists)  # as ids are mostly written
    if len(lengths) > 1:
        return False
    (length,) = lengths
    if (length == 1 < classes) or (usual and not (length == classes and len(entries) == len(table))):
        return False
    if length != classes:
        raise DataError(
            f"{path}: its entries look like vectors of {length} numbers 0 and 1, but there are {classes} "
            f"classes (background counts); write vectors of {classes} numbers, or lists of class names."
        )
    if as_ids and length < 3 and (usual or len(entries) < len(table)):
        raise DataError(
            f"{path}: its entries, such as {lists[0]}, may be class ids or vectors of 0 and 1; write class "
            "names to say which."
        )
    return True


def _is_binary(tags: object) -> bool:
    return isinstance(tags, list) and all(isinstance(tag, int | float) and tag in (0, 1) for tag in tags)


def _from_vector(path: Path, id: str, tags: Any, classes: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(c for c, tag in enumerate(tags) if tag)


def _entry(path: Path, id: str, tags: object, classes: tuple[str, ...]) -> tuple[int, ...]:
    ids: list[Any] = []
    for tag in tags if isinstance(tags, list) else ():
        if not isinstance(tag, str):
            ids.append(tag)
            continue
        same = [c for c, name in enumerate(classes) if normalize("NFC", name) == normalize("NFC", tag)]
        if not same:
            raise DataError(
                f"{path}: the entry of {id[:80]!r} has the unknown tag {tag[:80]!r}"
                f"{did_you_mean(tag[:80], classes)}"
            )
        ids += same
    whole = isinstance(tags, list) and all(type(tag) is int and 0 <= tag < len(classes) for tag in ids)
    if not whole or len(set(ids)) < len(ids):
        raise DataError(
            f"{path}: the entry of {id[:80]!r} is {repr(tags)[:200]}; it must be a list of different class "
            f"ids in 0..{len(classes) - 1}, or of class names."
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
    beside = read_tags(file, tuple(dataset.classes)) if file is not None and is_there(file) else {}
    table: TagTable = {}
    lacking: list[str] = []
    asked = list(ids)
    for id in asked:
        try:
            own = dataset.tags(id)
        except NoEntry as error:
            lacking.append(str(error))
            continue
        if own is None and id not in beside:
            where = f"{file} has no entry for it" if beside else "the data set has no tags.json"
            lacking.append(
                f"{dataset.name}: {id!r} is granted its tags, but {where}; add one, or make the splits anew "
                f"with `{command(dataset.name, root_of(file and file.parent), '--make')}`."
            )
        else:
            table[id] = beside[id] if own is None else own
    if lacking:
        many = (
            f"{len(lacking)} of the {len(asked)} tagged images of {dataset.name} have no tags; for example "
        )
        raise DataError(f"{many if lacking[1:] else ''}{lacking[0]}")
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
        draw = f" (draw {split.draw})" if split.draw else ""
        raise DataError(
            f"the tags of {dataset.name} are not those that its split {split.name!r}{draw} was made with; "
            f"restore the record ({split.tag_source}), or make the splits anew with "
            f"`{command(dataset.name, root_of(split.tag_file and split.tag_file.parent), '--make')}`."
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


def problems(dataset: Dataset, splits: Iterable[Split]) -> Iterator[str]:
    """Yield what is wrong with the tags that splits grant, in each of their draws."""
    for split in splits:
        if not split.tags:
            continue
        drawn = draws_in(split.place) if split.place is not None and is_drawn(split.name) else []
        for draw in (0, *drawn):
            try:
                with suppress(ConfigError):  # too small for this draw
                    load_tags(dataset, _in_draw(split, draw))
            except DataError as error:
                yield str(error)


def _in_draw(split: Split, draw: int) -> Split:
    return find_split(split.dataset, split.name, root_of(split.place), draw) if draw else split
