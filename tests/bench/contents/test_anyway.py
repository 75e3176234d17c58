"""What had changed when a run went on all the same stands in its record: also of its CAM seeds and of their
classifier, and also after a kill."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench import pipeline
from bench.display import Display
from bench.errors import ConfigError, DataError, Interrupted
from bench.plan import Plan, SeedPlan, plan
from bench.records.schema import Result
from bench.settings.schema import RunConfig
from bench.training.trainer import Trainer

Config = Callable[..., RunConfig]
SETS = (
    "cam_seeds.refine=none",
    "cam_seeds.protocol.steps=2",
    "protocol.steps=4",
    "machine.checkpoint_every=1",
)
MENDED = "the image tinyset/images/train_03.png"


class Quiet(Display):
    def __init__(self) -> None:
        super().__init__()
        self.said = list[str]()

    def say(self, text: str) -> None:
        self.said.append(text)

    def start(self, name: str, total: int, done: int = 0) -> None: ...

    def update(self, done: int, figures: Any = None) -> None: ...


@pytest.fixture
def root(tiny_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_root, tmp_path / "data"))


@pytest.fixture
def weak(tiny_config: Config, root: Path) -> Plan:
    return plan(tiny_config("supervised", *SETS, f"machine.data_root={root}", split="tags"))


def seeds_of(planned: Plan) -> SeedPlan:
    assert planned.seeds is not None
    return planned.seeds


def mend(root: Path) -> None:
    """Another pixel in a training image."""
    path = root / MENDED.removeprefix("the image ")
    image = np.array(Image.open(path))
    image[0, 0] ^= 1
    Image.fromarray(image).save(path)


def marks(result: Result) -> list[str]:
    assert result.contents is not None
    return result.contents.anyway


@pytest.mark.slow
def test_seeds_that_are_taken_anyway_stand_in_the_record_of_the_run(weak: Plan, root: Path) -> None:
    seeds = seeds_of(weak)
    before = pipeline.make_seeds(seeds, Quiet())
    mend(root)
    for refuse in (pipeline.check, lambda planned: pipeline.run(planned, Quiet())):
        with pytest.raises(ConfigError, match=f"changed since: {MENDED}; .* with --anyway, which the record"):
            refuse(weak)
    pipeline.check(weak, anyway=True)
    display = Quiet()
    result = pipeline.run(weak, display, resume=True, anyway=True)
    assert marks(result) == [f"of its CAM seeds: {MENDED}"]
    assert any("are taken as they are, though this has changed since" in line for line in display.said)
    listing, kept = weak.folder.read_listing(), weak.folder.read_result()
    assert listing is not None and listing.contents.anyway == marks(result)
    assert kept is not None and marks(kept) == marks(result)
    assert weak.folder.read_provenance()[-1]["contents"]["anyway"] == marks(result)
    assert seeds.folder.read_report() == before, "the seeds are what they were"


@pytest.mark.slow
def test_a_finished_classifier_that_differs_is_refused_or_taken_and_recorded(weak: Plan, root: Path) -> None:
    seeds = seeds_of(weak)
    classifier = pipeline.run(seeds.classifier, Quiet())
    mend(root)
    for refuse in (pipeline.check, lambda planned: pipeline.run(planned, Quiet())):
        with pytest.raises(ConfigError, match=f"classifier.* is done, but this has changed since: {MENDED}"):
            refuse(weak)
    report = pipeline.make_seeds(seeds, Quiet(), anyway=True)
    assert report.contents is not None and report.contents.weights == classifier.weights_file_digest
    assert report.contents.anyway == [f"of its classifier: {MENDED}"]
    assert seeds.folder.read_report() == report
    result = pipeline.run(weak, Quiet())
    assert marks(result) == [f"of its CAM seeds: of its classifier: {MENDED}"], "without --anyway, too"


@pytest.mark.slow
def test_a_mark_is_kept_by_the_checkpoint_and_by_the_listing(weak: Plan, root: Path) -> None:
    pipeline.make_seeds(seeds_of(weak), Quiet())
    mend(root)
    expected = [f"of its CAM seeds: {MENDED}"]
    for gone in ("contents.json", "nothing"):
        weak.folder.clear()
        with stopped_at(2), pytest.raises(Interrupted):
            pipeline.run(weak, Quiet(), resume=True, anyway=True)
        if gone == "contents.json":
            weak.folder.contents.unlink()
        assert marks(pipeline.run(weak, Quiet(), resume=True, anyway=True)) == expected


def test_what_changed_twice_stands_once_each(weak: Plan, root: Path) -> None:
    full = plan(weak.config.model_copy(update={"split": "few"}))
    with stopped_at(1), pytest.raises(Interrupted):
        pipeline.run(full, Quiet())
    (root / "tinyset" / "classes.txt").write_text("ground\nsquare\nstripe\n")
    with stopped_at(2), pytest.raises(Interrupted):
        pipeline.run(full, Quiet(), resume=True, anyway=True)
    (line,) = marks(pipeline.run(full, Quiet(), resume=True))
    assert line.startswith("the classes"), "it went on by itself, of what it was by then"


def test_a_classifier_without_its_weights_is_a_sentence(weak: Plan) -> None:
    seeds = seeds_of(weak)
    pipeline.run(seeds.classifier, Quiet())
    seeds.classifier.folder.weights.unlink()
    for refuse in (pipeline.check, lambda planned: pipeline.run(planned, Quiet())):
        with pytest.raises(DataError, match=r"no .*weights\.safetensors; put it back, or make the CAM seeds"):
            refuse(weak)
    assert pipeline.make_seeds(seeds, Quiet(), overwrite=True).images


class stopped_at:
    """Raises before a step, once it is saved."""

    def __init__(self, step: int) -> None:
        self.patch, self.step = pytest.MonkeyPatch(), step

    def __enter__(self) -> None:
        real = Trainer.train_step

        def step(trainer: Trainer, batch: Any, at: Any) -> Any:
            if at.step == self.step:
                raise Interrupted("stopped by a test")
            return real(trainer, batch, at)

        self.patch.setattr(Trainer, "train_step", step)

    def __exit__(self, *_: object) -> None:
        self.patch.undo()
