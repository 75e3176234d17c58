"""The tables of finished runs as data frames, for a notebook."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from bench.records.schema import Result
from reports.groups import BASELINE, Group, comparable
from reports.sheets.classes import class_sheets
from reports.sheets.cost import costs
from reports.sheets.differences import average_rank_sheet, differences
from reports.sheets.headline import headline, modules
from reports.sheets.sheet import Sheet

if TYPE_CHECKING:
    import pandas


def frames(results: Iterable[Result], baseline: str = BASELINE) -> dict[str, pandas.DataFrame]:
    """Give the tables of finished runs as data frames: `frames(results)["miou"]` has a row for each cell.

    Numbers are percent, unrounded, and missing where there is no run. The first columns name the comparable
    group: never average over two of them.

    Args:
        results: Of any data sets and protocols; a run given twice counts once.
        baseline: A method, or the name of a row, to which all others are compared in "differences".

    Returns:
        Frames by name: "miou", "modules" (student, predictor, oracle), "classes", "cost"; "differences" where
        one row is the baseline and others stand beside it, and "ranks" where rows have cells in common.
    """
    import pandas

    found: dict[str, list[pandas.DataFrame]] = defaultdict(list)
    for group in comparable({Path(str(place)): result for place, result in enumerate(results)}):
        for name, sheet in _sheets(group, baseline):
            found[name].append(sheet.frame())
    return {name: pandas.concat(parts, ignore_index=True) for name, parts in found.items()}


def _sheets(group: Group, baseline: str) -> Iterable[tuple[str, Sheet]]:
    yield "miou", headline(group)
    yield "modules", modules(group)
    for sheet in class_sheets(group):
        yield "classes", sheet
    yield "cost", costs(group, {}, {})
    rows = group.rows_named(baseline)
    if len(rows) == 1 and len(group.rows) > 1:
        yield "differences", differences(group, rows[0], {})
    if ranks := average_rank_sheet(group):
        yield "ranks", ranks
