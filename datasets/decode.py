"""Decodes images and masks. Whatever is wrong with a file ends in a DataError that names it.

A mask is read by its meaning, not by its bytes: datasets.encodings says what a palette may mean.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile

from bench.contract import IGNORE
from bench.errors import DataError
from datasets.encodings import ids_of_palette
from datasets.pictures import opened

FORMATS = ("JPEG", "PNG")  # of images
LARGEST = 1_000_000_000  # pixels of an image that is predicted in parts
TURNS = {  # by the EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(path: Path) -> np.ndarray:
    """Read a JPEG or PNG as RGB, H W 3 uint8. Grey, palette and CMYK are converted, alpha is dropped.

    The image is turned as its EXIF tag says, for people draw masks on what they see.

    Raises DataError for a file that is missing, cannot be decoded, fails its check sums, is too large or has
    more than 8 bits a channel.
    """
    with opened(path, FORMATS) as picture:
        _refuse_deep(path, picture)
        return np.array(_upright(picture).convert("RGB"))


class Picture:
    """An image that is decoded once and handed out in parts, as `read_image` gives it: an eighth of the
    memory of its floats, and half of what reading it whole takes.

    Raises DataError as `read_image` does, but for images of up to `LARGEST` pixels.
    """

    def __init__(self, path: Path) -> None:
        with opened(path, FORMATS, LARGEST) as picture:
            _refuse_deep(path, picture)
            self._turn = TURNS.get(_orientation(picture))
            picture.load()
        self._stored: Image.Image = picture
        self.size = _size(picture)

    def part(self, rows: slice, columns: slice) -> np.ndarray:
        """Some rows and columns of the image as it is shown, h w 3 uint8."""
        box = columns.start, rows.start, columns.stop, rows.stop
        part = self._stored.crop(_stored_box(box, self.size, self._turn)).convert("RGB")
        return np.array(part if self._turn is None else part.transpose(self._turn))

    def reduced(self, side: int) -> np.ndarray:
        """The image with `side` pixels for its longer side, or as it is where it is smaller."""
        factor = min(side / max(self.size), 1)
        height, width = (max(round(length * factor), 1) for length in self._stored.size[::-1])
        small = self._stored
        if factor < 1:
            small = small.convert("RGB") if small.mode in ("1", "P") else small
            small = small.resize((width, height), Image.Resampling.BOX)
        small = small.convert("RGB")
        return np.asarray(small if self._turn is None else small.transpose(self._turn))


def image_size(path: Path, most: int | None = None) -> tuple[int, int]:
    """Read height and width of a JPEG or PNG as `read_image` gives it, e.g. (375, 500), without decoding it.

    Raises DataError as `read_image` does.
    """
    with opened(path, FORMATS, most) as picture:
        return _size(picture)


def is_turned(path: Path) -> bool:
    """Whether an EXIF tag says that a JPEG or PNG is to be shown turned or mirrored."""
    with opened(path, FORMATS) as picture:
        return _orientation(picture) > 1


def read_mask(
    path: Path,
    size: tuple[int, int] | None,
    classes: int,
    mapping: np.ndarray | None = None,
    palette: np.ndarray | None = None,
    most: int | None = None,
) -> np.ndarray:
    """Read the class ids of a PNG mask, H W uint8, each below `classes` or 255 (no label).

    A mask of greys gives their values. A palette mask gives its indices where the palette allows it, see
    `datasets.encodings.ids_of_palette`. It is turned where it has an EXIF tag of its own.

    Args:
        size: Height and width of the image; None where the caller compares the two.
        mapping: 256 uint8 entries, which translate the stored ids before they are checked.
        palette: C 3 uint8, the colours that the data set defines for its classes.
        most: Pixels of a mask that is decoded.

    Raises DataError for a file that is missing, cannot be decoded or fails its check sums, a colour mask,
    a palette whose indices are no ids, another size, an unknown id.
    """
    with opened(path, ("PNG",), most) as picture:
        if picture.mode not in ("1", "L", "P", "I", "I;16"):
            raise DataError(
                f"{path} is a colour mask (mode {picture.mode}); a mask is a PNG of one channel whose values "
                "are class ids: translate the colours to ids first."
            )
        # Pillow stretches 2 and 4 bit grey to 0..255, which turns id 1 into 85 or 17.
        stretch = {"L;2": 85, "L;4": 17}.get(_raw_mode(picture), 1)
        entries = picture.getpalette("RGB") if picture.mode == "P" else None
        upright = _upright(picture)
        if size is not None and (upright.height, upright.width) != size:
            raise DataError(_of_another_size(path, (upright.height, upright.width), size))
        ids: np.ndarray = np.array(upright, np.int32 if picture.mode.startswith("I") else np.uint8)
    if stretch > 1:
        ids //= stretch
    if entries is not None:
        shown = np.array(entries, np.uint8).reshape(-1, 3)
        if (meant := ids_of_palette(path, shown, ids, classes, palette)) is not None:
            ids = meant[ids]
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


def _of_another_size(path: Path, mask: tuple[int, int], image: tuple[int, int]) -> str:
    said = f"{path} is {mask[1]}x{mask[0]} but its image is {image[1]}x{image[0]} pixels; "
    if mask == image[::-1]:
        return (
            f"{said}if an EXIF tag turns the image, the mask lies on the image as it is stored: turn the "
            "mask, or remove the tag."
        )
    return f"{said}a mask must have its image's size."


def _refuse_deep(path: Path, picture: ImageFile.ImageFile) -> None:
    # Pillow cuts colours of 16 bits to 8 without a word; only the raw mode tells.
    if picture.mode.startswith(("I", "F")) or ";16" in _raw_mode(picture):
        raise DataError(f"{path} has more than 8 bits a channel; convert the image to 8 bits.")


def _size(picture: ImageFile.ImageFile) -> tuple[int, int]:
    """Height and width as it is shown."""
    turned = _orientation(picture) >= 5
    return (picture.width, picture.height) if turned else (picture.height, picture.width)


def _stored_box(
    box: tuple[int, int, int, int], size: tuple[int, int], turn: Image.Transpose | None
) -> tuple[int, int, int, int]:
    """Where a box (left, top, right, bottom) of the image as it is shown lies in the image as it is stored.

    Args:
        size: Height and width as it is shown.
        turn: What is done to the stored image to show it.
    """
    left, top, right, bottom = box
    height, width = size
    if turn in (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180):
        left, right = width - right, width - left
    if turn in (Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.ROTATE_180):
        top, bottom = height - bottom, height - top
    if turn in (Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE):  # shown columns run against rows
        left, right = width - right, width - left
    if turn in (Image.Transpose.ROTATE_90, Image.Transpose.TRANSVERSE):
        top, bottom = height - bottom, height - top
    across = (Image.Transpose.TRANSPOSE, Image.Transpose.TRANSVERSE)
    if turn in (*across, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270):
        return top, left, bottom, right
    return left, top, right, bottom


def _raw_mode(picture: ImageFile.ImageFile) -> str:
    """How the pixels are stored, for example "RGB;16B" or "L;2"."""
    return str(picture.tile[0][3]) if picture.tile else ""


def _orientation(picture: ImageFile.ImageFile) -> int:
    """The EXIF orientation 1..8; 1: as stored, from 5 on height and width change places."""
    # A tag may stand behind the pixels of a PNG; its own getexif decodes them to find it.
    if picture.format == "PNG" and not _tag_is_behind(picture):
        exif = Image.Image.getexif(picture)
    else:
        exif = picture.getexif()
    found = exif.get(ExifTags.Base.Orientation, 1)
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _tag_is_behind(picture: ImageFile.ImageFile) -> bool:
    file = picture.fp
    return isinstance(file, BytesIO) and b"eXIf" in file.getvalue() and "exif" not in picture.info


def _upright(picture: ImageFile.ImageFile) -> Image.Image:
    # Not by ImageOps.exif_transpose, which writes the tags anew and fails on odd ones.
    turn = TURNS.get(_orientation(picture))
    return picture if turn is None else picture.transpose(turn)
