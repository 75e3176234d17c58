"""No cell mixes two states of the data, and what is not known of old records is said once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.errors import DataError
from bench.records.schema import Contents
from reports.contents import before_digests
from reports.groups import Group, Run, comparable


def made_of(masks: str = "m", scored: str = "s", code: str = "c", **more: Any) -> Contents:
    fields = {"images": "i", "classes": "k", "tags": None}
    return Contents(code={"methods": code}, masks=masks, scored=scored, **(fields | more))


def groups(*results: Any) -> list[Group]:
    return comparable({Path(f"run{i}"): result for i, result in enumerate(results)})


def test_seeds_of_two_states_of_the_masks_are_two_rows_and_a_warning(make: Any) -> None:
    (group,) = groups(
        make(0.2, contents=made_of("old")),
        make(0.6, seed=1, contents=made_of("new")),
        make(0.7, seed=2, contents=made_of("new")),
        make(0.5, split="full", contents=made_of("more")),
    )
    assert sorted(cell.n for row in group.rows for cell in row.cells if cell) == [1, 1, 2]
    apart = [row.label for row in group.rows if "[data " in row.label]
    assert len(apart) == 2 and len(group.warnings) >= 2
    assert all(any(label in said for said in group.warnings) for label in apart)


def test_two_splits_or_two_methods_are_no_two_states(make: Any) -> None:
    (group,) = groups(
        make(0.2, contents=made_of("few")),
        make(0.6, split="full", contents=made_of("all")),
        make(0.6, method="fixmatch", contents=made_of("few", images="more")),
    )
    assert [row.label for row in group.rows] == ["supervised", "fixmatch"]


def test_methods_that_learned_from_other_masks_are_warned_of(make: Any) -> None:
    (group,) = groups(
        make(0.2, contents=made_of("old")),
        make(0.6, method="fixmatch", contents=made_of("new", images="more")),
    )
    assert group.warnings == ("the rows on 1_8 learned from several states of its masks",)


def test_one_run_on_two_states_of_the_data_is_two_runs(make: Any) -> None:
    (group,) = groups(make(0.2, contents=made_of("old")), make(0.6, contents=made_of("new")))
    assert len(group.rows) == 2


def test_what_a_seed_draws_is_no_other_state(make: Any) -> None:
    shuffled = {"config": {"method": {}, "tags": "shuffled"}}
    (group,) = groups(
        make(0.2, contents=made_of(tags="a"), **shuffled),
        make(0.3, seed=1, contents=made_of(tags="b"), **shuffled),
    )
    assert [row.cells[0].n for row in group.rows if row.cells[0]] == [2]
    heldout = {"config": {"method": {}, "cam_seeds": {"policy": "heldout"}}}
    (group,) = groups(
        make(0.2, contents=made_of("a"), **heldout), make(0.3, seed=1, contents=made_of("b"), **heldout)
    )
    assert len(group.rows) == 1


def test_runs_that_were_scored_on_other_masks_stand_in_no_table(make: Any) -> None:
    results = [make(0.2, contents=made_of(scored="old")), make(0.6, seed=1, contents=made_of(scored="new"))]
    assert len(groups(*results)) == 2
    with pytest.raises(DataError, match="scored on the same images and masks"):
        Group(Run(Path(str(i)), result) for i, result in enumerate(results))


def test_old_records_stand_with_the_others_and_are_counted(make: Any) -> None:
    results = [make(0.2), make(0.6, seed=1, contents=made_of())]
    (group,) = groups(*results)
    assert [row.cells[0].n for row in group.rows if row.cells[0]] == [2]
    (said,) = before_digests(results)
    assert said.startswith("1 of 2 runs")
    assert before_digests(results[1:]) == []


def test_several_states_of_the_code_share_a_row_and_are_counted(make: Any) -> None:
    (group,) = groups(*(make(0.2, seed=k, contents=made_of(code=str(k))) for k in range(3)))
    (note,) = group.notes
    assert len(group.rows) == 1 and "supervised on 1_8 (3)" in note


def test_a_run_that_went_on_over_a_change_is_named(make: Any) -> None:
    (group,) = groups(make(0.2, contents=made_of(anyway=["the room bench/ops"])))
    assert "--anyway): supervised on 1_8" in group.notes[0]


def test_a_class_that_no_scored_mask_holds_stands_above_the_tables(make: Any) -> None:
    (group,) = groups(make(0.2, classes_averaged=2), make(0.3, seed=1, classes_averaged=2))
    (said,) = group.warnings
    assert "no scored mask holds car" in said
    (group,) = groups(make(0.2, classes_averaged=2), make(0.3, seed=1))
    assert "(2, 3)" in group.warnings[1]
    (group,) = groups(make(0.2), make(0.3, seed=1))
    assert group.warnings == ()
