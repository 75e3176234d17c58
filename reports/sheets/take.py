"""You have such labels: take this method. A line for each data set, kind and number of labels."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean

from reports.evidence import listed
from reports.sheets import sheet as s
from reports.sheets.answer import Answer
from reports.splits import kind_name, label_hours

COLUMNS = (
    *("dataset", *s.SPLIT_COLUMNS, "none", "labels", "hours", "method", "answer"),
    *s.SUMMARY_COLUMNS,
)
NOTES = (
    "The method that stands clear of the reference; where none does, the reference itself, since no gain was "
    "shown. Expected: mean mIoU with its own 95 % interval (Student's t over the draws, of one draw over its "
    "seeds). Of other images, steps or networks the records say nothing.",
    "hours: to annotate these images, by what the records say of one image. The choice of images and the "
    "masks of the scored list are not counted. run ids: as in the table of every run.",
)


def take(found: Iterable[tuple[str, Answer]]) -> s.Sheet | None:
    """Make the table, fewest hours of a data set first; None where no reference was run."""
    records = [record | {"goes": name} for name, of in found if of.reference and (record := _record(of))]
    if not records:
        return None
    records.sort(key=lambda record: (record["dataset"], record["hours"]))
    shown: dict[str, s.Shown] = {
        "you have": _have,
        "take": "method",
        "because": "why",
        "expect (mIoU, %)": lambda of: f"{of['mean_percent']:.1f}",
        "95 %": lambda of: s.interval_text(of["cell"].interval),
        "hours of labels": lambda of: f"{of['hours']:.1f}",
        "runs": lambda of: s.runs_text(of["cell"]),
        "run ids": lambda of: listed(of["ids"]),
    }
    lines = tuple(map(tuple, s.listed(records, shown)))
    frame = s.frame_of(COLUMNS, records)
    goes = tuple(record["goes"] for record in records)
    return s.Sheet(
        "take", "You have ... take ...", "", frame, lines, names=3, words=1, notes=NOTES, goes=goes
    )


def _record(of: Answer) -> s.Record | None:
    """Say which method to take here; None where no score says what to expect."""
    clear = of.state == "clear" and of.best is not None
    label = of.best.row.label if clear and of.best else str(of.reference)
    cell = of.score(label)
    if cell is None:
        return None
    runs = [run.result for run in of.group.row(label).on(of.split)]
    why = {"clear": f"it stands clear of {of.reference}", "tied": "no gain over it was shown"}
    return {
        "dataset": of.group.dataset,
        "none": of.split.none,
        **s.split_record(of.split),
        "labels": kind_name(of.split.kind),
        "hours": fmean(map(label_hours, runs)),
        "method": label,
        "answer": of.state,
        "why": why.get(of.state, "nothing else was compared"),
        "ids": [run.run_id for run in runs],
        **s.summary_record(cell),
    }


def _have(record: s.Record) -> str:
    """`shapes: 32 masks, 480 unlabeled`."""
    counts = {"masks": record["pixel"], "images with tags": record["tags"]}
    counts |= {f"images with {kind}": count for kind, count in record["sparse"]}
    counts["unlabeled"] = record["none"]
    return f"{record['dataset']}: {', '.join(f'{n} {what}' for what, n in counts.items() if n)}"
