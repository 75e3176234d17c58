"""A data set of your own: any folder of images and masks."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

import numpy as np

from bench.contract import IGNORE, Box, Dataset
from bench.errors import DataError
from bench.labels import BOXES, DRAWN
from datasets.boxes import BOXES_FILE, BoxRecord
from datasets.boxes import read_record as read_box_record
from datasets.classes import read_classes
from datasets.decode import image_size, read_image, read_mask
from datasets.encodings import OTHERS, colours
from datasets.ids import check_id, read_json, read_list
from datasets.image_forms import ENDINGS
from datasets.lookup import Shelf, near_files
from datasets.meaning import ABOUT_FILE, Meaning, background_of, meaning_of, read_about, rgb
from datasets.plain_files import is_folder, is_there
from datasets.splits import TAGS_FILE
from datasets.tags import TagRecord, read_record

LAYOUT = (
    "a data set is a folder with images/<id>.jpg (or .png, .tif, .npy ...), labels/<id>.png, classes.txt "
    "(one class a line) and lists of ids (train.txt, test.txt or val.txt); say where the folder of data sets "
    "is with --data-root or $BENCH_DATA"
)

TABLES = ("label_map", "colours", "ignore", "void_border")  # of dataset.yaml
MASK_ENDINGS = (".png", *OTHERS)
LABEL_SECONDS_FILE = "label_seconds.json"
MOST_SECONDS = 1e6  # eleven days for one image


class Folder(Dataset):
    """Reads images and masks under `root`: images/<id>.jpg, labels/<id>.png, classes.txt, <list>.txt.

    The line number in classes.txt, from 0, is the class id; `datasets.classes` says which other forms are
    read. Endings in capitals (.JPG) are read too. A first class called "background" is the background,
    unless dataset.yaml names another (`background: sky`) or `background` gives its id. dataset.yaml may also
    say what the numbers or colours of the masks mean, see `datasets.meaning`. tags.json is optional
    and gives the classes of an image by id or name, {"a": [1, "cat"]}. label_seconds.json is optional too
    and says how many seconds it takes to label one image, {"pixel": 600, "tags": 20}. points/ID.png and
    scribbles/ID.png hold class ids where somebody marked the image, and 255 elsewhere; boxes.json has COCO's
    form, see `datasets.boxes`. test.txt is scored
    where there is one, else val.txt. Ids may lie in sub folders ("city/frame_1").

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
        if not is_folder(root):
            raise DataError(f"{root}: the folder of the data set {name!r} does not exist; {LAYOUT}.")
        self.root, self.name, self.labels = root, name, labels
        if not is_there(root / classes_file):
            there = near_files(root, (".txt", ".csv", ".names", ".json"))
            raise DataError(f"{root / classes_file}: the list of classes does not exist{there}; {LAYOUT}.")
        self.classes, self._class_notes = read_classes(root / classes_file)
        if background is not None and not 0 <= background < len(self.classes):
            raise DataError(
                f"{root / classes_file} has {len(self.classes)} classes, so none with id {background}."
            )
        file = root / ABOUT_FILE
        about = read_about(file)
        self.background = background_of(about, file, self.classes) if background is None else background
        self.meaning = meaning_of(about, file, self.classes)
        tables = [key for key in TABLES if about is not None and getattr(about, key)]
        self._mask_notes: tuple[str, ...] = ()
        if tables:
            self._mask_notes = (f"{file}: masks are read by its {' and '.join(tables)}.",)
        drawn = [kind for kind in DRAWN if (root / kind).is_dir()]
        if drawn and {"label_map", "colours"} & {*tables}:
            self._mask_notes += (
                f"{' and '.join(drawn)} of {name} hold class ids: {file} is of masks, and changes nothing "
                "there.",
            )
        self.by_colour, self.mask_rule = self.meaning.colours is not None, self.meaning.rule
        self.scored = "test" if is_there(root / "test.txt") else "val"
        others = (name for name in ("heldout", "val") if name != self.scored)
        self.heldout = next((name for name in others if is_there(root / f"{name}.txt")), None)
        self.palette = _palette(self.meaning)
        self._tags_path = root / tags_file
        self._record_notes = tuple(_overlooked(root / file) for file in (tags_file, BOXES_FILE))
        self._images, self._masks = Shelf(root / "images", ENDINGS), Shelf(root / labels, MASK_ENDINGS)
        self._shelves = {"image": self._images, "mask": self._masks}  # and those of points and strokes
        # Read at once: a run that has trained for days shall not end here.
        self.label_seconds = {**Dataset.label_seconds, **_read_label_seconds(root / LABEL_SECONDS_FILE)}

    def ids(self, listing: str) -> tuple[str, ...]:
        check_id(listing, self.root)
        path = self.root / f"{listing}.txt"
        if not is_there(path):
            there = near_files(self.root, (".txt", ".csv", ".lst"))
            raise DataError(f"{path}: the list {listing!r} does not exist{there}; {LAYOUT}.")
        return read_list(path)

    def image(self, id: str) -> np.ndarray:
        return read_image(self._images.path(id), self.channels)

    def mask(self, id: str) -> np.ndarray:
        size = image_size(self._images.path(id))
        return read_mask(self._masks.path(id), size, len(self.classes), meaning=self.meaning)

    def files(self, id: str, what: str) -> tuple[Path, ...]:
        return (self.root / BOXES_FILE if what == BOXES else self._shelf(what).path(id),)

    def tags(self, id: str) -> tuple[int, ...] | None:
        return self._tags.of(id) if self._tags else None

    def drawn(self, id: str, kind: str) -> np.ndarray | None:
        if not is_folder(self.root / kind):
            return None
        size, path = image_size(self._images.path(id)), self._shelf(kind).path(id)
        mark = read_mask(path, size, len(self.classes))
        if (mark != IGNORE).all():
            raise DataError(
                f"{path} marks every pixel, and {kind} are a few: write {IGNORE} where nothing is marked, or "
                "put the file into labels where it is a whole mask."
            )
        return mark

    def boxes(self, id: str) -> tuple[Box, ...] | None:
        if self._boxes is None:
            return None
        return self._boxes.of(id, image_size(self._images.path(id)))

    def _shelf(self, what: str) -> Shelf:
        if what not in self._shelves:
            self._shelves[what] = Shelf(self.root / what, (".png",))
        return self._shelves[what]

    @property
    def notes(self) -> tuple[str, ...]:
        read = self.__dict__.get("_tags")  # looking must not open a file that nobody has asked for
        said = (*self._class_notes, *self._mask_notes, *filter(None, self._record_notes))
        return (*said, *(read.notes if read else ()))

    @cached_property
    def _boxes(self) -> BoxRecord | None:
        path = self.root / BOXES_FILE
        return read_box_record(path, self.classes) if is_there(path) else None

    @cached_property
    def _tags(self) -> TagRecord | None:
        path = self._tags_path
        return read_record(path, self.classes) if is_there(path) else None


def _overlooked(file: Path) -> str:
    """Say which files lie in place of a record that is not there, such as tags.csv for tags.json. Returns ""
    where there are none."""
    if os.path.lexists(file):  # whoever reads it says what is wrong with it
        return ""
    others = sorted(path.name for path in file.parent.glob("*.*") if path.stem.lower() == file.stem)
    if not others:
        return ""
    return f"{file.parent}: {' and '.join(others)} is not read, only {file.name} is; see datasets/README.md."


def _palette(meaning: Meaning) -> np.ndarray:
    """C 3 uint8 colours for pictures: those of the masks, where the folder names them for all classes."""
    table = colours(meaning.classes)
    if meaning.colours is None or meaning.ids is None:
        return table
    own = {int(id): rgb(code) for code, id in zip(meaning.colours, meaning.ids, strict=True) if id != IGNORE}
    return (
        np.array([own[c] for c in range(meaning.classes)], np.uint8) if len(own) == meaning.classes else table
    )


def _read_label_seconds(path: Path) -> dict[str, float]:
    """Read {"pixel": 600.0, "tags": 20.0}, or {} without the file.

    Raises DataError, which names the file and the entry.
    """
    if not is_there(path):
        return {}
    table = read_json(path)
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
