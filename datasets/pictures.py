"""Opens picture files: is it a file, is it whole, can it be decoded."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO

from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from bench.errors import BenchError, DataError, refuse_no_file
from datasets.png import PNG, check_sums, refuse_missing_rows

MAX_PIXELS = 80_000_000  # below the size at which Pillow itself starts to warn
TIFF = (b"II*\0", b"MM\0*")  # by the order of its bytes
SEPARATE = 2  # TIFF's PlanarConfiguration: one channel after the other
SEVERAL = ("PNG", "TIFF", "WEBP")  # hold pages or films; a JPEG's second picture is a preview of the first
# Pillow warns of damaged tags, on the terminal of people who are told by a DataError, or need not know.
warnings.filterwarnings("ignore", module=r"PIL\.TiffImagePlugin")


@contextmanager
def opened(path: Path, formats: tuple[str, ...], most: int | None = None) -> Iterator[ImageFile.ImageFile]:
    """Open a picture of one of some formats, once its check sums are right. Raises DataError.

    Args:
        most: Pixels that it may have; default: `MAX_PIXELS`.
    """
    most = MAX_PIXELS if most is None else most
    refuse_no_file(path)
    kind = " or ".join([", ".join(formats[:-1])] * (len(formats) > 1) + [formats[-1]])
    try:
        with path.open("rb") as file:
            data = file.read(len(PNG))
            if data == PNG:
                data += file.read()
                check_sums(data)
            file.seek(0)
            # Other files have no check sums, and are read where they lie. Not by their path: Pillow maps
            # some TIFF into memory then, and scrambles those that are turned.
            source = BytesIO(data) if data.startswith(PNG) else file
            with _limit(most), Image.open(source, formats=formats) as picture:
                if not 0 < picture.width * picture.height <= most:
                    raise DataError(
                        f"{path} claims {picture.width}x{picture.height} pixels, more than the {most:,} "
                        "that are decoded; scale it down or leave it out."
                    )
                _refuse_several(path, picture)
                if isinstance(picture, TiffImagePlugin.TiffImageFile):
                    _refuse_gaps(picture)
                yield picture
                if picture.format == "PNG" and not picture.tile:  # it has been decoded
                    refuse_missing_rows(data, picture)
    except BenchError:
        raise
    except Exception as error:
        # A damaged file makes Pillow raise nearly anything, struct.error and IndexError included.
        unknown = isinstance(error, UnidentifiedImageError)
        if unknown and "TIFF" in formats:
            _refuse_unknown_tiff(path)
        reason = "empty or of another format" if unknown else str(error) or type(error).__name__
        raise DataError(f"{path} cannot be decoded as {kind} ({reason}); fetch the file again.") from error


@contextmanager
def _limit(most: int) -> Iterator[None]:
    """Let Pillow open what it takes for an attack, where more pixels than that are allowed."""
    before = Image.MAX_IMAGE_PIXELS
    if most > MAX_PIXELS:
        Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _refuse_several(path: Path, picture: ImageFile.ImageFile) -> None:
    count = getattr(picture, "n_frames", 1) if picture.format in SEVERAL else 1
    if count > 1:
        raise DataError(f"{path} holds {count} pictures; save the one that is meant as a file of its own.")


def _refuse_gaps(picture: TiffImagePlugin.TiffImageFile) -> None:
    """Raise ValueError where the strips or tiles of a TIFF do not cover it: Pillow leaves zeros there."""
    planes = (
        len(picture.getbands()) if picture.tag_v2.get(TiffImagePlugin.PLANAR_CONFIGURATION) == SEPARATE else 1
    )
    boxes = [extents for _, extents, *_ in picture.tile if extents is not None]
    covered = sum((right - left) * (bottom - top) for left, top, right, bottom in boxes)
    compressed = any(decoder == "libtiff" for decoder, *_ in picture.tile)  # which refuses gaps itself
    if not compressed and covered < planes * picture.width * picture.height:
        raise ValueError(
            f"it holds fewer pixels than {picture.width}x{picture.height}: the file is cut short"
        )


def of_channels(path: Path, channels: int) -> str:
    return (
        f"{path} has {channels} channels; an image has 1 (grey), 3 (red, green, blue), or one more for "
        f"alpha: "
        "save three of them as an RGB image."
    )


def _refuse_unknown_tiff(path: Path) -> None:
    """Raise DataError for a TIFF that Pillow does not know, which says the channels and bits or that it is
    damaged; nothing for any other file."""
    try:
        with path.open("rb") as file:
            header = file.read(8)
            if header[:4] not in TIFF:
                return
            tags = directory_of(file, header)
        channels = int(tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1))
        bits = tuple(tags[TiffImagePlugin.BITSPERSAMPLE])
        kind = int(next(iter(tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,)))))
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        raise DataError(f"{path} is a damaged TIFF, most likely cut short; fetch the file again.") from error
    if channels not in (1, 3, 4):
        raise DataError(of_channels(path, channels))
    form = {2: "signed", 3: "floating"}.get(kind, "whole")
    raise DataError(
        f"{path} is a TIFF of {channels} channels of {max(bits)} bits ({form} numbers), which is not read; "
        f"save it "
        "as RGB or grey of 8 or 16 bits."
    )


def directory_of(file: IO[bytes], header: bytes) -> TiffImagePlugin.ImageFileDirectory_v2:
    """Read the tags of the first picture of a TIFF. Raises ValueError where the file ends within them."""
    tags = TiffImagePlugin.ImageFileDirectory_v2(header)
    start = tags.next
    file.seek(start)
    tags.load(file)
    if tags.next == start:  # Pillow goes on to the next directory once it has read all of one
        raise ValueError("the file ends within its tags")
    return tags
