"""IoU of each class: one sheet for each split, a row for each class and a column for each method."""

from __future__ import annotations

from reports.groups import Group
from reports.sheets.sheet import (
    SPLIT_COLUMNS,
    SUMMARY_COLUMNS,
    Record,
    Sheet,
    numbers,
    sheet_of,
    split_names,
)
from reports.statistics import summarise

ABSENT = "absent"


def class_sheets(group: Group) -> list[Sheet]:
    """Mean IoU over the seeds of each method, of its predictor at the last weights."""
    sheets = []
    for split in group.splits:
        methods = {row.label: runs for row in group.rows if (runs := row.on(split))}
        lines = [["class", *(f"{label} ({len(of)})" for label, of in methods.items())]]
        records: list[Record] = []
        for index, name in enumerate(group.classes):
            line = [name]
            for label, of in methods.items():
                values = [run.result.predictor.iou[index] for run in of]
                found = [value for value in values if value is not None]
                cell = summarise(found) if found else None
                fewer = f" ({len(found)})" if len(found) < len(of) else ""
                line.append(ABSENT if cell is None else f"{100 * cell.mean:.1f}{fewer}")
                records.append((*split_names(split), name, label, *numbers(cell)))
            lines.append(line)
        sheets.append(
            sheet_of(
                group,
                f"classes-{split.label}",
                f"IoU of each class on {split.heading} (%)",
                lines,
                (*SPLIT_COLUMNS, "class", "method", *SUMMARY_COLUMNS),
                records,
                notes=(
                    "mean over the seeds, whose number is in the heading; over fewer where a number stands "
                    f"in the cell. {ABSENT}: neither in the truth nor predicted by any of them.",
                ),
            )
        )
    return sheets
