"""Makes splits by the suite's rule, and writes them. Opens the mask of every training image.

That is an act of the owner of a data set (`data splits --make`). A run only reads splits, with `splits`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.errors import DataError
from bench.records.atomic import write_atomic, writing
from datasets import findings, tags
from datasets.encodings import refuse_disagreement
from datasets.lookup import all_missing, summary
from datasets.splits import (
    COMMITTED,
    GRANTS,
    MANIFEST,
    TAGS_FILE,
    Split,
    check_split,
    command,
    digest,
    read_list,
)

if TYPE_CHECKING:
    from bench.contract import Dataset

FROM_RECORD, FROM_MASKS = "the data set's own record", "masks"

SHARES = {"1_16": 16, "1_8": 8, "1_4": 4, "1_2": 2, "full": 1}
RULE_VERSION = 1  # raise it when the rule would give other splits
RULE = (  # every MANIFEST holds this text: a changed letter changes all of them
    "Training ids in the order of sha256('<dataset>:<seed>:<id>'); first a cover of the classes (while one "
    "is missing, the first id in this order that has the missing class of fewest images, the lower class id "
    "on a tie), then the rest; 1_N grants the pixels of the first ceil(n/N) ids. The masks of all training "
    "images were read to know which classes they hold: an act of the owner of the data set, not of a method."
)


def regenerate(
    dataset: Dataset,
    destination: Path | None = None,
    rule_seed: int = 0,
    on_item: Callable[[int, int], None] | None = None,
    on_mask: Callable[[str, np.ndarray], None] | None = None,
) -> tuple[dict[str, Split], dict[str, str]]:
    """Make and write the splits of a data set under `destination` (datasets/splits/<name>/ unless given).

    Reads the mask of every training image. `on_item(done, total)` is called after each, and before it
    `on_mask(id, mask)`, for others that want to look at it. Returns what `make_splits` does.

    Raises DataError for missing and invalid data, where no training or no scored mask holds a labeled pixel,
    and where eval.txt is there with other ids.
    """
    train = dataset.ids("train")
    _refuse_missing(dataset, train, destination)
    refuse_disagreement(dataset, [*train, *dataset.ids(dataset.scored)])
    findings.refuse_unlabeled(dataset, findings.learned_name(dataset), train)
    findings.refuse_unlabeled(dataset, findings.scored_name(dataset), dataset.ids(dataset.scored))
    classes_by_id: dict[str, set[int]] = {}

    def classes_of(id: str) -> set[int]:
        mask = dataset.mask(id)
        classes_by_id[id] = set(mask.tobytes())  # uint8: a byte is a class id
        if on_mask:
            on_mask(id, mask)
        if on_item:
            on_item(len(classes_by_id), len(train))
        return classes_by_id[id]

    made, skipped = make_splits(
        dataset.name, train, dataset.ids(dataset.scored), classes_of, dataset.classes, rule_seed
    )
    origin = {"rule": RULE, "rule_version": RULE_VERSION, "seed": rule_seed, "scored_list": dataset.scored}
    place = destination or COMMITTED / dataset.name
    table, source = _tags_for_splits(dataset, train, classes_by_id)
    if source == FROM_MASKS:
        write_atomic(place / TAGS_FILE, _as_json_lines(table))
    for name, split in made.items():
        if split.tags:
            tag_digest = tags.tag_digest({id: table[id] for id in split.tags}, dataset.background)
            made[name] = split = replace(
                split, tag_source=source, tag_digest=tag_digest, tag_file=place / TAGS_FILE
            )
        write_split(place / name, split, origin)
    return made, skipped


def _refuse_missing(dataset: Dataset, train: Sequence[str], destination: Path | None) -> None:
    """Raise DataError, with all of them counted, for images and masks that are not there."""
    scored = dataset.ids(dataset.scored)
    others = all_missing(dataset, (*train, *scored), scored)
    unmasked = [error for error in all_missing(dataset, (), train) if str(error) not in set(map(str, others))]
    if others or not all(error.gone for error in unmasked):
        count = len({*train, *scored})
        raise DataError(summary([*others, *unmasked], count, f"images of {dataset.name}'s lists"))
    if not unmasked:
        return
    data_root = destination.parents[1] if destination else None
    labeled = len(train) - len(unmasked)
    if labeled:
        instead = command(dataset.name, data_root, "--name ours --labeled labeled.txt")
        mend = (
            f"If they are unlabeled, write the ids of the {labeled} that have one into labeled.txt and "
            f"import it in place of --make: `{instead}`. All others are then unlabeled, or those that you "
            "list with --unlabeled."
        )
    else:
        instead = command(dataset.name, data_root, "--name ours --tagged tagged.txt")
        mend = (
            "Where tags.json says their classes, write their ids into tagged.txt and import it in place of "
            f"--make: `{instead}`."
        )
    raise DataError(
        f"{len(unmasked)} of the {len(train)} training images of {dataset.name} have no mask (there is no "
        f"{unmasked[0].gone}). {mend}"
    )


def make_splits(
    dataset_name: str,
    train_ids: Sequence[str],
    eval_ids: Sequence[str],
    classes_of: Callable[[str], Collection[int]],
    class_names: Sequence[str],
    rule_seed: int = 0,
) -> tuple[dict[str, Split], dict[str, str]]:
    """Make the splits of a data set by `RULE`: nested, with every class of train, the same on every machine.

    `classes_of` gives the class ids in an image; ids outside `class_names` (255) are passed over. Returns
    the splits by name (1_16, 1_8, 1_4, 1_2, full, tags, 1_8+tags), and for each that is too small to hold
    every class, and so not made, its name and why. Raises DataError for empty or overlapping lists.
    """
    if len(set(train_ids)) < len(train_ids):
        raise DataError(f"{dataset_name}: the training list holds an id more than once; remove the repeats.")
    order, cover, images = _cover_first(dataset_name, train_ids, classes_of, len(class_names), rule_seed)
    granted: dict[
        str, tuple[Sequence[str], Sequence[str]]
    ] = {}  # split -> ids granted pixels, ids granted tags
    skipped: dict[str, str] = {}
    rarest = sorted(images, key=lambda c: images[c])[:5]
    rare = ", ".join(f"{class_names[c]} ({images[c]})" for c in rarest)
    for name, share in SHARES.items():
        size = math.ceil(len(order) / share)
        if size >= cover:
            granted[name] = (order[:size], ())
        else:
            skipped[name] = (
                f"{dataset_name}/{name} is not made: of {len(order)} images it would hold {size}, and the "
                f"rule takes {cover} to cover all {len(images)} classes; the rarest are, with their images, "
                f"{rare}."
            )
    granted["tags"] = ((), order)
    if "1_8" in granted:
        granted["1_8+tags"] = (granted["1_8"][0], order[len(granted["1_8"][0]) :])
    else:
        skipped["1_8+tags"] = skipped["1_8"].replace("/1_8 ", "/1_8+tags ")
    made: dict[str, Split] = {}
    for name, (pixel_ids, tag_ids) in granted.items():
        none_ids = set(order).difference(pixel_ids, tag_ids)
        pixel, tagged, none, scored = (tuple(sorted(ids)) for ids in (pixel_ids, tag_ids, none_ids, eval_ids))
        made[name] = Split(dataset_name, name, pixel, tagged, none, scored)
        check_split(made[name], Path(dataset_name) / name)
    return made, skipped


def _cover_first(
    dataset_name: str,
    train_ids: Sequence[str],
    classes_of: Callable[[str], Collection[int]],
    classes: int,
    rule_seed: int,
) -> tuple[list[str], int, dict[int, int]]:
    """Order the ids by the rule; also give the length of the cover they begin with, and images by class."""
    order = sorted(
        train_ids, key=lambda id: hashlib.sha256(f"{dataset_name}:{rule_seed}:{id}".encode()).digest()
    )
    images: dict[int, list[str]] = {}  # class -> its images, in hash order
    held: dict[str, set[int]] = {}
    for id in order:
        held[id] = {c for c in classes_of(id) if 0 <= c < classes}
        for c in held[id]:
            images.setdefault(c, []).append(id)
    cover: list[str] = []
    missing = set(images)
    while missing:
        rarest = min(missing, key=lambda c: (len(images[c]), c))
        cover.append(images[rarest][0])
        missing -= held[cover[-1]]
    chosen = set(cover)
    counts = {c: len(ids) for c, ids in images.items()}
    return cover + [id for id in order if id not in chosen], len(cover), counts


def _tags_for_splits(
    dataset: Dataset, ids: Sequence[str], classes_by_id: Mapping[str, Collection[int]]
) -> tuple[tags.TagTable, str]:
    """Give the tags, from the data set's own record or else from the masks, and say which of the two."""
    if ids and dataset.tags(ids[0]) is not None:
        return tags.recorded(dataset, ids, None), FROM_RECORD
    known = set(range(len(dataset.classes))) - {dataset.background}
    return {id: tuple(sorted(known.intersection(classes_by_id[id]))) for id in ids}, FROM_MASKS


def write_split(folder: Path, split: Split, origin: Mapping[str, object]) -> None:
    """Write a split's three lists and MANIFEST into `folder`, and eval.txt beside it unless it is there.

    Each file appears whole or not at all, the MANIFEST last. Raises DataError if the split is invalid or
    eval.txt is there with other ids: results on different images could not be compared.
    """
    check_split(split, folder)
    if split.tags and not split.tag_digest:
        raise DataError(f"{folder}: a split that grants tags must say what they are (tag_digest).")
    scored = folder.parent / "eval.txt"
    if scored.is_file() and digest(read_list(scored)) != split.eval_digest:
        raise DataError(
            f"{scored} holds other ids than the {len(split.eval)} to be scored in {split.name}; all splits "
            f"of a data set score the same images: remove {scored.parent} to make all of them anew."
        )
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if not scored.is_file():
        write_atomic(scored, _as_lines(split.eval))
    for grant in GRANTS:
        write_atomic(folder / f"{grant}.txt", _as_lines(getattr(split, grant)))
    about_tags = {"tag_source": split.tag_source, "tag_digest": split.tag_digest} if split.tags else {}
    manifest = {
        "dataset": split.dataset,
        "split": split.name,
        "origin": dict(origin),
        "counts": split.counts,
        "digests": split.list_digests,
        **about_tags,
    }
    write_atomic(folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())


def _as_json_lines(table: tags.TagTable) -> bytes:
    lines = [f" {json.dumps(id)}: {json.dumps(table[id])}" for id in sorted(table)]
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def _as_lines(ids: Iterable[str]) -> bytes:
    return "".join(f"{id}\n" for id in sorted(ids)).encode()
