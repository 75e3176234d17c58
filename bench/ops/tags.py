"""What the tags of an image say of the predictions in it.

B images of H W pixels, C classes. `allowed` (B C bool) holds the classes that an image may show: its tags and
background.
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
        allowed: B C bool.

    Returns:
        B C H W.
    """
    tiny = torch.finfo(probability.dtype).tiny
    kept = probability.clamp(min=tiny) * allowed[:, :, None, None]  # B C H W
    return kept / kept.sum(1, keepdim=True).clamp(min=tiny)


def allowed_label(probability: Tensor, allowed: Tensor) -> Tensor:
    """Give the most likely allowed class: B C H W and B C bool -> B H W int64 (CSRM takes its pseudo-labels
    so).

    Means nothing where no class is allowed.
    """
    # Below 0, so that an allowed class of probability 0 comes before one that is not allowed.
    return probability.masked_fill(~allowed[:, :, None, None], -1).max(1).indices


def relative_entropy(probability: Tensor, allowed: Tensor) -> Tensor:
    """Give the entropy of the restricted prediction as a share of the most it can be, ln of the number of
    allowed classes, so that images with few and with many tags can be compared: B C H W and B C bool -> B H
    W, 0..1.

    0 where one class or none is allowed.
    """
    entropy = pixel_entropy(restrict(probability, allowed))  # B H W
    number = allowed.sum(1)[:, None, None]  # B 1 1
    return torch.where(number > 1, entropy / number.clamp(min=2).log(), 0)
