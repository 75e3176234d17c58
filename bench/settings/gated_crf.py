"""A gated CRF on images with sparse labels: the settings."""

from __future__ import annotations

from pydantic import Field

from bench.settings.base import Knobs


class GatedCrf(Knobs):
    """A term of the loss on labeled pixels, for all methods: neighbours of one colour shall be of one class
    (Obukhov et al., 2019). Defaults as released, but for the colours: those are 0..1 here, and not divided by
    a std of about 0.225."""

    weight: float = Field(0.1, gt=0, le=1e6)
    radius: int = Field(5, ge=1, le=50)  # of the window, in cells
    stride: int = Field(4, ge=1, le=64)  # pixels of a cell's side
    width: float = Field(6.0, gt=0, le=1e3)  # standard deviation of the distance, in cells
    colour: float = Field(0.0225, gt=0, le=10)  # standard deviation of the colour, of 0..1
