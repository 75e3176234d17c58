"""`--best`: the row of the highest mean, the run of the median; said, and refused where tables differ."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.errors import ConfigError, DataError
from bench.records.folders import RunFolder
from bench.records.schema import Result, Score
from reports.best import best_run


def result(method: str, seed: int, miou: float, **more: object) -> Result:
    score = Score(miou=miou, classes_averaged=2, iou=[miou, miou], pixel_accuracy=miou)
    given = {
        "run_id": f"{seed:08x}",
        "dataset": "camvid",
        "split": "1_8",
        "method": method,
        "method_version": 1,
        "seed": seed,
        "protocol": "camvid",
        "protocol_hash": "12345678",
        "steps": 10,
        "images": {"pixel": 4, "tags": 0, "none": 12, "eval": 4},
        "classes": ["a", "b"],
        "student": score,
        "predictor": score,
        "curve": [],
        "train_seconds": 1.0,
        "eval_seconds": 1.0,
        "peak_memory_mib": 1.0,
        "split_digests": {"eval": "e"},
        "weights_digest": None,
        "config": {"method": {"name": method}, "protocol": {"crop": [32, 32]}},
        **more,
    }
    return Result.model_validate(given)


def write(root: Path, *results: Result, weights: bool = True) -> None:
    for one in results:
        folder = RunFolder.of(root, one.dataset, one.split, one.method, one.seed, one.run_id)
        folder.write_result(one)
        if weights:
            folder.weights.write_bytes(b"")


def test_the_highest_mean_and_of_its_seeds_the_median(tmp_path: Path) -> None:
    """fixmatch has the best run, u2pl the best mean: 50, 60, 61 against 40, 41, 80."""
    for seed, (u2pl, fixmatch) in enumerate([(0.61, 0.40), (0.50, 0.80), (0.60, 0.41)]):
        write(tmp_path, result("u2pl", seed, u2pl), result("fixmatch", seed, fixmatch))
    folder, said = best_run(tmp_path, "camvid", "1_8")
    assert (folder.parent.name, folder.name) == ("u2pl", "2-00000002")
    assert "u2pl, mean mIoU 57.0 % over the seeds 0, 1, 2; takes seed 2, the median (60.0 %)" in said


def test_of_two_runs_the_lower_is_taken(tmp_path: Path) -> None:
    write(tmp_path, result("u2pl", 0, 0.61), result("u2pl", 1, 0.60))
    assert best_run(tmp_path, "camvid", "1_8")[0].name == "1-00000001"


def test_runs_of_several_tables_are_refused(tmp_path: Path) -> None:
    write(tmp_path, result("u2pl", 0, 0.61), result("u2pl", 1, 0.60, protocol_hash="87654321"))
    with pytest.raises(ConfigError, match="several tables .*camvid 12345678, camvid 87654321"):
        best_run(tmp_path, "camvid", "1_8")


def test_runs_without_weights_and_of_other_splits_do_not_count(tmp_path: Path) -> None:
    write(tmp_path, result("u2pl", 0, 0.61), weights=False)
    write(tmp_path, result("u2pl", 1, 0.60, split="1_4"))
    with pytest.raises(DataError, match="no finished run of camvid/1_8 with its weights; give --runs"):
        best_run(tmp_path, "camvid", "1_8")
