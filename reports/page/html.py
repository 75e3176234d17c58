"""The report as one HTML page that holds all it shows: it loads nothing, so it works from a disk too."""

from __future__ import annotations

import base64
import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from bench.errors import plain
from reports.page.document import Filed, Section
from reports.sheets.sheet import MISSING, Sheet

TYPES = {"svg": "image/svg+xml", "jpg": "image/jpeg", "png": "image/png"}
PACKED = ("jpg", "png")
UNQUOTED = " !$()*+,-./:;=?@[]^_`{|}~'<>"  # in the address of a drawing, beside letters and digits


def to_html(document: Section[Filed]) -> str:
    """Write the page. Every name in it is text: the template escapes all that it is given, and the browser is
    told to run and to load nothing but what the page itself was made with."""
    style, script = (_asset(f"page.{ending}") + _asset(f"gallery.{ending}") for ending in ("css", "js"))
    return (
        _environment()
        .get_template("page.html.jinja")
        .render(
            document=document,
            style=style,
            script=script,
            style_digest=_digest(style),
            script_digest=_digest(script),
            filters=_filters(document),
            runs=_run_rows(document),
            anchors={section.title: section.anchor for section in document.all()},
            MISSING=MISSING,
        )
    )


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("reports.page", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "plain": plain,
        "kind": _kind,
        "data_uri": _data_uri,
        "axis": _axis,
        "uri": _uri,
        "packed": _packed,
    }
    return environment


def _asset(name: str) -> str:
    return resources.files("reports.page").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """Of an inline style or script, as a content security policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _data_uri(filed: Filed, ending: str) -> Markup:
    return _uri(filed.files[ending], ending)


def _uri(data: bytes, ending: str) -> Markup:
    """Return an address that is the data itself, for an attribute in double quotes:
    `data:image/png;base64,iVBORw0K`."""
    if ending in PACKED:
        return Markup(f"data:{TYPES[ending]};base64,{base64.b64encode(data).decode()}")
    # A quarter shorter than base64 is.
    text = quote(data, safe=UNQUOTED)
    return Markup(f"data:{TYPES[ending]};charset=utf-8,{text}")


def _packed(data: bytes) -> str:
    """Return what a script unpacks again: a fourth of what a table takes as an address."""
    return base64.b64encode(gzip.compress(data, mtime=0)).decode()


def _run_rows(document: Section[Filed]) -> dict[str, int]:
    """Return the row of each run, by its id, in the table of every run: `{"0db65c60": 3}`."""
    sheets = [filed.part for filed in document.walk() if isinstance(filed.part, Sheet)]
    ids = [list(sheet.frame["run_id"]) for sheet in sheets if sheet.name == "runs"]
    return {id: row for table in ids for row, id in reversed(list(enumerate(table)))}


def _kind(filed: Filed) -> str:
    """Name the kind that the template shows a part as: `text`, or the name of its class, such as `photo`."""
    return "text" if isinstance(filed.part, str) else type(filed.part).__name__.lower()


def _filters(document: Section[Filed]) -> dict[str, list[str]]:
    """Return the values by which sections may be chosen, of each mark that has several, in order:
    `{"data set": ["camvid", "shapes"]}`."""
    values: dict[str, set[str]] = {}
    for section in document.all():
        for name, found in section.marks.items():
            values.setdefault(name, set()).update(found)
    return {name: sorted(found) for name, found in values.items() if len(found) > 1}


@dataclass(frozen=True)
class BarAxis:
    """The axis of the bars of a table: places across, 0 to 100."""

    low: float
    high: float

    def place(self, value: float) -> float:
        """Where a value stands; what lies beyond the axis stands at its end."""
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(max(share, 0.0), 1.0), 2)


def _axis(sheet: Sheet) -> BarAxis:
    """Return an axis that shows zero and every mean, and of the intervals the part that lies near: one of two
    runs would fill any axis."""
    bars = [bar for bar in sheet.bars if bar]
    means = [0.0, *(mean for mean, _, _ in bars)]
    low, high = min(means), max(means)
    margin = max(2.0, (high - low) / 2)
    ends = [end for _, *of in bars for end in of]
    pad = 0.08 * margin
    return BarAxis(max(min([low, *ends]), low - margin) - pad, min(max([high, *ends]), high + margin) + pad)
