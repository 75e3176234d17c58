"""Errors that a user can mend. Each message is a sentence that names the file or key at fault and says what
to do."""

import difflib
import unicodedata
from collections.abc import Iterable


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


class Interrupted(BenchError):
    """Stopped by a signal; the run can be resumed."""

    exit_code = 75


def plain(text: str) -> str:
    """Replace control, bidirectional and line-breaking characters: a name drives no terminal."""
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(c)[0] == "C" or c in "\u2028\u2029" else c
        for c in text
    )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """End a sentence about an unknown name: "; did you mean 'u2pl'? Known: fixmatch, u2pl"."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    meant = f"; did you mean {close[0]!r}?" if close else "."
    return f"{meant} Known: {', '.join(names) or 'none'}"
