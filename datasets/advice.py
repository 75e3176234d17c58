"""The lines for dataset.yaml that would give meaning to masks that cannot be read as they are.

What is sure is filled in. Where only the owner knows, a placeholder stands, which no class is called and
reading refuses.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path

import numpy as np

from bench.contract import IGNORE, Dataset
from bench.errors import DataError
from datasets.cityscapes_ids import CLASSES, LABEL_IDS
from datasets.decode import colours_in
from datasets.encodings import BORDER, GREYS, colours
from datasets.findings import spread
from datasets.folder import Folder
from datasets.ids import read_lines
from datasets.meaning import CITYSCAPES, FROM_1, UNKNOWN, Unread, codes_of, rgb

MOST_DECODED = 500  # masks whose colours are counted
MOST_COLOURS = 64  # more than that, and more than four for a class, come of blending or of photographs
MOST_NUMBERS = 60
WORDS = {"yes", "no", "on", "off", "true", "false", "null", "y", "n"}  # that YAML takes for something else
TRIPLE = re.compile(r"(?<!\d)(\d{1,3})[\s,;]+(\d{1,3})[\s,;]+(\d{1,3})(?!\d)")


def lines(
    dataset: Dataset, unread: Mapping[str, Unread], ids: Iterable[Iterable[int]], disagree: Sequence[str] = ()
) -> list[str]:
    """Return what to write into dataset.yaml: a sentence and lines of YAML, such as `"label_map: from_1"`.
    Returns [] where nothing there would help.

    Args:
        unread: The masks that have no meaning yet, by the id of their image.
        ids: The class ids of each mask that was read.
        disagree: The ids of all masks, where they contradict each other.
    """
    if not isinstance(dataset, Folder) or not (unread or disagree):
        return []
    file = dataset.meaning.file
    if dataset.by_colour or disagree or any(error.kind != "numbers" for error in unread.values()):
        said = _of_colours(dataset, list(disagree) or list(unread), {} if disagree else unread)
    else:
        found = {number for error in unread.values() for number in error.found}
        said = _of_numbers(dataset, sorted({*found, *(id for of in ids for id in of)} - {IGNORE}))
    return [f"{said[0].format(file=file)}", *said[1:]] if said else []


# Numbers ----------------------------------------------------------------------------------------------------

WRITE = "if that is what the masks mean, write into {file}:"
FILL = "write into {file}, with the name of a class (or 255, where it is no label) in place of each NAME:"


def _of_numbers(data: Folder, numbers: list[int]) -> list[str]:
    """Lines for masks that store these numbers, without 255."""
    if len(numbers) > MOST_NUMBERS:
        return []
    if data.meaning.numbers is not None:
        known = {
            int(k): int(data.meaning.numbers[k]) for k in np.flatnonzero(data.meaning.numbers != UNKNOWN)
        }
        known.pop(IGNORE, None) if known.get(IGNORE) == IGNORE else None
        return [FILL, _label_map({**known, **_placeholders(k for k in numbers if k not in known)})]
    classes = len(data.classes)
    if set(data.classes) <= {name for _, name, _ in CLASSES} and numbers[-1] < LABEL_IDS and classes > 2:
        return [WRITE, f"label_map: {CITYSCAPES}"]
    zero = numbers[0] == 0
    if zero and numbers == list(range(classes + 1)):
        return [
            "if 0 is no label, write into {file} (if it is a class, add its name as the first line of the "
            "list of "
            "classes instead):",
            f"label_map: {FROM_1}",
        ]
    if len(numbers) == classes:
        return [
            "if the numbers stand in the order of the names, write into {file}:",
            _label_map({number: id for id, number in enumerate(numbers)}),
        ]
    if zero and len(numbers) == classes + 1:
        return [
            "if 0 is no label and the other numbers stand in the order of the names, write into {file}:",
            _label_map({0: IGNORE} | {number: id for id, number in enumerate(numbers[1:])}),
        ]
    return [FILL, _label_map(_placeholders(numbers))]


def _placeholders(numbers: Iterable[int]) -> dict[int, str]:
    return {number: f"NAME{k}" for k, number in enumerate(numbers, 1)}


def _label_map(table: Mapping[int, int | str]) -> str:
    return f"label_map: {{{', '.join(f'{number}: {id}' for number, id in table.items())}}}"


# Colours ----------------------------------------------------------------------------------------------------


def _of_colours(data: Folder, ids: Sequence[str], unread: Mapping[str, Unread]) -> list[str]:
    """Lines for masks that show colours, the most frequent first."""
    found: Counter[int] = Counter()
    for id in spread(ids, MOST_DECODED):
        try:
            known = unread[id].found if id in unread else {}
            found.update(known if data.by_colour and known else colours_in(data.files(id, "mask")[0]))
        except DataError:
            continue  # reading says so
    if not found or len(found) > max(MOST_COLOURS, 4 * len(data.classes)):
        return []
    own: dict[int, str] = {}
    if data.meaning.colours is not None and data.meaning.ids is not None:
        names = [*map(_quoted, data.classes), *[str(IGNORE)] * (IGNORE + 1 - len(data.classes))]
        own = {int(c): names[int(k)] for c, k in zip(data.meaning.colours, data.meaning.ids, strict=True)}
    table = own or _known_table(data, found)
    named: dict[str, list[int]] = {}
    numbers = count(1)
    for code in [*own, *(code for code, _ in found.most_common() if code not in own)]:
        named.setdefault(table[code] if code in table else f"NAME{next(numbers)}", []).append(code)
    total = found.total()
    said = ["colours:"]
    for name, codes in named.items():
        share = 100 * sum(found[code] for code in codes) / total
        several = ", ".join(str(list(rgb(code))) for code in codes)
        about = f"  # {share:.1f} % of the pixels" if name.startswith("NAME") else ""
        said.append(f"  {name}: {several if len(codes) == 1 else f'[{several}]'}{about}")
    return [FILL if any(name.startswith("NAME") for name in named) else WRITE, *said]


def _known_table(data: Folder, found: Iterable[int]) -> dict[int, str]:
    """Return the names of colours, where all that were found are of one table: {8405120: "road"}. Returns {}
    otherwise. The tables are that of the list of classes, that of VOC, and greys which are the ids."""
    classes = len(data.classes)
    voc = {
        int(code): _quoted(name) for code, name in zip(codes_of(colours(classes)), data.classes, strict=True)
    }
    voc[int(codes_of(np.array(BORDER, np.uint8)))] = str(IGNORE)
    greys = {int(codes_of(GREYS[id])): _quoted(name) for id, name in enumerate(data.classes)}
    greys[int(codes_of(GREYS[IGNORE]))] = str(IGNORE)
    if set(found) <= {0, 0xFFFFFF}:
        greys = {}  # white may be a class or no label
    tables = (_of_list(data.root / "classes.txt", data.classes), voc, greys)
    return next((table for table in tables if table and set(found) <= table.keys()), {})


def _of_list(path: Path, classes: Sequence[str]) -> dict[int, str]:
    """Read the colours that stand beside the names in a list of classes, such as "road:128,64,128::". Returns
    {} unless each name has one colour of its own."""
    found: dict[int, str] = {}
    lines = read_lines(path)
    for name in classes:
        of = [m for line in lines if name in line and (m := TRIPLE.search(line.replace(name, " ", 1)))]
        parts = [int(part) for part in of[0].groups()] if len(of) == 1 else [256]
        if max(parts) > 255:
            return {}
        found[int(codes_of(np.array(parts, np.uint8)))] = _quoted(name)
    return found if len(found) == len(classes) else {}


def _quoted(name: str) -> str:
    """Write the name as a key of YAML: `road`, but `"on"` in quotes."""
    plain = re.fullmatch(r"[^\W\d][\w -]*", name) and name.casefold() not in WORDS
    return name if plain else json.dumps(name, ensure_ascii=False)
