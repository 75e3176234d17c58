"""A clean folder: what it holds by hand, the same pixels as before, whole or not at all."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.contract import Dataset
from bench.errors import ConfigError, DataError, Interrupted
from bench.records.atomic import WriteError
from datasets.convert import OfDataset, convert, refuse_target
from datasets.folder import Folder
from datasets.shapes import Shapes

TABLE = "colours: {sky: [0, 0, 255], ground: [0, 99, 0]}\nignore: [255, 255, 255]\nbackground: ground\n"
COLOURS = np.array([[0, 0, 255], [0, 99, 0], [255, 255, 255]], np.uint8)
TURNED = 6  # an orientation of EXIF: height and width change places


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes in colours; ids with folders, spaces, dots and other letters; one image has no mask."""
    root = tmp_path / "mine"
    ids = ["city/a.1", "b c", "été/ß", "unlabeled", "e"]
    rng = np.random.default_rng(0)
    for number, id in enumerate(ids):
        for folder in ("images", "labels"):
            (root / folder / id).parent.mkdir(parents=True, exist_ok=True)
        ending = ("jpg", "TIF", "webp", "bmp", "PNG")[number]
        Image.fromarray(rng.integers(0, 256, (6, 9, 3)).astype(np.uint8)).save(
            root / "images" / f"{id}.{ending}"
        )
        if id != "unlabeled":
            Image.fromarray(COLOURS[rng.integers(0, 3, (6, 9))]).save(root / "labels" / f"{id}.png")
    exif = Image.Exif()
    exif[0x0112] = TURNED
    Image.fromarray(np.zeros((9, 6, 3), np.uint8)).save(root / "images" / "city" / "a.1.jpg", exif=exif)
    (root / "train.txt").write_text("".join(f"{id}\n" for id in ids[:-1]))
    (root / "test.txt").write_text("e\n")
    (root / "classes.txt").write_text("# a comment\nsky\nground\n")
    (root / "dataset.yaml").write_text(TABLE)
    (root / "tags.json").write_text(json.dumps({"e": [0], "b c": ["ground", 0], "city/a.1": []}))
    (root / "label_seconds.json").write_text('{"pixel": 60}')
    (root / "splits" / "full").mkdir(parents=True)
    (root / "splits" / "full" / "MANIFEST.json").write_text("{}")
    return root


def every(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_a_clean_folder_reads_as_the_one_before(root: Path, tmp_path: Path) -> None:
    before, files = Folder(root, "mine"), every(root)
    seen: list[tuple[int, int]] = []
    made = convert(OfDataset(before), tmp_path / "new" / "mine", lambda *at: seen.append(at))
    assert every(root) == files and (made.images, made.masks) == (5, 4) and seen[-1] == (5, 5)
    assert made.notes == ("1 of 5 images have no mask; they can be learned from unlabeled.",)
    clean = tmp_path / "new" / "mine"
    after = Folder(clean, "mine")
    assert (after.classes, after.background, after.scored) == (("sky", "ground"), 1, "test")
    assert after.mask_rule == "" and after.notes == () and not after.by_colour
    for listing in ("train", "test"):
        assert after.ids(listing) == before.ids(listing)
        for id in after.ids(listing):
            np.testing.assert_array_equal(after.image(id), before.image(id))
            if id != "unlabeled":
                np.testing.assert_array_equal(after.mask(id), before.mask(id))
                assert Image.open(clean / "labels" / f"{id}.png").mode == "L"
    assert after.tags("b c") == (0, 1) and after.tags("city/a.1") == () and after.label_seconds["pixel"] == 60
    assert {path.name for path in clean.iterdir()} == {
        *("images", "labels", "splits", "classes.txt", "dataset.yaml", "label_seconds.json", "tags.json"),
        *("test.txt", "train.txt"),
    }
    assert not (clean / "labels" / "unlabeled.png").exists()
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"mine"}


def test_splits_bear_the_name_of_their_data_set(root: Path, tmp_path: Path) -> None:
    made = convert(OfDataset(Folder(root, "mine")), tmp_path / "other")
    assert not (tmp_path / "other" / "splits").exists() and "make them anew" in made.notes[0]


def test_a_data_set_without_files_is_written_too(tmp_path: Path) -> None:
    class Few(Shapes):
        def ids(self, listing: str) -> tuple[str, ...]:
            return super().ids(listing)[:2]

    before: Dataset = Few()
    made = convert(OfDataset(before), tmp_path / "drawn")
    after = Folder(tmp_path / "drawn", "drawn")
    assert (made.images, made.masks) == (6, 6) and after.heldout == "heldout" and after.background == 0
    for id in after.ids("test"):
        np.testing.assert_array_equal(after.image(id), before.image(id))
        np.testing.assert_array_equal(after.mask(id), before.mask(id))


# Whole or not at all ----------------------------------------------------------------------------------------


def damage_colour(root: Path) -> str:
    Image.new("RGB", (9, 6), (1, 2, 3)).save(root / "labels" / "e.png")
    return "shows the colour [1, 2, 3] in 54 pixels"


def damage_image(root: Path) -> str:
    (root / "images" / "e.PNG").write_bytes(b"no picture")
    return "cannot be decoded"


def damage_size(root: Path) -> str:
    Image.new("RGB", (5, 5)).save(root / "labels" / "e.png")
    return "must have its image's size"


def damage_gone(root: Path) -> str:
    (root / "images" / "e.PNG").unlink()
    return "does not exist"


def damage_ending(root: Path) -> str:
    (root / "labels" / "e.png").rename(root / "labels" / "e.jpg")
    return "changes class ids"


def damage_lists(root: Path) -> str:
    for name in ("train.txt", "test.txt"):
        (root / name).write_text("")
    return "name no image"


def damage_no_lists(root: Path) -> str:
    for name in ("train.txt", "test.txt"):
        (root / name).unlink()
    return "has no list of ids"


def damage_tags(root: Path) -> str:
    (root / "tags.json").write_text('{"e": ["moon"]}')
    return "'moon'"


DAMAGES = [
    damage_colour,
    damage_image,
    damage_size,
    damage_gone,
    damage_ending,
    damage_lists,
    damage_no_lists,
    damage_tags,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_cannot_be_read_leaves_nothing(root: Path, tmp_path: Path, damage: object) -> None:
    said = damage(root)  # type: ignore[operator]
    with pytest.raises(DataError, match=re.escape(said)):
        convert(OfDataset(Folder(root, "mine")), tmp_path / "new")
    assert {path.name for path in tmp_path.iterdir()} == {"mine"}


def test_a_stop_leaves_nothing(root: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        convert(OfDataset(Folder(root, "mine")), tmp_path / "new", stop)
    assert {path.name for path in tmp_path.iterdir()} == {"mine"}


def test_a_full_disk_is_a_sentence(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(WriteError, match="No space left on device; make room there"):
        convert(OfDataset(Folder(root, "mine")), tmp_path / "new")
    assert {path.name for path in tmp_path.iterdir()} == {"mine"}


def test_a_target_that_is_there_is_left_alone(root: Path, tmp_path: Path) -> None:
    source = OfDataset(Folder(root, "mine"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    before = every(tmp_path)
    for name in ("full", "file", "link", "mine", "mine/inside", "no name", "."):
        with pytest.raises(ConfigError) as caught:
            convert(source, tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="lie in each other"):
        refuse_target(root.parent, root)
    assert every(tmp_path) == before and os.path.islink(tmp_path / "link")
    (tmp_path / "empty").mkdir()
    assert convert(source, tmp_path / "empty").masks == 4


def test_a_name_that_no_plain_list_can_hold_is_refused(root: Path, tmp_path: Path) -> None:
    (root / "classes.txt").write_text("sky:1,2,3::\n#1 road:4,5,6::\nground:7,8,9::\n")
    source = OfDataset(Folder(root, "mine"))
    assert convert(source, tmp_path / "sound").masks == 4
    source.classes = ("sky", "# ground")
    with pytest.raises(DataError, match="'# ground' of mine would be read as something else"):
        convert(source, tmp_path / "new")
    source.classes, source.background = ("background", "ground"), None
    convert(source, tmp_path / "none")
    assert Folder(tmp_path / "none", "none").background is None
