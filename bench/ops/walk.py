"""A random walk that spreads activation maps over an image, and stops where its colours change.

The walk of PSA (Ahn and Kwak, CVPR 2018, infer_aff.py), with affinities of the image alone in place of
learned ones: nothing is trained for it.

K maps of an image, h w cells, N neighbours of a cell and itself.
"""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

RADIUS = 5  # cells between two neighbours at most (PSA)
POWER = 8  # to which affinities are raised (PSA, beta)
CELL = 2  # cells of a stored map in one of the walk: eight pixels, as in PSA


def walked(maps: Tensor, image: np.ndarray, steps: int) -> Tensor:
    """Return the maps of an image after this number of steps of the walk.

    Args:
        maps: K h w, as they are stored, a quarter of the image; 0 or more.
        image: H W 3 uint8: differences of colour count against the image's own spread.
        steps: PSA takes 256; 0 gives the maps back, averaged over the cells of the walk.

    Returns:
        K h w, each within the range of its map.
    """
    if not maps.numel():
        return maps
    size = (-(-maps.shape[-2] // CELL), -(-maps.shape[-1] // CELL))
    colours = torch.from_numpy(image).to(maps.device).permute(2, 0, 1)  # 3 H W
    cells, colours = (F.adaptive_avg_pool2d(of[None].float(), size)[0] for of in (maps, colours))
    weights = affinity(colours) ** POWER
    weights = weights / weights.sum(0)  # N h' w'; a cell's own is 1
    for _ in range(steps):
        cells = step(cells, weights)
    return F.interpolate(cells[None], maps.shape[-2:], mode="bilinear", align_corners=False)[0]


def affinity(colours: Tensor) -> Tensor:
    """How near a cell's neighbours are to it: D h w -> N h w in 0..1, 0 outside of the image.

    exp(-mean over the D of |difference| / spread), as PSA has it of learned features; the spread is the
    standard deviation over the image. An image of one colour has 1 everywhere.
    """
    spread = colours.flatten(1).std(1, correction=0).clamp(min=1e-6)[:, None, None]
    inside = _neighbours(torch.ones_like(colours[:1]))  # 1, and 0 beyond the border
    near = [
        (-((moved - colours).abs() / spread).mean(0)).exp() * there[0]
        for moved, there in zip(_neighbours(colours), inside, strict=True)
    ]
    return torch.stack(near)


def step(cells: Tensor, weights: Tensor) -> Tensor:
    """Each cell becomes the mean of its neighbours and itself by `weights`, N h w: K h w -> K h w."""
    mean = torch.zeros_like(cells)
    # One neighbour after the other: all of them at once would take 81 times the memory of the maps.
    for weight, moved in zip(weights, _neighbours(cells), strict=True):
        mean += weight * moved
    return mean


def _neighbours(maps: Tensor) -> Iterator[Tensor]:
    """Yield `maps` (D h w) moved by each offset within the radius, 0 beyond the border."""
    height, width = maps.shape[-2:]
    padded = F.pad(maps, [RADIUS] * 4)
    for y in range(-RADIUS, RADIUS + 1):
        for x in range(-RADIUS, RADIUS + 1):
            if y * y + x * x <= RADIUS * RADIUS:
                rows, columns = slice(RADIUS + y, RADIUS + y + height), slice(RADIUS + x, RADIUS + x + width)
                yield padded[:, rows, columns]
