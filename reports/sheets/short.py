"""A data set in three lines: the best method, what it gains over the reference, how likely it is better."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from reports.groups import BASELINE, Group
from reports.sheets import sheet as s
from reports.sheets.differences import CHANCES, Found, compared, family_of
from reports.statistics import Summary, chances

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
        compares = any(change and change.error is not None for change in compared(group, BASELINE).values())
        rank = (group.views == "equal", compares, newest)
        if group.dataset not in found or rank > found[group.dataset][0]:
            found[group.dataset] = rank, group
    return {dataset: group for dataset, (_, group) in found.items()}


def in_short(group: Group) -> s.Sheet | None:
    """The three lines, a column for each split; None where no method stands beside the reference."""
    (name,) = group.rows_named(BASELINE)
    (reference,) = (row for row in group.rows if row.label == name)
    found = compared(group, name)
    family = family_of(found.values())
    places = sorted({place for label, place in found if _is_method(group, label)})
    if not places:
        return None
    records = [_record(group, name, place, found, family) for place in places]
    gain = f"gain over {name}" + (" (coloured alike)" if group.views == "equal" else "")
    heads = [f"{group.dataset}, {group.steps} steps, {group.views} views", "best method", gain, CHANCE]
    keys = ["heading", "best", "gain", "chances"]
    lines = [[head, *(of[key] for of in records)] for head, key in zip(heads, keys, strict=True)]
    own = ", ".join(
        f"{s.cell_text(reference.cells[place])} on {group.splits[place].label}" for place in places
    )
    draws = f"{len(group.draws)} draws" if len(group.draws) > 1 else "one draw"
    notes = (f"{name} has {own}; {draws} of the labeled images.",)
    return s.sheet_of(group, "short", f"{group.dataset} in short", COLUMNS, records, lines, notes=notes)


def _is_method(group: Group, label: str) -> bool:
    """The yardsticks are no methods."""
    (method,) = (row.method for row in group.rows if row.label == label)
    return not method.startswith(BASELINE)


def _record(group: Group, name: str, place: int, found: Found, family: int) -> s.Record:
    split = group.splits[place]
    known = {
        label: of
        for (label, at), of in found.items()
        if at == place and _is_method(group, label) and of and of.error is not None
    }
    label = max(known, key=lambda label: known[label].mean) if known else None
    change: Summary | None = known[label] if label else None
    ends = change.interval_of(family) if change else None
    likely = chances(change) if change else None
    clear = ends is not None and ends[0] > 0
    record = {"method": label, "reference": name, "clear": clear, **s.split_record(split)}
    record |= s.summary_record(change, family=family) | dict(zip(CHANCES, likely or (None,) * 3, strict=True))
    texts = {"best": TOO_FEW, "gain": "", "chances": ""}
    if label and change and likely:
        row = next(row for row in group.rows if row.label == label)
        highest = f"{label}, {s.cell_text(row.cells[place])}"
        texts = {
            "best": highest if clear else f"none stands clear; highest: {highest}",
            "gain": f"{100 * change.mean:+.1f} ({s.interval_text(ends, '+')})",
            "chances": " / ".join(f"{share:.2f}" for share in likely),
        }
    return record | texts
