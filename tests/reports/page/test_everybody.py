"""Everybody can read the page: axe-core in Chromium, keyboard, bad input."""

from __future__ import annotations

from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from browsing import HAVE_CHROMIUM, store
from playwright.sync_api import Browser, Page

from reports.report import write_report

pytestmark = [pytest.mark.slow, HAVE_CHROMIUM]
AXE = resources.files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
SIZES = {390: 844, 768: 1024, 1280: 800}


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory, make: Any) -> Path:
    """A page with an answer of each kind, health figures, a long table and a photo-free rest."""
    root = tmp_path_factory.mktemp("rich")
    names = ("supervised", *(f"method_{number}" for number in range(9)))
    results = [
        make(0.4 + number / 50 + (number + 1) * seed / 300, method=name, seed=seed)
        for number, name in enumerate(names)
        for seed in range(3)
    ]
    results += [make(0.5, split="full"), make(0.3, split="tags", dataset="birds", method="u2pl")]
    store(root / "runs", *results)
    line = '{"step": 10, "loss": 1.0, "reliable_share": 0.8, "queue_fill": [0.1, 0.2, 0.3]}\n'
    for number in range(3, 6):
        (root / "runs" / str(number) / "metrics.jsonl").write_text(line)
    write_report([root / "runs"], root / "out")
    return root / "out" / "index.html"


def violations(page: Page) -> list[str]:
    """What axe-core objects to, with the place."""
    page.evaluate(AXE + "; undefined")
    found: list[dict[str, Any]] = page.evaluate("() => axe.run().then((found) => found.violations)")
    return [
        f"{one['id']}: {node['target']} {node['failureSummary']}" for one in found for node in one["nodes"]
    ]


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", SIZES)
def test_axe_finds_nothing(browser: Browser, rich: Path, width: int, colours: Any) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": SIZES[width]}, color_scheme=colours, bypass_csp=True
    )
    page = context.new_page()
    page.goto(rich.as_uri())
    # What is folded would be passed over.
    page.evaluate("() => document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert violations(page) == []
    context.close()


def test_axe_would_find_something(browser: Browser, rich: Path) -> None:
    context = browser.new_context(bypass_csp=True)
    page = context.new_page()
    page.goto(rich.as_uri())
    page.evaluate("() => { document.querySelector('.answer p').style.color = '#cccccc'; }")
    assert any(said.startswith("color-contrast") for said in violations(page))
    context.close()


def test_the_keyboard_reaches_filters_names_and_tables_in_order(browser: Browser, rich: Path) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(rich.as_uri())
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("() => document.activeElement.tagName"))
    assert reached[:2] == ["SELECT", "SELECT"] and {"DIV", "BUTTON"} <= set(reached)
    for _ in range(2):
        page.keyboard.press("Shift+Tab")
    outline = page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none", "where the keyboard is can be seen"
    # What is read aloud: the answer before the contents, headings without a gap.
    levels = page.evaluate(
        "() => [...document.querySelectorAll('h1, h2, h3, h4, h5')].map((one) => +one.tagName[1])"
    )
    assert levels[0] == 1 and all(after <= before + 1 for before, after in pairwise(levels))
    page.close()


BAD: dict[str, Any] = {
    "one run": lambda make: [make(0.4)],
    "two data sets of one name": lambda make: [make(0.4), make(0.5, classes=["a", "b", "c"])],
    "40 methods": lambda make: [
        make(
            0.4 + number / 100 + seed * (number + 1) / 1000,
            method=f"method_{number}" if number else "supervised",
            seed=seed,
        )
        for number in range(41)
        for seed in range(2)
    ],
    "long names": lambda make: [
        make(
            0.4 + seed / 100,
            seed=seed,
            method=method,
            classes=["c" * 200, "d" * 200, "e " * 100],
            split="s" * 200,
        )
        for method in ("supervised", "m" * 200)
        for seed in range(3)
    ],
    "no reference": lambda make: [make(0.4, method="u2pl", seed=seed) for seed in range(2)],
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_a_readable_page(browser: Browser, make: Any, tmp_path: Path, name: str) -> None:
    """Records of before digests and samples, all of them: the factory gives no others."""
    store(tmp_path / "runs", *BAD[name](make))
    write_report([tmp_path / "runs"], tmp_path / "out")
    said: list[str] = []
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto((tmp_path / "out" / "index.html").as_uri())
    assert page.locator(".answer > p").first.inner_text()
    assert page.locator(".answer dl div").count() >= 4
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    wide = page.evaluate(
        """() => [...document.querySelectorAll("body *")].filter((one) => !one.closest(".scroll")
            && one.getBoundingClientRect().right > innerWidth + 1).map((one) => one.outerHTML.slice(0, 80))"""
    )
    assert wide == [] and said == []
    page.close()
