"""Numbers of the field beside ours, only where data set, lists and network are the same."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from reports.groups import Group, Split
from reports.sheets import sheet as s

FILE = Path(__file__).with_suffix(".yaml")


class Checked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Lists(Checked):
    """Lists of a split by digest, as results record them, and what the first of them is known as."""

    known_as: str
    pixel: str
    none: str


class Network(Checked):
    encoder: str  # as protocols name it
    decoder: str


class Entry(Checked):
    """One row of a published table."""

    method: str
    source: str
    network: Network
    output_stride: int | None  # None: a plain vision transformer has none
    crop: int
    scored: str  # which weights, how
    miou: dict[str, float]  # percent, by name of the lists

    @property
    def digits(self) -> int:
        """Decimals of the source, which gives all numbers of a row with as many."""
        return max(len(repr(value).partition(".")[2]) for value in self.miou.values())


class Numbers(Checked):
    dataset: str
    eval: str  # digest of the scored list
    lists: dict[str, Lists]
    entries: list[Entry]


@cache
def published(file: Path = FILE) -> Numbers:
    """What is known of the field. Raises ValueError for a file that is not of this form."""
    found = Numbers.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    for entry in found.entries:
        if unknown := entry.miou.keys() - found.lists.keys():
            raise ValueError(f"{file.name}: {entry.method} has numbers on unknown lists {sorted(unknown)}")
    return found


def beside(group: Group, known: Numbers | None = None) -> s.Sheet | None:
    """Ours and the published numbers on each split of which both exist; None where there is none."""
    known = published() if known is None else known
    network = group.settings.get("network", {})
    same = [entry for entry in known.entries if dict(entry.network).items() <= network.items()]
    if group.dataset != known.dataset or group.eval_digest != known.eval:
        return None
    records: list[s.Record] = []
    for place, split in enumerate(group.splits):
        name = _known_as(split, known)
        found = [entry for entry in same if name in entry.miou]
        for row in group.rows if found else ():
            if (cell := row.cells[place]) is not None:
                text = s.cell_text(cell)
                records.append(_record(row.label, split, 100 * cell.mean, cell.n, text, "", "ours"))
        for entry in found:
            number, differs = entry.miou[name], _differs(entry, group.settings)
            text = f"{number:.{entry.digits}f}"
            records.append(_record(entry.method, split, number, None, text, differs, entry.source))
    if not records:
        return None
    shown = {"method": "method", "split": "heading", "mIoU": "text", "differs from ours in": "differs"}
    return s.sheet_of(
        group,
        "published",
        "published numbers on the same lists: mIoU (%)",
        ("method", *s.SPLIT_COLUMNS, "miou_percent", "n", "differs", "source"),
        records,
        s.listed(records, {**shown, "source": "source"}),
        names=2,
        words=2,
        notes=(
            "Published numbers are of the same data set, lists, encoder and decoder, but of other code, "
            "steps and batch; what else is known to differ is said. The best epoch on the scored list is our "
            "`oracle`, not our mIoU.",
        ),
    )


def _record(
    method: str, split: Split, percent: float, n: int | None, text: str, differs: str, source: str
) -> s.Record:
    said = {"miou_percent": percent, "n": n, "text": text, "differs": differs, "source": source}
    return {"method": method, **s.split_record(split), **said}


def _known_as(split: Split, known: Numbers) -> str:
    """The name of the lists that the split grants; empty for lists that are not known."""
    pixel, _, none = split.digests
    return next((name for name, of in known.lists.items() if (of.pixel, of.none) == (pixel, none)), "")


def _differs(entry: Entry, protocol: Mapping[str, Any]) -> str:
    """What is known to differ from our protocol, beside code, steps and batch."""
    differs = [entry.scored]
    if entry.output_stride not in (None, protocol["network"].get("output_stride")):
        differs.append(f"output stride {entry.output_stride}")
    if set(protocol.get("crop", [])) != {entry.crop}:
        differs.append(f"crop {entry.crop}")
    return "; ".join(differs)
