"""All trials, in a short form for every change and a long one."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

from . import calls, damage, inputs, races, stops
from .trials import Trial

Part = Callable[[Path, random.Random, int], Iterator[Trial]]
PARTS: dict[str, tuple[Part, int, int]] = {  # what is tried, how often in the short form and in the long one
    "stops": (stops.in_process, 14, 120),
    "processes": (stops.processes, 3, 20),
    "interrupted": (damage.interrupted, 2, 12),
    "finished": (damage.finished, 6, 40),
    "published": (damage.published, 4, 30),
    "seeds": (damage.seeds, 2, 20),
    "inputs": (inputs.inputs, 2, 45),
    "masks": (inputs.masks, 100, 500),
    "calls": (calls.calls, 24, 90),
    "races": (races.races, 1, 10),
}


def trials(name: str, work: Path, long: bool) -> Iterator[Trial]:
    part, short, many = PARTS[name]
    place = work / name
    place.mkdir(parents=True)
    yield from part(place, random.Random(name), many if long else short)
