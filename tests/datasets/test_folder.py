import json
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bench.errors import DataError
from bench.labels import LABEL_SECONDS
from bench.settings.registry import load_dataset
from datasets.camvid import CamVid
from datasets.folder import Folder
from datasets.ids import check_id, read_list
from datasets.msrc21 import Msrc21, Msrc21Objects


def make(root: Path, labels: str = "labels", classes: str = "classes.txt") -> Path:
    for folder in ("images/far", f"{labels}/far"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number, id in enumerate(("a", "b", "far/c")):
        Image.fromarray(np.full((4, 6, 3), number, np.uint8)).save(root / "images" / f"{id}.png")
        Image.fromarray(np.full((4, 6), number, np.uint8)).save(root / labels / f"{id}.png")
    (root / "train.txt").write_text("b\na\n")
    (root / "test.txt").write_text("far/c")
    (root / classes).write_text("sky\nroad\ncar\n")
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make(tmp_path / "mine")


def fails(what: str, function: Callable[[], object]) -> str:
    with pytest.raises(DataError, match=re.escape(what)) as caught:
        function()
    return str(caught.value)


def test_reads_lists_images_and_masks(root: Path) -> None:
    data = Folder(root, "mine")
    assert (data.name, data.classes, data.background, data.scored) == (
        "mine",
        ("sky", "road", "car"),
        None,
        "test",
    )
    assert data.ids("train") == ("b", "a") and data.ids("test") == ("far/c",)
    assert data.image("far/c").shape == (4, 6, 3) and (data.image("far/c") == 2).all()
    assert data.mask("b").shape == (4, 6) and (data.mask("b") == 1).all()
    assert data.palette is not None and data.palette.shape == (3, 3) and data.palette.dtype == np.uint8


def test_val_is_scored_without_test(root: Path) -> None:
    (root / "test.txt").rename(root / "val.txt")
    assert Folder(root, "mine").scored == "val"


def test_background(root: Path) -> None:
    assert Folder(root, "mine", background=2).background == 2
    fails("classes.txt", lambda: Folder(root, "mine", background=3))
    (root / "classes.txt").write_text("background\nroad\n")
    assert Folder(root, "mine").background == 0
    assert Folder(root, "mine", background=1).background == 1
    (root / "classes.txt").write_text("road\nbackground\n")
    assert Folder(root, "mine").background is None


@pytest.mark.parametrize("end", ["jpg", "jpeg", "png"])
def test_image_endings(root: Path, end: str) -> None:
    (root / "images" / "a.png").unlink()
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(root / "images" / f"a.{end}")
    assert Folder(root, "mine").image("a").shape == (4, 6, 3)


def test_an_id_may_hold_dots(root: Path) -> None:
    (root / "images" / "a.png").rename(root / "images" / "a.v1.png")
    (root / "labels" / "a.png").rename(root / "labels" / "a.v1.png")
    assert Folder(root, "mine").mask("a.v1").shape == (4, 6)


def test_two_images_of_one_id(root: Path) -> None:
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(root / "images" / "a.jpg")
    assert "a.png" in fails(str(root / "images" / "a.jpg"), lambda: Folder(root, "mine").image("a"))


def test_what_is_missing_is_named(root: Path) -> None:
    data = Folder(root, "mine")
    for message in (
        fails(str(root / "gone"), lambda: Folder(root / "gone", "mine")),
        fails(str(root / "val.txt"), lambda: data.ids("val")),
        fails(str(root / "names.txt"), lambda: Folder(root, "mine", classes_file="names.txt")),
    ):
        assert "images/<id>.jpg" in message and "--data-root" in message and "$BENCH_DATA" in message
    fails(str(root / "images" / "x.jpg"), lambda: data.image("x"))
    (root / "labels" / "a.png").unlink()
    fails(str(root / "labels" / "a.png"), lambda: data.mask("a"))


def test_mask_must_fit_image_and_classes(root: Path) -> None:
    data = Folder(root, "mine")
    Image.fromarray(np.zeros((6, 4), np.uint8)).save(root / "labels" / "a.png")
    fails(str(root / "labels" / "a.png"), lambda: data.mask("a"))
    Image.fromarray(np.full((4, 6), 3, np.uint8)).save(root / "labels" / "a.png")
    assert "the ids 3," in fails(str(root / "labels" / "a.png"), lambda: data.mask("a"))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "every line"),
        ("a\n\nb\n", "every line"),
        ("a\nb\na\n", "'a'"),
        ("".join(f"c{i}\n" for i in range(256)), "256"),
    ],
)
def test_bad_classes(root: Path, text: str, what: str) -> None:
    (root / "classes.txt").write_text(text)
    assert what in fails(str(root / "classes.txt"), lambda: Folder(root, "mine"))


def test_classes_with_bom_crlf_and_blank_end(root: Path) -> None:
    (root / "classes.txt").write_bytes(b"\xef\xbb\xbfbackground\r\nred car\r\n\r\n\r\n")
    data = Folder(root, "mine")
    assert data.classes == ("background", "red car") and data.background == 0


def test_duplicate_id_is_named(root: Path) -> None:
    (root / "train.txt").write_text("a\nb\na\n")
    assert "'a'" in fails(str(root / "train.txt"), lambda: Folder(root, "mine").ids("train"))


@pytest.mark.parametrize(
    "id", ["../a", "far/../../a", "/etc/passwd", "..", ".", "far//c", "far/",
           "a\\b", "C:/a", "C:a", "a\tb", "a\0b", "x" * 300, ""]
)  # fmt: skip
def test_ids_cannot_leave_the_folder(root: Path, id: str) -> None:
    data = Folder(root, "mine")
    for function in (data.image, data.mask, data.ids):
        fails("cannot be an id", partial(function, id))
    if id and "\0" not in id:
        (root / "train.txt").write_text(f"{id}\n")
        fails(str(root / "train.txt"), lambda: data.ids("train"))


def test_lists_must_be_utf8(root: Path) -> None:
    (root / "train.txt").write_bytes("a\nb\n".encode("utf-16"))
    assert "UTF-8" in fails(str(root / "train.txt"), lambda: Folder(root, "mine").ids("train"))


def _is_id(text: str) -> bool:
    try:
        check_id(text, Path("list"))
    except DataError:
        return False
    return text == text.strip() and not text.startswith("\ufeff")


@given(
    ids=st.lists(st.text("aZ0_-./ ä日", min_size=1, max_size=8).filter(_is_id), unique=True, max_size=6),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    bom=st.booleans(),
    blank=st.booleans(),
    last=st.booleans(),
)
def test_lists_parse_alike(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str], end: str, bom: bool, blank: bool, last: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "list.txt"
    text = (end + (" " + end) * blank).join(ids) + end * last
    path.write_bytes((b"\xef\xbb\xbf" if bom else b"") + text.encode())
    assert read_list(path) == tuple(ids)


def test_tags(root: Path) -> None:
    assert Folder(root, "mine").tags("a") is None
    (root / "tags.json").write_text(json.dumps({"a": [2, 0], "b": []}))
    data = Folder(root, "mine")
    assert data.tags("a") == (0, 2) and data.tags("b") == ()
    assert "'far/c'" in fails(str(root / "tags.json"), lambda: data.tags("far/c"))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1}', '{"a": [3]}', '{"a": [-1]}', '{"a": [true]}',
                                  '{"a": ["0"]}',
                                  '{"a": [1, 1]}', '{"a": [[]]}', "[" * 100_000])  # fmt: skip
def test_bad_tags(root: Path, text: str) -> None:
    (root / "tags.json").write_text(text)
    fails(str(root / "tags.json"), lambda: Folder(root, "mine").tags("a"))


@pytest.mark.parametrize(("file", "read"), [("tags.csv", "tags.json"), ("Boxes.XML", "boxes.json")])
def test_a_record_of_another_form_is_not_passed_over_in_silence(root: Path, file: str, read: str) -> None:
    assert Folder(root, "mine").notes == ()
    (root / file).write_text("a,1")
    (said,) = Folder(root, "mine").notes
    assert f"{file} is not read, only {read} is" in said
    (root / read).write_text("{}")
    assert Folder(root, "mine").notes == (), "the record itself is there"


def test_label_seconds(root: Path) -> None:
    assert Folder(root, "mine").label_seconds == LABEL_SECONDS
    (root / "label_seconds.json").write_text('{"pixel": 5400}')
    assert Folder(root, "mine").label_seconds == LABEL_SECONDS | {"pixel": 5400.0, "tags": 20.0}
    (root / "label_seconds.json").write_text('\ufeff{"tags": 0.5, "pixel": 1e6}', encoding="utf-8")
    assert Folder(root, "mine").label_seconds == LABEL_SECONDS | {"pixel": 1e6, "tags": 0.5}


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "240", "null", "[" * 100_000),
        *('{"pixel": 0}', '{"pixel": -1}', '{"pixel": NaN}', '{"pixel": Infinity}', '{"pixel": 1000001}'),
        *('{"pixel": true}', '{"pixel": "240"}', '{"pixel": null}', '{"tags": [20]}'),
        f'{{"pixel": 1{"0" * 400}}}',
    ],
)
def test_bad_label_seconds(root: Path, text: str) -> None:
    (root / "label_seconds.json").write_text(text)
    said = fails(str(root / "label_seconds.json"), lambda: Folder(root, "mine"))
    assert len(said) < 1000


def test_label_seconds_of_an_unknown_kind(root: Path) -> None:
    (root / "label_seconds.json").write_text('{"masks": 240}')
    said = fails("'masks'", lambda: Folder(root, "mine"))
    assert "'pixel', 'tags'" in said
    (root / "label_seconds.json").unlink()
    (root / "label_seconds.json").mkdir()
    fails(str(root / "label_seconds.json"), lambda: Folder(root, "mine"))


def test_named_data_sets_lie_in_their_folders(tmp_path: Path) -> None:
    make(tmp_path / "camvid")
    make(tmp_path / "msrc21")
    make(tmp_path / "msrc21", "labels_objects", "classes_objects.txt")
    (tmp_path / "msrc21" / "tags_objects.json").write_text('{"a": [1]}')
    Image.fromarray(np.full((4, 6), 2, np.uint8)).save(tmp_path / "msrc21" / "labels_objects" / "a.png")
    assert (CamVid(tmp_path).name, CamVid(tmp_path).background) == ("camvid", None)
    assert (Msrc21(tmp_path).name, Msrc21(tmp_path).background, Msrc21(tmp_path).tags("a")) == (
        "msrc21",
        None,
        None,
    )
    objects = Msrc21Objects(tmp_path)
    assert (objects.name, objects.background, objects.tags("a")) == ("msrc21_objects", 0, (1,))
    assert (objects.mask("a") == 2).all() and (Msrc21(tmp_path).mask("a") == 0).all()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["classes.txt", "train.txt", "pair.yaml"])
@pytest.mark.parametrize("what", ["pipe", "device", "folder"])
def test_what_is_no_plain_file_is_said_so(root: Path, name: str, what: str) -> None:
    if name == "pair.yaml":
        (root / "classes.txt").unlink()
    path = root / name
    path.unlink(missing_ok=True)
    if what == "pipe":
        os.mkfifo(path)
    elif what == "device":
        path.symlink_to("/dev/null")
    else:
        path.mkdir()
    said = fails("no plain file", lambda: load_dataset("mine", root.parent).ids("train"))
    assert said.startswith(str(path))
