"""Thresholds and weights of pixels that follow how sure the predictions are.

FlexMatch, FreeMatch and SoftMatch were made for one label an image; the files named are of USB
(Semi-supervised-learning, semilearn/algorithms). Carried to pixels, each of their statistics is a mean over
the pixels outside padding, on all ranks, and moves by 1 - `momentum` a step. B images, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.ops.processes import gathered, summed, total

FLOOR = 0.1  # of a class's share of the threshold: else background would bring that of rare classes to 0


def pixel_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean over the valid pixels: B H W -> scalar, B C H W -> C; 0 where there are none."""
    inside = valid if values.dim() == valid.dim() else valid.unsqueeze(1)
    return total((values * inside).sum((0, -2, -1))) / total(valid.sum()).clamp(min=1)


def class_share(label: Tensor, counted: Tensor, valid: Tensor, classes: int) -> Tensor:
    """Share of the valid pixels that are `counted` and of each class: C.

    Args:
        label: B H W int64, below C.
        counted, valid: B H W bool.
    """
    counts = torch.zeros(classes, device=label.device)
    counts = counts.scatter_add(0, label.flatten(), (counted & valid).flatten().float())
    return total(counts) / total(valid.sum()).clamp(min=1)


def move(average: Tensor, new: Tensor, momentum: float, valid: Tensor) -> None:
    """Move a buffer to its moving average with `new`; where no pixel is valid it stays."""
    moved = momentum * average + (1 - momentum) * new
    average.copy_(moved.where(total(valid.sum()) > 0, average))


class FlexThreshold(nn.Module):
    """FlexMatch: the threshold of a class falls with its share of the confident pixels (flexmatch/utils.py).

    There each image keeps its last confident label; a table of pixels cannot be kept, so shares move.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        # Of the classes among all pixels; the last one is of pixels without a confident label ("warm-up").
        self.shares = nn.Buffer(torch.cat([torch.zeros(classes), torch.ones(1)]))

    @torch.no_grad()
    def forward(
        self, confidence: Tensor, pseudo_label: Tensor, valid: Tensor, threshold: float, momentum: float
    ) -> Tensor:
        """confidence, pseudo_label, valid B H W -> each pixel's threshold B H W; then the shares move."""
        learned = self.shares[:-1] / self.shares.max()  # C
        own = (threshold * learned / (2 - learned))[pseudo_label]
        found = class_share(pseudo_label, confidence >= threshold, valid, len(learned))
        move(self.shares, torch.cat([found, 1 - found.sum().view(1)]), momentum, valid)
        return own


class FreeThreshold(nn.Module):
    """FreeMatch: the mean confidence, times a class's share of the largest class's mean probability
    (freematch/utils.py). Not below `FLOOR` of it."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.confidence = nn.Buffer(torch.tensor(1 / classes))
        self.probability = nn.Buffer(torch.full((classes,), 1 / classes))
        self.label_share = nn.Buffer(torch.full((classes,), 1 / classes))

    @torch.no_grad()
    def forward(self, probability: Tensor, valid: Tensor, momentum: float) -> Tensor:
        """probability B C H W -> threshold of each class C, after the statistics have moved."""
        confidence, label = probability.max(1)
        move(self.confidence, pixel_mean(confidence, valid), momentum, valid)
        move(self.probability, pixel_mean(probability, valid), momentum, valid)
        move(self.label_share, class_share(label, valid, valid, len(self.probability)), momentum, valid)
        return self.confidence * (self.probability / self.probability.max()).clamp(min=FLOOR)

    def fairness(self, probability: Tensor, keep: Tensor) -> Tensor:
        """FreeMatch's entropy term of what the student says of the kept pixels: scalar, at most 0, the less
        the more alike the classes are (freematch.py). 0 where nothing is kept.

        Args:
            probability: B C H W.
            keep: B H W bool.
        """
        count = total(keep.sum())
        counts = torch.zeros_like(self.label_share)
        counts = total(counts.scatter_add(0, probability.argmax(1).flatten(), keep.flatten().float()))
        mean = summed((probability * keep.unsqueeze(1)).sum((0, 2, 3))) / count.clamp(min=1)
        wanted = _normalised(_over(self.probability, self.label_share))
        found = _normalised(_over(mean, counts / count.clamp(min=1)))
        return (wanted * (found + 1e-12).log()).sum() * (count > 0)


def _over(values: Tensor, shares: Tensor) -> Tensor:
    """values / shares, 0 where the share is 0."""
    return torch.where(shares > 0, values / shares.where(shares > 0, 1), 0)


def _normalised(values: Tensor) -> Tensor:
    return values / values.sum().clamp(min=1e-12)


class SoftWeight(nn.Module):
    """SoftMatch: a pixel less sure than the mean weighs exp(-(c - mean)^2 / (2 variance / width^2)), the
    others 1 (softmatch/utils.py)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.mean = nn.Buffer(torch.tensor(1 / classes))
        self.variance = nn.Buffer(torch.tensor(1.0))

    @torch.no_grad()
    def forward(self, confidence: Tensor, valid: Tensor, width: float, momentum: float) -> Tensor:
        """confidence, valid B H W -> weight B H W in 0..1, after mean and variance have moved."""
        count = total(valid.sum())
        mean = pixel_mean(confidence, valid)
        variance = pixel_mean((confidence - mean).square(), valid) * count / (count - 1).clamp(min=1)
        move(self.mean, mean, momentum, valid)
        move(self.variance, variance, momentum, valid)
        below = (confidence - self.mean).clamp(max=0)
        return (-below.square() * width**2 / (2 * self.variance).clamp(min=1e-12)).exp()


class Alignment(nn.Module):
    """Distribution alignment: predictions are moved so that their mean is that of the labeled pixels.

    SoftMatch's target is uniform, which is wrong where one class has a hundred times the area of another.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.probability = nn.Buffer(torch.full((classes,), 1 / classes))
        self.labeled = nn.Buffer(torch.zeros(classes, dtype=torch.int64))  # pixels of each class so far

    @torch.no_grad()
    def forward(self, probability: Tensor, valid: Tensor, momentum: float) -> Tensor:
        """probability B C H W -> the same, aligned, after the mean has moved."""
        move(self.probability, pixel_mean(probability, valid), momentum, valid)
        wanted = self.labeled / self.labeled.sum().clamp(min=1)
        ratio = (wanted + 1e-6) / (self.probability + 1e-6)  # semilearn/algorithms/hooks, dist_align.py
        aligned = probability * ratio.view(1, -1, 1, 1)
        return aligned / aligned.sum(1, keepdim=True)


class GlobalThreshold(nn.Module):
    """CorrMatch: one threshold, which moves to the mean over the classes of the highest confidence among the
    pixels predicted as the class (util/thresh_helper.py)."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.value = nn.Buffer(torch.tensor(start))

    @torch.no_grad()
    def forward(
        self, confidence: Tensor, pseudo_label: Tensor, valid: Tensor, classes: int, momentum: float
    ) -> Tensor:
        """confidence, pseudo_label, valid B H W -> scalar, after it has moved."""
        seen = confidence.float().masked_fill(~valid, 0)
        of_class = pseudo_label == torch.arange(classes, device=seen.device).view(-1, 1, 1, 1)  # C B H W
        # Not scatter_reduce, which machine.deterministic refuses on CUDA.
        highest = gathered((seen * of_class).amax((1, 2, 3))).amax(0)  # C
        move(self.value, highest.sum() / (highest > 0).sum().clamp(min=1), momentum, valid)
        return self.value.clone()
