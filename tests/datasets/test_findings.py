"""What is said of masks, images, names and tags that are sound and may not mean what their owner thinks."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.errors import DataError
from datasets.findings import Looked, facts_of, refuse_unfit, spread
from datasets.folder import Folder
from datasets.look import before_a_run
from datasets.splits import Split, find_split
from datasets.splits_make import regenerate
from datasets.tags import tag_digest
from datasets.verify import Verdict, verify

TRAIN, TEST = 4, 2


def blocks(*ids: int) -> np.ndarray:
    """A mask of upright blocks of six columns, one an id: blocks(0, 1) is 12x12."""
    return np.repeat(np.array(ids, np.uint8), 6)[None].repeat(12, 0)


PLAIN = blocks(0, 1)
Make = Callable[..., Folder]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """make("x y", train, test): a data set of the masks, with images of noise that are all different."""

    def made(classes: str, train: Any = PLAIN, test: Any = None, tags: str = "", about: str = "") -> Folder:
        root = tmp_path / "mine"
        masks = {"train": train if isinstance(train, list) else [train] * TRAIN}
        test = masks["train"][-1] if test is None else test
        masks["test"] = test if isinstance(test, list) else [test] * TEST
        for folder in ("images", "labels"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        for listing, of in masks.items():
            (root / f"{listing}.txt").write_text("".join(f"{listing}{i}\n" for i in range(len(of))))
            for i, mask in enumerate(of):
                noise = np.random.default_rng([i, listing == "test"]).integers(0, 256, (*mask.shape, 3))
                Image.fromarray(noise.astype(np.uint8)).save(root / "images" / f"{listing}{i}.png")
                Image.fromarray(mask).save(root / "labels" / f"{listing}{i}.png")
        (root / "classes.txt").write_text("\n".join(classes.split()) + "\n")
        for name, text in (("tags.json", tags), ("dataset.yaml", about)):
            if text:
                (root / name).write_text(text)
        return Folder(root, "mine")

    return made


def full(data: Folder) -> Split:
    return Split(data.name, "full", data.ids("train"), (), (), data.ids("test"))


def verdict(data: Folder, *splits: Split) -> Verdict:
    return verify(data, splits or [full(data)])


# Facts of a mask -------------------------------------------------------------------------------------------


def test_pixels_and_pixels_inside_by_hand() -> None:
    mask = np.array([[0, 0, 0, 7, 255], [0, 0, 0, 7, 255], [0, 0, 0, 7, 255]], np.uint8)
    facts = facts_of(mask)
    assert {c: int(n) for c, n in enumerate(facts.pixels) if n} == {0: 9, 7: 3, 255: 3}
    assert {c: int(n) for c, n in enumerate(facts.inside) if n} == {0: 6} and facts.ids == {0, 7}


def test_no_label_around_a_point_does_not_make_it_thin() -> None:
    mask = np.full((9, 9), 255, np.uint8)
    mask[4, 4], mask[0, 0] = 0, 254
    facts = facts_of(mask)
    assert facts.inside[0] == facts.inside[254] == 1 and facts.inside[255] == 0


def test_nothing_looked_at_holds_nothing() -> None:
    looked = Looked("no masks", 3, {})
    assert looked.pixels.tolist() == [0] * 256 and not looked.ids and not looked.whole


def test_ids_are_spread_over_a_list() -> None:
    ids = [f"i{n}" for n in range(10)]
    assert spread(ids, 3) == ["i0", "i3", "i6"] and spread(ids, None) == spread(ids, 10) == ids


# A score that means nothing --------------------------------------------------------------------------------

NONE = np.full((12, 12), 255, np.uint8)
SENSELESS = [
    ({"train": NONE, "test": blocks(0, 1)}, "none of the {} holds a labeled pixel", "train"),
    ({"train": blocks(0, 1), "test": NONE}, "none of the {} holds a labeled pixel", "test"),
    ({"train": blocks(1), "test": blocks(0, 1)}, "the {} hold one class alone, 1 'y'", "train"),
    ({"train": blocks(0, 255), "test": blocks(0, 1)}, "the {} hold one class alone, 0 'x'", "train"),
    ({"train": blocks(0, 1), "test": blocks(0, 255)}, "the {} hold one class alone, 0 'x'", "test"),
]
NAMES = {"train": "masks that the split 'full' of mine grants", "test": "scored masks of mine (test.txt)"}


@pytest.mark.parametrize(("masks", "sentence", "listing"), SENSELESS)
def test_lists_of_which_no_score_can_be_made(
    make: Make, masks: dict[str, np.ndarray], sentence: str, listing: str
) -> None:
    data = make("x y", **masks)
    with pytest.raises(DataError) as error:
        refuse_unfit(data, full(data))
    assert sentence.format(NAMES[listing]) in str(error.value)
    (problem,) = verdict(data).problems
    name = "training masks of mine" if listing == "train" else NAMES["test"]
    assert sentence.format(name) in problem


@pytest.mark.parametrize(("masks", "sentence", "listing"), SENSELESS)
def test_splits_are_not_made_of_masks_without_a_label(
    make: Make, masks: dict[str, np.ndarray], sentence: str, listing: str
) -> None:
    data = make("x y", **masks)
    place = data.root / "splits"
    if "none" not in sentence:
        regenerate(data, place)  # and `--make` says it
        return
    with pytest.raises(DataError, match="holds a labeled pixel"):
        regenerate(data, place)
    assert not place.exists()


def test_one_labeled_pixel_and_another_class_are_enough(make: Make) -> None:
    other = NONE.copy()
    other[3, 3] = 1
    data = make("x y", [NONE, blocks(0), NONE, other], blocks(0, 1))
    refuse_unfit(data, full(data))


def test_one_class_in_the_masks_is_enough_beside_tags(make: Make) -> None:
    data = make("x y z", blocks(1), blocks(0, 1))
    mixed = Split("mine", "m", ("train0",), ("train1",), (), data.ids("test"), "a record", "digest")
    refuse_unfit(data, mixed)
    with pytest.raises(DataError, match="the split 'm' of mine"):
        refuse_unfit(make("x y z", NONE, blocks(0, 1)), mixed)


def test_a_list_of_one_class(make: Make) -> None:
    data = make("x", blocks(0))
    with pytest.raises(DataError, match="mine has one class, 'x'"):
        refuse_unfit(data, full(data))


def test_a_split_of_one_class_among_others_is_named(make: Make) -> None:
    data = make("x y", [blocks(0), blocks(0, 1)])
    one = Split("mine", "few", ("train0",), (), ("train1",), data.ids("test"))
    (problem,) = verdict(data, one, full(data)).problems
    assert "the masks that the split 'few' of mine grants hold one class alone" in problem


def test_masks_that_are_not_granted_stay_closed(make: Make) -> None:
    data = make("x y", [blocks(0, 1)] * 3)
    for id in ("train1", "train2"):
        (data.root / "labels" / f"{id}.png").write_bytes(b"poison")
    split = Split("mine", "few", ("train0",), (), ("train1", "train2"), data.ids("test"))
    refuse_unfit(data, split)
    assert before_a_run(data, split) == [] and verdict(data, split) == Verdict([], [])


# Worth a look ----------------------------------------------------------------------------------------------


def said(data: Folder, *splits: Split) -> str:
    found = verdict(data, *splits)
    assert not found.problems
    return "\n".join(found.look)


def before(data: Folder, split: Split) -> str:
    return "\n".join(before_a_run(data, split))


def test_nothing_is_said_of_plain_data(make: Make) -> None:
    data = make("background y", blocks(0, 1, 255))
    assert said(data) == "" and before_a_run(data, full(data)) == []


def test_classes_without_a_pixel(make: Make) -> None:
    data = make("w x y z", blocks(0, 1, 3), blocks(0, 1))
    text = said(data)
    assert "2 'y' has no pixel in the training masks of mine" in text
    assert "2 'y' and 3 'z' have no pixel in the scored masks of mine (test.txt)" in text
    assert "2 'y' has no pixel in the masks that the split 'full'" in before(data, full(data))


def test_many_absent_classes_are_counted(make: Make) -> None:
    data = make(" ".join("abcdefghij"), blocks(0, 1))
    assert "2 'c', 3 'd', 4 'e', 5 'f', 6 'g' and 3 more classes have no pixel" in said(data)


def test_a_class_in_no_labeled_image_of_a_split(make: Make) -> None:
    data = make("x y z", [blocks(0, 1), blocks(0, 1, 2)], tags='{"train0": [1], "train1": [1, 2]}')
    few = Split("mine", "few", ("train0",), (), ("train1",), data.ids("test"))
    told = tag_digest({"train0": (1,)}, data.background)
    tags = Split("mine", "tags", (), ("train0",), ("train1",), data.ids("test"), "a record", told)
    assert "no labeled image of the split 'few' holds 2 'z'." in said(data, few, full(data))
    assert "'full' holds" not in said(data, few, full(data))
    assert "no labeled image of the split 'tags' holds 0 'x' and 2 'z'." in said(data, tags)


def test_foreground_drawn_as_255(make: Make) -> None:
    data = make("background red", blocks(0, 255))
    found = verdict(data)
    text = "\n".join([*found.problems, *found.look])
    assert "training masks of mine hold nothing but 0 and 255" in text
    assert "1 'red' has no pixel in the training masks" in text and "scored masks" in text


def test_foreground_drawn_as_255_in_some_masks(make: Make) -> None:
    data = make("background red", [blocks(0, 1), blocks(0, 255)], PLAIN)
    assert "1 of the training masks of mine hold nothing but 0 and 255 ('train1')" in said(data)


@pytest.mark.parametrize("also", [blocks(0), blocks(0, 255, 255, 255)])
def test_a_mask_without_an_object_is_no_black_and_white_one(make: Make, also: np.ndarray) -> None:
    assert "nothing but" not in said(make("background red", [blocks(0, 1), blocks(0, 1), also], blocks(0, 1)))


def test_more_than_half_is_255(make: Make) -> None:
    assert "67 % of the pixels of the training masks of mine are 255" in said(
        make("x y", blocks(0, 1, 255, 255, 255, 255), blocks(0, 1, 255, 255))
    )


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_class_that_is_thin_everywhere(make: Make, scale: int) -> None:
    """Classes 0 and 2 blended by a resize leave seams of class 1."""
    small = np.zeros((16, 16), np.uint8)
    small[4:12, 5:11] = 2
    size = (16 * scale, 16 * scale)
    blended = np.array(Image.fromarray(small).resize(size, Image.Resampling.BILINEAR))
    nearest = np.array(Image.fromarray(small).resize(size, Image.Resampling.NEAREST))
    assert set(np.unique(blended)) == {0, 1, 2}
    assert "1 'y' is thin" in said(make("x y z", blended, blended))
    assert "thin" not in said(make("x y z", nearest, nearest))


@pytest.mark.parametrize("width", [4, 6])
def test_a_pole_is_not_thin(make: Make, width: int) -> None:
    mask = np.zeros((24, 24), np.uint8)
    mask[:, 8 : 8 + width] = 1
    assert "thin" not in said(make("x pole", mask))


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (
            "Background y",
            "0 'Background' looks like background and is not taken for it: no class is",
        ),
        ("x _background_", "1 '_background_' looks like background"),
        ("x bg", "`background: bg`"),
        ("x other", "1 'other' looks like background"),
        ("background bg", "1 'bg' looks like background and is not taken for it: the background is 0 'back"),
        ("x void", "1 'void' is a class like any other"),
        ("x Un-labeled", "Pixels without a label are 255"),
    ],
)
def test_names_that_look_like_background_or_no_label(make: Make, classes: str, expected: str) -> None:
    assert expected in said(make(classes))


@pytest.mark.parametrize("classes", ["background other", "x y", "ground backpack"])
def test_names_that_do_not(make: Make, classes: str) -> None:
    assert said(make(classes)) == ""


@pytest.mark.parametrize(
    ("train", "tags", "expected"),
    [
        (
            blocks(0, 1),
            '{"train0": [2]}',
            "of mine in 1 of 1 images ('train0': the mask alone holds y and the tags",
        ),
        (
            blocks(0, 1),
            '{"train0": [1, 2], "train1": [1]}',
            "in 1 of 2 images ('train0': the tags alone name z)",
        ),
        (
            blocks(0, 1, 255, 255),
            '{"train0": [1, 2], "train1": [1, 2]}',
            "the tags contradict the training masks of mine in 2 of 2 images",
        ),
        (blocks(0, 1), '{"train0": [0, 1], "train1": ["y"]}', ""),
        (blocks(0, 1, 255, 255), '{"train0": [1, 2], "train1": [1]}', ""),  # it may lie under 255
    ],
)
def test_tags_that_contradict_masks(make: Make, train: np.ndarray, tags: str, expected: str) -> None:
    text = said(make("background y z", train, blocks(0, 1, 2), tags=tags))
    assert (expected in text) if expected else ("contradict" not in text)


def test_equal_images_in_train_and_test(make: Make) -> None:
    data = make("x y")
    source, copy = (data.root / "images" / name for name in ("train2.png", "test1.png"))
    copy.write_bytes(source.read_bytes())
    assert hashlib.sha256(copy.read_bytes()).digest() == hashlib.sha256(source.read_bytes()).digest()
    expected = "1 scored images are also images to learn from, file for file ('train2' = 'test1')"
    unlabeled = Split("mine", "few", ("train0",), (), ("train1", "train2"), data.ids("test"))
    for split in (full(data), unlabeled):
        assert expected in said(data, split) and expected in before(data, split)


def test_images_with_an_orientation(make: Make) -> None:
    data = make("x y")
    path = data.root / "images" / "train1.png"
    picture = Image.open(path)
    exif = picture.getexif()
    exif[0x0112] = 3
    picture.save(path, exif=exif)
    expected = "1 of 6 images carry an EXIF orientation ('train1') and are turned as it says"
    assert expected in said(data) and expected in before(data, full(data))


def test_masks_of_several_modes(make: Make) -> None:
    data = make("x y")
    path = data.root / "labels" / "train1.png"
    palette = Image.fromarray(np.array(Image.open(path)), "P")
    palette.putpalette([0, 0, 0, 128, 0, 0])
    palette.save(path)
    text = said(data)
    assert "stored in 2 ways: 5 are grey of 8 bits" in text and "palette of" in text


def test_a_run_looks_at_some_masks_of_a_long_list(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make("x y z", [blocks(0, 1)] * 6 + [blocks(0, 255)] * 6, blocks(0, 1))
    opened: list[str] = []
    mask = data.mask
    monkeypatch.setattr(data, "mask", lambda id: opened.append(id) or mask(id))
    monkeypatch.setattr("datasets.findings.MOST_LOOKED_AT", 4)
    text = before(data, full(data))
    assert "2 of 4 of the 12 masks that the split 'full' of mine grants hold nothing but 0 and 255" in text
    assert "'z' has no pixel in the masks that" not in text, "only some were looked at"
    assert len([id for id in opened if id.startswith("train")]) <= 5


# The background --------------------------------------------------------------------------------------------


def test_dataset_yaml_names_the_background(make: Make) -> None:
    data = make("sky y", about="background: y\n")
    assert data.background == 1 and said(data) == ""
    assert make("background y", about="background: y\n").background == 1
    assert make("background y", about="background: null\n").background is None
    assert Folder(data.root, "mine", background=0).background == 0


@pytest.mark.parametrize(
    ("about", "what"),
    [
        ("background: ski\n", "unknown background 'ski'; did you mean 'sky'"),
        ("backgrund: sky\n", "did you mean 'background'"),
        ("background: [sky]\n", "background"),
        ("- sky\n", "must hold keys and values"),
        ("background: {\n", "not valid YAML"),
    ],
)
def test_a_wrong_dataset_yaml_is_refused(make: Make, about: str, what: str) -> None:
    with pytest.raises(DataError, match=r"dataset\.yaml") as error:
        make("sky y", about=about)
    assert what in str(error.value)


def test_dataset_yaml_must_be_a_file(make: Make) -> None:
    data = make("sky y")
    (data.root / "dataset.yaml").mkdir()
    with pytest.raises(DataError, match=r"dataset\.yaml is no plain file"):
        Folder(data.root, "mine")


def test_the_suites_own_shapes_are_plain() -> None:
    from datasets.shapes import Shapes

    assert before_a_run(Shapes(), find_split("shapes", "1_16", None)) == []


def test_missing_masks_are_left_to_the_run_which_counts_them(make: Make) -> None:
    data = make("x y", [NONE, NONE, blocks(0, 1)], PLAIN)
    (data.root / "labels" / "train2.png").unlink()
    refuse_unfit(data, full(data))
    assert "has no pixel" not in before(data, full(data))
    (data.root / "labels" / "train2.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"train2\.png"):
        refuse_unfit(data, full(data))
