"""The channels of a data set's images: do they agree, and the mean and spread of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.contract import Dataset
from bench.errors import DataError
from datasets.ids import some
from datasets.rasters import COLOUR

LEVELS = np.arange(256) / 255


@dataclass(frozen=True)
class Measured:
    """Of all pixels of some images, by channel, in 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    images: int

    @property
    def constant(self) -> list[int]:
        """The channels that have one value everywhere, from 1; a std of 0 could divide nothing, and is 1."""
        return [number for number, std in enumerate(self.std, 1) if std == 1]


def measure(
    dataset: Dataset, ids: Sequence[str], on_item: Callable[[int, int], None] | None = None
) -> Measured:
    """Count the values of each channel, all pixels of all images alike.

    `on_item(done, total)` is called after each image. Raises DataError as `Dataset.image` does, and for
    images of several numbers of channels.
    """
    counts = np.zeros((0, 256), np.int64)
    for done, id in enumerate(ids, 1):
        image = dataset.image(id)
        if done == 1:
            counts = np.zeros((image.shape[2], 256), np.int64)
        if image.shape[2] != len(counts):
            raise DataError(
                f"{dataset.name}: {id!r} has {image.shape[2]} channels, and {ids[0]!r} has {len(counts)}; a "
                "network takes one number of channels."
            )
        for channel, of in enumerate(counts):
            of += np.bincount(image[..., channel].ravel(), minlength=256)
        if on_item:
            on_item(done, len(ids))
    shares = counts / counts.sum(1, keepdims=True)
    mean = shares @ LEVELS
    variance = (shares * (LEVELS - mean[:, None]) ** 2).sum(1)
    constant = (counts > 0).sum(1) == 1
    std = np.where(constant, 1.0, np.sqrt(variance))
    return Measured(tuple(mean.round(9).tolist()), tuple(std.round(9).tolist()), len(ids))


def disagreement(dataset: Dataset, found: Mapping[int, Sequence[str]]) -> str | None:
    """Return a sentence on images of several numbers of channels, or None where all have one number.

    Args:
        found: The ids that have each number.
    """
    if len(found) < 2:
        return None
    said = "; ".join(
        f"{len(ids)} of {number} ({some(ids)})"
        for number, ids in sorted(found.items(), key=lambda item: -len(item[1]))
    )
    return (
        f"the images of {dataset.name} have several numbers of channels: {said}; a network takes one number: "
        "mend the images, or leave them out."
    )


def said(dataset: Dataset, found: Mapping[int, Sequence[str]]) -> list[str]:
    """Say what to do with images that are no RGB. Returns [] for RGB, and for images of several numbers of
    channels."""
    if len(found) != 1 or COLOUR in found:
        return []
    (number,) = found
    return [
        f"the images of {dataset.name} have {number} channel{'s' * (number > 1)}: measure them by `data "
        f"stats`, then run with --set protocol.network.channels={number}."
    ]
