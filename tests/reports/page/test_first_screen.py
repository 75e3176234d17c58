"""The first screen answers: read by a parser, and measured in a browser."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from browsing import Tree, needs_chromium, store
from playwright.sync_api import Browser, Page

from bench.records.schema import Result
from reports.report import write_report

SIZES = {390: 844, 768: 1024, 1280: 800}
EQUAL = {"method": {}, "protocol": {"views": "equal"}}


def runs(make: Any, methods: int = 3) -> list[Result]:
    """A clear answer on 1_8, a tie on 1_4, and nothing known on full."""
    found = [
        make(0.40 + number / 100 + (number % 4 + 1) * draw / 400, method=name, draw=draw, config=EQUAL)
        for number, name in enumerate(["supervised", *(f"method_{n}" for n in range(methods))])
        for draw in range(6)
    ]
    found += [make(at, seed=s, split="1_4", config=EQUAL) for s, at in enumerate([0.4, 0.42])]
    found += [make(at, seed=s, method="u2pl", split="1_4", config=EQUAL) for s, at in enumerate([0.43, 0.42])]
    return [*found, make(0.5, split="full", config=EQUAL)]


def report(results: list[Result], folder: Path) -> Path:
    store(folder / "runs", *results)
    write_report([folder / "runs"], folder / "out")
    return folder / "out" / "index.html"


def answer(page: Path, number: int = 0) -> tuple[str, dict[str, str]]:
    """The sentence and the facts of an answer, as they stand in the HTML."""
    text = page.read_text()
    part = text.split('class="answer"')[1 + number].split("</section>")[0]
    found = re.findall(r"<dt>(.*?)</dt> <dd>(.*?)</dd>", part)
    return re.findall(r"<p>(.*?)</p>", part)[0], dict(found)


def test_five_questions_are_answered_in_the_html(make: Any, tmp_path: Path) -> None:
    sentence, facts = answer(report(runs(make), tmp_path))
    # Draw 0 to 5 of method_2 has 43 % and 1 point a draw, supervised 40 % and a quarter: 45.5 and 40.6 % in
    # the mean. The difference is 3 points and 0.75 a draw: 4.875 with a standard error of 0.573. Of four
    # comparisons together, t of 5 degrees of freedom goes 3.810 of these to both sides.
    assert sentence.startswith("method_2 is best: 45.5 % mIoU, "), "which method is best?"
    assert "+4.9 points (+2.7 to +7.1) over supervised (40.6 % mIoU)" in sentence, "by how much?"
    sure = "P(better by over 1 point) 1.00, P(equal within it) 0.00; 6 draws, 1 seed each"
    assert facts["How sure"].startswith(sure), "how sure is that?"
    assert facts["Cost of a run"] == "50 s, 512 MiB (supervised: 50 s, 512 MiB).", "at what cost?"
    labels = "46 masks, 321 images without labels; 100 steps; equal views."
    assert facts["Labels"] == labels, "on which labels?"
    assert list(facts)[-1] == "Warning" and "Would change it" in facts


def test_the_answer_comes_first_and_definitions_later(make: Any, tmp_path: Path) -> None:
    text = report(runs(make), tmp_path).read_text()
    places = [text.index(said) for said in ("method_2 is best", "<nav", 'id="How_to_read"', 'id="Warnings"')]
    assert places == sorted(places)
    tree = Tree(text)
    assert tree.text("h3")[:3] == ["camvid, 1_8 (46)", "camvid, 1_4 (92)", "camvid, full (367)"]


def in_view(page: Page, number: int) -> dict[str, Any]:
    found: dict[str, Any] = page.evaluate(
        """(number) => {
            const of = document.querySelectorAll(".answer:not([hidden])")[number];
            const inside = (one) => {
                const at = one.getBoundingClientRect();
                return at.width > 0 && at.top >= 0 && at.bottom <= innerHeight && at.left >= 0
                    && at.left < innerWidth;
            };
            const rows = [...of.querySelectorAll("tbody tr")].filter((row) => row.offsetHeight);
            return {
                text: [...of.querySelectorAll("h3, p, dl div")].filter((one) => one.offsetHeight)
                    .map(inside),
                rows: rows.map(inside),
                bars: rows.map((row) => inside(row.querySelector("svg"))),
                scrolled: scrollY,
            };
        }""",
        number,
    )
    return found


@needs_chromium
@pytest.mark.parametrize("width", SIZES)
@pytest.mark.parametrize("methods", [3, 40])
def test_the_first_screen_holds_the_answer(
    browser: Browser, make: Any, tmp_path: Path, width: int, methods: int
) -> None:
    page = browser.new_page(viewport={"width": width, "height": SIZES[width]})
    page.goto(report(runs(make, methods), tmp_path).as_uri())
    found = in_view(page, 0)
    assert found["scrolled"] == 0 and all(found["text"]) and len(found["text"]) == 7
    assert all(found["rows"]) and len(found["rows"]) == min(methods, 7)
    assert all(found["bars"]) and len(found["bars"]) == min(methods, 7)
    if methods > 7:
        more = page.locator(".answer").first.get_by_role("button", name="33 more rows")
        more.click()
        assert len(in_view(page, 0)["rows"]) == 40 and more.get_attribute("aria-expanded") == "true"
    page.close()
