"""`shapes_night`: from `shapes` by day to the same objects by night.

The source is `shapes`, all labels. The target shows objects of the same kinds, drawn anew, by less and bluer
light, through a noisier and softer lens, on ground of other hues. No two scenes are the same.
"""

from __future__ import annotations

from typing import ClassVar

from datasets.generated import Light
from datasets.pairs import Pair
from datasets.shapes import Shapes


class Night(Shapes):
    """The target; an image is a pure function of its id."""

    name = "night"
    counts: ClassVar = {"train": 512, "test": 200, "heldout": 200}
    seed = 20301129
    light = Light(brightness=(0.25, 0.5), colour=(0.75, 0.85, 1.3), noise=0.06, blur=0.7)
    ground = (0.5, 0.75)  # from cyan to violet


class ShapesNight(Pair):
    """Generated on demand."""

    def __init__(self) -> None:
        super().__init__("shapes_night", Shapes(), Night())
