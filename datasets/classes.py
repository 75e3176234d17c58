"""The list of classes of a folder: names one a line, or a list that another tool wrote.

A wrong reading moves every name by one and nothing looks amiss. So a list is either plain, or of a form that
is recognised and said, or refused.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from bench.contract import IGNORE
from bench.errors import DataError, plain
from datasets.ids import read_lines

Numbered = list[tuple[int, str]]  # the number of a line, from 1, and its text

LONGEST_LINE = 200
IGNORED = "__ignore__"  # LabelMe's name for pixels without a label; its id is -1
BACKGROUND = "_background_"  # LabelMe's name for the background

NAME_COLUMNS = {"name", "class", "classname", "label", "labelname", "category", "categoryname", "names",
                "classes", "labels", "categories", "classnames"}  # fmt: skip
ID_COLUMNS = {"id", "ids", "classid", "labelid", "categoryid", "index", "idx", "value", "pixelvalue",
              "number", "no", "nr", "trainid", "classindex", "code"}  # fmt: skip
OTHER_COLUMNS = {"r", "g", "b", "red", "green", "blue", "color", "colour", "colorrgb", "colourrgb", "rgb",
                 "hex", "parts", "actions", "supercategory", "alpha", "isthing"}  # fmt: skip

COLUMNS = NAME_COLUMNS | ID_COLUMNS | OTHER_COLUMNS
_COLOUR = r"(?:#[0-9a-fA-F]{6}|[(\[]?\d{1,3}[\s,;]+\d{1,3}[\s,;]+\d{1,3}[)\]]?)"
_NAME = r"(?P<name>[^\W\d](?:.*?\S)?)"
_BETWEEN = r"(?:\s*(?:->|=>|[:=,;|])\s*|\s+)"
# What each line of a list is, and what the form is called. The first form that all lines have is taken.
FORMS = tuple(
    (re.compile(form), said)
    for form, said in (
        (r"(?P<name>[^:]+):\d{1,3},\d{1,3},\d{1,3}:[^:]*:[^:]*", "name:red,green,blue::"),
        (rf"(?P<id>-?\d+){_BETWEEN}{_NAME}{_BETWEEN}{_COLOUR}", "id, name, colour"),
        (rf"(?P<id>-?\d+){_BETWEEN}{_COLOUR}{_BETWEEN}{_NAME}", "id, colour, name"),
        (rf"{_NAME}{_BETWEEN}{_COLOUR}", "name, colour"),
        (rf"{_COLOUR}{_BETWEEN}{_NAME}", "colour, name"),
        (rf"\[?(?P<id>-?\d+)[\])]?(?:\s*(?:->|=>|[:=,;|.-])\s*|\s+){_NAME}", "number, name"),
        (rf"{_NAME}\s*(?:->|=>|[:=,;|]|\t)\s*(?P<id>-?\d+)", "name, number"),
    )
)
_BEHIND = re.compile(rf"{_NAME}\s+(?P<id>-?\d+)")
_HAS_NUMBER = re.compile(r"\[?\d+[\])]?(?:\s*[:=,;|.-]\s*|\s+)[^\W\d]")
# What a line is in a file of another format: JSON, YAML, XML, protobuf.
NO_NAME = re.compile(
    r"""^[][(){},;:"'|-]+$ | ^-{3} | ^[-*\u2022]\s | ^(["']).*\1,?$ | [,;{]$ | ^<[?!] | ^(?://|[%;=!]) """
    r"""| (?i:^(?:nc|num_?classes|classes|labels|names)\s*[:=]) """
    r"""| ^(?:\w+:\s*)?\[.*[,"'].*\]$ | ^\{.*\}$""",
    re.VERBOSE,
)


def read_classes(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Read the names of the classes, in the order of their ids, and a sentence for all that was not plain.

    Plain is one name a line; the line number, from 0, is the id. A byte order mark, CRLF and blank lines at
    the end do not count. Recognised are comments ("# ..."), LabelMe's `__ignore__` and `_background_`, label
    maps ("red:128,0,0::"), tables with a header ("id,name"), and numbers or colours beside the names.

    Raises DataError, which names the file and the line, for anything else.
    """
    lines = [(number, line) for number, line in enumerate(read_lines(path), 1)]
    while lines and not lines[-1][1]:
        lines.pop()
    for number, line in lines:
        if line.replace("\t", " ") != plain(line.replace("\t", " ")):
            raise DataError(
                f"{path}: line {number}, {line[:80]!r}, holds characters that cannot be printed; type the "
                "name anew."
            )
        if len(line) > LONGEST_LINE:
            raise DataError(f"{path}: line {number}, {line[:40]!r}..., has {len(line)} letters; shorten it.")
    said: list[str] = []
    lines = _without_comments(lines, said)
    if not lines or not all(line for _, line in lines):
        raise DataError(f"{path} must name one class on every line, since the line number is the class id.")
    lines = _without_ignore(lines, said, path)
    names = _table(lines, said, path) or _formed(lines, said, path) or _numbered_behind(lines, said, path)
    names = names or _plain(lines, path)
    if names and names[0] == BACKGROUND:
        said.append(f"{BACKGROUND!r} is the background")
        names[0] = "background"
    _check(names, path)
    first = ", ".join(f"{id} {name}" for id, name in enumerate(names[:4])) + (", ..." if names[4:] else "")
    return tuple(names), ((f"{path}: {'; '.join(said)}: the classes are {first}.",) if said else ())


def _without_comments(lines: Numbered, said: list[str]) -> Numbered:
    comments = [number for number, line in lines if line.startswith("#")]
    if comments:
        said.append(f"{_lines(comments)} a comment")
    return [(number, line) for number, line in lines if not line.startswith("#")]


def _without_ignore(lines: Numbered, said: list[str], path: Path) -> Numbered:
    """Leave `__ignore__` out where that moves no name against LabelMe's own count, at either end."""
    kept = list(lines)
    for end in (0, -1):
        if kept and kept[end][1] == IGNORED:
            said.append(f"line {kept[end][0]}, {IGNORED!r}, is no class (its pixels are {IGNORE})")
            kept.pop(end)
    if not kept:
        raise DataError(f"{path} names no class; write one name a line.")
    return kept


# Tables with a header --------------------------------------------------------------------------------------


def _words(cells: Sequence[str]) -> list[str]:
    return [re.sub(r"[\s_.:-]", "", cell.casefold()) for cell in cells]


def _cells(line: str, delimiter: str) -> list[str]:
    (row,) = csv.reader([line], delimiter=delimiter, skipinitialspace=True)
    return [cell.strip() for cell in row]


def _table(lines: Numbered, said: list[str], path: Path) -> list[str] | None:
    """Read a table whose first line names its columns; None where the first line does not."""
    number, head = lines[0]
    delimiter = next((d for d in "\t;,|" if d in head), None)
    words = _words(_cells(head, delimiter) if delimiter else head.split())
    if delimiter is None:
        alone = len(words) == 1 and words[0] in NAME_COLUMNS
        several = words[1:] and set(words) <= COLUMNS | {"map"} and set(words) & NAME_COLUMNS
        if alone or head.endswith(":") or several:
            raise DataError(
                f"{path}: line {number}, {head!r}, looks like a header, not like a class; remove it, or "
                "rename the class."
            )
        return None
    if not set(words) <= COLUMNS or not set(words) & NAME_COLUMNS:
        table = all(len(_cells(line, delimiter)) == len(words) for _, line in lines[1:])
        if table and set(words) & NAME_COLUMNS:
            raise DataError(
                f"{path}: line {number}, {head!r}, looks like the header of a table of other columns; "
                "write one class name a line."
            )
        return None
    rows = [_cells(line, delimiter) for _, line in lines[1:]]
    for (row_number, line), row in zip(lines[1:], rows, strict=True):
        if len(row) != len(words):
            raise DataError(
                f"{path}: line {row_number}, {line[:80]!r}, has {len(row)} cells, and the header {head!r} "
                f"has {len(words)}; write one class name a line."
            )
    columns = [[row[i] for row in rows] for i in range(len(words))]
    asked = [i for i, word in enumerate(words) if word in NAME_COLUMNS | ID_COLUMNS]
    ids = [i for i in asked if all(re.fullmatch(r"-?\d+", cell) for cell in columns[i])]
    names = [i for i in asked if i not in ids and words[i] in NAME_COLUMNS]
    if not rows or len(ids) > 1 or len(names) != 1 or len(ids) + len(names) < len(asked):
        raise DataError(
            f"{path}: the header {head!r} does not tell which column holds the names and which the ids; "
            "write one class name a line, in the order of the ids."
        )
    said.append(f"line {number}, {head!r}, is the header of a table")
    found = columns[names[0]]
    return _in_order([int(cell) for cell in columns[ids[0]]], found, said, path) if ids else found


# Numbers and colours ---------------------------------------------------------------------------------------


def _formed(lines: Numbered, said: list[str], path: Path) -> list[str] | None:
    """Read lines that all have one of `FORMS`; None where they do not."""
    for form, called in FORMS:
        found = [form.fullmatch(line) for _, line in lines]
        if not all(found):
            continue
        names = [match["name"].strip() for match in found if match]
        said.append(f"its lines are {called!r}")
        if "id" not in form.groupindex:
            return names
        return _in_order([int(match["id"]) for match in found if match], names, said, path)
    return None


def _numbered_behind(lines: Numbered, said: list[str], path: Path) -> list[str] | None:
    """Read lines such as "road 0", where names differ without their numbers; None where they are names as
    they stand, such as "lane 0" and "lane 1".

    Raises DataError for names that tell apart by numbers alone which do not rise with the lines.
    """
    found = [_BEHIND.fullmatch(line) for _, line in lines]
    if not all(found) or len(lines) < 2:
        return None
    names, ids = ([match[part] for match in found if match] for part in ("name", "id"))
    numbers = [int(id) for id in ids]
    if len({name.casefold() for name in names}) == len(names):
        said.append("its lines are 'name, number'")
        return _in_order(numbers, names, said, path)
    counted = sorted(numbers) in (list(range(len(lines))), list(range(1, len(lines) + 1)))
    if counted and numbers != sorted(numbers):
        raise DataError(
            f"{path}: its lines end in the numbers {', '.join(ids[:5])}{', ...' if ids[5:] else ''}, and the "
            "id of a class is the place of its line; sort the lines by the numbers, or give other names."
        )
    return None


def _in_order(ids: list[int], names: list[str], said: list[str], path: Path) -> list[str]:
    pairs = sorted(zip(ids, names, strict=True))
    ignored = [name for id, name in pairs if id in (-1, IGNORE)]
    kept = [(id, name) for id, name in pairs if id not in (-1, IGNORE)]
    if [id for id, _ in kept] != list(range(len(kept))):
        numbers = ", ".join(str(id) for id, _ in kept[:5]) + (", ..." if kept[5:] else "")
        raise DataError(
            f"{path} numbers its classes {numbers}; ids are counted from 0, each once, without a gap. Number "
            "the list and the masks so, or write the names alone, one a line, without numbers."
        )
    if not kept:
        raise DataError(f"{path} names no class; write one name a line.")
    said += [f"{name!r} is no class" for name in ignored]
    return [name for _, name in kept]


# Plain names -----------------------------------------------------------------------------------------------


def _plain(lines: Numbered, path: Path) -> list[str]:
    """Take each line for a name. Raises DataError where some look as if they were none."""
    numbered = [number for number, line in lines if _HAS_NUMBER.match(line)]
    if len(numbered) >= 2 and 2 * len(numbered) >= len(lines):
        other = next(number for number, _ in lines if number not in numbered)
        raise DataError(
            f"{path}: {_lines(numbered)} a name behind a number, and line {other} has not; number all of "
            "them or none."
        )
    for id, (number, line) in enumerate(lines):
        if re.fullmatch(r"-?\d+", line) and line != str(id):
            raise DataError(
                f"{path}: line {number} is the number {line}, and the class of that line has the id {id}; "
                "write one class name a line, in the order of the ids, and nothing else."
            )
    return [line for _, line in lines]


def _check(names: Sequence[str], path: Path) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if name.startswith("__"):
            raise DataError(
                f"{path}: {name[:80]!r} is no class name, since it begins with __. Remove it if it is no "
                f"class (pixels without a label are {IGNORE}), or rename it."
            )
        if NO_NAME.search(name) or "\t" in name:
            raise DataError(
                f"{path}: {name[:80]!r} is no class name; write one bare name a line, in the order of the "
                "ids, without quotes, brackets, bullets, commas or tabs."
            )
        key = " ".join(name.casefold().split())
        if key in seen:
            also = "" if seen[key] == name else f", once as {seen[key]!r}"
            raise DataError(f"{path} names the class {name!r} twice{also}; give each class its own name.")
        seen[key] = name
    if len(names) > IGNORE:
        raise DataError(f"{path} names {len(names)} classes; a mask of 8 bits holds at most {IGNORE}.")


def _lines(numbers: Sequence[int]) -> str:
    """[1] -> "line 1 is", [1, 3] -> "lines 1, 3 are"; at most five."""
    shown = ", ".join(map(str, numbers[:5])) + (", ..." if numbers[5:] else "")
    return f"line {shown} is" if len(numbers) == 1 else f"lines {shown} are"
