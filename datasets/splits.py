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
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import ConfigError, DataError, check_name, did_you_mean
from datasets import draws
from datasets.ids import check_id, digest, read_json, read_list, read_sealed, some

if TYPE_CHECKING:
    from bench.contract import Dataset

GRANTS = ("pixel", "tags", "none")
LISTS = (*GRANTS, "eval")
COMMITTED = Path(__file__).parent / "splits"
MANIFEST = "MANIFEST.json"
TAGS_FILE = "tags.json"
EVAL, HELDOUT = "eval", "heldout"  # the lists of which one is scored

# The sources that a batch draws images from. The words also name random streams: they stay as they are.
MASKS, SEEDS, TAGS, UNLABELED = "pixel", "seeds", "tags", "none"


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

    @property
    def digests(self) -> dict[str, str]:
        """Give the SHA-256 of each list, {"pixel": "ab12...", ...}, and of the tags as "tag_sets" if any."""
        said = {"tag_sets": self.tag_digest} if self.tag_digest else {}
        return {**self.list_digests, **said}

    @property
    def list_digests(self) -> dict[str, str]:
        """Give the SHA-256 of each of pixel, tags, none and eval."""
        return {name: digest(getattr(self, name)) for name in LISTS}

    @property
    def counts(self) -> dict[str, int]:
        """Count the ids of each list, e.g. {"pixel": 32, "tags": 0, "none": 480, "eval": 200}."""
        return {name: len(getattr(self, name)) for name in LISTS}

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
        raise ConfigError(f"The data set {dataset!r} has no split {name!r}{did_you_mean(wanted, known)}.")
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
        if path.exists():
            mend = f"restore both, or make them anew with `{command(dataset, data_root, '--make')}`."
            return tuple(sorted(read_sealed(path, dataset, mend)[0]))
    return None


def held_out_said(dataset: Dataset, data_root: Path | None) -> list[str]:
    """Say of a data set of the user's what is held out and how it is used. Of one without such a list, and of
    the suite's own, there is nothing to say."""
    if dataset.heldout is None or (COMMITTED / dataset.name).is_dir():
        return []
    file = f"{dataset.heldout}.txt"
    try:
        ids = heldout_ids(dataset.name, data_root)
    except DataError as error:  # of a list that this run does not read
        return [str(error)]
    if ids is None:
        make = command(dataset.name, data_root, "--make")
        return [f"{file} lies unused: `{make}` makes it the held-out list, or says why it cannot be."]
    return [
        f"the {len(ids)} images of {file} are held out: nothing learns from them, and only "
        "`--scored heldout` scores them. Choose thresholds, steps and other settings so."
    ]


def _held_out(split: Split, folder: Path, data_root: Path | None) -> Split:
    """The split with the held-out list in place of the scored one."""
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
    """The split with the images that another draw labels."""
    dataset, name = split.dataset, split.name
    if name in (draws.TAGS, "full"):
        raise ConfigError(f"{dataset}/{name} grants the same in every draw; leave --draw {number} out.")
    origin = read_json(folder / MANIFEST).get("origin")
    if name not in draws.DRAWN or not isinstance(origin, dict) or "rule_version" not in origin:
        raise ConfigError(
            f"{dataset}/{name} is one given list, which has no other draws; leave --draw {number} out."
        )
    make = command(dataset, data_root, f"--make --draw {number}")
    places = [place for place in _places(dataset, data_root) if draws.draw_file(place, number).exists()]
    if not places:
        known = ", ".join(map(str, known_draws(dataset, data_root)))
        raise ConfigError(f"{dataset} has no draw {number}. Known: {known}. Make it with `{make}`.")
    mend = f"restore the file, or make it anew with `{make}`."
    draw = draws.read_draw(places[0], dataset, number, mend)
    if name in draw.left_out:
        raise ConfigError(f"{draw.left_out[name]} Choose another draw or a larger split.")
    pixel, tagged, none = (tuple(sorted(ids)) for ids in draws.granted(name, draw.order))
    known_ids = sorted((*split.pixel, *split.tags, *split.none))
    if sorted(draw.order) != known_ids or draw.eval_digest != split.eval_digest:
        path = draws.draw_file(places[0], number)
        raise DataError(f"{path} is of other training or scored images than {folder}; {mend}")
    drawn = replace(split, pixel=pixel, tags=tagged, none=none, draw=number)
    if tagged:
        drawn = replace(drawn, tag_source=draw.tag_source, tag_digest=draw.tag_digest)
    check_split(drawn, folder)
    return drawn


def some_splits(dataset: str, data_root: Path | None) -> list[str]:
    """Do as `known_splits`, and raise ConfigError where there is none."""
    known = known_splits(dataset, data_root)
    if known:
        return known
    have = {folder.name for folder in _folders(COMMITTED)}
    if data_root:
        have |= {folder.name for folder in _folders(data_root) if (folder / "splits").is_dir()}
    raise ConfigError(
        f"The data set {dataset!r} has no splits{did_you_mean(dataset, have)}. Make them with "
        f"`{command(dataset, data_root, '--make')}`, import a list with `--name NAME --labeled FILE` in "
        "place of --make, or say where the data are with --data-root or $BENCH_DATA."
    )


def command(dataset: str, data_root: Path | None, options: str) -> str:
    """The command that makes splits (`--make`) or imports them, as a user types it."""
    place = shlex.quote(str(data_root)) if data_root else "DIR"
    return f"python -m bench data splits {options} --dataset {dataset} --data-root {place}"


def _read_split(dataset: str, name: str, folder: Path) -> Split:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8-sig"))
        stored, owner = dict(manifest["digests"]), (manifest["dataset"], manifest["split"])
        expected = {list_: str(stored[list_]) for list_ in LISTS}
        source, tag_digest = (str(manifest.get(key, "")) for key in ("tag_source", "tag_digest"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{path} is not the manifest of a split ({error!r}); make or import the split again."
        ) from error
    if owner != (dataset, name):
        raise DataError(
            f"{path} is that of {owner[0]}/{owner[1]}, not of {dataset}/{name}; put the folder back in its "
            "place."
        )
    files = {grant: folder / f"{grant}.txt" for grant in GRANTS} | {"eval": folder.parent / "eval.txt"}
    lists = {list_: tuple(sorted(read_list(file))) for list_, file in files.items()}
    for list_, ids in lists.items():
        if digest(ids) != expected[list_]:
            raise DataError(
                f"{files[list_]} has changed since the split was made: its {len(ids)} ids do not have the "
                f"digest in {path}. Restore the list, or make the split anew under another name."
            )
    pixel, tagged, none, scored = (lists[list_] for list_ in LISTS)
    split = Split(dataset, name, pixel, tagged, none, scored, tag_source=source, tag_digest=tag_digest)
    check_split(split, folder)
    if split.tags and not tag_digest:
        raise DataError(f"{path} does not say what the tags are; make the split again.")
    return replace(split, tag_file=folder.parent / TAGS_FILE) if split.tags else split


def check_split(split: Split, where: Path) -> None:
    """Raise DataError, which names the file and the id, unless the split is sound.

    Every id is valid and stands once, no list is empty that may not be, and no image is in two lists (ids
    that differ only in upper and lower case are one image).
    """
    seen: dict[str, tuple[str, str]] = {}
    for list_ in LISTS:
        for id in getattr(split, list_):
            check_id(id, where)
            # ids that differ in case only are one file on some systems
            other, before = seen.setdefault(id.casefold(), (list_, id))
            if (other, before) != (list_, id):
                raise DataError(
                    f"{where}: {id!r} in {list_}.txt and {before!r} in {other}.txt are one image; an image "
                    "belongs to one list, and a scored one to no other: remove it from one of them."
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


def _places(dataset: str, data_root: Path | None) -> list[Path]:
    return [COMMITTED / dataset] + ([data_root / dataset / "splits"] if data_root else [])


def _folders(place: Path) -> list[Path]:
    return [path for path in place.glob("*") if path.is_dir() and not path.name.startswith(".")]


# What a batch takes ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
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
) -> dict[str, Source]:
    """Say where the images of a batch come from: a `Source` for each of MASKS, SEEDS, TAGS, UNLABELED in use.

    A tagged image appears in the labeled stream, with its CAM seed as mask, and in the unlabeled stream, with
    its tags. Where a split grants masks and tags, half of a labeled batch (rounded up) has masks. For
    example, `1_8+tags` with a labeled batch of 8 gives {"pixel": Source(..., 4), "seeds": Source(..., 4)}.

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
    sources: dict[str, Source] = {}

    def take(
        source: str, stream: str, ids: tuple[str, ...], size: int, batch: str, half: bool = False
    ) -> None:
        if len(ids) < size:
            kind = {MASKS: "images with masks", SEEDS: "tagged images"}[source] if half else "images"
            fits = (2 if half else 1) * len(ids)
            enough = fits >= (1 if stream == "unlabeled" else least) and fits > 0
            smaller = f" or a smaller batch, e.g. `--set {setting}.{batch}={fits}`" if enough else ""
            raise ConfigError(
                f"the {stream} stream of split {split.name!r} of {split.dataset!r} has {len(ids)} {kind}, "
                f"too few for the {size} in a batch: choose another split{smaller}."
            )
        sources[source] = Source(ids, size)

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
    if "pixel" in needs and split.pixel and split.tags:
        if labeled < 2:
            raise ConfigError(
                f"masks and seeds share the labeled batch: use `--set {setting}.labeled=2` or more."
            )
        # The masks are few and right, the seeds many and rough: drawn from one list, masks would be rare.
        masks = (labeled + 1) // 2
        take(MASKS, "labeled", split.pixel, masks, "labeled", half=True)
        take(SEEDS, "labeled", split.tags, labeled - masks, "labeled", half=True)
    elif "pixel" in needs:
        source = SEEDS if split.tags else MASKS
        take(source, "labeled", split.tags or split.pixel, labeled, "labeled")
    if "tags" in needs:
        take(TAGS, "tagged", (*split.pixel, *split.tags), labeled, "labeled")
    if "none" in needs:
        take(UNLABELED, "unlabeled", (*split.none, *split.tags), unlabeled, "unlabeled")
    return sources
