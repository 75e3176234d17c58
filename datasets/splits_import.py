"""Imports lists of ids, yours or another project's, as a split (`data splits --labeled`). Opens no mask."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import ConfigError, DataError, check_name
from datasets import tags
from datasets.ids import digest, some
from datasets.list_lines import read_foreign
from datasets.lookup import all_missing, summary
from datasets.sparse_make import with_own_marks
from datasets.splits import COMMITTED, FROM_RECORD, TAGS_FILE, Split, known_splits
from datasets.splits_make import hold_out, write_split

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
    sparse_files: Mapping[str, Path] | None = None,
) -> Split:
    """Import lists of ids as the split `destination`/<name>/ and return it.

    A line is an id, or the path of an image with or without that of its mask behind it, e.g.
    "JPEGImages/2007_000032.jpg SegmentationClass/2007_000032.png"; see `datasets.list_lines`. Without an
    unlabeled list, all other training ids grant nothing. The tags of `tagged_file`, and the points, strokes
    and boxes of `sparse_files` (by kind), are those that `data`, the data set, has a record of. The MANIFEST
    says under which names published lists are known.

    Raises ConfigError for a name that is taken or not allowed, DataError for an unreadable list, a line that
    names no image or several, an id that is not a training id, stands in two lists, is scored, or is to be
    tagged or marked and has no record of that, and for images and granted masks that are not there.
    """
    name = name.replace("/", "_")
    check_name(name, "a split")
    if name in known_splits(dataset, None):
        raise ConfigError(
            f"{dataset} has a split {name!r} of the suite's own; import the list under another name."
        )
    files = {"pixel": labeled_file, "tags": tagged_file, "none": unlabeled_file, **(sparse_files or {})}
    known = {*train_ids, *eval_ids}
    lists: dict[str, Any] = {
        grant: read_foreign(file, known, dataset) if file else () for grant, file in files.items()
    }
    if unlabeled_file is None:
        lists["none"] = tuple(sorted(set(train_ids).difference(*lists.values())))
    _check_lists(dataset, lists, files, set(eval_ids))
    split = Split(dataset, name, **lists, eval=tuple(sorted(eval_ids)))
    missing = all_missing(data, split.train, split.pixel) if data else []
    if missing:
        count = len(train_ids) if unlabeled_file is None else sum(map(len, lists.values()))
        raise DataError(summary(missing, count, f"images of the split {name!r} of {dataset}"))
    if tagged_file and data:
        table = tags.recorded(data, split.tags, destination / TAGS_FILE)
        split = replace(split, tag_source=FROM_RECORD, tag_digest=tags.tag_digest(table, data.background))
    if split.sparse and data:
        split = with_own_marks(split, data, destination)
    origin = {
        "imported": {grant: "/".join(file.parts[-3:]) for grant, file in files.items() if file}
        | ({} if unlabeled_file else {"none": "all other training ids"}),
        "known_as": {list_: recognise(getattr(split, list_)) for list_ in ("pixel", "none", "eval")},
    }
    write_split(destination / name, split, origin)
    if data and not (COMMITTED / dataset).is_dir():
        hold_out(data, destination)
    return split


def _check_lists(
    dataset: str,
    lists: dict[str, tuple[str, ...]],
    files: dict[str, Path | None],
    scored: set[str],
) -> None:
    """Raise DataError, which names the file, for an id in two lists, or a scored one."""
    order = sorted(lists, key=lambda grant: grant == "none")
    for grant, other in combinations(order, 2):
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


@cache
def _published() -> dict[str, tuple[str, ...]]:
    facts = json.loads((COMMITTED / "known_lists.json").read_text(encoding="utf-8"))
    return {entry["sha256"]: tuple(entry["known_as"]) for entry in facts["lists"]}
