"""Each figure of datasets/FEW_IMAGES.md is that of a published record."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import fmean

import pytest

from bench.records.schema import Result
from reports.splits import label_hours

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "datasets/FEW_IMAGES.md").read_text()
PUBLISHED = ROOT / "reports/published"


def rows(head: str) -> list[list[str]]:
    """The cells of a table, found by the first words of its head."""
    lines = PAGE[PAGE.index(f"| {head}") :].splitlines()[2:]
    return [
        [cell.strip(" `") for cell in line.split("|")[1:-1]]
        for line in lines[: next(i for i, line in enumerate([*lines, ""]) if not line.startswith("|"))]
    ]


def records(dataset: str) -> list[Result]:
    lines = (PUBLISHED / f"{dataset}.jsonl").read_text().splitlines()
    return [Result.model_validate_json(line) for line in lines]


def mean(dataset: str, method: str, steps: int, masks: int, tags: int = 0, seed: int | None = None) -> str:
    """The mean mIoU in percent of its records, of tags that are not shuffled, over all seeds or of one."""
    found = [
        one.predictor.miou
        for one in records(dataset)
        if (one.method, one.steps, one.images["pixel"], one.images["tags"]) == (method, steps, masks, tags)
        and one.config.get("tags", "given") == "given"
        and seed in (None, one.seed)
    ]
    assert found
    return f"{100 * fmean(found):.1f}"


@pytest.mark.parametrize("row", rows("data, `supervised`"), ids=lambda row: f"{row[0][:6]} {row[1]}")
def test_scores_by_labels(row: list[str]) -> None:
    found = re.fullmatch(r"(\w+), (\d+) steps, published views", row[0])
    assert found and mean(found[1], "supervised", int(found[2]), int(row[1])) == row[2]


CHEAP = {"labels | hours": ("shapes", 3200), "labels of photographs | hours": ("msrc21", 1600)}


@pytest.mark.parametrize(
    ("head", "row"),
    [(head, row) for head in CHEAP for row in rows(head)],
    ids=lambda of: of[0] if isinstance(of, list) else CHEAP[of][0],
)
def test_scores_by_kind_of_labels(head: str, row: list[str]) -> None:
    dataset, steps = CHEAP[head]
    split, hours, *scores = row
    of_split = [
        one
        for one in records(dataset)
        if (one.split, one.steps, one.config["protocol"].get("views")) == (split, steps, "equal")
    ]
    for method, said in zip(("supervised", "u2pl_weak"), scores, strict=True):
        found = [one for one in of_split if one.method == method]
        assert said == (f"{100 * fmean(one.predictor.miou for one in found):.1f}" if found else "not run")
    assert f"{label_hours(of_split[0]):.1f}" == hours


def test_scores_in_the_text() -> None:
    text = " ".join(PAGE.split())
    assert f"`fixmatch` had {mean('msrc21', 'fixmatch', 400, 0, 310)} % on MSRC-21" in text
    before, after = (mean("camvid", "supervised", steps, 23, seed=0) for steps in (400, 800))
    assert f"`supervised` (seed 0) had {before} % after 400 steps and {after} % after 800" in text


@pytest.mark.parametrize("row", rows("figure | method"), ids=lambda row: f"{row[0]} {row[1]}")
def test_curves(row: list[str]) -> None:
    name, method, *shown = row
    (run,) = (
        one.run_id
        for one in records("shapes")
        if (one.method, one.split, one.steps, one.seed, one.draw) == (method, "1_16", 3200, 0, 0)
        and one.config["protocol"].get("views") == "equal"
    )
    log = (PUBLISHED / f"shapes/1_16/{method}/0-{run}/metrics.jsonl").read_text().splitlines()
    lines = {line["step"]: line for line in map(json.loads, log)}
    for step, said in zip((320, 960, 3200), shown, strict=True):
        value = lines[step].get(name)
        figure = fmean(value) if isinstance(value, list) else value
        assert said == ("none" if figure is None else f"{figure:.2f}"), step
