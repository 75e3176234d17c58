"""An answer in words: the method to take, how sure that is, what it costs, what would change it."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from reports.contents import before_digests
from reports.groups import COLOURED, Row
from reports.sheets import sheet as s
from reports.sheets.answer import Answer
from reports.sheets.differences import POINTS, more
from reports.splits import SplitColumn
from reports.statistics import Summary, chances, equal_to_the_bit, paired_difference, smallest_found

FEW = 3  # draws, or seeds of one draw, below which a t interval says next to nothing


def sentence(of: Answer) -> str:
    """Say the answer:
    `u2pl is best: 64.8 % mIoU, +7.0 points (+2.3 to +11.6) over supervised (57.8 % mIoU).`"""
    best, name = of.best, of.reference
    if best is None or best.change is None or name is None:
        return f"Not known: {_why_unknown(of)}."
    label, own, theirs = best.row.label, of.score(best.row.label), of.score(name)
    gain = f"{100 * best.change.mean:+.1f} points ({s.interval_text(best.ends, '+')})"
    if of.state == "tied":
        first = "Highest is" if best.change.mean >= 0 else "All lie below it; the nearest is"
        return f"No method stands clear of {name} ({_mean(theirs)}). {first} {label}: {_mean(own)}, {gain}."
    also = [other.row.label for other in of.gains if other.clear and other.method and other is not best]
    behind = f" {_listed(also)} {'stands' if len(also) == 1 else 'stand'} clear of it too." if also else ""
    return f"{label} is best: {_mean(own)}, {gain} over {name} ({_mean(theirs)}).{behind}"


def _why_unknown(of: Answer) -> str:
    if of.reference is None:
        labels = of.group.rows_named(of.baseline)
        return f"{of.baseline} has several rows" if len(labels) > 1 else f"no run of {of.baseline} is here"
    methods = [gain for gain in of.gains if gain.method]
    if not methods:
        return f"beside {of.reference} ({s.cell_text(of.score(of.reference))}) no method was run"
    if same := [gain.row.label for gain in methods if gain.change and equal_to_the_bit(gain.change)]:
        return f"{_listed(same)} {'is' if len(same) == 1 else 'are'} equal to {of.reference} to the bit"
    one = [gain for gain in methods if gain.change]
    if not one or not one[0].change:
        return f"no method shares a draw and a seed with {of.reference}"
    label, points = one[0].row.label, 100 * one[0].change.mean
    first = (
        f"Highest is {label}, {points:+.1f} points over {of.reference}"
        if points >= 0
        else f"All lie below {of.reference}; the nearest is {label}, by {-points:.1f} points"
    )
    return f"one run a method has no interval. {first}"


def facts(of: Answer) -> tuple[tuple[str, str], ...]:
    """On which labels, how sure, at what cost, what would change it, and the warning that matters most."""
    found = {"Labels": _labels(of), "How sure": _sure(of), "Cost of a run": _cost(of)}
    found |= {"Would change it": _change(of), "Warning": warning(of)}
    return tuple((name, said) for name, said in found.items() if said)


def _labels(of: Answer) -> str:
    views = "equal views" if of.group.views == "equal" else "each method's own views"
    return f"{of.split.granted('images without labels')}; {of.group.steps} steps; {views}."


def _sure(of: Answer) -> str:
    likely = chances(of.best.change) if of.best and of.best.change else None
    if likely is None or of.best is None or of.best.change is None:
        return "It cannot be said: nothing has an interval."
    better, equal, _ = likely
    change = of.best.change
    runs = (
        f"{s.counted(change.n, 'seed')} of one draw"
        if change.draws == 1
        else f"{change.draws} draws, {s.counted(change.n // change.draws, 'seed')} each"
        if change.even
        else f"{change.n} seeds of {change.draws} draws"
    )
    return (
        f"P(better by over {POINTS}) {better:.2f}, P(equal within it) {equal:.2f}; {runs}, as many of "
        f"{of.reference}."
    )


def _cost(of: Answer) -> str:
    """Time, memory and passes of a run, and the reference's; of the reference alone where nothing is best."""
    row = of.best.row if of.best else of.group.row(of.reference) if of.reference else None
    if row is None:
        return ""
    said = _spent(row, of.split)
    if not of.best and said:
        said = f"{row.label}: {said}"
    if of.reference and row.label != of.reference and said:
        said += f" ({of.reference}: {_spent(of.group.row(of.reference), of.split)})"
    return f"{said}." if said else ""


def _spent(row: Row, split: SplitColumn) -> str:
    runs = [run.result for run in row.on(split)]
    times = [seconds for run in runs if (seconds := run.whole_seconds)]
    peak = max(run.whole_peak_mib for run in runs)
    said = [_duration(fmean(times)) if times else "time not recorded", f"{peak:.0f} MiB" if peak else ""]
    passes = {sum(run.passes.values()) if run.passes else None for run in runs}
    if len(passes) == 1 and (known := passes.pop()) is not None:
        said.append(f"{known} images through networks a step")
    return ", ".join(filter(None, said))


def _duration(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _change(of: Answer) -> str:
    """How many more runs would settle what is open."""
    best, family = of.best, of.family
    if any(gain.method and gain.change and equal_to_the_bit(gain.change) for gain in of.gains) and not best:
        return "A setting in which the method does something of its own."
    if best is None or best.change is None:
        return "Two runs or more of a method and of the reference, of the same draws and seeds."
    if of.state == "tied":
        # What lies below the reference is not taken, settled or not.
        above = [
            (change.mean / change.error, gain.row.label, change)
            for gain in of.gains
            if gain.method and (change := gain.change) and change.error and change.mean > 0
        ]
        _, label, change = max(above, default=(0.0, best.row.label, best.change), key=lambda item: item[:2])
        return _settled(label, str(of.reference), change, family)
    rivals = [
        (row, difference)
        for gain in of.gains
        if (row := gain.row) and gain.method and gain is not best
        if (difference := paired_difference(best.row.scores(of.split), row.scores(of.split)))
    ]
    if not rivals:
        return "Other methods: no other was run with the same draws and seeds."
    row, lead = min(rivals, key=lambda pair: pair[1].mean)
    ends = lead.interval_of(family)
    if ends and ends[0] > 0:
        return f"Other methods or more steps: {best.row.label} stands clear of the next, {row.label}, too."
    return _settled(best.row.label, row.label, lead, family)


def _settled(first: str, second: str, difference: Summary | None, family: int) -> str:
    if difference is None or difference.error is None:
        return f"More runs of {first} and {second}."
    if not difference.mean:
        return f"Nothing: {first} and {second} have the same mean."
    needed = more(difference, difference.mean, family)
    return (
        f"{needed[0].upper()}{needed[1:]} would settle {first} against {second}, if "
        f"{100 * difference.mean:+.1f} points is the true difference."
    )


def warning(of: Answer) -> str:
    """Say the one thing that a reader must know first; empty where there is none."""
    group, change = of.group, of.best.change if of.best else None
    found = [*group.mixed]
    if change and change.units < FEW:
        least = smallest_found(change, of.family) or 0.0
        unit = "draws" if change.draws > 1 else "seeds"
        found.append(f"{change.units} {unit} could have shown no difference below {100 * least:.0f} points")
    if group.views != "equal" and COLOURED not in {row.method for row in group.rows}:
        found.append("part of a gain may be the method's own views: colours on the labels alone help too")
    if len(group.draws) == 1 and change:
        found.append("one choice of the labeled images: nothing is said of others")
    found += [*group.warnings, *before_digests([run.result for run in group.runs])]
    if not found:
        return ""
    first = found[0].partition(";")[0]  # the whole stands under Warnings
    return f"{first[0].upper()}{first[1:]}."


def _mean(cell: Summary | None) -> str:
    return f"{100 * cell.mean:.1f} % mIoU" if cell else s.MISSING


def _listed(names: Sequence[str]) -> str:
    """List names in words: `a`, `a and b`, `a, b and 3 others`."""
    if len(names) > 3:
        names = [*names[:2], f"{len(names) - 2} others"]
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
