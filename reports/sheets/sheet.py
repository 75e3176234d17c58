"""The type of every table: its lines for a reader, and its records for a machine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reports.groups import Group, Split
from reports.statistics import Summary

if TYPE_CHECKING:
    import pandas

GROUP_COLUMNS = ("dataset", "protocol", "protocol_hash", "eval_digest", "weights_digest", "classes_digest")
SPLIT_COLUMNS = ("split", "pixel", "tags")
SUMMARY_COLUMNS = ("mean_percent", "spread_percent", "low_percent", "high_percent", "n")
MISSING = "missing"
Line = Sequence[str]
Record = Sequence[Any]


@dataclass(frozen=True)
class Sheet:
    """One table of one comparable group, ready to be written."""

    name: str  # of its files
    title: str
    group: str  # data set, protocol and what else its runs have in common
    lines: tuple[tuple[str, ...], ...]  # heading and rows, for reading
    records: tuple[tuple[Any, ...], ...]  # heading and rows, for CSV: numbers unrounded, None where missing
    names: int = 1  # columns at the left that hold names
    words: int = 0  # columns at the right that hold text; those between hold numbers
    notes: tuple[str, ...] = ()

    def is_number(self, column: int) -> bool:
        return self.names <= column < len(self.lines[0]) - self.words

    def frame(self) -> pandas.DataFrame:
        """The records as a data frame, one row a record."""
        import pandas  # takes as long to load as a small report to write

        heading, *records = self.records
        return pandas.DataFrame.from_records(records, columns=list(heading))


def sheet_of(
    group: Group,
    name: str,
    title: str,
    lines: Iterable[Line],
    columns: Record,
    records: Iterable[Record],
    *,
    names: int = 1,
    words: int = 0,
    notes: Sequence[str] = (),
) -> Sheet:
    """A sheet whose records begin with what its group is, `GROUP_COLUMNS`.

    Args:
        lines: Heading and rows.
        columns: Heading of the records behind `GROUP_COLUMNS`.
    """
    of = group_names(group)
    return Sheet(
        name=name,
        title=title,
        group=f"{group.title}; {group.basis}",
        lines=tuple(map(tuple, lines)),
        records=((*GROUP_COLUMNS, *columns), *((*of, *record) for record in records)),
        names=names,
        words=words,
        notes=tuple(notes),
    )


def group_names(group: Group) -> tuple[str, ...]:
    """`GROUP_COLUMNS` of a group."""
    weights = group.weights_digest or "none"
    return (
        *(group.dataset, group.protocol, group.protocol_hash, group.eval_digest),
        *(weights, group.classes_digest),
    )


def split_names(split: Split) -> tuple[str, int, int]:
    """`SPLIT_COLUMNS` of a split."""
    return split.label, split.pixel, split.tags


def numbers(cell: Summary | None) -> tuple[float | int | None, ...]:
    """`SUMMARY_COLUMNS` of a cell: percent, and n; a missing cell has n = 0 and no numbers."""
    if cell is None:
        return None, None, None, None, 0
    low, high = cell.interval or (None, None)
    shares = (cell.mean, cell.spread, low, high)
    return (*(None if share is None else 100 * share for share in shares), cell.n)


def cell_text(cell: Summary | None) -> str:
    """`43.2 ± 1.1 (3)`: mean and spread in percent, number of seeds."""
    if cell is None:
        return MISSING
    if cell.spread is None:
        return f"{100 * cell.mean:.1f} ({cell.n})"
    return f"{100 * cell.mean:.1f} ± {100 * cell.spread:.1f} ({cell.n})"


def interval_text(ends: tuple[float, float] | None, sign: str = "") -> str:
    """`40.0 to 46.4` in percent; `sign` "+" shows that of both ends. Empty where there is none."""
    if ends is None:
        return ""
    low, high = ends
    return f"{100 * low:{sign}.1f} to {100 * high:{sign}.1f}"
