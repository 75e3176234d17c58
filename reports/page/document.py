"""The parts of a report, in order. report.md and index.html are two renderings of the same document."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from bench.records.atomic import write_atomic
from reports.plots import figure
from reports.plots.gallery import Gallery, sheet
from reports.plots.picture import Picture
from reports.sheets import text
from reports.sheets.sheet import Sheet
from reports.sheets.text import markdown_text


@dataclass(frozen=True)
class Listing:
    """Sentences that stand beside each other."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """Answers to questions that a reader has, each with its name."""

    items: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Source:
    """A text to copy, which is a file too."""

    name: str  # of its file, with the ending
    text: str


@dataclass(frozen=True)
class Photo:
    """A picture that is a file already."""

    name: str  # of its file, without the ending
    title: str
    alt: str
    data: bytes  # JPEG


Part = str | Listing | Facts | Source | Sheet | Picture | Photo | Gallery  # a text is one paragraph


@dataclass(frozen=True)
class Filed:
    """A part with its files, by their endings: a table's CSV and LaTeX, a picture's PNG and SVG."""

    part: Part
    stem: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)
    size: tuple[float, float] = (0, 0)  # inches of a picture, width and height


P = TypeVar("P", Part, Filed)


@dataclass(frozen=True)
class Section(Generic[P]):
    title: str
    parts: tuple[P, ...] = ()
    sections: tuple[Section[P], ...] = ()
    anchor: str = ""  # unique in a filed document
    answer: bool = False  # it stands on the first screen
    # The values that the page's filters choose by, such as {"data set": ("shapes",)}; none: shown always.
    marks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def walk(self) -> Iterator[P]:
        for section in self.all():
            yield from section.parts

    def all(self) -> Iterator[Section[P]]:
        """Yield this section and all within it, in order."""
        yield self
        for section in self.sections:
            yield from section.all()


def file(
    document: Section[Part], jobs: int = 1, on_item: Callable[[int, int], None] | None = None
) -> Section[Filed]:
    """Draw every figure and make every table's files of a document; no two have one name.

    Args:
        jobs: Processes that draw.
        on_item: Called with the number of figures drawn and that of all, after each.
    """
    taken: set[str] = {"report", "index"}
    anchors: set[str] = set()
    pictures = [part for part in document.walk() if isinstance(part, Picture)]
    drawings = iter(figure.drawings(pictures, jobs, on_item))

    def filed(part: Part) -> Filed:
        if isinstance(part, Sheet):
            files = {"csv": text.to_csv(part).encode(), "tex": text.to_latex(part).encode()}
            return Filed(part, _unique(_stem(part), taken), files)
        if isinstance(part, Picture):
            return Filed(part, _unique(part.name, taken), *next(drawings))
        if isinstance(part, Source):
            stem, _, ending = part.name.rpartition(".")
            return Filed(part, _unique(stem, taken), {ending: part.text.encode()})
        if isinstance(part, Photo):
            return Filed(part, _unique(part.name, taken), {"jpg": part.data})
        if isinstance(part, Gallery):
            return Filed(part, _unique(part.name, taken), {"png": sheet(part)})
        return Filed(part)

    def walk(section: Section[Part]) -> Section[Filed]:
        anchor = _unique(section.title, anchors)
        parts, inner = tuple(map(filed, section.parts)), tuple(map(walk, section.sections))
        return Section(section.title, parts, inner, anchor, section.answer, section.marks)

    return walk(document)


def write_files(document: Section[Filed], destination: Path) -> list[Path]:
    """Write the files of all parts. Returns their paths."""
    written = []
    for filed in document.walk():
        for ending, content in filed.files.items():
            path = destination / f"{filed.stem}.{ending}"
            write_atomic(path, content)
            written.append(path)
    return written


def _stem(sheet: Sheet) -> str:
    """Name the files of a sheet. A sheet of a group is named by its data set and protocol too:
    `cost-shapes-1a2b3c4d`."""
    if not sheet.group or sheet.frame.empty:
        return sheet.name
    group = sheet.frame.iloc[0]
    return "-".join([sheet.name, group["dataset"], group["protocol_hash"][:8]])


def _unique(name: str, taken: set[str]) -> str:
    """Make a file name of any name of a data set or method; a number tells apart those that come out alike:
    `u2pl-2`."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:80]
    number, unique = 1, stem
    while unique.lower() in taken:  # some file systems do not tell cases apart
        number += 1
        unique = f"{stem}-{number}"
    taken.add(unique.lower())
    return unique


def to_markdown(document: Section[Filed], level: int = 1) -> str:
    """Write the document in GitHub's Markdown; pictures and files are links to the files beside it."""
    said = [f"{'#' * level} {markdown_text(document.title)}\n"]
    said += [_markdown(filed) for filed in document.parts]
    said += [to_markdown(section, min(level + 1, 6)) for section in document.sections]
    return "\n".join(said)


def _markdown(filed: Filed) -> str:
    part = filed.part
    if isinstance(part, str):
        return f"{markdown_text(part)}\n"
    if isinstance(part, Listing):
        return "".join(f"- {markdown_text(item)}\n" for item in part.items)
    if isinstance(part, Facts):
        return "".join(f"- **{markdown_text(name)}**: {markdown_text(said)}\n" for name, said in part.items)
    if isinstance(part, Source):
        return f"```\n{part.text}```\n"
    if isinstance(part, Sheet):
        files = [f"{filed.stem}.{ending}" for ending in filed.files]
        links = ", ".join(f"[{markdown_text(file)}]({file})" for file in files)
        return f"{markdown_text(part.title)}:\n\n{text.to_markdown(part)}\nFiles: {links}\n"
    shown = next(ending for ending in ("png", "jpg") if ending in filed.files)
    details = "" if isinstance(part, Photo) else part.details
    beside = f"\n{markdown_text(details)}\n" if details else ""
    return f"{markdown_text(part.title)}:\n\n![{markdown_text(part.alt)}]({filed.stem}.{shown})\n{beside}"
