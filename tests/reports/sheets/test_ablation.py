"""The table of a named sweep: which runs are a variant, paired differences, and what the paper had."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from grouping import foldered
from rich.console import Console

from bench.records.folders import RunFolder
from bench.records.schema import Result
from bench.sweeps.ablations import Ablation, Published, read_ablation, sweep_file
from reports.groups import comparable
from reports.report import write_report
from reports.sheets.ablation import AblationTable
from reports.sheets.ablation import ablation_tables as tables_of
from reports.sheets.headline import headline
from reports.sheets.text import to_csv, to_markdown, to_rich

SWEEP = Ablation(
    name="origins",
    title="Where keys come from",
    method="u2pl",
    variants={
        "unreliable": {"origin": "unreliable", "alpha": 0.2},
        "all": {"origin": "all", "alpha": 0.2},
        "more": {"origin": "unreliable", "alpha": 0.4},
    },
    published=Published(
        source="A paper, Table 4",
        columns=("1/8", "1/4"),
        values={"unreliable": (79.01, 79.3), "all": (77.4, None), "more": (None, None)},
    ),
    note="Read with care.",
)


def ablation_tables(results: list[Result], sweep: Ablation, fewest: int = 1) -> list[AblationTable]:
    """Of all groups of the results."""
    groups = comparable(foldered(results))
    return [table for group in groups for table in tables_of(group, sweep, fewest)]


@pytest.fixture
def run(make: Any) -> Any:
    """run(miou, "all", alpha=0.4, ...) -> Result of u2pl with those knobs."""

    def build(miou: float, origin: str = "unreliable", alpha: float = 0.2, tau: float = 0.5, **fields: Any):
        knobs = {"name": "u2pl", "origin": origin, "alpha": alpha, "tau": tau}
        return make(miou, **({"method": "u2pl", "knobs": knobs} | fields))

    return build


def cells(results: list[Result]) -> dict[str, list[str]]:
    (table,) = ablation_tables(results, SWEEP)
    return {line[0]: list(line[1:-2:2]) for line in table.sheet.lines[1:]}


def test_rows_are_variants_and_differences_are_paired_over_common_seeds(run: Any) -> None:
    results = [
        *(run(miou, seed=seed) for seed, miou in enumerate([0.40, 0.50, 0.60])),
        *(run(miou, "all", seed=seed) for seed, miou in [(1, 0.51), (2, 0.63), (7, 0.10)]),
    ]
    (table,) = ablation_tables(results, SWEEP)
    # +1 and +3 points on the seeds 1 and 2; seed 7 has no partner. Mean 2, error 1, and 12.706 of these.
    assert table.sheet.lines == (
        ("variant", "1_8 (46)", "difference", "paper 1/8, another data set", "paper 1/4, another data set"),
        ("unreliable", "50.0 ± 10.0 (3)", "reference", "79.01", "79.30"),
        ("all", "41.3 ± 27.8 (3)", "+2.0, -10.7 to +14.7 (2)", "77.40", "not published"),
        ("more", "missing", "missing", "not published", "not published"),
    )


def test_each_split_has_its_cells_and_its_difference(run: Any) -> None:
    results = [run(0.4), run(0.5, split="full"), run(0.6, "all", split="full")]
    (table,) = ablation_tables(results, SWEEP)
    heading, reference, every, _ = table.sheet.lines
    assert heading[:5] == ("variant", "1_8 (46)", "difference", "full (367)", "difference")
    assert reference[1:5] == ("40.0 (1)", "reference", "50.0 (1)", "reference")
    assert every[1:5] == ("missing", "missing", "60.0 (1)", "+10.0 (1)")


def test_only_runs_whose_knobs_are_those_of_a_variant_count(run: Any, make: Any) -> None:
    results = [
        run(0.4),
        run(0.5, "all"),
        run(0.1, "all", alpha=0.4),  # two changes at once: no variant
        run(0.1, "reliable"),
        run(0.1, method="u2pl_plus"),
        make(0.1, method="u2pl"),  # knobs of another version
    ]
    found = cells(results)
    assert found == {"unreliable": ["40.0 (1)"], "all": ["50.0 (1)"], "more": ["missing"]}


@pytest.mark.parametrize(
    ("other", "setting"), [({"tau": 1.0}, "tau=1.0"), ({"method_version": 2}, "version=2")]
)
def test_runs_with_other_knobs_or_another_version_are_another_table(
    run: Any, other: dict[str, Any], setting: str
) -> None:
    results = [run(0.4), run(0.5, "all")]
    results += [run(0.6, run_id="x", **other), run(0.65, "all", run_id="y", **other)]
    tables = ablation_tables(results, SWEEP)
    assert len(tables) == 2 and setting in {table.setting for table in tables}
    for table in tables:
        differences = table.sheet.frame["difference_mean_percent"]
        assert differences[1] == pytest.approx(5 if table.setting == setting else 10)
        assert table.setting in table.sheet.title
    assert ablation_tables(results[:3], SWEEP, fewest=2)[0].setting == "", "one table alone"


def test_runs_that_may_not_be_compared_are_other_tables(run: Any) -> None:
    results = [run(0.4), run(0.5, "all", protocol_hash="0" * 16)]
    assert len(ablation_tables(results, SWEEP)) == 2
    assert ablation_tables(results, SWEEP, fewest=2) == []
    assert ablation_tables([], SWEEP) == []


def test_a_table_without_its_reference_has_no_differences(run: Any) -> None:
    (table,) = ablation_tables([run(0.5, "all"), run(0.6, alpha=0.4)], SWEEP, fewest=2)
    assert [line[1:3] for line in table.sheet.lines[1:]] == [
        ("missing", "reference"),
        ("50.0 (1)", "missing"),
        ("60.0 (1)", "missing"),
    ]


def test_the_papers_numbers_are_marked_as_of_elsewhere(run: Any) -> None:
    (table,) = ablation_tables([run(0.4), run(0.5, "all")], SWEEP)
    console = Console(file=io.StringIO(), width=200, record=True)
    console.print(to_rich(table.sheet))
    for text in (to_markdown(table.sheet), console.export_text()):
        assert "another data set" in text and "Read with care." in text
        assert "Paper: A paper, Table 4; another data set, so compare the order of the rows" in text
        assert "Difference: to 'unreliable'" in text
    home = SWEEP.published.model_copy(update={"dataset": "camvid"})  # type: ignore[union-attr]
    (table,) = ablation_tables([run(0.4)], Ablation(**{**vars(SWEEP), "published": home}))
    text = to_markdown(table.sheet)
    assert "another protocol" in text and "another data set" not in text


def notes_of(results: list[Result], **needs: float) -> list[str]:
    named = {name.replace("_of_", "/"): least for name, least in needs.items()}
    (table,) = ablation_tables(results, Ablation(**{**vars(SWEEP), "needs": named}))
    return [note for note in table.sheet.notes if "Not testable" in note]


def test_a_sweep_says_itself_where_nothing_can_be_told(run: Any) -> None:
    """By the runs of the reference, the mean over its seeds, split by split."""

    def healthy(contrast: float, keys: float, **fields: Any) -> Result:
        return run(0.4, health={"gradient_share/contrast": contrast, "share_unlabeled": keys}, **fields)

    needs = {"gradient_share_of_contrast": 0.1, "share_unlabeled": 0.2}
    weak = [healthy(0.04, 0.3), healthy(0.06, 0.3, seed=1)]
    expected = "Not testable here on 1_8: 5.0 % of the gradient is the contrast's (least: 10 %)."
    assert notes_of(weak, **needs) == [expected]
    both = expected[:-1] + " and 4.0 % of the new negative keys are unlabeled (least: 20 %)."
    assert notes_of([healthy(0.05, 0.04)], **needs) == [both]
    assert notes_of([healthy(0.1, 0.2)], **needs) == [], "at the least it is testable"
    assert notes_of(weak) == [] == notes_of([run(0.4)], **needs), "without the figures nobody knows"
    assert notes_of([healthy(0.5, 0.5), healthy(0.01, 0.5, origin="all")], **needs) == [], "another variant"
    elsewhere = [healthy(0.5, 0.5), healthy(0.5, 0.1, split="full")]
    assert [note[:29] for note in notes_of(elsewhere, **needs)] == ["Not testable here on full: 10"]


def test_the_table_of_methods_says_it_too(run: Any) -> None:
    """Of the methods that have named sweeps, by the needs of these."""

    def notes(method: str, contrast: float) -> list[str]:
        health = {"gradient_share/contrast": contrast, "share_unlabeled": 0.198}
        (group,) = comparable(foldered([run(0.4, method=method, health=health)]))
        return [note for note in headline(group).notes if "cannot be tested" in note]

    keys = "19.8 % of the new negative keys are unlabeled (least: 20 %)."
    assert notes("u2pl", 0.5) == [f"What the parts of u2pl are worth cannot be tested on 1_8: {keys}"]
    assert "3.0 % of the gradient is the contrast's (least: 10 %) and 19.8 %" in notes("u2pl", 0.03)[0]
    assert notes("fixmatch", 0.5) == []


def test_the_sweeps_about_the_contrast_need_it_to_be_at_work() -> None:
    ranks = read_ablation(sweep_file("u2pl_ranks"))
    assert ranks.needs == {"gradient_share/contrast": 0.1, "share_unlabeled": 0.2}
    assert read_ablation(sweep_file("u2pl_temperature")).needs == {"gradient_share/contrast": 0.1}
    assert read_ablation(sweep_file("u2pl_warmup")).needs == {}


def test_the_csv_has_a_line_for_each_variant_on_each_split(run: Any) -> None:
    (table,) = ablation_tables([run(0.4), run(0.5, "all")], SWEEP)
    lines = {line["variant"]: line for line in csv.DictReader(io.StringIO(to_csv(table.sheet)))}
    assert float(lines["all"]["mean_percent"]) == pytest.approx(50)
    assert float(lines["all"]["difference_mean_percent"]) == pytest.approx(10)
    assert lines["all"]["split"] == "1_8" and lines["all"]["n"] == "1"


def test_without_published_numbers_there_are_no_columns(run: Any) -> None:
    (table,) = ablation_tables([run(0.4)], Ablation(**{**vars(SWEEP), "published": None, "note": ""}))
    assert table.sheet.lines[0] == ("variant", "1_8 (46)", "difference")
    assert "aper" not in to_markdown(table.sheet)


def test_markdown_is_a_table_and_names_are_only_text(run: Any) -> None:
    (table,) = ablation_tables([run(0.4, split="a|b<i>")], SWEEP)
    lines = to_markdown(table.sheet).splitlines()
    assert [line.count("|") - line.count("\\|") for line in lines[:5]] == [6] * 5
    assert "a\\|b\\<i\\>" in lines[0]


def test_the_report_has_the_named_sweeps_of_which_two_variants_are_found(make: Any, tmp_path: Path) -> None:
    from bench.settings.registry import describe_method

    names = {"name": "u2pl", **describe_method("u2pl").knobs().model_dump(mode="json")}
    ablation = read_ablation(sweep_file("u2pl_negatives"))
    results = [
        make(0.4 + n / 100, method="u2pl", knobs=names | dict(ablation.variants[variant]))
        for n, variant in enumerate(("unreliable", "all"))
    ]
    for number, result in enumerate(results):
        RunFolder(tmp_path / "runs" / str(number)).write_result(result)
    report = write_report([tmp_path / "runs"], tmp_path / "out")
    titles = {s.title.removesuffix(": mIoU (%)") for s in report.sheets if s.name.startswith("ablation")}
    assert "Negatives from unreliable, reliable or all pixels: u2pl" in titles
    # Both variants are rows of the components' sweep as well; no other sweep has two.
    assert (
        titles
        == {
            "Negatives from unreliable, reliable or all pixels: u2pl",
            *(t for t in titles if t.startswith("Components of U2PL")),
        }
        and len(titles) == 2
    )
    text = (tmp_path / "out" / "report.md").read_text()
    assert "Negatives from unreliable, reliable or all pixels: u2pl: mIoU" in text
    assert "+1.0 (1)" in text and "77.57" in text


def test_runs_on_other_tags_or_seeds_are_averaged_with_no_others(run: Any) -> None:
    """They have tables of their own; runs on a split without tags stand beside those on seeds of one kind."""

    def config(tags: str = "given", **seeds: Any) -> dict[str, Any]:
        knobs = {"name": "u2pl", "origin": "unreliable", "alpha": 0.2, "tau": 0.5}
        return {"method": knobs, "tags": tags, **({"cam_seeds": seeds} if seeds else {})}

    pixel, weak = run(0.6), run(0.4, split="tags", config=config(refine="crf"))
    assert cells([pixel, weak])["unreliable"] == ["40.0 (1)", "60.0 (1)"]
    others = [
        run(0.1, split="tags", config=config("shuffled", refine="crf"), run_id="a"),
        run(0.3, split="tags", config=config(refine="par"), run_id="b"),
    ]
    found = {table.setting: table for table in ablation_tables([pixel, weak, *others], SWEEP)}
    assert {setting: list(of.sheet.lines[1][1:-2:2]) for setting, of in found.items()} == {
        "tags=given": ["60.0 (1)"],
        "cam_seeds.refine=crf, tags=given": ["40.0 (1)"],
        "cam_seeds.refine=crf, tags=shuffled": ["10.0 (1)"],
        "cam_seeds.refine=par, tags=given": ["30.0 (1)"],
    }
