"""Images too large for the memory: the network sees overlapping windows, and of each its inner part is kept.

The rim of a window is seen and thrown away, since the network knows nothing of what lies behind it. So no
pixel is the mean of several windows, nothing is summed up, and the memory is that of one window.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, product

from bench.errors import ConfigError
from bench.scoring.inference import starts

GIB = 2**30
RIM = 1 / 8  # of a window's side, at each side: seen and not kept
SIDE_STEP = 32  # sides of windows are multiples: of the stride of every network, so that none is padded
SMALLEST = 128  # side of a window; a smaller one shows the network too little
# Bytes that a pixel takes in the network, without and with gradients off, and for each class: measured with
# the protocols' networks on the CPU (tests/perf/test_predict_speed.py holds it).
PIXEL_BYTES, CLASS_BYTES = 700, 24
PROCESS_BYTES = 900 * 2**20  # of torch and all that is imported; 870 measured, with the CUDA build of torch
STORED_BYTES = 4  # of a pixel that Pillow has decoded


@dataclass(frozen=True)
class Tile:
    """A window of an image: what the network sees, and what of it is kept."""

    rows: slice  # seen
    columns: slice
    kept_rows: slice
    kept_columns: slice

    @property
    def size(self) -> tuple[int, int]:
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start

    @property
    def kept_inside(self) -> tuple[slice, slice]:
        """The rows and columns that are kept, counted from the window's own corner."""
        return (
            slice(self.kept_rows.start - self.rows.start, self.kept_rows.stop - self.rows.start),
            slice(self.kept_columns.start - self.columns.start, self.kept_columns.stop - self.columns.start),
        )


def tiles(size: tuple[int, int], most: int) -> Iterator[Tile]:
    """Windows of at most `most` pixels, by rows; each pixel of an image H W is kept once. One window where
    the image fits."""
    window = window_of(size, most)
    for (top, bottom, first, last), (left, right, begin, end) in product(
        *(_along(length, side) for length, side in zip(size, window, strict=True))
    ):
        yield Tile(slice(top, bottom), slice(left, right), slice(first, last), slice(begin, end))


def window_of(size: tuple[int, int], most: int) -> tuple[int, int]:
    """Height and width of the windows: the image, or a square; a strip where the image is narrower."""
    height, width = size
    if height * width <= most:
        return height, width
    side = _rounded(most**0.5)
    if height < side:
        return height, min(_rounded(most / height), width)
    if width < side:
        return min(_rounded(most / width), height), width
    return side, side


def _rounded(side: float) -> int:
    return max(int(side) // SIDE_STEP * SIDE_STEP, SIDE_STEP)


def _along(length: int, side: int) -> list[tuple[int, int, int, int]]:
    """Begin and end of each window, and of what is kept of it: to the middle of its overlap with the next."""
    begins = starts(length, side, 1 - 2 * RIM)
    cuts = [(before + side + after) // 2 for before, after in pairwise(begins)]
    edges = [0, *cuts, length]
    return [
        (begin, min(begin + side, length), first, last)
        for begin, (first, last) in zip(begins, pairwise(edges), strict=True)
    ]


def pixels_at_once(memory: float, held: int, classes: int, largest_scale: float) -> int:
    """Count the pixels that the network may see at once.

    Args:
        memory: Bytes that may be in use.
        held: Of these, what is in use beside the network's pass: the process and the image itself.
        classes: Of the network.
        largest_scale: Of the image, as the network sees it.

    Raises ConfigError where that is too little for the smallest window.
    """
    a_pixel = (PIXEL_BYTES + CLASS_BYTES * classes) * max(largest_scale, 1) ** 2
    found = int((memory - held) / a_pixel)
    if found < SMALLEST**2:
        needed = (held + SMALLEST**2 * a_pixel) / GIB
        raise ConfigError(
            f"--memory {memory / GIB:.3g} is too little: this image takes {needed:.2f} GiB at least; "
            f"give --memory {needed + 0.1:.1f} or more."
        )
    return found
