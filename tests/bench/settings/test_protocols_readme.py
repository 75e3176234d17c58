"""The page that says where protocols depart from their papers: what it says of ours stands in the files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache

import pytest

from bench.settings.reading import PROTOCOLS, protocol_names
from bench.settings.registry import method_names
from bench.settings.resolve import resolve

PAGE = PROTOCOLS / "README.md"
OF_NO_PAPER = {"camvid", "folder", "msrc21", "shapes", "shapes21", "shapes_quick", "voc_mitb1_512"}
NEEDED = {
    *("network.encoder", "network.decoder", "network.align_corners", "crop", "resize", "steps", "views"),
    *("batch.labeled", "batch.unlabeled", "optimizer.lr", "optimizer.head_multiple", "evaluation.mode"),
}


def tables(text: str) -> list[list[list[str]]]:
    """The cells of each table, its head first, without the line below that."""
    found = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    rows = [[[cell.strip() for cell in line.strip("|").split("|")] for line in t.splitlines()] for t in found]
    return [[head, *body] for head, _, *body in rows]


def code(cell: str) -> str:
    assert re.fullmatch(r"`[^`]+`", cell), cell
    return cell.strip("`")


@cache
def setting(protocol: str, key: str) -> str:
    """As the page writes it. A key may begin with the name of a method."""
    section, _, rest = key.partition(".")
    method = section if section in method_names() else "fixmatch"
    dataset = protocol.partition("_")[0]
    given = {"method": {"name": method}, "dataset": dataset, "protocol": {"name": protocol}}
    config = resolve(given).model_dump(mode="json")
    value = config["method"] if section == method else config["protocol"]
    for part in (rest if section == method else key).split("."):
        value = value[part]
    return value if isinstance(value, str) else json.dumps(value)


def cells() -> Iterator[object]:
    for head, *body in tables(PAGE.read_text()):
        for row in body:
            for name, cell in zip(head[2:], row[2:], strict=True):
                yield pytest.param(code(name), code(row[0]), code(cell), id=f"{code(name)}-{code(row[0])}")


@pytest.mark.parametrize(("protocol", "key", "said"), cells())
def test_what_the_page_says_of_ours_is_in_the_file(protocol: str, key: str, said: str) -> None:
    assert setting(protocol, key) == said


def test_the_page_has_every_protocol_that_follows_a_paper_and_what_numbers_depend_on() -> None:
    found = tables(PAGE.read_text())
    assert all(len({len(row) for row in table}) == 1 for table in found)
    named = [code(name) for head, *_ in found for name in head[2:]]
    assert sorted([*named, *OF_NO_PAPER]) == protocol_names()
    for head, *body in found:
        keys = [code(row[0]) for row in body]
        assert set(keys) >= NEEDED and len(keys) == len(set(keys)), head
        assert all(row[1] for row in body)
    text = PAGE.read_text()
    assert all(f"`{name}`" in text for name in OF_NO_PAPER)


def test_the_tables_of_deeplab_have_all_of_its_settings() -> None:
    parts = {"multi_grid", "aspp_rates", "low_level_channels", "dropout", "output_stride"}
    for head, *body in tables(PAGE.read_text()):
        if "deeplab" in code(body[1][2]):
            assert {f"network.{part}" for part in parts} <= {code(row[0]) for row in body}, head
