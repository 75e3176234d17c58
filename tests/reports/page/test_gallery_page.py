"""Pictures of predictions in a browser: they swipe, compare and show errors, by mouse and by key."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import Tree, needs_chromium
from PIL import Image
from playwright.sync_api import Browser, Page
from test_page import HOSTILE

from bench.records.folders import RunFolder
from bench.records.samples import Pictures, write_samples
from bench.scoring.predictions import as_png, palette_of
from reports.report import write_report

PALETTE = palette_of(np.eye(3, dtype=np.uint8) * 200)
TRUTH = np.repeat(np.arange(3, dtype=np.uint8), 20)[None].repeat(40, 0)


def photograph(path: Path) -> bytes:
    Image.new("RGB", TRUTH.shape[::-1], "teal").save(path, "JPEG")
    return path.read_bytes()


def write(make: Any, root: Path, methods: list[str], ids: list[str]) -> Path:
    """A report of runs whose predictions are wrong in as many columns as the method has before it."""
    image = photograph(root / "photograph.jpg")
    for number, method in enumerate(methods):
        predicted = TRUTH.copy()
        predicted[:, : 2 * number] = 2
        run = RunFolder(root / "runs" / "set" / "s" / str(number) / "0-a")
        run.write_result(make(0.4, method=method))
        of = {"prediction": as_png(predicted, PALETTE), "image": image, "truth": as_png(TRUTH, PALETTE)}
        write_samples(run, Pictures(True, dict.fromkeys(ids, of)))  # type: ignore[arg-type]
    write_report([root / "runs"], root / "out")
    return root / "out" / "index.html"


@pytest.fixture
def opened(make: Any, browser: Browser, tmp_path: Path) -> Iterator[Callable[[int], Page]]:
    """opened(width) shows a page of four methods and two images; nothing may be said or asked for."""
    file = write(make, tmp_path, ["supervised", "fixmatch", "u2pl", "cutmix"], ["a", "b"])
    said: list[str] = []
    asked: list[str] = []
    pages = []

    def visit(width: int) -> Page:
        page = browser.new_page(viewport={"width": width, "height": 844})
        pages.append(page)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        return page

    yield visit
    for page in pages:
        page.close()
    assert said == []
    assert {url for url in asked if not url.startswith("data:")} == {file.as_uri()}


@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_a_strip_is_swiped_and_not_the_page(opened: Callable[[int], Page], width: int) -> None:
    page = opened(width)
    strip = page.locator(".strip").first
    sizes = strip.evaluate(
        "(one) => [one.scrollWidth > one.clientWidth, document.documentElement.scrollWidth]"
    )
    assert sizes == [width == 390, width]
    assert strip.locator("figcaption").all_inner_texts()[:3] == ["image", "truth", "supervised 100.0 %"]
    shown = strip.locator(".prediction").evaluate_all("(all) => all.map((one) => one.clientWidth)")
    assert len(shown) == 5 and all(wide >= 150 for wide in shown)


@needs_chromium
def test_the_slider_shows_the_photograph_under_a_prediction(opened: Callable[[int], Page]) -> None:
    page = opened(1280)
    slider, prediction = page.locator(".compare [type=range]"), page.locator(".strip .prediction").nth(2)
    assert prediction.evaluate("(one) => getComputedStyle(one).opacity") == "1"
    slider.focus()
    page.keyboard.press("Home")
    assert prediction.evaluate("(one) => getComputedStyle(one).opacity") == "0"
    under = prediction.locator("xpath=preceding-sibling::img")
    assert under.evaluate("(one) => one.naturalWidth") == 60, "the photograph, kept once in the page"
    page.keyboard.press("End")
    assert prediction.evaluate("(one) => getComputedStyle(one).opacity") == "1"


@needs_chromium
def test_errors_take_the_place_of_predictions(opened: Callable[[int], Page]) -> None:
    page = opened(1280)
    seen = "(all) => all.map((one) => getComputedStyle(one).visibility)"
    of_methods = page.locator(".stack:has(.errors)")
    assert set(of_methods.locator(".errors").evaluate_all(seen)) == {"hidden"}
    page.locator(".compare [type=checkbox]").focus()
    page.keyboard.press("Space")
    assert set(of_methods.locator(".errors").evaluate_all(seen)) == {"visible"}
    assert set(of_methods.locator(".prediction").evaluate_all(seen)) == {"hidden"}
    truth = page.locator(".stack:not(:has(.errors)) .prediction")
    assert set(truth.evaluate_all(seen)) == {"visible"}, "the truth has none"


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_names_of_images_and_methods_are_text(make: Any, tmp_path: Path, name: str) -> None:
    tree = Tree(write(make, tmp_path, ["supervised", name], [name.replace("/", "_")]).read_text())
    assert not tree.open and len(tree.all("script")) == 1
    assert all(str(picture["src"]).startswith("data:image/") for picture in tree.all("img"))


def test_all_of_a_gallery_is_in_one_picture_beside_the_page(make: Any, tmp_path: Path) -> None:
    page = write(make, tmp_path, ["supervised", "fixmatch"], ["a"])
    (said,) = [text for text in Tree(page.read_text()).text("p") if "beside this page" in text]
    name = re.fullmatch(r"In one picture: (\S+\.png), beside this page\.", said.strip())
    assert name is not None, said
    with Image.open(page.with_name(name[1])) as picture:
        assert min(picture.size) > 100
    alt = "what supervised, fixmatch predict of a (most disputed, best, worst)."
    shown = [line for line in page.with_name("report.md").read_text().splitlines() if f"({name[1]})" in line]
    assert len(shown) == 1 and alt in shown[0]


def test_a_run_without_samples_has_no_gallery(make: Any, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "runs" / "0")
    run.write_result(make(0.4))
    write_report([tmp_path / "runs"], tmp_path / "out")
    assert "gallery" not in {
        attributes.get("class")
        for _, attributes in Tree((tmp_path / "out" / "index.html").read_text()).elements
    }
