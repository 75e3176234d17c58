"""Is a file or folder there, and is it one. What lies in its place is not nothing: taken for nothing, another
source would be read in its place unsaid."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from bench.errors import DataError


def refuse_no_file(path: Path) -> None:
    """Raise DataError for what is missing or is no file: a named pipe or a device would never answer."""
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise DataError(
                f"{path} is a link to {os.readlink(path)}, which does not exist; put the file itself there."
            ) from None
        raise DataError(f"{path} does not exist; restore the file or leave it out.") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); make it readable or fetch it again.") from error
    if not regular:
        raise DataError(f"{path} is no plain file (a folder, a pipe or a device); put the file itself there.")


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
