"""Health figures over the steps: of one row class by class, and of all methods beside each other."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from reports.groups import Group
from reports.plots import picture as p
from reports.plots import steps
from reports.sheets.health import (
    CLASS_FIGURES,
    GRADIENT,
    PERCENT,
    SCALAR_FIGURES,
    Figures,
    Health,
    Noted,
    Values,
)
from reports.splits import SplitColumn

WIDTH = 11.8  # inches of a picture of two columns


def _over_runs(values: Values) -> tuple[Values, Values, Values]:
    """Mean, smallest and largest over the runs that have a value."""
    known = np.ma.masked_invalid(values)
    mean, low, high = (np.ma.filled(part, math.nan) for part in (known.mean(0), known.min(0), known.max(0)))
    return mean, low, high


# One row ----------------------------------------------------------------------------------------------------


def detail(group: Group, row: str, split: SplitColumn, health: Health) -> p.Picture:
    """Make a picture of the figures of one row on one split."""
    name = f"{row} on {split.heading}"
    return picture(
        health,
        name=f"health-{group.dataset}-{group.protocol_hash[:8]}-{split.label}-{row}",
        title=f"health of {name}, class by class",
        alt=f"What {name} noted over its training steps; the table has the last values.",
        heading=f"{group.title}: {name}",
    )


def picture(health: Health, *, name: str, title: str, alt: str, heading: str) -> p.Picture:
    """Make a panel per kind of figure, over the steps: lines with their bands, and maps class by step."""
    lines: list[p.Panel | None] = [
        _lines(figures, health) for figures in SCALAR_FIGURES if health.of(figures)
    ]
    maps = [(figures, of) for figures in CLASS_FIGURES for of in health.of(figures)]
    columns = 2 if max(len(lines), len(maps)) > 1 else 1
    if len(lines) % columns:
        lines.append(None)
    return p.Picture(
        name=name,
        title=title,
        alt=alt,
        heading=heading,
        caption=_caption(health, bool(maps)),
        panels=(*lines, *(_map(*of, health, named=at % columns == 0) for at, of in enumerate(maps))),
        columns=columns,
        width=WIDTH if columns == 2 else WIDTH / 2,
    )


def _caption(health: Health, maps: bool) -> str:
    said = ["training step; every point is the mean since the one before"]
    if health.runs > 1:
        # An audit is optional, so that some runs may lack some figures.
        whole = all(np.isfinite(run).any() for values in health.figures.values() for run in values)
        few = "" if whole else "up to "
        said.append(f"mean of {few}{health.runs} seeds, band: smallest to largest")
    if health.warmup is not None:
        said.append(f"dashed: the warm-up ends at step {health.warmup:.0f}")
    if maps:
        said.append("white: 0, hatched: no value")
    return "; ".join(said)


def _lines(figures: Figures, health: Health) -> p.Panel:
    factor = 100 if figures.unit == PERCENT else 1
    lines = []
    for number, (name, said) in enumerate(figures.figures.items()):
        if name not in health.figures:
            continue
        values = factor * health.figures[name]
        # A figure that is measured now and then is a line through these points.
        seen = np.isfinite(values).any(0) if name.startswith(GRADIENT) else np.full(len(health.steps), True)
        mean, *ends = _over_runs(values[:, seen])
        look = {
            "color": p.COLOURS[number % len(p.COLOURS)],
            "linestyle": p.LINES[number % len(p.LINES)],
            "linewidth": 1.6,
            "marker": "o" if name.startswith(GRADIENT) or np.isfinite(mean).sum() == 1 else "",
            "markersize": 4,
        }
        low, high = ends if health.runs > 1 else (None, None)
        lines.append(p.Line(said, health.steps[seen], mean, look, low, high, band=True))
    return p.Panel(
        title=figures.title,
        x=p.Axis(limits=(0, health.steps[-1])),
        y=p.Axis(figures.unit, zero=True),
        lines=tuple(lines),
        height=1.7,
        named=len(figures.figures) > 1,
        dashed=health.warmup,
    )


def _map(figures: Figures, name: str, health: Health, named: bool) -> p.Panel:
    """Class by step; a column reaches back to the line before, as its mean does."""
    share = figures.unit == PERCENT
    factor = 100 if share else 1
    together = np.concatenate([(factor * health.figures[other]).ravel() for other in health.of(figures)])
    return p.Panel(
        title=figures.figures[name].capitalize(),
        map=p.Map(
            factor * _over_runs(health.figures[name])[0].T,  # classes T
            rows=health.classes if named else (),
            bar=figures.unit,
            edges=np.concatenate([[0.0], health.steps]),
            scale="even" if share else "decades",
            ends=(0.0, _percent(100 * health.figures[name])) if share else _decades(together),
            white=True,
        ),
        height=min(8.5, 0.5 + 0.18 * len(health.classes)),
        dashed=health.warmup,
    )


def _percent(values: Values) -> float:
    """Return the upper end of colours for shares: a round number in percent that the largest does not
    pass."""
    largest = np.nanmax(values, initial=0.0)
    return next((end for end in (1.0, 2.0, 5.0, 10.0, 20.0, 50.0) if largest <= end), 100.0)


def _decades(values: Values) -> tuple[float, float]:
    """Return the ends of colours for counts, whole powers of ten, such as `(1.0, 1000.0)`."""
    positive = values[np.isfinite(values) & (values > 0)]
    if not len(positive):
        return 1.0, 10.0
    low, high = math.floor(math.log10(positive.min())), math.ceil(math.log10(positive.max()))
    return 10.0 ** max(low, high - 6), 10.0 ** max(high, low + 1)


# All methods ------------------------------------------------------------------------------------------------


# The figures of each panel: it shows the first of them that a method notes.
OVERVIEWS = {
    steps.Figure("Reliable or kept pixels", PERCENT): ("reliable_share", "mask_ratio"),
    steps.Figure("Their accuracy", PERCENT): ("accuracy_reliable", "accuracy_kept"),
    steps.Figure("Accuracy of all pixels", PERCENT): ("accuracy_teacher",),
    steps.Figure("Threshold", "nats, or a confidence"): ("threshold",),
    steps.Figure("Queue fill", PERCENT): ("queue_fill",),
    steps.Figure("Negatives: absent tags", "pixels a step"): ("negatives_certain",),
    steps.Figure("Negatives: labeled pixels", "pixels a step"): ("negatives_labeled",),
    steps.Figure("Negatives: unlabeled pixels", "pixels a step"): ("negatives_unlabeled",),
}


def overview(group: Group, noted: Sequence[Noted]) -> list[p.Picture]:
    """Pseudo-label health over the steps with all methods beside each other, a few splits in each picture."""
    rows = {row.label: number for number, row in enumerate(group.rows)}
    found: dict[SplitColumn, dict[tuple[steps.Figure, int], steps.Trace]] = defaultdict(dict)
    for label, split, health in noted:
        for figure, names in OVERVIEWS.items():
            traces = [one for name in names if (one := _trace(health, name, figure.unit == PERCENT))]
            if traces:
                found[split][figure, rows[label]] = traces[0]
    return steps.pictures(
        group,
        found,
        list(OVERVIEWS),
        kind="pseudo-labels",
        title="Pseudo-labels while training",
        caption="Every point is the mean since the one before; of queues the mean of the classes, of "
        "negatives their sum.",
    )


def _trace(health: Health, name: str, share: bool) -> steps.Trace | None:
    """Return a figure at the steps at which all runs that have it do: of classes the sum of counts, and the
    mean of shares in percent. None where there is no such step."""
    values = health.figures.get(name, np.empty((0, len(health.steps))))
    if values.ndim > 2:
        over_classes = np.ma.masked_invalid(values)
        values = np.ma.filled(over_classes.mean(2) if share else over_classes.sum(2), math.nan)
    known = np.isfinite(values)
    runs = known.any(1)
    at = known[runs].all(0)
    if not runs.any() or not at.any():
        return None
    return health.steps[at], (100 if share else 1) * values[runs][:, at]
