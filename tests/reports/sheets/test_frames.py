"""Tables as data frames: the numbers of the CSV, with the groups told apart."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas
import pytest

from bench.commands.sweep import _tables
from bench.records.folders import RunFolder
from reports.sheets.frames import frames


def test_frames_hold_the_numbers_of_the_tables(make: Any) -> None:
    runs = [make(m, seed=s, student=m - 0.1) for s, m in enumerate([0.40, 0.44])]
    runs += [make(m, seed=s, method="fixmatch") for s, m in enumerate([0.45, 0.47])]
    found = frames([*runs, runs[0], make(0.9, dataset="other")])
    assert list(found) == ["miou", "modules", "classes", "cost", "differences", "overall"]
    miou = found["miou"].set_index(["dataset", "method"])
    assert miou.loc[("camvid", "supervised"), ["mean_percent", "n"]].tolist() == [pytest.approx(42), 2]
    assert miou.loc[("other", "supervised"), "mean_percent"] == pytest.approx(90), "a row, not an average"
    difference, again = found["differences"].itertuples()
    assert (difference.method, difference.reference, difference.n) == ("fixmatch", "supervised", 2)
    assert difference.mean_percent == pytest.approx(4) and difference.low_percent == pytest.approx(
        -8.7062, abs=1e-3
    )
    assert (again.method, again.n) == ("supervised, A/A", 0)
    student = found["modules"].query("scored == 'student' and dataset == 'camvid' and method == 'supervised'")
    assert student["mean_percent"].tolist() == [pytest.approx(32)]
    assert found["classes"]["class"].unique().tolist() == ["road", "sky", "car"]


def test_a_hole_is_a_row_without_a_number(make: Any) -> None:
    miou = frames([make(0.4), make(0.5, method="fixmatch", split="full")])["miou"]
    holes = miou[miou["n"] == 0]
    assert sorted(zip(holes["method"], holes["split"], strict=True)) == [
        ("fixmatch", "1_8"),
        ("supervised", "full"),
    ]
    assert holes["mean_percent"].isna().all()
    assert "differences" in frames([make(0.4), make(0.5, method="b")], baseline="b")
    assert "differences" not in frames([make(0.4)])


def two_kinds(make: Any) -> list[Any]:
    """Two seeds of supervised and of a method, on masks and on tags."""
    return [
        make(at + seed * step, method=of, split=split, seed=seed)
        for split, method in (("1_8", "fixmatch"), ("tags", "u2pl_weak"))
        for of, at, step in (("supervised", 0.40, 0.01), (method, 0.50, 0.02))
        for seed in (0, 1)
    ]


def test_kinds_of_labels_are_not_compared(make: Any) -> None:
    """As in the report: an interval holds for its own table, and no mean is over masks and tags."""
    runs = two_kinds(make)
    both = frames(runs)
    for split, method in (("1_8", "fixmatch"), ("tags", "u2pl_weak")):
        alone = frames([run for run in runs if run.split == split])
        for name in ("differences", "overall"):
            own = both[name][both[name]["method"] == method].reset_index(drop=True)
            expected = alone[name][alone[name]["method"] == method].reset_index(drop=True)
            pandas.testing.assert_frame_equal(own, expected, check_dtype=False)
        assert set(both["miou"].query("split == @split")["method"]) == {"supervised", method}


def test_a_sweep_shows_each_kind_of_labels_alone_and_how_sure_it_is(make: Any, tmp_path: Path) -> None:
    def shown(runs: list[Any]) -> list[str]:
        cells: list[Any] = [
            SimpleNamespace(folder=RunFolder(tmp_path / str(place)), result=result)
            for place, result in enumerate(runs)
        ]
        return [sheet.name.partition("-")[0] for sheet in _tables(cells, None)]

    runs = two_kinds(make)
    assert shown(runs) == ["miou", "differences"] * 2
    assert shown(runs[:4]) == ["miou", "differences"]
    assert shown(runs[:1] + runs[2:3]) == ["miou"], "one run a cell has no interval"
    assert shown(runs[:2]) == ["miou"], "nothing is compared"
