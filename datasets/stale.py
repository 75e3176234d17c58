"""Compares the tags, points, strokes and boxes that were made of masks with the masks as they are now.

For the owner of a data set (`data verify`), as the making is: a run opens no mask that its split does not
grant, and cannot know.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from bench.contract import IGNORE, Dataset
from bench.errors import DataError
from bench.labels import SPARSE
from datasets.ids import some
from datasets.marks import mark_digest, read_index
from datasets.sparse_make import made_of
from datasets.splits import FROM_MASKS, Split, command, root_of
from datasets.tags import TagTable, read_tags

TAGS = "tags"


class Stale:
    """Takes the masks of a data set one by one, and says then what was made of other masks.

    What cannot be read is passed over: whoever reads it says so.
    """

    def __init__(self, dataset: Dataset, splits: Sequence[Split]) -> None:
        self.dataset = dataset
        self.tags: TagTable = {}
        self.digests: dict[str, dict[str, str]] = {}  # by kind and image
        self._wrong: dict[str, list[str]] = {}
        self._kinds = [kind for kind in SPARSE if any(kind in split.sparse for split in splits)]
        self._place: Path | None = None
        for split in splits:
            try:
                self._read(split)
            except DataError:
                continue

    def _read(self, split: Split) -> None:
        if split.tag_source == FROM_MASKS and split.tag_file is not None and not self.tags:
            self._place = split.tag_file.parent
            self.tags = read_tags(split.tag_file, tuple(self.dataset.classes))
        for kind, said in split.marks.items():
            if said.source == FROM_MASKS and split.place is not None and kind not in self.digests:
                self._place = split.place
                self.digests[kind] = read_index(split.place, kind, "")

    def look(self, id: str, mask: np.ndarray) -> None:
        """Compare what was made of one image, H W uint8, with its mask."""
        if id in self.tags:
            none = {IGNORE, self.dataset.background}
            if set(mask.tobytes()) - none != set(self.tags[id]) - none:  # uint8: a byte is a class id
                self._wrong.setdefault(TAGS, []).append(id)
        for kind, digests in self.digests.items():
            if id in digests and mark_digest(made_of(kind, self.dataset, id, mask)) != digests[id]:
                self._wrong.setdefault(kind, []).append(id)

    def problems(self) -> Iterator[str]:
        """Yield a sentence on each of tags, points, strokes and boxes that are not of these masks."""
        kinds = "".join(f" --kind {kind}" for kind in self._kinds)
        make = command(self.dataset.name, root_of(self._place), f"--make{kinds}")
        for what, ids in sorted(self._wrong.items()):
            yield (
                f"the {what} of {some(ids)} of {self.dataset.name} were made of masks, and the masks are now "
                f"others; make them anew with `{make}`."
            )
