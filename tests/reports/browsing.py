"""What tests of the page share: runs in folders, the page read by a parser, and a real browser."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from bench.records.folders import RunFolder
from bench.records.schema import Result

VOID = {"meta", "link", "img", "br", "hr", "input"}
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
HAVE_CHROMIUM = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")


def needs_chromium(test: Callable[..., None]) -> Callable[..., None]:
    """Skip the test where there is no Chromium. Pages in a browser take seconds each, so it is a slow one."""
    return pytest.mark.slow(HAVE_CHROMIUM(test))


def store(root: Path, *results: Result) -> None:
    for number, result in enumerate(results):
        folder = RunFolder(root / str(number))
        folder.write_result(result)
        start = {
            "git": {"commit": "0123456789abcdef", "dirty": number == 1},
            "time": f"2026-01-0{number % 9 + 1}T10:00:00+00:00",
            "command": f"bench run --method {result.method} --seed {result.seed} --data-root /home/me/data",
        }
        folder.add_provenance(start)
        lines = [{"step": step, "loss": 2.0 - step / 100, "labeled": 1.0} for step in range(10, 101, 10)]
        folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))


class Tree(HTMLParser):
    """Every element with its attributes, and every text by the element it stands in."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute of {tag} occurs twice"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1], data.strip()))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, tag: str) -> list[str]:
        return [data for name, data in self.texts if name == tag]


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # As root, which a container often is, its sandbox does not start.
        sandbox = os.geteuid() != 0
        found = playwright.chromium.launch(
            executable_path=CHROMIUM, args=list(FLAGS), chromium_sandbox=sandbox
        )
        yield found
        found.close()
