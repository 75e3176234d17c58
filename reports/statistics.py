"""Statistics over seeds. Pure functions of numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Summary:
    """Mean and spread of n values; one value has no spread."""

    mean: float
    spread: float | None  # sample standard deviation (ddof=1)
    n: int


def summarise(values: Iterable[float]) -> Summary:
    """Mean, sample standard deviation and count of at least one value."""
    array = np.asarray(list(values), dtype=np.float64)
    if array.size == 0:
        raise ValueError("no values to summarise")
    spread = float(array.std(ddof=1)) if array.size > 1 else None
    return Summary(mean=float(array.mean()), spread=spread, n=int(array.size))
