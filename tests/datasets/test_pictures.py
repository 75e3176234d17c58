"""Pictures that end early: what a reader would fill with zeros is refused, and nothing else is printed."""

import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from bench.errors import DataError
from datasets.decode import read_image, read_mask

pytestmark = pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # pytest has filters of its own

RNG = np.random.default_rng(0)
RGB, GREY = (RNG.integers(1, 256, shape).astype(np.uint8) for shape in ((64, 48, 3), (64, 48)))
FIVE = RNG.integers(256, 65536, (64, 48, 5)).astype(np.uint16)
FLOATS = RNG.uniform(0.5, 1, (64, 48)).astype(np.float32)
PARTS: dict[str, dict[str, Any]] = {"strips": {"rowsperstrip": 8}, "tiles": {"tile": (16, 16)}}
TIFFS: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
    "rgb": (RGB, {"photometric": "rgb"}),
    "grey": (GREY, {"photometric": "minisblack"}),
    "planes": (RGB.transpose(2, 0, 1), {"photometric": "rgb", "planarconfig": "separate"}),
    "five": (FIVE, {"photometric": "minisblack", "planarconfig": "contig"}),
    "five planes": (FIVE.transpose(2, 0, 1), {"photometric": "minisblack", "planarconfig": "separate"}),
    "floats": (FLOATS, {"photometric": "minisblack"}),
}


def fewer_parts(data: bytearray, tags: Any) -> None:
    """Half of the strips or tiles stand in no list."""
    for tag in tags:
        if tag.name.endswith(("Offsets", "ByteCounts")):
            struct.pack_into("<I", data, tag.offset + 4, tag.count // 2)


def more_rows(data: bytearray, tags: Any) -> None:
    tag = tags["ImageLength"]
    struct.pack_into("<H" if tag.dtype == 3 else "<I", data, tag.valueoffset, 96)


def half(data: bytearray, tags: Any) -> None:
    del data[len(data) // 2 :]


@pytest.mark.parametrize("damage", [fewer_parts, more_rows, half])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("form", TIFFS)
def test_a_tiff_with_gaps_is_refused(
    tmp_path: Path,
    form: str,
    parts: str,
    compression: str | None,
    damage: Callable[[bytearray, Any], None],
) -> None:
    array, options = TIFFS[form]
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, array, compression=compression, metadata=None, **options, **PARTS[parts])
    assert read_image(path).all()
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        damage(data, file.pages[0].tags)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.tif (cannot be decoded|lacks some of its strips)"):
        read_image(path)


def test_a_raster_with_empty_strips_is_refused(tmp_path: Path) -> None:
    array, options = TIFFS["five"]
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, array, metadata=None, rowsperstrip=8, **options)
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        tag = file.pages[0].tags["StripByteCounts"]
        size = tag.valuebytecount // tag.count
        data[tag.valueoffset : tag.valueoffset + size] = bytes(size)
    path.write_bytes(data)
    with pytest.raises(DataError, match="lacks some of its strips"):
        read_image(path)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.97])
def test_a_compressed_tiff_that_ends_early_is_called_damaged(
    tmp_path: Path, compression: str, share: float
) -> None:
    """Pillow writes the tags behind the pixels."""
    path = tmp_path / "a.tif"
    for array in (RGB, GREY):
        Image.fromarray(array).save(path, compression=compression)
        assert (read_image(path) == array.reshape(64, 48, -1)).all()
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        for read in (read_image, lambda path: read_mask(path, None, 200)):
            with pytest.raises(DataError, match="damaged TIFF|cannot be decoded") as error:
                read(path)
            assert "bits" not in str(error.value), error.value
    assert share == 0.97 or "is a damaged TIFF, most likely cut short" in str(error.value)


def test_what_pillow_says_of_a_damaged_tiff_is_not_printed(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.tif", compression="tiff_lzw")
    (tmp_path / "a.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:500])
    program = (
        "import sys; from pathlib import Path; from bench.errors import DataError\n"
        "from datasets.decode import read_image, read_mask\n"
        "for read in (read_image, lambda path: read_mask(path, None, 3)):\n"
        "    try: read(Path(sys.argv[1]))\n"
        "    except DataError: print('refused')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "a.tif"], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("refused\nrefused\n", "")


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"quality": 95, "progressive": True}])
@pytest.mark.parametrize("ending", ["bmp", "jpg", "webp", "png"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_picture_that_ends_early_is_refused(
    tmp_path: Path, ending: str, options: dict[str, Any], share: float
) -> None:
    path = tmp_path / f"a.{ending}"
    for array in (RGB, GREY):
        Image.fromarray(array).save(path, **options)
        assert read_image(path).shape == RGB.shape
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        with pytest.raises(DataError, match=rf"a\.{ending} cannot be decoded"):
            read_image(path)
