"""Adaptation end to end: from splits of two domains to the gap that a method closes."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from bench import pipeline
from bench.display import Display
from bench.errors import ConfigError, DataError
from bench.labels import LABEL_SECONDS
from bench.plan import plan
from bench.records.schema import Result
from bench.scoring.multi_scale_crf import open_run
from bench.settings import registry
from bench.settings.registry import load_dataset
from bench.settings.schema import RunConfig
from datasets.shapes_night import Night
from datasets.splits import MANIFEST, find_split
from datasets.splits_make import regenerate, write_split
from reports.report import write_report
from reports.splits import label_hours

Config = Callable[..., RunConfig]
IN_DOMAINS = ("supervised", "fixmatch", "cutmix", "u2pl", "dacs")


def run(config: RunConfig) -> Result:
    return pipeline.run(plan(config), Display())


@pytest.fixture(scope="module")
def pair_root(tmp_path_factory: pytest.TempPathFactory, tiny_root: Path) -> Path:
    """The tiny set as a source, and a copy of it as a target."""
    root = tmp_path_factory.mktemp("pair")
    for name in ("tinyset", "other"):
        shutil.copytree(tiny_root / "tinyset", root / name)
    (root / "both").mkdir()
    (root / "both" / "pair.yaml").write_text("source: tinyset\ntarget: other\n")
    regenerate(load_dataset("both", root), root / "both" / "splits")
    return root


@pytest.fixture
def adapting(tiny_config: Config, pair_root: Path) -> Config:
    def make(method: str, *sets: str, **flags: object) -> RunConfig:
        place = f"machine.data_root={pair_root}"
        return tiny_config(method, place, *sets, **{"dataset": "both", "split": "adapt", **flags})

    return make


@pytest.mark.slow
@pytest.mark.parametrize("method", IN_DOMAINS)
def test_no_mask_of_the_target_is_opened(
    adapting: Config, pair_root: Path, tmp_path: Path, method: str
) -> None:
    """With garbage in place of the masks of the target's training images, a run is the same to the bit."""
    clean = adapting(method)
    run(clean)
    root = tmp_path / "poisoned"
    shutil.copytree(pair_root, root)
    for id in find_split("both", "adapt", pair_root).none:
        (root / "other" / "labels" / f"{id.removeprefix('target/')}.png").write_bytes(b"poison")
    poisoned = adapting(method, f"machine.data_root={root}", f"machine.out={tmp_path}/other")
    run(poisoned)
    one, other = (plan(config).folder.weights.read_bytes() for config in (clean, poisoned))
    assert one == other


@pytest.mark.slow
def test_a_report_says_the_gap(adapting: Config, tmp_path: Path) -> None:
    for method, split in (("supervised", "adapt"), ("supervised", "target_full"), ("dacs", "adapt")):
        run(adapting(method, split=split))
    write_report([tmp_path / "runs"], tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text()
    assert "Two domains" in text and "how much of the gap between the domains is closed" in text
    assert list((tmp_path / "report").rglob("*adaptation*.csv"))


def test_a_run_on_a_split_that_scores_the_source_is_refused(
    adapting: Config, pair_root: Path, tmp_path: Path
) -> None:
    root = tmp_path / "odd"
    shutil.copytree(pair_root, root)
    place = root / "both" / "splits"
    found = find_split("both", "adapt", root)
    for path in (*place.glob("*/*.txt"), place / "eval.txt", *place.glob(f"*/{MANIFEST}")):
        path.unlink()
    odd = replace(found, pixel=found.pixel[1:], eval=found.pixel[:1])
    write_split(place / "adapt", odd, {"rule": "by hand"})
    with pytest.raises(DataError, match="both/adapt would score 'source/train_00', of the source"):
        run(adapting("supervised", f"machine.data_root={root}"))


def test_images_of_both_domains_change_the_digests(adapting: Config, pair_root: Path, tmp_path: Path) -> None:
    """A run knows the content of both: another mask of the source, or image of the target, is other data."""
    first = run(adapting("supervised"))
    root = tmp_path / "changed"
    shutil.copytree(pair_root, root)
    images = sorted((root / "tinyset" / "labels").glob("train_*.png"))
    shutil.copy(images[1], images[0])
    second = run(adapting("supervised", f"machine.data_root={root}", f"machine.out={tmp_path}/second"))
    assert first.contents and second.contents
    assert first.contents.masks != second.contents.masks and first.contents.scored == second.contents.scored


@pytest.mark.parametrize(("split", "seconds"), [("adapt", 7.0), ("target_full", 600.0)])
def test_labels_cost_what_their_domain_says(
    adapting: Config, pair_root: Path, tmp_path: Path, split: str, seconds: float
) -> None:
    """Not what the target says, for masks of the source."""
    root = tmp_path / "priced"
    shutil.copytree(pair_root, root)
    for name, each in (("tinyset", 7), ("other", 600)):
        (root / name / "label_seconds.json").write_text(f'{{"pixel": {each}}}')
    result = run(adapting("supervised", "protocol.steps=1", f"machine.data_root={root}", split=split))
    assert result.label_seconds == LABEL_SECONDS | {"pixel": seconds}
    assert label_hours(result) == 16 * seconds / 3600


@pytest.mark.slow
def test_by_day_and_by_night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_config: Config) -> None:
    """On shapes_night, without a mask of a training image by night."""
    mask = Night.mask

    def withheld(self: Night, id: str) -> object:
        assert not id.startswith("train_"), "a mask of the target"
        return mask(self, id)

    monkeypatch.setattr(Night, "mask", withheld)
    for method in ("dacs", "u2pl"):
        sets = ("protocol.steps=6", "protocol.crop=[32, 32]")
        result = run(tiny_config(method, *sets, dataset="shapes_night", split="adapt"))
        assert result.images["pixel"] == result.images["none"] == 512 and result.images["eval"] == 200
        assert 0 < result.predictor.miou < 1


PLUGGED = """from datasets.folder import Folder

from datasets.folder import Folder


class Plugged(Folder):
    def __init__(self, root):
        super().__init__(root / "tinyset", "plugged")
        self.of = 1
"""


@pytest.mark.slow
def test_an_edited_plug_in_of_a_domain_is_another_run_and_another_warm_up(
    tiny_config: Config, pair_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = EntryPoint("plugged", "plugged_data:Plugged", "bench.datasets")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == "bench.datasets" else [])
    monkeypatch.syspath_prepend(tmp_path)

    def plug_in(text: str) -> None:
        (tmp_path / "plugged_data.py").write_text(text)
        monkeypatch.delitem(sys.modules, "plugged_data", raising=False)
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)

    plug_in(PLUGGED)
    root = tmp_path / "data"
    (root / "both").mkdir(parents=True)
    for name in ("tinyset", "other"):
        shutil.copytree(pair_root / name, root / name)
    (root / "both" / "pair.yaml").write_text("source: plugged\ntarget: other\n")
    regenerate(load_dataset("both", root), root / "both" / "splits")
    place = (f"machine.data_root={root}", "method.warmup=2")
    one, other = (tiny_config(of, *place, dataset="both", split="adapt") for of in ("u2pl", "u2pl_released"))
    run(one)
    assert run(one).contents is not None, "it is done"
    folder = plan(one).folder.path
    scored_by = open_run(folder, root).made_of["code"]
    plug_in(PLUGGED.replace("of = 1", "of = 2"))
    assert open_run(folder, root).made_of["code"]["datasets"] != scored_by["datasets"], "scored by other code"
    with pytest.raises(ConfigError, match=r"since: the room datasets \(plugged_data\.py\); start"):
        run(one)
    assert run(other).shared_seconds is None, "the warm-up is of other code"
