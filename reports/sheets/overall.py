"""Methods over all splits of one data set or of several: interquartile mean, probability of improvement."""

from __future__ import annotations

from collections.abc import Sequence

from reports.groups import Group
from reports.sheets import sheet as s
from reports.statistics import FEWEST_RESAMPLED, Cell, overall

COLUMNS = (
    *("method", "reference", "cells", "runs", "iqm_percent", "iqm_low_percent", "iqm_high_percent"),
    *("reference_iqm_percent", "improvement", "improvement_low", "improvement_high"),
)
NOTES = (
    "IQM: mean of the runs without the lowest and the highest quarter, over all cells that the method and "
    "the reference have; a cell is a split. Beside it the reference's in these cells.",
    "P(improvement): how likely a run is better than one of the reference in the same cell. Both as rliable "
    "has them (Agarwal et al. 2021).",
    f"95 %: stratified bootstrap over draws, of one draw over seeds. None below {FEWEST_RESAMPLED} runs, and "
    "where a cell has one run. Not corrected for the number of rows.",
)


def overall_sheet(groups: Sequence[Group], baseline: str) -> s.Sheet | None:
    """Each row against the reference over the splits of the groups; None where no cell is common.

    Args:
        groups: One for each data set.
        baseline: The label of a row that each of them has.
    """
    cells: dict[str, list[tuple[Cell, Cell]]] = {}
    for group in groups:
        (reference,) = (row for row in group.rows if row.label == baseline)
        for row in (row for row in group.rows if row is not reference):
            common = [split for split in group.splits if split in row.runs and split in reference.runs]
            cells.setdefault(row.label, []).extend(
                (row.scores(split), reference.scores(split)) for split in common
            )
    records = [_record(label, baseline, of) for label, of in cells.items() if of]
    if not records:
        return None
    records.sort(key=lambda record: (-record["cells"], -record["improvement"]))
    shown: dict[str, s.Shown] = {
        "method": "method",
        "cells": "cells",
        "runs": "runs",
        "IQM (%)": lambda of: f"{of['iqm_percent']:.1f}",
        "95 %": lambda of: s.interval_text(of["iqm_ends"]),
        f"{baseline} there": lambda of: f"{of['reference_iqm_percent']:.1f}",
        "P(improvement)": lambda of: f"{of['improvement']:.2f}",
        "95 % of P": lambda of: _ends(of["improvement_low"], of["improvement_high"]),
    }
    lines = s.listed(records, shown)
    title = f"all cells together, against {baseline}"
    if len(groups) == 1:
        return s.sheet_of(
            groups[0], "overall", title, COLUMNS, records, lines, notes=(*NOTES, *groups[0].notes)
        )
    frame = s.frame_of(COLUMNS, records)
    return s.Sheet("overall-data-sets", title, "", frame, tuple(map(tuple, lines)), notes=NOTES)


def _record(label: str, baseline: str, cells: Sequence[tuple[Cell, Cell]]) -> s.Record:
    found = overall(cells)
    low, high = found.iqm_ends or (None, None)
    worse, better = found.improvement_ends or (None, None)
    return {
        "method": label,
        "reference": baseline,
        "cells": len(cells),
        "runs": sum(len(ours) for ours, _ in cells),
        "iqm_percent": 100 * found.iqm,
        "iqm_ends": found.iqm_ends,
        "iqm_low_percent": s.percent(low),
        "iqm_high_percent": s.percent(high),
        "reference_iqm_percent": 100 * found.reference,
        "improvement": found.improvement,
        "improvement_low": worse,
        "improvement_high": better,
    }


def _ends(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.2f} to {high:.2f}"
