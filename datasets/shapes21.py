"""`shapes21`: generated scenes of 20 kinds of objects on ground, for what needs many classes.

Ten outlines, each with two patterns, and each pattern on several outlines: neither alone says the class.
Every object has any hue, so colour says nothing. Ten kinds are common, five are there half as often, and
five, each the twin in outline of a more frequent one, an eighth as often. An image holds two to four objects.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from datasets.generated import (
    Field,
    Generated,
    Kind,
    bands,
    barrel,
    box,
    checks,
    classes_of,
    disc,
    dots,
    lattice,
    pales,
    ring,
    star,
    zigzag,
)

COMMON, FEWER, RARE = 8, 4, 1  # how often a kind is drawn beside the others


def triangle(x: Field, y: Field) -> Field:
    return np.maximum(y - 0.6, 0.87 * np.abs(x) - 0.5 * y - 0.55)


def cross(x: Field, y: Field) -> Field:
    return np.minimum(box(x, y, 1.05, 0.48, 0.05), box(x, y, 0.48, 1.05, 0.05))


def diamond(x: Field, y: Field) -> Field:
    return 0.75 * (0.9 * np.abs(x) + np.abs(y) - 1.15)


def bowl(x: Field, y: Field) -> Field:
    return np.maximum(np.hypot(x, y + 0.45) - 1.1, -0.45 - y)


def hourglass(x: Field, y: Field) -> Field:
    return np.maximum(np.abs(y) - 0.95, 0.8 * (np.abs(x) - 0.35 - 0.7 * np.abs(y)))


KINDS = (
    Kind("buoy", disc, bands, None, (220, 50, 47), COMMON),
    Kind("cookie", disc, dots, None, (50, 120, 230), COMMON),
    Kind("crate", box, checks, None, (40, 150, 90), COMMON),
    Kind("fence", box, pales, None, (240, 220, 60), RARE),
    Kind("barrel", barrel, bands, None, (255, 150, 40), COMMON),
    Kind("basket", barrel, lattice, None, (150, 100, 60), FEWER),
    Kind("tyre", ring, checks, None, (240, 130, 200), COMMON),
    Kind("wreath", ring, zigzag, None, (0, 200, 190), RARE),
    Kind("starfish", star, zigzag, None, (140, 90, 220), COMMON),
    Kind("medal", star, dots, None, (250, 190, 150), RARE),
    Kind("tent", triangle, pales, None, (90, 60, 140), COMMON),
    Kind("gable", triangle, lattice, None, (170, 220, 60), FEWER),
    Kind("bandage", cross, dots, None, (255, 255, 255), COMMON),
    Kind("mill", cross, bands, None, (110, 140, 160), FEWER),
    Kind("kite", diamond, checks, None, (0, 110, 130), COMMON),
    Kind("tile", diamond, zigzag, None, (200, 170, 255), RARE),
    Kind("bowl", bowl, zigzag, None, (160, 30, 110), FEWER),
    Kind("boat", bowl, pales, None, (120, 220, 120), COMMON),
    Kind("hourglass", hourglass, lattice, None, (200, 110, 100), FEWER),
    Kind("drum", hourglass, bands, None, (90, 90, 90), RARE),
)


class Shapes21(Generated):
    """Generated on demand; an image is a pure function of its id."""

    name = "shapes21"
    kinds = KINDS
    classes, palette = classes_of(KINDS)
    counts: ClassVar = {"train": 1024, "test": 400, "heldout": 400}
    seed = 20271129
    size = 64
    objects = (2, 4)
    patches = (0, 3)
    radius = (13, 1.5)
    tries = 6
