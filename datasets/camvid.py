"""CamVid: 701 street frames, 11 classes. Scored on test, whose drive is not in train as that of val is."""

from __future__ import annotations

from pathlib import Path

from datasets.folder import Folder


class CamVid(Folder):
    def __init__(self, root: Path) -> None:
        super().__init__(root / "camvid", "camvid")
