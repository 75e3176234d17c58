"""Tables as data frames: the numbers of the CSV, with the groups told apart."""

from __future__ import annotations

from typing import Any

import pytest

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
