"""The marks that a person would make on an image, drawn from its mask: points, strokes and boxes.

A region is a connected part of a class (diagonals connect). One smaller than `SPECK` of the largest of its
class is a speck, which nobody would mark. All three are pure functions of a mask and a generator, and need no
class names. 255 is no class: nothing is marked there.

This is the rule of `data splits --make --kind`, see `RULE`. Raise `RULE_VERSION` when the same mask would
give other marks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage

from bench.labels import IGNORE, Box

RULE_VERSION = 1
RULE = (
    "Of each connected region of a class (8 neighbours), but not of specks below a hundredth of the largest "
    "region of their class: points: one pixel, drawn from those at least half as deep as the deepest; "
    "scribbles: a stroke 3 pixels wide along the longer axis, from 10-25 % to 75-90 % of its length, "
    "through the deepest pixels of the arm it is on, off by a quarter of the depth at random, cut off at the "
    "region's border; boxes: the smallest box, of every class but background. Depth is the distance to the "
    "border."
)

SPECK = 0.01  # of the largest region of the class
DEEP = 0.5  # of the deepest pixel: where a click may fall
KNOT_PIXELS, MOST_KNOTS = 6, 12  # of a stroke: their distance, and how many there are at most
WOBBLE = 0.25  # standard deviation of a knot, in depths
MOST_SAMPLED = 4096  # pixels that the axis of a region is taken from
EIGHT = np.ones((3, 3), np.bool_)


@dataclass(frozen=True)
class Region:
    """A connected part of a class; `inside` is its own box, h w bool, `top` and `left` where that lies."""

    label: int
    top: int
    left: int
    inside: np.ndarray

    @cached_property
    def depth(self) -> np.ndarray:
        """Steps, diagonal ones too, to the nearest pixel outside, h w; beyond its own box all is outside."""
        padded = np.pad(self.inside, 1)
        return ndimage.distance_transform_cdt(padded, metric="chessboard")[1:-1, 1:-1]


def regions(mask: np.ndarray) -> Iterator[Region]:
    """Yield the regions of a mask without specks, by class, and from top to bottom.

    Args:
        mask: H W uint8, class ids and 255.
    """
    for label, box in enumerate(ndimage.find_objects(mask.astype(np.int32) + 1)[:IGNORE]):
        if box is None:
            continue
        numbered, count = ndimage.label(mask[box] == label, EIGHT)
        areas = np.bincount(numbered.ravel(), minlength=count + 1)[1:]
        for number, part in enumerate(ndimage.find_objects(numbered)):
            if areas[number] >= SPECK * areas.max():
                top, left = (box[axis].start + part[axis].start for axis in (0, 1))
                yield Region(label, top, left, numbered[part] == number + 1)


def points(
    mask: np.ndarray, generator: np.random.Generator, found: Sequence[Region] | None = None
) -> np.ndarray:
    """Mark a pixel of each region: deep inside it, at its centre by chance alone. Returns H W uint8, 255
    elsewhere.

    Args:
        found: Its regions, where they are known already.
    """
    marked = np.full_like(mask, IGNORE)
    for region in regions(mask) if found is None else found:
        rows, columns = np.nonzero(region.depth >= DEEP * region.depth.max())
        at = int(generator.integers(len(rows)))
        marked[region.top + rows[at], region.left + columns[at]] = region.label
    return marked


def scribbles(
    mask: np.ndarray, generator: np.random.Generator, found: Sequence[Region] | None = None
) -> np.ndarray:
    """Draw a stroke along the axis of each region, as a hand draws it. Returns H W uint8, 255 elsewhere. Args
    as of `points`."""
    marked = np.full_like(mask, IGNORE)
    for region in regions(mask) if found is None else found:
        height, width = region.inside.shape
        rows, columns = _stroke(region, generator)
        seen = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        rows, columns = rows[seen], columns[seen]
        kept = region.inside[rows, columns]
        marked[region.top + rows[kept], region.left + columns[kept]] = region.label
    return marked


def boxes(mask: np.ndarray, background: int | None, found: Sequence[Region] | None = None) -> tuple[Box, ...]:
    """Return the box of each region that is not background. Args as of `points`."""
    return tuple(
        Box(one.label, one.top, one.left, one.top + one.inside.shape[0], one.left + one.inside.shape[1])
        for one in (regions(mask) if found is None else found)
        if one.label != background
    )


def _stroke(region: Region, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of a stroke, some of which may lie outside the region."""
    inside, depth = region.inside, region.depth
    rows, columns = np.nonzero(inside)
    # The whole region is not needed to know where it runs.
    some = slice(None, None, 1 + len(rows) // MOST_SAMPLED)
    rows, columns, deep = rows[some], columns[some], depth[rows[some], columns[some]]
    along, across, axis = _axes(rows, columns)
    span = float(np.ptp(along))
    first, last = generator.uniform(0.1, 0.25), generator.uniform(0.75, 0.9)
    count = int(np.clip(1 + span * (last - first) / KNOT_PIXELS, 2, MOST_KNOTS))
    places = along.min() + span * np.linspace(first, last, count)
    knots = _knots(places, along, across, deep, generator)
    centre = rows.mean(), columns.mean()
    path = centre + knots[:, :1] * axis + knots[:, 1:] * np.array([-axis[1], axis[0]])  # K 2
    steps = np.abs(np.diff(path, axis=0)).max(1)
    walked = np.concatenate([[0], np.cumsum(np.maximum(steps, 1e-6))])
    at = np.linspace(0, walked[-1], 1 + int(2 * np.ceil(walked[-1])))
    line = np.stack([np.interp(at, walked, path[:, k]) for k in (0, 1)], 1)
    if _misses(line, inside):
        deepest = int(np.argmax(deep))
        line = np.array([[rows[deepest], columns[deepest]]])  # a dab
    brush = np.array([(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)])
    pixels = (np.rint(line)[:, None].astype(np.int64) + brush).reshape(-1, 2)
    return pixels[:, 0], pixels[:, 1]


def _axes(rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where pixels lie along the longer axis of a region and across it, and the axis: a unit vector."""
    count = len(rows)
    # In whole numbers, so that no machine rounds them otherwise than another.
    down, right, both = (
        count * int(np.dot(one, other)) - int(one.sum()) * int(other.sum())
        for one, other in ((rows, rows), (columns, columns), (rows, columns))
    )
    angle = math.atan2(2 * both, right - down) / 2  # from the direction of the columns
    axis = np.array([math.sin(angle), math.cos(angle)])
    rows, columns = rows - rows.mean(), columns - columns.mean()
    return axis[0] * rows + axis[1] * columns, axis[0] * columns - axis[1] * rows, axis


def _knots(
    places: np.ndarray,
    along: np.ndarray,
    across: np.ndarray,
    deep: np.ndarray,
    generator: np.random.Generator,
) -> np.ndarray:
    """Where a stroke passes, along and across: K 2. Each knot is deep in the region, and near the one before:
    on a ring the stroke stays on one arm."""
    half = max(1.0, (places[1] - places[0]) / 2)
    found: list[tuple[float, float]] = []
    for place in places:
        near = np.flatnonzero(np.abs(along - place) <= half)
        if len(near) == 0:  # a region in two arms, neither of which is here
            continue
        score = deep[near].astype(np.float64)
        if found:
            score -= np.abs(across[near] - found[-1][1])
        best = near[np.argmax(score)]
        off = generator.normal(0, WOBBLE * (deep[best] - 1))
        found.append((place, across[best] + off))
    if len(found) < 2:
        best = int(np.argmax(deep))
        found = [(along[best], across[best])] * 2
    return np.array(found)


def _misses(line: np.ndarray, inside: np.ndarray) -> bool:
    """Whether no pixel of a line lies in the region."""
    rows, columns = np.rint(line).astype(np.int64).T
    seen = (rows >= 0) & (rows < inside.shape[0]) & (columns >= 0) & (columns < inside.shape[1])
    return not inside[rows[seen], columns[seen]].any()
