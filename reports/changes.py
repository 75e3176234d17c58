"""The changes between two folders of runs: every cell of both, run by run, as a table for a pull request."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.errors import DataError
from bench.records.index import find_results
from reports.groups import Group, Row, comparable, summary, told_apart
from reports.sheets import sheet as s
from reports.sheets.differences import family_of
from reports.splits import SplitColumn
from reports.statistics import Summary, equal_to_the_bit, paired_difference

COLUMNS = (
    *("group", "split", "method", "before_percent", "now_percent"),
    *("change_percent", "low_percent", "high_percent", *s.CHANCES, "n"),
)
NOTES = (
    "change: now minus before, mean over the runs of the same draw and seed; 95 %: intervals that hold for "
    "all changes of this table at once (Student's t). One without 0 is a finding. P(worse): by more than one "
    "point.",
)
ONLY = {"before": "no longer there", "now": "new"}


def changes(now: Sequence[Path], before: Sequence[Path]) -> s.Sheet:
    """Make the table of changes: a line for each row and split that one of the two has.

    Runs are compared where data set, classes, the protocol's hash, scored list and weights are equal; what
    only one side has is new, or no longer there. Cells of data sets without a run now are counted alone.

    Raises:
        DataError: a side has no finished run, or a record cannot be read.
    """
    was, is_now = _cells(before), _cells(now)
    here = {_dataset(cell) for cell in is_now.values()}
    elsewhere = {key for key, cell in was.items() if _dataset(cell) not in here}
    pairs = [(key, was.get(key), is_now.get(key)) for key in sorted(was.keys() - elsewhere | is_now.keys())]
    found = [
        paired_difference(new[0].scores(new[1]), old[0].scores(old[1])) if old and new else None
        for _, old, new in pairs
    ]
    family = family_of(found)
    records = [_record(*pair, change, family) for pair, change in zip(pairs, found, strict=True)]
    shown = {name: name for name in ("method", "split", "group", "before", "now", "change")}
    shown |= {"95 %, all at once": "interval", "P(worse)": "P(worse)", "runs": "runs"}
    title = "mIoU (%), now and before"
    left_out = f"Not shown: {s.counted(len(elsewhere), 'cell')} of data sets of which no run is here now."
    notes = (*NOTES, left_out) if elsewhere else NOTES
    return s.sheet_of(None, "changes", title, COLUMNS, records, shown, names=3, notes=notes)


Cell = tuple[Row, SplitColumn]
Key = tuple[str, str, str]  # group, split and row


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


def _dataset(cell: Cell) -> str:
    row, split = cell
    return row.on(split)[0].result.dataset


def _name(group: Group) -> str:
    """Equal for what may be compared; two sides need not hold the same groups, so hashes are in it."""
    digests = (group.protocol_hash, group.eval_digest, group.classes_digest, group.weights_digest or "none")
    return " ".join([group.dataset, *(digest[:4] for digest in digests)])


def _record(key: Key, old: Cell | None, new: Cell | None, change: Summary | None, family: int) -> s.Record:
    record = s.change_record(change, family) | dict(zip(("group", "split", "method"), key, strict=True))
    record["change_percent"] = record["mean_percent"]
    for side, cell in (("before", old), ("now", new)):
        mean = summary(cell[0].on(cell[1])) if cell else None
        record |= {f"{side}_percent": s.percent(mean.mean if mean else None), side: s.cell_text(mean)}
    if change and equal_to_the_bit(change):
        said = s.EQUAL_TO_THE_BIT
    elif change:
        said = record["gain"]
    else:
        said = "no common run" if old and new else ONLY["before" if old else "now"]
    return record | {"change": said}
