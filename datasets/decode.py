"""Decodes images and masks. Whatever is wrong with a file ends in a DataError that names it.

A mask is read by its meaning, not by its bytes: datasets.encodings says what a palette may mean.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile

from bench.errors import DataError
from datasets.encodings import ids_of_palette
from datasets.image_forms import FORMATS, eight_bits, is_deep, raw_mode, stores_white_as_zero
from datasets.meaning import ABOUT_FILE, Meaning, Unread, codes_of, counted
from datasets.pictures import opened
from datasets.rasters import COLOUR, Raster, WrongChannels, header_of, is_raster, read_raster

OWN = {"1": 1, "L": 1, "I": 1, "I;16": 1, "I;16B": 1, "LA": 2, "RGB": 3, "RGBA": 4}  # channels, by mode
MASK_FORMATS = ("PNG", "BMP", "TIFF")  # without loss
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
ACROSS = tuple(TURNS[orientation] for orientation in (5, 6, 7, 8))  # height and width change places


def read_image(path: Path, channels: int | None = None) -> np.ndarray:
    """Read an image of one of `FORMATS` or a raster, H W C uint8; a picture as RGB, H W 3.

    Grey, palette and CMYK are converted, alpha is dropped, and of 16 bits a channel the upper 8 are read. The
    image is turned as its EXIF tag says, for people draw masks on what they see. What `datasets.rasters`
    reads has channels of its own.

    Args:
        channels: That it must have; None: as the file has them. Grey, grey with alpha and RGB with alpha are
            read as 1, 2 and 4 channels where these are asked for.

    Raises DataError for a file that is missing, cannot be decoded, fails its check sums, is too large, holds
    several pictures, other numbers of channels than asked for, or numbers of 32 bits.
    """
    if is_raster(path, channels):
        image = read_raster(path)
        if channels not in (None, image.shape[2]):
            raise WrongChannels.of(path, image.shape[2], channels)
        return image
    with opened(path, FORMATS) as picture:
        turn = _turn(picture)
        return bands(path, _turned(eight_bits(path, picture), turn), channels)


def refuse_channels(path: Path, channels: int) -> None:
    """Raise WrongChannels for an image of another number of channels than asked for, by its header alone;
    nothing for what cannot be read, which reading says."""
    if is_raster(path, channels):
        if (found := header_of(path).channels) != channels:
            raise WrongChannels.of(path, found, channels)
    elif channels != COLOUR:
        with opened(path, FORMATS) as picture:
            _refuse_bands(path, picture, channels)


def _refuse_bands(what: Path | str, picture: Image.Image, channels: int | None) -> None:
    if channels not in (None, COLOUR) and OWN.get(picture.mode) != channels:
        raise WrongChannels.of(what, OWN.get(picture.mode, COLOUR), channels or COLOUR)


def bands(what: Path | str, picture: Image.Image, channels: int | None) -> np.ndarray:
    """Return the channels of a picture of 8 bits, H W C uint8. They are RGB where `channels` is three or
    None.

    Raises WrongChannels, which begins with `what`.
    """
    _refuse_bands(what, picture, channels)
    if channels in (None, COLOUR):
        return np.array(picture.convert("RGB"))
    found = np.array(picture.convert("L") if picture.mode == "1" else picture)
    return found.reshape(*found.shape[:2], -1)


class DecodedImage:
    """An image that is decoded once and handed out in parts, as `read_image` gives it: an eighth of the
    memory of its floats, and half of what reading it whole takes.

    Raises DataError as `read_image` does, but for images of up to `LARGEST` pixels.
    """

    def __init__(self, path: Path, channels: int | None = None) -> None:
        with opened(path, FORMATS, LARGEST) as picture:
            self.size = _size(picture)
            self.channels = channels or COLOUR
            self._turn = _turn(picture)
            self._stored, self._path = eight_bits(path, picture), path
            self._stored.load()
        _refuse_bands(path, self._stored, channels)

    def part(self, rows: slice, columns: slice) -> np.ndarray:
        """Return some rows and columns of the image as it is shown, h w C uint8."""
        box = columns.start, rows.start, columns.stop, rows.stop
        part = self._stored.crop(_stored_box(box, self.size, self._turn))
        return bands(self._path, part if self._turn is None else part.transpose(self._turn), self.channels)

    def reduced(self, side: int) -> Image.Image:
        """Make the image smaller by the whole number that leaves at most `side` pixels for its longer side. A
        number that is not whole would take as much memory as half of the image."""
        factor = -(-max(self.size) // side)
        small = self._stored
        if factor > 1:
            small = small.convert("RGB") if small.mode in ("1", "P") else small
            small = small.reduce(factor)
        small = small.convert("RGB")  # a copy, also of what is RGB
        return small if self._turn is None else small.transpose(self._turn)


def open_image(path: Path, channels: int) -> DecodedImage | Raster:
    """Decode an image of up to `LARGEST` pixels, to be handed out in parts. Raises as `read_image` does."""
    if not is_raster(path, channels):
        return DecodedImage(path, channels)
    raster = Raster(path, LARGEST)
    if raster.channels != channels:
        raise WrongChannels.of(path, raster.channels, channels)
    return raster


def image_size(path: Path, most: int | None = None) -> tuple[int, int]:
    """Read height and width of an image as `read_image` gives it, e.g. (375, 500), without decoding it.

    Raises DataError as `read_image` does.
    """
    if is_raster(path):
        header = header_of(path, most)
        return header.height, header.width
    with opened(path, FORMATS, most) as picture:
        return _size(picture)


def is_turned(path: Path) -> bool:
    """Whether an EXIF tag says that a picture is to be shown turned or mirrored."""
    if is_raster(path):
        return header_of(path).orientation > 1
    with opened(path, FORMATS) as picture:
        return _orientation(picture) > 1


def read_mask(
    path: Path,
    size: tuple[int, int] | None,
    classes: int,
    mapping: np.ndarray | None = None,
    palette: np.ndarray | None = None,
    most: int | None = None,
    meaning: Meaning | None = None,
) -> np.ndarray:
    """Read the class ids of a mask, H W uint8, each below `classes` or 255 (no label).

    A mask of greys gives their values. A palette mask gives its indices where the palette allows it, see
    `datasets.encodings.ids_of_palette`. `meaning` says what these numbers mean, or that colours count. The
    mask is turned where it has an EXIF tag of its own.

    Args:
        size: Height and width of the image; None where the caller compares the two.
        mapping: 256 uint8 entries, which translate the stored ids before they are checked.
        palette: C 3 uint8, the colours that the data set defines for its classes.
        most: Pixels of a mask that is decoded.

    Raises DataError for a file that is missing, cannot be decoded or fails its check sums, another size;
    Unread for a colour mask, a palette whose indices are no ids, an unknown id.
    """
    by_colour = meaning is not None and meaning.colours is not None
    with opened(path, MASK_FORMATS, most) as picture:
        _refuse_lossy(path, picture)
        if not by_colour:
            _refuse_no_numbers(path, picture, meaning)
        # Pillow stretches 2 and 4 bit grey to 0..255, which turns id 1 into 85 or 17.
        stretch = {"L;2": 85, "L;4": 17}.get(raw_mode(picture), 1)
        entries = picture.getpalette("RGB") if picture.mode == "P" else None
        shown = _colours_of(path, picture) if by_colour else picture
        upright = _turned(shown, _turn(picture))
        if size is not None and (upright.height, upright.width) != size:
            raise DataError(_of_another_size(path, (upright.height, upright.width), size))
        if by_colour and meaning is not None:
            return meaning.bordered(meaning.of_colours(path, np.asarray(upright)))
        ids: np.ndarray = np.array(upright, np.int32 if picture.mode.startswith("I") else np.uint8)
    if stretch > 1:
        ids //= stretch
    plain = meaning or Meaning(None, classes)
    if entries is not None:
        table = np.array(entries, np.uint8).reshape(-1, 3)
        if (meant := ids_of_palette(path, table, ids, classes, palette, plain.known)) is not None:
            ids = meant[ids]
    if mapping is not None and ids.min() >= 0 and ids.max() < len(mapping):
        ids = mapping[ids]
    return plain.bordered(plain.of_numbers(path, ids))


def colours_in(path: Path) -> dict[int, int]:
    """Count the pixels of each colour that a mask shows. Colours are numbers, as `datasets.meaning.codes_of`
    has them: {16711680: 240} is 240 red pixels. Raises DataError as `read_mask` does."""
    with opened(path, MASK_FORMATS) as picture:
        _refuse_lossy(path, picture)
        return counted(codes_of(np.asarray(_colours_of(path, picture))))


def _refuse_lossy(path: Path, mask: ImageFile.ImageFile) -> None:
    if mask.info.get("compression") in ("jpeg", "tiff_jpeg", "webp"):
        raise DataError(
            f"{path} is compressed with loss, which changes class ids; write the mask as .png from the "
            f"tool that "
            "made it."
        )


def _refuse_no_numbers(path: Path, mask: ImageFile.ImageFile, meaning: Meaning | None) -> None:
    """Raise DataError unless the stored numbers of a mask can be its class ids."""
    if mask.mode in ("F", "LAB", "CMYK", "YCbCr"):
        raise DataError(
            f"{path} holds pixels of the kind {mask.mode}, which are no class ids; save it as grey PNG."
        )
    if mask.mode not in ("1", "L", "P", "I", "I;16", "I;16B"):
        instead = "translate the colours to ids first."
        if meaning is not None:
            instead = (
                f"say in {ABOUT_FILE} which class each colour means, under colours (`data verify` gives "
                f"the lines)."
            )
        raise Unread(
            f"{path} is a colour mask (mode {mask.mode}); a mask is a picture of one channel whose values "
            f"are class "
            f"ids: {instead}",
            "colours",
        )
    whole = raw_mode(mask).partition(";")[2] in (
        "",
        "16",
        "16B",
        "16L",
        "16N",
        "16S",
        "32",
        "32S",
        "32N",
        "32B",
    )
    if mask.format != "PNG" and (mask.mode in ("1", "P") or not whole or stores_white_as_zero(mask)):
        raise Unread(
            f"{path} stores its numbers as {raw_mode(mask)}, which may be shades, colours or class ids; "
            f"save it as "
            f"8-bit grey PNG, or translate its colours.",
            "palette",
        )


def _colours_of(path: Path, mask: ImageFile.ImageFile) -> Image.Image:
    """Return a mask as the eye sees it, in RGB. Raises DataError where colours are cut or hidden."""
    if is_deep(mask):
        raise DataError(f"{path} has 16 bits a channel, and colours of masks have 8; save it with 8.")
    shown = eight_bits(path, mask)
    if shown.mode in ("LA", "PA", "RGBA", "La", "RGBa"):
        hidden = sum(shown.getchannel(shown.getbands()[-1]).histogram()[:255])
        if hidden:
            raise DataError(
                f"{path} is transparent in {hidden:,} pixels, whose colour nobody sees; save it without "
                f"transparency."
            )
    return shown.convert("RGB")


def _of_another_size(path: Path, mask: tuple[int, int], image: tuple[int, int]) -> str:
    said = f"{path} is {mask[1]}x{mask[0]} but its image is {image[1]}x{image[0]} pixels; "
    if mask == image[::-1]:
        return (
            f"{said}if an EXIF tag turns the image, the mask lies on the image as it is stored: turn the "
            "mask, or remove the tag."
        )
    return f"{said}it must have its image's size."


def _size(picture: ImageFile.ImageFile) -> tuple[int, int]:
    """Height and width as it is shown."""
    turned = (_turn(picture) or 0) in ACROSS
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
    if turn in ACROSS:
        return top, left, bottom, right
    return left, top, right, bottom


def _orientation(picture: ImageFile.ImageFile) -> int:
    """Read the EXIF orientation, 1..8. 1 means as stored; from 5 on height and width change places."""
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


def _turn(picture: ImageFile.ImageFile) -> Image.Transpose | None:
    """Return how to turn the decoded picture to show it upright, or None. Pillow turns a TIFF itself as it
    decodes it."""
    # Not by ImageOps.exif_transpose, which writes the tags anew and fails on odd ones.
    return None if picture.format == "TIFF" else TURNS.get(_orientation(picture))


def _turned(picture: Image.Image, turn: Image.Transpose | None) -> Image.Image:
    return picture if turn is None else picture.transpose(turn)
