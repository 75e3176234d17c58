"""Opens picture files: is it a file, are its check sums right, can it be decoded."""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from bench.errors import BenchError, DataError

MAX_PIXELS = 80_000_000  # below the size at which Pillow itself starts to warn
PNG = b"\x89PNG\r\n\x1a\n"
TIFF = (b"II*\0", b"MM\0*")  # by the order of its bytes
SEVERAL = ("PNG", "TIFF", "WEBP")  # hold pages or films; a JPEG's second picture is a preview of the first


def refuse_no_file(path: Path) -> None:
    """Raise DataError for what is missing or is no file: a named pipe or a device would never answer."""
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path} does not exist; restore the file or leave it out.") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); make it readable or fetch it again.") from error
    if not regular:
        raise DataError(f"{path} is no plain file (a folder, a pipe or a device); put the file itself there.")


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
                _check_sums(data)
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
                yield picture
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


def _check_sums(data: bytes) -> None:
    """Raise ValueError unless the check sum of every chunk of a PNG is right. Pillow passes over those of the
    pixels, so that a flipped bit would be read as other labels."""
    place = len(PNG)
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        end = place + 8 + length
        if end + 4 > len(data):
            break
        if zlib.crc32(memoryview(data)[place + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise ValueError("a check sum is wrong: the file is damaged")
        if data[place + 4 : place + 8] == b"IEND":
            return
        place = end + 4
    raise ValueError("the file is cut short")


def _refuse_several(path: Path, picture: ImageFile.ImageFile) -> None:
    count = getattr(picture, "n_frames", 1) if picture.format in SEVERAL else 1
    if count > 1:
        raise DataError(f"{path} holds {count} pictures; save the one that is meant as a file of its own.")


def of_channels(path: Path, channels: int) -> str:
    return (
        f"{path} has {channels} channels; an image has 1 (grey), 3 (red, green, blue), or one more for "
        f"alpha: "
        "save three of them as an RGB image."
    )


def _refuse_unknown_tiff(path: Path) -> None:
    """Raise DataError, which says the channels and bits, for a TIFF that Pillow does not know; nothing for
    any other file."""
    try:
        with path.open("rb") as file:
            header = file.read(8)
            if header[:4] not in TIFF:
                return
            tags = TiffImagePlugin.ImageFileDirectory_v2(header)
            file.seek(tags.next)
            tags.load(file)
        channels = int(tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1))
        bits = tuple(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
        kind = int(next(iter(tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,)))))
    except Exception:  # damaged: whoever opens it says so
        return
    if channels not in (1, 3, 4):
        raise DataError(of_channels(path, channels))
    form = {2: "signed", 3: "floating"}.get(kind, "whole")
    raise DataError(
        f"{path} is a TIFF of {channels} channels of {max(bits)} bits ({form} numbers), which is not read; "
        f"save it "
        "as RGB or grey of 8 or 16 bits."
    )
