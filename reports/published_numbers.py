"""Numbers of the field beside ours, only where data set, lists and network are the same."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from bench.records.schema import Result
from reports.overview import SPLIT_COLUMNS
from reports.sheets import GROUP_COLUMNS, Sheet, group_names, group_title
from reports.tables import cell_text, columns_of, miou_table

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


def beside(group: Sequence[Result], known: Numbers | None = None) -> Sheet | None:
    """Ours and the published numbers on each split of which both exist; None where there is none."""
    known = published() if known is None else known
    table = miou_table(group)
    network = group[0].config.get("protocol", {}).get("network", {})
    same = [
        entry
        for entry in known.entries
        if (entry.network.encoder, entry.network.decoder) == (network.get("encoder"), network.get("decoder"))
    ]
    if table.dataset != known.dataset or table.eval_digest != known.eval or not same:
        return None
    crop = group[0].config["protocol"].get("crop", [])
    lines: list[tuple[str, ...]] = [("method", "split", "mIoU", "differs from ours in", "source")]
    records: list[tuple[Any, ...]] = [
        (*GROUP_COLUMNS, "method", *SPLIT_COLUMNS, "miou_percent", "n", "differs", "source")
    ]
    for key, split in columns_of(group).items():
        digests = dict(zip(("pixel", "tags", "none"), key[4:], strict=True))
        name = next(
            (
                n
                for n, of in known.lists.items()
                if (of.pixel, of.none) == (digests["pixel"], digests["none"])
            ),
            None,
        )
        found = [entry for entry in same if name in entry.miou]
        if name is None or not found:
            continue
        place = (split.label, split.pixel, split.tags)
        for row in table.rows:
            cell = row.cells[table.splits.index(split)]
            if cell is not None:
                lines.append((row.label, split.heading, cell_text(cell), "", "ours"))
                records.append((*group_names(table), row.label, *place, 100 * cell.mean, cell.n, "", "ours"))
        for entry in found:
            differs = [entry.scored]
            if entry.output_stride is not None and entry.output_stride != network.get("output_stride"):
                differs.append(f"output stride {entry.output_stride}")
            if set(crop) != {entry.crop}:
                differs.append(f"crop {entry.crop}")
            text = "; ".join(differs)
            lines.append(
                (entry.method, split.heading, f"{entry.miou[name]:.{entry.digits}f}", text, entry.source)
            )
            number = (entry.miou[name], None, text, entry.source)
            records.append((*group_names(table), entry.method, *place, *number))
    if len(lines) == 1:
        return None
    return Sheet(
        name="published",
        title="published numbers on the same lists: mIoU (%)",
        group=group_title(table),
        lines=tuple(lines),
        records=tuple(records),
        names=2,
        words=2,
        notes=(
            "Published numbers are of the same data set, lists, encoder and decoder, but of other code, "
            "steps and batch; what else is known to differ is said. The best epoch on the scored list is our "
            "`oracle`, not our mIoU.",
        ),
    )
