"""An SVG in fewer bytes: what it draws stays."""

from __future__ import annotations

import io
import re
from itertools import accumulate
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from reports.plots.svg import lean

HEAD = b'<svg xmlns="http://www.w3.org/2000/svg">\n<defs>\n <style type="text/css">*{a: b}</style>\n</defs>\n'


def leaned(inside: bytes) -> str:
    whole = lean(HEAD + inside + b"</svg>\n").decode()
    ElementTree.fromstring(whole)  # it is XML still
    return whole.partition("</defs>")[2].removesuffix("</svg>\n")


def test_groups_that_say_nothing_go_and_others_stay() -> None:
    inside = (
        b'<g>\n <g clip-path="c">\n  <g>\n   <path d="M 0 0"/>\n  </g>\n  <g/>\n  <g id="x"/>\n </g>\n</g>\n'
    )
    assert leaned(inside) == "<g clip-path='c'><path d='M0 0'/></g>"


def test_places_are_rounded_to_hundredths_and_numbers_in_text_are_not() -> None:
    inside = b'<path d="M 1.23456 0.1 \nL 2 3.9999 \n"/>\n<text x="0.12345">0.12345</text>\n'
    assert leaned(inside) == "<path d='M1.23 .1l.77 3.89'/><text x='0.12'>0.12345</text>"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("M 1 2 \nL 0.5 2.25 \nL 0.5 2 ", "M1 2l-.5 .25 0-.25"),
        ("M 0 0 L 10 0 L 10 10 z M 3 3 L 4 3 z", "M0 0l10 0 0 10zM3 3l1 0z"),
        ("M 1 1 L 9 1 L 9 9 z L 2 2", "M1 1l8 0 0 8zl1 1"),  # it goes on from where it began
        ("M 0 0 C 1 1 2 2 3 3 L 4 4", "M 0 0 C 1 1 2 2 3 3 L 4 4"),
    ],
)
def test_a_line_is_said_by_its_steps_and_a_curve_stays(path: str, said: str) -> None:
    assert leaned(f'<path d="{path}"/>'.encode()) == f"<path d='{said}'/>"


@given(st.lists(st.tuples(*[st.integers(-(10**6), 10**6)] * 2), min_size=1))
def test_rounding_does_not_add_up_along_a_line(places: list[tuple[int, int]]) -> None:
    path = " ".join(f"{'L' if i else 'M'} {x / 100} {y / 100}" for i, (x, y) in enumerate(places))
    said = leaned(f'<path d="{path}"/>'.encode())
    numbers = [round(100 * float(number)) for number in re.findall(r"-?(?:\d+\.?\d*|\.\d+)", said)]
    x, y = (list(accumulate(numbers[start::2])) for start in (0, 1))
    assert list(zip(x, y, strict=True)) == places


def test_a_style_that_stands_there_three_times_has_a_name() -> None:
    one = b'<use style="fill: red"/>'
    assert leaned(one + one) == "<use style='fill: red'/>" * 2
    assert leaned(one * 3) == "<use class='s0'/>" * 3
    assert ".s0{fill: red}</style>" in lean(HEAD + one * 3 + b"</svg>").decode()


def test_text_keeps_its_quotation_marks() -> None:
    said = """a="b" and 'c'"""
    assert leaned(f"<text>{said}</text>".encode()) == f"<text>{said}</text>"
    assert leaned(b"""<text id="it's">x</text>""") == """<text id="it's">x</text>"""


def test_every_text_of_a_drawing_is_there() -> None:
    figure, file = Figure(), io.BytesIO()
    figure.subplots().plot([0, 1, 2], label="a")
    figure.savefig(file, format="svg")
    whole = file.getvalue()
    shorter = lean(whole)
    assert len(shorter) < 0.8 * len(whole)
    texts, kept = ([*ElementTree.fromstring(of).itertext()] for of in (whole, shorter))

    def shown(of: list[str]) -> list[str]:  # all but the style sheet
        return [text for text in of if text.strip() and "{" not in text]

    assert shown(texts) == shown(kept) != []
