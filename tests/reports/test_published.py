"""The tables of the READMEs are those of the published records, and the records are sound."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from bench.commands.results import READMES
from bench.records.folders import RunFolder
from bench.records.index import find_results, find_unfinished, records_file
from bench.records.logs import read_counts
from bench.records.schema import Result
from bench.settings.resolve import resolve
from reports.publish import refresh
from reports.report import write_report

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT / "reports" / "published"
ABLATIONS = ROOT / "reports" / "ablations"  # runs with other knobs than the methods' own
RECORDS = find_results(PUBLISHED, ABLATIONS)


def labelled(root: Path) -> list[object]:
    """A parameter for each record below the root."""
    return [
        pytest.param(path, result, id="-".join(path.parts[-5:]))
        for path, result in RECORDS.items()
        if path.is_relative_to(root)
    ]


def test_the_readmes_and_the_picture_show_the_records_and_leave_no_table_out() -> None:
    """Stale? `python -m bench publish` writes them anew."""
    assert refresh([ROOT / file for file in READMES], PUBLISHED, check=True).unplaced == ()


@pytest.mark.slow
def test_the_page_of_the_records_is_small(tmp_path: Path) -> None:
    """It holds all its pictures, and may grow with the runs. Of one data set: of all it takes a minute."""
    records = records_file(PUBLISHED, "camvid")
    runs = len(find_results(records))
    write_report([records], tmp_path)
    assert (tmp_path / "index.html").stat().st_size < 40_000 * runs


def test_the_records_of_a_data_set_are_one_file_each_and_nothing_lies_about() -> None:
    for root in (PUBLISHED, ABLATIONS):
        datasets = {result.dataset for path, result in RECORDS.items() if path.is_relative_to(root)}
        assert {path.name for path in root.iterdir() if path.is_file()} == {
            records_file(root, dataset).name for dataset in datasets
        }
        assert not list(root.rglob(RunFolder(root).result.name))
    assert not find_unfinished(RECORDS, PUBLISHED, ABLATIONS)


@pytest.mark.parametrize(("path", "result"), labelled(PUBLISHED))
def test_a_record_s_settings_are_read_as_what_they_were(path: Path, result: Result, tmp_path: Path) -> None:
    """A default that moves must not move a record: its own settings give its own protocol again."""
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(result.config))
    config = resolve({}, file)
    seeds = config.cam_seeds
    # The classifier of CAM seeds has a protocol of its own.
    protocol = seeds.protocol if seeds and result.protocol == seeds.protocol.name else config.protocol
    assert protocol.hash == result.protocol_hash
    assert result.config["method"].items() <= config.method.items()  # a later version may have more knobs


def test_a_plain_command_gives_the_settings_of_the_records_of_today_s_protocol() -> None:
    """Else the tables of that protocol would be of settings that no plain command gives any more."""
    for result in RECORDS.values():
        asked = {"dataset": result.dataset, "split": result.split, "method": {"name": result.method}}
        config = resolve(asked)
        if config.protocol.hash == result.protocol_hash:
            assert config.method == result.config["method"], result.run_id


@pytest.mark.parametrize(("path", "result"), labelled(ROOT))
def test_a_record_agrees_with_its_counts_and_says_how_it_was_made(path: Path, result: Result) -> None:
    folder = RunFolder(path)
    counts = read_counts(folder.counts)
    for name, score in (("predictor", result.predictor), ("student", result.student)):
        pooled = counts[name].sum(0)
        union = pooled.sum(0) + pooled.sum(1) - np.diag(pooled)
        iou = np.diag(pooled)[union > 0] / union[union > 0]
        assert score.miou == pytest.approx(iou.mean())
    assert len(counts["ids"]) == result.images["eval"]
    starts = folder.read_provenance()
    assert starts
    for start in starts:
        assert start["git"]["commit"] and not start["git"]["dirty"]
        assert "/" not in start["command"], "a place of one machine"
