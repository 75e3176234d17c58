"""Boxes of objects in COCO's form, boxes.json: read, and written.

It is the form of `instances_train2017.json` with `bbox` alone: {"images": [{"id", "file_name"}],
"categories": [{"id", "name"}], "annotations": [{"image_id", "category_id", "bbox": [x, y, width, height]}]}.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from bench.errors import DataError, did_you_mean
from bench.labels import Box
from datasets.ids import is_number, read_json
from datasets.lookup import FOREIGN, PICTURES

BOXES_FILE = "boxes.json"
OVER = 1.0  # pixels by which a box may pass the border of its image: tools round in different ways

BoxTable = Mapping[str, tuple[Box, ...]]
T = TypeVar("T")


@dataclass(frozen=True)
class BoxRecord:
    """A boxes.json: the boxes of each image, and its height and width where the file says them."""

    path: Path
    table: dict[str, tuple[Box, ...]]
    sizes: dict[str, tuple[Any, Any]]
    faults: dict[str, str]  # what is wrong with the boxes of an image, which whoever asks for them is told

    def of(self, id: str, size: tuple[int, int]) -> tuple[Box, ...]:
        """Return the boxes of an image of height and width `size`, cut off at its border.

        Raises DataError where the file has no such image, says another size of it, or has a box that lies
        outside of it, by more than rounding.
        """
        if id not in self.table:
            near = [key for key in self.table if key.rpartition("/")[2] == id.rpartition("/")[2]]
            meant = f" (there is {near[0]!r}; a file_name is the path below images)" if near else ""
            raise DataError(f"{self.path} has no image {id!r}{meant}; add it, with its boxes if it has any.")
        if id in self.faults:
            raise DataError(self.faults[id])
        said = self.sizes.get(id, size)
        if said != size:
            turned = " and turned, as by an EXIF tag" if said == size[::-1] else ""
            raise DataError(
                f"{self.path}: the image {id!r} is {said[1]:g}x{said[0]:g} there, and {size[1]}x{size[0]} "
                f"pixels here{turned}; its boxes would lie elsewhere: write those of this image."
            )
        return tuple(_inside(self.path, id, box, size) for box in self.table[id])


def read_boxes(path: Path, classes: Sequence[str]) -> dict[str, tuple[Box, ...]]:
    """Read the boxes of each image, as `read_record` does. Raises DataError for a fault of any image too."""
    record = read_record(path, classes)
    for fault in record.faults.values():
        raise DataError(fault)
    return record.table


def read_record(path: Path, classes: Sequence[str]) -> BoxRecord:
    """Read the boxes of each image: {"a": (Box(3, 0, 0, 20, 20),)}; an image without any has ().

    A box is widened to whole pixels. Whether it lies in its image, `BoxRecord.of` says, and whether it is a
    box of a known category: those of images that are not granted shall not end a run.

    Raises DataError, which names the file, for anything that is no such JSON: a class that the data set
    lacks, a box of no image, an image or a category that stands twice.
    """
    document = read_json(path)
    for key in ("images", "annotations", "categories"):
        entries = document.get(key) if isinstance(document, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise DataError(f"{path} is not of COCO's form: {key!r} must be a list of objects.")
    ids = _by_id(path, "image", document["images"], _id)
    labels = _by_id(
        path, "category", document["categories"], lambda path, entry: _label(path, entry, classes)
    )
    found: dict[str, list[Box]] = {id: [] for id in ids.values()}
    faults: dict[str, str] = {}
    for number, entry in enumerate(document["annotations"]):
        image, category = _key(entry.get("image_id")), _key(entry.get("category_id"))
        where = f"{path}: annotation {number}"
        if image not in ids:
            raise DataError(
                f"{where} is of the image {str(entry.get('image_id'))[:40]!r}, which is not in its list; "
                "correct it."
            )
        id = ids[image]
        try:
            if category not in labels:
                raise DataError(
                    f"{where}, of {id!r}, has the category {str(entry.get('category_id'))[:40]!r}, which is "
                    "not in its list; correct it."
                )
            found[id].append(Box(labels[category], *_whole(path, id, number, entry.get("bbox"))))
        except DataError as error:
            faults.setdefault(id, str(error))
    sizes = {
        _id(path, entry): (entry["height"], entry["width"])
        for entry in document["images"]
        if is_number(entry.get("height")) and is_number(entry.get("width"))
    }
    return BoxRecord(path, {id: tuple(sorted(boxes)) for id, boxes in found.items()}, sizes, faults)


def _key(value: Any) -> int | str | None:
    """Return an id of COCO's, a number or a text; None for anything else."""
    return value if type(value) in (int, str) else None


def _by_id(
    path: Path, what: str, entries: Sequence[dict[str, Any]], read: Callable[[Path, dict[str, Any]], T]
) -> dict[int | str | None, T]:
    """Read what each entry of a list means, by its id: {1: "person"}. Raises DataError where two have one id
    or one meaning, or one has no id."""
    found: dict[int | str | None, T] = {}
    meanings: set[T] = set()
    for entry in entries:
        key, meaning = _key(entry.get("id")), read(path, entry)
        if key is None:
            raise DataError(f"{path}: the {what} {str(entry)[:80]} needs an id, a number or a text.")
        if key in found or meaning in meanings:
            raise DataError(
                f"{path}: the {what} {str(entry)[:80]} stands twice, by its id or its name; keep one."
            )
        found[key] = meaning
        meanings.add(meaning)
    return found


def _inside(path: Path, id: str, box: Box, size: tuple[int, int]) -> Box:
    """Cut a box off at the border of its image. Raises DataError where it lies outside, or passes the border
    by more than rounding."""
    height, width = size
    over = max(-box.top, -box.left, box.bottom - height, box.right - width)
    cut = Box(box.label, max(box.top, 0), max(box.left, 0), min(box.bottom, height), min(box.right, width))
    if over > OVER or cut.top >= cut.bottom or cut.left >= cut.right:
        raise DataError(
            f"{path}: a box of {id!r} spans rows {box.top:g}..{box.bottom:g} and columns "
            f"{box.left:g}..{box.right:g}, outside of its image of {width}x{height} pixels; correct it."
        )
    return cut


def to_coco(table: BoxTable, classes: Sequence[str]) -> bytes:
    """Return the bytes of a boxes.json. `read_boxes` gives the table back."""
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
    bare = PurePosixPath(name.replace("\\", "/"))
    known = bare.suffix.lower() in (*PICTURES, *FOREIGN)
    return (bare.with_suffix("") if known else bare).as_posix()


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
    numbers = isinstance(bbox, list) and len(bbox) == 4 and all(map(is_number, bbox))
    if not numbers or not (is_number(bbox[0] + bbox[2]) and is_number(bbox[1] + bbox[3])):
        raise DataError(
            f"{path}: annotation {number}, of {id!r}, has the bbox {str(bbox)[:80]}; it must be four "
            "numbers of pixels, [x, y, width, height]."
        )
    x, y, width, height = bbox
    if width <= 0 or height <= 0:
        raise DataError(
            f"{path}: annotation {number}, of {id!r}, is a box of {width:g} x {height:g} pixels, without an "
            "area; correct or remove it."
        )
    return math.floor(y), math.floor(x), math.ceil(y + height), math.ceil(x + width)
