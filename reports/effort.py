"""What the labels and the training cost: mIoU against annotation hours and against training hours."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from bench.errors import plain
from bench.labels import LABEL_SECONDS
from bench.records.schema import Result
from reports.plots import (
    BARS,
    Picture,
    batches,
    best,
    compose,
    error_bars,
    file_name,
    known,
    limits,
    numbered,
    plain_panel,
    round_ticks,
    style,
)
from reports.statistics import Summary, summarise
from reports.tables import COLUMNS, columns_of, miou_table, runs_of, score_of

# What was granted shows in how a marker is filled; its shape is the method's.
FILLS: dict[str, tuple[str, dict[str, Any]]] = {
    "pixel": ("masks", {"fillstyle": "full"}),
    "tags": ("tags", {"fillstyle": "full", "markerfacecolor": "white"}),
    "mixed": ("masks and tags", {"fillstyle": "left", "markerfacecoloralt": "white"}),
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


def hours(group: Sequence[Result]) -> list[Picture]:
    """mIoU against annotation hours: a point for each method on each split, whatever it grants."""
    table = miou_table(group)
    columns = columns_of(group)
    drawn: list[tuple[int, str, list[tuple[float, str, Summary]]]] = []
    named = []
    for number, (label, by_split) in enumerate(runs_of(group).items()):
        points = []
        for key, by_seed in by_split.items():
            # Seeds of one cell may have had more labels than others, by what a policy has opened.
            alike: dict[tuple[float, str], list[Result]] = defaultdict(list)
            for run in by_seed.values():
                alike[label_hours(run), supervision(run)].append(run)
            for (spent, kind), runs in alike.items():
                cell = summarise(score_of(run, "last") for run in runs)
                if spent > 0 and known(cell):
                    points.append((spent, kind, cell))
                    named.append((f"{label} on {columns[key].heading}, {spent:.3g} hours of labels,", cell))
        if points:
            drawn.append((number, label, sorted(points, key=lambda point: point[0])))
    if not drawn:
        return []
    kinds = {kind for _, _, points in drawn for _, kind, _ in points}
    looks: Mapping[str, Any] = {"color": "#555555", "marker": "o", "linestyle": "none"}
    title = "mIoU against annotation hours"
    figure, (ax,) = compose(
        1,
        1,
        3.4,
        title=f"{table.title}: {title}",
        caption=f"{_rates(group)}. Not counted: the masks of the scored list, the time to choose images. A "
        f"line joins the splits of a method; methods stand side by side. {BARS}",
        above=0.12,
        keys=[
            *((label, style(number)) for number, label, _ in drawn),
            *(
                (f"filled: {said}" if kind == "pixel" else f"{_filling(kind)}: {said}", {**looks, **fill})
                for kind, (said, fill) in FILLS.items()
                if kind in kinds
            ),
        ],
    )
    ax.set_ylim(*limits([cell for _, _, points in drawn for _, _, cell in points]))
    every = [spent for _, _, points in drawn for spent, _, _ in points]
    step = min(0.01, 0.05 / len(drawn)) * max(math.log(max(every) / min(every)), math.log(2))
    for place, (number, label, points) in enumerate(drawn):
        kind_of = style(number)
        shift = math.exp((place - (len(drawn) - 1) / 2) * step)
        line = error_bars(
            ax,
            [shift * spent for spent, _, _ in points],
            [cell for _, _, cell in points],
            **{**kind_of, "marker": "none", "linewidth": 1.0},
        )
        line.set_gid(plain(label))
        for kind, (_, fill) in FILLS.items():
            of = [(shift * spent, 100 * cell.mean) for spent, found, cell in points if found == kind]
            if of:
                ax.plot(*zip(*of, strict=True), **{**kind_of, "linestyle": "none", "markersize": 7, **fill})
    _hour_axis(ax, every, log=True)
    plain_panel(ax)
    ax.set_xlabel("annotation of the training images (hours, log scale)")
    ax.set_ylabel(f"{COLUMNS[table.column][0]} (%)")
    return [Picture(file_name("annotation", table), title, f"{title}: {best(named)}.", figure)]


def _filling(kind: str) -> str:
    return {"tags": "open", "mixed": "half"}[kind]


def _rates(group: Sequence[Result]) -> str:
    """`240 s a mask, 20 s for the tags of an image`: every rate that the runs have recorded."""
    seconds = [LABEL_SECONDS | run.label_seconds for run in group]
    masks, tags = (sorted({one[kind] for one in seconds}) for kind in ("pixel", "tags"))
    return (
        f"Annotation takes {' or '.join(f'{rate:g}' for rate in masks)} s a mask and "
        f"{' or '.join(f'{rate:g}' for rate in tags)} s for the tags of an image"
    )


def _hour_axis(ax: Axes, found: Sequence[float], *, log: bool) -> None:
    """Plain numbers on an axis of hours that ends a little beyond those found."""
    low, high = min(found), max(found)
    if log:
        margin = max((high / low) ** 0.06, 1.15)
        ax.set_xscale("log")
        ax.set_xlim(low / margin, high * margin)
        decades = math.log10(high / low)
        subs = (1.0,) if decades > 3.5 else (1.0, 3.0) if decades > 1.7 else (1.0, 2.0, 5.0)
        decade = range(math.floor(math.log10(low / margin)), math.ceil(math.log10(high * margin)) + 1)
        ticks = [sub * 10.0**power for power in decade for sub in subs]
        ticks = [tick for tick in ticks if low / margin <= tick <= high * margin]
        ax.xaxis.set_minor_locator(NullLocator())
        if len(ticks) > 1:
            ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        else:
            round_ticks(ax.xaxis)
    else:
        margin = 0.08 * (high - low) or 0.1 * high
        ax.set_xlim(max(low - margin, 0), high + margin)
        round_ticks(ax.xaxis)


# Training ---------------------------------------------------------------------------------------------------


def costs(group: Sequence[Result]) -> list[Picture]:
    """mIoU against the hours of training of one run, a panel for each split, markers by peak memory."""
    table = miou_table(group)
    runs = runs_of(group)
    panels = []
    for key, split in columns_of(group).items():
        points = []
        for number, (label, by_split) in enumerate(runs.items()):
            found = [run for run in by_split.get(key, {}).values() if run.train_seconds > 0]
            cell = summarise(score_of(run, "last") for run in found) if found else None
            if known(cell):
                x = summarise(run.train_seconds for run in found).mean / 3600
                points.append((number, label, x, max(run.peak_memory_mib for run in found), cell))
        if points:
            panels.append((split, points))
    if not panels:
        return []
    every = [point for _, points in panels for point in points]
    spent = [point[2] for point in every]
    log = max(spent) > LOG_RANGE * min(spent)
    most = max(point[3] for point in every)
    rows = {number: label for number, label, *_ in every}
    title = "mIoU against training hours"
    pictures = []
    pages = batches(len(panels), COST_PANELS)
    for page, places in enumerate(pages):
        shown = [panels[place] for place in places]
        said = numbered(title, page, len(pages))
        figure, axes = compose(
            len(shown),
            2 if len(shown) > 1 else 1,
            2.0 if len(shown) > 1 else 3.0,
            title=f"{table.title}: {said}",
            caption=f"Training of one run, mean over seeds, without evaluation. Size: peak memory. {BARS}",
            keys=[*((rows[number], _marker(number)) for number in sorted(rows)), *_memory_keys(most)],
            below=0.5,
        )
        bottom, top = limits([point[4] for _, points in shown for point in points])
        for ax, (split, points) in zip(axes, shown, strict=True):
            ax.set_ylim(bottom, top)
            _hour_axis(ax, spent, log=log)
            for number, label, x, memory, cell in points:
                line = error_bars(ax, [x], [cell], **{**_marker(number), "markersize": _size(memory, most)})
                line.set_gid(plain(label))
            plain_panel(ax, split.heading)
            ax.set_xlabel(f"training (hours{', log scale' if log else ''})", fontsize=9)
            ax.set_ylabel(f"{COLUMNS[table.column][0]} (%)", fontsize=9)
        named = [
            (f"{label} on {split.heading}, {x:.2g} hours of training,", cell)
            for split, points in shown
            for _, label, x, _, cell in points
        ]
        pictures.append(Picture(file_name("training", table), said, f"{said}: {best(named)}.", figure))
    return pictures


def _marker(number: int) -> dict[str, Any]:
    return {**style(number), "linestyle": "none"}


def _size(memory: float, most: float) -> float:
    """Points across a marker, whose area grows with the peak memory."""
    low, high = AREA
    return math.sqrt(low + (high - low) * (memory / most if most > 0 else 0.0))


def _memory_keys(most: float) -> list[tuple[str, dict[str, Any]]]:
    """Two sizes of round numbers of memory, for the legend; none where no memory is recorded."""
    if most <= 0:
        return []
    looks = {"color": "#999999", "marker": "o", "linestyle": "none"}
    sizes = sorted({float(f"{most / 1024 * share:.1g}") for share in (0.25, 1.0)})
    return [(f"peak {gib:g} GiB", {**looks, "markersize": _size(1024 * gib, most)}) for gib in sizes]
