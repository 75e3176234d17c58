"""The strong view of an image: its colours, changed by the recipe that a method or the protocol declares.

A recipe is data (`bench.contract.Recipe`); here is what each operation's name does. All work on images of PIL
and leave the geometry as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from bench.contract import EQUAL_COLOURS, Operation, Recipe, Stage
from datasets.views import View

__all__ = ["strong_view"]


def strong_view(view: View, generator: np.random.Generator, recipe: Recipe = EQUAL_COLOURS) -> View:
    """Change the colours of a weak view as the recipe says; the geometry stays.

    Brightness, contrast, saturation, hue and grayscale are torchvision's on PIL images, bit for bit; the
    others are PIL's. Where an image is no RGB, each channel is changed as a picture of grey, all by the same
    numbers, and what needs colours is left out.
    """
    # All numbers are drawn whether they are used or not, so that one decision does not shift the next.
    coins = generator.random(len(recipe))
    drawn = [_drawn(stage, generator) for stage in recipe]
    for coin, stage, operations in zip(coins, recipe, drawn, strict=True):
        if coin < stage.probability:
            for name, magnitude in operations:
                view = _changed(view, name, magnitude)
    return view


def _changed(view: View, name: str, magnitude: float) -> View:
    change = OPERATIONS[name]
    if not isinstance(view, tuple):
        return change(view, magnitude)
    return view if name in OF_COLOURS else tuple(change(one, magnitude) for one in view)


def _drawn(stage: Stage, generator: np.random.Generator) -> list[tuple[str, float]]:
    """Draw the operations of a stage in their order, each with its magnitude: [("contrast", 0.8)]."""
    if stage.draws is None:
        magnitudes = _magnitudes(stage.operations, generator)
        order = generator.permutation(len(magnitudes)) if len(magnitudes) > 1 else range(len(magnitudes))
        return [(stage.operations[i].name, magnitudes[i]) for i in order]
    fewest, most = stage.draws
    number = int(generator.integers(fewest, most, endpoint=True))
    chosen = [stage.operations[i] for i in generator.integers(len(stage.operations), size=most)]
    magnitudes = _magnitudes(chosen, generator)
    return [(of.name, magnitude) for of, magnitude in zip(chosen, magnitudes, strict=True)][:number]


def _magnitudes(operations: Sequence[Operation], generator: np.random.Generator) -> list[float]:
    """One for each operation; 0 for one that has none."""
    ranges = [of.range for of in operations if of.range is not None]
    values = iter(generator.uniform([low for low, _ in ranges], [high for _, high in ranges]).tolist())
    return [0.0 if of.range is None else next(values) for of in operations]


def _shift_hue(view: Image.Image, turns: float) -> Image.Image:
    """As PIL would with its conversions to HSV and back, bit for bit; its way back takes three times as
    long, a sixth of all work on an image."""
    shift = int(turns * 255)  # PIL's hue has 256 steps to a turn; torchvision shifts by 255 times the factor
    pixels = np.asarray(view.convert("HSV"))  # H W 3 uint8
    hue, saturation, value = (np.ascontiguousarray(pixels[..., channel]) for channel in range(3))
    share, light = SHARES[saturation], value.astype(np.float32)  # H W
    shifted = np.empty_like(pixels)
    for channel, fall in enumerate(np.roll(FALLS, -shift, axis=1)):
        shifted[..., channel] = light * (1 - share * fall[hue]) + HALF
    return Image.fromarray(shifted)


# Of a colour in HSV, a channel of RGB is value * (1 - saturation * fall). The fall depends on the hue alone:
# a row each for R, G and B, over the 256 levels of hue.
SIXTHS = np.arange(256) * 6 / 255
FALLS = (
    np.stack([2 - abs(SIXTHS - 3), abs(SIXTHS - 2) - 1, abs(SIXTHS - 4) - 1]).clip(0, 1).astype(np.float32)
)
SHARES = (np.arange(256) / 255).astype(np.float32)
HALF = np.float32(0.5)  # a cast to uint8 rounds down
OF_COLOURS = {"grayscale", "saturation", "hue"}
OPERATIONS: Mapping[str, Callable[[Image.Image, float], Image.Image]] = {
    "identity": lambda view, _: view,
    "grayscale": lambda view, _: view.convert("L").convert("RGB"),
    "autocontrast": lambda view, _: ImageOps.autocontrast(view),
    "equalize": lambda view, _: ImageOps.equalize(view),
    "brightness": lambda view, factor: ImageEnhance.Brightness(view).enhance(factor),
    "contrast": lambda view, factor: ImageEnhance.Contrast(view).enhance(factor),
    "saturation": lambda view, factor: ImageEnhance.Color(view).enhance(factor),
    "sharpness": lambda view, factor: ImageEnhance.Sharpness(view).enhance(factor),
    "hue": _shift_hue,
    "blur": lambda view, sigma: view.filter(ImageFilter.GaussianBlur(sigma)),
    "posterize": lambda view, bits: ImageOps.posterize(view, int(bits)),
    "solarize": lambda view, from_: ImageOps.solarize(view, int(from_)),
}
