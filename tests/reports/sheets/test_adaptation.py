"""The gap between two domains that a method closes, by hand."""

from __future__ import annotations

from typing import Any

import pytest
from grouping import grouped

from reports.sheets.adaptation import adaptation


def runs(make: Any, method: str, split: str, scores: list[float]) -> list[Any]:
    granted = {"adapt": (300, 0, 60), "adapt+8": (308, 0, 52), "target_full": (60, 0, 0)}[split]
    images = dict(zip(("pixel", "tags", "none"), granted, strict=True)) | {"eval": 62}
    return [make(of, method=method, split=split, seed=seed, images=images) for seed, of in enumerate(scores)]


@pytest.fixture
def ends(make: Any) -> list[Any]:
    """Source only .30 and .34, all masks of the target .50 and .54."""
    return [
        *runs(make, "supervised", "adapt", [0.30, 0.34]),
        *runs(make, "supervised", "target_full", [0.50, 0.54]),
    ]


def test_the_gap_by_hand(make: Any, ends: list[Any]) -> None:
    sheet = adaptation(grouped([*ends, *runs(make, "dacs", "adapt", [0.40, 0.44])]))
    assert sheet is not None
    (record,) = sheet.frame.to_dict("records")
    assert (record["method"], record["split"], record["runs"]) == ("dacs", "adapt", 2)
    assert record["gap_closed_percent"] == pytest.approx(50)
    assert sheet.lines[1] == ("dacs", "adapt (300)", "2", "42.0", "32.0", "52.0", "50")


def test_only_common_seeds_count(make: Any, ends: list[Any]) -> None:
    sheet = adaptation(grouped([*ends, *runs(make, "dacs", "adapt", [0.35])]))
    assert sheet is not None
    assert sheet.lines[1][2:] == ("1", "35.0", "30.0", "50.0", "25")


def test_masks_of_the_target_beside_the_source_and_a_method_that_does_harm(
    make: Any, ends: list[Any]
) -> None:
    more = [*runs(make, "supervised", "adapt+8", [0.42, 0.46]), *runs(make, "u2pl", "adapt", [0.28, 0.32])]
    sheet = adaptation(grouped([*ends, *more]))
    assert sheet is not None
    gaps = {(line[0], line[1]): line[-1] for line in sheet.lines[1:]}
    assert gaps == {("u2pl", "adapt (300)"): "-10", ("supervised", "adapt+8 (308)"): "60"}


def test_a_source_that_is_as_good_leaves_no_gap(make: Any) -> None:
    even = [*runs(make, "supervised", "adapt", [0.5]), *runs(make, "supervised", "target_full", [0.5])]
    sheet = adaptation(grouped([*even, *runs(make, "dacs", "adapt", [0.4])]))
    assert sheet is not None and sheet.lines[1][-1] == "no gap"


@pytest.mark.parametrize("without", ["adapt", "target_full"])
def test_nothing_is_said_where_an_end_is_missing(make: Any, ends: list[Any], without: str) -> None:
    left = [run for run in ends if run.split != without]
    assert adaptation(grouped([*left, *runs(make, "dacs", "adapt+8", [0.4])])) is None


def test_nothing_is_said_of_one_domain(make: Any) -> None:
    assert adaptation(grouped([make(0.4), make(0.5, method="u2pl")])) is None
