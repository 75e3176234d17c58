"""`shapes`: generated scenes that are learned in a minute and still tell methods apart.

Eight kinds of objects stand on textured, cluttered ground, three to five an image, one in front of the
other, at varied size, tilt and lighting. What an object is shows in its pattern and its outline together;
its colour only hints. Two pairs are easily confused: buoy and barrel wear the same bands and differ in
outline, crate and quilt have the same outline and differ in the pattern's fine structure. Plain patches in
any colour belong to the ground.
"""

from __future__ import annotations

from typing import ClassVar

from datasets.generated import (
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
    plain,
    ring,
    star,
    zigzag,
)

KINDS = (
    Kind("buoy", disc, bands, 0.00, (220, 50, 47)),
    Kind("barrel", barrel, bands, 0.08, (255, 150, 40)),
    Kind("fence", box, pales, 0.15, (240, 220, 60)),
    Kind("crate", box, checks, 0.55, (40, 150, 90)),
    Kind("quilt", box, lattice, 0.62, (120, 220, 120)),
    Kind("cookie", disc, dots, 0.30, (50, 120, 230)),
    Kind("star", star, zigzag, 0.70, (140, 90, 220)),
    Kind("tyre", ring, plain, 0.85, (240, 130, 200)),
)


class Shapes(Generated):
    """Generated on demand; an image is a pure function of its id."""

    name = "shapes"
    kinds = KINDS
    classes, palette = classes_of(KINDS)
    counts: ClassVar = {"train": 512, "test": 200, "heldout": 200}
    seed = 20240613
    size = 64
    objects = (3, 5)
    patches = (1, 4)
    radius = (11, 1.8)
    tries = 1
