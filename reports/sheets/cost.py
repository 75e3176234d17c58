"""What the runs of one comparable group took: seconds, memory, scoring, refinement of CAM seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.records.schema import Result, Scores
from reports.groups import Group
from reports.sheets.sheet import SPLIT_COLUMNS, Record, Sheet, sheet_of, split_names
from reports.statistics import summarise

HEADING = ("method", "split", "runs", "s per step", "images/s", "peak MiB", "scoring s", "CRF core-hours")
FIGURES = (
    *("seconds_per_step", "images_per_second", "peak_memory_mib", "scoring_seconds"),
    "crf_core_hours",
)
FORMATS = (".3g", ".3g", ".0f", ".3g", ".3g")


def costs(group: Group, scores: Mapping[Path, Scores], refined: Mapping[Path, float]) -> Sheet:
    """What the runs took, all of a row together, the largest peak.

    Args:
        scores: What `score` found, by the folder of the run.
        refined: Core-seconds of the refinement of the CAM seeds that a run learned from, by its folder, where
            they are known.
    """
    lines: list[tuple[str, ...]] = [HEADING]
    records: list[Record] = []
    for row in group.rows:
        for split in group.splits:
            here = row.on(split)
            if not here:
                continue
            runs = [run.result for run in here]
            found_scores = [scores[run.folder] for run in here if run.folder in scores]
            passes = [_seconds(found) for found in found_scores if found.entries]
            core_hours = [refined[run.folder] / 3600 for run in here if run.folder in refined]
            found = (
                sum(run.train_seconds for run in runs) / max(sum(run.steps for run in runs), 1),
                images_per_second(runs),
                max(run.peak_memory_mib for run in runs),
                _mean(passes),
                _mean(core_hours),
            )
            shown = ["" if x is None else f"{x:{f}}" for x, f in zip(found, FORMATS, strict=True)]
            for place, few in ((3, passes), (4, core_hours)):
                if 0 < len(few) < len(runs):
                    shown[place] += f" ({len(few)})"
            lines.append((row.label, split.heading, str(len(runs)), *shown))
            records.append((row.label, *split_names(split), len(runs), *found))
    known = [i for i in range(len(HEADING)) if any(line[i] for line in lines[1:])]
    return sheet_of(
        group,
        "cost",
        "cost",
        [[line[i] for i in known] for line in lines],
        ("method", *SPLIT_COLUMNS, "runs", *FIGURES),
        records,
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
