"""The records of a run: written whole, read back as written, refused where they are something else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.errors import ConfigError, DataError
from bench.files import write_atomic
from bench.store import (
    Point,
    Rescored,
    Result,
    RunFolder,
    Score,
    Scores,
    find_results,
    read_counts,
    read_metrics,
    read_result,
    read_results,
)

CHECKOUT = Path(__file__).resolve().parents[2]


def result(**changes: Any) -> Result:
    score = Score(miou=1 / 3, classes_averaged=2, iou=[1 / 3, None, 0.1], pixel_accuracy=0.9)
    fields: dict[str, Any] = {
        "run_id": "0123abcd",
        "dataset": "tinyset",
        "split": "few",
        "method": "fixmatch",
        "method_version": 1,
        "seed": 0,
        "protocol": "folder",
        "protocol_hash": "deadbeef",
        "steps": 6,
        "images": {"pixel": 4, "tags": 0, "none": 12, "eval": 4},
        "classes": ["a", "b", "c"],
        "student": score,
        "predictor": score,
        "curve": [Point(step=6, miou=1 / 3)],
        "train_seconds": 0.1,
        "eval_seconds": 0.2,
        "peak_memory_mib": 3.5,
        "split_digests": {"pixel": "x"},
        "weights_digest": None,
        "config": {"seed": 0, "protocol": {"crop": [32, 32]}},
    }
    return Result(**{**fields, **changes})


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.of(tmp_path, "tinyset", "few", "fixmatch", 0, "0123abcd")


def test_the_folder_names_the_run(folder: RunFolder, tmp_path: Path) -> None:
    assert folder.path == tmp_path / "tinyset" / "few" / "fixmatch" / "0-0123abcd"


def test_write_atomic_makes_folders_replaces_and_leaves_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    for data in (b"one", b"", b"\x00" * 100_000):
        write_atomic(path, data)
        assert path.read_bytes() == data
    assert os.listdir(path.parent) == ["file"]


def test_write_atomic_keeps_the_old_file_and_raises_where_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


def test_write_atomic_puts_the_bytes_on_disk_before_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fsync of the file, then the rename, then fsync of the folder: the order that survives a power cut."""
    done, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda fd: (done.append(f"fsync {os.path.isdir(f'/proc/self/fd/{fd}')}"), fsync(fd))
    )
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("replace"), replace(a, b)))
    write_atomic(tmp_path / "file", b"data")
    assert done == ["fsync False", "replace", "fsync True"]


def test_a_result_reads_back_as_written(folder: RunFolder) -> None:
    assert folder.read_result() is None
    folder.write_result(result())
    assert folder.read_result() == result()
    assert folder.result.read_bytes().endswith(b"}\n")


def rescored(**changes: Any) -> Rescored:
    score = Score(miou=0.5, classes_averaged=2, iou=[0.5, None, 0.5], pixel_accuracy=0.9)
    fields: dict[str, Any] = {
        "name": "crf",
        "scales": (0.5, 1.0),
        "flip": True,
        "crf": "irn",
        "half_size": False,
        "score": score,
        "seconds": 1.5,
    }
    return Rescored(**{**fields, **changes})


def test_scores_read_back_as_written(folder: RunFolder) -> None:
    assert folder.read_scores() == Scores(entries=[]), "a run may come without"
    scores = Scores(entries=[rescored(name="multi_scale", crf=None), rescored()])
    folder.write_scores(scores)
    assert folder.read_scores() == scores
    assert folder.scores.read_bytes().endswith(b"}\n")


@pytest.mark.parametrize(
    "change", [{"name": "raw"}, {"scales": (1.0,)}, {"flip": False}, {"crf": "psa"}, {"half_size": True}]
)
def test_numbers_of_other_settings_are_told_apart(change: dict[str, Any]) -> None:
    other = Rescored.model_construct(**(dict(rescored()) | change))
    assert other.setting != rescored().setting
    assert rescored(seconds=9.0).setting == rescored().setting


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"schema_version": 2, "entries": []}'])
def test_garbled_scores_are_refused_by_file(folder: RunFolder, data: bytes) -> None:
    write_atomic(folder.scores, data)
    with pytest.raises(DataError, match=r"scores.json holds no scores of this version"):
        folder.read_scores()


def test_clearing_a_folder_leaves_no_record_of_an_earlier_run(folder: RunFolder) -> None:
    for path in (folder.result, folder.scores, folder.weights, folder.counts, folder.checkpoint):
        write_atomic(path, b"x")
    folder.clear()
    assert list(folder.path.iterdir()) == []


def test_equal_results_are_equal_bytes(folder: RunFolder) -> None:
    folder.write_result(result())
    first = folder.result.read_bytes()
    folder.write_result(read_result(folder.result))
    assert folder.result.read_bytes() == first


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"mood": "good"}, "mood"),
        ({"steps": "many"}, "steps"),
        ({"student": {"miou": 1.0}}, "student.classes_averaged"),
        ({"curve": [{"step": 1}]}, "curve.0.miou"),
        ({"seed": None}, "seed"),
    ],
)
def test_another_schema_is_refused_by_file_and_field(
    folder: RunFolder, change: dict[str, Any], field: str
) -> None:
    write_atomic(folder.result, json.dumps({**json.loads(result().model_dump_json()), **change}).encode())
    with pytest.raises(DataError) as caught:
        folder.read_result()
    assert f"{folder.result} is not a result of this version ({field}: " in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 10_000])
def test_a_garbled_result_is_refused_by_file(folder: RunFolder, data: bytes) -> None:
    write_atomic(folder.result, data)
    with pytest.raises(DataError, match=r"result.json is not a result of this version"):
        folder.read_result()


def test_read_results_leaves_out_unfinished_runs_and_counts_none_twice(tmp_path: Path) -> None:
    for seed in (1, 0):
        done = RunFolder.of(tmp_path / "runs", "tinyset", "few", "fixmatch", seed, "id")
        done.write_result(result(seed=seed))
    unfinished = RunFolder.of(tmp_path / "runs", "tinyset", "few", "fixmatch", 2, "id")
    for path in (unfinished.config, unfinished.checkpoint, unfinished.weights, unfinished.counts):
        write_atomic(path, b"x")
    write_atomic(unfinished.path / ".result.json.1.tmp", b"{")
    found = read_results(tmp_path / "runs", tmp_path / "runs" / "tinyset", tmp_path / "runs")
    assert [one.seed for one in found] == [0, 1]


def test_read_results_refuses_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder .*gone"):
        read_results(tmp_path / "gone")


def test_counts_read_back_as_written(folder: RunFolder) -> None:
    counts = np.random.default_rng(0).integers(0, 2**40, (4, 3, 3))
    ids = ["a", "city/b", "ü", "d"]
    folder.write_counts(ids, {"predictor": counts, "student": counts * 2})
    found = read_counts(folder.counts)
    assert found["ids"].tolist() == ids and set(found) == {"ids", "predictor", "student"}
    assert found["predictor"].dtype == np.int64
    assert np.array_equal(found["predictor"], counts) and np.array_equal(found["student"], 2 * counts)


def test_counts_never_unpickle(folder: RunFolder) -> None:
    folder.path.mkdir(parents=True)
    np.savez(folder.counts, ids=np.array([{"an": "object"}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        read_counts(folder.counts)


def test_provenance_gathers_one_entry_per_start(folder: RunFolder) -> None:
    assert folder.read_provenance() == []
    folder.add_provenance({"first_step": 0})
    folder.add_provenance({"first_step": 4})
    assert [entry["first_step"] for entry in folder.read_provenance()] == [0, 4]


def test_a_claim_is_given_back(folder: RunFolder) -> None:
    for _ in range(2):
        with folder.claimed():
            pass
    with pytest.raises(RuntimeError), folder.claimed():
        raise RuntimeError
    with folder.claimed():
        pass


def test_a_claim_clears_what_a_killed_process_left_half_written(folder: RunFolder) -> None:
    write_atomic(folder.checkpoint, b"whole")
    (folder.path / ".checkpoint.pt.123.tmp").write_bytes(b"half")
    with folder.claimed():
        assert {path.name for path in folder.path.iterdir()} == {"checkpoint.pt", ".lock"}


def test_two_processes_cannot_claim_one_folder(folder: RunFolder) -> None:
    """The lock holds across processes, names the folder, and dies with its holder."""
    program = (
        "import sys; from pathlib import Path; from bench.store import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).claimed():\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(folder.path)]
    with subprocess.Popen(
        command, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigError) as caught, folder.claimed():
            pass
        assert f"{folder.path} is in use by another process" in str(caught.value)
        holder.kill()
        holder.wait()
        with folder.claimed():
            pass


def test_metrics_read_back_line_by_line(folder: RunFolder) -> None:
    assert read_metrics(folder.metrics) == [], "a record may come without"
    folder.path.mkdir(parents=True)
    folder.metrics.write_text(
        '{"step": 1, "loss": null}\n{"step": 2, "anchors": [1.0, null]}\n{"step": 3, "lo'
    )
    assert read_metrics(folder.metrics) == [{"step": 1, "loss": None}, {"step": 2, "anchors": [1.0, None]}]


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", "3", '{"step": "2"}'])
def test_metrics_damaged_before_their_end_are_refused(folder: RunFolder, damage: str) -> None:
    folder.path.mkdir(parents=True)
    folder.metrics.write_text(f'{{"step": 1}}\n{damage}\n{{"step": 3}}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl, line 2 is damaged"):
        read_metrics(folder.metrics)


def test_results_are_found_with_their_folders(folder: RunFolder) -> None:
    folder.write_result(result())
    assert find_results(folder.path.parent) == {folder.path.resolve(): result()}
