"""Mixing images of a batch."""

import torch
from torch import Tensor


def mix(tensor: Tensor, box: Tensor | None) -> Tensor:
    """CutMix with the next image of the batch: the pixels inside `box` come from image (i + 1) mod B.

    Use the same box for the image, the pseudo-label, the confidence and the valid map.

    Args:
        tensor: B H W or B . H W.
        box: B H W bool; None: nothing is mixed.
    """
    if box is None:
        return tensor
    if len(tensor) < 2:
        raise ValueError("a batch of one image cannot be mixed: the image would be mixed with itself")
    inside = box if tensor.dim() == box.dim() else box.unsqueeze(1)
    return torch.where(inside, tensor.roll(-1, 0), tensor)
