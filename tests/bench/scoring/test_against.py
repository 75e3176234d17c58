"""Labels beside the masks that they score: what is there and cannot be read is not taken for absent."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.errors import DataError
from bench.scoring.against import open_labels, score_against

CLASSES = ("ground", "square")
NO_FILES: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "loop": lambda path: path.symlink_to(path.name),
    "broken link": lambda path: path.symlink_to("nowhere"),
}


@pytest.fixture
def images(tmp_path: Path) -> dict[str, Path]:
    """Two images, and the labels of both in the folder `labels`."""
    (tmp_path / "labels").mkdir()
    mask = np.eye(8, dtype=np.uint8)
    for id in "ab":
        Image.fromarray(mask).save(tmp_path / "labels" / f"{id}.png")
        Image.fromarray(mask).save(tmp_path / f"{id}.png")
    return {id: tmp_path / f"{id}.png" for id in "ab"}


@pytest.mark.parametrize("damage", NO_FILES)
@pytest.mark.parametrize("file", ["labels/b.png", "labels/classes.txt", "labels/dataset.yaml", "classes.txt"])
def test_what_cannot_be_read_is_named(
    images: dict[str, Path], tmp_path: Path, file: str, damage: str
) -> None:
    labels = open_labels(tmp_path / "labels", CLASSES, images)
    path = tmp_path / file
    path.unlink(missing_ok=True)
    NO_FILES[damage](path)
    with pytest.raises(DataError, match=re.escape(str(path))):
        open_labels(tmp_path / "labels", CLASSES, images)
    if path.stem == "b":  # also where it became so while the masks were predicted
        with pytest.raises(DataError, match=re.escape(str(path))):
            score_against(labels, images, 2)


def test_an_image_without_a_label_is_left_out(images: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "labels" / "b.png").rename(tmp_path / "labels" / "b_old.png")
    labels = open_labels(tmp_path / "labels", CLASSES, images)
    score, scored = score_against(labels, images, 2)
    assert (score.miou, scored) == (1.0, 1)
