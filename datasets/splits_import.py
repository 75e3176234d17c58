"""Imports lists of ids, yours or another project's, as a split (`data splits --labeled`). Opens no mask."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from bench.errors import ConfigError, DataError
from datasets import tags
from datasets.splits import (
    COMMITTED,
    TAGS_FILE,
    Split,
    check_id,
    digest,
    known_splits,
    read_lines,
    refuse_repeats,
    some,
)
from datasets.splits_make import FROM_RECORD, write_split

if TYPE_CHECKING:
    from bench.contract import Dataset


def recognise(ids: Iterable[str]) -> list[str]:
    """Give the names a list of ids was published under, e.g. "U2PL:pascal/1323/labeled"; empty if unknown."""
    return list(_published().get(digest(ids), ()))


def import_split(
    dataset: str,
    name: str,
    labeled_file: Path | None,
    unlabeled_file: Path | None,
    train_ids: Sequence[str],
    eval_ids: Sequence[str],
    destination: Path,
    tagged_file: Path | None = None,
    data: Dataset | None = None,
) -> Split:
    """Import lists of ids as the split `destination`/<name>/ and return it.

    A line is a bare id, or the path of an image with or without that of its mask behind it, e.g.
    "JPEGImages/2007_000032.jpg SegmentationClass/2007_000032.png". Without an unlabeled list, all other
    training ids grant nothing. The tags of `tagged_file` are those that `data`, the data set, has a record
    of. The MANIFEST says under which names published lists are known.

    Raises ConfigError for a name that is taken or not allowed, DataError for an unreadable list, an id that
    is not a training id, stands in two lists, is scored, or is to be tagged and has no record of tags.
    """
    name = name.replace("/", "_")
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise ConfigError(f"{name!r} cannot name a split; use letters, digits, _ . + -.")
    if name in known_splits(dataset, None):
        raise ConfigError(
            f"{dataset} has a split {name!r} of the suite's own; import the list under another name."
        )
    files = {"pixel": labeled_file, "tags": tagged_file, "none": unlabeled_file}
    lists = {grant: _read_foreign(file) if file else () for grant, file in files.items()}
    if unlabeled_file is None:
        lists["none"] = tuple(sorted(set(train_ids).difference(lists["pixel"], lists["tags"])))
    _check_lists(dataset, lists, files, set(train_ids), set(eval_ids))
    split = Split(dataset, name, lists["pixel"], lists["tags"], lists["none"], tuple(sorted(eval_ids)))
    if tagged_file and data:
        table = tags.recorded(data, split.tags, destination / TAGS_FILE)
        split = replace(split, tag_source=FROM_RECORD, tag_digest=tags.tag_digest(table, data.background))
    origin = {
        "imported": {grant: "/".join(file.parts[-3:]) for grant, file in files.items() if file}
        | ({} if unlabeled_file else {"none": "all other training ids"}),
        "known_as": {list_: recognise(getattr(split, list_)) for list_ in ("pixel", "none", "eval")},
    }
    write_split(destination / name, split, origin)
    return split


def _check_lists(
    dataset: str,
    lists: dict[str, tuple[str, ...]],
    files: dict[str, Path | None],
    train: set[str],
    scored: set[str],
) -> None:
    """Raise DataError, which names the file, for an id in two lists, a scored one, or one not in train."""
    for grant, other in (("pixel", "tags"), ("pixel", "none"), ("tags", "none")):
        shared = sorted(set(lists[grant]).intersection(lists[other]))
        if shared:
            raise DataError(
                f"{files[grant]} and {files[other]} both hold {some(shared)}; an image is in one list. "
                "Leave the unlabeled list out, and every other training image is taken as unlabeled."
            )
    for grant, ids in lists.items():
        leaked = sorted(scored.intersection(ids))
        if leaked:
            raise DataError(
                f"{files[grant]} holds {some(leaked)}, which {dataset} scores; remove from the list what is "
                "scored."
            )
        unknown = sorted(set(ids).difference(train))
        if unknown:
            raise DataError(
                f"{files[grant]} holds {some(unknown)}, not among the {len(train)} training images of "
                f"{dataset}; check that the list belongs to this data set and that the data are complete."
            )


def _read_foreign(path: Path) -> tuple[str, ...]:
    """Read the sorted ids of a list in any of the published forms; see `import_split`."""
    ids = [_foreign_id(line) for line in read_lines(path) if line]
    for id in ids:
        check_id(id, path)
    refuse_repeats(ids, path)
    if not ids:
        raise DataError(f"{path} is empty; point to a list with one image a line.")
    return tuple(sorted(ids))


def _foreign_id(line: str) -> str:
    """Turn a line into an id: "images/far/c.png ..." -> "far/c", "far/c.jpg" -> "c", "far/c" -> "far/c"."""
    entry = PurePosixPath(line.split()[0])
    if entry.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        return str(entry)
    stem = entry.with_suffix("")
    # our own layout has sub folders under images/, the published ones mean the file name alone
    if stem.parts[0] == "images":
        return "/".join(stem.parts[1:])
    return stem.name.removesuffix("_leftImg8bit")


@cache
def _published() -> dict[str, tuple[str, ...]]:
    facts = json.loads((COMMITTED / "known_lists.json").read_text(encoding="utf-8"))
    return {entry["sha256"]: tuple(entry["known_as"]) for entry in facts["lists"]}
