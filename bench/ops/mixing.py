"""Mixing images of a batch."""

import torch
from torch import Tensor

from bench.ops.processes import gathered, own, rank, world_size


def mix(tensor: Tensor, box: Tensor | None) -> Tensor:
    """CutMix with the next image of the joint batch: the pixels inside `box` come from image (i + 1) mod B.

    Use the same box for the image, the pseudo-label, the confidence and the valid map.

    Args:
        tensor: B H W or B . H W; what another rank sends has no gradient.
        box: B H W bool; None: nothing is mixed.
    """
    if box is None:
        return tensor
    if len(tensor) * world_size() < 2:
        raise ValueError("a batch of one image cannot be mixed: the image would be mixed with itself")
    inside = box if tensor.dim() == box.dim() else box.unsqueeze(1)
    return torch.where(inside, _next(tensor), tensor)


def _next(tensor: Tensor) -> Tensor:
    """Return the image behind each one; behind the last of a rank comes the first of the next rank."""
    if world_size() == 1:
        return tensor.roll(-1, 0)
    first = gathered(tensor[:1])  # W 1 ...
    return torch.cat([tensor[1:], first[(rank() + 1) % len(first)]])


def half_of_the_classes(
    label: Tensor, valid: Tensor, classes: int, generator: torch.Generator, up: bool = False
) -> Tensor:
    """Choose the pixels of half of an image's classes, drawn anew for each image (ClassMix, trainSSL.py).

    Args:
        label: B H W int64, below `classes`.
        valid: B H W bool; a class that is in padding alone does not count.
        up: Round half of an odd number up (DACS, trainUDA.py), not down.

    Returns:
        B H W bool. Rounded down, an image of one class has none: mixed by the opposite, its partner replaces
        it whole.
    """
    known = label.where(valid, classes).flatten(1)  # B HW
    present = torch.zeros(len(label), classes + 1, dtype=torch.bool, device=label.device)
    present = present.scatter(1, known, True)[:, :classes]  # B C
    # The classes that are there come first, in random order.
    shape = (len(label) * world_size(), classes)
    draw = own(torch.rand(shape, generator=generator, device=label.device)) + ~present  # B C
    chosen = draw.argsort(1).argsort(1) < (present.sum(1, keepdim=True) + up) // 2  # B C
    return chosen.gather(1, label.flatten(1)).view_as(label)


def paste(above: Tensor, below: Tensor, box: Tensor) -> Tensor:
    """Take what lies above inside `box` (B H W bool), elsewhere what lies below: B H W or B . H W."""
    return torch.where(box if above.dim() == box.dim() else box.unsqueeze(1), above, below)


def beta(a: int, b: int, generator: torch.Generator) -> Tensor:
    """Draw from Beta(a, b) of whole numbers, scalar: the a-th smallest of a + b - 1 uniform draws."""
    draws = torch.rand(a + b - 1, generator=generator, device=generator.device)
    return draws.sort().values[a - 1]


def boxes_around(like: Tensor, area: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a box in each image, cut off at the borders (AugSeg, augs_ALIA.py): B H W bool.

    Args:
        like: B H W.
        area: Scalar in 0..1, a box's share of the image before it is cut off: its sides are sqrt(area) of the
            image's, rounded down to an even number.
        generator: Draws the centres, on the device of `like`: each side's last seven eighths, uniformly.
    """
    inside = []
    for side in like.shape[1:]:
        half = (side * area.sqrt()).floor().div(2, rounding_mode="floor")
        shape = (len(like) * world_size(), 1)
        centre = own(torch.randint(side // 8, side, shape, generator=generator, device=like.device))
        place = torch.arange(side, device=like.device)
        inside.append((place >= centre - half) & (place < centre + half))  # B side
    rows, columns = inside
    return rows.unsqueeze(2) & columns.unsqueeze(1)
