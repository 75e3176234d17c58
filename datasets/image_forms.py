"""How an image is stored: which forms become RGB of 8 bits and how, and which are refused by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin

from bench.errors import DataError
from datasets.pictures import of_channels, opened
from datasets.rasters import header_of, is_raster, read_raster

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".npy")
# Of 8 bits, in Pillow's words.
MODES = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr"}
WHITE_IS_ZERO = 0  # TIFF's PhotometricInterpretation
RULE_16 = "of 16 bits a channel the upper 8 are read, so that 65535 becomes 255 and 4095 becomes 15"
DARK = 16  # a 16-bit image whose brightest value stays below, after the rule, holds 12 bits or fewer


@dataclass(frozen=True)
class Form:
    """The traits of a stored image that are not plain."""

    deep: bool  # 16 bits a channel
    cmyk: bool
    alpha: bool  # it has a channel or an entry of transparency
    floats: bool = False


def form_of(path: Path) -> Form:
    """Read the form of an image from its header. Raises DataError as `datasets.decode.read_image` does."""
    if is_raster(path):
        numbers = header_of(path).numbers
        return Form(numbers.kind == "u" and numbers.itemsize == 2, False, False, numbers.kind == "f")
    with opened(path, FORMATS) as picture:
        alpha = "a" in picture.mode.lower() or "transparency" in picture.info
        return Form(is_deep(picture), picture.mode == "CMYK", alpha)


def is_transparent(path: Path) -> bool:
    """Whether a pixel of an image with alpha is not fully opaque. Decodes it."""
    with opened(path, FORMATS) as picture:
        # Premultiplied alpha ("La", "RGBa") is its last channel as well.
        shown = picture if picture.mode.endswith("a") else picture.convert("RGBA")
        return sum(shown.getchannel(shown.getbands()[-1]).histogram()[:255]) > 0


def is_dark(path: Path) -> bool:
    """Whether the brightest value of an image, as it is read, is below `DARK`. Decodes it."""
    if is_raster(path):
        return bool(read_raster(path).max() < DARK)
    with opened(path, FORMATS) as picture:
        return bool(np.asarray(eight_bits(path, picture).convert("RGB")).max() < DARK)


def eight_bits(path: Path, picture: ImageFile.ImageFile) -> Image.Image:
    """Give an image in one of `MODES`. Grey of 16 bits becomes 8 by `RULE_16`, which Pillow follows in
    colours.

    Raises DataError, which says what to do, for all that would lose a channel or its meaning.
    """
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        _refuse_channels(path, picture)
    if is_deep(picture) and picture.mode.startswith("I"):
        return Image.fromarray((np.asarray(picture).astype(np.uint16) >> 8).astype(np.uint8))
    if picture.mode not in MODES:
        raise DataError(
            f"{path} holds pixels of the kind {picture.mode} ({raw_mode(picture)}), which have no agreed "
            "black and white; save the image as RGB or grey of 8 or 16 bits."
        )
    return picture


def is_deep(picture: Image.Image) -> bool:
    """Whether it has 16 bits a channel. Pillow cuts colours to 8 without a word; only the raw mode tells."""
    raw = raw_mode(picture)
    return ";16" in raw and ";16S" not in raw


def raw_mode(picture: Image.Image) -> str:
    """How the pixels are stored, for example "RGB;16B" or "L;2"; "" of an image that is no open file."""
    args = picture.tile[0][3] if isinstance(picture, ImageFile.ImageFile) and picture.tile else ""
    return str(args if isinstance(args, str) or not args else args[0])


def stores_white_as_zero(picture: ImageFile.ImageFile) -> bool:
    """Whether the numbers of a TIFF run from white to black."""
    if not isinstance(picture, TiffImagePlugin.TiffImageFile):
        return False
    return bool(picture.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 1) == WHITE_IS_ZERO)


def _refuse_channels(path: Path, picture: TiffImagePlugin.TiffImageFile) -> None:
    channels, kept = picture.tag_v2.get(TiffImagePlugin.SAMPLESPERPIXEL, 1), len(picture.getbands())
    if channels > kept:
        raise DataError(of_channels(path, channels))
    if is_deep(picture) and stores_white_as_zero(picture):
        raise DataError(f"{path} is grey of 16 bits whose 0 is white; save it so that 0 is black.")
