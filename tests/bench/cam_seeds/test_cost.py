"""What the CAM seeds took is part of what a weak run took: the classifier's training, the maps, the rest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import pipeline
from bench.display import Display
from bench.plan import plan
from bench.records.ledger import Ledger
from bench.settings.schema import RunConfig

Config = Callable[..., RunConfig]
QUICK = ("cam_seeds.refine=none", "cam_seeds.scales=[1.0]", "cam_seeds.protocol.steps=2", "protocol.steps=2")


@pytest.mark.slow
def test_a_weak_run_records_the_cost_of_its_seeds(tiny_config: Config) -> None:
    planned = plan(tiny_config("supervised", *QUICK, split="tags"))
    result = pipeline.run(planned, Display())
    assert planned.seeds is not None
    classifier, report = planned.seeds.classifier.folder.read_result(), planned.seeds.folder.read_report()
    cost = result.seed_cost
    assert cost is not None and classifier is not None and report is not None
    assert cost.classifier_seconds == classifier.train_seconds > 0
    assert cost.classifier_peak_memory_mib == classifier.peak_memory_mib > 0
    assert (cost.map_seconds, cost.map_peak_memory_mib) == (report.map_seconds, report.map_peak_memory_mib)
    assert cost.map_seconds > 0 and cost.map_peak_memory_mib and cost.refine_core_seconds > 0
    assert result.whole_seconds == result.train_seconds + cost.classifier_seconds + cost.map_seconds
    assert "seed_cost" in json.loads(planned.folder.result.read_text())


def test_a_run_on_masks_has_none(tiny_config: Config) -> None:
    planned = plan(tiny_config("supervised", "protocol.steps=2"))
    result = pipeline.run(planned, Display())
    assert result.seed_cost is None and result.whole_seconds == result.train_seconds
    assert "seed_cost" not in json.loads(planned.folder.result.read_text())


def test_maps_that_were_there_count_all_the_same(tiny_config: Config) -> None:
    """Other thresholds take the maps of the first seeds; a map that is made again counts once."""
    first = plan(tiny_config("supervised", *QUICK, split="tags")).seeds
    other = plan(tiny_config("supervised", *QUICK, "cam_seeds.strict=0.4", split="tags")).seeds
    assert first is not None and other is not None and first.folder.map_ledger == other.folder.map_ledger
    seconds = pipeline.make_seeds(first, Display()).map_seconds
    report = pipeline.make_seeds(other, Display())
    assert report.map_seconds == seconds > 0 and report.map_peak_memory_mib is None
    id = first.classifier.split.tags[0]
    first.folder.map(id).unlink()
    first.folder.report.unlink()
    again = pipeline.make_seeds(first, Display()).map_seconds
    ids = first.classifier.split.tags
    assert again == Ledger(first.folder.map_ledger).seconds(ids) != seconds


def test_a_ledger_keeps_what_the_newest_of_each_file_took(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.add("a", "12", "x", 1.5)
    ledger.add("b", "34", "x")
    ledger.add("a", "56", "x", 2.0)
    for read in (ledger, Ledger(ledger.path)):
        assert read.seconds(["a", "b", "c"]) == 2.0 and read.seconds([]) == 0
