"""Findings that are worth a look in a data set: facts of single masks, and the sentences that they add up to.

A file may be sound and yet not mean what its owner thinks: foreground drawn as 255, a class that no mask
holds, masks that were resized with blended ids. Such things are said, not refused. Where a score would mean
nothing at all, `meaningless` says so and the caller refuses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bench.contract import IGNORE, Dataset
from bench.errors import DataError
from datasets.encodings import refuse_disagreement
from datasets.ids import some
from datasets.pairs import scores_source
from datasets.sparse import Marks, classes_of
from datasets.splits import HELDOUT, Split
from datasets.tags import NoEntry

THIN = 0.1  # a pole of four pixels has half its pixels inside, a seam of one or two has none
FEWEST_THIN = 3  # masks with a class before it may be called thin everywhere
MUCH_IGNORED = 0.5
BLACK_AND_WHITE = "label_map: {0: 0, 255: 1}"
MOST_LOOKED_AT = 100  # masks of a list that a run looks at before it starts: a second or two

BACKGROUND = {"background", "backgr", "bg", "bkg", "bgr", "hintergrund", "fond", "fondo", "sfondo"}
REST = {"other", "others", "rest", "clutter", "nothing", "none", "empty", "noobject", "misc"}
UNLABELED = {"void", "ignore", "ignored", "unlabeled", "unlabelled", "notlabeled", "notlabelled", "nolabel",
             "unannotated", "unknown", "undefined", "dontcare"}  # fmt: skip


@dataclass(frozen=True)
class MaskFacts:
    """Counts one mask by class id, 256 int64 each: its pixels, and those of them that lie inside, with no
    other class among their eight neighbours (255 is no class)."""

    pixels: np.ndarray
    inside: np.ndarray

    @property
    def ids(self) -> frozenset[int]:
        """The class ids in the mask, without 255."""
        return frozenset(np.flatnonzero(self.pixels[:IGNORE]).tolist())


def facts_of(mask: np.ndarray) -> MaskFacts:
    """Count a mask, H W uint8."""
    padded = np.pad(mask, 1, mode="edge")
    least = _of_neighbours(padded, np.minimum)
    most = _of_neighbours(np.where(padded == IGNORE, np.uint8(0), padded), np.maximum)
    inside = mask[(least == most) & (mask != IGNORE)]
    counted = (np.bincount(values.ravel(), minlength=IGNORE + 1) for values in (mask, inside))
    return MaskFacts(*counted)


def _of_neighbours(padded: np.ndarray, of: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    rows = of(of(padded[:-2], padded[1:-1]), padded[2:])
    return of(of(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])


@dataclass(frozen=True)
class Looked:
    """The masks of one list that were looked at.

    Args:
        name: Of the list, with an article, such as "the scored masks (test.txt)".
        total: How many ids the list has; more than `facts` where only some were looked at.
        facts: By id.
    """

    name: str
    total: int
    facts: Mapping[str, MaskFacts]

    @cached_property
    def pixels(self) -> np.ndarray:
        return np.sum([one.pixels for one in self.facts.values()], axis=0, initial=0) + np.zeros(
            256, np.int64
        )

    @property
    def ids(self) -> frozenset[int]:
        return frozenset(np.flatnonzero(self.pixels[:IGNORE]).tolist())

    @property
    def whole(self) -> bool:
        return len(self.facts) == self.total

    @property
    def called(self) -> str:
        """Such as "the scored masks (test.txt)", or "100 of the 233 ..." where only these were looked at."""
        if self.whole:
            return self.name
        return f"{len(self.facts)} of the {self.total} {self.name.removeprefix('the ')}"


def learned_name(dataset: Dataset) -> str:
    return f"the training masks of {dataset.name}"


def scored_name(dataset: Dataset, listing: str | None = None) -> str:
    """Args:
    listing: The list that is scored; default: that of the data set.
    """
    return f"the scored masks of {dataset.name} ({listing or dataset.scored}.txt)"


def scored_of(dataset: Dataset, split: Split) -> str:
    return scored_name(dataset, dataset.heldout if split.scored == HELDOUT else None)


def granted_name(split: Split) -> str:
    return f"the masks that the split {split.name!r} of {split.dataset} grants"


# A score that means nothing --------------------------------------------------------------------------------


def meaningless(
    name: str, count: int, ids: Iterable[int], dataset: Dataset, tagged: bool = False
) -> str | None:
    """Return a sentence on a list of masks that cannot be learned from or scored, or None.

    Args:
        name: Of the list, as `Looked.name`.
        count: How many masks it has.
        ids: The class ids in them, without 255.
        tagged: Whether tags add classes, so that one class in the masks is enough.
    """
    found = sorted(ids)
    if not found:
        return (
            f"none of {name} holds a labeled pixel ({count} of nothing but {IGNORE}), so there is nothing to "
            "learn from or to score; label them, or leave them out of the list."
        )
    if len(found) == 1 and not tagged:
        return (
            f"{name} hold one class alone, {found[0]} {dataset.classes[found[0]]!r}, so every score would "
            f"mean nothing; correct the masks ({IGNORE} is no class, but no label) or the list."
        )
    return None


def refuse_unfit(dataset: Dataset, split: Split) -> None:
    """Raise DataError where a run on `split` could only end in a score that means nothing.

    Opens masks that the split grants or scores, of each list until two classes are seen: mostly one mask.
    Reads the headers of all of them, see `datasets.encodings.disagreement`.
    """
    if len(dataset.classes) < 2:
        raise DataError(
            f"{dataset.name} has one class, {dataset.classes[0]!r}, so every score would mean nothing; name "
            "all classes in its list of classes, background too."
        )
    if said := scores_source(dataset, split):
        raise DataError(said)
    refuse_disagreement(dataset, (*split.pixel, *split.eval))
    for name, ids, tagged in (
        (granted_name(split), split.pixel, bool(split.tags or split.sparse)),
        (scored_of(dataset, split), split.eval, False),
    ):
        seen: set[int] = set()
        found = there(dataset, ids)
        for id in found:
            seen |= set(dataset.mask(id).tobytes()) - {IGNORE}  # uint8: a byte is a class id
            if len(seen) > 1:
                break
        whole = len(found) == len(ids) > 0
        if whole and (said := meaningless(name, len(ids), seen, dataset, tagged)):
            raise DataError(said)
    if said := unmarked(dataset, split):
        raise DataError(said)


def unmarked(dataset: Dataset, split: Split) -> str | None:
    """As `meaningless`, of a split that grants points, strokes or boxes alone; None of any other.

    Reads them until two classes are seen. Raises DataError as that does.
    """
    if not split.sparse or split.pixel or split.tags:
        return None
    marks = Marks(dataset, split)
    seen: set[int] = set()
    for kind, ids in split.sparse.items():
        for id in ids:
            seen |= classes_of(marks.read(kind, id), dataset.background)
            if len(seen) > 1:
                return None
    name = f"the {' and '.join(split.sparse)} that the split {split.name!r} of {split.dataset} grants"
    return meaningless(name, sum(map(len, split.sparse.values())), seen, dataset)


def refuse_unlabeled(dataset: Dataset, name: str, ids: Sequence[str]) -> None:
    """Raise DataError where no mask of a list holds a labeled pixel; opens them until one does."""
    if ids and not any((dataset.mask(id) != IGNORE).any() for id in ids):
        raise DataError(str(meaningless(name, len(ids), (), dataset)))


# Worth a look -----------------------------------------------------------------------------------------------


def look_at(dataset: Dataset, name: str, ids: Sequence[str], most: int | None = None) -> Looked:
    """Open the masks of a list, `most` of them at most, spread over the list, without those that are missing.

    Raises DataError as `mask` does.
    """
    chosen = there(dataset, spread(ids, most))
    return Looked(name, len(ids), {id: facts_of(dataset.mask(id)) for id in chosen})


def there(dataset: Dataset, ids: Iterable[str]) -> list[str]:
    """Return the ids whose image and mask are not missing: a run counts what is missing when it starts."""

    def found(id: str) -> bool:
        try:
            return all(path.exists() for what in ("image", "mask") for path in dataset.files(id, what) or ())
        except DataError:
            return False

    return [id for id in ids if found(id)]


def of_masks(dataset: Dataset, looked: Looked, tagged: bool = False) -> Iterator[str]:
    """Yield sentences on what is worth a look in one list of masks; `tagged` as `meaningless` has it."""
    facts, pixels = looked.facts, looked.pixels
    if not facts:
        return
    if said := meaningless(looked.called, len(facts), looked.ids, dataset, tagged):
        yield said
    yield from _drawn_as_255(looked, dataset)
    absent = [f"{c} {name!r}" for c, name in enumerate(dataset.classes) if not pixels[c]]
    if absent and looked.whole:
        yield (
            f"{_listed(absent)} {'has' if len(absent) == 1 else 'have'} no pixel in {looked.name}; correct "
            "the masks or the list of classes, or it is neither learned nor scored there."
        )
    if (share := pixels[IGNORE] / max(pixels.sum(), 1)) > MUCH_IGNORED:
        yield f"{100 * share:.0f} % of the pixels of {looked.called} are {IGNORE}, which is no label."
    for c, name in enumerate(dataset.classes):
        held = [one for one in facts.values() if one.pixels[c]]
        if len(held) >= FEWEST_THIN and all(one.inside[c] <= THIN * one.pixels[c] for one in held):
            yield (
                f"{c} {name!r} is thin, a pixel or two, in each of the {len(held)} that hold it of "
                f"{looked.called}; such seams come of masks that were resized with blending: resize masks by "
                "the nearest pixel."
            )


def _drawn_as_255(looked: Looked, dataset: Dataset) -> Iterator[str]:
    """Masks of 0 and 255 alone, the usual form of black and white."""
    plain = [id for id, one in looked.facts.items() if one.ids == {0} and one.pixels[IGNORE]]
    rest = [
        id for id in plain if looked.facts[id].pixels[IGNORE] <= MUCH_IGNORED * looked.facts[id].pixels.sum()
    ]
    shown = "if 255 is drawn for a class, write the id of the class in its place, since 255 is no label."
    if plain and looked.ids == {0}:
        if len(dataset.classes) == 2 and not dataset.mask_rule:
            shown = (
                f"if 255 is drawn for {dataset.classes[1]!r}, write `{BLACK_AND_WHITE}` into dataset.yaml, "
                f"since "
                "255 is no label otherwise."
            )
        yield f"{looked.called} hold nothing but 0 and 255, as black-and-white pictures do; {shown}"
    elif len(rest) * 10 >= len(looked.facts):
        yield (
            f"{len(rest)} of {looked.called} hold nothing but 0 and 255 ({some(rest)}), and others hold "
            f"other ids; {shown}"
        )


def of_splits(
    dataset: Dataset,
    learned: Looked,
    splits: Sequence[Split],
    tags: Mapping[str, Iterable[int]],
    marked: Mapping[str, Iterable[int] | None],
) -> Iterator[str]:
    """Classes that are in some training masks, and in no labeled image of a split.

    Args:
        tags: Of each image.
        marked: By the name of a split the classes in its points, strokes and boxes; None: not all of them
            were looked at.
    """
    there = learned.ids or set(range(len(dataset.classes)))
    for split in splits:
        known = [learned.facts[id].ids for id in split.pixel if id in learned.facts]
        of_marks = marked[split.name]
        if len(known) < len(split.pixel) or any(id not in tags for id in split.tags) or of_marks is None:
            continue  # not all of it was looked at
        held = {c for ids in known for c in ids} | {c for id in split.tags for c in tags[id]} | {*of_marks}
        missing = sorted(there - held - ({dataset.background} if split.tags else set()))
        if missing:
            names = _listed([f"{c} {dataset.classes[c]!r}" for c in missing])
            yield f"no labeled image of the split {split.name!r} holds {names}."


def of_tags(dataset: Dataset, looked: Looked) -> Iterator[str]:
    """Images whose tags and mask contradict each other: a class of the mask that is no tag, or a tag that the
    mask lacks. The latter may lie under 255: it counts where there is little of it, or in most images."""
    try:
        known = _tags_of(dataset, looked.facts)
    except DataError as error:
        yield str(error)
        return
    wrong: dict[str, str] = {}
    maybe: dict[str, str] = {}
    for id, tags in known.items():
        one = looked.facts[id]
        more, fewer = one.ids - tags - {dataset.background}, tags - one.ids - {dataset.background}
        said = " and ".join(
            f"{what} {_listed([dataset.classes[c] for c in sorted(ids)])}"
            for what, ids in (("the mask alone holds", more), ("the tags alone name", fewer))
            if ids
        )
        if more or (fewer and one.pixels[IGNORE] <= THIN * one.pixels.sum()):
            wrong[id] = said
        elif fewer:
            maybe[id] = said
    if 2 * len(maybe) > len(known):
        wrong |= maybe
    if wrong:
        shown = "; ".join(f"{id!r}: {said}" for id, said in [*wrong.items()][:2])
        yield (
            f"the tags contradict {looked.name} in {len(wrong)} of {len(known)} images ({shown}); correct "
            "one or the other."
        )


def _tags_of(dataset: Dataset, ids: Iterable[str]) -> dict[str, frozenset[int]]:
    """Read the tags of those images that have a record: {"a": frozenset({0, 3})}."""
    found = {}
    for id in ids:
        try:
            tags = dataset.tags(id)
        except NoEntry:
            continue  # an image with a mask needs none
        if tags is None:
            break
        found[id] = frozenset(tags)
    return found


def of_names(dataset: Dataset) -> Iterator[str]:
    """Class names that look like background or like no label, and are not taken for it."""
    for c, name in enumerate(dataset.classes):
        word = re.sub(r"[\W_]+", "", name.casefold())
        if word in UNLABELED:
            yield (
                f"{c} {name!r} is a class like any other: it is learned and scored. Pixels without a label "
                f"are {IGNORE}{_left_out(dataset, c)}."
            )
        elif c != dataset.background and (
            word in BACKGROUND or (word in REST and dataset.background is None)
        ):
            yield (
                f"{c} {name!r} looks like background and is not taken for it: {background_said(dataset)}. "
                f"Say which class it is in dataset.yaml: `background: {name}`."
            )


def _left_out(dataset: Dataset, c: int) -> str:
    """How a class becomes no label."""
    if dataset.mask_rule or len(dataset.classes) < 2:
        return ""
    removed = "remove its line from classes.txt and " if c in (0, len(dataset.classes) - 1) else ""
    line = "label_map: from_1" if c == 0 else f"ignore: [{c}]"
    return f"; to make it so, {removed}write `{line}` into dataset.yaml"


def background_said(dataset: Dataset) -> str:
    """Say which class is the background: "the background is 0 'ground'", or "no class is the background"."""
    if dataset.background is None:
        return "no class is the background"
    return f"the background is {dataset.background} {dataset.classes[dataset.background]!r}"


def _listed(names: Sequence[str]) -> str:
    """Join names for a sentence: ["a", "b", "c"] -> "a, b and c". Names five at most, and counts the
    others."""
    if len(names) > 5:
        return f"{', '.join(names[:5])} and {len(names) - 5} more classes"
    return " and ".join([", ".join(names[:-1])] * (len(names) > 1) + [names[-1]])


def spread(ids: Sequence[str], most: int | None) -> Sequence[str]:
    """At most `most` of the ids, evenly over the list; None: all."""
    if most is None or len(ids) <= most:
        return ids
    return [ids[i * len(ids) // most] for i in range(most)]
