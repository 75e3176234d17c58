"""MSRC-21: small photographs with few classes each, for learning from image tags. The same images come in two
forms, with and without a background class."""

from __future__ import annotations

from pathlib import Path

from datasets.folder import Folder


class Msrc21(Folder):
    """All 21 classes; there is no background class."""

    def __init__(self, root: Path) -> None:
        super().__init__(root / "msrc21", "msrc21")


class Msrc21Objects(Folder):
    """15 objects on background, which is building, grass, tree, sky, water and road."""

    def __init__(self, root: Path) -> None:
        super().__init__(
            root / "msrc21",
            "msrc21_objects",
            labels="labels_objects",
            classes_file="classes_objects.txt",
            tags_file="tags_objects.json",
            background=0,
        )
