"""Toy splits and a toy data set for the tests of splits: reading, making, importing."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import splits, splits_import, splits_make
from datasets.folder import Folder
from datasets.splits import Split
from datasets.splits_make import write_split


@pytest.fixture
def committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for the suite's own splits."""
    place = tmp_path / "committed"
    place.mkdir()
    for module in (splits, splits_make, splits_import):
        monkeypatch.setattr(module, "COMMITTED", place)
    return place


@pytest.fixture
def folder(committed: Path) -> Path:
    """The split toy/half: "a" grants pixels, "b" nothing, "e" is scored."""
    write_split(
        committed / "toy" / "half", Split("toy", "half", ("a",), (), ("b",), ("e",)), {"rule": "by hand"}
    )
    return committed / "toy" / "half"


@pytest.fixture
def toy(tmp_path: Path) -> Folder:
    """Twenty images of two pixels by two; class 1 is in i7 alone."""
    root = tmp_path / "toy"
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for n in range(20):
        Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(root / "images" / f"i{n}.png")
        Image.fromarray(np.array([[n == 7, 255], [0, 0]], np.uint8)).save(root / "labels" / f"i{n}.png")
    (root / "train.txt").write_text("".join(f"i{n}\n" for n in range(16)))
    (root / "val.txt").write_text("i17\ni16\n")
    (root / "classes.txt").write_text("x\ny\n")
    return Folder(root, "toy")
