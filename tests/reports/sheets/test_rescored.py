"""The table of runs that were scored again: what is averaged with what, and what it says of its settings."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from grouping import folder, grouped
from rich.console import Console

from bench.records.folders import RunFolder
from bench.records.schema import Rescored, Result, Score, Scores
from reports.report import write_report
from reports.sheets.rescored import rescored_sheets
from reports.sheets.sheet import Sheet
from reports.sheets.text import to_csv, to_markdown, to_rich

TITLE = "scored again, mIoU (%): "


def number(miou: float, name: str, crf: str | None = None, **changes: Any) -> Rescored:
    fields: dict[str, Any] = {"scales": (0.5, 1.0), "flip": True, "half_size": False, "seconds": 1.0}
    classes = changes.pop("classes_averaged", 3)
    score = Score(miou=miou, classes_averaged=classes, iou=[miou], pixel_accuracy=0.9)
    return Rescored(**(fields | changes | {"name": name, "crf": crf, "score": score}))


def both(multi: float, crf: float, name: str = "deeplab", **changes: Any) -> Scores:
    half = {"half_size": changes.pop("half_size", False)}
    return Scores(
        entries=[number(multi, "multi_scale", **changes), number(crf, "crf", name, **changes, **half)]
    )


def sheets(*runs: tuple[Result, Scores | None]) -> list[Sheet]:
    scores = {folder(result): found for result, found in runs if found}
    return rescored_sheets(grouped(result for result, _ in runs), scores)


def test_three_numbers_are_means_over_the_seeds_that_have_all(make: Any) -> None:
    (sheet,) = sheets(
        (make(0.40), both(0.42, 0.44)),
        (make(0.42, seed=1), both(0.44, 0.47)),
        (make(0.90, seed=2), None),  # not scored again: its raw number has nothing to stand beside
        (make(0.50, method="fixmatch"), both(0.51, 0.49)),
        (make(0.60, method="fixmatch", split="full"), both(0.62, 0.63)),
    )
    assert sheet.lines == (
        ("method", "split", "raw", "multi-scale + flip", "+ CRF"),
        ("supervised", "1_8 (46)", "41.0 ± 1.4 (2)", "43.0 ± 1.4 (2)", "45.5 ± 2.1 (2)"),
        ("fixmatch", "1_8 (46)", "50.0 (1)", "51.0 (1)", "49.0 (1)"),
        ("fixmatch", "full (367)", "60.0 (1)", "62.0 (1)", "63.0 (1)"),
    )
    assert sheet.title == f"{TITLE}scales 0.5 1 with flip, CRF deeplab" and sheet.notes == ()
    assert sheet.group.startswith("camvid, protocol camvid_small;")


@pytest.mark.parametrize(
    ("changes", "caption"),
    [
        ({"name": "irn"}, "scales 0.5 1 with flip, CRF irn"),
        ({"scales": (1.0, 1.25)}, "scales 1 1.25 with flip, CRF deeplab"),
        ({"flip": False}, "scales 0.5 1 without flip, CRF deeplab"),
        ({"half_size": True}, "scales 0.5 1 with flip, CRF deeplab at half size"),
    ],
)
def test_runs_scored_in_other_ways_are_not_averaged(make: Any, changes: Any, caption: str) -> None:
    found = sheets((make(0.4), both(0.5, 0.6)), (make(0.6, seed=1), both(0.7, 0.8, **changes)))
    assert {sheet.title for sheet in found} == {
        f"{TITLE}scales 0.5 1 with flip, CRF deeplab",
        f"{TITLE}{caption}",
    }
    assert all((sheet.frame["n"] == 1).all() for sheet in found)


def test_a_run_scored_in_two_ways_is_in_both_tables(make: Any) -> None:
    entries = both(0.5, 0.6).entries
    other = number(0.55, "crf", "irn")
    alone = number(0.52, "multi_scale", scales=(1.0,), flip=False)
    found = sheets((make(0.4), Scores(entries=[*entries, other, alone])))
    assert sorted((sheet.title.removeprefix(TITLE), *sheet.lines[1][2:]) for sheet in found) == [
        ("scales 0.5 1 with flip, CRF deeplab", "40.0 (1)", "50.0 (1)", "60.0 (1)"),
        ("scales 0.5 1 with flip, CRF irn", "40.0 (1)", "50.0 (1)", "55.0 (1)"),
        ("scales 1 without flip, no CRF", "40.0 (1)", "52.0 (1)"),
    ]
    (plain,) = [sheet for sheet in found if sheet.title.endswith("no CRF")]
    assert plain.lines[0] == ("method", "split", "raw", "multi-scale")


def test_rows_have_the_names_of_the_headline_table(make: Any) -> None:
    """Knobs in which a method's runs differ name its rows, even where one of them is not scored again."""
    first, second = (make(0.4, method="fixmatch", knobs={"threshold": t}) for t in (0.9, 0.95))
    (sheet,) = sheets((first, both(0.5, 0.6)), (second, None))
    assert [line[0] for line in sheet.lines[1:]] == ["fixmatch (threshold=0.9)"]


def test_other_numbers_of_classes_are_noted(make: Any) -> None:
    (sheet,) = sheets((make(0.4), both(0.5, 0.6, classes_averaged=2)))
    assert "(2, 3)" in sheet.notes[0] and "(2, 3)" in to_markdown(sheet)


def test_numbers_of_several_codes_are_noted(make: Any) -> None:
    old, new = ({"code": {"bench/ops": digest}} for digest in ("12", "34"))
    before = make(0.4), both(0.42, 0.44)  # of before digests: nobody knows
    assert sheets(before, (make(0.4, seed=1), both(0.42, 0.44, **old)))[0].notes == ()
    (sheet,) = sheets(
        before, (make(0.4, seed=1), both(0.4, 0.4, **old)), (make(0.4, seed=2), both(0.4, 0.4, **new))
    )
    (note,) = sheet.notes
    assert "of 2 states of the code that scores again" in note and "--overwrite" in note


def test_the_csv_has_a_line_for_each_number(make: Any) -> None:
    (sheet,) = sheets((make(0.4), both(0.5, 0.6)))
    lines = list(csv.DictReader(io.StringIO(to_csv(sheet))))
    found = {line["scored"]: float(line["mean_percent"]) for line in lines}
    assert found == pytest.approx({"raw": 40, "multi_scale": 50, "crf": 60})
    assert {line["how"] for line in lines} == {"scales 0.5 1 with flip, CRF deeplab"}


def test_no_run_scored_again_is_no_table(make: Any) -> None:
    assert sheets((make(0.4), None)) == []


def test_both_renderings_say_how_it_was_scored(make: Any) -> None:
    (sheet,) = sheets((make(0.4, method="a|b[red]"), both(0.5, 0.6, "toco_final")))
    text = to_markdown(sheet)
    assert sheet.title == "scored again, mIoU (%): scales 0.5 1 with flip, CRF toco_final"
    assert "a\\|b\\[red\\]" in text
    drawn = Console(width=200, file=io.StringIO())
    drawn.print(to_rich(sheet))
    shown = " ".join(drawn.file.getvalue().split())  # type: ignore[attr-defined]
    for text in ("CRF toco_final", "protocol hash", "a|b[red]", "60.0 (1)"):
        assert text in shown


def test_the_report_has_the_table_of_the_runs_that_were_scored_again(make: Any, tmp_path: Path) -> None:
    for seed, scores in enumerate([both(0.42, 0.44), None]):
        folder = RunFolder(tmp_path / "runs" / str(seed))
        folder.write_result(make(0.4, seed=seed))
        if scores:
            folder.write_scores(scores)
    report = write_report([tmp_path / "runs"], tmp_path / "out")
    (sheet,) = [sheet for sheet in report.sheets if sheet.name == "evaluation"]
    text = (tmp_path / "out" / "report.md").read_text()
    assert "### Evaluation" in text and to_markdown(sheet) in text
    assert "| supervised | 1_8 (46) | 40.0 (1) | 42.0 (1)           | 44.0 (1) |" in text
