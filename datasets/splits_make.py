"""Makes splits by the suite's rule, and writes them. Opens the mask of every training image.

That is an act of the owner of a data set (`data splits --make`). A run only reads splits, with `splits`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import DataError
from bench.records.atomic import write_atomic, writing
from datasets import draws, findings, tags
from datasets.draws import MIXED, SHARES, TAGS
from datasets.encodings import refuse_disagreement
from datasets.ids import digest, read_list, sealed, some
from datasets.lookup import all_missing, summary
from datasets.pairs import TARGET, Pair
from datasets.plain_files import is_there
from datasets.sparse_make import Marking, names_of
from datasets.splits import (
    COMMITTED,
    FROM_MASKS,
    FROM_RECORD,
    GRANTS,
    HELDOUT,
    MANIFEST,
    TAGS_FILE,
    Split,
    check_split,
    command,
)
from datasets.splits_adapt import RULE as ADAPTATION
from datasets.splits_adapt import domain_of, make_adaptation

if TYPE_CHECKING:
    from bench.contract import Dataset

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
    others: Collection[int] = (),
    kinds: Collection[str] = (),
    on_item: Callable[[int, int], None] | None = None,
    on_mask: Callable[[str, np.ndarray], None] | None = None,
) -> tuple[dict[str, Split], dict[str, str]]:
    """Make and write the splits of a data set under `destination` (datasets/splits/<name>/ unless given).

    Reads the mask of every training image. `on_item(done, total)` is called after each, and before it
    `on_mask(id, mask)`, for others that want to look at it. Writes the list of each draw of `others`, the
    sparse labels of `kinds` with their splits, and the held-out list too. Returns what `make_splits` does,
    with what else is left out and why.

    Raises DataError for missing and invalid data, where no training or no scored mask holds a labeled pixel,
    and where eval.txt is there with other ids.
    """
    train, scored = dataset.ids("train"), dataset.ids(dataset.scored)
    _refuse_missing(dataset, train, destination)
    refuse_disagreement(dataset, [*train, *scored])
    findings.refuse_unlabeled(dataset, findings.learned_name(dataset), train)
    findings.refuse_unlabeled(dataset, findings.scored_name(dataset), scored)
    place = destination or COMMITTED / dataset.name
    if isinstance(dataset, Pair):
        if kinds:
            raise DataError(
                f"{dataset.name} is a pair of data sets, whose splits have no {', '.join(kinds)}."
            )
        return _regenerate_pair(dataset, place, train, scored, others, on_item, on_mask)
    marking = Marking(dataset, kinds, train)
    held = _classes_held(dataset, train, on_item, [marking.look, *([on_mask] if on_mask else [])])
    made, skipped = make_splits(dataset.name, train, scored, held.__getitem__, dataset.classes, kinds=kinds)
    origin = {"rule": RULE, "rule_version": RULE_VERSION, "seed": 0, "scored_list": dataset.scored}
    table, source = _tags_for_splits(dataset, train, held)
    if source == FROM_MASKS:
        write_atomic(place / TAGS_FILE, _as_json_lines(table))

    def tags_of(ids: Iterable[str]) -> dict[str, str]:
        told = tags.tag_digest({id: table[id] for id in ids}, dataset.background)
        return {"tag_source": source, "tag_digest": told}

    marking.write(place)
    for name, split in made.items():
        if split.sparse:
            made[name] = split = marking.granted(split, place)
        if split.tags:
            told = tags_of(split.tags)
            split = replace(split, tag_source=told["tag_source"], tag_digest=told["tag_digest"])
            made[name] = split = replace(split, tag_file=place / TAGS_FILE)
        write_split(place / name, split, origin)
    for number in sorted(set(others) - {0}):
        ranked = rank(dataset.name, train, held.__getitem__, dataset.classes, number)
        about = {} if MIXED in ranked.left_out else tags_of(draws.granted(MIXED, ranked.order)[TAGS])
        write_draw(place, dataset.name, ranked, {**origin, "seed": number}, about, scored)
        skipped |= {f"{name} of draw {number}": why for name, why in ranked.left_out.items()}
    if why := hold_out(dataset, place):
        skipped[HELDOUT] = why
    return made, skipped


def _regenerate_pair(
    pair: Pair,
    place: Path,
    train: Sequence[str],
    scored: Sequence[str],
    others: Collection[int],
    on_item: Callable[[int, int], None] | None,
    on_mask: Callable[[str, np.ndarray], None] | None,
) -> tuple[dict[str, Split], dict[str, str]]:
    """Do as `regenerate` for a pair of data sets. Opens the masks of the target alone."""
    target = domain_of(train, TARGET)
    held = _classes_held(pair, target, on_item, [on_mask] if on_mask else [])
    order, cover, _ = _cover_first(pair.name, target, held.__getitem__, len(pair.classes), 0)
    made, skipped = make_adaptation(pair.name, train, scored, order, cover)
    for name, split in made.items():
        write_split(place / name, split, {"rule": ADAPTATION, "scored_list": pair.scored})
    for number in sorted(set(others) - {0}):
        skipped[f"draw {number}"] = f"{pair.name} is a pair of data sets, whose splits have no other draws."
    if why := hold_out(pair, place):
        skipped[HELDOUT] = why
    return made, skipped


def _classes_held(
    dataset: Dataset,
    ids: Sequence[str],
    on_item: Callable[[int, int], None] | None,
    lookers: Iterable[Callable[[str, np.ndarray], None]],
) -> dict[str, set[int]]:
    """Read the masks: which values each of them holds."""
    held: dict[str, set[int]] = {}
    for id in ids:
        mask = dataset.mask(id)
        held[id] = set(mask.tobytes())  # uint8: a byte is a class id
        for look in lookers:
            look(id, mask)
        if on_item:
            on_item(len(held), len(ids))
    return held


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


@dataclass(frozen=True)
class Ranked:
    """The training ids of a draw in the order of the rule. `left_out`: the splits that cannot be, and why."""

    draw: int
    order: tuple[str, ...]
    left_out: dict[str, str]


def make_splits(
    dataset_name: str,
    train_ids: Sequence[str],
    eval_ids: Sequence[str],
    classes_of: Callable[[str], Collection[int]],
    class_names: Sequence[str],
    draw: int = 0,
    kinds: Collection[str] = (),
) -> tuple[dict[str, Split], dict[str, str]]:
    """Make the splits of a data set by `RULE`: nested, with every class of train, the same on every machine.

    `classes_of` gives the class ids in an image; ids outside `class_names` (255) are passed over. Returns
    the splits by name (those of `SHARES`, tags, 1_8+tags, and of `kinds`, see `sparse_make`), and for each
    that is too small to hold every class, and so not made, its name and why. Raises DataError for empty or
    overlapping lists.
    """
    ranked = rank(dataset_name, train_ids, classes_of, class_names, draw)
    made: dict[str, Split] = {}
    of_kinds = (name for kind in kinds for name in names_of(kind))
    for name in (*SHARES, TAGS, MIXED, *of_kinds):
        if name not in ranked.left_out and name.partition("+")[0] not in ranked.left_out:
            made[name] = _granted(dataset_name, name, ranked, eval_ids)
    return made, ranked.left_out


def _granted(dataset_name: str, name: str, ranked: Ranked, eval_ids: Sequence[str]) -> Split:
    """Make a split by its name, such as "1_8+points". Raises DataError where it is not sound."""
    lists: dict[str, Any] = {"pixel": (), "tags": (), "none": ()} | {
        kind: tuple(sorted(ids)) for kind, ids in draws.granted(name, ranked.order).items()
    }
    split = Split(dataset_name, name, **lists, eval=tuple(sorted(eval_ids)), draw=ranked.draw)
    check_split(split, Path(dataset_name) / name)
    return split


def rank(
    dataset_name: str,
    train_ids: Sequence[str],
    classes_of: Callable[[str], Collection[int]],
    class_names: Sequence[str],
    draw: int,
) -> Ranked:
    """Order the training ids by `RULE`, and find the splits that are too small to hold every class."""
    if len(set(train_ids)) < len(train_ids):
        raise DataError(f"{dataset_name}: the training list holds an id more than once; remove the repeats.")
    order, cover, images = _cover_first(dataset_name, train_ids, classes_of, len(class_names), draw)
    left_out: dict[str, str] = {}
    rarest = sorted(images, key=lambda c: images[c])[:5]
    rare = ", ".join(f"{class_names[c]} ({images[c]})" for c in rarest)
    for name in (*SHARES, MIXED):
        size = draws.share_of(name, len(order))
        if size < cover:
            held = {c for id in order[:size] for c in classes_of(id)}
            lacking = ", ".join(class_names[c] for c in sorted(set(images) - held))
            of_draw = f", draw {draw}," if draw else ""
            left_out[name] = (
                f"{dataset_name}/{name}{of_draw} is not made: of {len(order)} images it would hold {size} "
                f"and lack {lacking}; the rule takes {cover} to cover all {len(images)} classes; the rarest "
                f"are, with their images, {rare}."
            )
    return Ranked(draw, tuple(order), left_out)


def _cover_first(
    dataset_name: str,
    train_ids: Sequence[str],
    classes_of: Callable[[str], Collection[int]],
    classes: int,
    draw: int,
) -> tuple[list[str], int, dict[int, int]]:
    """Order the ids by the rule; also give the length of the cover they begin with, and images by class."""
    order = sorted(train_ids, key=lambda id: hashlib.sha256(f"{dataset_name}:{draw}:{id}".encode()).digest())
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


def hold_out(dataset: Dataset, place: Path) -> str:
    """Write the held-out list of a data set beside its splits, heldout.txt and heldout.json.

    Returns "" where it is there or the data set names none, else the sentence that says why it cannot be.
    """
    if dataset.heldout is None:
        return ""
    ids = dataset.ids(dataset.heldout)
    others = {*dataset.ids("train"), *dataset.ids(dataset.scored)}
    said = f"{dataset.name} has no held-out list: {dataset.heldout}.txt"
    if shared := sorted(others.intersection(ids)):
        return f"{said} holds {some(shared)}, to be learned from or scored; an image is in one list."
    if not ids:
        return f"{said} is empty."
    if missing := all_missing(dataset, ids, ids):
        return f"{said} cannot be used. {summary(missing, len(ids), 'images of it')}"
    _write_sealed(place / f"{HELDOUT}.txt", sorted(ids), dataset.name, {"list": dataset.heldout})
    return ""


def write_draw(
    place: Path,
    dataset: str,
    ranked: Ranked,
    origin: Mapping[str, object],
    about_tags: Mapping[str, str],
    eval_ids: Sequence[str],
) -> None:
    """Write the list of a draw beside the splits, draw<K>.txt and draw<K>.json."""
    sizes = {name: draws.share_of(name, len(ranked.order)) for name in draws.DRAWN}
    said = {
        "draw": ranked.draw,
        "origin": dict(origin),
        "labeled": {name: size for name, size in sizes.items() if name not in ranked.left_out},
        "left_out": {name: why for name, why in ranked.left_out.items() if name in draws.DRAWN},
        "tags": dict(about_tags),
        "eval_digest": digest(eval_ids),
    }
    _write_sealed(draws.draw_file(place, ranked.draw), ranked.order, dataset, said)


def _write_sealed(path: Path, ids: Sequence[str], dataset: str, said: Mapping[str, object]) -> None:
    write_atomic(path, "".join(f"{id}\n" for id in ids).encode())
    about = {"dataset": dataset, **said, "count": len(ids), "digest": sealed(ids)}
    write_atomic(path.with_suffix(".json"), (json.dumps(about, indent=1) + "\n").encode())


def write_split(folder: Path, split: Split, origin: Mapping[str, object]) -> None:
    """Write a split's three lists and MANIFEST into `folder`, and eval.txt beside it unless it is there.

    Each file appears whole or not at all, the MANIFEST last. Raises DataError if the split is invalid or
    eval.txt is there with other ids: results on different images could not be compared.
    """
    check_split(split, folder)
    if split.tags and not split.tag_digest:
        raise DataError(f"{folder}: a split that grants tags must say what they are (tag_digest).")
    if split.sparse.keys() != split.marks.keys():
        raise DataError(
            f"{folder}: a split that grants {', '.join(split.sparse)} must say what they are (marks)."
        )
    scored = folder.parent / "eval.txt"
    if is_there(scored) and digest(read_list(scored)) != split.eval_digest:
        raise DataError(
            f"{scored} holds other ids than the {len(split.eval)} to be scored in {split.name}; all splits "
            f"of a data set score the same images: remove {scored.parent} to make all of them anew."
        )
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if not is_there(scored):
        write_atomic(scored, _as_lines(split.eval))
    for grant in (*GRANTS, *split.sparse):
        write_atomic(folder / f"{grant}.txt", _as_lines(getattr(split, grant)))
    about_tags = {"tag_source": split.tag_source, "tag_digest": split.tag_digest} if split.tags else {}
    manifest = {
        "dataset": split.dataset,
        "split": split.name,
        "origin": dict(origin),
        "counts": split.counts,
        "digests": split.list_digests,
        **about_tags,
        **({"marks": {kind: asdict(of) for kind, of in split.marks.items()}} if split.marks else {}),
    }
    write_atomic(folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())


def _as_json_lines(table: tags.TagTable) -> bytes:
    lines = [f" {json.dumps(id)}: {json.dumps(table[id])}" for id in sorted(table)]
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def _as_lines(ids: Iterable[str]) -> bytes:
    return "".join(f"{id}\n" for id in sorted(ids)).encode()
