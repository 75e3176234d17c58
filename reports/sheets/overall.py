"""Methods over all splits of one data set or of several: interquartile mean, probability of improvement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from reports.groups import Group
from reports.sheets import sheet as s
from reports.statistics import FEWEST_RESAMPLED, Cell, matched, overall

COLUMNS = (
    *("method", "reference", "cells", "runs", "iqm_percent", "iqm_low_percent", "iqm_high_percent"),
    *("reference_iqm_percent", "improvement", "improvement_low", "improvement_high"),
)
NOTES = (
    "IQM: mean of the runs without the lowest and the highest quarter, over all cells that the method and "
    "the reference have; a cell is a split, and its runs are those of the draws and seeds of both. Beside it "
    "the reference's in these cells.",
    "P(improvement): how likely a run is better than one of the reference in the same cell; not said where a "
    "cell has one run. Both as rliable has them (Agarwal et al. 2021).",
    f"95 %: stratified bootstrap over draws, of one draw over seeds, the same ones of both. None below "
    f"{FEWEST_RESAMPLED} runs, and where a cell has one run. Not corrected for the number of rows.",
)


def overall_sheet(groups: Sequence[Group], baseline: str) -> s.Sheet | None:
    """Each row against the reference over the splits of the groups; None where no cell is common.

    Args:
        groups: One for each data set.
        baseline: The label of a row that each of them has.
    """
    cells: dict[str, list[tuple[Cell, Cell]]] = {}
    whole: Counter[str] = Counter()  # runs of a row in these cells, of other draws and seeds too
    for group in groups:
        for row, split, _ in group.cells():
            pair = matched(row.scores(split), group.row(baseline).scores(split))
            if pair[0] and row.label != baseline:
                cells.setdefault(row.label, []).append(pair)
                whole[row.label] += len(row.on(split))
    records = [_record(label, baseline, of) | {"whole": whole[label]} for label, of in cells.items()]
    if not records:
        return None
    records.sort(key=lambda record: (-record["cells"], -(record["improvement"] or 0.0)))
    shown: dict[str, s.Shown] = {
        "method": "method",
        "cells": "cells",
        "runs": lambda of: str(of["runs"]) + (f" of {of['whole']}" if of["whole"] > of["runs"] else ""),
        "IQM (%)": lambda of: f"{of['iqm_percent']:.1f}",
        "95 %": lambda of: s.interval_text(of["iqm_ends"]),
        f"{baseline} there": lambda of: f"{of['reference_iqm_percent']:.1f}",
        "P(improvement)": _improvement,
        "95 % of P": lambda of: _ends(of["improvement_low"], of["improvement_high"]),
    }
    title = f"all cells together, against {baseline}"
    if len(groups) > 1:
        return s.sheet_of(None, "overall-data-sets", title, COLUMNS, records, shown, notes=NOTES)
    notes = (*NOTES, *groups[0].notes)
    return s.sheet_of(groups[0], "overall", title, COLUMNS, records, shown, notes=notes)


def _record(label: str, baseline: str, cells: Sequence[tuple[Cell, Cell]]) -> s.Record:
    found, equal = overall(cells), all(ours == theirs for ours, theirs in cells)
    low, high = found.iqm_ends or (None, None)
    worse, better = (None if equal else found.improvement_ends) or (None, None)
    sayable = not equal and all(len(ours) > 1 for ours, _ in cells)
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
        "equal": equal,
        "improvement": found.improvement if sayable else None,
        "improvement_low": worse,
        "improvement_high": better,
    }


def _improvement(record: s.Record) -> str:
    if record["equal"]:
        return s.EQUAL_TO_THE_BIT
    return "" if record["improvement"] is None else f"{record['improvement']:.2f}"


def _ends(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.2f} to {high:.2f}"
