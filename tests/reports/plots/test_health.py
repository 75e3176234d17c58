"""Health figures from log lines: read, drawn, tabulated, and part of the report."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grouping import grouped
from matplotlib.collections import QuadMesh

from bench.records.folders import RunFolder
from bench.records.schema import Result
from reports.plots import curves, figure, health
from reports.plots.picture import Picture
from reports.report import write_report
from reports.sheets.health import Health, gather, health_sheet

CLASSES = ("road", "sky", "car")
Line = dict[str, Any]


def lines_of(
    seed: int = 0, steps: int = 400, every: int = 20, warmup: int = 100, classes: int = 3, audit: bool = True
) -> list[Line]:
    """What a contrastive method might log: nothing of its own in the warm-up, then everything."""
    rng = np.random.default_rng(seed)
    share = np.geomspace(0.3, 0.002, classes)  # of the pixels, per class
    found = []
    for step in range(every, steps + 1, every):
        t = step / steps
        line: Line = {
            "step": step,
            "lr": 0.01 * (1 - t) ** 0.9,
            "loss": 2 * math.exp(-2 * t) + 0.05 * rng.random(),
            "warmup_steps": float(warmup),
            "alpha": 0.2 * (1 - t),
            "reliable_share": 0.8 + 0.2 * t + 0.01 * rng.standard_normal(),
            "rare_share_reliable": 0.01 + 0.02 * t + 0.002 * rng.random(),
            "rare_share_labeled": 0.04 + 0.004 * rng.random(),
            "threshold": 1.8 * math.exp(-1.5 * t) + 0.05 * rng.standard_normal(),
        }
        if audit:
            line["accuracy_teacher"] = 0.45 + 0.35 * (1 - math.exp(-4 * t)) + 0.02 * rng.standard_normal()
            line["accuracy_reliable"] = line["accuracy_teacher"] + 0.1
            line["accuracy_unreliable"] = line["accuracy_teacher"] - 0.25
        contrast = step > warmup
        for name in ("truth_among_negatives", "truth_among_negatives_chance"):
            line[name] = None if not contrast else 0.04 + 0.15 * ("chance" in name) + 0.01 * rng.random()
        grown = 1 - np.exp(-40 * share * max(0, step - warmup) / steps)
        vectors = {
            "queue_fill": np.minimum(1, 1.2 * grown),
            "queue_turnover": np.minimum(1, share * 3 + 0.02 * rng.random(classes)),
            "negatives_labeled": np.round(2e4 * share * rng.random(classes)),
            "negatives_unlabeled": np.round(4e3 * share[::-1] * rng.random(classes)),
            "anchors": np.round(5e3 * share * (rng.random(classes) > 0.1)),
        }
        line |= {name: value.tolist() if contrast else [None] * classes for name, value in vectors.items()}
        found.append(line)
    return found


def healthy(runs: list[list[Line]], classes: tuple[str, ...] = CLASSES) -> Health:
    found = gather(runs, classes)
    assert found is not None
    return found


def store(folder: Path, result: Result, lines: list[Line] | None = None) -> None:
    run = RunFolder(folder)
    run.write_result(result)
    if lines is not None:
        run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))


def picture(found: Health, heading: str = "x") -> Picture:
    return health.picture(found, name="x", title="x", alt="x", heading=heading)


def draw(found: Health, heading: str = "x") -> Any:
    return figure.draw(picture(found, heading))


def by_title(figure: Any) -> dict[str, Any]:
    return {ax.get_title(loc="left"): ax for ax in figure.axes if ax.get_title(loc="left")}


def drawn(ax: Any) -> dict[str, list[float]]:
    """What each line of a panel shows, by its name."""
    return {str(line.get_gid()): [float(y) for y in line.get_ydata()] for line in ax.lines if line.get_gid()}


# Reading


def test_figures_are_read_by_run_step_and_class() -> None:
    runs = [
        [
            {"step": 2, "loss": 1, "alpha": 0.2, "queue_fill": [0, None, 1], "unheard_of": 3},
            {"step": 4, "loss": 1, "alpha": None, "queue_fill": [0.5, 1, 1], "warmup_steps": 2.0},
        ],
        [{"step": 2, "alpha": 0.4}, {"step": 4, "alpha": 0.5}],
    ]
    found = healthy(runs)
    assert found.steps.tolist() == [2, 4] and found.warmup == 2 and found.runs == 2
    assert found.figures.keys() == {"alpha", "queue_fill"}
    np.testing.assert_array_equal(found.figures["alpha"], [[0.2, np.nan], [0.4, 0.5]])
    np.testing.assert_array_equal(found.figures["queue_fill"][0], [[0, np.nan, 1], [0.5, 1, 1]])
    assert np.isnan(found.figures["queue_fill"][1]).all()


def test_lines_of_evaluations_are_no_steps_of_figures() -> None:
    runs = [
        [
            {"step": 2, "alpha": 0.1},
            {"step": 3, "miou": 0.5},
            {"step": 4, "alpha": 0.2},
            {"step": 4, "miou": 1},
        ]
    ]
    found = healthy(runs)
    assert found.steps.tolist() == [2, 4] and found.figures["alpha"].tolist() == [[0.1, 0.2]]


def test_a_figure_that_begins_late_does_not_reach_back_to_the_start() -> None:
    lines = [{"step": 10, "loss": 2.0}, {"step": 20, "loss": 1.0}, {"step": 30, "anchors": [1, 2, 3]}]
    found = healthy([lines])
    assert found.steps.tolist() == [10, 20, 30]
    assert np.isfinite(found.figures["anchors"][0, :, 0]).tolist() == [False, False, True]


def test_runs_that_logged_at_other_steps_meet_where_both_did() -> None:
    found = healthy([lines_of(every=20), lines_of(1, every=50)])
    assert found.steps.tolist() == [100, 200, 300, 400] and found.runs == 2


@pytest.mark.parametrize(
    "lines", [[], [{"step": 2, "loss": 1.0}], [{"step": 2, "alpha": None}], [{"step": 2, "alpha": [1, 2, 3]}]]
)
def test_runs_without_figures_have_no_health(lines: list[Line]) -> None:
    assert gather([lines], CLASSES) is None
    found = healthy([lines, [{"step": 2, "threshold": 1.5}]])
    assert found.figures["threshold"][np.isfinite(found.figures["threshold"])].tolist() == [1.5]


@pytest.mark.parametrize("value", ["text", [1, 2], {"a": 1}, [[1], [2], [3]], [1, "x", 2]])
def test_a_value_of_another_shape_is_no_value(value: Any) -> None:
    found = healthy([[{"step": 2, "anchors": value, "alpha": 0.1}, {"step": 4, "anchors": [1, 2, 3]}]])
    assert np.isnan(found.figures["anchors"][0, 0]).all()


# Drawing


def test_a_panel_per_kind_of_figure_that_there_is() -> None:
    whole = by_title(draw(healthy([lines_of()])))
    assert list(whole) == [
        *("Shares", "Rare classes", "Threshold", "Pseudo-label accuracy"),
        "Negatives of their own true class",
        *("Fill of the queues", "Keys new in this step"),
        *("Negatives, rule of labeled pixels", "Negatives, rule of unlabeled pixels", "Anchor candidates"),
    ]
    few = by_title(draw(healthy([[{"step": 1, "threshold": 1.0}, {"step": 2, "threshold": 2.0}]])))
    assert list(few) == ["Threshold"]


def test_lines_are_means_with_bands_from_smallest_to_largest() -> None:
    runs = [[{"step": s, "alpha": a + s / 10, "threshold": a} for s in (1, 2)] for a in (0.1, 0.2, 0.6)]
    ax = by_title(draw(healthy(runs)))["Shares"]
    assert drawn(ax) == {"alpha (to be unreliable)": pytest.approx([40, 50])}
    (band,) = ax.collections
    assert band.get_datalim(ax.transData).intervaly.tolist() == pytest.approx([20, 80])
    assert drawn(by_title(draw(healthy(runs)))["Threshold"])["threshold"] == pytest.approx([0.3, 0.3]), (
        "an entropy is no share"
    )
    assert not by_title(draw(healthy(runs[:1])))["Shares"].collections, "one seed has no band"


def test_maps_have_a_row_per_class_and_reach_back_to_the_line_before() -> None:
    runs = [
        [{"step": s, "anchors": [s * k, 0, None], "queue_fill": [0.5, 0, None]} for s in (10, 30)]
        for k in (2, 4)
    ]
    panels = by_title(draw(healthy(runs)))
    for title, expected in (("Anchor candidates", [30, 90]), ("Fill of the queues", [50, 50])):
        zero, some = (c for c in panels[title].collections if isinstance(c, QuadMesh))
        assert some.get_coordinates()[0, :, 0].tolist() == [0, 10, 30]
        values = np.ma.asarray(some.get_array())
        assert values[0].tolist() == expected and values.mask[1:].all()
        assert np.ma.getmaskarray(np.ma.asarray(zero.get_array()))[:, 0].tolist() == [True, False, True]
        names = [label.get_text() for label in panels[title].get_yticklabels()]
        assert names == list(CLASSES) or not panels[title].yaxis.get_visible()
        bottom, top = panels[title].get_ylim()
        assert bottom > top, "the first class is at the top, as in the tables"


def test_the_two_rules_for_negatives_share_their_colours() -> None:
    lines = [{"step": 1, "negatives_labeled": [1, 5, 9], "negatives_unlabeled": [200, 90_000, 0]}]
    panels = by_title(draw(healthy([lines])))
    limits = [ax.collections[-1].get_clim() for ax in panels.values()]
    assert limits == [(1, 100_000)] * 2


@pytest.mark.parametrize("counts", [[0, 0, 0], [7, 7, 7], [10, 0, 10], [0.001, 0, 1e9], [None, 0, None]])
def test_counts_of_any_size_can_be_drawn(counts: list[float | None]) -> None:
    shown = draw(healthy([[{"step": 1, "anchors": counts}]]))
    low, high = by_title(shown)["Anchor candidates"].collections[-1].get_clim()
    assert 0 < 10 * low <= high
    assert len(figure.render(shown)) == 2


def test_the_end_of_the_warmup_is_marked_and_explained() -> None:
    both = healthy([lines_of(), lines_of(1)])
    for ax in by_title(draw(both)).values():
        assert 100.0 in [float(line.get_xdata()[0]) for line in ax.lines if len(line.get_xdata()) == 2]
    assert "the warm-up ends at step 100" in picture(both).caption
    assert "mean of 2 seeds" in picture(both).caption
    partly = healthy([lines_of(), lines_of(1, audit=False)])
    assert "mean of up to 2 seeds" in picture(partly).caption
    without = [{key: value for key, value in line.items() if key != "warmup_steps"} for line in lines_of()]
    assert "warm-up" not in picture(healthy([without])).caption


def test_a_figure_of_one_line_is_a_point() -> None:
    ax = by_title(draw(healthy([[{"step": 6, "alpha": 0.1}]])))["Shares"]
    assert ax.lines[0].get_marker() == "o"


@pytest.mark.slow
def test_equal_lines_give_equal_files() -> None:
    first, second = (figure.render(draw(healthy([lines_of()]))) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("count", [1, 150])
def test_any_number_of_classes_fits(count: int) -> None:
    classes = tuple(f"_$class_{i}$<b>" for i in range(count))
    shown = draw(healthy([lines_of(classes=count)], classes), "a $title\n_")
    assert max(shown.get_size_inches()) < 40
    labels = by_title(shown)["Anchor candidates"].get_yticklabels()
    assert len(labels) <= 40 and labels[0].get_text() == "_$class_0$<b>"
    assert not any(label.get_parse_math() for label in labels)


# Table


def test_the_table_has_the_switch_and_the_end(make: Any) -> None:
    group = grouped([make(0.5, method="u2pl")])
    runs = [
        [
            {
                "step": s,
                "accuracy_teacher": a + s / 100,
                "threshold": 1.0 if s < 30 else None,
                "warmup_steps": 10,
            }
            for s in (10, 20, 30)
        ]
        for a in (0.1, 0.3)
    ]
    found = health_sheet(group, [("u2pl", group.splits[0], healthy(runs))])
    assert found.lines[0][4:] == ("after the warm-up", "last", "steps")
    place = ("u2pl", "1_8 (46)")
    assert found.lines[1:] == (
        (*place, "Threshold: threshold (nats, or a confidence)", "threshold", "1.000", "none", "20, 30"),
        (
            *(*place, "Pseudo-label accuracy: all pixels (%)", "accuracy_teacher"),
            *("40.0 (30.0 to 50.0)", "50.0 (40.0 to 60.0)", "20, 30"),
        ),
    )
    last = found.frame.iloc[-1]
    assert [last[name] for name in ("figure", "step", "n")] == ["accuracy_teacher", 30, 2]
    assert [last[name] for name in ("mean", "smallest", "largest")] == pytest.approx([0.5, 0.4, 0.6])


@pytest.mark.parametrize("warmup", [None, 0, 30, 1000])
def test_without_a_line_after_the_warmup_there_is_the_end_only(make: Any, warmup: int | None) -> None:
    group = grouped([make(0.5, method="u2pl")])
    lines = [{"step": s, "alpha": 0.1, "warmup_steps": warmup} for s in (10, 20, 30)]
    found = health_sheet(group, [("u2pl", group.splits[0], healthy([lines]))])
    assert found.lines[1][4:] == ("", "10.0", "30") and len(found.frame) == 1


# Report


@pytest.mark.slow
def test_the_report_shows_each_method_that_has_figures(make: Any, tmp_path: Path) -> None:
    runs, out = tmp_path / "runs", tmp_path / "out"
    for seed in (0, 1):
        store(runs / f"u{seed}", make(0.5, method="u2pl", seed=seed), lines_of(seed))
    store(runs / "f", make(0.5, method="u2pl", split="full"), lines_of(audit=False)[:3])
    store(runs / "old", make(0.4))
    store(runs / "plain", make(0.4, seed=1), [{"step": 20, "loss": 1.0, "lr": 0.1}])
    report = write_report([runs], out)
    text = (out / "report.md").read_text()
    (section,) = text.split("### Health\n")[1:]
    assert text.index("### Cost") < text.index("### Health")
    section = section.split("\n### ")[0]
    titles = re.findall("^health of (.*), class by class:$", section, re.MULTILINE)
    assert titles == ["u2pl on 1_8 (46)", "u2pl on full (367)"]
    pictures = sorted(path.name for path in out.glob("health-camvid-*.png"))
    assert len(pictures) == 2 and all(f"]({name})" in section for name in pictures)
    assert {path.name for path in report.paths} == {path.name for path in out.iterdir()}
    rows = [line for line in section.splitlines() if "accuracy_teacher" in line]
    assert len(rows) == 1 and "1_8 (46)" in rows[0]


@pytest.mark.slow
def test_rows_of_other_knobs_have_figures_of_their_own(make: Any, tmp_path: Path) -> None:
    for number, knobs in enumerate(({"anchors": 50}, {"anchors": 256})):
        store(tmp_path / "runs" / str(number), make(0.5, method="u2pl", knobs=knobs), lines_of(number))
    text = (
        (tmp_path / "out" / "report.md").read_text()
        if write_report([tmp_path / "runs"], tmp_path / "out")
        else ""
    )
    assert "health of u2pl (anchors=50) on" in text and "health of u2pl (anchors=256) on" in text
    assert len(list((tmp_path / "out").glob("health-camvid-*.png"))) == 2


@pytest.mark.slow
def test_a_torn_last_line_is_left_out_of_the_report(make: Any, tmp_path: Path) -> None:
    store(tmp_path / "runs", make(0.5), lines_of())
    with RunFolder(tmp_path / "runs").metrics.open("a") as file:
        file.write('{"step": 420, "alp')
    write_report([tmp_path / "runs"], tmp_path / "out")
    (rows,) = [sheet.read_text() for sheet in (tmp_path / "out").glob("health-camvid-abcdef01.csv")]
    assert ",400," in rows and ",420," not in rows


def test_what_is_measured_now_and_then_is_shown_where_it_is(make: Any) -> None:
    """At the first and the last measurement behind the warm-up, and as points; no loss of its own."""
    lines = lines_of()
    for at, share in ((7, 0.2), (11, 0.1), (15, 0.05)):
        lines[at] |= {"gradient_share/contrast": share, "gradient_share/labeled": 1 - share}
        lines[at]["gradient_share/of_a_plugin"] = 0.5
    group = grouped([make(0.4, method="u2pl")])
    (row,), (split,) = group.rows, group.splits
    sheet = health_sheet(group, [(row.label, split, healthy([lines]))])
    (line,) = [line for line in sheet.lines if "of the contrast" in line[2]]
    assert line[2:] == ("Share of the gradient: of the contrast (%)", line[3], "20.0", "5.0", "160, 320")
    drawn = health.picture(healthy([lines]), name="n", title="t", alt="a", heading="h")
    (panel,) = [panel for panel in drawn.panels if panel and panel.title == "Share of the gradient"]
    assert [list(one.x) for one in panel.lines] == [[160, 240, 320]] * 2
    assert all(one.look["marker"] == "o" for one in panel.lines)
    (folder,) = [run.folder for run in group.runs]
    terms = curves.learning(group, {folder: lines})
    assert not [text for text in map(str, terms) if "gradient_share" in text]


def test_colours_of_shares_end_at_a_round_number() -> None:
    for largest, end in ((0.0, 1.0), (1.0, 1.0), (1.7, 2.0), (38.0, 50.0), (51.0, 100.0), (100.0, 100.0)):
        assert health._percent(np.array([np.nan, largest / 2, largest])) == end
    assert health._percent(np.array([np.nan])) == 1.0
