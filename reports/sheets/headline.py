"""mIoU of one comparable group: method x split, with intervals, and student beside predictor and oracle."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from reports.groups import COLUMNS, Column, Group, note_on_classes, score_of
from reports.sheets.sheet import (
    SPLIT_COLUMNS,
    SUMMARY_COLUMNS,
    Record,
    Sheet,
    cell_text,
    interval_text,
    numbers,
    sheet_of,
    split_names,
)
from reports.statistics import Summary, summarise

MODULES: tuple[Column, ...] = ("student", "last", "oracle")
CELL_COLUMNS = ("method", *SPLIT_COLUMNS, *SUMMARY_COLUMNS)


def headline(group: Group) -> Sheet:
    """mIoU of the last weights, method x split: mean, spread and n."""
    return sheet_of(
        group,
        "miou",
        f"{COLUMNS['last'][0]} (%)",
        _lines(group, cell_text),
        CELL_COLUMNS,
        _records(group),
        notes=group.notes,
    )


def intervals(group: Group) -> Sheet:
    """mIoU, method x split, with the t interval of the mean where there are two seeds or more."""
    return sheet_of(
        group,
        "intervals",
        "mIoU (%) with 95 % intervals over seeds",
        _lines(group, _with_interval),
        CELL_COLUMNS,
        _records(group),
        notes=(
            "mean ± spread, 95 % interval of the mean by Student's t (n seeds). One seed has no interval.",
            *group.notes,
        ),
    )


def _lines(group: Group, text: Callable[[Summary | None], str]) -> list[list[str]]:
    heading = ["method", *(split.heading for split in group.splits)]
    return [heading, *([row.label, *map(text, row.cells)] for row in group.rows)]


def _records(group: Group) -> Iterator[Record]:
    for row in group.rows:
        for split, cell in zip(group.splits, row.cells, strict=True):
            yield row.label, *split_names(split), *numbers(cell)


def _with_interval(cell: Summary | None) -> str:
    if cell is None or cell.interval is None:
        return cell_text(cell)
    return cell_text(cell).replace(" (", f", {interval_text(cell.interval)} (")


def modules(group: Group) -> Sheet:
    """Student and predictor at their last weights, and the oracle apart from both."""
    lines = [("method", "split", "student", "predictor", "", "oracle (optimistic)")]
    records: list[Record] = []
    counts = set()
    for row in group.rows:
        for split in group.splits:
            runs = [run.result for run in row.on(split)]
            counts |= {score.classes_averaged for run in runs for score in (run.student, run.predictor)}
            cells = {
                name: summarise(score_of(run, name) for run in runs) if runs else None for name in MODULES
            }
            student, last, oracle = (cell_text(cells[name]) for name in MODULES)
            if runs:
                lines.append((row.label, split.heading, student, last, "", oracle))
            for name, cell in cells.items():
                said = "predictor" if name == "last" else name
                records.append((row.label, *split_names(split), said, *numbers(cell)))
    return sheet_of(
        group,
        "modules",
        "student, predictor and oracle: mIoU (%)",
        lines,
        ("method", *SPLIT_COLUMNS, "scored", *SUMMARY_COLUMNS),
        records,
        names=2,
        notes=(
            "predictor: the module that the method is scored by; it may be the student. Student and "
            "predictor are of the last weights.",
            f"oracle: {COLUMNS['oracle'][1]}. It may not stand beside the numbers of last weights.",
            *note_on_classes(counts),
        ),
    )


def holes(group: Group) -> tuple[list[str], list[str]]:
    """Cells of one or two seeds, and of none, each as `method on split`, the first with their n."""
    few, missing = [], []
    for row in group.rows:
        for split, cell in zip(group.splits, row.cells, strict=True):
            if cell is None:
                missing.append(f"{row.label} on {split.label}")
            elif cell.n < 3:
                few.append(f"{row.label} on {split.label} ({cell.n})")
    return few, missing
