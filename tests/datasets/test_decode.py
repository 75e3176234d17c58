import os
import re
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.errors import DataError, Interrupted
from datasets import pictures
from datasets.decode import image_size, is_turned, read_image, read_mask
from datasets.encodings import colours

IDS = np.array([[0, 1, 2], [255, 1, 0]], np.uint8)


def save(path: Path, array: np.ndarray, mode: str | None = None) -> Path:
    Image.fromarray(array).convert(mode).save(path) if mode else Image.fromarray(array).save(path)
    return path


def png(path: Path, bits: int, rows: list[bytes], width: int, kind: int = 0) -> Path:
    """A PNG of `bits` per sample, grey by default, written by hand: Pillow cannot write all of them."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, len(rows), bits, kind, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b""))
    return path


def fails(path: Path, function: Callable[[], object], *parts: str) -> None:
    with pytest.raises(DataError, match=re.escape(str(path))) as caught:
        function()
    for part in parts:
        assert part in str(caught.value)


def test_image_is_rgb(tmp_path: Path) -> None:
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[0, 0] = (200, 10, 30)
    path = save(tmp_path / "a.png", pixels)
    np.testing.assert_array_equal(read_image(path), pixels)
    assert image_size(path) == (2, 3)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    image = read_image(save(tmp_path / "a.png", np.full((4, 5, 3), 255, np.uint8), mode))
    assert image.shape == (4, 5, 3) and image.dtype == np.uint8 and image.flags.writeable
    assert (image == 255).all()


def test_cmyk_jpeg_becomes_rgb(tmp_path: Path) -> None:
    image = read_image(save(tmp_path / "a.jpg", np.full((8, 8, 3), 255, np.uint8), "CMYK"))
    assert image.shape == (8, 8, 3) and image.min() > 250


UPRIGHT = np.arange(8 * 16, dtype=np.uint8).reshape(8, 16)
# How the upright picture is stored under each orientation.
STORED = {
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.T,
    6: np.rot90(UPRIGHT),
    7: UPRIGHT[::-1, ::-1].T,
    8: np.rot90(UPRIGHT, -1),
}


def tagged(path: Path, array: np.ndarray, orientation: int) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(array)).save(path, exif=exif)
    return path


@pytest.mark.parametrize("orientation", STORED)
def test_an_image_is_turned_as_its_tag_says(tmp_path: Path, orientation: int) -> None:
    path = tagged(tmp_path / "a.png", STORED[orientation], orientation)
    np.testing.assert_array_equal(read_image(path)[..., 0], UPRIGHT)
    assert image_size(path) == UPRIGHT.shape
    assert is_turned(path) == (orientation > 1)


def test_a_tag_of_a_jpeg_turns_it_too(tmp_path: Path) -> None:
    path = tagged(tmp_path / "a.jpg", np.zeros((4, 8, 3), np.uint8), 6)
    assert read_image(path).shape == (8, 4, 3)
    assert image_size(path) == (8, 4) and is_turned(path)


def test_a_tag_behind_the_pixels_counts(tmp_path: Path) -> None:
    content = tagged(tmp_path / "a.png", STORED[6], 6).read_bytes()
    start = content.index(b"eXIf") - 4
    end = start + 12 + struct.unpack(">I", content[start : start + 4])[0]
    bare, last = content[:start] + content[end:], content.index(b"IEND") - 4 - (end - start)
    (tmp_path / "a.png").write_bytes(bare[:last] + content[start:end] + bare[last:])
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[..., 0], UPRIGHT)
    assert image_size(tmp_path / "a.png") == UPRIGHT.shape


def test_a_mask_is_turned_by_its_own_tag_alone(tmp_path: Path) -> None:
    upright = UPRIGHT % 3
    path = tagged(tmp_path / "m.png", np.rot90(upright), 6)
    np.testing.assert_array_equal(read_mask(path, upright.shape, 3), upright)
    plain = save(tmp_path / "p.png", upright)
    np.testing.assert_array_equal(read_mask(plain, upright.shape, 3), upright)
    fails(plain, lambda: read_mask(plain, upright.shape[::-1], 3), "EXIF tag", "turn the mask")


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_a_tag_that_says_nothing_turns_nothing(tmp_path: Path, orientation: int) -> None:
    path = tagged(tmp_path / "a.png", UPRIGHT, orientation)
    np.testing.assert_array_equal(read_image(path)[..., 0], UPRIGHT)
    assert not is_turned(path)


def test_16_bit_colours_of_a_mask_are_refused(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", 16, [b"\x12\x34" * 3], 1, 2)
    fails(path, lambda: read_mask(path, (1, 1), 256), "colour mask")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_mask_values_are_ids(tmp_path: Path, dtype: type) -> None:
    mask = read_mask(save(tmp_path / "m.png", IDS.astype(dtype)), (2, 3), 3)
    np.testing.assert_array_equal(mask, IDS)
    assert mask.dtype == np.uint8


def test_palette_mask_gives_indices_not_colours(tmp_path: Path) -> None:
    picture = Image.fromarray(IDS).convert("L")
    picture = Image.frombytes("P", picture.size, picture.tobytes())
    picture.putpalette(colours(256).ravel().tolist())
    picture.save(tmp_path / "m.png")
    assert Image.open(tmp_path / "m.png").mode == "P"
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png", (2, 3), 3), IDS)


def test_one_bit_mask(tmp_path: Path) -> None:
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "m.png")
    assert Image.open(tmp_path / "m.png").mode == "1"
    assert read_mask(tmp_path / "m.png", (1, 2), 2).tolist() == [[1, 0]]


@pytest.mark.parametrize(("bits", "row", "ids"), [(2, 0b00011011, [0, 1, 2, 3]), (4, 0x0C, [0, 12])])
def test_grey_of_few_bits_is_not_stretched(tmp_path: Path, bits: int, row: int, ids: list[int]) -> None:
    path = png(tmp_path / "m.png", bits, [bytes([row])], len(ids))
    assert read_mask(path, (1, len(ids)), 13).tolist() == [ids]


def test_mapping_comes_before_the_range_check(tmp_path: Path) -> None:
    mapping = np.full(256, 255, np.uint8)
    mapping[[7, 33]] = (0, 1)
    path = save(tmp_path / "m.png", np.array([[7, 33, 40, 255]], np.uint8))
    assert read_mask(path, (1, 4), 2, mapping).tolist() == [[0, 1, 255, 255]]
    path = save(tmp_path / "m.png", np.array([[7, 300]], np.uint16))
    fails(path, lambda: read_mask(path, (1, 2), 2, mapping), "300")


@pytest.mark.parametrize(
    ("ids", "classes"), [([3], 3), ([254], 3), ([256], 3), ([65535], 3), ([0, 255, 21], 21)]
)
def test_unknown_ids_are_named(tmp_path: Path, ids: list[int], classes: int) -> None:
    path = save(tmp_path / "m.png", np.array([ids], np.uint8 if max(ids) < 256 else np.uint16))
    fails(path, lambda: read_mask(path, (1, len(ids)), classes), f"the ids {ids[-1]},", f"{classes} classes")


def test_highest_class_and_ignore_are_known(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", np.array([[254, 255]], np.uint8))
    assert read_mask(path, (1, 2), 255).tolist() == [[254, 255]]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_colour_mask_is_refused(tmp_path: Path, mode: str) -> None:
    path = save(tmp_path / "m.png", np.zeros((2, 2, 3), np.uint8), mode)
    fails(path, lambda: read_mask(path, (2, 2), 3), "colour mask", mode)


def test_mask_of_another_size(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", IDS)
    fails(path, lambda: read_mask(path, (3, 2), 3), "3x2", "2x3")


def test_jpeg_mask_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "m.jpg", IDS)
    path = (tmp_path / "m.jpg").rename(tmp_path / "m.png")
    fails(path, lambda: read_mask(path, (2, 3), 3), "PNG")


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"])
def test_no_image_at_all(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    for function in (read_image, image_size, lambda p: read_mask(p, (1, 1), 2)):
        fails(path, partial(function, path), "cannot be decoded")


def test_missing_and_folder(tmp_path: Path) -> None:
    fails(tmp_path / "a.png", lambda: read_image(tmp_path / "a.png"), "does not exist")
    fails(tmp_path, lambda: read_image(tmp_path), "is no plain file")


@pytest.mark.timeout(20)
def test_a_named_pipe_is_refused_and_does_not_hang(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    os.mkfifo(path)
    for function in (read_image, image_size, lambda p: read_mask(p, (1, 1), 2)):
        fails(path, partial(function, path), "a pipe")
    fails(Path("/dev/null"), lambda: read_mask(Path("/dev/null"), (1, 1), 2), "a device")


def test_no_flipped_bit_of_a_mask_is_read(tmp_path: Path) -> None:
    content = save(tmp_path / "m.png", np.arange(400, dtype=np.uint8).reshape(20, 20) % 4).read_bytes()
    path = tmp_path / "flipped.png"
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(flipped)
        fails(path, lambda: read_mask(path, None, 4))


def test_bomb_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", np.zeros((10, 10), np.uint8))
    monkeypatch.setattr(pictures, "MAX_PIXELS", 99)
    monkeypatch.setattr(np, "array", lambda *_: pytest.fail("decoded"))
    for function in (read_image, image_size, lambda p: read_mask(p, (10, 10), 2)):
        fails(path, partial(function, path), "10x10", "99")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("side", [9_000, 20_000, 2**31 - 1])
def test_bomb_in_the_header(tmp_path: Path, side: int) -> None:
    path = png(tmp_path / "a.png", 8, [b"\0"], 1)
    head = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    content = path.read_bytes()
    path.write_bytes(content[:12] + head + struct.pack(">I", zlib.crc32(head)) + content[33:])
    fails(path, lambda: read_image(path))


def test_a_signal_while_decoding_is_no_data_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", IDS)

    def stop(*_: object) -> None:
        raise Interrupted("stopped")

    monkeypatch.setattr(np, "array", stop)
    with pytest.raises(Interrupted):
        read_mask(path, (2, 3), 3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("end", ["png", "jpg"])
def test_damaged_files_raise_data_errors_only(tmp_path: Path, end: str) -> None:
    random = np.random.default_rng(0)
    source = save(tmp_path / f"a.{end}", random.integers(0, 255, (24, 20, 3), np.uint8))
    labels = save(tmp_path / "m.png", random.integers(0, 5, (24, 20), np.uint8)).read_bytes()
    content = source.read_bytes()
    refusals = []
    for trial in range(350):
        for good, path in ((content, source), (labels, tmp_path / "m.png")):
            bad = bytearray(good)
            if trial < 150:
                del bad[int(random.integers(len(bad))) :]
            else:
                for place in random.integers(0, len(bad), random.integers(1, 4)):
                    bad[place] ^= 1 << int(random.integers(8))
            path.write_bytes(bad)
            try:
                if path is source:
                    image = read_image(path)
                    assert image.dtype == np.uint8 and image.shape[2] == 3
                else:
                    assert read_mask(path, (24, 20), 5).shape == (24, 20)
            except DataError as error:
                refusals.append((str(path), str(error)))
    assert len(refusals) > 300 and all(path in message for path, message in refusals)


@pytest.mark.parametrize("end", ["png", "jpg"])
def test_a_file_cut_in_half_is_refused(tmp_path: Path, end: str) -> None:
    path = save(tmp_path / f"a.{end}", np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    fails(path, lambda: read_image(path), "cannot be decoded")


def test_colours_are_those_of_voc() -> None:
    assert colours(4).tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]
    assert colours(21)[20].tolist() == [0, 64, 128]
    assert len({tuple(colour) for colour in colours(256).tolist()}) == 256
