"""Points, strokes and boxes as files of a data set, or made of its masks: what is read, refused, granted."""

import json
import shlex
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from bench.cli import app
from bench.errors import ConfigError, DataError
from bench.labels import DRAWN, SPARSE, Box
from bench.testing import tiny
from datasets import sparse_rule, splits
from datasets.boxes import read_boxes, to_coco
from datasets.decode import read_mask
from datasets.findings import refuse_unfit
from datasets.folder import Folder
from datasets.look import before_a_run
from datasets.marks import archive_file
from datasets.msrc21 import Msrc21
from datasets.sparse import Marks, problems, to_archive
from datasets.sparse_make import made_of, names_of
from datasets.splits import FROM_MASKS, FROM_RECORD, find_split
from datasets.splits_import import import_split
from datasets.splits_make import regenerate
from datasets.verify import verify

CLASSES = ("background", "square", "stripe")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with a tiny set of its own."""
    shutil.copytree(tiny.shared_root(), tmp_path / "data")
    return tmp_path / "data"


def tiny_set(root: Path) -> Folder:
    return Folder(root / "tinyset", "tinyset")


def draw_own(root: Path, ids: tuple[str, ...], kinds: tuple[str, ...] = SPARSE) -> None:
    """Write what the rule makes as files of the data set itself."""
    data, boxes = tiny_set(root), {}
    for id in ids:
        mask = read_mask(root / "tinyset" / "labels" / f"{id}.png", None, 3)
        for kind in kinds:
            mark = made_of(kind, data, id, mask)
            if isinstance(mark, np.ndarray):
                (root / "tinyset" / kind).mkdir(exist_ok=True)
                Image.fromarray(mark).save(root / "tinyset" / kind / f"{id}.png")
            else:
                boxes[id] = mark
    if boxes:
        (root / "tinyset" / "boxes.json").write_bytes(to_coco(boxes, CLASSES))


def imported(root: Path, name: str, **lists: tuple[str, ...]) -> None:
    data, files = tiny_set(root), {}
    for kind, ids in lists.items():
        files[kind] = root / f"{kind}.txt"
        files[kind].write_text("\n".join(ids) + "\n")
    labeled = files.pop("pixel", None)
    import_split(
        "tinyset", name, labeled, None, data.ids("train"), data.ids("test"), root / "tinyset" / "splits",
        data=data, sparse_files=files,
    )  # fmt: skip


def fails(word: str, call: Callable[[], object]) -> str:
    with pytest.raises(DataError) as error:
        call()
    assert word in str(error.value)
    return str(error.value)


def test_splits_of_every_kind_are_made_of_masks(root: Path) -> None:
    data, place = tiny_set(root), root / "tinyset" / "splits"
    (root / "tinyset" / "tags.json").unlink()
    made, _ = regenerate(data, place, kinds=SPARSE)
    for kind in SPARSE:
        assert made[kind].counts == {"pixel": 0, "tags": 0, "none": 0, "eval": 4, kind: 16}
        for name in names_of(kind):
            if name in made:
                assert find_split("tinyset", name, root) == made[name]
        assert made[kind].marks[kind].source == FROM_MASKS
        marks = Marks(data, made[kind])
        for id in made[kind].sparse[kind]:
            found, expected = marks.read(kind, id), made_of(kind, data, id, data.mask(id))
            assert np.array_equal(np.asarray(found), np.asarray(expected))
    mixed = made["1_8+points"]
    assert mixed.counts == {"pixel": 2, "tags": 0, "none": 0, "eval": 4, "points": 14}
    assert not set(mixed.pixel) & set(mixed.points)
    with pytest.raises(DataError, match="not granted its points"):
        Marks(data, mixed).read("points", mixed.pixel[0])
    digests = {name: split.digests for name, split in made.items()}
    assert digests["points"].keys() - digests["full"].keys() == {"points", "points_marks"}
    before = {path: path.read_bytes() for path in place.rglob("*.*")}
    regenerate(tiny_set(root), place, kinds=SPARSE)
    assert {path: path.read_bytes() for path in place.rglob("*.*")} == before


def test_splits_of_a_built_in_data_set_are_made_beside_the_data(root: Path, committed: Path) -> None:
    data, own = tiny_set(root), root / "tinyset" / "splits"
    regenerate(data, committed / "tinyset", others=[1])
    before = {path: path.read_bytes() for path in committed.rglob("*.*")}
    with pytest.raises(ConfigError, match=r"no split '1_8\+points'.*--make --kind points --dataset tinyset"):
        find_split("tinyset", "1_8+points", root)
    regenerate(data, own, kinds=SPARSE)
    assert {path: path.read_bytes() for path in committed.rglob("*.*")} == before, "the suite's own stay"
    split = find_split("tinyset", "1_8+points", root)
    assert split.place == own and split.pixel == find_split("tinyset", "1_8", None).pixel
    assert Marks(data, split).read("points", split.points[0]) is not None
    drawn = find_split("tinyset", "1_8+points", root, draw=1)
    assert drawn.pixel == find_split("tinyset", "1_8", None, draw=1).pixel and drawn.marks != split.marks
    (own / "points.zip").unlink()
    fails("points.zip is missing", lambda: Marks(data, split).read("points", split.points[0]))


def test_two_users_of_the_same_masks_get_the_same_marks(root: Path, tmp_path: Path) -> None:
    made = [regenerate(tiny_set(root), tmp_path / user, kinds=SPARSE)[0] for user in ("one", "two")]
    for kind in SPARSE:
        assert made[0][kind].marks == made[1][kind].marks
        archive = archive_file(Path(), kind)
        assert (tmp_path / "one" / archive).read_bytes() == (tmp_path / "two" / archive).read_bytes()


def test_the_digests_of_msrc21_are_those_of_the_manual(real_data: Path, tmp_path: Path) -> None:
    made, _ = regenerate(Msrc21(real_data), tmp_path, kinds=SPARSE)
    manual = (Path(splits.__file__).parent / "README.md").read_text()
    for kind in SPARSE:
        assert f"| `{kind}` | `{made[kind].marks[kind].digest[:12]}` |" in manual


def test_a_draw_of_a_mixed_split(root: Path) -> None:
    data = tiny_set(root)
    regenerate(data, root / "tinyset" / "splits", others=[2], kinds=["points"])
    split = find_split("tinyset", "1_8+points", root, draw=2)
    assert split.pixel == find_split("tinyset", "1_8", root, draw=2).pixel
    assert len(split.points) == 14 and Marks(data, split).read("points", split.points[0]) is not None
    with pytest.raises(ConfigError, match="same in every draw"):
        find_split("tinyset", "points", root, draw=2)


def test_the_own_record_of_a_data_set_comes_first(root: Path) -> None:
    data = tiny_set(root)
    draw_own(root, data.ids("train"))
    mark = np.full((40, 40), 255, np.uint8)
    mark[20, 20] = 1
    Image.fromarray(mark).save(root / "tinyset" / "points" / "train_00.png")
    made, _ = regenerate(tiny_set(root), root / "tinyset" / "splits", kinds=SPARSE)
    assert not (root / "tinyset" / "splits" / "points.zip").exists()
    for kind in SPARSE:
        assert made[kind].marks[kind].source == FROM_RECORD
    assert np.array_equal(Marks(tiny_set(root), made["points"]).drawn("points", "train_00"), mark)


def test_an_import_opens_no_mask(root: Path) -> None:
    train = tiny_set(root).ids("train")
    draw_own(root, train[:6])
    for id in train:
        (root / "tinyset" / "labels" / f"{id}.png").write_bytes(b"no image")
    imported(root, "mine", points=train[:3], boxes=train[3:6])
    split = find_split("tinyset", "mine", root)
    assert split.counts == {"pixel": 0, "tags": 0, "none": 10, "eval": 4, "points": 3, "boxes": 3}
    assert all(box.label in (1, 2) for box in Marks(tiny_set(root), split).boxes(train[4]))
    said = fails("train_06", lambda: imported(root, "more", points=train[:7]))
    assert "points" in said


def test_marks_that_changed_since_are_refused(root: Path) -> None:
    train = tiny_set(root).ids("train")
    draw_own(root, train[:4])
    imported(root, "mine", points=train[:4])
    split, path = find_split("tinyset", "mine", root), root / "tinyset" / "points" / f"{train[1]}.png"
    mark = read_mask(path, None, 3)
    mark[mark != 255] = 2
    mark[30, 30] = 1
    Image.fromarray(mark).save(path)
    fails(f"the points of {train[1]!r}", lambda: Marks(tiny_set(root), split).read("points", train[1]))
    assert [*problems(tiny_set(root), [split])] and Marks(tiny_set(root), split).read(
        "points", train[0]
    ) is not None
    imported(root, "other", points=train[:2])  # another index
    fails("not those that its split 'mine'", lambda: Marks(tiny_set(root), split))


def test_made_marks_that_changed_since_are_refused(root: Path) -> None:
    data, place = tiny_set(root), root / "tinyset" / "splits"
    split = regenerate(data, place, kinds=["points"])[0]["points"]
    first, second, third = split.points[:3]
    marks = {id: Marks(data, split).drawn("points", id).copy() for id in split.points}
    marks[first][:] = 255
    (place / "points.zip").write_bytes(to_archive(marks))
    fails(
        f"the points of {first!r} of tinyset have changed", lambda: Marks(data, split).read("points", first)
    )
    assert Marks(data, split).read("points", second) is not None
    del marks[third]
    (place / "points.zip").write_bytes(to_archive(marks))
    fails(f"There is no item named '{third}.png'", lambda: Marks(data, split).read("points", second))
    with zipfile.ZipFile(place / "points.zip", "w") as archive:
        for id in split.points:
            archive.writestr(f"{id}.png", b"no image")
    fails(f"points.zip: {second}.png cannot be decoded", lambda: Marks(data, split).read("points", second))


@pytest.mark.parametrize("kind", SPARSE)
@pytest.mark.parametrize("content", [None, b"", b"{}"])
def test_the_advice_on_a_record_that_is_gone_or_damaged_mends_it(
    root: Path, kind: str, content: bytes | None
) -> None:
    split = regenerate(tiny_set(root), root / "tinyset" / "splits", kinds=[kind])[0][kind]
    path = archive_file(root / "tinyset" / "splits", kind)
    before = path.read_bytes()
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    said = fails(str(path), lambda: Marks(tiny_set(root), split).read(kind, split.train[0]))
    assert ("is missing" in said) == (content is None) and "Errno" not in said and said.count(". ") == 0
    advice = said[said.index("`") + 1 : said.rindex("`")]
    typed = CliRunner().invoke(app, shlex.split(advice.removeprefix("python -m bench ")))
    assert typed.exit_code == 0, typed.output
    assert path.read_bytes() == before
    assert Marks(tiny_set(root), split).read(kind, split.train[0]) is not None


@pytest.mark.parametrize("kind", DRAWN)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda mark: mark[:, :-1], ["39x40", "40x40"]),
        (lambda mark: np.where(mark == 1, 9, mark), ["9"]),
    ],
)
def test_drawn_marks_that_are_not_of_the_image(
    root: Path, kind: str, change: Callable[[np.ndarray], np.ndarray], words: list[str]
) -> None:
    train = tiny_set(root).ids("train")
    draw_own(root, train)
    path = root / "tinyset" / kind / "train_03.png"
    Image.fromarray(np.ascontiguousarray(change(read_mask(path, None, 3))).astype(np.uint8)).save(path)
    for call in (
        lambda: imported(root, "mine", **{kind: train[:4]}),
        lambda: regenerate(tiny_set(root), root / "tinyset" / "splits", kinds=[kind]),
    ):
        said = fails(f"{kind}/train_03.png", call)
        assert all(word in said for word in words) and "\n" not in said


def marks_of(root: Path, change: Callable[[np.ndarray], np.ndarray]) -> tuple[str, ...]:
    """Write other points for all training images."""
    train = tiny_set(root).ids("train")
    draw_own(root, train, ("points",))
    for id in train:
        path = root / "tinyset" / "points" / f"{id}.png"
        Image.fromarray(change(read_mask(path, None, 3)).astype(np.uint8)).save(path)
    return train


def test_points_that_mark_every_pixel_are_refused(root: Path) -> None:
    train = marks_of(root, lambda mark: np.where(mark == 255, 0, mark))
    assert "255" in fails("train_00.png marks every pixel", lambda: imported(root, "mine", points=train[:4]))


def test_points_that_mark_most_of_an_image_are_worth_a_look(root: Path) -> None:
    def thick(mark: np.ndarray) -> np.ndarray:
        mark[5:] = np.where(mark[5:] == 255, 0, mark[5:])
        return mark

    train = marks_of(root, thick)
    imported(root, "mine", points=train[:4])
    (said,) = before_a_run(tiny_set(root), find_split("tinyset", "mine", root))
    assert "points of 4 of 4 images mark more than half" in said and "'train_00'" in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda mark: np.full_like(mark, 255), "none of the points"),
        (lambda mark: np.where(mark == 255, 255, 1), "one class alone, 1 'square'"),
    ],
)
def test_points_that_nothing_can_be_learned_from(root: Path, change: Callable[..., Any], words: str) -> None:
    train = marks_of(root, change)
    imported(root, "mine", points=train[:4])
    data, split = tiny_set(root), find_split("tinyset", "mine", root)
    with pytest.raises(DataError, match=words):
        refuse_unfit(data, split)
    assert any("that the split 'mine' of tinyset grants" in said for said in verify(data, [split]).problems)


def test_classes_that_points_mark_are_not_said_to_be_missing(root: Path) -> None:
    train = marks_of(root, lambda mark: mark)
    imported(root, "mine", points=train)
    data, split = tiny_set(root), find_split("tinyset", "mine", root)
    assert before_a_run(data, split) == [] == verify(data, [split]).look
    marks_of(root, lambda mark: np.where(mark == 2, 255, mark))
    imported(root, "fewer", points=train)
    (said,) = before_a_run(tiny_set(root), find_split("tinyset", "fewer", root))
    assert said == "no labeled image of the split 'fewer' holds 2 'stripe'."


def test_points_whose_palettes_contradict_each_other(root: Path) -> None:
    train = marks_of(root, lambda mark: mark)
    colours = np.zeros((256, 3), np.uint8)
    colours[:3], colours[255] = [[0, 0, 0], [128, 0, 0], [0, 128, 0]], 255
    for number, id in enumerate(train):
        path = root / "tinyset" / "points" / f"{id}.png"
        order = np.arange(256)
        if number % 2:  # as a paint program numbers them
            order[:3] = 2, 0, 1
        table = np.zeros_like(colours)
        table[order] = colours
        picture = Image.fromarray(order[read_mask(path, None, 3)].astype(np.uint8), "P")
        picture.putpalette(table.ravel().tolist())
        picture.save(path)
    fails("contradict each other", lambda: imported(root, "mine", points=train[:4]))


def test_points_that_contradict_the_masks(root: Path) -> None:
    marks_of(root, lambda mark: np.array([0, 2, 1, *[255] * 253])[mark])
    place = root / "tinyset" / "splits"
    said = fails("correct one of the two", lambda: regenerate(tiny_set(root), place, kinds=["points"]))
    assert "of another class in its masks ('train_00'" in said


def test_a_table_of_masks_is_not_of_points(root: Path) -> None:
    (root / "tinyset" / "dataset.yaml").write_text("label_map: {0: 0, 1: stripe, 2: square}\n")
    assert len(tiny_set(root).notes) == 1
    marks_of(root, lambda mark: mark)
    assert "points of tinyset hold class ids" in tiny_set(root).notes[1]


@pytest.mark.parametrize("kind", DRAWN)
def test_a_mark_on_void_is_refused_where_masks_are_read(root: Path, kind: str) -> None:
    train = tiny_set(root).ids("train")
    draw_own(root, train)
    path = root / "tinyset" / kind / "train_05.png"
    mark = read_mask(path, None, 3)
    mark[0, 7] = 1  # the first row has no label
    Image.fromarray(mark).save(path)
    said = fails(kind, lambda: regenerate(tiny_set(root), root / "tinyset" / "splits", kinds=[kind]))
    assert f"'train_05' of tinyset ({kind}/train_05.png) mark row 0, column 7" in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bbox": [3, 4, 0, 9]}, ["'train_00'", "0 x 9", "without an area"]),
        ({"bbox": [30, 4, 20, 9]}, ["'train_00'", "columns 30..50", "40x40"]),
        ({"bbox": [-9, 4, 5, 9]}, ["'train_00'", "columns -9..-4"]),
        ({"bbox": [1, 2, 3]}, ["'train_00'", "four numbers"]),
        ({"bbox": [1, 2, 3, None]}, ["'train_00'", "four numbers"]),
        ({"bbox": [10**400, 2, 3, 4]}, ["'train_00'", "four numbers"]),
        ({"bbox": [1e308, 2, 1e308, 4]}, ["'train_00'", "four numbers"]),
        ({"category_id": 77}, ["77"]),
        ({"image_id": "no"}, ["'no'"]),
        ({"image_id": [0]}, ["'[0]'"]),
        ({"category_id": {}}, ["'{}'"]),
    ],
)
def test_boxes_that_cannot_be(root: Path, change: dict[str, object], words: list[str]) -> None:
    train = tiny_set(root).ids("train")
    draw_own(root, train)
    path = root / "tinyset" / "boxes.json"
    document = json.loads(path.read_text())
    document["annotations"][0] |= change
    path.write_text(json.dumps(document))
    said = fails("boxes.json", lambda: imported(root, "mine", boxes=train[:4]))
    assert all(word in said for word in words) and "\n" not in said


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda d: d["images"][0].update(id=[1]), ["needs an id"]),
        (lambda d: d["categories"][1].update(id={}), ["needs an id"]),
        (lambda d: d["categories"][1].update(id=d["categories"][2]["id"]), ["stands twice"]),
        (lambda d: d["categories"][1].update(name="stripe"), ["stands twice"]),
        (lambda d: d["images"][1].update(id=0), ["stands twice"]),
        (
            lambda d: d["images"].append({"id": 99, "file_name": "train_00.jpg"}),
            ["stands twice", "train_00.jpg"],
        ),
        (
            lambda d: d["images"][0].update(file_name="images\\train_00.png"),
            ["'images/train_00'", "below images"],
        ),
        (lambda d: d["images"][0].update(file_name="."), ["no image 'train_00'"]),
        (lambda d: d["images"][0].update(height=80, width=80), ["80x80 there, and 40x40"]),
    ],
)
def test_lists_of_boxes_that_cannot_be(root: Path, edit: Callable[[Any], None], words: list[str]) -> None:
    train = tiny_set(root).ids("train")
    draw_own(root, train)
    path = root / "tinyset" / "boxes.json"
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))
    said = fails(str(path), lambda: imported(root, "mine", boxes=train[:4]))
    assert all(word in said for word in words) and "\n" not in said


def test_an_id_with_a_dot_has_no_ending(tmp_path: Path) -> None:
    document = json.loads(to_coco({"scan.v2": (Box(1, 2, 3, 4, 5),)}, CLASSES))
    for name in ("scan.v2", "scan.v2.png", "scan.v2.NPY"):
        document["images"][0]["file_name"] = name
        (tmp_path / "boxes.json").write_text(json.dumps(document))
        assert [*read_boxes(tmp_path / "boxes.json", CLASSES)] == ["scan.v2"]


def test_a_category_that_is_no_class(root: Path) -> None:
    draw_own(root, tiny_set(root).ids("train"))
    path = root / "tinyset" / "boxes.json"
    path.write_text(path.read_text().replace('"square"', '"squares"'))
    said = fails("boxes.json", lambda: tiny_set(root).boxes("train_00"))
    assert "squares" in said and "square" in said.replace("squares", "")


def test_boxes_are_widened_to_whole_pixels_and_cut_at_the_border(root: Path) -> None:
    file = root / "tinyset" / "boxes.json"
    file.write_text(
        json.dumps(
            {
                "images": [{"id": 5, "file_name": "train_00.jpg"}, {"id": 6, "file_name": "a/b.png"}],
                "categories": [{"id": 12, "name": "stripe"}],
                "annotations": [{"image_id": 5, "category_id": 12, "bbox": [1.5, 2.25, 3, 38.5], "more": 1}],
            }
        )
    )
    assert read_boxes(file, CLASSES) == {"train_00": (Box(2, 2, 1, 41, 5),), "a/b": ()}
    assert tiny_set(root).boxes("train_00") == (Box(2, 2, 1, 40, 5),)
    fails("no image 'train_01'", lambda: tiny_set(root).boxes("train_01"))


def test_coco_and_back(tmp_path: Path) -> None:
    table = {"a": (Box(1, 2, 3, 4, 5), Box(2, 0, 0, 9, 9)), "b.c/d": ()}
    (tmp_path / "boxes.json").write_bytes(to_coco(table, CLASSES))
    assert read_boxes(tmp_path / "boxes.json", CLASSES) == table


def test_the_rule_stands_in_the_index(root: Path) -> None:
    regenerate(tiny_set(root), root / "tinyset" / "splits", kinds=["scribbles"])
    said = json.loads((root / "tinyset" / "splits" / "scribbles.index.json").read_text())
    assert said["rule"] == sparse_rule.RULE and said["rule_version"] == 1 and said["source"] == "masks"
