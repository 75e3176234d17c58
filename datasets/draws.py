"""Draws: which training images the shares of a data set label, and what a share of an order grants.

The rule of splits (see `splits_make`) orders the training ids by a seed, and 1_N grants the first of them. A
draw is that order for another seed. Draw 0 is written out as splits. Draw K is one list, draw<K>.txt beside
the splits, and draw<K>.json says where it comes from. The owner of the data set made it: a run reads it and
opens no mask.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import DataError
from bench.labels import SPARSE
from datasets.ids import read_sealed

SHARES = {"1_64": 64, "1_16": 16, "1_8": 8, "1_4": 4, "1_2": 2, "full": 1}
TAGS, MIXED = "tags", "1_8+tags"
KINDS = (TAGS, *SPARSE)  # what a split may grant an image in place of its mask
MOST_DRAWS = 1000
DRAWN = (*(name for name, share in SHARES.items() if share > 1), MIXED)  # what differs from draw to draw


@dataclass(frozen=True)
class Draw:
    """The order of one draw. `left_out` says, for each split that it is too small for, why."""

    number: int
    order: tuple[str, ...]
    left_out: Mapping[str, str]
    eval_digest: str
    tag_source: str  # of `MIXED`, "" where it is left out
    tag_digest: str


def granted(name: str, order: Sequence[str]) -> dict[str, Sequence[str]]:
    """Return the ids that a split grants of each kind: {"pixel": ["c"], "tags": ["a", "b"]}. They are taken
    from training ids in the order of the rule.

    Args:
        name: A share, one of `KINDS`, or both: "1_8", "points", "1_8+points".
    """
    share, _, kind = name.partition("+")
    if share in KINDS:
        return {share: order}
    size = share_of(name, len(order))
    return {"pixel": order[:size], kind or "none": order[size:]}


def is_drawn(name: str) -> bool:
    """Whether other draws of a split label other images."""
    share, _, kind = name.partition("+")
    return SHARES.get(share, 1) > 1 and (not kind or kind in KINDS)


def share_of(name: str, total: int) -> int:
    """How many of `total` images a share labels: share_of("1_16", 367) is 23."""
    return math.ceil(total / SHARES[name.partition("+")[0]])


def draw_file(place: Path, number: int) -> Path:
    return place / f"draw{number}.txt"


def draws_in(place: Path) -> list[int]:
    """Return the draws whose lists lie in a folder of splits: [1, 2] for draw1.txt and draw2.txt."""
    found = (re.fullmatch(r"draw([1-9]\d*)\.txt", path.name) for path in place.glob("draw*.txt"))
    return sorted(int(match[1]) for match in found if match)


def read_draw(place: Path, dataset: str, number: int, mend: str) -> Draw:
    """Read draw<number>.txt of a folder of splits. Raises DataError, ending with `mend`."""
    path = draw_file(place, number)
    order, said = read_sealed(path, dataset, mend)
    left_out, tags = said.get("left_out"), said.get("tags")
    if said.get("draw") != number or not isinstance(left_out, dict) or not isinstance(tags, dict):
        raise DataError(f"{path.with_suffix('.json')} is not that of draw {number}; {mend}")
    return Draw(
        number,
        order,
        {str(name): str(why) for name, why in left_out.items()},
        str(said.get("eval_digest")),
        str(tags.get("tag_source", "")),
        str(tags.get("tag_digest", "")),
    )
