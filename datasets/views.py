"""The views of one image: a weak view (resize, crop, flip) and a CutMix box. Its colours: see colours.py.

Everything random is drawn from the NumPy generator that is passed in, so a view depends on nothing else.
The weak view is drawn first as a `Geometry` and then applied to the image, its label and its `valid` map
separately: the three cannot disagree, and a stream without labels has no reason to open a mask.

Three channels are a picture of colours to Pillow; of any other number, each is one of grey.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.contract import IGNORE, BoxRule
from bench.errors import ConfigError

__all__ = [
    "Geometry",
    "draw_box",
    "draw_geometry",
    "stacked",
    "weak_image",
    "weak_label",
    "weak_valid",
]

COLOUR = 3  # channels of an image that has colours
NO_LABEL = np.uint8(IGNORE)
View = Image.Image | tuple[Image.Image, ...]  # RGB, or a picture of grey for each channel

BOX_TRIES = 10_000  # the published rules need fewer than a hundred; more means that no box can fit


@dataclass(frozen=True)
class Geometry:
    """A weak view: the image of `size` is resized to `resized`, cropped at `corner`, and mirrored if `flip`.

    Heights come before widths. Where `resized` is smaller than `crop` the rest is padding, at the right and
    bottom before the flip.
    """

    size: tuple[int, int]
    resized: tuple[int, int]
    corner: tuple[int, int]
    crop: tuple[int, int]
    flip: bool

    @property
    def inside(self) -> tuple[int, int]:
        """Height and width of the part of the crop that is not padding."""
        return min(self.crop[0], self.resized[0]), min(self.crop[1], self.resized[1])


def draw_geometry(
    generator: np.random.Generator, size: tuple[int, int], crop: tuple[int, int], resize: tuple[float, float]
) -> Geometry:
    """Draw the weak view of an image of height and width `size`.

    The long side becomes a whole number, uniform between `resize` times its own length; the aspect is kept.
    The corner is uniform, the flip has probability one half.
    """
    height, width = size
    long = max(size)
    scaled = generator.integers(int(long * resize[0]), int(long * resize[1]), endpoint=True)
    resized = (max(1, int(height * scaled / long + 0.5)), max(1, int(width * scaled / long + 0.5)))
    top = int(generator.integers(0, max(0, resized[0] - crop[0]), endpoint=True))
    left = int(generator.integers(0, max(0, resized[1] - crop[1]), endpoint=True))
    return Geometry(size, resized, (top, left), crop, flip=bool(generator.random() < 0.5))


def weak_image(image: np.ndarray, geometry: Geometry) -> View:
    """Return the weak view of `image` (H W C uint8): bilinear, padded with the mean colour of the whole
    image.

    Only the source pixels under the crop are resampled. PIL's filters read beyond `box` as far as there are
    pixels, so the result is that of resizing the whole image and cropping it, up to two levels of 255: PIL
    rounds to 8 bits between the axes, and which axis is first depends on the sizes.
    """
    inside = geometry.inside
    spans = [_span(geometry, axis) for axis in (0, 1)]
    (top, bottom, first_row, last_row), (left, right, first_column, last_column) = spans
    part = image[first_row:last_row, first_column:last_column]
    fill = _mean_colour(image) if inside != geometry.crop else None

    def weak(source: Image.Image, fill: tuple[int, ...] | int | None) -> Image.Image:
        view = source.resize(inside[::-1], Image.Resampling.BILINEAR, box=(left, top, right, bottom))
        if fill is not None:
            canvas = Image.new(source.mode, geometry.crop[::-1], fill)
            canvas.paste(view, (0, 0))
            view = canvas
        return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if geometry.flip else view

    channels = image.shape[2]
    if channels == COLOUR:
        return weak(Image.fromarray(part), fill)
    greys = (Image.fromarray(np.ascontiguousarray(part[..., channel])) for channel in range(channels))
    return tuple(weak(grey, fill[k] if fill else None) for k, grey in enumerate(greys))


def _span(geometry: Geometry, axis: int) -> tuple[float, float, int, int]:
    """Start and end of the crop, from the first source pixel that it needs; that pixel, and the last + 1."""
    size, resized = geometry.size[axis], geometry.resized[axis]
    start = geometry.corner[axis] * size / resized
    end = (geometry.corner[axis] + geometry.inside[axis]) * size / resized
    reach = math.ceil(max(1.0, size / resized)) + 1  # the bilinear filter's half width, and one for rounding
    first, last = max(0, math.floor(start) - reach), min(size, math.ceil(end) + reach)
    return start - first, end - first, first, last


def _mean_colour(image: np.ndarray) -> tuple[int, ...]:
    # Two sums, because np.mean over both axes of a uint8 image takes 25 times as long (2.2 ms at 480x360).
    total = image.sum(0, dtype=np.uint32).sum(0, dtype=np.uint64)
    return tuple(int(value) for value in np.rint(total / (image.shape[0] * image.shape[1])))


def weak_label(label: np.ndarray, geometry: Geometry, padding: np.integer[Any] = NO_LABEL) -> np.ndarray:
    """Return the weak view of `label` (H W, of the type of `padding`): nearest source pixel, and `padding`
    where there is none."""
    height, width = geometry.inside
    # Whole numbers, because a box of floats would settle ties (every pixel at half size) by rounding error.
    rows, columns = (
        (2 * np.arange(geometry.corner[axis], geometry.corner[axis] + geometry.inside[axis]) + 1)
        * geometry.size[axis]
        // (2 * geometry.resized[axis])
        for axis in (0, 1)
    )
    view = np.full(geometry.crop, padding, padding.dtype)
    view[:height, :width] = label.take(rows, axis=0).take(columns, axis=1)
    return np.ascontiguousarray(view[:, ::-1]) if geometry.flip else view


def weak_valid(geometry: Geometry) -> np.ndarray:
    """H W bool, False in padding."""
    height, width = geometry.inside
    view = np.zeros(geometry.crop, np.bool_)
    view[:height, :width] = True
    return np.ascontiguousarray(view[:, ::-1]) if geometry.flip else view


def draw_box(generator: np.random.Generator, crop: tuple[int, int], rule: BoxRule) -> np.ndarray:
    """H W bool: True inside one box, drawn by `rule`; all False where the rule's probability says no box.

    The area is drawn once, ratio and corner again until the box lies inside the crop. A uniform ratio is
    UniMatch's rule: the corner is drawn from the whole crop, which favours squarer boxes. A log-uniform ratio
    is CutMix-Seg's: the corner is drawn from those that fit, so that every ratio keeps its share.

    Raises ConfigError where no box of this rule fits.
    """
    height, width = crop
    box = np.zeros(crop, np.bool_)
    if generator.random() >= rule.probability:
        return box
    area = generator.uniform(*rule.area) * height * width
    for _ in range(BOX_TRIES):
        if rule.log_ratio:
            ratio = math.exp(generator.uniform(math.log(rule.ratio[0]), math.log(rule.ratio[1])))
        else:
            ratio = generator.uniform(*rule.ratio)
        rows, columns = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if rows > height or columns > width:
            continue
        corners = (height - rows + 1, width - columns + 1) if rule.log_ratio else crop
        top, left = generator.integers(corners)
        if top + rows <= height and left + columns <= width:
            box[top : top + rows, left : left + columns] = True
            return box
    raise ConfigError(
        f"No CutMix box of {rule} fits a crop of {height}x{width}: lower its area or narrow its ratio."
    )


def stacked(views: Sequence[View]) -> Tensor:
    """Stack views of one size into a batch: B C H W uint8, channels last in memory, as Pillow has them."""
    pixels = [
        np.stack([np.asarray(one) for one in view], axis=-1) if isinstance(view, tuple) else np.asarray(view)
        for view in views
    ]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
