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


@pytest.fixture(scope="module")
def written(make: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report(runs(make), tmp_path_factory.mktemp("written"))


def test_five_questions_are_answered_in_the_html(written: Path) -> None:
    sentence, facts = answer(written)
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


def test_the_answer_comes_first_and_definitions_later(written: Path) -> None:
    text = written.read_text()
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


# Filters ----------------------------------------------------------------------------------------------------


def several(make: Any) -> list[Result]:
    """Two data sets, two kinds of labels, two rules of views."""
    own = {"method": {}, "protocol": {"views": "published"}}
    more = [
        make(
            at + s / 50 * at,
            seed=s,
            method=name,
            split="tags",
            dataset="birds",
            protocol_hash="b" * 16,
            config=own,
        )
        for name, at in (("supervised", 0.3), ("u2pl", 0.31))
        for s in range(3)
    ]
    return [*runs(make), *more]


def shown(page: Page) -> list[str]:
    return page.locator(".answer:not([hidden]) h3").all_text_contents()


@needs_chromium
def test_every_answer_can_be_brought_to_the_first_screen(browser: Browser, make: Any, tmp_path: Path) -> None:
    path = report(several(make), tmp_path)
    for width, height in SIZES.items():
        page = browser.new_page(viewport={"width": width, "height": height})
        page.goto(path.as_uri())
        assert len(shown(page)) == 4
        for dataset, split in (("birds", "tags"), ("camvid", "1_8"), ("camvid", "1_4"), ("camvid", "full")):
            page.get_by_label("show data set").select_option(dataset)
            page.get_by_label("show split").select_option(split)
            (name,) = shown(page)
            assert name.startswith(f"{dataset}, {split} (")
            found = in_view(page, 0)
            assert found["scrolled"] == 0 and all(found["text"]) and all(found["bars"])
        page.close()


@needs_chromium
def test_filters_choose_groups_and_a_link_to_a_hidden_one_shows_all(
    browser: Browser, make: Any, tmp_path: Path
) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(report(several(make), tmp_path).as_uri())
    groups = page.locator("section.group:not([hidden]) > h2")
    assert groups.count() == 2
    page.get_by_label("show labels").select_option("tags")
    assert groups.all_text_contents() == ["birds, protocol camvid_small, 100 steps"]
    assert page.locator("#All_answers tbody tr:visible").count() == 1, "nor does a table lead there"
    page.get_by_label("show labels").select_option("")
    page.get_by_label("show views").select_option("equal")
    assert groups.all_text_contents() == ["camvid, protocol camvid_small, 100 steps"]
    page.evaluate("location.hash = document.querySelector('section.group[hidden]').id")
    page.wait_for_function("document.querySelectorAll('section.group[hidden]').length === 0")
    assert page.get_by_label("show views").input_value() == ""
    page.close()


@needs_chromium
def test_names_stay_on_the_screen_when_a_table_moves(browser: Browser, make: Any, tmp_path: Path) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(report(several(make), tmp_path).as_uri())
    places = page.evaluate(
        """() => [...document.querySelectorAll(".scroll")].filter((one) => one.scrollWidth > one.clientWidth)
            .filter((one) => one.querySelector("tbody th")).map((one) => {
                one.scrollLeft = one.scrollWidth;
                const name = one.querySelector("tbody th").getBoundingClientRect();
                return [one.scrollLeft, name.left, name.right];
            })"""
    )
    assert len(places) > 5
    assert all(moved > 0 and 0 <= left < right < 390 for moved, left, right in places)
    page.close()


def test_what_is_normal_stands_beside_the_health_figures(make: Any, tmp_path: Path) -> None:
    store(tmp_path / "runs", make(0.4))
    line = '{"step": 10, "loss": 1.0, "reliable_share": 0.8, "queue_fill": [0.1, 0.2, 0.3]}'
    (tmp_path / "runs" / "0" / "metrics.jsonl").write_text(line + "\n")
    write_report([tmp_path / "runs"], tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    health = text.split("### Health")[1].split("### ")[0]
    assert re.findall(r"\*\*(.*?)\*\*: ", health) == ["Shares", "Queue"], "of the figures that are here"
    assert "Normal: the sum of the terms" in text.split("### Learning curves")[1].split("### ")[0]
