"""LabelMe's JSON, one file beside each image: polygons, rectangles and circles become masks.

Drawn as LabelMe itself does it, with Pillow; a later shape lies on an earlier one. `__ignore__` is no label.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterator
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from bench.errors import DataError
from datasets.convert import LISTS
from datasets.decode import image_size
from datasets.drawn import Drawn, images_of, lists_of, points_of, refuse_size
from datasets.ids import read_json
from datasets.lookup import Shelf

FEWEST = {"polygon": 3, "rectangle": 2, "circle": 2}  # points of a shape
EXACTLY = {"rectangle": 2, "circle": 2}


class LabelMe(Drawn):
    """A folder with images/, and the JSON of each labeled image below `folder`: a/b.json is of
    images/a/b.jpg.

    Raises DataError, which names the file and the shape, for anything that is no such JSON.
    """

    def __init__(self, root: Path, name: str, folder: Path) -> None:
        if not folder.is_dir():
            raise DataError(f"no folder {folder}; give the one that holds LabelMe's JSON files.")
        images = images_of(root)
        self._shapes: dict[str, list[dict[str, Any]]] = {}
        self._files: dict[str, Path] = {}
        for file in sorted(folder.rglob("*.json")):
            id = file.relative_to(folder).with_suffix("").as_posix()
            self._shapes[id], self._files[id] = _shapes(file, id, images), file
        if not self._files:
            raise DataError(f"{folder} holds no .json; give the folder that holds LabelMe's JSON files.")
        labels = Counter(shape["label"] for shapes in self._shapes.values() for shape in shapes)
        super().__init__(images, name, dict(sorted(labels.items())), f"the JSON files below {folder}")
        self.lists, self.notes = lists_of(root, {LISTS[0]: list(self._files)})

    def drawn(self, id: str) -> Iterator[tuple[np.ndarray, str, Hashable]] | None:
        return self._drawn(id) if id in self._shapes else None

    def _drawn(self, id: str) -> Iterator[tuple[np.ndarray, str, Hashable]]:
        size = image_size(self.image(id))
        for number, shape in enumerate(self._shapes[id], 1):
            where = f"{self._files[id]}: shape {number}, {shape['label'][:40]!r},"
            yield _covered(shape, size, where), shape["label"], _object(shape, number)


def _shapes(file: Path, id: str, images: Shelf) -> list[dict[str, Any]]:
    """Read the shapes of a file, and check that each has the fields that a shape must have."""
    found = read_json(file)
    shapes = found.get("shapes") if isinstance(found, dict) else None
    if not isinstance(shapes, list):
        raise DataError(f"{file} is no JSON of LabelMe, for it has no shapes; leave it out of the folder.")
    image = found.get("imagePath")
    stem = PureWindowsPath(image).stem if isinstance(image, str) else None  # a / parts it as well
    if stem != id.rpartition("/")[2]:
        raise DataError(
            f"{file} is of the image {str(image)[:80]!r}, and by its name of {id!r}; give both files one "
            f"name."
        )
    refuse_size(id, images, found.get("imageHeight"), found.get("imageWidth"), str(file))
    for number, shape in enumerate(shapes, 1):
        label = shape.get("label") if isinstance(shape, dict) else None
        if not isinstance(label, str) or not label.strip():
            raise DataError(f"{file}: shape {number} has no label; give it one, or remove it.")
        kind = shape.get("shape_type") or "polygon"  # as before LabelMe had others
        if not isinstance(kind, str) or kind not in FEWEST:
            raise DataError(
                f"{file}: shape {number}, {label[:40]!r}, is a {str(kind)[:40]}; what is drawn are "
                f"{', '.join(FEWEST)}: draw it as a polygon, or remove it."
            )
    return shapes


def _object(shape: dict[str, Any], number: int) -> Hashable:
    """Shapes of one label and one group_id are parts of one object; without, each is one."""
    group = shape.get("group_id")
    return (shape["label"], group) if type(group) in (int, str) else number


def _covered(shape: dict[str, Any], size: tuple[int, int], where: str) -> np.ndarray:
    """Where a shape is, H W bool."""
    kind = shape.get("shape_type") or "polygon"
    points = points_of(shape.get("points"), size, where, FEWEST[kind])
    if len(points) > EXACTLY.get(kind, len(points)):
        raise DataError(f"{where} is a {kind} of {len(points)} points, and has two; draw it anew.")
    canvas = Image.new("1", size[::-1])
    draw = ImageDraw.Draw(canvas)
    if kind == "polygon":
        draw.polygon(points, outline=1, fill=1)
    elif kind == "rectangle":
        (left, right), (top, bottom) = (sorted(of) for of in zip(*points, strict=True))
        draw.rectangle((left, top, right, bottom), outline=1, fill=1)
    else:
        (x, y), edge = points
        radius = math.dist((x, y), edge)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=1, fill=1)
    return np.asarray(canvas)
