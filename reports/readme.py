"""The tables in a README: the text between two markers, found, compared and written anew."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.errors import DataError, did_you_mean

BEGIN = re.compile(r"<!-- table: (.+) -->")
END = "<!-- end of table -->"
NOT_SHOWN = re.compile(r"^<!-- not shown: (.+) -->\s*$", re.M)  # a table that is left out, and not forgotten


@dataclass(frozen=True)
class TableBlock:
    """The lines between two markers."""

    name: str
    line: int  # of the first marker, from 1
    start: int  # lines[start:end] are between the markers
    end: int


@dataclass(frozen=True)
class Rewritten:
    """A text with the tables of the records in its blocks."""

    text: str
    stale: tuple[TableBlock, ...]  # of the text before, whose content was not their table
    unplaced: tuple[str, ...]  # names of tables that it neither shows nor leaves out by name


def rewritten(text: str, found: Mapping[str, str], file: str = "README.md") -> Rewritten:
    """Put the table of that name in every block of a text. Raises DataError as `blocks` does."""
    lines = text.split("\n")
    placed = blocks(text, found, file)
    stale: list[TableBlock] = []
    for block in reversed(placed):
        content = ["", *found[block.name].split("\n"), ""]
        if lines[block.start : block.end] != content:
            stale.insert(0, block)
            lines[block.start : block.end] = content
    names = {*(block.name for block in placed), *NOT_SHOWN.findall(text)}
    return Rewritten("\n".join(lines), tuple(stale), tuple(name for name in found if name not in names))


def blocks(text: str, names: Iterable[str], file: str = "README.md") -> list[TableBlock]:
    """Find the blocks of a text, in its order: each stands between a line
    `<!-- table: NAME -->` and `<!-- end of table -->`.

    Raises DataError, with the line at fault, for a name that no table has and a marker without its partner. A
    line `<!-- not shown: NAME -->` must name a table too.
    """
    known = set(names)
    found: list[TableBlock] = []
    open_: tuple[str, int] | None = None
    for number, line in enumerate(text.split("\n"), 1):
        marker = BEGIN.fullmatch(line.rstrip())
        if left_out := NOT_SHOWN.match(line):
            _refuse_unknown(left_out[1], known, file, number)
        if open_ is not None and marker:
            raise DataError(_no_end(file, *open_))
        if marker:
            open_ = marker[1], number
            _refuse_unknown(marker[1], known, file, number)
        elif line.rstrip() == END:
            if open_ is None:
                raise DataError(f"{file}, line {number}: {END!r} ends no table; remove the line.")
            found.append(TableBlock(*open_, open_[1], number - 1))
            open_ = None
    if open_ is not None:
        raise DataError(_no_end(file, *open_))
    return found


def _refuse_unknown(name: str, known: set[str], file: str, line: int) -> None:
    if name not in known:
        raise DataError(f"{file}, line {line}: there is no table {name!r}{did_you_mean(name, known)}")


def _no_end(file: str, name: str, line: int) -> str:
    return f"{file}, line {line}: the table {name!r} has no end; add the line {END!r} behind it."


def read_readme(readme: Path) -> str:
    """Read the text of a README, with line feeds alone. Raises DataError where there is no such file or it is
    no text."""
    if not readme.is_file():
        raise DataError(f"no file {readme}; give --readme.")
    try:
        return readme.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{readme} is not UTF-8 ({error}); save it as such.") from error
