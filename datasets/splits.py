"""Splits: which image grants its pixels, which its tags, which nothing, and which images are scored.

A split is a folder <place>/<dataset>/<split>/, for example datasets/splits/shapes/1_8/, with pixel.txt,
tags.txt, none.txt and MANIFEST.json. The scored images are in eval.txt, which all splits of a data set share.

This module reads splits and never opens an image or a mask: `splits_make` and `splits_import` write them, and
nothing here imports those two, nor torch.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PureWindowsPath
from typing import Any

from bench.errors import ConfigError, DataError, check_name, did_you_mean, nearest

GRANTS = ("pixel", "tags", "none")
LISTS = (*GRANTS, "eval")
COMMITTED = Path(__file__).parent / "splits"
MANIFEST = "MANIFEST.json"
TAGS_FILE = "tags.json"

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


def digest(ids: Iterable[str]) -> str:
    """Hash a list of ids: SHA-256 of the sorted distinct ids, joined by newlines. Order and repeats do not
    matter."""
    return hashlib.sha256("\n".join(sorted(set(ids))).encode()).hexdigest()


# Reading lists of ids --------------------------------------------------------------------------------------


def read_lines(path: Path) -> list[str]:
    """Read the stripped lines of a UTF-8 text file, without BOM or CR. Raises DataError if it cannot be
    read."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n")]
    except FileNotFoundError:
        names = (other.name for other in path.parent.glob("*") if other.is_file())
        near = nearest(path.name, names)
        meant = f" (did you mean {near!r}?)" if near else ""
        raise DataError(f"{path} does not exist{meant}; restore the file.") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text; save it as UTF-8.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); make it a readable text file.") from error


def read_json(path: Path) -> Any:
    """Read a JSON file in UTF-8. Raises DataError where it cannot be read, or an object has a key twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = Counter(key for key, _ in pairs)
        twice = next((key for key in keys if keys[key] > 1), None)
        if twice is not None:
            raise DataError(f"{path} has two entries {twice[:80]!r}; keep one of them.")
        return dict(pairs)

    try:
        _refuse_pipe(path)
        return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=once)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is not readable JSON ({error}); write it again.") from error


def _refuse_pipe(path: Path) -> None:
    """Raise DataError for what a reader would wait for, such as a pipe."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise DataError(f"{path} is no file; put the file itself there.")


def read_list(path: Path) -> tuple[str, ...]:
    """Read a list of ids, one a line, e.g. "city/frame_1", in file order; blank lines are skipped.

    Raises DataError for a file that cannot be read, an id that stands twice or is no plain relative path.
    """
    _refuse_pipe(path)
    ids = tuple(line for line in read_lines(path) if line)
    for id in ids:
        check_id(id, path)
    refuse_repeats(ids, path)
    return ids


def refuse_repeats(ids: Sequence[str], path: Path) -> None:
    """Raise DataError, naming the file and up to three ids, if an id stands twice in a list."""
    repeated = [id for id, count in Counter(ids).items() if count > 1]
    if repeated:
        raise DataError(f"{path} holds {some(repeated)} more than once; remove the repeats.")


def check_id(id: str, where: Path) -> None:
    """Raise DataError unless `id` is a relative path that stays inside its folder on every system."""
    parts = id.split("/")
    outside = any(part in ("", ".", "..") for part in parts) or "\\" in id or PureWindowsPath(id).anchor
    if outside or not id.isprintable() or max(len(part.encode()) for part in parts) > 200 or len(id) > 200:
        raise DataError(
            f"{where}: {id[:80]!r} cannot be an id; an id is a file name without its ending, at most inside "
            "sub folders (no .., no leading /, no backslash, no control characters)."
        )


def some(ids: Sequence[str]) -> str:
    """Quote the first three ids for an error message, e.g. "'a', 'b', 'c' and 2 more ids"."""
    return ", ".join(repr(id) for id in ids[:3]) + (f" and {len(ids) - 3} more ids" if len(ids) > 3 else "")


# Finding and reading splits --------------------------------------------------------------------------------


def known_splits(dataset: str, data_root: Path | None) -> list[str]:
    """List the names of the splits of a data set, the suite's own and those under `data_root`.

    Raises ConfigError for a name that no data set can have.
    """
    check_name(dataset, "a data set")
    return sorted({folder.name for place in _places(dataset, data_root) for folder in _folders(place)})


def find_split(dataset: str, name: str, data_root: Path | None) -> Split:
    """Read a split from datasets/splits/<dataset>/<name>/ or else <data_root>/<dataset>/splits/<name>/.

    "1/16" is read as "1_16". Raises ConfigError for an unknown data set or split, DataError where a list is
    missing, is not the one of its MANIFEST, holds an id twice or shares one with another list, or where
    all are empty.
    """
    known = some_splits(dataset, data_root)
    wanted = name.replace("/", "_")
    if wanted not in known:
        raise ConfigError(f"The data set {dataset!r} has no split {name!r}{did_you_mean(wanted, known)}.")
    folder = next(place / wanted for place in _places(dataset, data_root) if (place / wanted).is_dir())
    return _read_split(dataset, wanted, folder)


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
