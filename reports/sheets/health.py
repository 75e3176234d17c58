"""Health figures of a training, from the notes in the logs: read, and as a table.

The figures are the notes of the methods, by the names that the log lines carry. What a method does not note
is not shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reports.groups import Group
from reports.sheets import sheet as s
from reports.splits import SplitColumn

Values = NDArray[np.float64]
PERCENT = "%"
LARGEST = 1e100  # of a number that is drawn
GRADIENT = "gradient_share/"  # before the name of a term, measured at a few steps of a run


@dataclass(frozen=True)
class Figures:
    """Figures that are read together. Scalars are lines; a figure of one value per class is a map of its
    own."""

    title: str
    unit: str  # "%" for shares 0..1
    figures: Mapping[str, str]  # what each is, by its name in the log
    normal: str  # how it runs in a training that goes well


SCALAR_FIGURES = (
    Figures(
        "Shares",
        PERCENT,
        {
            "reliable_share": "reliable",
            "alpha": "alpha (to be unreliable)",
            "mask_ratio": "kept",
        },
        "of u2pl the reliable share starts at 80 % and rises evenly as alpha falls; the kept share of"
        " the others rises from near 0, and 100 % from the start means that the network is too sure "
        "of itself.",
    ),
    Figures(
        "Rare classes",
        PERCENT,
        {
            "rare_share_reliable": "of reliable pixels",
            "rare_share_unreliable": "of unreliable pixels",
            "rare_share_labeled": "of labeled pixels",
        },
        "all three near each other; a share of reliable pixels near 0 means that pseudo-labels do not"
        " teach the rare classes.",
    ),
    Figures(
        "Origin of the step's keys",
        PERCENT,
        {
            "share_certain": "classes the image has no tag of",
            "share_labeled": "labeled pixels",
            "share_unlabeled": "unreliable pixels",
        },
        "steady parts that add up to 100 %; none at 0 for long.",
    ),
    Figures(
        "Share of the gradient",
        PERCENT,
        {
            f"{GRADIENT}labeled": "of the labeled term",
            f"{GRADIENT}unlabeled": "of the pseudo-labels",
            f"{GRADIENT}consistency": "of the consistency",
            f"{GRADIENT}contrast": "of the contrast",
        },
        "the labeled term leads at first; no other term near 100 % for long.",
    ),
    Figures("Seeds", PERCENT, {"seed_decided": "decided pixels"}, "one level, since seeds are made once."),
    Figures(
        "Tags",
        PERCENT,
        {"tags_found": "found", "tags_invented": "invented"},
        "found rises towards 100 %, invented falls towards 0.",
    ),
    Figures(
        "Threshold",
        "nats, or a confidence",
        {"threshold": "threshold"},
        "of the u2pl family an entropy in nats, which falls as the network gets surer; of the others a"
        " confidence, which rises.",
    ),
    Figures(
        "Pseudo-label accuracy",
        PERCENT,
        {
            "accuracy_teacher": "all pixels",
            "accuracy_reliable": "reliable",
            "accuracy_unreliable": "unreliable",
            "accuracy_kept": "kept",
        },
        "reliable and kept pixels above all pixels, unreliable ones below; all rise or hold.",
    ),
    Figures(
        "Negatives of their own true class",
        PERCENT,
        {
            "truth_among_negatives": "of unreliable pixels",
            "truth_among_negatives_chance": "by a random window",
        },
        "below the line of a random window: a negative of a pixel's true class teaches the wrong thing.",
    ),
)
# The maps of one panel share their colours.
CLASS_FIGURES = (
    Figures(
        "Queue",
        PERCENT,
        {"queue_fill": "fill of the queues", "queue_turnover": "keys new in this step"},
        "the fill is at 100 % soon after the warm-up, of rare classes last; a class at 0 is never a key.",
    ),
    Figures(
        "Negatives",
        "pixels per step",
        {
            "negatives_certain": "negatives, classes the image has no tag of",
            "negatives_labeled": "negatives, rule of labeled pixels",
            "negatives_unlabeled": "negatives, rule of unlabeled pixels",
        },
        "every class has some after the warm-up; fewer as fewer pixels are unreliable.",
    ),
    Figures(
        "Anchors",
        "pixels per step",
        {"anchors": "anchor candidates"},
        "every class has some; a class at 0 is never contrasted.",
    ),
)
SCALARS = tuple(name for of in SCALAR_FIGURES for name in of.figures)
VECTORS = tuple(name for of in CLASS_FIGURES for name in of.figures)
FIGURE_COLUMNS = ("figure", "unit", "step", "mean", "smallest", "largest", "n")
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

    def of(self, figures: Figures) -> list[str]:
        """Return the names among these figures that the runs have."""
        return [name for name in figures.figures if name in self.figures]


Noted = tuple[str, SplitColumn, Health]  # label of a row, split, and the figures of its runs


def gather(runs: Sequence[Sequence[Mapping[str, Any]]], classes: Sequence[str]) -> Health | None:
    """Gather the health figures in the log lines of some runs; None where there are none. Runs without
    figures do not count."""
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
    in_log = {name for lines in table for line in lines for name in line}
    figures = {}
    for name in (*SCALARS, *VECTORS):
        if name in in_log:
            shape = (len(classes),) if name in VECTORS else ()
            values = np.array([[_numbers(line.get(name), shape) for line in lines] for lines in table])
            if np.isfinite(values).any():
                figures[name] = values
    if not figures:
        return None
    ends = np.array([_numbers(line.get(WARMUP), ()) for lines in table for line in lines])
    return Health(np.array(steps, float), figures, tuple(classes), max(ends[ends > 0], default=None))


def _numbers(value: Any, shape: tuple[int, ...]) -> Values:
    """Read the numbers that a line says; NaN where it says nothing, something of another shape, or more than
    can be drawn."""
    try:
        found = np.array(value, float)  # None within a list becomes NaN
    except (TypeError, ValueError):
        return np.full(shape, math.nan)
    if found.shape != shape:
        return np.full(shape, math.nan)
    return np.where(np.abs(found) < LARGEST, found, math.nan)


# Table ------------------------------------------------------------------------------------------------------


def noted(group: Group, logs: Mapping[Path, Sequence[Mapping[str, Any]]]) -> list[Noted]:
    """Return the health figures of the group's rows on its splits, where the runs have any.

    Args:
        logs: Lines of the log by the folder of the run.
    """
    gathered = (
        (row.label, split, gather([logs.get(run.folder, ()) for run in row.on(split)], group.classes))
        for row, split, _ in group.cells()
    )
    return [(label, split, health) for label, split, health in gathered if health]


def normals(noted: Sequence[Noted]) -> tuple[tuple[str, str], ...]:
    """Say what is normal for each kind of figure that these cells have, by its title."""
    seen = {name for _, _, health in noted for name in health.figures}
    every = (*SCALAR_FIGURES, *CLASS_FIGURES)
    return tuple(
        (of.title, f"{of.normal[0].upper()}{of.normal[1:]}") for of in every if seen & of.figures.keys()
    )


def health_sheet(group: Group, noted: Sequence[Noted]) -> s.Sheet:
    """Make the table of the scalars of every cell at the end of its warm-up (the first line after it) and at
    its last step; of a figure that is measured now and then, the first and the last of them."""
    records = [record for cell in noted for record in _records(*cell)]
    lines = [["method", "split", "figure", "in the log", "after the warm-up", "last", "steps"]]
    for said, places in groupby(records, lambda of: (of["method"], of["heading"], of["said"], of["figure"])):
        texts, steps = zip(*((record["text"], str(record["step"])) for record in places), strict=True)
        lines.append([*said, *([""] * (2 - len(texts))), *texts, ", ".join(steps)])
    return s.sheet_of(
        group,
        "health",
        "health, after the warm-up and at the last step",
        ("method", *s.SPLIT_COLUMNS, *FIGURE_COLUMNS),
        records,
        lines,
        names=4,
        words=1,
        notes=("mean over the seeds (smallest to largest); steps: those of the two columns.",),
    )


def _records(row: str, split: SplitColumn, health: Health) -> Iterator[s.Record]:
    """Each scalar at the one or two steps that are shown."""
    after = health.steps > (math.inf if health.warmup is None else health.warmup)
    for figures in SCALAR_FIGURES:
        for name in health.of(figures):
            measured: Any = np.ones_like(after)
            if name.startswith(GRADIENT):
                measured = np.isfinite(health.figures[name]).any(0)
            places = [*np.flatnonzero(after & measured)[:1], *np.flatnonzero(measured)[-1:]]
            said = f"{figures.title}: {figures.figures[name]} ({figures.unit})"
            for at in places:
                values = health.figures[name][:, at]
                known = values[np.isfinite(values)]
                numbers = (known.mean(), known.min(), known.max()) if len(known) else (None, None, None)
                unit = "share" if figures.unit == PERCENT else figures.unit
                figure = (name, unit, int(health.steps[at]), *numbers, len(known))
                record = {"method": row, "said": said, "text": _text(known, figures.unit)}
                yield record | s.split_record(split) | dict(zip(FIGURE_COLUMNS, figure, strict=True))


def _text(known: Values, unit: str) -> str:
    """`83.1 (82.0 to 84.2)`: mean over the runs, smallest and largest."""
    if not len(known):
        return "none"
    factor, digits = (100, 1) if unit == PERCENT else (1, 3)
    mean, low, high = (f"{factor * part:.{digits}f}" for part in (known.mean(), known.min(), known.max()))
    return mean if low == high else f"{mean} ({low} to {high})"
