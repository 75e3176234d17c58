"""Images of four channels, from a folder to predictions; and one channel, and tags."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from commandline import Typed
from PIL import Image

import bench
from bench.errors import ConfigError, DataError
from bench.networks import exported
from bench.pipeline import check, run
from bench.plan import plan
from bench.records.folders import RunFolder
from bench.scoring.alone import SMALLEST
from bench.settings.resolve import resolve
from bench.settings.schema import RunConfig
from bench.testing import tiny
from bench.testing.runs import Quiet
from datasets.decode import read_image

SIZE, TRAIN, TEST = 40, 12, 4
SMALL = [f"protocol.network.{key}={value}" for key, value in tiny.PROTOCOL["network"].items()]
SETS = [*SMALL, "protocol.network.channels=4", "protocol.crop=[32,32]", "machine.workers=0"]
Type = Callable[..., tuple[int, str]]


@pytest.fixture
def typed(typed: Typed) -> Type:
    """typed("predict", ...): the exit code, and all that was said."""

    def call(*words: object) -> tuple[int, str]:
        code, out, err = typed(*words)
        return code, out + err

    return call


def four(number: int) -> tuple[np.ndarray, np.ndarray]:
    """An image H W 4 uint16 whose first three channels are noise, and a mask that only the fourth shows."""
    generator = np.random.default_rng(number)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    top, left = generator.integers(0, SIZE - 20, 2)
    mask[top : top + 20, left : left + 20] = 1
    image = generator.integers(80, 120, (SIZE, SIZE, 4))
    image[..., 3] = np.where(mask == 1, 220, 20)
    return (image * 256).astype(np.uint16), mask


def write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, image, photometric="minisblack", planarconfig="contig", compression="deflate")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root that holds `mine`."""
    folder = tmp_path / "data" / "mine"
    ids = [f"t{number:02d}" for number in range(TRAIN + TEST)]
    (folder / "labels").mkdir(parents=True)
    for number, id in enumerate(ids):
        image, mask = four(number)
        write(folder / "images" / f"{id}.tif", image)
        Image.fromarray(mask).save(folder / "labels" / f"{id}.png")
    (folder / "classes.txt").write_text("background\nbox\n")
    (folder / "train.txt").write_text("\n".join(ids[:TRAIN]) + "\n")
    (folder / "test.txt").write_text("\n".join(ids[TRAIN:]) + "\n")
    return tmp_path / "data"


def sets(words: Sequence[str]) -> list[str]:
    return [part for word in words for part in ("--set", word)]


@pytest.mark.slow
def test_from_a_folder_of_four_channels_to_predictions(root: Path, tmp_path: Path, typed: Type) -> None:
    """What only the fourth channel shows is learned, and found in new images."""
    data, runs = ("--dataset", "mine", "--data-root", root), tmp_path / "runs"
    assert typed("data", "splits", *data, "--make")[0] == 0
    code, said = typed("data", "verify", *data)
    assert code == 0 and "the images of mine have 4 channels" in said
    words = ("run", "--method", "supervised", *data, "--split", "full", "--out", runs)
    words = (*words, *sets([*SETS, "protocol.steps=60", "protocol.teacher=null"]))
    code, said = typed(*words)
    assert code == 3 and "`python -m bench data stats" in said.replace("\n", " ")
    code, said = typed("data", "stats", *data)
    assert code == 0 and "normalisation.json" in said
    measured = json.loads((root / "mine" / "normalisation.json").read_text())
    pixels = np.stack([four(number)[0] >> 8 for number in range(TRAIN)]) / 255
    np.testing.assert_allclose(measured["mean"], pixels.mean((0, 1, 2)), atol=1e-8)
    np.testing.assert_allclose(measured["std"], pixels.std((0, 1, 2)), atol=1e-8)
    code, said = typed(*words)
    assert code == 0, said
    (folder,) = (RunFolder(path.parent) for path in runs.rglob("result.json"))
    result = folder.read_result()
    assert result is not None and result.predictor.miou > 0.75, "without the fourth channel: 0.4"

    # New images, as TIFF and as .npy; one of three channels is named, and the others are made.
    image, mask = four(99)
    write(tmp_path / "new" / "a.tif", image)
    np.save(tmp_path / "new" / "b.npy", image)
    np.save(tmp_path / "new" / "bad.npy", image[..., :3])
    code, said = typed("predict", folder.path, "--images", tmp_path / "new", "--to", tmp_path / "out")
    said = " ".join(said.split())
    assert code == 1 and "2 predicted, 0 were there already, 1 failed" in said
    assert "overlays show the channels 1 to 3 of 4 as red, green and blue" in said
    assert "bad.npy has 3 channels, and the network expects 4: give images of 4" in said
    found = {id: np.asarray(Image.open(tmp_path / "out" / "masks" / f"{id}.png")) for id in "ab"}
    np.testing.assert_array_equal(found["a"], found["b"])
    assert (found["a"] == mask).mean() > 0.9
    overlay = read_image(tmp_path / "out" / "overlays" / "a.jpg")
    assert overlay.shape == (SIZE, SIZE, 3)

    # In Python, by the weights alone: mean and std are in them.
    (root / "mine" / "normalisation.json").unlink()
    model = bench.load(folder.weights, device="cpu")
    assert model.channels == 4
    assert model.net.mean.flatten().tolist() == pytest.approx(measured["mean"])
    eight = (image >> 8).astype(np.uint8)
    for form in (eight, tmp_path / "new" / "a.tif", torch.from_numpy(eight).permute(2, 0, 1)):
        np.testing.assert_array_equal(model.predict(form).ids, found["a"])
    with pytest.raises(ConfigError, match=r"an array H W 4 of uint8, .* not a ndarray of \(40, 40, 3\)"):
        model.predict(eight[..., :3])
    with pytest.raises(DataError, match=r"bad.npy has 3 channels, and the network expects 4"):
        model.predict(tmp_path / "new" / "bad.npy")

    assert typed("score", folder.path, "--crf", "none")[0] == 0
    (root / "mine" / "normalisation.json").write_text(json.dumps(measured))
    assert typed("show", folder.path, "--images", 2)[0] == 0
    _exports(folder, tmp_path, typed, eight, found["a"])


def _exports(
    folder: RunFolder,
    tmp_path: Path,
    typed: Type,
    image: np.ndarray,
    ids: np.ndarray,
) -> None:
    """The ONNX file takes four channels, and the five lines of its card give the same ids."""
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    code, said = typed("export", folder.path, "--to", tmp_path / "export" / "net.onnx")
    assert code == 0, said
    card = (tmp_path / "export" / "MODEL.md").read_text()
    assert "1 4 H W float" in card
    found = re.search("```python\n(.*?)```", card, re.DOTALL)
    assert found is not None
    np.save(tmp_path / "export" / "image.npy", image)
    program = f"{found[1]}np.save('ids.npy', ids)\n"
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path / "export", check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "export" / "ids.npy"), ids)


def config(root: Path, tmp_path: Path, *more: str, split: str = "full") -> RunConfig:
    flags = {
        "dataset": "mine",
        "split": split,
        "method": {"name": "supervised"},
        "machine": {"data_root": str(root), "out": str(tmp_path / "runs"), "device": "cpu"},
    }
    return resolve(flags, sets=[*SETS, *more])


@pytest.fixture
def measured_root(root: Path, typed: Type) -> Path:
    data = ("--dataset", "mine", "--data-root", root)
    assert typed("data", "splits", *data, "--make")[0] == 0
    assert typed("data", "stats", *data)[0] == 0
    return root


def test_what_was_measured_is_part_of_a_runs_id(measured_root: Path, tmp_path: Path) -> None:
    before = plan(config(measured_root, tmp_path))
    check(before)
    file = measured_root / "mine" / "normalisation.json"
    assert plan(config(measured_root, tmp_path)).run_id == before.run_id
    file.write_text(file.read_text().replace('"mean": [\n  0.', '"mean": [\n  0.0'))
    assert plan(config(measured_root, tmp_path)).run_id != before.run_id


def test_images_of_other_channels_are_counted_before_a_run(measured_root: Path, tmp_path: Path) -> None:
    three = config(measured_root, tmp_path, "protocol.network.channels=3")
    with pytest.raises(DataError, match=r"has 4 channels, and the network expects 3.* So it is with 15 more"):
        check(plan(three))
    write(measured_root / "mine" / "images" / "t03.tif", four(3)[0][..., :2])
    with pytest.raises(DataError, match=r"t03.tif has 2 channels, and the network expects 4.*channels=2.$"):
        check(plan(config(measured_root, tmp_path)))


def test_seeds_are_made_by_a_network_of_the_same_channels(measured_root: Path, tmp_path: Path) -> None:
    given = config(measured_root, tmp_path, split="tags")
    assert given.cam_seeds is not None and given.cam_seeds.protocol.network.channels == 4
    planned = plan(given)
    assert planned.seeds is not None
    assert planned.seeds.classifier.input_digests["measured"] == planned.input_digests["measured"]


@pytest.mark.slow
def test_tags_of_images_of_four_channels(measured_root: Path, tmp_path: Path) -> None:
    small = [f"cam_seeds.{word}" for word in SMALL]
    more = [*small, "cam_seeds.protocol.steps=4", "cam_seeds.protocol.crop=[32,32]", "protocol.steps=4"]
    more += ["cam_seeds.refine=par", "cam_seeds.scales=[1]"]
    result = run(plan(config(measured_root, tmp_path, *more, split="tags")), Quiet())
    assert result.images["tags"] == TRAIN


def test_grey_pictures_are_one_channel_where_the_network_has_one(root: Path, typed: Type) -> None:
    """The measure of one channel is asked for, since grey is read as RGB else."""
    images = root / "mine" / "images"
    for path in list(images.iterdir()):
        Image.fromarray(np.uint8(four(int(path.stem[1:]))[0][..., 3] >> 8)).save(path.with_suffix(".png"))
        path.unlink()
    data = ("--dataset", "mine", "--data-root", root)
    assert typed("data", "splits", *data, "--make")[0] == 0
    assert typed("data", "stats", *data)[0] == 0
    file = root / "mine" / "normalisation.json"
    assert not file.exists(), "they are RGB, whose mean and std are those of the weights"
    assert typed("data", "stats", *data, "--channels", 1)[0] == 0
    assert len(json.loads(file.read_text())["mean"]) == 1
    code, said = typed("data", "stats", *data, "--channels", 4)
    assert code == 3 and "has 1 channel, and the network expects 4" in " ".join(said.split())


def test_the_weights_of_three_channels_say_nothing_new() -> None:
    """Files of before and of today are one: what is as it always was is left out."""
    assert "channels" not in exported.NetworkRecord(classes=("a",), network=SMALLEST).record()["network"]
    four = SMALLEST.model_copy(update={"channels": 4})
    assert exported.NetworkRecord(classes=("a",), network=four).record()["network"]["channels"] == 4
