"""Points, strokes and boxes as a run learns from them, and where the seeds of boxes are read from."""

from __future__ import annotations

from functools import partial

import numpy as np

from bench.contract import Dataset
from bench.errors import DataError
from bench.plan import Plan
from bench.records.shared_folders import BoxSeedFolder, SeedFolder
from datasets.decode import read_mask
from datasets.sparse import Marks
from datasets.streams import SparseStreams


def sparse_streams(plan: Plan, dataset: Dataset) -> SparseStreams | None:
    """Open the points, strokes and boxes of a split; None where it grants none. Raises DataError."""
    if not plan.split.sparse:
        return None
    classes, boxes = len(dataset.classes), plan.box_seeds
    seed_of = partial(read_seed, boxes.folder, classes) if boxes else None
    return SparseStreams(Marks(dataset, plan.split), classes, dataset.background, seed_of)


def read_seed(folder: SeedFolder | BoxSeedFolder, classes: int, id: str) -> np.ndarray:
    """Read a seed as a mask, H W uint8. Raises DataError where it is gone or damaged."""
    try:
        return read_mask(folder.seed(id), None, classes)
    except DataError as error:
        raise DataError(
            f"the seed of {id!r} is gone or damaged since this run began: start it again with --resume, "
            f"and the seed is made again ({error})"
        ) from error
