"""Opens picture files: is it a file, are its check sums right, can it be decoded."""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageFile, UnidentifiedImageError

from bench.errors import BenchError, DataError

MAX_PIXELS = 80_000_000  # below the size at which Pillow itself starts to warn
PNG = b"\x89PNG\r\n\x1a\n"


def refuse_no_file(path: Path) -> None:
    """Raise DataError for what is missing or is no file: a named pipe or a device would never answer."""
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path} does not exist; restore the file or remove it from the lists.") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); make it readable or fetch it again.") from error
    if not regular:
        raise DataError(f"{path} is a folder, a pipe or a device; put the file itself there.")


@contextmanager
def opened(path: Path, formats: tuple[str, ...], most: int | None = None) -> Iterator[ImageFile.ImageFile]:
    """Open a picture of one of some formats, once its check sums are right. Raises DataError.

    Args:
        most: Pixels that it may have; default: `MAX_PIXELS`.
    """
    most = MAX_PIXELS if most is None else most
    refuse_no_file(path)
    kind = " or ".join(formats)
    try:
        with path.open("rb") as file:
            data = file.read(len(PNG))
            if data == PNG:
                data += file.read()
                _check_sums(data)
        # A JPEG has no check sums, and is opened where it lies.
        source = BytesIO(data) if data.startswith(PNG) else path
        with _limit(most), Image.open(source, formats=formats) as picture:
            if not 0 < picture.width * picture.height <= most:
                raise DataError(
                    f"{path} claims {picture.width}x{picture.height} pixels, more than the {most:,} "
                    "that are decoded; scale it down or remove it from the lists."
                )
            yield picture
    except BenchError:
        raise
    except Exception as error:
        # A damaged file makes Pillow raise nearly anything, struct.error and IndexError included.
        unknown = isinstance(error, UnidentifiedImageError)
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
