"""The tables of the README are those of the published records, and the records are sound."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench.ablations import sweeps_of
from bench.config import resolve
from bench.store import read_counts, read_result, read_results
from reports import ablation
from reports.tables import comparable, miou_table, to_markdown

ROOT = Path(__file__).resolve().parent.parent.parent
PUBLISHED = ROOT / "reports" / "published"
ABLATIONS = ROOT / "reports" / "ablations"  # runs with other knobs than the methods' own
RECORDS = sorted([*PUBLISHED.rglob("result.json"), *ABLATIONS.rglob("result.json")])


def test_the_readme_shows_the_published_tables() -> None:
    readme = (ROOT / "README.md").read_text()
    groups = comparable(read_results(PUBLISHED))
    assert groups
    for group in groups:
        assert to_markdown(miou_table(group)).strip() in readme


def test_the_readme_shows_the_ablations_that_are_complete() -> None:
    readme = (ROOT / "README.md").read_text()
    results = read_results(PUBLISHED, ABLATIONS)
    tables = [
        table
        for sweep in sweeps_of({result.method for result in results})
        for table in ablation.ablation_tables(results, sweep, fewest=len(sweep.variants))
    ]
    assert tables
    for table in tables:
        assert ablation.to_markdown(table).strip() in readme


@pytest.mark.parametrize(
    "path", sorted(PUBLISHED.rglob("result.json")), ids=lambda path: "-".join(path.parts[-6:-1])
)
def test_the_readme_s_command_has_the_settings_of_the_record(path: Path) -> None:
    """A default that moves would leave the tables to settings that no plain command gives any more."""
    result = read_result(path)
    asked = {"dataset": result.dataset, "split": result.split, "method": {"name": result.method}}
    config = resolve(asked, None, [f"protocol.steps={result.steps}"])
    assert config.method == result.config["method"]
    seeds = config.cam_seeds
    assert seeds is not None
    # The classifier of CAM seeds has a protocol of its own.
    protocol = seeds.protocol if result.protocol == seeds.protocol.name else config.protocol
    assert protocol.hash == result.protocol_hash


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: "-".join(path.parts[-6:-1]))
def test_a_record_agrees_with_its_counts_and_says_how_it_was_made(path: Path) -> None:
    result = read_result(path)
    counts = read_counts(path.parent / "counts.npz")
    for name, score in (("predictor", result.predictor), ("student", result.student)):
        pooled = counts[name].sum(0)
        union = pooled.sum(0) + pooled.sum(1) - np.diag(pooled)
        iou = np.diag(pooled)[union > 0] / union[union > 0]
        assert score.miou == pytest.approx(iou.mean())
    assert len(counts["ids"]) == result.images["eval"]
    for start in json.loads((path.parent / "provenance.json").read_text()):
        assert start["git"]["commit"] and not start["git"]["dirty"]
    assert path.parent.name == f"{result.seed}-{result.run_id}"
