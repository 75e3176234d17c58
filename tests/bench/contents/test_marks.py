"""A run on points, strokes or boxes is done only by the marks that it learned from."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench import plan as plans
from bench.contents.gather import of_run
from bench.errors import DataError
from bench.labels import SPARSE
from bench.outlook import before
from bench.plan import Plan
from bench.testing import tiny
from datasets.boxes import to_coco
from datasets.decode import read_mask
from datasets.folder import Folder
from datasets.marks import archive_file
from datasets.sparse import Marks, to_archive
from datasets.sparse_make import made_of
from datasets.splits_make import regenerate

CLASSES = ("background", "square", "stripe")
ID = "train_03"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tiny set with points, strokes and boxes of its own, and splits of them."""
    root = Path(shutil.copytree(tiny.shared_root(), tmp_path / "data"))
    folder = root / "tinyset"
    shutil.rmtree(folder / "splits")
    data, boxes = Folder(folder, "tinyset"), {}
    for id in data.ids("train"):
        for kind in SPARSE:
            mark = made_of(kind, data, id, data.mask(id))
            if isinstance(mark, np.ndarray):
                (folder / kind).mkdir(exist_ok=True)
                Image.fromarray(mark).save(folder / kind / f"{id}.png")
            else:
                boxes[id] = mark
    (folder / "boxes.json").write_bytes(to_coco(boxes, CLASSES))
    regenerate(Folder(folder, "tinyset"), folder / "splits", [], SPARSE)
    return root


def planned(root: Path, kind: str) -> Plan:
    out = root.parent / "runs"
    sets = ("protocol.batch.labeled=4", "protocol.batch.unlabeled=4", "box_seeds.rule=inner")
    return plans.plan(tiny.config("supervised", *sets, root=root, out=out, split=kind))


def changed(path: Path) -> None:
    """One mark of one image is another: a class for points and strokes, a side for boxes."""
    if path.suffix == ".json":
        document = json.loads(path.read_text())
        numbers = {one["file_name"]: one["id"] for one in document["images"]}
        entry = next(one for one in document["annotations"] if one["image_id"] == numbers[f"{ID}.png"])
        entry["bbox"][2] -= 1
        path.write_text(json.dumps(document))
        return
    mark = read_mask(path, None, 3)
    mark[mark != 255] = (mark[mark != 255] + 1) % 3
    Image.fromarray(mark).save(path)


def file_of(root: Path, kind: str) -> Path:
    return root / "tinyset" / ("boxes.json" if kind == "boxes" else f"{kind}/{ID}.png")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "changed": changed,
    "gone": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", SPARSE)
def test_other_marks_are_refused_as_reading_them_is(root: Path, kind: str, damage: str) -> None:
    sound = of_run(planned(root, kind)).contents
    path = file_of(root, kind)
    kept = path.read_bytes()
    DAMAGES[damage](path)
    with pytest.raises(DataError, match=path.stem if damage != "changed" else ID) as error:
        of_run(planned(root, kind))
    assert damage != "changed" or f"the {kind} of '{ID}' of tinyset have changed" in str(error.value)
    with pytest.raises(DataError) as other:  # a dry run
        before(planned(root, kind))
    assert str(other.value) == str(error.value)
    path.write_bytes(kept)
    assert of_run(planned(root, kind)).contents == sound


@pytest.mark.parametrize("kind", SPARSE)
def test_marks_that_were_made_of_masks_are_looked_at_as_well(root: Path, kind: str) -> None:
    folder = root / "tinyset"
    place = folder / "splits"
    for own in ("points", "scribbles", "boxes.json"):
        shutil.rmtree(folder / own) if (folder / own).is_dir() else (folder / own).unlink()
    shutil.rmtree(place)
    regenerate(Folder(folder, "tinyset"), place, [], SPARSE)
    of_run(planned(root, kind))
    path = archive_file(place, kind)
    if kind == "boxes":
        changed(path)
    else:
        data, split = Folder(folder, "tinyset"), planned(root, kind).split
        marks = {id: Marks(data, split).drawn(kind, id) for id in data.ids("train")}
        marks[ID] = np.roll(marks[ID], 1, 0)
        path.write_bytes(to_archive(marks))
    with pytest.raises(DataError, match=f"the {kind} of '{ID}' of tinyset have changed"):
        of_run(planned(root, kind))


@pytest.mark.parametrize("kind", SPARSE)
def test_marks_are_read_once(root: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (*(root / "tinyset" / kind).glob("*"), root / "tinyset" / "boxes.json"):
        os.utime(path, (1e9, 1e9))
    monkeypatch.setattr("bench.contents.files.YOUNG_NS", -(10**18))  # what is written now counts as old
    sound = of_run(planned(root, kind)).contents
    monkeypatch.setattr(Marks, "read", lambda *_: pytest.fail("was read again"))
    assert of_run(planned(root, kind)).contents == sound
