"""Whether a PNG is whole: the check sums of its chunks, and as many pixels as it claims. Pillow passes over
both."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from PIL import Image

PNG = b"\x89PNG\r\n\x1a\n"
CUT = "the file is cut short"
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a pixel, by the type of colours
WHOLE = ((0, 0, 1, 1),)  # first column and row of a pass, and its steps between columns and rows
ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
AT_ONCE = 2**18  # bytes


class _Chunk(NamedTuple):
    name: bytes
    content: memoryview
    checked: memoryview  # name and content
    check_sum: int


def check_sums(data: bytes) -> None:
    """Raise ValueError unless the check sum of every chunk of a PNG is right: a flipped bit would be read as
    other labels."""
    for chunk in _chunks(data):
        if zlib.crc32(chunk.checked) != chunk.check_sum:
            raise ValueError("a check sum is wrong: the file is damaged")


def refuse_missing_rows(data: bytes, picture: Image.Image) -> None:
    """Raise ValueError where a PNG, which has been decoded, holds fewer pixels than it claims: the others are
    zeros, as a mask's class 0 is."""
    header = next(_chunks(data)).content
    width, height, bits, kind, _, _, interlaced = struct.unpack_from(">IIBBBBB", header)
    # Rows are decoded from the top, so a last one that is not zero was there. To inflate again takes a third
    # of the time of decoding.
    if not interlaced and any(picture.crop((0, height - 1, width, height)).tobytes()):
        return
    claimed = _length(width, height, bits * SAMPLES[kind], ADAM7 if interlaced else WHOLE)
    if _holds_less(data, claimed):
        raise ValueError(f"it holds fewer pixels than {width}x{height}: {CUT}")


def _chunks(data: bytes) -> Iterator[_Chunk]:
    """Yield the chunks, up to the last. Raises ValueError where they end without it."""
    place, whole = len(PNG), memoryview(data)
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        end = place + 8 + length
        if end + 4 > len(data):
            break
        name = data[place + 4 : place + 8]
        (check_sum,) = struct.unpack_from(">I", data, end)
        yield _Chunk(name, whole[place + 8 : end], whole[place + 4 : end], check_sum)
        if name == b"IEND":
            return
        place = end + 4
    raise ValueError(CUT)


def _length(width: int, height: int, bits: int, passes: tuple[tuple[int, int, int, int], ...]) -> int:
    """How many bytes the pixels inflate to, with a byte for the filter of each row.

    Args:
        bits: Of a pixel.
    """
    total = 0
    for left, top, across, down in passes:
        columns, rows = (width - left + across - 1) // across, (height - top + down - 1) // down
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * bits + 7) // 8)
    return total


def _holds_less(data: bytes, claimed: int) -> bool:
    stream = zlib.decompressobj()
    for chunk in _chunks(data):
        piece = bytes(chunk.content) if chunk.name == b"IDAT" else b""
        while piece and not stream.eof:
            claimed -= len(stream.decompress(piece, AT_ONCE))
            if claimed <= 0:
                return False
            piece = stream.unconsumed_tail
    return claimed > 0
