"""The type of every table: a tidy frame for a machine, and lines for a reader, made of the same records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas

from reports.groups import Group, Row
from reports.splits import SplitColumn, kind_name
from reports.statistics import Summary, chances

GROUP_COLUMNS = ("dataset", "protocol", "protocol_hash", "eval_digest", "weights_digest", "classes_digest")
SPLIT_COLUMNS = ("split", "pixel", "tags")
SUMMARY_COLUMNS = (
    *("mean_percent", "spread_percent", "draws_spread_percent"),
    *("low_percent", "high_percent", "n", "draws"),
)
CHANCES = ("better", "equal", "worse")  # that a difference is
CELL_COLUMNS = ("method", *SPLIT_COLUMNS, *SUMMARY_COLUMNS)
MISSING = "missing"
EQUAL_TO_THE_BIT = "equal to the bit"
# The facts on one run, cell or figure, by name: the columns of the frame, and what its text needs beside.
Record = dict[str, Any]
Shown = str | Callable[[Record], str]  # what a reader sees of a record: the value of that name, or a text
Lines = list[list[str]]
Bar = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Sheet:
    """One table of one comparable group, ready to be written."""

    name: str  # of its files
    title: str
    group: str  # data set, protocol and what else its runs have in common
    frame: pandas.DataFrame  # the CSV: numbers unrounded, None where missing
    lines: tuple[tuple[str, ...], ...]  # heading and rows, for reading
    names: int = 1  # columns at the left that hold names
    words: int = 0  # columns at the right that hold text; those between hold numbers
    notes: Sequence[str] = ()
    # Of each row what the page draws as a bar: mean and ends of its interval, in the unit of the table.
    bars: tuple[Bar | None, ...] = ()
    goes: tuple[str, ...] = ()  # of each row the title of the section that its name leads to

    def is_number(self, column: int) -> bool:
        return self.names <= column < len(self.lines[0]) - self.words


def sheet_of(
    group: Group | None,
    name: str,
    title: str,
    columns: Sequence[str],
    records: Sequence[Record],
    shown: Lines | Mapping[str, Shown],
    *,
    names: int = 1,
    words: int = 0,
    notes: Sequence[str] = (),
    bars: Sequence[Bar | None] = (),
    goes: Iterable[str] = (),
) -> Sheet:
    """Make a sheet whose frame has `columns` of the records, behind those of its group, `GROUP_COLUMNS`.

    Args:
        group: None for a sheet of several.
        shown: The lines, or what stands under each heading in the line of a record.
    """
    of = ""
    if group:
        of = f"{group.title}; {group.basis}"
        columns = (*GROUP_COLUMNS, *columns)
        records = [group_record(group) | record for record in records]
    if group and group.whole:
        kind = group.splits[0].kind
        name, title = f"{name}-{kind}", f"{title}, {kind_name(kind)}"
    rows = [[record[column] for column in columns] for record in records]
    frame = pandas.DataFrame(rows, columns=list(columns), dtype=object)  # None stays None, and 3 whole
    lines = listed(records, shown) if isinstance(shown, Mapping) else shown
    text = tuple(map(tuple, lines))
    return Sheet(name, title, of, frame, text, names, words, notes, tuple(bars), tuple(goes))


def listed(records: Iterable[Record], shown: Mapping[str, Shown]) -> Lines:
    """Make a line for each record; `shown` has what stands under each heading."""
    return [list(shown), *([_text(record, of) for of in shown.values()] for record in records)]


def crossed(records: Sequence[Record], names: Mapping[str, str], across: str, shown: Shown) -> Lines:
    """Make a column for each value that the records have `across`, and a line for each set of records that
    fills these columns.

    Args:
        records: Row by row; none is missing.
        names: What stands in the first columns, by heading.
    """
    columns = list(dict.fromkeys(record[across] for record in records))
    rows = [records[i : i + len(columns)] for i in range(0, len(records), max(len(columns), 1))]
    lines = [
        [*(_text(row[0], name) for name in names.values()), *(_text(one, shown) for one in row)]
        for row in rows
    ]
    return [[*names, *columns], *lines]


def _text(record: Record, shown: Shown) -> str:
    return str(record[shown]) if isinstance(shown, str) else shown(record)


# Parts of a record ------------------------------------------------------------------------------------------


def group_record(group: Group) -> Record:
    """`GROUP_COLUMNS` of a group."""
    values = (group.dataset, group.protocol, group.protocol_hash, group.eval_digest)
    return dict(
        zip(GROUP_COLUMNS, (*values, group.weights_digest or "none", group.classes_digest), strict=True)
    )


def split_record(split: SplitColumn) -> Record:
    """`SPLIT_COLUMNS` of a split, and its "heading"."""
    return {
        "split": split.label,
        "pixel": split.pixel,
        "tags": split.tags,
        "heading": split.heading,
    }


def summary_record(cell: Summary | None, prefix: str = "", family: int = 1) -> Record:
    """`SUMMARY_COLUMNS` of a cell, percent and n, and its "cell"; a missing one has n = 0 and no numbers.

    Args:
        family: How many intervals hold together.
    """
    shares: tuple[float | None, ...] = (None,) * 5
    if cell:
        shares = (cell.mean, cell.spread, cell.between, *(cell.interval_of(family) or (None, None)))
    values = [*map(percent, shares), cell.n if cell else 0, cell.draws if cell else 0]
    columns = (f"{prefix}{column}" for column in SUMMARY_COLUMNS)
    return {f"{prefix}cell": cell, **dict(zip(columns, values, strict=True))}


def change_record(change: Summary | None, family: int) -> Record:
    """`SUMMARY_COLUMNS` and `CHANCES` of a difference, whose interval holds with a family of others; and its
    "gain", "interval", "runs" and "P(better)" ... as text, of which one that is not known is empty."""
    record = summary_record(change, family=family)
    likely = (chances(change) if change else None) or (None,) * 3
    for chance, share in zip(CHANCES, likely, strict=True):
        record |= {chance: share, f"P({chance})": "" if share is None else f"{share:.2f}"}
    ends = change.interval_of(family) if change else None
    record |= {"gain": f"{100 * change.mean:+.1f}" if change else "", "interval": interval_text(ends, "+")}
    return record | {"runs": runs_text(change) if change else ""}


def cell_record(row: Row, split: SplitColumn, cell: Summary | None) -> Record:
    """`CELL_COLUMNS` of a cell, and what its text needs."""
    return {"method": row.label, **split_record(split), **summary_record(cell)}


def counted(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def cell_text(cell: Summary | None) -> str:
    """`43.2 ± 1.1 (3)`: mean, spread in percent, seeds; `43.2 ± 0.8 / 1.1 (3 x 3)` of several draws:
    their spread, that of the seeds, and both numbers."""
    if cell is None:
        return MISSING
    spreads = [cell.between, cell.spread]
    said = " / ".join(f"{100 * of:.1f}" for of in spreads if of is not None)
    return f"{100 * cell.mean:.1f}{f' ± {said}' if said else ''} ({runs_text(cell)})"


def runs_text(cell: Summary) -> str:
    """`3` runs of one draw, `3 x 2` of three draws with two seeds each, `5 runs of 3 draws` else."""
    if cell.draws == 1:
        return str(cell.n)
    if not cell.even:
        return f"{cell.n} runs of {cell.draws} draws"
    return f"{cell.draws} x {cell.n // cell.draws}"


def mean_text(record: Record) -> str:
    """`cell_text` of a record's cell."""
    return cell_text(record["cell"])


def interval_text(ends: tuple[float, float] | None, sign: str = "") -> str:
    """`40.0 to 46.4` in percent; `sign` "+", that of both ends, is for differences. Empty for none.

    What no mIoU can be is left out: two runs may say no more than "-100.0 to +100.0".
    """
    if ends is None:
        return ""
    low, high = max(ends[0], -1.0 if sign else 0.0), min(ends[1], 1.0)
    return f"{100 * low:{sign}.1f} to {100 * high:{sign}.1f}"
