"""Turns points, strokes and boxes into the streams of a batch: the one place that knows what each kind
says.

- Points and strokes are labels of the pixels that they mark. All other pixels are unlabeled, and may be of
  any class.
- Boxes are labels through seeds (see bench.cam_seeds.boxes). A pixel may be of the classes whose boxes it is
  in, or background; outside of all boxes it is background. Without a background class it may there be of
  each class that has a box in its image: boxes are image tags too. An image without a box says nothing then.

H W the size of an image, C classes of the data set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from bench.labels import BOXES, IGNORE, Box
from datasets.sparse import Marks
from datasets.views import Geometry, weak_label


class SparseStreams:
    """The points, strokes and boxes of a split, as a batch has them; pickles to the processes that load
    images.

    Args:
        marks: Those of the split.
        classes: C.
        background: Its id, where there is one.
        seed_of: Reads the seed made of an image's boxes, H W uint8 as a mask.

    Raises:
        DataError: A box is not in its image, or a record is not the one that the split was made with.
    """

    def __init__(
        self,
        marks: Marks,
        classes: int,
        background: int | None,
        seed_of: Callable[[str], np.ndarray] | None = None,
    ) -> None:
        self.marks, self.classes, self.background, self.seed_of = marks, classes, background, seed_of
        # Read at once: a box outside of its image shall not end a run that has trained for days.
        self.boxes = {id: marks.boxes(id) for id in sorted(marks.ids.get(BOXES, ()))}
        # As many rows in every batch, on every rank. With a border around all boxes: no image has more parts.
        self.most = max((len(self._places(of, _around(of))[1]) for of in self.boxes.values()), default=1)
        self.drawn = {id: kind for kind, ids in marks.ids.items() if kind != BOXES for id in ids}

    def label(self, id: str) -> np.ndarray:
        """Return the label of an image in the labeled stream: H W uint8, 255 where there is none."""
        if id in self.drawn:
            return self.marks.drawn(self.drawn[id], id)
        assert self.seed_of is not None, "whoever trains on boxes makes their seeds first"
        return self.seed_of(id)

    @property
    def tags(self) -> dict[str, tuple[int, ...]]:
        """The classes that an image with boxes may hold anywhere."""
        return {id: self._allowed(box.label for box in boxes) for id, boxes in self.boxes.items()}

    def unmarked(self, id: str, geometry: Geometry) -> np.ndarray | None:
        """Where nobody marked a point or a stroke, H W bool of the crop; None for images without."""
        if id not in self.drawn:
            return None
        marked: np.ndarray = weak_label(self.label(id), geometry) == IGNORE
        return marked

    def fields(self, ids: Sequence[str], geometries: Sequence[Geometry]) -> dict[str, Any]:
        """Return the fields of a `Stream` of these images, in these views."""
        said: dict[str, Any] = {
            "sparse": torch.tensor([id in self.drawn or id in self.boxes for id in ids], dtype=torch.bool)
        }
        if not self.boxes:
            return said
        everything = np.ones((1, self.classes), np.bool_)
        places, tables = [], []
        for id, geometry in zip(ids, geometries, strict=True):
            if id in self.boxes:
                place, table = self._places(self.boxes[id], geometry.size)
                view = weak_label(place, geometry, np.int32(0))
            else:
                view, table = np.zeros(geometry.crop, np.int32), everything
            places.append(view)
            tables.append(table)
        padded = [
            np.concatenate([one, np.zeros((self.most - len(one), self.classes), np.bool_)]) for one in tables
        ]
        said["place"] = torch.from_numpy(np.stack(places))
        said["place_tags"] = torch.from_numpy(np.stack(padded))
        return said

    def _allowed(self, labels: Any) -> tuple[int, ...]:
        boxed = set(labels)
        if self.background is None:
            return tuple(sorted(boxed or range(self.classes)))
        return tuple(sorted({self.background, *boxed}))

    def _places(self, boxes: Sequence[Box], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Find the parts of an image in which the same boxes lie. Returns their numbers, H W int32 (a
        crowd has more than 256 parts), and the classes that each may show, S C bool."""
        rows = np.unique([0, size[0], *(edge for box in boxes for edge in (box.top, box.bottom))])
        columns = np.unique([0, size[1], *(edge for box in boxes for edge in (box.left, box.right))])
        # On the grid of all edges, which is far smaller than the image.
        inside = np.zeros((len(rows) - 1, len(columns) - 1, self.classes), np.bool_)
        for box in boxes:
            span = [
                np.searchsorted(rows, (box.top, box.bottom)),
                np.searchsorted(columns, (box.left, box.right)),
            ]
            inside[span[0][0] : span[0][1], span[1][0] : span[1][1], box.label] = True
        table, number = np.unique(inside.reshape(-1, self.classes), axis=0, return_inverse=True)
        place = number.reshape(inside.shape[:2]).astype(np.int32)
        if self.background is None:
            table[~table.any(1)] = table.any(0) if table.any() else True
        else:
            table[:, self.background] = True
        return place.repeat(np.diff(rows), 0).repeat(np.diff(columns), 1), table


def _around(boxes: Sequence[Box]) -> tuple[int, int]:
    """Height and width of an image that is larger than all of its boxes."""
    return max((box.bottom for box in boxes), default=0) + 1, max((box.right for box in boxes), default=0) + 1
