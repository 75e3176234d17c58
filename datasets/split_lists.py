"""Splits: which image grants its pixels, which its tags, which nothing, and which are scored.

A split is a folder <place>/<dataset>/<split>/ with pixel.txt, tags.txt, none.txt and MANIFEST.json; the
scored images are in eval.txt beside the splits of a data set. Nothing here imports torch: `--dry-run`
resolves a split.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

from bench.errors import ConfigError, DataError, did_you_mean
from bench.files import write_atomic
from datasets import tags

if TYPE_CHECKING:
    from bench.contract import Dataset

GRANTS = ("pixel", "tags", "none")
LISTS = (*GRANTS, "eval")
COMMITTED = Path(__file__).parent / "splits"
MANIFEST = "MANIFEST.json"
FROM_RECORD, FROM_MASKS = "the data set's own record", "masks"

SHARES = {"1_16": 16, "1_8": 8, "1_4": 4, "1_2": 2, "full": 1}
RULE_VERSION = 1  # raise it when the rule would give other splits
RULE = (
    "Training ids in the order of sha256('<dataset>:<seed>:<id>'); first a cover of the classes (while one "
    "is missing, "
    "the first id in this order that has the missing class of fewest images, the lower class id on a tie), "
    "then the "
    "rest; 1_N grants the pixels of the first ceil(n/N) ids. The masks of all training images were read to "
    "know "
    "which classes they hold: an act of the owner of the data set, not of a method."
)


@dataclass(frozen=True)
class Split:
    """Sorted ids by what they grant, and the ids that are scored. No id is in two lists."""

    dataset: str
    name: str
    pixel: tuple[str, ...]
    tags: tuple[str, ...]
    none: tuple[str, ...]
    eval: tuple[str, ...]
    tag_source: str = ""  # where the tags of a split that grants any come from
    tag_digest: str = ""
    tag_file: Path | None = field(
        default=None, compare=False
    )  # holds them where the data set has no record of its own

    @property
    def digests(self) -> dict[str, str]:
        """The digest of each of pixel, tags, none, eval, and of what the tags say where any are granted."""
        said = {"tag_sets": self.tag_digest} if self.tag_digest else {}
        return {**{name: digest(ids) for name, ids in self._lists()}, **said}

    @property
    def counts(self) -> dict[str, int]:
        """The number of ids in each of pixel, tags, none, eval."""
        return {name: len(ids) for name, ids in self._lists()}

    @property
    def eval_digest(self) -> str:
        return digest(self.eval)

    def _lists(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        return tuple((name, getattr(self, name)) for name in LISTS)


def digest(ids: Iterable[str]) -> str:
    """SHA-256 of the sorted distinct ids joined by a newline, none at the end: order and repeats do not
    matter."""
    return hashlib.sha256("\n".join(sorted(set(ids))).encode()).hexdigest()


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text file, stripped, without BOM or CR. Raises DataError if it cannot be read."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n")]
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; restore the file.") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text; save it as UTF-8.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); make it a readable text file.") from error


def read_list(path: Path) -> tuple[str, ...]:
    """The ids of a list, one a line, in file order; blank lines are skipped.

    Raises DataError for a file that cannot be read, an id that stands twice or is no plain relative path.
    """
    ids = tuple(line for line in read_lines(path) if line)
    for id in ids:
        check_id(id, path)
    repeated = [id for id, count in Counter(ids).items() if count > 1]
    if repeated:
        raise DataError(f"{path} holds {_some(repeated)} more than once; remove the repeats.")
    return ids


def check_id(id: str, where: Path) -> None:
    """Raise DataError unless `id` is a relative path that stays inside its folder on every system."""
    outside = (
        any(part in ("", ".", "..") for part in id.split("/")) or "\\" in id or PureWindowsPath(id).anchor
    )
    if outside or not id.isprintable() or len(id) > 200:
        raise DataError(
            f"{where}: {id[:80]!r} cannot be an id; an id is a file name without its ending, at most inside "
            f"sub folders "
            "(no .., no leading /, no backslash, no control characters)."
        )


def known_splits(dataset: str, data_root: Path | None) -> list[str]:
    """The names of the splits of a data set, the suite's own and those under `data_root`."""
    return sorted({folder.name for place in _places(dataset, data_root) for folder in _folders(place)})


def find_split(dataset: str, name: str, data_root: Path | None) -> Split:
    """Read a split from datasets/splits/<dataset>/<name>/ or else <data_root>/<dataset>/splits/<name>/.

    "1/16" is read as "1_16". Raises ConfigError for an unknown data set or split, DataError where a list is
    missing, is not the one of its MANIFEST, holds an id twice or shares one with another list, or where
    all are empty.
    """
    known = known_splits(dataset, data_root)
    if not known:
        have = {folder.name for folder in _folders(COMMITTED)}
        if data_root:
            have |= {folder.name for folder in _folders(data_root) if (folder / "splits").is_dir()}
        raise ConfigError(
            f"The data set {dataset!r} has no splits{did_you_mean(dataset, have)}. "
            f"Make them with `bench data splits --make`, import them into "
            f"{data_root or '<data root>'}/<data set>/splits, or say where the data are with --data-root or "
            "$BENCH_DATA."
        )
    wanted = name.replace("/", "_")
    if wanted not in known:
        raise ConfigError(f"The data set {dataset!r} has no split {name!r}{did_you_mean(wanted, known)}.")
    folder = next(place / wanted for place in _places(dataset, data_root) if (place / wanted).is_dir())
    return _read_split(dataset, wanted, folder)


def make_splits(
    dataset_name: str,
    train_ids: Sequence[str],
    eval_ids: Sequence[str],
    classes_of: Callable[[str], Collection[int]],
    class_names: Sequence[str],
    rule_seed: int = 0,
) -> tuple[dict[str, Split], dict[str, str]]:
    """The splits of a data set by the suite's rule: nested, covering every class of train, the same on every
    machine.

    `classes_of` gives the class ids in an image; ids outside `class_names` (255) are passed over. Returns
    the splits by name (1_16, 1_8, 1_4, 1_2, full, tags, 1_8+tags), and for each that is too small to hold
    every class, and so not made, its name and why. Raises DataError for empty or overlapping lists.
    """
    if len(set(train_ids)) < len(train_ids):
        raise DataError(f"{dataset_name}: the training list holds an id more than once; remove the repeats.")
    order = sorted(
        train_ids, key=lambda id: hashlib.sha256(f"{dataset_name}:{rule_seed}:{id}".encode()).digest()
    )
    images: dict[int, list[str]] = {}  # class -> its images, in hash order
    held: dict[str, set[int]] = {}
    for id in order:
        held[id] = {c for c in classes_of(id) if 0 <= c < len(class_names)}
        for c in held[id]:
            images.setdefault(c, []).append(id)
    cover: list[str] = []
    missing = set(images)
    while missing:
        rarest = min(missing, key=lambda c: (len(images[c]), c))
        cover.append(images[rarest][0])
        missing -= held[cover[-1]]
    chosen = set(cover)
    order = cover + [id for id in order if id not in chosen]

    granted: dict[
        str, tuple[Sequence[str], Sequence[str]]
    ] = {}  # split -> ids granted pixels, ids granted tags
    skipped: dict[str, str] = {}
    rare = ", ".join(
        f"{class_names[c]} ({len(images[c])})" for c in sorted(images, key=lambda c: len(images[c]))[:5]
    )
    for name, share in SHARES.items():
        size = math.ceil(len(order) / share)
        if size >= len(cover):
            granted[name] = (order[:size], ())
        else:
            skipped[name] = (
                f"{dataset_name}/{name} is not made: of {len(order)} images it would hold {size}, and the "
                f"rule takes "
                f"{len(cover)} to cover all {len(images)} classes; the rarest are, with their images, {rare}."
            )
    granted["tags"] = ((), order)
    if "1_8" in granted:
        granted["1_8+tags"] = (granted["1_8"][0], order[len(granted["1_8"][0]) :])
    else:
        skipped["1_8+tags"] = skipped["1_8"].replace("/1_8 ", "/1_8+tags ")
    made: dict[str, Split] = {}
    for name, (pixel_ids, tag_ids) in granted.items():
        none_ids = set(order).difference(pixel_ids, tag_ids)
        lists = (tuple(sorted(ids)) for ids in (pixel_ids, tag_ids, none_ids, eval_ids))
        pixel, tagged, none, scored = lists
        made[name] = Split(dataset_name, name, pixel, tagged, none, scored)
    for one in made.values():
        _check(one, Path(dataset_name) / one.name)
    return made, skipped


def regenerate(
    dataset: Dataset,
    destination: Path | None = None,
    rule_seed: int = 0,
    on_item: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, Split], dict[str, str]]:
    """Make and write the splits of a data set under `destination` (datasets/splits/<name>/ unless given).

    Reads the mask of every training image. `on_item(done, total)` is called after each. Returns what
    `make_splits` does. Raises DataError for invalid data and where eval.txt is there with other ids.
    """
    train = dataset.ids("train")
    held: dict[str, set[int]] = {}

    def classes_of(id: str) -> set[int]:
        held[id] = set(dataset.mask(id).tobytes())  # uint8: a byte is a class id
        if on_item:
            on_item(len(held), len(train))
        return held[id]

    made, skipped = make_splits(
        dataset.name, train, dataset.ids(dataset.scored), classes_of, dataset.classes, rule_seed
    )
    origin = {"rule": RULE, "rule_version": RULE_VERSION, "seed": rule_seed, "scored_list": dataset.scored}
    place = destination or COMMITTED / dataset.name
    table, source = _tags_for_splits(dataset, train, held)
    if source == FROM_MASKS:
        write_atomic(place / tags.FILE, _as_json_lines(table))
    for name, split in made.items():
        if split.tags:
            said = tags.tag_digest({id: table[id] for id in split.tags}, dataset.background)
            made[name] = split = replace(
                split, tag_source=source, tag_digest=said, tag_file=place / tags.FILE
            )
        write_split(place / name, split, origin)
    return made, skipped


def _tags_for_splits(
    dataset: Dataset, ids: Sequence[str], held: Mapping[str, Collection[int]]
) -> tuple[tags.TagTable, str]:
    """The data set's own record of tags, or what the masks hold, and which of the two it is."""
    if ids and dataset.tags(ids[0]) is not None:
        return tags.recorded(dataset, ids, None), FROM_RECORD
    known = set(range(len(dataset.classes))) - {dataset.background}
    return {id: tuple(sorted(known.intersection(held[id]))) for id in ids}, FROM_MASKS


def write_split(folder: Path, split: Split, origin: Mapping[str, object]) -> None:
    """Write a split's three lists and MANIFEST into `folder`, and eval.txt beside it unless it is there.

    Each file appears whole or not at all, the MANIFEST last. Raises DataError if the split is invalid or
    eval.txt is there with other ids: results on different images could not be compared.
    """
    _check(split, folder)
    if split.tags and not split.tag_digest:
        raise DataError(f"{folder}: a split that grants tags must say what they are (tag_digest).")
    scored = folder.parent / "eval.txt"
    if scored.is_file() and digest(read_list(scored)) != split.eval_digest:
        raise DataError(
            f"{scored} holds other ids than the {len(split.eval)} to be scored in {split.name}; all splits "
            f"of a data set "
            f"score the same images: remove {scored.parent} to make all of them anew."
        )
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
        "digests": {name: digest(ids) for name, ids in split._lists()},
        **about_tags,
    }
    write_atomic(folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())


def recognise(ids: Iterable[str]) -> list[str]:
    """The names under which a list of ids was published, e.g. "U2PL:pascal/1323/labeled"; empty if it is not
    known."""
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

    A line is a bare id, or the path of an image with or without that of its mask behind it. Without an
    unlabeled list, all other training ids grant nothing. The tags of `tagged_file` are those that `data`, the
    data set, has a record of. The MANIFEST says under which names published lists are known.

    Raises ConfigError for a name that is taken or not allowed, DataError for an unreadable list, an id that
    is not a training id, stands in two lists, is scored, or is to be tagged and has no record of tags.
    """
    name = name.replace("/", "_")
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise ConfigError(f"{name!r} cannot name a split; use letters, digits, _ . + -.")
    if (COMMITTED / dataset / name).is_dir():
        raise ConfigError(
            f"{dataset} has a split {name!r} of the suite's own; import the list under another name."
        )
    files = {"pixel": labeled_file, "tags": tagged_file, "none": unlabeled_file}
    lists = {grant: _read_foreign(file) if file else () for grant, file in files.items()}
    if unlabeled_file is None:
        lists["none"] = tuple(sorted(set(train_ids).difference(lists["pixel"], lists["tags"])))
    for grant, other in (("pixel", "tags"), ("pixel", "none"), ("tags", "none")):
        shared = sorted(set(lists[grant]).intersection(lists[other]))
        if shared:
            raise DataError(
                f"{files[grant]} and {files[other]} both hold {_some(shared)}; an image is in one list. "
                "Leave the unlabeled list out, and every other training image is taken as unlabeled."
            )
    scored = set(eval_ids)
    train = set(train_ids)
    for grant, ids in lists.items():
        leaked = sorted(scored.intersection(ids))
        if leaked:
            raise DataError(
                f"{files[grant]} holds {_some(leaked)}, which {dataset} scores; remove from the list what is "
                "scored."
            )
        unknown = sorted(set(ids).difference(train))
        if unknown:
            raise DataError(
                f"{files[grant]} holds {_some(unknown)}, not among the {len(train)} training images of "
                f"{dataset}; check that the list belongs to this data set and that the data are complete."
            )
    split = Split(dataset, name, lists["pixel"], lists["tags"], lists["none"], tuple(sorted(eval_ids)))
    if tagged_file and data:
        table = tags.recorded(data, split.tags, destination / tags.FILE)
        split = replace(split, tag_source=FROM_RECORD, tag_digest=tags.tag_digest(table, data.background))
    origin = {
        "imported": {grant: "/".join(file.parts[-3:]) for grant, file in files.items() if file}
        | ({} if unlabeled_file else {"none": "all other training ids"}),
        "known_as": {list_: recognise(getattr(split, list_)) for list_ in ("pixel", "none", "eval")},
    }
    write_split(destination / name, split, origin)
    return split


def _read_split(dataset: str, name: str, folder: Path) -> Split:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8-sig"))
        stored, told = dict(manifest["digests"]), (manifest["dataset"], manifest["split"])
        expected = {list_: str(stored[list_]) for list_ in LISTS}
        source, said = (str(manifest.get(key, "")) for key in ("tag_source", "tag_digest"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{path} is not the manifest of a split ({error!r}); make or import the split again."
        ) from error
    if told != (dataset, name):
        raise DataError(
            f"{path} is that of {told[0]}/{told[1]}, not of {dataset}/{name}; put the folder back in its "
            f"place."
        )
    files = {grant: folder / f"{grant}.txt" for grant in GRANTS} | {"eval": folder.parent / "eval.txt"}
    lists = {list_: tuple(sorted(read_list(file))) for list_, file in files.items()}
    for list_, ids in lists.items():
        if digest(ids) != expected[list_]:
            raise DataError(
                f"{files[list_]} has changed since the split was made: its {len(ids)} ids do not have the "
                f"digest in {path}. "
                "Restore the list, or make the split anew under another name."
            )
    pixel, tagged, none, scored = (lists[list_] for list_ in LISTS)
    split = Split(dataset, name, pixel, tagged, none, scored, tag_source=source, tag_digest=said)
    _check(split, folder)
    if split.tags and not said:
        raise DataError(f"{path} does not say what the tags are; make the split again.")
    return replace(split, tag_file=folder.parent / tags.FILE) if split.tags else split


def _check(split: Split, where: Path) -> None:
    seen: dict[str, tuple[str, str]] = {}
    for list_ in LISTS:
        for id in getattr(split, list_):
            check_id(id, where)
            # ids that differ in case only are one file on some systems
            other, before = seen.setdefault(id.casefold(), (list_, id))
            if (other, before) != (list_, id):
                raise DataError(
                    f"{where}: {id!r} in {list_}.txt and {before!r} in {other}.txt are one image; an image "
                    f"belongs to one "
                    "list, and a scored one to no other: remove it from one of them."
                )
    for list_ in LISTS:
        if len(set(getattr(split, list_))) < len(getattr(split, list_)):
            raise DataError(f"{where}: {list_}.txt holds an id more than once; remove the repeats.")
    if not (split.pixel or split.tags or split.none):
        raise DataError(
            f"{where}: pixel.txt, tags.txt and none.txt are all empty; a split needs images to learn from."
        )
    if not split.eval:
        raise DataError(f"{where.parent / 'eval.txt'} is empty; a data set needs images to be scored.")


def _read_foreign(path: Path) -> tuple[str, ...]:
    ids = []
    for line in filter(None, read_lines(path)):
        entry = PurePosixPath(line.split()[0])
        if entry.suffix.lower() in (".jpg", ".jpeg", ".png"):
            stem = entry.with_suffix("")
            # our own layout has sub folders under images/, the published ones mean the file name alone
            id = (
                "/".join(stem.parts[1:])
                if stem.parts[0] == "images"
                else stem.name.removesuffix("_leftImg8bit")
            )
        else:
            id = str(entry)
        check_id(id, path)
        ids.append(id)
    repeated = [id for id, count in Counter(ids).items() if count > 1]
    if repeated:
        raise DataError(f"{path} holds {_some(repeated)} more than once; remove the repeats.")
    if not ids:
        raise DataError(f"{path} is empty; point to a list with one image a line.")
    return tuple(sorted(ids))


def _places(dataset: str, data_root: Path | None) -> list[Path]:
    if not re.fullmatch(r"\w[\w.+-]*", dataset):
        return []
    return [COMMITTED / dataset] + ([data_root / dataset / "splits"] if data_root else [])


def _folders(place: Path) -> list[Path]:
    return [path for path in place.glob("*") if path.is_dir() and not path.name.startswith(".")]


def _some(ids: Sequence[str]) -> str:
    return ", ".join(repr(id) for id in ids[:3]) + (f" and {len(ids) - 3} more ids" if len(ids) > 3 else "")


def _as_json_lines(table: tags.TagTable) -> bytes:
    lines = [f" {json.dumps(id)}: {json.dumps(table[id])}" for id in sorted(table)]
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def _as_lines(ids: Iterable[str]) -> bytes:
    return "".join(f"{id}\n" for id in sorted(ids)).encode()


@cache
def _published() -> dict[str, tuple[str, ...]]:
    facts = json.loads((COMMITTED / "known_lists.json").read_text(encoding="utf-8"))
    return {entry["sha256"]: tuple(entry["known_as"]) for entry in facts["lists"]}
