"""A data set in three lines: the best method, what it gains over the reference, how likely it is better.

The best is the one of the largest gain of those that stand clear; where none does, of all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from reports.groups import BASELINE, Group
from reports.sheets import sheet as s
from reports.sheets.answer import Answer, Gain
from reports.sheets.differences import CHANCES, compared
from reports.statistics import chances, equal_to_the_bit

COLUMNS = ("method", "reference", "clear", *s.SPLIT_COLUMNS, *s.SUMMARY_COLUMNS, *CHANCES)
CHANCE = "P(better / equal / worse)"
TOO_FEW = "no method has two runs"


def leading(groups: Iterable[Group], started: Mapping[Path, str]) -> dict[str, Group]:
    """Choose the group that speaks for each data set: of those with a method beside the reference that of
    equal views, then the newest that compares methods.

    Args:
        started: When each run was made, by its folder, where that is known.
    """
    found: dict[str, tuple[tuple[bool, bool, bool, str], Group]] = {}
    for group in groups:
        if len(group.rows_named(BASELINE)) != 1 or group.held_out:
            continue
        newest = max(started.get(run.folder, "") for run in group.runs)
        compares = any(of and of.error is not None for *_, of in compared(group, BASELINE))
        beside = any(not row.method.startswith(BASELINE) for row in group.rows)
        rank = (beside, group.views == "equal", compares, newest)
        if group.dataset not in found or rank > found[group.dataset][0]:
            found[group.dataset] = rank, group
    return {dataset: group for dataset, (_, group) in found.items()}


def in_short(group: Group) -> s.Sheet | None:
    """Make the table of three lines, a column for each split; None where no method stands beside the
    reference."""
    (name,) = group.rows_named(BASELINE)
    columns = [Answer(part, split, name, name) for part in group.kinds for split in part.splits]
    found = [of for of in columns if of.score(name) and any(gain.method for gain in of.gains)]
    if not found:
        return None
    records = [_record(of) for of in found]
    gain = f"gain over {name}" + (" (coloured alike)" if group.views != "published" else "")
    heads = [f"{group.dataset}, {group.steps} steps, {group.views} views", "best method", gain, CHANCE]
    keys = ["heading", "best", "gain", "chances"]
    lines = [[head, *(of[key] for of in records)] for head, key in zip(heads, keys, strict=True)]
    own = ", ".join(f"{s.cell_text(of.score(name))} on {of.split.label}" for of in found)
    draws = f"{len(group.draws)} draws" if len(group.draws) > 1 else "one draw"
    notes = (f"{name} has {own}; {draws} of the labeled images.",)
    return s.sheet_of(group, "short", f"{group.dataset} in short", COLUMNS, records, lines, notes=notes)


def _record(of: Answer) -> s.Record:
    best = of.best
    change = best.change if best else None
    likely = chances(change) if change else None
    record: s.Record = {"method": best.row.label if best else None, "reference": of.reference}
    record |= {"clear": of.state == "clear"} | s.split_record(of.split)
    record |= s.summary_record(change, family=of.family)
    record |= {name: likely[number] if likely else None for number, name in enumerate(CHANCES)}
    if not (best and change and likely):
        same = [gain.row.label for gain in of.gains if gain.change and equal_to_the_bit(gain.change)]
        why = f"{s.EQUAL_TO_THE_BIT}: {', '.join(same)}" if same else TOO_FEW
        return record | {"best": why, "gain": "", "chances": ""}

    def named(gain: Gain) -> str:
        return f"{gain.row.label}, {s.cell_text(of.score(gain.row.label))}"

    highest = next(gain for gain in of.gains if gain.method and gain.known)
    said = f"{named(best)}; larger gain, not clear: {named(highest)}" if highest is not best else named(best)
    return record | {
        "best": said if best.clear else f"none stands clear; highest: {named(best)}",
        "gain": f"{100 * change.mean:+.1f} ({s.interval_text(best.ends, '+')})",
        "chances": " / ".join(f"{share:.2f}" for share in likely),
    }
