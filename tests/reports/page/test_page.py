"""The HTML page: read by a parser, and opened in a real browser where there is one."""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from browsing import Tree, needs_chromium, store
from PIL import Image
from playwright.sync_api import Browser, Page

from bench.records.folders import RunFolder
from bench.records.schema import Result
from reports.page.html import UNQUOTED
from reports.report import write_report

HOSTILE = [
    "<script>window.hit = 1</script>",
    "</style><img src=x onerror='window.hit = 1'>",
    '" onload="window.hit = 1',
    "</script><script>window.hit = 1</script>",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;b&gt;&#x3c;b&#x3e;",
    "javascript:window.hit=1",
    "a\x1b[31mb\u202ec\nd",
    "<svg/onload=window.hit=1>",
]


def runs(make: Any) -> list[Result]:
    """Ten rows; their means are 40.0, 42.0, 9.5, ... and one cell is missing."""
    found = [make(m, seed=s) for s, m in enumerate([0.39, 0.41])]
    found += [make(m, method="fixmatch", seed=s) for s, m in enumerate([0.41, 0.43])]
    # One has a curve, so that there is an oracle: its column stands apart.
    found += [make(0.095, method="weak", curve=[0.05, 0.095]), make(0.5, method="supervised", split="full")]
    found += [make(0.3 + i / 100, method=f"method_{i}", split="full") for i in range(2)]
    return found


# The parser -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(make: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of ten rows and a picture sheet, which takes seconds to write. Read only."""
    root = tmp_path_factory.mktemp("written")
    store(root / "runs", *runs(make))
    Image.new("RGB", (3000, 900), "red").save(RunFolder(root / "runs" / "0").sheet)
    write_report([root / "runs"], root / "out")
    return root / "out" / "index.html"


def test_the_page_is_whole_and_needs_nothing_else(written: Path) -> None:
    text = written.read_text()
    tree = Tree(text)
    assert not tree.open, "elements left open"
    ids = [attributes["id"] for _, attributes in tree.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for link in tree.all("a"):
        assert str(link["href"]).removeprefix("#") in ids
    of_runs = [str(link["href"]) for link in tree.all("a") if "#run-" in str(link["href"])]
    assert len(set(of_runs)) == 3, "of what to take: supervised, two runs on one split and one on the other"
    details = [text for tag, text in tree.texts if tag == "summary"]
    assert "How to read this picture" in details and "How to read this table" in details
    pictures = tree.all("img")
    assert pictures and all(str(picture["src"]).startswith("data:image/") for picture in pictures)
    assert all(picture["alt"] for picture in pictures)
    assert any("jpeg" in str(picture["src"])[:30] for picture in pictures), "the picture sheet"
    (photo,) = written.parent.glob("*.jpg")
    with Image.open(photo) as image:
        assert image.size == (1400, 420), "a sheet of 3000 pixels, reduced"
    assert not re.search(r"https?://(?!www\.w3\.org)", text), "an address"
    for _, attributes in tree.elements:
        assert not any(name.startswith("on") or name == "style" for name in attributes)


def test_the_browser_is_told_to_run_and_load_nothing_else(written: Path) -> None:
    text = written.read_text()
    (policy,) = [meta["content"] for meta in Tree(text).all("meta") if "http-equiv" in meta]
    assert policy and "default-src 'none'" in policy and "img-src data:" in policy and "unsafe" not in policy
    for name in ("style", "script"):
        (content,) = re.findall(f"<{name}>(.*?)</{name}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy


def test_it_says_what_the_markdown_says(written: Path) -> None:
    tree = Tree(written.read_text())
    markdown = written.with_name("report.md").read_text()
    assert re.findall(r"^#+ (.*)$", markdown, re.MULTILINE) == [
        text for tag, text in tree.texts if re.fullmatch("h[1-6]", tag)
    ]
    assert "40.0 ± 1.4 (2)" in tree.text("td") and "missing" in tree.text("td")
    assert any("uncommitted" in text for text in tree.text("td")), "a dirty commit is marked in its line"
    assert any("fewer than three seeds" in text for text in tree.text("li"))
    assert "bench run --method fixmatch --seed 1 --data-root data" in tree.text("td")
    assert not any("/home" in text for _, text in tree.texts), "folders of the machine"


def test_downloads_are_the_files_beside_the_page(written: Path) -> None:
    buttons = [button for button in Tree(written.read_text()).all("button") if "data-packed" in button]
    assert {Path(str(button["data-file"])).suffix for button in buttons} == {".csv", ".tex"}
    for button in buttons:
        content = gzip.decompress(base64.b64decode(str(button["data-packed"])))
        assert content == written.with_name(str(button["data-file"])).read_bytes()


@pytest.mark.parametrize(
    "name", [HOSTILE[0], *(pytest.param(n, marks=pytest.mark.slow) for n in HOSTILE[1:])]
)
def test_names_are_nothing_but_text(make: Any, tmp_path: Path, name: str) -> None:
    result = make(0.4, dataset=name, method=name, split=name, protocol=name, knobs={"k": name})
    plain_one = make(0.4)
    pages = []
    for folder, one in (("hostile", result), ("plain", plain_one)):
        store(tmp_path / folder, one)
        write_report([tmp_path / folder], tmp_path / f"{folder}-out")
        pages.append(Tree((tmp_path / f"{folder}-out" / "index.html").read_text()))
    hostile, plain = pages
    kinds = {tag for tag, _ in plain.elements}
    assert {tag for tag, _ in hostile.elements} == kinds and not hostile.open
    assert len(hostile.all("script")) == 1 and len(hostile.all("style")) == 1
    shown = re.sub(r"[\x00-\x1f\u202e]", "\N{REPLACEMENT CHARACTER}", name)
    assert any(shown in text for text in hostile.text("th"))
    assert not any("49" in text for text in hostile.text("th"))


@pytest.mark.slow
def test_equal_records_give_equal_pages(make: Any, tmp_path: Path) -> None:
    store(tmp_path / "runs", *runs(make))
    for name in ("a", "b"):
        write_report([tmp_path / "runs"], tmp_path / name)
    assert (tmp_path / "a" / "index.html").read_bytes() == (tmp_path / "b" / "index.html").read_bytes()


# The browser ------------------------------------------------------------------------------------------------


@pytest.fixture
def visit(browser: Browser, written: Path) -> Iterator[Callable[..., Page]]:
    """visit(width, colours) opens the page; at the end nothing may have been said or asked for."""
    said: list[str] = []
    asked: list[str] = []
    contexts = []

    def opened(width: int = 1280, colours: str = "light") -> Page:
        scheme: Any = colours
        context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(written.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert said == []
    assert {url for url in asked if not url.startswith(("data:", "blob:"))} == {written.as_uri()}


def column(page: Page, caption: str, number: int) -> list[str]:
    table = page.locator("figure.sheet", has=page.get_by_text(caption, exact=True)).locator("table")
    return table.locator(f"tbody tr > :nth-child({number + 1})").all_inner_texts()


def heading(page: Page, caption: str, name: str) -> Any:
    table = page.locator("figure.sheet", has=page.get_by_text(caption, exact=True)).locator("table")
    return table.locator("thead th").filter(has_text=name)


@needs_chromium
def test_pictures_are_in_the_page_once_and_saved_from_there_and_tables_are_unpacked(
    visit: Callable[..., Page], written: Path
) -> None:
    page, saved = visit(), Counter[str]()
    buttons = page.locator("button.save")
    assert page.locator("button.save[data-packed]").count() == 2 * page.locator("table").count()
    for button in buttons.locator("visible=true").all():
        ending = Path(button.get_attribute("data-file") or "").suffix
        if ending in (".csv", ".tex") and saved[ending]:
            continue  # a browser asks before it saves many
        with page.expect_download() as waiting:
            button.click()
        name, got = waiting.value.suggested_filename, waiting.value.path().read_bytes()
        assert got == written.with_name(name).read_bytes()
        saved[ending] += 1
        if ending in (".svg", ".jpg"):
            held = base64.b64encode(got).decode() if ending == ".jpg" else quote(got, safe=UNQUOTED)
            assert written.read_text().count(held) == 1
    assert set(saved) == {".svg", ".jpg", ".csv", ".tex"}
    assert saved[".svg"] + saved[".jpg"] == page.locator("img").count()


@needs_chromium
def test_a_click_on_a_heading_sorts(visit: Callable[..., Page]) -> None:
    page = visit()
    caption = "mIoU (%)"
    assert column(page, caption, 1)[0] == "40.0 ± 1.4 (2)", "the baseline is first until it is sorted"
    miou = heading(page, caption, "1_8")
    miou.locator("button").click()
    # As numbers: as texts 9.5 would be above 42.0. What is missing is last either way.
    shown = column(page, caption, 1)
    assert shown == ["42.0 ± 1.4 (2)", "40.0 ± 1.4 (2)", "9.5 (1)", "missing", "missing"]
    assert column(page, caption, 0)[:3] == ["fixmatch", "supervised", "weak"], "whole rows move"
    assert miou.get_attribute("aria-sort") == "descending"
    miou.locator("button").press("Enter")
    shown = column(page, caption, 1)
    assert shown == ["9.5 (1)", "40.0 ± 1.4 (2)", "42.0 ± 1.4 (2)", "missing", "missing"]
    assert miou.get_attribute("aria-sort") == "ascending"
    # Rows without a value stand between those that have one, until they are sorted.
    full = heading(page, caption, "full")
    assert "missing" in column(page, caption, 2)[:-2]
    for wanted in (["50.0 (1)", "31.0 (1)", "30.0 (1)"], ["30.0 (1)", "31.0 (1)", "50.0 (1)"]):
        full.locator("button").click()
        assert column(page, caption, 2) == [*wanted, "missing", "missing"]
    names = heading(page, caption, "method")
    names.locator("button").click()
    assert column(page, caption, 0) == ["fixmatch", "method_0", "method_1", "supervised", "weak"]
    assert (names.get_attribute("aria-sort"), miou.get_attribute("aria-sort")) == ("ascending", "none")
    caption = "difference to supervised: mIoU (percent points)"
    heading(page, caption, "difference").first.locator("button").click()
    shown = column(page, caption, 2)
    assert shown == ["+2.0", "-19.0", "-20.0", "-29.5", "missing", "missing"], "by their signs too"


@needs_chromium
def test_words_among_numbers_stay_last_and_signs_count(visit: Callable[..., Page]) -> None:
    page, caption = visit(), "mIoU (%)"
    page.evaluate(
        """(texts) => [...document.querySelector("#mIoU table").tBodies[0].rows].forEach(
            (row, i) => { row.cells[1].textContent = texts[i]; })""",
        ["one seed", "-48.6 to +60.3", "reference", "+2.9 to +16.2", "-3.1 to +21.1"],
    )
    numbers = ["+2.9 to +16.2", "-3.1 to +21.1", "-48.6 to +60.3"]
    for wanted in (numbers, numbers[::-1]):
        heading(page, caption, "1_8").locator("button").click()
        assert column(page, caption, 1) == [*wanted, "one seed", "reference"]


@needs_chromium
def test_a_heading_without_a_name_is_no_button(visit: Callable[..., Page]) -> None:
    page = visit()
    assert page.locator("thead td:empty").count() == 1
    assert all(page.locator("thead button").all_inner_texts())


@needs_chromium
def test_every_table_can_be_sorted_by_every_column(visit: Callable[..., Page]) -> None:
    page = visit()
    lost = page.evaluate(
        """() => [...document.querySelectorAll("table")].filter((table) => {
            const rows = () => [...table.tBodies[0].rows].map((row) => row.innerText).sort().join();
            const before = rows();
            return [...table.querySelectorAll("button")].some((button) => {
                button.click();
                const done = button.parentElement.getAttribute("aria-sort") !== "none";
                return !done || rows() !== before;
            });
        }).length"""
    )
    assert lost == 0 and page.locator("table").count() > 8


@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_it_can_be_read_on_a_phone_and_on_a_desk(visit: Callable[..., Page], width: int) -> None:
    page = visit(width)
    measured = page.evaluate(
        """() => ({
            page: document.documentElement.scrollWidth,
            text: Math.min(...[...document.querySelectorAll("p, li, td, th, figcaption, button")].map(
                (one) => parseFloat(getComputedStyle(one).fontSize))),
            pictures: [...document.images].map(
                (one) => [one.complete && one.naturalWidth > 0, one.clientWidth]),
            buttons: Math.min(...[...document.querySelectorAll("button")].filter(
                (one) => one.checkVisibility()).map((one) => one.clientHeight)),
            wide: [...document.querySelectorAll("body *")].filter((one) => !one.closest(".scroll")
                && one.getBoundingClientRect().right > innerWidth + 1).length,
        })"""
    )
    assert measured["page"] <= width and measured["wide"] == 0, "only tables and pictures move sideways"
    assert measured["text"] >= 13.9 and measured["buttons"] >= 24
    assert [one for one in measured["pictures"] if not one[0] or one[1] < 350] == []


@needs_chromium
@pytest.mark.parametrize("colours", ["light", "dark"])
def test_text_stands_out_from_its_ground(visit: Callable[..., Page], colours: str) -> None:
    page = visit(colours=colours)
    ratios = page.evaluate(
        """() => {
            const light = (colour) => {
                const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map((x) => x / 255)
                    .map((x) => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
                return 0.2126 * r + 0.7152 * g + 0.0722 * b;
            };
            const ground = (one) => {
                const colour = getComputedStyle(one).backgroundColor;
                return /, 0\\)$/.test(colour) && one.parentElement ? ground(one.parentElement) : colour;
            };
            const all = document.querySelectorAll("h1, h2, p, li, a, td, th, figcaption, button");
            return [...all].map((one) => {
                const [a, b] = [light(getComputedStyle(one).color), light(ground(one))];
                return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
            });
        }"""
    )
    assert min(ratios) >= 4.5


@needs_chromium
def test_hostile_names_do_nothing_in_a_browser(browser: Browser, make: Any, tmp_path: Path) -> None:
    results = [make(0.4, method=name, split=name, knobs={"k": name}) for name in HOSTILE]
    store(tmp_path / "runs", *results)
    write_report([tmp_path / "runs"], tmp_path / "out")
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((tmp_path / "out" / "index.html").as_uri())
    page.locator("thead button").first.click()
    assert page.evaluate("window.hit") is None
    assert len([url for url in asked if not url.startswith("data:")]) == 1
    page.close()
