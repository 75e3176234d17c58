"""A data set of your own: any folder of images and masks."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path

import numpy as np

from bench.contract import IGNORE, Dataset
from bench.errors import DataError
from datasets.decode import image_size, read_image, read_mask
from datasets.encodings import colours
from datasets.splits import TAGS_FILE, check_id, read_lines, read_list
from datasets.tags import TagTable, read_tags

LAYOUT = (
    "a data set is a folder with images/<id>.jpg (or .jpeg, .png), labels/<id>.png, classes.txt (one class a "
    "line) and lists of ids (train.txt, test.txt or val.txt); say where the folder of data sets is with "
    "--data-root or $BENCH_DATA"
)

LABEL_SECONDS_FILE = "label_seconds.json"
MOST_SECONDS = 1e6  # eleven days for one image


class Folder(Dataset):
    """Reads images and masks under `root`: images/<id>.jpg, labels/<id>.png, classes.txt, <list>.txt.

    The line number in classes.txt, from 0, is the class id. A first class called "background" is the
    background unless `background` says otherwise. tags.json is optional and gives the classes of an
    image by id or name, {"a": [1, "cat"]}. label_seconds.json is optional too and says how many seconds it
    takes to label one image, {"pixel": 600, "tags": 20}. test.txt is scored where there is
    one, else val.txt. Ids may lie in sub folders ("city/frame_1").

    Every method raises DataError for a missing or invalid file.
    """

    def __init__(
        self,
        root: Path,
        name: str,
        labels: str = "labels",
        classes_file: str = "classes.txt",
        tags_file: str = TAGS_FILE,
        background: int | None = None,
    ) -> None:
        if not root.is_dir():
            raise DataError(f"{root}: the folder of the data set {name!r} does not exist; {LAYOUT}.")
        self.root, self.name, self.labels = root, name, labels
        self.classes = _read_classes(root / classes_file)
        if background is not None and not 0 <= background < len(self.classes):
            raise DataError(
                f"{root / classes_file} has {len(self.classes)} classes, so none with id {background}."
            )
        first_is_background = self.classes[0] == "background"
        self.background = 0 if background is None and first_is_background else background
        self.scored = "test" if (root / "test.txt").is_file() else "val"
        self.palette = colours(len(self.classes))
        self._tags_path = root / tags_file
        # Read at once: a run that has trained for days shall not end here.
        self.label_seconds = {**Dataset.label_seconds, **_read_label_seconds(root / LABEL_SECONDS_FILE)}

    def ids(self, listing: str) -> tuple[str, ...]:
        check_id(listing, self.root)
        path = self.root / f"{listing}.txt"
        if not path.is_file():
            raise DataError(f"{path}: the list {listing!r} does not exist; {LAYOUT}.")
        return read_list(path)

    def image(self, id: str) -> np.ndarray:
        return read_image(self._image_path(id))

    def mask(self, id: str) -> np.ndarray:
        size = image_size(self._image_path(id))
        return read_mask(self._mask_path(id), size, len(self.classes))

    def files(self, id: str, what: str) -> tuple[Path, ...]:
        return (self._image_path(id) if what == "image" else self._mask_path(id),)

    def tags(self, id: str) -> tuple[int, ...] | None:
        if self._tags is None:
            return None
        if id not in self._tags:
            raise DataError(
                f"{self._tags_path} has no entry for {id!r}; add its class ids (an empty list if none)."
            )
        return self._tags[id]

    @cached_property
    def _tags(self) -> TagTable | None:
        path = self._tags_path
        return read_tags(path, self.classes) if path.is_file() else None

    def _mask_path(self, id: str) -> Path:
        return self.root / self.labels / f"{id}.png"

    def _image_path(self, id: str) -> Path:
        check_id(id, self.root)
        stem = self.root / "images" / id
        names = [stem.with_name(stem.name + end) for end in (".jpg", ".jpeg", ".png")]
        found = [path for path in names if path.is_file()]
        if not found:
            raise DataError(
                f"{stem}.jpg (or .jpeg, .png) does not exist; restore the image or remove it from the lists."
            )
        if len(found) > 1:
            raise DataError(f"{found[0]} and {found[1].name} carry one id; keep one of them.")
        return found[0]


def _read_label_seconds(path: Path) -> dict[str, float]:
    """Read {"pixel": 600.0, "tags": 20.0}, or {} without the file.

    Raises DataError, which names the file and the entry.
    """
    if not path.exists():
        return {}
    try:
        table = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is not readable JSON ({error}); write it again.") from error
    kinds = ", ".join(map(repr, Dataset.label_seconds))
    if not isinstance(table, dict):
        raise DataError(f"{path} must map a kind of label ({kinds}) to the seconds it takes for one image.")
    for kind, seconds in table.items():
        if kind not in Dataset.label_seconds:
            raise DataError(f"{path} has the unknown entry {kind!r}; the kinds of label are {kinds}.")
        if type(seconds) not in (int, float) or not 0 < seconds <= MOST_SECONDS:
            raise DataError(
                f"{path}: {kind!r} is {seconds!r}; it must be a number of seconds above 0 and at most "
                f"{MOST_SECONDS:.0e}."
            )
    return {kind: float(seconds) for kind, seconds in table.items()}


def _read_classes(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise DataError(f"{path}: the list of classes does not exist; {LAYOUT}.")
    names = read_lines(path)
    while names and not names[-1]:
        names.pop()
    if not names or "" in names:
        raise DataError(f"{path} must name one class on every line, since the line number is the class id.")
    if len(set(names)) < len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path} names the class {repeated!r} twice; give each class its own name.")
    if len(names) > IGNORE:
        raise DataError(f"{path} names {len(names)} classes; a mask of 8 bits holds at most {IGNORE}.")
    return tuple(names)
