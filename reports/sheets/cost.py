"""The cost of the runs of one comparable group: seconds, memory, scoring, refinement of CAM seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from bench.records.schema import Result, Scores
from reports.groups import BASELINE, Group, SplitColumn
from reports.sheets import sheet as s

FIGURES = {  # their headings, and how their numbers are written
    "seconds_per_step": ("s per step", ".3g"),
    "times_supervised": ("x supervised", ".2f"),
    "trained_images": ("trained/step", ".0f"),
    "read_images": ("read/step", ".0f"),
    "images_per_second": ("images/s", ".3g"),
    "train_seconds": ("training s", ".3g"),
    "round_seconds": ("rounds s", ".3g"),
    "classifier_seconds": ("classifier s", ".3g"),
    "map_seconds": ("maps s", ".3g"),
    "whole_seconds": ("all three s", ".3g"),
    "peak_memory_mib": ("peak MiB", ".0f"),
    "scoring_seconds": ("scoring s", ".3g"),
    "crf_core_hours": ("CRF core-hours", ".3g"),
}
PARTS = ("train_seconds", "classifier_seconds", "map_seconds", "whole_seconds")  # where a run has CAM seeds
NOTES = (
    "Over all runs of a row together; peak MiB: the largest, that of a classifier among them; all other "
    "seconds and hours: means over the runs that have them, whose number is in brackets where it is smaller.",
    "Seconds are by the clock, so what else the machine did made them longer. Images a step do not change.",
    "images/s: steps times the protocol's batch, labeled and unlabeled, by training seconds. The unlabeled "
    "part counts for every method on a split that has any, looked at or not.",
    "x supervised: s per step over those of supervised on the same split. trained/step and read/step: images "
    "that a step sends through networks with a gradient and without one, as the method's formula has it.",
    "classifier s and maps s: of the CAM seeds that a run learned from, all of it in each row, though the "
    "runs of a seed share them. A warm-up that another run of the seed has trained counts as a run's own.",
    "rounds s: of methods with rounds, what comes before the last one: the run that labels, and its labels.",
    "scoring s: of the passes of the command score. CRF core-hours: refinement of the CAM seeds, once for "
    "all methods of a seed. What is nowhere recorded has no column.",
)


def costs(group: Group, scores: Mapping[Path, Scores], refined: Mapping[Path, float]) -> s.Sheet:
    """Make the table of what the runs cost: of all runs of a row together, with the largest peak of memory.

    Args:
        scores: The findings of `score`, by the folder of the run.
        refined: Core-seconds of the refinement of the CAM seeds that a run learned from, by its folder, where
            they are known.
    """
    records = []
    weak = any(run.result.seed_cost for run in group.runs)
    base = _seconds_of(group, BASELINE)
    for row, split, _ in group.cells():
        if not (here := row.on(split)):
            continue
        runs = [run.result for run in here]
        found = [scores[run.folder] for run in here if run.folder in scores]
        parts = _parts(runs) if weak else {name: [] for name in PARTS}
        rounds = [run.rounds for run in runs if run.rounds]
        parts["round_seconds"] = [of.labeler_seconds + of.label_seconds for of in rounds]
        parts["scoring_seconds"] = [_seconds(of) for of in found if of.entries]
        parts["crf_core_hours"] = [refined[run.folder] / 3600 for run in here if run.folder in refined]
        seconds, passes = _seconds_per_step(runs), _passes(runs)
        plain = base.get(split) if row.label != BASELINE else None
        figures = {
            "seconds_per_step": seconds,
            "times_supervised": seconds / plain if plain else None,
            "trained_images": passes.get("trained"),
            "read_images": passes.get("read"),
            "images_per_second": images_per_second(runs),
            "peak_memory_mib": max(run.whole_peak_mib for run in runs),
            **{name: fmean(values) if values else None for name, values in parts.items()},
        }
        few = {name: len(values) for name, values in parts.items()}
        texts = {
            heading: _text(figures[name], form, few.get(name, len(runs)), len(runs))
            for name, (heading, form) in FIGURES.items()
        }
        said = {"method": row.label, **s.split_record(split), "runs": len(runs)}
        records.append(said | figures | texts)
    known = [heading for heading, _ in FIGURES.values() if any(record[heading] for record in records)]
    shown = {"method": "method", "split": "heading", "runs": "runs"} | {heading: heading for heading in known}
    columns = ("method", *s.SPLIT_COLUMNS, "runs", *FIGURES)
    return s.sheet_of(group, "cost", "cost", columns, records, shown, names=2, notes=NOTES)


def _seconds_of(group: Group, name: str) -> dict[SplitColumn, float]:
    """Seconds a step on each split, of the row of that name; nothing where there is none, or several."""
    if group.rows_named(name) != [name]:
        return {}
    row = group.row(name)
    return {split: _seconds_per_step([run.result for run in row.on(split)]) for split in row.runs}


def _seconds_per_step(runs: Sequence[Result]) -> float:
    return sum(run.train_seconds for run in runs) / max(sum(run.steps for run in runs), 1)


def _passes(runs: Sequence[Result]) -> dict[str, int]:
    """Images a step of these runs, where all of them say the same; else nothing."""
    first = runs[0].passes
    if first is None or any(run.passes != first for run in runs):
        return {}
    return {str(kind): images for kind, images in first.items()}


def _parts(runs: Sequence[Result]) -> dict[str, list[float]]:
    """Seconds of each run: its training, the classifier and the maps before it, and all of these together;
    nothing where it is not recorded."""
    costs = [run.seed_cost for run in runs if run.seed_cost]
    return {
        "train_seconds": [run.train_seconds for run in runs],
        "classifier_seconds": [cost.classifier_seconds for cost in costs],
        "map_seconds": [cost.map_seconds for cost in costs],
        "whole_seconds": [whole for run in runs if (whole := run.whole_seconds) is not None],
    }


def _text(figure: float | None, form: str, n: int, of: int) -> str:
    """`1.2 (2)`: a mean over fewer runs than the row has."""
    return "" if figure is None else f"{figure:{form}}" + (f" ({n})" if n < of else "")


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
