"""Masks from the shapes of COCO's and LabelMe's JSON, by hand; every wrong entry is one sentence."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as pycoco

from bench.errors import BenchError, ConfigError, DataError
from datasets.coco import Coco, _rle, _runs
from datasets.convert import convert
from datasets.folder import Folder
from datasets.labelme import LabelMe

HEIGHT, WIDTH = 12, 16
Edit = Callable[[dict[str, Any]], object]


def picture(path: Path, orientation: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (WIDTH, HEIGHT)).save(path, exif=exif)


def square(x: int, y: int, side: int) -> list[int]:
    return [x, y, x + side, y, x + side, y + side, x, y + side]


def entry(id: int, image: int, category: int, segmentation: object) -> dict[str, Any]:
    return {"id": id, "image_id": image, "category_id": category, "segmentation": segmentation, "iscrowd": 0}


DOCUMENT: dict[str, Any] = {
    "images": [
        {"id": 1, "file_name": "sub/a.jpg", "height": HEIGHT, "width": WIDTH},
        {"id": 2, "file_name": "C:\\data\\images\\b.jpg", "height": HEIGHT, "width": WIDTH},
        {"id": 3, "file_name": "./none.jpg", "height": HEIGHT, "width": WIDTH},
    ],
    "categories": [{"id": 9, "name": "dog"}, {"id": 4, "name": "cat"}],
    "annotations": [
        entry(1, 1, 4, [square(1, 1, 3)]),
        entry(2, 1, 9, [square(0, 0, 8), square(10, 10, 2)]),
        entry(3, 2, 9, {"size": [HEIGHT, WIDTH], "counts": [2, 4, 186]}),
    ],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("sub/a.jpg", "b.jpg", "none.jpg"):
        picture(tmp_path / "mine" / "images" / name)
    return tmp_path / "mine"


def coco(root: Path, edit: Edit = lambda _: None, name: str = "instances.json") -> Coco:
    document = copy.deepcopy(DOCUMENT)
    edit(document)
    (root / name).write_text(json.dumps(document))
    return Coco(root, "mine", [root / name])


# COCO -------------------------------------------------------------------------------------------------------


def test_polygons_and_rle_by_hand(root: Path) -> None:
    made = coco(root)
    assert made.classes == ("background", "cat", "dog") and made.background == 0
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[0:8, 0:8] = 2
    expected[10:12, 10:12] = 2
    expected[1:4, 1:4] = 1  # the smaller on top, though it stands first
    np.testing.assert_array_equal(made.mask("sub/a"), expected)
    runs = np.zeros(HEIGHT * WIDTH, np.uint8)
    runs[2:6] = 2
    np.testing.assert_array_equal(made.mask("b"), runs.reshape(WIDTH, HEIGHT).T)  # down the columns
    assert not np.asarray(made.mask("none")).any()
    assert made.mask("other") is None


def test_a_folder_from_coco_reads_as_its_masks(root: Path, tmp_path: Path) -> None:
    (root / "dataset.yaml").write_text("void_border: 1")
    made = coco(root)
    assert made.lists == {"train": ("b", "none", "sub/a")}
    assert made.notes[0] == "3 images stand in train.txt." and "what is scored" in made.notes[1]
    assert convert(made, tmp_path / "clean").masks == 3
    mask = Folder(tmp_path / "clean", "clean").mask("sub/a")
    np.testing.assert_array_equal(mask, made.mask("sub/a"))
    assert (mask == 255).any() and mask[2, 2] == 1


def test_two_objects_of_one_class_have_a_border_between_them(root: Path) -> None:
    """Two dogs side by side, and a cat on a dog; parts of one annotation have none between them."""

    def edit(document: dict[str, Any]) -> None:
        dogs = [[square(0, 0, 4)], [square(4, 0, 4)], [square(0, 8, 4), square(4, 8, 4)]]
        document["annotations"] = [entry(k, 1, 9, dog) for k, dog in enumerate(dogs)]

    assert np.asarray(coco(root, edit).mask("sub/a"))[0, :9].tolist() == [2] * 8 + [0]
    (root / "dataset.yaml").write_text("void_border: 1")
    mask = np.asarray(coco(root, edit).mask("sub/a"))
    assert mask[0, :10].tolist() == [2, 2, 2, 255, 255, 2, 2, 255, 255, 0]
    assert mask[10, :10].tolist() == [2, 2, 2, 2, 2, 2, 2, 255, 255, 0]


@pytest.mark.parametrize(
    ("name", "listing"),
    [
        ("latest", "train"),
        ("interval", "train"),
        ("train_val", "train"),
        ("instancesVal2017", "val"),
        ("validation-1", "val"),
        ("TEST", "test"),
        ("testset", "test"),
    ],
)
def test_a_word_of_its_name_says_which_list_a_file_is_of(root: Path, name: str, listing: str) -> None:
    (root / f"{name}.json").write_text(json.dumps(DOCUMENT))
    assert list(Coco(root, "mine", [root / f"{name}.json"]).lists) == [listing]


def test_a_label_that_no_list_of_names_can_hold_is_named(root: Path, tmp_path: Path) -> None:
    document = copy.deepcopy(DOCUMENT)
    document["categories"][0]["name"] = "7"
    (root / "train.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"^mine: a class name .*: classes\.txt: line . is the number"):
        convert(Coco(root, "mine", [root / "train.json"]), tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_lists_are_those_of_the_files_or_of_the_folder(root: Path) -> None:
    document = copy.deepcopy(DOCUMENT)
    for name, part in (("instances_train2017.json", slice(0, 2)), ("instances_val2017.json", slice(2, 3))):
        images = DOCUMENT["images"][part]
        known = {one["id"] for one in images}
        document = DOCUMENT | {"images": images}
        document["annotations"] = [one for one in DOCUMENT["annotations"] if one["image_id"] in known]
        (root / name).write_text(json.dumps(document))
    files = [root / "instances_train2017.json", root / "instances_val2017.json"]
    assert Coco(root, "mine", files).lists == {"train": ("b", "sub/a"), "val": ("none",)}
    (root / "train.txt").write_text("sub/a\nextra\n")
    (root / "test.txt").write_text("b\n")
    picture(root / "images" / "extra.png")
    made = Coco(root, "mine", files)
    assert made.lists == {"train": ("sub/a", "extra"), "test": ("b",)} and made.mask("extra") is None
    assert made.notes == (f"1 labeled images stand in no list of {root} ('none') and are left out.",)
    with pytest.raises(DataError, match="stands in two files"):
        Coco(root, "mine", [files[0], files[0]])


def test_images_without_labels_are_said(root: Path) -> None:
    picture(root / "images" / "extra.png")
    assert "1 images have no labels ('extra') and are left out" in coco(root).notes[2]


def test_classes_are_those_of_the_folder_where_it_names_them(root: Path) -> None:
    (root / "classes.txt").write_text("dog\ncat\n")
    made = coco(root)
    assert made.classes == ("dog", "cat") and made.background is None
    mask = np.asarray(made.mask("sub/a"))
    assert mask[0, 0] == 0 and mask[2, 2] == 1 and mask[11, 15] == 255  # no background: no label
    (root / "dataset.yaml").write_text("background: cat")
    assert np.asarray(coco(root).mask("sub/a"))[11, 15] == 1
    (root / "classes.txt").write_text("dog\ncats\n")
    (root / "dataset.yaml").unlink()
    with pytest.raises(DataError, match="'cat' .1 shapes.*does not name it.*did you mean 'cats'"):
        coco(root)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0, 1))
def test_any_rle_is_its_mask(seed: int, share: float) -> None:
    drawn = (np.random.default_rng(seed).random((HEIGHT, WIDTH)) < share).astype(np.uint8)
    flat = drawn.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, flat.size]).tolist()
    runs = [0, *runs] if flat[0] else runs
    packed = pycoco.encode(np.asfortranarray(drawn))["counts"].decode()
    assert _runs(packed) == runs
    for counts in (runs, packed):
        rle = _rle({"segmentation": {"size": [HEIGHT, WIDTH], "counts": counts}}, (HEIGHT, WIDTH), "x")
        np.testing.assert_array_equal(pycoco.decode(rle), drawn)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(min_codepoint=1, max_codepoint=127), max_size=12) | st.text(max_size=6))
def test_any_text_is_an_rle_of_that_size_or_refused(text: str) -> None:
    annotation = {"segmentation": {"size": [HEIGHT, WIDTH], "counts": text}}
    try:
        rle = _rle(annotation, (HEIGHT, WIDTH), "annotation 7")
    except DataError as error:
        assert str(error).startswith("annotation 7")  # noqa: PT017
        return
    assert pycoco.decode(rle).shape == (HEIGHT, WIDTH)
    assert pycoco.area(rle) == sum((_runs(text) or [])[1::2])


def of(key: str, number: int = 0, **fields: object) -> Edit:
    return lambda document: document[key][number].update(fields)


def without(key: str, number: int, field: str) -> Edit:
    return lambda document: document[key][number].pop(field)


WRONG_COCO: dict[str, tuple[Edit, tuple[str, ...]]] = {
    "no categories": (lambda d: d.pop("categories"), ("has no list 'categories'",)),
    "a category twice": (of("categories", 0, id=4), ("two categories of the id 4",)),
    "a name twice": (of("categories", 0, name="cat"), ("two categories of the name 'cat'",)),
    "a category without name": (without("categories", 0, "name"), ("needs an id and a name",)),
    "an image that is not there": (of("images", 0, file_name="gone.jpg"), ("the image 1", "does not exist")),
    "an image twice": (of("images", 0, file_name="b.jpg"), ("stands twice",)),
    "an id twice": (of("images", 0, id=2), ("stands twice",)),
    "an image without file": (without("images", 0, "file_name"), ("needs an id and a file_name",)),
    "an image above its folder": (of("images", 0, file_name="../.."), ("names no image",)),
    "another size": (of("images", 0, height=13), ("16x13 there, and 16x12",)),
    "a size turned": (of("images", 0, height=WIDTH, width=HEIGHT), ("an EXIF tag turns the image",)),
    "no size": (without("images", 0, "height"), ("16xNone there",)),
    "an unknown image": (of("annotations", 0, image_id=77), ("annotation 1 is of the image '77'",)),
    "an unknown category": (of("annotations", 0, category_id=[4]), ("annotation 1 is of the category",)),
    "half a point": (of("annotations", 0, segmentation=[[1, 2, 3, 4, 5, 6, 7]]), ("annotation 1", "x, y")),
    "two points": (of("annotations", 0, segmentation=[[1, 2, 3, 4]]), ("has 2 points, and needs 3",)),
    "a polygon of text": (of("annotations", 0, segmentation=[["a"] * 6]), ("pairs of numbers",)),
    "a point at infinity": (of("annotations", 0, segmentation=[[1e308, 2, 3, 4, 5, 6]]), ("far outside",)),
    "no number": (of("annotations", 0, segmentation=[[float("nan"), 2, 3, 4, 5, 6]]), ("pairs of numbers",)),
    "a number of 400 digits": (
        of("annotations", 0, segmentation=[[10**400, 2, 3, 4, 5, 6]]),
        ("pairs of numbers",),
    ),
    "true as a number": (of("annotations", 0, segmentation=[[True, 2, 3, 4, 5, 6]]), ("pairs of numbers",)),
    "RLE of another size": (
        of("annotations", 2, segmentation={"size": [9, 9], "counts": [81]}),
        ("[12, 16]",),
    ),
    "RLE without size": (of("annotations", 2, segmentation={"size": 9, "counts": [81]}), ("[12, 16]",)),
    "runs that are too short": (
        of("annotations", 2, segmentation={"size": [12, 16], "counts": [2, 4, 6]}),
        ("annotation 3", "do not make 16x12 pixels"),
    ),
    "runs below none": (
        of("annotations", 2, segmentation={"size": [12, 16], "counts": [-2, 194]}),
        ("do not make 16x12 pixels",),
    ),
    "text that is no RLE": (
        of("annotations", 2, segmentation={"size": [12, 16], "counts": "22"}),
        ("do not make 16x12 pixels",),
    ),
    "text that does not end": (
        of("annotations", 2, segmentation={"size": [12, 16], "counts": "ooo"}),
        ("do not make 16x12 pixels",),
    ),
    "a segmentation of text": (of("annotations", 2, segmentation="x"), ("must hold counts",)),
}


@pytest.mark.parametrize("case", WRONG_COCO)
def test_a_wrong_entry_is_one_sentence(root: Path, tmp_path: Path, case: str) -> None:
    edit, words = WRONG_COCO[case]
    with pytest.raises(DataError) as caught:
        convert(coco(root, edit), tmp_path / "clean")
    said = str(caught.value)
    assert said.startswith(str(root / "instances.json")) and "\n" not in said, said
    assert all(word in said for word in words), said
    assert not (tmp_path / "clean").exists()


@pytest.mark.parametrize(
    "text", ["", "[", "[]", "{}", '{"images": 3}', "nul", '{"a": 1, "a": 2}', "[" * 100_000]
)
def test_what_is_no_coco_is_one_sentence(root: Path, text: str) -> None:
    (root / "x.json").write_text(text)
    with pytest.raises(DataError) as caught:
        Coco(root, "mine", [root / "x.json"])
    assert str(root / "x.json") in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(DataError, match="does not exist"):
        Coco(root, "mine", [root / "gone.json"])


def test_boxes_alone_are_no_masks(root: Path) -> None:
    def some(document: dict[str, Any]) -> None:
        document["annotations"][0]["segmentation"] = []

    def all_of_them(document: dict[str, Any]) -> None:
        for one in document["annotations"]:
            one["segmentation"] = []

    assert "1 annotations have a box and no segmentation" in coco(root, some).notes[0]
    with pytest.raises(DataError, match="none of its 3 annotations has a segmentation"):
        coco(root, all_of_them)


def test_without_pycocotools_it_is_said_how_to_install_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(ConfigError, match="uv sync --extra coco"):
        coco(root)


@pytest.mark.parametrize("key", ["label_map: from_1", "colours: {cat: [1, 2, 3]}", "ignore: [3]"])
def test_tables_of_pictures_are_not_of_shapes(root: Path, key: str) -> None:
    (root / "dataset.yaml").write_text(key)
    with pytest.raises(
        DataError, match=rf"holds {key.partition(':')[0]}, which is of masks that are pictures"
    ):
        coco(root)


# LabelMe ----------------------------------------------------------------------------------------------------


def shape(label: str, kind: str, *points: list[float]) -> dict[str, Any]:
    return {"label": label, "shape_type": kind, "points": list(points), "group_id": None, "flags": {}}


LABELED: dict[str, Any] = {
    "version": "5.4.1",
    "imagePath": "..\\images\\a.jpg",
    "imageData": None,
    "imageHeight": HEIGHT,
    "imageWidth": WIDTH,
    "shapes": [
        shape("dog", "polygon", [1, 1], [6, 1], [6, 6], [1, 6]),
        shape("cat", "rectangle", [9, 8], [4, 4]),
        shape("_background_", "rectangle", [5, 5], [5, 5]),
        shape("dog", "circle", [12, 8], [12, 10]),
        shape("__ignore__", "rectangle", [14, 0], [15, 1]),
    ],
}


def labelme(root: Path, edit: Edit = lambda _: None) -> LabelMe:
    document = copy.deepcopy(LABELED)
    edit(document)
    (root / "json" / "sub").mkdir(parents=True, exist_ok=True)
    (root / "json" / "sub" / "a.json").write_text(json.dumps(document))
    return LabelMe(root, "mine", root / "json")


def test_shapes_of_a_group_are_one_object(root: Path) -> None:
    def edit(document: dict[str, Any]) -> None:
        boxes = [shape("dog", "rectangle", [4 * k, 0], [4 * k + 3, 3]) for k in range(3)]
        boxes[0]["group_id"] = boxes[1]["group_id"] = 7
        outside = shape("_background_", "rectangle", [0, 10], [3, 11])
        document["shapes"] = [*boxes, outside]

    (root / "dataset.yaml").write_text("void_border: 1")
    mask = np.asarray(labelme(root, edit).mask("sub/a"))
    assert mask[0, :13].tolist() == [1, 1, 1, 1, 1, 1, 1, 255, 255, 1, 1, 255, 255]
    assert not mask[8:].any()


def test_shapes_by_hand(root: Path, tmp_path: Path) -> None:
    made = labelme(root)
    assert made.classes == ("background", "cat", "dog") and made.lists == {"train": ("sub/a",)}
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[1:7, 1:7] = 2  # with its outline
    expected[4:9, 4:10] = 1  # later on top, its corners in any order
    expected[5, 5] = 0
    expected[0:2, 14:16] = 255
    circle = [(y, x) for y in range(HEIGHT) for x in range(WIDTH) if (y - 8) ** 2 + (x - 12) ** 2 <= 4]
    mask = np.asarray(made.mask("sub/a")).copy()
    assert all(mask[y, x] == 2 for y, x in circle) and 13 <= (mask[5:12, 10:16] == 2).sum() <= 25
    mask[5:12, 10:16] = 0
    np.testing.assert_array_equal(mask, expected)
    assert made.mask("b") is None
    assert convert(made, tmp_path / "clean").masks == 1
    np.testing.assert_array_equal(Folder(tmp_path / "clean", "clean").mask("sub/a"), made.mask("sub/a"))


def test_json_beside_the_images_and_lists_of_the_folder(root: Path) -> None:
    for id in ("b", "none"):
        document = LABELED | {"imagePath": f"{id}.jpg"}
        (root / "images" / f"{id}.json").write_text(json.dumps(document))
    (root / "train.txt").write_text("b\nsub/a\n")
    (root / "test.txt").write_text("none\n")
    made = LabelMe(root, "mine", root / "images")
    assert made.lists == {"train": ("b", "sub/a"), "test": ("none",)} and made.notes == ()
    assert made.mask("sub/a") is None and made.mask("b") is not None


def test_a_shape_without_a_kind_is_a_polygon(root: Path) -> None:
    made = labelme(root, lambda d: d["shapes"][0].pop("shape_type"))
    assert np.asarray(made.mask("sub/a"))[2, 2] == 2


WRONG_LABELME: dict[str, tuple[Edit, tuple[str, ...]]] = {
    "no shapes": (lambda d: d.pop("shapes"), ("is no JSON of LabelMe",)),
    "another image": (lambda d: d.update(imagePath="b.jpg"), ("is of the image 'b.jpg'", "'sub/a'")),
    "no image": (lambda d: d.pop("imagePath"), ("is of the image 'None'",)),
    "another size": (lambda d: d.update(imageWidth=17), ("17x12 there, and 16x12",)),
    "turned": (lambda d: d.update(imageWidth=HEIGHT, imageHeight=WIDTH), ("an EXIF tag turns the image",)),
    "no label": (lambda d: d["shapes"][1].pop("label"), ("shape 2 has no label",)),
    "a shape of text": (lambda d: d["shapes"].append("x"), ("shape 6 has no label",)),
    "a line": (
        of("shapes", 0, shape_type="linestrip"),
        ("'dog', is a linestrip", "polygon, rectangle, circle"),
    ),
    "a point": (of("shapes", 0, shape_type="point"), ("is a point",)),
    "a mask": (of("shapes", 0, shape_type="mask"), ("is a mask",)),
    "a kind in a list": (of("shapes", 0, shape_type=["polygon"]), ("is a ['polygon']",)),
    "a number of 400 digits": (of("shapes", 0, points=[[10**400, 1], [2, 2], [3, 9]]), ("pairs of numbers",)),
    "two points": (of("shapes", 0, points=[[1, 1], [2, 2]]), ("shape 1, 'dog', has 2 points, and needs 3",)),
    "one corner": (of("shapes", 1, points=[[1, 1]]), ("has 1 points, and needs 2",)),
    "three corners": (of("shapes", 1, points=[[1, 1]] * 3), ("is a rectangle of 3 points, and has two",)),
    "no points": (without("shapes", 0, "points"), ("pairs of numbers",)),
    "far away": (of("shapes", 0, points=[[1, 1], [2, 1e9], [3, 3]]), ("far outside",)),
}


@pytest.mark.parametrize("case", WRONG_LABELME)
def test_a_wrong_shape_is_one_sentence(root: Path, tmp_path: Path, case: str) -> None:
    edit, words = WRONG_LABELME[case]
    with pytest.raises(DataError) as caught:
        convert(labelme(root, edit), tmp_path / "clean")
    said = str(caught.value)
    assert said.startswith(str(root / "json" / "sub" / "a.json")) and "\n" not in said, said
    assert all(word in said for word in words), said
    assert not (tmp_path / "clean").exists()


def test_folders_without_json_or_images_are_refused(root: Path, tmp_path: Path) -> None:
    for place, words in ((root / "gone", "no folder"), (root / "images", "holds no .json")):
        with pytest.raises(DataError, match=words):
            LabelMe(root, "mine", place)
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match="has no folder images"):
        LabelMe(tmp_path / "bare", "bare", root / "images")


def test_a_label_that_the_list_lacks_is_named(root: Path) -> None:
    (root / "classes.txt").write_text("background\ncat\ndogs\n")
    with pytest.raises(BenchError, match="'dog' .2 shapes.*did you mean 'dogs'"):
        labelme(root)
