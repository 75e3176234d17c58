"""The exact mode of the regression gate, what --strict adds, and the reports for machines."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from gate_records import MIOUS, record, three

from bench.display import Display
from bench.errors import DataError, Regression
from bench.gate import exact, tolerant
from bench.gate.baselines import Baselines, updated
from bench.gate.runs import GateRun, figures_of, find_groups
from bench.gate.statistics import bound, seeds_needed, smallest_effect
from bench.gate.verdict import Rule, VerdictRow, judge, write_junit
from bench.pipeline import run
from bench.plan import plan
from bench.records.folders import RunFolder
from bench.settings import schema
from bench.settings.schema import RunConfig


def with_bits(root: Path, value: int = 0, **changes: Any) -> Path:
    """Three runs with weights and counts, all of `value`."""
    for seed, miou in enumerate(MIOUS):
        folder = RunFolder(record(root, seed, miou, **changes))
        folder.weights.write_bytes(bytes([value]))
        folder.write_counts(["a"], {"predictor": np.full((1, 2, 2), value)})
    return root


def baseline_of(root: Path) -> Baselines:
    return updated(None, find_groups([root]), "first", allow_weak=True)


def moved(old: Baselines, root: Path) -> list[tuple[str, str]]:
    rows = exact.compare(old, find_groups([root]))
    return [(row.figure, row.verdict) for row in rows if row.verdict != "ok"]


# Against a file of baselines


def test_the_same_bits_pass_and_any_other_bit_does_not(tmp_path: Path) -> None:
    old = baseline_of(with_bits(tmp_path / "old"))
    rows = exact.compare(old, find_groups([with_bits(tmp_path / "new")]))
    assert [(row.figure, row.verdict, row.tolerance) for row in rows] == [("miou", "ok", 0.0)] * 3
    judge(rows, tmp_path, Rule())
    changed = with_bits(tmp_path / "changed")
    RunFolder(next(changed.rglob("1-*"))).weights.write_bytes(b"\1")
    assert moved(old, changed) == [("bits.weights", "differs")]
    with pytest.raises(Regression, match="1 differs"):
        judge(exact.compare(old, find_groups([changed])), tmp_path, Rule())
    assert set(moved(old, with_bits(tmp_path / "counts", value=1))) == {
        ("bits.counts", "differs"),
        ("bits.weights", "differs"),
    }
    assert set(moved(old, with_bits(tmp_path / "log", fill=(0.2, 0.3000001)))) == {("bits.log", "differs")}
    lost = with_bits(tmp_path / "lost")
    RunFolder(next(lost.rglob("2-*"))).weights.unlink()
    assert moved(old, lost) == [("bits.weights", "differs")]


def test_a_fall_that_two_short_seeds_hide_is_seen(tmp_path: Path) -> None:
    """Labels 12 rows and 2 columns beside their pixels took two short runs from 5.99 to 5.06."""
    for seed, miou in enumerate((0.0620, 0.0578)):
        record(tmp_path / "old", seed, miou)
        record(tmp_path / "new", seed, miou - 0.0093 + (0.0004, -0.0004)[seed])
    old, new = baseline_of(tmp_path / "old"), find_groups([tmp_path / "new"])
    assert [row.verdict for row in tolerant.compare(old, new)] == ["ok"], "why such a baseline is refused"
    with pytest.raises(Regression, match="2 fall"):
        judge(exact.compare(old, new), tmp_path, Rule())


def test_bits_are_compared_on_one_machine_alone(tmp_path: Path) -> None:
    old = baseline_of(with_bits(tmp_path / "old"))
    for name, part in (("cpu", {"model": "another"}), ("torch", {"threads": 2, "capability": "AVX2"})):
        other = with_bits(tmp_path / name)
        for file in other.rglob("provenance.json"):
            (start,) = json.loads(file.read_text())
            file.write_text(json.dumps([start | {name: part}]))
        with pytest.raises(DataError, match="was made on a CPU, 1 thread, .*torch 2.15.0, its runs on .*"):
            moved(old, other)
    unknown = with_bits(tmp_path / "unknown")
    for file in unknown.rglob("provenance.json"):
        file.unlink()
    with pytest.raises(DataError, match="its runs on one that they do not name"):
        moved(old, unknown)
    (entry,) = old.entries
    before = Baselines(entries=[entry.model_copy(update={"exact": None})])
    with pytest.raises(DataError, match="holds no bits; make it anew with `check --update`"):
        moved(before, tmp_path / "old")
    (again,) = updated(before, find_groups([tmp_path / "old"]), "again").entries
    assert again.exact == entry.exact, "an update adds them"


# Against the same run by other code


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., GateRun]:
    def make(weights: bytes = b"0", **changes: Any) -> GateRun:
        folder = RunFolder(record(tmp_path / str(len(list(tmp_path.iterdir()))), **changes))
        folder.weights.write_bytes(weights)
        result = folder.read_result()
        assert result is not None
        return GateRun(folder, result, figures_of(result, folder))

    return make


def test_bits_may_change_where_a_version_says_so(made: Callable[..., GateRun]) -> None:
    before = made()
    assert exact.change(before, made()) is None
    assert exact.change(before, made(b"1")) == "weights"
    assert exact.change(before, made(b"1", miou=0.4)) == "log, weights, miou"
    assert exact.change(before, made(b"1", method_version=2, run_id="89abcdef")) is None
    # The protocol's version is in the hash, though no setting has changed.
    raised = made(b"1", protocol_hash="feedbeef", run_id="89abcdef")
    assert exact.change(before, raised) is None
    config = {"method": {"name": "u2pl", "alpha": 0.3}}
    assert exact.change(before, made(config=config, run_id="89abcdef")) == "settings method.alpha"
    assert exact.change(before, made(config=config, method_version=2, run_id="89abcdef")) is None
    lists = {"pixel": "z", "eval": "y"}
    assert exact.change(before, made(split_digests=lists, run_id="89abcdef")) == "settings lists.pixel"
    machine = {**before.result.config, "machine": {"workers": 3}}
    assert exact.change(before, made(config=machine)) is None


def test_a_higher_version_of_the_protocol_is_another_protocol(
    tiny_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config("supervised")
    of_first = plan(config).run_id, config.protocol.hash
    monkeypatch.setattr(schema, "PROTOCOL_VERSION", 2)
    of_second = plan(config).run_id, config.protocol.hash
    assert of_first[0] != of_second[0] and of_first[1] != of_second[1]
    monkeypatch.setattr(schema, "PROTOCOL_VERSION", 1)
    assert (plan(config).run_id, config.protocol.hash) == of_first


@pytest.mark.slow
def test_a_real_run_is_the_same_bits_again_and_not_with_another_seed_of_torch(
    tiny_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    def trained(name: str, *sets: str) -> GateRun:
        planned = plan(tiny_config("supervised", "protocol.steps=3", *sets, f"machine.out={tmp_path / name}"))
        result = run(planned, Display())
        return GateRun(planned.folder, result, figures_of(result, planned.folder))

    first = trained("a")
    assert first.bits.keys() == {"weights", "counts", "log"} and len(first.machines) == 1
    assert exact.change(first, trained("b")) is None
    other = trained("c", "protocol.optimizer.lr=0.011")
    assert other.bits["weights"] != first.bits["weights"]
    assert exact.change(first, other) == "settings protocol.optimizer.lr"
    hidden = replace(other, result=first.result.model_copy(update={"files": other.result.files}))
    assert str(exact.change(first, hidden)).startswith("log, weights")


# Statistics


def test_bounds_are_those_of_students_table() -> None:
    assert bound(1.0, 4, 3, 1) == pytest.approx(2.776 / 3**0.5, abs=1e-3)
    assert bound(1.0, 4, 3, 5) == pytest.approx(4.604 / 3**0.5, abs=1e-3), "one percent each"
    assert bound(0.0, 4, 3, 10) == 0
    assert smallest_effect(1.0, 4, 3, 1) == pytest.approx((2.776 + 0.941) / 3**0.5, abs=1e-3)
    assert seeds_needed(1.0, smallest_effect(1.0, 6, 7, 5), 5) == 7
    assert seeds_needed(1.0, smallest_effect(1.0, 26, 7, 5), 5, other_df=20) == 7
    assert seeds_needed(1.0, 1e-3, 1) is None


def test_a_check_where_nothing_changed_cries_wolf_one_time_in_twenty() -> None:
    """Twenty figures over three seeds, of ten methods: all differences are drawn around zero."""
    generator = np.random.default_rng(0)
    alarms, checks, family, methods = 0, 1000, 20, 10
    limit = bound(1.0, methods * 2, 3, family)
    for _ in range(checks):
        drawn = generator.normal(size=(family // methods, methods, 3))
        spread = np.sqrt(drawn.var(2, ddof=1).mean(1, keepdims=True))
        alarms += bool((abs(drawn.mean(2)) > limit * spread).any())
    assert 0.03 < alarms / checks < 0.065


# --strict and the reports


def test_strict_fails_where_a_run_has_no_baseline(tmp_path: Path) -> None:
    old = baseline_of(three(tmp_path / "runs"))
    record(tmp_path / "runs", 7, 0.5)
    rows = tolerant.compare(old, find_groups([tmp_path / "runs"]))
    judge(rows, tmp_path, Rule())
    with pytest.raises(Regression, match=r"u2pl on tinyset few, 4 steps, seeds 7, has no baseline in"):
        judge(rows, tmp_path, Rule(strict=True))


def test_junit_says_what_fails_and_what_was_passed_over(tmp_path: Path) -> None:
    rows = [
        VerdictRow("u2pl\x1b on <few>", (0, 1), "miou", 0.5, 0.51, 0.02, "ok"),
        VerdictRow("u2pl", (0, 1), "note.fill", 0.5, None, 0.02, "differs"),
        VerdictRow("u2pl", (2,), "miou", 0.5, None, None, "missing"),
        VerdictRow("other", (3,), "miou", None, 0.5, None, "no baseline"),
    ]
    for rule, failed, skipped in ((Rule(), 2, 1), (Rule(True, True), 2, 1), (Rule(True, False), 1, 2)):
        write_junit(tmp_path / "junit.xml", rows, rule)
        root = ElementTree.parse(tmp_path / "junit.xml").getroot()
        assert root.tag == "testsuites" and root.attrib["failures"] == str(failed)
        (suite,) = root
        assert len(suite) == int(suite.attrib["tests"]) == 4
        assert len(root.findall(".//failure")) == failed and len(root.findall(".//skipped")) == skipped
        first, second, *_ = suite
        assert first.attrib["classname"] == "u2pl\N{REPLACEMENT CHARACTER} on <few>" and not list(first)
        assert second.attrib["name"] == "note.fill, seeds 0, 1"
        assert "0.5 -> None" in second[0].attrib["message"]
