"""Pictures of few and of many methods, splits and classes: still readable, and equal for equal results."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from grouping import folder, grouped

from bench.records.schema import Point, Result, Score
from reports.plots import cam_seeds as seeds
from reports.plots import classes as heat
from reports.plots import curves, effort, figure, health, labels, steps
from reports.plots import picture as words
from reports.plots.picture import Picture
from reports.sheets.health import noted
from reports.statistics import summarise


def group(make: Any, methods: int, splits: int, count: int, classes: int) -> list[Result]:
    """Runs of so many methods on so many splits, every third with tags, by so many seeds."""
    names = [f"class {i}" for i in range(classes)]
    found = []
    for m in range(methods):
        for s in range(splits):
            for seed in range(count):
                miou = 0.3 + 0.02 * m + 0.01 * s + 0.001 * seed
                iou = [None if i % 17 == 3 else (i * 7 + m) % 10 / 10 for i in range(classes)]
                score = Score(miou=miou, classes_averaged=classes, iou=iou, pixel_accuracy=0.5)
                found.append(
                    make(
                        miou,
                        method="supervised" if m == 0 else f"method_{m}",
                        split=f"split_{s}",
                        seed=seed,
                        images={"pixel": 20 + 30 * s, "tags": 0 if s % 3 else 200, "none": 9, "eval": 9},
                        pixel_digest=f"digest {s}",
                        classes=names,
                        predictor=score,
                        curve=[miou / 2, miou],
                        train_seconds=100.0 * (m + 1) * (s + 1),
                    )
                )
    return found


def drawn(runs: list[Result]) -> list[Picture]:
    lines = [
        {
            "step": s,
            "loss": 2 / s,
            "labeled": 1.0,
            "mask_ratio": 0.5,
            "queue_fill": [0.5] * len(runs[0].classes),
        }
        for s in range(1, 12)
    ]
    logs = {folder(run): lines for run in runs}
    classes = len(runs[0].classes)
    pooled = {
        folder(run): np.ones((classes, classes), np.int64) + 9 * np.eye(classes, dtype=int) for run in runs
    }
    return [
        *labels.labels(grouped(runs)),
        *effort.hours(grouped(runs)),
        *effort.costs(grouped(runs)),
        *curves.learning(grouped(runs), logs),
        *health.overview(grouped(runs), noted(grouped(runs), logs)),
        *heat.class_maps(grouped(runs)),
        *heat.confusions(grouped(runs), pooled),
    ]


@pytest.mark.parametrize(
    ("methods", "splits", "count", "classes"),
    [
        (1, 1, 1, 1),
        *(pytest.param(*size, marks=pytest.mark.slow) for size in [(12, 2, 2, 21), (2, 10, 1, 5)]),
        (3, 1, 2, 150),
    ],
)
def test_any_number_of_methods_splits_seeds_and_classes(
    make: Any, methods: int, splits: int, count: int, classes: int
) -> None:
    pictures = drawn(group(make, methods, splits, count, classes))
    kinds = {picture.name.split("-camvid")[0] for picture in pictures}
    assert kinds == {
        *("labels", "annotation", "training", "learning", "pseudo-labels", "classes", "confusion"),
    }
    for picture in pictures:
        shown = figure.draw(picture)
        width, height = shown.get_size_inches()
        assert width == words.WIDTH and height < 16
        assert len(picture.alt) > len(picture.title), "it says what is seen"
        sizes = [text.get_fontsize() for text in shown.findobj(match=is_shown_text)]
        assert min(sizes) >= 9, "9 points are 8 pixels where the picture is 390 wide"
        frames = [ax.get_position() for ax in shown.axes]
        assert all(0 <= f.x0 < f.x1 <= 1 and 0 <= f.y0 < f.y1 <= 1 for f in frames)
        assert not any(
            a is not b and a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 and b.y0 < a.y1
            for a in frames
            for b in frames
        ), "panels lie apart"
        edges = [ax.get_tightbbox(shown.canvas.get_renderer()) for ax in shown.axes]
        assert all(e.x0 >= 0 and e.x1 <= shown.bbox.width for e in edges), "no name is cut"
        assert all(e.y0 >= 0 and e.y1 <= shown.bbox.height for e in edges)


def is_shown_text(artist: Any) -> bool:
    return hasattr(artist, "get_fontsize") and bool(getattr(artist, "get_text", str)())


@pytest.mark.slow
def test_equal_results_give_equal_files(make: Any) -> None:
    first, second = (
        [figure.render(figure.draw(picture)) for picture in drawn(group(make, 2, 4, 2, 4))] for _ in range(2)
    )
    assert first == second and all(b"<dc:date>" not in files["svg"] for files in first)


@pytest.mark.parametrize("length", [5, 12, 40])
def test_long_names_lose_their_middle(length: int) -> None:
    text = words.short("a" * 30 + "b" * 30, length)
    assert len(text) == length and text[0] == "a" and text[-1] == "b" and text.count("…") == 1
    assert words.short("x" * length, length) == "x" * length
    assert words.short("a\nb") == "a\ufffdb"


@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [(0, 6, []), (1, 6, [1]), (6, 6, [6]), (7, 6, [4, 3]), (10, 3, [2, 3, 2, 3])],
)
def test_panels_are_dealt_to_pictures(count: int, size: int, expected: list[int]) -> None:
    found = words.paged("Cost", range(count), size)
    assert sorted(len(panels) for _, panels in found) == sorted(expected)
    assert [i for _, panels in found for i in panels] == list(range(count))
    ends = [f" ({place} of {len(found)})" for place in range(1, len(found) + 1)] if len(found) > 1 else [""]
    assert [title for title, _ in found] == [f"Cost{end}" for end in ends][: len(found)]


def test_an_axis_shows_the_means_and_no_more_of_the_intervals_than_fits() -> None:
    low, high = words.limits([summarise([0.4]), summarise([0.7])])
    assert low < 40 and 70 < high < 80, "no intervals: a narrow margin"
    wide = words.limits([summarise([0.1, 0.7]), summarise([0.7])])
    assert wide == pytest.approx((30, 80)), "a third of the range of the means, 40 to 70"


# Effort -----------------------------------------------------------------------------------------------------


def test_the_rates_of_all_runs_are_said(make: Any) -> None:
    runs = [make(0.4), make(0.5, seed=1, label_seconds={"pixel": 5400.0, "tags": 20.0})]
    (picture,) = effort.hours(grouped(runs))
    said = " ".join(text.get_text() for text in figure.draw(picture).texts).replace("\n", " ")
    assert "240 or 5400 s a mask and 20 s for the tags of an image" in said
    points = [container.lines[0].get_xdata() for container in figure.draw(picture).axes[0].containers]
    assert sorted(float(x) for xs in points for x in xs) == pytest.approx([46 * 240 / 3600, 46 * 1.5])


def test_a_split_without_labels_has_no_place_on_a_log_axis(make: Any) -> None:
    assert effort.hours(grouped([make(0.4, images={"pixel": 0, "tags": 0, "none": 9, "eval": 9})])) == []


@pytest.mark.parametrize(("longest", "scale"), [(4.9, "linear"), (5.1, "log")])
def test_hours_of_a_wide_range_are_on_a_log_scale(make: Any, longest: float, scale: str) -> None:
    runs = [make(0.4, train_seconds=3600.0), make(0.5, method="b", train_seconds=3600.0 * longest)]
    (picture,) = effort.costs(grouped(runs))
    (ax,) = figure.draw(picture).axes
    assert ax.get_xscale() == scale and len(ax.get_xticks()) > 1
    low, high = ax.get_xlim()
    assert low < 1 < longest < high


def test_six_splits_of_cost_are_in_one_picture(make: Any) -> None:
    pictures = effort.costs(grouped(group(make, 1, 7, 1, 3)))
    assert [len(figure.draw(picture).axes) for picture in pictures] == [4, 3]
    assert [
        picture.title.endswith(end) for picture, end in zip(pictures, ("(1 of 2)", "(2 of 2)"), strict=True)
    ]


# Steps ------------------------------------------------------------------------------------------------------


def lines_of(figure: Any) -> dict[str, dict[str, Any]]:
    """The lines of each panel by the method's name."""
    return {
        ax.get_title(loc="left"): {line.get_gid(): line for line in ax.lines if line.get_gid()}
        for ax in figure.axes
    }


def test_splits_stand_in_lanes_of_one_panel(make: Any) -> None:
    runs = [make(0.4, split="1_8"), make(0.6, split="full", seed=1), make(0.4, split="full")]
    logs = {
        folder(run): [{"step": s, "loss": level * s} for s in (50, 100)]
        for run, level in zip(runs, (1.0, 2.0, 4.0), strict=True)
    }
    (picture,) = curves.learning(grouped(runs), logs)
    line = lines_of(figure.draw(picture))["Loss, sum of its terms"]["supervised"]
    x, lane = np.asarray(line.get_xdata(), float), steps.LANE
    np.testing.assert_allclose(x, [lane / 2, lane, math.nan, 1 + lane / 2, 1 + lane])
    np.testing.assert_allclose(line.get_ydata(), [50, 100, math.nan, 150, 300], err_msg="mean of the seeds")
    (ax,) = figure.draw(picture).axes
    assert [text.get_text() for text in ax.texts] == ["1_8 (46)", "full (367)"]
    assert picture.alt.endswith("at the last step, 1_8 (46): 100 (supervised); full (367): 300 (supervised).")


def test_the_band_of_the_scores_is_from_smallest_to_largest(make: Any) -> None:
    curve = [Point(step=s, miou=s / 200) for s in (50, 100)]
    runs = [make(0.5, seed=0, curve=None), make(0.5, seed=1)]
    runs = [
        run.model_copy(
            update={"curve": [p.model_copy(update={"miou": p.miou + 0.1 * run.seed}) for p in curve]}
        )
        for run in runs
    ]
    (picture,) = curves.learning(grouped(runs), {})
    (ax,) = figure.draw(picture).axes
    np.testing.assert_allclose(lines_of(figure.draw(picture))["mIoU"]["supervised"].get_ydata(), [30, 55])
    (band,) = ax.collections
    assert band.get_datalim(ax.transData).intervaly.tolist() == pytest.approx([25, 60])


def test_long_logs_are_drawn_in_bins_and_that_is_said(make: Any) -> None:
    run = make(0.4)
    (picture,) = curves.learning(
        grouped([run]), {folder(run): [{"step": s, "loss": 1.0 * s} for s in range(1, 1001)]}
    )
    line = lines_of(figure.draw(picture))["Loss, sum of its terms"]["supervised"]
    assert len(line.get_xdata()) == steps.MOST_POINTS
    assert float(line.get_ydata()[0]) == pytest.approx(3), "the mean of 1 to 5"
    assert "means within 200 bins" in picture.details


def test_health_of_classes_is_a_mean_or_a_sum_and_shares_are_percent(make: Any) -> None:
    runs = [make(0.5, method="u2pl"), make(0.5, method="fixmatch")]
    u2pl = [
        {
            **{"step": s, "reliable_share": 0.8, "threshold": 1.5, "queue_fill": [0.2, 0.4, None]},
            **{"negatives_labeled": [1, 2, 3], "negatives_certain": "damaged"},
        }
        for s in (1, 2)
    ]
    fixmatch = [{"step": s, "mask_ratio": 0.5, "accuracy_kept": 0.9} for s in (1, 2)]
    group = grouped(runs)
    (picture,) = health.overview(group, noted(group, {folder(runs[0]): u2pl, folder(runs[1]): fixmatch}))
    last = {
        title: {name: float(line.get_ydata()[-1]) for name, line in found.items()}
        for title, found in lines_of(figure.draw(picture)).items()
    }
    assert last == {
        "Reliable or kept pixels": {"u2pl": pytest.approx(80), "fixmatch": pytest.approx(50)},
        "Their accuracy": {"fixmatch": pytest.approx(90)},
        "Threshold": {"u2pl": pytest.approx(1.5)},
        "Queue fill": {"u2pl": pytest.approx(30)},
        "Negatives: labeled pixels": {"u2pl": pytest.approx(6)},
    }


# Maps -------------------------------------------------------------------------------------------------------


def test_every_value_is_written_in_its_cell_and_absent_classes_are_hatched(make: Any) -> None:
    runs = [make(0.4, classes_averaged=2), make(0.8, method="fixmatch", classes_averaged=2)]
    (picture,) = heat.class_maps(grouped(runs))
    ax = figure.draw(picture).axes[0]
    image = np.ma.asarray(ax.images[0].get_array())
    np.testing.assert_allclose(image[:2], [[40, 80], [40, 80]])
    assert np.ma.getmaskarray(image)[2].all() and ax.patch.get_hatch()
    written = {(text.get_position(), text.get_text(), text.get_color()) for text in ax.texts}
    assert written == {
        ((x, y), t, c) for x, t, c in ((0, "40.0", "white"), (1, "80.0", "black")) for y in (0, 1)
    }
    (many,) = heat.class_maps(grouped(group(make, 1, 1, 1, heat.VALUED_CLASSES + 1)))
    assert not figure.draw(many).axes[0].texts, "cells too low for a number"
    assert len(figure.draw(many).axes[0].get_yticks()) <= heat.VALUED_CLASSES + 1


def test_confusion_is_framed_where_it_is_largest(make: Any) -> None:
    run = make(0.4)
    (picture,) = heat.confusions(grouped([run]), {folder(run): np.array([[6, 4, 0], [1, 9, 0], [0, 0, 0]])})
    ax = figure.draw(picture).axes[0]
    image = np.ma.asarray(ax.images[0].get_array())
    np.testing.assert_allclose(image[:2], [[60, 40, 0], [10, 90, 0]])
    assert np.ma.getmaskarray(image)[2].all(), "a class that is not in the truth"
    frames = {tuple(patch.get_xy()) for patch in ax.patches}
    assert frames == {(0.5, -0.5), (-0.5, 0.5)}
    assert [text.get_text() for text in ax.texts] == ["road as sky 40 %\nsky as road 10 %"]


def test_of_many_confusions_the_first_and_the_best_of_each_split_are_drawn(make: Any) -> None:
    runs = group(make, 8, 4, 1, 3)
    pictures = heat.confusions(grouped(runs), {folder(run): np.eye(3, dtype=int) for run in runs})
    titles = [ax.get_title(loc="left") for picture in pictures for ax in figure.draw(picture).axes]
    found = {title for title in titles if title}
    assert found == {f"split_{s}: {name}" for s in range(4) for name in ("supervised", "method_7")}


# CAM seeds --------------------------------------------------------------------------------------------------


def test_nothing_measured_has_no_picture(make: Any) -> None:
    assert (
        seeds.gather(grouped([make(0.4, split="tags")]), {}) == [] == seeds.quality(grouped([make(0.4)]), {})
    )


def test_one_sentence_stands_in_the_picture_and_the_rest_beside_it() -> None:
    def of(caption: str) -> tuple[str, str]:
        picture = Picture("name", "title", "alt", "heading", caption, ())
        return picture.first_sentence, picture.details

    assert of("Bars: 95 % of 0.5 m. Methods stand side by side. More.") == (
        "Bars: 95 % of 0.5 m.",
        "Methods stand side by side. More.",
    )
    assert of("Only one; with parts") == ("Only one; with parts", "")
    assert of("") == ("", "")
