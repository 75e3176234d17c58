import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.errors import ConfigError, DataError
from datasets import splits_import
from datasets.folder import Folder
from datasets.ids import digest
from datasets.splits import COMMITTED, find_split
from datasets.splits_import import import_split, recognise
from datasets.tags import load_tags

KNOWN = json.loads((COMMITTED / "known_lists.json").read_text())


def fails(what: str | Path, function: Callable[[], object], error: type[Exception] = DataError) -> str:
    with pytest.raises(error, match=re.escape(str(what))) as caught:
        function()
    return str(caught.value)


def test_published_lists() -> None:
    assert len(KNOWN["lists"]) == 87
    assert all(
        re.fullmatch("[0-9a-f]{64}", entry["sha256"]) and entry["known_as"] for entry in KNOWN["lists"]
    )
    assert len({entry["sha256"] for entry in KNOWN["lists"]}) == 87
    assert recognise(["nothing"]) == []


VOC_TRAIN = ("2007_000032", "2007_000039", "2007_000063", "2008_000002")
CITY_TRAIN = ("aachen_000000_000019", "aachen_000001_000019", "bad-city_000000_000019")


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {
        digest(VOC_TRAIN[:2]): ("A:pascal/2/labeled", "B:pascal/2"),
        digest(VOC_TRAIN[2:]): ("A:pascal/2/unlabeled",),
    }
    monkeypatch.setattr(splits_import, "_published", lambda: table)


@pytest.mark.parametrize(
    "line", ["{}", "JPEGImages/{0}.jpg SegmentationClass/{0}.png",
             "/JPEGImages/{0}.jpg\tSegmentationClassAug/{0}.png", "{}.jpg"]
)  # fmt: skip
def test_import_voc(committed: Path, known: None, tmp_path: Path, line: str) -> None:
    (tmp_path / "labeled.txt").write_bytes("\r\n".join(line.format(id) for id in VOC_TRAIN[:2]).encode())
    (tmp_path / "unlabeled.txt").write_text("\n".join(line.format(id) for id in VOC_TRAIN[2:]))
    files = (tmp_path / "labeled.txt", tmp_path / "unlabeled.txt")
    destination = tmp_path / "data" / "voc" / "splits"
    one = import_split("voc", "a/2", *files, VOC_TRAIN, ["2009_000001"], destination)
    assert (one.name, one.pixel, one.tags, one.none) == ("a_2", VOC_TRAIN[:2], (), VOC_TRAIN[2:])
    assert find_split("voc", "a_2", tmp_path / "data") == one
    origin = json.loads((destination / "a_2" / "MANIFEST.json").read_text())["origin"]
    assert origin["known_as"]["pixel"] == ["A:pascal/2/labeled", "B:pascal/2"]
    assert origin["known_as"]["none"] == ["A:pascal/2/unlabeled"] and origin["known_as"]["eval"] == []
    assert origin["imported"]["pixel"].endswith("/labeled.txt")
    assert (
        import_split("voc", "b", files[0], None, VOC_TRAIN, ["2009_000001"], destination).none
        == VOC_TRAIN[2:]
    )


@pytest.mark.parametrize(
    "line", ["leftImg8bit/train/city/{}_leftImg8bit.png",
             "leftImg8bit/train/city/{0}_leftImg8bit.png gtFine/train/city/{0}_gtFine_labelTrainIds.png",
             "{}"]
)  # fmt: skip
def test_import_cityscapes(committed: Path, tmp_path: Path, line: str) -> None:
    (tmp_path / "labeled.txt").write_text("\n".join(line.format(id) for id in CITY_TRAIN[1:]))
    one = import_split(
        "cityscapes", "x", tmp_path / "labeled.txt", None, CITY_TRAIN, ["ulm_000000_000019"], tmp_path / "s"
    )
    assert one.pixel == CITY_TRAIN[1:] and one.none == CITY_TRAIN[:1]


def test_import_keeps_sub_folders_of_our_layout(committed: Path, tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("images/far/c.png labels/far/c.png\nfar/d\n")
    one = import_split("toy", "x", tmp_path / "l.txt", None, ["far/c", "far/d", "e"], ["z"], tmp_path / "s")
    assert one.pixel == ("far/c", "far/d") and one.none == ("e",)


def test_import_of_tagged_images(committed: Path, toy: Folder, tmp_path: Path) -> None:
    data = toy
    (tmp_path / "l.txt").write_text("i0\n")
    (tmp_path / "t.txt").write_text("i1\ni2\n")
    given = (data.ids("train"), data.ids("val"), tmp_path / "s", tmp_path / "t.txt", data)
    fails("'i1' is granted its tags", lambda: import_split("toy", "x", None, None, *given))
    (tmp_path / "toy" / "tags.json").write_text(json.dumps({f"i{n}": [n % 2] for n in range(3)}))
    data = Folder(tmp_path / "toy", "toy")
    given = (*given[:4], data)
    one = import_split("toy", "x", tmp_path / "l.txt", None, *given)
    assert (one.pixel, one.tags, len(one.none)) == (("i0",), ("i1", "i2"), 13)
    assert load_tags(data, one) == {"i1": (1,), "i2": (0,)}
    assert import_split("toy", "y", None, None, *given).pixel == ()
    (tmp_path / "l.txt").write_text("i1\n")
    fails("t.txt both hold 'i1'", lambda: import_split("toy", "z", tmp_path / "l.txt", None, *given))


@pytest.mark.parametrize(
    ("labeled", "unlabeled", "what"),
    [
        ("a\nb\n", "b\nc\n", "Leave the unlabeled list out"),
        ("a\nq\n", None, "l.txt: line 2, 'q', is none of the images in its lists"),
        ("a\n", "b\nq\n", "u.txt: line 2, 'q',"),
        ("a\nz\n", None, "l.txt holds 'z', which toy scores"),
        ("a\n", "z\n", "u.txt holds 'z', which toy scores"),
        ("a\nx/a.jpg\n", None, "more than once"),
        ("\n", None, "l.txt is empty"),
        ("../../a\n", None, "'../../a', is none of the images"),
        ("..\\a.jpg\n", None, "is none of the images"),
    ],
)
def test_import_refuses(
    committed: Path, tmp_path: Path, labeled: str, unlabeled: str | None, what: str
) -> None:
    (tmp_path / "l.txt").write_text(labeled)
    if unlabeled:
        (tmp_path / "u.txt").write_text(unlabeled)
    files = (tmp_path / "l.txt", tmp_path / "u.txt" if unlabeled else None)
    fails(what, lambda: import_split("toy", "x", *files, list("abc"), ["z"], tmp_path / "s"))
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("name", ["half", "..", "", "a b", "-x", ".hidden"])
def test_import_refuses_names(folder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "l.txt").write_text("a\n")
    fails(
        repr(name),
        lambda: import_split("toy", name, tmp_path / "l.txt", None, ["a"], ["z"], tmp_path / "s"),
        ConfigError,
    )
