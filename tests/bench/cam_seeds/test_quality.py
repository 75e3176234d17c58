"""The quality of CAM seeds: what tags alone are worth, masks as seeds, and that no run reads the answer."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import pipeline
from bench.cam_seeds.quality import kept_quality, measure, spread_counts
from bench.display import Display
from bench.errors import DataError
from bench.ops import cam
from bench.pipeline import make_seeds
from bench.plan import SeedPlan, plan
from bench.records.logs import read_metrics
from bench.settings.schema import RunConfig
from datasets import loaders, splits
from datasets.folder import Folder
from datasets.tags import load_tags

ROOT = Path(__file__).resolve().parents[3]
Config = Callable[..., RunConfig]
QUICK = ("cam_seeds.refine=none", "cam_seeds.scales=[1.0]", "cam_seeds.protocol.steps=2", "protocol.steps=4")


def weak(tiny_config: Config, *sets: str) -> RunConfig:
    return tiny_config("supervised", *QUICK, *sets, split="tags")


def seeds_of(config: RunConfig) -> SeedPlan:
    found = plan(config).seeds
    assert found is not None
    return found


def with_masks(planned: SeedPlan, data: Folder) -> None:
    """Put the masks in the place of the seeds."""
    for id in data.ids("train"):
        path = planned.folder.seed(id)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(data.root / "labels" / f"{id}.png", path)


# Tags alone -------------------------------------------------------------------------------------------------


def test_spread_counts_by_hand() -> None:
    mask = np.array([[0, 0, 0, 2], [1, 255, 255, 2]], np.uint8)
    assert spread_counts(mask, [0, 2], 3).tolist() == [[1.5, 0, 1.5, 0], [0.5, 0, 0.5, 0], [1, 0, 1, 0]]
    assert spread_counts(mask, [], 3).tolist() == [[0, 0, 0, 3], [0, 0, 0, 1], [0, 0, 0, 2]]
    assert spread_counts(mask, [1], 3).tolist() == [[0, 3, 0, 0], [0, 1, 0, 0], [0, 2, 0, 0]]


def test_spread_counts_are_the_mean_of_random_seeds() -> None:
    rng = np.random.default_rng(0)
    mask = rng.choice([0, 1, 2, 255], (20, 30)).astype(np.uint8)
    drawn = [rng.choice([0, 2, 3], mask.shape) for _ in range(400)]
    label = torch.from_numpy(mask)
    counts = torch.stack([cam.seed_counts(torch.from_numpy(one), label, 4) for one in drawn])
    torch.testing.assert_close(
        spread_counts(mask, [0, 2, 3], 4), counts.double().mean(0), atol=1.5, rtol=0
    )  # a cell of 50 has a standard deviation of 5.8, its mean over 400 one of .3


def test_shuffled_tags_are_worth_less(tiny_set: Folder, tiny_config: Config) -> None:
    split = plan(weak(tiny_config)).split

    def worth(shuffled_by: int | None) -> float:
        table = load_tags(tiny_set, split, shuffled_by)
        return float(
            cam.quality(sum(spread_counts(tiny_set.mask(id), tags, 3) for id, tags in table.items())).miou
        )

    given = worth(None)
    assert all(worth(seed) < given for seed in range(5))


# Measured ---------------------------------------------------------------------------------------------------


def test_masks_as_seeds_are_perfect(tiny_config: Config, tiny_set: Folder) -> None:
    planned = seeds_of(weak(tiny_config))
    make_seeds(planned, Display())
    with_masks(planned, tiny_set)
    quality = measure(planned, Display())
    assert quality.miou == quality.miou_decided == quality.coverage == 1 and quality.iou == [1, 1, 1]
    assert quality.precision == quality.recall == quality.class_coverage == [1, 1, 1]
    assert np.trace(np.array(quality.counts)[:, :3]) == np.sum(quality.counts) == 16 * 39 * 40


@pytest.mark.slow
def test_a_run_on_masks_as_seeds_is_the_fully_supervised_one(
    tiny_config: Config, tiny_set: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, once the streams of masks and of seeds have changed their names: each draws its own."""
    config, full = weak(tiny_config), tiny_config("supervised", "protocol.steps=4", split="full")
    make_seeds(seeds_of(config), Display())
    with_masks(seeds_of(config), tiny_set)
    monkeypatch.setattr("bench.pipeline.make_seeds", lambda *_: None)  # it would make the seeds again
    expected = pipeline.run(plan(full), Display())
    for module in (splits, loaders):
        monkeypatch.setattr(module, "MASKS", "seeds")
        monkeypatch.setattr(module, "SEEDS", "pixel")
    assert pipeline.run(plan(config), Display()).predictor == expected.predictor
    losses, same = (
        [line["loss"] for line in read_metrics(plan(one).folder.metrics)] for one in (config, full)
    )
    assert losses == same and len(set(losses)) == 4


def test_the_answer_is_kept_and_is_that_of_the_seeds(tiny_config: Config, tiny_set: Folder) -> None:
    planned = seeds_of(weak(tiny_config))
    with pytest.raises(DataError, match=r"holds no finished CAM seeds; make them with `cam-seeds`"):
        measure(planned, Display())
    report = make_seeds(planned, Display())
    assert planned.folder.read_quality() is None
    quality = measure(planned, Display())
    assert planned.folder.read_quality() == quality and quality.images == 16
    counts = torch.tensor(quality.counts)
    assert quality.miou == pytest.approx(float(cam.quality(counts).miou))
    assert counts.sum(1).tolist() == [
        sum((tiny_set.mask(id) == c).sum() for id in tiny_set.ids("train")) for c in range(3)
    ]
    assert quality.coverage == pytest.approx(report.decided, abs=0.05)
    recalls = [point.recall for point in quality.curve]
    assert len(recalls) == 100 and quality.curve[30].threshold == pytest.approx(0.3)


class Quiet(Display):
    def __init__(self) -> None:
        super().__init__()
        self.said = list[str]()

    def say(self, text: str) -> None:
        self.said.append(text)

    def start(self, name: str, total: int, done: int = 0) -> None: ...

    def update(self, done: int, figures: object = None) -> None: ...


def test_the_answer_is_that_of_the_masks_that_are_here(
    tiny_config: Config, tiny_root: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(tiny_root, tmp_path / "data"))
    planned = seeds_of(weak(tiny_config, f"machine.data_root={root}"))
    make_seeds(planned, Display())
    display = Quiet()
    said = display.said
    before = kept_quality(planned, display)
    assert kept_quality(planned, display) == before and not said
    masks = sorted((root / "tinyset" / "labels").glob("train_*.png"))
    shutil.copy(masks[0], masks[1])
    mended = kept_quality(planned, display)
    assert mended.counts != before.counts and planned.folder.read_quality() == mended
    assert said == ["measured again: the masks, the classes or the seeds have changed since"]
    old = mended.model_copy(update={"of": None})
    planned.folder.quality.write_text(old.model_dump_json())
    assert kept_quality(planned, display) == old and "from before digests" in said[1]
    masks[1].unlink()
    planned.folder.quality.write_bytes(mended.to_bytes())
    with pytest.raises(DataError, match=rf"{masks[1].name} .*does not exist"):
        kept_quality(planned, display)


def test_quality_of_seeds_that_decide_nothing_can_be_read_again(
    tiny_config: Config, tiny_root: Path, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    shutil.copytree(tiny_root, root)
    (root / "tinyset" / "classes.txt").write_text("ground\nsquare\nstripe\n")
    config = weak(tiny_config, "cam_seeds.minimum=0.999999", f"machine.data_root={root}")
    planned = seeds_of(config)
    assert make_seeds(planned, Display()).decided == 0
    quality = measure(planned, Display())
    assert (quality.miou, quality.miou_decided, quality.coverage) == (0, 0, 0)
    assert planned.folder.read_quality() == quality


@pytest.mark.slow
def test_no_run_reads_the_answer(tiny_config: Config) -> None:
    """Nothing that trains or scores a run, and not what makes the seeds."""
    rooms = ("training", "scoring", "sweeps", "settings", "networks")
    files = [file for room in rooms for file in sorted((ROOT / "bench").glob(f"{room}/*.py"))]
    files += [ROOT / "bench" / name for name in ("pipeline.py", "plan.py")]
    files += [ROOT / "bench" / "cam_seeds" / f"{name}.py" for name in ("make", "refine", "thresholds")]
    assert len(files) > 20
    for file in files:
        tree = ast.parse(file.read_text())
        names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        names |= {
            alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names
        }
        assert not names & {"read_quality", "seed_quality", "SeedQuality", "measure"}, file
    config = weak(tiny_config)
    make_seeds(seeds_of(config), Display())
    folder = seeds_of(config).folder
    folder.quality.write_text(json.dumps({"not": "a quality"}))
    assert pipeline.run(plan(config), Display()).steps == 4
