"""The tags of an image, applied to the predictions in it.

B images of H W pixels, C classes. `allowed` holds the classes that an image may show, B C bool: its tags and
background. Or those that each pixel may show, B C H W, where boxes say it of places.
"""

import torch
from torch import Tensor

from bench.ops.entropy import pixel_entropy


def restrict(probability: Tensor, allowed: Tensor) -> Tensor:
    """Restrict the prediction to the tags: 0 for a class that is not allowed, the rest in proportion, of sum
    1.

    Even over the allowed classes where all of them have underflowed to 0; zeros where none is allowed.

    Args:
        probability: B C H W, 0..1.
        allowed: B C or B C H W bool.

    Returns:
        B C H W.
    """
    tiny = torch.finfo(probability.dtype).tiny
    kept = probability.clamp(min=tiny) * _spread(allowed)  # B C H W
    return kept / kept.sum(1, keepdim=True).clamp(min=tiny)


def allowed_label(probability: Tensor, allowed: Tensor) -> Tensor:
    """Give the most likely allowed class: B C H W and `allowed` -> B H W int64 (CSRM takes its pseudo-labels
    so).

    Means nothing where no class is allowed.
    """
    # Below 0, so that an allowed class of probability 0 comes before one that is not allowed.
    return probability.masked_fill(~_spread(allowed), -1).max(1).indices


def relative_entropy(probability: Tensor, allowed: Tensor) -> Tensor:
    """Give the entropy of the restricted prediction as a share of the most it can be, ln of the number of
    allowed classes, so that images with few and with many tags can be compared: B C H W and `allowed` -> B H
    W, 0..1.

    0 where one class or none is allowed.
    """
    entropy = pixel_entropy(restrict(probability, allowed))  # B H W
    number = _spread(allowed).sum(1)  # B 1 1 or B H W
    return torch.where(number > 1, entropy / number.clamp(min=2).log(), 0)


def _spread(allowed: Tensor) -> Tensor:
    """B C 1 1 of B C; what is of pixels stays."""
    return allowed if allowed.dim() == 4 else allowed[:, :, None, None]
