"""CamVid: 701 street frames, 11 classes. Scored on test: its drive is not in train, while that of val is."""

from __future__ import annotations

from pathlib import Path

from datasets.folder import Folder


class CamVid(Folder):
    """Reads the folder root/camvid."""

    def __init__(self, root: Path) -> None:
        super().__init__(root / "camvid", "camvid")
