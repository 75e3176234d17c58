"""Pairs of data sets for adaptation: a labeled source, and a target that is scored.

An id says its domain: `source/train_0001`, `target/0001TP_006690`. The classes are those that both have, in
the order of the target; a pixel of any other class is no label. Nothing here reads a file of its own: each
domain reads, and refuses, its own files.

A pair of your own is a folder `DIR/mine` with a pair.yaml:

    source: day
    target: dusk
    classes: {pedestrian: person}   # class of the source: class of the target, where their names differ
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from bench.contract import IGNORE, Dataset
from bench.errors import DataError, did_you_mean
from datasets.ids import some
from datasets.splits import Split, command, root_of

SOURCE, TARGET = "source", "target"
PAIR_FILE = "pair.yaml"


class Pair(Dataset):
    """Two data sets as one. Every method raises DataError for what its data sets do.

    Args:
        name: Of the pair.
        names: The class of the target that a class of the source is, by their names or ids, where the names
            differ.

    Raises DataError where `names` holds a class that is not there, where the two share no two classes, and
    where both are one data set and share an image to learn from.
    """

    def __init__(
        self, name: str, source: Dataset, target: Dataset, names: Mapping[str, str | int] | None = None
    ) -> None:
        self.name = name
        self.domains = {SOURCE: source, TARGET: target}
        self.scored, self.heldout = target.scored, target.heldout
        self.label_seconds = target.label_seconds
        meant = _meant(name, source, target, names or {})
        kept = [c for c, label in enumerate(target.classes) if label in meant.values()]
        self.classes = tuple(target.classes[c] for c in kept)
        self.background = kept.index(target.background) if target.background in kept else None
        self.palette = None if target.palette is None else target.palette[kept]
        id_of = {label: i for i, label in enumerate(self.classes)}
        of_source = [id_of.get(meant.get(label, ""), IGNORE) for label in source.classes]
        of_target = [id_of.get(label, IGNORE) for label in target.classes]
        self._tables = {SOURCE: _table(of_source), TARGET: _table(of_target)}
        said = {SOURCE: source.mask_rule, TARGET: target.mask_rule, "ids": [of_source, of_target]}
        self.mask_rule = json.dumps(said, sort_keys=True)
        lone = {
            SOURCE: [label for label, id in zip(source.classes, of_source, strict=True) if id == IGNORE],
            TARGET: [label for label, id in zip(target.classes, of_target, strict=True) if id == IGNORE],
        }
        self._said = tuple(
            f"{name}: pixels of {', '.join(map(repr, labels))} are no label in the {domain}, since the other "
            "domain has no such class."
            for domain, labels in lone.items()
            if labels
        )

    def listed(self, domain: str, listing: str) -> tuple[str, ...]:
        """Return the ids of a list of one domain, as its data set writes them."""
        return self.domains[domain].ids(listing)

    def ids(self, listing: str) -> tuple[str, ...]:
        source, target = self.listed(SOURCE, "train"), self.listed(TARGET, listing)
        if shared := [id for id in sorted(set(source).intersection(target)) if self._is_one_image(id)]:
            raise DataError(
                f"{self.name}: the target holds {some(shared)}, which the source holds too, labels and all; "
                "an image is in one domain: correct pair.yaml, or the lists."
            )
        return (*(_under(SOURCE, source) if listing == "train" else ()), *_under(TARGET, target))

    def image(self, id: str) -> np.ndarray:
        domain, own = self._of(id)
        dataset = self.domains[domain]
        dataset.channels = self.channels
        return dataset.image(own)

    def mask(self, id: str) -> np.ndarray:
        domain, own = self._of(id)
        mapped: np.ndarray = self._tables[domain][self.domains[domain].mask(own)]
        return mapped

    def files(self, id: str, what: str) -> tuple[Path, ...] | None:
        domain, own = self._of(id)
        return self.domains[domain].files(own, what)

    def parts(self, ids: Iterable[str]) -> list[tuple[Dataset, list[str]]]:
        own: dict[str, list[str]] = {SOURCE: [], TARGET: []}
        for id in ids:
            domain, name = self._of(id)
            own[domain].append(name)
        return [(self.domains[domain], names) for domain, names in own.items()]

    def unscored(self, ids: Iterable[str]) -> list[str]:
        return [id for id in ids if self._of(id)[0] == SOURCE]

    def _is_one_image(self, id: str) -> bool:
        """Whether an id of both domains is one file, or an image of one generated set. What is missing is
        none; reading it says so better."""
        source, target = self.domains.values()
        try:
            files = [{path.resolve() for path in of.files(id, "image") or ()} for of in (source, target)]
        except DataError:
            return False
        return bool(files[0] & files[1]) or (not any(files) and source.name == target.name)

    @property
    def notes(self) -> tuple[str, ...]:
        return (*self._said, *self.domains[SOURCE].notes, *self.domains[TARGET].notes)

    def _of(self, id: str) -> tuple[str, str]:
        """Split an id into its domain and the id that its data set knows: "source/a" into ("source", "a")."""
        domain, _, own = id.partition("/")
        if domain not in self.domains or not own:
            raise DataError(f"{self.name}: {id!r} is no id of a pair; ids begin with source/ or target/.")
        return domain, own


def scores_source(dataset: Dataset, split: Split) -> str | None:
    """Return a sentence on a split that scores images of a source, which a pair never does."""
    if not (wrong := dataset.unscored(split.eval)):
        return None
    make = command(dataset.name, root_of(split.place), "--make")
    listed = f"{split.place / f'{split.scored}.txt'}: " if split.place else ""
    return (
        f"{listed}{dataset.name}/{split.name} would score {some(wrong)}, of the source; a pair is scored on "
        f"its target alone: remove the folder of splits and make them with `{make}`."
    )


def _under(domain: str, ids: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{domain}/{id}" for id in ids)


def _table(ids: list[int]) -> np.ndarray:
    """From an id of one domain to that of the pair: 256 uint8."""
    table = np.full(256, IGNORE, np.uint8)
    table[: len(ids)] = ids
    return table


def _meant(name: str, source: Dataset, target: Dataset, names: Mapping[str, str | int]) -> dict[str, str]:
    """Return the class of the target that each class of the source is, for those that are one: {"car":
    "vehicle"}."""
    told = {_class(name, SOURCE, one, source.classes): one for one in names}
    if len(told) < len(names):
        twice = next(one for one in names if one not in told.values())
        raise DataError(f"{name}: `classes` of {PAIR_FILE} names the class {twice!r} of the source twice.")
    named = {label: _class(name, TARGET, names[one], target.classes) for label, one in told.items()}
    same = {label: label for label in source.classes if label in target.classes and label not in named}
    meant = {**same, **named}
    if len(set(meant.values())) < 2:
        raise DataError(
            f"{name}: source and target share {len(set(meant.values()))} classes by name, and two are the "
            f"fewest; say in {PAIR_FILE} which class of the source is which of the target, such as "
            f"`classes: {{{source.classes[0]}: {target.classes[0]}}}`."
        )
    return meant


def _class(name: str, domain: str, said: str | int, known: Sequence[str]) -> str:
    """Return the class that a name, else an id, means."""
    text = str(said)
    if text in known:
        return text
    if text.isdecimal() and text.isascii() and int(text) < len(known):
        return known[int(text)]
    raise DataError(
        f"{name}: its {domain} has no class {said!r}, which `classes` of {PAIR_FILE} names"
        f"{did_you_mean(text, known)}."
    )
