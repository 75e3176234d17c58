"""The table of runs that were scored again: raw, multi-scale + flip, and the dense CRF on top."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.records.schema import Rescored, Scores
from reports.groups import Group, Split, note_on_classes
from reports.sheets.sheet import (
    SPLIT_COLUMNS,
    SUMMARY_COLUMNS,
    Sheet,
    cell_text,
    numbers,
    sheet_of,
    split_names,
)
from reports.statistics import Summary, summarise


@dataclass(frozen=True)
class Cell:
    """One method on one split, the same runs scored in each way."""

    label: str
    split: Split
    cells: tuple[Summary, ...]  # shares 0..1: raw, multi-scale, and with the CRF where the table has one


@dataclass(frozen=True)
class RescoredTable:
    """The runs of one comparable group that were scored again in one way."""

    group: Group  # with the runs that were not scored again: it lends names and order
    how: Rescored  # one of the numbers of the last column: all have its settings
    rows: tuple[Cell, ...]
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
        names = ("raw", "multi_scale", "crf")
        return sheet_of(
            self.group,
            "evaluation",
            f"scored again, mIoU (%): {self.caption}",
            self.lines(),
            ("method", *SPLIT_COLUMNS, "scored", "how", *SUMMARY_COLUMNS),
            [
                (row.label, *split_names(row.split), name, self.caption, *numbers(cell))
                for row in self.rows
                for name, cell in zip(names, row.cells, strict=False)
            ],
            names=2,
            notes=self.notes,
        )


def rescored_tables(group: Group, scores: Mapping[Path, Scores]) -> list[RescoredTable]:
    """One table per way in which runs of a comparable group were scored again; none where none was.

    Args:
        scores: What `score` found, by the folder of the run; runs without scores are left out.
    """
    ways: dict[tuple[Any, ...], dict[Path, list[Rescored]]] = defaultdict(dict)
    for run in group.runs:
        for found in _numbers(scores.get(run.folder, Scores(entries=[]))):
            ways[found[-1].setting][run.folder] = found
    return [_table(group, ways[setting]) for setting in sorted(ways, key=str)]


def _numbers(scores: Scores) -> list[list[Rescored]]:
    """Multi-scale alone or with its CRF, for every way in which one run was scored again."""
    found = []
    for base in scores.entries:
        if base.name == "multi_scale":
            same = [e for e in scores.entries if (e.scales, e.flip) == (base.scales, base.flip)]
            found += [[base, entry] for entry in same if entry.name == "crf"] or [[base]]
    return found


def _table(group: Group, found: Mapping[Path, list[Rescored]]) -> RescoredTable:
    rows = []
    counts: set[int] = set()
    for row in group.rows:
        for split in group.splits:
            runs = [run for run in row.on(split) if run.folder in found]
            scored = [[run.result.predictor, *(n.score for n in found[run.folder])] for run in runs]
            counts |= {score.classes_averaged for one in scored for score in one}
            if scored:
                cells = [summarise(score.miou for score in column) for column in zip(*scored, strict=True)]
                rows.append(Cell(row.label, split, tuple(cells)))
    how = next(iter(found.values()))[-1]
    return RescoredTable(group, how, tuple(rows), note_on_classes(counts))
