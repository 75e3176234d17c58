"""Adaptation to a target: what a method reaches between its source alone and all masks of the target."""

from __future__ import annotations

from statistics import fmean

from reports.groups import BASELINE, Group, Row
from reports.sheets import sheet as s
from reports.splits import SplitColumn

ADAPT, TARGET_FULL = "adapt", "target_full"  # the splits of a pair of data sets
COLUMNS = (
    *("method", *s.SPLIT_COLUMNS, "runs", "miou_percent"),
    *("source_only_percent", "target_full_percent", "gap_closed_percent"),
)
NOTES = (
    f"Source only: {BASELINE} on {ADAPT}, which sees no mask of the target. All masks: {BASELINE} on "
    f"{TARGET_FULL}, which sees nothing of the source. Gap closed: how far from the first to the second, in "
    "percent; below 0 is worse than the source alone.",
    "All numbers of a row are means over the seeds that the three have in common.",
)


def adaptation(group: Group) -> s.Sheet | None:
    """Make the table of the gap that each method closes; None where the baseline has no runs on `adapt` and
    `target_full` with a seed in common."""
    if group.rows_named(BASELINE) != [BASELINE]:
        return None
    base = group.row(BASELINE)
    named = {split.name: split for split in group.splits}
    if not {ADAPT, TARGET_FULL} <= named.keys():
        return None
    ends = base.scores(named[ADAPT]), base.scores(named[TARGET_FULL])
    records = [
        record
        for split in group.splits
        if split.name.partition("+")[0] == ADAPT
        for row in group.rows
        if (record := _record(row, split, *ends))
    ]
    if not records:
        return None
    shown: dict[str, s.Shown] = {
        "method": "method",
        "split": "heading",
        "runs": "runs",
        "mIoU (%)": lambda of: f"{of['miou_percent']:.1f}",
        "source only": lambda of: f"{of['source_only_percent']:.1f}",
        "all masks of the target": lambda of: f"{of['target_full_percent']:.1f}",
        "gap closed (%)": _gap,
    }
    title = "how much of the gap between the domains is closed"
    return s.sheet_of(group, "adaptation", title, COLUMNS, records, shown, names=2, notes=NOTES)


def _record(
    row: Row, split: SplitColumn, low: dict[tuple[int, int], float], high: dict[tuple[int, int], float]
) -> s.Record | None:
    own = row.scores(split)
    common = sorted(own.keys() & low.keys() & high.keys())
    if not common or (row.label == BASELINE and split.name == ADAPT):
        return None
    miou, source, full = (fmean(of[key] for key in common) for of in (own, low, high))
    return {
        "method": row.label,
        **s.split_record(split),
        "runs": len(common),
        "miou_percent": 100 * miou,
        "source_only_percent": 100 * source,
        "target_full_percent": 100 * full,
        "gap_closed_percent": 100 * (miou - source) / (full - source) if full > source else None,
    }


def _gap(record: s.Record) -> str:
    share = record["gap_closed_percent"]
    return "no gap" if share is None else f"{share:.0f}"
