"""The meaning of the stored numbers of a mask: palettes, and grey of fewer than 8 bits.

A palette mask holds indices, and by custom index = class id. Two kinds of programs break that custom: paint
programs number the colours of each file anew, and lossless optimisers turn 8-bit greys into a short palette.
Then the index says nothing, and what the eye sees is what is meant.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from bench.contract import IGNORE, Dataset
from bench.errors import DataError
from datasets.meaning import Unread
from datasets.pictures import opened

OTHERS = (".bmp", ".tif", ".tiff")  # endings of masks that are no PNG
GREY, PALETTE = 0, 3  # colour types of PNG
MOST_DECODED = 500  # files, two seconds
GREYS = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
BORDER = (224, 224, 192)  # of 255 in the palettes of VOC
SAVE_AS_GREY = "save the masks as 8-bit grey PNG whose values are the class ids"


def colours(classes: int) -> np.ndarray:
    """Give the VOC colour map, C 3 uint8: distinct colours, the same in every run; class 0 is black."""
    ids = np.arange(classes)
    table = np.zeros((classes, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            table[:, channel] |= ((ids >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return table


def ids_of_palette(
    path: Path,
    shown: np.ndarray,
    indices: np.ndarray,
    classes: int,
    table: np.ndarray | None,
    known: np.ndarray | None = None,
) -> np.ndarray | None:
    """Return what each index of a palette mask means, 256 uint8; None where the index is the class id.

    - Entry k is grey k: the index is the id.
    - A palette of greys in another order: the grey value is the id, as before an optimiser made it a palette.
    - `table` is given: a colour of the table at another place means the class that the table gives it.
    - The colours of VOC in another order, without a table: refused.
    - Other colours: the index is the id. `disagreement` compares the palettes of all files.

    Args:
        path: For the sentence of an error.
        shown: N 3 uint8, the palette.
        indices: H W uint8, the pixels.
        classes: How many there are.
        table: C 3 uint8, the colours that the data set defines, or None.
        known: 256 bool or more, the numbers that have a meaning; None: those of the classes, and 255.

    Raises Unread where the palette says that the indices are no ids, and not what the ids are.
    """
    used = np.flatnonzero(np.bincount(indices.ravel(), minlength=256))
    used = used[used < len(shown)]
    seen = shown[used]
    if len(shown) > 1 and (shown == shown[0]).all():
        return None  # a palette of one colour says nothing
    if (shown == shown[:, :1]).all():
        if known is None:
            known = (np.arange(256) < classes) | (np.arange(256) == IGNORE)
        return _ids_of_greys(path, used, shown[:, 0], known)
    voc = _numbered(table if table is not None else colours(classes))
    places = np.array([voc.get(tuple(colour), -1) for colour in seen.tolist()])
    moved = (places >= 0) & (places != used) & ~_is_fill(shown, places, seen)
    if not moved.any():
        return None
    if table is not None and (places >= 0).all():
        return _translated(used, places)
    # A palette of somebody's own may share a colour with VOC, but not all of them by chance.
    stored = [tuple(c) for k, c in enumerate(shown[:classes].tolist()) if k == 0 or any(c)]
    if table is not None or ((places >= 0).all() and all(colour in voc for colour in stored)):
        index = int(used[moved][0])
        raise Unread(
            f"{path} shows the colour of class {places[moved][0]} at index {index} of its palette, so its "
            f"indices are no class ids; {SAVE_AS_GREY}.",
            "palette",
        )
    return None


def _is_fill(shown: np.ndarray, places: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Which colours also stand at their own place: one that was filled up, say with black, repeats some."""
    inside = (places >= 0) & (places < len(shown))
    return inside & (shown[np.where(inside, places, 0)] == seen).all(-1)


def _ids_of_greys(path: Path, used: np.ndarray, greys: np.ndarray, known: np.ndarray) -> np.ndarray | None:
    """Return what the indices `used` of a palette of greys mean, 256 uint8; None where they are the same
    numbers."""
    values = greys[used]
    values = np.where(_is_fill(greys[:, None], values.astype(int), values[:, None]), used, values)
    if (values == used).all():
        return None
    # Black and white alone may be classes 0 and 1, or class 0 and no label; unless 1 has no meaning.
    told = ((values != 0) & (values != IGNORE)).any() or not values.any() or not known[used].all()
    if known[values].all() and told and len(set(values.tolist())) == len(values):
        return _translated(used, values)
    k = int(np.flatnonzero(used != values)[0])
    raise Unread(
        f"{path} has a palette of greys that are out of order (index {used[k]} shows grey {values[k]}), "
        f"so nobody can tell which of the two is the class id; {SAVE_AS_GREY}.",
        "palette",
    )


def _numbered(table: np.ndarray) -> dict[tuple[int, ...], int]:
    """Return the class of each colour, and 255 of the border: {(128, 0, 0): 1}."""
    return {BORDER: IGNORE} | {tuple(colour): k for k, colour in enumerate(table.tolist())}


def _translated(used: np.ndarray, ids: np.ndarray) -> np.ndarray:
    meant = np.arange(256, dtype=np.uint8)
    meant[used] = ids
    return meant


# All masks of a data set ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Encoding:
    """How a PNG stores its pixels, from its header."""

    path: Path
    kind: int  # colour type of PNG, `GREY` or `PALETTE` or one with colours
    bits: int  # a sample
    palette: bytes  # RGB RGB ...; empty without one

    @cached_property
    def used(self) -> frozenset[int]:
        """The stored samples that occur; none of a damaged file, which reading says. Decodes the file."""
        try:
            return self._used()
        except DataError:
            return frozenset()

    def _used(self) -> frozenset[int]:
        with opened(self.path, ("PNG",)) as picture:
            if self.kind == GREY:  # Pillow stretches few bits to 0..255
                stretch = {1: 255, 2: 85, 4: 17}.get(self.bits, 1)
                return frozenset(value // stretch for value in picture.convert("L").tobytes())
            return frozenset(picture.tobytes())

    @property
    def is_optimised(self) -> bool:
        """Whether it is a palette of greys in another order, as an optimiser writes 8-bit grey."""
        moved = any(colour != bytes([k] * 3) for k, colour in enumerate(self.entries))
        return moved and all(len(set(colour)) == 1 for colour in self.entries)

    @cached_property
    def entries(self) -> list[bytes]:
        return [self.palette[k : k + 3] for k in range(0, len(self.palette), 3)]


def encoding(path: Path) -> Encoding | None:
    """Read the header of a PNG; None for what is none, which reading it says better. Other files are read as
    masks where they are grey of 8 bits or more."""
    try:
        if not path.is_file():
            return None
        if path.suffix.lower() in OTHERS:
            return Encoding(path, GREY, 8, b"")
        with path.open("rb") as file:
            head = file.read(33)
            if len(head) < 33 or head[12:16] != b"IHDR":
                return None
            bits, kind = head[24], head[25]
            palette = b""
            while kind == PALETTE and len(start := file.read(8)) == 8:
                (length,), name = struct.unpack(">I", start[:4]), start[4:]
                if name == b"PLTE" and length <= 768:
                    palette = file.read(length)
                if name in (b"PLTE", b"IDAT", b"IEND"):
                    break
                file.seek(length + 4, 1)
            return Encoding(path, kind, bits, palette)
    except OSError:
        return None


def disagreement(dataset: Dataset, ids: Iterable[str], what: str = "mask") -> str | None:
    """Return a sentence on two masks of one data set that cannot both be read by their stored numbers, or
    None.

    Reads the headers of the masks of `ids`. Decodes only files that look as if they disagreed, and
    `MOST_DECODED` of them at most. What is missing or no PNG is passed over: reading it says so better. Masks
    that are read by their colours cannot disagree, nor those of two domains.

    Args:
        what: "points" or "scribbles", which hold class ids whatever their colours, in place of masks.
    """
    of_masks = what == "mask"
    for part, own in dataset.parts(ids):
        if of_masks and part.by_colour:
            continue
        found = [known for path in _files(part, own, what) if (known := encoding(path)) is not None]
        if said := _depths(found) or _palettes(found, part.mask_colours if of_masks else None):
            return said
    return None


def _files(dataset: Dataset, ids: Iterable[str], what: str) -> Iterator[Path]:
    for id in ids:
        with suppress(DataError):  # missing
            yield from dataset.files(id, what) or ()


def refuse_disagreement(dataset: Dataset, ids: Iterable[str], what: str = "mask") -> None:
    """Raise DataError where two masks cannot both be read by their stored numbers, see `disagreement`."""
    if said := disagreement(dataset, ids, what):
        raise DataError(said)


def _depths(found: list[Encoding]) -> str | None:
    """Grey of 1, 2 or 4 bits beside 8: an optimiser stores grey 255 as 1 of 1 bit, other programs class 1."""
    whole = next((one for one in found if (one.kind == GREY and one.bits >= 8) or one.is_optimised), None)
    few = [one for one in found if one.kind == GREY and one.bits < 8] if whole else []
    for one in few[:MOST_DECODED]:
        if whole and one.used - {0}:
            return (
                f"{one.path} is grey of {one.bits} bits and {whole.path} of {whole.bits}, so nobody can tell "
                f"whether its numbers are class ids or shades of grey; {SAVE_AS_GREY}."
            )
    return None


def _palettes(found: list[Encoding], table: np.ndarray | None) -> str | None:
    """One index with two colours, or one colour with two indices."""
    known = {bytes(colour) for colour in table} | {bytes(BORDER)} if table is not None else set()
    files = [one for one in found if one.kind == PALETTE]
    if len({one.palette for one in files}) < 2:
        return None
    first: dict[int | bytes, tuple[int | bytes, Path]] = {}  # index -> colour, and colour -> index
    turn: Counter[bytes] = Counter()  # one file of each palette first
    order = [(turn.update([one.palette]) or turn[one.palette], one) for one in files]
    for _, one in sorted(order, key=lambda pair: pair[0])[:MOST_DECODED]:
        shown = {k: one.entries[k] for k in sorted(one.used) if k < len(one.entries)}
        grey = all(len(set(colour)) == 1 for colour in one.entries)
        if grey or all(colour in known for colour in shown.values()):
            continue  # `ids_of_palette` reads these by their colours or greys, or refuses them
        for k, colour in shown.items():
            if one.entries.index(colour) != k:
                continue  # the palette was filled up
            pairs: tuple[tuple[int | bytes, int | bytes], ...] = ((k, colour), (colour, k))
            for key, value in pairs:
                before, there = first.setdefault(key, (value, one.path))
                if before != value:
                    return (
                        f"the palettes of {there} and {one.path} contradict each other (index {k} of the "
                        f"second), so their indices are no class ids; {SAVE_AS_GREY}."
                    )
    return None
