"""Colours of classes that are told apart by the colour-blind too."""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np

# The colours that dichromats see, in linear RGB: Machado, Oliveira, Fernandes, IEEE TVCG 2009, severity 1.
PROTAN = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
DEUTAN = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
WHITE = TO_XYZ.sum(1)
SHADES = (0, 64, 128, 192, 255)  # of red, green and blue
VOID = (128, 128, 128)  # of pixels without a label; no class comes near it


def lab(linear: np.ndarray) -> np.ndarray:
    """Linear RGB ... 3 in 0..1 -> CIE L*a*b*, where distances are about those that people see."""
    x = linear.clip(0, 1) @ TO_XYZ.T / WHITE
    f = np.where(x > 0.008856, np.cbrt(x), 7.787 * x + 16 / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


def distances(colours: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the least distance of colours over usual, protan and deutan sight: N 3 and M 3 uint8 -> N M."""
    found = []
    for sight in (np.eye(3), np.array(PROTAN), np.array(DEUTAN)):
        mine, theirs = (lab((given / 255) ** 2.2 @ sight.T) for given in (colours, others))
        found.append(np.linalg.norm(mine[:, None] - theirs[None], axis=-1))
    smallest: np.ndarray = np.min(found, 0)
    return smallest


@cache
def class_colours(count: int) -> tuple[tuple[int, int, int], ...]:
    """Choose `count` colours, 0..255, each the farthest from those before it, from void, black and white."""
    candidates = np.array(list(product(SHADES, repeat=3)), np.uint8)  # 125 3
    taken = np.array([VOID, (0, 0, 0), (255, 255, 255)], np.uint8)
    nearest = distances(candidates, taken).min(1)
    chosen: list[tuple[int, int, int]] = []
    for _ in range(count):
        best = int(nearest.argmax())
        red, green, blue = candidates[best].tolist()
        chosen.append((red, green, blue))
        nearest = np.minimum(nearest, distances(candidates, candidates[best : best + 1])[:, 0])
        if len(chosen) % len(candidates) == 0:  # more classes than candidates: they begin anew
            nearest = distances(candidates, taken).min(1)
    return tuple(chosen)
