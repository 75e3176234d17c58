"""Images of 1 to 16 channels: every way they are stored gives the same numbers, and what is no image is a
sentence."""

from __future__ import annotations

import io
import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bench.errors import DataError
from datasets import channels
from datasets.decode import (
    image_size,
    is_turned,
    open_image,
    read_image,
    refuse_channels,
)
from datasets.folder import Folder
from datasets.image_forms import Form, form_of, is_dark
from datasets.rasters import WrongChannels, _upright, header_of, is_raster, shown
from datasets.splits import Split
from datasets.verify import verify

FOUR = np.arange(3 * 5 * 4, dtype=np.uint8).reshape(3, 5, 4) * 4
GREY = {"photometric": "minisblack", "planarconfig": "contig"}
STORED: dict[str, Callable[[Path, np.ndarray], None]] = {
    "samples": lambda path, a: tifffile.imwrite(path, a, **GREY),
    "deflate": lambda path, a: tifffile.imwrite(path, a, compression="deflate", predictor=True, **GREY),
    "big-endian": lambda path, a: tifffile.imwrite(path, a, byteorder=">", **GREY),
    "beyond 4 GiB": lambda path, a: tifffile.imwrite(path, a, bigtiff=True, **GREY),
    "tiles": lambda path, a: tifffile.imwrite(path, a, tile=(16, 16), **GREY),
    "one channel after the other": lambda path, a: tifffile.imwrite(
        path, a.transpose(2, 0, 1), photometric="minisblack", planarconfig="separate"
    ),
    "pages": lambda path, a: tifffile.imwrite(path, a.transpose(2, 0, 1), photometric="minisblack"),
    "RGB and more": lambda path, a: tifffile.imwrite(
        path, a, photometric="rgb", extrasamples=["unspecified"] * (a.shape[2] - 3)
    ),
}


def refused(path: Path, *words: str, read: Callable[[Path], object] = read_image) -> None:
    with pytest.raises(DataError, match=re.escape(str(path))) as caught:
        read(path)
    said = str(caught.value)
    assert all(word in said for word in words) and "\n" not in said and said.endswith("."), said


def npy(path: Path, array: Any, **options: Any) -> Path:
    np.save(path, array, **options)
    return path


# TIFF -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", STORED)
@pytest.mark.parametrize("bits", [8, 16])
def test_every_tiff_gives_its_channels(tmp_path: Path, how: str, bits: int) -> None:
    path = tmp_path / "a.tif"
    STORED[how](path, FOUR if bits == 8 else FOUR.astype(np.uint16) * 256 + 255)
    for found in (read_image(path), read_image(path, 4), open_image(path, 4).part(slice(0, 3), slice(0, 5))):
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, FOUR)
    assert image_size(path) == (3, 5) and header_of(path).channels == 4
    assert form_of(path) == Form(deep=bits == 16, cmyk=False, alpha=False)


def test_of_16_bits_the_upper_8_are_read(tmp_path: Path) -> None:
    deep = np.array([[[0, 255, 256, 4095], [32768, 65279, 65280, 65535]]], np.uint16)
    for path in (tmp_path / "a.tif", npy(tmp_path / "a.npy", deep)):
        if path.suffix == ".tif":
            tifffile.imwrite(path, deep, **GREY)
        assert read_image(path).tolist() == [[[0, 0, 1, 15], [128, 254, 255, 255]]]
    assert not is_dark(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "b.tif", deep[:, :1], **GREY)
    assert is_dark(tmp_path / "b.tif")


def test_floats_run_from_0_to_1(tmp_path: Path) -> None:
    floats = np.array([[0, 0.5, 1.0, 1 / 255], [0.001, 0.003, 0.9981, 0.9979]], np.float32)
    expected = [[0, 128, 255, 1], [0, 1, 255, 254]]
    tifffile.imwrite(tmp_path / "a.tif", floats)
    for path in (tmp_path / "a.tif", npy(tmp_path / "a.npy", floats), npy(tmp_path / "b.npy", floats * 1.0)):
        assert read_image(path)[..., 0].tolist() == expected and read_image(path).shape == (2, 4, 1)
        assert form_of(path).floats
    for wrong, words in {
        np.nan: ("1 numbers that are NaN or infinite",),
        np.inf: ("NaN or infinite",),
        1.5: ("floats from 0.001 to 1.5", "scale all images alike"),
        -0.25: ("floats from -0.25 to 1",),
    }.items():
        bad = floats.copy()
        bad[0, 0] = wrong
        refused(npy(tmp_path / "bad.npy", bad), *words)
        tifffile.imwrite(tmp_path / "bad.tif", bad)
        refused(tmp_path / "bad.tif", *words)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_raster_is_turned_as_a_picture_is(tmp_path: Path, orientation: int) -> None:
    """Pillow is the oracle, on the first three channels."""
    tag = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "a.tif", FOUR[..., :3], photometric="rgb", extratags=tag)
    tifffile.imwrite(tmp_path / "b.tif", FOUR, extratags=tag, **GREY)
    picture, raster = read_image(tmp_path / "a.tif"), read_image(tmp_path / "b.tif")
    np.testing.assert_array_equal(raster[..., :3], picture)
    assert image_size(tmp_path / "b.tif") == picture.shape[:2]
    assert is_turned(tmp_path / "b.tif") == (orientation > 1)
    np.testing.assert_array_equal(_upright(FOUR, orientation), raster)


def test_alpha_is_a_channel_only_where_four_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, FOUR, photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(read_image(path), FOUR[..., :3])
    np.testing.assert_array_equal(read_image(path, 4), FOUR)
    assert not is_raster(path) and is_raster(path, 4)


def test_pages_that_are_smaller_copies_or_masks_are_no_channels(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(FOUR, **GREY)
        file.write(FOUR[:2, :2], subfiletype=1, **GREY)
        file.write(FOUR[..., 0] > 9, subfiletype=4, photometric="mask")
    np.testing.assert_array_equal(read_image(path), FOUR)


def test_tiffs_that_are_no_image_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    cases: list[tuple[dict[str, Any], np.ndarray, tuple[str, ...]]] = [
        (GREY, np.zeros((3, 5, 17), np.uint8), ("17 channels", "1 to 16")),
        ({"photometric": "minisblack"}, np.zeros((17, 3, 5), np.uint8), ("17 pages", "1 to 16")),
        ({"photometric": "rgb"}, np.zeros((2, 3, 5, 3), np.uint8), ("holds 2 pictures",)),
        (GREY, np.zeros((3, 5, 4), np.int16), ("kind int16", "uint8, uint16")),
        (GREY, np.zeros((3, 5, 4), np.complex64), ("kind complex64",)),
        (GREY | {"photometric": "miniswhite"}, FOUR, ("stores its channels as MINISWHITE", "0 is black")),
    ]
    for options, array, words in cases:
        tifffile.imwrite(path, array, **options)
        refused(path, *words)
    with tifffile.TiffWriter(path) as file:
        file.write(FOUR[..., 0], photometric="minisblack")
        file.write(FOUR[:2, :, 1], photometric="minisblack")
    refused(path, "pages of several sizes or kinds")
    tifffile.imwrite(path, np.zeros((40, 50, 4), np.uint8), **GREY)
    path.write_bytes(path.read_bytes()[:-4000])
    refused(path, "cannot be decoded as TIFF", "fetch the file again")
    refused(path, "claims 50x40 pixels, more than the 1,000", read=lambda path: header_of(path, 1000))


def test_a_compression_that_is_not_read_says_what_to_do(tmp_path: Path) -> None:
    """LZW of many samples: tifffile decodes it by another package alone."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, FOUR, **GREY)
    data = bytearray(path.read_bytes())
    place = data.index(b"\x03\x01\x03\x00\x01\x00\x00\x00\x01\x00")  # tag 259, of one short: 1
    data[place + 8] = 5
    path.write_bytes(data)
    refused(path, "compressed by LZW", "imagecodecs", "deflate or without compression")


# NPY --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 16])
def test_an_array_is_its_channels(tmp_path: Path, channels: int) -> None:
    array = np.random.default_rng(channels).integers(0, 256, (3, 5, channels), np.uint8)
    for made in (array, np.asfortranarray(array), array[::-1][::-1]):
        path = npy(tmp_path / "a.npy", made)
        np.testing.assert_array_equal(read_image(path), array)
        np.testing.assert_array_equal(
            open_image(path, channels).part(slice(1, 3), slice(0, 2)), array[1:3, :2]
        )
    swapped = npy(tmp_path / "b.npy", (array.astype(">u2") << 8) + 7)
    np.testing.assert_array_equal(read_image(swapped), array)
    assert image_size(path) == (3, 5) and header_of(path).channels == channels and not is_turned(path)


def test_an_array_of_height_and_width_has_one_channel(tmp_path: Path) -> None:
    path = npy(tmp_path / "a.npy", FOUR[..., 0])
    np.testing.assert_array_equal(read_image(path), FOUR[..., :1])
    by_columns = npy(tmp_path / "b.npy", np.asfortranarray(FOUR[..., 0]))
    np.testing.assert_array_equal(read_image(by_columns), FOUR[..., :1])


class Harm:
    """Pickled, it would run a program when it is read."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return (Path.touch, (self.place,))


def test_python_objects_are_never_read(tmp_path: Path) -> None:
    objects = np.empty((2, 2), object)
    objects[:] = Harm(tmp_path / "harmed")
    refused(npy(tmp_path / "a.npy", objects, allow_pickle=True), "Python objects", "may be programs")
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Harm(tmp_path / "harmed")))
    refused(tmp_path / "b.npy", "cannot be decoded as .npy")
    assert not (tmp_path / "harmed").exists()


def test_arrays_that_are_no_image_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    for array, words in (
        (np.zeros((3, 5, 17), np.uint8), ("shape 3x5x17", "17 channels", "1 to 16")),
        (np.zeros((4, 30, 50), np.uint8), ("50 channels", "where the channels come first")),
        (np.uint8(3), ("shape none", "height x width")),
        (np.zeros(5, np.uint8), ("shape 5;",)),
        (np.zeros((1, 2, 3, 4), np.uint8), ("shape 1x2x3x4",)),
        (np.zeros((0, 5, 4), np.uint8), ("shape 0x5x4",)),
        (np.zeros((3, 5, 0), np.uint8), ("shape 3x5x0",)),
        (np.zeros((3, 5), np.int64), ("kind int64", "uint8, uint16")),
        (np.zeros((3, 5), bool), ("kind bool",)),
        (np.array([["a"]]), ("kind str",)),
        (np.zeros((3, 5), [("x", "u1")]), ("void",)),
    ):
        refused(npy(path, array), *words)
        refused(path, *words, read=image_size)
    whole = npy(path, FOUR).read_bytes()
    for name, content, word in (
        ("cut", whole[:-1], "cut short"),
        ("empty", b"", "cannot be decoded as .npy"),
        ("other", b"<svg/>" * 9, "cannot be decoded as .npy"),
        ("archive", b"PK\x03\x04" + whole, "cannot be decoded as .npy"),
        ("version", whole[:6] + b"\x09" + whole[7:], "version"),
    ):
        (tmp_path / f"{name}.npy").write_bytes(content)
        refused(tmp_path / f"{name}.npy", word)
    refused(tmp_path / "gone.npy", "does not exist")


def test_a_header_that_claims_much_takes_no_memory(tmp_path: Path) -> None:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "|u1", "fortran_order": False, "shape": (8000, 8000, 16)}
    )
    (tmp_path / "a.npy").write_bytes(file.getvalue() + b"\0" * 100)
    refused(tmp_path / "a.npy", "cut short")
    claims = re.sub(rb"8000, 8000", b"800000, 80", file.getvalue())
    (tmp_path / "b.npy").write_bytes(claims)
    refused(tmp_path / "b.npy")


@given(
    damaged=st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), min_size=1, max_size=4),
    kind=st.sampled_from(["npy", "tif"]),
)
def test_damage_is_a_sentence_or_other_numbers(
    tmp_path_factory: pytest.TempPathFactory, damaged: list[tuple[int, int]], kind: str
) -> None:
    path = tmp_path_factory.mktemp("damaged") / f"a.{kind}"
    tifffile.imwrite(path, FOUR, **GREY) if kind == "tif" else np.save(path, FOUR)
    data = bytearray(path.read_bytes())
    for place, value in damaged:
        data[place % len(data)] = value
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        said = ""
        try:
            found = read_image(path)
        except DataError as error:
            said = str(error)
    assert str(path) in said if said else found.dtype == np.uint8 and found.ndim == 3


# Channels that are asked for --------------------------------------------------------------------------------


def test_a_picture_has_the_channels_that_it_is_stored_with(tmp_path: Path) -> None:
    grey = FOUR[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(FOUR).save(tmp_path / "rgba.png")
    Image.fromarray(np.dstack([grey, grey // 2])).save(tmp_path / "la.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), np.dstack([grey] * 3))
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png", 1), grey[..., None])
    np.testing.assert_array_equal(read_image(tmp_path / "rgba.png", 4), FOUR)
    np.testing.assert_array_equal(read_image(tmp_path / "la.png", 2), np.dstack([grey, grey // 2]))
    Image.fromarray(grey > 9).save(tmp_path / "two.png")
    np.testing.assert_array_equal(read_image(tmp_path / "two.png", 1)[..., 0], np.where(grey > 9, 255, 0))
    Image.fromarray(grey.astype(np.uint16) << 8).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png", 1), grey[..., None])
    Image.fromarray(FOUR[..., :3]).convert("P").save(tmp_path / "palette.png")
    for name, has, wanted in (("rgba", 4, 1), ("grey", 1, 4), ("la", 2, 1), ("palette", 3, 1)):
        path = tmp_path / f"{name}.png"
        for read in (read_image, refuse_channels, open_image):
            said = f"has {has} channel{'s' * (has > 1)}, and the network expects {wanted}"
            refused(path, said, read=lambda path, read=read, wanted=wanted: read(path, wanted))
        refuse_channels(path, has if name != "palette" else 3)
    for file in ("grey.png", "deep.png", "two.png"):
        refuse_channels(tmp_path / file, 1)


def test_a_raster_of_other_channels_is_refused_by_its_header(tmp_path: Path) -> None:
    path = npy(tmp_path / "a.npy", FOUR)
    for read in (read_image, refuse_channels, open_image):
        with pytest.raises(WrongChannels) as caught:
            read(path, 3)
        assert str(caught.value) == (
            f"{path} has 4 channels, and the network expects 3: give images of 3, or train a network for 4, "
            "by --set protocol.network.channels=4."
        )
    refuse_channels(path, 4)


def test_what_is_shown_of_channels() -> None:
    np.testing.assert_array_equal(shown(FOUR), FOUR[..., :3])
    np.testing.assert_array_equal(shown(FOUR[..., :2]), np.dstack([FOUR[..., 0]] * 3))
    rgb = FOUR[..., :3].copy()
    assert np.shares_memory(shown(rgb), rgb)


# A folder ---------------------------------------------------------------------------------------------------


def mine(root: Path, *images: np.ndarray) -> Folder:
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for number, image in enumerate(images):
        np.save(root / "images" / f"i{number}.npy", image)
        label = np.zeros(image.shape[:2], np.uint8)
        label[0] = 1
        Image.fromarray(label).save(root / "labels" / f"i{number}.png")
    (root / "classes.txt").write_text("a\nb\n")
    ids = [f"i{number}\n" for number in range(len(images))]
    (root / "train.txt").write_text("".join(ids[:-1]))
    (root / "test.txt").write_text(ids[-1])
    return Folder(root, "mine")


def test_mean_and_std_of_channels_by_hand(tmp_path: Path) -> None:
    """Two images of other sizes: each pixel counts alike."""
    first = np.array([[[0, 255, 51], [0, 255, 51]]], np.uint8)  # 1 x 2
    second = np.array([[[255, 0, 51]], [[255, 255, 51]]], np.uint8)  # 2 x 1
    found = channels.measure(mine(tmp_path / "mine", first, second, first), ("i0", "i1"))
    assert found.mean == (0.5, 0.75, 0.2) and found.images == 2
    assert found.std == (0.5, round(float(np.sqrt(0.75 * 0.25)), 9), 1.0) and found.constant == [3]
    data = mine(tmp_path / "b", first, second[..., :2], first)
    with pytest.raises(DataError, match=r"'i1' has 2 channels, and 'i0' has 3; a network takes one number"):
        channels.measure(data, ("i0", "i1"))


def test_verify_says_other_channels_and_refuses_several(tmp_path: Path) -> None:
    data = mine(tmp_path / "mine", FOUR, FOUR + 1, FOUR + 2)
    split = Split("mine", "full", ("i0", "i1"), (), (), ("i2",))
    found = verify(data, [split])
    assert not found.problems
    assert found.look[0] == (
        "the images of mine have 4 channels: measure them by `data stats`, then run with --set "
        "protocol.network.channels=4."
    )
    np.save(data.root / "images" / "i1.npy", FOUR[..., :3])
    (problem,) = verify(data, [split]).problems
    assert problem == (
        "the images of mine have several numbers of channels: 2 of 4 ('i0', 'i2'); 1 of 3 ('i1'); a network "
        "takes one number: mend the images, or leave them out."
    )
