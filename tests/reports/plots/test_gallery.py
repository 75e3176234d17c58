"""Pictures of predictions: which images are shown and why, and what the page can tell apart."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grouping import foldered
from PIL import Image

from bench.labels import IGNORE
from bench.records.folders import RunFolder
from bench.records.samples import Pictures, Samples, read_samples, write_samples
from bench.records.schema import Result
from bench.scoring import picture_sheet
from bench.scoring.picture_sheet import Column
from bench.scoring.predictions import as_png, palette_of
from reports.groups import comparable
from reports.plots.class_colours import VOID, class_colours, distances
from reports.plots.gallery import Gallery, galleries, sheet

Make = Callable[..., Result]
PALETTE = palette_of(np.array([[9, 9, 9], [200, 0, 0], [0, 200, 0]], np.uint8))
TRUTH = np.array([[0, 0, 1, 1], [0, 0, 1, IGNORE]], np.uint8)


def png(ids: Any) -> bytes:
    return as_png(np.asarray(ids, np.uint8), PALETTE)


def jpeg() -> bytes:
    Image.new("RGB", (4, 2), "red").save(file := io.BytesIO(), "JPEG")
    return file.getvalue()


def wrong(count: int) -> np.ndarray:
    """The truth, but for so many of its pixels, which are of class 2."""
    ids = np.where(TRUTH == IGNORE, 0, TRUTH)
    ids.flat[:count] = 2
    return ids


def read(
    tmp_path: Path, make: Make, of: dict[str, dict[str, Any]], truth: Any = TRUTH, keys: Any = ((0, 0),)
) -> tuple[list[Gallery | str], dict[Path, Samples]]:
    """The galleries of methods; `of` has the predicted ids by method and image."""
    folders = {}
    for method, predictions in of.items():
        for draw, seed in keys:
            run = RunFolder(tmp_path / "set" / "s" / method / f"{draw}-{seed}")
            beside = {} if truth is None else {"image": jpeg(), "truth": png(truth)}
            files = {id: {"prediction": png(ids), **beside} for id, ids in predictions.items()}
            write_samples(run, Pictures(True, files))  # type: ignore[arg-type]
            folders[run.path] = make(0.4, method=method, draw=draw, seed=seed)
    (group,) = comparable(folders)
    samples = {path: found for path in folders if (found := read_samples(RunFolder(path)))}
    return galleries(group, samples), samples


def only(found: list[Gallery | str]) -> Gallery:
    (gallery,) = found
    assert isinstance(gallery, Gallery)
    return gallery


def test_the_most_disputed_the_best_and_the_worst_image_are_shown(tmp_path: Path, make: Make) -> None:
    first = {"z": wrong(1), "disputed": wrong(0), "best": wrong(0), "worst": wrong(7), "y": wrong(2)}
    second = {**first, "disputed": wrong(3)}
    gallery = only(read(tmp_path, make, {"supervised": first, "fixmatch": second})[0])
    assert [strip.title for strip in gallery.strips] == [
        "disputed (most disputed); the methods differ on 38 % of its pixels",
        "best (best); the methods differ on 0 % of its pixels",
        "worst (worst); the methods differ on 0 % of its pixels",
        "z (by digest); the methods differ on 0 % of its pixels",
    ]
    of_one = {tile.method: tile.said for tile in gallery.strips[0].tiles}
    # Two of four pixels of class 0 and one of three of class 1 are wrong; class 2 is in no truth.
    assert of_one == {"supervised": "100.0 %", "fixmatch": f"{100 * (2 / 4 + 2 / 3) / 2:.1f} %"}


def test_errors_are_the_wrong_pixels_alone(tmp_path: Path, make: Make) -> None:
    gallery = only(read(tmp_path, make, {"supervised": {"a": wrong(1)}})[0])
    errors = gallery.strips[0].tiles[0].errors
    assert errors is not None
    with Image.open(io.BytesIO(errors)) as picture:
        seen = np.asarray(picture.convert("RGBA"))
    assert (seen[0, 0] == (*class_colours(3)[2], 255)).all()
    assert (seen[1, 3] == (*VOID, 255)).all()
    assert (seen[..., 3] == 255).sum() == 2, "the others show what is under them"
    assert gallery.strips[0].title == "a (best, worst)", "one method, of which nothing is disputed"
    assert dict(gallery.key).keys() == {"road", "sky", "car", "not labeled"}


def test_runs_of_one_draw_and_seed_are_shown(tmp_path: Path, make: Make) -> None:
    of = {"supervised": {"a": wrong(0)}, "fixmatch": {"a": wrong(1)}}
    found, samples = read(tmp_path, make, of, keys=((0, 1), (1, 0)))
    assert "draw 0, seed 1" in only(found).title
    (lost,) = (path for path in samples if path.match("fixmatch/0-1"))
    (group,) = comparable(
        {
            path: make(0.4, method=path.parent.name, draw=int(path.name[0]), seed=int(path.name[2]))
            for path in samples
        }
    )
    del samples[lost]
    assert "draw 1, seed 0" in only(galleries(group, samples)).title, "which both methods have"


def test_without_the_truth_predictions_are_shown_alone(tmp_path: Path, make: Make) -> None:
    of = {"supervised": {"a": wrong(0)}, "fixmatch": {"a": wrong(1)}}
    strip = only(read(tmp_path, make, of, truth=None)[0]).strips[0]
    assert strip.truth is strip.photograph is None
    assert [(tile.said, tile.errors) for tile in strip.tiles] == [("", None), ("", None)]
    assert strip.title.startswith("a (most disputed)")


@pytest.mark.parametrize(
    "damage",
    [b"", b"not a picture", png(np.full((2, 4), 3)), png(np.full((2, 4), IGNORE)), jpeg()],
    ids=["empty", "text", "unknown class", "void", "another kind"],
)
def test_damaged_pictures_are_said_and_left_out(tmp_path: Path, make: Make, damage: bytes) -> None:
    of = {"supervised": {"a": wrong(0)}, "fixmatch": {"a": wrong(1)}}
    _, samples = read(tmp_path, make, of)
    (run,) = (RunFolder(path) for path in samples if path.match("fixmatch/*"))
    write_samples(run, Pictures(True, {"a": {"prediction": damage}}))
    samples[run.path] = read_samples(run)  # type: ignore[assignment]
    (group,) = comparable({path: make(0.4, method=path.parent.name) for path in samples})
    gallery, said = galleries(group, samples)
    assert isinstance(gallery, Gallery) and [tile.method for tile in gallery.strips[0].tiles] == [
        "supervised"
    ]
    assert said == "Samples that are damaged, left out: fixmatch."


def test_no_samples_make_no_gallery(make: Make) -> None:
    (group,) = comparable(foldered([make(0.4)]))
    assert galleries(group, {}) == []


def drawn(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> tuple[bytes, list[Column]]:
    """The sheet of a gallery, and its columns."""
    seen: list[Column] = []

    def spy(title: str, headings: list[str], columns: list[Column], *rest: Any) -> bytes:
        seen.extend(columns)
        return picture_sheet.draw(title, headings, columns, *rest)

    monkeypatch.setattr("reports.plots.gallery.draw", spy)
    return sheet(gallery), seen


def test_the_sheet_is_one_picture(tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    of = {f"method_{i}": {"a": wrong(i)} for i in range(8)}
    gallery = only(read(tmp_path, make, of)[0])
    data, columns = drawn(gallery, monkeypatch)
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.format == "PNG" and picture.width > 10 * 160
    assert [column.title for column in columns] == ["image", "truth", *of]
    assert [column.tiles[0].said for column in columns[2:]] == [one.said for one in gallery.strips[0].tiles]
    truth, best = (column.tiles[0].label for column in columns[1:3])
    assert truth is not None and best is not None and truth.shape == (80, 160)
    assert (truth[::40, ::40] == TRUTH).all() and (best[::40, ::40] == wrong(0)).all()
    assert gallery.alt.endswith(f": what {', '.join(of)} predict of a (most disputed, best, worst).")


def test_a_picture_has_the_colours_of_its_classes_and_no_more(tmp_path: Path, make: Make) -> None:
    """A palette of 256 colours would be half of a file of that size."""
    gallery = only(read(tmp_path, make, {"supervised": {"a": wrong(1)}})[0])
    (strip,) = gallery.strips
    colours, (tile,) = [*class_colours(len(gallery.classes)), VOID], strip.tiles
    for data, ids in ((strip.truth, TRUTH), (tile.prediction, wrong(1))):
        assert data is not None
        with Image.open(io.BytesIO(data)) as picture:
            assert len(picture.getpalette() or ()) <= 3 * 16
            seen = np.array(picture.convert("RGB"))
        assert (seen == np.array(colours, np.uint8)[np.where(ids == IGNORE, len(colours) - 1, ids)]).all()
    assert tile.errors is not None
    with Image.open(io.BytesIO(tile.errors)) as picture:
        errors = np.array(picture.convert("RGBA"))
    assert (errors[..., 3] > 0).tolist() == [[True, False, False, False], [False, False, False, True]]
    assert tuple(errors[0, 0, :3]) == colours[2] and tuple(errors[1, 3, :3]) == VOID


def test_the_sheet_shows_what_there_is(tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    long = f"method (knob={'x' * 60})"
    gallery = only(read(tmp_path, make, {long: {"a": wrong(0)}}, truth=None)[0])
    _, (column,) = drawn(gallery, monkeypatch)
    assert len(column.title) < 45 and max(map(len, column.title.split(" "))) <= 20
    assert column.title.startswith("method (knob=") and column.title.endswith("x)")


def test_classes_are_told_apart_by_the_colour_blind() -> None:
    """20 is what people see at a glance; 2.3 is the least they see at all."""
    for count, least in ((2, 40), (12, 20), (21, 10)):
        colours = np.array([*class_colours(count), VOID], np.uint8)
        apart = distances(colours, colours) + 1000 * np.eye(len(colours))
        assert apart.min() >= least
    assert class_colours(5) == class_colours(21)[:5], "a class keeps its colour"
    assert len(class_colours(300)) == 300


def test_sights_by_hand() -> None:
    """Grey is grey to all; red and green of one lightness are nearly one colour without the third cone."""
    grey, white = np.array([[128] * 3], np.uint8), np.array([[255] * 3], np.uint8)
    assert distances(white, white)[0, 0] == 0
    assert distances(grey, white)[0, 0] == pytest.approx(100 - 53.6, abs=1.0)  # L* of sRGB 128 is 53.6
    red, green = np.array([[150, 80, 0]], np.uint8), np.array([[80, 110, 0]], np.uint8)
    assert distances(red, green)[0, 0] < 15
