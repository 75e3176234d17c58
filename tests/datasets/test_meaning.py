"""dataset.yaml: what the numbers and colours of masks mean, or a sentence that says which line is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from bench.contract import IGNORE
from bench.errors import DataError
from datasets.cityscapes import TRAIN_IDS
from datasets.cityscapes_ids import CLASSES
from datasets.encodings import disagreement
from datasets.folder import Folder
from datasets.meaning import Meaning, codes_of, meaning_of, read_about, rgb


def folder(
    root: Path, masks: dict[str, np.ndarray | Image.Image], about: str = "", classes: str = "ground road car"
) -> Folder:
    """A data set with these masks, by their file names."""
    for name in ("images", "labels"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name, mask in masks.items():
        image = mask if isinstance(mask, Image.Image) else Image.fromarray(mask)
        image.save(root / "labels" / name)
        Image.new("RGB", image.size).save(root / "images" / f"{Path(name).stem}.png")
    (root / "train.txt").write_text("".join(f"{Path(name).stem}\n" for name in masks))
    (root / "classes.txt").write_text("\n".join(classes.split(" ")) + "\n")
    if about:
        (root / "dataset.yaml").write_text(about)
    return Folder(root, "mine")


def read(
    root: Path, stored: np.ndarray | Image.Image, about: str, classes: str = "ground road car"
) -> list[object]:
    return folder(root, {"a.png": stored}, about, classes).mask("a").tolist()


def refused(root: Path, about: str, *words: str) -> None:
    with pytest.raises(DataError) as caught:
        folder(root, {"a.png": np.zeros((2, 2), np.uint8)}, about)
    said = str(caught.value)
    assert said.startswith(str(root / "dataset.yaml")) and "\n" not in said, said
    assert all(word in said for word in words), said


# Numbers ----------------------------------------------------------------------------------------------------

GAPS = np.array([[7, 7, 11], [26, 255, 11]], np.uint8)


@pytest.mark.parametrize(
    ("stored", "about", "ids"),
    [
        (GAPS, "label_map: {7: road, 11: car, 26: ground}", [[1, 1, 2], [0, 255, 2]]),
        (GAPS, "label_map: {7: 1, 11: 255, 26: 1}", [[1, 1, 255], [1, 255, 255]]),
        (GAPS, "label_map: {7: 1, 26: 2}\nignore: [11]", [[1, 1, 255], [2, 255, 255]]),
        (GAPS, "label_map: {7: 1, 11: 0, 26: 2, 255: 0}", [[1, 1, 0], [2, 0, 0]]),
        (np.array([[0, 1, 2, 3, 255]], np.uint8), "label_map: from_1", [[255, 0, 1, 2, 255]]),
        (np.array([[0, 255, 255]], np.uint8), "label_map: {0: 0, 255: 1}", [[0, 1, 1]]),
        (np.array([[0, 254, 2]], np.uint8), "ignore: [254]", [[0, 255, 2]]),
        (np.array([[0, 1, 2]], np.uint8), "ignore: 1", [[0, 255, 2]]),
        (np.array([[0, 1000, 40_000]], np.uint16), "label_map: {0: 0, 1000: 1, 40000: 2}", [[0, 1, 2]]),
    ],
)
def test_numbers_become_classes(tmp_path: Path, stored: np.ndarray, about: str, ids: list[list[int]]) -> None:
    assert read(tmp_path, stored, about) == ids


def test_label_ids_of_cityscapes_by_the_names_of_the_classes(tmp_path: Path) -> None:
    stored = np.arange(34, dtype=np.uint8)[None]
    names = [name for _, name, _ in CLASSES]
    (tmp_path / "classes.txt").write_text("\n".join(names))
    meaning = meaning_of(*about_of(tmp_path, "label_map: cityscapes_ids"), names)
    np.testing.assert_array_equal(meaning.of_numbers(tmp_path, stored), TRAIN_IDS[stored])
    meaning = meaning_of(*about_of(tmp_path, "label_map: cityscapes_ids"), ["sky", "road"])
    assert {k: int(c) for k, c in enumerate(meaning.of_numbers(tmp_path, stored)[0]) if c != IGNORE} == {
        7: 1,
        23: 0,
    }
    refused(tmp_path / "mine", "label_map: cityscapes_ids", "'ground' is none", "Cityscapes")


def about_of(root: Path, text: str) -> tuple[object, Path]:
    file = root / "dataset.yaml"
    file.write_text(text)
    return read_about(file), file


@pytest.mark.parametrize(
    ("stored", "about", "words"),
    [
        (GAPS, "label_map: {7: 1, 26: 2}", ("holds the number 11 in 2 pixels", "label_map", "ignore")),
        (GAPS, "label_map: {7: 1}", ("holds the numbers 11, 26 in 3 pixels",)),
        (GAPS, "ignore: [11]", ("holds the numbers 7, 26 in 3 pixels",)),
        (np.array([[0, 4]], np.uint8), "label_map: from_1", ("holds the number 4 in 1 pixels",)),
        (GAPS, "", ("holds the ids 7, 11, 26, but there are 3 classes", "label_map in dataset.yaml")),
    ],
)
def test_a_number_without_meaning_is_named(
    tmp_path: Path, stored: np.ndarray, about: str, words: tuple[str, ...]
) -> None:
    data = folder(tmp_path, {"a.png": stored}, about)
    with pytest.raises(DataError) as caught:
        data.mask("a")
    assert str(tmp_path / "labels" / "a.png") in str(caught.value)
    assert all(word in str(caught.value) for word in words), caught.value


def test_an_optimised_palette_is_read_by_its_greys_where_they_alone_have_meaning(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 1]], np.uint8), "P")
    image.putpalette([0, 0, 0, 255, 255, 255])
    assert read(tmp_path / "a", image, "label_map: {0: 0, 255: 1}") == [[0, 1, 1]]
    with pytest.raises(DataError, match="out of order"):
        read(tmp_path / "b", image, "label_map: {0: 0, 1: 2, 255: 1}")
    with pytest.raises(DataError, match="out of order"):
        read(tmp_path / "c", image, "")


# Colours ----------------------------------------------------------------------------------------------------

COLOURED = np.array([[[0, 0, 0], [128, 64, 128]], [[0, 0, 142], [224, 224, 192]]], np.uint8)
TABLE = "colours: {ground: [0, 0, 0], 1: [128, 64, 128], car: '#00008E'}\nignore: [224, 224, 192]"
IDS = [[0, 1], [2, 255]]


@pytest.mark.parametrize(
    "about",
    [
        TABLE,
        "colours: {ground: [0, 0, 0], road: [128, 64, 128], car: [0, 0, 142], 255: [224, 224, 192]}",
        "colours: {0: [[0, 0, 0], [9, 9, 9]], 1: ['#804080'], 2: [0, 0, 142]}\nignore: [[224, 224, 192]]",
    ],
)
@pytest.mark.parametrize("form", ["RGB", "RGBA", "P", "bmp", "tif"])
def test_colours_become_classes(tmp_path: Path, about: str, form: str) -> None:
    image = Image.fromarray(COLOURED)
    name = f"a.{form}" if form in ("bmp", "tif") else "a.png"
    if form == "P":
        image = image.quantize(4)
        assert (np.asarray(image.convert("RGB")) == COLOURED).all()
    elif form == "RGBA":
        image = image.convert("RGBA")
    assert folder(tmp_path, {name: image}, about).mask("a").tolist() == IDS


def test_grey_counts_as_the_colour_that_it_shows(tmp_path: Path) -> None:
    about = "colours: {ground: [0, 0, 0], road: [255, 255, 255], car: [9, 9, 9]}"
    assert read(tmp_path, np.array([[0, 255, 9]], np.uint8), about) == [[0, 1, 2]]
    assert read(tmp_path, np.array([[False, True]]), about) == [[0, 1]]


def test_palettes_in_any_order_agree_by_their_colours(tmp_path: Path) -> None:
    masks = {}
    for number, order in enumerate(([0, 1, 2, 3], [2, 0, 3, 1])):
        colours = COLOURED.reshape(-1, 3)[order]
        image = Image.fromarray(np.argsort(order).astype(np.uint8).reshape(2, 2), "P")
        image.putpalette(colours.ravel().tolist())
        masks[f"t{number}.png"] = image
    plain = folder(tmp_path / "plain", masks)
    assert "contradict" in str(disagreement(plain, ("t0", "t1")))
    data = folder(tmp_path / "mine", masks, TABLE)
    assert disagreement(data, ("t0", "t1")) is None
    assert data.mask("t0").tolist() == data.mask("t1").tolist() == IDS
    assert data.palette is not None and data.palette.tolist() == [[0, 0, 0], [128, 64, 128], [0, 0, 142]]


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (
            [[[1, 2, 3], [1, 2, 3], [0, 0, 0]]],
            ("shows the colour [1, 2, 3] in 2 pixels", "to colours", "to ignore"),
        ),
        ([[[k, 0, 0] for k in range(60)]], ("and 54 more colours", "resizing with blending")),
    ],
)
def test_a_colour_without_meaning_is_named(
    tmp_path: Path, pixels: list[list[list[int]]], words: tuple[str]
) -> None:
    data = folder(tmp_path, {"a.png": np.array(pixels, np.uint8)}, TABLE)
    with pytest.raises(DataError) as caught:
        data.mask("a")
    assert str(caught.value).startswith(str(tmp_path / "labels" / "a.png"))
    assert all(word in str(caught.value) for word in words), caught.value


def test_hidden_and_cut_colours_are_refused(tmp_path: Path) -> None:
    rgba = np.dstack([COLOURED, np.array([[255, 255], [255, 0]], np.uint8)])
    with pytest.raises(DataError, match="transparent in 1 pixels"):
        read(tmp_path / "a", Image.fromarray(rgba), TABLE)
    with pytest.raises(DataError, match="16 bits a channel"):
        read(tmp_path / "b", np.zeros((2, 2), np.uint16), TABLE)


def test_a_colour_mask_without_a_table_says_where_to_write_one(tmp_path: Path) -> None:
    data = folder(tmp_path, {"a.png": COLOURED})
    with pytest.raises(DataError, match=r"is a colour mask \(mode RGB\).*under colours \(`data verify`"):
        data.mask("a")


# Border -----------------------------------------------------------------------------------------------------


def test_a_border_by_hand(tmp_path: Path) -> None:
    stored = np.array([[0, 0, 0, 1, 1, 1, 255, 255, 1, 1]] * 5, np.uint8)
    assert read(tmp_path / "a", stored, "void_border: 1")[0] == [0, 0, 255, 255, 1, 1, 255, 255, 1, 1]
    assert read(tmp_path / "b", stored, "void_border: 2")[0] == [0, 255, 255, 255, 255, 1, 255, 255, 1, 1]
    dot = np.zeros((7, 7), np.uint8)
    dot[3, 3] = 2
    found = np.array(read(tmp_path / "c", dot, "void_border: 2"))
    assert (found[1:6, 1:6] == 255).all() and (found == 255).sum() == 25 and (found == 0).sum() == 24


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_a_border_is_what_its_definition_says(seed: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.choice(np.array([0, 1, 2, 255], np.uint8), (9, 11), p=[0.9, 0.04, 0.03, 0.03])
    found = Meaning(None, 3, void_border=width).bordered(mask)
    for y in range(9):
        for x in range(11):
            near = mask[max(y - width, 0) : y + width + 1, max(x - width, 0) : x + width + 1]
            several = len(set(near.ravel().tolist()) - {255}) > 1
            assert found[y, x] == (255 if several else mask[y, x])


# Tables of any form -----------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_table_of_numbers_is_its_inverse(tmp_path: Path, data: st.DataObject) -> None:
    classes = [f"c{k}" for k in range(data.draw(st.integers(1, 6)))]
    targets = st.sampled_from([*range(len(classes)), *classes, 255])
    table = data.draw(st.dictionaries(st.integers(0, 65_535), targets, min_size=1, max_size=8))
    meaning = meaning_of(*about_of(tmp_path, yaml.safe_dump({"label_map": table})), classes)
    for number, target in table.items():
        expected = classes.index(target) if isinstance(target, str) else target
        assert meaning.of_numbers(tmp_path, np.array([[number]])).tolist() == [[expected]]
    other = data.draw(st.integers(-5, 70_000).filter(lambda n: n not in table and n != IGNORE))
    with pytest.raises(DataError, match="does not say what that means"):
        meaning.of_numbers(tmp_path, np.array([[other]]))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_table_of_colours_is_its_inverse(tmp_path: Path, data: st.DataObject) -> None:
    part = st.integers(0, 255)
    colours = data.draw(st.lists(st.tuples(part, part, part), min_size=1, max_size=9, unique=True))
    classes = [f"c{k}" for k in range(len(colours))]
    table = {name: list(colour) for name, colour in zip(classes, colours, strict=True)}
    meaning = meaning_of(*about_of(tmp_path, yaml.safe_dump({"colours": table})), classes)
    order = data.draw(st.permutations(range(len(colours))))
    shown = np.array([[colours[k] for k in order]], np.uint8)
    assert meaning.of_colours(tmp_path, shown).tolist() == [list(order)]
    assert [rgb(int(code)) for code in codes_of(shown)[0]] == [colours[k] for k in order]
    other = data.draw(st.tuples(part, part, part).filter(lambda colour: colour not in colours))
    with pytest.raises(DataError, match="does not say what that means"):
        meaning.of_colours(tmp_path, np.array([[other]], np.uint8))


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=8,
    ),
    key=st.sampled_from(["label_map", "colours", "ignore", "void_border", "background"]),
)
def test_any_value_is_read_or_refused_in_a_sentence(tmp_path: Path, key: str, value: object) -> None:
    said = ""
    try:
        meaning_of(*about_of(tmp_path, yaml.safe_dump({key: value})), ("a", "b"))
    except DataError as error:
        said = str(error)
    assert not said or said.startswith(str(tmp_path / "dataset.yaml"))


WRONG = {
    "an unknown key": ("lable_map: {1: 0}", ("unknown key 'lable_map'", "did you mean 'label_map'?")),
    "two tables": ("label_map: {1: 0}\ncolours: {road: [1, 2, 3]}", ("holds label_map and colours",)),
    "a negative number": ("label_map: {-1: 0}", ("the key '-1'", "0..65535")),
    "a large number": ("label_map: {65536: 0}", ("the key '65536'",)),
    "the table turned round": ("label_map: {road: 1}", ("the key 'road'", "the class stands behind it")),
    "an unknown class": (
        "label_map: {1: raod}",
        ("label_map.1", "'raod' is no class", "did you mean 'road'?"),
    ),
    "an id that is no class": ("label_map: {1: 3}", ("label_map.1: 3 is no class", "0..2")),
    "an id below none": ("label_map: {1: -1}", ("label_map.1: -1 is no class",)),
    "true": ("label_map: {1: true}", ("label_map.1: True is no class",)),
    "no table": ("label_map: [1, 2]", ("label_map must be a table",)),
    "an empty table": ("label_map: {}", ("label_map must be a table",)),
    "an unknown preset": ("label_map: from_one", ("unknown label_map 'from_one'", "from_1")),
    "a number twice": ("label_map: {1: 0, 1: 1}", ("key 1 stands twice",)),
    "once as text": ("label_map: {1: 0, '1': 1}", ("key 1 stands twice",)),
    "a number in base eight": ("label_map: {010: 0}", ("no plain whole number",)),
    "kept and ignored": ("label_map: {1: 0}\nignore: [1]", ("1 stands in label_map and in ignore",)),
    "ignored twice": ("ignore: [1, 1]", ("a number twice",)),
    "a colour beside numbers": ("label_map: {1: 0}\nignore: [[1, 2, 3]]", ("stored numbers",)),
    "an unknown class of a colour": ("colours: {raod: [1, 2, 3]}", ("colours.raod", "did you mean 'road'?")),
    "no colour": ("colours: {road: [1, 2]}", ("the colour of road must be three numbers",)),
    "a colour above 255": ("colours: {road: [1, 2, 256]}", ("the colour of road",)),
    "a colour by name": ("colours: {road: red}", ("the colour of road",)),
    "one colour twice": (
        "colours: {road: [1, 2, 3], car: '#010203'}",
        ("road and car have the same colour",),
    ),
    "a colour that is also ignored": ("colours: {road: [1, 2, 3]}\nignore: [1, 2, 3]", ("road and ignore",)),
    "a class twice": ("colours: {road: [1, 2, 3], 1: [4, 5, 6]}", ("one class as 'road' and as '1'",)),
    "a border below none": ("void_border: -1", ("void_border",)),
    "a wide border": ("void_border: 51", ("void_border", "50")),
    "half a pixel": ("void_border: 1.5", ("void_border",)),
    "an anchor": ("label_map: &a {1: 0}", ("anchors",)),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_dataset_yaml_is_one_sentence(tmp_path: Path, case: str) -> None:
    refused(tmp_path, WRONG[case][0], *WRONG[case][1])


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    data = folder(tmp_path, {"a.png": np.zeros((2, 2), np.uint8)})
    os.mkfifo(data.root / "dataset.yaml")
    with pytest.raises(DataError, match="is no plain file .a folder, a pipe or a device.;"):
        Folder(data.root, "mine")


def test_an_id_that_is_the_name_of_another_class_is_refused(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("1: a\n")
    about, file = about_of(tmp_path, "label_map: {7: 1}")
    with pytest.raises(DataError, match="also the name of another class"):
        meaning_of(about, file, ("1", "x"))


# Background and what is said --------------------------------------------------------------------------------


def test_a_table_alone_does_not_change_the_background(tmp_path: Path) -> None:
    mask = {"a.png": np.zeros((2, 2), np.uint8)}
    assert folder(tmp_path / "a", mask, "ignore: [9]", "background road").background == 0
    assert folder(tmp_path / "b", mask, "background: null\nignore: [9]", "background road").background is None
    assert folder(tmp_path / "c", mask, "background: road\nignore: [9]", "background road").background == 1


def test_it_is_said_that_masks_are_read_by_a_table(tmp_path: Path) -> None:
    mask = {"a.png": np.zeros((2, 2), np.uint8)}
    (said,) = folder(tmp_path, mask, "label_map: from_1\nvoid_border: 2").notes
    assert said == f"{tmp_path / 'dataset.yaml'}: masks are read by its label_map and void_border."
    assert folder(tmp_path, mask, "background: road").notes == ()
