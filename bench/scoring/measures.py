"""Measures beside mIoU, of confusion counts: precision, recall, Dice, mean accuracy, frequency-weighted IoU.

Means are over the classes that the truth holds, as that of mIoU. C classes, shares 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.errors import DataError
from bench.records.folders import RunFolder
from bench.records.logs import read_counts
from bench.records.schema import Result
from bench.scoring.inference import score

Shares = list[float | None]  # one a class; None where there is nothing to take a share of


@dataclass(frozen=True)
class Measures:
    """Of pooled counts."""

    iou: Shares  # None where no truth holds the class, as in recall and dice
    precision: Shares  # of the pixels predicted as the class; None where there are none
    recall: Shares  # of the pixels that are the class: its accuracy
    dice: Shares  # twice what both hold, over the sum of both; the F1 of precision and recall
    miou: float
    mean_accuracy: float  # mean of recall
    frequency_weighted_iou: float  # mean of iou by the classes' shares of the true pixels
    mean_dice: float
    pixel_accuracy: float


def measures(counts: np.ndarray) -> Measures:
    """Take the measures of pooled counts, C C int64 with truth in rows.

    Raises DataError where nothing was counted.
    """
    scored = score(counts)
    hit, truth, predicted = np.diag(counts), counts.sum(1), counts.sum(0)
    occurs = truth > 0
    recall, dice = _shares(hit, truth, occurs), _shares(2 * hit, truth + predicted, occurs)
    weighted = (share * value for share, value in zip(truth, scored.iou, strict=True) if value is not None)
    return Measures(
        iou=scored.iou,
        precision=_shares(hit, predicted, predicted > 0),
        recall=recall,
        dice=dice,
        miou=scored.miou,
        mean_accuracy=mean(recall),
        frequency_weighted_iou=float(sum(weighted) / truth.sum()),
        mean_dice=mean(dice),
        pixel_accuracy=scored.pixel_accuracy,
    )


def mean(shares: Shares) -> float:
    """Over the classes that have one."""
    return float(np.mean([share for share in shares if share is not None]))


def _shares(part: np.ndarray, whole: np.ndarray, where: np.ndarray) -> Shares:
    return [float(p / w) if there else None for p, w, there in zip(part, whole, where, strict=True)]


def measures_of(folder: RunFolder) -> tuple[Result, Measures]:
    """Compute the measures of a finished run's headline, from its stored counts. No image is opened.

    Raises DataError where there is no finished run, or its counts are missing or not those of the run.
    """
    result = folder.read_result()
    if result is None:
        raise DataError(
            f"{folder.path} holds no finished run; give the folder of one, or finish it with --resume."
        )
    if not folder.counts.exists():
        raise DataError(f"no {folder.counts}; put it back, or run it again with --overwrite.")
    counts = read_counts(folder.counts, result.file_digest(folder.counts)).get("predictor")
    if counts is None or counts.shape[1] != len(result.classes):
        raise DataError(f"{folder.counts} holds no counts of the {len(result.classes)} classes of its run.")
    return result, measures(counts.sum(0, dtype=np.int64))
