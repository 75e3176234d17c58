"""IoU of each class: one sheet for each split, a row for each class and a column for each method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.records.schema import Result
from reports.overview import SPLIT_COLUMNS, SUMMARY_COLUMNS, numbers
from reports.sheets import GROUP_COLUMNS, Sheet, group_names, group_title
from reports.statistics import summarise
from reports.tables import columns_of, miou_table, runs_of

ABSENT = "absent"


def class_sheets(group: Sequence[Result]) -> list[Sheet]:
    """Mean IoU over the seeds of each method, of its predictor at the last weights."""
    table = miou_table(group)
    runs = runs_of(group)
    sheets = []
    for key, split in columns_of(group).items():
        methods = {label: list(by_split[key].values()) for label, by_split in runs.items() if key in by_split}
        lines = [("class", *(f"{label} ({len(of)})" for label, of in methods.items()))]
        records: list[tuple[Any, ...]] = [
            (*GROUP_COLUMNS, *SPLIT_COLUMNS, "class", "method", *SUMMARY_COLUMNS)
        ]
        for index, name in enumerate(table.classes):
            line = [name]
            for label, of in methods.items():
                values = [run.predictor.iou[index] for run in of]
                found = [value for value in values if value is not None]
                cell = summarise(found) if found else None
                fewer = f" ({len(found)})" if len(found) < len(of) else ""
                line.append(ABSENT if cell is None else f"{100 * cell.mean:.1f}{fewer}")
                place = (*group_names(table), split.label, split.pixel, split.tags, name, label)
                records.append((*place, *numbers(cell)))
            lines.append(tuple(line))
        sheets.append(
            Sheet(
                name=f"classes-{split.label}",
                title=f"IoU of each class on {split.heading} (%)",
                group=group_title(table),
                lines=tuple(lines),
                records=tuple(records),
                notes=(
                    "mean over the seeds, whose number is in the heading; over fewer where a number stands "
                    f"in the cell. {ABSENT}: neither in the truth nor predicted by any of them.",
                ),
            )
        )
    return sheets
