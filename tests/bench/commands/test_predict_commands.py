"""`predict` and `export` as they are typed: exit codes, what is said, the card and its five lines."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from commandline import Typed
from PIL import Image

from bench.display import Display
from bench.networks import onnx as onnx_room
from bench.networks.segmenter import Segmenter
from bench.pipeline import run as run_plan
from bench.plan import plan
from bench.records.folders import RunFolder
from bench.settings.schema import RunConfig
from datasets.decode import read_mask

Type = Callable[..., tuple[int, str]]


@pytest.fixture
def typed(typed: Typed) -> Type:
    """typed("predict", ...): the exit code, and all that was said."""

    def call(*words: object) -> tuple[int, str]:
        code, out, err = typed(*words)
        return code, out + err

    return call


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def runs(tiny_config: Callable[..., RunConfig], shelf: Path) -> list[RunFolder]:
    """Two seeds of one row, trained once."""
    plans = [plan(tiny_config("supervised", f"machine.out={shelf}", seed=seed)) for seed in (0, 1)]
    for planned in plans:
        run_plan(planned, Display())
    return [planned.folder for planned in plans]


@pytest.fixture
def photos(tiny_root: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("test_00", "test_01"):
        shutil.copy(tiny_root / "tinyset" / "images" / f"{name}.png", folder)
    return folder


def test_images_in_predictions_and_a_table_out(
    typed: Type, runs: list[RunFolder], photos: Path, tiny_root: Path, tmp_path: Path
) -> None:
    words = ("--images", photos, "--to", tmp_path / "out", "--labels", tiny_root / "tinyset" / "labels")
    code, said = typed("predict", runs[0].path, *words, "--confidence", 0.4, "--probabilities")
    assert code == 0 and "mIoU over 3 classes" in said and "2 labeled images" in said
    assert "2 predicted, 0 were there already, 0 failed" in said
    for kind, ending in (
        ("masks", "png"),
        ("overlays", "jpg"),
        ("confident", "png"),
        ("probabilities", "npz"),
    ):
        assert (tmp_path / "out" / kind / f"test_00.{ending}").is_file()
    assert read_mask(tmp_path / "out" / "masks" / "test_00.png", (40, 40), 3).max() < 3
    code, said = typed("predict", runs[0].path, *words, "--confidence", 0.4, "--probabilities", "--json")
    document = json.JSONDecoder().raw_decode(said)[0]  # sentences are on stderr
    assert code == 0 and (document["made"], document["known"], document["failed"]) == (0, 2, {})
    assert document["score"]["classes_averaged"] == 3 and document["classes"][1] == "square"


def test_the_best_run_is_said(
    typed: Type, runs: list[RunFolder], shelf: Path, photos: Path, tmp_path: Path
) -> None:
    code, said = typed(
        "predict", "--best", "tinyset/few", "--runs", shelf, "--images", photos, "--to", tmp_path / "out"
    )
    assert code == 0 and "best of tinyset/few" in said and "over seeds 0, 1; takes seed" in said


def test_a_broken_image_ends_with_exit_code_1(
    typed: Type, runs: list[RunFolder], photos: Path, tmp_path: Path
) -> None:
    (photos / "broken.png").write_bytes(b"nonsense")
    code, said = typed("predict", runs[0].path, "--images", photos, "--to", tmp_path / "out")
    assert code == 1 and "broken.png cannot be decoded" in said and "2 predicted" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        ((), 2, "give RUN, the folder of a run, or --best DATASET/SPLIT"),
        (("{run}", "--best", "tinyset/few"), 2, "one of the two"),
        (("--best", "tinyset"), 2, "write DATASET/SPLIT"),
        (("{run}", "--scales", "a,b"), 2, "give factors with commas between"),
        (("{run}", "--to", "{photos}/out"), 2, "lies inside the image folder"),
        (("{run}", "--labels", "{photos}/nowhere"), 3, "no folder"),
        (("{run}", "--labels", "{labels}"), 3, "test_01.png holds the ids 7, but there are 3 classes"),
        (("{photos}",), 3, "holds no finished run"),
        (("{photos}/test_00.png",), 3, "damaged, or no weights.safetensors of this version"),
    ],
)
def test_what_cannot_be_is_a_sentence_and_an_exit_code(
    typed: Type,
    runs: list[RunFolder],
    photos: Path,
    tmp_path: Path,
    words: tuple[str, ...],
    code: int,
    sentence: str,
) -> None:
    labels = tmp_path / "labels"
    labels.mkdir()
    for name, id in (("test_00", 2), ("test_01", 7)):
        Image.fromarray(np.full((40, 40), id, np.uint8)).save(labels / f"{name}.png")
    given = [word.format(run=runs[0].path, photos=photos, labels=labels) for word in words]
    to = [] if "--to" in given else ["--to", tmp_path / "out"]
    found, said = typed("predict", *given, "--images", photos, *to)
    assert found == code and sentence in said and "Traceback" not in said
    assert not (tmp_path / "out").exists() and not (photos / "out").exists()


# export -----------------------------------------------------------------------------------------------------


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that is made in no time, and is not compared."""
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    from onnx import TensorProto, helper

    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, "height", "width"])
        for name in (onnx_room.IMAGE, onnx_room.LOGITS)
    ]
    graph = helper.make_graph([helper.make_node("Identity", ["image"], ["logits"])], "g", ends[:1], ends[1:])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    monkeypatch.setattr(onnx_room, "_exported", lambda *_: made.SerializeToString())
    monkeypatch.setattr(onnx_room, "_check", lambda *_: None)


def test_a_card_says_what_the_model_is(
    typed: Type, runs: list[RunFolder], by_hand: None, tmp_path: Path
) -> None:
    code, said = typed("export", runs[1].path, "--to", tmp_path / "net.onnx")
    assert code == 0 and "checked against torch" in said
    card = (tmp_path / "MODEL.md").read_text()
    results = [run.read_result() for run in runs]
    assert results[0] is not None and results[1] is not None
    mious = [100 * one.predictor.miou for one in results if one]
    mean, spread = np.mean(mious), np.std(mious, ddof=1)
    for sentence in (
        "data set tinyset, split few, draw 0: images 4 with masks, 12 with nothing",
        "scored on 4 images",
        "method supervised (version 1), seed 1",
        f"protocol {results[1].protocol} ({results[1].protocol_hash}): 6 steps",
        "over all runs of the same settings (n = 2): seed 0, seed 1.",
        f"| **mIoU** | **{mious[1]:.1f}** | **{mean:.1f} ± {spread:.1f}** |",
        "| stripe |",
        "code: Apache-2.0",
        "trained from scratch",
        f"run `tinyset/few/supervised/1-{results[1].run_id}`",
        "Classes by id: 0 background, 1 square, 2 stripe.",
    ):
        assert sentence in card, sentence
    # Its five lines run as they stand.
    (block,) = re.findall(r"^```python\n(.*?)^```", card, re.DOTALL | re.MULTILINE)
    assert len([line for line in block.splitlines() if line]) == 5
    Image.fromarray(np.zeros((30, 50, 3), np.uint8)).save(tmp_path / "photo.jpg")
    check = f"{block}\nassert ids.shape == (30, 50), ids.shape"
    subprocess.run([sys.executable, "-c", check], cwd=tmp_path, check=True)


def test_a_bare_file_has_a_card_that_knows_less(
    typed: Type, runs: list[RunFolder], by_hand: None, tmp_path: Path
) -> None:
    shutil.copy(runs[0].weights, tmp_path / "net.safetensors")
    code, _ = typed("export", tmp_path / "net.safetensors", "--to", tmp_path / "net.onnx")
    assert code == 0 and (tmp_path / "MODEL.md").read_text().count("not recorded") == 2


def test_nothing_is_overwritten_without_a_word(
    typed: Type, runs: list[RunFolder], by_hand: None, tmp_path: Path
) -> None:
    (tmp_path / "MODEL.md").write_text("mine")
    code, said = typed("export", runs[0].path, "--to", tmp_path / "net.onnx")
    assert code == 2 and "MODEL.md is there already; give another --to, or --overwrite" in said
    assert (tmp_path / "MODEL.md").read_text() == "mine" and not (tmp_path / "net.onnx").exists()
    code, said = typed("export", runs[0].path, "--to", tmp_path / "net.pt")
    assert code == 2 and "ends in .onnx" in said
    assert typed("export", runs[0].path, "--to", tmp_path / "net.onnx", "--overwrite")[0] == 0


def test_what_fails_its_check_is_not_written(
    typed: Type, runs: list[RunFolder], by_hand: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.errors import ConfigError

    def lacks(*_: object) -> None:
        raise ConfigError("the network cannot be exported to ONNX opset 18: aten.foo; export another run.")

    monkeypatch.setattr(onnx_room, "_exported", lacks)
    code, said = typed("export", runs[0].path, "--to", tmp_path / "net.onnx")
    assert code == 2 and "aten.foo" in said and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_operator_that_the_exporter_lacks_is_a_sentence_and_nothing_is_written(
    typed: Type, runs: list[RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    monkeypatch.setattr(Segmenter, "forward", lambda self, image: torch.special.bessel_j0(image))
    code, said = typed("export", runs[0].path, "--to", tmp_path / "net.onnx")
    assert code == 2 and "cannot be exported to ONNX opset 18: " in said and "bessel_j0" in said
    assert len(said.strip().splitlines()) == 1 and not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("overwrite", [False, True])
def test_logits_that_are_off_by_a_thousandth_are_not_written(
    typed: Type, runs: list[RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    exported = onnx_room._exported

    def shifted(network: Segmenter, classes: tuple[str, ...], channels: int) -> bytes:
        assert network.segmentation_head.bias is not None
        network.segmentation_head.bias.data.add_(1e-3)
        return exported(network, classes, channels)

    monkeypatch.setattr(onnx_room, "_exported", shifted)
    if overwrite:
        (tmp_path / "net.onnx").write_text("old")
    words = ("--overwrite",) if overwrite else ()
    code, said = typed("export", runs[0].path, "--to", tmp_path / "net.onnx", *words)
    assert code == 1 and "gives other logits than torch" in said and "Traceback" not in said
    assert [path.read_text() for path in tmp_path.iterdir()] == (["old"] if overwrite else [])


@pytest.mark.slow
def test_a_run_is_exported_and_compared(typed: Type, runs: list[RunFolder], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    code, said = typed("export", runs[0].path, "--to", tmp_path / "net.onnx")
    assert code == 0, said
    assert {path.name for path in tmp_path.iterdir()} >= {"net.onnx", "MODEL.md"}
