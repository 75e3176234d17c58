"""Boundary IoU (Cheng et al., CVPR 2021): the IoU of what lies near the boundaries of a class.

The boundary of a mask is what is no farther from its outside than 2 % of the image's diagonal, in rows or
columns; the edge of the image is outside. Of truth and prediction only these bands are compared, so that a
large area does not hide a poor outline. Counts are pooled over the images, as those of mIoU.

H W the size of an image, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import nn

from bench.contract import IGNORE, Dataset
from bench.display import Display
from bench.machine import allow_tf32, choose_device, stoppable
from bench.networks import exported
from bench.scoring.alone import refuse_other_counts
from bench.scoring.inference import Inference, to_tensor
from bench.scoring.measures import Shares
from bench.scoring.multi_scale_crf import open_run

WIDTH = 0.02  # of the diagonal, as published


def band_width(height: int, width: int) -> int:
    """Pixels from the outside that count as boundary, at least one."""
    return max(1, round(WIDTH * float(np.hypot(height, width))))


def boundary(mask: np.ndarray, width: int) -> np.ndarray:
    """H W bool -> H W bool: what `width` erosions by 3x3 take off a mask, the edge of the image included."""
    band = np.zeros_like(mask)
    if mask.any():
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        # The distance that the erosions go: of a pixel beside the outside it is 1.
        inside = ndimage.distance_transform_cdt(np.pad(mask[box], 1), metric="chessboard")[1:-1, 1:-1]
        band[box] = mask[box] & (inside <= width)
    return band


def boundary_counts(predicted: np.ndarray, label: np.ndarray, classes: int) -> np.ndarray:
    """Count the pixels of each class that are boundary in truth and prediction, in either, and in the truth:
    3 C int64.

    Pixels without a label are outside of every class, in the prediction too.

    Args:
        predicted: H W uint8, below C.
        label: H W uint8, below C or 255.
    """
    width = band_width(*label.shape)
    predicted = np.where(label == IGNORE, IGNORE, predicted)
    counts = np.zeros((3, classes), np.int64)
    for c in np.union1d(predicted, label):
        if c != IGNORE:
            there, found = boundary(label == c, width), boundary(predicted == c, width)
            counts[:, c] = (there & found).sum(), (there | found).sum(), there.sum()
    return counts


def boundary_iou(counts: np.ndarray) -> Shares:
    """From pooled counts, 3 C; None where no truth holds the class."""
    return [float(both / either) if truth else None for both, either, truth in counts.T]


@torch.no_grad()
def count_boundaries(
    net: nn.Module,
    dataset: Dataset,
    ids: Iterable[str],
    inference: Inference,
    device: str,
    on_image: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """Predict images as the score does, and pool their boundary counts: 3 C int64."""
    classes, counts = len(dataset.classes), np.zeros((3, len(dataset.classes)), np.int64)
    net.eval()
    for done, id in enumerate(ids, 1):
        image = to_tensor(dataset.image(id)).to(device, memory_format=torch.channels_last)
        predicted = inference(net, image)[0].to(torch.uint8).cpu().numpy()
        counts += boundary_counts(predicted, dataset.mask(id), classes)
        on_image(done)
    return counts


def boundary_of(path: Path, data_root: Path | None, display: Display, device: str = "auto") -> Shares:
    """Compute the boundary IoU of each class, of a finished run's headline.

    The scored images of the run are predicted again for it.

    Raises as `bench.scoring.multi_scale_crf.open_run` does, and Interrupted.
    """
    run, device = open_run(path, data_root), choose_device(device)
    allow_tf32(run.protocol.precision == "tf32")
    net = exported.read(run.folder.weights, run.result.weights_file_digest)
    net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    inference = Inference(run.protocol.evaluation, run.protocol.crop)
    refuse_other_counts(run.folder, run.result, net, run.dataset, inference, device)
    with stoppable() as stop:

        def on_image(done: int) -> None:
            display.update(done)
            stop.check()

        display.start(f"boundaries of {run.result.method} seed {run.result.seed}", len(run.ids))
        try:
            counts = count_boundaries(net, run.dataset, run.ids, inference, device, on_image)
        finally:
            display.stop()
    return boundary_iou(counts)
