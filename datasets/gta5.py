"""GTA5 (Richter et al., ECCV 2016) as it is unpacked, and its pair with Cityscapes.

DIR/gta5/images/00001.png    24,966 frames of a game, from ten archives
DIR/gta5/labels/00001.png    palette masks, whose indices are the label ids of Cityscapes
DIR/gta5/train.txt           optional: the ids to learn from, one a line; without it all images
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.contract import Dataset
from bench.errors import ConfigError, DataError
from bench.labels import LABEL_SECONDS
from datasets.cityscapes import TRAIN_IDS, Cityscapes
from datasets.cityscapes_ids import CLASSES
from datasets.decode import image_size, read_image, read_mask
from datasets.ids import read_list
from datasets.lookup import Shelf
from datasets.pairs import Pair
from datasets.plain_files import is_there

SECONDS = {**LABEL_SECONDS, "pixel": 7.0}  # 49 hours for 25,000 frames, as the paper says; from memory


class Rendered(Dataset):
    """Rendered street scenes with the 19 classes of Cityscapes, to learn from alone: no list is scored.

    `ids` raises ConfigError for a list other than train; all raise DataError for missing or invalid files.
    """

    images = "images"  # folder of the images, below the data set's
    labels = "labels"

    def __init__(self, root: Path) -> None:
        self.root = root / self.name
        self.classes = tuple(name for _, name, _ in CLASSES)
        self.palette = np.array([colour for _, _, colour in CLASSES], np.uint8)
        for folder in (self.images, self.labels):
            if not (self.root / folder).is_dir():
                raise DataError(
                    f"{self.root / folder} does not exist; unpack {self.name} there, or say where it lies "
                    "with --data-root or $BENCH_DATA."
                )
        self._shelves = {
            "image": Shelf(self.root / self.images, (".png",)),
            "mask": Shelf(self.root / self.labels, (".png",)),
        }

    def ids(self, listing: str) -> tuple[str, ...]:
        if listing != "train":
            raise ConfigError(f"{self.name} has no list {listing!r}; it has train, and scores nothing.")
        if is_there(self.root / "train.txt"):
            return read_list(self.root / "train.txt")
        ids = tuple(sorted(path.stem for path in (self.root / self.images).glob("*.png")))
        if not ids:
            raise DataError(f"{self.root / self.images} holds no .png; unpack {self.name} there.")
        return ids

    def image(self, id: str) -> np.ndarray:
        return read_image(self._shelves["image"].path(id))

    def mask(self, id: str) -> np.ndarray:
        size = image_size(self._shelves["image"].path(id))
        return read_mask(self._shelves["mask"].path(id), size, len(self.classes), TRAIN_IDS)

    def files(self, id: str, what: str) -> tuple[Path, ...]:
        return (self._shelves[what].path(id),)


class Gta5(Rendered):
    """Reads root/gta5; ids look like "00001"."""

    name = "gta5"
    label_seconds = SECONDS


class Gta5Cityscapes(Pair):
    """From GTA5 to Cityscapes, 19 classes; scored on the val of Cityscapes."""

    def __init__(self, root: Path) -> None:
        super().__init__("gta5_cityscapes", Gta5(root), Cityscapes(root))
