"""Boxes of objects in COCO's form, boxes.json: read, and written.

It is the form of `instances_train2017.json` with `bbox` alone: {"images": [{"id", "file_name"}],
"categories": [{"id", "name"}], "annotations": [{"image_id", "category_id", "bbox": [x, y, width, height]}]}.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from bench.errors import DataError, did_you_mean
from bench.labels import Box
from datasets.ids import read_json

BOXES_FILE = "boxes.json"
OVER = 1.0  # pixels by which a box may pass the border of its image: tools round in different ways

BoxTable = Mapping[str, tuple[Box, ...]]


def read_boxes(path: Path, classes: Sequence[str]) -> dict[str, tuple[Box, ...]]:
    """Read the boxes of each image: {"a": (Box(3, 0, 0, 20, 20),)}; an image without any has ().

    A box is widened to whole pixels. Whether it lies in its image, `refuse_outside` says.

    Raises DataError, which names the file, the image and the annotation, for anything that is no such JSON: a
    class that the data set lacks, a box without an area.
    """
    document = read_json(path)
    for key in ("images", "annotations", "categories"):
        entries = document.get(key) if isinstance(document, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise DataError(f"{path} is not of COCO's form: {key!r} must be a list of objects.")
    ids = {entry.get("id"): _id(path, entry) for entry in document["images"]}
    labels = {entry.get("id"): _label(path, entry, classes) for entry in document["categories"]}
    found: dict[str, list[Box]] = {id: [] for id in ids.values()}
    for number, entry in enumerate(document["annotations"]):
        image, category = entry.get("image_id"), entry.get("category_id")
        if image not in ids or category not in labels:
            raise DataError(
                f"{path}: annotation {number} has the image {image!r} and the category {category!r}, one of "
                "which is not in its lists; correct it."
            )
        box = _whole(path, ids[image], number, entry.get("bbox"))
        found[ids[image]].append(Box(labels[category], *box))
    return {id: tuple(sorted(boxes)) for id, boxes in found.items()}


def refuse_outside(path: Path, id: str, boxes: Sequence[Box], size: tuple[int, int]) -> tuple[Box, ...]:
    """The boxes of an image of height and width `size`, cut off at its border.

    Raises DataError for a box that lies outside of it, by more than rounding.
    """
    height, width = size
    inside = []
    for box in boxes:
        over = max(-box.top, -box.left, box.bottom - height, box.right - width)
        cut = Box(
            box.label, max(box.top, 0), max(box.left, 0), min(box.bottom, height), min(box.right, width)
        )
        if over > OVER or cut.top >= cut.bottom or cut.left >= cut.right:
            raise DataError(
                f"{path}: a box of {id!r} spans rows {box.top}..{box.bottom} and columns "
                f"{box.left}..{box.right}, outside of its image of {width}x{height} pixels; correct it."
            )
        inside.append(cut)
    return tuple(inside)


def to_coco(table: BoxTable, classes: Sequence[str]) -> bytes:
    """The bytes of a boxes.json. `read_boxes` gives the table back."""
    names = sorted(table)
    images = [{"id": number, "file_name": f"{id}.png"} for number, id in enumerate(names)]
    categories = [{"id": c, "name": name} for c, name in enumerate(classes)]
    annotations = [
        {
            "image_id": number,
            "category_id": box.label,
            "bbox": [box.left, box.top, box.right - box.left, box.bottom - box.top],
        }
        for number, id in enumerate(names)
        for box in table[id]
    ]
    lists = {"images": images, "categories": categories, "annotations": annotations}
    parts = [
        f' "{key}": [\n' + ",\n".join(f"  {json.dumps(entry)}" for entry in entries) + "\n ]"
        for key, entries in lists.items()
    ]
    return ("{\n" + ",\n".join(parts) + "\n}\n").encode()


def _id(path: Path, entry: Mapping[str, Any]) -> str:
    name = entry.get("file_name")
    if not isinstance(name, str) or not name:
        raise DataError(f"{path}: the image {entry.get('id')!r} has no file_name.")
    return PurePosixPath(name).with_suffix("").as_posix()


def _label(path: Path, entry: Mapping[str, Any], classes: Sequence[str]) -> int:
    name = str(entry.get("name"))
    if name not in classes:
        raise DataError(
            f"{path}: the category {name[:80]!r} is no class of the data set"
            f"{did_you_mean(name[:80], classes)}; give it the name of a class, or add it to the classes."
        )
    return list(classes).index(name)


def _whole(path: Path, id: str, number: int, bbox: Any) -> tuple[int, int, int, int]:
    """Top, left, bottom and right, of whole pixels."""
    numbers = isinstance(bbox, list) and len(bbox) == 4
    if not numbers or not all(type(part) in (int, float) and math.isfinite(part) for part in bbox):
        raise DataError(
            f"{path}: annotation {number}, of {id!r}, has the bbox {str(bbox)[:80]}; it must be four "
            "numbers, [x, y, width, height]."
        )
    x, y, width, height = bbox
    if width <= 0 or height <= 0:
        raise DataError(
            f"{path}: annotation {number}, of {id!r}, is a box of {width:g} x {height:g} pixels, without an "
            "area; correct or remove it."
        )
    return math.floor(y), math.floor(x), math.ceil(y + height), math.ceil(x + width)
