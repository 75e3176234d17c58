"""The loss on labeled pixels: the settings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bench.settings.base import Knobs


class LabeledLoss(Knobs):
    name: Literal["cross_entropy", "ohem"] = "cross_entropy"
    ohem_threshold: float = Field(0.7, gt=0, le=1)
    ohem_min_kept: int = Field(100_000, ge=1, le=1_000_000_000)


class GatedCrf(Knobs):
    """A term of the loss on labeled pixels, for all methods: neighbours of one colour shall be of one class
    (Obukhov et al., 2019). Defaults as released. Not as released: the colours are 0..1, not divided by a std
    of about 0.225, and the term is on from the first step, not after 0.5 % of the steps."""

    weight: float = Field(0.1, gt=0, le=1e6)
    radius: int = Field(5, ge=1, le=50)  # of the window, in cells
    stride: int = Field(4, ge=1, le=64)  # pixels of a cell's side
    width: float = Field(6.0, gt=0, le=1e3)  # standard deviation of the distance, in cells
    colour: float = Field(0.0225, gt=0, le=10)  # standard deviation of the colour, of 0..1
