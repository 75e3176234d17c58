"""Pictures of predictions: a row for each sampled image, beside each other what the methods say of it.

H W is the size of a sample's picture, C the number of classes.
"""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bench.errors import DataError, plain
from bench.labels import IGNORE
from bench.records.folders import RunFolder
from bench.records.samples import Kind, Sample, Samples, read_picture
from bench.scoring.picture_sheet import Column, SheetTile, coloured, draw
from reports.evidence import listed
from reports.groups import Group, Run, SplitColumn
from reports.plots.class_colours import VOID, class_colours
from reports.plots.picture import short

SHOWN = 4  # images of a gallery
MOST_SIDE = 2048  # pixels of a sample's picture; the suite writes 512
RIGHT = 254  # in a picture of errors; no class, for ids are below 254 where there are such pictures
TILE = 160  # pixels of the longer side of a picture in the sheet
WORD = 20  # characters of a word over a column of it

HOW_CHOSEN = (
    "The sampled images are the scored ones whose ids have the lowest SHA-256, the same for all methods. Of "
    "these are shown the one that the methods disagree on most, the best and the worst predicted one by the "
    "mean of the methods' mIoU, and the next in the order of the choice."
)


@dataclass(frozen=True)
class GalleryTile:
    """The prediction of one method for an image."""

    method: str
    said: str  # beside its name, such as "54.3 %"; "" where nothing is known
    prediction: bytes  # PNG
    errors: bytes | None  # PNG: the predicted class where it is wrong, else nothing; None without a truth


@dataclass(frozen=True)
class Strip:
    """An image and all that is said of it."""

    title: str
    photograph: bytes | None  # JPEG
    truth: bytes | None  # PNG
    tiles: tuple[GalleryTile, ...]


@dataclass(frozen=True)
class Gallery:
    name: str  # of its file, without the ending
    title: str
    details: str  # what stands beside it
    classes: tuple[str, ...]
    key: tuple[tuple[str, str], ...]  # name and colour, "#0000ff", of each class that is seen
    strips: tuple[Strip, ...]

    @property
    def alt(self) -> str:
        """What the sheet shows, for those who do not see it."""
        methods = listed([tile.method for tile in self.strips[0].tiles])
        images = ", ".join(strip.title.partition(";")[0] for strip in self.strips)
        return f"{self.title}: what {methods} predict of {images}."


@dataclass(frozen=True)
class _Seen:
    """The decoded pictures of one sample: H W uint8 class ids by method, and of the truth."""

    id: str
    photograph: bytes | None
    truth: np.ndarray | None
    predictions: dict[str, np.ndarray]

    @property
    def disputed(self) -> float:
        """Share of the pixels on which not all methods agree."""
        first, *others = self.predictions.values()
        return float(np.any([first != other for other in others], axis=0).mean()) if others else 0.0

    def miou(self, method: str, classes: int) -> float | None:
        """Of this image alone, over the classes that its truth holds; None without one."""
        if self.truth is None:
            return None
        known = self.truth != IGNORE
        pairs = self.truth[known].astype(np.int64) * classes + self.predictions[method][known]
        counts = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
        hit, true = np.diag(counts), counts.sum(1) > 0
        return (
            float((hit / np.maximum(counts.sum(0) + counts.sum(1) - hit, 1))[true].mean())
            if true.any()
            else None
        )


def galleries(group: Group, samples: Mapping[Path, Samples]) -> list[Gallery | str]:
    """One for each split whose runs have samples, and a sentence on those that are damaged.

    Args:
        samples: Of runs, by folder.
    """
    found: list[Gallery | str] = []
    for split in group.splits:
        seen, broken, run = _read(group, split, samples)
        if seen and run:
            found.append(_gallery(group, split, seen, run))
        if broken:
            found.append(
                f"Samples that are damaged, left out: {', '.join(group.labels[path] for path in broken)}."
            )
    return found


def _read(
    group: Group, split: SplitColumn, samples: Mapping[Path, Samples]
) -> tuple[list[_Seen], list[Path], Run | None]:
    """Read the samples that the rows of a split have in common, of runs of one draw and seed. Return them,
    the folders of damaged ones, and one of the runs."""
    with_any = {
        row.label: {key: run for key, run in row.runs.get(split, {}).items() if run.folder in samples}
        for row in group.rows
    }
    often = Counter(key for runs in with_any.values() for key in runs)
    if not often:
        return [], [], None
    key = min(often, key=lambda key: (-often[key], key))
    runs = {label: runs[key] for label, runs in with_any.items() if key in runs}
    predictions: dict[str, dict[str, np.ndarray]] = defaultdict(dict)  # by sample and method
    kept: dict[str, list[tuple[Run, Sample]]] = defaultdict(list)
    broken = []
    for label, run in runs.items():
        try:
            found = {
                sample: _ids(run, sample, "prediction", len(group.classes))
                for sample in samples[run.folder].samples
            }
        except DataError:
            broken.append(run.folder)
            continue
        for sample, ids in found.items():
            if ids is not None:
                predictions[sample.id][label] = ids
                kept[sample.id].append((run, sample))
    seen = []
    for id, of in predictions.items():
        shapes = {ids.shape for ids in of.values()}
        if len(of) == len(runs) - len(broken) and len(shapes) == 1:
            photograph, truth = _beside(kept[id], len(group.classes))
            fits = truth is not None and truth.shape in shapes
            seen.append(_Seen(id, photograph, truth if fits else None, of))
    return seen, broken, next(iter(runs.values()))


def _beside(kept: Sequence[tuple[Run, Sample]], classes: int) -> tuple[bytes | None, np.ndarray | None]:
    """Photograph and truth of a sample, from whichever run has them."""
    photograph, truth = None, None
    for run, sample in kept:
        try:
            photograph = photograph or _jpeg(read_picture(RunFolder(run.folder), sample, "image"))
            truth = _ids(run, sample, "truth", classes) if truth is None else truth
        except DataError:
            continue
    return photograph, truth


def _ids(run: Run, sample: Sample, kind: Kind, classes: int) -> np.ndarray | None:
    """Read the class ids of a picture, H W uint8; None without it. Raises DataError where it cannot be read
    or holds others."""
    data = read_picture(RunFolder(run.folder), sample, kind)
    if data is None:
        return None
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            if picture.mode not in ("P", "L") or max(picture.size) > MOST_SIDE:
                raise ValueError("another kind of picture")
            ids = np.array(picture)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{run.folder}: no sample's picture ({error})") from error
    if (ids[ids != IGNORE] >= classes).any() or (kind == "prediction" and (ids == IGNORE).any()):
        raise DataError(f"{run.folder}: a sample's picture has other classes")
    return ids


def _jpeg(data: bytes | None) -> bytes | None:
    if data is None:
        return None
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as picture:
            picture.verify()
            return data if max(picture.size) <= MOST_SIDE else None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


# What is shown ----------------------------------------------------------------------------------------------


def _chosen(seen: Sequence[_Seen], classes: int) -> list[tuple[str, _Seen]]:
    """Why an image is shown, and the image; see `HOW_CHOSEN`."""

    def mean(one: _Seen) -> float:
        return float(np.mean([one.miou(method, classes) for method in one.predictions]))

    wanted: list[tuple[str, _Seen]] = []
    if any(one.disputed for one in seen):
        wanted.append(("most disputed", max(seen, key=lambda one: one.disputed)))
    scored = [one for one in seen if one.miou(next(iter(one.predictions)), classes) is not None]
    if scored:
        wanted += [("best", max(scored, key=mean)), ("worst", min(scored, key=mean))]
    wanted += [("by digest", one) for one in seen]
    reasons: dict[str, list[str]] = {}
    for why, one in wanted:
        reasons.setdefault(one.id, []).append(why)
    by_id = {one.id: one for one in seen}
    found = [(", ".join(why[:-1] if len(why) > 1 else why), by_id[id]) for id, why in reasons.items()]
    return found[:SHOWN]


def _gallery(group: Group, split: SplitColumn, seen: Sequence[_Seen], run: Run) -> Gallery:
    classes = len(group.classes)
    colours = np.array(class_colours(classes), np.uint8)
    chosen = _chosen(seen, classes)
    maps = [ids for _, one in chosen for ids in (*one.predictions.values(), one.truth) if ids is not None]
    used = sorted({int(id) for ids in maps for id in np.unique(ids)})
    key = [
        ("not labeled", _hex(VOID)) if id == IGNORE else (group.classes[id], _hex(colours[id])) for id in used
    ]
    return Gallery(
        name=f"predictions-{group.dataset}-{split.label}",
        title=f"{group.title}: {split.heading}, draw {run.result.draw}, seed {run.result.seed}",
        details=HOW_CHOSEN,
        classes=group.classes,
        key=tuple(key),
        strips=tuple(_strip(why, one, colours) for why, one in chosen),
    )


def _hex(colour: Iterable[int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _strip(why: str, one: _Seen, colours: np.ndarray) -> Strip:
    differ = (
        f"; the methods differ on {100 * one.disputed:.0f} % of its pixels"
        if len(one.predictions) > 1
        else ""
    )
    tiles = []
    for method, ids in one.predictions.items():
        share = one.miou(method, len(colours))
        errors = None
        if one.truth is not None and len(colours) < RIGHT:
            wrong = (ids != one.truth) & (one.truth != IGNORE)
            errors = _png(np.where(one.truth == IGNORE, IGNORE, np.where(wrong, ids, RIGHT)), colours)
        tiles.append(
            GalleryTile(method, "" if share is None else f"{100 * share:.1f} %", _png(ids, colours), errors)
        )
    truth = None if one.truth is None else _png(one.truth, colours)
    return Strip(f"{one.id} ({why}){differ}", one.photograph, truth, tuple(tiles))


def _png(ids: np.ndarray, colours: np.ndarray) -> bytes:
    """Class ids H W in the page's colours; `RIGHT` is transparent. In the file both it and 255 stand right
    behind the classes: a palette of 256 colours would be half of its bytes."""
    classes = len(colours)
    right, void = (classes, classes + 1) if classes < RIGHT else (RIGHT, IGNORE)
    palette = np.full((void + 1, 3), 255, np.uint8)
    palette[:classes] = colours
    palette[void] = VOID
    index = np.arange(256, dtype=np.uint8)
    index[[RIGHT, IGNORE]] = right, void
    picture = Image.fromarray(index[ids], "P")
    picture.putpalette(palette.tobytes())
    transparency = {"transparency": right} if classes < RIGHT else {}
    picture.save(file := io.BytesIO(), "PNG", optimize=True, **transparency)
    return file.getvalue()


def sheet(gallery: Gallery) -> bytes:
    """Draw the whole gallery as one PNG, for documents that hold no page."""
    palette = np.array(class_colours(len(gallery.classes)), np.uint8)
    by_method = zip(*(strip.tiles for strip in gallery.strips), strict=True)
    columns = [
        Column("image", "", [_tile(strip.photograph, palette) for strip in gallery.strips]),
        Column("truth", "", [_tile(strip.truth, palette) for strip in gallery.strips]),
        *(
            Column(_folding(tiles[0].method), "", [_tile(one.prediction, palette, one.said) for one in tiles])
            for tiles in by_method
        ),
    ]
    known = [column for column in columns if any(tile.picture is not None for tile in column.tiles)]
    names = [short(name) for name in gallery.classes]
    return draw(plain(gallery.title), [plain(strip.title) for strip in gallery.strips], known, palette, names)


def _folding(name: str) -> str:
    """Shorten a name so that it can be folded: no word is wider than a column."""
    return " ".join(short(word, WORD) for word in short(name).split(" "))


def _tile(data: bytes | None, palette: np.ndarray, said: str = "") -> SheetTile:
    if data is None:
        return SheetTile(None, note="none")
    with Image.open(io.BytesIO(data)) as picture:
        size = [max(round(side * TILE / max(picture.size)), 1) for side in picture.size]
        if picture.mode == "P":
            ids = np.array(picture.resize(size, Image.Resampling.NEAREST))
            ids[ids > len(palette)] = IGNORE  # see `_png`
            return SheetTile(coloured(ids, palette), ids, said=said)
        return SheetTile(np.array(picture.convert("RGB").resize(size, Image.Resampling.BILINEAR)))
