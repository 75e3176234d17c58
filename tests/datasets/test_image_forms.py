"""Images in every form that people bring: read as known colours, or refused with a sentence that says what
to do."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.errors import DataError
from datasets.decode import DecodedImage, image_size, is_turned, read_image, read_mask
from datasets.image_forms import Form, form_of, is_transparent

RGB = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3
LOSSLESS = {"png": {}, "bmp": {}, "tif": {}, "tiff": {"compression": "tiff_lzw"}, "webp": {"lossless": True}}


def saved(path: Path, array: np.ndarray, mode: str | None = None, **options: Any) -> Path:
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def refused(path: Path, *words: str, read: Callable[[Path], object] = read_image) -> None:
    with pytest.raises(DataError, match=re.escape(str(path))) as caught:
        read(path)
    said = str(caught.value)
    assert all(word in said for word in words) and "\n" not in said and said.endswith("."), said


def tiff(
    path: Path, array: np.ndarray, bits: int, tags: dict[int, tuple[str, tuple[int, ...]]] | None = None
) -> Path:
    """An uncompressed little-endian TIFF of H W [S] samples, written by hand: Pillow cannot write all of
    them.

    Args:
        tags: Others, or in place of the usual ones: number -> (struct code H or L, values); () leaves it out.
    """
    height, width, *samples = array.shape
    count = samples[0] if samples else 1
    data = array.tobytes()
    usual = {
        256: ("H", (width,)),
        257: ("H", (height,)),
        258: ("H", (bits,) * count),
        259: ("H", (1,)),
        262: ("H", (2 if count >= 3 else 1,)),
        273: ("L", (8,)),
        277: ("H", (count,)),
        278: ("H", (height,)),
        279: ("L", (len(data),)),
    } | (tags or {})
    entries, extra = b"", b""
    tags_written = {tag: of for tag, of in sorted(usual.items()) if of[1]}
    after = 8 + len(data) + 2 + 12 * len(tags_written) + 4
    for tag, (code, values) in tags_written.items():
        packed = struct.pack(f"<{len(values)}{code}", *values)
        if len(packed) > 4:
            place = struct.pack("<L", after + len(extra))
            extra += packed
        else:
            place = packed.ljust(4, b"\0")
        entries += struct.pack("<HHL", tag, {"H": 3, "L": 4}[code], len(values)) + place
    head = b"II*\0" + struct.pack("<L", 8 + len(data))
    path.write_bytes(head + data + struct.pack("<H", len(tags_written)) + entries + b"\0\0\0\0" + extra)
    return path


def png16(path: Path, samples: np.ndarray) -> Path:
    """A PNG of 16 bits, H W S with 1 to 4 samples."""
    height, width, count = samples.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[count], 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b""))
    return path


# Formats ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", LOSSLESS)
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1"])
def test_a_format_without_loss_gives_its_pixels(tmp_path: Path, ending: str, mode: str) -> None:
    shown = Image.fromarray(RGB).convert(mode).convert("RGB")
    path = saved(
        tmp_path / f"a.{ending}",
        RGB,
        "RGB" if ending == "webp" and mode != "RGBA" else mode,
        **LOSSLESS[ending],
    )
    expected = np.asarray(Image.fromarray(RGB) if ending == "webp" else shown)
    found = read_image(path)
    assert found.dtype == np.uint8 and found.flags.writeable
    np.testing.assert_array_equal(found, expected)
    assert image_size(path) == (4, 6)
    np.testing.assert_array_equal(DecodedImage(path).part(slice(1, 3), slice(2, 5)), expected[1:3, 2:5])


@pytest.mark.parametrize("ending", ["jpg", "webp"])
def test_a_format_with_loss_gives_nearly_its_pixels(tmp_path: Path, ending: str) -> None:
    flat = np.full((16, 16, 3), (200, 60, 20), np.uint8)
    found = read_image(saved(tmp_path / f"a.{ending}", flat, quality=95)).astype(int)
    assert abs(found - flat).max() <= 6


@pytest.mark.parametrize("ending", ["jpg", "tif"])
def test_cmyk_becomes_rgb_and_is_known(tmp_path: Path, ending: str) -> None:
    path = saved(tmp_path / f"a.{ending}", np.full((8, 8, 3), 255, np.uint8), "CMYK")
    assert read_image(path).min() > 250 and form_of(path) == Form(deep=False, cmyk=True, alpha=False)


def test_alpha_is_known_and_so_is_what_it_hides(tmp_path: Path) -> None:
    rgba = np.dstack([RGB, np.full((4, 6), 255, np.uint8)])
    path = saved(tmp_path / "a.png", rgba)
    assert form_of(path).alpha and not is_transparent(path)
    rgba[0, 0, 3] = 254
    for ending in ("png", "tif"):
        path = saved(tmp_path / f"b.{ending}", rgba)
        assert form_of(path).alpha and is_transparent(path)
        np.testing.assert_array_equal(read_image(path), RGB)
    palette = Image.fromarray(RGB).convert("P")
    palette.save(tmp_path / "c.png", transparency=int(np.asarray(palette)[0, 0]))
    assert form_of(tmp_path / "c.png").alpha and is_transparent(tmp_path / "c.png")
    assert form_of(saved(tmp_path / "d.png", RGB)) == Form(False, False, False)


# 16 bits ----------------------------------------------------------------------------------------------------

DEEP = np.array([[0, 255, 256, 4095], [32768, 65279, 65280, 65535]], np.uint16)
CUT = np.array([[0, 0, 1, 15], [128, 254, 255, 255]], np.uint8)


@pytest.mark.parametrize("samples", [1, 2, 3, 4])
def test_of_16_bits_in_a_png_the_upper_8_are_read(tmp_path: Path, samples: int) -> None:
    path = png16(tmp_path / "a.png", np.repeat(DEEP[..., None], samples, 2))
    for found in (
        read_image(path),
        DecodedImage(path).part(slice(0, 2), slice(0, 4)),
        DecodedImage(path).reduced(9),
    ):
        np.testing.assert_array_equal(found, np.repeat(CUT[..., None], 3, 2))
    assert form_of(path).deep and image_size(path) == (2, 4)


@pytest.mark.parametrize("samples", [1, 3, 4])
def test_of_16_bits_in_a_tiff_the_upper_8_are_read(tmp_path: Path, samples: int) -> None:
    array = np.repeat(DEEP[..., None], samples, 2)
    alpha = {338: ("H", (2,))} if samples == 4 else {}
    path = tiff(tmp_path / "a.tif", array[..., 0] if samples == 1 else array, 16, alpha)
    np.testing.assert_array_equal(read_image(path), np.repeat(CUT[..., None], 3, 2))
    assert form_of(path).deep
    if samples == 1:
        saved(tmp_path / "b.tif", DEEP, compression="tiff_lzw")
        np.testing.assert_array_equal(read_image(tmp_path / "b.tif"), np.repeat(CUT[..., None], 3, 2))


# Turned -----------------------------------------------------------------------------------------------------

UPRIGHT = np.arange(8 * 16, dtype=np.uint8).reshape(8, 16)
STORED = {  # how the upright picture is stored under each orientation
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.T,
    6: np.rot90(UPRIGHT),
    7: UPRIGHT[::-1, ::-1].T,
    8: np.rot90(UPRIGHT, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("ending", ["tif", "tiff", "webp"])
def test_every_format_is_turned_once(tmp_path: Path, ending: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation])
    options = {"tiffinfo": {274: orientation}} if ending.startswith("tif") else {"exif": exif}
    path = saved(tmp_path / f"a.{ending}", np.dstack([stored] * 3), **LOSSLESS[ending], **options)
    np.testing.assert_array_equal(read_image(path)[..., 0], UPRIGHT)
    np.testing.assert_array_equal(
        DecodedImage(path).part(slice(1, 5), slice(2, 9))[..., 0], UPRIGHT[1:5, 2:9]
    )
    assert image_size(path) == DecodedImage(path).size == UPRIGHT.shape and is_turned(path) == (
        orientation > 1
    )
    if ending == "webp":
        return
    mask = saved(tmp_path / f"m.{ending}", stored % 3, **LOSSLESS[ending], **options)
    np.testing.assert_array_equal(read_mask(mask, UPRIGHT.shape, 3), UPRIGHT % 3)
    deep = saved(tmp_path / f"d.{ending}", stored.astype(np.uint16) * 256, **LOSSLESS[ending], **options)
    np.testing.assert_array_equal(read_image(deep)[..., 0], UPRIGHT)


# Refused ----------------------------------------------------------------------------------------------------


def test_several_pictures_in_one_file_are_refused(tmp_path: Path) -> None:
    pages = [Image.fromarray(RGB), Image.fromarray(RGB[::-1].copy())]
    for ending in ("tif", "png", "webp"):
        pages[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=pages[1:])
        refused(tmp_path / f"a.{ending}", "holds 2 pictures", "save the one that is meant")


def test_the_preview_of_a_photograph_is_no_second_picture(tmp_path: Path) -> None:
    flat = Image.fromarray(np.full((8, 8, 3), 100, np.uint8))
    flat.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[flat])
    assert abs(read_image(tmp_path / "a.jpg").astype(int) - 100).max() < 4


@pytest.mark.parametrize("channels", [2, 4, 5, 7, 16])
@pytest.mark.parametrize("bits", [8, 16])
def test_channels_that_are_no_colours_are_no_rgb(tmp_path: Path, channels: int, bits: int) -> None:
    """They are read as the channels that they are, and refused where three are expected."""
    array = np.arange(24 * channels).reshape(4, 6, channels)
    array = (array % 256).astype(np.uint8) if bits == 8 else (array * 256).astype(np.uint16)
    more = channels - (3 if channels > 3 else 1)
    named = tiff(tmp_path / "a.tif", array, bits, {338: ("H", (0,) * more)})
    bare = tiff(tmp_path / "b.tif", array, bits, {262: ("H", (1,))})
    for path in (named, bare):
        np.testing.assert_array_equal(read_image(path), array if bits == 8 else array >> 8)
        refused(
            path,
            f"has {channels} channels, and the network expects 3",
            f"--set protocol.network.channels={channels}",
            read=lambda path: read_image(path, 3),
        )


@pytest.mark.parametrize(
    ("dtype", "form"),
    [(np.int32, 2), (np.uint32, 1), (np.int16, 2), (np.uint64, 1)],
)
def test_numbers_without_black_and_white_are_refused(tmp_path: Path, dtype: type, form: int) -> None:
    array = np.zeros((3, 5), dtype)
    path = tiff(tmp_path / "a.tif", array, array.itemsize * 8, {339: ("H", (form,))})
    refused(path, "save", "8 or 16 bits")


def test_other_kinds_of_pixels_are_refused(tmp_path: Path) -> None:
    white = tiff(tmp_path / "w.tif", DEEP, 16, {262: ("H", (0,))})
    refused(white, "whose 0 is white")
    lab = tiff(tmp_path / "l.tif", np.zeros((3, 5, 3), np.uint8), 8, {262: ("H", (8,))})
    refused(lab, "LAB", "save the image as RGB")
    inverted = tiff(tmp_path / "i.tif", np.array([[0, 255]], np.uint8), 8, {262: ("H", (0,))})
    assert read_image(inverted)[..., 0].tolist() == [[255, 0]]  # shown as it is meant


@pytest.mark.parametrize("ending", ["tif", "webp", "bmp"])
def test_damaged_files_are_refused(tmp_path: Path, ending: str) -> None:
    whole = saved(
        tmp_path / f"a.{ending}", np.arange(60 * 80 * 3).reshape(60, 80, 3).astype(np.uint8)
    ).read_bytes()
    for name, content in {"cut": whole[: len(whole) // 2], "empty": b"", "other": b"<svg/>" * 9}.items():
        (tmp_path / f"{name}.{ending}").write_bytes(content)
        refused(tmp_path / f"{name}.{ending}", "cannot be decoded", "fetch the file again")


# Masks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["bmp", "tif", "tiff"])
def test_grey_masks_of_other_formats_give_their_numbers(tmp_path: Path, ending: str) -> None:
    ids = np.array([[0, 1, 2], [255, 1, 0]], np.uint8)
    np.testing.assert_array_equal(
        read_mask(saved(tmp_path / f"m.{ending}", ids, **LOSSLESS[ending]), (2, 3), 3), ids
    )
    if ending != "bmp":
        deep = saved(tmp_path / f"d.{ending}", ids.astype(np.uint16), **LOSSLESS[ending])
        np.testing.assert_array_equal(read_mask(deep, (2, 3), 3), ids)


def test_masks_of_other_formats_that_may_mean_something_else_are_refused(tmp_path: Path) -> None:
    ids = np.array([[0, 1, 2], [255, 1, 0]], np.uint8)
    palette = Image.fromarray(ids).convert("P")
    palette.putpalette([9, 9, 9, 200, 0, 0, 0, 99, 0])
    for ending in ("bmp", "tif"):
        palette.save(tmp_path / f"p.{ending}")
        Image.fromarray(ids > 0).save(tmp_path / f"b.{ending}")
        for name in ("p", "b"):
            refused(
                tmp_path / f"{name}.{ending}",
                "save it as 8-bit grey PNG",
                read=lambda p: read_mask(p, None, 3),
            )
    white = tiff(tmp_path / "w.tif", ids, 8, {262: ("H", (0,))})
    refused(white, "save it as 8-bit grey PNG", read=lambda p: read_mask(p, None, 3))
    lossy = saved(tmp_path / "j.tif", np.zeros((16, 16), np.uint8), compression="jpeg")
    refused(lossy, "compressed with loss", read=lambda p: read_mask(p, None, 3))
    floats = saved(tmp_path / "f.tif", ids.astype(np.float32))
    refused(floats, "no class ids", read=lambda p: read_mask(p, None, 3))
