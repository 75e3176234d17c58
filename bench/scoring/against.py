"""Scores masks that were predicted against masks that somebody drew, by the names of their classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bench.errors import DataError
from bench.labels import IGNORE
from bench.records.schema import Score
from bench.scoring.inference import confusion, score
from datasets.classes import read_classes
from datasets.decode import LARGEST, read_mask
from datasets.lookup import Missing, Shelf

ROWS = 2**24  # pixels counted at once
CLASSES_FILE = "classes.txt"


@dataclass(frozen=True)
class Labels:
    """Masks below a folder, and what their ids mean to a model."""

    shelf: Shelf
    mapping: np.ndarray | None  # 256 uint8, from their ids to the model's; None: they are the model's
    notes: tuple[str, ...]


def open_labels(folder: Path, classes: Sequence[str], ids: Sequence[str]) -> Labels:
    """Find the masks of some images, folder/<id>.png, and the names of their classes.

    The names stand in classes.txt, in the folder or the one above. Without it, the ids are taken for the
    model's.

    Args:
        classes: Of the model.
        ids: Of the images.

    Raises DataError where there is no folder, no mask of these images, or no class that the model has.
    """
    if not folder.is_dir():
        raise DataError(f"no folder {folder}; give the folder that holds the masks.")
    shelf = Shelf(folder, (".png",))
    if not any(_there(shelf, id) for id in ids):
        raise DataError(
            f"{folder} holds no mask of these images; one of {ids[0]} would be {folder / ids[0]}.png."
        )
    file = next((at / CLASSES_FILE for at in (folder, folder.parent) if (at / CLASSES_FILE).is_file()), None)
    if file is None:
        said = f"no {CLASSES_FILE} beside the masks of {folder}: their ids are taken for those of the model"
        return Labels(shelf, None, (said,))
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
    mapping[len(names) : IGNORE] = np.arange(len(names), IGNORE)  # no class of theirs: refused as unknown
    others = [name for name in names if name not in classes]
    if others:
        notes = (*notes, f"not scored, since the model has no such class: {', '.join(others)}")
    return Labels(shelf, mapping, notes)


def _there(shelf: Shelf, id: str) -> bool:
    try:
        return bool(shelf.path(id))
    except Missing:
        return False


def score_against(labels: Labels, masks: Mapping[str, Path], classes: int) -> tuple[Score, int, list[str]]:
    """The score of predicted masks by id, the number of masks that were scored, and a sentence for each that
    cannot be read. Images without a label are left out.

    Raises DataError where nothing can be scored.
    """
    counts, scored, wrong = np.zeros((classes, classes), np.int64), 0, []
    for id, path in masks.items():
        if not _there(labels.shelf, id):
            continue
        try:
            predicted = read_mask(path, None, classes, most=LARGEST)
            size = predicted.shape[0], predicted.shape[1]
            label = read_mask(labels.shelf.path(id), size, classes, labels.mapping, most=LARGEST)
        except DataError as error:
            wrong.append(str(error))
            continue
        rows = max(ROWS // size[1], 1)
        for top in range(0, size[0], rows):
            part = slice(top, top + rows)
            one = confusion(torch.from_numpy(predicted[part]), torch.from_numpy(label[part]), classes)
            counts += one.numpy()
        scored += 1
    if not scored and wrong:
        raise DataError("\n".join(wrong[:3]))
    return score(counts), scored, wrong
