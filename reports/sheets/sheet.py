"""The type of every table: a tidy frame for a machine, and lines for a reader, made of the same records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas

from reports.groups import Group, Split
from reports.statistics import Summary

GROUP_COLUMNS = ("dataset", "protocol", "protocol_hash", "eval_digest", "weights_digest", "classes_digest")
SPLIT_COLUMNS = ("split", "pixel", "tags")
SUMMARY_COLUMNS = ("mean_percent", "spread_percent", "low_percent", "high_percent", "n")
CELL_COLUMNS = ("method", *SPLIT_COLUMNS, *SUMMARY_COLUMNS)
MISSING = "missing"
# What is said of one run, cell or figure, by name: the columns of the frame, and what its text needs beside.
Record = dict[str, Any]
Shown = str | Callable[[Record], str]  # what a reader sees of a record: the value of that name, or a text
Lines = list[list[str]]


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

    def is_number(self, column: int) -> bool:
        return self.names <= column < len(self.lines[0]) - self.words


def sheet_of(
    group: Group,
    name: str,
    title: str,
    columns: Sequence[str],
    records: Iterable[Record],
    lines: Lines,
    *,
    names: int = 1,
    words: int = 0,
    notes: Sequence[str] = (),
) -> Sheet:
    """A sheet whose frame has `columns` of the records behind what its group is, `GROUP_COLUMNS`."""
    frame = frame_of((*GROUP_COLUMNS, *columns), (group_record(group) | record for record in records))
    shown = tuple(map(tuple, lines))
    return Sheet(name, title, f"{group.title}; {group.basis}", frame, shown, names, words, notes)


def frame_of(columns: Sequence[str], records: Iterable[Record]) -> pandas.DataFrame:
    """The columns of the records, every value as it is: None stays None, and a whole number whole."""
    rows = [[record[column] for column in columns] for record in records]
    return pandas.DataFrame(rows, columns=list(columns), dtype=object)


def listed(records: Iterable[Record], shown: Mapping[str, Shown]) -> Lines:
    """A line for each record; `shown` has what stands under each heading."""
    return [list(shown), *([_text(record, of) for of in shown.values()] for record in records)]


def crossed(records: Sequence[Record], names: Mapping[str, str], across: str, shown: Shown) -> Lines:
    """A column for each value that the records have `across`, and a line for as many records as there are.

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


def split_record(split: Split) -> Record:
    """`SPLIT_COLUMNS` of a split, and its "heading"."""
    return {"split": split.label, "pixel": split.pixel, "tags": split.tags, "heading": split.heading}


def summary_record(cell: Summary | None, prefix: str = "") -> Record:
    """`SUMMARY_COLUMNS` of a cell, percent and n, and its "cell"; a missing one has n = 0 and no numbers."""
    shares = (cell.mean, cell.spread, *(cell.interval or (None, None))) if cell else (None,) * 4
    values = [*(None if share is None else 100 * share for share in shares), cell.n if cell else 0]
    columns = (f"{prefix}{column}" for column in SUMMARY_COLUMNS)
    return {f"{prefix}cell": cell, **dict(zip(columns, values, strict=True))}


def cell_text(cell: Summary | None) -> str:
    """`43.2 ± 1.1 (3)`: mean and spread in percent, number of seeds."""
    if cell is None:
        return MISSING
    if cell.spread is None:
        return f"{100 * cell.mean:.1f} ({cell.n})"
    return f"{100 * cell.mean:.1f} ± {100 * cell.spread:.1f} ({cell.n})"


def mean_text(record: Record) -> str:
    """`cell_text` of a record's cell."""
    return cell_text(record["cell"])


def interval_text(ends: tuple[float, float] | None, sign: str = "") -> str:
    """`40.0 to 46.4` in percent; `sign` "+" shows that of both ends. Empty where there is none."""
    if ends is None:
        return ""
    low, high = ends
    return f"{100 * low:{sign}.1f} to {100 * high:{sign}.1f}"
