"""Scoring: inference on images of their own size, confusion counts, mIoU.

mIoU is pooled: the counts of all images are added up, and the mean is taken over the classes that the truth
holds. So all runs on one scored list average over the same classes. A class that no scored mask holds is no
zero: pixels predicted as that class already count as misses of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.contract import IGNORE, Dataset
from bench.errors import DataError
from bench.records.schema import Score
from bench.scoring.ahead import read_ahead
from bench.settings.schema import Evaluation


def confusion(prediction: Tensor, label: Tensor, classes: int) -> Tensor:
    """Count pairs of (truth, prediction) over the pixels whose label is not 255: C C int64, truth in rows.

    Labels are 0..255. Raises ValueError if a class id at or above C is predicted or is a label: 255 may be
    a label, never a prediction.
    """
    # One pass over a table of all 256 truths; leaving the ignored pixels out first takes ten times as long.
    # The last column gathers the predictions out of range, and narrow integers halve the time again.
    columns = classes + 1
    narrow = torch.int16 if 256 * columns <= 2**15 else torch.int32
    predicted = prediction.flatten().clamp(max=classes).to(narrow)
    cell = label.flatten().to(narrow) * columns + predicted
    table = torch.bincount(cell, minlength=256 * columns).view(256, columns)
    counts = table[:classes, :classes]
    wrong = table[:IGNORE].sum() - counts.sum()
    if wrong:  # no extra wait for the GPU: bincount has waited already
        raise ValueError(f"{int(wrong)} pixels have a predicted or true class id outside 0..{classes - 1}")
    return counts


def score(counts: np.ndarray) -> Score:
    """Scores of pooled counts, C C int64 with truth in rows.

    Raises DataError where nothing was counted: a score of nothing is not 0.
    """
    if not counts.any():
        raise DataError(
            "no scored mask holds a labeled pixel, so there is no score; label the scored images."
        )
    hit = np.diag(counts).astype(np.float64)
    union = counts.sum(0) + counts.sum(1) - np.diag(counts)
    occurs = counts.sum(1) > 0
    iou = np.divide(hit, union, out=np.zeros_like(hit), where=occurs)
    return Score(
        miou=float(iou[occurs].mean()),
        classes_averaged=int(occurs.sum()),
        iou=[float(value) if there else None for value, there in zip(iou, occurs, strict=True)],
        pixel_accuracy=float(hit.sum() / counts.sum()),
    )


@dataclass(frozen=True)
class Inference:
    """How a module predicts an image of any size: probabilities averaged over windows, scales and flips."""

    settings: Evaluation
    crop: tuple[int, int]

    def __call__(self, module: nn.Module, image: Tensor) -> Tensor:
        """image B 3 H W -> predicted class ids B H W int64."""
        if self._is_one_pass:
            return module(image).argmax(1)
        return self._total(module, image).argmax(1)

    def likeliest(self, module: nn.Module, image: Tensor) -> tuple[Tensor, Tensor]:
        """image B 3 H W -> the likeliest class B H W int64, and its probability B H W."""
        if not self._is_one_pass:
            highest, ids = self.probability(module, image).max(1)
            return ids, highest
        # Half the time of all probabilities, of which one a pixel would be kept.
        logits = module(image)
        highest, ids = logits.max(1)
        return ids, logits.sub_(highest[:, None]).exp_().sum(1).reciprocal_()

    @property
    def _is_one_pass(self) -> bool:
        return self.settings.scales == (1.0,) and not self.settings.flip and self.settings.mode == "whole"

    def probability(self, module: nn.Module, image: Tensor) -> Tensor:
        """image B 3 H W -> B C H W, summing to 1 over the classes: the mean over scales and flips."""
        total, views = self._total(module, image), len(self.settings.scales) * (1 + self.settings.flip)
        return total if views == 1 else total / views

    def passes(self, shape: Sequence[int]) -> int:
        """Count the passes through the network that an image of H W ... takes."""
        total = 0
        for scale in self.settings.scales:
            size = [max(round(side * scale), 1) for side in shape[:2]]
            total += sum(1 for _ in self._windows(size)) if self.settings.mode == "slide" else 1
        return total * (2 if self.settings.flip else 1)

    def _windows(self, size: Iterable[int]) -> Iterator[tuple[slice, slice]]:
        return windows(size, self.settings.window or self.crop, self.settings.stride_share)

    def _total(self, module: nn.Module, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        total: Tensor | None = None
        for scale in self.settings.scales:
            size = (max(round(height * scale), 1), max(round(width * scale), 1))
            scaled = image if scale == 1 else F.interpolate(image, size, mode="bilinear", antialias=True)
            for flipped in (False, True) if self.settings.flip else (False,):
                probability = self._of_one_view(module, scaled.flip(-1) if flipped else scaled)
                probability = probability.flip(-1) if flipped else probability
                if probability.shape[-2:] != image.shape[-2:]:
                    probability = F.interpolate(
                        probability, (height, width), mode="bilinear", align_corners=False
                    )
                total = probability if total is None else total + probability
        assert total is not None
        return total

    def _of_one_view(self, module: nn.Module, image: Tensor) -> Tensor:
        if self.settings.mode == "whole":
            return module(image).softmax(1)
        total: Tensor | None = None
        seen = image.new_zeros(image.shape[-2:])
        for rows, columns in self._windows(image.shape[-2:]):
            part = module(image[..., rows, columns]).softmax(1)
            if total is None:
                total = part.new_zeros(*part.shape[:2], *image.shape[-2:])
            total[..., rows, columns] += part
            seen[rows, columns] += 1
        assert total is not None
        return total / seen


def starts(length: int, side: int, stride_share: float) -> list[int]:
    """Where windows of a side begin that cover a length: every stride_share of a window, the last shifted
    inside."""
    last = max(length - side, 0)
    return [*range(0, last, max(int(side * stride_share), 1)), last]


def windows(
    size: Iterable[int], window: tuple[int, int], stride_share: float
) -> Iterator[tuple[slice, slice]]:
    """Windows that cover an image, see `starts`."""
    height, width = size
    rows, columns = starts(height, window[0], stride_share), starts(width, window[1], stride_share)
    for top, left in product(rows, columns):
        yield slice(top, min(top + window[0], height)), slice(left, min(left + window[1], width))


def to_tensor(image: np.ndarray, device: str = "cpu") -> Tensor:
    """H W 3 uint8 -> 1 3 H W float in 0..1, on a device, which it reaches as uint8."""
    return torch.from_numpy(image).permute(2, 0, 1)[None].to(device).float().div_(255)


@torch.no_grad()
def evaluate(
    module: nn.Module,
    dataset: Dataset,
    ids: Iterable[str],
    inference: Inference,
    device: str,
    on_image: Callable[[int], None] = lambda done: None,
    on_prediction: Callable[[str, Tensor], None] = lambda id, prediction: None,
) -> np.ndarray:
    """Confusion counts of each image: N C C int64, truth in rows. The module's mode is put back
    afterwards.

    Args:
        on_image: Called after each image with the number of those that are done.
        on_prediction: Called with each id and its predicted class ids, H W int64.
    """
    classes = len(dataset.classes)
    training = module.training
    module.eval()
    counts = []
    try:
        with closing(read_ahead(lambda id: (id, dataset.image(id), dataset.mask(id)), ids, device)) as read:
            for done, (id, pixels, mask) in enumerate(read, 1):
                image = to_tensor(pixels, device).contiguous(memory_format=torch.channels_last)
                prediction = inference(module, image)[0]
                counts.append(confusion(prediction, torch.from_numpy(mask).to(device), classes))
                on_prediction(id, prediction)
                on_image(done)
    finally:
        module.train(training)
    return torch.stack(counts).cpu().numpy()
