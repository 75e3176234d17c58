"""What lies in the place of a file or folder and is none is named: it is never taken for nothing."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.errors import DataError
from bench.labels import DRAWN
from bench.settings.registry import load_dataset
from bench.testing import tiny
from datasets.folder import Folder
from datasets.gta5 import Gta5
from datasets.plain_files import is_folder, is_there
from datasets.splits import find_split, heldout_ids
from datasets.voc import Voc

Damage = Callable[[Path], object]
DAMAGES: dict[str, Damage] = {
    "pipe": os.mkfifo,
    "loop": lambda path: path.symlink_to(path.name),
    "broken link": lambda path: path.symlink_to("nowhere"),
}
NO_FILES = {**DAMAGES, "folder": Path.mkdir}
NO_FOLDERS = {**DAMAGES, "file": Path.touch}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with a tiny set of its own, whose list is val.txt as well as test.txt."""
    root = Path(shutil.copytree(tiny.shared_root(), tmp_path / "data"))
    shutil.copyfile(root / "tinyset" / "test.txt", root / "tinyset" / "val.txt")
    return root


def in_place_of(path: Path, damage: Damage) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    damage(path)


def named(path: Path, call: Callable[[], object]) -> None:
    with pytest.raises(DataError, match=re.escape(str(path))) as error:
        call()
    assert "unknown" not in str(error.value) and " (there is: " not in str(error.value), error.value


def test_what_is_there_or_not(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "folder").mkdir()
    (tmp_path / "to_folder").symlink_to("folder")
    assert is_there(tmp_path / "a") and is_there(tmp_path / "link") and not is_there(tmp_path / "b")
    assert not is_there(tmp_path / "a" / "b") and not is_folder(tmp_path / "b")
    assert is_folder(tmp_path / "folder") and is_folder(tmp_path / "to_folder")


@pytest.mark.parametrize(
    ("damage", "there"), [*((d, is_there) for d in NO_FILES), *((d, is_folder) for d in NO_FOLDERS)]
)
def test_what_is_no_file_or_folder(tmp_path: Path, damage: str, there: Callable[[Path], bool]) -> None:
    place = tmp_path / "place"
    {**NO_FILES, **NO_FOLDERS}[damage](place)
    named(place, lambda: there(place))
    if damage == "broken link" and there is is_there:
        with pytest.raises(DataError, match="is a link to nowhere, which does not exist"):
            is_there(place)


def opened(root: Path) -> Folder:
    found = load_dataset("tinyset", root)
    assert isinstance(found, Folder)
    return found


FILES: dict[str, Callable[[Path], object]] = {  # of a folder of one's own: who reads it
    "classes.txt": opened,
    "train.txt": lambda root: opened(root).ids("train"),
    "test.txt": opened,
    "val.txt": opened,
    "heldout.txt": opened,
    "label_seconds.json": opened,
    "dataset.yaml": opened,
    "tags.json": lambda root: opened(root).tags("train_00"),
    "boxes.json": lambda root: opened(root).boxes("train_00"),
    "splits/heldout.txt": lambda root: heldout_ids("tinyset", root),
}


@pytest.mark.parametrize("damage", NO_FILES)
@pytest.mark.parametrize("file", FILES)
def test_no_file_of_a_folder_counts_as_absent(root: Path, file: str, damage: str) -> None:
    path = root / "tinyset" / file
    in_place_of(path, NO_FILES[damage])
    named(path, lambda: FILES[file](root))


@pytest.mark.parametrize("damage", NO_FOLDERS)
@pytest.mark.parametrize("kind", DRAWN)
def test_no_folder_of_marks_counts_as_absent(root: Path, kind: str, damage: str) -> None:
    path = root / "tinyset" / kind
    in_place_of(path, NO_FOLDERS[damage])
    named(path, lambda: opened(root).drawn("train_00", kind))


def test_other_files_in_place_of_a_record_are_said_where_it_is_not_there(root: Path) -> None:
    for file in ("tags.json", "boxes.json"):
        in_place_of(root / "tinyset" / file, DAMAGES["loop"])
    assert not [note for note in opened(root).notes if "is not read" in note]
    in_place_of(root / "tinyset" / "tags.csv", Path.touch)
    (root / "tinyset" / "tags.json").unlink()
    assert any("tags.csv is not read, only tags.json is" in note for note in opened(root).notes)


@pytest.mark.parametrize("damage", NO_FOLDERS)
def test_a_data_root_that_is_no_folder_is_named(tmp_path: Path, damage: str) -> None:
    NO_FOLDERS[damage](tmp_path / "root")
    for call in (
        lambda: load_dataset("mine", tmp_path / "root"),
        lambda: load_dataset("camvid", tmp_path / "root"),
        lambda: find_split("mine", "full", tmp_path / "root"),
    ):
        named(tmp_path / "root", call)


@pytest.mark.parametrize("damage", ["pipe", "loop", "broken link"])
def test_no_file_of_other_data_sets_counts_as_absent(tmp_path: Path, damage: str) -> None:
    for name in ("voc/JPEGImages", "voc/SegmentationClass", "gta5/images", "gta5/labels"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "voc" / "SegmentationClass" / "a.png").touch()
    val = tmp_path / "voc" / "ImageSets" / "Segmentation" / "val.txt"
    for path, call in {
        val: lambda: Voc(tmp_path).ids("val"),
        val.with_name("train.txt"): lambda: Voc(tmp_path).ids("train"),
        tmp_path / "voc" / "tags.json": lambda: Voc(tmp_path).tags("a"),
        tmp_path / "voc" / "SegmentationClassAug": lambda: Voc(tmp_path).ids("train"),
        tmp_path / "gta5" / "train.txt": lambda: Gta5(tmp_path).ids("train"),
        tmp_path / "pair" / "pair.yaml": lambda: load_dataset("pair", tmp_path),
    }.items():
        in_place_of(path, DAMAGES[damage])
        named(path, call)
        path.unlink()
