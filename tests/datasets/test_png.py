"""A PNG whose pixels end early is refused, in every form that a PNG may have; a whole one is read."""

import struct
import tracemalloc
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bench.errors import DataError
from datasets.decode import read_image, read_mask
from datasets.png import ADAM7, PNG, SAMPLES, WHOLE, refuse_missing_rows

FORMS = [
    *((0, bits) for bits in (1, 2, 4, 8, 16)),
    *((3, bits) for bits in (1, 2, 4, 8)),
    *((kind, bits) for kind in (2, 4, 6) for bits in (8, 16)),
]


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def rows_of(width: int, height: int, kind: int, bits: int, interlaced: bool, fill: int) -> list[bytes]:
    """Every row as it is stored, pass by pass, with its filter."""
    found = []
    for left, top, across, down in ADAM7 if interlaced else WHOLE:
        columns, rows = len(range(left, width, across)), len(range(top, height, down))
        if columns:
            found += [b"\0" + bytes([fill]) * -(-columns * bits * SAMPLES[kind] // 8)] * rows
    return found


def png(
    width: int, height: int, kind: int, bits: int, interlaced: bool, pixels: bytes, cuts: int = 1
) -> bytes:
    """A PNG with right check sums, whatever its pixels are, in some chunks."""
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, interlaced)
    packed = zlib.compress(pixels)
    step = -(-len(packed) // cuts)
    palette = chunk(b"PLTE", bytes(range(3)) * 2**bits) if kind == 3 else b""
    parts = [chunk(b"IDAT", packed[at : at + step]) for at in range(0, len(packed), step)]
    return PNG + chunk(b"IHDR", header) + palette + b"".join(parts) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("png") / "a.png"


@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from(FORMS),
    st.booleans(),
    st.sampled_from([0, 0x55]),
    st.integers(1, 3),
    st.data(),
)
def test_every_form_is_read_whole_and_refused_cut(
    place: Path,
    size: tuple[int, int],
    form: tuple[int, int],
    interlaced: bool,
    fill: int,
    cuts: int,
    data: st.DataObject,
) -> None:
    rows = rows_of(*size, *form, interlaced, fill)
    place.write_bytes(png(*size, *form, interlaced, b"".join(rows), cuts))
    assert read_image(place).shape == (size[1], size[0], 3)
    place.write_bytes(png(*size, *form, interlaced, b"".join(rows) + b"more", cuts))
    assert read_image(place).shape == (size[1], size[0], 3)  # what is too much, every reader passes over
    kept = b"".join(rows)[: data.draw(st.integers(0, len(b"".join(rows)) - 1))]
    place.write_bytes(png(*size, *form, interlaced, kept, cuts))
    with pytest.raises(DataError, match=r"a\.png cannot be decoded"):
        read_image(place)


@given(
    st.tuples(st.integers(1, 50), st.integers(1, 50)),
    st.sampled_from(["1", "L", "P", "LA", "RGB", "RGBA", "I;16"]),
    st.integers(0, 3),
)
def test_what_pillow_writes_is_read(place: Path, size: tuple[int, int], mode: str, seed: int) -> None:
    numbers = np.random.default_rng(seed).integers(0, 3, (size[1], size[0])).astype(np.uint8)
    numbers[-1] *= seed > 1
    Image.fromarray(numbers).convert(mode).save(place)
    assert read_image(place).shape == (size[1], size[0], 3)


def test_a_mask_with_half_of_its_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    path.write_bytes(png(40, 40, 0, 8, False, b"".join(rows_of(40, 20, 0, 8, False, 1))))
    with pytest.raises(DataError, match=r"m\.png .*fewer pixels than 40x40"):
        read_mask(path, None, 3)
    path.write_bytes(png(40, 40, 0, 8, False, b"".join(rows_of(40, 40, 0, 8, False, 1))))
    assert (read_mask(path, None, 3) == 1).all()


def test_a_last_row_does_not_tell_that_an_interlaced_picture_is_whole(tmp_path: Path) -> None:
    """Of an odd height, the last pass fills the rows between."""
    path, rows = tmp_path / "a.png", rows_of(9, 9, 0, 8, True, 1)
    path.write_bytes(png(9, 9, 0, 8, True, b"".join(rows[:-1])))
    with pytest.raises(DataError, match="fewer pixels than 9x9"):
        read_mask(path, None, 3)


def test_pixels_are_counted_in_little_memory(tmp_path: Path) -> None:
    """Of a mask of one class, a thousand times its file."""
    buffer = BytesIO()
    mask = Image.new("L", (5000, 4000))
    mask.save(buffer, "PNG")
    tracemalloc.start()
    refuse_missing_rows(buffer.getvalue(), mask)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2e6
