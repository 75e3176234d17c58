"""Writes a clean folder: images as they are, masks as 8-bit grey class ids, names, lists and tags.

The folder appears whole or not at all, and nothing that is there is overwritten.
"""

from __future__ import annotations

import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bench.contract import Dataset
from bench.errors import ConfigError, DataError, check_name, resolved
from bench.records.atomic import writing
from datasets.classes import read_classes
from datasets.decode import image_size
from datasets.folder import LABEL_SECONDS_FILE, Folder
from datasets.lookup import Missing
from datasets.meaning import ABOUT_FILE
from datasets.splits import TAGS_FILE
from datasets.tags import NoEntry

LISTS = ("train", "val", "test", "heldout")


class ConvertSource(ABC):
    """A source that a clean folder is made of.

    Args of a subclass, as fields:
        name: Of the data set.
        root: The folder that it is read from, or None.
        classes, background: As `Dataset` has them.
        lists: The ids of each list, by its name.
        notes: Sentences for the user.
    """

    name: str
    root: Path | None
    classes: tuple[str, ...]
    background: int | None
    lists: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...] = ()

    @abstractmethod
    def image(self, id: str) -> Path | np.ndarray:
        """Return the file of an image, or its pixels, H W 3 uint8, where it has no file. Raises DataError."""

    @abstractmethod
    def mask(self, id: str) -> np.ndarray | None:
        """H W uint8, class ids or 255; None for an image without a mask. Raises DataError."""

    def tags(self, id: str) -> tuple[int, ...] | None:
        """As `Dataset.tags`; None also where the record lacks the image."""
        return None


class OfDataset(ConvertSource):
    """A data set that can be loaded."""

    def __init__(self, data: Dataset) -> None:
        self._data = data
        self.name, self.classes, self.background = data.name, data.classes, data.background
        self.root = data.root if isinstance(data, Folder) else None
        names = LISTS if isinstance(data, Folder) else ("train", data.scored, data.heldout)
        there = [name for name in names if name and (self.root is None or _list(self.root, name).exists())]
        if not there:
            raise DataError(
                f"{self.root} has no list of ids ({', '.join(f'{name}.txt' for name in LISTS[:3])}); write "
                f"one."
            )
        self.lists = {name: data.ids(name) for name in there}

    def image(self, id: str) -> Path | np.ndarray:
        files = self._data.files(id, "image")
        return files[0] if files else self._data.image(id)

    def mask(self, id: str) -> np.ndarray | None:
        try:
            self._data.files(id, "mask")
        except Missing as error:
            if error.gone:
                return None
            raise
        return self._data.mask(id)

    def tags(self, id: str) -> tuple[int, ...] | None:
        try:
            return self._data.tags(id)
        except NoEntry:
            return None


@dataclass(frozen=True)
class Converted:
    """Counts what was written; `notes` are sentences for the user."""

    images: int
    masks: int
    notes: tuple[str, ...]


def convert(source: ConvertSource, to: Path, on_item: Callable[[int, int], None] | None = None) -> Converted:
    """Write a clean folder. `on_item(done, total)` is called after each image.

    Raises:
        ConfigError: `to` cannot be the folder of a data set, or holds something.
        DataError: An image, mask or list is missing or invalid.
        WriteError: The folder cannot be written.
    """
    refuse_target(to, source.root)
    ids = list(dict.fromkeys(id for of in source.lists.values() for id in of))
    if not ids:
        raise DataError(f"the lists of {source.name} name no image; write ids into them, one a line.")
    temporary = to.with_name(f".{to.name[:50]}.{os.urandom(8).hex()}.tmp")
    with writing(to):
        try:
            temporary.mkdir(parents=True)
            masks = 0
            for done, id in enumerate(ids, 1):
                masks += _write_pair(source, id, temporary)
                if on_item:
                    on_item(done, len(ids))
            notes = _write_about(source, ids, temporary, to)
            _check(source, temporary, to)
            os.rename(temporary, to)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    if masks < len(ids):
        notes = (
            *notes,
            f"{len(ids) - masks} of {len(ids)} images have no mask; they can be learned from unlabeled.",
        )
    return Converted(len(ids), masks, (*source.notes, *notes))


def refuse_target(to: Path, root: Path | None) -> None:
    """Raise ConfigError unless a new data set can be written to `to`."""
    here = resolved(to)
    check_name(here.name, "a data set")
    if root is not None and (here.is_relative_to(root.resolve()) or root.resolve().is_relative_to(here)):
        raise ConfigError(f"--to {to} and {root} lie in each other; give a folder beside it.")
    empty = to.is_dir() and not to.is_symlink() and not any(to.iterdir())
    if os.path.lexists(to) and not empty:
        raise ConfigError(
            f"--to {to} is there and is not an empty folder; give a folder that is not there yet."
        )


def _list(root: Path, name: str) -> Path:
    return root / f"{name}.txt"


def _write_pair(source: ConvertSource, id: str, folder: Path) -> int:
    """Write an image and its mask; how many masks that is."""
    image = source.image(id)
    ending = image.suffix.lower() if isinstance(image, Path) else ".png"
    place = folder / "images" / f"{id}{ending}"
    place.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(image, Path):
        size = image_size(image)
        shutil.copyfile(image, place)
    else:
        size = image.shape[0], image.shape[1]
        Image.fromarray(image).save(place)
    mask = source.mask(id)
    if mask is None:
        return 0
    if mask.shape != size:
        raise DataError(
            f"the mask of {id!r} is {mask.shape[1]}x{mask.shape[0]} but its image is {size[1]}x{size[0]}."
        )
    place = folder / "labels" / f"{id}.png"
    place.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(place)
    return 1


def _write_about(source: ConvertSource, ids: list[str], folder: Path, to: Path) -> tuple[str, ...]:
    """Write all but images and masks; what the user should know."""
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in source.classes), encoding="utf-8")
    for name, of in source.lists.items():
        _list(folder, name).write_text("".join(f"{id}\n" for id in of), encoding="utf-8")
    if source.background != (0 if source.classes[0] == "background" else None):
        background = None if source.background is None else source.classes[source.background]
        (folder / ABOUT_FILE).write_text(
            f"background: {json.dumps(background, ensure_ascii=False)}\n", encoding="utf-8"
        )
    found = {id: source.tags(id) for id in ids}
    tags = {id: [source.classes[c] for c in of] for id, of in found.items() if of is not None}
    if tags:
        (folder / TAGS_FILE).write_text(json.dumps(tags, ensure_ascii=False, indent=0), encoding="utf-8")
    if source.root is None:
        return ()
    if (seconds := source.root / LABEL_SECONDS_FILE).exists():
        shutil.copyfile(seconds, folder / LABEL_SECONDS_FILE)
    if not (splits := source.root / "splits").is_dir():
        return ()
    if to.resolve().name != source.name:
        return (f"the splits of {source.name} are not copied, since they bear its name; make them anew.",)
    shutil.copytree(splits, folder / "splits")
    return ()


def _check(source: ConvertSource, folder: Path, to: Path) -> None:
    """Raise DataError where the new folder would be read as another data set than it was made of."""
    listed = folder / "classes.txt"
    try:
        names, _ = read_classes(listed)
    except DataError as error:  # it names a file that is gone with its folder
        why = str(error).replace(str(listed), listed.name)
        raise DataError(f"{source.name}: a class name cannot stand in a list of names: {why}") from error
    if names != source.classes:
        wrong = next((a for a, b in zip(source.classes, names, strict=False) if a != b), source.classes[-1])
        raise DataError(
            f"the class name {wrong!r} of {source.name} would be read as something else in a list of "
            f"names; rename "
            "that class."
        )
    if Folder(folder, to.name).background != source.background:
        raise DataError(f"the background of {source.name} would be read as another class; rename that class.")
