"""Looks at a data set: is every listed file sound, and what is in it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from bench.contract import IGNORE, Dataset
from bench.errors import DataError
from datasets import advice, channels, findings, sparse, tags
from datasets.encodings import disagreement, refuse_disagreement
from datasets.look import worth_a_look
from datasets.lookup import Missing, masked, summary
from datasets.meaning import Unread
from datasets.pairs import scores_source
from datasets.splits import Split
from datasets.stale import Stale

MOST_ALIKE = 3  # sentences on masks that lack the same
OnItem = Callable[[int, int], None]


@dataclass(frozen=True)
class ClassRow:
    """Counts one class of a list: its pixels, their share (0..1) of all pixels with 255, and its images."""

    id: int
    name: str
    pixels: int
    share: float
    images: int


@dataclass(frozen=True)
class Stats:
    """Describes a list in numbers: a row per class and a last one for 255, and the number of images with a
    mask by (height, width), e.g. {(360, 480): 233}."""

    dataset: str
    listing: str
    images: int
    rows: tuple[ClassRow, ...]
    sizes: dict[tuple[int, int], int]
    without: int  # images of the train list that have no mask


@dataclass(frozen=True)
class Verdict:
    """The problems of a data set, and what is worth a look: a sentence each. And what to write into
    dataset.yaml, where that may mend it: a sentence and lines of YAML."""

    problems: list[str]
    look: list[str]
    advice: list[str] = field(default_factory=list)


def verify(
    dataset: Dataset, splits: Sequence[Split], on_item: OnItem | None = None, held_out: Sequence[str] = ()
) -> Verdict:
    """Open every image of the splits, and the mask of every id whose pixels one of them grants or scores; the
    points, strokes and boxes that they grant; and images and masks of the held-out list.

    A problem is a file that is not sound, tags or marks that were made of other masks than are there now, or
    a list that no score can be made of. `on_item(done, total)` is called after each id.
    """
    ids = sorted({*held_out, *(id for split in splits for id in (*split.train, *split.eval))})
    masked = {*held_out, *(id for split in splits for id in (*split.pixel, *split.eval))}
    # A dict for its order: an unreadable image also fails the size check of its mask, with the same sentence.
    problems: dict[str, None] = {}
    facts: dict[str, findings.MaskFacts] = {}
    if disagree := disagreement(dataset, sorted(masked)):
        problems[disagree] = None
    missing: dict[str, Missing] = {}
    unread: dict[str, Unread] = {}
    of_channels: dict[int, list[str]] = defaultdict(list)
    stale = Stale(dataset, splits)
    for done, id in enumerate(ids, 1):
        for what in ("image", "mask") if id in masked else ("image",):
            try:
                if what == "mask":
                    mask = dataset.mask(id)
                    facts[id] = findings.facts_of(mask)
                    stale.look(id, mask)
                else:
                    of_channels[dataset.image(id).shape[2]].append(id)
            except Missing as error:
                missing.setdefault(id, error)
            except Unread as error:
                unread[id] = error
            except DataError as error:
                problems[str(error)] = None
        if on_item:
            on_item(done, len(ids))
    problems |= dict.fromkeys(said for split in splits if (said := scores_source(dataset, split)))
    problems |= dict.fromkeys(
        [*tags.problems(dataset, splits), *sparse.problems(dataset, splits), *stale.problems()]
    )
    if missing:  # by their reason: a folder that is not there is one problem, not one for each image
        problems[summary(list(missing.values()), len(ids), "images of the splits")] = None
    problems |= dict.fromkeys(_some_unread(list(unread.values())))
    if several := channels.disagreement(dataset, of_channels):
        problems[several] = None
    learned = _looked(findings.learned_name(dataset), {id for split in splits for id in split.pixel}, facts)
    scored = _looked(findings.scored_name(dataset), {id for split in splits for id in split.eval}, facts)
    problems |= dict.fromkeys(_meaningless(dataset, splits, learned, scored))
    look = [*channels.said(dataset, of_channels), *worth_a_look(dataset, learned, scored, splits)]
    look = [sentence for sentence in look if sentence not in problems]
    read = (one.ids for one in facts.values())
    lines = advice.lines(dataset, unread, read, sorted(masked) if disagree else ())
    return Verdict(list(problems), look, lines)


def _some_unread(errors: Sequence[Unread]) -> list[str]:
    """Return sentences on masks without a meaning. Each kind of error has one for each of its first masks,
    and one for the others."""
    said: list[str] = []
    for kind in dict.fromkeys(error.kind for error in errors):
        alike = [str(error) for error in errors if error.kind == kind]
        said += alike[:MOST_ALIKE]
        if alike[MOST_ALIKE:]:
            said.append(f"so it is with {len(alike) - MOST_ALIKE} more masks.")
    return said


def _looked(name: str, ids: Collection[str], facts: Mapping[str, findings.MaskFacts]) -> findings.Looked:
    return findings.Looked(name, len(ids), {id: facts[id] for id in sorted(ids) if id in facts})


def _meaningless(
    dataset: Dataset, splits: Sequence[Split], learned: findings.Looked, scored: findings.Looked
) -> list[str]:
    """Say what a run on one of the splits would refuse. Says it once where it is so of all of them."""
    granted = [
        (_looked(findings.granted_name(split), split.pixel, learned.facts), bool(split.tags))
        for split in splits
        if split.pixel
    ]
    every = [(learned, all(tagged for _, tagged in granted))]
    said = _sentences(dataset, [(scored, False)])
    for split in splits:
        with suppress(DataError):  # of marks that cannot be read, which is a problem of its own
            said += [sentence] if (sentence := findings.unmarked(dataset, split)) else []
    return said + (_sentences(dataset, every) or _sentences(dataset, granted))


def _sentences(dataset: Dataset, lists: Sequence[tuple[findings.Looked, bool]]) -> list[str]:
    found = [
        findings.meaningless(one.name, one.total, one.ids, dataset, tagged)
        for one, tagged in lists
        if one.whole and one.total
    ]
    return [sentence for sentence in found if sentence]


def stats(dataset: Dataset, listing: str, on_item: OnItem | None = None) -> Stats:
    """Count the masks of a list ("train", "val", "test"), of the train list those that there are.

    Raises DataError for a missing or invalid file.
    """
    listed = dataset.ids(listing)
    ids = tuple(masked(dataset, listed)) or listed if listing == "train" else listed
    refuse_disagreement(dataset, ids)
    pixels, images = np.zeros(IGNORE + 1, np.int64), np.zeros(IGNORE + 1, np.int64)
    sizes: Counter[tuple[int, int]] = Counter()
    for done, id in enumerate(ids, 1):
        mask = dataset.mask(id)
        count = np.bincount(mask.ravel(), minlength=IGNORE + 1)
        pixels += count
        images += count > 0
        sizes[mask.shape[0], mask.shape[1]] += 1
        if on_item:
            on_item(done, len(ids))
    total = max(int(pixels.sum()), 1)
    names = [*enumerate(dataset.classes), (IGNORE, "ignore")]
    rows = tuple(
        ClassRow(c, name, int(pixels[c]), int(pixels[c]) / total, int(images[c])) for c, name in names
    )
    return Stats(dataset.name, listing, len(ids), rows, dict(sizes.most_common()), len(listed) - len(ids))
