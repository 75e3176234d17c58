"""Images and masks that are decoded once, for all workers that load them."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Collection
from itertools import product
from multiprocessing import Lock
from typing import Any

import numpy as np

from bench.contract import Dataset

__all__ = ["DecodedOnce"]

ROOM = 512 * 2**20  # bytes: a thousand images of 480x360
PATIENCE = 1  # seconds: a worker that was killed may have left the lock shut


class DecodedOnce:
    """The images and masks of a data set, each kept when it is first asked for, while there is room.

    The memory is shared with every process that is forked later, and taken from the machine as it fills. What
    finds no room is decoded each time. A process that is spawned instead keeps nothing.

    Args:
        dataset: Whose `image` and `mask` to keep.
        ids: Of all images that may be asked for.
        room: Bytes that may be kept, at most.
    """

    def __init__(self, dataset: Dataset, ids: Collection[str], room: int = ROOM) -> None:
        self.dataset = dataset
        self._rows = {name: row for row, name in enumerate(product(("image", "mask"), sorted(set(ids))))}
        try:
            memory = mmap.mmap(-1, max(1, room))
        except OSError:  # a machine that lends no more than it has
            memory = mmap.mmap(-1, 1)
        self._pixels = np.frombuffer(memory, np.uint8)
        # Of each image and mask: the first byte, height, width and channels, 0 for a mask. A height of 0: not
        # kept. The last row holds the first free byte.
        whole = np.frombuffer(mmap.mmap(-1, 4 * 8 * (len(self._rows) + 1)), np.int64)
        self._table = whole.reshape(-1, 4)
        self._lock = Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.dataset, (), 0)

    def image(self, id: str) -> np.ndarray:
        """Return the image, H W C uint8, not to be written to; raises what the data set raises."""
        return self._once("image", id, self.dataset.image)

    def mask(self, id: str) -> np.ndarray:
        """Return the mask, H W uint8, not to be written to; raises what the data set raises."""
        return self._once("mask", id, self.dataset.mask)

    def _once(self, what: str, id: str, read: Callable[[str], np.ndarray]) -> np.ndarray:
        row = self._rows.get((what, id))
        if row is None:
            return read(id)
        if (kept := self._kept(row)) is not None:
            return kept
        array = read(id)
        if array.dtype == np.uint8 and array.ndim in (2, 3):
            self._keep(row, array)
        return array

    def _kept(self, row: int) -> np.ndarray | None:
        if not self._lock.acquire(timeout=PATIENCE):
            return None
        try:
            start, *shape = self._table[row].tolist()
        finally:
            self._lock.release()
        if not shape[0]:
            return None
        shape = [side for side in shape if side]
        array = self._pixels[start : start + int(np.prod(shape))].reshape(shape)
        array.flags.writeable = False
        return array

    def _keep(self, row: int, array: np.ndarray) -> None:
        if not self._lock.acquire(timeout=PATIENCE):
            return
        try:
            free = int(self._table[-1, 0])
            if self._table[row, 1] or free + array.size > len(self._pixels):
                return
            self._pixels[free : free + array.size] = array.reshape(-1)
            self._table[row] = (free, *array.shape, 0)[:4]
            self._table[-1, 0] = free + array.size
        finally:
            self._lock.release()
