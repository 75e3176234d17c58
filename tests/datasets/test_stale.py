"""Tags, points, strokes and boxes that were made of masks, after the masks have changed."""

import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from bench.cli import app
from bench.labels import SPARSE
from bench.testing import tiny
from datasets.decode import read_mask
from datasets.folder import Folder
from datasets.splits import find_split, known_splits
from datasets.verify import verify


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with a tiny set of its own, and splits made of its masks, of every kind."""
    root = tmp_path / "data"
    shutil.copytree(tiny.shared_root(), root)
    shutil.rmtree(root / "tinyset" / "splits")
    (root / "tinyset" / "tags.json").unlink()
    done = typed(f"data splits --make {kinds()} --dataset tinyset --data-root {root}")
    assert done == "", done
    return root


def kinds() -> str:
    return " ".join(f"--kind {kind}" for kind in SPARSE)


def typed(line: str) -> str:
    """Type a command; return what it says where it fails, else ""."""
    done = CliRunner().invoke(app, shlex.split(line))
    return done.output + str(done.exception) if done.exit_code else ""


def problems(root: Path) -> list[str]:
    splits = [find_split("tinyset", name, root) for name in known_splits("tinyset", root)]
    return verify(Folder(root / "tinyset", "tinyset"), splits).problems


@pytest.mark.slow
def test_what_was_made_of_other_masks_is_said_and_the_command_makes_it_anew(root: Path) -> None:
    assert problems(root) == []
    for id in Folder(root / "tinyset", "tinyset").ids("train"):
        path = root / "tinyset" / "labels" / f"{id}.png"
        table = np.arange(256, dtype=np.uint8)
        table[[1, 2]] = 2, 1
        Image.fromarray(table[read_mask(path, None, 3)]).save(path)
    said = problems(root)
    assert [one.split()[1] for one in said] == sorted(["tags", *SPARSE])
    command = f"python -m bench data splits --make {kinds()} --dataset tinyset --data-root {root}"
    assert all(f"make them anew with `{command}`." in one for one in said)
    assert typed(command.removeprefix("python -m bench ")) == ""
    assert problems(root) == []


def test_one_mask_that_changed_is_named(root: Path) -> None:
    path = root / "tinyset" / "labels" / "train_05.png"
    mask = read_mask(path, None, 3)
    mask[mask == 2] = 0
    mask[20:24, 20:24] = 1
    Image.fromarray(mask).save(path)
    said = problems(root)
    assert [one.split()[1] for one in said] == sorted(["tags", *SPARSE])
    assert all("of 'train_05' of tinyset were made of masks" in one for one in said)
