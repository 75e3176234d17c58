import json
import os
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from bench.errors import ConfigError, DataError
from datasets.encodings import colours
from datasets.splits import find_split
from datasets.splits_make import regenerate
from datasets.tags import load_tags, read_tags
from datasets.voc import CLASSES, Voc, convert_sbd, download


def save_mask(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.frombytes("P", (6, 4), bytes([value] * 23 + [255]))
    picture.putpalette(colours(256).ravel().tolist())
    picture.save(path)


def make(folder: Path) -> Path:
    """Official: a, b train and v val; x and w have no official mask. Masks hold the class 1."""
    (folder / "JPEGImages").mkdir(parents=True)
    for id in "abvxw":
        Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(folder / "JPEGImages" / f"{id}.jpg")
    for id in "abv":
        save_mask(folder / "SegmentationClass" / f"{id}.png", 1)
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for name, ids in (("train", "ba"), ("val", "v"), ("trainval", "bav")):
        (lists / f"{name}.txt").write_text("".join(f"{id}\n" for id in ids))
    return folder


def make_sbd(folder: Path, ids: str, value: int = 2) -> Path:
    (folder / "cls").mkdir(parents=True)
    for id in ids:
        inner = np.zeros((1, 1), [("Segmentation", object)])
        inner[0, 0]["Segmentation"] = np.full((4, 6), value, np.uint8)
        scipy.io.savemat(folder / "cls" / f"{id}.mat", {"GTcls": inner})
    return folder


@pytest.mark.parametrize("place", ["voc", "VOCdevkit/VOC2012"])
def test_official_lists_and_masks(tmp_path: Path, place: str) -> None:
    make(tmp_path / place)
    (tmp_path / "voc" / "splits").mkdir(parents=True, exist_ok=True)  # imported splits alone are no VOC
    data = Voc(tmp_path)
    assert (data.name, data.scored, data.background, len(data.classes)) == ("voc", "val", 0, 21)
    assert (
        data.ids("train") == ("b", "a")
        and data.ids("val") == ("v",)
        and data.ids("trainval") == ("b", "a", "v")
    )
    assert data.image("a").shape == (4, 6, 3)
    assert data.mask("v").ravel().tolist() == [1] * 23 + [255]


def test_classes() -> None:
    assert len(CLASSES) == 21 and (CLASSES[1], CLASSES[15], CLASSES[20]) == (
        "aeroplane",
        "person",
        "tvmonitor",
    )


def test_augmented_train_leaves_val_out_and_prefers_official_masks(tmp_path: Path) -> None:
    folder = make(tmp_path / "voc")
    for id in "abvx":
        save_mask(folder / "SegmentationClassAug" / f"{id}.png", 2)
    data = Voc(tmp_path)
    assert data.ids("train") == ("a", "b", "x") and data.ids("val") == ("v",)
    assert [int(data.mask(id)[0, 0]) for id in "avx"] == [1, 1, 2]


def test_what_is_missing_or_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--data-root"):
        Voc(tmp_path)
    folder = make(tmp_path / "voc")
    with pytest.raises(ConfigError, match="'test'"):
        Voc(tmp_path).ids("test")
    with pytest.raises(DataError, match=re.escape(str(folder / "SegmentationClass" / "x.png"))):
        Voc(tmp_path).mask("x")
    for read in (Voc(tmp_path).image, Voc(tmp_path).mask):
        with pytest.raises(DataError, match="cannot be an id"):
            read("../a")
    (folder / "ImageSets" / "Segmentation" / "val.txt").unlink()
    with pytest.raises(DataError, match=r"val\.txt"):
        Voc(tmp_path).ids("val")


def test_convert_sbd(tmp_path: Path) -> None:
    folder = make(tmp_path / "voc")
    assert convert_sbd(make_sbd(tmp_path / "sbd", "avwx"), folder) == 5
    data = Voc(tmp_path)
    assert data.ids("train") == ("a", "b", "w", "x")
    assert sorted(path.name for path in folder.iterdir() if "Aug" in path.name) == ["SegmentationClassAug"]
    stored = {
        path.stem: int(np.asarray(Image.open(path))[0, 0])
        for path in (folder / "SegmentationClassAug").iterdir()
    }
    assert stored == {"a": 1, "b": 1, "v": 1, "w": 2, "x": 2}
    with pytest.raises(DataError, match="already exists"):
        convert_sbd(tmp_path / "sbd", folder)


@pytest.mark.parametrize("fault", ["none", "class", "broken", "other", "official"])
def test_a_failed_conversion_leaves_nothing(tmp_path: Path, fault: str) -> None:
    folder, sbd = make(tmp_path / "voc"), make_sbd(tmp_path / "sbd", "" if fault == "none" else "wx")
    named = sbd / "cls" / "x.mat"
    if fault == "class":
        named.unlink()
        make_sbd(tmp_path / "more", "x", 21)
        (tmp_path / "more" / "cls" / "x.mat").rename(named)
    elif fault == "broken":
        named.write_bytes(named.read_bytes()[:150])
    elif fault == "other":
        scipy.io.savemat(named, {"GTcls": np.zeros(3)})
    elif fault == "official":
        named = folder / "SegmentationClass" / "b.png"
        named.unlink()
    else:
        named = sbd / "cls"
    with pytest.raises(DataError, match=re.escape(str(named))):
        convert_sbd(sbd, folder)
    assert not [path for path in folder.iterdir() if "Aug" in path.name]


def test_download_asks_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[tuple[object, ...], dict[str, object]]] = []
    fake = types.ModuleType("torchvision.datasets")
    fake.VOCSegmentation = lambda *args, **kwargs: calls.append((args, kwargs))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision.datasets", fake)
    assert download(tmp_path) == tmp_path / "VOCdevkit" / "VOC2012"
    assert calls == [((tmp_path,), {"year": "2012", "image_set": "trainval", "download": True})]

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("File not found or corrupted.")

    fake.VOCSegmentation = broken  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="corrupted"):
        download(tmp_path)


def test_splits_of_tags_come_from_the_masks_or_from_a_record(tmp_path: Path) -> None:
    folder = make(tmp_path / "voc")
    place = folder / "splits"
    regenerate(Voc(tmp_path), place)
    split = find_split("voc", "tags", tmp_path)
    assert split.tags == ("a", "b") and split.tag_source == "masks"
    assert load_tags(Voc(tmp_path), split) == {"a": (0, 1), "b": (0, 1)}
    (folder / "tags.json").write_text(json.dumps({"a": ["boat"], "b": [1, 20], "v": []}))
    with pytest.raises(DataError, match=r"not those that its split 'tags' was made with"):
        load_tags(Voc(tmp_path), split)
    regenerate(Voc(tmp_path), place)
    split = find_split("voc", "tags", tmp_path)
    assert split.tag_source == "the data set's own record"
    assert load_tags(Voc(tmp_path), split) == {"a": (0, 4), "b": (0, 1, 20)}
    mixed = find_split("voc", "1_8+tags", tmp_path)
    assert len(mixed.pixel) == len(mixed.tags) == 1
    (folder / "tags.json").write_text(json.dumps({"a": ["boat"], "v": []}))
    with pytest.raises(DataError, match=r"tags\.json has no entry for 'b'"):
        regenerate(Voc(tmp_path), place)


def test_the_tags_of_voc(real_data: Path) -> None:
    table = read_tags(real_data / "voc_tags" / "voc_trainaug_val_image_tags.json", CLASSES)
    assert len(table) == 12_031 and all(tags and min(tags) > 0 for tags in table.values())


@pytest.fixture
def real_data() -> Path:
    """The folder of data sets that BENCH_DATA names."""
    root = os.environ.get("BENCH_DATA")
    if not root or not (Path(root) / "voc_tags").is_dir():
        pytest.skip("BENCH_DATA names no folder that holds voc_tags")
    return Path(root)
