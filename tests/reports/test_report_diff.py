"""What changed between two folders of runs, for a pull request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from browsing import store
from typer.testing import CliRunner

from bench.cli import app
from bench.errors import DataError
from reports.changes import changes


def two(make: Any, root: Path) -> tuple[Path, Path]:
    """u2pl loses 10, 11 and 12 points; supervised stays to the bit; fixmatch is new, cps is gone."""
    before = [make(0.4 + s / 100, seed=s) for s in range(3)]
    before += [make(0.6 + s / 100, seed=s, method="u2pl") for s in range(3)] + [make(0.5, method="cps")]
    now = [make(0.4 + s / 100, seed=s) for s in range(3)]
    now += [make(0.5, seed=s, method="u2pl") for s in range(3)] + [make(0.5, method="fixmatch")]
    store(root / "before", *before)
    store(root / "now", *now)
    return root / "now", root / "before"


def test_every_cell_of_both_is_compared_run_by_run(make: Any, tmp_path: Path) -> None:
    now, before = two(make, tmp_path)
    sheet = changes([now], [before])
    found = {line[0]: line[3:] for line in sheet.lines[1:]}
    # Differences -10, -11, -12: mean -11, standard error 1 / sqrt 3; t of 2 degrees at 0.975 is 4.303. What
    # is equal to the bit has no interval, so the family is one.
    assert found["u2pl"] == ("61.0 ± 1.0 (3)", "50.0 ± 0.0 (3)", "-11.0", "-13.5 to -8.5", "1.00", "3")
    assert found["supervised"][2:] == ("equal to the bit", "", "", "3")
    assert found["fixmatch"] == ("missing", "50.0 (1)", "new", "", "", "")
    assert found["cps"] == ("50.0 (1)", "missing", "no longer there", "", "", "")


def test_another_protocol_is_no_change_of_a_method(make: Any, tmp_path: Path) -> None:
    store(tmp_path / "before", make(0.4))
    store(tmp_path / "now", make(0.5, protocol_hash="1" * 16))
    said = [line[5] for line in changes([tmp_path / "now"], [tmp_path / "before"]).lines[1:]]
    assert sorted(said) == ["new", "no longer there"]


def test_data_sets_without_a_run_now_are_counted_and_one_protocol_has_two_names(
    make: Any, tmp_path: Path
) -> None:
    elsewhere = [make(0.4, dataset="streets", seed=seed) for seed in range(2)]
    store(tmp_path / "before", make(0.4), *elsewhere, make(0.4, dataset="streets", method="u2pl"))
    store(tmp_path / "now", make(0.5, protocol="of_mine"))
    sheet = changes([tmp_path / "now"], [tmp_path / "before"])
    (line,) = sheet.lines[1:]
    assert line[3:6] == ("40.0 (1)", "50.0 (1)", "+10.0")
    assert sheet.notes[-1] == "Not shown: 2 cells of data sets of which no run is here now."


def test_the_command_prints_markdown_or_json_and_writes_nothing(make: Any, tmp_path: Path) -> None:
    now, before = two(make, tmp_path)
    there = sorted(tmp_path.rglob("*"))
    arguments = ["report", str(now), "--diff", str(before), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0
    assert done.stdout.startswith("**mIoU (%), now and before**\n\n| method ") and "| -11.0 " in done.stdout
    done = CliRunner().invoke(app, [*arguments, "--json"])
    rows = json.loads(done.stdout)["rows"]
    assert {row["method"]: row["change_percent"] for row in rows}["u2pl"] == pytest.approx(-11)
    assert sorted(tmp_path.rglob("*")) == there


def test_a_folder_without_runs_is_refused(make: Any, tmp_path: Path) -> None:
    now, _ = two(make, tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no finished runs under .*empty; give a folder of runs"):
        changes([now], [tmp_path / "empty"])
