"""`data verify` and `data convert` from the command line: what is said, exit codes, nothing overwritten."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from commandline import Typed
from PIL import Image


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with `mine`: 24 images, masks in two colours."""
    place = tmp_path / "all data"
    for folder in ("images", "labels"):
        (place / "mine" / folder).mkdir(parents=True)
    for number in range(24):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(place / "mine" / "images" / f"i{number}.png")
        mask = np.zeros((8, 8, 3), np.uint8)
        mask[:, : 1 + number % 7] = (200, 0, 9)
        Image.fromarray(mask).save(place / "mine" / "labels" / f"i{number}.png")
    (place / "mine" / "train.txt").write_text("".join(f"i{n}\n" for n in range(16)))
    (place / "mine" / "test.txt").write_text("".join(f"i{n}\n" for n in range(16, 24)))
    (place / "mine" / "classes.txt").write_text("background\nleaf\n")
    return place


def commands(text: str) -> list[list[str]]:
    return [shlex.split(found)[3:] for found in re.findall(r"`(python -m bench [^`]+)`", text)]


@pytest.mark.slow
def test_from_colour_masks_to_a_clean_folder(typed: Typed, root: Path) -> None:
    at = ("--dataset", "mine", "--data-root", root)
    code, out, err = typed("data", "verify", *at)
    assert code == 3 and "so it is with 21 more masks" in out and "error: " in err
    lines = out[out.index("colours:\n") : out.index("mine: the background")].splitlines()[:3]
    text = "\n".join(lines).replace("NAME1", "background").replace("NAME2", "leaf")
    (root / "mine" / "dataset.yaml").write_text(text)
    assert typed("data", "splits", *at, "--make")[0] == 0
    code, out, _ = typed("data", "verify", *at)
    assert code == 0 and "every image and mask of 8 splits is sound" in out
    assert typed("run", "--method", "supervised", *at, "--split", "full", "--dry-run")[0] == 0
    code, out, err = typed("data", "convert", *at, "--to", root / "clean")
    assert code == 0 and "24 images, 24 masks of 2 classes" in out, err
    assert typed("data", "splits", "--dataset", "clean", "--data-root", root, "--make")[0] == 0
    (words,) = commands(out)
    assert typed(*words)[0] == 0
    code, out, err = typed("data", "convert", *at, "--to", root / "clean")
    assert code == 2 and "is not an empty folder" in err


def test_convert_from_json(typed: Typed, root: Path) -> None:
    file = root / "coco.json"
    document = {
        "images": [{"id": 1, "file_name": "i1.png", "height": 8, "width": 8}],
        "categories": [{"id": 1, "name": "leaf"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]]}
        ],
    }
    file.write_text(json.dumps(document))
    at = ("data", "convert", "--dataset", "mine", "--data-root", root)
    code, out, err = typed(*at, "--to", root / "from_coco", "--coco", file)
    assert code == 0 and "24 images, 1 masks of 2 classes" in out and "23 of 24 images have no mask" in out, (
        err
    )
    mask = np.asarray(Image.open(root / "from_coco" / "labels" / "i1.png"))
    assert mask.tolist() == np.pad(np.ones((4, 4), int), (0, 4)).tolist()
    (root / "mine" / "json").mkdir()
    shape = {"label": "leaf", "shape_type": "rectangle", "points": [[0, 0], [3, 3]]}
    labeled = {"imagePath": "i1.png", "imageHeight": 8, "imageWidth": 8, "shapes": [shape]}
    (root / "mine" / "json" / "i1.json").write_text(json.dumps(labeled))
    code, out, err = typed(*at, "--to", root / "from_labelme", "--labelme", root / "mine" / "json")
    assert code == 0, err
    assert np.asarray(Image.open(root / "from_labelme" / "labels" / "i1.png")).tolist() == mask.tolist()


def test_what_convert_refuses(typed: Typed, root: Path) -> None:
    at = ("data", "convert", "--dataset", "mine", "--data-root", root)
    new = ("--to", root / "new")
    for words, code, said in (
        ((*at, *new), 3, "is a colour mask"),
        ((*at, *new, "--coco", root / "gone.json"), 3, "gone.json does not exist"),
        ((*at, *new, "--labelme", root / "gone"), 3, "no folder"),
        ((*at, *new, "--coco", "a.json", "--labelme", "b"), 2, "give --coco or --labelme"),
        ((*at, "--to", root / "a name"), 2, "cannot name a data set"),
        (("data", "convert", "--dataset", "other", "--data-root", root, *new), 2, "unknown data set"),
        (
            ("data", "convert", "--dataset", "other", "--data-root", root, *new, "--coco", "a"),
            3,
            "is no folder",
        ),
        (("data", "convert", "--dataset", "..", "--data-root", root, *new, "--coco", "a"), 2, "cannot name"),
        ((*at,), 2, "--to"),
    ):
        found, _, err = typed(*words)
        assert found == code and said in err, (words, err)
        assert not (root / "new").exists()
    (root / "mine" / "dataset.yaml").write_text("colour: {}\n")
    found, _, err = typed(*at, *new)
    assert found == 3 and "unknown key 'colour'; did you mean 'colours'?" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [(("stats", "--list", "train"), "count mine 16/16"), (("splits", "--make"), "splits of mine 16/16")],
)
def test_long_work_says_how_far_it_is(typed: Typed, root: Path, words: tuple[str, ...], said: str) -> None:
    (root / "mine" / "dataset.yaml").write_text("colours: {background: [0, 0, 0], leaf: [200, 0, 9]}\n")
    code, _, err = typed("data", words[0], "--dataset", "mine", "--data-root", root, *words[1:])
    assert code == 0 and said in err


def test_a_folder_without_splits_is_told_what_to_do(typed: Typed, root: Path) -> None:
    (root / "mine" / "dataset.yaml").write_text("colours: {background: [0, 0, 0], leaf: [200, 0, 9]}\n")
    at = ("--dataset", "mine", "--data-root", root)
    typed("data", "verify", *at).refused(3, "is sound, but it has no splits yet; make them with", "--make")
    said = typed("data", "splits", *at, "--make").out
    assert "too small for a batch of 4 masks (protocol 'folder'): 1_16 (1), 1_64 (1), 1_8 (2)\n" in said
    (root / "mine" / "labels" / "i3.png").unlink()
    shutil.rmtree(root / "mine" / "splits")
    typed("data", "verify", *at).refused(3, "write the ids of the images that have a mask into labeled.txt")


def test_what_predict_has_written_is_no_data_set(typed: Typed, root: Path) -> None:
    (root / "out").mkdir()
    (root / "out" / "classes.txt").write_text("background\nleaf\n")
    (root / "out" / "made.json").write_text("{}")
    typed("data", "verify", "--dataset", "maine", "--data-root", root).refused(2, "did you mean 'mine'?")
    said = typed("list", "--data-root", root).out
    assert "mine" in said and not re.search(r"^out\b", said, re.MULTILINE)
