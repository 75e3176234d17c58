"""A run says before it trains which of its files are missing, and how files were understood."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from rich.console import Console

from bench.display import Display
from bench.errors import DataError
from bench.machine import Stop
from bench.plan import plan
from bench.testing import tiny
from bench.training import session


@pytest.fixture
def root(tiny_root: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_root, tmp_path / "data")
    return tmp_path / "data"


def test_all_missing_files_of_a_run_are_counted_before_it_trains(root: Path) -> None:
    data = root / "tinyset"
    (data / "labels" / "test_01.png").unlink()  # a scored mask, which is opened after the training
    (data / "labels" / "train_00.png").unlink()
    (data / "images" / "train_09.png").unlink()
    planned = plan(tiny.config("fixmatch", root=root, out=root / "runs"))
    with pytest.raises(
        DataError, match="3 of the 20 images of the split 'few' of tinyset lack a file"
    ) as caught:
        session.parts_of(planned)
    said = str(caught.value)
    assert "2 like this: " in said and "train_00.png" in said and "train_09.jpg" in said


def test_a_run_needs_no_file_that_it_does_not_open(root: Path) -> None:
    data = root / "tinyset"
    (data / "labels" / "train_09.png").unlink()  # not granted
    (data / "images" / "train_09.png").unlink()  # unlabeled, and supervised takes none of those
    planned = plan(tiny.config("supervised", root=root, out=root / "runs"))
    assert session.parts_of(planned).dataset.name == "tinyset"


def test_a_run_says_how_files_were_understood(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "tinyset" / "classes.txt").write_text("__ignore__\n_background_\nsquare\nstripe\n")
    planned = plan(tiny.config("supervised", root=root, out=root / "runs"))
    planned.folder.path.mkdir(parents=True)
    session.start(planned, Display(Console(stderr=True, width=500)), Stop())
    assert "the classes are 0 background, 1 square, 2 stripe." in capsys.readouterr().err
