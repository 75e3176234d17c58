"""Health figures of a training, from the notes in the logs: read, and as a table.

The figures are the notes of the methods, by the names that the log lines carry. What a method does not note
is not shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reports.groups import Group, Split
from reports.sheets.sheet import SPLIT_COLUMNS, Record, Sheet, sheet_of, split_names

Values = NDArray[np.float64]
PERCENT = "%"
LARGEST = 1e100  # of a number that is drawn


@dataclass(frozen=True)
class Panel:
    """Figures that are read together. Scalars are lines; a figure of one value per class is a map of its
    own."""

    title: str
    unit: str  # "%" for shares 0..1
    figures: Mapping[str, str]  # what each is, by its name in the log


LINE_PANELS = (
    Panel(
        "Shares",
        PERCENT,
        {
            "reliable_share": "reliable",
            "alpha": "alpha (to be unreliable)",
            "mask_ratio": "kept",
        },
    ),
    Panel(
        "Rare classes",
        PERCENT,
        {
            "rare_share_reliable": "of reliable pixels",
            "rare_share_unreliable": "of unreliable pixels",
            "rare_share_labeled": "of labeled pixels",
        },
    ),
    Panel(
        "Origin of the step's keys",
        PERCENT,
        {
            "share_certain": "classes the image has no tag of",
            "share_labeled": "labeled pixels",
            "share_unlabeled": "unreliable pixels",
        },
    ),
    Panel("Seeds", PERCENT, {"seed_decided": "decided pixels"}),
    Panel("Tags", PERCENT, {"tags_found": "found", "tags_invented": "invented"}),
    Panel("Entropy threshold", "nats", {"threshold": "threshold"}),
    Panel(
        "Pseudo-label accuracy",
        PERCENT,
        {
            "accuracy_teacher": "all pixels",
            "accuracy_reliable": "reliable",
            "accuracy_unreliable": "unreliable",
            "accuracy_kept": "kept",
        },
    ),
    Panel(
        "Negatives of their own true class",
        PERCENT,
        {
            "truth_among_negatives": "of unreliable pixels",
            "truth_among_negatives_chance": "by a random window",
        },
    ),
)
# The maps of one panel share their colours.
MAP_PANELS = (
    Panel("Queue", PERCENT, {"queue_fill": "fill of the queues", "queue_turnover": "keys new in this step"}),
    Panel(
        "Negatives",
        "pixels per step",
        {
            "negatives_certain": "negatives, classes the image has no tag of",
            "negatives_labeled": "negatives, rule of labeled pixels",
            "negatives_unlabeled": "negatives, rule of unlabeled pixels",
        },
    ),
    Panel("Anchors", "pixels per step", {"anchors": "anchor candidates"}),
)
SCALARS = tuple(name for panel in LINE_PANELS for name in panel.figures)
HEADING = ("method", "split", "figure", "in the log", "after the warm-up", "last", "steps")
RECORD_COLUMNS = ("figure", "unit", "step", "mean", "smallest", "largest", "n")
VECTORS = tuple(name for panel in MAP_PANELS for name in panel.figures)
WARMUP = "warmup_steps"
EVALUATION = {"step", "miou"}  # what a line holds that is no line of figures


@dataclass(frozen=True)
class Health:
    """The figures of some runs that differ in their seeds, at the T steps that all of them have logged."""

    steps: Values  # T
    figures: dict[str, Values]  # runs T, or runs T classes; NaN where a line has no value
    classes: tuple[str, ...]
    warmup: float | None  # steps

    @property
    def runs(self) -> int:
        return len(next(iter(self.figures.values())))

    def of(self, panel: Panel) -> list[str]:
        """The figures of a panel that these runs have."""
        return [name for name in panel.figures if name in self.figures]


Cell = tuple[str, Split, Health]  # label of a row, split, and the figures of its runs


def gather(runs: Sequence[Sequence[Mapping[str, Any]]], classes: Sequence[str]) -> Health | None:
    """The health figures in the log lines of some runs; None where there are none. Runs without figures do
    not count."""
    known = {*SCALARS, *VECTORS}
    lines_by_step = [
        {line["step"]: line for line in lines if line.keys() - EVALUATION}
        for lines in runs
        if any(known & line.keys() for line in lines)
    ]
    if not lines_by_step:
        return None
    steps = sorted(set.intersection(*(set(lines) for lines in lines_by_step)))
    table = [[lines[step] for step in steps] for lines in lines_by_step]
    noted = {name for lines in table for line in lines for name in line}
    figures = {}
    for name in (*SCALARS, *VECTORS):
        shape = (len(classes),) if name in VECTORS else ()
        if name in noted:
            values = np.array([_numbers([line.get(name) for line in lines], shape) for lines in table])
            if np.isfinite(values).any():
                figures[name] = values
    if not figures:
        return None
    ends = _numbers([line.get(WARMUP) for lines in table for line in lines], ())
    return Health(np.array(steps, float), figures, tuple(classes), max(ends[ends > 0], default=None))


def _numbers(said: Sequence[Any], shape: tuple[int, ...]) -> Values:
    """What the lines say, one row each, NaN where one says nothing or something of another shape."""
    rows = [value if value is not None else np.full(shape, math.nan) for value in said]
    try:  # all at once, since a log has thousands of lines; None within a list becomes NaN
        numbers = np.array(rows, float)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if numbers.shape != (len(rows), *shape):
        numbers = np.full((len(rows), *shape), math.nan)
        for place, value in enumerate(rows):
            with suppress(TypeError, ValueError):
                one = np.array(value, float)
                if one.shape == shape:
                    numbers[place] = one
    return np.where(np.abs(numbers) < LARGEST, numbers, math.nan)


# Table ------------------------------------------------------------------------------------------------------


def noted(group: Group, logs: Mapping[Path, Sequence[Mapping[str, Any]]]) -> list[Cell]:
    """The health figures of the group's rows on its splits, where the runs have any.

    Args:
        logs: Lines of the log by the folder of the run.
    """
    found = []
    for row in group.rows:
        for split in group.splits:
            health = gather([logs.get(run.folder, ()) for run in row.on(split)], group.classes)
            if health is not None:
                found.append((row.label, split, health))
    return found


def sheet(group: Group, cells: Sequence[Cell]) -> Sheet:
    """The scalars of every cell at the end of its warm-up (the first line after it) and at its last step."""
    lines: list[tuple[str, ...]] = [HEADING]
    records: list[Record] = []
    for row, split, health in cells:
        after = np.flatnonzero(health.steps > (math.inf if health.warmup is None else health.warmup))
        places = [*(int(at) for at in after[:1]), len(health.steps) - 1]
        steps = ", ".join(f"{health.steps[at]:.0f}" for at in places)
        for panel in LINE_PANELS:
            for name in health.of(panel):
                values = [health.figures[name][:, at] for at in places]
                texts = [_text(found, panel.unit) for found in values]
                said = f"{panel.title}: {panel.figures[name]} ({panel.unit})"
                lines.append((row, split.heading, said, name, *([""] * (2 - len(texts))), *texts, steps))
                unit = "share" if panel.unit == PERCENT else panel.unit
                for at, found in zip(places, values, strict=True):
                    known = found[np.isfinite(found)]
                    numbers = (known.mean(), known.min(), known.max()) if len(known) else (None, None, None)
                    figure = (name, unit, int(health.steps[at]), *numbers, len(known))
                    records.append((row, *split_names(split), *figure))
    return sheet_of(
        group,
        "health",
        "health, after the warm-up and at the last step",
        lines,
        ("method", *SPLIT_COLUMNS, *RECORD_COLUMNS),
        records,
        names=4,
        words=1,
        notes=("mean over the seeds (smallest to largest); steps: those of the two columns.",),
    )


def _text(values: Values, unit: str) -> str:
    """`83.1 (82.0 to 84.2)`: mean over the runs, smallest and largest."""
    known = values[np.isfinite(values)]
    if not len(known):
        return "none"
    factor, digits = (100, 1) if unit == PERCENT else (1, 3)
    mean, low, high = (f"{factor * part:.{digits}f}" for part in (known.mean(), known.min(), known.max()))
    return mean if low == high else f"{mean} ({low} to {high})"
