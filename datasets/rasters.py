"""Images of 1 to 16 channels: `.npy`, and TIFF with many samples a pixel, many pages, or floats.

What is read is H W C uint8: of 16 bits the upper 8, as of pictures; floats run from 0 to 1 and become 0..255.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from PIL import Image, TiffImagePlugin

from bench.errors import BenchError, DataError, refuse_no_file
from datasets.pictures import MAX_PIXELS, TIFF, directory_of

MOST = 16  # channels
RASTER_ENDINGS = (".npy", ".tif", ".tiff")  # of files that may be one
NPY = b"\x93NUMPY"
BIG_TIFF = (b"II+\0", b"MM\0+")  # of files beyond 4 GiB
COLOUR = 3  # channels of what is shown as colours
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB = 0, 1, 2  # TIFF's PhotometricInterpretation
ALPHA = (1, 2)  # TIFF's ExtraSamples: premultiplied, and plain
FLOAT = 3  # TIFF's SampleFormat
REDUCED, MASK = 1, 4  # bits of TIFF's NewSubfileType: a smaller copy, a mask of transparency
KINDS = "uint8, uint16, and floats from 0 to 1"
# Of a damaged file, a DataError says what tifffile would print as well.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)
AT_ONCE = 2**24  # numbers that are made 8 bits at once


@dataclass(frozen=True)
class Header:
    """The facts that a raster states of itself."""

    height: int  # as it is shown
    width: int
    channels: int
    numbers: np.dtype[Any]
    orientation: int = 1  # of a TIFF, 1..8 as EXIF has it


def is_raster(path: Path, channels: int | None = None) -> bool:
    """Whether a file is read here, and not as a picture of colours. Nothing is said of one that is damaged.

    Args:
        channels: Those that are wanted. Of a TIFF with alpha, four are its own, and three its colours.
    """
    if path.suffix.lower() not in RASTER_ENDINGS:
        return False
    with suppress(Exception), path.open("rb") as file:
        head = file.read(16)
        if head.startswith(NPY):
            return True
        if head[:4] in (*TIFF, *BIG_TIFF):
            return _is_no_picture(file, head, channels)
    return path.suffix.lower() == ".npy"


def header_of(path: Path, most: int | None = None) -> Header:
    """Read what a raster is, and none of its pixels.

    Args:
        most: Pixels that it may have; default: `MAX_PIXELS`.

    Raises DataError, which says what to do, for what is no image of 1 to 16 channels.
    """
    with _opened(path, most) as raster:
        return raster.header


def read_raster(path: Path, most: int | None = None) -> np.ndarray:
    """Read a raster upright, H W C uint8. Raises DataError as `header_of` does, and for numbers that are none
    or beyond 0..1."""
    with _opened(path, most) as raster:
        return np.ascontiguousarray(_upright(_eight_bits(path, raster.pixels()), raster.header.orientation))


def shown(image: np.ndarray) -> np.ndarray:
    """H W C uint8 -> H W 3, for the eye: the first three channels as red, green and blue; of one or two, the
    first as grey."""
    return np.ascontiguousarray(image[..., :3] if image.shape[2] >= COLOUR else image[..., :1].repeat(3, 2))


def said_of_shown(channels: int) -> str:
    """Say which channels are shown, and how: "the channels 1 to 3 of 4 as red, green and blue"."""
    if channels >= COLOUR:
        return f"the channels 1 to 3 of {channels} as red, green and blue"
    return "the one channel as grey" if channels == 1 else "the first of two channels as grey"


class WrongChannels(DataError):
    """An image of another number of channels than the network expects. A process that loads images hands it
    on by its message alone."""

    def __init__(self, message: str, channels: int = 0, expected: int = 0) -> None:
        super().__init__(message)
        self.channels, self.expected = channels, expected

    @classmethod
    def of(cls, what: Path | str, channels: int, expected: int) -> Self:
        """Say it of `what`, with which the message begins."""
        has = f"{channels} channel{'s' * (channels > 1)}"
        return cls(
            f"{what} has {has}, and the network expects {expected}: give images of {expected}, or train a "
            f"network for {channels}, by --set protocol.network.channels={channels}.",
            channels,
            expected,
        )


# Files ------------------------------------------------------------------------------------------------------


class _Npy:
    """An array H W or H W C. Nothing in the file is ever run: an array of Python objects is refused."""

    def __init__(self, path: Path, file: IO[bytes], most: int) -> None:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise DataError(f"{path} is .npy of the version {version}; save it anew by numpy.save.")
        read = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
        self._shape, self._by_columns, numbers = read(file)
        self._path, self._start = path, file.tell()
        form = "x".join(map(str, self._shape)) or "none"
        if numbers.hasobject:
            raise DataError(
                f"{path} holds Python objects, which are not read, since they may be programs; save an array "
                f"of numbers: {KINDS}."
            )
        if len(self._shape) not in (2, 3) or 0 in self._shape:
            raise DataError(
                f"{path} is an array of the shape {form}; an image is height x width x channels, or height x "
                "width."
            )
        height, width, channels = (*self._shape, 1)[:3]
        if channels > MOST:
            raise DataError(
                f"{path} is an array of the shape {form}, so it has {channels} channels, and an image has 1 "
                f"to {MOST}: leave some out, or, where the channels come first, put them last."
            )
        _refuse_numbers(path, numbers)
        _refuse_large(path, height, width, most)
        self.header = Header(height, width, channels, numbers)
        if path.stat().st_size < self._start + math.prod(self._shape) * numbers.itemsize:
            raise DataError(f"{path} is cut short: it is smaller than its {form} numbers; fetch it again.")

    def pixels(self) -> np.ndarray:
        order: Any = "F" if self._by_columns else "C"
        found = np.memmap(self._path, self.header.numbers, "r", self._start, self._shape, order)
        return found.reshape(found.shape[0], found.shape[1], -1)


class _Tiff:
    """One page of many samples, or many pages of one. Smaller copies and masks among the pages are passed
    over."""

    def __init__(self, path: Path, file: IO[bytes], most: int) -> None:
        import tifffile

        self._path, pages = path, tifffile.TiffFile(file).pages
        kept: list[Any] = [page for page in pages if not _subfile(page) & (REDUCED | MASK)]
        if not kept:
            raise DataError(f"{path} holds no picture of full size; save it anew.")
        first = kept[0]
        samples = first.samplesperpixel
        if len(kept) > 1 and samples > 1:
            raise DataError(
                f"{path} holds {len(kept)} pictures; save the one that is meant as a file of its own, or "
                "pages of one channel each."
            )
        if len(kept) * samples > MOST:
            what = f"{len(kept)} pages" if len(kept) > 1 else f"{samples} channels"
            raise DataError(f"{path} has {what}, and an image has 1 to {MOST} channels; leave some out.")
        if any((page.shape, page.dtype) != (first.shape, first.dtype) for page in kept):
            raise DataError(f"{path} holds pages of several sizes or kinds, so they are no channels.")
        if first.photometric not in (BLACK_IS_ZERO, RGB):
            name = getattr(first.photometric, "name", first.photometric)
            raise DataError(f"{path} stores its channels as {name}; save them so that 0 is black.")
        if first.dtype is None or first.bitspersample != 8 * first.dtype.itemsize:
            raise DataError(f"{path} has {first.bitspersample} bits a channel; what is read: {KINDS}.")
        _refuse_numbers(path, first.dtype)
        _refuse_large(path, first.imagelength, first.imagewidth, most)
        if any(map(_has_gaps, kept)):
            raise DataError(f"{path} lacks some of its strips or tiles; fetch it again, or write them all.")
        tag = first.tags.get("Orientation")
        orientation = int(tag.value) if tag is not None and 1 <= int(tag.value) <= 8 else 1
        height, width = first.imagelength, first.imagewidth
        if orientation > 4:
            height, width = width, height
        self._pages = kept
        self.header = Header(height, width, len(kept) * samples, first.dtype, orientation)

    def pixels(self) -> np.ndarray:
        try:
            found = [page.asarray().squeeze() for page in self._pages]
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            raise DataError(
                f"{self._path} is compressed by {self._pages[0].compression.name}, which needs the package "
                "imagecodecs; install it, or save the file with deflate or without compression."
            ) from error
        first = self._pages[0]
        size = first.imagelength, first.imagewidth
        if len(found) > 1 or first.samplesperpixel == 1:
            return np.stack([page.reshape(size) for page in found], 2)
        if first.planarconfig == 2:  # one channel after the other
            return found[0].reshape(-1, *size).transpose(1, 2, 0)
        return found[0].reshape(*size, -1)


@contextmanager
def _opened(path: Path, most: int | None) -> Iterator[_Npy | _Tiff]:
    """Open a raster; whatever is wrong with it is a DataError that names it."""
    refuse_no_file(path)
    try:
        with path.open("rb") as file:
            is_npy = file.read(len(NPY)) == NPY or path.suffix.lower() == ".npy"
            file.seek(0)
            yield (_Npy if is_npy else _Tiff)(path, file, MAX_PIXELS if most is None else most)
    except BenchError:
        raise
    except Exception as error:  # of a damaged file, the readers raise nearly anything
        kind = ".npy" if path.suffix.lower() == ".npy" else "TIFF"
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise DataError(f"{path} cannot be decoded as {kind} ({reason}); fetch the file again.") from error


def _is_no_picture(file: IO[bytes], head: bytes, channels: int | None) -> bool:
    tags = directory_of(file, head if head[:4] in BIG_TIFF else head[:8])
    if tags.next or FLOAT in tags.get(TiffImagePlugin.SAMPLEFORMAT, ()):
        return True
    samples = int(tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1))
    if samples == 1:
        return False
    if channels not in (None, COLOUR):
        return True
    form = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, BLACK_IS_ZERO)
    plain = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3}.get(form, samples)
    more = tags.get(TiffImagePlugin.EXTRASAMPLES, ())
    return samples > plain and not (samples == plain + 1 and more and more[0] in ALPHA)


def _subfile(page: Any) -> int:
    tag = page.tags.get("NewSubfileType")
    return int(tag.value) if tag is not None else 0


def _has_gaps(page: Any) -> bool:
    """Whether strips or tiles are not there, which would be read as zeros."""
    return len(page.dataoffsets) < math.prod(page.chunked) or not all(page.databytecounts)


def _refuse_numbers(path: Path, numbers: np.dtype[Any]) -> None:
    if not (numbers.kind == "f" or (numbers.kind == "u" and numbers.itemsize <= 2)):
        raise DataError(
            f"{path} holds numbers of the kind {numbers.name}, which have no agreed black and white; what is "
            f"read: {KINDS}."
        )


def _refuse_large(path: Path, height: int, width: int, most: int) -> None:
    if not 0 < height * width <= most:
        raise DataError(
            f"{path} claims {width}x{height} pixels, more than the {most:,} that are decoded; scale it down "
            "or leave it out."
        )


# Numbers ----------------------------------------------------------------------------------------------------


def _eight_bits(path: Path, pixels: np.ndarray) -> np.ndarray:
    """H W C of any kind that is read -> uint8; some rows at once, since floats take eight times as much."""
    found = np.empty(pixels.shape, np.uint8)
    rows = max(AT_ONCE // (pixels.shape[1] * pixels.shape[2]), 1)
    for top in range(0, len(pixels), rows):
        part = pixels[top : top + rows]
        if part.dtype.kind == "f":
            _refuse_values(path, part)
            part = part * np.float32(255) + np.float32(0.5)
        elif part.dtype.itemsize == 2:
            part = part >> 8
        found[top : top + rows] = part
    return found


def _refuse_values(path: Path, part: np.ndarray) -> None:
    if not np.isfinite(part).all():
        count = int((~np.isfinite(part)).sum())
        raise DataError(
            f"{path} holds {count:,} numbers that are NaN or infinite; write a number from 0 to 1 in their "
            "place."
        )
    low, high = float(part.min()), float(part.max())
    if low < 0 or high > 1:
        raise DataError(
            f"{path} holds floats from {low:.4g} to {high:.4g}, and floats run from 0 to 1; scale all images "
            "alike, say by the largest value that the sensor gives."
        )


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and mirror the rows and columns as an EXIF orientation says."""
    if orientation > 4:
        image = image.swapaxes(0, 1)
    down = orientation in (3, 4, 7, 8)
    across = orientation in (2, 3, 6, 7)
    return image[:: -1 if down else 1, :: -1 if across else 1]


class Raster:
    """A raster that is decoded once and handed out in parts, as `datasets.decode.DecodedImage` does."""

    def __init__(self, path: Path, most: int) -> None:
        self._pixels = read_raster(path, most)
        self.size: tuple[int, int] = self._pixels.shape[0], self._pixels.shape[1]
        self.channels: int = self._pixels.shape[2]

    def part(self, rows: slice, columns: slice) -> np.ndarray:
        """Return some rows and columns, h w C uint8."""
        return np.ascontiguousarray(self._pixels[rows, columns])

    def reduced(self, side: int) -> Image.Image:
        """Make the image, as it is `shown`, smaller by the whole number that leaves at most `side` pixels."""
        factor = -(-max(self.size) // side)
        whole = Image.fromarray(shown(self._pixels))
        return whole.reduce(factor) if factor > 1 else whole
