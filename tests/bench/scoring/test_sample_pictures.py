"""Pictures of a run's predictions: they are what was scored, at a size for a page."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench import cli, pipeline
from bench.contract import Dataset
from bench.display import Display
from bench.plan import plan
from bench.records.folders import RunFolder
from bench.records.logs import read_counts
from bench.records.samples import Kind, Samples, chosen, read_picture, read_samples
from bench.scoring.samples import pictures
from bench.settings.schema import RunConfig


def ids_of(run: RunFolder, samples: Samples, id: str, kind: Kind) -> np.ndarray:
    (sample,) = (one for one in samples.samples if one.id == id)
    data = read_picture(run, sample, kind)
    assert data is not None
    return np.asarray(Image.open(io.BytesIO(data)))


def test_the_samples_of_a_run_are_what_was_scored(tiny_config: Callable[..., RunConfig]) -> None:
    """Of each sample, prediction and truth give the counts that the run has of the image."""
    planned = plan(tiny_config("supervised", "protocol.steps=2", "machine.samples=3"))
    pipeline.run(planned, Display())
    samples = read_samples(planned.folder)
    assert samples is not None and not samples.generated
    assert [one.id for one in samples.samples] == chosen(planned.split.eval, 3)
    kept = read_counts(planned.folder.counts)
    for id in chosen(planned.split.eval, 3):
        predicted, truth = (ids_of(planned.folder, samples, id, kind) for kind in ("prediction", "truth"))  # type: ignore[arg-type]
        counts = np.zeros_like(kept["predictor"][0])
        np.add.at(counts, (truth[truth != 255], predicted[truth != 255]), 1)
        assert (counts == kept["predictor"][list(kept["ids"]).index(id)]).all()


def test_a_run_may_keep_none(tiny_config: Callable[..., RunConfig]) -> None:
    planned = plan(tiny_config("supervised", "protocol.steps=1", "machine.samples=0"))
    pipeline.run(planned, Display())
    assert read_samples(planned.folder) is None and not planned.folder.sample_pictures.exists()


def test_score_makes_the_samples_of_a_finished_run(
    tiny_config: Callable[..., RunConfig],
    tiny_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    planned = plan(tiny_config("supervised", "protocol.steps=2"))
    pipeline.run(planned, Display())
    before = read_samples(planned.folder)
    assert before is not None and len(before.samples) > 2
    words = ["score", str(planned.folder.path), "--samples", "2", "--data-root", str(tiny_root)]
    monkeypatch.setattr(sys, "argv", ["bench", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0, capsys.readouterr().err
    after = read_samples(planned.folder)
    assert after is not None and after.samples == before.samples[:2]


class Wide(Dataset):
    """One image of 1200 x 700: its left half is red and of class 0, the right one blue and of class 1. More
    channels than three are dark."""

    name = "wide"
    classes = ("red", "blue")

    def __init__(self, channels: int = 3) -> None:
        self.channels = channels

    def ids(self, listing: str) -> tuple[str, ...]:
        return ("a",)

    def image(self, id: str) -> np.ndarray:
        colours = np.where(self.mask(id)[..., None] == 0, [255, 0, 0], [0, 0, 255]).astype(np.uint8)
        return np.pad(colours, ((0, 0), (0, 0), (0, self.channels - 3)))

    def mask(self, id: str) -> np.ndarray:
        return np.repeat((np.arange(1200) >= 600).astype(np.uint8)[None], 700, axis=0)


@pytest.mark.parametrize("channels", [3, 5])
def test_large_images_become_small_and_stay_on_their_masks(channels: int) -> None:
    dataset = Wide(channels)
    found = pictures(dataset, {"a": dataset.mask("a")})
    assert not found.generated, "the set does not say which files it reads"
    of = {kind: Image.open(io.BytesIO(data)) for kind, data in found.by_id["a"].items()}
    assert {picture.size for picture in of.values()} == {(400, 233)}
    red = np.asarray(of["image"].convert("RGB"))[..., 0] > 128
    assert ((np.asarray(of["truth"]) == 0) == red).all()
    assert (np.asarray(of["prediction"]) == np.asarray(of["truth"])).all()
