"""Golden sheets in every format, what they are made of, and names that would like to be more than text."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from grouping import folder, grouped
from rich.console import Console

from bench.errors import DataError
from bench.records.schema import Rescored, Result, Score, Scores, SeedCost
from reports.sheets.basis import lists, protocol
from reports.sheets.classes import class_sheets
from reports.sheets.cost import costs, images_per_second
from reports.sheets.differences import average_rank_sheet, differences
from reports.sheets.headline import headline, holes, intervals, modules
from reports.sheets.sheet import MISSING, Sheet
from reports.sheets.text import latex_text, to_csv, to_latex, to_markdown, to_rich
from reports.statistics import ImageSums, bootstrap, image_sums

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
        "\\begin{table}\n"
        "\\centering\n"
        "\\caption{mIoU (\\%): a\\_b, 50 \\%}\n"
        "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%\n"
        "\\begin{tabular}{lr}\n"
        "\\toprule\n"
        "method & 1\\_8 (46) \\\\\n"
        "\\midrule\n"
        "u2pl & 44.7 $\\pm$ 2.0 (3) \\\\\n"
        "x\\textbar{}y & missing \\\\\n"
        "\\bottomrule\n"
        "\\end{tabular}}\n"
        "\\par{\\footnotesize a note \\& more\\par}\n"
        "\\end{table}\n"
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


def test_intervals_are_of_students_t(make: Any) -> None:
    # Supervised 40 and 44: spread 2.83, standard error 2, 12.706 x 2 = 25.4.
    sheet = intervals(grouped(pair(make)))
    assert sheet.lines[1] == ("supervised", "42.0 ± 2.8, 16.6 to 67.4 (2)", "missing")
    assert sheet.lines[2][2] == "50.0 (1)"
    (hole,) = [line for line in csv.DictReader(io.StringIO(to_csv(sheet))) if line["n"] == "0"]
    assert (hole["method"], hole["split"], hole["low_percent"]) == ("supervised", "full", "")


def test_a_group_says_its_protocol_and_its_lists(make: Any) -> None:
    digests = {"pixel": "a" * 64, "tags": "b" * 64, "none": "c" * 64, "eval": "e" * 64}
    settings = {"method": {}, "protocol": {"name": "x", "steps": 1, "crop": [96, 128], "clip": None}}
    runs = [make(0.4, seed=s, split_digests=digests, config=settings) for s in (0, 2)]
    said = dict(protocol(grouped(runs)).lines)
    assert (said["steps"], said["crop"], said["clip"]) == ("100", "96 128", "none")
    assert said["scored images"] == f"233 (list {'e' * 64})" and said["encoder weights"] == "f" * 64
    assert said["classes"] == "3: road, sky, car"
    assert lists(grouped(runs)).lines[1] == ("1_8", "46", "0", "321", "1", "0 2", "a" * 12, "b" * 12)
    (record,) = csv.DictReader(io.StringIO(to_csv(lists(grouped(runs)))))
    assert [record[f"{name}_digest"] for name in ("pixel", "tags", "none")] == [c * 64 for c in "abc"]


def scored(make: Any) -> tuple[list[Result], dict[Path, ImageSums]]:
    """Runs that agree with their counts over 20 images."""
    rng = np.random.default_rng(0)
    runs: list[Result] = []
    sums = {}
    for method, good in (("supervised", 20), ("fixmatch", 60)):
        for seed in (0, 1):
            counts = rng.integers(0, 30, (20, 3, 3)) + good * np.eye(3, dtype=int)
            pooled = counts.sum(0)
            iou = np.diag(pooled) / (pooled.sum(0) + pooled.sum(1) - np.diag(pooled))
            runs.append(make(float(iou.mean()), method=method, seed=seed))
            sums[folder(runs[-1])] = image_sums([f"{i:02d}" for i in range(20)], counts)
    return runs, sums


def test_differences_are_paired_and_have_both_intervals(make: Any) -> None:
    # +5 and +3 over seeds 0 and 1: mean 4, spread 1.414, 12.706 x 1 = 12.7. Seed 2 has no partner.
    heading, first, second = differences(grouped(pair(make)), "supervised", {}).lines
    assert heading[2:] == ("difference", "95 % over seeds", "seeds", "95 % over images", "other side")
    assert first == ("fixmatch", "1_8 (46)", "+4.0", "-8.7 to +16.7", "2", "missing", "")
    assert second == ("fixmatch", "full (367)", "missing", "", "", "", "")

    runs, sums = scored(make)
    sheet = differences(grouped(runs), "supervised", sums)
    (record,) = csv.DictReader(io.StringIO(to_csv(sheet)))
    first, second, third, fourth = (sums[folder(run)] for run in runs)
    expected = bootstrap([(third, first), (fourth, second)])
    assert float(record["mean_percent"]) == pytest.approx(100 * expected.difference)
    assert float(record["images_low_percent"]) == pytest.approx(100 * expected.low)
    assert record["baseline"] == "supervised" and record["images"] == "20"
    assert sheet.lines[1][5] == f"{100 * expected.low:+.1f} to {100 * expected.high:+.1f}"
    assert sheet.lines[1][6] == "0.0 %"
    del sums[folder(runs[1])]
    assert differences(grouped(runs), "supervised", sums).lines[1][5] == "missing"


def test_one_scored_image_says_nothing_of_others(make: Any) -> None:
    runs, sums = scored(make)
    one = {key: ImageSums(of.ids[:1], of.sums[:, :1]) for key, of in sums.items()}
    assert differences(grouped(runs), "supervised", one).lines[1][5:] == ("missing", "")
    two = {key: ImageSums(of.ids[:2], of.sums[:, :2]) for key, of in sums.items()}
    assert " to " in differences(grouped(runs), "supervised", two).lines[1][5]


def test_differences_and_ranks_say_that_classes_are_not_the_same(make: Any) -> None:
    runs = [make(0.4, classes_averaged=3), make(0.5, method="fixmatch", classes_averaged=2)]
    ranks = average_rank_sheet(grouped(runs))
    for sheet in (differences(grouped(runs), "supervised", {}), ranks):
        assert sheet is not None and "same number of classes (2, 3)" in sheet.notes[-1]


def test_pairs_scored_on_other_images_are_refused_with_their_names(make: Any) -> None:
    runs, sums = scored(make)
    of = sums[folder(runs[2])]
    sums[folder(runs[2])] = ImageSums(("stranger", *of.ids[1:]), of.sums)
    with pytest.raises(DataError, match=r"fixmatch and supervised on camvid, 1_8: .*stranger"):
        differences(grouped(runs), "supervised", sums)


@pytest.mark.parametrize(("seeds", "p"), [(5, None), (6, "0.0625")])
def test_a_rank_test_needs_six_seeds(make: Any, seeds: int, p: str | None) -> None:
    runs = [make(0.40 + s / 1000, seed=s) for s in range(seeds)]
    runs += [make(0.45 + s / 900, seed=s, method="fixmatch") for s in range(seeds)]
    runs += [make(0.46 + s / 800, seed=s, method="cutmix") for s in range(seeds)]
    sheet, ranked = differences(grouped(runs), "supervised", {}), average_rank_sheet(grouped(runs))
    assert ranked is not None
    text = " ".join([*sheet.notes, *ranked.notes])
    if p is None:
        assert text.count("Fewer than six seeds: no rank test.") == 2
        assert len(sheet.lines[0]) == 7 and not re.search(r"Wilcoxon|Friedman", text)
    else:
        # All six positive: 2 / 64, twice that by Holm, and the second raised to the first.
        assert [line[7] for line in sheet.lines] == ["p (Holm)", "0.0625", "0.0625"]
        assert "the 2 tests" in text and "Friedman" in text and "Fewer" not in text


def test_ranks_are_over_the_cells_that_all_have(make: Any) -> None:
    sheet = average_rank_sheet(grouped(pair(make)))  # common: seeds 0 and 1 of 1_8; not seed 2, not full
    assert sheet is not None
    assert sheet.lines[1:] == (("fixmatch", "1.00", "2"), ("supervised", "2.00", "2"))
    assert "1_8 (2 seeds)" in sheet.notes[0] and "full" not in sheet.notes[0]
    assert average_rank_sheet(grouped([make(0.4), make(0.5, method="fixmatch", seed=1)])) is None


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

    heading = ("s per step", "training s", "classifier s", "maps s", "all three s", "peak MiB")
    assert cells(weak, pixel) == [
        heading,
        ("0.5", "50", "", "", "50", "512"),
        ("0.5", "50", "200", "30", "280", "900"),
    ]
    assert cells(weak, older)[1] == ("0.5", "50", "200 (1)", "30 (1)", "280 (1)", "900")
    assert cells(pixel, older)[0] == ("s per step", "peak MiB"), "nothing is recorded of it"


def test_the_methods_own_predictor_stands_beside_the_protocols_teacher(make: Any) -> None:
    config = {"method": {}, "protocol": {"teacher": {"decay": 0.99, "ramp": True}, "views": "equal"}}
    own = make(0.45).predictor
    runs = [make(0.40, student=0.38, own=own, config=config), make(0.42, method="fixmatch", config=config)]
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
    assert sheet.lines[1][2:] == ("38.0 (1)", "40.0 (1)", "45.0 (1)", "", "40.0 (1)")
    assert sheet.lines[2][4] == MISSING
    assert "equal views" in sheet.group and "by the protocol's teacher" in sheet.group
    assert any("scored by, the protocol's teacher" in note for note in sheet.notes)
    plain = modules(grouped([make(0.4)]))
    assert "published views" in plain.group and "by each method's own predictor" in plain.group
    assert "own predictor" not in plain.lines[0]


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
    assert len(lines) == 13
    for line in (lines[6], lines[8]):
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
    sheets = [headline(group), intervals(group), modules(group), costs(group, {}, {})]
    sheets += [differences(group, "supervised", {}), *class_sheets(group)]
    sheets += filter(None, [average_rank_sheet(group)])
    assert len(sheets) == 7
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
