"""Decodes images and masks. Whatever is wrong with a file ends in a DataError that names it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from bench.contract import IGNORE
from bench.errors import BenchError, DataError

MAX_PIXELS = 80_000_000  # below the size at which Pillow itself starts to warn


def read_image(path: Path) -> np.ndarray:
    """Read a JPEG or PNG as RGB, H W 3 uint8; grey, palette, CMYK and alpha pictures are converted.

    An EXIF orientation tag is not applied: masks are drawn on the stored pixels and carry no such tag, so an
    image that was turned on reading would no longer lie under its mask.

    Raises DataError for a file that is missing, cannot be decoded, is too large or has more than 8 bits a
    channel.
    """
    with _opened(path, ("JPEG", "PNG")) as picture:
        if picture.mode.startswith(("I", "F")):
            raise DataError(f"{path} has more than 8 bits a channel; convert the image to 8 bits.")
        return np.array(picture.convert("RGB"))


def image_size(path: Path) -> tuple[int, int]:
    """Read height and width of a JPEG or PNG from its header, e.g. (375, 500).

    Raises DataError as `read_image` does.
    """
    with _opened(path, ("JPEG", "PNG")) as picture:
        return picture.height, picture.width


def read_mask(
    path: Path, size: tuple[int, int] | None, classes: int, mapping: np.ndarray | None = None
) -> np.ndarray:
    """Read the class ids of a PNG mask, H W uint8, each below `classes` or 255 (no label).

    A palette mask gives its indices, never its colours. `size` is the height and width of the image,
    None where the caller compares the two.
    `mapping`, 256 uint8 entries, translates the stored ids before they are checked.

    Raises DataError for a file that is missing or cannot be decoded, a colour mask, another size, an unknown
    id.
    """
    with _opened(path, ("PNG",)) as picture:
        if size is not None and (picture.height, picture.width) != size:
            raise DataError(
                f"{path} is {picture.width}x{picture.height} but its image is {size[1]}x{size[0]} pixels; "
                "a mask must have its image's size."
            )
        if picture.mode not in ("1", "L", "P", "I", "I;16"):
            raise DataError(
                f"{path} is a colour mask (mode {picture.mode}); a mask is a PNG of one channel whose values "
                "are class ids: translate the colours to ids first."
            )
        # Pillow stretches 2 and 4 bit grey to 0..255, which turns id 1 into 85 or 17.
        stretch = {"L;2": 85, "L;4": 17}.get(str(picture.tile[0][3]) if picture.tile else "", 1)
        ids: np.ndarray = np.array(picture, np.int32 if picture.mode.startswith("I") else np.uint8)
    if stretch > 1:
        ids //= stretch
    if mapping is not None and ids.min() >= 0 and ids.max() < len(mapping):
        ids = mapping[ids]
    unknown = np.unique(ids[((ids < 0) | (ids >= classes)) & (ids != IGNORE)])
    if len(unknown):
        found = ", ".join(map(str, unknown[:10])) + (", ..." if len(unknown) > 10 else "")
        raise DataError(
            f"{path} holds the ids {found}, but there are {classes} classes (0..{classes - 1}, and {IGNORE} "
            "for no label); correct the mask or the list of classes."
        )
    return ids.astype(np.uint8)


def colours(classes: int) -> np.ndarray:
    """Give the VOC colour map, C 3 uint8: distinct colours, the same in every run; class 0 is black."""
    ids = np.arange(classes)
    table = np.zeros((classes, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            table[:, channel] |= ((ids >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return table


@contextmanager
def _opened(path: Path, formats: tuple[str, ...]) -> Iterator[ImageFile.ImageFile]:
    kind = " or ".join(formats)
    try:
        with Image.open(path, formats=formats) as picture:
            if not 0 < picture.width * picture.height <= MAX_PIXELS:
                raise DataError(
                    f"{path} claims {picture.width}x{picture.height} pixels, more than the {MAX_PIXELS:,} "
                    "that are decoded; scale it down or remove it from the lists."
                )
            yield picture
    except BenchError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path} does not exist; restore the file or remove it from the lists.") from None
    except Exception as error:
        # A damaged file makes Pillow raise nearly anything, struct.error and IndexError included.
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "empty or of another format" if unknown else str(error) or type(error).__name__
        raise DataError(f"{path} cannot be decoded as {kind} ({reason}); fetch the file again.") from error
