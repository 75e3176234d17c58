"""The second list of `verify`: all that is worth a look in a data set, also before splits are made or a run
starts. It opens masks that are granted or scored, and no other."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from bench.contract import Dataset
from bench.errors import DataError
from datasets import findings, marks_look
from datasets.decode import is_turned
from datasets.encodings import GREY, PALETTE, encoding
from datasets.findings import Looked, spread
from datasets.ids import some
from datasets.image_forms import RULE_16, form_of, is_dark, is_transparent
from datasets.sparse import Marks
from datasets.splits import COMMITTED, Split, command, heldout_ids
from datasets.tags import recorded

MOST_DECODED = 20
COLOURS = {GREY: "grey", PALETTE: "palette", 2: "colour", 4: "grey with alpha", 6: "colour with alpha"}


def before_a_run(dataset: Dataset, split: Split) -> list[str]:
    """Say what is worth a look in the files of one split. Looks at `findings.MOST_LOOKED_AT` masks and images
    of each list at most. Returns [] for a data set that reads no files.

    Raises DataError where the run could only end in a score that means nothing.
    """
    findings.refuse_unfit(dataset, split)
    if split.sparse:
        marks = Marks(dataset, split)
        for kind, ids in split.sparse.items():
            for id in spread(ids, findings.MOST_LOOKED_AT):
                marks.read(kind, id)
    if is_generated(dataset, split.eval[0]):
        return []
    most = findings.MOST_LOOKED_AT
    learned = findings.look_at(dataset, findings.granted_name(split), split.pixel, most)
    scored = findings.look_at(dataset, findings.scored_of(dataset, split), split.eval, most)
    return worth_a_look(dataset, learned, scored, [split], most)


def worth_a_look(
    dataset: Dataset, learned: Looked, scored: Looked, splits: Sequence[Split], most: int | None = None
) -> list[str]:
    """All sentences, from the masks that were looked at, the tags and the images of the splits.

    Args:
        most: Images of training and of scoring whose headers are read; None: all.
    """
    train = sorted({id for split in splits for id in split.train})
    test = sorted({id for split in splits for id in split.eval})
    tagged = all(split.tags for split in splits if split.pixel)  # then tags add classes to those of the masks
    asked = most is None or any(split.tags for split in splits)  # a run opens no tags that it is not granted
    looked = {split.name: marks_look.looked_at(dataset, split, most) for split in splits if split.sparse}
    found = [
        *findings.of_names(dataset),
        *findings.of_masks(dataset, learned, tagged),
        *findings.of_masks(dataset, scored),
        *findings.of_splits(dataset, learned, splits, _tags(dataset, splits), _marked(splits, looked)),
        *marks_look.of_marks(splits, looked),
        *(said for of in (learned, scored) if asked for said in findings.of_tags(dataset, of)),
        *_turned(dataset, "image", [*spread(train, most), *spread(test, most)]),
        *_turned(dataset, "mask", [*learned.facts, *scored.facts]),
        *_forms(dataset, [*spread(train, most), *spread(test, most)], most),
        *_mixed(dataset, [*learned.facts, *scored.facts]),
        *_twins(dataset, train, test),
    ]
    return list(dict.fromkeys(found))


def _marked(
    splits: Sequence[Split], looked: Mapping[str, marks_look.Looked]
) -> dict[str, frozenset[int] | None]:
    """As `findings.of_splits` has them."""
    found: dict[str, frozenset[int] | None] = {}
    for split in splits:
        marks = looked.get(split.name, {})
        classes = frozenset(c for one in marks.values() for c in one.classes)
        found[split.name] = classes if marks_look.whole(split, marks) else None
    return found


def _tags(dataset: Dataset, splits: Sequence[Split]) -> Mapping[str, Iterable[int]]:
    tags: dict[str, Iterable[int]] = {}
    for split in splits:
        if split.tags and not tags.keys() >= set(split.tags):
            try:
                tags |= recorded(dataset, split.tags, split.tag_file)
            except DataError:
                continue  # a run says so better
    return tags


def _files(dataset: Dataset, id: str, what: Literal["image", "mask"]) -> tuple[Path, ...]:
    """Return the files of an image or mask; () where the data set does not say, or one is missing (reading
    says)."""
    try:
        return dataset.files(id, what) or ()
    except DataError:
        return ()


def is_generated(dataset: Dataset, id: str) -> bool:
    """Whether an image of the data set is made by the suite, and not read from files."""
    try:
        return dataset.files(id, "mask") == ()
    except DataError:  # there should be a file
        return False


def _turned(dataset: Dataset, what: Literal["image", "mask"], ids: Sequence[str]) -> Iterator[str]:
    turned = []
    for id in ids:
        try:
            if any(is_turned(path) for path in _files(dataset, id, what)):
                turned.append(id)
        except DataError:
            continue  # reading says so
    if turned:
        yield (
            f"{len(turned)} of {len(ids)} {what}s carry an EXIF orientation ({some(turned)}) and are turned "
            "as it says; look whether masks lie on their images (`show RUN` draws both)."
        )


def _forms(dataset: Dataset, ids: Sequence[str], most: int | None) -> Iterator[str]:
    """Images that are not stored as 8 bits of grey or RGB. Of a run, `MOST_DECODED` of each kind are
    decoded."""
    found: dict[str, list[str]] = defaultdict(list)
    paths = {id: path for id in ids for path in _files(dataset, id, "image")[:1]}
    for id, path in paths.items():
        with suppress(DataError):  # reading says so
            form = form_of(path)
            for kind in ("deep", "floats", "cmyk", "alpha"):
                if getattr(form, kind):
                    found[kind].append(id)
    few = None if most is None else MOST_DECODED
    for kind, test in (("deep", is_dark), ("alpha", is_transparent)):
        for id in spread(found.get(kind, []), few):
            with suppress(DataError):
                if test(paths[id]):
                    found[test.__name__].append(id)
    for kind, said in SAID.items():
        if of := found.get(kind):
            yield f"{len(of)} of {len(paths)} images {said.format(ids=some(of))}"


SAID = {
    "deep": "have 16 bits a channel ({ids}); " + RULE_16 + ".",
    "floats": "are floats ({ids}); 0 to 1 become 0 to 255, in whole numbers.",
    "is_dark": "of 16 bits are nearly black as they are read ({ids}), as 12 bits stored in 16 are; scale "
    "them so "
    "that white is 65535.",
    "cmyk": "are CMYK ({ids}) and become RGB by a plain rule, without their colour profile; convert them "
    "yourself "
    "where colours matter.",
    "is_transparent": "are partly transparent ({ids}); alpha is left out, so that what it hides is seen.",
}


def _mixed(dataset: Dataset, ids: Sequence[str]) -> Iterator[str]:
    """Masks of several modes or depths."""
    for part, own in dataset.parts(ids):
        if part.by_colour:
            continue
        kinds: dict[str, list[str]] = defaultdict(list)
        for id in own:
            for path in _files(part, id, "mask"):
                if known := encoding(path):
                    kinds[f"{COLOURS.get(known.kind, 'unknown')} of {known.bits} bits"].append(id)
        if len(kinds) > 1:
            said = "; ".join(f"{len(of)} are {kind} ({some(of[:1])})" for kind, of in sorted(kinds.items()))
            yield f"the masks of {part.name} are stored in {len(kinds)} ways: {said}."


def _twins(dataset: Dataset, train: Sequence[str], test: Sequence[str]) -> Iterator[str]:
    """Images of training and scoring whose files are equal. Reads only files of a size that both have."""
    sizes: list[dict[int, list[tuple[str, Path]]]] = []
    for ids in (train, test):
        of: dict[int, list[tuple[str, Path]]] = defaultdict(list)
        for id in ids:
            for path in _files(dataset, id, "image")[:1]:
                of[path.stat().st_size].append((id, path))
        sizes.append(of)
    pairs = []
    for size in sizes[0].keys() & sizes[1].keys():
        known = {_digest(path): id for id, path in sizes[0][size]}
        pairs += [(known[d], id) for id, path in sizes[1][size] if (d := _digest(path)) in known]
    if pairs:
        shown = ", ".join(f"{learned!r} = {scored!r}" for learned, scored in sorted(pairs)[:3])
        yield (
            f"{len(pairs)} scored images are also images to learn from, file for file ({shown}); leave them "
            "out of one of the two lists."
        )


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()


def held_out_said(dataset: Dataset, data_root: Path | None) -> list[str]:
    """Say of a data set of the user's what is held out and how it is used. Of one without such a list, and of
    the suite's own, there is nothing to say."""
    if dataset.heldout is None or (COMMITTED / dataset.name).is_dir():
        return []
    file = f"{dataset.heldout}.txt"
    try:
        ids = heldout_ids(dataset.name, data_root)
    except DataError as error:  # of a list that this run does not read
        return [str(error)]
    if ids is None:
        make = command(dataset.name, data_root, "--make")
        return [f"{file} lies unused: `{make}` makes it the held-out list, or says why it cannot be."]
    return [
        f"the {len(ids)} images of {file} are held out: nothing learns from them, and only "
        "`--scored heldout` scores them. Choose thresholds, steps and other settings so."
    ]
