import io
import math
from typing import Any

import numpy as np
import pytest
from grouping import grouped
from matplotlib.markers import CARETDOWN, CARETUP
from PIL import Image

from reports.groups import Group
from reports.plots import figure, labels, names
from reports.plots.picture import style


def drawn(group: Group) -> Any:
    (picture,) = labels.labels(group)
    return figure.draw(picture)


def panels(group: Group) -> list[Any]:
    return list(drawn(group).axes)


def curves(ax: Any) -> dict[str, list[float]]:
    """What each line of a panel shows, by the method's name."""
    lines = [container.lines[0] for container in ax.containers]
    return {line.get_gid(): [float(y) for y in line.get_ydata()] for line in lines}


def test_a_line_per_method_with_means_and_intervals(make: Any) -> None:
    runs = [make(m, seed=s) for s, m in enumerate([0.44, 0.46])]
    runs += [
        make(0.6, split="full"),
        make(0.55, method="fixmatch"),
        make(0.65, method="fixmatch", split="full"),
    ]
    (ax,) = panels(grouped(runs))
    assert curves(ax) == {"supervised": pytest.approx([45, 60]), "fixmatch": pytest.approx([55, 65])}
    assert len(ax.containers) == 2
    bars = ax.containers[0].lines[2][0].get_segments()
    # Spread 1.414, standard error 1, 12.706 of them: the t interval of two seeds.
    np.testing.assert_allclose(np.asarray(bars[0])[:, 1], [45 - 12.706, 45 + 12.706], atol=1e-3)
    assert not np.isfinite(np.asarray(bars[1])).any(), "one seed has no bar"


def test_a_bar_that_goes_on_ends_in_an_arrow(make: Any) -> None:
    runs = [make(m, seed=s) for s, m in enumerate([0.2, 0.6])] + [make(0.5, method="fixmatch")]
    (ax,) = panels(grouped(runs))
    low, high = ax.get_ylim()
    assert low >= 0 and high < 100, "the axis is of the means, not of an interval from -214 to 294 %"
    arrows = [line for line in ax.lines if line.get_marker() in (CARETDOWN, CARETUP)]
    assert sorted(float(line.get_ydata()[0]) for line in arrows) == pytest.approx([low, high])


def test_labels_are_a_picture_that_says_what_is_best(make: Any) -> None:
    (picture,) = labels.labels(grouped([make(0.4), make(0.5, method="fixmatch")]))
    assert picture.alt == "mIoU against labels: fixmatch on 1_8 (46) has the highest mean mIoU, 50.0 %."


def test_ticks_are_the_counts_with_the_split_names_below(make: Any) -> None:
    (ax,) = panels(grouped([make(0.4, split=s) for s in ("1_8", "1_4", "full")]))
    assert ax.get_xscale() == "log"
    np.testing.assert_allclose(ax.get_xticks(), [46, 92, 367])
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["46\n1_8", "92\n1_4", "367\nfull"]
    assert not len(ax.get_xticks(minor=True))


def test_no_line_across_a_missing_cell(make: Any) -> None:
    runs = [make(0.4, split=s) for s in ("1_8", "1_4", "full")]
    runs += [make(0.5, method="fixmatch", split=s) for s in ("1_8", "full")]
    (ax,) = panels(grouped(runs))
    assert curves(ax)["fixmatch"] == pytest.approx([50, math.nan, 50], nan_ok=True)


def test_no_line_between_lists_of_one_size(make: Any) -> None:
    runs = [make(0.4, split="1_8"), make(0.5, split="other_1_8")]
    (ax,) = panels(grouped(runs))
    assert curves(ax)["supervised"] == pytest.approx([40, math.nan, 50], nan_ok=True)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["46: 1_8", "46: other_1_8"]
    (first, _, second) = ax.containers[0].lines[0].get_xdata()
    assert 46 < second == ax.get_xticks()[1] and first == pytest.approx(46), "beside each other"


def test_an_upright_tick_shows_each_of_its_names() -> None:
    assert labels.upright_text("32", "1_16 [pixel 1234abcd]", "1_16 [pixel 9876dcba]").count("1_16") == 2


def test_kinds_of_label_have_panels_of_their_own(make: Any) -> None:
    runs = [make(0.4, split=s) for s in ("1_8", "full", "1_8+tags", "tags")]
    runs += [make(0.5, method="u2pl", split=s) for s in ("1_8+tags", "tags")]
    axes = panels(grouped(runs))
    assert [len(ax.containers) for ax in axes] == [1, 2, 2]
    assert [[round(x) for x in ax.get_xticks()] for ax in axes] == [[46, 367], [46], [367]]
    said = [labels.PANELS[kind][0] for kind in ("pixel", "mixed", "tags")]
    assert [ax.get_title(loc="left") for ax in axes] == said


def test_a_kind_with_one_cell_has_no_panel(make: Any) -> None:
    runs = [make(0.4, split=s) for s in ("1_8", "full", "tags")]
    (ax,) = panels(grouped(runs))
    assert [round(x) for x in ax.get_xticks()] == [46, 367]
    assert len(panels(grouped([make(0.4, split="1_8"), make(0.3, split="tags")]))) == 2, "better than nothing"


def test_names_are_written_beside_the_lines_without_overlap(make: Any) -> None:
    runs = [make(0.5 + i / 10000, method=f"m{i}") for i in range(12)] + [make(0.3)]
    figure = drawn(grouped(runs))
    figure.draw_without_rendering()
    (ax,) = figure.axes
    assert {text.get_text() for text in ax.texts} == {row.label for row in grouped(runs).rows}
    # The extent of an annotation covers its leader line too: take the middle of the text.
    middles = sorted(text.get_transform().transform(text.get_position())[1] for text in ax.texts)
    assert len(middles) == 13
    assert min(np.diff(middles)) > 9 * figure.dpi / 72
    assert middles[-1] <= ax.bbox.y1 + 1, "names stay beside the panel"


def test_in_gray_marker_and_line_tell_thirty_six_methods_apart() -> None:
    looks = [(style(number)["marker"], style(number)["linestyle"]) for number in range(36)]
    assert len(set(looks)) == 36 and len({marker for marker, _ in looks[:9]}) == 9


def test_methods_differ_in_colour_and_marker(make: Any) -> None:
    runs = [make(0.4 + i / 100, method=f"m{i}") for i in range(14)]
    (ax,) = panels(grouped(runs))
    lines = [container.lines[0] for container in ax.containers]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 14
    assert len({line.get_marker() for line in lines[:7]}) == 7


@pytest.mark.parametrize("name", [r"$\notacmd$", "_hidden", "a$b$c", "<&>", "a\x1bb", "[bold]"])
def test_hostile_names_are_drawn_as_text(make: Any, name: str) -> None:
    group = grouped([make(0.4, method=name, split=name, dataset=name, protocol=name)])
    assert all(len(content) > 1000 for content in figure.render(drawn(group)).values())
    (ax,) = panels(group)
    assert [text.get_text() for text in ax.texts] == [name.replace("\x1b", "\ufffd")]


def test_files_are_pictures_and_equal_for_equal_results(make: Any) -> None:
    group = grouped([make(0.4), make(0.5, split="full")])
    first, second = (figure.render(drawn(group)) for _ in range(2))
    assert first.keys() == {"png", "svg"} and first == second
    with Image.open(io.BytesIO(first["png"])) as picture:
        assert picture.format == "PNG" and picture.width > 400
        assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 2, "something is drawn"
    assert first["svg"].decode().count("<svg") == 1


@pytest.mark.parametrize(
    ("heights", "moved"),
    [([1, 1.5, 4], [1, 2, 4]), ([1, 1, 1], [1, 2, 3]), ([9, 9.5, 10], [8, 9, 10]), ([3], [3]), ([12], [10])],
)
def test_names_of_lines_are_moved_apart_and_stay_below_the_ceiling(
    heights: list[float], moved: list[float]
) -> None:
    assert names.spread(heights, gap=1, ceiling=10) == moved
