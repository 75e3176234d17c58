"""The meaning of the numbers and colours of a folder's masks: its dataset.yaml.

    background: sky                          the name of the class that is background
    label_map: {1: road, 2: 1, 3: 255}       the class of each stored number, by name or id; 255 is no label
    label_map: from_1                        number k is class k - 1, and 0 is no label (ADE20K)
    label_map: cityscapes_ids                the label ids of Cityscapes, for classes with its names
    colours: {road: [128, 64, 128]}          or the colour of each class, by name or id; or a list of them
    ignore: [0, 254]                         numbers, or with `colours` colours, that are no label
    void_border: 3                           pixels on both sides of an edge between classes that become 255,
                                             or between objects, where masks are drawn from shapes

A number or colour that is in no table is an error with its count: it is never read as something else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from bench.contract import IGNORE, Knobs
from bench.errors import ConfigError, DataError, did_you_mean
from bench.settings.plain_yaml import read_yaml
from bench.settings.reading import validate
from datasets.cityscapes_ids import CLASSES, LABEL_IDS
from datasets.plain_files import is_there

ABOUT_FILE = "dataset.yaml"
NUMBERS = 65_536  # what a mask of 16 bits can store
UNKNOWN = -1
MOST_BORDER = 50  # pixels
FROM_1, CITYSCAPES = "from_1", "cityscapes_ids"
SHOWN = 5  # numbers or colours in a sentence


class Unread(DataError):
    """A mask whose numbers or colours have no meaning yet; dataset.yaml may give them one.

    Args:
        kind: "numbers", "colours", "palette" where its numbers may be no ids, "" behind a loading process.
        found: All numbers, or all colours as `codes_of` has them, and their pixels, where they are known.
    """

    def __init__(self, message: str, kind: str = "", found: Mapping[int, int] | None = None) -> None:
        super().__init__(message)
        self.kind, self.found = kind, found or {}


class MeaningFile(Knobs):
    """The keys that dataset.yaml may have. Tables are checked by `read_meaning`, which knows the classes."""

    background: str | None = None
    label_map: Any = None
    colours: Any = None
    ignore: Any = None
    void_border: int = Field(0, ge=0, le=MOST_BORDER)


@dataclass(frozen=True, eq=False)
class Meaning:
    """How masks are read.

    Args:
        file: The dataset.yaml, which need not be there; None for a data set that has none.
        classes: How many there are.
        numbers: 65,536 int16: the class of each stored number, 255, or `UNKNOWN`. None: the number is the id.
        colours: Sorted N int32, red * 65536 + green * 256 + blue; None: masks are read by their numbers.
        ids: N uint8, the class of each colour or 255.
        void_border: Pixels.
    """

    file: Path | None
    classes: int
    numbers: np.ndarray | None = None
    colours: np.ndarray | None = None
    ids: np.ndarray | None = None
    void_border: int = 0

    @property
    def rule(self) -> str:
        """The tables that decide a mask beside its file, as "numbers {0: 255, 1: 0}; void_border 3"; ""."""
        said = []
        if self.numbers is not None:
            known = np.flatnonzero(self.numbers != UNKNOWN)
            said.append(f"numbers {dict(zip(known.tolist(), self.numbers[known].tolist(), strict=True))}")
        if self.colours is not None and self.ids is not None:
            said.append(f"colours {dict(zip(self.colours.tolist(), self.ids.tolist(), strict=True))}")
        return "; ".join([*said, *([f"void_border {self.void_border}"] if self.void_border else [])])

    @cached_property
    def known(self) -> np.ndarray:
        """65,536 bool: the numbers that have a meaning."""
        if self.numbers is not None:
            return self.numbers != UNKNOWN
        numbers = np.arange(NUMBERS)
        return (numbers < self.classes) | (numbers == IGNORE)

    def of_numbers(self, path: Path, stored: np.ndarray) -> np.ndarray:
        """Return the class ids of a mask, H W uint8, from its stored numbers, H W of any integer type. Raises
        Unread, which names the mask, for numbers that have no meaning."""
        if not stored.size:
            return stored.astype(np.uint8)
        if self.numbers is None:
            wrong = ((stored < 0) | (stored >= self.classes)) & (stored != IGNORE)
        elif stored.min() < 0 or stored.max() >= NUMBERS:
            wrong = (stored < 0) | (stored >= NUMBERS)
        else:
            wrong = ~self.known[stored]
        if wrong.any():
            found, counts = np.unique(stored[wrong], return_counts=True)
            raise Unread(self._no_number(path, found, counts), "numbers", counted(stored))
        return (stored if self.numbers is None else self.numbers[stored]).astype(np.uint8, copy=False)

    def _no_number(self, path: Path, found: np.ndarray, counts: np.ndarray) -> str:
        shown = ", ".join(map(str, found[:10])) + (", ..." if len(found) > 10 else "")
        if self.numbers is None:
            other = f"; or say what its numbers mean with label_map in {ABOUT_FILE}" if self.file else ""
            return (
                f"{path} holds the ids {shown}, but there are {self.classes} classes "
                f"(0..{self.classes - 1}, and {IGNORE} for no label); correct the mask or the list of "
                f"classes{other}."
            )
        return (
            f"{path} holds the number{'s' if found[1:].size else ''} {shown} in {counts.sum():,} pixels, and "
            f"{self.file} does not say what that means; add it to label_map there, or to ignore, where it "
            "is no label."
        )

    def of_colours(self, path: Path, shown: np.ndarray) -> np.ndarray:
        """Return the class ids of a mask, H W uint8, from the colours that it shows, H W 3 uint8.

        Raises Unread, which names the mask, for colours that have no meaning.
        """
        assert self.colours is not None and self.ids is not None
        codes = codes_of(shown)
        places = np.minimum(np.searchsorted(self.colours, codes), len(self.colours) - 1)
        wrong = self.colours[places] != codes
        if not wrong.any():
            found: np.ndarray = self.ids[places]
            return found
        some, counts = np.unique(codes[wrong], return_counts=True)
        often = np.argsort(-counts, kind="stable")[:SHOWN]
        named = ", ".join(f"{list(rgb(some[i]))} in {counts[i]:,} pixels" for i in often)
        more = f" and {len(some) - SHOWN} more colours" if len(some) > SHOWN else ""
        blended = len(some) > 4 * len(self.colours)
        raise Unread(
            f"{path} shows the colour {named}{more}, and {self.file} does not say what that means; "
            + (
                "so many colours come of resizing with blending or of JPEG: export the masks anew."
                if blended
                else "add it to colours there, or to ignore, where it is no label."
            ),
            "colours",
            counted(codes),
        )

    def bordered(self, mask: np.ndarray, objects: np.ndarray | None = None) -> np.ndarray:
        """Return the mask, H W uint8, with 255 where another class is `void_border` pixels away or nearer.
        255 itself is no class and has no border.

        Args:
            objects: H W int, another number for each object, where they are known: then another object counts
                as another class does. Numbers of two classes must differ.
        """
        if not self.void_border:
            return mask
        from scipy import ndimage  # 25 MB, and a quarter of a second, that others need not pay

        parts = mask if objects is None else objects
        none, window = mask == IGNORE, 2 * self.void_border + 1
        highest, lowest = np.iinfo(parts.dtype).max, parts.dtype.type(0)
        least = ndimage.minimum_filter(np.where(none, highest, parts), window, mode="nearest")
        most = ndimage.maximum_filter(np.where(none, lowest, parts), window, mode="nearest")
        return np.where(least < most, np.uint8(IGNORE), mask)


def codes_of(colours: np.ndarray) -> np.ndarray:
    """One number of each colour: ... 3 uint8 -> ... int32."""
    wide = colours.astype(np.int32)
    codes: np.ndarray = (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]
    return codes


def counted(values: np.ndarray) -> dict[int, int]:
    """How often each value occurs."""
    found, counts = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def rgb(code: int) -> tuple[int, int, int]:
    return int(code) >> 16, int(code) >> 8 & 255, int(code) & 255


# Reading dataset.yaml ---------------------------------------------------------------------------------------


def read_about(file: Path) -> MeaningFile | None:
    """Read a dataset.yaml; None where there is none. Raises DataError, which names the file and the key."""
    if not is_there(file):
        return None
    try:
        return validate(MeaningFile, read_yaml(file, number_keys=True), file=file)
    except ConfigError as error:
        raise DataError(str(error)) from error


def background_of(about: MeaningFile | None, file: Path, classes: Sequence[str]) -> int | None:
    """Return the id of the background class, as dataset.yaml names it, else of a first class called
    "background". Returns None where no class is the background."""
    if about is None or "background" not in about.model_fields_set:
        return 0 if classes[0] == "background" else None
    if about.background is None:
        return None
    if about.background not in classes:
        raise DataError(
            f"{file} names the unknown background "
            f"{about.background!r}{did_you_mean(about.background, classes)}"
        )
    return classes.index(about.background)


def meaning_of(about: MeaningFile | None, file: Path, classes: Sequence[str]) -> Meaning:
    """Check the tables of dataset.yaml against the classes. Raises DataError, which names the file, the key
    and what to write instead."""
    if about is None:
        return Meaning(file, len(classes))
    if about.label_map is not None and about.colours is not None:
        raise DataError(
            f"{file} holds label_map and colours; keep label_map where masks store numbers, or colours where "
            "they show colours."
        )
    tables = _Tables(file, classes)
    if about.colours is not None:
        codes, ids = tables.colours(about.colours, about.ignore)
        return Meaning(file, len(classes), colours=codes, ids=ids, void_border=about.void_border)
    numbers = None
    if about.label_map is not None or about.ignore is not None:
        numbers = tables.numbers(about.label_map, about.ignore)
    return Meaning(file, len(classes), numbers, void_border=about.void_border)


@dataclass(frozen=True)
class _Tables:
    """Reads the tables of one dataset.yaml."""

    file: Path
    classes: Sequence[str]

    def numbers(self, label_map: Any, ignore: Any) -> np.ndarray:
        table = np.full(NUMBERS, UNKNOWN, np.int16)
        if label_map is None:
            table[: len(self.classes)] = np.arange(len(self.classes))
        elif isinstance(label_map, str):
            self._preset(label_map, table)
        else:
            for number, id in self._pairs(label_map):
                table[number] = id
        told = isinstance(label_map, Mapping)
        for number in self._ignored(ignore):
            if told and table[number] not in (UNKNOWN, IGNORE):
                raise DataError(
                    f"{self.file}: {number} stands in label_map and in ignore; remove one of the two."
                )
            table[number] = IGNORE
        if table[IGNORE] == UNKNOWN:
            table[IGNORE] = IGNORE
        return table

    def _preset(self, name: str, table: np.ndarray) -> None:
        if name == FROM_1:
            table[0] = IGNORE
            table[1 : len(self.classes) + 1] = np.arange(len(self.classes))
        elif name == CITYSCAPES:
            strange = [one for one in self.classes if one not in {known for _, known, _ in CLASSES}]
            if strange:
                raise DataError(
                    f"{self.file}: label_map {CITYSCAPES} is for classes with the names of Cityscapes, and "
                    f"{strange[0]!r} is none{did_you_mean(strange[0], [known for _, known, _ in CLASSES])}"
                )
            table[:LABEL_IDS] = IGNORE
            for number, known, _ in CLASSES:
                if known in self.classes:
                    table[number] = self.classes.index(known)
        else:
            raise DataError(
                f"{self.file}: unknown label_map {name!r}{did_you_mean(name, (FROM_1, CITYSCAPES))}. Or "
                f"write a "
                "table, such as {1: 0, 2: 1}."
            )

    def _pairs(self, label_map: Any) -> Iterable[tuple[int, int]]:
        if not isinstance(label_map, Mapping) or not label_map:
            raise DataError(
                f"{self.file}: label_map must be a table from stored numbers to classes, such as {{1: 0, "
                f"2: 1}}."
            )
        for key, value in label_map.items():
            if not key.isdecimal() or not key.isascii() or int(key) >= NUMBERS or str(int(key)) != key:
                raise DataError(
                    f"{self.file}: label_map has the key {key[:40]!r}; a key is the number that the masks "
                    f"store, "
                    f"0..{NUMBERS - 1}, and the class stands behind it."
                )
            yield int(key), self._class(value, f"label_map.{key}")

    def _ignored(self, ignore: Any) -> list[int]:
        if ignore is None:
            return []
        numbers = ignore if isinstance(ignore, list) else [ignore]
        if not all(type(number) is int and 0 <= number < NUMBERS for number in numbers):
            raise DataError(
                f"{self.file}: ignore must list the stored numbers that are no label, such as [0, 254]; "
                f"colours "
                "may stand there beside a table of colours."
            )
        if len(set(numbers)) < len(numbers):
            raise DataError(f"{self.file}: ignore holds a number twice; remove the repeats.")
        return list(numbers)

    def colours(self, table: Any, ignore: Any) -> tuple[np.ndarray, np.ndarray]:
        if not isinstance(table, Mapping) or not table:
            raise DataError(
                f"{self.file}: colours must be a table from classes to colours, such as {{road: [128, 64, "
                f"128]}}."
            )
        found: dict[int, tuple[int, str]] = {}
        classes: dict[int, str] = {}
        entries = [(self._class(_number(key), f"colours.{key}"), value, key) for key, value in table.items()]
        for id, _, key in entries:
            if classes.setdefault(id, key) != key:
                raise DataError(
                    f"{self.file}: colours names one class as {classes[id]!r} and as {key!r}; write all of "
                    f"its "
                    "colours in one list, [[...], [...]]."
                )
        if ignore is not None:
            entries.append((IGNORE, ignore, "ignore"))
        for id, value, key in entries:
            for code in self._codes(value, key):
                if code in found:
                    raise DataError(
                        f"{self.file}: {found[code][1]} and {key} have the same colour {list(rgb(code))}, "
                        f"so nobody "
                        "can tell them apart; give each its own, or leave one out."
                    )
                found[code] = id, key
        codes = sorted(found)
        return np.array(codes, np.int32), np.array([found[code][0] for code in codes], np.uint8)

    def _codes(self, value: Any, key: str) -> list[int]:
        several = isinstance(value, list) and value and all(isinstance(one, list | str) for one in value)
        found = [_colour(one) for one in (value if several else [value])]
        if None in found:
            raise DataError(
                f"{self.file}: the colour of {key} must be three numbers 0..255, such as [128, 64, 128], or "
                "'#804080', or a list of such colours."
            )
        return [code for code in found if code is not None]

    def _class(self, value: Any, key: str) -> int:
        """Return the class id that a name, an id, or 255 means."""
        if isinstance(value, str) and value in self.classes:
            return self.classes.index(value)
        if type(value) is int and (0 <= value < len(self.classes) or value == IGNORE):
            if str(value) in self.classes and self.classes.index(str(value)) != value:
                raise DataError(
                    f"{self.file}: {key}: {value} is an id and also the name of another class; rename that "
                    f"class."
                )
            return value
        last = f"0..{len(self.classes) - 1}"
        near = did_you_mean(value, self.classes) if isinstance(value, str) else "."
        raise DataError(
            f"{self.file}: {key}: {value!r} is no class; give a name of the list of classes, an id "
            f"({last}), or "
            f"{IGNORE} for no label{near}"
        )


def _number(key: str) -> int | str:
    return int(key) if re.fullmatch(r"0|[1-9][0-9]{0,8}", key) else key


def _colour(value: Any) -> int | None:
    """[128, 64, 128] or "#804080" as one number; None for what is no colour."""
    if isinstance(value, str):
        return int(value[1:], 16) if re.fullmatch(r"#[0-9a-fA-F]{6}", value) else None
    if not isinstance(value, list) or len(value) != 3:
        return None
    if not all(type(part) is int and 0 <= part <= 255 for part in value):
        return None
    return int(codes_of(np.array(value, np.uint8)))
