"""The folder that predictions are written to: which files, what of them is done, and nothing overwritten.

DIR/masks/<id>.png          class ids, the colours of the classes as palette
DIR/overlays/<id>.jpg       the image with the colours on top
DIR/confident/<id>.png      the mask with 255 where the network is not sure enough; on request
DIR/probabilities/<id>.npz  C H W float16; on request
DIR/predictions.csv         share of each class and mean confidence, a line an image
DIR/classes.txt             names of the classes: line number, from 0, is the id
DIR/made.json               what they were made by: digest of the weights, settings
DIR/made.jsonl              the digest of each file, a line each: what is not in it is not ours

<id> is the path of an image below its folder, without its ending.
"""

from __future__ import annotations

import csv
import io
import json
import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.errors import ConfigError, DataError, plain, read_file, resolved
from bench.labels import IGNORE
from bench.records.atomic import refuse_no_folder, write_atomic, writing
from bench.records.ledger import Ledger
from datasets.decode import DecodedImage
from datasets.encodings import BORDER, colours, ids_of_palette
from datasets.lookup import PICTURES
from datasets.rasters import Raster

ENDINGS = {"masks": ".png", "overlays": ".jpg", "confident": ".png", "probabilities": ".npz"}
BESIDE = ("made.json", "predictions.csv", "classes.txt")
OVERLAY_SIDE = 4096  # pixels: a larger overlay is made smaller, for nobody could look at it
OVERLAY_SHARE = 0.5  # of the colours over the image


def images_below(folder: Path) -> dict[str, Path]:
    """Find the pictures anywhere below a folder, by id, sorted: {"a/b": Path("folder/a/b.jpg")}.

    Names that begin with a dot are left out.

    Raises:
        DataError: There is no folder, or no picture.
        ConfigError: Two pictures have one id, so that their predictions would be one file.
    """
    if not folder.is_dir():
        raise DataError(f"no folder {folder}; give the folder that holds the images.")
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in inside.parts)
        if path.suffix.lower() in (*PICTURES, ".npy") and not hidden and not path.is_dir():
            if plain(inside.as_posix()) != inside.as_posix():
                raise ConfigError(
                    f"{plain(str(path))}: the name holds characters that cannot be printed; rename the file."
                )
            found[inside.with_suffix("").as_posix()].append(path)
    if not found:
        raise DataError(
            f"{folder} holds no images; give a folder with JPEG, PNG, TIFF, WebP, BMP or .npy files, at any "
            "depth."
        )
    for id, paths in found.items():
        if len(paths) > 1:
            names = " and ".join(path.name for path in paths)
            raise ConfigError(
                f"{paths[0].parent} holds {names}, whose predictions would be one file, {id}.png; rename one."
            )
    return {id: path for id, (path,) in found.items()}


@dataclass(frozen=True)
class PredictionSummary:
    """A line of predictions.csv."""

    image: str
    height: int
    width: int
    shares: tuple[float, ...]  # of each class, 0..1
    confidence: float  # mean over the pixels, 0..1


class PredictionFolder:
    """The files of predictions below one folder.

    Args:
        kinds: Of `ENDINGS`, what is written.
    """

    def __init__(self, path: Path, kinds: Sequence[str], classes: Sequence[str], palette: np.ndarray) -> None:
        self.path, self.kinds, self.classes = path, tuple(kinds), tuple(classes)
        self.palette = palette_of(palette)
        self._about, self._table, self._names = (path / name for name in BESIDE)
        self._ledger = Ledger(path / "made.jsonl")
        self._rows: dict[str, PredictionSummary] = {}
        self._key = ""

    def files(self, id: str) -> dict[str, Path]:
        """Return the files of an image by what a ledger calls them: {"masks/a": Path(".../masks/a.png")}."""
        return {f"{kind}/{id}": self.path / kind / f"{id}{ENDINGS[kind]}" for kind in self.kinds}

    def check(self, images: Path, made_by: Mapping[str, Any], ids: Sequence[str], overwrite: bool) -> None:
        """Refuse, before anything is written, what would write into the images, or over files of others.

        Args:
            images: PredictionFolder of the images.
            made_by: What decides the predictions: weights and settings.
            overwrite: Take predictions of other weights or settings for none.

        Raises:
            ConfigError: The folder is inside that of the images, or holds predictions that differ.
            DataError: A file is there that was not written by `predict`.
        """
        refuse_no_folder(self.path)
        place, source = resolved(self.path), resolved(images)
        if place.is_relative_to(source):
            raise ConfigError(
                f"--to {self.path} lies inside the image folder {images}, so predictions would be taken for "
                "images the next time; give a folder outside it."
            )
        for kind in self.kinds:
            if source.is_relative_to(place / kind):
                raise ConfigError(
                    f"the images lie in {images}, where --to {self.path} would write its {kind}; give "
                    "another --to."
                )
        self._refuse_files_of_others(ids)
        before = self._made_by()
        if self._made() and before != made_by and not overwrite:
            raise ConfigError(
                f"{self.path} holds predictions by other {_difference(before, made_by)}; give another --to, "
                "or --overwrite to make them again."
            )

    def _refuse_files_of_others(self, ids: Sequence[str]) -> None:
        files = {path.name: path for path in (self._about, self._table, self._names)}
        for id in ids:
            files |= self.files(id)
        there = [path for name, path in files.items() if _is_there(path) and not self._ledger.knows(name)]
        ledger = self._ledger.path
        if _is_there(ledger) and not self._ledger.ids and (not ledger.is_file() or ledger.stat().st_size):
            there.append(ledger)
        if there:
            more = f", and so for {len(there) - 1} more" if len(there) > 1 else ""
            raise DataError(
                f"{there[0]} is there and was not written by `predict`{more}; give another --to, or move it."
            )

    def begin(self, made_by: Mapping[str, Any], ids: Sequence[str], overwrite: bool) -> list[str]:
        """Write what the predictions are made by; the files and numbers of others are removed.

        Args:
            ids: Of the images that are there.
            overwrite: Remove the files of images that are not there any more, too.

        Returns:
            The ids of such images whose files are left.

        Raises WriteError.
        """
        self._key = sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()[:16]
        made, of_others = self._made(), self._made_by() != made_by
        current = set() if of_others else {name for id in ids for name in self.files(id)}
        gone = {name: path for name, path in made.items() if name not in current}
        if of_others or overwrite:
            self._remove(gone)
            gone = {}
        if of_others:
            with writing(self._table):
                self._table.unlink(missing_ok=True)
            self._write(self._about, f"{json.dumps(made_by, indent=1)}\n".encode())
            self._write(self._names, "".join(f"{name}\n" for name in self.classes).encode())
        self._rows = {row.image: row for row in self._read_table()}
        return sorted({name.partition("/")[2] for name, path in gone.items() if _is_there(path)})

    def _made(self) -> dict[str, Path]:
        """Return the files of images that were made, by what the ledger calls them."""
        found = {}
        for name in self._ledger.ids:
            kind, _, id = name.partition("/")
            # What a ledger names may be removed, so a damaged one must not lead out of the folder.
            if kind in ENDINGS and not {"", ".", ".."} & set(id.split("/")):
                found[name] = self.path / kind / f"{id}{ENDINGS[kind]}"
        return found

    def _remove(self, files: Mapping[str, Path]) -> None:
        """Remove files, and the folders that are empty then."""
        for path in files.values():
            with writing(path):
                path.unlink(missing_ok=True)
            for folder in path.parents:
                if folder == self.path:
                    break
                with suppress(OSError):  # it holds other files
                    folder.rmdir()
        self._ledger.forget(files)

    def done(self, images: Mapping[str, Path]) -> set[str]:
        """Return the ids whose files are all there, sound, and of the image as it is now."""
        found = set()
        for id, path in images.items():
            files = self.files(id)
            if id in self._rows and len(
                self._ledger.sound(files, dict.fromkeys(files, self._of(path)))
            ) == len(files):
                found.add(id)
        return found

    def add(self, image: Path, files: Mapping[str, Callable[[], bytes]], row: PredictionSummary) -> None:
        """Make and write the files of an image, by kind, one after the other, for they may be large; its line
        of the table last. Raises WriteError."""
        for name, path in self.files(row.image).items():
            data = files[name.partition("/")[0]]()
            # First, so that a file is known for ours however this ends; until it is whole it is not sound.
            self._ledger.add(name, sha256(data).hexdigest(), self._of(image))
            write_atomic(path, data, synced=False)
        self._rows[row.image] = row
        if not self._table.is_file():
            self._write(self._table, self._as_csv([], head=True).encode())
        with writing(self._table), open(self._table, "a", newline="") as file:
            file.write(self._as_csv([row], head=False))

    def _write(self, path: Path, data: bytes) -> None:
        """One of the files beside those of images."""
        self._ledger.add(path.name, sha256(data).hexdigest(), self._key)
        write_atomic(path, data)

    def _of(self, image: Path) -> str:
        """Name what the files of an image are made of: weights, settings, and the image by size and time.

        "KEY-BYTES-NANOSECONDS", with the key of weights and settings first.
        """
        seen = image.stat()
        return f"{self._key}-{seen.st_size}-{seen.st_mtime_ns}"

    def close(self, ids: Sequence[str]) -> Path:
        """Write the table once more, by image; answers where it is."""
        rows = [self._rows[id] for id in ids if id in self._rows]
        self._write(self._table, self._as_csv(rows, head=True).encode())
        return self._table

    def _made_by(self) -> dict[str, Any]:
        try:
            found = json.loads(read_file(self._about))
        except (DataError, OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def _columns(self) -> list[str]:
        shares = [f"share_{plain(name)}" for name in self.classes]
        return ["image", "height", "width", *shares, "mean_confidence"]

    def _as_csv(self, rows: Sequence[PredictionSummary], head: bool) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if head:
            writer.writerow(self._columns)
        for row in rows:
            numbers = (f"{value:.6f}" for value in (*row.shares, row.confidence))
            writer.writerow([row.image, row.height, row.width, *numbers])
        return text.getvalue()

    def _read_table(self) -> list[PredictionSummary]:
        try:
            lines = list(csv.reader(io.StringIO(read_file(self._table).decode(), newline="")))
        except (DataError, OSError, ValueError, csv.Error):
            return []
        found = []
        for cells in lines[1:] if lines[:1] == [self._columns] else []:
            try:
                image, height, width, *shares, confidence = cells
                numbers = tuple(map(float, shares))
                row = PredictionSummary(image, int(height), int(width), numbers, float(confidence))
            except ValueError:  # torn by a kill: the image is predicted again
                continue
            if len(row.shares) == len(self.classes):
                found.append(row)
        return found


def said_of_gone(ids: Sequence[str]) -> str:
    """Write the sentence on masks whose images are not there any more."""
    masks = "1 mask is of an image that is" if len(ids) == 1 else f"{len(ids)} masks are of images that are"
    named = ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")
    return f"{masks} not there any more: {named}; --overwrite removes what was made of them"


def _is_there(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say what differs between two contents of made.json: `settings (scales: [1.0] then, [0.5, 1.0] now)`."""
    if not before:
        return "weights or settings (its made.json is gone or damaged)"
    old, new = before.get("settings"), now["settings"]
    old = old if isinstance(old, dict) else {}
    differ = [key for key in {**new, **old} if old.get(key) != new.get(key)]
    said = [f"{key}: {json.dumps(old.get(key))} then, {json.dumps(new.get(key))} now" for key in differ]
    found = ["weights"] if before.get("weights") != now["weights"] else []
    return " and ".join([*found, *([f"settings ({'; '.join(said)})"] if said else [])])


# Pictures ---------------------------------------------------------------------------------------------------


def palette_of(table: np.ndarray) -> np.ndarray:
    """256 3 uint8, the palette of masks: the colours of the classes C 3 where masks with them are read back
    as they are, else those of VOC; 255 has the border's."""
    for colour in (table, colours(len(table))):
        palette = np.zeros((256, 3), np.uint8)
        palette[: len(colour)] = colour
        palette[IGNORE] = BORDER
        used = np.append(np.arange(len(colour)), IGNORE).astype(np.uint8)
        try:
            if ids_of_palette(Path("mask"), palette, used, len(colour), None) is None:
                return palette
        except DataError:
            continue
    raise AssertionError("the colours of VOC number themselves")


def as_png(ids: np.ndarray, palette: np.ndarray) -> bytes:
    """Encode class ids, H W uint8, as a PNG with a palette, 256 3 uint8."""
    file = io.BytesIO()
    # Runs alone are looked for: masks are made of them. Half the time of usual compression, and smaller.
    _picture(ids, palette).save(file, "PNG", compress_level=3, compress_type=zlib.Z_RLE)
    return file.getvalue()


def _picture(ids: np.ndarray, palette: np.ndarray) -> Image.Image:
    height, width = ids.shape
    picture = Image.frombuffer("P", (width, height), np.ascontiguousarray(ids), "raw", "P", 0, 1)
    picture.putpalette(palette.tobytes())
    return picture


def as_overlay(picture: DecodedImage | Raster, ids: np.ndarray, palette: np.ndarray) -> bytes:
    """Encode the image as a JPEG, with the colours of its classes on top."""
    small = picture.reduced(OVERLAY_SIDE)
    width, height = small.size
    if (height, width) != ids.shape:
        rows, columns = (
            ((np.arange(new) + 0.5) * old / new).astype(int)
            for new, old in zip((height, width), ids.shape, strict=True)
        )
        ids = ids[rows[:, None], columns]
    file = io.BytesIO()
    Image.blend(small, _picture(ids, palette).convert("RGB"), OVERLAY_SHARE).save(file, "JPEG", quality=90)
    return file.getvalue()


def as_npz(probability: np.ndarray) -> bytes:
    """Encode an archive whose array `probabilities` is C H W float16."""
    file = io.BytesIO()
    np.savez_compressed(file, probabilities=probability)
    return file.getvalue()
