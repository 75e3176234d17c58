"""`bench.load`: a trained network from its file alone; every form of an image gives the same answer."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import bench
from bench.display import Display
from bench.errors import ConfigError, DataError
from bench.networks import exported
from bench.pipeline import run as run_plan
from bench.plan import plan
from bench.records.folders import RunFolder
from bench.records.logs import read_counts
from bench.scoring.inference import confusion
from bench.settings.schema import RunConfig
from datasets.folder import Folder

CHECKOUT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def finished(tiny_config: Callable[..., RunConfig], shelf: Path) -> RunFolder:
    """A run that is scored in windows; trained once. Read only."""
    windows = "protocol.evaluation={mode: slide, window: [24, 24], flip: true}"
    planned = plan(tiny_config("fixmatch", windows, f"machine.out={shelf}"))
    run_plan(planned, Display())
    return planned.folder


def test_a_loaded_network_gives_the_counts_of_its_run(finished: RunFolder, tiny_set: Folder) -> None:
    """By its folder or by its file, which says how it was scored."""
    counts = read_counts(finished.counts)
    for place in (finished.path, str(finished.weights)):
        model = bench.load(place, device="cpu")
        assert model.classes == ("background", "square", "stripe")
        assert np.array_equal(model.palette, tiny_set.palette)
        for id, expected in zip(counts["ids"], counts["predictor"], strict=True):
            ids, probabilities = model.predict(tiny_set.image(str(id)))
            assert ids.dtype == np.uint8 and ids.shape == (40, 40)
            assert probabilities.dtype == np.float32 and probabilities.shape == (3, 40, 40)
            assert np.allclose(probabilities.sum(0), 1, atol=1e-5)
            mask = torch.from_numpy(tiny_set.mask(str(id)))
            assert np.array_equal(confusion(torch.from_numpy(ids), mask, 3).numpy(), expected)


def test_every_form_of_an_image_gives_the_same(finished: RunFolder, tiny_set: Folder, tmp_path: Path) -> None:
    model, pixels = bench.load(finished.path, device="cpu"), tiny_set.image("test_00")[:, :30]
    Image.fromarray(pixels).save(tmp_path / "image.png")
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    forms: list[Any] = [
        tmp_path / "image.png",
        str(tmp_path / "image.png"),
        Image.fromarray(pixels),
        Image.fromarray(pixels).convert("RGBA"),
        pixels,
        tensor,
        tensor / 255,
        (tensor / 255).double(),
    ]
    expected = model.predict(pixels.copy())
    for form in forms:
        found = model.predict(form)
        assert np.array_equal(found.ids, expected.ids)
        assert np.allclose(found.probabilities, expected.probabilities, atol=1e-6)


def write_rgb16(path: Path) -> None:
    """A PNG of 1x1 pixels, with 16 bits for each of red, green and blue, which Pillow cannot write."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(7)))]
    data = b"\x89PNG\r\n\x1a\n"
    for name, body in [*chunks, (b"IEND", b"")]:
        data += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    path.write_bytes(data)


def test_an_image_that_is_not_there_is_on_no_list(finished: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"photo\.jpg does not exist; restore the file or leave it out\.$"):
        bench.load(finished.path, device="cpu").predict(tmp_path / "photo.jpg")


@pytest.mark.parametrize("colours", [False, True])
def test_a_file_of_16_bits_is_read_by_the_rule_and_a_pil_image_refused(
    finished: RunFolder, tmp_path: Path, colours: bool
) -> None:
    """The file as in training; of a PIL image nobody knows what has become of its bits."""
    path = tmp_path / "deep.png"
    if colours:
        write_rgb16(path)
    else:
        Image.fromarray(np.full((4, 5), 40_000, np.uint16)).save(path)
    model = bench.load(finished.path, device="cpu")
    level = 0 if colours else 40_000 >> 8
    same = np.full((1, 1, 3) if colours else (4, 5, 3), level, np.uint8)
    assert np.array_equal(model.predict(path).probabilities, model.predict(same).probabilities)
    with Image.open(path) as picture, pytest.raises(ConfigError, match="PIL image has more than 8 bits"):
        model.predict(picture)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((3, 4, 4), np.uint8),
        torch.zeros(1, 3, 4, 4),
        torch.full((3, 4, 4), 200.0),
        torch.zeros(3, 4, 4, dtype=torch.int64),
        None,
    ],
    ids=lambda image: type(image).__name__,
)
def test_another_form_is_a_sentence(finished: RunFolder, image: Any) -> None:
    with pytest.raises(ConfigError, match="an image is a path, .* not a .*; convert it"):
        bench.load(finished.path, device="cpu").predict(image)


@pytest.mark.parametrize(
    "image",
    [np.zeros((0, 4, 3), np.uint8), torch.zeros(3, 4, 0), Image.new("RGB", (0, 4))],
    ids=["a", "t", "p"],
)
def test_an_image_without_a_pixel_is_a_sentence(finished: RunFolder, image: Any) -> None:
    with pytest.raises(ConfigError, match=r"the image has no pixel: its size is \("):
        bench.load(finished.path, device="cpu").predict(image)


def changed(finished: RunFolder, tmp_path: Path, **about: Any) -> RunFolder:
    """A copy of the run that says other things of its network; None takes a thing out."""
    folder = RunFolder(shutil.copytree(finished.path, tmp_path / "run"))
    with safe_open(folder.weights, "pt") as file:
        said = json.loads(file.metadata()["frugalseg"]) | about
    said = {key: value for key, value in said.items() if value is not None}
    save_file(load_file(folder.weights), folder.weights, {"frugalseg": json.dumps(said)})
    result = folder.read_result()
    assert result is not None
    folder.write_result(result.model_copy(update={"contents": None}))
    return folder


def test_a_file_of_before_is_read(finished: RunFolder, tmp_path: Path, tiny_set: Folder) -> None:
    """With its run it is scored as the run was, by itself as a whole image in the colours of VOC."""
    nothing = dict.fromkeys(("palette", "evaluation", "crop", "alone"))
    old = changed(finished, tmp_path, **nothing)
    image = tiny_set.image("test_00")
    new = bench.load(finished.path, device="cpu")
    with_run = bench.load(old.path, device="cpu")
    assert np.array_equal(with_run.predict(image).probabilities, new.predict(image).probabilities)
    alone = bench.load(old.weights, device="cpu")
    assert alone.inference.settings.mode == "whole" and alone.classes == new.classes


def test_more_than_a_network_is_refused(finished: RunFolder, tmp_path: Path) -> None:
    folder = changed(finished, tmp_path, alone=False)
    for place in (folder.path, folder.weights):
        with pytest.raises(ConfigError, match="predictor of its method is more than its network"):
            bench.load(place)


def test_what_the_file_says_of_the_classifier_is_true(tiny_config: Callable[..., RunConfig]) -> None:
    for name, alone in (("classifier", False), ("mean_teacher", True)):
        planned = plan(tiny_config(name, "protocol.steps=1", split="few+tags"))
        run_plan(planned, Display())
        assert exported.about(planned.folder.weights).alone is alone


def test_what_cannot_be_loaded_is_a_sentence(finished: RunFolder, shelf: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"folder of several runs; give .* bench\.results\("):
        bench.load(shelf)
    told = "give the folder of a finished run, such as runs/.*, or the weights.safetensors in it"
    with pytest.raises(DataError, match=f"nowhere does not exist; {told}"):
        bench.load(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no finished run"):
        bench.load(tmp_path)
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    (tmp_path / "notes.txt").write_text("no weights, but some text")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "net.onnx").write_bytes(b"\x08\x0a\x12\x07pytorch" * 9)
    for name in ("other.safetensors", "other.pt", "notes.txt", "empty", "net.onnx"):
        with pytest.raises(DataError, match=rf"{name} is damaged, or no weights\.saf.*\); {told}") as caught:
            bench.load(tmp_path / name)
        assert "NoneType" not in str(caught.value) and "\n" not in str(caught.value)
    copy = RunFolder(shutil.copytree(finished.path, tmp_path / "copy"))
    copy.weights.unlink()
    with pytest.raises(DataError, match=r"no .*weights\.safetensors; put it back"):
        bench.load(copy.path)


def test_weights_of_another_network_are_refused(finished: RunFolder, tmp_path: Path) -> None:
    network = exported.about(finished.weights).network.record() | {"decoder_channels": 24}
    folder = changed(finished, tmp_path, network=network)
    with pytest.raises(DataError, match="does not fit the network of this version"):
        bench.load(folder.path)


@pytest.mark.slow
def test_loading_needs_no_training_and_no_methods(finished: RunFolder, tmp_path: Path) -> None:
    weights = shutil.copy(finished.weights, tmp_path / "net.safetensors")
    program = (
        f"import sys, bench, numpy; model = bench.load({str(weights)!r})\n"
        "model.predict(numpy.zeros((20, 30, 3), numpy.uint8))\n"
        "print(*sys.modules)"
    )
    found = subprocess.run(
        [sys.executable, "-c", program],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert "bench.scoring.model" in found
    wrong = ("bench.training", "methods", "bench.settings.registry", "datasets.splits", "datasets.loaders")
    assert not [name for name in found if name.startswith(wrong)]
