"""The changes between two folders of runs: every cell of both, run by run, as a table for a pull request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import DataError
from bench.records.index import find_results
from reports.groups import Group, Row, comparable, summary, told_apart
from reports.sheets import sheet as s
from reports.sheets.differences import CHANCES
from reports.splits import SplitColumn
from reports.statistics import Summary, chances, equal_to_the_bit, paired_difference

COLUMNS = (
    *("group", "split", "method", "before_percent", "now_percent"),
    *("change_percent", "low_percent", "high_percent", *CHANCES, "n"),
)
NOTES = (
    "change: now minus before, mean over the runs of the same draw and seed; 95 %: intervals that hold for "
    "all changes of this table at once (Student's t). One without 0 is a finding. P(worse): by more than one "
    "point.",
)
ONLY = {"before": "no longer there", "now": "new"}


def changes(now: Sequence[Path], before: Sequence[Path]) -> s.Sheet:
    """Make the table of changes: a line for each row and split that one of the two has.

    Runs are compared where data set, classes, protocol with its hash, scored list and weights are equal; what
    only one side has is new, or no longer there.

    Raises:
        DataError: a side has no finished run, or a record cannot be read.
    """
    sides = {"now": _cells(now), "before": _cells(before)}
    keys = sorted(sides["now"].keys() | sides["before"].keys())
    found = [_change(key, sides["before"].get(key), sides["now"].get(key)) for key in keys]
    family = max(1, sum(of.change is not None and of.change.error is not None for of in found))
    records = [_record(of, family) for of in found]
    shown: dict[str, s.Shown] = {
        name: name for name in ("method", "split", "group", "before", "now", "change")
    }
    shown |= {"95 %, all at once": "interval", "P(worse)": "chance", "runs": "runs"}
    lines = s.listed(records, shown)
    frame = s.frame_of(COLUMNS, records)
    return s.Sheet("changes", "mIoU (%), now and before", "", frame, tuple(map(tuple, lines)), 3, notes=NOTES)


Cell = tuple[Row, SplitColumn]
Key = tuple[str, str, str]  # group, split and row


@dataclass(frozen=True)
class Change:
    key: Key
    old: Cell | None
    new: Cell | None
    change: Summary | None  # None where the sides have no draw and seed in common


def _change(key: Key, old: Cell | None, new: Cell | None) -> Change:
    if old is None or new is None:
        return Change(key, old, new, None)
    return Change(key, old, new, paired_difference(new[0].scores(new[1]), old[0].scores(old[1])))


def _cells(roots: Sequence[Path]) -> dict[Key, Cell]:
    """Every cell with runs, by group, split and row."""
    results = find_results(*roots)
    if not results:
        raise DataError(f"no finished runs under {', '.join(map(str, roots))}; give a folder of runs.")
    groups = comparable(results)
    names = told_apart([_name(group) for group in groups], groups)
    return {
        (name, split.heading, row.label): (row, split)
        for name, group in zip(names, groups, strict=True)
        for row in group.rows
        for split in row.runs
    }


def _name(group: Group) -> str:
    """Equal for what may be compared; two sides need not hold the same groups, so hashes are in it."""
    digests = (group.protocol_hash, group.eval_digest, group.classes_digest, group.weights_digest or "none")
    return " ".join([group.dataset, group.protocol, *(digest[:4] for digest in digests)])


def _record(of: Change, family: int) -> s.Record:
    change = of.change
    means = {side: _mean(cell) for side, cell in (("before", of.old), ("now", of.new))}
    ends = change.interval_of(family) if change else None
    likely = chances(change) if change else None
    record: dict[str, Any] = dict(zip(("group", "split", "method"), of.key, strict=True))
    for side, mean in means.items():
        record |= {f"{side}_percent": s.percent(mean.mean if mean else None), side: s.cell_text(mean)}
    record |= {"change_percent": s.percent(change.mean if change else None), "n": change.n if change else 0}
    record |= dict(zip(("low_percent", "high_percent"), map(s.percent, ends or (None, None)), strict=True))
    record |= dict(zip(CHANCES, likely or (None,) * 3, strict=True))
    if change and equal_to_the_bit(change):
        said = s.EQUAL_TO_THE_BIT
    elif change:
        said = f"{100 * change.mean:+.1f}"
    else:
        said = "no common run" if of.old and of.new else ONLY["before" if of.old else "now"]
    record |= {"change": said, "interval": s.interval_text(ends, "+")}
    return record | {
        "chance": f"{likely[2]:.2f}" if likely else "",
        "runs": s.runs_text(change) if change else "",
    }


def _mean(cell: Cell | None) -> Summary | None:
    if cell is None:
        return None
    row, split = cell
    return summary(row.on(split))
