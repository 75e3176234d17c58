"""mIoU of one comparable group: intervals and spreads; student, predictor and oracle."""

from __future__ import annotations

from functools import partial

from reports.contents import note_on_classes
from reports.groups import Column, Group, Run, score_of, summary
from reports.sheets import sheet as s
from reports.sheets.testable import parts_not_testable

ONE_RUN = "one run: no interval"
# How each is called in the frame, and over its column.
MODULES: dict[Column, tuple[str, str]] = {
    "student": ("student", "student"),
    "last": ("predictor", "predictor"),
    "own": ("own", "own predictor"),
    "oracle": ("oracle", "oracle (optimistic)"),
}


HOW_DRAWN = "± spread of the draws / of the seeds within a draw (draws x seeds)."
ONE_DRAW = "All runs of a split have the same labeled images (one draw): nothing is said of other choices."


def drawn(group: Group) -> str:
    """Return the sentence that a reader must know of the draws of a table."""
    return HOW_DRAWN if len(group.draws) > 1 else ONE_DRAW


def headline(group: Group) -> s.Sheet:
    """mIoU of the last weights, method x split: mean, spread and number of runs."""
    records = [
        s.cell_record(row, split, cell) | {"other": group.other_draws(row, split)}
        for row, split, cell in group.cells()
    ]
    lines = s.crossed(records, {"method": "method"}, "heading", _cell)
    notes = (drawn(group), *group.notes, *parts_not_testable(group))
    return s.sheet_of(group, "miou", "mIoU (%)", s.CELL_COLUMNS, records, lines, notes=notes)


def _cell(record: s.Record) -> str:
    return s.mean_text(record) + (f", {record['other']}" if record["other"] else "")


def spreads(group: Group) -> s.Sheet:
    """Make the table of the interval of every cell, and of what it is made of."""
    records = [s.cell_record(*of) for of in group.cells() if of[-1]]
    shown: dict[str, s.Shown] = {
        "method": "method",
        "split": "heading",
        "mIoU": lambda of: f"{of['mean_percent']:.1f}",
        "95 %": lambda of: s.interval_text(of["cell"].interval) or ONE_RUN,
        "spread of seeds": lambda of: _number(of["spread_percent"]),
        "runs": "n",
    }
    if len(group.draws) > 1:
        shown |= {"spread of draws": lambda of: _number(of["draws_spread_percent"]), "draws": "draws"}
    note = (
        "95 %: interval of the mean by Student's t, over the means of the draws, of one draw over its seeds. "
        "It is of this cell alone: to compare methods, read the differences."
    )
    title = "mIoU (%) with 95 % intervals, and where they come from"
    notes = (note, drawn(group), *group.notes)
    return s.sheet_of(group, "spreads", title, s.CELL_COLUMNS, records, shown, names=2, notes=notes)


def _number(percent: float | None) -> str:
    return "" if percent is None else f"{percent:.1f}"


ORACLE = (
    "oracle: optimistic: chosen on the scored list, paper protocol. It may not stand beside the numbers of "
    "last weights."
)
NO_ORACLE = "No oracle: the runs were scored at their end alone (protocol.evaluation.every is 0)."


def _has(run: Run, column: Column) -> bool:
    """Whether a run has what a method itself names, or more than its last score to choose from."""
    return run.result.own is not None if column == "own" else len(run.result.curve) > 1


def modules(group: Group) -> s.Sheet:
    """Student and predictor at their last weights, and the oracle apart from both where there is one."""
    records = []
    for row, split, _ in group.cells():
        for column, (scored, heading) in MODULES.items():
            having = [run for run in row.on(split) if column in ("student", "last") or _has(run, column)]
            cell = summary(having, partial(score_of, column=column))
            records.append(s.cell_record(row, split, cell) | {"scored": scored, "module": heading})
    missing = {column for column in ("own", "oracle") if not any(_has(run, column) for run in group.runs)}
    here = {(run["method"], run["heading"]) for run in records if run["cell"]}
    known = [
        record
        for record in records
        if (record["method"], record["heading"]) in here and record["scored"] not in missing
    ]
    lines = s.crossed(known, {"method": "method", "split": "heading"}, "module", s.mean_text)
    scores = [score for run in group.runs for score in (run.result.student, run.result.predictor)]
    return s.sheet_of(
        group,
        "modules",
        "student, predictor and oracle: mIoU (%)",
        ("method", *s.SPLIT_COLUMNS, "scored", *s.SUMMARY_COLUMNS),
        records,
        lines if "oracle" in missing else [[*line[:-1], "", line[-1]] for line in lines],  # it stands apart
        names=2,
        notes=(
            f"predictor: what a method is scored by, {group.scorer}; it may be the student."
            + ("" if "own" in missing else " own predictor: what the method itself names.")
            + (" All but the oracle are of the last weights." if "oracle" not in missing else ""),
            NO_ORACLE if "oracle" in missing else ORACLE,
            *note_on_classes({score.classes_averaged for score in scores}),
        ),
    )


def holes(group: Group) -> tuple[list[str], list[str]]:
    """Cells of one or two seeds, and of none, each as `method on split`, the first with their n."""
    few = [f"{row.label} on {split.label} ({of.n})" for row, split, of in group.cells() if of and of.n < 3]
    return few, [f"{row.label} on {split.label}" for row, split, cell in group.cells() if cell is None]
