"""A table as text in every format: terminal, Markdown, CSV, LaTeX. Names come out as nothing but text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from rich.console import Group as Printed
from rich.table import Table as RichTable
from rich.text import Text

from bench.errors import plain
from reports.sheets.sheet import MISSING, Sheet


def to_markdown(sheet: Sheet) -> str:
    """Write the table in GitHub's Markdown, with its notes below."""
    return aligned(sheet.lines) + "".join(f"\n{markdown_text(note)}\n" for note in sheet.notes)


def to_csv(sheet: Sheet) -> str:
    """Write the frame as CSV, a record a line."""
    # Every text is made harmless for spreadsheets.
    frame = sheet.frame.rename(columns=csv_text).map(lambda of: csv_text(of) if isinstance(of, str) else of)
    return str(frame.to_csv(index=False, lineterminator="\n"))


def to_rich(sheet: Sheet) -> Printed:
    """Draw the table for the terminal, with its notes below."""
    heading, *rows = sheet.lines
    drawn = RichTable()
    for number, name in enumerate(heading):
        justify: Literal["left", "right"] = "right" if sheet.is_number(number) else "left"
        drawn.add_column(
            Text(plain(name)), justify=justify, overflow="fold"
        )  # a name cut short names nothing
    for row in rows:
        drawn.add_row(*(Text(plain(cell), style="dim" if cell == MISSING else "") for cell in row))
    # Not rich's own title and caption: those are wrapped to the width of the table, however narrow it is.
    title, group = Text(plain(sheet.title), "bold"), Text(plain(sheet.group), "dim")
    return Printed(title, drawn, group, *(Text(plain(note)) for note in sheet.notes), Text())


def to_latex(sheet: Sheet) -> str:
    """Write the table in LaTeX, which goes on over as many pages as it needs; the document needs booktabs and
    longtable, and UTF-8 as is usual by now."""
    heading, *rows = (" & ".join(map(latex_text, line)) + r" \\" for line in sheet.lines)
    widths = [max(map(len, cells)) for cells in zip(*sheet.lines, strict=True)]
    # Wide tables are set small, and texts that no line can hold are broken.
    size = next((name for name, most in LATEX_SIZES.items() if sum(widths) <= most), "tiny")
    kinds = ["r" if sheet.is_number(i) else "l" for i in range(len(widths))]
    columns = "".join(
        kind if width <= LATEX_WIDEST else r"p{0.25\linewidth}"
        for kind, width in zip(kinds, widths, strict=True)
    )
    return "\n".join(
        [
            rf"{{\{size}\setlength{{\tabcolsep}}{{4pt}}",
            rf"\begin{{longtable}}{{{columns}}}",
            rf"\caption{{{latex_text(f'{sheet.title}: {sheet.group}')}}} \\",
            *(r"\toprule", heading, r"\midrule", r"\endfirsthead"),
            *(r"\toprule", heading, r"\midrule", r"\endhead"),
            *(r"\bottomrule", r"\endfoot"),
            *rows,
            r"\end{longtable}}",
            *(rf"\par{{\footnotesize {latex_text(note)}\par}}" for note in sheet.notes),
            "",
        ]
    )


LATEX_SIZES = {"small": 80, "footnotesize": 100, "scriptsize": 130}  # most characters of a line
LATEX_WIDEST = 45  # characters of a column whose texts are not broken


LATEX = {
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # Behind the \\ that ends a row these two would be taken for its arguments.
    "[": "{[}",
    "*": "{*}",
    "±": r"$\pm$",
    "\N{REPLACEMENT CHARACTER}": "?",
    **{sign: f"\\{sign}" for sign in "{}$&#_%"},
}


def latex_text(text: str) -> str:
    """Replace the characters that mean something in LaTeX by commands that print them."""
    return re.sub("|".join(map(re.escape, LATEX)), lambda found: LATEX[found[0]], plain(text))


# Names come from users and packages: each sink gets them in a form in which they are only text.


# With their full-width forms, which some spreadsheets take for the same.
FORMULA_SIGNS = tuple("=+-@\uff1d\uff0b\uff0d\uff20")


def markdown_text(text: str) -> str:
    """Escape the characters that mean something in Markdown or HTML."""
    escaped = re.sub(r"([\\`*<>\[\]|&~$#!])", r"\\\1", plain(text).lstrip())
    # At the start of a line these begin a list; elsewhere GitHub makes links of these by itself.
    escaped = re.sub(r"^([-+]|\d+[.)])(?=\s)", lambda mark: f"{mark[0][:-1]}\\{mark[0][-1]}", escaped)
    escaped = re.sub(r":(?=//)|\.(?<=www\.)", r"\\\g<0>", escaped, flags=re.IGNORECASE)
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", escaped)


def csv_text(text: str) -> str:
    """Put a quote in front of a text that a spreadsheet would take for a formula: `'=1+1`."""
    text = plain(text)
    return f"'{text}" if text.lstrip()[:1] in FORMULA_SIGNS else text


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Write the lines, the first of them the heading, as a Markdown table."""
    lines = [[markdown_text(cell) for cell in line] for line in lines]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    text = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    ]
    text.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(text) + "\n"
