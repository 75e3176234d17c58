"""Whether runs can tell what the parts of a method are worth: not where these parts do next to nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from bench.sweeps.ablations import sweeps_of
from reports.groups import Group, Row

WORDS = {
    "gradient_share/contrast": "of the gradient is the contrast's",
    "share_unlabeled": "of the new negative keys are unlabeled",
}


def parts_not_testable(group: Group) -> list[str]:
    """For each row whose method has named sweeps, the splits on which no sweep could tell what they vary."""
    needs: dict[str, dict[str, float]] = defaultdict(dict)
    for sweep in sweeps_of({row.method for row in group.rows}):
        needs[sweep.method] |= sweep.needs
    return [
        f"What the parts of {row.label} are worth cannot be tested {said}."
        for row in group.rows
        for said in not_testable(group, needs[row.method], row)
    ]


def not_testable(group: Group, needs: Mapping[str, float], row: Row) -> Iterator[str]:
    """Where a row hardly does what is varied, so that no variant can tell: `on 1_16: 6.0 % of ...`."""
    for split in group.splits:
        of = [run.result.health for run in row.on(split) if run.result.health]
        found = []
        for name, least in needs.items():
            values = [health[name] for health in of if name in health]
            if values and (share := sum(values) / len(values)) < least:
                found.append(f"{100 * share:.1f} % {WORDS.get(name, name)} (least: {100 * least:.0f} %)")
        if found:
            yield f"on {split.label}: {' and '.join(found)}"
