"""Sheets of one comparable group: mIoU with intervals, student beside predictor and oracle, and cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench.records.schema import Result, Scores
from reports.sheets import GROUP_COLUMNS, Sheet, group_names, group_title
from reports.statistics import Summary, summarise
from reports.tables import (
    COLUMNS,
    Column,
    Table,
    cell_text,
    columns_of,
    interval_text,
    miou_table,
    note_on_classes,
    runs_of,
    score_of,
)

SUMMARY_COLUMNS = ("mean_percent", "spread_percent", "low_percent", "high_percent", "n")
MODULES: tuple[Column, ...] = ("student", "last", "oracle")
SPLIT_COLUMNS = ("split", "pixel", "tags")
DIGEST_COLUMNS = ("pixel_digest", "tags_digest", "none_digest")


def numbers(cell: Summary | None) -> tuple[float | int | None, ...]:
    """`SUMMARY_COLUMNS` of a cell: percent, and n; a missing cell has n = 0 and no numbers."""
    if cell is None:
        return None, None, None, None, 0
    low, high = cell.interval or (None, None)
    shares = (cell.mean, cell.spread, low, high)
    return (*(None if share is None else 100 * share for share in shares), cell.n)


def protocol(group: Sequence[Result]) -> Sheet:
    """What the protocol fixes for all runs of the group, as far as they have recorded it."""
    table = miou_table(group)
    settings = group[0].config.get("protocol", {})
    found = {"data set": table.dataset, "protocol": table.protocol, "protocol hash": table.protocol_hash}
    found |= {"steps": str(table.steps), "classes": f"{len(table.classes)}: {', '.join(table.classes)}"}
    found |= {"scored images": f"{table.scored} (list {table.eval_digest})"}
    found |= {"encoder weights": table.weights_digest or "none: random"}
    for key, value in settings.items():
        if key not in ("name", "steps"):
            found[key.replace("_", " ")] = _setting(value)
    return Sheet(
        name="protocol",
        title="what all runs have in common",
        group=group_title(table),
        lines=(("what", "value"), *found.items()),
        records=((*GROUP_COLUMNS, "what", "value"), *((*group_names(table), *one) for one in found.items())),
        names=2,
    )


def _setting(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_setting(inner)}" for key, inner in value.items() if inner is not None)
    if isinstance(value, list):
        return " ".join(map(_setting, value))
    return "none" if value is None else str(value)


def lists(group: Sequence[Result]) -> Sheet:
    """The splits: what each grants, by number and digest of the images, and how many rows and which seeds it
    has."""
    table = miou_table(group)
    runs = runs_of(group)
    heading = ("split", "masks", "tags", "nothing", "rows", "seeds", "list of masks", "list of tags")
    lines = [heading]
    records: list[tuple[Any, ...]] = [
        (*GROUP_COLUMNS, *SPLIT_COLUMNS, "none", *DIGEST_COLUMNS, "rows", "seeds")
    ]
    for key, split in columns_of(group).items():
        pixel, tags, none, _, *digests = key
        here = {label: by_split[key] for label, by_split in runs.items() if key in by_split}
        seeds = sorted({seed for by_seed in here.values() for seed in by_seed})
        shown = " ".join(map(str, seeds))
        numbers = (str(pixel), str(tags), str(none), str(len(here)))
        lines.append((split.label, *numbers, shown, digests[0][:12], digests[1][:12]))
        names = (*group_names(table), split.label, split.pixel, split.tags, none)
        records.append((*names, *digests, len(here), shown))
    return Sheet(
        name="splits",
        title="the splits and what they grant, in images",
        group=group_title(table),
        lines=tuple(lines),
        records=tuple(records),
        words=3,
    )


def headline(group: Sequence[Result]) -> Sheet:
    """mIoU of the last weights, method x split: mean, spread and n."""
    table = miou_table(group)
    return Sheet(
        name="miou",
        title=f"{COLUMNS['last'][0]} (%)",
        group=group_title(table),
        lines=_lines(table, cell_text),
        records=_records(table),
        notes=table.notes,
    )


def intervals(group: Sequence[Result]) -> Sheet:
    """mIoU, method x split, with the t interval of the mean where there are two seeds or more."""
    table = miou_table(group)
    return Sheet(
        name="intervals",
        title="mIoU (%) with 95 % intervals over seeds",
        group=group_title(table),
        lines=_lines(table, _with_interval),
        records=_records(table),
        notes=(
            "mean ± spread, 95 % interval of the mean by Student's t (n seeds). One seed has no interval.",
            *table.notes,
        ),
    )


def _lines(table: Table, text: Callable[[Summary | None], str]) -> tuple[tuple[str, ...], ...]:
    heading = ("method", *(split.heading for split in table.splits))
    return (heading, *((row.label, *map(text, row.cells)) for row in table.rows))


def _records(table: Table) -> tuple[tuple[Any, ...], ...]:
    heading = (*GROUP_COLUMNS, "method", *SPLIT_COLUMNS, *SUMMARY_COLUMNS)
    cells = [
        (*group_names(table), row.label, split.label, split.pixel, split.tags, *numbers(cell))
        for row in table.rows
        for split, cell in zip(table.splits, row.cells, strict=True)
    ]
    return (heading, *cells)


def _with_interval(cell: Summary | None) -> str:
    if cell is None or cell.interval is None:
        return cell_text(cell)
    return cell_text(cell).replace(" (", f", {interval_text(cell.interval)} (")


def modules(group: Sequence[Result]) -> Sheet:
    """Student and predictor at their last weights, and the oracle apart from both."""
    table = miou_table(group)
    columns = columns_of(group)
    lines = [("method", "split", "student", "predictor", "", "oracle (optimistic)")]
    records: list[tuple[Any, ...]] = [(*GROUP_COLUMNS, "method", *SPLIT_COLUMNS, "scored", *SUMMARY_COLUMNS)]
    counts = set()
    for label, by_split in runs_of(group).items():
        for key, split in columns.items():
            runs = by_split[key].values() if key in by_split else ()
            counts |= {score.classes_averaged for run in runs for score in (run.student, run.predictor)}
            cells = {
                name: summarise(score_of(run, name) for run in runs) if runs else None for name in MODULES
            }
            student, last, oracle = (cell_text(cells[name]) for name in MODULES)
            if runs:
                lines.append((label, split.heading, student, last, "", oracle))
            for name, cell in cells.items():
                names = (*group_names(table), label, split.label, split.pixel, split.tags)
                records.append((*names, "predictor" if name == "last" else name, *numbers(cell)))
    return Sheet(
        name="modules",
        title="student, predictor and oracle: mIoU (%)",
        group=group_title(table),
        lines=tuple(lines),
        records=tuple(records),
        names=2,
        notes=(
            "predictor: the module that the method is scored by; it may be the student. Student and "
            "predictor are of the last weights.",
            f"oracle: {COLUMNS['oracle'][1]}. It may not stand beside the numbers of last weights.",
            *note_on_classes(counts),
        ),
    )


COST_COLUMNS = (
    "method",
    "split",
    "runs",
    "s per step",
    "images/s",
    "peak MiB",
    "scoring s",
    "CRF core-hours",
)
COST_RECORDS = (
    "seconds_per_step",
    "images_per_second",
    "peak_memory_mib",
    "scoring_seconds",
    "crf_core_hours",
)


def costs(group: Sequence[Result], scores: Mapping[int, Scores], seed_seconds: Mapping[int, float]) -> Sheet:
    """What the runs took, all of a row together, the largest peak.

    Args:
        group: Runs that may stand in one table.
        scores: What `score` found, by identity of the result.
        seed_seconds: Core-seconds of the refinement of the CAM seeds that a run learned from, by identity of
            the result, where they are known.
    """
    table = miou_table(group)
    columns = columns_of(group)
    lines: list[tuple[str, ...]] = [COST_COLUMNS]
    records: list[tuple[Any, ...]] = [(*GROUP_COLUMNS, "method", *SPLIT_COLUMNS, "runs", *COST_RECORDS)]
    for label, by_split in runs_of(group).items():
        for key, split in columns.items():
            if key not in by_split:
                continue
            runs = list(by_split[key].values())
            passes = [
                _seconds(scores[id(run)]) for run in runs if id(run) in scores and scores[id(run)].entries
            ]
            refined = [seed_seconds[id(run)] / 3600 for run in runs if id(run) in seed_seconds]
            found = (
                sum(run.train_seconds for run in runs) / max(sum(run.steps for run in runs), 1),
                images_per_second(runs),
                max(run.peak_memory_mib for run in runs),
                _mean(passes),
                _mean(refined),
            )
            formats = (".3g", ".3g", ".0f", ".3g", ".3g")
            shown = ["" if x is None else f"{x:{f}}" for x, f in zip(found, formats, strict=True)]
            for place, few in ((3, passes), (4, refined)):
                if 0 < len(few) < len(runs):
                    shown[place] += f" ({len(few)})"
            lines.append((label, split.heading, str(len(runs)), *shown))
            names = (*group_names(table), label, split.label, split.pixel, split.tags)
            records.append((*names, len(runs), *found))
    known = [i for i in range(len(COST_COLUMNS)) if any(line[i] for line in lines[1:])]
    return Sheet(
        name="cost",
        title="cost",
        group=group_title(table),
        lines=tuple(tuple(line[i] for i in known) for line in lines),
        records=tuple(records),
        names=2,
        notes=(
            "Over all runs of a row together; peak MiB: the largest; scoring s and CRF core-hours: means "
            "over the runs that have them, whose number is in brackets where it is smaller.",
            "images/s: steps times the protocol's batch, labeled and unlabeled, by training seconds. The "
            "unlabeled part counts for every method on a split that has any, looked at or not.",
            "scoring s: of the passes of the command score. CRF core-hours: refinement of the CAM seeds, "
            "once for all methods of a seed. What is nowhere recorded has no column.",
        ),
    )


def _seconds(scores: Scores) -> float:
    """Of all passes. One gives up to two numbers, and both name its time."""
    return sum(seconds for _, _, seconds in {(of.scales, of.flip, of.seconds) for of in scores.entries})


def images_per_second(runs: Sequence[Result]) -> float | None:
    """Training images per second of all the runs; None where a configuration or a time is not recorded."""
    images = 0
    for run in runs:
        batch = run.config.get("protocol", {}).get("batch")
        if not batch or run.train_seconds <= 0:
            return None
        unlabeled = bool(run.images.get("none") or run.images.get("tags"))
        images += run.steps * (batch["labeled"] + (batch["unlabeled"] if unlabeled else 0))
    return float(images / sum(run.train_seconds for run in runs))


def _mean(values: Sequence[float]) -> float | None:
    return summarise(values).mean if values else None


def holes(group: Sequence[Result]) -> tuple[list[str], list[str]]:
    """Cells of one or two seeds, and of none, each as `method on split`, the first with their n."""
    table = miou_table(group)
    few, missing = [], []
    for row in table.rows:
        for split, cell in zip(table.splits, row.cells, strict=True):
            if cell is None:
                missing.append(f"{row.label} on {split.label}")
            elif cell.n < 3:
                few.append(f"{row.label} on {split.label} ({cell.n})")
    return few, missing
