"""Answers as tables: all methods of a split beside the reference with bars, and a line for every split."""

from __future__ import annotations

from collections.abc import Iterable

from reports.sheets import sheet as s
from reports.sheets.answer import Answer, Gain
from reports.sheets.differences import CHANCES
from reports.sheets.sentences import sentence
from reports.splits import kind_name
from reports.statistics import chances

FOREST = ("method", "reference", *s.SPLIT_COLUMNS, *s.SUMMARY_COLUMNS, *CHANCES)


def forest(of: Answer) -> s.Sheet | None:
    """Every row against the reference with its simultaneous interval, as a table with bars; None where there
    is nothing to compare."""
    if not of.gains:
        return None
    records = [
        {"method": gain.row.label, "reference": of.reference, **s.split_record(of.split)}
        | s.summary_record(gain.change, family=of.family)
        | dict(zip(CHANCES, (chances(gain.change) if gain.change else None) or (None,) * 3, strict=True))
        for gain in of.gains
    ]
    shown: dict[str, s.Shown] = {
        "method": "method",
        "gain": lambda record: f"{record['mean_percent']:+.1f}" if record["cell"] else s.MISSING,
        "95 %": lambda record: s.interval_text(_ends(record), "+"),
        "P(better)": lambda record: _share(record["better"]),
        "runs": lambda record: s.runs_text(record["cell"]) if record["cell"] else "",
    }
    bars = [_bar(gain) for gain in of.gains]
    title = f"Points over {of.reference}, with intervals that hold all at once"
    return s.sheet_of(of.group, "forest", title, FOREST, records, shown, bars=bars)


def _bar(gain: Gain) -> s.Bar | None:
    if gain.change is None:
        return None
    low, high = gain.ends or (gain.change.mean, gain.change.mean)
    return 100 * gain.change.mean, 100 * low, 100 * high


def _ends(record: s.Record) -> tuple[float, float] | None:
    low, high = record["low_percent"], record["high_percent"]
    return None if low is None else (low / 100, high / 100)


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.2f}"


OVERVIEW = (
    *("dataset", *s.SPLIT_COLUMNS, "none", "labels", "views", "steps", "answer", "method", "reference"),
    *("gain_percent", "low_percent", "high_percent", *CHANCES, "n", "draws", "sentence"),
)


def overview(found: Iterable[tuple[str, Answer]]) -> s.Sheet:
    """Make the table of answers: a line for each data set and split."""
    records: list[s.Record] = []
    lines = [["data set and split", "labels", "views", "answer", "method", "gain", "95 %", "runs"]]
    goes = []
    for name, of in found:
        records.append(record := _record(of))
        change = of.best.change if of.best else None
        said = [name, record["labels"], record["views"], record["answer"], record["method"] or ""]
        gain = f"{record['gain_percent']:+.1f}" if change else ""
        ends = s.interval_text(of.best.ends if of.best else None, "+")
        lines.append([*said, gain, ends, s.runs_text(change) if change else ""])
        goes.append(name)
    frame = s.frame_of(OVERVIEW, records)
    title = "the best method of every data set and split"
    return s.Sheet("answers", title, "", frame, tuple(map(tuple, lines)), names=5, goes=tuple(goes))


def _record(of: Answer) -> s.Record:
    change, ends = (of.best.change, of.best.ends) if of.best else (None, None)
    likely = chances(change) if change else None
    record: s.Record = {"dataset": of.group.dataset, "none": of.split.none, **s.split_record(of.split)}
    record |= {"labels": kind_name(of.split.kind), "views": of.group.views, "steps": of.group.steps}
    record |= {"answer": of.state, "method": of.best.row.label if of.best else None}
    record |= {"reference": of.reference, "gain_percent": s.percent(change.mean if change else None)}
    record |= {"low_percent": s.percent(ends[0] if ends else None)}
    record |= {"high_percent": s.percent(ends[1] if ends else None)}
    record |= dict(zip(CHANCES, likely or (None,) * 3, strict=True))
    return record | {
        "n": change.n if change else 0,
        "draws": change.draws if change else 0,
        "sentence": sentence(of),
    }
