import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageFilter

from bench.contract import BoxRule
from bench.errors import ConfigError
from bench.randomness import numpy_for
from datasets.colours import strong_view
from datasets.views import (
    Geometry,
    draw_box,
    draw_geometry,
    stacked,
    weak_image,
    weak_label,
    weak_valid,
)

UNIMATCH = BoxRule(0.5, (0.02, 0.4), (0.3, 1 / 0.3))
CUTMIX_SEG = BoxRule(1.0, (0.5, 0.5), (0.5, 2.0), log_ratio=True)


def coordinates(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An image whose red and green are 8 x column and 8 x row, and a label that counts pixels."""
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    return np.stack([8 * columns, 8 * rows, 0 * rows], -1), rows * width + columns


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    smooth = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(smooth)


# ---- by hand


def test_label_doubled_by_hand() -> None:
    label = np.array([[0, 1], [2, 255]], np.uint8)
    doubled = weak_label(label, Geometry((2, 2), (4, 4), (0, 0), (4, 4), flip=False))
    assert doubled.tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 255, 255], [2, 2, 255, 255]]


def test_crop_by_hand() -> None:
    image, label = coordinates(4, 5)
    geometry = Geometry((4, 5), (4, 5), (1, 2), (2, 3), flip=False)
    assert weak_label(label, geometry).tolist() == [[7, 8, 9], [12, 13, 14]]
    assert np.array_equal(np.asarray(weak_image(image, geometry)), image[1:3, 2:5])
    assert weak_valid(geometry).all()


def test_flip_by_hand() -> None:
    image, label = coordinates(4, 5)
    geometry = Geometry((4, 5), (4, 5), (1, 2), (2, 3), flip=True)
    assert weak_label(label, geometry).tolist() == [[9, 8, 7], [14, 13, 12]]
    assert np.array_equal(np.asarray(weak_image(image, geometry)), image[1:3, 4:1:-1])


@pytest.mark.parametrize("flip", [False, True])
def test_padding_by_hand(flip: bool) -> None:
    image = np.array([[[0, 10, 255]], [[3, 10, 0]]], np.uint8)  # mean 1.5 10 127.5, rounded half to even
    label = np.array([[4], [5]], np.uint8)
    geometry = Geometry((2, 1), (2, 1), (0, 0), (3, 2), flip)
    mirror = slice(None, None, -1) if flip else slice(None)
    pad = [2, 10, 128]
    expected = np.array([[[0, 10, 255], pad], [[3, 10, 0], pad], [pad, pad]])
    assert np.asarray(weak_image(image, geometry)).tolist() == expected[:, mirror].tolist()
    labels = np.array([[4, 255], [5, 255], [255, 255]])
    assert weak_label(label, geometry).tolist() == labels[:, mirror].tolist()
    assert weak_valid(geometry).tolist() == np.array([[1, 0], [1, 0], [0, 0]], bool)[:, mirror].tolist()


def test_half_size_takes_one_pixel_of_each_four() -> None:
    _, label = coordinates(4, 6)
    half = weak_label(label, Geometry((4, 6), (2, 3), (0, 0), (2, 3), flip=False))
    assert half.tolist() == label[1::2, 1::2].tolist()


def test_stacked_by_hand() -> None:
    view = Image.fromarray(np.array([[[0, 51, 255], [255, 102, 0]]], np.uint8))
    batch = stacked([view, view])
    assert batch.shape == (2, 3, 1, 2) and batch.dtype == torch.uint8
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert batch.tolist() == [[[[0, 255]], [[51, 102]], [[255, 0]]]] * 2


# ---- other channels than three


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
@pytest.mark.parametrize("crop", [(20, 24), (70, 30)])
def test_each_channel_is_seen_as_in_a_picture_of_it_alone(channels: int, crop: tuple[int, int]) -> None:
    """A picture whose three channels are equal is the oracle, padding included."""
    image = np.random.default_rng(channels).integers(0, 256, (40, 52, channels), np.uint8)
    geometry = draw_geometry(np.random.default_rng(1), (40, 52), crop, (0.5, 1.0))
    view = weak_image(image, geometry)
    assert isinstance(view, tuple) and len(view) == channels
    tensor = stacked([view])[0]
    assert tensor.shape == (channels, *crop) and tensor.dtype == torch.uint8
    for channel in range(channels):
        alone = weak_image(np.ascontiguousarray(image[..., [channel] * 3]), geometry)
        assert torch.equal(tensor[channel], stacked([alone])[0, 0])


def test_other_channels_get_brightness_and_contrast_and_blur() -> None:
    """By the draws of a picture of colours: both shades are those of Pillow on each channel."""
    image = np.random.default_rng(0).integers(0, 256, (16, 18, 4), np.uint8)
    view = tuple(Image.fromarray(image[..., channel]) for channel in range(4))
    seen = set()
    for seed in range(120):
        generator = np.random.default_rng(seed)
        jitter, _, blur = generator.random(3) < (0.8, 0.2, 0.5)
        factors = generator.uniform([0.5, 0.5, 0.5, -0.25], [1.5, 1.5, 1.5, 0.25])
        order, sigma = generator.permutation(4), float(generator.uniform(0.1, 2.0))
        expected = list(view)
        for channel, one in enumerate(expected):
            for operation in order if jitter else ():
                if operation == 0:
                    one = ImageEnhance.Brightness(one).enhance(factors[0])
                elif operation == 1:
                    one = ImageEnhance.Contrast(one).enhance(factors[1])
            expected[channel] = one.filter(ImageFilter.GaussianBlur(sigma)) if blur else one
        found = strong_view(view, np.random.default_rng(seed))
        assert torch.equal(stacked([found]), stacked([tuple(expected)]))
        seen.add((bool(jitter), bool(blur)))
    assert len(seen) == 4


# ---- the weak view

sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))


@given(size=sizes, crop=sizes, seed=st.integers(0, 2**32))
def test_drawn_geometry_lies_inside(size: tuple[int, int], crop: tuple[int, int], seed: int) -> None:
    geometry = draw_geometry(np.random.default_rng(seed), size, crop, (0.5, 2.0))
    long = max(size)
    assert int(0.5 * long) <= max(geometry.resized) <= 2 * long or max(geometry.resized) == 1
    scale = max(geometry.resized) / long
    for axis in (0, 1):
        assert abs(geometry.resized[axis] - size[axis] * scale) <= 0.5 + 1e-9 or geometry.resized[axis] == 1
        assert 0 <= geometry.corner[axis] <= max(0, geometry.resized[axis] - crop[axis])


def test_drawn_geometry_covers_its_range() -> None:
    drawn = [draw_geometry(numpy_for(0, "weak", i), (30, 40), (20, 20), (0.5, 2.0)) for i in range(4000)]
    lengths = np.array([geometry.resized[1] for geometry in drawn])
    assert set(lengths) == set(range(20, 81))
    assert abs(lengths.mean() - 50) < 4 * 17.6 / math.sqrt(4000)  # standard deviation of 61 equal steps
    assert abs(np.mean([geometry.flip for geometry in drawn]) - 0.5) < 4 * 0.5 / math.sqrt(4000)
    own_size = [geometry for geometry in drawn if geometry.resized[1] == 22]
    assert {geometry.corner[1] for geometry in own_size} == {0, 1, 2}


@given(seed=st.integers(0, 2**32), crop=st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_image_label_and_valid_agree(seed: int, crop: tuple[int, int]) -> None:
    image, label = coordinates(12, 18)
    geometry = draw_geometry(np.random.default_rng(seed), (12, 18), crop, (1.0, 2.0))
    view = np.asarray(weak_image(image, geometry))
    seen, valid = weak_label(label, geometry), weak_valid(geometry)
    assert view.shape == (*crop, 3) and seen.shape == valid.shape == crop
    assert np.array_equal(seen != 255, valid)
    rows, columns = np.divmod(seen[valid].astype(float), 18)
    # A bilinear ramp is the coordinate itself, at most half a pixel from the nearest; and one level of 255.
    assert np.abs(view[valid][:, 0] / 8 - columns).max() <= 0.5 + 1 / 8
    assert np.abs(view[valid][:, 1] / 8 - rows).max() <= 0.5 + 1 / 8
    assert (view[~valid] == [68, 44, 0]).all()  # 8 x 8.5, 8 x 5.5


@given(seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_image_is_the_crop_of_the_resized_image(seed: int) -> None:
    generator = np.random.default_rng(seed)
    height, width = (int(value) for value in generator.integers(8, 120, 2))
    image = photograph(height, width, seed)
    geometry = draw_geometry(generator, (height, width), (48, 56), (0.25, 3.0))
    whole = Image.fromarray(image).resize(geometry.resized[::-1], Image.Resampling.BILINEAR)
    (top, left), (rows, columns) = geometry.corner, geometry.inside
    expected = np.asarray(whole)[top : top + rows, left : left + columns].astype(int)
    unflipped = Geometry(geometry.size, geometry.resized, geometry.corner, geometry.crop, flip=False)
    ours = np.asarray(weak_image(image, unflipped))[:rows, :columns].astype(int)
    # PIL rounds to 8 bits between the axes and picks the first by the sizes, which differ: one level each.
    assert np.abs(ours - expected).max() <= 2
    assert np.abs(ours - expected).mean() < 0.3


@given(seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_label_is_the_crop_of_the_resized_label(seed: int) -> None:
    generator = np.random.default_rng(seed)
    height, width = (int(value) for value in generator.integers(8, 120, 2))
    label = generator.integers(0, 256, (height, width), dtype=np.uint8)
    geometry = draw_geometry(generator, (height, width), (48, 56), (0.25, 3.0))
    whole = Image.fromarray(label).resize(geometry.resized[::-1], Image.Resampling.NEAREST)
    (top, left), (rows, columns) = geometry.corner, geometry.inside
    expected = np.asarray(whole)[top : top + rows, left : left + columns]
    unflipped = Geometry(geometry.size, geometry.resized, geometry.corner, geometry.crop, flip=False)
    ours = weak_label(label, unflipped)[:rows, :columns]
    # Where the sample falls between two source pixels PIL's running sum may take either.
    tie = [
        (2 * np.arange(start, start + length) + 1) * size % (2 * resized) == 0
        for start, length, size, resized in zip(
            geometry.corner, geometry.inside, geometry.size, geometry.resized, strict=True
        )
    ]
    firm = ~(tie[0][:, None] | tie[1][None, :])
    assert np.array_equal(ours[firm], expected[firm])


def test_views_leave_their_input_alone() -> None:
    image, label = coordinates(12, 18)
    before = image.copy(), label.copy()
    image.flags.writeable = label.flags.writeable = False
    geometry = Geometry((12, 18), (20, 30), (3, 2), (16, 16), flip=True)
    view = weak_image(image, geometry)
    weak_label(label, geometry)
    pixels = view.tobytes()
    for key in range(20):
        strong_view(view, numpy_for(0, "strong", key))
    assert view.tobytes() == pixels
    assert np.array_equal(image, before[0]) and np.array_equal(label, before[1])


# ---- boxes


def extent(box: np.ndarray) -> tuple[int, int]:
    rows, columns = np.flatnonzero(box.any(1)), np.flatnonzero(box.any(0))
    filled = box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert filled.all() and filled.sum() == box.sum()
    return filled.shape[0], filled.shape[1]


@given(seed=st.integers(0, 2**32), crop=st.tuples(st.integers(32, 128), st.integers(32, 128)))
@settings(deadline=None)
def test_box_keeps_its_bounds(seed: int, crop: tuple[int, int]) -> None:
    box = draw_box(np.random.default_rng(seed), crop, BoxRule(1.0, UNIMATCH.area, UNIMATCH.ratio))
    rows, columns = extent(box)
    assert box.shape == crop and box.dtype == np.bool_
    # Each side is rounded to a whole pixel, so by half a pixel at most.
    assert (rows - 0.5) * (columns - 0.5) <= 0.4 * crop[0] * crop[1]
    assert (rows + 0.5) * (columns + 0.5) >= 0.02 * crop[0] * crop[1]
    assert (rows + 0.5) / (columns - 0.5) >= 0.3 and (rows - 0.5) / (columns + 0.5) <= 1 / 0.3


@given(seed=st.integers(0, 2**32), side=st.integers(16, 128))
@settings(deadline=None)
def test_half_area_box_always_fits(seed: int, side: int) -> None:
    box = draw_box(np.random.default_rng(seed), (side, side), CUTMIX_SEG)
    rows, columns = extent(box)
    assert abs(rows * columns - 0.5 * side**2) <= 0.5 * (rows + columns) + 0.25


def test_log_ratio_is_uniform_in_the_logarithm_and_corners_reach_the_border() -> None:
    n = 2000
    boxes = [draw_box(numpy_for(0, "box", k), (200, 200), CUTMIX_SEG) for k in range(n)]
    logs = np.log2([rows / columns for rows, columns in map(extent, boxes)])
    assert np.allclose(np.quantile(logs, [0.1, 0.25, 0.5, 0.75, 0.9]), [-0.8, -0.5, 0, 0.5, 0.8], atol=0.08)
    cover = np.mean(boxes, axis=0)
    assert np.abs(cover - cover[::-1]).max() < 0.07 and np.abs(cover - cover[:, ::-1]).max() < 0.07
    assert any(box[0].any() for box in boxes) and any(box[-1].any() for box in boxes)
    assert any(box[:, 0].any() for box in boxes) and any(box[:, -1].any() for box in boxes)


def test_uniform_ratio_is_drawn_as_in_unimatch() -> None:
    def unimatch(generator: np.random.Generator, side: int) -> tuple[int, int]:
        size = generator.uniform(0.02, 0.4) * side * side
        while True:
            ratio = generator.uniform(0.3, 1 / 0.3)
            w, h = int(np.sqrt(size / ratio)), int(np.sqrt(size * ratio))
            x, y = generator.integers(0, side), generator.integers(0, side)
            if x + w <= side and y + h <= side:
                return h, w

    rule = BoxRule(1.0, UNIMATCH.area, UNIMATCH.ratio)
    ours = np.array([extent(draw_box(numpy_for(0, "a", k), (160, 160), rule)) for k in range(3000)])
    theirs = np.array([unimatch(numpy_for(0, "b", k), 160) for k in range(3000)])
    quantiles = [0.1, 0.3, 0.5, 0.7, 0.9]
    for axis in (0, 1):
        gap = np.quantile(ours[:, axis], quantiles) - np.quantile(theirs[:, axis], quantiles)
        assert np.abs(gap).max() < 6  # of 160: UniMatch cuts where we round (1/2), the rest is noise


def test_box_is_drawn_with_its_probability() -> None:
    n = 2000
    share = np.mean([draw_box(numpy_for(0, "box", k), (16, 16), UNIMATCH).any() for k in range(n)])
    assert abs(share - 0.5) < 4 * 0.5 / math.sqrt(n)
    never = BoxRule(0.0, (0.5, 0.5), (1.0, 1.0))
    assert not any(draw_box(numpy_for(0, "box", k), (16, 16), never).any() for k in range(100))


def test_a_box_that_cannot_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="No CutMix box"):
        draw_box(np.random.default_rng(0), (16, 16), BoxRule(1.0, (0.9, 0.9), (4.0, 5.0)))
