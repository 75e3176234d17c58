"""A folder of images in, predictions out: by hand, in windows and batches, stopped, refused."""

from __future__ import annotations

import csv
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from bench.display import Display
from bench.errors import BenchError, ConfigError, DataError, Interrupted
from bench.machine import Stop
from bench.networks import exported
from bench.networks.segmenter import Segmenter
from bench.ops import crf
from bench.pipeline import run as run_plan
from bench.plan import plan
from bench.randomness import torch_seeded
from bench.scoring import predict as room
from bench.scoring import predictions
from bench.scoring.against import open_labels, score_against
from bench.scoring.alone import SMALLEST
from bench.scoring.inference import to_tensor
from bench.scoring.memory import Memory
from bench.scoring.model import Model, load
from bench.scoring.multi_scale_crf import likely
from bench.scoring.predict import Done, PredictSettings, predict
from bench.scoring.predictions import as_png, images_below, palette_of
from bench.settings.schema import Evaluation, RunConfig
from datasets.cityscapes import CLASSES as CITYSCAPES
from datasets.decode import DecodedImage, read_image, read_mask
from datasets.encodings import BORDER, colours
from datasets.folder import Folder
from datasets.splits import Split
from datasets.splits_make import write_split

CHECKOUT = Path(__file__).resolve().parents[3]
GREY, BRIGHT, DARK = 110, 230, 20
CLASSES = ("background", "square", "stripe")
PLAIN = PredictSettings()


class ByBrightness(nn.Module):
    """Bright is class 1, dark is class 2, grey is class 0; each pixel by itself."""

    channels = 3

    def forward(self, image: Tensor) -> Tensor:
        grey = 8 * (image.mean(1) - 0.43)
        return torch.stack([torch.full_like(grey, 0.5), grey, -grey], 1)


class Quiet(Display):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    with torch_seeded(0, "weights"):
        net = Segmenter(SMALLEST, 3)
    about = exported.NetworkRecord(
        classes=CLASSES, network=SMALLEST, evaluation=Evaluation(), crop=(32, 32), alone=True
    )
    path.write_bytes(exported.to_bytes(net, about))
    return path


@pytest.fixture
def model(weights: Path) -> Model:
    """By brightness, so that every answer is known."""
    return replace(load(weights, "cpu"), net=ByBrightness())  # type: ignore[arg-type]


def scene(size: tuple[int, int] = (24, 40)) -> tuple[np.ndarray, np.ndarray]:
    """An image and its classes: a bright square and a dark bar on grey."""
    mask = np.zeros(size, np.uint8)
    mask[4:12, 6:18] = 1
    mask[16:20, :] = 2
    return np.repeat(np.array([GREY, BRIGHT, DARK], np.uint8)[mask][..., None], 3, 2), mask


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Images in sub folders, with spaces, dots, capitals and letters of any script."""
    folder = tmp_path / "photos"
    (folder / "a b" / "ü").mkdir(parents=True)
    for name in ("one.png", "a b/two.x.PNG", "a b/ü/drei.png"):
        Image.fromarray(scene()[0]).save(folder / name, "PNG")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "notes.txt").write_text("no image")
    return folder


def made(
    model: Model, photos: Path, to: Path, settings: PredictSettings = PLAIN, **more: bool
) -> tuple[Done, list[str]]:
    display = Quiet()
    return predict(model, photos, to, settings, display, jobs=1, **more), display.said


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# What is written --------------------------------------------------------------------------------------------


def test_masks_overlays_and_the_table_are_right(model: Model, photos: Path, tmp_path: Path) -> None:
    done, _ = made(model, photos, tmp_path / "out")
    image, mask = scene()
    assert (done.made, done.known, done.failed) == (3, 0, {})
    for id in ("one", "a b/two.x", "a b/ü/drei"):
        with Image.open(tmp_path / "out" / "masks" / f"{id}.png") as picture:
            assert picture.mode == "P" and np.array_equal(np.array(picture), mask)
            palette = np.array(picture.getpalette()).reshape(-1, 3)
        assert np.array_equal(palette[:3], colours(3)) and tuple(palette[255]) == BORDER
        overlay = read_image(tmp_path / "out" / "overlays" / f"{id}.jpg").astype(int)
        assert abs(overlay - (image.astype(int) + colours(3)[mask]) / 2).mean() < 6
    rows = table(done.table)
    assert [row["image"] for row in rows] == ["a b/two.x", "a b/ü/drei", "one"]
    expected = model.predict(image).probabilities.max(0).mean()
    for row in rows:
        assert (row["height"], row["width"]) == ("24", "40")
        assert [float(row[f"share_{name}"]) for name in CLASSES] == [
            pytest.approx((mask == k).mean(), abs=1e-6) for k in range(3)
        ]
        assert float(row["mean_confidence"]) == pytest.approx(expected, abs=1e-5)
    assert (tmp_path / "out" / "classes.txt").read_text() == "background\nsquare\nstripe\n"


def test_the_manuals_name_every_file_that_is_written(model: Model, photos: Path, tmp_path: Path) -> None:
    made(model, photos, tmp_path / "out", PredictSettings(confidence=0.9, probabilities=True))
    names = {path.partition("/")[0] for path in contents(tmp_path / "out")}
    assert len(names) == 8
    for manual in ("README.md", "bench/README.md"):
        text = (CHECKOUT / manual).read_text()
        lines = [line.strip("|` ") for line in text.splitlines()]
        assert all(any(line.startswith(name) for line in lines) for name in names), manual


def test_probabilities_and_unsure_pixels_on_request(model: Model, photos: Path, tmp_path: Path) -> None:
    made(model, photos, tmp_path / "out", PredictSettings(confidence=0.9, probabilities=True))
    ids, probabilities = model.predict(photos / "one.png")
    sure = probabilities.max(0) >= 0.9
    assert 0 < sure.mean() < 1
    found = read_mask(tmp_path / "out" / "confident" / "one.png", (24, 40), 3)
    assert np.array_equal(found, np.where(sure, ids, 255))
    with np.load(tmp_path / "out" / "probabilities" / "one.npz") as archive:
        kept = archive["probabilities"]
    assert kept.dtype == np.float16 and kept.shape == (3, 24, 40)
    assert np.array_equal(kept, probabilities.astype(np.float16))


@pytest.mark.parametrize("settings", [PLAIN, PredictSettings(confidence=0.9, probabilities=True)])
@pytest.mark.parametrize("at_once", [1, 4])
def test_windows_and_batches_change_nothing_of_a_network_that_sees_one_pixel(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: PredictSettings, at_once: int
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(5):
        size = (100, 170) if number != 2 else (20, 30)
        Image.fromarray(scene(size)[0]).save(folder / f"{number}.png")
    whole, _ = made(model, folder, tmp_path / "whole", settings)
    monkeypatch.setattr(Memory, "pixels", lambda *_: 64 * 64)
    monkeypatch.setattr(room._Run, "_at_once", lambda *_: at_once)
    parts, said = made(model, folder, tmp_path / "parts", settings)
    assert (whole.made, parts.made) == (5, 5)
    assert any("overlapping windows of 64x64" in line for line in said)
    before, after = contents(tmp_path / "whole"), contents(tmp_path / "parts")
    for name in ("made.jsonl", "predictions.csv"):  # times; sums in another order
        assert before.pop(name) and after.pop(name)
    assert before == after


def test_scales_and_flip_are_those_of_scoring(weights: Path, photos: Path, tmp_path: Path) -> None:
    model = load(weights, "cpu")
    settings = PredictSettings(scales=(0.5, 1.0), flip=True, probabilities=True)
    made(model, photos, tmp_path / "out", settings)
    inference = settings.inference(model.inference)
    assert inference.settings.scales == (0.5, 1.0) and inference.settings.flip
    with torch.no_grad():
        wanted = inference.probability(model.net, to_tensor(read_image(photos / "one.png")))[0].numpy()
    with np.load(tmp_path / "out" / "probabilities" / "one.npz") as archive:
        assert np.abs(archive["probabilities"] - wanted).max() < 1e-3


@pytest.mark.slow
def test_the_crf_refines_masks_and_leaves_probabilities(model: Model, photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("pydensecrf")
    noisy = np.clip(scene()[0] + np.random.default_rng(0).normal(0, 40, (24, 40, 1)), 0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(photos / "one.png")
    made(model, photos, tmp_path / "plain", PredictSettings(probabilities=True))
    made(model, photos, tmp_path / "crf", PredictSettings(probabilities=True, crf="deeplab"))
    before, after = contents(tmp_path / "plain"), contents(tmp_path / "crf")
    assert before["probabilities/one.npz"] == after["probabilities/one.npz"]
    probability = model.predict(noisy).probabilities
    classes, share = likely(probability)
    wanted = crf.likeliest(noisy, share, classes, crf.PUBLISHED["deeplab"], False)
    found = read_mask(tmp_path / "crf" / "masks" / "one.png", None, 3)
    assert np.array_equal(found, wanted) and before["masks/one.png"] != after["masks/one.png"]
    (row,) = [row for row in table(tmp_path / "crf" / "predictions.csv") if row["image"] == "one"]
    of_the_mask = np.take_along_axis(probability, found[None].astype(int), 0)
    assert float(row["mean_confidence"]) == pytest.approx(of_the_mask.mean(), abs=1e-5)


@pytest.mark.parametrize("mode", ["RGB", "P", "L"])
def test_the_overlay_of_a_large_image_is_made_smaller(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(scene((100, 240))[0]).convert(mode)
    image.save(tmp_path / "large.png")
    picture = DecodedImage(tmp_path / "large.png")
    assert picture.reduced(240).size == (240, 100) and picture.reduced(100).size == (80, 34)
    before = picture.part(slice(0, 100), slice(0, 240))
    grey = np.asarray(picture.reduced(100)).astype(int).mean()
    assert grey == pytest.approx(before.mean(), abs=2)
    ids = np.ones((100, 240), np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predictions, "OVERLAY_SIDE", 100)
        overlay = predictions.as_overlay(picture, ids, palette_of(colours(3)))
    small = np.asarray(Image.open(BytesIO(overlay))).astype(int)
    assert small.shape == (34, 80, 3)
    assert abs(small - (np.asarray(picture.reduced(100)).astype(int) + colours(3)[1]) / 2).mean() < 6
    assert np.array_equal(picture.part(slice(0, 100), slice(0, 240)), before)


# A mask is read back as it is -------------------------------------------------------------------------------

TABLES = st.integers(2, 40).flatmap(
    lambda n: st.one_of(
        st.permutations(list(map(tuple, colours(n).tolist()))),
        st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=n, max_size=n),
        st.lists(st.integers(0, 255).map(lambda v: (v, v, v)), min_size=n, max_size=n),
    )
)


@given(TABLES, st.data())
def test_a_mask_with_any_palette_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, table: Sequence[tuple[int, int, int]], data: st.DataObject
) -> None:
    ids = st.sampled_from([*range(len(table)), 255])
    mask = np.array(data.draw(st.lists(ids, min_size=6, max_size=6)), np.uint8).reshape(2, 3)
    path = tmp_path_factory.mktemp("mask") / "mask.png"
    path.write_bytes(as_png(mask, palette_of(np.array(table, np.uint8))))
    assert np.array_equal(read_mask(path, (2, 3), len(table)), mask)


def test_colours_that_are_read_back_are_kept() -> None:
    table = np.array([colour for _, _, colour in CITYSCAPES], np.uint8)
    assert np.array_equal(palette_of(table)[: len(table)], table)
    swapped = colours(4)[[1, 0, 2, 3]]
    assert np.array_equal(palette_of(swapped)[:4], colours(4))


# Stopped, and gone on with ----------------------------------------------------------------------------------


def test_what_is_done_is_not_made_again(model: Model, photos: Path, tmp_path: Path) -> None:
    made(model, photos, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "masks").rglob("*.png")}
    lines = (tmp_path / "out" / "predictions.csv").read_bytes()
    done, said = made(model, photos, tmp_path / "out")
    assert (done.made, done.known) == (0, 3) and "3 of 3 images are predicted already" in said
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (tmp_path / "out" / "predictions.csv").read_bytes() == lines


@pytest.mark.parametrize("what", ["mask gone", "mask damaged", "other image", "line of the table torn"])
def test_what_is_not_sound_is_made_again(model: Model, photos: Path, tmp_path: Path, what: str) -> None:
    made(model, photos, tmp_path / "out")
    expected = contents(tmp_path / "out")
    mask, lines = tmp_path / "out" / "masks" / "one.png", tmp_path / "out" / "predictions.csv"
    if what == "mask gone":
        mask.unlink()
    elif what == "mask damaged":
        mask.write_bytes(mask.read_bytes()[:-20])
    elif what == "other image":
        Image.fromarray(255 - scene((24, 41))[0]).save(photos / "one.png")
    else:
        lines.write_bytes(lines.read_bytes()[:-30])
    done, _ = made(model, photos, tmp_path / "out")
    assert (done.made, done.known) == (1, 2)
    if what == "other image":
        assert read_mask(mask, (24, 41), 3).shape == (24, 41)
    else:
        assert contents(tmp_path / "out")["predictions.csv"] == expected["predictions.csv"]
        assert contents(tmp_path / "out")["masks/one.png"] == expected["masks/one.png"]


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "put", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "device"]
)
@pytest.mark.parametrize("name", ["masks/one.png", "predictions.csv", "made.json"])
def test_what_is_no_file_is_made_again(
    model: Model, photos: Path, tmp_path: Path, put: Callable[[Path], None], name: str
) -> None:
    made(model, photos, tmp_path / "out")
    expected = contents(tmp_path / "out")
    (tmp_path / "out" / name).unlink()
    put(tmp_path / "out" / name)
    if name == "made.json":
        with pytest.raises(ConfigError, match=r"its made\.json is gone or damaged\); give"):
            made(model, photos, tmp_path / "out")
    made(model, photos, tmp_path / "out", overwrite=name == "made.json")
    now = contents(tmp_path / "out")
    assert {of: now[of] for of in expected if of != "made.jsonl"} == {
        of: data for of, data in expected.items() if of != "made.jsonl"
    }


def test_other_weights_or_settings_are_said_and_made_again_on_request(
    model: Model, photos: Path, tmp_path: Path
) -> None:
    made(model, photos, tmp_path / "out")
    before = contents(tmp_path / "out")
    other = replace(model, digest="0" * 64)
    told = "; give another --to, or --overwrite to make them again"
    with pytest.raises(ConfigError, match=f"holds predictions by other weights{told}"):
        made(other, photos, tmp_path / "out")
    scales = r"settings \(scales: \[1\.0\] then, \[0\.5, 1\.0\] now"
    with pytest.raises(ConfigError, match=rf"by other {scales}\){told}"):
        made(model, photos, tmp_path / "out", PredictSettings(scales=(0.5, 1.0)))
    with pytest.raises(ConfigError, match=rf"other weights and {scales}; confidence: null then, 0\.9 now\)"):
        made(other, photos, tmp_path / "out", PredictSettings(scales=(0.5, 1.0), confidence=0.9))
    assert contents(tmp_path / "out") == before
    done, _ = made(other, photos, tmp_path / "out", overwrite=True)
    assert (done.made, done.known) == (3, 0)
    assert made(other, photos, tmp_path / "out")[0].known == 3
    (tmp_path / "out" / "made.json").write_text("{")
    with pytest.raises(ConfigError, match=r"made\.json is gone or damaged\); give another --to, or --overw"):
        made(other, photos, tmp_path / "out")


def test_overwrite_leaves_no_file_of_other_settings(model: Model, photos: Path, tmp_path: Path) -> None:
    """Nor of an image that is gone; files of the user's beside them stay."""
    out = tmp_path / "out"
    made(model, photos, out, PredictSettings(confidence=0.9, probabilities=True))
    (out / "confident" / "mine.txt").write_text("mine")
    shutil.rmtree(photos / "a b")
    made(model, photos, out, overwrite=True)
    beside = {"predictions.csv", "classes.txt", "made.json", "made.jsonl", "confident/mine.txt"}
    assert set(contents(out)) == {*beside, "masks/one.png", "overlays/one.jpg"}
    assert not (out / "probabilities").exists() and not (out / "masks" / "a b").exists()
    # What was removed is not ours any more.
    (out / "masks" / "a b").mkdir()
    (out / "masks" / "a b" / "two.x.png").write_text("mine")
    shutil.copytree(photos, photos / "a b")
    (photos / "a b" / "one.png").rename(photos / "a b" / "two.x.png")
    with pytest.raises(DataError, match=r"two\.x\.png is there and was not written"):
        made(model, photos, out, overwrite=True)


def test_masks_of_images_that_are_gone_are_said_and_removed_on_request(
    model: Model, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    made(model, photos, out)
    shutil.rmtree(photos / "a b")
    (line,) = (line for line in made(model, photos, out)[1] if "any more" in line)
    assert line.startswith(
        "2 masks are of images that are not there any more: a b/two.x, a b/ü/drei; --overw"
    )
    assert (out / "masks" / "a b" / "two.x.png").is_file()
    done, said = made(model, photos, out, overwrite=True)
    assert (done.made, done.known) == (0, 1) and not any("any more" in line for line in said)
    assert set(contents(out / "masks")) == {"one.png"}
    assert not any("any more" in line for line in made(model, photos, out)[1])


@pytest.mark.parametrize("name", ["../photos/one", "/one", "a//one", "./one"])
def test_a_ledger_does_not_lead_out_of_its_folder(
    model: Model, photos: Path, tmp_path: Path, name: str
) -> None:
    made(model, photos, tmp_path / "out")
    with open(tmp_path / "out" / "made.jsonl", "a") as file:
        file.write(f'\n{{"id": "masks/{name}", "sha256": "1", "of": "2"}}')
    assert not any("any more" in line for line in made(model, photos, tmp_path / "out", overwrite=True)[1])
    assert (photos / "one.png").is_file()


def test_a_stop_leaves_what_is_whole_and_goes_on(
    model: Model, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = []

    def check(stop: Stop) -> None:
        checks.append(stop)
        if len(checks) == 3:
            stop.signal = signal.SIGTERM
            raise Interrupted("stopped by SIGTERM")

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Stop, "check", check)
        made(model, photos, tmp_path / "out")
    done, _ = made(model, photos, tmp_path / "out")
    assert done.known + done.made == 3 and done.made >= 1
    assert made(model, photos, tmp_path / "out")[0].known == 3


def test_a_broken_image_is_named_and_the_others_are_made(model: Model, photos: Path, tmp_path: Path) -> None:
    (photos / "broken.jpg").write_bytes(b"no image")
    (photos / "other.tif").write_bytes(b"II*\0")
    (photos / "empty.png").write_bytes(b"")
    Image.fromarray(np.full((4, 5), 40_000, np.uint16)).save(photos / "deep.png")
    done, said = made(model, photos, tmp_path / "out")
    assert done.made == 4 and set(done.failed) == {"broken", "empty", "other"}
    assert all("\n" not in line for line in said)
    for sentence in (
        "broken.jpg cannot be decoded",
        "empty.png cannot be decoded as JPEG, PNG, WEBP, BMP or TIFF (empty or of another format); ",
    ):
        assert any(sentence in line for line in said)
    assert len(table(done.table)) == 4


# What is refused, before anything is written ----------------------------------------------------------------


def clash(photos: Path, out: Path) -> tuple[Path, Path]:
    Image.fromarray(scene()[0]).save(photos / "one.jpg")
    return photos, out


def own_masks(photos: Path, out: Path) -> tuple[Path, Path]:
    shutil.copytree(photos, out / "masks")
    return photos, out


def own_file(name: str) -> Callable[[Path, Path], tuple[Path, Path]]:
    """A file of the user's where one would be written."""

    def arrange(photos: Path, out: Path) -> tuple[Path, Path]:
        out.mkdir()
        (out / name).write_text('{"weights": 1}')
        return photos, out

    return arrange


def a_file(photos: Path, out: Path) -> tuple[Path, Path]:
    out.write_text("mine")
    return photos, out


def a_loop(photos: Path, out: Path) -> tuple[Path, Path]:
    out.symlink_to(out.name)
    return photos, out


REFUSED: dict[str, tuple[Callable[[Path, Path], tuple[Path, Path]], type[BenchError], str]] = {
    "to is the folder": (lambda photos, out: (photos, photos), ConfigError, "lies inside the image folder"),
    "to is inside": (
        lambda photos, out: (photos, photos / "out"),
        ConfigError,
        "lies inside the image folder",
    ),
    "images among masks": (
        lambda photos, out: (shutil.copytree(photos, out / "masks" / "x"), out),
        ConfigError,
        "would write its masks",
    ),
    "two images, one mask": (
        clash,
        ConfigError,
        r"holds one\.jpg and one\.png, whose predictions would be one",
    ),
    "masks of others": (own_masks, DataError, r"drei\.png is there and was not written by `predict`"),
    **{
        name: (own_file(name), DataError, rf"{name} is there and was not written by `predict`; give another")
        for name in ("predictions.csv", "classes.txt", "made.json", "made.jsonl")
    },
    "to is a file": (a_file, ConfigError, "out is no folder; give a folder"),
    "to is a link to itself": (a_loop, ConfigError, "out is no folder; give a folder"),
    "no folder": (lambda photos, out: (photos / "nowhere", out), DataError, "no folder .*nowhere"),
    "no image": (lambda photos, out: (photos / "empty", out), DataError, "holds no images"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_is_a_sentence_and_nothing_is_written(
    model: Model, photos: Path, tmp_path: Path, what: str
) -> None:
    (photos / "empty").mkdir()
    arrange, kind, sentence = REFUSED[what]
    images, to = arrange(photos, tmp_path / "out")
    before = contents(tmp_path)
    with pytest.raises(kind, match=sentence):
        made(model, images, to)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"scales": ()}, "--scales"),
        ({"scales": (0.0,)}, "--scales"),
        ({"crf": "deeplap"}, "did you mean 'deeplab'"),
        ({"confidence": 90.0}, "--confidence 90.0"),
        ({"memory": 0.0}, "--memory"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        PredictSettings(**settings)  # type: ignore[arg-type]


def test_an_image_too_large_for_the_memory_fails_alone(model: Model, photos: Path, tmp_path: Path) -> None:
    done, said = made(model, photos, tmp_path / "out", PredictSettings(memory=0.1))
    assert set(done.failed) == set(images_below(photos)) and "--memory 0.1 is too little" in said[0]


# Against labels ---------------------------------------------------------------------------------------------


@pytest.fixture
def truth(photos: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "truth"
    (folder / "a b").mkdir(parents=True)
    for name in ("one", "a b/two.x"):
        Image.fromarray(scene()[1]).save(folder / f"{name}.png")
    return folder


def test_masks_are_scored_by_the_names_of_classes(
    photos: Path, truth: Path, tmp_path: Path, model: Model
) -> None:
    made(model, photos, tmp_path / "out")
    masks = {id: tmp_path / "out" / "masks" / f"{id}.png" for id in images_below(photos)}
    labels = open_labels(truth, CLASSES, images_below(photos))
    assert "no classes.txt" in labels.notes[0]
    score, images = score_against(labels, masks, 3)
    assert (score.miou, images) == (1.0, 2)
    # The same masks with other numbers, and a class that the model has not.
    (truth / "classes.txt").write_text("stripe\nbackground\nhouse\nsquare\n")
    other = np.array([1, 3, 0], np.uint8)[scene()[1]]
    other[0, :10] = 2
    Image.fromarray(other).save(truth / "one.png")
    (truth / "a b" / "two.x.png").unlink()
    labels = open_labels(truth, CLASSES, images_below(photos))
    assert labels.notes == ("not scored, since the model has no such class: house",)
    score, images = score_against(labels, masks, 3)
    assert (score.miou, images) == (1.0, 1)
    Image.fromarray(np.full((24, 40), 4, np.uint8)).save(truth / "one.png")
    with pytest.raises(DataError, match="holds the ids 4"):
        score_against(labels, masks, 3)


def test_labels_mean_what_their_dataset_yaml_says(
    photos: Path, truth: Path, tmp_path: Path, model: Model
) -> None:
    """As in training: 255 may be a class, and colours may stand for classes."""
    made(model, photos, tmp_path / "out")
    masks = {id: tmp_path / "out" / "masks" / f"{id}.png" for id in images_below(photos)}
    about = truth.parent / "dataset.yaml"
    about.write_text("label_map: {10: 0, 20: 1, 255: 2}\n")
    numbers = np.array([10, 20, 255], np.uint8)[scene()[1]]
    for name in ("one", "a b/two.x"):
        Image.fromarray(numbers).save(truth / f"{name}.png")
    score, images = score_against(open_labels(truth, CLASSES, images_below(photos)), masks, 3)
    assert (score.miou, score.classes_averaged, images) == (1.0, 3, 2)
    about.write_text("colours: {0: [0, 0, 0], 1: [9, 9, 9], 2: [200, 0, 0]}\n")
    shown = np.array([[0, 0, 0], [9, 9, 9], [200, 0, 0]], np.uint8)[scene()[1]]
    for name in ("one", "a b/two.x"):
        Image.fromarray(shown).save(truth / f"{name}.png")
    score, images = score_against(open_labels(truth, CLASSES, images_below(photos)), masks, 3)
    assert (score.miou, score.classes_averaged, images) == (1.0, 3, 2)


@pytest.mark.parametrize("names", ["", "stripe\nbackground\n"])
def test_a_label_that_is_no_class_is_refused(photos: Path, truth: Path, names: str) -> None:
    """By the masks' own list of classes, which may be shorter than the model's."""
    if names:
        (truth / "classes.txt").write_text(names)
    label = np.zeros((24, 40), np.uint8)
    label[0, 0], label[1, 0] = 255, 2 if names else 7
    Image.fromarray(label).save(truth / "one.png")
    Image.fromarray(label % 2).save(truth / "a b" / "two.x.png")
    said = (
        r"one\.png holds the ids 2, but there are 2"
        if names
        else r"one\.png holds the ids 7, but there are 3"
    )
    with pytest.raises(DataError, match=said):
        open_labels(truth, CLASSES, images_below(photos))


def test_labels_that_cannot_be_scored_are_refused(photos: Path, truth: Path, tmp_path: Path) -> None:
    ids = images_below(photos)
    Image.fromarray(scene()[1][1:]).save(truth / "one.png")
    with pytest.raises(DataError, match=r"one\.png is 40x23 but its image is 40x24 pixels"):
        open_labels(truth, CLASSES, ids)
    with pytest.raises(DataError, match="no folder"):
        open_labels(tmp_path / "nowhere", CLASSES, ids)
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match="holds no mask of these images"):
        open_labels(tmp_path / "bare", CLASSES, ids)
    (truth.parent / "classes.txt").write_text("road\ncar\n")
    with pytest.raises(DataError, match=r"classes\.txt and the model have no class in common \(road, car; "):
        open_labels(truth, CLASSES, ids)


# The loop ---------------------------------------------------------------------------------------------------


def test_confident_predictions_are_labels_of_a_folder_of_ones_own(
    tiny_config: Callable[..., RunConfig], tiny_root: Path, tmp_path: Path
) -> None:
    """Autolabel: train on few, predict the rest, train on that."""
    first = tiny_config("supervised", "protocol.steps=12", "protocol.optimizer.lr=0.02")
    run_plan(plan(first), Quiet())
    model = load(plan(first).folder.path, "cpu")
    mine = tmp_path / "data" / "mine"
    shutil.copytree(tiny_root / "tinyset" / "images", mine / "images")
    done, _ = made(model, mine / "images", tmp_path / "out", PredictSettings(confidence=0.5))
    assert done.made == 20
    shutil.copytree(tmp_path / "out" / "confident", mine / "labels")
    shutil.copy(tmp_path / "out" / "classes.txt", mine)
    lists = {name: Folder(tiny_root / "tinyset", "tinyset").ids(name) for name in ("train", "test")}
    for name, ids in lists.items():
        (mine / f"{name}.txt").write_text("".join(f"{id}\n" for id in ids))
    data = Folder(mine, "mine")
    assert 0 < np.mean([(data.mask(id) == 255).mean() for id in lists["train"]]) < 1
    split = Split("mine", "full", pixel=lists["train"], tags=(), none=(), eval=lists["test"])
    write_split(mine / "splits" / "full", split, {"rule": "all"})
    second = tiny_config("supervised", f"machine.data_root={mine.parent}", dataset="mine", split="full")
    result = run_plan(plan(second), Quiet())
    assert result.images["pixel"] == 16 and result.classes == list(CLASSES)
    assert model.classes == load(plan(second).folder.path, "cpu").classes
