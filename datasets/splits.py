"""Splits: which image grants its pixels, which its tags, which nothing, and which images are scored.

A split is a folder <place>/<dataset>/<split>/, for example datasets/splits/shapes/1_8/, with pixel.txt,
tags.txt, none.txt and MANIFEST.json. The scored images are in eval.txt, which all splits of a data set share.
Beside it lie heldout.txt, images to choose settings on, and the lists of other draws, see `datasets.draws`.

This module reads splits and never opens an image or a mask: `splits_make` and `splits_import` write them, and
nothing here imports those two, nor torch.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.errors import ConfigError, DataError, check_name, did_you_mean
from bench.labels import SPARSE
from datasets import draws
from datasets.ids import check_id, digest, read_json, read_list, read_sealed, some
from datasets.marks import marks_digest, read_index
from datasets.plain_files import is_folder, is_there

GRANTS = ("pixel", "tags", "none")
LISTS = (*GRANTS, "eval")
COMMITTED = Path(__file__).parent / "splits"
MANIFEST = "MANIFEST.json"
TAGS_FILE = "tags.json"
FROM_RECORD, FROM_MASKS = "the data set's own record", "masks"  # where weak labels come from
EVAL, HELDOUT = "eval", "heldout"  # the lists of which one is scored

# The sources that a batch draws images from. The words also name random streams: they stay as they are.
MASKS, SEEDS, TAGS, UNLABELED = "pixel", "seeds", "tags", "none"
KIND_NAMES = {MASKS: "images with masks", SEEDS: "tagged images"}


@dataclass(frozen=True)
class MarkRecord:
    """The entry of a split on the points, strokes or boxes that it grants."""

    source: str  # "masks" or "the data set's own record"
    digest: str  # of the labels of all images that are granted them


@dataclass(frozen=True)
class Split:
    """Holds sorted ids by what they grant, and the ids that are scored. No id is in two lists."""

    dataset: str
    name: str
    pixel: tuple[str, ...]
    tags: tuple[str, ...]
    none: tuple[str, ...]
    eval: tuple[str, ...]
    tag_source: str = ""  # where the tags come from: "masks" or "the data set's own record"; "" without tags
    tag_digest: str = ""
    # The file with the tags, read only where the data set has no record of its own.
    tag_file: Path | None = field(default=None, compare=False)
    draw: int = 0  # which images the name stands for
    scored: str = EVAL  # where `eval` comes from: EVAL or HELDOUT
    points: tuple[str, ...] = ()
    scribbles: tuple[str, ...] = ()
    boxes: tuple[str, ...] = ()
    marks: Mapping[str, MarkRecord] = field(default_factory=dict, hash=False)  # of the three kinds above
    place: Path | None = field(default=None, compare=False)  # its folder of splits: eval.txt, points.zip

    @property
    def sparse(self) -> dict[str, tuple[str, ...]]:
        """The ids that grant points, strokes or boxes, by kind, where there are any: {"points": ("a",)}."""
        return {kind: ids for kind in SPARSE if (ids := getattr(self, kind))}

    @property
    def train(self) -> tuple[str, ...]:
        """All ids that may be learned from."""
        sparse = (id for ids in self.sparse.values() for id in ids)
        return (*self.pixel, *self.tags, *self.none, *sparse)

    @property
    def digests(self) -> dict[str, str]:
        """Give the SHA-256 of each list, {"pixel": "ab12...", ...}, and of the tags as "tag_sets" if any."""
        said = {"tag_sets": self.tag_digest} if self.tag_digest else {}
        return {
            **self.list_digests,
            **said,
            **{f"{kind}_marks": of.digest for kind, of in self.marks.items()},
        }

    @property
    def list_digests(self) -> dict[str, str]:
        """Give the SHA-256 of each of pixel, tags, none and eval, and of the lists of sparse labels."""
        return {name: digest(getattr(self, name)) for name in (*LISTS, *self.sparse)}

    @property
    def counts(self) -> dict[str, int]:
        """Count the ids of each list, e.g. {"pixel": 32, "tags": 0, "none": 480, "eval": 200}."""
        return {name: len(getattr(self, name)) for name in (*LISTS, *self.sparse)}

    @property
    def eval_digest(self) -> str:
        return digest(self.eval)


# Finding and reading splits --------------------------------------------------------------------------------


def known_splits(dataset: str, data_root: Path | None) -> list[str]:
    """List the names of the splits of a data set, the suite's own and those under `data_root`.

    Raises ConfigError for a name that no data set can have.
    """
    check_name(dataset, "a data set")
    return sorted({folder.name for place in _places(dataset, data_root) for folder in _folders(place)})


def find_split(dataset: str, name: str, data_root: Path | None, draw: int = 0, scored: str = EVAL) -> Split:
    """Read a split from datasets/splits/<dataset>/<name>/ or else <data_root>/<dataset>/splits/<name>/.

    Args:
        name: Such as "1_16"; "1/16" is the same.
        draw: Which images it labels; 0 are those that the split's own lists say.
        scored: EVAL or HELDOUT, the list that becomes `Split.eval`.

    Raises:
        ConfigError: The data set, split, draw or held-out list is not known, or the split has no draws.
        DataError: A list is missing, is not the one of its MANIFEST, holds an id twice or shares one with
            another list, or all are empty.
    """
    known = some_splits(dataset, data_root)
    wanted = name.replace("/", "_")
    if wanted not in known:
        kind = wanted.rpartition("+")[2]
        make = command(dataset, data_root, f"--make --kind {kind}")
        hint = f" Those of {kind} are made with `{make}`." if kind in SPARSE else ""
        raise ConfigError(
            f"The data set {dataset!r} has no split {name!r}{did_you_mean(wanted, known)}.{hint}"
        )
    folder = next(place / wanted for place in _places(dataset, data_root) if (place / wanted).is_dir())
    split = _read_split(dataset, wanted, folder)
    if draw:
        split = _drawn(split, folder, draw, data_root)
    if scored == HELDOUT:
        split = _held_out(split, folder, data_root)
    return split


def known_draws(dataset: str, data_root: Path | None) -> list[int]:
    """List the draws of a data set's splits: 0, and those whose lists are there."""
    return sorted({0}.union(*(draws.draws_in(place) for place in _places(dataset, data_root))))


def heldout_ids(dataset: str, data_root: Path | None) -> tuple[str, ...] | None:
    """Read the held-out list of a data set, sorted; None where it has none."""
    for place in _places(dataset, data_root):
        path = place / f"{HELDOUT}.txt"
        if is_there(path):
            mend = f"restore both, or make them anew with `{command(dataset, data_root, '--make')}`."
            return tuple(sorted(read_sealed(path, dataset, mend)[0]))
    return None


def _held_out(split: Split, folder: Path, data_root: Path | None) -> Split:
    """Return the split with the held-out list in place of the scored one."""
    dataset, ids = split.dataset, heldout_ids(split.dataset, data_root)
    if ids is None:
        raise ConfigError(
            f"{dataset} has no held-out list to be scored on; put val.txt or heldout.txt beside its test.txt "
            f"and use `{command(dataset, data_root, '--make')}`, or leave --scored out."
        )
    if shared := sorted(set(ids).intersection(split.eval)):
        raise DataError(
            f"{HELDOUT}.txt of {dataset} holds {some(shared)}, to be scored by {folder.parent / 'eval.txt'}; "
            f"make both anew with `{command(dataset, data_root, '--make')}`."
        )
    held_out = replace(split, eval=ids, scored=HELDOUT)
    check_split(held_out, folder)
    return held_out


def _drawn(split: Split, folder: Path, number: int, data_root: Path | None) -> Split:
    """Return the split with the images that another draw labels."""
    dataset, name = split.dataset, split.name
    if name in (*draws.KINDS, "full"):
        raise ConfigError(f"{dataset}/{name} grants the same in every draw; leave --draw {number} out.")
    origin = read_json(folder / MANIFEST).get("origin")
    if not draws.is_drawn(name) or not isinstance(origin, dict) or "rule_version" not in origin:
        raise ConfigError(
            f"{dataset}/{name} is one given list, which has no other draws; leave --draw {number} out."
        )
    make = command(dataset, data_root, f"--make --draw {number}")
    places = [place for place in _places(dataset, data_root) if is_there(draws.draw_file(place, number))]
    if not places:
        known = ", ".join(map(str, known_draws(dataset, data_root)))
        raise ConfigError(f"{dataset} has no draw {number}. Known: {known}. Make it with `{make}`.")
    mend = f"restore the file, or make it anew with `{make}`."
    draw = draws.read_draw(places[0], dataset, number, mend)
    if why := draw.left_out.get(name, draw.left_out.get(name.partition("+")[0])):
        raise ConfigError(f"{why} Choose another draw or a larger split.")
    granted = draws.granted(name, draw.order)
    lists: dict[str, Any] = {kind: tuple(sorted(ids)) for kind, ids in granted.items()}
    if sorted(draw.order) != sorted(split.train) or draw.eval_digest != split.eval_digest:
        path = draws.draw_file(places[0], number)
        raise DataError(f"{path} is of other training or scored images than {folder}; {mend}")
    drawn = replace(split, draw=number, **{"none": (), **lists})
    if drawn.tags:
        drawn = replace(drawn, tag_source=draw.tag_source, tag_digest=draw.tag_digest)
    for kind, ids in drawn.sparse.items():  # other images than draw 0 grants them, of the same record
        of = replace(split.marks[kind], digest=marks_digest(read_index(folder.parent, kind, mend), ids))
        drawn = replace(drawn, marks={**drawn.marks, kind: of})
    check_split(drawn, folder)
    return drawn


def some_splits(dataset: str, data_root: Path | None) -> list[str]:
    """Do as `known_splits`, and raise ConfigError where there is none."""
    known = known_splits(dataset, data_root)
    if known:
        return known
    have = {folder.name for folder in _folders(COMMITTED)}
    if data_root and is_folder(data_root):
        have |= {folder.name for folder in _folders(data_root) if (folder / "splits").is_dir()}
    raise ConfigError(
        f"The data set {dataset!r} has no splits{did_you_mean(dataset, have)}. Make them with "
        f"`{command(dataset, data_root, '--make')}`, import a list with `--name NAME --labeled FILE` in "
        "place of --make, or say where the data are with --data-root or $BENCH_DATA."
    )


def command(dataset: str, data_root: Path | None, options: str) -> str:
    """Return the command that makes splits (`--make`) or imports them, as a user types it: `python -m bench
    data splits --make --dataset voc --data-root DIR`."""
    place = shlex.quote(str(data_root)) if data_root else "DIR"
    return f"python -m bench data splits {options} --dataset {dataset} --data-root {place}"


def root_of(place: Path | None) -> Path | None:
    """Return the folder of data sets in which splits lie, by the folder of the splits; None of the suite's
    own."""
    return None if place is None or place.parent == COMMITTED else place.parents[1]


def _read_split(dataset: str, name: str, folder: Path) -> Split:
    path = folder / MANIFEST
    is_there(path)  # refuses a pipe; what is missing is said below
    try:
        manifest = json.loads(path.read_text(encoding="utf-8-sig"))
        stored, owner = dict(manifest["digests"]), (manifest["dataset"], manifest["split"])
        expected = {
            list_: str(stored[list_]) for list_ in (*LISTS, *(kind for kind in SPARSE if kind in stored))
        }
        source, tag_digest = (str(manifest.get(key, "")) for key in ("tag_source", "tag_digest"))
        said = {
            kind: (str(of["source"]), str(of["digest"])) for kind, of in manifest.get("marks", {}).items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{path} is not the manifest of a split ({error!r}); make or import the split again."
        ) from error
    if owner != (dataset, name):
        raise DataError(
            f"{path} is that of {owner[0]}/{owner[1]}, not of {dataset}/{name}; put the folder back in its "
            "place."
        )
    files = {list_: folder / f"{list_}.txt" for list_ in expected} | {EVAL: folder.parent / "eval.txt"}
    lists: dict[str, Any] = {list_: tuple(sorted(read_list(file))) for list_, file in files.items()}
    for list_, ids in lists.items():
        if digest(ids) != expected[list_]:
            raise DataError(
                f"{files[list_]} has changed since the split was made: its {len(ids)} ids do not have the "
                f"digest in {path}. Restore the list, or make the split anew under another name."
            )
    marks = {kind: MarkRecord(*of) for kind, of in said.items()}
    split = Split(dataset, name, **lists, tag_source=source, tag_digest=tag_digest, marks=marks)
    check_split(split, folder)
    if (split.tags and not tag_digest) or split.sparse.keys() != marks.keys():
        raise DataError(f"{path} does not say what the labels are; make the split again.")
    return replace(split, place=folder.parent, tag_file=folder.parent / TAGS_FILE if split.tags else None)


def check_split(split: Split, where: Path) -> None:
    """Raise DataError, which names the file and the id, unless the split is sound.

    Every id is valid and stands once, no list is empty that may not be, and no image is in two lists (ids
    that differ only in upper and lower case are one image).
    """
    seen: dict[str, tuple[str, str]] = {}
    lists = (*LISTS, *split.sparse)
    for list_ in lists:
        for id in getattr(split, list_):
            check_id(id, where)
            # ids that differ in case only are one file on some systems
            other, before = seen.setdefault(id.casefold(), (list_, id))
            if (other, before) != (list_, id):
                raise DataError(
                    f"{where}: {id!r} in {list_}.txt and {before!r} in {other}.txt are one image; an image "
                    "belongs to one list, and a scored one to no other: remove it from one of them."
                )
    for list_ in lists:
        if len(set(getattr(split, list_))) < len(getattr(split, list_)):
            raise DataError(f"{where}: {list_}.txt holds an id more than once; remove the repeats.")
    if not split.train:
        raise DataError(
            f"{where}: pixel.txt, tags.txt and none.txt are all empty; a split needs images to learn from."
        )
    if not split.eval:
        raise DataError(f"{where.parent / 'eval.txt'} is empty; a data set needs images to be scored.")


def _places(dataset: str, data_root: Path | None) -> list[Path]:
    return [COMMITTED / dataset] + ([data_root / dataset / "splits"] if data_root else [])


def _folders(place: Path) -> list[Path]:
    return [path for path in place.glob("*") if path.is_dir() and not path.name.startswith(".")]


# What a batch takes ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BatchSource:
    """Ids that batches draw from, and how many of them each batch takes."""

    ids: tuple[str, ...]
    size: int


def batch_sources(
    split: Split,
    needs: Collection[str],
    labeled: int,
    unlabeled: int,
    setting: str = "protocol.batch",
    least: int = 1,
) -> dict[str, BatchSource]:
    """Say where the images of a batch come from: a `Source` for each of MASKS, SEEDS, TAGS, UNLABELED in use.

    A tagged image appears in the labeled stream, with its CAM seed as mask, and in the unlabeled stream, with
    its tags. So does an image with points, strokes or boxes. Kinds of labels share a labeled batch evenly,
    masks first. For example, `1_8+tags` with a labeled batch of 8 gives four of "pixel" and four of "seeds".

    Args:
        needs: What the method asks for: "pixel" (the labeled stream), "tags" (tagged), "none" (unlabeled).
        labeled: Batch size of the labeled stream, and of the tagged one.
        unlabeled: Batch size of the unlabeled stream.
        setting: The setting that holds the two sizes, named in errors.
        least: Images in the smallest labeled batch that the network can be trained on, 1 or 2.

    Raises:
        ConfigError: A batch size is below 1, the labeled one below `least`, a list has fewer images than a
            batch takes of it, or masks and seeds cannot share a batch of one.
    """
    sources: dict[str, BatchSource] = {}

    def take(source: str, stream: str, ids: tuple[str, ...], size: int, batch: str, share: int = 1) -> None:
        if len(ids) < size:
            kind = KIND_NAMES.get(source, f"images with {source}") if share > 1 else "images"
            fits = share * len(ids)
            enough = fits >= (1 if stream == "unlabeled" else least) and fits > 0
            smaller = f" or a smaller batch, e.g. `--set {setting}.{batch}={fits}`" if enough else ""
            raise ConfigError(
                f"the {stream} stream of split {split.name!r} of {split.dataset!r} has {len(ids)} {kind}, "
                f"too few for the {size} in a batch: choose another split{smaller}."
            )
        sources[source] = BatchSource(ids, size)

    for batch, size, kinds in (("labeled", labeled, {"pixel", "tags"}), ("unlabeled", unlabeled, {"none"})):
        if size < 1 and kinds.intersection(needs):
            raise ConfigError(
                f"the {batch} batch is {size}: set it with `--set {setting}.{batch}=1` or more."
            )
    if "pixel" in needs and labeled < least:
        raise ConfigError(
            f"the labeled batch is {labeled}, and this network normalises over a batch of {least} images at "
            f"least: use `--set {setting}.labeled={least}` or more, and a split with as many labeled images."
        )
    if "pixel" in needs:
        # The masks are few and right, the rest is many and rough: drawn from one list, masks would be rare.
        kinds_there = {MASKS: split.pixel, SEEDS: split.tags, **split.sparse}
        there = {source: ids for source, ids in kinds_there.items() if ids} or {MASKS: ()}
        if labeled < len(there):
            raise ConfigError(
                f"{' and '.join({MASKS: 'masks'}.get(one, one) for one in there)} share the labeled batch: "
                f"use `--set {setting}.labeled={len(there)}` or more."
            )
        for place, (source, ids) in enumerate(there.items()):
            size = (labeled + len(there) - 1 - place) // len(there)
            take(source, "labeled", ids, size, "labeled", share=len(there))
    if "tags" in needs:
        take(TAGS, "tagged", (*split.pixel, *split.tags), labeled, "labeled")
    if "none" in needs:
        sparse = (id for ids in split.sparse.values() for id in ids)
        take(UNLABELED, "unlabeled", (*split.none, *split.tags, *sparse), unlabeled, "unlabeled")
    return sources
