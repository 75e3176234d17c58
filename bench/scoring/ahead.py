"""Reading ahead: threads decode images while the network works on those before them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from bench.machine import cores

Item = TypeVar("Item")
Found = TypeVar("Found")
MOST_READERS = 4  # a decoder holds the interpreter's lock for a part of its time, so that more bring little


def readers_for(device: str) -> int:
    """Count the threads that keep a network busy; one on the CPU, of which it takes most itself."""
    return min(MOST_READERS, cores()) if device.startswith("cuda") else 1


def read_ahead(
    read: Callable[[Item], Found], items: Iterable[Item], device: str
) -> Generator[Found, None, None]:
    """Yield `read` of each item, in their order, while the next ones are read; close it to end its threads.

    An error comes where its item would have come.

    Args:
        read: Called in several threads at once.
        device: Where a network waits for what is read.
    """
    left, readers = iter(items), readers_for(device)
    with ThreadPoolExecutor(readers) as pool:
        waiting = deque(pool.submit(read, item) for item in islice(left, 2 * readers))
        try:
            while waiting:
                found = waiting.popleft().result()
                waiting.extend(pool.submit(read, item) for item in islice(left, 1))
                yield found
        finally:
            for one in waiting:
                one.cancel()
