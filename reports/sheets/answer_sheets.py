"""Answers as tables: one with bars, those of a data set in three lines, all of them, and what to take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

from reports.contents import program_of, several
from reports.evidence import listed
from reports.groups import BASELINE, Group, Run
from reports.sheets import sheet as s
from reports.sheets.answer import Answer, Gain
from reports.sheets.sentences import sentence
from reports.splits import kind_name, label_hours
from reports.statistics import equal_to_the_bit

FOREST = ("method", "reference", *s.SPLIT_COLUMNS, *s.SUMMARY_COLUMNS, *s.CHANCES)


def forest(of: Answer) -> s.Sheet | None:
    """Every row against the reference with its simultaneous interval, as a table with bars; None where there
    is nothing to compare."""
    if not of.gains:
        return None
    records = [
        {"method": gain.row.label, "reference": of.reference, **s.split_record(of.split)}
        | s.change_record(gain.change, of.family)
        for gain in of.gains
    ]
    shown: dict[str, s.Shown] = {"method": "method", "gain": lambda of: of["gain"] or s.MISSING}
    shown |= {"95 %": "interval", "P(better)": "P(better)", "runs": "runs"}
    bars = map(_bar, records)
    title = f"Points over {of.reference}, with intervals that hold all at once"
    return s.sheet_of(of.group, "forest", title, FOREST, records, shown, bars=tuple(bars))


def _bar(record: s.Record) -> s.Bar | None:
    mean, low, high = (record[f"{name}_percent"] for name in ("mean", "low", "high"))
    return None if mean is None else (mean, mean if low is None else low, mean if high is None else high)


# A data set in three lines ----------------------------------------------------------------------------------

SHORT = ("method", "reference", "clear", *s.SPLIT_COLUMNS, *s.SUMMARY_COLUMNS, *s.CHANCES)
CHANCE = "P(better / equal / worse)"
TOO_FEW = "no method has two runs"


def in_short(group: Group) -> s.Sheet | None:
    """Make the table of three lines, a column for each split; None where no method stands beside the
    reference."""
    (name,) = group.rows_named(BASELINE)
    columns = [Answer(part, split, name, name) for part in group.kinds for split in part.splits]
    found = [of for of in columns if of.score(name) and any(gain.method for gain in of.gains)]
    if not found:
        return None
    records = [_in_short(of) for of in found]
    gain = f"gain over {name}" + (" (same views)" if group.views != "published" else "")
    heads = [f"{group.dataset}, {group.steps} steps, {group.views} views", "best method", gain, CHANCE]
    keys = ["heading", "best", "gain", "chances"]
    lines = [[head, *(of[key] for of in records)] for head, key in zip(heads, keys, strict=True)]
    own = ", ".join(f"{s.cell_text(of.score(name))} on {of.split.label}" for of in found)
    notes = (f"{name} has {own}{_one_draw(found)}.{_of_several_codes(found)}",)
    return s.sheet_of(group, "short", f"{group.dataset} in short", SHORT, records, lines, notes=notes)


def _one_draw(found: Sequence[Answer]) -> str:
    """Say which columns are of one choice of the labeled images."""
    lone = [of.split.label for of in found if len({run.result.draw for run in _runs(of)}) == 1]
    on = "" if len(lone) == len(found) else f" on {', '.join(lone)}"
    return f"; one draw of the labeled images{on}" if lone else ""


def _of_several_codes(found: Sequence[Answer]) -> str:
    """Say which columns have means of runs of several states of the code."""
    rows = [
        (of.split.label, [run.result for run in row.on(of.split)]) for of in found for row in of.group.rows
    ]
    mixed = [label for label, results in rows if several(program_of(one) for one in results)]
    return f" Means on {', '.join(dict.fromkeys(mixed))} are of several states of the code." if mixed else ""


def _runs(of: Answer) -> list[Run]:
    return [run for row in of.group.rows for run in row.on(of.split)]


def _in_short(of: Answer) -> s.Record:
    best = of.best
    record: s.Record = {"method": best.row.label if best else None, "reference": of.reference}
    record |= {"clear": of.state == "clear"} | s.split_record(of.split)
    record |= s.change_record(best.change if best else None, of.family)
    if best is None:
        same = [gain.row.label for gain in of.gains if gain.change and equal_to_the_bit(gain.change)]
        why = f"{s.EQUAL_TO_THE_BIT}: {', '.join(same)}" if same else TOO_FEW
        return record | {"best": why, "gain": "", "chances": ""}

    def named(gain: Gain) -> str:
        return f"{gain.row.label}, {s.cell_text(of.score(gain.row.label))}"

    highest = next(gain for gain in of.gains if gain.method and gain.known)
    said = f"{named(best)}; larger gain, not clear: {named(highest)}" if highest is not best else named(best)
    return record | {
        "best": said if best.clear else f"none stands clear; highest: {named(best)}",
        "gain": f"{record['gain']} ({record['interval']})",
        "chances": " / ".join(record[f"P({chance})"] for chance in s.CHANCES),
    }


# All of them ------------------------------------------------------------------------------------------------

OVERVIEW = (
    *("dataset", *s.SPLIT_COLUMNS, "none", "labels", "views", "steps", "answer", "method", "reference"),
    *("gain_percent", "low_percent", "high_percent", *s.CHANCES, "n", "draws", "sentence"),
)


def overview(found: Iterable[tuple[str, Answer]]) -> s.Sheet:
    """Make the table of answers: a line for each data set and split."""
    records = [_of_all(of) | {"name": name} for name, of in found]
    shown: dict[str, s.Shown] = {"data set and split": "name"}
    shown |= {name: name for name in ("labels", "views", "answer")}
    shown |= {"method": lambda of: of["method"] or "", "gain": "gain", "95 %": "interval", "runs": "runs"}
    title, goes = "the best method of every data set and split", (record["name"] for record in records)
    return s.sheet_of(None, "answers", title, OVERVIEW, records, shown, names=5, goes=goes)


def _of_all(of: Answer) -> s.Record:
    change = s.change_record(of.best.change if of.best else None, of.family)
    return {
        **{"dataset": of.group.dataset, **s.split_record(of.split), "none": of.split.none},
        **{"labels": kind_name(of.split.kind), "views": of.group.views, "steps": of.group.steps},
        **{"answer": of.state, "method": of.best.row.label if of.best else None, "reference": of.reference},
        **{**change, "gain_percent": change["mean_percent"], "sentence": sentence(of)},
    }


# What to take -----------------------------------------------------------------------------------------------

TAKE = (
    *("dataset", *s.SPLIT_COLUMNS, "none", "labels", "hours", "method", "answer"),
    *s.SUMMARY_COLUMNS,
)
TAKE_NOTES = (
    "The method that stands clear of the reference; where none does, the reference itself, since no gain was "
    "shown. Expected: mean mIoU with its own 95 % interval (Student's t over the draws, of one draw over its "
    "seeds). Of other images, steps or networks the records say nothing.",
    "hours: to annotate these images, by what the records say of one image. The choice of images and the "
    "masks of the scored list are not counted. run ids: as in the table of every run.",
)


def take(found: Iterable[tuple[str, Answer]]) -> s.Sheet | None:
    """Make the table, fewest hours of a data set first; None where no reference was run."""
    records = [record | {"goes": name} for name, of in found if of.reference and (record := _take(of))]
    if not records:
        return None
    records.sort(key=lambda record: (record["dataset"], record["hours"]))
    shown: dict[str, s.Shown] = {
        "you have": "have",
        "take": "method",
        "because": "why",
        "expect (mIoU, %)": lambda of: f"{of['mean_percent']:.1f}",
        "95 %": lambda of: s.interval_text(of["cell"].interval),
        "hours of labels": lambda of: f"{of['hours']:.1f}",
        "runs": lambda of: s.runs_text(of["cell"]),
        "run ids": lambda of: listed(of["ids"]),
    }
    title, goes = "You have ... take ...", (record["goes"] for record in records)
    return s.sheet_of(
        None, "take", title, TAKE, records, shown, names=3, words=1, notes=TAKE_NOTES, goes=goes
    )


def _take(of: Answer) -> s.Record | None:
    """Say which method to take here; None where no score says what to expect."""
    clear = of.state == "clear" and of.best is not None
    label = of.best.row.label if clear and of.best else str(of.reference)
    cell = of.score(label)
    if cell is None:
        return None
    runs = [run.result for run in of.group.row(label).on(of.split)]
    why = {"clear": f"it stands clear of {of.reference}", "tied": "no gain over it was shown"}
    alone = not any(gain.method for gain in of.gains)
    return {
        "dataset": of.group.dataset,
        "have": f"{of.group.dataset}: {of.split.granted('unlabeled')}",
        "none": of.split.none,
        **s.split_record(of.split),
        "labels": kind_name(of.split.kind),
        "hours": fmean(map(label_hours, runs)),
        "method": label,
        "answer": of.state,
        "why": why.get(
            of.state, "no method was run beside it" if alone else "too few runs to show a gain over it"
        ),
        "ids": [run.run_id for run in runs],
        **s.summary_record(cell),
    }
