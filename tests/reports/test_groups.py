import csv
import io
from pathlib import Path
from typing import Any

import pytest
from grouping import folder, foldered, grouped
from rich.console import Console

from bench.errors import DataError
from bench.records.schema import Rescored, Result, Scores
from reports.groups import COLUMNS, Group, Run, comparable, score_of, told_apart
from reports.sheets.cost import costs
from reports.sheets.headline import headline, modules
from reports.sheets.sheet import MISSING, cell_text
from reports.sheets.text import markdown_text, to_csv, to_markdown, to_rich
from reports.statistics import summarise


def shown(table: Group) -> dict[str, list[str]]:
    return {row.label: [cell_text(cell) for cell in row.cells] for row in table.rows}


def labels_of(runs: list[Result]) -> list[str]:
    """The label of each run's row."""
    labels = grouped(runs).labels
    return [labels[folder(run)] for run in runs]


def printed(runs: list[Result]) -> str:
    console = Console(file=io.StringIO(), width=200, record=True)
    console.print(to_rich(headline(grouped(runs))))
    return console.export_text()


def test_cells_hold_mean_spread_and_count(make: Any) -> None:
    runs = [make(m, seed=s) for s, m in enumerate([0.42, 0.43, 0.445])]
    # Mean 43.1667; deviations -1.1667, -.1667, 1.3333: squares sum 3.1667; / 2 = 1.5833; root 1.2583.
    assert shown(grouped(runs)) == {"supervised": ["43.2 ± 1.3 (3)"]}
    assert shown(grouped(runs[:1])) == {"supervised": ["42.0 (1)"]}


def test_missing_cells_are_named_and_unequal_seeds_counted(make: Any) -> None:
    runs = [
        make(0.40),
        make(0.50, split="full"),
        make(0.45, method="fixmatch", seed=0),
        make(0.47, method="fixmatch", seed=1),
    ]
    table = grouped(runs)
    assert shown(table) == {
        "supervised": ["40.0 (1)", "50.0 (1)"],
        "fixmatch": ["46.0 ± 1.4 (2)", MISSING],
    }
    assert to_markdown(headline(grouped(runs))).count(MISSING) == 1
    assert printed(runs).count(MISSING) == 1
    lines = list(csv.DictReader(io.StringIO(to_csv(headline(grouped(runs))))))
    (hole,) = [line for line in lines if line["mean_percent"] == ""]
    assert (hole["method"], hole["split"], hole["n"]) == ("fixmatch", "full", "0")


def test_columns_show_last_oracle_and_student(make: Any) -> None:
    runs = [make(0.40, curve=[0.30, 0.46, 0.40], student=0.38)]
    assert shown(grouped(runs)) == {"supervised": ["40.0 (1)"]}
    assert [score_of(run, column) for run in runs for column in COLUMNS] == [0.40, 0.46, 0.38, 0.40]
    assert modules(grouped(runs)).lines[1][2:] == ("38.0 (1)", "40.0 (1)", "", "46.0 (1)")


def test_oracle_of_a_run_without_curve_is_its_last_score(make: Any) -> None:
    assert score_of(make(0.40, curve=[]), "oracle") == 0.40


def test_rows_baseline_first_then_by_mean_of_smallest_split(make: Any) -> None:
    runs = [
        make(0.30, method="supervised"),
        make(0.90, method="supervised", split="full"),
        make(0.41, method="alpha"),
        make(0.95, method="alpha", split="full"),
        make(0.43, method="zeta"),
        make(0.99, method="only_full", split="full"),
    ]
    assert [row.label for row in grouped(runs).rows] == ["supervised", "zeta", "alpha", "only_full"]


def test_splits_in_order_of_labeled_images(make: Any) -> None:
    runs = [make(0.4, split=s) for s in ("full", "1_8", "tags", "1_4", "1_8+tags")]
    assert [split.heading for split in grouped(runs).splits] == [
        "tags (367 tags)",
        "1_8 (46)",
        "1_8+tags (46 + 321 tags)",
        "1_4 (92)",
        "full (367)",
    ]


@pytest.mark.parametrize(
    "other",
    [
        {"protocol_hash": "0" * 16},
        {"eval_digest": "d" * 64},
        {"classes": ["road", "sky", "bus"]},
        {"weights_digest": None},
        {"dataset": "shapes"},
    ],
)
def test_what_may_not_be_compared_is_split_and_refused(make: Any, other: dict[str, Any]) -> None:
    runs = [make(0.40), make(0.41, seed=1), make(0.60, method="fixmatch", **other)]
    assert sorted(len(group.runs) for group in comparable(foldered(runs))) == [1, 2]
    with pytest.raises(DataError, match="got 2 groups"):
        Group(run for group in comparable(foldered(runs)) for run in group.runs)


def test_knob_sets_are_rows_named_by_what_differs(make: Any) -> None:
    def run(miou: float, threshold: float, seed: int = 0) -> Result:
        return make(
            miou,
            method="fixmatch",
            seed=seed,
            knobs={"threshold": threshold, "weight": 1.0, "ema": {"decay": 0.99}},
        )

    runs = [make(0.3, knobs={"weight": 2.0}), run(0.40, 0.95), run(0.42, 0.95, seed=1), run(0.50, 0.8)]
    assert shown(grouped(runs)) == {
        "supervised": ["30.0 (1)"],
        "fixmatch (threshold=0.8)": ["50.0 (1)"],
        "fixmatch (threshold=0.95)": ["41.0 ± 1.4 (2)"],
    }


def test_seeds_of_tags_are_rows_of_their_own_only_where_they_differ(make: Any) -> None:
    """A split without tags has no seeds, which makes no other method; shuffled tags and chosen scores are
    always said."""

    def weak(
        miou: float, policy: str = "fixed", lead: float = 0.1, tags: str = "given", seed: int = 0
    ) -> Result:
        run = make(miou, method="u2pl", split="tags", seed=seed, run_id=f"{policy}-{lead}-{tags}-{seed}")
        seeds = {"protocol": {"name": "x", "steps": 3}, "policy": policy, "lead": lead}
        return run.model_copy(update={"config": {**run.config, "cam_seeds": seeds, "tags": tags}})

    plain = make(0.50, method="u2pl", split="full")
    rows = shown(grouped([plain, weak(0.40), weak(0.42, seed=1)]))
    assert list(rows) == ["u2pl"] and sorted(rows["u2pl"]) == ["41.0 ± 1.4 (2)", "50.0 (1)"]
    assert list(shown(grouped([weak(0.4, policy="oracle")]))) == ["u2pl (cam_seeds.policy=oracle)"]
    rows = shown(grouped([plain, weak(0.40), weak(0.02, tags="shuffled"), weak(0.6, policy="oracle")]))
    assert set(rows) == {"u2pl", "u2pl (tags=shuffled)", "u2pl (cam_seeds.policy=oracle)"}
    rows = shown(grouped([weak(0.40), weak(0.45, lead=0.2)]))
    assert set(rows) == {"u2pl (cam_seeds.lead=0.1)", "u2pl (cam_seeds.lead=0.2)"}


def test_nested_knobs_and_versions_are_told_apart(make: Any) -> None:
    runs = [
        make(0.40, method="u2pl", knobs={"ema": {"decay": 0.9}}),
        make(0.41, method="u2pl", knobs={"ema": {"decay": 0.99}}),
        make(0.42, method="fixmatch", run_id="a"),
        make(0.43, method="fixmatch", run_id="b", method_version=2),
    ]
    assert [row.label for row in grouped(runs).rows] == [
        "fixmatch (version=2)",
        "fixmatch (version=1)",
        "u2pl (ema.decay=0.99)",
        "u2pl (ema.decay=0.9)",
    ]


def test_lists_of_one_name_and_different_content_are_two_columns(make: Any) -> None:
    runs = [make(0.40, pixel_digest="aaaaaaaa11"), make(0.50, seed=1, pixel_digest="bbbbbbbb22")]
    table = grouped(runs)
    assert [split.label for split in table.splits] == ["1_8 [pixel aaaaaaaa]", "1_8 [pixel bbbbbbbb]"]
    assert shown(table) == {"supervised": ["40.0 (1)", "50.0 (1)"]}


def test_a_run_found_twice_counts_once(make: Any) -> None:
    (group,) = comparable({Path("here"): make(0.40), Path("there"): make(0.40)})
    assert shown(group) == {"supervised": ["40.0 (1)"]} and [run.folder for run in group.runs] == [
        Path("here")
    ]


def test_two_scores_of_one_run_are_refused(make: Any) -> None:
    with pytest.raises(DataError, match="occurs twice with different scores"):
        grouped([make(0.40), make(0.41)])


def test_one_seed_is_not_averaged_with_itself(make: Any) -> None:
    with pytest.raises(DataError, match=r"runs a and b .*same knobs"):
        _ = grouped([make(0.40, run_id="a"), make(0.41, run_id="b")]).rows


def test_unequal_class_counts_are_noted(make: Any) -> None:
    assert grouped([make(0.4), make(0.5, seed=1)]).notes == ()
    (note,) = grouped([make(0.4), make(0.5, seed=1, classes_averaged=2)]).notes
    assert "(2, 3)" in note


def test_markdown_is_aligned(make: Any) -> None:
    runs = [make(0.40), make(0.45, method="fixmatch", split="full")]
    assert to_markdown(headline(grouped(runs))) == (
        "| method     | 1_8 (46) | full (367) |\n"
        "|------------|----------|------------|\n"
        "| supervised | 40.0 (1) | missing    |\n"
        "| fixmatch   | missing  | 45.0 (1)   |\n"
        "\n"
        "All runs of a split have the same labeled images (one draw): nothing is said of other choices.\n"
    )


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("1. x", r"1\. x"),
        ("12) x", r"12\) x"),
        ("- x", r"\- x"),
        ("    code", "code"),
        ("+3.0 (2)", "+3.0 (2)"),
        ("-1.5 to 2", "-1.5 to 2"),
        ("see https://x.y or www.x.y", r"see https\://x.y or www\.x.y"),
    ],
)
def test_a_name_begins_no_list_and_becomes_no_link(text: str, markdown: str) -> None:
    assert markdown_text(text) == markdown


def test_rows_are_named_by_what_differs_from_most(make: Any) -> None:
    knobs = [{"a": 1, "b": 1}, {"a": 2, "b": 1}, {"a": 1, "b": 2}, {"a": 1, "b": 1, "c": 3}]
    runs = [make(0.4, knobs=one, seed=seed) for one in knobs for seed in range(2)]
    named = ["supervised", "supervised (a=2)", "supervised (b=2)", "supervised (c=3)"]
    assert labels_of(runs) == [name for name in named for _ in range(2)]
    # Seeds and splits make no value commoner: of two rows each is named.
    runs = [make(0.4, knobs={"a": 1}), *(make(0.4, knobs={"a": 2}, seed=seed) for seed in range(5))]
    assert labels_of(runs) == ["supervised (a=1)", *["supervised (a=2)"] * 5]


def test_methods_whose_labels_come_out_alike_are_rows_of_their_own(make: Any) -> None:
    runs = [
        make(0.4, method="a", knobs={"k": 1}),
        make(0.5, method="a", knobs={"k": 2}),
        make(0.6, method="a (k=1)"),
    ]
    assert labels_of(runs) == ["a (k=1)", "a (k=2)", "a (k=1) #2"]
    assert {row.label: len(row.runs) for row in grouped(runs).rows} == dict.fromkeys(labels_of(runs), 1)


def test_a_number_and_its_text_are_two_settings(make: Any) -> None:
    assert labels_of([make(0.4, knobs={"k": 1}), make(0.5, knobs={"k": "1"})]) == [
        "supervised (k=1)",
        'supervised (k="1")',
    ]


def test_columns_of_one_name_are_numbered(make: Any) -> None:
    """Digests of lists that begin alike."""
    runs = [make(0.4, pixel_digest="abcdef01" + end * 56, run_id=end) for end in "23"]
    labels = [split.label for split in grouped(runs).splits]
    assert labels == ["1_8 [pixel abcdef01]", "1_8 [pixel abcdef01] #2"]


def test_every_pass_of_scoring_counts_once(make: Any) -> None:
    """The two numbers of a pass name its time; another pass may take as long."""
    run = make(0.4)
    ways = [("multi_scale", (1.0,), None), ("crf", (1.0,), "irn"), ("multi_scale", (0.5, 1.0), None)]
    entries = [
        Rescored(
            name=name, scales=scales, flip=True, crf=crf, half_size=False, score=run.predictor, seconds=7
        )
        for name, scales, crf in ways
    ]
    (heading, line) = costs(grouped([run]), {folder(run): Scores(entries=entries)}, {}).lines
    assert dict(zip(heading, line, strict=True))["scoring s"] == "14"


# Draws, views, scoring


def digests(draw: int, name: str = "1_8") -> dict[str, str]:
    return {"pixel": f"p-{name}-{draw}", "none": f"n-{name}-{draw}", "eval": "e" * 64}


def test_draws_of_a_split_are_one_column(make: Any) -> None:
    runs = [make(0.4 + d / 10, draw=d, split_digests=digests(d)) for d in (2, 0, 1)]
    group = grouped([*runs, make(0.9, split="full")])
    assert [split.heading for split in group.splits] == ["1_8 (46)", "full (367)"]
    assert group.splits[0].digests[0] == "p-1_8-0" and group.draws == (0, 1, 2)
    (row,) = group.rows
    assert row.scores(group.splits[0]) == {(d, 0): pytest.approx(0.4 + d / 10) for d in (0, 1, 2)}
    cell = row.cells[0]
    assert cell is not None and (cell.n, cell.draws) == (3, 3) and cell.mean == pytest.approx(0.5)


def test_two_lists_of_one_draw_are_columns_of_their_own(make: Any) -> None:
    runs = [make(0.4, draw=1, split_digests=digests(d), method=f"m{d}") for d in (1, 2)]
    assert [split.label for split in grouped(runs).splits] == [
        "1_8 [pixel p-1_8-1] [none n-1_8-1]",
        "1_8 [pixel p-1_8-2] [none n-1_8-2]",
    ]


def test_one_seed_of_two_draws_is_two_runs_and_of_one_draw_an_error(make: Any) -> None:
    first, second = (make(0.4, draw=d, run_id="same", split_digests=digests(d)) for d in (0, 1))
    assert grouped([first, second, first]).rows[0].cells[0] == summarise({(0, 0): 0.4, (1, 0): 0.4})
    with pytest.raises(DataError, match="1_8, draw 1, seed 0"):
        shown(grouped([second, make(0.5, draw=1, run_id="other", split_digests=digests(1))]))


def test_rows_of_other_draws_are_said_to_be_so(make: Any) -> None:
    runs = [make(0.4, method=m, draw=d, split_digests=digests(d)) for m in ("a", "b") for d in (0, 1)]
    group = grouped([*runs, make(0.9, method="c", split_digests=digests(0))])
    assert [group.other_draws(row, group.splits[0]) for row in group.rows] == ["draw 0", "", ""]
    (warning,) = group.warnings
    assert "not all rows on 1_8 are of the same draws: c (draw 0)" in warning
    assert grouped(runs).warnings == ()


def of_protocol(**settings: Any) -> dict[str, Any]:
    """A run's settings, and the hash that goes with them."""
    return {"config": {"method": {}, "protocol": settings}, "protocol_hash": str(sorted(settings.items()))}


def test_no_table_mixes_views_scoring_or_scored_lists(make: Any) -> None:
    others: list[dict[str, Any]] = [
        of_protocol(),
        of_protocol(views="equal"),
        of_protocol(views="equal", teacher={"decay": 0.99, "ramp": True}),
        {"scored": "heldout"},  # of the same hash, and be it of the same images
    ]
    runs = [make(0.4, **other) for other in others]
    groups = comparable(foldered(runs))
    assert len(groups) == len(others)
    for pair in ([runs[0], runs[1]], [runs[1], runs[2]], [make(0.4), runs[3]]):
        with pytest.raises(DataError, match="a table needs runs of one data set"):
            Group(Run(folder(run), run) for run in pair)
    said = {(group.views, group.scorer, group.held_out) for group in groups}
    own, teacher = "each method's own predictor", "the protocol's teacher"
    assert said == {
        *(("published", own, False), ("equal", own, False)),
        *(("equal", teacher, False), ("published", own, True)),
    }
    for group in groups:
        assert f"{group.views} views, scored by {group.scorer}" in group.basis
        assert ("held-out" in group.basis) is ("held-out" in group.title) is group.held_out
    names = told_apart(["name"] * 4, groups)
    assert any("views equal, scored by the protocol's teacher" in name for name in names)


def test_the_other_yardsticks_stand_beside_the_first(make: Any) -> None:
    names = ["supervised_plain", "supervised", "fixmatch", "supervised_colours"]
    runs = [make(0.9 - i / 10, method=name) for i, name in enumerate(names)]
    assert [row.label for row in grouped(runs).rows] == [
        *("supervised", "supervised_plain", "supervised_colours"),
        "fixmatch",
    ]


def test_a_record_of_before_draws_is_written_as_it_was(make: Any) -> None:
    assert not {"draw", "scored"} & make(0.4).model_dump(mode="json").keys()
    assert make(0.4, draw=2, scored="heldout").model_dump(mode="json")["draw"] == 2
