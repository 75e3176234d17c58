"""The gated CRF loss: neighbours that look alike shall be of one class (Obukhov et al., 2019,
models/model_loss_semseg_gatedcrf.py; WSL4MIS and PyMIC have it too).

B images, C classes, h w the size of what is looked at, cells of some pixels' side.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.ops.processes import share_of_mean


def gated_crf(
    probability: Tensor, image: Tensor, gate: Tensor, radius: int, width: float, colour: float
) -> Tensor:
    """Compute the sum over pairs i, j of k_ij (1 - p_i . p_j), over the open cells: a scalar, 0 or more.

    k_ij = exp(-|x_i - x_j|^2 / 2 width^2 - |c_i - c_j|^2 / 2 colour^2) for the other cells of a window of
    2 radius + 1, between open cells, else 0. The release closes one end of a pair; here both, which makes k
    symmetric.

    Args:
        probability: B C h w, of sum 1.
        image: B . h w, its colours.
        gate: B h w bool, False where a cell counts for nothing, such as padding.
        radius: In cells.
        width, colour: Standard deviations, in cells and in units of `image`.
    """
    p = probability.detach()
    q, total = torch.zeros_like(p), p.new_zeros(())  # q = K p
    with torch.no_grad():
        # One neighbour after the other: all of them at once would take 121 times the memory of p. Of each
        # pair one half of the window is enough.
        for dy, dx in _half_window(radius, p.shape[-2], p.shape[-1]):
            here, there = _shifted(dy, dx)
            distance = (dy * dy + dx * dx) / width**2
            difference = (image[here] - image[there]).square().sum(1) / colour**2
            open_pairs = gate[here] & gate[there]
            k = (-0.5 * (difference + distance)).exp() * open_pairs  # B h' w'
            total += 2 * k.sum()
            q[here].addcmul_(k.unsqueeze(1), p[there])
            q[there].addcmul_(k.unsqueeze(1), p[here])
    # Its value is total - p . q, and since k is symmetric its gradient is -2 q.
    loss = total - 2 * (probability * q).sum() + (p * q).sum()
    return share_of_mean(loss, gate.sum())


def gated_crf_of_logits(
    logits: Tensor, image: Tensor, gate: Tensor, stride: int, radius: int, width: float, colour: float
) -> Tensor:
    """`gated_crf` on cells of `stride` pixels: means of probability and colour, open where all pixels are.

    Args:
        logits: B C H W.
        image: B . H W.
        gate: B H W bool.
    """
    stride = min(stride, *logits.shape[-2:])
    probability = F.avg_pool2d(logits.float().softmax(1), stride)  # B C h w
    colours = F.avg_pool2d(image.float(), stride)
    closed = F.max_pool2d((~gate).float().unsqueeze(1), stride).squeeze(1)
    return gated_crf(probability, colours, closed == 0, radius, width, colour)


def _half_window(radius: int, height: int, width: int) -> Iterator[tuple[int, int]]:
    """Offsets right of a cell and below: (0, 1), (0, 2), (1, -1) ...; what leaves every map is left out."""
    for dy in range(min(radius, height - 1) + 1):
        reach = min(radius, width - 1)
        yield from ((dy, dx) for dx in range(-reach if dy else 1, reach + 1))


def _shifted(dy: int, dx: int) -> tuple[Any, Any]:
    """Return indices of maps ... h w: cells, and those (dy, dx) away."""
    here = ..., slice(None, -dy or None), slice(max(-dx, 0), -dx if dx > 0 else None)
    return here, (..., slice(dy, None), slice(max(dx, 0), dx if dx < 0 else None))
