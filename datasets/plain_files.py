"""Is a file or folder there, and is it one. What lies in its place is not nothing: taken for nothing, another
source would be read in its place unsaid."""

from __future__ import annotations

import os
from pathlib import Path

from bench.errors import DataError, refuse_no_file


def is_there(path: Path) -> bool:
    """Whether there is a file. Raises DataError for what lies in its place and is none."""
    if not _lies(path):
        return False
    refuse_no_file(path)
    return True


def is_folder(path: Path) -> bool:
    """Whether there is a folder. Raises DataError for what lies in its place and is none."""
    if not _lies(path):
        return False
    if not os.path.isdir(path):
        raise DataError(
            f"{path} is no folder (a file, a pipe or a link that leads to none); put the folder itself there."
        )
    return True


def _lies(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError):  # whoever reads it says why it cannot be
        return True
    return True
