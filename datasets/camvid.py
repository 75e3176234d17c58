"""CamVid: 701 street frames, 11 classes. Scored on test: its drive is not in train, while that of val is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.errors import DataError
from datasets.folder import Folder
from datasets.splits import Split

DRIVE = "0006R0"
DRIVE_SPLIT = f"drive_{DRIVE}"
DRIVE_ORIGIN = {
    "lists": f"The pixels of all training ids of the drive {DRIVE}, those that begin with its name, and "
    "nothing of the other two drives. Frames of a drive are a second apart, so a share of all drives labels "
    "nearly every scene; this split labels one drive, the one of the three that is in neither val nor test. "
    "It holds every class.",
    "scored_list": "test",
}


class CamVid(Folder):
    """Reads the folder root/camvid."""

    def __init__(self, root: Path) -> None:
        super().__init__(root / "camvid", "camvid")


def drive_split(train_ids: Sequence[str], eval_ids: Sequence[str]) -> Split:
    """Return the split that labels one drive. Ids are frames such as "0006R0_f00930". Raises DataError where
    none is of the drive."""
    pixel = tuple(sorted(id for id in train_ids if id.startswith(f"{DRIVE}_")))
    if not pixel:
        raise DataError(f"no training id of camvid begins with {DRIVE}_; restore train.txt.")
    none = tuple(sorted(set(train_ids).difference(pixel)))
    return Split("camvid", DRIVE_SPLIT, pixel, (), none, tuple(sorted(eval_ids)))
