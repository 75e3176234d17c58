"""Golden sheets in every format, what they are made of, and names that would like to be more than text."""

from __future__ import annotations

import csv
import io
import math
import re
from typing import Any

import pandas
import pytest
from grouping import folder, grouped
from rich.console import Console

from bench.records.schema import Contents, Rescored, Result, Score, Scores, SeedCost
from reports.sheets.answer import leading
from reports.sheets.answer_sheets import in_short
from reports.sheets.basis import lists, protocol
from reports.sheets.classes import class_sheets
from reports.sheets.cost import costs, images_per_second
from reports.sheets.differences import differences
from reports.sheets.headline import headline, holes, modules, spreads
from reports.sheets.overall import overall_sheet
from reports.sheets.sheet import MISSING, Sheet
from reports.sheets.text import latex_text, to_csv, to_latex, to_markdown, to_rich
from reports.statistics import smallest_found, summarise, units_needed

SMALL = Sheet(
    name="small",
    title="mIoU (%)",
    group="a_b, 50 %",
    lines=(("method", "1_8 (46)"), ("u2pl", "44.7 ± 2.0 (3)"), ("x|y", "missing")),
    frame=pandas.DataFrame(
        [["u2pl", 44.7, 3], ["x|y", None, 0]], columns=["method", "mean", "n"], dtype=object
    ),
    notes=("a note & more",),
)


def printed(sheet: Sheet, width: int = 250) -> str:
    console = Console(file=io.StringIO(), width=width, record=True)
    console.print(to_rich(sheet))
    return console.export_text()


def test_golden_markdown() -> None:
    assert to_markdown(SMALL) == (
        "| method | 1_8 (46)       |\n"
        "|--------|----------------|\n"
        "| u2pl   | 44.7 ± 2.0 (3) |\n"
        "| x\\|y   | missing        |\n"
        "\n"
        "a note \\& more\n"
    )


def test_golden_csv() -> None:
    assert to_csv(SMALL) == "method,mean,n\nu2pl,44.7,3\nx|y,,0\n"


def test_golden_latex() -> None:
    assert to_latex(SMALL) == (
        "{\\small\\setlength{\\tabcolsep}{4pt}\n"
        "\\begin{longtable}{lr}\n"
        "\\caption{mIoU (\\%): a\\_b, 50 \\%} \\\\\n"
        "\\toprule\n"
        "method & 1\\_8 (46) \\\\\n"
        "\\midrule\n"
        "\\endfirsthead\n"
        "\\toprule\n"
        "method & 1\\_8 (46) \\\\\n"
        "\\midrule\n"
        "\\endhead\n"
        "\\bottomrule\n"
        "\\endfoot\n"
        "u2pl & 44.7 $\\pm$ 2.0 (3) \\\\\n"
        "x\\textbar{}y & missing \\\\\n"
        "\\end{longtable}}\n"
        "\\par{\\footnotesize a note \\& more\\par}\n"
    )


def test_golden_terminal() -> None:
    assert [line.strip() for line in printed(SMALL).splitlines()] == [
        "mIoU (%)",
        "┏━━━━━━━━┳━━━━━━━━━━━━━━━━┓",
        "┃ method ┃       1_8 (46) ┃",
        "┡━━━━━━━━╇━━━━━━━━━━━━━━━━┩",
        "│ u2pl   │ 44.7 ± 2.0 (3) │",
        "│ x|y    │        missing │",
        "└────────┴────────────────┘",
        "a_b, 50 %",
        "a note & more",
        "",
    ]


def test_a_narrow_terminal_cuts_no_name_short() -> None:
    long = Sheet(
        name="miou",
        title="a title that is wider than its table",
        group="g",
        lines=(("method", "split"), ("u2pl_weak (tags=shuffled)", "1_8+tags")),
        frame=pandas.DataFrame(),
        names=2,
    )
    text = printed(long, width=20)
    assert "…" not in text and text.startswith("a title that is")
    cells = [line.split("│")[1].strip() for line in text.splitlines() if line.startswith("│")]
    assert "".join(cells).replace(" ", "") == "u2pl_weak(tags=shuffled)"


# What is in them


def pair(make: Any) -> list[Result]:
    return [
        *(make(m, seed=s) for s, m in enumerate([0.40, 0.44])),
        *(make(m, seed=s, method="fixmatch") for s, m in enumerate([0.45, 0.47, 0.90])),
        make(0.50, method="fixmatch", split="full"),
    ]


def test_spreads_say_where_an_interval_comes_from(make: Any) -> None:
    # Supervised 40 and 44: spread 2.83, standard error 2, 12.706 x 2 = 25.4.
    sheet = spreads(grouped(pair(make)))
    assert sheet.lines[1] == ("supervised", "1_8 (46)", "42.0", "16.6 to 67.4", "2.8", "2")
    assert sheet.lines[3][2:] == ("50.0", "one run: no interval", "", "1")
    assert "one draw" in sheet.notes[1]
    # Means of the draws 42 and 52, spread root 50 less 8 / 2 for the seeds; error 5 and 12.706 x 5 = 63.5.
    nested = [make(m, seed=s % 2, draw=s // 2) for s, m in enumerate([0.40, 0.44, 0.50, 0.54])]
    sheet = spreads(grouped(nested))
    assert sheet.lines[1][2:] == ("47.0", "0.0 to 100.0", "2.8", "4", "6.8", "2")
    assert "spread of the draws / of the seeds" in sheet.notes[1]
    (hole,) = [
        of for of in csv.DictReader(io.StringIO(to_csv(headline(grouped(pair(make)))))) if of["n"] == "0"
    ]
    assert (hole["method"], hole["split"], hole["low_percent"]) == ("supervised", "full", "")


def test_a_cell_of_several_draws_shows_both_spreads(make: Any) -> None:
    runs = [make(m, seed=s % 2, draw=s // 2) for s, m in enumerate([0.40, 0.44, 0.50, 0.54])]
    sheet = headline(grouped([*runs, make(0.3, method="fixmatch"), make(0.4, method="cutmix", draw=1)]))
    assert sheet.lines[1] == ("supervised", "47.0 ± 6.8 / 2.8 (2 x 2)")
    assert sheet.lines[2:] == (("cutmix", "40.0 (1), draw 1"), ("fixmatch", "30.0 (1), draw 0"))
    for number in (1, 2):  # at four seeds against two, too, which make as many as three each
        more = [make(0.6, seed=9 + seed, draw=1) for seed in range(number)]
        (cell,) = headline(grouped([*runs, *more])).lines[1][1:]
        assert cell.endswith(f"({4 + number} runs of 2 draws)")
    assert headline(grouped([make(0.4), make(0.5, draw=1)])).lines[1][1] == "45.0 ± 7.1 (2 x 1)"


def test_a_group_says_its_protocol_and_its_lists(make: Any) -> None:
    digests = {"pixel": "a" * 64, "tags": "b" * 64, "none": "c" * 64, "eval": "e" * 64}
    settings = {"method": {}, "protocol": {"name": "x", "steps": 1, "crop": [96, 128], "clip": None}}
    runs = [make(0.4, seed=s, split_digests=digests, config=settings) for s in (0, 2)]
    said = dict(protocol(grouped(runs)).lines)
    assert (said["steps"], said["crop"], said["clip"]) == ("100", "96 128", "none")
    assert said["scored images"] == f"233 (list {'e' * 64})" and said["encoder weights"] == "f" * 64
    assert said["classes"] == "3: road, sky, car"
    assert lists(grouped(runs)).lines[1] == ("1_8", "46", "0", "321", "1", "0", "0 2", "a" * 12, "b" * 12)
    (record,) = csv.DictReader(io.StringIO(to_csv(lists(grouped(runs)))))
    assert [record[f"{name}_digest"] for name in ("pixel", "tags", "none")] == [c * 64 for c in "abc"]


def ten(make: Any, method: str, first: float, **fields: Any) -> list[Result]:
    """Ten seeds, 0.1 points from one to the next."""
    return [make(first + s / 1000, seed=s, method=method, **fields) for s in range(10)]


def by_row(sheet: Sheet) -> dict[tuple[str, str], dict[str, str]]:
    heading, *lines = sheet.lines
    return {line[:2]: dict(zip(heading, line, strict=True)) for line in lines}


def test_differences_are_paired_and_hold_at_once(make: Any) -> None:
    # +5 and +3 over seeds 0 and 1: mean 4, spread 1.414, error 1, of one comparison 12.706; seed 2 is alone.
    sheet = differences(grouped(pair(make)), "supervised")
    heading, first, second, again = sheet.lines
    assert heading[2:] == ("difference", "95 %, all at once", "runs", "P(better)", "P(equal)", "P(worse)")
    assert first[:5] == ("fixmatch", "1_8 (46)", "+4.0", "-8.7 to +16.7", "2")
    # t with one degree of freedom is Cauchy's: P(worse) = 1/2 - atan(5) / pi.
    assert first[5:] == ("0.90", "0.04", "0.06")
    assert second == ("fixmatch", "full (367)", "missing", "", "", "", "", "")
    assert again[:4] == ("supervised, A/A", "1_8 (46)", "missing", "fewer than two a side")
    # Two methods with two runs: 1 - 0.05 / 4 = 0.9875, where Cauchy's quantile is 25.452.
    more = [make(m, seed=s, method="cutmix") for s, m in enumerate([0.41, 0.44])]
    more.append(make(0.5, method="once"))  # which has no interval, so that none need hold with it
    sheet = differences(grouped([*pair(make), *more]), "supervised")
    assert by_row(sheet)["fixmatch", "1_8 (46)"]["95 %, all at once"] == "-21.5 to +29.5"
    assert "2 comparisons" in sheet.notes[0]
    (record, *_) = csv.DictReader(io.StringIO(to_csv(sheet)))
    assert (record["family"], record["reference"]) == ("2", "supervised")
    assert float(record["low_percent"]) == pytest.approx(4 - 25.4517, abs=1e-3)
    assert [float(record[name]) for name in ("better", "equal", "worse")] == pytest.approx(
        [0.5 + math.atan(3) / math.pi, (math.atan(5) - math.atan(3)) / math.pi, 0.5 - math.atan(5) / math.pi]
    )


def test_one_run_has_a_difference_and_no_interval(make: Any) -> None:
    sheet = differences(grouped([make(0.4), make(0.5, method="fixmatch")]), "supervised")
    assert sheet.lines[1][2:] == ("+10.0", "one run: no interval", "1", "", "", "")
    assert not any("power" in note for note in sheet.notes)


def test_differences_are_over_draws_and_common_ones_alone(make: Any) -> None:
    levels = {0: 0.30, 1: 0.50, 2: 0.40}
    runs = [make(at, draw=d, seed=s) for d, at in levels.items() for s in range(2)]
    # +1, +2, +3 points on the draws, whose own spread is ten points; the fourth has no partner.
    runs += [
        make(at + (d + 1) / 100, draw=d, seed=s, method="fixmatch")
        for d, at in levels.items()
        for s in range(2)
    ]
    runs.append(make(0.9, draw=3, method="fixmatch"))
    row = by_row(differences(grouped(runs), "supervised"))["fixmatch", "1_8 (46)"]
    # Error 1 / root 3, two degrees of freedom: 4.303 x 0.577 = 2.48.
    assert (row["difference"], row["95 %, all at once"], row["runs"]) == ("+2.0", "-0.5 to +4.5", "3 x 2")


def test_the_later_seeds_of_the_reference_stand_against_the_earlier(make: Any) -> None:
    runs = [*ten(make, "supervised", 0.40), *ten(make, "fixmatch", 0.45)]
    row = by_row(differences(grouped(runs), "supervised"))["supervised, A/A", "1_8 (46)"]
    assert (row["difference"], row["runs"]) == (
        "+0.5",
        "5",
    )  # seeds 5 to 9 minus 0 to 4, each five steps of 0.1


def test_the_table_says_what_it_could_have_found(make: Any) -> None:
    runs = [make(0.40, seed=s) for s in range(4)]
    runs += [make(0.40 + d, seed=s, method="fixmatch") for s, d in enumerate([0.00, 0.02, 0.04, 0.06])]
    (note,) = [note for note in differences(grouped(runs), "supervised").notes if "power" in note]
    # Spread 2.58 points, error 1.29; 3 degrees of freedom: t 3.182, and 4.227 standard errors with 80 % power
    # (noncentral t, by simulation 4.2).
    change = summarise([0.00, 0.02, 0.04, 0.06])
    smallest, needed = smallest_found(change, 1), units_needed(change, 0.01, 1)
    assert smallest is not None and smallest == pytest.approx(4.2 * 0.0129, rel=0.03) and needed is not None
    assert f"finds a difference of {100 * smallest:.1f} points" in note
    assert f"To find 1 point it needs {needed - 4} more seeds ({needed} in all)" in note
    more = units_needed(change, 0.03, 1)
    assert (
        more is not None
        and f"fixmatch on 1_8 (+3.0): if that is its true difference, it needs {more - 4} " in note
    )


def test_a_method_that_repeats_the_reference_is_equal(make: Any) -> None:
    """As `supervised_colours` does under equal views."""
    runs = [
        make(m, seed=s, method=name) for name in ("supervised", "x") for s, m in enumerate([0.4, 0.5, 0.7])
    ]
    sheet = differences(grouped(runs), "supervised")
    assert sheet.lines[1][2:] == ("+0.0", "equal to the bit", "3", "", "", "")
    assert sheet.frame.loc[0, ["low_percent", "better", "smallest_percent"]].isna().all()
    others = [make(m, seed=s, method="y") for s, m in enumerate([0.5, 0.7, 0.6])]
    sheet = differences(grouped([*runs, *others]), "supervised")
    assert set(sheet.frame["family"]) == {1}, "what is no comparison need not hold with the others"
    over = overall_sheet([grouped(runs)], "supervised")
    assert over is not None and over.lines[1][-2:] == ("equal to the bit", "")
    once = differences(grouped([make(0.4), make(0.4, method="x")]), "supervised")
    assert once.lines[1][3] == "equal to the bit"
    short = in_short(grouped(runs))
    assert short is not None and [line[1] for line in short.lines[1:]] == ["equal to the bit: x", "", ""]


def test_published_views_say_what_a_gain_may_be(make: Any) -> None:
    runs = [make(0.4), make(0.5, method="fixmatch")]
    coloured = make(0.5, method="supervised_colours")

    def said(*results: Result) -> bool:
        return any(
            "colours on the labels alone" in note
            for note in differences(grouped(results), "supervised").notes
        )

    assert said(*runs) and not said(*runs, coloured)
    equal = {"config": {"method": {}, "protocol": {"views": "equal"}}}
    assert not said(make(0.4, **equal), make(0.5, method="fixmatch", **equal))


def test_differences_and_cells_together_say_that_classes_are_not_the_same(make: Any) -> None:
    runs = [make(0.4, classes_averaged=3), make(0.5, method="fixmatch", classes_averaged=2)]
    for sheet in (differences(grouped(runs), "supervised"), overall_sheet([grouped(runs)], "supervised")):
        assert sheet is not None and "same number of classes (2, 3)" in sheet.notes[-1]


def test_all_cells_together_are_those_of_both(make: Any) -> None:
    # fixmatch has runs on 1_8 alone with the reference: 45 47 90 against 40 44.
    sheet = overall_sheet([grouped(pair(make))], "supervised")
    assert sheet is not None
    assert sheet.lines[1] == ("fixmatch", "1", "2 of 3", "46.0", "", "42.0", "1.00", "")
    assert overall_sheet([grouped([make(0.4), make(0.5, method="b", split="full")])], "supervised") is None


def test_one_run_a_cell_says_nothing_of_improvement(make: Any) -> None:
    sheet = overall_sheet([grouped([make(0.4), make(0.5, method="u2pl")])], "supervised")
    assert sheet is not None and sheet.lines[1] == ("u2pl", "1", "1", "50.0", "", "40.0", "", "")
    assert sheet.frame.improvement.isna().all()


def test_cells_together_are_matched_within_their_data_set(make: Any) -> None:
    """Draw 1 of one data set is not that of another, and no run stands against one of another seed."""
    groups = [
        grouped(
            [
                *(make(0.3, draw=d, seed=s, dataset=dataset) for d, s in ours),
                *(make(0.5, draw=d, seed=s, dataset=dataset, method="x") for d, s in theirs),
            ]
        )
        for dataset, ours, theirs in (
            ("a", [(0, 0), (0, 1), (1, 0)], [(0, 0), (0, 2), (1, 0)]),
            ("b", [(1, 1)], [(1, 1), (1, 0)]),
            ("c", [(0, 0)], [(1, 0)]),
        )
    ]
    sheet = overall_sheet(groups, "supervised")
    assert sheet is not None and sheet.lines[1][:3] == ("x", "2", "3 of 5")


def test_data_sets_together_add_their_cells(make: Any) -> None:
    groups = []
    for dataset, level in (("a", 0.3002), ("b", 0.6002)):
        runs = [
            *ten(make, "supervised", level, dataset=dataset),
            *ten(make, "fixmatch", level + 0.05, dataset=dataset),
        ]
        groups.append(grouped(runs))
    sheet = overall_sheet(groups, "supervised")
    assert sheet is not None and sheet.name == "overall-data-sets"
    ((method, cells, runs_, iqm, interval, reference, chance, ends),) = sheet.lines[1:]
    # 35.0 to 35.9 and 65.0 to 65.9 without five at each end: mean of 35.5 to 35.9, 65.0 to 65.4, 50.45.
    assert (method, cells, runs_, iqm, reference, chance) == ("fixmatch", "2", "20", "50.5", "45.5", "1.00")
    assert interval and ends == "1.00 to 1.00"


# In short


def test_three_lines_name_the_best_method_that_stands_clear(make: Any) -> None:
    runs = [*ten(make, "supervised", 0.40), *ten(make, "supervised_colours", 0.60), make(0.9, method="lucky")]
    runs += [make(0.45 + s / 1000 + s % 2 / 100, seed=s, method="fixmatch") for s in range(10)]
    runs += [make(0.40, seed=s, split="full") for s in range(2)]
    sheet = in_short(grouped(runs))
    assert sheet is not None
    heading, best, gain, chance = sheet.lines
    assert heading == ("camvid, 100 steps, published views", "1_8 (46)"), "full has the reference alone"
    assert best[0] == "best method" and best[1].startswith("fixmatch, 46.0 ± ")
    assert gain[0] == "gain over supervised" and gain[1].startswith("+5.5 (+5.")
    assert chance == ("P(better / equal / worse)", "1.00 / 0.00 / 0.00")
    assert sheet.notes == ("supervised has 40.4 ± 0.3 (10) on 1_8; one draw of the labeled images.",)


def test_a_method_that_stands_clear_is_named_before_a_higher_one_that_does_not(make: Any) -> None:
    runs = [*ten(make, "supervised", 0.40), *ten(make, "cutmix", 0.55)]
    runs += [make(0.45 + s / 1000 + s % 2 / 100, seed=s, method="fixmatch") for s in range(10)]
    runs += [make(m, seed=s, method="lucky") for s, m in enumerate([0.2, 0.98, 0.9])]
    sheet = in_short(grouped(runs))
    assert sheet is not None
    _, best, gain, _ = sheet.lines
    assert best[1].startswith("cutmix, 55.5 ± 0.3 (10); larger gain, not clear: lucky, 69.3 ± ")
    assert gain[1].startswith("+15.0 (+15.0 to")


def test_three_lines_say_that_none_stands_clear_or_that_runs_are_too_few(make: Any) -> None:
    sheet = in_short(grouped(pair(make)))
    assert sheet is not None and [line[1] for line in sheet.lines[1:]] == [
        "none stands clear; highest: fixmatch, 60.7 ± 25.4 (3)",
        "+4.0 (-8.7 to +16.7)",
        "0.90 / 0.04 / 0.06",
    ]
    sheet = in_short(grouped([make(0.4), make(0.5, method="fixmatch")]))
    assert sheet is not None and [line[1] for line in sheet.lines[1:]] == ["no method has two runs", "", ""]
    assert in_short(grouped([make(0.4), make(0.5, method="supervised_colours")])) is None


def test_equal_views_speak_for_a_data_set_then_the_newest_that_compares(make: Any) -> None:
    def runs(hash: str, method: str, count: int, views: str = "published", **fields: Any) -> list[Result]:
        config = {"method": {}, "protocol": {"views": views}}
        return [
            make(at + s / 100, seed=s, method=name, protocol_hash=hash, config=config, **fields)
            for name, at in (("supervised", 0.4), (method, 0.5))
            for s in range(count)
        ]

    old, one, new = (grouped(runs(hash, "a", n)) for hash, n in (("old", 2), ("one", 1), ("new", 2)))
    equal = grouped(runs("equal", "a", 1, "equal"))
    held_out = grouped(runs("held", "a", 2, "equal", scored="heldout"))
    alone = grouped([make(0.4, protocol="tags", method="classifier")])
    times = {run.folder: time for group, time in ((old, "1"), (new, "2"), (one, "3")) for run in group.runs}
    assert leading([old, one, alone], times) == {"camvid": old}
    assert leading([new, old, one], times) == {"camvid": new}
    assert leading([new, held_out, equal], times) == {"camvid": equal}
    assert leading([alone, held_out], times) == {}
    config = {"method": {}, "protocol": {"views": "equal"}}
    yardstick = grouped([make(0.4, seed=s, protocol_hash="y", config=config) for s in range(2)])
    assert leading([yardstick, one], times) == {"camvid": one}  # it has nothing to say of methods yet


def test_a_baseline_is_a_row_or_a_method(make: Any) -> None:
    group = grouped([make(0.3), *(make(t, method="fixmatch", knobs={"t": t}) for t in (0.4, 0.5))])
    assert group.rows_named("supervised") == ["supervised"]
    assert group.rows_named("fixmatch (t=0.4)") == ["fixmatch (t=0.4)"]
    assert group.rows_named("fixmatch") == ["fixmatch (t=0.5)", "fixmatch (t=0.4)"]
    assert group.rows_named("u2pl") == []


def test_the_oracle_stands_apart(make: Any) -> None:
    heading, line = modules(grouped([make(0.40, curve=[0.30, 0.46, 0.40], student=0.38)])).lines
    assert heading == ("method", "split", "student", "predictor", "", "oracle (optimistic)")
    assert line == ("supervised", "1_8 (46)", "38.0 (1)", "40.0 (1)", "", "46.0 (1)")


def test_classes_are_means_over_the_seeds_that_have_them(make: Any) -> None:
    def score(*iou: float | None) -> Score:
        return Score(miou=0.5, classes_averaged=2, iou=list(iou), pixel_accuracy=0.9)

    runs = [
        make(0.5, predictor=score(0.2, 0.5, None)),
        make(0.5, seed=1, predictor=score(0.4, None, None)),
        make(0.5, split="full", method="fixmatch"),
    ]
    first, second = class_sheets(grouped(runs))
    assert first.lines == (
        ("class", "supervised (2)"),
        ("road", "30.0"),
        ("sky", "50.0 (1)"),
        ("car", "absent"),
    )
    assert second.title == "IoU of each class on full (367) (%)" and second.lines[0] == (
        "class",
        "fixmatch (1)",
    )
    last = first.frame.iloc[-1]
    assert last["n"] == 0 and last["mean_percent"] is None


def test_costs(make: Any) -> None:
    config = {"method": {}, "protocol": {"batch": {"labeled": 4, "unlabeled": 12}}}
    runs = [
        make(0.4, train_seconds=10.0, peak_memory_mib=300.0, config=config),
        make(0.4, seed=1, train_seconds=40.0, peak_memory_mib=200.0, config=config),
        make(0.4, split="full", config=config),
    ]
    # 100 steps of 16 images in 10 s and in 40 s: 160 and 40; nothing is unlabeled in full: 4 x 100 / 50.
    assert [images_per_second([run]) for run in runs] == [160, 40, 8]
    assert images_per_second([*runs, make(0.4)]) is None
    # Both together: 3200 images in 50 s. The mean of their rates would not agree with the time of a step.
    sheet = costs(grouped(runs), {}, {})
    assert sheet.lines == (
        ("method", "split", "runs", "s per step", "images/s", "peak MiB"),
        ("supervised", "1_8 (46)", "2", "0.25", "64", "300"),
        ("supervised", "full (367)", "1", "0.5", "8", "512"),
    )
    fields: dict[str, Any] = {"scales": (1.0,), "flip": True, "half_size": False, "score": runs[0].student}
    names = (("multi_scale", None), ("crf", "irn"))
    passed = [Rescored(name=name, crf=crf, seconds=60.0, **fields) for name, crf in names]  # type: ignore[arg-type]
    more = costs(grouped(runs), {folder(runs[0]): Scores(entries=passed)}, {folder(runs[1]): 7200.0})
    assert more.lines[0][-2:] == ("scoring s", "CRF core-hours")
    assert more.lines[1][-2:] == ("60 (1)", "2 (1)") and more.lines[2][-2:] == ("", "")
    whole = costs(grouped(runs), {}, {folder(run): 3600.0 for run in runs})
    assert [line[-1] for line in whole.lines[1:]] == ["1", "1"]


def test_cost_of_a_step_against_that_of_supervised(make: Any) -> None:
    """10 s and 25 s of 100 steps; a method whose runs do not agree on their passes has none."""
    passes = {"trained": 8, "read": 4}
    runs = [
        make(0.4, train_seconds=10.0, passes={"trained": 4, "read": 0}),
        make(0.4, method="fixmatch", train_seconds=25.0, passes=passes),
        make(0.4, method="u2pl", train_seconds=5.0, passes=passes),
        make(0.4, method="u2pl", seed=1, train_seconds=5.0),
    ]
    lines = costs(grouped(runs), {}, {}).lines
    assert lines[0] == (
        *("method", "split", "runs", "s per step", "x supervised", "trained/step", "read/step"),
        "peak MiB",
    )
    assert {line[0]: line[4:7] for line in lines[1:]} == {
        "supervised": ("", "4", "0"),
        "fixmatch": ("2.50", "8", "4"),
        "u2pl": ("0.50", "", ""),
    }
    assert "x supervised" not in costs(grouped(runs[1:]), {}, {}).lines[0]


def test_the_classifier_and_its_maps_are_part_of_the_cost(make: Any) -> None:
    cost = SeedCost(
        classifier_seconds=200.0,
        classifier_peak_memory_mib=900.0,
        map_seconds=30.0,
        map_peak_memory_mib=700.0,
        refine_core_seconds=7.0,
    )
    knobs = {"method": {"name": "u2pl_weak"}, "cam_seeds": {"refine": "crf"}}
    weak = make(0.4, method="u2pl_weak", config=knobs, seed_cost=cost)
    older = make(0.4, method="u2pl_weak", config=knobs, seed=1)
    pixel = make(0.4)
    assert (weak.whole_seconds, older.whole_seconds, pixel.whole_seconds) == (280, None, 50)
    assert (weak.whole_peak_mib, pixel.whole_peak_mib) == (900, 512)

    def cells(*runs: Result) -> list[tuple[str, ...]]:
        return [line[3:] for line in costs(grouped(list(runs)), {}, {}).lines]

    heading = ("s per step", "x supervised", "training s", "classifier s", "maps s", "all three s")
    assert cells(weak, pixel) == [
        (*heading, "peak MiB"),
        ("0.5", "", "50", "", "", "50", "512"),
        ("0.5", "1.00", "50", "200", "30", "280", "900"),
    ]
    assert cells(weak, older)[1] == ("0.5", "50", "200 (1)", "30 (1)", "280 (1)", "900")
    assert cells(pixel, older)[0] == ("s per step", "x supervised", "peak MiB"), "nothing is recorded of it"


def test_the_methods_own_predictor_stands_beside_the_protocols_teacher(make: Any) -> None:
    config = {"method": {}, "protocol": {"teacher": {"decay": 0.99, "ramp": True}, "views": "equal"}}
    own = make(0.45).predictor
    runs = [
        make(0.40, student=0.38, own=own, config=config, curve=[0.3, 0.41, 0.40]),
        make(0.42, method="fixmatch", config=config),
    ]
    sheet = modules(grouped(runs))
    assert sheet.lines[0] == (
        "method",
        "split",
        "student",
        "predictor",
        "own predictor",
        "",
        "oracle (optimistic)",
    )
    assert sheet.lines[1][2:] == ("38.0 (1)", "40.0 (1)", "45.0 (1)", "", "41.0 (1)")
    assert sheet.lines[2][4] == sheet.lines[2][6] == MISSING, "fixmatch names none, and was scored once"
    assert "equal views" in sheet.group and "by the protocol's teacher" in sheet.group
    assert any("scored by, the protocol's teacher" in note for note in sheet.notes)
    plain = modules(grouped([make(0.4)]))
    assert "published views" in plain.group and "by each method's own predictor" in plain.group
    assert plain.lines[0] == ("method", "split", "student", "predictor"), "nothing to choose a best one from"
    assert any(note.startswith("No oracle: the runs were scored at their end alone") for note in plain.notes)


def test_the_three_lines_say_of_which_columns_draws_and_code_are_one_or_several(make: Any) -> None:
    def made_of(code: str) -> Contents:
        return Contents(code={"methods": code}, images="i", masks="m", scored="s", classes="c")

    runs = [
        make(miou, method=method, split=split, draw=draw, contents=made_of(code))
        for draw in (0, 1)
        for method, miou in (("supervised", 0.40 + draw / 100), ("fixmatch", 0.45))
        for split, code in (("1_8", "same"), ("full", f"of draw {draw}"))
        if split == "1_8" or draw == 0 or method == "fixmatch"
    ]
    runs += [make(m, method=of, split="tags") for of, m in (("supervised", 0.3), ("u2pl_weak", 0.5))]
    sheet = in_short(grouped(runs))
    assert sheet is not None
    assert sheet.notes[0] == (
        "supervised has 40.5 ± 0.7 (2 x 1) on 1_8, 40.0 (1) on full, 30.0 (1) on tags; one draw of the "
        "labeled images on tags. Means on full are of several states of the code."
    )


def test_no_difference_is_larger_than_all_points(make: Any) -> None:
    runs = [make(m, seed=s, method=of) for of in ("supervised", "fixmatch") for s, m in enumerate((0.1, 0.9))]
    runs[2:] = [make(m, seed=s, method="fixmatch") for s, m in enumerate((0.9, 0.1))]
    (said,) = [note for note in differences(grouped(runs), "supervised").notes if "% power" in note]
    assert "finds a difference of over 100 points (median of its rows; over 100 to over 100)" in said


def test_holes_name_few_seeds_and_missing_cells(make: Any) -> None:
    few, missing = holes(grouped(pair(make)))
    assert few == ["supervised on 1_8 (2)", "fixmatch on full (1)"]
    assert missing == ["supervised on full"]


# Hostile names

NAMES = [
    *("a|b", "=cmd|' /C calc'!A0", "+1", " -1", "@x", "\uff1dSUM(A1)", "a\nb", "a\x1b[31mb", "a\u202eb"),
    *("[bold]x[/bold]", "[/]", "<script>x</script>", "![x](y)", "`x`", "_x_ **y**", "\\", "$x$", "../../up"),
    *(r"\input{/etc/passwd}", "{}$&#^_~%", "[1cm]", "*", "^^M", "%x"),
]
WORDS = r"textbackslash|textasciicircum|textasciitilde|textless|textgreater|textbar"


@pytest.mark.parametrize("name", NAMES)
def test_hostile_names_are_text_in_latex(name: str) -> None:
    text = latex_text(name)
    rest = re.sub(rf"\\(?:{WORDS})\{{\}}|\{{[\[*]\}}|\$\\pm\$|\\[{{}}$&#_%]", "", text)
    assert not re.search(r"[\\{}$&#^_~%\[*\x00-\x1f]", rest)
    sheet = Sheet("s", name, name, pandas.DataFrame(), ((name, name), (name, name)), notes=(name,))
    lines = to_latex(sheet).splitlines()
    assert len(lines) == 16
    for line in (lines[4], lines[8], lines[13]):
        assert line == f"{text} & {text} \\\\"


@pytest.mark.parametrize("name", NAMES)
def test_hostile_names_stay_text_in_every_sheet(make: Any, name: str) -> None:
    """A name can come in as data set, protocol, split, class, method and knob."""
    fields: dict[str, Any] = {"dataset": name, "protocol": name, "split": name, "classes": [name, "b", "c"]}
    runs = [
        *(make(0.4, method=name, seed=s, curve=[0.5], knobs={"k": name}, **fields) for s in (0, 1)),
        make(0.4, method=name, knobs={"k": "x"}, **fields),
        *(make(0.5, seed=s, **fields) for s in (0, 1)),
    ]
    group = grouped(runs)
    sheets = [headline(group), spreads(group), modules(group), costs(group, {}, {})]
    sheets += [differences(group, "supervised"), *class_sheets(group)]
    sheets += filter(None, [overall_sheet([group], "supervised"), in_short(group)])
    assert len(sheets) == 8
    harmless = re.sub(r"[\n\x1b\u202e]", "\ufffd", name)
    for sheet in sheets:
        heading, *records = csv.reader(io.StringIO(to_csv(sheet)))
        assert heading == list(sheet.frame)
        for line in records:
            assert len(line) == len(heading) and line[0].removeprefix("'") == harmless
            for cell in line:
                formula = cell.lstrip().startswith(("=", "+", "-", "@", "\uff1d"))
                assert not formula or re.fullmatch(r"-?[\d.e-]+", cell)
        markdown, width = to_markdown(sheet), len(sheet.lines[0])
        table = markdown.split("\n\n")[0].splitlines()
        assert len(table) == len(sheet.lines) + 1
        assert all(len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == width + 1 for line in table), (
            "cells broken up"
        )
        assert not re.search(r"(?<!\\)(?:\\\\)*[<>$\[\]`*]", "\n".join(table))
        assert not re.search(r"[^\\A-Za-z0-9]_\w", markdown)
        text = printed(sheet)
        assert harmless in text
        for said in (markdown, to_csv(sheet), to_latex(sheet), text):
            assert not any(sign in said for sign in "\x1b\u202e")
    rows = to_markdown(sheets[0]).splitlines()[2:]
    assert any(re.sub(r"\\(.)", r"\1", row).startswith(f"| {harmless.lstrip()} (k=") for row in rows)
