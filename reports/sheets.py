"""A table as text in every format: terminal, Markdown, CSV, LaTeX. Names come out as nothing but text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from bench.errors import plain
from reports.tables import MISSING, Table, aligned, csv_lines, markdown_text

GROUP_COLUMNS = ("dataset", "protocol", "protocol_hash", "eval_digest", "weights_digest", "classes_digest")


@dataclass(frozen=True)
class Sheet:
    """One table of one comparable group, ready to be written."""

    name: str  # of its files
    title: str
    group: str  # data set, protocol and what else its runs have in common
    lines: tuple[tuple[str, ...], ...]  # heading and rows, for reading
    records: tuple[tuple[Any, ...], ...]  # heading and rows, for CSV: numbers unrounded, None where missing
    names: int = 1  # columns at the left that hold names
    words: int = 0  # columns at the right that hold text; those between hold numbers
    notes: tuple[str, ...] = ()

    def is_number(self, column: int) -> bool:
        return self.names <= column < len(self.lines[0]) - self.words


def group_names(table: Table) -> tuple[str, ...]:
    """What the first columns of every CSV say of the group: `GROUP_COLUMNS`."""
    weights = table.weights_digest or "none"
    return (
        table.dataset,
        table.protocol,
        table.protocol_hash,
        table.eval_digest,
        weights,
        table.classes_digest,
    )


def group_title(table: Table) -> str:
    return f"{table.title}; {table.basis}"


def to_markdown(sheet: Sheet) -> str:
    """The table in GitHub's Markdown, with its notes below."""
    return aligned(sheet.lines) + "".join(f"\n{markdown_text(note)}\n" for note in sheet.notes)


def to_csv(sheet: Sheet) -> str:
    """The records, one a line."""
    return csv_lines(sheet.records)


def to_rich(sheet: Sheet) -> Group:
    """The table for the terminal, with its notes below."""
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
    return Group(title, drawn, group, *(Text(plain(note)) for note in sheet.notes), Text())


def to_latex(sheet: Sheet) -> str:
    """The table as a LaTeX float; the document needs booktabs and graphicx, and UTF-8 as is usual
    by now."""
    heading, *rows = (" & ".join(map(latex_text, line)) + r" \\" for line in sheet.lines)
    columns = "".join("r" if sheet.is_number(i) else "l" for i in range(len(sheet.lines[0])))
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{latex_text(f'{sheet.title}: {sheet.group}')}}}",
            # No wider than the page, and never made larger.
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{{columns}}}",
            *(r"\toprule", heading, r"\midrule", *rows, r"\bottomrule"),
            r"\end{tabular}}",
            *(rf"\par{{\footnotesize {latex_text(note)}\par}}" for note in sheet.notes),
            r"\end{table}",
            "",
        ]
    )


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
    """The text with the characters that mean something in LaTeX replaced by commands that print them."""
    return re.sub("|".join(map(re.escape, LATEX)), lambda found: LATEX[found[0]], plain(text))
