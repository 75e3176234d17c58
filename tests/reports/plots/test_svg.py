"""An SVG in fewer bytes: what it draws stays."""

from __future__ import annotations

import io
from xml.etree import ElementTree

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
    assert leaned(inside) == "<g clip-path='c'><path d='M 0 0'/></g>"


def test_places_are_rounded_to_hundredths_and_numbers_in_text_are_not() -> None:
    inside = b'<path d="M 1.23456 0.1 \nL 2 3.9999 \n"/>\n<text x="0.12345">0.12345</text>\n'
    assert leaned(inside) == "<path d='M 1.23 0.1 L 2 3.99'/><text x='0.12'>0.12345</text>"


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
