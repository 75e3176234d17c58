"""Generated data sets: scenes of objects on textured, cluttered ground, drawn from the id of the image alone.

What an object is shows in its outline and its pattern together. A data set says its kinds of objects, how
often each of them is there, whether a kind tends to a hue, and how crowded its scenes are.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
from scipy import ndimage

from bench.contract import Dataset
from bench.errors import DataError
from bench.randomness import numpy_for

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
    """The traits of a class: its outline (signed distance, in radii), its pattern, the hue it tends to (None:
    to none), and how often it is there beside the others."""

    name: str
    outline: Callable[[Field, Field], Field]
    pattern: Pattern
    hue: float | None
    colour: tuple[int, int, int]  # in pictures of masks
    often: int = 1


@dataclass(frozen=True)
class Light:
    """In which a scene is seen: how bright it is (least, most), how much of red, green and blue there is, the
    noise of the sensor (standard deviation, in 0..1) and its blur (of a Gaussian, in pixels)."""

    brightness: tuple[float, float]
    colour: tuple[float, float, float]
    noise: float
    blur: float


DAY = Light((0.65, 1.2), (1.0, 1.0, 1.0), 0.02, 0.0)


class Generated(Dataset):
    """Generated on demand; an image is a pure function of its id, such as "train_0001"."""

    kinds: ClassVar[tuple[Kind, ...]]
    counts: ClassVar[Mapping[str, int]]  # images of each list
    seed: ClassVar[int]  # part of the data: another seed is another data set
    size: ClassVar[int]  # height and width in pixels
    objects: ClassVar[tuple[int, int]]  # in a scene: at least, at most
    patches: ClassVar[tuple[int, int]]  # of clutter
    radius: ClassVar[
        tuple[float, float]
    ]  # of an object: the least, in pixels, and the most as a multiple of it
    light: ClassVar[Light] = DAY
    ground: ClassVar[tuple[float, float]] = (0.0, 1.0)  # the hues that the ground has, from and to
    tries: ClassVar[int]  # places that an object may choose from; it takes the one farthest from the others
    background = 0
    scored = "test"
    heldout = "heldout"

    def ids(self, listing: str) -> tuple[str, ...]:
        if listing not in self.counts:
            raise DataError(
                f"The data set {self.name} has no list '{listing}': it has {', '.join(self.counts)}."
            )
        return tuple(f"{listing}_{number:04d}" for number in range(1, self.counts[listing] + 1))

    def image(self, id: str) -> np.ndarray:
        return _scene(type(self), id)[0].copy()

    def mask(self, id: str) -> np.ndarray:
        return _scene(type(self), id)[1].copy()

    def files(self, id: str, what: str) -> tuple[()]:
        return ()

    @classmethod
    def labels(cls, rng: np.random.Generator) -> np.ndarray:
        """Draw the classes of the objects of a scene, from back to front."""
        often = np.array([kind.often for kind in cls.kinds])
        number = rng.integers(cls.objects[0], cls.objects[1] + 1)
        if (often == often[0]).all():
            return rng.integers(1, len(often) + 1, size=number)
        return 1 + rng.choice(len(often), number, p=often / often.sum())


def classes_of(kinds: tuple[Kind, ...]) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the names of the classes, background first, and their colours in pictures, C 3 uint8."""
    names = ("background", *(kind.name for kind in kinds))
    return names, np.array([(0, 0, 0), *(kind.colour for kind in kinds)], dtype=np.uint8)


@cache
def _scene(of: type[Generated], id: str) -> tuple[np.ndarray, np.ndarray]:
    """Draw the image and the mask of an id. They are drawn together, since what is in front decides both."""
    listing, _, number = id.partition("_")
    at = int(number) if number.isascii() and number.isdecimal() else 0
    if id != f"{listing}_{at:04d}" or not 1 <= at <= of.counts.get(listing, 0):
        lists = ", ".join(f"{name}_0001 to {name}_{count:04d}" for name, count in of.counts.items())
        raise DataError(f"The data set {of.name} has no image '{id}': ids run from {lists}.")
    rng = numpy_for(of.seed, of.name, id)
    canvas = _ground(rng, of.size, of.ground)
    mask = np.zeros((of.size, of.size), dtype=np.uint8)
    _clutter(canvas, rng, *of.patches)
    taken: list[np.ndarray] = []
    for label in of.labels(rng):
        radius = of.radius[0] * of.radius[1] ** rng.random()
        taken.append(_apart(rng, of.size, taken, of.tries))
        _place(canvas, mask, of.kinds[label - 1], int(label), radius, taken[-1], rng)
    return _lit(canvas, rng, of.light), mask


def _ground(rng: np.random.Generator, size: int, hues: tuple[float, float]) -> np.ndarray:
    """Soft blotches of two colours under fine grain and faint waves, H W 3 in 0..1."""
    low, high = hues
    first, second = (_colour(rng, low + (high - low) * rng.random()) for _ in range(2))
    coarse = ndimage.zoom(rng.random((6, 6)), size / 6, order=1)
    rows, columns = np.mgrid[:size, :size]
    angle, period = rng.uniform(0, np.pi), rng.uniform(4, 12)
    waves = np.sin(
        2 * np.pi * (rows * np.sin(angle) + columns * np.cos(angle)) / period + rng.uniform(0, 6.3)
    )
    blend = np.clip(coarse + rng.uniform(0, 0.12) * waves + rng.normal(0, 0.06, (size, size)), 0, 1)
    return first + blend[..., None] * (second - first)


def _clutter(canvas: np.ndarray, rng: np.random.Generator, least: int, most: int) -> None:
    """Plain patches and bars, coloured as objects may be, that count as ground."""
    for _ in range(rng.integers(least, most + 1)):
        radius = rng.uniform(4, 11)
        x, y = _local(rng, len(canvas), _apart(rng, len(canvas)), radius, tilt=np.pi)
        stretch = rng.uniform(0.3, 1)
        cover = _cover(box(x, y, 1.2, stretch, 0.8 * min(1.0, stretch)) * radius)
        canvas += (0.8 * cover)[..., None] * (_colour(rng, rng.random()) - canvas)


def _place(
    canvas: np.ndarray,
    mask: np.ndarray,
    kind: Kind,
    label: int,
    radius: float,
    centre: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Draw one object in front of what is there."""
    x, y = _local(rng, len(canvas), centre, radius, tilt=0.25)
    period = rng.uniform(6.5, 8.5) * (radius / 15) ** 0.5 / radius
    share = kind.pattern(x / period + rng.random(), y / period + rng.random())
    hue = rng.random() if kind.hue is None else kind.hue + rng.normal(0, 0.15)
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


def _apart(
    rng: np.random.Generator, size: int, taken: Sequence[np.ndarray] = (), tries: int = 1
) -> np.ndarray:
    """Draw a random centre (row, column). Of `tries` centres it is the one whose nearest neighbour is
    farthest."""
    found = [rng.uniform(4, size - 4, size=2) for _ in range(tries)]
    return max(found, key=lambda centre: min((np.hypot(*(centre - other)) for other in taken), default=0.0))


def _local(
    rng: np.random.Generator, size: int, centre: np.ndarray, radius: float, tilt: float
) -> tuple[Field, Field]:
    """Coordinates of every pixel in radii around a centre, slightly turned."""
    rows, columns = np.mgrid[:size, :size] - centre[:, None, None]
    angle = rng.uniform(-tilt, tilt)
    x, y = columns * np.cos(angle) + rows * np.sin(angle), rows * np.cos(angle) - columns * np.sin(angle)
    return x / radius, y / radius


def _cover(distance: Field) -> Field:
    """How much of a pixel lies inside, from its distance to the outline."""
    return np.clip(0.5 - distance, 0, 1)


def _colour(rng: np.random.Generator, hue: float) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(hue % 1, rng.uniform(0.3, 0.8), rng.uniform(0.45, 0.9)))


def _lit(canvas: np.ndarray, rng: np.random.Generator, of: Light) -> np.ndarray:
    """Show the canvas under light that falls off to one side and has a tint, with sensor noise, as uint8."""
    size = len(canvas)
    rows, columns = np.mgrid[:size, :size] / (size - 1) - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    slope = rng.uniform(0, 0.6) * (rows * np.sin(angle) + columns * np.cos(angle))
    light = rng.uniform(*of.brightness) * (1 + slope)[..., None] * rng.uniform(0.85, 1.15, size=3)
    seen = canvas * light * of.colour
    if of.blur:
        seen = ndimage.gaussian_filter(seen, (of.blur, of.blur, 0))
    noisy = seen + rng.normal(0, of.noise, canvas.shape)
    return np.round(255 * np.clip(noisy, 0, 1)).astype(np.uint8)
