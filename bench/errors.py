"""Errors that a user can mend, and the checks of a path or a name that raise them everywhere. Each message is
a sentence that names the file or key at fault and says what to do."""

import os
import stat
import unicodedata
from collections.abc import Iterable
from pathlib import Path

LONGEST_NAME = 200  # bytes: a file system takes 255, and endings are added


class BenchError(Exception):
    exit_code = 1


class ConfigError(BenchError):
    """Usage or configuration."""

    exit_code = 2


class InUse(ConfigError):
    """The run is held by another process; a sweep looks at it again later."""

    exit_code = 6


class DataError(BenchError):
    """Data missing or invalid."""

    exit_code = 3


class Regression(BenchError):
    """A figure is beyond the tolerance of its baseline, or a table differs from its records."""

    exit_code = 4


class MachineError(BenchError):
    """The machine, or a disk of it, cannot do what is asked."""

    exit_code = 5


class Interrupted(BenchError):
    """Stopped by a signal; the run can be resumed."""

    exit_code = 75


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


def read_file(path: Path) -> bytes:
    """Read a file as `read_bytes` does, which would wait for a pipe and fill the memory from a device.

    Raises DataError where something else than a file is there, and OSError where nothing is.
    """
    if path.exists():
        refuse_no_file(path)
    return path.read_bytes()


def resolved(path: Path) -> Path:
    """Follow the links of a path. Raises ConfigError for one that leads back to itself."""
    try:
        return path.resolve()
    except RuntimeError as error:
        raise ConfigError(
            f"{first_there(path)} is a link that leads back to itself; give another folder."
        ) from error


def first_there(path: Path) -> Path:
    """Find the path, or the nearest above it, where anything lies, be it a link that leads nowhere."""
    return next((place for place in (path, *path.parents) if os.path.lexists(place)), path)


def plain(text: str) -> str:
    """Replace control, bidirectional and line-breaking characters: a name drives no terminal."""
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(c)[0] == "C" or c in "\u2028\u2029" else c
        for c in text
    )


def check_name(name: str, what: str) -> None:
    """Raise ConfigError unless `name` can name `what`, such as "a data set", in every command and on every
    system: letters of any script, digits, _ . + -, and one of the first three in front."""
    fits = all(unicodedata.category(c)[0] in "LMN" or c in "_.+-" for c in name)
    begins = name[:1] == "_" or unicodedata.category(name[:1] or " ")[0] in "LN"
    if fits and begins and len(name.encode()) <= LONGEST_NAME:
        return
    kept = "".join(c if unicodedata.category(c)[0] in "LMN" or c in "_.+-" else "_" for c in name[:40])
    other = kept.strip("_.+-")
    such = f", such as {other!r}" if unicodedata.category(other[:1] or " ")[0] in "LN" else ""
    raise ConfigError(
        f"{name[:80]!r} cannot name {what}: a name has letters, digits and _ . + - and no space, and begins "
        f"with a letter, a digit or _; give it another name{such}."
    )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """End a sentence about an unknown name: "; did you mean 'u2pl'? Known: fixmatch, u2pl".

    Of keys, such as "protocol.steps", those of the same section are listed, and sections alone where the word
    names none: "dataset, protocol.*, seed".
    """
    names = sorted(known)
    near = nearest(word, names)
    meant = f"; did you mean {near!r}?" if near else "."
    section = word.rpartition(".")[0]
    listed = [name for name in names if section and name.startswith(f"{section}.")]
    if not listed:
        parts = (name.partition(".") for name in names)
        listed = list(dict.fromkeys(f"{first}.*" if dot else first for first, dot, _ in parts))
    return f"{meant} Known: {', '.join(listed) or 'none'}"


def nearest(word: str, names: Iterable[str]) -> str | None:
    """Find the name that was meant: nearest("trian", ["list", "train"]) gives "train".

    At most two slips, and one for each three letters: a wrong, missing, extra or swapped letter; capitals
    are no slip. A key may be given by its last part: "steps" means "protocol.steps". None where no name is
    so near.
    """
    found: list[tuple[int, int, str]] = []
    for name in (key.removesuffix(".*") for key in names):
        asked = name.rpartition(".")[2] if "." not in word else name
        for one in {name, asked}:
            slips = _slips(word.casefold(), one.casefold())
            if slips <= min(2, max(len(word), len(one)) // 3):
                found.append((slips, name.count("."), name))  # "lr" is the protocol's, not its classifier's
    return min(found)[2] if found else None


def _slips(word: str, name: str) -> int:
    """Count the slips between two words: the Damerau-Levenshtein distance, where no letter is touched twice.
    E.g. 1 for two letters that are swapped."""
    before: list[int] = []
    last = list(range(len(name) + 1))
    for i, letter in enumerate(word, 1):
        row = [i]
        for j, other in enumerate(name, 1):
            row.append(min(last[j] + 1, row[-1] + 1, last[j - 1] + (letter != other)))
            if i > 1 and j > 1 and letter == name[j - 2] and word[i - 2] == other:
                row[-1] = min(row[-1], before[j - 2] + 1)
        before, last = last, row
    return last[-1]
