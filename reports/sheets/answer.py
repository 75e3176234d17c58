"""Which method to take: of each data set and split the one of the largest gain over the reference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from reports.groups import BASELINE, Group, Row, summary, told_apart
from reports.sheets.differences import Found, compared, family_of
from reports.splits import SplitColumn
from reports.statistics import Summary

State = Literal["clear", "tied", "unknown"]


@dataclass(frozen=True)
class Gain:
    """A row against the reference on one split."""

    row: Row
    change: Summary | None  # None where the two have no draw and seed in common
    ends: tuple[float, float] | None  # of the interval that holds with those of the whole table

    @property
    def method(self) -> bool:
        """Whether it is one, and no yardstick."""
        return not self.row.method.startswith(BASELINE)

    @property
    def clear(self) -> bool:
        return self.ends is not None and self.ends[0] > 0

    @property
    def known(self) -> bool:
        """Whether it can be told from chance at all."""
        return self.change is not None and self.change.error is not None


@dataclass(frozen=True)
class Answer:
    """The answer that the runs of one comparable group give on one split.

    `group` holds runs of one kind of supervision. `reference` is the label of a row, None where the baseline
    has no row here, or several.
    """

    group: Group
    split: SplitColumn
    reference: str | None
    baseline: str

    @cached_property
    def _compared(self) -> Found:
        return () if self.reference is None else compared(self.group, self.reference)

    @property
    def family(self) -> int:
        """How many intervals hold together, of all splits."""
        return family_of(change for *_, change in self._compared)

    @cached_property
    def gains(self) -> tuple[Gain, ...]:
        """Every other row that has runs here, the largest gain first."""
        gains = [
            Gain(row, change, change.interval_of(self.family) if change else None)
            for row, at, change in self._compared
            if at is self.split
        ]
        return tuple(sorted(gains, key=lambda of: -of.change.mean if of.change else 2.0))

    @cached_property
    def best(self) -> Gain | None:
        """The method of the largest gain of those that stand clear; where none does, of all known."""
        known = [of for of in self.gains if of.method and of.known]
        return next((of for of in known if of.clear), next(iter(known), None))

    @property
    def state(self) -> State:
        if self.best is None:
            return "unknown"
        return "clear" if self.best.clear else "tied"

    def score(self, label: str) -> Summary | None:
        return summary(self.group.row(label).on(self.split))


def answers(
    groups: Sequence[Group], started: Mapping[Path, str], baseline: str = BASELINE
) -> list[tuple[str, Answer]]:
    """Return an answer for each data set and split with its name, those that stand clear first.

    Of several protocols one speaks: of equal views if there is one, then one that compares methods, then the
    newest.

    Args:
        started: When each run was made, by its folder, where that is known.
    """
    found: dict[tuple[str, ...], tuple[tuple[bool, bool, bool, str], Answer]] = {}
    for group in (part for whole in groups for part in whole.kinds):
        names = group.rows_named(baseline)
        newest = max(started.get(run.folder, "") for run in group.runs)
        for split in group.splits:
            here = names[0] if len(names) == 1 and group.row(names[0]).on(split) else None
            answer = Answer(group, split, here, baseline)
            rank = (not group.held_out, group.views == "equal", answer.best is not None, newest)
            key = (group.dataset, group.classes_digest, group.eval_digest, split.label)
            if key not in found or rank > found[key][0]:
                found[key] = rank, answer
    speaking = [answer for _, answer in found.values()]
    order = ("clear", "tied", "unknown")
    speaking.sort(key=lambda of: (order.index(of.state), of.group.dataset))
    names = [f"{of.group.dataset}, {of.split.heading}" for of in speaking]
    return list(zip(told_apart(names, [of.group for of in speaking]), speaking, strict=True))


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
