"""Numbers of the field: beside ours where data set, lists and protocol are the same, else apart with what
differs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict

from reports.groups import Group
from reports.knobs import flat
from reports.sheets import sheet as s
from reports.splits import SplitColumn

FILE = Path(__file__).with_suffix(".yaml")
# Of the network: where its weights lie, and a size that only methods with a representation use.
NOT_COMPARED = {"network.weights", "network.representation_channels"}

BESIDE = "published", "published numbers on the same lists: mIoU (%)"
APART = "published_apart", "published numbers under other protocols, same lists: mIoU (%)"
HOW_BESIDE = (
    "Nothing in the protocol is known to differ: network, crop, batch, learning rate, steps, scoring. The "
    "code and its authors do."
)
HOW_APART = (
    "Not to be compared with ours: each was measured under a protocol that differs in what its line says. "
    "The best epoch on the scored list is our `oracle`, not our mIoU."
)


class Checked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Lists(Checked):
    """Lists of a split by digest, as results record them, and what the first of them is known as."""

    known_as: str
    pixel: str
    none: str


class Under(Checked):
    """The conditions that numbers were measured under."""

    settings: dict[str, Any]  # in the names of our protocols, as records have them
    steps: dict[str, int]  # by name of the lists, where the source lets them be counted
    also: list[str]  # departures that no setting has


class Scored(Checked):
    weights: Literal["student", "teacher"]
    epoch: Literal["last", "best on the scored list"]
    images: str  # "whole", or in which part


class PublishedNumber(Checked):
    """One row of a published table."""

    method: str
    source: str
    protocol: str
    scored: Scored
    miou: dict[str, float]  # percent, by name of the lists

    @property
    def digits(self) -> int:
        """Decimals of the source, which gives all numbers of a row with as many."""
        return max(len(repr(value).partition(".")[2]) for value in self.miou.values())


class Numbers(Checked):
    dataset: str
    eval: str  # digest of the scored list
    lists: dict[str, Lists]
    protocols: dict[str, Under]
    entries: list[PublishedNumber]


@cache
def published(file: Path = FILE) -> Numbers:
    """Read the published numbers of the field. Raises ValueError for a file that is not of this form."""
    found = Numbers.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    for entry in found.entries:
        if unknown := entry.miou.keys() - found.lists.keys():
            raise ValueError(f"{file.name}: {entry.method} has numbers on unknown lists {sorted(unknown)}")
        if entry.protocol not in found.protocols:
            raise ValueError(f"{file.name}: {entry.method} is of an unknown protocol {entry.protocol!r}")
    return found


def sheets(group: Group, known: Numbers | None = None) -> tuple[s.Sheet, ...]:
    """Give the published numbers on a group's lists, of its encoder and decoder: those of the same protocol
    beside ours, and the others apart, with all that is known to differ. Others are left out."""
    known = published() if known is None else known
    if group.dataset != known.dataset or group.eval_digest != known.eval:
        return ()
    beside: list[s.Record] = []
    apart: list[s.Record] = []
    for place, split in enumerate(group.splits):
        found = _published_on(split, group.settings, known)
        same = [record for record in found if not record["differs"]]
        beside += [*_ours(group, place), *same] if same else []
        apart += [record for record in found if record["differs"]]
    shown: dict[str, s.Shown] = {"method": "method", "split": "heading", "mIoU": "text"}
    source: dict[str, s.Shown] = {"source": "source"}
    differs: dict[str, s.Shown] = {"differs from ours in": "differs"}
    columns = ("method", *s.SPLIT_COLUMNS, "miou_percent", "n", "differs", "source")
    return tuple(
        s.sheet_of(group, *what, columns, records, shown | more, names=2, words=len(more), notes=(note,))
        for what, records, more, note in (
            (BESIDE, beside, source, HOW_BESIDE),
            (APART, apart, differs | source, HOW_APART),
        )
        if records
    )


def _ours(group: Group, place: int) -> list[s.Record]:
    """Return the rows of a group that have runs on a split, given by its place."""
    cells = [(row.label, cell) for row in group.rows if (cell := row.cells[place]) is not None]
    split = group.splits[place]
    return [
        _record(label, split, 100 * cell.mean, cell.n, s.cell_text(cell), "", "ours") for label, cell in cells
    ]


def _published_on(split: SplitColumn, protocol: Mapping[str, Any], known: Numbers) -> list[s.Record]:
    """Return the published numbers of the same lists, encoder and decoder."""
    name = _known_as(split, known)
    records = []
    for entry in known.entries:
        under = known.protocols[entry.protocol]
        if name in entry.miou and _same_network(under, protocol):
            number = entry.miou[name]
            text = f"{number:.{entry.digits}f}"
            differs = "; ".join(departures(entry, name, under, protocol))
            records.append(_record(entry.method, split, number, None, text, differs, entry.source))
    return records


def _record(
    method: str, split: SplitColumn, percent: float, n: int | None, text: str, differs: str, source: str
) -> s.Record:
    said = {"miou_percent": percent, "n": n, "text": text, "differs": differs, "source": source}
    return {"method": method, **s.split_record(split), **said}


def _known_as(split: SplitColumn, known: Numbers) -> str:
    """Return the name of the lists that the split grants; empty for lists that are not known."""
    pixel, _, none = split.digests
    return next((name for name, of in known.lists.items() if (of.pixel, of.none) == (pixel, none)), "")


def _same_network(under: Under, protocol: Mapping[str, Any]) -> bool:
    theirs, ours = (of.get("network", {}) for of in (under.settings, protocol))
    return all(theirs.get(key) == ours.get(key) for key in ("encoder", "decoder"))


def departures(entry: PublishedNumber, lists: str, under: Under, protocol: Mapping[str, Any]) -> list[str]:
    """In words, what is known to differ between a published number and our protocol.

    Args:
        lists: The name of the lists that the number was measured on.
        protocol: The settings of ours, as records have them.
    """
    theirs, ours = dict(flat(under.settings)), {"views": "published", **dict(flat(protocol))}
    only_ours = {key for key in ours if key.startswith("network.")} - theirs.keys() - NOT_COMPARED
    found = [
        f"{key.removeprefix('network.')} {_said(theirs, key)} (ours {_said(ours, key)})"
        for key in (*theirs, *sorted(only_ours))
        if key not in theirs or key not in ours or theirs[key] != ours[key]
    ]
    steps = under.steps.get(lists)
    if steps != protocol.get("steps"):
        found.append(f"steps {steps or 'not known'} (ours {protocol.get('steps')})")
    return [*found, *_scored_otherwise(entry.scored, protocol), *under.also]


def _scored_otherwise(scored: Scored, protocol: Mapping[str, Any]) -> Iterator[str]:
    """Ours are the last weights: of the protocol's teacher, or else of what each method names, as in its
    paper."""
    if scored.epoch != "last":
        yield "best epoch on the scored list"
    if protocol.get("teacher"):
        yield f"{scored.weights} scored (ours a teacher by one rule)"
    evaluation = protocol.get("evaluation", {})
    once = evaluation.get("scales", [1.0]) == [1.0] and not evaluation.get("flip")
    images = f"{evaluation.get('mode', 'whole')}{'' if once else ', several scales'}"
    if scored.images != images:
        yield f"images {scored.images} (ours {images})"


def _said(settings: Mapping[str, Any], key: str) -> str:
    """Return a value in words; "default" for what records leave out."""
    if key not in settings:
        return "default"
    value = settings[key]
    return value if isinstance(value, str) else json.dumps(value)
