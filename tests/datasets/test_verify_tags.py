"""`verify` says what is wrong with the tags that splits grant, as a run on them would."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.errors import DataError
from bench.testing import tiny
from datasets.folder import Folder
from datasets.splits import find_split, known_splits
from datasets.splits_make import regenerate
from datasets.tags import load_tags
from datasets.verify import verify

Damage = Callable[[Path], object]


def edited(edit: Callable[[dict[str, list[int]]], object]) -> Damage:
    def damage(path: Path) -> None:
        table = json.loads(path.read_text())
        edit(table)
        path.write_text(json.dumps(table))

    return damage


def piped(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def looped(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


DAMAGES: dict[str, tuple[Damage, str]] = {
    "empty": (lambda path: path.write_bytes(b""), "is not readable JSON"),
    "deep": (lambda path: path.write_text("[" * 200_000), "is not readable JSON"),
    "pipe": (piped, "is no plain file"),
    "loop": (looped, "cannot be read"),
    "gone": (Path.unlink, "has no tags.json"),
    "an entry less": (edited(lambda table: table.pop("train_03")), "no entry for"),
    "others": (edited(lambda table: table.update(train_03=[])), "are not those that its split"),
}


@pytest.fixture(params=["own", "made of masks"])
def tags(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The tags of a tiny set whose splits grant them in draws 0 and 1."""
    folder = Path(shutil.copytree(tiny.shared_root(), tmp_path / "data")) / "tinyset"
    shutil.rmtree(folder / "splits")
    if request.param != "own":
        (folder / "tags.json").unlink()
    regenerate(Folder(folder, "tinyset"), folder / "splits", [1])
    return folder / "tags.json" if request.param == "own" else folder / "splits" / "tags.json"


def problems(tags: Path) -> list[str]:
    root = next(place for place in tags.parents if place.name == "data")
    splits = [find_split("tinyset", name, root) for name in known_splits("tinyset", root)]
    return verify(Folder(root / "tinyset", "tinyset"), splits).problems


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_or_other_tags_are_a_problem(tags: Path, damage: str) -> None:
    assert problems(tags) == []
    change, said = DAMAGES[damage]
    change(tags)
    found = problems(tags)
    assert found and any(said in one for one in found), found
    assert len(found) <= 4 and len({*found}) == len(found)


def test_tags_of_another_draw_are_a_problem(tags: Path) -> None:
    about = next(tags.parent.glob("**/draw1.json"))
    said = json.loads(about.read_text())
    said["tags"]["tag_digest"] = "0" * 64
    about.write_text(json.dumps(said))
    (found,) = problems(tags)
    assert "not those that its split '1_8+tags' (draw 1) was made with" in found
    root = next(place for place in tags.parents if place.name == "data")
    with pytest.raises(DataError, match=r"\(draw 1\)"):
        load_tags(Folder(root / "tinyset", "tinyset"), find_split("tinyset", "1_8+tags", root, draw=1))
    lists = about.with_suffix(".txt")
    lists.unlink()
    lists.symlink_to("nowhere")
    assert any(str(lists) in one for one in problems(tags))
