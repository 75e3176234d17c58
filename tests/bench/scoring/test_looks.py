"""The picture sheet of a run: which columns it has, that colours say what the maps say, what it refuses."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bench import pipeline
from bench.commands.look import draw_sheet
from bench.contract import IGNORE
from bench.display import Display
from bench.errors import BenchError, ConfigError, DataError
from bench.plan import Plan, plan
from bench.records.folders import RunFolder
from bench.scoring import looks
from bench.scoring import picture_sheet as drawing
from bench.scoring.looks import fitted, pseudo_labels
from bench.scoring.picture_sheet import Column, SheetTile, coloured, hatched, heated, named_places
from bench.settings.schema import RunConfig
from datasets.decode import read_mask
from datasets.encodings import colours
from datasets.folder import Folder
from datasets.splits import Split
from datasets.splits_make import regenerate

Config = Callable[..., RunConfig]
SEEDS = {
    "refine": "none",
    "scales": [1.0],
    "protocol": {
        "network": {"encoder": "tiny", "decoder": "unet", "weights": "none", "decoder_channels": 16},
        "crop": [32, 32],
        "batch": {"labeled": 2, "unlabeled": 2},
        "steps": 3,
        "optimizer": {"name": "adamw", "lr": 1e-3},
    },
}
WITH_SEEDS = ["image", "truth", "activation maps", "seed", "pseudo-label", "prediction"]
WITHOUT = ["image", "truth", "pseudo-label", "prediction"]


@pytest.fixture
def tagged_root(tiny_root: Path, tmp_path: Path) -> Path:
    """The tiny set with a split `tags`, which grants tags and nothing else."""
    root = tmp_path / "data"
    shutil.copytree(tiny_root, root)
    regenerate(Folder(root / "tinyset", "tinyset"), root / "tinyset" / "splits")
    return root


@pytest.fixture
def trained(tiny_config: Config, tagged_root: Path) -> Callable[..., Plan]:
    """trained("supervised", "tags"): the plan of a finished run on a split of the tiny set."""

    def train(method: str, split: str) -> Plan:
        sets = (f"machine.data_root={tagged_root}",)
        planned = plan(tiny_config(method, *sets, split=split, cam_seeds=SEEDS))
        pipeline.run(planned, Display())
        return planned

    return train


def sheet(folder: RunFolder, data_root: Path | None, images: int, to: Path | None = None) -> Path:
    return draw_sheet(folder.path, data_root, images, to)


class Drawn:
    """What the last sheet was drawn from."""

    columns: list[Column]
    headings: list[str]

    @property
    def titles(self) -> list[str]:
        return [column.title for column in self.columns]

    def tiles(self, title: str) -> list[SheetTile]:
        return next(column.tiles for column in self.columns if column.title == title)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    seen, draw = Drawn(), drawing.draw

    def spy(title: str, headings: list[str], columns: list[Column], *rest: Any) -> bytes:
        seen.headings, seen.columns = headings, columns
        return draw(title, headings, columns, *rest)

    monkeypatch.setattr(drawing, "draw", spy)
    return seen


def opened(path: Path) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(path.read_bytes())).convert("RGB"))


# A sheet


@pytest.mark.slow
def test_a_run_with_seeds_has_all_columns_and_its_seeds_as_they_are(
    trained: Callable[..., Plan], tagged_root: Path, drawn: Drawn, tmp_path: Path
) -> None:
    planned = trained("u2pl", "tags")
    assert planned.seeds is not None
    folder = planned.folder
    first = sheet(folder, None, 3)
    assert first == folder.sheet and drawn.titles == WITH_SEEDS
    assert all(len(column.tiles) == 3 for column in drawn.columns)

    data = Folder(tagged_root / "tinyset", "tinyset")
    ids = looks.chosen(planned.split, 3, 0)
    for place, (id, text) in enumerate(zip(ids, drawn.headings, strict=True)):
        assert text.startswith(f"{id}   tags: ") and "background" not in text
        for column, label in (
            ("seed", read_mask(planned.seeds.folder.seed(id), None, 3)),
            ("truth", data.mask(id)),
        ):
            panel = drawn.tiles(column)[place]
            assert panel.picture is not None and panel.label is not None
            assert (panel.label == fitted(label)).all()
            for value in range(3):
                assert (panel.picture[panel.label == value] == colours(3)[value]).all()

    again = sheet(folder, tagged_root, 3, tmp_path / "other" / "again.png")
    assert again.read_bytes() == first.read_bytes(), "the same run, the same bytes"
    assert opened(first).shape[1] == 10 + len(WITH_SEEDS) * 230
    # The folder of all runs may be moved: seeds are looked for beside the run, wherever that is.
    moved = tmp_path / "moved"
    shutil.move(folder.root, moved)
    elsewhere = RunFolder(moved / folder.path.relative_to(folder.root))
    assert sheet(elsewhere, None, 3).read_bytes() == again.read_bytes()
    assert elsewhere.sheet.exists()
    elsewhere.clear()
    assert not elsewhere.sheet.exists()


def test_a_run_without_seeds_leaves_their_columns_out(trained: Callable[..., Plan], drawn: Drawn) -> None:
    planned = trained("supervised", "few")
    picture = opened(sheet(planned.folder, None, 2))
    assert drawn.titles == WITHOUT
    assert set(drawn.headings) < set(planned.split.none), "images that are not granted pixels"
    assert picture.shape[1] == 10 + len(WITHOUT) * 230
    captions = {column.title: column.caption for column in drawn.columns}
    assert captions["truth"] == "masks opened for this sheet" and "20 %" in captions["pseudo-label"]


@pytest.mark.slow
def test_labeled_images_are_shown_where_there_are_no_others(
    trained: Callable[..., Plan], drawn: Drawn
) -> None:
    planned = trained("supervised", "full")
    sheet(planned.folder, None, 32)
    assert sorted(drawn.headings) == sorted(planned.split.pixel), "no more than there are"
    assert "learned from" in drawn.columns[1].caption


def test_a_missing_mask_is_told_in_its_panel(
    trained: Callable[..., Plan], tagged_root: Path, drawn: Drawn
) -> None:
    planned = trained("supervised", "few")
    gone, kept = looks.chosen(planned.split, 2, 0)
    (tagged_root / "tinyset" / "labels" / f"{gone}.png").unlink()
    sheet(planned.folder, None, 2)
    notes = {id: panel.note for id, panel in zip((gone, kept), drawn.tiles("truth"), strict=True)}
    assert notes == {gone: "no mask", kept: ""} and drawn.tiles("truth")[0].picture is None


def test_a_larger_sheet_begins_with_the_images_of_a_smaller_one() -> None:
    split = Split("x", "x", pixel=("p",), tags=("a", "b", "c"), none=("d", "e"), eval=())
    many = looks.chosen(split, 32, seed=1)
    assert sorted(many) == ["a", "b", "c", "d", "e"] and looks.chosen(split, 2, seed=1) == many[:2]
    assert any(looks.chosen(split, 32, seed) != many for seed in range(2, 9))


# What is refused


def test_a_finished_run_is_needed_and_a_number_that_fits(
    trained: Callable[..., Plan], tmp_path: Path
) -> None:
    folder = trained("supervised", "few").folder
    for number in (0, 33):
        with pytest.raises(ConfigError, match=f"1 to 32 images, not {number}"):
            sheet(folder, None, number)
    with pytest.raises(ConfigError, match=r"ends in \.png"):
        sheet(folder, None, 1, tmp_path / "sheet.jpg")
    with pytest.raises(DataError, match="no finished run"):
        sheet(RunFolder(tmp_path), None, 1)


def test_the_run_of_a_classifier_is_refused(trained: Callable[..., Plan]) -> None:
    with pytest.raises(ConfigError, match="show a run that learned from its seeds"):
        sheet(trained("classifier", "tags").folder, None, 1)


def _damage_weights(planned: Plan, root: Path) -> None:
    planned.folder.weights.write_bytes(b"no weights")


def _drop_weights(planned: Plan, root: Path) -> None:
    planned.folder.weights.unlink()


def _drop_seeds(planned: Plan, root: Path) -> None:
    assert planned.seeds is not None
    shutil.rmtree(planned.seeds.folder.path)


def _drop_data(planned: Plan, root: Path) -> None:
    shutil.rmtree(root / "tinyset" / "images")


def _drop_data_set(planned: Plan, root: Path) -> None:
    shutil.rmtree(root / "tinyset")


def _rename_a_class(planned: Plan, root: Path) -> None:
    (root / "tinyset" / "classes.txt").write_text("background\nsquare\nstripes\n")


def _change_the_result(planned: Plan, root: Path) -> None:
    result = planned.folder.read_result()
    assert result is not None
    changed = result.model_copy(update={"split_digests": {**result.split_digests, "tags": "0" * 64}})
    planned.folder.result.write_bytes(changed.to_bytes())


@pytest.mark.slow
def test_what_is_missing_or_changed_is_a_sentence(trained: Callable[..., Plan], tagged_root: Path) -> None:
    planned = trained("supervised", "tags")
    folder, kept = planned.folder.root.parent, planned.folder.root.parent / "kept"
    for name in ("runs", "data"):
        shutil.copytree(folder / name, kept / name)
    for damage, error, words in (
        (_damage_weights, DataError, "weights.safetensors is damaged"),
        (_drop_weights, DataError, "weights.safetensors does not exist"),
        (_drop_seeds, DataError, "does not hold the CAM seeds"),
        (_drop_data, DataError, "restore the image"),
        (_drop_data_set, BenchError, "tinyset"),
        (_rename_a_class, DataError, "the classes of 'tinyset' are not those of the run"),
        (_change_the_result, DataError, "is not the one that"),
    ):
        damage(planned, tagged_root)
        with pytest.raises(error, match=words):
            sheet(planned.folder, None, 1)
        assert not planned.folder.sheet.exists()
        for name in ("runs", "data"):
            shutil.rmtree(folder / name)
            shutil.copytree(kept / name, folder / name)
    sheet(planned.folder, None, 1)  # and what was put back is sound


# The parts


def test_every_class_has_its_colour_and_255_has_none_of_them() -> None:
    palette = colours(21)
    label = np.arange(22, dtype=np.uint8).repeat(22).reshape(22, 22)
    label[21] = IGNORE
    picture = coloured(label, palette)
    assert (picture[:21] == palette[:, None]).all()
    board = {tuple(colour) for colour in picture[21].tolist()}
    assert len(board) == 2, "a pattern, so that it is no plain colour whatever the palette"


def test_hatching_marks_what_it_should_and_shows_on_any_colour() -> None:
    where = np.zeros((24, 24), bool)
    where[:, :12] = True
    for value in (0, 128, 255):
        plain = np.full((24, 24, 3), value, np.uint8)
        marked = hatched(plain, where)
        assert (marked[:, 12:] == value).all()
        changed = (marked[:, :12] != value).any(-1).mean()
        assert 0.1 < changed < 0.5, "lines, between which the colour is as it was"


def test_a_strong_map_is_brighter_and_keeps_some_of_the_image() -> None:
    heat = np.linspace(0, 1, 50)[None].repeat(2, 0)
    image = np.full((2, 50, 3), 60, np.uint8)
    image[1] = 200
    picture = heated(image, heat).mean(2)
    assert picture[0, -1] > picture[0, 0] + 50
    assert (picture[1] > picture[0] + 20).all()


@pytest.mark.parametrize(
    ("size", "fits"), [((64, 64), (220, 220)), ((480, 960), (110, 220)), ((9, 3), (220, 73))]
)
def test_pictures_fit_the_panel_and_labels_stay_labels(size: tuple[int, int], fits: tuple[int, int]) -> None:
    label = np.where(np.indices(size)[1] < round(size[1] / 3), 3, 255).astype(np.uint8)
    small = fitted(label)
    assert small.shape == fits and set(np.unique(small)) == {3, 255}
    assert (small == 3).mean() == pytest.approx((label == 3).mean(), abs=0.01)
    picture = fitted(np.full((*size, 3), 77, np.uint8))
    assert picture.shape == (*fits, 3) and (picture == 77).all()


def test_large_regions_are_named_inside_themselves() -> None:
    label = np.zeros((100, 100), np.uint8)
    rows, columns = np.indices(label.shape)
    radius = np.hypot(rows - 50, columns - 50)
    label[(radius > 20) & (radius < 40)] = 2  # a ring, whose centre is not in it
    label[:10, :10] = 1  # 1 % of the picture
    label[90:] = IGNORE
    places = named_places(label)
    assert [value for value, _, _ in places] == [0, 2, 0], "outside, ring, inside; the largest first"
    for value, row, column in places:
        assert (label[row - 3 : row + 4, column - 3 : column + 4] == value).all(), "well inside"


def test_pseudo_labels_among_the_tags() -> None:
    probability = torch.tensor([0.5, 0.3, 0.2]).view(1, 3, 1, 1)
    label, entropy = pseudo_labels(probability, None)
    assert label.item() == 0 and entropy.item() == pytest.approx(1.0297, abs=1e-4)
    label, entropy = pseudo_labels(probability, (1, 2))
    assert label.item() == 1 and entropy.item() == pytest.approx(0.6730, abs=1e-4)  # of 0.6 and 0.4
    none = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    assert pseudo_labels(none, (1, 2))[1].item() == pytest.approx(np.log(2), abs=1e-4)
    assert pseudo_labels(none, ())[0].item() == 0, "without any tag all classes are allowed"


def test_unreliable_pixels_are_the_least_sure_of_all_images_together() -> None:
    sure, unsure = torch.linspace(0, 0.4, 40).view(5, 8), torch.linspace(0.5, 1, 60).view(6, 10)
    first, second = looks.unreliable([sure, unsure], 0.25)
    assert first.shape == (5, 8) and second.shape == (6, 10)
    assert not first.any() and second.sum() == 25


def test_text_is_broken_into_lines_that_fit() -> None:
    lines = drawing.folded("tags: one, two, three, and_a_long_word", 11, len)
    assert lines == ["tags: one,", "two, three,", "and_a_long_word"]
    assert drawing.folded("", 10, len) == []


def test_names_do_not_cover_each_other_and_the_legend_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stripes too low for all of their names, and one too narrow for its name."""
    label = np.zeros((220, 220), np.uint8)
    for stripe in range(22):
        label[10 * stripe : 10 * stripe + 10] = stripe % 5
    label[:, :8] = 5
    boxes: list[Any] = []
    write = drawing._write_names

    def spy(ax: Any, *rest: Any) -> None:
        before = len(ax.texts)
        write(ax, *rest)
        boxes.extend(text.get_window_extent() for text in ax.texts[before:])

    monkeypatch.setattr(drawing, "_write_names", spy)
    names = ["[$one$]", "two", "three", "four", "five", "a name that is longer than its stripe"]
    columns = [Column("seed", "", [SheetTile(coloured(label, colours(6)), label, marked=True)])]
    picture = drawing.draw("title", ["an id"], columns, colours(6), names)
    assert picture[:4] == b"\x89PNG" and 2 <= len(boxes) < 23
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:number])
    texts = [name for _, name in drawing.legend_of(columns, colours(6), names)]
    assert texts == [*names, "unreliable pseudo-label"]
    label[0] = IGNORE
    assert "no label, or undecided" in [n for _, n in drawing.legend_of(columns, colours(6), names)]


def test_a_legend_explains_no_hatching_where_there_is_none() -> None:
    label = np.zeros((20, 20), np.uint8)
    columns = [Column("truth", "", [SheetTile(coloured(label, colours(2)), label)])]
    assert [name for _, name in drawing.legend_of(columns, colours(2), ["a", "b"])] == ["a"]


def test_what_is_said_over_tiles_and_long_titles_have_room() -> None:
    def laid_out(title: str, said: str) -> drawing.Layout:
        tile = SheetTile(np.zeros((160, 160, 3), np.uint8), said=said)
        columns = [Column(title, "", [tile]), Column("image", "a caption", [tile])]
        return drawing.layout("title", ["an id"], columns, ["a class"])

    plain, over = laid_out("short", ""), laid_out("short", "54.3 %")
    assert over.tops[0] - plain.tops[0] == drawing.LINE and over.rows == [["an id", ""]]
    long = laid_out("a title of six words which is wider than a column", "")
    assert len(long.heads[0]) > 1 and long.heads[1] == ["image"]
    assert long.tops[0] - plain.tops[0] == drawing.LINE * (len(long.heads[0]) - 2), "beside a caption"
