"""SYNTHIA-RAND-CITYSCAPES (Ros et al., CVPR 2016) as it is unpacked, and its pair with Cityscapes.

    DIR/synthia/RGB/0000000.png          9,400 rendered frames
    DIR/synthia/GT/LABELS/0000000.png    16 bits, three channels: the class is in the first one
    DIR/synthia/train.txt                optional: the ids to learn from; without it all images

Terrain, truck and train are in no list of 16 classes that papers score, though SYNTHIA has ids for them: they
are no label here, and so the pair has 16 classes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torchvision.io import ImageReadMode, decode_image

from bench.contract import IGNORE
from bench.errors import DataError
from bench.labels import LABEL_SECONDS
from datasets.cityscapes import Cityscapes
from datasets.decode import image_size
from datasets.gta5 import Rendered
from datasets.pairs import Pair

# Ids of SYNTHIA, by the class of Cityscapes (DACS, data/synthia_dataset.py; its README has the same).
IDS = {
    "road": 3,
    "sidewalk": 4,
    "building": 2,
    "wall": 21,
    "fence": 5,
    "pole": 7,
    "traffic light": 15,
    "traffic sign": 9,
    "vegetation": 6,
    "sky": 1,
    "person": 10,
    "rider": 17,
    "car": 8,
    "bus": 19,
    "motorcycle": 12,
    "bicycle": 11,
}
SECONDS = {**LABEL_SECONDS, "pixel": 0.0}  # nobody draws a mask: it is rendered
LAST = 22  # the ids end there: lane markings


class Synthia(Rendered):
    """Reads root/synthia; ids look like "0000000"."""

    name = "synthia"
    images, labels = "RGB", "GT/LABELS"
    label_seconds = SECONDS

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        kept = [c for c, label in enumerate(self.classes) if label in IDS]
        self.palette = self.palette[kept] if self.palette is not None else None
        self.classes = tuple(self.classes[c] for c in kept)
        self._table = np.full(LAST + 1, IGNORE, np.uint8)
        self._table[[IDS[label] for label in self.classes]] = np.arange(len(self.classes))

    def mask(self, id: str) -> np.ndarray:
        path = self._shelves["mask"].path(id)
        try:
            stored = decode_image(str(path), ImageReadMode.UNCHANGED).numpy()  # 3 H W
        except RuntimeError as error:
            raise DataError(f"{path} cannot be read as a PNG ({error}); unpack it again.") from error
        if stored.dtype != np.uint16 or len(stored) < 3:
            raise DataError(
                f"{path} has {len(stored)} channels of {stored.dtype}; a mask of SYNTHIA has three of 16 "
                "bits: unpack GT/LABELS again."
            )
        if (most := int(stored[0].max())) > LAST:
            raise DataError(f"{path} holds the id {most}, and those of SYNTHIA end at {LAST}.")
        height, width = image_size(self._shelves["image"].path(id))
        if stored.shape[1:] != (height, width):
            raise DataError(f"{path} is {stored.shape[2]}x{stored.shape[1]}, its image {width}x{height}.")
        ids: np.ndarray = self._table[stored[0]]
        return ids


class SynthiaCityscapes(Pair):
    """From SYNTHIA to Cityscapes, 16 classes; scored on the val of Cityscapes."""

    def __init__(self, root: Path) -> None:
        super().__init__("synthia_cityscapes", Synthia(root), Cityscapes(root))
