"""CAM seeds: by hand, end to end, stopped and resumed; which masks are opened on the way."""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from bench import machine, pipeline
from bench.cam_seeds.make import activation_maps
from bench.cam_seeds.quality import measure
from bench.cam_seeds.refine import BackgroundScores, seed_of
from bench.cam_seeds.thresholds import choose_scores
from bench.contract import IGNORE
from bench.display import Display
from bench.errors import BenchError, ConfigError, DataError, Interrupted
from bench.networks.segmenter import Segmenter
from bench.ops import cam, crf
from bench.ops.cam import EPSILON, at_image_size
from bench.pipeline import make_seeds
from bench.plan import SeedPlan, granted_tags, plan
from bench.records.atomic import write_atomic
from bench.records.logs import read_maps, read_metrics
from bench.records.schema import SeedReport
from bench.settings.resolve import resolve
from bench.settings.schema import CamSeeds, RunConfig
from bench.training import session
from datasets.folder import Folder
from datasets.splits import FROM_RECORD, Split, find_split
from datasets.splits_make import write_split
from datasets.tags import tag_digest

Config = Callable[..., RunConfig]
Edit = Callable[..., Path]
GARBAGE = b"no image at all"
# All that takes time is left out, so that a test says what it is about.
QUICK = ("cam_seeds.refine=none", "cam_seeds.scales=[1.0]", "cam_seeds.protocol.steps=2", "protocol.steps=2")


class Quiet(Display):
    """Shows nothing; may raise once so many images of an activity are done."""

    def __init__(self, stop_in: str = "", after: int = 0) -> None:
        super().__init__()
        self.stop_in, self.after, self.activity = stop_in, after, ""
        self.said: list[str] = []
        self.started: list[tuple[str, int]] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def start(self, name: str, total: int, done: int = 0) -> None:
        self.activity = name
        self.started.append((name, done))

    def update(self, done: int, figures: Mapping[str, float] | None = None) -> None:
        if self.stop_in and self.activity.startswith(self.stop_in) and done == self.after:
            raise Interrupted("stopped by a test")


def seeds_of(config: RunConfig) -> SeedPlan:
    found = plan(config).seeds
    assert found is not None
    return found


def made(planned: SeedPlan) -> dict[str, bytes]:
    folder = planned.folder.seed("x").parent
    return {path.stem: path.read_bytes() for path in sorted(folder.glob("*.png"))}


def seed(planned: SeedPlan, id: str) -> np.ndarray:
    return np.array(Image.open(planned.folder.seed(id)))


@pytest.fixture
def weak(tiny_config: Config) -> Config:
    """weak("cam_seeds.minimum=0", method="fixmatch") -> configuration of a quick run on tags alone."""

    def build(*sets: str, method: str = "supervised", split: str = "tags", **flags: Any) -> RunConfig:
        return tiny_config(method, *QUICK, *sets, split=split, **flags)

    return build


@pytest.fixture
def edited(tiny_root: Path, tmp_path: Path) -> Edit:
    """edited(classes=..., change=..., tags=...) -> a data root with 12 images of the tiny set, changed, whose
    splits `tags` and `few+tags` are made anew on the tags as changed."""

    def build(
        change: Callable[[Path], None] | None = None,
        classes: str = "background square stripe",
        tags: Mapping[str, Any] | None = None,
        said: Mapping[str, Any] | None = None,
    ) -> Path:
        root = tmp_path / "edited"
        shutil.copytree(tiny_root, root)
        folder = root / "tinyset"
        train, test = (Folder(folder, "tinyset").ids(name) for name in ("train", "test"))
        train = train[:12]
        table = {**json.loads((folder / "tags.json").read_text()), **(tags or {})}
        (folder / "classes.txt").write_text(classes.replace(" ", "\n") + "\n")
        (folder / "tags.json").write_text(json.dumps(table))
        if change is not None:
            change(folder)
        shutil.rmtree(folder / "splits")
        for name, pixel in (("tags", 0), ("few+tags", 4)):
            lists = {"pixel": train[:pixel], "tags": train[pixel:], "none": (), "eval": test}
            digest = tag_digest({id: (said or table)[id] for id in lists["tags"]}, background=0)
            split = Split("tinyset", name, **lists, tag_source=FROM_RECORD, tag_digest=digest)
            write_split(folder / "splits" / name, split, {"rule": "first come"})
        return root

    return build


def on(root: Path, config: RunConfig) -> RunConfig:
    return config.model_copy(update={"machine": config.machine.model_copy(update={"data_root": str(root)})})


# By hand ----------------------------------------------------------------------------------------------------

CAMS = torch.tensor([[[0.9, 0.4, 0.2, 0.02]], [[0.1, 0.45, 0.1, 0.01]]])  # K 1 W, the best of a map is not 1
FIXED = BackgroundScores(0.30, 0.05)
TINY = {
    "name": "tiny",
    "network": {"encoder": "tiny", "decoder": "unet"},
    "crop": [32, 32],
    "steps": 1,
    "optimizer": {"lr": 1e-3},
}
BLACK = np.zeros((1, 4, 3), np.uint8)


def settings(**changes: Any) -> CamSeeds:
    chosen = {"protocol": TINY, "refine": "none", **changes}
    return CamSeeds.model_validate_json(json.dumps(chosen))


@pytest.fixture
def as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps that are normalised already: dividing by the maximum would make others of them."""
    monkeypatch.setattr(cam, "at_image_size", lambda maps, size, rule: maps[None])


@pytest.mark.usefixtures("as_they_are")
def test_two_thresholds_by_hand() -> None:
    assert seed_of(BLACK, CAMS, [1, 2], 0, settings(), FIXED).tolist() == [[1, 2, IGNORE, 0]]
    assert seed_of(BLACK, CAMS, [3, 17], 0, settings(), FIXED).tolist() == [[3, 17, IGNORE, 0]]


@pytest.mark.usefixtures("as_they_are")
def test_the_lead_decides_where_there_is_no_background() -> None:
    """The second pixel's tags are .05 apart, the last one is weak."""
    assert seed_of(BLACK, CAMS, [1, 2], None, settings(), FIXED).tolist() == [[1, IGNORE, IGNORE, IGNORE]]
    close = settings(lead=0.02)
    assert seed_of(BLACK, CAMS, [1, 2], None, close, FIXED).tolist() == [[1, 2, 1, IGNORE]]
    assert seed_of(BLACK, CAMS[:1], [7], None, settings(), FIXED).tolist() == [[7, 7, 7, IGNORE]]


@pytest.mark.usefixtures("as_they_are")
@pytest.mark.parametrize(
    "chosen", [{"refine": "par"}, {"refine": "crf"}, {"refine": "crf", "unary": "softmax"}]
)
def test_a_refinement_that_changes_nothing(chosen: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Strict and loose are refined apart: what only the loose one finds stays undecided."""
    for name in ("refine", "refine_labels", "pixel_adaptive"):
        monkeypatch.setattr(crf, name, lambda image, given, *_, **__: given)
    assert seed_of(BLACK, CAMS, [1, 2], 0, settings(**chosen), FIXED).tolist() == [[1, 2, IGNORE, 0]]
    assert seed_of(BLACK, CAMS, [3, 17], 4, settings(**chosen), FIXED).tolist() == [[3, 17, IGNORE, 4]]
    if chosen.get("unary") != "softmax":  # after a softmax minimum and lead mean something else
        found = seed_of(BLACK, CAMS, [2, 1], None, settings(**chosen), FIXED)
        assert found.tolist() == [[2, IGNORE, IGNORE, IGNORE]]


@pytest.mark.usefixtures("as_they_are")
def test_power_background_by_hand() -> None:
    """m > (1 - m) ** alpha from m = .2755 on for alpha 4, from .094 on for 24."""
    power = settings(background="power", strict=4, loose=24)
    maps = torch.tensor([[[0.28, 0.27, 0.10, 0.09]]])
    assert seed_of(BLACK, maps, [1], 0, power, BackgroundScores(4, 24)).tolist() == [[1, IGNORE, IGNORE, 0]]


def test_maps_are_normalised_by_their_maximum_at_image_size() -> None:
    full = at_image_size(torch.tensor([[[2.0, 4.0]], [[0.0, 0.0]]]), (1, 4), "max")
    torch.testing.assert_close(full[0, 0, 0], torch.tensor([2, 2.5, 3.5, 4]) / (4 + EPSILON))
    assert full.shape == (1, 2, 1, 4) and not full[0, 1].any()
    assert at_image_size(torch.zeros(0, 1, 2), (1, 4), "max").shape == (1, 0, 1, 4)


@pytest.mark.parametrize(("background", "value"), [(0, 0), (None, IGNORE), (4, 4)])
def test_an_image_without_tags(background: int | None, value: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for asked in ("refine", "refine_labels", "pixel_adaptive"):
        monkeypatch.setattr(crf, asked, lambda *_: pytest.fail("nothing to refine"))
    found = seed_of(BLACK, CAMS[:0], [], background, settings(refine="crf"), FIXED)
    assert found.dtype == np.uint8 and (found == value).all()


def blobs() -> tuple[np.ndarray, Tensor]:
    """A red and a green half on 12 x 16 pixels, and a map for each that is right but for its soft edge."""
    image = np.zeros((12, 16, 3), np.uint8)
    image[:, :8, 0] = image[:, 8:, 1] = 200
    x = torch.linspace(1, 0, 16).expand(1, 12, 16)
    return image, torch.cat([x, 1 - x])


def test_one_tag_and_no_background_is_that_tag_everywhere() -> None:
    pytest.importorskip("pydensecrf")
    image, maps = blobs()
    assert (seed_of(image, maps[:1], [7], None, settings(refine="none"), FIXED) == IGNORE).any()
    assert (seed_of(image, maps[:1], [7], None, settings(refine="crf"), FIXED) == 7).all()


CASES: list[dict[str, Any]] = [
    {"refine": "none"},
    {"refine": "par"},
    {"refine": "crf"},
    {"refine": "crf", "unary": "softmax"},
]


@pytest.mark.parametrize("half_size", [False, True])
@pytest.mark.parametrize("chosen", CASES, ids=lambda chosen: "-".join(chosen.values()))
@pytest.mark.parametrize("background", [0, None])
def test_every_way_to_refine(chosen: dict[str, Any], half_size: bool, background: int | None) -> None:
    """Only tags, background and 255; what is decided lies on the right side; odd sizes, one row and one
    column go through."""
    if chosen["refine"] == "crf":
        pytest.importorskip("pydensecrf")
    image, maps = blobs()
    how = settings(**chosen, half_size=half_size, strict=0.4, loose=0.2, lead=0.02)
    found = seed_of(image, maps, [9, 4], background, how, BackgroundScores(0.4, 0.2))
    assert found.shape == (12, 16) and set(np.unique(found)) <= {9, 4, 0, IGNORE}
    assert not (found[:, :6] == 4).any() and not (found[:, 10:] == 9).any()
    assert (found[:, :4] == 9).all() and (found[:, 12:] == 4).all()
    for part in ((slice(0, 1), slice(None)), (slice(None), slice(0, 1)), (slice(0, 11), slice(0, 15))):
        small, less = image[part], maps[(slice(None), *part)]
        assert seed_of(small, less, [9, 4], background, how, FIXED).shape == small.shape[:2]


@pytest.mark.parametrize("chosen", CASES, ids=lambda chosen: "-".join(chosen.values()))
def test_a_single_colour(chosen: dict[str, Any]) -> None:
    if chosen["refine"] == "crf":
        pytest.importorskip("pydensecrf")
    _, maps = blobs()
    for background in (0, None):
        found = seed_of(
            np.full((12, 16, 3), 7, np.uint8), maps, [1, 2], background, settings(**chosen), FIXED
        )
        assert set(np.unique(found)) <= {0, 1, 2, IGNORE}


def test_power_background_with_softmax_unary() -> None:
    pytest.importorskip("pydensecrf")
    image, maps = blobs()
    image[:6], maps[:, :6] = 255, 0  # of the upper half nothing is known
    how = settings(refine="crf", unary="softmax", background="power", strict=1, loose=12)
    found = seed_of(image, maps, [1, 2], 0, how, BackgroundScores(1, 12))
    assert (found[8:, :4] == 1).all() and (found[8:, 12:] == 2).all() and not found[:4].any()


def test_par_moves_the_border_to_the_edge() -> None:
    """Maps that put it three pixels off, on an image that says where it is."""
    image, _ = blobs()
    x = torch.zeros(1, 12, 16)
    x[..., :11] = 1
    maps = torch.cat([0.6 * x + 0.2, 0.8 - 0.6 * x])
    plain, refined = (
        seed_of(image, maps, [1, 2], None, settings(refine=refine, lead=0), FIXED)
        for refine in ("none", "par")
    )
    truth = np.where(np.arange(16) < 8, 1, 2)
    assert (plain != truth).sum() == 36 and (refined != truth).sum() < 18


# Maps -------------------------------------------------------------------------------------------------------


def test_the_maps_of_a_mirrored_image_are_mirrored() -> None:
    torch.manual_seed(0)
    how = settings(scales=[1.0, 0.5], flip="sum")
    net = Segmenter(how.protocol.network, 3).eval()
    image = torch.rand(1, 3, 32, 48)
    with torch.no_grad():
        straight, mirrored = (activation_maps(net, x, how) for x in (image, image.flip(-1)))
    assert straight.shape == (1, 3, 8, 12) and straight.min() >= 0 and straight.any()
    torch.testing.assert_close(straight.flip(-1), mirrored)
    one = activation_maps(net, image, settings(scales=[1.0], flip="none"))
    assert not torch.allclose(one, straight)
    assert activation_maps(net, image[..., :1, :30], how).shape == (1, 3, 1, 8)


# End to end -------------------------------------------------------------------------------------------------


def test_seeds_and_their_report(weak: Config, tiny_set: Folder) -> None:
    planned = seeds_of(weak())
    report = make_seeds(planned, Quiet())
    assert list(made(planned)) == list(tiny_set.ids("train")) and report.images == 16
    assert planned.folder.read_report() == report and not planned.folder.quality.exists()
    assert report.classifier == planned.classifier.run_id and planned.classifier.folder.result.exists()
    assert (report.tags, report.untagged, report.opened) == (28, 0, []) and report.dead_tags <= 28
    pixels = np.bincount(np.concatenate([seed(planned, id).ravel() for id in made(planned)]), minlength=256)
    assert report.class_pixels == pixels[:3].tolist()
    assert report.decided == pytest.approx(1 - pixels[IGNORE] / (16 * 40 * 40))
    for id in made(planned):
        assert set(np.unique(seed(planned, id))) <= {0, *(tiny_set.tags(id) or ()), IGNORE}
    before = made(planned)
    silent = Quiet()
    assert make_seeds(planned, silent) == report and silent.started == [] and made(planned) == before


def test_a_seed_is_made_of_the_stored_maps(weak: Config, tiny_set: Folder) -> None:
    planned = seeds_of(weak())
    make_seeds(planned, Quiet())
    classes, maps = read_maps(planned.folder.map("train_06"))
    assert classes == [2] and maps.shape == (1, 10, 10)
    again = seed_of(tiny_set.image("train_06"), torch.from_numpy(maps), classes, 0, planned.settings, FIXED)
    assert (seed(planned, "train_06") == again).all()


@pytest.mark.slow
def test_strange_images(weak: Config, edited: Edit) -> None:
    """A row of pixels, a single colour, gray; and an image without tags."""

    def change(folder: Path) -> None:
        images = {
            "train_00": np.full((1, 30, 3), 90, np.uint8),
            "train_01": np.full((40, 40, 3), 7, np.uint8),
            "train_02": np.arange(1600, dtype=np.uint16).reshape(40, 40).astype(np.uint8),
        }
        for id, image in images.items():
            Image.fromarray(image).save(folder / "images" / f"{id}.png")

    root = edited(change, tags={"train_03": []})
    for refine in ("par", "crf") if importlib.util.find_spec("pydensecrf") else ("par",):
        planned = seeds_of(on(root, weak(f"cam_seeds.refine={refine}", "cam_seeds.scales=[1.0, 0.5]")))
        report = make_seeds(planned, Quiet())
        assert report.images == 12 and report.untagged == 1
        assert seed(planned, "train_00").shape == (1, 30) and not seed(planned, "train_03").any()
        assert all(seed(planned, id).shape == (40, 40) for id in ("train_01", "train_02"))


def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The image train_03 cannot be read, though its file is the one that it was."""
    read = Folder.image

    def image(self: Folder, id: str) -> np.ndarray:
        if id == "train_03":
            raise DataError("train_03.png cannot be read")
        return read(self, id)

    monkeypatch.setattr(Folder, "image", image)


def test_a_broken_image_costs_the_others_nothing(
    weak: Config, edited: Edit, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = seeds_of(on(edited(), weak()))
    pipeline.run(planned.classifier, Quiet())
    with monkeypatch.context() as patch:
        broken(patch)
        with pytest.raises(DataError, match=r"(?s)1 of 12 images.*train_03.png cannot be read"):
            make_seeds(planned, Quiet())
    assert set(made(planned)) == {f"train_{i:02d}" for i in range(12)} - {"train_03"}
    assert planned.folder.read_report() is None
    assert make_seeds(planned, Quiet()).images == 12 and len(made(planned)) == 12


def test_an_image_that_breaks_between_map_and_seed(
    weak: Config, edited: Edit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its map stands; a map that is empty by then is made again."""
    planned = seeds_of(on(edited(), weak()))
    with pytest.raises(Interrupted):
        make_seeds(planned, Quiet("activation maps", 12))
    planned.folder.map("train_05").write_bytes(b"")
    broken(monkeypatch)
    with pytest.raises(DataError, match=r"(?s)1 of 12 .*train_03.png cannot be read"):
        make_seeds(planned, Quiet())
    assert len(made(planned)) == 11


@pytest.mark.slow
@pytest.mark.parametrize("refine", ["crf", "par"])
def test_processes_change_no_bit(refine: str, weak: Config, edited: Edit) -> None:
    if refine == "crf":
        pytest.importorskip("pydensecrf")
    planned = seeds_of(on(edited(), weak(f"cam_seeds.refine={refine}")))
    one = make_seeds(planned, Quiet(), jobs=1)
    seeds = made(planned)
    shutil.rmtree(planned.folder.report.parent)
    several = make_seeds(planned, Quiet(), jobs=2)
    assert made(planned) == seeds and len(seeds) == 12
    times = ("map_seconds", "map_peak_memory_mib", "refine_core_seconds")
    assert several.model_dump(exclude=set(times)) == one.model_dump(exclude=set(times))


def die(id: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_signal_to_all_processes_is_a_stop(weak: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler's SIGTERM reaches those of the pool as well, and kills them."""
    planned = seeds_of(weak())

    def killed(*_: object) -> Iterator[tuple[str, Any]]:
        signal.raise_signal(signal.SIGTERM)
        raise BrokenProcessPool
        yield

    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="stopped by SIGTERM"):
        patch.setattr("bench.cam_seeds.make.in_processes", killed)
        make_seeds(planned, Quiet())
    assert make_seeds(planned, Quiet()).images == 16


@pytest.mark.slow
def test_a_killed_process_is_a_sentence(weak: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.cam_seeds.make.SeedMaker", lambda *_: die)
    with pytest.raises(BenchError, match="a process that makes CAM seeds was killed.*fewer --jobs"):
        make_seeds(seeds_of(weak()), Quiet(), jobs=2)


# Stopping, resuming, sharing --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("activity", "maps", "seeds"), [("activation maps", 5, 0), ("seeds", 16, 5)])
def test_stopped_making_goes_on_where_it_was(
    activity: str, maps: int, seeds: int, weak: Config, tmp_path: Path
) -> None:
    planned = seeds_of(weak())
    with pytest.raises(Interrupted):
        make_seeds(planned, Quiet(activity, 5))
    assert len(list(planned.folder.map("x").parent.iterdir())) == maps and len(made(planned)) == seeds
    dates = {path: path.stat().st_mtime_ns for path in planned.folder.path.rglob("*.??g")}
    display = Quiet()
    resumed = make_seeds(planned, display)
    assert all(path.stat().st_mtime_ns == date for path, date in dates.items())
    assert (("activation maps", 5) in display.started) == (maps == 5)

    config = weak()
    machine = config.machine.model_copy(update={"out": str(tmp_path / "whole")})
    whole = seeds_of(config.model_copy(update={"machine": machine}))
    report = make_seeds(whole, Quiet())
    assert made(whole) == made(planned) and len(made(whole)) == 16
    times = {"map_seconds", "map_peak_memory_mib", "refine_core_seconds"}
    assert report.model_dump(exclude=times) == resumed.model_dump(exclude=times)


def test_a_writer_that_dies_leaves_no_half_file(weak: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = seeds_of(weak())
    replaced = write_atomic.__globals__["os"].replace
    count = 0

    def lost(old: Path, new: Path) -> None:
        nonlocal count
        if "seeds" in Path(new).parts:
            count += 1
            if count == 3:
                raise KeyboardInterrupt
        replaced(old, new)

    monkeypatch.setattr("os.replace", lost)
    with pytest.raises(KeyboardInterrupt):
        make_seeds(planned, Quiet())
    monkeypatch.undo()
    assert len(made(planned)) == 2 and planned.folder.read_report() is None
    assert make_seeds(planned, Quiet()).images == 16 and len(made(planned)) == 16


def test_a_second_process_waits_for_the_first(weak: Config) -> None:
    planned = seeds_of(weak())
    planned.folder.path.mkdir(parents=True)
    display, waits = Quiet(), threading.Event()
    display.say = lambda text: (display.said.append(text), waits.set())  # type: ignore[assignment,func-returns-value]
    reports: list[SeedReport] = []
    second = threading.Thread(target=lambda: reports.append(make_seeds(planned, display)), daemon=True)
    with open(planned.folder.path / ".lock", "w") as lock:  # another open file, as of another process
        fcntl.flock(lock, fcntl.LOCK_EX)
        second.start()
        assert waits.wait(20) and not planned.classifier.folder.path.exists()
    second.join(60)
    assert display.said[0] == "another process makes these CAM seeds; waiting for it"
    assert len(display.said) == 1 and reports[0].images == 16


@pytest.mark.slow
def test_runs_of_one_seed_share_their_seeds(weak: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline.run(plan(weak()), Quiet())
    planned = seeds_of(weak())
    before = {path: path.stat().st_mtime_ns for path in planned.folder.path.rglob("[!.]*.*")}
    assert len(before) > 32
    monkeypatch.setattr("bench.cam_seeds.make.SeedMaker", lambda *_: pytest.fail("made again"))
    other = plan(weak("protocol.steps=1", method="fixmatch"))
    assert other.seeds is not None and other.seeds.folder.path == planned.folder.path
    pipeline.run(other, Quiet())
    assert {path: path.stat().st_mtime_ns for path in before} == before


# What makes other seeds -------------------------------------------------------------------------------------


def ids(config: RunConfig) -> tuple[str, str, str]:
    """Of the classifier's run, of the maps, of the seeds."""
    planned = seeds_of(config)
    return planned.classifier.run_id, planned.folder.path.name, planned.folder.seed_id


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ("method.name=fixmatch", 3),
        ("protocol.steps=7", 3),
        ("protocol.optimizer.lr=0.5", 3),
        ("cam_seeds.strict=0.4", 2),
        ("cam_seeds.refine=par", 2),
        ("cam_seeds.scales=[1.0, 2.0]", 1),
        ("cam_seeds.flip=max", 1),
        ("cam_seeds.protocol.steps=3", 0),
        ("tags=shuffled", 0),
        ("seed=1", 0),
        ("split=few+tags", 0),
    ],
)
def test_what_makes_other_seeds(change: str, same: int, weak: Config) -> None:
    """`same` of the three ids, in order, stay; the run's own id follows that of the seeds."""
    plain, other = ids(weak()), ids(weak(change))
    assert [a == b for a, b in zip(plain, other, strict=True)] == [i < same for i in range(3)]
    assert plan(weak()).run_id != plan(weak(change)).run_id


def test_a_run_without_tags_does_not_depend_on_settings_of_seeds(tiny_config: Config) -> None:
    plain, other = (plan(tiny_config("supervised", *sets)) for sets in ((), ("cam_seeds.strict=0.4",)))
    assert plain.run_id == other.run_id and plain.seeds is None and plain.config.cam_seeds is None


def test_the_batches_of_the_control_hold_the_shuffled_tags(weak: Config) -> None:
    planned = plan(weak("tags=shuffled", "protocol.steps=2"))
    assert planned.seeds is not None
    make_seeds(planned.seeds, Quiet())
    trainer = session.trainer_of(planned, Quiet(), machine.Stop())
    given = granted_tags(plan(weak()), trainer.dataset)
    assert trainer.batches.tags == granted_tags(planned, trainer.dataset) != given


def test_shuffled_tags_are_other_tags_of_the_same_number(weak: Config) -> None:
    given, shuffled = (
        granted_tags(plan(weak(f"tags={what}")), Folder(root, "tinyset"))
        for what in ("given", "shuffled")
        for root in [Path(str(weak().machine.data_root)) / "tinyset"]
    )
    assert given != shuffled and given.keys() == shuffled.keys()
    assert sorted(given.values()) == sorted(shuffled.values())
    planned = seeds_of(weak("tags=shuffled"))
    make_seeds(planned, Quiet())
    assert all(read_maps(planned.folder.map(id))[0] == list(set(shuffled[id]) - {0}) for id in shuffled)


# Policies ---------------------------------------------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The training masks that are opened."""
    seen: set[str] = set()
    read = Folder.mask

    def spy(self: Folder, id: str) -> np.ndarray:
        if id.startswith("train"):
            seen.add(id)
        return read(self, id)

    monkeypatch.setattr(Folder, "mask", spy)
    return seen


@pytest.mark.parametrize(
    ("sets", "count"),
    [
        ((), 0),
        (("cam_seeds.policy=heldout", "cam_seeds.heldout=3"), 3),
        (("cam_seeds.policy=oracle",), 16),
    ],
)
def test_a_policy_opens_so_many_masks(
    sets: tuple[str, ...], count: int, weak: Config, opened: set[str]
) -> None:
    planned = seeds_of(weak(*sets))
    report = make_seeds(planned, Quiet())
    assert len(opened) == count and set(report.opened) == opened == set(report.opened[:count])
    assert report.strict - report.loose == pytest.approx(0.25) or report.loose == 0
    if not count:
        assert (report.strict, report.loose) == (0.30, 0.05)


def test_the_oracle_finds_the_threshold(weak: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps of .8 on a class's pixels and .6 elsewhere: the single score must lie between."""
    planned = seeds_of(weak("cam_seeds.policy=oracle"))
    dataset = Folder(Path(str(weak().machine.data_root)) / "tinyset", "tinyset")
    tags = {id: list(dataset.tags(id) or ()) for id in dataset.ids("train")}

    def maps_of(path: Path) -> tuple[list[int], np.ndarray]:
        mask, id = dataset.mask(path.stem), path.stem
        return tags[id], np.stack([np.where(mask == label, 0.8, 0.6) for label in tags[id]]).astype(
            np.float32
        )

    monkeypatch.setattr("bench.cam_seeds.thresholds.read_maps", maps_of)
    scores = choose_scores(planned, dataset, list(tags))
    assert scores.strict - scores.loose == pytest.approx(0.25)
    assert 0.75 <= (scores.strict + scores.loose) / 2 < 1  # .6 / .8 after dividing by the maximum
    assert scores.opened == tuple(tags)


@pytest.mark.slow
def test_scores_wait_for_all_images(weak: Config, edited: Edit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chosen without the broken image they might be others, and some seeds would be made by them."""
    planned = seeds_of(on(edited(), weak("cam_seeds.policy=oracle")))
    pipeline.run(planned.classifier, Quiet())
    broken(monkeypatch)
    with pytest.raises(DataError, match=r"train_03.png cannot be read"):
        make_seeds(planned, Quiet())
    assert made(planned) == {} and len(list(planned.folder.map("x").parent.iterdir())) == 11


def test_more_heldout_images_than_there_are(weak: Config) -> None:
    with pytest.raises(ConfigError, match=r"cam_seeds.heldout is 17, but split 'tags' has 16 tagged"):
        seeds_of(weak("cam_seeds.policy=heldout", "cam_seeds.heldout=17"))


def test_a_batch_of_the_classifier_larger_than_its_images(weak: Config) -> None:
    """With the key of its own batch, and before anything is read."""
    assert ids(weak("cam_seeds.protocol.batch.labeled=16"))
    with pytest.raises(ConfigError, match=r"16 images.* the 17 .*cam_seeds.protocol.batch.labeled=16"):
        seeds_of(weak("cam_seeds.protocol.batch.labeled=17"))


def test_a_policy_needs_a_background(weak: Config, edited: Edit) -> None:
    planned = seeds_of(on(edited(classes="ground square stripe"), weak("cam_seeds.policy=oracle")))
    with pytest.raises(ConfigError, match=r"cam_seeds.policy oracle .* tinyset has no background class"):
        make_seeds(planned, Quiet())
    assert not planned.classifier.folder.path.exists(), "nothing is trained for it"


# Runs on seeds ----------------------------------------------------------------------------------------------


SLOW = pytest.mark.slow  # where a case of the same kind is among the quick ones


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", [pytest.param("supervised", marks=SLOW), pytest.param("fixmatch", marks=SLOW), "u2pl_weak"]
)
def test_a_run_on_seeds_that_decide_nothing(method: str, weak: Config, edited: Edit) -> None:
    root = edited(classes="ground square stripe", tags={f"train_{i:02d}": [1, 2] for i in range(12)})
    sets = ("cam_seeds.minimum=0.99", "cam_seeds.lead=0.9", "protocol.steps=3")
    config = on(root, weak(*sets, method=method))
    result = pipeline.run(plan(config), Quiet())
    report = seeds_of(config).folder.read_report()
    assert result.steps == 3 and report is not None and report.decided == 0
    lines = read_metrics(plan(config).folder.metrics)
    assert len(lines) == 3 and all(np.isfinite(line["loss"]) for line in lines)


@pytest.mark.parametrize(
    ("method", "split"),
    [
        pytest.param(method, split, marks=[] if (method, split) == ("fixmatch", "few+tags") else SLOW)
        for method in ("supervised", "fixmatch", "u2pl_weak")
        for split in ("tags", "few+tags")
    ],
)
def test_no_mask_is_opened_on_the_way_from_tags_to_weights(
    method: str, split: str, weak: Config, edited: Edit
) -> None:
    def poison(folder: Path) -> None:
        for i in range(4 if split == "few+tags" else 0, 16):
            (folder / "labels" / f"train_{i:02d}.png").write_bytes(GARBAGE)

    config = on(edited(poison), weak("protocol.steps=6", method=method, split=split))
    result = pipeline.run(plan(config), Quiet())
    assert result.steps == 6 and result.images["tags"] == (8 if split == "few+tags" else 12)


def test_granted_masks_are_opened(weak: Config, edited: Edit) -> None:
    """The control of the test above: the classifier takes its tags from them."""

    def poison(folder: Path) -> None:
        for i in range(4):
            (folder / "labels" / f"train_{i:02d}.png").write_bytes(GARBAGE)

    root = edited(poison)
    config = on(root, weak("cam_seeds.protocol.steps=6", split="few+tags"))
    with pytest.raises(DataError, match=r"train_0[0-3].png cannot be decoded"):
        pipeline.run(plan(config), Quiet())
    assert not seeds_of(config).folder.report.exists()


# Tags that cannot be ----------------------------------------------------------------------------------------

ALL = {f"train_{i:02d}": [1, 2] for i in range(16)}


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"train_02": [1, 3]}, r"tags.json: the entry of 'train_02' is \[1, 3\].*0..2"),
        ({"train_02": ["square", "stripes"]}, r"tags.json.*'train_02'.*'stripes'; did you mean 'stripe'"),
        (
            {"train_02": [0, 1, 1]},
            r"tags.json: the entry of 'train_02' is \[0, 1, 1\]; .*different class ids",
        ),
        ({"train_02": 1}, r"tags.json: the entry of 'train_02' is 1; it must be a list"),
        ({"train_02": [True]}, r"tags.json: the entry of 'train_02' is \[True\]"),
        ({id: [0] for id in ALL}, r"none of the 12 tagged images of tinyset has a tag"),
        ({id: [] for id in ALL}, r"none of the 12 tagged images of tinyset has a tag"),
    ],
)
def test_tags_that_cannot_be(tags: dict[str, Any], said: str, weak: Config, edited: Edit) -> None:
    valid = {id: entry if all(e in ([], [0]) for e in tags.values()) else [1] for id, entry in tags.items()}
    planned = seeds_of(on(edited(tags=tags, said={**ALL, **valid}), weak()))
    with pytest.raises(DataError, match=said):
        make_seeds(planned, Quiet())
    assert not planned.classifier.folder.result.exists()


def test_an_image_without_an_entry(weak: Config, edited: Edit) -> None:
    root = edited()
    path = root / "tinyset" / "tags.json"
    table = json.loads(path.read_text())
    del table["train_07"]
    path.write_text(json.dumps(table))
    with pytest.raises(DataError, match=r"tags.json has no entry for 'train_07'"):
        make_seeds(seeds_of(on(root, weak())), Quiet())


def test_tags_that_have_changed_since(weak: Config, edited: Edit) -> None:
    root = edited()
    path = root / "tinyset" / "tags.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "train_07": [1]}))
    config = on(root, weak())
    for start in (lambda: make_seeds(seeds_of(config), Quiet()), lambda: pipeline.run(plan(config), Quiet())):
        with pytest.raises(DataError, match=r"are not those that its split 'tags' was made with; restore"):
            start()


def test_background_may_stand_among_the_tags_or_not(weak: Config, edited: Edit) -> None:
    root = edited()
    path = root / "tinyset" / "tags.json"
    path.write_text(json.dumps({id: [0, *tags] for id, tags in json.loads(path.read_text()).items()}))
    assert make_seeds(seeds_of(on(root, weak())), Quiet()).tags < 24
    assert find_split("tinyset", "tags", root).digests["tag_sets"]


# Without pydensecrf -----------------------------------------------------------------------------------------


@pytest.fixture
def no_crf(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pydensecrf", "pydensecrf.densecrf"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.usefixtures("no_crf")
def test_without_pydensecrf_seeds_are_refined_by_par(tiny_config: Config) -> None:
    config = tiny_config("supervised", "cam_seeds.protocol.steps=1", "cam_seeds.scales=[1.0]", split="tags")
    assert config.cam_seeds is not None and config.cam_seeds.refine == "par"
    assert resolve({"method": {"name": "supervised"}}).cam_seeds.refine == "par"  # type: ignore[union-attr]
    assert make_seeds(seeds_of(config), Quiet()).settings["refine"] == "par"


@pytest.mark.usefixtures("no_crf")
def test_without_pydensecrf_a_sentence_says_what_to_install(weak: Config) -> None:
    planned = seeds_of(weak("cam_seeds.refine=crf"))
    with pytest.raises(
        ConfigError, match=r"needs the module pydensecrf: install the distribution pydensecrf2"
    ):
        make_seeds(planned, Quiet())
    assert not planned.classifier.folder.path.exists(), "before anything is trained"


def test_with_pydensecrf_it_is_taken(tiny_config: Config) -> None:
    pytest.importorskip("pydensecrf")
    config = tiny_config("supervised", split="tags")
    assert config.cam_seeds is not None and config.cam_seeds.refine == "crf"
    assert replace(plan(config)).config.cam_seeds == config.cam_seeds


# Seeds are what was made, of what is here -------------------------------------------------------------------


def flip(path: Path, place: int = -40) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0x40
    path.write_bytes(data)


HARMS: dict[str, Callable[[SeedPlan], object]] = {
    "a seed is gone": lambda s: s.folder.seed("train_03").unlink(),
    "a seed is empty": lambda s: s.folder.seed("train_03").write_bytes(b""),
    "a seed is damaged": lambda s: flip(s.folder.seed("train_03")),
    "a seed is another's": lambda s: shutil.copy(s.folder.seed("train_05"), s.folder.seed("train_03")),
    "all seeds are gone": lambda s: shutil.rmtree(s.folder.seed("x").parent),
    "a seed and its map are gone": lambda s: (
        s.folder.seed("train_03").unlink(),
        s.folder.map("train_03").unlink(),
    ),
    "a seed is gone and its map is another's": lambda s: (
        s.folder.seed("train_03").unlink(),
        shutil.copy(s.folder.map("train_05"), s.folder.map("train_03")),
    ),
    "a seed is gone and its map damaged": lambda s: (
        s.folder.seed("train_03").unlink(),
        flip(s.folder.map("train_03")),
    ),
    "the ledgers are gone": lambda s: (s.folder.seed_ledger.unlink(), s.folder.map_ledger.unlink()),
    "the report is gone and a seed is another's": lambda s: (
        s.folder.report.unlink(),
        shutil.copy(s.folder.seed("train_05"), s.folder.seed("train_03")),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("harm", HARMS)
def test_a_cache_that_is_harmed_is_made_again_to_the_same_bits(harm: str, weak: Config) -> None:
    planned = seeds_of(weak())
    report = make_seeds(planned, Quiet())
    before = made(planned)
    HARMS[harm](planned)
    display = Quiet()
    again = make_seeds(planned, display)
    assert made(planned) == before
    times = {"map_seconds", "map_peak_memory_mib", "refine_core_seconds"}
    assert again.model_dump(exclude=times) == report.model_dump(exclude=times)
    assert any("made again: " in line for line in display.said) == (not harm.startswith("the report"))
    silent = Quiet()
    assert make_seeds(planned, silent) == again and silent.started == []


@pytest.mark.slow
def test_a_run_recovers_from_a_lost_seed(weak: Config) -> None:
    config = weak()
    expected = pipeline.run(plan(config), Quiet())
    seeds_of(config).folder.seed("train_00").unlink()
    assert pipeline.run(plan(config), Quiet(), overwrite=True).predictor == expected.predictor


def cleaned(planned: SeedPlan) -> None:
    """As a clean-up of big files leaves it: maps and seeds are gone, the classifier's run is there."""
    for path in planned.folder.path.rglob("*"):
        if path.is_file() and path.name != ".lock":
            path.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["flipped", "cut", "another's", "gone"])
def test_weights_of_the_classifier_that_are_not_its_own_make_no_seeds(harm: str, weak: Config) -> None:
    planned = seeds_of(weak())
    make_seeds(planned, Quiet())
    before, weights = made(planned), planned.classifier.folder.weights
    kept = weights.read_bytes()
    if harm == "flipped":
        flip(weights)
    elif harm == "cut":
        weights.write_bytes(kept[:-100])
    elif harm == "another's":
        other = seeds_of(weak(seed=1)).classifier
        pipeline.run(other, Quiet())
        shutil.copy(other.folder.weights, weights)
    else:
        weights.unlink()
    cleaned(planned)
    with pytest.raises(BenchError, match=r"weights\.safetensors.*(--overwrite|remove its folder)") as caught:
        make_seeds(planned, Quiet())
    assert caught.value.exit_code in (2, 3) and made(planned) == {}
    make_seeds(planned, Quiet(), overwrite=True)
    assert made(planned) == before and weights.read_bytes() == kept


@pytest.mark.slow
def test_seeds_of_other_images_are_refused_and_made_anew_on_demand(weak: Config, edited: Edit) -> None:
    root = edited()
    config = on(root, weak())
    planned = seeds_of(config)
    report = make_seeds(planned, Quiet())
    path = root / "tinyset" / "images" / "train_03.png"
    Image.fromarray(255 - np.array(Image.open(path))).save(path)
    with pytest.raises(ConfigError, match=r"the CAM seeds in .* this has changed since: .*train_03\.png"):
        make_seeds(planned, Quiet())
    assert planned.folder.read_report() == report
    display = Quiet()
    assert make_seeds(planned, display, overwrite=True).contents != report.contents
    assert any("made anew" in line for line in display.said)


def test_scored_masks_make_no_other_seeds(weak: Config, edited: Edit) -> None:
    root = edited()
    planned = seeds_of(on(root, weak()))
    report = make_seeds(planned, Quiet())
    shutil.copy(*(root / "tinyset" / "labels" / f"test_0{n}.png" for n in (0, 1)))
    assert make_seeds(planned, Quiet()) == report


def test_seeds_of_before_digests_are_taken_while_all_are_there(weak: Config) -> None:
    planned = seeds_of(weak())
    report = make_seeds(planned, Quiet()).model_copy(update={"contents": None})
    write_atomic(planned.folder.report, report.model_dump_json().encode())
    assert "contents" not in json.loads(planned.folder.report.read_text())
    for path in (planned.folder.seed_ledger, planned.folder.map_ledger, planned.folder.contents):
        path.unlink()
    before = made(planned)
    assert make_seeds(planned, Quiet()) == report
    planned.folder.seed("train_03").unlink()
    again = make_seeds(planned, Quiet())
    assert made(planned) == before and again.contents is not None and again.contents.seeds


@pytest.mark.slow
def test_a_finished_run_on_other_seeds_is_not_done(weak: Config) -> None:
    config = weak()
    result = pipeline.run(plan(config), Quiet())
    report = seeds_of(config).folder.read_report()
    assert result.contents is not None and report is not None and report.contents is not None
    assert result.contents.seeds == report.contents.seeds and result.contents.maps == report.contents.maps
    changed = report.contents.model_copy(update={"seeds": "0" * 64})
    write_atomic(seeds_of(config).folder.report, report.model_copy(update={"contents": changed}).to_bytes())
    with pytest.raises(ConfigError, match="changed since: the CAM seeds; start it again"):
        pipeline.run(plan(config), Quiet())
    cleaned(seeds_of(config))
    display = Quiet()
    assert pipeline.run(plan(config), display) == result and display.said[0].startswith("already done")


@pytest.mark.slow
def test_quality_is_not_measured_on_maps_that_were_lost_and_the_advice_helps(weak: Config) -> None:
    planned = seeds_of(weak())
    report = make_seeds(planned, Quiet())
    expected = measure(planned, Quiet())
    shutil.copy(planned.folder.map("train_05"), planned.folder.map("train_03"))
    with pytest.raises(
        DataError, match=r"1 activation maps are gone or damaged, .*train_03\.npz; remove .*json"
    ):
        measure(planned, Quiet())
    planned.folder.report.unlink()
    assert make_seeds(planned, Quiet()).contents == report.contents and measure(planned, Quiet()) == expected


@pytest.mark.slow
def test_a_seed_that_is_lost_while_a_run_trains_is_made_again_by_the_next_start(
    weak: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = weak("protocol.steps=12")
    start = session.start

    def losing(planned: Any, *given: Any) -> Any:
        for path in seeds_of(config).folder.seed("x").parent.glob("train_1*"):
            path.unlink()
        return start(planned, *given)

    with monkeypatch.context() as patch:
        patch.setattr(session, "start", losing)
        with pytest.raises(DataError, match=r"the seed of 'train_1.' is gone .*start it again with --resume"):
            pipeline.run(plan(config), Quiet())
    assert pipeline.run(plan(config), Quiet(), resume=True).steps == 12
