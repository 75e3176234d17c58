"""`camvid_dusk`: from CamVid's drives by day to its drive at dusk, of which one half is scored.

Source: the frames of `train` that were taken by day, 305 of the drives 0006R0 and 0016E5. Target: the 62
frames of 0001TP in `train`. Scored: the 62 frames of 0001TP in `test`, whose other drive is by day and left
out. There is no held-out list: `val` is of a drive by day.
"""

from __future__ import annotations

from pathlib import Path

from datasets.camvid import CamVid
from datasets.pairs import TARGET, Pair

DUSK = "0001TP_"


class CamVidDusk(Pair):
    """Reads the folder root/camvid."""

    def __init__(self, root: Path) -> None:
        super().__init__("camvid_dusk", CamVid(root), CamVid(root))
        self.heldout = None

    def listed(self, domain: str, listing: str) -> tuple[str, ...]:
        frames = super().listed(domain, listing)
        return tuple(id for id in frames if id.startswith(DUSK) == (domain == TARGET))
