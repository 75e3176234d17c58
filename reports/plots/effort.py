"""The cost of the labels and of the training: mIoU against annotation hours and against training hours."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from bench.labels import LABEL_SECONDS, SPARSE
from reports.groups import Group, Run, summary
from reports.plots import picture as p
from reports.splits import SplitColumn, label_hours, masks, sparse_counts, supervision
from reports.statistics import Summary

# The kind of labels shows in how a marker is filled; its shape is the method's.
FILLS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "pixel": ("filled", "masks", {"fillstyle": "full"}),
    "tags": ("open", "tags", {"fillstyle": "full", "markerfacecolor": "white"}),
    "mixed": ("half", "masks and tags", {"fillstyle": "left", "markerfacecoloralt": "white"}),
    **{
        kind: (f"{side} half", kind, {"fillstyle": side, "markerfacecoloralt": "white"})
        for kind, side in zip(SPARSE, ("top", "bottom", "right"), strict=True)
    },
}
FRONT = "Pareto front"
STAIRS: p.Look = {  # behind the methods: a ring around each cell of the front, and steps between them
    "color": "#cccccc",
    "linestyle": "-",
    "linewidth": 3.0,
    "drawstyle": "steps-post",
    "marker": "o",
    "markersize": 13,
    "markerfacecolor": "none",
    "markeredgecolor": "#222222",
    "zorder": 1.5,
}
HOW_BEATEN = (
    "Ringed: the Pareto front, the cells that no other cell of this picture beats with as few hours or fewer "
    "and a mean mIoU as high or higher. Means are compared, whether or not their intervals overlap. "
)
LOG_RANGE = 5  # a wider range of hours is drawn on a log scale
HOW_TRAINED = (
    "Training of one run, mean over seeds, without evaluation; on CAM seeds with the classifier and its "
    "maps, where these are recorded. Size: peak memory."
)
COST_PANELS = 6  # of one picture
AREA = (16.0, 90.0)  # square points of a marker: at no memory, and at the largest peak of the group


@dataclass(frozen=True)
class EffortPoint:
    """Runs of one method on one split: what they took, and what they reached."""

    row: int  # its number in the table
    label: str  # of the row
    split: SplitColumn
    hours: float  # of annotation, or of the training of one run
    cell: Summary  # mIoU
    kind: str = ""  # of labels, a key of `FILLS`
    memory: float = 0.0  # MiB at the peak


# Annotation -------------------------------------------------------------------------------------------------


def hours(group: Group) -> list[p.Picture]:
    """mIoU against annotation hours: a point for each method on each split, whatever it grants."""
    by_row = [points for number in range(len(group.rows)) if (points := _annotated(group, number))]
    if not by_row:
        return []
    every = [point for points in by_row for point in points]
    spent = [point.hours for point in every]
    # Methods stand side by side, so that their bars can be told apart.
    step = min(0.01, 0.05 / len(by_row)) * max(math.log(max(spent) / min(spent)), math.log(2))
    places = [math.exp((place - (len(by_row) - 1) / 2) * step) for place in range(len(by_row))]
    shifts = {points[0].row: shift for points, shift in zip(by_row, places, strict=True)}
    lines = [_lines(points, shifts[points[0].row]) for points in by_row]
    unbeaten = front(every) if len(every) > 1 else []
    if unbeaten:
        lines.append([_stairs(unbeaten, shifts)])
    named = [(f"{at.label} on {at.split.heading}, {at.hours:.3g} hours of labels,", at.cell) for at in every]
    title = "mIoU against annotation hours"
    look = {"color": "#555555", "marker": "o", "linestyle": "none"}
    kinds = {_filled(point.kind) for point in every}
    fills = [
        (f"{filling}: {said}", look | fill) for kind, (filling, said, fill) in FILLS.items() if kind in kinds
    ]
    return [
        p.Picture(
            name=p.file_name("annotation", group),
            title=title,
            alt=f"{title}: {p.best(named)}. {_said(unbeaten)}".strip(),
            heading=f"{group.title}: {title}",
            caption=f"{_rates(group)}. Not counted: the masks of the scored list, the time to choose images. "
            f"A line joins the splits of a method; methods stand side by side. {p.BARS} "
            f"{HOW_BEATEN if unbeaten else ''}{_said(unbeaten)}".strip(),
            panels=(
                p.Panel(
                    x=_hour_axis("annotation of the training images (hours, log scale)", spent, log=True),
                    y=p.Axis("mIoU (%)", limits=p.limits([point.cell for point in every])),
                    lines=tuple(line for of_row in lines for line in of_row),
                    height=4.0,
                    above=tuple(sorted({(at.hours, at.split.label) for at in every})),
                ),
            ),
            keys=(
                *((points[0].label, p.style(points[0].row)) for points in by_row),
                *fills,
                *([(f"{FRONT}, by means", STAIRS)] if unbeaten else []),
            ),
        )
    ]


def _annotated(group: Group, number: int) -> list[EffortPoint]:
    """Return the points of a row, fewest hours first; runs without labels or a score have none."""
    row = group.rows[number]
    points = []
    for split in row.runs:
        # Seeds of one cell may have had more labels than others, by what a policy has opened.
        alike: dict[tuple[float, str], list[Run]] = defaultdict(list)
        for run in row.on(split):
            tags, sparse = run.result.images.get("tags", 0), sparse_counts(run.result)
            kind = supervision(masks(run.result), tags, sparse)
            alike[label_hours(run.result), kind].append(run)
        for (spent, kind), runs in alike.items():
            cell = summary(runs)
            if spent > 0 and p.known(cell):
                points.append(EffortPoint(number, row.label, split, spent, cell, kind=kind))
    return sorted(points, key=lambda point: point.hours)


def _lines(points: Sequence[EffortPoint], shift: float) -> list[p.Line]:
    """Return the line of a method with its bars, and its markers by kind of labels."""
    style = p.style(points[0].row)
    line = p.means(
        points[0].label,
        [shift * point.hours for point in points],
        [point.cell for point in points],
        style | {"marker": "none", "linewidth": 1.0},
    )
    found = [line]
    for kind, (_, _, fill) in FILLS.items():
        of = [i for i, point in enumerate(points) if _filled(point.kind) == kind]
        if of:
            look = style | {"linestyle": "none", "markersize": 7} | fill
            found.append(p.Line("", line.x[of], line.y[of], look))
    return found


def front(points: Sequence[EffortPoint]) -> list[EffortPoint]:
    """Return the Pareto front, fewest hours first: the points that no other beats. One that does takes as few
    hours and reaches as high a mean, and is better in one of the two; equal points do not beat each other."""

    def beaten(one: EffortPoint) -> bool:
        return any(
            other.hours <= one.hours
            and other.cell.mean >= one.cell.mean
            and (other.hours, other.cell.mean) != (one.hours, one.cell.mean)
            for other in points
        )

    return sorted((one for one in points if not beaten(one)), key=lambda one: (one.hours, one.row))


def _stairs(unbeaten: Sequence[EffortPoint], shifts: Mapping[int, float]) -> p.Line:
    """Draw the front as a line, where the markers of its cells stand."""
    x = [shifts[point.row] * point.hours for point in unbeaten]
    y = [100 * point.cell.mean for point in unbeaten]
    return p.Line(FRONT, np.asarray(x), np.asarray(y), STAIRS)


def _said(unbeaten: Sequence[EffortPoint]) -> str:
    """Say the cells of the front in words; "" where there is none."""
    cells = "; ".join(
        f"{at.label} on {at.split.heading}, {at.hours:.3g} hours, {100 * at.cell.mean:.1f} %"
        for at in unbeaten
    )
    return f"{FRONT}, fewest hours first: {cells}." if cells else ""


def _filled(kind: str) -> str:
    """Return the key of `FILLS` of a kind of labels; sparse labels beside masks are drawn as they are
    alone."""
    return kind if kind in FILLS else kind.split("+")[-1]


def _rates(group: Group) -> str:
    """`240 s a mask, 20 s for the tags of an image`: every rate that the runs have recorded."""
    seconds = [LABEL_SECONDS | run.result.label_seconds for run in group.runs]
    masks, tags = (sorted({one[kind] for one in seconds}) for kind in ("pixel", "tags"))
    there = [kind for kind in SPARSE if any(kind in run.result.images for run in group.runs)]
    sparse = "".join(
        f", {' or '.join(f'{rate:g}' for rate in sorted({one[kind] for one in seconds}))} s for its {kind}"
        for kind in there
    )
    return (
        f"Annotation takes {' or '.join(f'{rate:g}' for rate in masks)} s a mask and "
        f"{' or '.join(f'{rate:g}' for rate in tags)} s for the tags of an image{sparse}"
    )


def _hour_axis(title: str, found: Sequence[float], *, log: bool) -> p.Axis:
    """Plain numbers on an axis of hours that ends a little beyond those found."""
    low, high = min(found), max(found)
    if not log:
        margin = 0.08 * (high - low) or 0.1 * high
        return p.Axis(title, limits=(max(low - margin, 0), high + margin))
    margin = max((high / low) ** 0.06, 1.15)
    decades = math.log10(high / low)
    subs = (1.0,) if decades > 3.5 else (1.0, 3.0) if decades > 1.7 else (1.0, 2.0, 5.0)
    decade = range(math.floor(math.log10(low / margin)), math.ceil(math.log10(high * margin)) + 1)
    ticks = [sub * 10.0**power for power in decade for sub in subs]
    ticks = [tick for tick in ticks if low / margin <= tick <= high * margin]
    named = tuple((tick, f"{tick:g}") for tick in ticks) if len(ticks) > 1 else None
    return p.Axis(title, log=True, limits=(low / margin, high * margin), ticks=named)


# Training ---------------------------------------------------------------------------------------------------


def costs(group: Group) -> list[p.Picture]:
    """mIoU against the hours of training of one run, a panel for each split, markers by peak memory."""
    found = [points for split in group.splits if (points := _trained(group, split))]
    if not found:
        return []
    every = [point for points in found for point in points]
    spent = [point.hours for point in every]
    log = max(spent) > LOG_RANGE * min(spent)
    most = max(point.memory for point in every)
    rows = dict(sorted((point.row, point.label) for point in every))
    across = _hour_axis(f"training (hours{', log scale' if log else ''})", spent, log=log)
    pictures = []
    for title, shown in p.paged("mIoU against training hours", found, COST_PANELS):
        here = [point for points in shown for point in points]
        up = p.Axis("mIoU (%)", limits=p.limits([point.cell for point in here]))
        height = 2.0 if len(shown) > 1 else 3.0
        named = [
            (f"{at.label} on {at.split.heading}, {at.hours:.2g} hours of training,", at.cell) for at in here
        ]
        pictures.append(
            p.Picture(
                name=p.file_name("training", group),
                title=title,
                alt=f"{title}: {p.best(named)}.",
                heading=f"{group.title}: {title}",
                caption=f"{p.BARS} {HOW_TRAINED}",
                panels=tuple(
                    p.Panel(
                        title=points[0].split.heading,
                        x=across,
                        y=up,
                        lines=tuple(_mark(point, most) for point in points),
                        height=height,
                    )
                    for points in shown
                ),
                columns=2 if len(shown) > 1 else 1,
                keys=(*((label, _marker(row)) for row, label in rows.items()), *_memory_keys(most)),
            )
        )
    return pictures


def _trained(group: Group, split: SplitColumn) -> list[EffortPoint]:
    """Return the point of each row on a split, where training times and a score are recorded."""
    points = []
    for number, row in enumerate(group.rows):
        runs = [run for run in row.on(split) if run.result.train_seconds > 0]
        cell = summary(runs)
        if p.known(cell):
            # Of records from before the classifier's cost was kept, the training alone.
            whole = [
                run.result.train_seconds if run.result.whole_seconds is None else run.result.whole_seconds
                for run in runs
            ]
            spent = fmean(whole) / 3600
            memory = max(run.result.whole_peak_mib for run in runs)
            points.append(EffortPoint(number, row.label, split, spent, cell, memory=memory))
    return points


def _mark(point: EffortPoint, most: float) -> p.Line:
    look = _marker(point.row) | {"markersize": _size(point.memory, most)}
    return p.means(point.label, [point.hours], [point.cell], look)


def _marker(number: int) -> dict[str, Any]:
    return {**p.style(number), "linestyle": "none"}


def _size(memory: float, most: float) -> float:
    """Points across a marker, whose area grows with the peak memory."""
    low, high = AREA
    return math.sqrt(low + (high - low) * (memory / most if most > 0 else 0.0))


def _memory_keys(most: float) -> list[tuple[str, p.Look]]:
    """Two sizes of round numbers of memory, for the legend; none where no memory is recorded."""
    if most <= 0:
        return []
    looks = {"color": "#999999", "marker": "o", "linestyle": "none"}
    sizes = sorted({float(f"{most / 1024 * share:.1g}") for share in (0.25, 1.0)})
    return [(f"peak {gib:g} GiB", {**looks, "markersize": _size(1024 * gib, most)}) for gib in sizes]
