"""What a command answers when it is typed in the process of a test: see the fixture `typed`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    def refused(self, code: int, *words: str) -> None:
        """One sentence on stderr, with these words, and no traceback."""
        assert self.code == code, self
        assert re.search("^error: ", self.err, re.MULTILINE) and "Traceback" not in self.err, self
        for word in words:
            assert word in self.err, self


Typed = Callable[..., Outcome]
