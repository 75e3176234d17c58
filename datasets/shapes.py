"""`shapes`: generated scenes that are learned in a minute and still tell methods apart.

Eight kinds of objects stand on textured, cluttered ground, three to five an image, one in front of the
other, at varied size, tilt and lighting. What an object is shows in its pattern and its outline together;
its colour only hints. Two pairs are easily confused: buoy and barrel wear the same bands and differ in
outline, crate and quilt have the same outline and differ in the pattern's fine structure. Plain patches in
any colour belong to the ground.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

from bench.contract import Dataset
from bench.errors import DataError
from bench.randomness import numpy_for

SIZE = 64
COUNTS = {"train": 512, "test": 200}
SEED = 20240613  # part of the data: another seed is another data set

Field = np.ndarray  # float, H W
Pattern = Callable[[Field, Field], Field]  # local coordinates in periods -> share of the second colour, 0..1


def disc(x: Field, y: Field) -> Field:
    return np.hypot(x, y) - 1


def box(x: Field, y: Field, width: float = 0.85, height: float = 0.85, corner: float = 0.1) -> Field:
    over_x, over_y = np.abs(x) - width + corner, np.abs(y) - height + corner
    outside = np.hypot(np.maximum(over_x, 0), np.maximum(over_y, 0))
    return outside + np.minimum(np.maximum(over_x, over_y), 0) - corner


def barrel(x: Field, y: Field) -> Field:
    return box(x, y, width=0.65, height=1.0, corner=0.25)


def ring(x: Field, y: Field) -> Field:
    return np.abs(np.hypot(x, y) - 0.68) - 0.32


def star(x: Field, y: Field) -> Field:
    return 0.8 * (np.hypot(x, y) - 0.85 - 0.25 * np.cos(5 * np.arctan2(x, -y)))


def bands(x: Field, y: Field) -> Field:
    return _edge(np.sin(2 * np.pi * y))


def pales(x: Field, y: Field) -> Field:
    return _edge(np.sin(2 * np.pi * x))


def checks(x: Field, y: Field) -> Field:
    return _edge(2 * np.sin(np.pi * x) * np.sin(np.pi * y))


def dots(x: Field, y: Field) -> Field:
    return _edge(np.cos(2 * np.pi * x) + np.cos(2 * np.pi * y) - 0.5)


def lattice(x: Field, y: Field) -> Field:
    return _edge(np.maximum(np.cos(2 * np.pi * x), np.cos(2 * np.pi * y)) - 0.6)


def zigzag(x: Field, y: Field) -> Field:
    return _edge(np.sin(2 * np.pi * (0.8 * y + np.abs(x - np.round(x)))))


def plain(x: Field, y: Field) -> Field:
    return np.full_like(x, 0.9)


def _edge(wave: Field) -> Field:
    return np.clip(0.5 + 1.2 * wave, 0, 1)


@dataclass(frozen=True)
class Kind:
    """What makes a class: its outline (signed distance, in radii), its pattern, and the hue it tends to."""

    name: str
    outline: Callable[[Field, Field], Field]
    pattern: Pattern
    hue: float
    colour: tuple[int, int, int]  # in pictures of masks


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


class Shapes(Dataset):
    """Generated on demand; an image is a pure function of its id."""

    name = "shapes"
    classes = ("background", *(kind.name for kind in KINDS))
    background = 0
    scored = "test"
    palette = np.array([(0, 0, 0), *(kind.colour for kind in KINDS)], dtype=np.uint8)

    def ids(self, listing: str) -> tuple[str, ...]:
        if listing not in COUNTS:
            raise DataError(f"The data set shapes has no list '{listing}': it has {' and '.join(COUNTS)}.")
        return _listed(listing)

    def image(self, id: str) -> np.ndarray:
        return _scene(id)[0].copy()

    def mask(self, id: str) -> np.ndarray:
        return _scene(id)[1].copy()

    def files(self, id: str, what: str) -> tuple[()]:
        return ()


def _listed(listing: str) -> tuple[str, ...]:
    return tuple(f"{listing}_{number:04d}" for number in range(1, COUNTS[listing] + 1))


_IDS = frozenset(id for listing in COUNTS for id in _listed(listing))


@lru_cache(maxsize=sum(COUNTS.values()))
def _scene(id: str) -> tuple[np.ndarray, np.ndarray]:
    """The image and the mask of an id. They are drawn together, since what is in front decides both."""
    if id not in _IDS:
        lists = " and from ".join(f"{name}_0001 to {name}_{count:04d}" for name, count in COUNTS.items())
        raise DataError(f"The data set shapes has no image '{id}': ids run from {lists}.")
    rng = numpy_for(SEED, "shapes", id)
    canvas = _ground(rng)
    mask = np.zeros((SIZE, SIZE), dtype=np.uint8)
    _clutter(canvas, rng)
    for label in rng.integers(1, len(KINDS) + 1, size=rng.integers(3, 6)):
        _place(canvas, mask, int(label), rng)
    return _lit(canvas, rng), mask


def _ground(rng: np.random.Generator) -> np.ndarray:
    """Soft blotches of two colours under fine grain and faint waves, H W 3 in 0..1."""
    first, second = _colour(rng, rng.random()), _colour(rng, rng.random())
    coarse = ndimage.zoom(rng.random((6, 6)), SIZE / 6, order=1)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    angle, period = rng.uniform(0, np.pi), rng.uniform(4, 12)
    waves = np.sin(
        2 * np.pi * (rows * np.sin(angle) + columns * np.cos(angle)) / period + rng.uniform(0, 6.3)
    )
    blend = np.clip(coarse + rng.uniform(0, 0.12) * waves + rng.normal(0, 0.06, (SIZE, SIZE)), 0, 1)
    return first + blend[..., None] * (second - first)


def _clutter(canvas: np.ndarray, rng: np.random.Generator) -> None:
    """Plain patches and bars, coloured as objects may be, that count as ground."""
    for _ in range(rng.integers(1, 5)):
        x, y, radius = _local(rng, rng.uniform(4, 11), tilt=np.pi)
        stretch = rng.uniform(0.3, 1)
        cover = _cover(box(x, y, 1.2, stretch, 0.8 * min(1.0, stretch)) * radius)
        canvas += (0.8 * cover)[..., None] * (_colour(rng, rng.random()) - canvas)


def _place(canvas: np.ndarray, mask: np.ndarray, label: int, rng: np.random.Generator) -> None:
    """Draw one object in front of what is there."""
    kind = KINDS[label - 1]
    x, y, radius = _local(rng, 11 * 1.8 ** rng.random(), tilt=0.25)
    period = rng.uniform(6.5, 8.5) * (radius / 15) ** 0.5 / radius
    share = kind.pattern(x / period + rng.random(), y / period + rng.random())
    hue = kind.hue + rng.normal(0, 0.15)
    first = _colour(rng, hue)
    second = (
        first * rng.uniform(0.2, 0.5) if rng.random() < 0.5 else first + rng.uniform(0.5, 0.8) * (1 - first)
    )
    paint = first + share[..., None] * (second - first)
    paint *= (
        1 + rng.uniform(-0.25, 0.25) * np.clip(x, -1.2, 1.2)[..., None]
    )  # each has a lit and a shaded side
    distance = kind.outline(x, y) * radius
    canvas += _cover(distance)[..., None] * (paint - canvas)
    mask[distance < 0] = label


def _local(rng: np.random.Generator, radius: float, tilt: float) -> tuple[Field, Field, float]:
    """Coordinates of every pixel in radii around a random centre, slightly turned."""
    rows, columns = np.mgrid[:SIZE, :SIZE] - rng.uniform(4, SIZE - 4, size=(2, 1, 1))
    angle = rng.uniform(-tilt, tilt)
    x, y = columns * np.cos(angle) + rows * np.sin(angle), rows * np.cos(angle) - columns * np.sin(angle)
    return x / radius, y / radius, radius


def _cover(distance: Field) -> Field:
    """How much of a pixel lies inside, from its distance to the outline."""
    return np.clip(0.5 - distance, 0, 1)


def _colour(rng: np.random.Generator, hue: float) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(hue % 1, rng.uniform(0.3, 0.8), rng.uniform(0.45, 0.9)))


def _lit(canvas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The canvas under light that falls off to one side and has a tint, with sensor noise, as uint8."""
    rows, columns = np.mgrid[:SIZE, :SIZE] / (SIZE - 1) - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    slope = rng.uniform(0, 0.6) * (rows * np.sin(angle) + columns * np.cos(angle))
    light = rng.uniform(0.65, 1.2) * (1 + slope)[..., None] * rng.uniform(0.85, 1.15, size=3)
    noisy = canvas * light + rng.normal(0, 0.02, canvas.shape)
    return np.round(255 * np.clip(noisy, 0, 1)).astype(np.uint8)
