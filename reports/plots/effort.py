"""What the labels and the training cost: mIoU against annotation hours and against training hours."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.labels import LABEL_SECONDS
from bench.records.schema import Result
from reports.groups import COLUMNS, Group, Split, score_of
from reports.plots.picture import (
    BARS,
    Axis,
    Line,
    Look,
    Panel,
    Picture,
    batches,
    best,
    file_name,
    known,
    limits,
    means,
    numbered,
    style,
)
from reports.statistics import Summary, summarise

# What was granted shows in how a marker is filled; its shape is the method's.
FILLS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "pixel": ("filled", "masks", {"fillstyle": "full"}),
    "tags": ("open", "tags", {"fillstyle": "full", "markerfacecolor": "white"}),
    "mixed": ("half", "masks and tags", {"fillstyle": "left", "markerfacecoloralt": "white"}),
}
LOG_RANGE = 5  # a wider range of hours is drawn on a log scale
COST_PANELS = 6  # of one picture
AREA = (16.0, 90.0)  # square points of a marker: at no memory, and at the largest peak of the group


def label_hours(result: Result) -> float:
    """Hours to label the images of a run, by what its record says of one image.

    Masks that a policy of CAM seeds has opened count as masks, beside the tags of their images. The scored
    list and the choice of images are not counted.
    """
    seconds = LABEL_SECONDS | result.label_seconds
    masks = result.images.get("pixel", 0) + result.images.get("opened", 0)
    return (masks * seconds["pixel"] + result.images.get("tags", 0) * seconds["tags"]) / 3600


def supervision(result: Result) -> str:
    """Kind of labels a run has learned from: a key of `FILLS`."""
    masks = result.images.get("pixel", 0) + result.images.get("opened", 0)
    if not result.images.get("tags", 0):
        return "pixel"
    return "mixed" if masks else "tags"


# Annotation -------------------------------------------------------------------------------------------------

Point = tuple[float, str, Summary]  # hours, kind of labels, mIoU


def hours(group: Group) -> list[Picture]:
    """mIoU against annotation hours: a point for each method on each split, whatever it grants."""
    drawn: list[tuple[int, str, list[Point]]] = []
    named = []
    for number, row in enumerate(group.rows):
        points: list[Point] = []
        for split in row.runs:
            # Seeds of one cell may have had more labels than others, by what a policy has opened.
            alike: dict[tuple[float, str], list[Result]] = defaultdict(list)
            for run in row.on(split):
                alike[label_hours(run.result), supervision(run.result)].append(run.result)
            for (spent, kind), runs in alike.items():
                cell = summarise(score_of(run, "last") for run in runs)
                if spent > 0 and known(cell):
                    points.append((spent, kind, cell))
                    named.append((f"{row.label} on {split.heading}, {spent:.3g} hours of labels,", cell))
        if points:
            drawn.append((number, row.label, sorted(points, key=lambda point: point[0])))
    if not drawn:
        return []
    kinds = {kind for _, _, points in drawn for _, kind, _ in points}
    every = [spent for _, _, points in drawn for spent, _, _ in points]
    title = "mIoU against annotation hours"
    step = min(0.01, 0.05 / len(drawn)) * max(math.log(max(every) / min(every)), math.log(2))
    panel = Panel(
        x=_hour_axis("annotation of the training images (hours, log scale)", every, log=True),
        y=Axis(f"{COLUMNS['last'][0]} (%)", limits=limits([cell for _, _, of in drawn for _, _, cell in of])),
        lines=tuple(
            line
            for place, one in enumerate(drawn)
            for line in _lines(*one, shift=math.exp((place - (len(drawn) - 1) / 2) * step))
        ),
        height=3.4,
    )
    look = {"color": "#555555", "marker": "o", "linestyle": "none"}
    fills = [
        (f"{filling}: {said}", look | fill) for kind, (filling, said, fill) in FILLS.items() if kind in kinds
    ]
    return [
        Picture(
            name=file_name("annotation", group),
            title=title,
            alt=f"{title}: {best(named)}.",
            heading=f"{group.title}: {title}",
            caption=f"{_rates(group)}. Not counted: the masks of the scored list, the time to choose images. "
            f"A line joins the splits of a method; methods stand side by side. {BARS}",
            panels=(panel,),
            keys=(*((label, style(number)) for number, label, _ in drawn), *fills),
        )
    ]


def _lines(number: int, label: str, points: Sequence[Point], shift: float) -> list[Line]:
    """The line of a method with its bars, and its markers by kind of labels."""
    line = means(
        label,
        [shift * spent for spent, _, _ in points],
        [cell for _, _, cell in points],
        style(number) | {"marker": "none", "linewidth": 1.0},
    )
    found = [line]
    for kind, (_, _, fill) in FILLS.items():
        of = [i for i, point in enumerate(points) if point[1] == kind]
        if of:
            look = style(number) | {"linestyle": "none", "markersize": 7} | fill
            found.append(Line("", line.x[of], line.y[of], look))
    return found


def _rates(group: Group) -> str:
    """`240 s a mask, 20 s for the tags of an image`: every rate that the runs have recorded."""
    seconds = [LABEL_SECONDS | run.result.label_seconds for run in group.runs]
    masks, tags = (sorted({one[kind] for one in seconds}) for kind in ("pixel", "tags"))
    return (
        f"Annotation takes {' or '.join(f'{rate:g}' for rate in masks)} s a mask and "
        f"{' or '.join(f'{rate:g}' for rate in tags)} s for the tags of an image"
    )


def _hour_axis(title: str, found: Sequence[float], *, log: bool) -> Axis:
    """Plain numbers on an axis of hours that ends a little beyond those found."""
    low, high = min(found), max(found)
    if not log:
        margin = 0.08 * (high - low) or 0.1 * high
        return Axis(title, limits=(max(low - margin, 0), high + margin))
    margin = max((high / low) ** 0.06, 1.15)
    decades = math.log10(high / low)
    subs = (1.0,) if decades > 3.5 else (1.0, 3.0) if decades > 1.7 else (1.0, 2.0, 5.0)
    decade = range(math.floor(math.log10(low / margin)), math.ceil(math.log10(high * margin)) + 1)
    ticks = [sub * 10.0**power for power in decade for sub in subs]
    ticks = [tick for tick in ticks if low / margin <= tick <= high * margin]
    named = tuple((tick, f"{tick:g}") for tick in ticks) if len(ticks) > 1 else None
    return Axis(title, log=True, limits=(low / margin, high * margin), ticks=named)


# Training ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """The runs of one method on one split."""

    number: int  # of the row
    label: str
    hours: float
    memory: float  # MiB
    cell: Summary


def costs(group: Group) -> list[Picture]:
    """mIoU against the hours of training of one run, a panel for each split, markers by peak memory."""
    found = [(split, points) for split in group.splits if (points := _costs(group, split))]
    if not found:
        return []
    every = [point for _, points in found for point in points]
    spent = [point.hours for point in every]
    log = max(spent) > LOG_RANGE * min(spent)
    most = max(point.memory for point in every)
    rows = dict(sorted((point.number, point.label) for point in every))
    across = _hour_axis(f"training (hours{', log scale' if log else ''})", spent, log=log)
    title = "mIoU against training hours"
    pictures = []
    pages = batches(len(found), COST_PANELS)
    for page, places in enumerate(pages):
        shown = [found[place] for place in places]
        said = numbered(title, page, len(pages))
        ends = limits([point.cell for _, points in shown for point in points])
        named = [
            (f"{point.label} on {split.heading}, {point.hours:.2g} hours of training,", point.cell)
            for split, points in shown
            for point in points
        ]
        pictures.append(
            Picture(
                name=file_name("training", group),
                title=said,
                alt=f"{said}: {best(named)}.",
                heading=f"{group.title}: {said}",
                caption="Training of one run, mean over seeds, without evaluation. Size: peak memory. "
                f"{BARS}",
                panels=tuple(
                    Panel(
                        title=split.heading,
                        x=across,
                        y=Axis(f"{COLUMNS['last'][0]} (%)", limits=ends),
                        lines=tuple(
                            means(
                                point.label,
                                [point.hours],
                                [point.cell],
                                _marker(point.number) | {"markersize": _size(point.memory, most)},
                            )
                            for point in points
                        ),
                        height=2.0 if len(shown) > 1 else 3.0,
                    )
                    for split, points in shown
                ),
                columns=2 if len(shown) > 1 else 1,
                keys=(*((label, _marker(number)) for number, label in rows.items()), *_memory_keys(most)),
            )
        )
    return pictures


def _costs(group: Group, split: Split) -> list[Cost]:
    points = []
    for number, row in enumerate(group.rows):
        runs = [run.result for run in row.on(split) if run.result.train_seconds > 0]
        cell = summarise(score_of(run, "last") for run in runs) if runs else None
        if known(cell):
            spent = summarise(run.train_seconds for run in runs).mean / 3600
            points.append(Cost(number, row.label, spent, max(run.peak_memory_mib for run in runs), cell))
    return points


def _marker(number: int) -> dict[str, Any]:
    return {**style(number), "linestyle": "none"}


def _size(memory: float, most: float) -> float:
    """Points across a marker, whose area grows with the peak memory."""
    low, high = AREA
    return math.sqrt(low + (high - low) * (memory / most if most > 0 else 0.0))


def _memory_keys(most: float) -> list[tuple[str, Look]]:
    """Two sizes of round numbers of memory, for the legend; none where no memory is recorded."""
    if most <= 0:
        return []
    looks = {"color": "#999999", "marker": "o", "linestyle": "none"}
    sizes = sorted({float(f"{most / 1024 * share:.1g}") for share in (0.25, 1.0)})
    return [(f"peak {gib:g} GiB", {**looks, "markersize": _size(1024 * gib, most)}) for gib in sizes]
