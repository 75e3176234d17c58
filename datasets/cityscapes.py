"""Cityscapes as it is given out: leftImg8bit and gtFine, with label ids mapped to the 19 scored classes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from bench.contract import IGNORE, Dataset
from bench.errors import ConfigError, DataError
from datasets.cityscapes_ids import CLASSES
from datasets.decode import image_size, read_image, read_mask
from datasets.lookup import Shelf

LARGEST_ID = 34  # license plates in GTA5
# What is no label id stays what it is, and reading refuses it.
TRAIN_IDS = np.arange(256, dtype=np.uint8)
TRAIN_IDS[: LARGEST_ID + 1] = IGNORE
TRAIN_IDS[[label for label, _, _ in CLASSES]] = np.arange(len(CLASSES))

LISTS = ("train", "val")
ENDS = {"leftImg8bit": "leftImg8bit", "gtFine": "gtFine_labelIds"}


class Cityscapes(Dataset):
    """Reads Cityscapes; ids look like "aachen_000000_000019". Scored on val: test has no public labels.

    `ids` raises ConfigError for a list other than train and val; all raise DataError for missing or
    invalid files.
    """

    name = "cityscapes"
    scored = "val"

    def __init__(self, root: Path) -> None:
        self.root = root / "cityscapes"
        self.classes = tuple(name for _, name, _ in CLASSES)
        self.palette = np.array([colour for _, _, colour in CLASSES], np.uint8)
        self._shelves: dict[Path, Shelf] = {}
        # The published 90 minutes of a fine mask.
        self.label_seconds = {**Dataset.label_seconds, "pixel": 5400.0}
        for folder in ("leftImg8bit", "gtFine"):
            if not (self.root / folder).is_dir():
                near = [place for place in (root, *sorted(root.glob("*"))) if (place / folder).is_dir()]
                there = f", but {near[0] / folder} does" if near else ""
                raise DataError(
                    f"{self.root / folder} does not exist{there}; unpack leftImg8bit_trainvaltest.zip and "
                    "gtFine_trainvaltest.zip of Cityscapes into a folder called cityscapes and say where "
                    "that lies with --data-root or $BENCH_DATA."
                )

    def ids(self, listing: str) -> tuple[str, ...]:
        if listing not in LISTS:
            raise ConfigError(f"cityscapes has no list {listing!r}; its lists are {' and '.join(LISTS)}.")
        end = "_leftImg8bit.png"
        folder = self.root / "leftImg8bit" / listing
        ids = tuple(path.name.removesuffix(end) for path in sorted(folder.glob(f"*/*{end}")))
        if not ids:
            raise DataError(f"{folder} holds no <city>/*{end}; unpack leftImg8bit_trainvaltest.zip there.")
        return ids

    def image(self, id: str) -> np.ndarray:
        return read_image(self._path("leftImg8bit", id))

    def mask(self, id: str) -> np.ndarray:
        size = image_size(self._path("leftImg8bit", id))
        return read_mask(self._path("gtFine", id), size, len(self.classes), TRAIN_IDS)

    def files(self, id: str, what: str) -> tuple[Path, ...]:
        return (self._path("leftImg8bit" if what == "image" else "gtFine", id),)

    def _path(self, folder: str, id: str) -> Path:
        if not re.fullmatch(r"[A-Za-z-]+_\d{6}_\d{6}", id):
            raise DataError(f"{id!r} is not a Cityscapes id; they look like aachen_000000_000019.")
        city = id.rsplit("_", 2)[0]
        listing = next((name for name in LISTS if (self.root / folder / name / city).is_dir()), LISTS[0])
        place = self.root / folder / listing / city
        if place not in self._shelves:
            self._shelves[place] = Shelf(place, (".png",))
        return self._shelves[place].path(f"{id}_{ENDS[folder]}")
