"""A data set in three lines: the best method, what it gains over the reference, how likely it is better.

The best is the one of the largest gain of those that stand clear; where none does, of all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from reports.groups import BASELINE, Group, Split, summary
from reports.sheets import sheet as s
from reports.sheets.differences import CHANCES, Found, compared, family_of
from reports.statistics import chances, equal_to_the_bit

COLUMNS = ("method", "reference", "clear", *s.SPLIT_COLUMNS, *s.SUMMARY_COLUMNS, *CHANCES)
CHANCE = "P(better / equal / worse)"
TOO_FEW = "no method has two runs"


def leading(groups: Iterable[Group], started: Mapping[Path, str]) -> dict[str, Group]:
    """The group that speaks for each data set: of equal views if there is one, then the newest that compares
    methods.

    Args:
        started: When each run was made, by its folder, where that is known.
    """
    found: dict[str, tuple[tuple[bool, bool, str], Group]] = {}
    for group in groups:
        if len(group.rows_named(BASELINE)) != 1 or group.held_out:
            continue
        newest = max(started.get(run.folder, "") for run in group.runs)
        compares = any(of and of.error is not None for *_, of in compared(group, BASELINE))
        rank = (group.views == "equal", compares, newest)
        if group.dataset not in found or rank > found[group.dataset][0]:
            found[group.dataset] = rank, group
    return {dataset: group for dataset, (_, group) in found.items()}


def in_short(group: Group) -> s.Sheet | None:
    """The three lines, a column for each split; None where no method stands beside the reference."""
    (name,) = group.rows_named(BASELINE)
    found = compared(group, name)
    family = family_of(change for *_, change in found)
    # The yardsticks are no methods.
    methods = [of for of in found if not of[0].method.startswith(BASELINE)]
    splits = [split for split in group.splits if any(split is at for _, at, _ in methods)]
    if not splits:
        return None
    records = [_record(name, split, [of for of in methods if of[1] is split], family) for split in splits]
    gain = f"gain over {name}" + (" (coloured alike)" if group.views == "equal" else "")
    heads = [f"{group.dataset}, {group.steps} steps, {group.views} views", "best method", gain, CHANCE]
    keys = ["heading", "best", "gain", "chances"]
    lines = [[head, *(of[key] for of in records)] for head, key in zip(heads, keys, strict=True)]
    row = group.row(name)
    own = ", ".join(f"{s.cell_text(summary(row.on(split)))} on {split.label}" for split in splits)
    draws = f"{len(group.draws)} draws" if len(group.draws) > 1 else "one draw"
    notes = (f"{name} has {own}; {draws} of the labeled images.",)
    return s.sheet_of(group, "short", f"{group.dataset} in short", COLUMNS, records, lines, notes=notes)


def _record(name: str, split: Split, found: Found, family: int) -> s.Record:
    here = [(row, of) for row, _, of in found if of]
    known = [(row, of) for row, of in here if of.error is not None]
    clear = [(row, of) for row, of in known if (ends := of.interval_of(family)) and ends[0] > 0]
    highest, best = (max(of, key=lambda pair: pair[1].mean, default=None) for of in (known, clear or known))
    change = best[1] if best else None
    likely = chances(change) if change else None
    record: s.Record = {"method": best[0].label if best else None, "reference": name, "clear": bool(clear)}
    record |= s.split_record(split) | s.summary_record(change, family=family)
    record |= {name: likely[number] if likely else None for number, name in enumerate(CHANCES)}
    if not (highest and best and change and likely):
        same = [row.label for row, of in here if equal_to_the_bit(of)]
        why = f"{s.EQUAL_TO_THE_BIT}: {', '.join(same)}" if same else TOO_FEW
        return record | {"best": why, "gain": "", "chances": ""}
    first, top = (f"{row.label}, {s.cell_text(summary(row.on(split)))}" for row, _ in (best, highest))
    said = f"{first}; higher, not clear: {top}" if top != first else first
    return record | {
        "best": said if clear else f"none stands clear; highest: {first}",
        "gain": f"{100 * change.mean:+.1f} ({s.interval_text(change.interval_of(family), '+')})",
        "chances": " / ".join(f"{share:.2f}" for share in likely),
    }
