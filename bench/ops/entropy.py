"""How sure a prediction is, and the split of a batch's pixels into reliable and unreliable ones."""

from typing import NamedTuple

import torch
from torch import Tensor

from bench.ops.processes import gathered, total


class Partition(NamedTuple):
    reliable: Tensor  # bool
    unreliable: Tensor  # bool; neither of the two where not valid
    threshold: Tensor  # scalar, nats; inf where no pixel is valid


def pixel_entropy(probability: Tensor) -> Tensor:
    """-sum p ln p over the classes: B C H W -> B H W, in nats, 0..ln C."""
    # Not torch.special.entr, which is not vectorised and takes twice as long; 0 ln tiny is 0, as it should.
    log = probability.clamp(min=torch.finfo(probability.dtype).tiny).log_()
    return log.mul_(probability).sum(1).neg_()


def ascending(values: Tensor) -> Tensor:
    """All values in order, one row: floats of any shape that are not negative."""
    # They have the order of their bits, and integers are sorted six times as fast.
    whole = torch.int32 if values.element_size() == 4 else torch.int64
    return values.flatten().view(whole).sort().values.view(values.dtype)


def percentile(values: Tensor, valid: Tensor, share: float) -> Tensor:
    """numpy.percentile(values[valid], 100 * share) of the joint batch, by linear interpolation, in float64;
    inf where none is valid.

    Stays on the device: the invalid values sort last, and the position is counted among the valid ones.

    Args:
        values: float32 or float64, not negative, any shape.
        valid: bool, of the same shape.
        share: 0..1.
    """
    from_low = ascending(gathered(values.masked_fill(~valid, torch.inf)))
    # In numpy's order of operations, so that whole positions are whole here too.
    position = (100 * share / 100) * (total(valid.sum()).double() - 1).clamp(min=0)
    below = position.floor()
    low = from_low.gather(0, below.long().view(1)).double()
    high = from_low.gather(0, position.ceil().long().view(1)).double()
    weight = position - below
    # An invalid batch has inf - inf here.
    return torch.where(weight > 0, low + (high - low) * weight, low).squeeze(0)


def surest(entropy: Tensor, valid: Tensor, share: float) -> Tensor:
    """Give the valid pixels whose entropy is among the lowest `share` (0..1) of them; shapes as in
    `partition`."""
    return (entropy.double() <= percentile(entropy, valid, share)) & valid


def partition(entropy: Tensor, valid: Tensor, alpha: float) -> Partition:
    """Reliable where the entropy is below the threshold, unreliable from it on (U2PL, Eq. 6 and 7).

    The threshold is the (100 - 100 alpha)th percentile of all valid pixels of the joint batch, so one image
    may be reliable as a whole and another one not at all. A tie with it is unreliable: where all entropies
    are equal, or no pixel is valid, nothing is reliable.

    Args:
        entropy: B H W, nats.
        valid: B H W bool, False in padding.
        alpha: Share of unreliable pixels, 0..1.
    """
    threshold = percentile(entropy, valid, 1 - alpha)
    below = entropy.double() < threshold  # in float64: rounding the threshold could move it onto a pixel
    return Partition(below & valid, ~below & valid, threshold)
