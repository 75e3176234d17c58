"""The regression gate: what it passes, what it does not, and what an update writes. On records made by hand,
but for runs with a planted fault."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from commandline import Typed
from gate_records import MIOUS, record, three

from bench.errors import ConfigError, DataError, Regression
from bench.gate.baselines import Baselines, read_baselines, updated, write_baselines
from bench.gate.runs import figures_of, find_groups
from bench.gate.tolerant import compare
from bench.gate.verdict import Rule, VerdictRow, judge
from bench.records.atomic import folder_claimed
from bench.records.folders import RunFolder
from bench.records.schema import Contents

CHECKOUT = Path(__file__).resolve().parents[2]
SCATTER = (-0.01, 0.0, 0.01)  # of the differences of three seeds: their spread is 0.01
# Student's t with two degrees of freedom for five percent, two-sided, shared by two figures.
TOLERANCE = 6.205 * 0.01 / math.sqrt(3)


@pytest.fixture
def old(tmp_path: Path) -> Baselines:
    return updated(None, find_groups([three(tmp_path / "old")]), "first")


def rows_of(old: Baselines, root: Path) -> list[VerdictRow]:
    return compare(old, find_groups([root]))


def scattered(root: Path, shift: float = 0.0, **changes: Any) -> Path:
    """The three runs, shifted, each by a little more or less."""
    for seed, miou in enumerate(MIOUS):
        record(root, seed, miou + shift + SCATTER[seed], **changes)
    return root


def verdicts(rows: list[VerdictRow]) -> list[tuple[str, str]]:
    return [(row.figure, row.verdict) for row in rows]


# The figures of a run


def test_a_run_is_its_scores_and_the_notes_of_its_second_half(tmp_path: Path) -> None:
    path = record(tmp_path, miou=0.5, student=0.4)
    (group,) = find_groups([tmp_path]).values()
    assert group.runs[0].figures == pytest.approx(
        {"miou": 0.5, "student": 0.4, "lead": 0.1, "note.fill": 0.5}, abs=1e-6
    )
    folder = RunFolder(path)
    result = folder.read_result()
    assert result is not None
    folder.metrics.write_text('{"step": 4, "a": NaN, "b": [1, null, NaN, 2], "c": "x", "d": true}\n')
    assert figures_of(result, folder).keys() == {"miou", "student", "lead", "note.b", "note.d"}
    assert figures_of(result, folder)["note.b"] == 3
    folder.metrics.unlink()
    assert figures_of(result, folder).keys() == {"miou", "student", "lead"}


def test_the_key_holds_all_that_must_be_equal(tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"steps": 5},
        {"protocol_hash": "feedbeef"},
        {"split_digests": {"pixel": "z", "eval": "y"}},
        {"split": "full"},
        {"weights_digest": "w"},
        {"config": {"method": {"name": "u2pl", "alpha": 0.3}}},
        {"config": {"method": {"name": "u2pl", "alpha": 0.2}, "tags": "shuffled"}},
        {"config": {"method": {"name": "u2pl", "alpha": 0.2}, "cam_seeds": {"refine": "par"}}},
        {"config": {"method": {"name": "u2pl", "alpha": 0.2}, "cam_seeds": {"refine": "crf"}}},
    ]
    for number, change in enumerate(changes):
        record(tmp_path, run_id=f"{number:08x}", **change)
    record(tmp_path, seed=1, run_id="ffffffff")  # another seed of the first
    assert len(find_groups([tmp_path])) == len(changes)


def test_a_run_found_twice_counts_once_and_two_scores_are_refused(tmp_path: Path) -> None:
    record(tmp_path / "a")
    record(tmp_path / "b")
    (group,) = find_groups([tmp_path]).values()
    assert list(group.runs) == [0]
    record(tmp_path / "b", miou=0.6, run_id="89abcdef")
    with pytest.raises(DataError, match="both u2pl on tinyset few, 4 steps, seed 0, with different figures"):
        find_groups([tmp_path])


def test_folders_without_a_finished_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no finished run in"):
        find_groups([tmp_path])


# The tolerance


def tolerance_of(root: Path, figure: str, *runs: dict[str, Any]) -> float | None:
    """Of a figure that has the same value in every seed, in a check with three times its value."""
    for seed in range(3):
        record(root / "old", seed, **runs[0])
        record(root / "new", seed, **runs[1])
    old = updated(None, find_groups([root / "old"]), "first", allow_weak=True)
    (row,) = [row for row in rows_of(old, root / "new") if row.figure == figure]
    return row.tolerance


def test_floors_are_relative_to_the_figure(tmp_path: Path) -> None:
    """Seeds that agree have no spread. A mIoU of six percent and one of sixty are judged alike."""
    for low in (0.06, 0.6):
        found = tolerance_of(tmp_path / str(low), "miou", {"miou": low}, {"miou": low * 1.1})
        assert found == pytest.approx(0.02 * low)
    lead = {"miou": 0.5, "student": 0.4}, {"miou": 0.5, "student": 0.2}
    assert tolerance_of(tmp_path / "lead", "lead", *lead) == pytest.approx(0.04 * 0.5)
    for name, value in (("up", 50.0), ("down", -50.0)):
        fills = ({"fill": [value]}, {"fill": [3 * value]})
        assert tolerance_of(tmp_path / name, "note.fill", *fills) == pytest.approx(12.5)
    assert tolerance_of(tmp_path / "zero", "note.fill", {"fill": [0]}, {"fill": [1]}) == 2.5e-4


def test_the_spread_is_pooled_over_baselines_in_shares_of_their_figures(
    old: Baselines, tmp_path: Path
) -> None:
    """A second method whose runs agree brings degrees of freedom; the spread of the first, which is larger
    than that of both, is its own."""
    new = scattered(tmp_path / "new")
    tenth = [{"method": "fixmatch", "run_id": "89abcdef", "miou": miou / 10} for miou in MIOUS]
    for seed, of in enumerate(tenth):
        record(tmp_path / "other", seed, **of)
        record(new, seed, **of)
    both = updated(old, find_groups([tmp_path / "other"]), "second")
    rows = rows_of(both, new)
    assert [row.verdict for row in rows] == ["ok", "ok"]
    # Four figures, four degrees of freedom; shared by both methods the spread is smaller by the root of two.
    assert rows[0].tolerance == pytest.approx(4.315 * 0.01 / math.sqrt(3), rel=1e-3)
    assert rows[1].tolerance == pytest.approx(4.315 * 0.001 / math.sqrt(6), rel=1e-3)


def test_the_more_figures_a_check_has_the_wider_are_its_bounds(old: Baselines, tmp_path: Path) -> None:
    """A check as a whole is to cry wolf one time in twenty, however much it compares."""
    groups = find_groups([scattered(tmp_path / "new")])
    widths = [compare(old, groups, family=m)[0].tolerance or 0 for m in (1, 2, 120)]
    assert widths == sorted(widths) and widths[1] == pytest.approx(TOLERANCE, rel=1e-3)
    three(tmp_path / "other", method="fixmatch", run_id="89abcdef")
    both = updated(old, find_groups([tmp_path / "other"]), "second")
    # Where a baseline has no runs, its figures are not compared.
    assert compare(both, groups)[0].tolerance == pytest.approx(TOLERANCE, rel=1e-3)


# Comparing


@pytest.mark.parametrize(
    ("shift", "verdict"),
    [
        (0.0, "ok"),
        (TOLERANCE - 0.001, "ok"),
        (0.001 - TOLERANCE, "ok"),
        (TOLERANCE + 0.001, "rise"),
        (-TOLERANCE - 0.001, "fall"),
    ],
)
def test_a_difference_of_means_is_judged_by_the_tolerance(
    old: Baselines, tmp_path: Path, shift: float, verdict: str
) -> None:
    (row,) = rows_of(old, scattered(tmp_path / "new", shift))
    assert (row.figure, row.verdict, row.seeds) == ("miou", verdict, (0, 1, 2))
    assert row.baseline == pytest.approx(0.52) and row.tolerance == pytest.approx(TOLERANCE, rel=1e-3)
    if verdict == "ok":
        judge([row], tmp_path, Rule())
    else:
        with pytest.raises(Regression, match=f"1 baselines of .* do not hold .1 {verdict}."):
            judge([row], tmp_path, Rule())


def test_seeds_may_move_against_each_other_where_the_mean_stays(old: Baselines, tmp_path: Path) -> None:
    for seed, miou in enumerate(reversed(MIOUS)):
        record(tmp_path / "new", seed, miou)
    assert verdicts(rows_of(old, tmp_path / "new")) == [("miou", "ok")]


def test_without_all_seeds_those_that_are_there_are_compared_with_their_own(
    old: Baselines, tmp_path: Path
) -> None:
    for shift, verdict in ((0.009, "ok"), (-0.011, "fall")):  # the floor is two percent
        record(tmp_path / verdict, 0, MIOUS[0] + shift)
        record(tmp_path / verdict, 2, MIOUS[2] + shift)
        rows = rows_of(old, tmp_path / verdict)
        assert [(row.seeds, row.verdict) for row in rows] == [((0, 2), verdict), ((1,), "missing")]
    assert rows[0].difference == pytest.approx(-0.011)
    with pytest.raises(Regression):  # before what is missing
        judge(rows, tmp_path, Rule())


def test_a_single_seed_is_judged_by_the_spread_of_the_baseline(old: Baselines, tmp_path: Path) -> None:
    wide = 6.205 * 0.005 * math.sqrt(2)
    for shift, verdict in ((0.001 - wide, "ok"), (-wide - 0.001, "fall")):
        record(tmp_path / verdict, 1, MIOUS[1] + shift)
        assert rows_of(old, tmp_path / verdict)[0].verdict == verdict


def test_missing_runs_are_an_error_unless_allowed(old: Baselines, tmp_path: Path) -> None:
    record(tmp_path / "new", 1, MIOUS[1])
    rows = rows_of(old, tmp_path / "new")
    with pytest.raises(DataError, match=r"lack runs: u2pl on tinyset few, 4 steps, seeds 0, 2, is the first"):
        judge(rows, tmp_path, Rule())
    judge(rows, tmp_path, Rule(allow_missing=True))


def test_runs_without_a_baseline_are_listed_and_alone_compare_nothing(old: Baselines, tmp_path: Path) -> None:
    record(tmp_path / "new", 7, 0.1)
    record(tmp_path / "new", 0, 0.1, steps=5, run_id="89abcdef")
    rows = rows_of(old, tmp_path / "new")
    assert sorted(row.verdict for row in rows) == ["missing", "no baseline", "no baseline"]
    with pytest.raises(DataError, match="nothing was compared"):
        judge(rows, tmp_path, Rule(allow_missing=True))
    rows = rows_of(old, three(tmp_path / "new"))
    assert [row.verdict for row in rows] == ["ok", "no baseline", "no baseline"]
    judge(rows, tmp_path, Rule())


def test_another_version_of_a_method_is_another_key_and_the_first_is_not_written(tmp_path: Path) -> None:
    """Baselines of before the field keep their keys and their bytes."""
    three(tmp_path / "one")
    three(tmp_path / "two", method_version=2)
    old, new = (find_groups([tmp_path / name]) for name in ("one", "two"))
    (one,), (two,) = old.values(), new.values()
    assert one.key.id != two.key.id and one.key.label == two.key.label
    assert "method_version" not in one.key.model_dump() and two.key.model_dump()["method_version"] == 2
    assert type(one.key).model_validate(one.key.model_dump()) == one.key
    baselines = updated(None, old, "first numbers", allow_dirty=False, prune=False)
    verdicts = {row.verdict for row in compare(baselines, new)}
    assert verdicts == {"missing", "no baseline"}
    (entry,) = updated(baselines, new, "version 2").entries
    assert entry.key == two.key, "it takes the place of the older version"


def test_a_baseline_that_does_not_say_its_classes_is_one_of_the_runs(tmp_path: Path) -> None:
    """As files of before the field are. From then on it says them, and other names are another key."""
    groups = find_groups([three(tmp_path / "a")])
    (entry,) = updated(None, groups, "first").entries
    assert entry.key.model_dump()["classes"]
    silent = entry.model_copy(update={"key": entry.key.model_copy(update={"classes": None})})
    assert "classes" not in silent.key.model_dump()
    old = Baselines(entries=[silent])
    assert verdicts(rows := compare(old, groups)) == [("miou", "ok")] and "[" not in rows[0].label
    assert updated(old, groups, "second").entries == [silent], "its numbers stay, and so does it"
    moved = find_groups([three(tmp_path / "moved", 0.1)])
    (entry,) = updated(old, moved, "third").entries
    assert entry.reason == "third" and entry.key.classes, "the same baseline, not a second one"
    three(tmp_path / "b", classes=["a", "c"])
    other = find_groups([tmp_path / "b"])
    assert {row.verdict for row in compare(Baselines(entries=[entry]), other)} == {"missing", "no baseline"}
    with pytest.raises(
        DataError,
        match=r"does not say its classes .* 2 kinds of them \(.*a.*, .*b",
    ):
        compare(old, find_groups([tmp_path / "a", tmp_path / "b"]))


def test_runs_scored_on_other_masks_are_of_another_key(tmp_path: Path) -> None:
    """As in tables. A fall of the mIoU there would be none of the code."""
    masks = {
        name: Contents(code={}, images="1", masks="2", scored=name, classes="4") for name in ("one", "two")
    }
    one, two = (find_groups([three(tmp_path / name, contents=of)]) for name, of in masks.items())
    silent = find_groups([three(tmp_path / "silent")])
    entries = updated(None, one, "first").entries
    assert verdicts(compare(Baselines(entries=entries), one)) == [("miou", "ok")]
    rows = compare(Baselines(entries=entries), two)
    assert {row.verdict for row in rows} == {"missing", "no baseline"} and all(
        "[" in row.label for row in rows
    )
    assert verdicts(compare(Baselines(entries=entries), silent)) == [("miou", "ok")], "of before digests"
    of_before = updated(None, silent, "first").entries
    assert "truth" not in of_before[0].key.model_dump()
    assert verdicts(compare(Baselines(entries=of_before), two)) == [("miou", "ok")]
    with pytest.raises(DataError, match="there are runs of 2 kinds of them"):
        compare(Baselines(entries=of_before), one | two)


def test_labels_tell_keys_of_one_name_apart(tmp_path: Path) -> None:
    three(tmp_path / "a")
    three(tmp_path / "a", protocol_hash="feedbeef", run_id="89abcdef")
    rows = rows_of(Baselines(entries=[]), tmp_path / "a")
    assert len({row.label for row in rows}) == 2 and all("[" in row.label for row in rows)


def test_a_loss_that_is_not_finite_for_a_while_is_a_difference(tmp_path: Path) -> None:
    """The mean over the other lines would be that of a sound run. Lines of the first half do not count."""
    old = updated(None, find_groups([three(tmp_path / "old", loss=(None, 2.0, 1.0, 1.0))]), "first")
    assert old.entries[0].figures["note.loss"].mean == 1.0
    assert verdicts(rows_of(old, three(tmp_path / "same", loss=(2.0, 2.0, 1.0, 1.0)))) == [("miou", "ok")]
    lost = three(tmp_path / "lost", loss=(2.0, 2.0, 1.0, None))
    assert verdicts(rows_of(old, lost)) == [("miou", "ok"), ("note.loss", "differs")]
    partly = three(tmp_path / "partly", loss=(2.0, 2.0, 1.0, 1.0))
    record(partly, 1, MIOUS[1], loss=(2.0, 2.0, None, 1.0))
    with pytest.raises(DataError, match="the loss of seed 1 is not finite"):
        updated(None, find_groups([partly]), "first")


def test_a_note_that_moves_is_a_difference_though_the_score_stays(old: Baselines, tmp_path: Path) -> None:
    assert verdicts(rows_of(old, three(tmp_path / "a", fill=(0.2, 0.42)))) == [("miou", "ok")]
    for name, fill in (("up", (0.2, 0.44)), ("zero", (0, 0)), ("gone", ())):
        rows = rows_of(old, three(tmp_path / name, fill=fill))
        assert verdicts(rows) == [("miou", "ok"), ("note.fill", "differs")], name
        with pytest.raises(Regression, match="1 differs"):
            judge(rows, tmp_path, Rule())


def test_student_and_lead_are_compared_too(tmp_path: Path) -> None:
    old = updated(None, find_groups([three(tmp_path / "old", student=0.45)]), "first")
    assert verdicts(rows_of(old, three(tmp_path / "a", student=0.45))) == [("miou", "ok"), ("student", "ok")]
    rows = rows_of(old, three(tmp_path / "b", student=0.38))
    assert verdicts(rows) == [("miou", "ok"), ("student", "fall"), ("lead", "differs")]
    rows = rows_of(old, three(tmp_path / "c"))  # the predictor is the student now
    assert verdicts(rows) == [("miou", "ok"), ("student", "differs"), ("lead", "differs")]


# Updating


def test_an_update_keeps_numbers_reason_and_provenance(old: Baselines) -> None:
    (entry,) = old.entries
    assert (entry.n, sorted(entry.seeds), entry.reason) == (3, [0, 1, 2], "first")
    assert [of["miou"] for of in entry.seeds.values()] == list(MIOUS)
    assert entry.provenance.model_dump() == {
        "commit": "c0ffee",
        "dirty": False,
        "date": "2026-01-03",
        "versions": {"python": "3.11.7", "torch": "2.15.0"},
        "cpu": ["a CPU"],
        "threads": [1],
        "command": ["bench run --config 0.yaml --set x=file --resume"],
    }


def test_an_update_needs_a_reason_clean_runs_of_one_commit_and_two_seeds(tmp_path: Path) -> None:
    groups = find_groups([three(tmp_path / "a")])
    with pytest.raises(ConfigError, match="needs --reason"):
        updated(None, groups, "  ")
    three(tmp_path / "dirty", dirty=True)
    three(tmp_path / "mixed")
    record(tmp_path / "mixed", 2, MIOUS[2], commit="decade")
    RunFolder(record(tmp_path / "none")).provenance.unlink()
    record(tmp_path / "none", 1)
    three(tmp_path / "unknown", commit=None)
    for name in ("dirty", "mixed", "none", "unknown"):
        groups = find_groups([tmp_path / name])
        with pytest.raises(ConfigError, match="not all made from one commit"):
            updated(None, groups, "why")
        (entry,) = updated(None, groups, "why", allow_dirty=True).entries
        assert entry.provenance.dirty
    record(tmp_path / "one")
    with pytest.raises(DataError, match="has one seed, 0"):
        updated(None, find_groups([tmp_path / "one"]), "why")


@pytest.mark.parametrize("text", ["{", "[1]", "3"])
def test_damaged_provenance_is_refused_by_name(tmp_path: Path, text: str) -> None:
    file = RunFolder(record(three(tmp_path))).provenance
    file.write_text(text)
    with pytest.raises(DataError) as caught:
        updated(None, find_groups([tmp_path]), "why")
    assert f"{file} is damaged" in str(caught.value)


@pytest.mark.parametrize(
    ("mious", "said"),
    [
        ((0.0599, 0.0506), "30 seeds would do"),  # two short runs
        (
            (0.50, 0.52, 0.54),
            "see no fall of the mIoU below 23 %, and it must see one of 10 %; 6 seeds would do",
        ),
        ((0.1, 0.9), "seeds would do"),
        ((0.0, 0.0), "at all, .*; no number of seeds would do"),
    ],
)
def test_an_update_refuses_a_baseline_that_sees_no_fall_of_a_tenth(
    tmp_path: Path, mious: tuple[float, ...], said: str
) -> None:
    for seed, miou in enumerate(mious):
        record(tmp_path, seed, miou)
    groups = find_groups([tmp_path])
    with pytest.raises(DataError, match=f"u2pl on tinyset few, 4 steps: .*{said}.*--allow-weak"):
        updated(None, groups, "why")
    weak = updated(None, groups, "why", allow_weak=True)
    assert updated(weak, groups, "again") == weak, "one whose numbers stay is not refused"


def test_as_many_seeds_as_the_refusal_asks_for_do(tmp_path: Path) -> None:
    for seed in range(6):
        record(
            tmp_path,
            seed,
            0.52 + 0.02 * math.sqrt(5 / 2) * (seed == 0) - 0.02 * math.sqrt(5 / 2) * (seed == 1),
        )
    updated(None, find_groups([tmp_path]), "why")


def test_an_update_keeps_what_the_runs_do_not_change(old: Baselines, tmp_path: Path) -> None:
    three(tmp_path / "new", method="fixmatch", run_id="89abcdef")
    both = updated(old, find_groups([tmp_path / "new"]), "second")
    assert [(entry.key.method, entry.reason) for entry in both.entries] == [
        ("u2pl", "first"),
        ("fixmatch", "second"),
    ]
    again = updated(both, find_groups([three(tmp_path / "again")]), "third")
    assert [entry.reason for entry in again.entries] == ["first", "second"]
    other = updated(both, find_groups([three(tmp_path / "again", 0.1)]), "third")
    assert [entry.reason for entry in other.entries] == ["third", "second"]
    pruned = updated(both, find_groups([tmp_path / "new"]), "fourth", prune=True)
    assert [entry.key.method for entry in pruned.entries] == ["fixmatch"]


def test_an_update_drops_no_seed_unawares(old: Baselines, tmp_path: Path) -> None:
    three(tmp_path / "new", 0.1)
    shutil.rmtree(next((tmp_path / "new").rglob("2-*")))
    fewer = find_groups([tmp_path / "new"])
    with pytest.raises(DataError, match="baseline has seeds 2 too.*--prune"):
        updated(old, fewer, "why")
    (entry,) = updated(old, fewer, "why", prune=True, allow_weak=True).entries
    assert sorted(entry.seeds) == [0, 1] and entry.n == 2


def test_clean_runs_take_the_place_of_dirty_ones_with_the_same_figures(tmp_path: Path) -> None:
    clean, dirty = (find_groups([three(tmp_path / str(d), dirty=d)]) for d in (False, True))
    first = updated(None, dirty, "first", allow_dirty=True)
    (entry,) = updated(first, clean, "second").entries
    assert not entry.provenance.dirty and entry.reason == "second"
    (kept,) = updated(updated(None, clean, "clean"), dirty, "third", allow_dirty=True).entries
    assert kept.reason == "clean"


def test_the_file_is_the_same_bytes_whatever_the_order(old: Baselines, tmp_path: Path) -> None:
    three(tmp_path / "new", method="fixmatch", run_id="89abcdef")
    both = updated(old, find_groups([tmp_path / "new"]), "second")
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    write_baselines(first, both)
    write_baselines(second, Baselines(entries=both.entries[::-1]))
    assert first.read_bytes() == second.read_bytes()
    assert first.read_text() == json.dumps(json.loads(first.read_text()), indent=1, sort_keys=True) + "\n"
    assert {entry.key.id: entry for entry in read_baselines(first).entries} == {
        entry.key.id: entry for entry in both.entries
    }
    write_baselines(second, read_baselines(first))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: "{", "not readable JSON"),
        (lambda data: "\ud800", "not readable JSON"),
        (lambda data: "[" * 100_000, "not readable JSON"),
        (lambda data: [], "holds no baselines"),
        (lambda data: {}, "holds no baselines"),
        (lambda data: {**data, "schema_version": 2}, "has schema version 2, and this version reads 1"),
        (lambda data: {**data, "more": 1}, "more: Extra inputs"),
        (lambda data: {**data, "entries": data["entries"] * 2}, "two baselines of u2pl on tinyset few"),
        (lambda data: _edited(data, n=2), "n is 2, but there are 3 seeds"),
        (lambda data: _edited(data, seeds={"0": {}, "1": {}, "2": {}}), "a figure is missing"),
        (lambda data: _edited(data, figures={}), "a figure is missing"),
        (lambda data: _spread(data, 0.9), "mean or spread of miou is not that of its seeds"),
        (lambda data: _spread(data, -1), "spread"),
        (lambda data: _spread(data, math.nan), "spread"),
        (lambda data: _edited(data, exact={"machine": [], "seeds": {"0": {}}}), "exact is of other seeds"),
    ],
)
def test_a_file_that_holds_no_baselines_is_refused_by_name(
    old: Baselines, tmp_path: Path, change: Callable[[Any], Any], words: str
) -> None:
    file = tmp_path / "baselines.json"
    write_baselines(file, old)
    read_baselines(file)
    changed = change(json.loads(file.read_text()))
    text = changed if isinstance(changed, str) else json.dumps(changed)
    file.write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(DataError) as caught:
        read_baselines(file)
    said = str(caught.value)
    assert str(file) in said and words in said and ("--update" in said or "remove one" in said)


def _edited(data: Any, **changes: Any) -> Any:
    return {**data, "entries": [{**entry, **changes} for entry in data["entries"]]}


def _spread(data: Any, value: float) -> Any:
    data["entries"][0]["figures"]["miou"]["spread"] = value
    return data


def test_a_file_of_before_is_read(old: Baselines, tmp_path: Path) -> None:
    """Without bits and classes, and with a tolerance for each figure, which is no longer used."""
    file = tmp_path / "baselines.json"
    write_baselines(file, old)
    data = json.loads(file.read_text())
    (entry,) = data["entries"]
    del entry["exact"], entry["key"]["classes"]
    for figure in entry["figures"].values():
        figure["tolerance"] = 0.3
    file.write_text(json.dumps(data))
    read = read_baselines(file)
    assert verdicts(rows_of(read, three(tmp_path / "new"))) == [("miou", "ok")]
    write_baselines(file, read)
    assert read_baselines(file) == read
    assert read_baselines(CHECKOUT / "tests/regression/baselines.json").family == 139


# The command line


@pytest.fixture
def check(typed: Typed, tmp_path: Path) -> Typed:
    """check(...): what `python -m bench check --baseline FILE ...` answers, in this process."""
    return partial(typed, "check", "--baseline", tmp_path / "baselines.json")


def test_the_command_makes_passes_and_fails(check: Typed, tmp_path: Path) -> None:
    file, first = tmp_path / "baselines.json", three(tmp_path / "first", student=0.45)
    code, _, error = check(first)
    assert code == 3 and str(file) in error and "--update --reason" in error
    code, _, error = check(first, "--update")
    assert code == 2 and "needs --reason" in error and not file.exists()
    for option in ("--allow-dirty", "--prune", "--allow-weak"):
        code, _, error = check(first, option)
        assert code == 2 and "belong to --update" in error
    code, out, error = check(first, "--update", "--reason", "the first")
    assert code == 0 and "1 of 1 baselines are new or changed" in out, error
    written = file.read_bytes()
    assert json.loads(written)["entries"][0]["reason"] == "the first"

    code, out, error = check(first)
    assert code == 0 and not error and out.count(" ok ") == 2 and "52.00" in out
    code, out, error = check(three(tmp_path / "fallen", -0.1, student=0.45))
    assert code == 4 and "-10.00" in out and " fall " in out and "do not hold" in error
    code, out, error = check(three(tmp_path / "risen", 0.1, student=0.45))
    assert code == 4 and " rise " in out and "check --update --reason" in error
    record(tmp_path / "part", 0, MIOUS[0], student=0.45)
    code, out, error = check(tmp_path / "part")
    assert code == 3 and " missing " in out and "lack runs" in error
    code, _, error = check(tmp_path / "part", "--allow-missing")
    assert code == 0, error
    three(tmp_path / "twice", student=0.45)
    record(tmp_path / "twice", 0, 0.1, run_id="89abcdef")
    code, _, error = check(tmp_path / "twice")
    assert code == 3 and "with different figures" in error
    assert file.read_bytes() == written

    code, out, _ = check(tmp_path / "risen", "--update", "--reason", "better")
    assert code == 0 and "1 of 1 baselines are new or changed" in out
    assert check(tmp_path / "risen")[0] == 0
    code, out, _ = check(tmp_path / "risen", "--update", "--reason", "the same")
    assert code == 0 and "0 of 1 baselines" in out
    for option in ("--exact", "--strict", "--json"):
        code, _, error = check(tmp_path / "risen", option, "--update", "--reason", "why")
        assert code == 2 and "about comparing" in error
    file.write_text("{")
    code, _, error = check(tmp_path / "risen", "--update", "--reason", "over it")
    assert code == 3 and str(file) in error and file.read_text() == "{"


def test_the_command_reports_to_machines_and_is_strict_and_exact(check: Typed, tmp_path: Path) -> None:
    first, junit = three(tmp_path / "first"), tmp_path / "junit.xml"
    assert check(first, "--update", "--reason", "the first")[0] == 0
    code, out, error = check(first, "--exact", "--strict", "--json", "--junit", junit)
    document = json.loads(out)
    assert code == 0 and not error and document["passed"] and document["weak"] == []
    assert [row["verdict"] for row in document["rows"]] == ["ok"] * 3
    assert 'tests="3" failures="0"' in junit.read_text()
    moved = three(tmp_path / "moved", 0.001)
    assert check(moved)[0] == 0
    code, out, error = check(moved, "--exact", "--json", "--junit", junit)
    document = json.loads(out)
    assert code == 4 and not document["passed"] and document["said"] in error.replace("error: ", "")
    assert {row["figure"] for row in document["rows"]} == {"miou", "bits.log"}
    assert "<failure" in junit.read_text()
    record(first, 7, 0.52)
    assert check(first)[0] == 0
    code, _, error = check(first, "--strict")
    assert code == 4 and "seeds 7, has no baseline" in error

    for seed, miou in enumerate((0.0599, 0.0506)):
        record(tmp_path / "short", seed, miou, method="short")
    code, _, error = check(tmp_path / "short", "--update", "--reason", "why")
    assert code == 3 and "seeds would do" in error and "--allow-weak" in error
    assert check(tmp_path / "short", "--update", "--allow-weak", "--reason", "why")[0] == 0
    code, out, _ = check(tmp_path / "short", "--allow-missing")
    assert code == 0 and "of 2 baselines have too few seeds to see a fall" in out


def test_of_two_updates_the_second_builds_on_the_first(check: Typed, tmp_path: Path) -> None:
    file = tmp_path / "baselines.json"
    first = updated(None, find_groups([three(tmp_path / "a", method="fixmatch", run_id="89abcdef")]), "first")
    second = three(tmp_path / "b")
    with ThreadPoolExecutor(1) as pool:
        with folder_claimed(file.parent):  # a lock of its own, as another process has
            waiting = pool.submit(check, second, "--update", "--reason", "second")
            with pytest.raises(TimeoutError):
                waiting.result(0.3)
            write_baselines(file, first)
        assert waiting.result(30)[0] == 0
    assert {entry.reason for entry in read_baselines(file).entries} == {"first", "second"}


def test_a_hostile_name_is_only_text_in_the_table(check: Typed, tmp_path: Path) -> None:
    name = "[bold]u2pl[/bold]\x1b[31m\u202e[/]"
    three(tmp_path / "runs", split="[/red]", fill=(0.2, 0.3), method=name)
    code, _, error = check(tmp_path / "runs", "--update", "--reason", "[/red]\x1b[31m")
    assert code == 0, error
    code, out, error = check(three(tmp_path / "runs", -0.2, split="[/red]", method=name))
    assert code == 4
    assert (
        "[bold]u2pl[/bold]" in out and "[/red]" in out and "\x1b" not in out + error and "\u202e" not in out
    )


def test_the_gate_needs_no_torch() -> None:
    code = "import sys, bench.gate; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, env=environment, check=True)
