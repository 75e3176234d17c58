"""What a protocol file says to expect is what the published records say."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import pytest

from bench.records.schema import Result
from bench.settings.resolve import resolve
from reports.statistics import Key, summarise

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "bench/settings/protocols").glob("*.yaml"))
LINES = [line for file in (ROOT / "reports/published").glob("*.jsonl") for line in file.open()]
RECORDS = [Result.model_validate_json(line) for line in LINES]


def expected(file: Path) -> str:
    """The comment that begins with "Expected", as one line."""
    found = re.search(r"^# Expected.*\n(?:# .*\n)*", file.read_text(), re.MULTILINE)
    assert found, f"{file.name} does not say what to expect"
    return " ".join(line.removeprefix("# ") for line in found[0].splitlines())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_protocol_says_what_its_records_say(file: Path) -> None:
    said = expected(file)
    ours = [one for one in RECORDS if one.protocol == file.stem]
    if not ours:
        assert re.match(
            r"Expected: (no record yet|nothing here was run|it depends)|Expected on 1_16: u2pl", said
        )
        return
    current = resolve({"dataset": ours[0].dataset, "method": {"name": "supervised"}}, None, ())
    ours = [one for one in ours if one.protocol_hash == current.protocol.hash and one.scored == "eval"]
    if not ours:
        assert said.startswith("Expected: no record of ")
        return
    head = re.match(r"Expected on (\w+), (\d+) draws?: (.+?) % mIoU", said)
    assert head
    figures: dict[str, dict[Key, float]] = defaultdict(dict)
    for one in ours:
        if one.split == head[1]:
            figures[one.method][one.draw, one.seed] = 100 * one.predictor.miou
    for method, figure in re.findall(r"(\w+) (\d+\.\d)", head[3]):
        found = summarise(figures[method])
        assert (f"{found.mean:.1f}", found.draws) == (figure, int(head[2])), method
