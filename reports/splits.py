"""The columns of a table: splits, by what they grant; the kind of supervision that is, and its hours."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.labels import LABEL_SECONDS
from bench.records.schema import Result
from reports.knobs import unique

LISTS = ("pixel", "tags", "none")
# Kinds of supervision, by what a split grants: each is a question of its own.
KINDS = {"pixel": "masks", "mixed": "masks and tags", "tags": "tags"}


def supervision(masks: int, tags: int) -> str:
    """The kind of labels that so many images with masks and with tags are, a key of `KINDS`."""
    if not tags:
        return "pixel"
    return "mixed" if masks else "tags"


@dataclass(frozen=True)
class Split:
    """One column: a split with all its draws, told apart by digest where lists of different content go by one
    name."""

    label: str
    pixel: int
    tags: int
    none: int = 0
    digests: tuple[str, ...] = ("", "", "")  # of `LISTS`, in its first draw
    name: str = ""  # which several may share

    @property
    def heading(self) -> str:
        if not self.tags:
            return f"{self.label} ({self.pixel})"
        if not self.pixel:
            return f"{self.label} ({self.tags} tags)"
        return f"{self.label} ({self.pixel} + {self.tags} tags)"

    @property
    def kind(self) -> str:
        return supervision(self.pixel, self.tags)


def masks(result: Result) -> int:
    """Images whose masks a run has seen; those that a policy of CAM seeds has opened are among them."""
    return result.images.get("pixel", 0) + result.images.get("opened", 0)


def label_hours(result: Result) -> float:
    """Hours to label the images of a run, by what its record says of one image.

    An image whose mask was opened beside its tags counts as both. The scored list and the choice of images
    are not counted.
    """
    seconds = LABEL_SECONDS | result.label_seconds
    return (masks(result) * seconds["pixel"] + result.images.get("tags", 0) * seconds["tags"]) / 3600


Granted = tuple[tuple[int, int, int], str, tuple[str, ...]]  # counts of `LISTS`, name of the split, digests


def granted(result: Result) -> Granted:
    """What a split grants; the name alone does not say, since many published lists share one."""
    pixel, tags, none = (result.images.get(name, 0) for name in LISTS)
    digests = tuple(result.split_digests.get(name, "") for name in LISTS)
    return (pixel, tags, none), result.split, digests


def columns(results: Sequence[Result]) -> dict[tuple[int, Granted], Split]:
    """The columns by draw and what it grants, fewest labeled images first.

    Draws of one split label other images, so their digests differ: they are one column, unless two lists of
    one draw differ, which then are columns of their own.
    """
    keys = sorted({(result.draw, granted(result)) for result in results}, key=lambda key: (key[1][:2], key))
    by_name: dict[tuple[Any, ...], list[tuple[int, Granted]]] = defaultdict(list)
    for draw, (counts, name, digests) in keys:
        by_name[counts, name].append((draw, (counts, name, digests)))
    found: dict[tuple[int, Granted], Granted] = {}
    for same in by_name.values():
        one = len({draw for draw, _ in same}) == len(same)
        found |= {key: same[0][1] if one else key[1] for key in same}
    kept = sorted(set(found.values()))
    names = []
    for _, name, digests in kept:
        namesakes = [others for _, other, others in kept if other == name]
        differing = [i for i in range(len(LISTS)) if len({others[i] for others in namesakes}) > 1]
        names.append(" ".join([name, *(f"[{LISTS[i]} {digests[i][:8]}]" for i in differing)]))
    splits = {
        (counts, name, digests): Split(label, *counts, digests, name)
        for label, (counts, name, digests) in zip(unique(names), kept, strict=True)
    }
    return {key: splits[column] for key, column in found.items()}
