"""Scores masks that were predicted against masks that somebody drew, by the names of their classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bench.errors import DataError
from bench.labels import IGNORE
from bench.records.schema import Score
from bench.scoring.inference import confusion, score
from datasets.classes import read_classes
from datasets.decode import LARGEST, image_size, read_mask
from datasets.folder import MASK_ENDINGS
from datasets.lookup import NO_FILE, Missing, Shelf
from datasets.meaning import ABOUT_FILE, Meaning, meaning_of, read_about
from datasets.plain_files import is_there

ROWS = 2**24  # pixels counted at once
CLASSES_FILE = "classes.txt"


@dataclass(frozen=True)
class Labels:
    """Masks below a folder, and what their ids mean to a model."""

    shelf: Shelf
    meaning: Meaning  # of their numbers or colours
    mapping: np.ndarray  # 256 uint8, from their ids to the model's
    notes: tuple[str, ...]

    def read(self, id: str, size: tuple[int, int] | None) -> np.ndarray:
        """Read the mask of an image of a height and width, in the model's ids.

        H W uint8; 255 for no label, and for a class that the model lacks. Raises DataError.
        """
        stored = read_mask(
            self.shelf.path(id), size, self.meaning.classes, most=LARGEST, meaning=self.meaning
        )
        return self.mapping[stored]


def open_labels(folder: Path, classes: Sequence[str], images: Mapping[str, Path]) -> Labels:
    """Find the masks of some images, folder/<id>.png, and the names of their classes. Each mask is read, for
    that takes a hundredth of predicting, and nobody wants to hear of a wrong one after it.

    The names stand in classes.txt, in the folder or the one above. Without it, the ids are taken for the
    model's. A dataset.yaml there says what the masks' numbers or colours mean.

    Args:
        classes: Of the model.
        images: By id.

    Raises DataError where there is no folder, no mask of these images, no class that the model has, or a mask
    that cannot be read, has another size than its image, or an id that is no class.
    """
    if not folder.is_dir():
        raise DataError(f"no folder {folder}; give the folder that holds the masks.")
    shelf = Shelf(folder, MASK_ENDINGS)
    masked = [id for id in images if _there(shelf, id)]
    if not masked:
        first = next(iter(images))
        raise DataError(
            f"{folder} holds no mask of these images; one of {first} would be {folder / first}.png."
        )
    labels = _by_name(folder, shelf, classes)
    for id in masked:
        size = None
        with suppress(DataError):  # an image that cannot be read is said when it is predicted
            size = image_size(images[id], LARGEST)
        labels.read(id, size)
    return labels


def _by_name(folder: Path, shelf: Shelf, classes: Sequence[str]) -> Labels:
    file, about = (_beside(folder, name) for name in (CLASSES_FILE, ABOUT_FILE))

    def meaning(names: Sequence[str]) -> Meaning:
        return meaning_of(read_about(about) if about else None, about or folder / ABOUT_FILE, names)

    if file is None:
        said = f"no {CLASSES_FILE} beside the masks of {folder}: their ids are taken for those of the model"
        return Labels(shelf, meaning(classes), np.arange(256, dtype=np.uint8), (said,))
    names, notes = read_classes(file)
    common = [name for name in names if name in classes]
    if not common:
        raise DataError(
            f"{file} and the model have no class in common ({', '.join(names[:5])}; "
            f"{', '.join(classes[:5])}); give masks of the model's classes, or a model of these."
        )
    mapping = np.full(256, IGNORE, np.uint8)
    for id, name in enumerate(names):
        if name in classes:
            mapping[id] = classes.index(name)
    others = [name for name in names if name not in classes]
    if others:
        notes = (*notes, f"not scored, since the model has no such class: {', '.join(others)}")
    return Labels(shelf, meaning(names), mapping, notes)


def _beside(folder: Path, name: str) -> Path | None:
    """Find the file of that name in a folder of masks or the folder above; None where there is none."""
    return next((at / name for at in (folder, folder.parent) if is_there(at / name)), None)


def _there(shelf: Shelf, id: str) -> bool:
    try:
        return bool(shelf.path(id))
    except Missing as error:
        if error.kind.startswith(NO_FILE):  # taken for absent, fewer masks would be scored than are there
            raise
        return False


def score_against(labels: Labels, masks: Mapping[str, Path], classes: int) -> tuple[Score, int]:
    """Score predicted masks, by id. Give the score and the number of masks that were scored.

    Images without a label are left out.

    Raises DataError where one cannot be read, or nothing can be scored.
    """
    counts, scored = np.zeros((classes, classes), np.int64), 0
    for id, path in masks.items():
        if not _there(labels.shelf, id):
            continue
        predicted = read_mask(path, None, classes, most=LARGEST)
        size = predicted.shape[0], predicted.shape[1]
        label = labels.read(id, size)
        rows = max(ROWS // size[1], 1)
        for top in range(0, size[0], rows):
            part = slice(top, top + rows)
            one = confusion(torch.from_numpy(predicted[part]), torch.from_numpy(label[part]), classes)
            counts += one.numpy()
        scored += 1
    return score(counts), scored
