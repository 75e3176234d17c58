"""The display for a person while a run goes on: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.segment import Segment

from bench.errors import plain


class Terminal(Console):
    """Where all that a person reads is printed: no name in it drives the terminal."""

    def __init__(self, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, emoji=False)  # a class may be called :car:

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control is None and not segment.text.isprintable():
                text = "\n".join(map(plain, segment.text.split("\n")))
                yield Segment(text, segment.style)
            else:
                yield segment


PLAIN_SECONDS = 15.0  # between plain lines, so that a log file stays short
SHORT = ("loss",)  # the figures that a line has room for; metrics.jsonl has all


class Display:
    """Shows one activity at a time ("train", "score student"), with count, rate, ETA and the loss.

    Args:
        verbose: Show every figure of a method, not the loss alone.
    """

    def __init__(self, console: Console | None = None, verbose: bool = False) -> None:
        self.verbose = verbose
        self.console = console or Terminal(stderr=True)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._name, self._total, self._first, self._began, self._said = "", 0, 0, 0.0, 0.0

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def start(self, name: str, total: int, done: int = 0) -> None:
        self.stop()
        self._name, self._total, self._first = name, total, done
        self._began = self._said = time.monotonic()
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[figures]}", markup=False),
                console=self.console,
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(name, total=total, completed=done, rate="", figures="")

    def update(self, done: int, figures: Mapping[str, float] | None = None) -> None:
        now = time.monotonic()
        rate = (done - self._first) / max(now - self._began, 1e-9)
        shown = "  ".join(f"{name} {value:.3f}" for name, value in self._chosen(figures or {}))
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, rate=f"{rate:.2f}/s")
            if figures:
                self._bar.update(self._task, figures=shown)
        elif now - self._said >= PLAIN_SECONDS or done == self._total:
            self._said = now
            eta = (self._total - done) / max(rate, 1e-9)
            self.say(f"{self._name} {done}/{self._total}  {rate:.2f}/s  ETA {eta:.0f} s  {shown}".rstrip())

    def _chosen(self, figures: Mapping[str, float]) -> Iterator[tuple[str, float]]:
        yield from (item for item in figures.items() if self.verbose or item[0] in SHORT)

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = None


class Quiet(Display):
    """Shows nothing."""

    def say(self, text: str) -> None: ...

    def start(self, name: str, total: int, done: int = 0) -> None: ...

    def update(self, done: int, figures: Mapping[str, float] | None = None) -> None: ...


@contextmanager
def counting(name: str) -> Iterator[Callable[[int, int], None]]:
    """Show how far a loop is: it calls what this gives with the number done and that of all, after each."""
    display = Display()
    begun = False

    def on_item(done: int, total: int) -> None:
        nonlocal begun
        if not begun:
            display.start(name, total)
            begun = True
        display.update(done)

    try:
        yield on_item
    finally:
        display.stop()
