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
    assert said.startswith(
        "best of camvid/1_8 (protocol camvid 12345678): u2pl, mean mIoU 57.0 % over seeds 0, 1, 2, which all "
        "rows have; takes seed 2, the median (60.0 %): "
    )


def test_rows_are_ranked_over_the_draws_and_seeds_that_all_have(tmp_path: Path) -> None:
    """u2pl has three seeds that fixmatch has not; of the others, fixmatch has more."""
    digests = {"eval": "e", "pixel": "p"}
    for seed, miou in enumerate((0.50, 0.51, 0.90, 0.91, 0.92)):
        write(tmp_path, result("u2pl", seed, miou))
    write(tmp_path, result("fixmatch", 0, 0.55), result("fixmatch", 1, 0.56))
    write(tmp_path, result("fixmatch", 0, 0.1, draw=1, split_digests=digests, run_id="0000000a"))
    folder, said = best_run(tmp_path, "camvid", "1_8")
    assert folder.parent.name == "fixmatch" and folder.name.startswith("0-")
    assert "fixmatch, mean mIoU 55.5 % over seeds 0, 1, which all rows have; takes seed 0" in said
    write(tmp_path, result("u2pl", 0, 0.2, draw=1, split_digests=digests, run_id="0000000b"))
    assert (
        "over draw 0 seed 0, draw 0 seed 1, draw 1 seed 0, which all rows"
        in best_run(tmp_path, "camvid", "1_8")[1]
    )


def test_rows_without_a_seed_in_common_are_ranked_by_all_of_their_own(tmp_path: Path) -> None:
    write(tmp_path, result("u2pl", 0, 0.50), result("u2pl", 1, 0.60), result("fixmatch", 2, 0.56))
    _, said = best_run(tmp_path, "camvid", "1_8")
    assert "fixmatch, mean mIoU 56.0 % over seed 2; the rows have no draw and seed in common; takes" in said


def test_runs_scored_on_the_held_out_list_count_where_there_are_no_others(tmp_path: Path) -> None:
    write(tmp_path, result("u2pl", 0, 0.90, scored="heldout"))
    _, said = best_run(tmp_path, "camvid", "1_8")
    assert "scored on the held-out list, since no run is scored on the other" in said
    write(tmp_path, result("fixmatch", 0, 0.50))
    folder, said = best_run(tmp_path, "camvid", "1_8")
    assert folder.parent.name == "fixmatch" and "held-out" not in said


def test_of_two_runs_the_lower_is_taken(tmp_path: Path) -> None:
    write(tmp_path, result("u2pl", 0, 0.61), result("u2pl", 1, 0.60))
    assert best_run(tmp_path, "camvid", "1_8")[0].name == "1-00000001"


def test_runs_of_several_tables_are_refused(tmp_path: Path) -> None:
    write(tmp_path, result("u2pl", 0, 0.61), result("u2pl", 1, 0.60, protocol_hash="87654321"))
    write(tmp_path, result("u2pl", 2, 0.60, protocol="mine", protocol_hash="12345679"))
    with pytest.raises(ConfigError, match=r"several tables,") as caught:
        best_run(tmp_path, "camvid", "1_8")
    assert "(protocol camvid: hash 12345678, hash 87654321; protocol mine: hash 12345679)" in str(
        caught.value
    )


def test_lists_of_one_name_are_refused(tmp_path: Path) -> None:
    for seed, digest in enumerate(("aaaaaaaa", "bbbbbbbb")):
        write(tmp_path, result("u2pl", seed, 0.61, split_digests={"eval": "e", "pixel": digest}))
    with pytest.raises(ConfigError, match=r"\(protocol camvid: 1_8 \[pixel a+\], 1_8 \[pixel b+\]\); give"):
        best_run(tmp_path, "camvid", "1_8")


def test_runs_without_weights_and_of_other_splits_do_not_count(tmp_path: Path) -> None:
    write(tmp_path, result("u2pl", 0, 0.61), weights=False)
    write(tmp_path, result("u2pl", 1, 0.60, split="1_4"))
    with pytest.raises(DataError, match="no finished run of camvid/1_8 with its weights; give --runs"):
        best_run(tmp_path, "camvid", "1_8")
    with pytest.raises(DataError, match="no folder .*runs; give --runs FOLDER"):
        best_run(tmp_path / "runs", "camvid", "1_8")
