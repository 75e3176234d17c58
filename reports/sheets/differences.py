"""Methods against a reference: intervals that hold all at once, chances, and what the table could find."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

from reports.groups import COLOURED, Group, Row
from reports.sheets import sheet as s
from reports.sheets.headline import ONE_RUN, drawn
from reports.splits import SplitColumn
from reports.statistics import (
    EQUAL,
    MOST_RUNS,
    POWER,
    Summary,
    equal_to_the_bit,
    halves,
    paired_difference,
    smallest_found,
    units_needed,
)

COLUMNS = (
    "method",
    "reference",
    *s.SPLIT_COLUMNS,
    *s.SUMMARY_COLUMNS,
    "family",
    *s.CHANCES,
    "smallest_percent",
)
POINTS = f"{100 * EQUAL:g} point"
TWO_A_SIDE = "fewer than two a side"


def differences(group: Group, baseline: str) -> s.Sheet:
    """Each row minus the reference on each split, over the draws and seeds run in both, and an A/A row.

    Args:
        baseline: The label of one of the group's rows.
    """
    found, reference = compared(group, baseline), group.row(baseline)
    family = family_of(change for *_, change in found)
    here = {split for _, split, _ in found}
    again = [split for split in group.splits if split in reference.runs and split in here]
    compare = [(row.label, split, change, "") for row, split, change in found]
    compare += [(f"{baseline}, A/A", at, halves(reference.scores(at)), TWO_A_SIDE) for at in again]
    records = [
        {"method": label, "reference": baseline, "none": none, "family": family}
        | {"smallest_percent": s.percent(smallest_found(change, family) if change else None)}
        | s.split_record(split)
        | s.change_record(change, family)
        for label, split, change, none in compare
    ]
    shown: dict[str, s.Shown] = {"method": "method", "split": "heading"}
    shown |= {"difference": lambda of: of["gain"] or s.MISSING, "95 %, all at once": _interval}
    shown |= {name: name for name in ("runs", *(f"P({chance})" for chance in s.CHANCES))}
    title = f"difference to {baseline}: mIoU (percent points)"
    notes = (*_notes(group, found, family), *group.notes)
    return s.sheet_of(group, "differences", title, COLUMNS, records, shown, names=2, notes=notes)


Found = Sequence[tuple[Row, SplitColumn, Summary | None]]


def compared(group: Group, baseline: str) -> Found:
    """Return the paired difference of each row to the reference on each split where the row has runs."""
    reference = group.row(baseline)
    return [
        (row, split, paired_difference(row.scores(split), reference.scores(split)))
        for row, split, cell in group.cells()
        if row is not reference and cell
    ]


def family_of(found: Iterable[Summary | None]) -> int:
    """How many intervals of a table hold together: those of all differences that have one."""
    return max(1, sum(change is not None and change.error is not None for change in found))


def _interval(record: s.Record) -> str:
    cell: Summary | None = record["cell"]
    if cell is None:
        return str(record["none"])
    if equal_to_the_bit(cell):
        return s.EQUAL_TO_THE_BIT
    return record["interval"] or ONE_RUN


# Below the table --------------------------------------------------------------------------------------------


def _notes(group: Group, found: Found, family: int) -> list[str]:
    known = [(row, split, of) for row, split, of in found if of and of.error is not None]
    notes = [
        "difference: mean of the paired differences, runs of the same draw and seed. An interval without 0 "
        "is a finding: by Student's t, over the draws (of one draw over its seeds), and corrected for "
        f"{s.counted(family, 'comparison')}, so that all of the table hold at once in 95 % of such tables.",
        f"P: how likely the method is better by more than {POINTS}, equal within it, or worse by more "
        "(Bayesian t-test; runs are independent: correlation 0). Each P is for itself, not corrected.",
        "A/A: the later half of the reference's seeds against the earlier half. Nothing is to be found: its "
        "interval should hold 0.",
    ]
    if known:
        notes.append(_power(known, family))
    if group.views == "published" and COLOURED not in {row.method for row in group.rows}:
        notes.append(
            f"Views are those of each method, and no run is of {COLOURED}: part of a gain may be what "
            "colours on the labels alone would give."
        )
    return [*notes, drawn(group)]


def _power(known: Sequence[tuple[Row, SplitColumn, Summary]], family: int) -> str:
    """Say what the table could have found, and how many more runs would find more."""
    changes = [change for *_, change in known]
    smallest = sorted(100 * (smallest_found(change, family) or 0.0) for change in changes)
    typical = sorted(changes, key=lambda change: change.error or 0.0)[len(changes) // 2]
    said = [
        f"With {100 * POWER:.0f} % power this table finds a difference of {_at_most(median(smallest))} "
        f"points (median of its rows; {_at_most(smallest[0])} to {_at_most(smallest[-1])}).",
        f"To find {POINTS} it needs {more(typical, EQUAL, family)}.",
    ]
    unsettled = [
        (abs(of.mean) / of.error, f"{row.label} on {split.label}", of)
        for row, split, of in known
        if of.error and (ends := of.interval_of(family)) and ends[0] <= 0 <= ends[1]
    ]
    if unsettled:
        _, where, change = max(unsettled, key=lambda item: item[:2])
        said.append(
            f"Nearest to being settled is {where} ({100 * change.mean:+.1f}): "
            f"if that is its true difference, it needs {more(change, change.mean, family)}."
        )
    return " ".join(said)


def _at_most(points: float) -> str:
    """No difference of two mIoU is larger than 100 points."""
    return f"{points:.1f}" if points < 100 else "over 100"


def more(change: Summary, effect: float, family: int) -> str:
    """`5 more draws (8 in all)`: what finds an effect in four of five tables."""
    unit = "draw" if change.draws > 1 else "seed"
    needed = units_needed(change, effect, family)
    if needed is None:
        return f"over {MOST_RUNS} {unit}s"
    return f"{s.counted(max(needed - change.units, 0), f'more {unit}')} ({needed} in all)"
