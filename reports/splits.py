"""The columns of a table: splits, by what they grant; the kind of supervision that is, and its hours."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.labels import LABEL_SECONDS, SPARSE
from bench.records.schema import Result
from reports.knobs import unique

LISTS = ("pixel", "tags", "none")
MIXED = "mixed"  # the kind of masks and tags
Counts = tuple[tuple[str, int], ...]  # of images, by kind of sparse labels: (("points", 480),)


def supervision(masks: int, tags: int, sparse: Counts = ()) -> str:
    """Return the kind of labels that these numbers of images with masks, tags and sparse labels are. Each is
    a question of its own: "pixel", "tags", "mixed", "points", "pixel+points"."""
    kinds = [*(["pixel"] if masks else []), *(["tags"] if tags else []), *(kind for kind, _ in sparse)]
    return MIXED if kinds == ["pixel", "tags"] else "+".join(kinds) or "pixel"


def kind_name(kind: str) -> str:
    """Name a kind of labels for readers: "masks and points"."""
    if kind == MIXED:
        return "masks and tags"
    return " and ".join("masks" if one == "pixel" else one for one in kind.split("+"))


@dataclass(frozen=True)
class SplitColumn:
    """One column: a split with all its draws, told apart by digest where lists of different content go by one
    name."""

    label: str
    pixel: int
    tags: int
    none: int = 0
    digests: tuple[str, ...] = ("", "", "")  # of `LISTS`, in its first draw
    name: str = ""  # which several may share
    sparse: Counts = ()

    @property
    def heading(self) -> str:
        weak = [f"{count} {kind}" for kind, count in (("tags", self.tags), *self.sparse) if count]
        granted = [str(self.pixel)] if self.pixel or not weak else []
        return f"{self.label} ({' + '.join(granted + weak)})"

    def granted(self, rest: str) -> str:
        """Say in words what it grants; `rest` are images without labels: `32 masks, 480 unlabeled`."""
        counts = {"masks": self.pixel, "images with tags": self.tags}
        counts |= {f"images with {kind}": count for kind, count in self.sparse} | {rest: self.none}
        return ", ".join(f"{count} {what}" for what, count in counts.items() if count)

    @property
    def kind(self) -> str:
        return supervision(self.pixel, self.tags, self.sparse)

    @property
    def weak(self) -> int:
        """Images with labels that are no masks."""
        return self.tags + sum(count for _, count in self.sparse)


def masks(result: Result) -> int:
    """Images whose masks a run has seen; those that a policy of CAM seeds has opened are among them."""
    return result.images.get("pixel", 0) + result.images.get("opened", 0)


def label_hours(result: Result) -> float:
    """Hours to label the images of a run, by what its record says of one image.

    An image whose mask was opened beside its tags counts as both. The scored list and the choice of images
    are not counted.
    """
    seconds = LABEL_SECONDS | result.label_seconds
    weak = ("tags", *SPARSE)
    spent = sum(result.images[kind] * seconds[kind] for kind in weak if kind in result.images)
    return (masks(result) * seconds["pixel"] + spent) / 3600


def sparse_counts(result: Result) -> Counts:
    return tuple((kind, result.images[kind]) for kind in SPARSE if kind in result.images)


# Counts of `LISTS`, name of the split, digests of `LISTS`, counts and digests of sparse labels
Granted = tuple[tuple[int, int, int], str, tuple[str, ...], Counts, tuple[str, ...]]


def granted(result: Result) -> Granted:
    """Return what a split grants; its name alone does not say, since many published lists share
    one."""
    pixel, tags, none = (result.images.get(name, 0) for name in LISTS)
    digests = tuple(result.split_digests.get(name, "") for name in LISTS)
    sparse = sparse_counts(result)
    of_sparse = tuple(result.split_digests.get(kind, "") for kind, _ in sparse)
    return (pixel, tags, none), result.split, digests, sparse, of_sparse


def columns(results: Sequence[Result]) -> dict[tuple[int, Granted], SplitColumn]:
    """Return the columns by draw and what it grants, fewest labeled images first.

    Draws of one split label other images, so their digests differ: they are one column, unless two lists of
    one draw differ, which then are columns of their own.
    """
    keys = sorted({(result.draw, granted(result)) for result in results}, key=lambda key: (key[1][:2], key))
    by_name: dict[tuple[Any, ...], list[tuple[int, Granted]]] = defaultdict(list)
    for draw, what in keys:
        counts, name, _, sparse, _ = what
        by_name[counts, name, sparse].append((draw, what))
    found: dict[tuple[int, Granted], Granted] = {}
    for same in by_name.values():
        one = len({draw for draw, _ in same}) == len(same)
        found |= {key: same[0][1] if one else key[1] for key in same}
    kept = sorted(set(found.values()))
    names = []
    for _, name, digests, _, _ in kept:
        namesakes = [others for _, other, others, _, _ in kept if other == name]
        differing = [i for i in range(len(LISTS)) if len({others[i] for others in namesakes}) > 1]
        names.append(" ".join([name, *(f"[{LISTS[i]} {digests[i][:8]}]" for i in differing)]))
    splits = {
        what: SplitColumn(label, *what[0], what[2], what[1], what[3])
        for label, what in zip(unique(names), kept, strict=True)
    }
    return {key: splits[column] for key, column in found.items()}
