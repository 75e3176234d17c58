"""COCO's JSON: polygons and RLE become masks, by pycocotools. Where objects overlap, the smaller lies on
top."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import ConfigError, DataError
from datasets.convert import LISTS
from datasets.decode import image_size
from datasets.drawn import Drawn, id_of_path, images_of, lists_of, points_of, refuse_size
from datasets.ids import read_json
from datasets.lookup import Shelf

FIRST, LAST = 48, 111  # the characters of a compressed RLE carry six bits
MORE = 0x20  # the bit that says that the number goes on
LONGEST = 7  # characters of a number: pycocotools reads no longer one


class Coco(Drawn):
    """A folder with images/, and one or several files of COCO's form for them.

    A file belongs to the list that its name says, "instances_val2017.json" to val, and else to train; lists
    that the folder has itself come first. An image without annotations is background.

    Raises DataError, which names the file and the entry, for anything that is no such JSON; ConfigError where
    pycocotools is not installed.
    """

    def __init__(self, root: Path, name: str, files: Sequence[Path]) -> None:
        tools()
        images = images_of(root)
        self._found: dict[str, list[tuple[dict[str, Any], str, str]]] = {}  # annotation, label, where
        lists: dict[str, list[str]] = defaultdict(list)
        labels: Counter[str] = Counter()
        boxes = 0
        for file in files:
            document = _document(file)
            names = _names(document, file)
            labels.update(dict.fromkeys(names.values(), 0))
            ids = _images(document, file, images)
            for id in ids.values():
                if id in self._found:
                    raise DataError(f"{file}: the image {id!r} stands in two files; keep one of them.")
                self._found[id] = []
                lists[_list_of(file)].append(id)
            for annotation, where in _annotations(document, file, names, ids):
                label = names[annotation["category_id"]]
                if not annotation.get("segmentation"):
                    boxes += 1
                    continue
                labels[label] += 1
                self._found[ids[annotation["image_id"]]].append((annotation, label, where))
        if boxes and not any(self._found.values()):
            raise DataError(
                f"{files[0]}: none of its {boxes} annotations has a segmentation, and a box is no mask; "
                f"export polygons "
                "or RLE."
            )
        super().__init__(images, name, labels, f"the categories of {files[0]}")
        self.lists, notes = lists_of(root, lists)
        left = (f"{boxes} annotations have a box and no segmentation; they are left out.",) if boxes else ()
        self.notes = (*left, *notes)

    def drawn(self, id: str) -> Iterator[tuple[np.ndarray, str, Hashable]] | None:
        if id not in self._found:
            return None
        size = image_size(self.image(id))
        shapes = [(_rle(annotation, size, where), label) for annotation, label, where in self._found[id]]
        mask = tools()
        areas = [int(mask.area(rle)) for rle, _ in shapes]
        order = sorted(range(len(shapes)), key=lambda k: -areas[k])  # stable: of one size, the later on top
        return ((mask.decode(shapes[k][0]).astype(bool), shapes[k][1], k) for k in order)


def tools() -> Any:
    """pycocotools.mask. Raises ConfigError, which says how to install it."""
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ConfigError(
            "pycocotools not installed, which reads COCO's masks; install the extra: `uv sync --extra "
            "coco`, or "
            "`pip install -c constraints.txt -e '.[coco]'`."
        ) from error
    return mask


def _list_of(file: Path) -> str:
    """instances_val2017.json -> val; train where its name says none, or several."""
    words = [word.casefold() for word in re.findall("[A-Z]?[a-z]+|[A-Z]+", file.stem)]
    said = [name for name in LISTS if any(word.startswith(name) for word in words)]  # "latest" is no test
    return said[0] if len(said) == 1 else LISTS[0]


# Reading ----------------------------------------------------------------------------------------------------


def _document(file: Path) -> dict[str, list[Any]]:
    if not file.exists():
        raise DataError(f"{file} does not exist; give COCO's JSON with --coco.")
    found = read_json(file)
    for key in ("images", "annotations", "categories"):
        entries = found.get(key) if isinstance(found, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise DataError(
                f"{file} is no JSON of COCO, for it has no list {key!r}; export it in COCO's form."
            )
    return dict(found)


def _key(value: Any) -> bool:
    return type(value) in (int, str)


def _names(document: dict[str, list[Any]], file: Path) -> dict[int | str, str]:
    """Read the name of each category by its id, in the order of the ids: {1: "person"}."""
    found: dict[int | str, str] = {}
    for entry in document["categories"]:
        id, name = entry.get("id"), entry.get("name")
        if not _key(id) or not isinstance(name, str) or not name.strip():
            raise DataError(f"{file}: the category {str(entry)[:80]} needs an id and a name.")
        if id in found or name in found.values():
            raise DataError(
                f"{file} has two categories of the {'id' if id in found else 'name'} "
                f"{(id if id in found else name)!r}; keep one of them."
            )
        found[id] = name
    return dict(sorted(found.items(), key=lambda item: (str(type(item[0])), item[0])))


def _images(document: dict[str, list[Any]], file: Path, images: Shelf) -> dict[int | str, str]:
    """Our id of each image by its id there."""
    found: dict[int | str, str] = {}
    seen: set[str] = set()
    for entry in document["images"]:
        number, name = entry.get("id"), entry.get("file_name")
        if not _key(number) or not isinstance(name, str) or not name:
            raise DataError(f"{file}: the image {str(entry)[:80]} needs an id and a file_name.")
        where = f"{file}: the image {number}, {name[:80]!r}"
        id = id_of_path(name, images, where)
        if number in found or id in seen:
            raise DataError(f"{where}, stands twice, by its id or its file; keep one of them.")
        refuse_size(id, images, entry.get("height"), entry.get("width"), where)
        found[number] = id
        seen.add(id)
    return found


def _annotations(
    document: dict[str, list[Any]], file: Path, names: dict[int | str, str], ids: dict[int | str, str]
) -> Iterator[tuple[dict[str, Any], str]]:
    """Each annotation and how it is called in sentences."""
    for number, entry in enumerate(document["annotations"], 1):
        where = f"{file}: annotation {str(entry.get('id', number))[:40]}"
        for key, known, what in (("image_id", ids, "image"), ("category_id", names, "category")):
            value = entry.get(key)
            if not _key(value) or value not in known:
                raise DataError(
                    f"{where} is of the {what} {str(value)[:40]!r}, which the file does not list; add it "
                    f"there, or "
                    "remove the annotation."
                )
        yield entry, where


# From a segmentation to RLE ---------------------------------------------------------------------------------


def _rle(annotation: dict[str, Any], size: tuple[int, int], where: str) -> dict[str, Any]:
    """Return the segmentation of an annotation as compressed RLE (lengths of runs of pixels), which
    pycocotools can decode without harm."""
    mask, segmentation = tools(), annotation["segmentation"]
    if isinstance(segmentation, list):
        polygons = []
        for flat in segmentation:
            if not isinstance(flat, list) or len(flat) % 2:
                raise DataError(f"{where}: a polygon must be a list of x, y, x, y, ...; export it anew.")
            pairs = [flat[k : k + 2] for k in range(0, len(flat), 2)]
            points = points_of(pairs, size, f"{where}: its polygon", 3)
            polygons.append([part for point in points for part in point])
        found: dict[str, Any] = mask.merge(mask.frPyObjects(polygons, *size))
        return found
    counts = segmentation.get("counts") if isinstance(segmentation, dict) else None
    if not isinstance(counts, list | str) or segmentation.get("size") != list(size):
        raise DataError(
            f"{where}: its RLE must hold counts, and the size of the image, [{size[0]}, {size[1]}]; export "
            f"it anew."
        )
    whole = _runs(counts) if isinstance(counts, str) else counts
    right = whole is not None and all(type(run) is int and run >= 0 for run in whole)
    if whole is None or not right or sum(whole) != size[0] * size[1]:
        raise DataError(
            f"{where}: the runs of its RLE do not make {size[1]}x{size[0]} pixels; export it anew."
        )
    if isinstance(counts, str):
        return {"size": list(size), "counts": counts.encode()}
    packed: dict[str, Any] = mask.frPyObjects({"size": list(size), "counts": counts}, *size)
    return packed


def _runs(text: str) -> list[int] | None:
    """Read the runs of a compressed RLE: [3, 4] of "34". Returns None for a text that is none. pycocotools
    itself reads past the end of such a text."""
    runs: list[int] = []
    value = place = 0
    for character in text:
        code = ord(character) - FIRST
        if not 0 <= code <= LAST - FIRST or place >= LONGEST:
            return None
        value |= (code & 0x1F) << (5 * place)
        place += 1
        if not code & MORE:
            if code & 0x10:
                value -= 1 << (5 * place)
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = place = 0
    return runs if not place else None
