"""The strong view: what a recipe says is what is done to an image."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torchvision.transforms import functional as F

from bench.contract import EQUAL_COLOURS, Operation, Stage
from bench.randomness import numpy_for
from bench.views import LIMITS
from datasets import colours
from datasets.colours import OPERATIONS, strong_view


def photograph(height: int, width: int, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def test_the_recipe_of_equal_views_is_that_of_unimatch() -> None:
    jitter, gray, blur = EQUAL_COLOURS
    assert [(of.name, of.range) for of in jitter.operations] == [
        ("brightness", (0.5, 1.5)),
        ("contrast", (0.5, 1.5)),
        ("saturation", (0.5, 1.5)),
        ("hue", (-0.25, 0.25)),
    ]
    assert gray.operations == (Operation("grayscale"),) and blur.operations == (
        Operation("blur", (0.1, 2.0)),
    )
    assert [stage.probability for stage in EQUAL_COLOURS] == [0.8, 0.2, 0.5]


def torchvision_strong(view: Image.Image, generator: np.random.Generator) -> Image.Image:
    jitter, gray, blur = generator.random(3)
    low, high = np.array([0.5, 0.5, 0.5, -0.25]), np.array([1.5, 1.5, 1.5, 0.25])
    factors = generator.uniform(low, high)
    order, sigma = generator.permutation(4), generator.uniform(0.1, 2.0)
    operations = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    if jitter < 0.8:
        for k in order:
            view = operations[k](view, float(factors[k]))
    if gray < 0.2:
        view = F.rgb_to_grayscale(view, 3)
    return view.filter(ImageFilter.GaussianBlur(radius=float(sigma))) if blur < 0.5 else view


def test_strong_view_is_torchvisions_bit_for_bit() -> None:
    view = photograph(40, 48)
    for key in range(200):
        ours = strong_view(view, numpy_for(3, "strong", key))
        assert ours.tobytes() == torchvision_strong(view, numpy_for(3, "strong", key)).tobytes()


def test_strong_view_is_a_function_of_its_generator() -> None:
    view = photograph(16, 16)
    twice = [[strong_view(view, numpy_for(0, "s", key)).tobytes() for key in range(50)] for _ in range(2)]
    assert twice[0] == twice[1]
    assert len(set(twice[0])) > 40
    # Neither jittered nor gray nor blurred: .2 x .8 x .5 of the views stay as they are.
    n = 1000
    same = np.mean([strong_view(view, numpy_for(1, "s", k)).tobytes() == view.tobytes() for k in range(n)])
    assert abs(same - 0.08) < 4 * math.sqrt(0.08 * 0.92 / n)


# ---- each operation, and pools of them

PIL = {
    "identity": lambda view: view,
    "grayscale": lambda view: F.rgb_to_grayscale(view, 3),
    "autocontrast": ImageOps.autocontrast,
    "equalize": ImageOps.equalize,
    "brightness": lambda view: ImageEnhance.Brightness(view).enhance(0.5),
    "contrast": lambda view: ImageEnhance.Contrast(view).enhance(0.5),
    "saturation": lambda view: ImageEnhance.Color(view).enhance(0.5),
    "sharpness": lambda view: ImageEnhance.Sharpness(view).enhance(0.5),
    "hue": lambda view: F.adjust_hue(view, 0.3),
    "blur": lambda view: view.filter(ImageFilter.GaussianBlur(1.5)),
    "posterize": lambda view: ImageOps.posterize(view, 4),
    "solarize": lambda view: ImageOps.solarize(view, 100),
}
AT = {"hue": 0.3, "blur": 1.5, "posterize": 4.9, "solarize": 100.9}


def test_every_operation_that_can_be_declared_is_there() -> None:
    assert OPERATIONS.keys() == LIMITS.keys() == PIL.keys()


@pytest.mark.parametrize("name", LIMITS)
def test_an_operation_is_pils_with_its_magnitude(name: str) -> None:
    """Of a range of one magnitude, so that nothing is left to chance."""
    magnitude = AT.get(name, 0.5)
    operation = Operation(name, None if LIMITS[name] is None else (magnitude, magnitude))
    view = photograph(24, 32)
    seen = strong_view(view, numpy_for(0, "strong"), (Stage((operation,)),))
    assert seen.tobytes() == PIL[name](view).tobytes()
    assert (seen.tobytes() == view.tobytes()) == (name == "identity")


@pytest.mark.parametrize("turns", [-0.25, 0.17])
def test_hue_is_torchvisions_on_all_colours_there_are(turns: float) -> None:
    every = np.arange(2**24, dtype=np.uint32).view(np.uint8).reshape(4096, 4096, 4)[..., :3]
    view = Image.fromarray(np.ascontiguousarray(every))
    assert np.array_equal(OPERATIONS["hue"](view, turns), F.adjust_hue(view, turns))


def test_posterize_and_solarize_by_hand() -> None:
    view = Image.fromarray(np.array([[[0, 99, 100], [17, 200, 255]]], np.uint8))
    four = strong_view(view, numpy_for(0, "s"), (Stage((Operation("posterize", (4, 4)),)),))
    assert np.asarray(four).tolist() == [[[0, 96, 96], [16, 192, 240]]]
    inverted = strong_view(view, numpy_for(0, "s"), (Stage((Operation("solarize", (100, 100)),)),))
    assert np.asarray(inverted).tolist() == [[[0, 99, 155], [17, 55, 0]]]


def test_a_stage_that_draws_has_so_many_operations_and_some_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of five operations one to three: a third of the views has each number, each operation has a fifth."""
    seen: list[str] = []
    names = ("identity", "autocontrast", "equalize", "grayscale", "blur")
    known = {name: lambda view, _, name=name: seen.append(name) or view for name in names}
    monkeypatch.setattr(colours, "OPERATIONS", known)
    pool = tuple(Operation(name, (1, 2) if name == "blur" else None) for name in names)
    numbers, used, twice, n = Counter[int](), Counter[str](), 0, 3000
    for key in range(n):
        seen.clear()
        strong_view(photograph(8, 8), numpy_for(0, "pool", key), (Stage(pool, draws=(1, 3)),))
        numbers[len(seen)] += 1
        used.update(seen)
        twice += len(set(seen)) < len(seen)
    assert set(numbers) == {1, 2, 3}
    assert all(abs(count / n - 1 / 3) < 4 * math.sqrt(2 / 9 / n) for count in numbers.values())
    assert all(abs(count / used.total() - 0.2) < 0.02 for count in used.values())
    assert abs(twice / n - (0.2 + 1 - 0.8 * 0.6) / 3) < 0.04  # of two 1/5, of three 1 - 4/5 x 3/5


def test_one_decision_does_not_shift_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a pool is used, and however many of it, as many numbers are drawn: those of its most
    operations. So the blur behind it has the magnitude that comes after them."""
    seen: list[tuple[str, float]] = []

    def noted(name: str) -> Callable[[Image.Image, float], Image.Image]:
        return lambda view, magnitude: seen.append((name, magnitude)) or view  # type: ignore[func-returns-value]

    monkeypatch.setattr(colours, "OPERATIONS", {name: noted(name) for name in LIMITS})
    pool = Stage((Operation("brightness", (0.1, 1)), Operation("contrast", (2, 3))), 0.5, draws=(1, 3))
    recipe, view = (pool, Stage((Operation("blur", (0.1, 2)),))), photograph(8, 8)
    for key in range(40):
        seen.clear()
        strong_view(view, numpy_for(1, "s", key), recipe)
        by_hand = numpy_for(1, "s", key)
        used = by_hand.random(2)[0] < 0.5
        number, chosen = by_hand.integers(1, 3, endpoint=True), by_hand.integers(2, size=3)
        low, high = (np.array(ends)[chosen] for ends in ((0.1, 2), (1, 3)))
        magnitudes = by_hand.uniform(low, high)
        expected = [(("brightness", "contrast")[c], m) for c, m in zip(chosen, magnitudes, strict=True)]
        assert seen == [*(expected[:number] if used else []), ("blur", by_hand.uniform(0.1, 2))]
    assert strong_view(view, numpy_for(1, "s"), ()) is view, "no recipe, no change"


# ---- what cannot be


@pytest.mark.parametrize(
    ("name", "range", "word"),
    [
        ("rotate", (0, 1), "must be one of identity"),
        ("hue", None, "needs a range"),
        ("equalize", (0, 1), "has no range"),
        ("hue", (-1, 1), "must lie in -0.5..0.5"),
        ("blur", (2, 1), "must lie in 0..100"),
    ],
)
def test_an_operation_that_cannot_be_is_refused(name: str, range: tuple[float, float], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Operation(name, range)


def test_a_stage_that_cannot_be_is_refused() -> None:
    blur = Operation("blur", (1, 2))
    for given in ({"operations": ()}, {"probability": 2.0}, {"draws": (0, 2)}, {"draws": (3, 2)}):
        with pytest.raises(ValueError, match="stage needs|draws"):
            Stage(**({"operations": (blur,)} | given))
