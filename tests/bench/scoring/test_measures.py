"""What counts say beside mIoU, boundary IoU, and `score --measures`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from commandline import Typed
from scipy import ndimage

from bench import load, pipeline
from bench.contract import Dataset
from bench.display import Display
from bench.errors import DataError
from bench.plan import Plan, plan
from bench.scoring.boundary import band_width, boundary, boundary_counts, boundary_iou, count_boundaries
from bench.scoring.inference import Inference
from bench.scoring.measures import measures
from bench.settings.schema import Evaluation, RunConfig
from datasets.folder import Folder

# From counts ----------------------------------------------------------------------------------------------


def test_measures_by_hand() -> None:
    """Class 2 is never predicted; class 3 is in no truth, and predicted once."""
    counts = np.array([[6, 2, 0, 0], [1, 8, 0, 1], [2, 0, 0, 0], [0, 0, 0, 0]])
    found = measures(counts)
    assert found.recall == [6 / 8, 8 / 10, 0.0, None]
    assert found.precision == [6 / 9, 8 / 10, None, 0.0]
    assert found.iou == [6 / 11, 8 / 12, 0.0, None]
    assert found.dice == [12 / 17, 16 / 20, 0.0, None]
    assert found.mean_accuracy == pytest.approx((6 / 8 + 8 / 10) / 3)
    assert found.frequency_weighted_iou == pytest.approx((8 * 6 / 11 + 10 * 8 / 12) / 20)
    assert found.mean_dice == pytest.approx((12 / 17 + 16 / 20) / 3)
    assert (found.miou, found.pixel_accuracy) == (pytest.approx((6 / 11 + 8 / 12) / 3), 14 / 20)


def test_of_nothing_there_are_none() -> None:
    with pytest.raises(DataError, match="no scored mask"):
        measures(np.zeros((3, 3), np.int64))


@pytest.mark.parametrize("seed", range(3))
def test_they_agree_with_scikit_learn_and_torchmetrics(seed: int) -> None:
    # Here, since every process that only collects this file would spend seconds on them.
    from sklearn.metrics import precision_recall_fscore_support
    from torchmetrics.functional.classification import (
        multiclass_accuracy,
        multiclass_f1_score,
        multiclass_jaccard_index,
    )

    rng = np.random.default_rng(seed)
    truth = rng.integers(4, size=500)
    predicted = np.where(rng.random(500) < 0.6, truth, rng.integers(4, size=500))
    counts = np.zeros((4, 4), np.int64)
    np.add.at(counts, (truth, predicted), 1)
    found = measures(counts)
    precision, recall, f1, _ = precision_recall_fscore_support(truth, predicted)
    np.testing.assert_allclose(found.precision, precision)
    np.testing.assert_allclose(found.recall, recall)
    np.testing.assert_allclose(found.dice, f1)
    p, t = torch.from_numpy(predicted), torch.from_numpy(truth)
    theirs = [
        multiclass_accuracy(p, t, 4, average="macro"),
        multiclass_jaccard_index(p, t, 4, average="weighted"),
        multiclass_f1_score(p, t, 4, average="macro"),
        multiclass_jaccard_index(p, t, 4, average="macro"),
    ]
    ours = [found.mean_accuracy, found.frequency_weighted_iou, found.mean_dice, found.miou]
    assert ours == pytest.approx([value.item() for value in theirs], rel=1e-5)


# Boundaries -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "width"), [((10, 10), 1), ((360, 480), 12), ((1024, 2048), 46), ((1, 1), 1)]
)
def test_the_band_is_two_percent_of_the_diagonal(size: tuple[int, int], width: int) -> None:
    assert band_width(*size) == width


def square(left: int, side: int = 6) -> np.ndarray:
    """10 10, class 1 in a square from row 2 on."""
    mask = np.zeros((10, 10), np.uint8)
    mask[2 : 2 + side, left : left + side] = 1
    return mask


def test_boundary_iou_by_hand() -> None:
    """Rings of 20 pixels, one a column beside the other: two rows of five in common."""
    counts = boundary_counts(square(3), square(2), 3)
    assert counts[:, 1].tolist() == [10, 30, 20]
    assert boundary_iou(counts)[1:] == [1 / 3, None]
    assert boundary_iou(boundary_counts(square(2), square(2), 2)) == [1, 1]
    never = boundary_counts(np.zeros((10, 10), np.uint8), square(2), 2)
    assert boundary_iou(never)[1] == 0 and boundary_iou(never)[0] < 1


def test_the_edge_of_the_image_is_a_boundary() -> None:
    whole = np.ones((10, 12), np.bool_)
    band = boundary(whole, 2)
    assert band.sum() == 120 - 6 * 8 and not band[2:-2, 2:-2].any()


@pytest.mark.parametrize("seed", range(4))
def test_a_boundary_is_what_erosions_take_off(seed: int) -> None:
    noise = np.random.default_rng(seed).random((41, 33))
    mask = ndimage.gaussian_filter(noise, 3) > noise.mean()
    assert 0 < mask.sum() < mask.size
    for width in (1, 2, 5):
        kept = ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=width, border_value=0)
        assert np.array_equal(boundary(mask, width), mask & ~kept)


def test_pixels_without_label_are_outside_of_every_class_on_both_sides() -> None:
    """The right half is not labeled: what is predicted there counts nowhere, and ends the classes."""
    label, predicted = square(2), square(2)
    label[:, 5:] = 255
    other = predicted.copy()
    other[:, 5:] = 2
    counts = boundary_counts(predicted, label, 3)
    assert np.array_equal(counts, boundary_counts(other, label, 3))
    assert boundary_iou(counts) == [1, 1, None]
    assert counts[2, 1] == 6 * 3 - 4  # a 6x3 area less its inside


def test_counts_are_pooled_over_images() -> None:
    class Two(Dataset):
        name, classes = "two", ("a", "b")

        def ids(self, listing: str) -> tuple[str, ...]:
            return ("2", "3")

        def image(self, id: str) -> np.ndarray:
            return np.repeat(255 * square(2)[..., None], 3, 2)

        def mask(self, id: str) -> np.ndarray:
            return square(int(id))

    class Bright(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.cat([0.5 - image[:, :1], image[:, :1] - 0.5], 1)

    done: list[int] = []
    counts = count_boundaries(
        Bright(), Two(), ("2", "3"), Inference(Evaluation(), (8, 8)), "cpu", done.append
    )
    assert counts[:, 1].tolist() == [30, 50, 40] and done == [1, 2]


# The command ----------------------------------------------------------------------------------------------


@pytest.fixture
def done(tiny_config: Callable[..., RunConfig]) -> Plan:
    planned = plan(tiny_config("supervised", "protocol.steps=30"))
    pipeline.run(planned, Display())
    return planned


def test_score_prints_the_measures_of_a_run(typed: Typed, done: Plan, tiny_set: Folder) -> None:
    folder = done.folder.path
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    code, out, err = typed("score", folder, "--measures")
    assert code == 0, err
    assert "precision %" in out and "boundary" not in out and "frequency-weighted IoU" in out
    code, out, err = typed("score", folder, "--measures", "--boundary")
    assert code == 0 and "boundary IoU %" in out and "mean boundary IoU" in out, err
    code, out, err = typed("score", folder, folder, "--measures", "--boundary", "--json")
    (found,) = json.loads(out)["runs"]
    result = done.folder.read_result()
    assert result is not None and found["classes"] == ["background", "square", "stripe"]
    assert found["miou"] == result.predictor.miou and found["iou"] == result.predictor.iou
    model = load(folder)
    counts = [
        boundary_counts(model.predict(tiny_set.image(id)).ids, tiny_set.mask(id), 3)
        for id in tiny_set.ids("test")
    ]
    expected = boundary_iou(np.sum(counts, 0))
    assert found["boundary_iou"] == expected and any(expected)
    assert found["mean_boundary_iou"] == pytest.approx(
        np.mean([share for share in expected if share is not None])
    )
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


def test_without_boundary_no_image_is_opened(typed: Typed, done: Plan, tmp_path: Path) -> None:
    assert typed("score", done.folder.path, "--measures", "--data-root", tmp_path / "nowhere")[0] == 0


def test_what_cannot_be_measured_is_refused(typed: Typed, done: Plan, tmp_path: Path) -> None:
    folder = done.folder.path
    for options, words in (
        (("--boundary",), "--boundary goes with --measures"),
        (("--json",), "--json goes with --measures"),
        (("--measures", "--overwrite"), "leave out what says how to score again"),
        (("--measures", "--scales", "1"), "leave out what says how to score again"),
    ):
        code, out, err = typed("score", folder, *options)
        assert code == 2 and words in err and out == ""
    code, _, err = typed("score", tmp_path, "--measures")
    assert code == 3 and "holds no finished run" in err
    counts = done.folder.counts.read_bytes()
    done.folder.counts.write_bytes(counts[:-40] + bytes(40))
    assert typed("score", folder, "--measures")[0] == 3
    done.folder.counts.unlink()
    code, _, err = typed("score", folder, "--measures")
    assert code == 3 and "no " in err and "counts.npz; put it back" in err
