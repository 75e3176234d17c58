"""mIoU of one comparable group: method x split, with intervals, and student beside predictor and oracle."""

from __future__ import annotations

from reports.contents import note_on_classes
from reports.groups import COLUMNS, Column, Group, score_of
from reports.sheets import sheet as s
from reports.statistics import summarise

# How each is called in the frame, and over its column.
MODULES: dict[Column, tuple[str, str]] = {
    "student": ("student", "student"),
    "last": ("predictor", "predictor"),
    "own": ("own", "own predictor"),
    "oracle": ("oracle", "oracle (optimistic)"),
}


def headline(group: Group) -> s.Sheet:
    """mIoU of the last weights, method x split: mean, spread and n."""
    return _by_split(group, "miou", f"{COLUMNS['last'][0]} (%)", s.mean_text)


def intervals(group: Group) -> s.Sheet:
    """mIoU, method x split, with the t interval of the mean where there are two seeds or more."""
    note = "mean ± spread, 95 % interval of the mean by Student's t (n seeds). One seed has no interval."
    return _by_split(group, "intervals", "mIoU (%) with 95 % intervals over seeds", _with_interval, note)


def _by_split(group: Group, name: str, title: str, shown: s.Shown, *notes: str) -> s.Sheet:
    records = [
        {"method": row.label, **s.split_record(split), **s.summary_record(cell)}
        for row in group.rows
        for split, cell in zip(group.splits, row.cells, strict=True)
    ]
    lines = s.crossed(records, {"method": "method"}, "heading", shown)
    return s.sheet_of(group, name, title, s.CELL_COLUMNS, records, lines, notes=(*notes, *group.notes))


def _with_interval(record: s.Record) -> str:
    cell = record["cell"]
    if cell is None or cell.interval is None:
        return s.cell_text(cell)
    return s.cell_text(cell).replace(" (", f", {s.interval_text(cell.interval)} (")


def modules(group: Group) -> s.Sheet:
    """Student and predictor at their last weights, and the oracle apart from both."""
    records = []
    for row in group.rows:
        for split in group.splits:
            runs = [run.result for run in row.on(split)]
            for column, (scored, heading) in MODULES.items():
                having = [run for run in runs if column != "own" or run.own]
                cell = summarise(score_of(run, column) for run in having) if having else None
                said = {"method": row.label, "scored": scored, "module": heading}
                records.append(said | s.split_record(split) | s.summary_record(cell))
    own = any(run.result.own for run in group.runs)
    here = {(run["method"], run["heading"]) for run in records if run["cell"]}
    known = [
        record
        for record in records
        if (record["method"], record["heading"]) in here and (own or record["scored"] != "own")
    ]
    lines = s.crossed(known, {"method": "method", "split": "heading"}, "module", s.mean_text)
    scores = [score for run in group.runs for score in (run.result.student, run.result.predictor)]
    return s.sheet_of(
        group,
        "modules",
        "student, predictor and oracle: mIoU (%)",
        ("method", *s.SPLIT_COLUMNS, "scored", *s.SUMMARY_COLUMNS),
        records,
        [[*line[:-1], "", line[-1]] for line in lines],  # the oracle stands apart
        names=2,
        notes=(
            f"predictor: what a method is scored by, {group.scored_module}; it may be the student."
            + (" own predictor: what the method itself names." if own else "")
            + " All but the oracle are of the last weights.",
            f"oracle: {COLUMNS['oracle'][1]}. It may not stand beside the numbers of last weights.",
            *note_on_classes({score.classes_averaged for score in scores}),
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
