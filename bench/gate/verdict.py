"""The rows of the gate's table, which of them fail, and the report that CI systems read (JUnit)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any, Literal
from xml.etree import ElementTree

from bench.errors import DataError, Regression, plain
from bench.gate.baselines import Baseline, Baselines, group_of
from bench.gate.runs import SCORES, GateGroup, GateRun, Key
from bench.records.atomic import write_atomic

Verdict = Literal["ok", "fall", "rise", "differs", "missing", "no baseline"]
FAULTS: tuple[Verdict, ...] = ("fall", "rise", "differs")


@dataclass(frozen=True)
class VerdictRow:
    """One line of the table. Figures in their own units; None: there is none, or it is no number."""

    label: str
    seeds: tuple[int, ...]
    figure: str
    baseline: float | None
    now: float | None
    tolerance: float | None  # None: nothing was compared
    verdict: Verdict

    @property
    def difference(self) -> float | None:
        return None if self.now is None or self.baseline is None else self.now - self.baseline

    @property
    def document(self) -> dict[str, Any]:
        """Fit for JSON."""
        return {**asdict(self), "difference": self.difference}


@dataclass(frozen=True)
class Rule:
    """The rule for what fails beside a figure that has moved."""

    allow_missing: bool = False  # a baseline without runs passes
    strict: bool = False  # runs without a baseline fail

    def fails(self, row: VerdictRow) -> bool:
        if row.verdict == "missing":
            return not self.allow_missing
        return row.verdict in FAULTS or (self.strict and row.verdict == "no baseline")


def is_score(name: str) -> bool:
    return name in SCORES


def moved(name: str, baseline: float, now: float | None) -> Verdict:
    """Name what a figure beyond its tolerance has done: `"rise"`, `"fall"` or `"differs"`."""
    if not is_score(name) or now is None:
        return "differs"
    return "rise" if now > baseline else "fall"


def table(
    baselines: Baselines,
    groups: Mapping[str, GateGroup],
    compare: Callable[[str, Baseline, Mapping[int, GateRun]], list[VerdictRow]],
) -> list[VerdictRow]:
    """Give the rows of a comparison, and one for the runs that a baseline lacks and for those without one.

    Args:
        compare: From a label, a baseline and its runs, by seed, to their rows.

    Raises DataError as `group_of`.
    """
    labels = _labels([*(entry.key for entry in baselines.entries), *(group.key for group in groups.values())])
    rows: list[VerdictRow] = []
    known = set()
    for entry in baselines.entries:
        label, group = labels[entry.key.id], group_of(entry, groups)
        runs = group.runs if group else {}
        if shared := {seed: runs[seed] for seed in sorted(entry.seeds.keys() & runs)}:
            rows += compare(label, entry, shared)
        if missing := tuple(sorted(entry.seeds.keys() - runs.keys())):
            mean = fmean(entry.seeds[seed]["miou"] for seed in missing)
            rows.append(VerdictRow(label, missing, "miou", mean, None, None, "missing"))
        if group:
            known.add(group.key.id)
            rows += _without_baseline(label, group, group.runs.keys() - entry.seeds.keys())
    for id, group in groups.items():
        if id not in known:
            rows += _without_baseline(labels[id], group, group.runs)
    return rows


def _without_baseline(label: str, group: GateGroup, seeds: Iterable[int]) -> list[VerdictRow]:
    ordered = tuple(sorted(seeds))
    if not ordered:
        return []
    now = fmean(group.runs[seed].figures["miou"] for seed in ordered)
    return [VerdictRow(label, ordered, "miou", None, now, None, "no baseline")]


def _labels(keys: Iterable[Key]) -> dict[str, str]:
    """Give a label for each id, with the id behind it where several keys share one."""
    known = {key.id: key for key in keys}
    # The key of a baseline that does not say its classes is that of its runs.
    pairs = combinations(known.values(), 2)
    shared = {one.label for one, other in pairs if one.label == other.label and not one.is_of(other)}
    return {id: f"{key.label} [{id}]" if key.label in shared else key.label for id, key in known.items()}


def judge(rows: Sequence[VerdictRow], path: Path, rule: Rule) -> None:
    """Raise Regression where a figure has moved, up or down, or (strict) a run has no baseline, and DataError
    where runs are missing or nothing could be compared."""
    failed = [row for row in rows if rule.fails(row)]
    bad = [row for row in failed if row.verdict in FAULTS]
    if bad:
        counts = Counter(row.verdict for row in bad)
        said = ", ".join(f"{counts[verdict]} {verdict}" for verdict in FAULTS if counts[verdict])
        raise Regression(
            f"{len({row.label for row in bad})} baselines of {path} do not hold ({said}), see the table. "
            "Find the cause; a change that is meant goes in with `check --update --reason ...`."
        )
    unknown = [row for row in failed if row.verdict == "no baseline"]
    if unknown:
        raise Regression(
            f"{unknown[0].label}, seeds {', '.join(map(str, unknown[0].seeds))}, has no baseline in {path}, "
            "and --strict wants one; make it with `check --update --reason ...`, or move the run away."
        )
    missing = [row for row in failed if row.verdict == "missing"]
    if missing:
        raise DataError(
            f"{len(missing)} baselines of {path} lack runs: {missing[0].label}, seeds "
            f"{', '.join(map(str, missing[0].seeds))}, is the first. Run them, or give --allow-missing."
        )
    if not any(row.tolerance is not None for row in rows):
        raise DataError(f"no run has a baseline in {path}; nothing was compared.")


def write_junit(path: Path, rows: Sequence[VerdictRow], rule: Rule) -> None:
    """Write a test case for each row: it fails as the row does, and is skipped where nothing was compared."""
    failed = sum(rule.fails(row) for row in rows)
    passed_over = [row for row in rows if row.tolerance is None and not rule.fails(row)]
    counts = {"tests": len(rows), "failures": failed, "errors": 0, "skipped": len(passed_over)}
    attributes = {name: str(count) for name, count in counts.items()}
    root = ElementTree.Element("testsuites", attributes)
    suite = ElementTree.SubElement(root, "testsuite", {"name": "regression gate", **attributes})
    for row in rows:
        name = f"{row.figure}, seeds {', '.join(map(str, row.seeds))}"
        case = ElementTree.SubElement(
            suite, "testcase", {"classname": plain(row.label), "name": plain(name), "time": "0"}
        )
        if rule.fails(row):
            said = f"{row.verdict}: {row.baseline} -> {row.now}, tolerance {row.tolerance}"
            ElementTree.SubElement(case, "failure", {"type": row.verdict, "message": said})
        elif row in passed_over:
            ElementTree.SubElement(case, "skipped", {"message": row.verdict})
    ElementTree.indent(root)
    write_atomic(path, ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n")
