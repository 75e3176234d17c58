"""What verify says of masks that it cannot read: lines for dataset.yaml, and with them the masks are
sound."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from datasets.cityscapes_ids import CLASSES
from datasets.encodings import BORDER, colours
from datasets.folder import Folder
from datasets.splits import Split
from datasets.verify import Verdict, verify

Masks = Sequence[np.ndarray | Image.Image]


def blocks(*values: object) -> np.ndarray:
    """Upright blocks of six columns, one a number or colour."""
    return np.repeat(np.array(values, np.uint8), 6, axis=0)[None].repeat(12, 0)


def folder(root: Path, masks: Masks, classes: str) -> Path:
    for name in ("images", "labels"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for number, mask in enumerate([*masks, *masks]):
        image = mask if isinstance(mask, Image.Image) else Image.fromarray(mask)
        image.save(root / "labels" / f"i{number}.png")
        noise = np.random.default_rng(number).integers(0, 256, (image.height, image.width, 3))
        Image.fromarray(noise.astype(np.uint8)).save(root / "images" / f"i{number}.png")
    half = len(masks)
    (root / "train.txt").write_text("".join(f"i{n}\n" for n in range(half)))
    (root / "test.txt").write_text("".join(f"i{n}\n" for n in range(half, 2 * half)))
    (root / "classes.txt").write_text(classes.replace(" | ", "\n") + "\n")
    return root


def verdict(root: Path) -> Verdict:
    data = Folder(root, "mine")
    return verify(data, [Split("mine", "full", data.ids("train"), (), (), data.ids("test"))])


def palette(indices: np.ndarray, *entries: Sequence[int]) -> Image.Image:
    image = Image.fromarray(indices, "P")
    image.putpalette([part for colour in entries for part in colour])
    return image


VOC = colours(3).tolist()
ROAD, SKY, TREE = [128, 64, 128], [70, 130, 180], [107, 142, 35]
NAMES = "ground | road | car"
CASES: dict[str, tuple[Masks, str, str, dict[str, str]]] = {
    # masks, classes, the line that is said, and what the owner writes for the placeholders
    "ids from 1": ([blocks(1, 2, 3)], NAMES, "label_map: {1: 0, 2: 1, 3: 2}", {}),
    "ids with gaps": ([blocks(7, 11), blocks(26, 255)], NAMES, "label_map: {7: 0, 11: 1, 26: 2}", {}),
    "zero as no label": ([blocks(0, 1, 2, 3)], NAMES, "label_map: from_1", {}),
    "zero and gaps": ([blocks(0, 7, 9, 40)], NAMES, "label_map: {0: 255, 7: 0, 9: 1, 40: 2}", {}),
    "too many ids": (
        [blocks(0, 1, 2, 3, 9)],
        NAMES,
        "label_map: {0: NAME1, 1: NAME2, 2: NAME3, 3: NAME4, 9: NAME5}",
        {"NAME1": "ground", "NAME2": "road", "NAME3": "car", "NAME4": "255", "NAME5": "car"},
    ),
    "label ids of Cityscapes": (
        [blocks(*(label for label, _, _ in CLASSES), 0, 3)],
        " | ".join(name for _, name, _ in CLASSES),
        "label_map: cityscapes_ids",
        {},
    ),
    "colours of VOC": (
        [blocks(*VOC, list(BORDER))],
        NAMES,
        "  255: [224, 224, 192]",
        {},
    ),
    "colours of the list of classes": (
        [blocks(ROAD, SKY), blocks(TREE, SKY)],
        "road:128,64,128:: | sky:70,130,180:: | tree:107,142,35::",
        "  sky: [70, 130, 180]",
        {},
    ),
    "colours that nobody knows": (
        [blocks(ROAD, SKY, SKY), blocks(TREE, SKY, SKY)],
        NAMES,
        "  NAME1: [70, 130, 180]  # 66.7 % of the pixels",
        {"NAME1": "ground", "NAME2": "car", "NAME3": "road"},
    ),
    "palettes in another order": (
        [palette(blocks(0, 1), [9, 9, 99], [200, 0, 0]), palette(blocks(0, 1), [200, 0, 0], [9, 9, 99])],
        "ground | car",
        "  NAME1: [9, 9, 99]  # 50.0 % of the pixels",
        {"NAME1": "ground", "NAME2": "car"},
    ),
    "a palette of VOC in another order": (
        [palette(blocks(0, 1, 2), *[VOC[k] for k in (2, 0, 1)])],
        NAMES,
        "  road: [128, 0, 0]",
        {},
    ),
    "grey of 1 bit beside 8": (
        [Image.fromarray(blocks(0, 1) > 0), blocks(0, 0, 0, 0, 255, 0)],
        "ground | car",
        "  NAME1: [0, 0, 0]  # 75.0 % of the pixels",
        {"NAME1": "ground", "NAME2": "car"},
    ),
    "a name that YAML takes for something else": (
        [blocks(ROAD, SKY)],
        "no:128,64,128:: | to: be:70,130,180::".replace("to: be", "to-be"),
        '  "no": [128, 64, 128]',
        {},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_with_the_lines_that_verify_says_the_masks_are_sound(tmp_path: Path, case: str) -> None:
    masks, classes, line, answers = CASES[case]
    root = folder(tmp_path / "mine", masks, classes)
    before = verdict(root)
    assert before.problems and line in before.advice, before
    assert str(root / "dataset.yaml") in before.advice[0] and before.advice[0].endswith(":")
    text = "\n".join(before.advice[1:])
    assert ("NAME" in text) == bool(answers) == ("in place of each NAME" in before.advice[0])
    if answers:
        (root / "dataset.yaml").write_text(text)
        with pytest.raises(Exception, match="NAME1"):  # a placeholder that is left is refused
            Folder(root, "mine")
    for name, answer in answers.items():
        text = re.sub(rf"\b{name}\b", answer, text)
    if "  # " in text and len(set(answers.values())) < len(answers):
        pytest.fail("colours of one class stand in one list")
    yaml.safe_load(text)
    (root / "dataset.yaml").write_text(text)
    after = verdict(root)
    assert after.problems == [] and after.advice == []


def test_black_and_white_masks_get_their_line(tmp_path: Path) -> None:
    root = folder(tmp_path / "mine", [blocks(0, 255)], "background | leaf")
    before = verdict(root)
    said, _ = [one for one in before.look if "black-and-white" in one]  # of training and of scoring
    (line,) = re.findall("`(.+?)`", said)
    assert "'leaf'" in said and line == "label_map: {0: 0, 255: 1}" and before.problems
    (root / "dataset.yaml").write_text(line)
    after = verdict(root)
    assert after.problems == [] and not any("black-and-white" in one for one in after.look)


@pytest.mark.parametrize(
    ("classes", "line", "kept"),
    [
        ("void | road | car", "label_map: from_1", "road | car"),
        ("road | car | void", "ignore: [2]", "road | car"),
        ("road | void | car", "ignore: [1]", "road | void | car"),
    ],
)
def test_a_class_for_no_label_gets_its_line(tmp_path: Path, classes: str, line: str, kept: str) -> None:
    masks = [blocks(0, 1, 2, 0)]
    root = folder(tmp_path / "mine", masks, classes)
    (said,) = [one for one in verdict(root).look if "'void' is a class like any other" in one]
    assert f"`{line}`" in said and ("remove its line" in said) == (kept != classes)
    folder(root, masks, kept)
    (root / "dataset.yaml").write_text(line)
    assert verdict(root).problems == []
    void = classes.split(" | ").index("void")
    assert (np.asarray(Folder(root, "mine").mask("i0") == 255) == (masks[0] == void)).all()


def test_a_table_that_lacks_something_gets_the_whole_table(tmp_path: Path) -> None:
    root = folder(tmp_path / "numbers", [blocks(7, 8, 9)], NAMES)
    (root / "dataset.yaml").write_text("label_map: {7: 0, 8: road}")
    assert verdict(root).advice[1:] == ["label_map: {7: 0, 8: 1, 9: NAME1}"]
    root = folder(tmp_path / "colours", [blocks(ROAD, SKY, TREE)], NAMES)
    (root / "dataset.yaml").write_text("colours: {ground: [128, 64, 128], 1: '#4682b4'}")
    said = verdict(root).advice
    assert said[1:4] == ["colours:", "  road: [70, 130, 180]", "  ground: [128, 64, 128]"]
    assert said[4] == "  NAME1: [107, 142, 35]  # 33.3 % of the pixels"


def test_blended_masks_get_no_lines(tmp_path: Path) -> None:
    ramp = np.stack([np.arange(200, dtype=np.uint8)] * 3, -1)[None].repeat(4, 0)
    ramp[..., 1] = 7
    assert verdict(folder(tmp_path / "a", [ramp], NAMES)).advice == []
    assert verdict(folder(tmp_path / "b", [ramp[..., 0].copy()], NAMES)).advice == []


def test_many_masks_of_one_kind_are_counted(tmp_path: Path) -> None:
    root = folder(tmp_path / "mine", [blocks(ROAD, SKY)] * 6, NAMES)
    problems = verdict(root).problems
    assert len(problems) == 4 and problems[3] == "so it is with 9 more masks."


# Images -----------------------------------------------------------------------------------------------------


def test_images_that_are_not_plain_are_said(tmp_path: Path) -> None:
    root = folder(tmp_path / "mine", [blocks(0, 1, 2)] * 4, NAMES)
    images = root / "images"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 65_536, (12, 18)).astype(np.uint16)).save(images / "i0.png")
    Image.fromarray(rng.integers(0, 4096, (12, 18)).astype(np.uint16)).save(images / "i1.png")
    rgba = rng.integers(0, 256, (12, 18, 4)).astype(np.uint8)
    Image.fromarray(rgba).save(images / "i2.png")
    rgba[..., 3] = 255
    Image.fromarray(rgba).save(images / "i3.png")
    (images / "i4.png").unlink()
    Image.fromarray(rgba).convert("CMYK").save(images / "i4.jpg")
    found = verdict(root)
    said = [one for one in found.look if " of 8 images " in one]
    assert found.problems == [] and len(said) == 4
    for words in (
        "2 of 8 images have 16 bits a channel ('i0', 'i1'); of 16 bits a channel the upper 8 are read",
        "1 of 8 images of 16 bits are nearly black as they are read ('i1')",
        "1 of 8 images are CMYK ('i4')",
        "1 of 8 images are partly transparent ('i2')",
    ):
        assert any(one.startswith(words) for one in said), words
