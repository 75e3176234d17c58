"""The table of runs that were scored again: raw, multi-scale + flip, and the dense CRF on top."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.records.schema import Rescored, Result, Scores
from reports import overview
from reports.sheets import GROUP_COLUMNS, Sheet, group_names, group_title
from reports.statistics import Summary, summarise
from reports.tables import (
    Split,
    Table,
    by_split_and_seed,
    cell_text,
    columns_of,
    labels_of,
    miou_table,
    note_on_classes,
)


@dataclass(frozen=True)
class Row:
    """One method on one split, the same runs scored in each way."""

    label: str
    split: Split
    cells: tuple[Summary, ...]  # shares 0..1: raw, multi-scale, and with the CRF where the table has one


@dataclass(frozen=True)
class EvaluationTable:
    """The runs of one comparable group that were scored again in one way."""

    table: Table  # the headline, which lends its names
    how: Rescored  # one of the numbers of the last column: all have its settings
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    @property
    def caption(self) -> str:
        """The settings that all rows share."""
        flip = "with flip" if self.how.flip else "without flip"
        crf = f"CRF {self.how.crf}" if self.how.crf else "no CRF"
        half = " at half size" if self.how.half_size else ""
        return f"scales {' '.join(f'{scale:g}' for scale in self.how.scales)} {flip}, {crf}{half}"

    def lines(self) -> list[list[str]]:
        """Heading and rows, as text."""
        heading = ["method", "split", "raw", "multi-scale + flip" if self.how.flip else "multi-scale"]
        rows = [[row.label, row.split.heading, *map(cell_text, row.cells)] for row in self.rows]
        return [[*heading, *(["+ CRF"] if self.how.crf else [])], *rows]

    @property
    def sheet(self) -> Sheet:
        """The table, ready to be written; its CSV has a line for each number."""
        records: list[tuple[Any, ...]] = [
            (*GROUP_COLUMNS, "method", *overview.SPLIT_COLUMNS, "scored", "how", *overview.SUMMARY_COLUMNS)
        ]
        for row in self.rows:
            for name, cell in zip(("raw", "multi_scale", "crf"), row.cells, strict=False):
                names = (
                    *group_names(self.table),
                    row.label,
                    row.split.label,
                    row.split.pixel,
                    row.split.tags,
                )
                records.append((*names, name, self.caption, *overview.numbers(cell)))
        return Sheet(
            name="evaluation",
            title=f"scored again, mIoU (%): {self.caption}",
            group=group_title(self.table),
            lines=tuple(map(tuple, self.lines())),
            records=tuple(records),
            names=2,
            notes=self.notes,
        )


def evaluation_tables(group: Sequence[Result], scores: Mapping[int, Scores]) -> list[EvaluationTable]:
    """One table per way in which runs of a comparable group were scored again; none where none was.

    Args:
        group: Runs that may stand in one table; those without scores are left out.
        scores: What `score` found, by identity of the result.
    """
    ways: dict[tuple[Any, ...], dict[int, list[Rescored]]] = defaultdict(dict)
    for result in group:
        for numbers in _numbers(scores.get(id(result), Scores(entries=[]))):
            ways[numbers[-1].setting][id(result)] = numbers
    return [_table(group, ways[setting]) for setting in sorted(ways, key=str)]


def _numbers(scores: Scores) -> list[list[Rescored]]:
    """Multi-scale alone or with its CRF, for every way in which one run was scored again."""
    found = []
    for base in scores.entries:
        if base.name == "multi_scale":
            same = [e for e in scores.entries if (e.scales, e.flip) == (base.scales, base.flip)]
            found += [[base, entry] for entry in same if entry.name == "crf"] or [[base]]
    return found


def _table(group: Sequence[Result], numbers: Mapping[int, list[Rescored]]) -> EvaluationTable:
    headline = miou_table(group)  # its rows lend their names and their order
    runs: dict[str, list[Result]] = defaultdict(list)
    for result, label in zip(group, labels_of(group), strict=True):
        if id(result) in numbers:
            runs[label].append(result)
    rows = []
    counts: set[int] = set()
    for row in headline.rows:
        by_split = by_split_and_seed(runs[row.label])
        for key, split in columns_of(group).items():
            scored = [[run.predictor, *(n.score for n in numbers[id(run)])] for run in by_split[key].values()]
            counts |= {score.classes_averaged for one in scored for score in one}
            if scored:
                cells = [summarise(score.miou for score in column) for column in zip(*scored, strict=True)]
                rows.append(Row(row.label, split, tuple(cells)))
    how = next(iter(numbers.values()))[-1]
    return EvaluationTable(headline, how, tuple(rows), note_on_classes(counts))
