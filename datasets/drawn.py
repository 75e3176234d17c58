"""Masks that people have drawn as shapes: what COCO's and LabelMe's files share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from bench.contract import IGNORE
from bench.errors import DataError, did_you_mean
from datasets.classes import BACKGROUND, IGNORED, read_classes
from datasets.convert import LISTS, ConvertSource
from datasets.decode import image_size
from datasets.ids import is_number, read_list, some
from datasets.image_forms import ENDINGS
from datasets.lookup import PICTURES, Missing, Shelf
from datasets.meaning import ABOUT_FILE, Meaning, background_of, read_about
from datasets.plain_files import is_there


class Drawn(ConvertSource):
    """A folder whose masks are drawn from shapes.

    Pixels that no shape covers are the background class, or 255 where there is none. Without classes.txt the
    classes are "background" and the labels. `void_border` of dataset.yaml counts, between two objects of one
    class as well; its tables are of pictures.

    Args:
        images: The images, in a folder beside which classes.txt, dataset.yaml and lists may stand.
        labels: Of the shapes, in the order of their class ids where there is no classes.txt.
        said: Where the labels stand, for sentences.
    """

    def __init__(self, images: Shelf, name: str, labels: Mapping[str, int], said: str) -> None:
        self.images, self.name = images, name
        self.root = root = images.folder.parent
        file = root / ABOUT_FILE
        about = read_about(file)
        for key in ("label_map", "colours", "ignore"):
            if about is not None and getattr(about, key) is not None:
                raise DataError(
                    f"{file} holds {key}, which is of masks that are pictures; leave it out to draw masks "
                    f"from shapes."
                )
        names = [_plain(label) for label in labels if label != IGNORED]
        listed = root / "classes.txt"
        if is_there(listed):
            self.classes, _ = read_classes(listed)
            strange = [label for label in names if label not in self.classes]
            if strange:
                count = sum(labels[label] for label in labels if _plain(label) == strange[0])
                raise DataError(
                    f"{said} hold the label {strange[0]!r} ({count} shapes), and {listed} does not name "
                    f"it; add it "
                    f"there, or correct the label{did_you_mean(strange[0], self.classes)}"
                )
        else:
            self.classes = tuple(dict.fromkeys(("background", *names)))
        if len(self.classes) > IGNORE:
            raise DataError(
                f"{said} hold {len(self.classes)} classes; a mask of 8 bits holds at most {IGNORE}."
            )
        self.background = background_of(about, file, self.classes)
        self._border = Meaning(file, len(self.classes), void_border=about.void_border if about else 0)
        self._rest = IGNORE if self.background is None else self.background

    def id_of(self, label: str) -> int:
        return IGNORE if label == IGNORED else self.classes.index(_plain(label))

    def image(self, id: str) -> Path:
        return self.images.path(id)

    def mask(self, id: str) -> np.ndarray | None:
        shapes = self.drawn(id)
        if shapes is None:
            return None
        mask = np.full(image_size(self.image(id)), self._rest, np.uint8)
        objects, numbers = np.zeros(mask.shape, np.int32), dict[Hashable, int]()
        for covered, label, one in shapes:
            mask[covered] = class_id = self.id_of(label)
            # A shape of the background is no object, and has no border with the rest of it.
            objects[covered] = 0 if class_id == self._rest else numbers.setdefault(one, len(numbers) + 1)
        return self._border.bordered(mask, objects)

    @abstractmethod
    def drawn(self, id: str) -> Iterator[tuple[np.ndarray, str, Hashable]] | None:
        """Return the shapes of an image, the lowest first: where each is, H W bool, its label, and which
        object it is of. Returns None for an image that nobody has labeled."""


def _plain(label: str) -> str:
    return "background" if label == BACKGROUND else label


def images_of(root: Path) -> Shelf:
    """Return the images of a folder. Raises DataError where it has no folder `images`."""
    if not (root / "images").is_dir():
        raise DataError(
            f"{root} has no folder images; put the images there, and their labels where they are."
        )
    return Shelf(root / "images", ENDINGS)


def lists_of(
    root: Path, known: Mapping[str, Sequence[str]]
) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Read the lists of a folder: {"train": ("a", "b")}. Takes `known` where it has none. Also returns
    sentences on what is not in the lists.

    Args:
        known: Labeled images, by the list that they belong to.
    """
    files = {name: root / f"{name}.txt" for name in LISTS if is_there(root / f"{name}.txt")}
    lists = {name: read_list(file) for name, file in files.items()} or {
        name: tuple(sorted(ids)) for name, ids in known.items() if ids
    }
    listed = {id for ids in lists.values() for id in ids}
    labeled = {id for ids in known.values() for id in ids}
    said = [f"{len(ids)} images stand in {name}.txt." for name, ids in lists.items() if not files]
    if not files and not lists.keys() & {"test", "val"}:
        said.append("no list says what is scored; write some of the ids into test.txt in place of train.txt.")
    if left := sorted(labeled - listed):
        said.append(f"{len(left)} labeled images stand in no list of {root} ({some(left)}) and are left out.")
    below = {
        path.relative_to(root / "images").with_suffix("").as_posix()
        for path in (root / "images").rglob("*")
        if path.suffix.lower() in ENDINGS
    }
    if not files and (rest := sorted(below - listed)):
        said.append(
            f"{len(rest)} images have no labels ({some(rest)}) and are left out; to learn from them "
            f"unlabeled, "
            f"write a train.txt into {root} that names them too."
        )
    return lists, tuple(said)


def id_of_path(text: str, images: Shelf, where: str) -> str:
    """Return the id of the image that a labeling tool's path means: "C:\\\\data\\\\images\\\\a.jpg" is "a".

    Raises DataError, which begins with `where`, for an image that is not there.
    """
    path = PurePosixPath(text.replace("\\", "/"))
    bare = path.with_suffix("") if path.suffix.lower() in PICTURES else path
    parts = [part for part in bare.parts if part not in ("/", ".")]
    parts = parts[max((i + 1 for i, part in enumerate(parts) if part == ".."), default=0) :]
    missing: Missing | None = None
    for first in range(len(parts)):
        id = "/".join(parts[first:])
        try:
            images.path(id)
        except Missing as error:
            missing = error
        except DataError:
            if first == len(parts) - 1:
                raise
        else:
            return id
    raise DataError(f"{where}: {missing or f'{text[:80]!r} names no image; give its file name.'}")


def refuse_size(id: str, images: Shelf, height: Any, width: Any, where: str) -> None:
    """Raise DataError where labels were drawn on an image of another size than it has here."""
    size = image_size(images.path(id))
    if (height, width) == size:
        return
    there = f"{width!s:.20}x{height!s:.20}"
    said = f"{where}: its image is {there} there, and {size[1]}x{size[0]} in {images.folder}"
    if (width, height) == size:
        raise DataError(
            f"{said}; an EXIF tag turns the image, and the shapes lie on it as it is stored: remove the tag."
        )
    raise DataError(f"{said}; draw on this image, or restore the one that was drawn on.")


def points_of(value: Any, size: tuple[int, int], where: str, fewest: int) -> list[tuple[float, float]]:
    """Points [[x, y], ...] as numbers. Raises DataError for what is none, too few, or far from the image."""
    good = isinstance(value, list) and all(isinstance(point, list) and len(point) == 2 for point in value)
    if not good or not all(is_number(part) for point in value for part in point):
        raise DataError(f"{where}: its points must be pairs of numbers, [[x, y], ...].")
    if len(value) < fewest:
        raise DataError(f"{where} has {len(value)} points, and needs {fewest}; remove it, or draw it anew.")
    height, width = size
    for x, y in value:
        if not (-width <= x <= 2 * width and -height <= y <= 2 * height):
            raise DataError(
                f"{where} has the point {x:g}, {y:g}, far outside of its image of {width}x{height}; "
                f"correct it."
            )
    return [(float(x), float(y)) for x, y in value]
