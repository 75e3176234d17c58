"""IoU of each class: one sheet for each split, a row for each class and a column for each method."""

from __future__ import annotations

from functools import partial

from bench.records.schema import Result
from reports.groups import Group, summary
from reports.sheets import sheet as s

ABSENT = "absent"
NOTE = (
    "mean over the seeds, whose number is in the heading; over fewer where a number stands in the cell. "
    f"{ABSENT}: neither in the truth nor predicted by any of them."
)


def class_sheets(group: Group) -> list[s.Sheet]:
    """Mean IoU over the seeds of each method, of its predictor at the last weights."""
    sheets = []
    for split in group.splits:
        records = []
        for index, name in enumerate(group.classes):
            for row in group.rows:
                if runs := row.on(split):
                    said = {"class": name, "method": row.label, "column": f"{row.label} ({len(runs)})"}
                    cell = s.summary_record(summary(runs, partial(_iou, index)))
                    records.append(said | s.split_record(split) | cell | {"all": len(runs)})
        sheets.append(
            s.sheet_of(
                group,
                f"classes-{split.label}",
                f"IoU of each class on {split.heading} (%)",
                (*s.SPLIT_COLUMNS, "class", "method", *s.SUMMARY_COLUMNS),
                records,
                s.crossed(records, {"class": "class"}, "column", _text),
                notes=(NOTE,),
            )
        )
    return sheets


def _iou(index: int, result: Result) -> float | None:
    return result.predictor.iou[index]


def _text(record: s.Record) -> str:
    if not record["n"]:
        return ABSENT
    fewer = f" ({record['n']})" if record["n"] < record["all"] else ""
    return f"{record['mean_percent']:.1f}{fewer}"
