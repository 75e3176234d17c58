"""The splits of a pair of data sets: `adapt`, `adapt+8` and their like, and `target_full`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datasets.pairs import SOURCE, TARGET
from datasets.splits import Split, check_split

ADAPT, TARGET_FULL = "adapt", "target_full"
NUMBERS = (8, 32, 128)  # of masks of the target

RULE = (  # the MANIFEST of each split holds this text
    "adapt grants the pixels of all training images of the source and nothing of the target. adapt+N grants "
    "the pixels of N training images of the target too: the first N in the order of "
    "sha256('<dataset>:0:<id>'), behind a cover of the classes; N is 8, 32 and 128, where that covers every "
    "class and is below half of them. target_full grants the pixels of the target's training images alone, "
    "and leaves the source out. The masks of the target's training images were read to know which classes "
    "they hold: an act of the owner of the data set, not of a method."
)


def domain_of(train_ids: Sequence[str], domain: str) -> tuple[str, ...]:
    """Return the sorted ids of a domain, among those of both: ("source/a", "source/b")."""
    return tuple(sorted(id for id in train_ids if id.startswith(f"{domain}/")))


def make_adaptation(
    dataset: str, train_ids: Sequence[str], eval_ids: Sequence[str], order: Sequence[str], cover: int
) -> tuple[dict[str, Split], dict[str, str]]:
    """Make the splits of a pair by `RULE`. Answers them by name, and why others are left out, by theirs.

    Args:
        train_ids, eval_ids: Of both domains, and of the target alone.
        order: The target's training ids, those that cover its classes first; `cover` is their number.
    """
    source, target = domain_of(train_ids, SOURCE), domain_of(train_ids, TARGET)
    scored = tuple(sorted(eval_ids))
    made = {ADAPT: Split(dataset, ADAPT, source, (), target, scored)}
    left_out: dict[str, str] = {}
    for number in NUMBERS:
        name = f"{ADAPT}+{number}"
        if number < cover:
            left_out[name] = f"{dataset}/{name} is not made: it takes {cover} images to cover every class."
        elif 2 * number < len(target):
            granted = tuple(sorted(order[:number]))
            rest = tuple(sorted(order[number:]))
            made[name] = Split(dataset, name, tuple(sorted(source + granted)), (), rest, scored)
    made[TARGET_FULL] = Split(dataset, TARGET_FULL, target, (), (), scored)
    for name, split in made.items():
        check_split(split, Path(dataset) / name)
    return made, left_out
