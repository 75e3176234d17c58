"""The plots beside mIoU against labels: what is drawn is what was measured."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
import pytest
from grouping import folder, grouped

from bench.records.schema import CurvePoint, Point, Score, SeedQuality
from reports.plots import cam_seeds as seeds
from reports.plots import classes as heat
from reports.plots import curves, effort, figure, health, labels, steps
from reports.plots.picture import Picture
from reports.sheets.health import noted
from reports.splits import SplitColumn, label_hours, masks, supervision
from reports.statistics import summarise

HOSTILE = [r"$\notacmd$", "_hidden", "<&>", "a\x1bb" * 40]


def shown(ax: Any) -> dict[str, list[float]]:
    """The points of each named line of a panel; all values of lines that share a name."""
    found: dict[str, list[float]] = {}
    for line in ax.lines:
        if line.get_gid() and not line.get_gid().startswith("line"):
            found.setdefault(line.get_gid(), []).extend(float(y) for y in line.get_ydata())
    return found


# Annotation and cost ----------------------------------------------------------------------------------------


def test_hours_of_masks_tags_and_both(make: Any) -> None:
    # 46 masks of 240 s and 321 tags of 20 s: 11,040 s and 6,420 s.
    assert label_hours(make(0.4, split="1_8")) == pytest.approx(11040 / 3600)
    assert label_hours(make(0.4, split="tags")) == pytest.approx(367 * 20 / 3600)
    assert label_hours(make(0.4, split="1_8+tags")) == pytest.approx((11040 + 6420) / 3600)
    opened = make(0.4, images={"pixel": 0, "tags": 100, "none": 0, "eval": 5, "opened": 20})
    assert label_hours(opened) == pytest.approx((100 * 20 + 20 * 240) / 3600), "a policy opened masks"
    slow = make(0.4, label_seconds={"pixel": 5400.0, "tags": 20.0})
    assert label_hours(slow) == pytest.approx(46 * 1.5)
    assert masks(opened) == 20
    assert [supervision(*of) for of in ((46, 0), (0, 100), (20, 100))] == ["pixel", "tags", "mixed"]


def test_all_kinds_of_label_are_in_one_picture(make: Any) -> None:
    runs = [make(0.4, split=s) for s in ("1_8", "tags", "1_8+tags")] + [
        make(0.6, method="u2pl", split="tags")
    ]
    (picture,) = effort.hours(grouped(runs))
    (ax,) = figure.draw(picture).axes
    assert ax.get_xscale() == "log"
    found = {
        (round(float(x), 2), round(float(y), 6), line.get_fillstyle(), line.get_markerfacecolor() == "white")
        for line in ax.lines
        if line.get_marker() not in ("none", "None", "")
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    }
    points = {point for point in found if math.isfinite(point[1])}  # keys of the legend have no place
    assert {y for _, y, _, _ in points} == {40.0, 60.0}
    assert len({(fill, white) for _, _, fill, white in points}) == 3, "legible without colour"
    assert "u2pl on tags" in picture.alt and "60.0 %" in picture.alt


def cell(row: int, hours: float, miou: float) -> effort.EffortPoint:
    return effort.EffortPoint(row, f"method {row}", SplitColumn(f"s{hours}", 1, 0), hours, summarise([miou]))


def test_the_pareto_front_is_what_no_other_cell_beats() -> None:
    cheap, better, best = cell(0, 1.0, 0.4), cell(0, 2.0, 0.5), cell(1, 8.0, 0.7)
    as_good_for_more, worse_for_as_much, worse = cell(1, 3.0, 0.5), cell(1, 2.0, 0.45), cell(0, 9.0, 0.6)
    points = [worse, best, as_good_for_more, better, worse_for_as_much, cheap]
    assert effort.front(points) == [cheap, better, best]
    equal = cell(1, 2.0, 0.5)
    assert effort.front([equal, better]) == [better, equal], "of two alike neither beats the other"
    assert effort.front([]) == []


def test_the_front_is_ringed_and_said_over_all_kinds_and_methods(make: Any) -> None:
    # 367 images of 20 s are 2.04 h, 46 masks are 3.07 h, 367 masks are 24.47 h; points are 2.24 h.
    sparse = {"pixel": 0, "tags": 0, "none": 0, "points": 367, "eval": 233}
    runs = [
        *(make(miou, split=split) for miou, split in ((0.4, "tags"), (0.5, "1_8"), (0.7, "full"))),
        make(0.3, method="u2pl", split="tags"),
        make(0.6, method="u2pl", split="points", images=sparse),
        make(0.55, method="u2pl", split="1_8"),
    ]
    (picture,) = effort.hours(grouped(runs))
    (ax,) = figure.draw(picture).axes
    (front,) = (line for line in ax.lines if line.get_gid() == "Pareto front")
    np.testing.assert_allclose(front.get_ydata(), [40, 60, 70])
    np.testing.assert_allclose(front.get_xdata(), [2.04, 2.24, 24.5], rtol=0.03)
    for x, y in zip(front.get_xdata(), front.get_ydata(), strict=True):
        at = [
            line
            for line in ax.lines
            if line is not front and np.any((line.get_xdata() == x) & (line.get_ydata() == y))
        ]
        assert at, "a ring is around a marker"
    said = (
        "Pareto front, fewest hours first: supervised on tags (367 tags), 2.04 hours, 40.0 %; "
        "u2pl on points (367 points), 2.24 hours, 60.0 %; supervised on full (367), 24.5 hours, 70.0 %."
    )
    assert said in picture.alt and said in picture.details
    assert "Means are compared" in picture.details and picture.keys[-1][0] == "Pareto front, by means"
    assert [text.get_text() for text in ax.texts] == ["tags", "points", "1_8", "full"], (
        "by hours, from the left"
    )


def test_one_cell_alone_has_no_front(make: Any) -> None:
    (picture,) = effort.hours(grouped([make(0.4)]))
    assert "Pareto" not in picture.alt + picture.caption + str(picture.keys)


def test_cost_is_training_hours_of_a_run(make: Any) -> None:
    runs = [make(m, seed=s, train_seconds=t) for s, (m, t) in enumerate([(0.4, 3600.0), (0.5, 7200.0)])]
    (picture,) = effort.costs(grouped([*runs, make(0.3, method="fixmatch", train_seconds=1800.0)]))
    (ax,) = figure.draw(picture).axes
    lines = {c.lines[0].get_gid(): c.lines[0] for c in ax.containers}
    assert float(lines["supervised"].get_xdata()[0]) == pytest.approx(1.5)
    assert float(lines["supervised"].get_ydata()[0]) == pytest.approx(45)
    assert float(lines["fixmatch"].get_xdata()[0]) == pytest.approx(0.5)
    assert effort.costs(grouped([make(0.4, train_seconds=0.0)])) == []


# Over the steps ---------------------------------------------------------------------------------------------


def test_a_trace_is_at_the_steps_that_all_runs_have() -> None:
    logs = [[{"step": s, "loss": s + seed} for s in (1, 2, 3) if s != 2 or not seed] for seed in (0, 1)]
    found = steps.trace(logs, "loss")
    assert found is not None
    np.testing.assert_allclose(found[0], [1, 3])
    np.testing.assert_allclose(found[1], [[1, 3], [2, 4]])
    assert steps.trace([[{"step": 1, "loss": bad}] for bad in (None, "x", math.nan, 1e200)], "loss") is None


def test_long_lines_are_means_within_bins() -> None:
    x, y = steps.thinned(np.arange(6.0), np.array([1.0, 3.0, np.nan, 5.0, np.nan, np.nan]), points=3)
    np.testing.assert_allclose(x, [0.5, 2.5, 4.5])
    np.testing.assert_allclose(y, [2.0, 5.0, np.nan])


def test_learning_curves_have_a_panel_for_each_term(make: Any) -> None:
    curve = [Point(step=s, miou=s / 200) for s in (50, 100)]
    runs = [make(0.5, seed=s).model_copy(update={"curve": curve}) for s in (0, 1)]
    lines = [{"step": s, "lr": 0.1, "loss": 2.0, "labeled": 1.5, "contrast": 0.5} for s in (10, 20, 30)]
    (picture,) = curves.learning(grouped(runs), {folder(run): lines for run in runs})
    titles = [ax.get_title(loc="left") for ax in figure.draw(picture).axes]
    assert [t for t in titles if t] == ["mIoU", "Loss, sum of its terms", "Term: labeled", "Term: contrast"]
    assert curves.scalars([lines]) == (["labeled", "contrast"], [])
    scores = curves.scores(runs)
    assert scores is not None
    np.testing.assert_allclose(scores[1], [[25, 50]] * 2)
    assert curves.learning(grouped([make(0.4)]), {}) == [], "a last score alone is no curve"


def test_pseudo_label_health_has_all_methods_in_one_picture(make: Any) -> None:
    runs = [make(0.5, method=name) for name in ("u2pl", "fixmatch")]
    u2pl = [
        {
            **{"step": s, "reliable_share": 0.8, "accuracy_teacher": 0.7, "threshold": 1.5},
            **{
                "queue_fill": [0.2, 0.4, None],
                "negatives_labeled": [1, 2, 3],
                "negatives_unlabeled": [4, 0, 0],
            },
        }
        for s in (10, 20)
    ]
    fixmatch = [{"step": s, "mask_ratio": 0.5} for s in (10, 20)]
    group = grouped(runs)
    (picture,) = health.overview(group, noted(group, {folder(runs[0]): u2pl, folder(runs[1]): fixmatch}))
    titles = [ax.get_title(loc="left") for ax in figure.draw(picture).axes]
    assert len([t for t in titles if t]) >= 6, "share, accuracy, threshold, queue, negatives of two origins"
    assert health.overview(grouped([make(0.4)]), []) == []


# Maps -------------------------------------------------------------------------------------------------------


def test_shares_are_of_the_true_class() -> None:
    found = heat.shares(np.array([[6, 2, 2], [0, 0, 0], [5, 0, 5]]))
    np.testing.assert_allclose(found, [[60, 20, 20], [math.nan] * 3, [50, 0, 50]])
    assert heat.confused(found, 2) == [(2, 0), (0, 1)]


def test_class_maps_are_means_over_the_seeds(make: Any) -> None:
    runs = [make(miou, seed=seed, classes_averaged=2) for seed, miou in enumerate((0.4, 0.6))]
    runs.append(make(0.3, method="fixmatch", classes_averaged=2))
    (picture,) = heat.class_maps(grouped(runs))
    np.testing.assert_allclose(heat.class_ious(runs[:2], 3), [50, 50, math.nan])
    assert "fixmatch" in picture.alt and "30.0 %" in picture.alt
    nothing = Score(miou=0.0, classes_averaged=0, iou=[None] * 3, pixel_accuracy=0.0)
    assert heat.class_maps(grouped([make(0.4, predictor=nothing)])) == []


def test_confusions_add_up_the_seeds(make: Any) -> None:
    runs = [make(0.4), make(0.4, seed=1)]
    counts = np.array([[9, 1, 0], [0, 10, 0], [0, 0, 0]])
    (picture,) = heat.confusions(grouped(runs), {folder(run): counts * (1 + 9 * run.seed) for run in runs})
    said = " ".join(text.get_text() for ax in figure.draw(picture).axes for text in ax.texts)
    assert "road as sky 10 %" in said
    assert heat.confusions(grouped(runs), {}) == []


# CAM seeds --------------------------------------------------------------------------------------------------


def measured(seed_id: str, best: float) -> SeedQuality:
    points = [
        CurvePoint(threshold=t, miou=best - abs(t - 0.4), precision=0.5, recall=0.5, coverage=1 - t)
        for t in (0.2, 0.4, 0.6)
    ]
    nothing: list[float | None] = [None] * 3
    return SeedQuality(
        **{"seed_id": seed_id, "images": 1, "classes": ["road", "sky", "car"], "miou": best, "coverage": 1.0},
        **{"miou_decided": best, "iou": nothing, "precision": nothing, "recall": nothing},
        **{"class_coverage": nothing, "miou_of_spread_tags": 0.1, "curve": points, "counts": [[0] * 4] * 3},
    )


def test_seeds_that_runs_share_count_once(make: Any) -> None:
    runs = [make(0.4, split="tags", method=m, seed=s) for m in ("a", "b") for s in (0, 1)]
    found = {folder(run): measured(str(run.seed), 0.5 + run.seed / 10) for run in runs}
    (one,) = seeds.gather(grouped(runs), found)
    np.testing.assert_allclose(one.values("miou"), [[30, 50, 30], [40, 60, 40]])
    (picture,) = seeds.quality(grouped(runs), found)
    assert "the best mIoU is 55.0 % at 0.4" in picture.alt
    assert seeds.quality(grouped(runs), {}) == []


# All of them ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [HOSTILE[0], *(pytest.param(n, marks=pytest.mark.slow) for n in HOSTILE[1:])]
)
def test_hostile_and_long_names_can_be_drawn(make: Any, name: str) -> None:
    runs = [make(0.4, method=name, split=name, dataset=name, protocol=name, classes=[name, "b", "c"])]
    lines = {folder(runs[0]): [{"step": s, "loss": 1.0, "reliable_share": 0.5, name: 1.0} for s in (1, 2)]}
    pictures = [
        *labels.labels(grouped(runs)),
        *effort.hours(grouped(runs)),
        *effort.costs(grouped(runs)),
        *curves.learning(grouped(runs), lines),
        *health.overview(grouped(runs), noted(grouped(runs), lines)),
        *heat.class_maps(grouped(runs)),
        *heat.confusions(grouped(runs), {folder(runs[0]): np.eye(3)}),
    ]
    assert len(pictures) == 7
    for picture in pictures:
        assert figure.draw(picture).get_size_inches()[0] <= 11
        assert all(figure.render(figure.draw(picture)).values())


def test_terms_beyond_the_first_are_said_to_be_left_out(make: Any) -> None:
    run = make(0.5)
    lines = [{"step": step, "loss": 1.0, **{f"term_{n}": 0.1 for n in range(8)}} for step in (1, 2)]
    (picture,) = curves.learning(grouped([run]), {folder(run): lines})
    drawn = [ax.get_title(loc="left") for ax in figure.draw(picture).axes]
    assert drawn[-1] == "Term: term_5" and len(drawn) == 7
    assert "Of 8 terms and figures the first 6 of the logs are drawn." in picture.details


def test_a_figure_of_an_author_s_own_is_no_term(make: Any) -> None:
    """A term has a share of the gradient, where any is measured; a figure has none."""
    run, plain = make(0.5), make(0.5, method="plain")
    usual = {"lr": 0.1, "loss": 2.0, "labeled": 1.5}
    lines = [usual | {"step": s, "mine": 7.0, "extra": 0.5} for s in (1, 2)]
    lines[0] |= {"gradient_share/labeled": 0.9, "gradient_share/extra": 0.1}
    logs = {folder(run): lines, folder(plain): [usual | {"step": s} for s in (1, 2)]}
    (picture,) = curves.learning(grouped([run, plain]), logs)
    assert [panel.title for panel in picture.panels if panel] == [
        *("Loss, sum of its terms", "Term: labeled", "Term: extra", "Figure: mine"),
    ]
    assert curves.scalars([lines[1:]]) == (["labeled", "mine", "extra"], []), "nothing tells them apart"


class Deadly(Picture):
    """Ends the process that it is sent to."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (1,)


@pytest.mark.slow
def test_what_a_killed_process_was_to_draw_is_drawn_all_the_same(make: Any) -> None:
    (picture,) = effort.hours(grouped([make(0.4, split="1_8")]))
    pictures = [Deadly(**vars(picture)), *[picture] * 2 * figure.FEW]
    assert figure.drawings(pictures, 2) == figure.drawings([picture]) * len(pictures)


@pytest.mark.slow
def test_processes_draw_what_one_draws_in_the_order_of_the_pictures(make: Any) -> None:
    names = [f"method {number}" for number in range(2 * figure.FEW)]
    pictures = [
        picture for name in names for picture in effort.hours(grouped([make(0.4, method=name, split="1_8")]))
    ]
    seen: list[tuple[int, int]] = []
    drawn = figure.drawings(pictures, 2, lambda *at: seen.append(at))
    assert drawn == figure.drawings(pictures) and len({of["svg"] for of, _ in drawn}) == len(names)
    assert seen == [(number, len(names)) for number in range(1, len(names) + 1)]
