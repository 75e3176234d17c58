import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.errors import DataError
from datasets.camvid import CamVid
from datasets.folder import Folder
from datasets.msrc21 import Msrc21, Msrc21Objects
from datasets.splits import Split
from datasets.verify import ClassRow, stats, verify

MASKS = {"a": [[0, 0, 1, 255]], "b": [[0, 0], [0, 0]], "e": [[1, 0]]}


@pytest.fixture
def data(tmp_path: Path) -> Folder:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for id, mask in MASKS.items():
        array = np.array(mask, np.uint8)
        Image.fromarray(np.zeros((*array.shape, 3), np.uint8)).save(tmp_path / "images" / f"{id}.png")
        Image.fromarray(array).save(tmp_path / "labels" / f"{id}.png")
    (tmp_path / "train.txt").write_text("a\nb\n")
    (tmp_path / "test.txt").write_text("e\n")
    (tmp_path / "classes.txt").write_text("x\ny\nz\n")
    return Folder(tmp_path, "toy")


def test_stats_by_hand(data: Folder) -> None:
    seen: list[tuple[int, int]] = []
    table = stats(data, "train", lambda *at: seen.append(at))
    assert table.rows == (
        ClassRow(0, "x", 6, 0.75, 2),
        ClassRow(1, "y", 1, 0.125, 1),
        ClassRow(2, "z", 0, 0.0, 0),
        ClassRow(255, "ignore", 1, 0.125, 1),
    )
    assert (table.dataset, table.listing, table.images) == ("toy", "train", 2)
    assert table.sizes == {(1, 4): 1, (2, 2): 1} and seen == [(1, 2), (2, 2)]


def test_stats_of_the_train_list_count_the_masks_that_there_are(data: Folder) -> None:
    (data.root / "labels" / "a.png").unlink()
    table = stats(data, "train")
    assert (table.images, table.without, sum(table.sizes.values())) == (1, 1, 1)
    (data.root / "labels" / "e.png").unlink()
    with pytest.raises(DataError, match=r"e\.png"):
        stats(data, "test")


def test_stats_of_a_bad_or_empty_list(data: Folder) -> None:
    (data.root / "train.txt").write_text("")
    assert {row.share for row in stats(data, "train").rows} == {0.0}
    with pytest.raises(DataError, match=r"val\.txt"):
        stats(data, "val")


SPLITS = [Split("toy", "1_2", ("a",), (), ("b",), ("e",)), Split("toy", "full", ("a", "b"), (), (), ("e",))]


def test_verify_finds_nothing_in_sound_data(data: Folder) -> None:
    seen: list[tuple[int, int]] = []
    assert verify(data, SPLITS, lambda *at: seen.append(at)).problems == []
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("id", ["a", "b", "e"])
def test_verify_names_every_problem_once(data: Folder, id: str) -> None:
    image, label = data.root / "images" / f"{id}.png", data.root / "labels" / f"{id}.png"
    content = image.read_bytes()
    image.write_bytes(content[: len(content) // 2])
    problems = verify(data, SPLITS).problems
    assert len(problems) == 1 and str(image) in problems[0]
    image.unlink()
    problems = verify(data, SPLITS).problems
    assert len(problems) == 1 and str(image.with_suffix(".jpg")) in problems[0]
    image.write_bytes(content)
    label.write_bytes(b"")
    (data.root / "images" / "more.png").write_bytes(b"")  # in no list
    problems = verify(data, SPLITS).problems
    assert len(problems) == 1 and str(label) in problems[0]


def test_many_missing_files_are_one_problem_with_a_count_and_a_few_names(data: Folder) -> None:
    ids = [f"m{n}" for n in range(9)]
    split = Split("toy", "full", ("a", *ids), (), (), ("e",))
    (problem,) = verify(data, [split]).problems
    assert problem.startswith(
        f"9 of the 11 images of the splits lack a file; for example {data.root}/images/m0"
    )
    assert re.search(r"So it is with m1\.jpg.*, m2\.jpg.*, m3\.jpg.* and 5 more\.$", problem)
    for file in (data.root / "labels").iterdir():
        file.unlink()
    gone = verify(data, SPLITS).problems
    assert len(gone) == 1 and gone[0].startswith("3 of the 3 images of the splits lack a file")


def test_an_image_that_no_split_grants_needs_no_mask(data: Folder) -> None:
    """The usual case of people with few labels: most masks do not exist."""
    (data.root / "labels" / "b.png").unlink()
    assert verify(data, SPLITS[:1]).problems == []
    (data.root / "labels" / "a.png").unlink()
    assert len(verify(data, SPLITS[:1]).problems) == 1


def test_verify_does_not_hide_faults_of_the_program(data: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Folder, "mask", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        verify(data, SPLITS)


@pytest.mark.parametrize(("cls", "table"), [(CamVid, 0), (Msrc21, 0), (Msrc21Objects, 1)])
def test_stats_agree_with_the_readme_of_the_data(
    cls: Callable[[Path], Folder], table: int, real_data: Path
) -> None:
    data = cls(real_data)
    tables = (data.root / "README.md").read_text().split("| id | class |")[1:]
    told = re.findall(r"^\| (\d+) \| (\w+) \| (.*) \|$", tables[table], re.MULTILINE)
    assert len(told) == len(data.classes) + 1
    for column, listing in enumerate(("train", "val", "test")):
        found = [(str(r.id), r.name, f"{100 * r.share:.2f} ({r.images})") for r in stats(data, listing).rows]
        assert found == [(id, name, cells.split(" | ")[column]) for id, name, cells in told]
