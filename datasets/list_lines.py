"""Reads a list of images that another project or a person wrote: which image of the data set a line means."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path

from bench.errors import DataError
from datasets.ids import read_lines, refuse_repeats, some
from datasets.lookup import PICTURES

LAYOUT_FOLDER = "images"  # our own layout has sub folders below it; other projects mean the file name alone
CUT = re.compile(r"\s*[\t,;]\s*|\s+")  # between the path of an image and that of its mask
QUOTES = "\"'`"


def read_foreign(path: Path, known: Collection[str], dataset: str) -> tuple[str, ...]:
    """Read the sorted ids that the lines of a list mean, of the `known` ids of a data set.

    A line that is a known id is that id, spaces and all. Else it is the path of an image, or that and the
    path of its mask: "JPEGImages/a.jpg SegmentationClass/a.png", with quotes, commas or tabs, a leading "./"
    or "/" as well. Lines that begin with "#" are comments.

    Raises DataError, which names the list, its lines and how many they are, for lines that mean no image or
    several, an image that stands twice, and an empty list.
    """
    images = _Images(known)
    ids: list[str] = []
    wrong: list[str] = []
    for number, line in enumerate(read_lines(path), 1):
        if not line or (line.startswith("#") and line not in images.known):
            continue
        found = images.meant_by(line)
        if len(found) == 1:
            ids += found
        else:
            wrong.append(f"line {number}, {line[:120]!r}, {_reason(found, images.near(line))}")
    if wrong:
        count = len(wrong) + len(ids)
        many = f"{len(wrong)} of the {count} lines name no image of {dataset} or several; for example "
        raise DataError(
            f"{path}: {many if wrong[1:] else ''}{wrong[0]}. An image of a split, labeled or "
            f"not, must stand in the train list of {dataset}: add its id there (train.txt), or check that "
            "the list is of this data set."
        )
    if not ids:
        raise DataError(f"{path} is empty; point to a list with one image a line.")
    refuse_repeats(ids, path)
    return tuple(sorted(ids))


def _reason(found: Collection[str], near: str) -> str:
    if found:
        return f"may be any of {some(sorted(found))}; write the id alone"
    return "is none of the images in its lists" + (f" (did you mean {near!r}?)" if near else "")


class _Images:
    """The ids of a data set, and which of them a text can mean."""

    def __init__(self, known: Collection[str]) -> None:
        self.known = set(known)
        self._letters: dict[str, set[str]] = defaultdict(set)
        self._alike: dict[str, set[str]] = defaultdict(set)
        for id in self.known:
            self._letters[_letters(id)].add(id)
            self._alike[_letters(id.rpartition("/")[2]).casefold()].add(id)

    def meant_by(self, line: str) -> set[str]:
        """All ids that a line can mean, as a whole or cut in two."""
        exact = self._exactly(line)
        if exact:
            return exact
        cuts = [(line[: cut.start()], line[cut.end() :]) for cut in CUT.finditer(line)]
        # A picture in front makes it a pair: the mask behind must not be taken for an image in a folder.
        found = set() if any(_without_ending(first) != first for first, _ in cuts) else self._of_path(line)
        for first, rest in cuts:
            ids = self._of_path(first)
            found |= ids if found else {id for id in ids if self._is_mask_of(rest, id)}
        return found

    def near(self, line: str) -> str:
        """Return an id that differs in capitals, or lies in another folder; "" if there is none or
        several."""
        for text in (line, CUT.split(line)[0]):
            stem = _without_ending(_path(text)).rpartition("/")[2]
            alike = self._alike.get(_letters(stem).casefold(), set())
            if len(alike) == 1:
                return next(iter(alike))
        return ""

    def _of_path(self, text: str) -> set[str]:
        """Return the ids that a path can mean: itself, without its ending, without folders in front."""
        exact, path = self._exactly(text), _path(text)
        stem = _without_ending(path)
        if exact or ".." in path.split("/") or stem == path or path.startswith(f"{LAYOUT_FOLDER}/"):
            return exact
        found: set[str] = set()
        for inner in _inner(stem.removesuffix("_leftImg8bit")):
            found |= self._same(inner)
        return found

    def _exactly(self, text: str) -> set[str]:
        """Return the id that a path in our own layout means, with or without its ending. The set is empty
        where it means none."""
        if text in self.known:
            return {text}
        path = _path(text)
        stem = _without_ending(path)
        forms = (path, stem, stem.removeprefix(f"{LAYOUT_FOLDER}/"))
        return next((self._same(form) for form in forms if self._same(form)), set())

    def _same(self, text: str) -> set[str]:
        return {text} if text in self.known else self._letters.get(_letters(text), set())

    def _is_mask_of(self, text: str, id: str) -> bool:
        """Whether a path can be that of an image's mask: it has its name, with a word before or behind."""
        name = _letters(_without_ending(_path(text)).rpartition("/")[2])
        own = _letters(id.rpartition("/")[2])
        if name == own:
            return True
        return not self._same(name) and (name.startswith(f"{own}_") or name.endswith(f"_{own}"))


def _letters(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _path(text: str) -> str:
    """Strip a path of quotes and of a leading ./ or /, and write / for its backslashes: `"./a/b.png"` in
    quotes becomes a/b.png."""
    text = text.strip()
    if len(text) > 1 and text[0] in QUOTES and text[-1] == text[0]:
        text = text[1:-1].strip()
    text = text.replace("\\", "/")
    while text.startswith(("./", "/")):
        text = text.removeprefix("." if text.startswith("./") else "").removeprefix("/")
    return text


def _without_ending(path: str) -> str:
    stem, ending = os.path.splitext(path)
    return stem if ending.lower() in PICTURES else path


def _inner(stem: str) -> Iterator[str]:
    """a/b/c -> a/b/c, b/c, c"""
    parts = stem.split("/")
    yield from ("/".join(parts[i:]) for i in range(len(parts)))
