"""Palettes and depths by hand, and the property that counts: whatever a program makes of a mask, it is read
with its own ids or refused, never with others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bench.contract import Dataset
from bench.errors import DataError
from datasets.decode import read_mask
from datasets.encodings import colours, disagreement
from datasets.verify import stats

CLASSES = 5
OWN = np.array([[9, 9, 60], [200, 10, 10], [10, 200, 10], [10, 10, 200], [90, 80, 70]], np.uint8)


def save(path: Path, indices: np.ndarray, palette: np.ndarray, bits: int = 8) -> Path:
    picture = Image.fromarray(indices.astype(np.uint8))
    picture = Image.frombytes("P", picture.size, picture.tobytes())
    picture.putpalette(palette.astype(np.uint8).ravel().tolist())
    picture.save(path, bits=bits)
    return path


def renumbered(ids: np.ndarray, table: np.ndarray, order: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The same colours with another number each, as a paint program or an optimiser writes them."""
    place = np.zeros(256, np.uint8)
    place[list(order)] = np.arange(len(order))
    return place[ids], table[list(order)]


GREYS = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
VOC = colours(256)
VOC[255] = (224, 224, 192)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from([0, 1, 2, 3, 4, 255]), min_size=12, max_size=12),
    st.sampled_from(["grey", "voc", "voc with its table"]),
    st.randoms(use_true_random=False),
)
def test_a_renumbered_palette_is_read_by_meaning_or_refused(
    values: list[int], which: str, random: object
) -> None:
    ids = np.array(values, np.uint8).reshape(3, 4)
    order = sorted({*values})
    random.shuffle(order)  # type: ignore[attr-defined]
    indices, palette = renumbered(ids, GREYS if which == "grey" else VOC, order)
    table = colours(CLASSES) if which == "voc with its table" else None
    with TemporaryDirectory() as folder:
        path = save(Path(folder) / "m.png", indices, palette)
        try:
            found = read_mask(path, (3, 4), CLASSES, palette=table)
        except DataError:
            found = ids if table is None else None  # a table leaves no doubt
        np.testing.assert_array_equal(found, ids)


def test_greys_that_an_optimiser_made_a_palette_are_read_by_value(tmp_path: Path) -> None:
    ids = np.array([[0, 3, 4, 255]], np.uint8)
    path = save(tmp_path / "m.png", *renumbered(ids, GREYS, [0, 255, 4, 3]), bits=2)
    assert Image.open(path).mode == "P"
    np.testing.assert_array_equal(read_mask(path, None, CLASSES), ids)


@pytest.mark.parametrize("palette", [[0, 255], [255, 0], [0, 127, 255], [10, 20, 30]])
def test_greys_that_may_mean_two_things_are_refused(tmp_path: Path, palette: list[int]) -> None:
    indices = np.arange(len(palette), dtype=np.uint8)[None]
    path = save(tmp_path / "m.png", indices, GREYS[palette])
    with pytest.raises(DataError, match="palette of greys") as caught:
        read_mask(path, None, 3)
    assert str(path) in str(caught.value) and "8-bit grey PNG" in str(caught.value)


def test_a_palette_of_ones_own_keeps_its_indices(tmp_path: Path) -> None:
    ids = np.array([[0, 1, 2, 3, 4]], np.uint8)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "own.png", ids, OWN), None, CLASSES), ids)
    # One colour of VOC among others of one's own is chance.
    own = np.concatenate([OWN[:4], [[128, 0, 0]]])
    np.testing.assert_array_equal(read_mask(save(tmp_path / "chance.png", ids, own), None, CLASSES), ids)
    black = np.zeros((5, 3), np.uint8)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "black.png", ids, black), None, CLASSES), ids)


def test_the_colours_of_voc_in_another_order_are_read_by_a_table_or_refused(tmp_path: Path) -> None:
    ids = np.array([[0, 1, 2, 255]], np.uint8)
    path = save(tmp_path / "m.png", *renumbered(ids, VOC, [0, 255, 2, 1]))
    np.testing.assert_array_equal(read_mask(path, None, 21, palette=colours(21)), ids)
    with pytest.raises(DataError, match="colour of class") as caught:
        read_mask(path, None, 21)
    assert str(path) in str(caught.value)
    whole = save(tmp_path / "whole.png", ids, VOC)
    np.testing.assert_array_equal(read_mask(whole, None, 21), ids)


# Beside each other ------------------------------------------------------------------------------------------


class Masks(Dataset):
    """Masks alone, by path."""

    name = "masks"
    classes = tuple("abcde")

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def ids(self, listing: str) -> tuple[str, ...]:
        return tuple(sorted(path.stem for path in self.folder.glob("*.png")))

    def image(self, id: str) -> np.ndarray:
        raise NotImplementedError

    def mask(self, id: str) -> np.ndarray:
        return read_mask(self.folder / f"{id}.png", None, len(self.classes))

    def files(self, id: str, what: str) -> tuple[Path, ...]:
        return (self.folder / f"{id}.png",) if what == "mask" else ()


def said(folder: Path) -> str | None:
    masks = Masks(folder)
    return disagreement(masks, masks.ids("train"))


def test_palettes_that_contradict_each_other_are_refused_with_both_names(tmp_path: Path) -> None:
    ids = np.array([[0, 1, 2]], np.uint8)
    save(tmp_path / "a.png", ids, OWN)
    save(tmp_path / "b.png", ids, OWN)
    assert said(tmp_path) is None
    save(tmp_path / "c.png", *renumbered(ids, OWN, [0, 2, 1]))
    assert "a.png" in str(said(tmp_path)) and "c.png" in str(said(tmp_path))
    with pytest.raises(DataError, match="contradict"):
        stats(Masks(tmp_path), "train")


def test_one_colour_at_two_indices_is_a_contradiction(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.array([[0, 1]], np.uint8), OWN)
    save(tmp_path / "b.png", np.array([[0, 2]], np.uint8), OWN[[0, 3, 1]])
    assert "contradict" in str(said(tmp_path))


def test_entries_that_no_pixel_has_contradict_nothing(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.array([[0, 1]], np.uint8), OWN)
    save(tmp_path / "b.png", np.array([[0, 1]], np.uint8), np.concatenate([OWN[:2], OWN[:1] + 7]))
    assert said(tmp_path) is None


def test_palettes_that_are_read_by_value_contradict_nothing(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.array([[0, 1]], np.uint8), GREYS[[0, 3]])
    save(tmp_path / "b.png", np.array([[0, 1]], np.uint8), GREYS[[0, 4]])
    assert said(tmp_path) is None
    assert [row.images for row in stats(Masks(tmp_path), "train").rows] == [2, 0, 0, 1, 1, 0]


def test_few_bits_beside_eight_are_refused_unless_all_is_zero(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 1, 255]], np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.array([[False, False]])).save(tmp_path / "b.png")
    assert said(tmp_path) is None
    Image.fromarray(np.array([[False, True]])).save(tmp_path / "c.png")
    assert "c.png is grey of 1 bits" in str(said(tmp_path)) and "a.png" in str(said(tmp_path))


def test_few_bits_alone_are_ids(tmp_path: Path) -> None:
    Image.fromarray(np.array([[False, True]])).save(tmp_path / "a.png")
    assert said(tmp_path) is None
    assert [row.images for row in stats(Masks(tmp_path), "train").rows] == [1, 1, 0, 0, 0, 0]


def test_what_is_no_png_is_left_to_the_reading(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no png")
    (tmp_path / "b.png").mkdir()
    assert said(tmp_path) is None


# Sound masks that must not be taken for others --------------------------------------------------------------


@pytest.mark.parametrize("table", [None, colours(21)])
def test_a_palette_filled_up_with_black_says_nothing_of_255(tmp_path: Path, table: np.ndarray | None) -> None:
    ids = np.array([[0, 15, 255]], np.uint8)
    path = save(tmp_path / "m.png", ids, np.concatenate([colours(21), np.zeros((235, 3), np.uint8)]))
    np.testing.assert_array_equal(read_mask(path, None, 21, palette=table), ids)
    ramp = np.concatenate([GREYS[:21], np.zeros((235, 3), np.uint8)])
    np.testing.assert_array_equal(read_mask(save(tmp_path / "g.png", ids, ramp), None, 21), ids)


@pytest.mark.parametrize("table", [None, colours(21)])
def test_a_grey_among_the_colours_of_a_palette_keeps_its_index(
    tmp_path: Path, table: np.ndarray | None
) -> None:
    car = np.array([[0, 7]], np.uint8)  # grey 128 in the colours of VOC
    path = save(tmp_path / "car.png", car, VOC)
    np.testing.assert_array_equal(read_mask(path, None, 150, palette=table), car)
    city = np.array([[128, 64, 128], [244, 35, 232], [70, 70, 70]], np.uint8)
    building = np.array([[2, 2]], np.uint8)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "b.png", building, city), None, 100), building)
    one = np.array([[1, 1]], np.uint8)
    black = np.zeros((256, 3), np.uint8)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "o.png", one, black), None, 3), one)


def test_one_file_of_each_palette_is_looked_at_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.encodings.MOST_DECODED", 3)
    ids = np.array([[0, 1, 2]], np.uint8)
    for k in range(5):
        save(tmp_path / f"a{k}.png", ids, OWN)
    save(tmp_path / "z.png", *renumbered(ids, OWN, [0, 2, 1]))
    assert "contradict" in str(said(tmp_path))


def test_a_damaged_mask_is_left_to_the_reading(tmp_path: Path) -> None:
    ids = np.array([[0, 1, 2]], np.uint8)
    save(tmp_path / "a.png", ids, OWN)
    content = save(tmp_path / "b.png", *renumbered(ids, OWN, [0, 2, 1])).read_bytes()
    for bit in range(8 * 33, 8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        (tmp_path / "b.png").write_bytes(flipped)
        said(tmp_path)


def test_few_bits_beside_an_optimised_palette_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.png", *renumbered(np.array([[0, 1, 255]], np.uint8), GREYS, [0, 255, 1]))
    Image.fromarray(np.array([[False, True]])).save(tmp_path / "b.png")
    assert "b.png is grey of 1 bits" in str(said(tmp_path))
