"""The records of a run: written whole, read back as written, refused where they are something else."""

from __future__ import annotations

import fcntl
import io
import json
import math
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.errors import ConfigError, DataError
from bench.labels import LABEL_SECONDS
from bench.records.atomic import write_atomic
from bench.records.folders import RunFolder
from bench.records.index import find_results, find_unfinished, read_results, records_file, write_records
from bench.records.logs import metrics_torn, read_counts, read_metrics
from bench.records.provenance import without_folders
from bench.records.schema import Git, Point, Rescored, Result, Score, Scores, Start, read_result
from bench.records.sealed import Torn
from bench.records.shared_folders import SeedFolder

CHECKOUT = Path(__file__).resolve().parents[3]


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


def test_a_result_from_before_label_seconds_has_the_published_ones(folder: RunFolder) -> None:
    folder.write_result(result())
    old = json.loads(folder.result.read_text())
    del old["label_seconds"]
    folder.result.write_text(json.dumps(old))
    read = folder.read_result()
    assert read is not None and read.label_seconds == LABEL_SECONDS
    assert read.label_seconds is not result().label_seconds, "no two results share one"


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
        ({"mood": "good"}, "mood"),
        ({"steps": "many"}, "steps"),
        ({"student": {"miou": 1.0}}, "student.classes_averaged"),
        ({"curve": [{"step": 1}]}, "curve.0.miou"),
        ({"seed": None}, "seed"),
        ({"seed": -1}, "seed"),
        ({"steps": 10**400}, "steps"),
        ({"images": {"pixel": 10**400}}, "images.pixel"),
        ({"curve": [{"step": 10**400, "miou": 0.5}]}, "curve.0.step"),
        ({"curve": [{"step": 1, "miou": math.nan}]}, "curve.0.miou"),
        ({"curve": [{"step": 1, "miou": 1.5}]}, "curve.0.miou"),
        ({"train_seconds": math.inf}, "train_seconds"),
        ({"train_seconds": 1e300}, "train_seconds"),
        ({"label_seconds": {"pixel": math.inf}}, "label_seconds.pixel"),
        ({"classes": []}, "classes"),
        ({"classes": ["a", "b"]}, ""),
        ({"config": {"protocol": "p"}}, "config.protocol"),
        ({"config": {"protocol": {"network": "n"}}}, "config.protocol.network"),
        ({"config": {"protocol": {"batch": {"labeled": 4}}}}, "config.protocol.batch.unlabeled"),
        (
            {"config": {"protocol": {"batch": {"labeled": 4, "unlabeled": None}}}},
            "config.protocol.batch.unlabeled",
        ),
        ({"config": {"cam_seeds": "none"}}, "config.cam_seeds"),
        ({"config": {"method": "u2pl"}}, "config.method"),
    ],
)
def test_what_is_no_result_is_refused_by_file_and_field(
    folder: RunFolder, change: dict[str, Any], field: str
) -> None:
    write_atomic(folder.result, json.dumps({**json.loads(result().model_dump_json()), **change}).encode())
    with pytest.raises(DataError) as caught:
        folder.read_result()
    assert f"{folder.result} is no Result ({field}: " in str(caught.value)


# What is no record: every reader says which file, what is wrong with it, and what to do

READERS: dict[str, tuple[str, str, str]] = {  # file, reader, what to do
    "Result": ("result", "read_result", "move it away and run it again."),
    "Scores": ("scores", "read_scores", "run `score` again"),
    "SeedReport": ("report", "read_report", "`cam-seeds`"),
    "SeedQuality": ("quality", "read_quality", "`cam-seeds --quality`"),
}
TORN = [b"", b"{", b"\xff\xfe", b"[" * 10_000, bytes(100), result().model_dump_json().encode()[:-1]]
OTHER = [b"[]", b"null", b"{}", b'{"schema_version": null, "new": 1}']
VERSIONS = {b'{"schema_version": %d, "new": 1}' % version: str(version) for version in (0, 2)}
DAMAGED = [
    *((data, "is torn, half written or half copied; ") for data in TORN),
    *((data, "is no {name} (") for data in OTHER),
    *(
        (data, f"has schema version {found}, and this checkout reads version 1: read it with ")
        for data, found in {**VERSIONS, b'{"schema_version": "1", "new": 1}': "1"}.items()
    ),
]


@pytest.mark.parametrize(("data", "said"), DAMAGED)
@pytest.mark.parametrize("name", READERS)
def test_what_is_no_record_is_refused_by_file(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    file, reader, mend = READERS[name]
    folder: Any = RunFolder(tmp_path / "run")
    if name.startswith("Seed"):
        folder = SeedFolder.of(tmp_path, "tinyset", "tags", 0, "maps", "seeds")
        assert getattr(folder, reader)() is None, "there may be none"
    path = getattr(folder, file)
    write_atomic(path, data)
    with pytest.raises(Torn if data in TORN else DataError) as caught:
        getattr(folder, reader)()
    assert str(caught.value).startswith(f"{path} {said.format(name=name)}") and mend in str(caught.value)


def test_among_many_a_torn_result_is_left_out_where_it_is_said_and_any_other_is_not_passed_over(
    tmp_path: Path,
) -> None:
    torn, other = (RunFolder.of(tmp_path, "tinyset", "few", "fixmatch", seed, "0123abcd") for seed in (0, 1))
    other.write_result(result(seed=1))
    for data in TORN:
        write_atomic(torn.result, data)
        passed: list[Path] = []
        found = find_results(tmp_path, torn=passed)
        assert found == {other.path: result(seed=1)} and passed == [torn.path]
        with pytest.raises(Torn, match=r"0-0123abcd/result.json is torn"):
            find_results(tmp_path)
        assert find_unfinished(found, tmp_path) == [torn.path]
    for data in (*OTHER, *VERSIONS):
        write_atomic(torn.result, data)
        with pytest.raises(DataError, match=r"0-0123abcd/result.json (is no Result|has schema version)"):
            find_results(tmp_path)


def test_read_results_leaves_out_unfinished_runs_and_counts_none_twice(tmp_path: Path) -> None:
    for seed in (1, 0):
        done = RunFolder.of(tmp_path / "runs", "tinyset", "few", "fixmatch", seed, "id")
        done.write_result(result(seed=seed))
    unfinished = RunFolder.of(tmp_path / "runs", "tinyset", "few", "fixmatch", 2, "id")
    for path in (unfinished.config, unfinished.checkpoint, unfinished.weights, unfinished.counts):
        write_atomic(path, b"x")
    write_atomic(unfinished.path / ".result.json.1.tmp", b"{")
    roots = tmp_path / "runs", tmp_path / "runs" / "tinyset", tmp_path / "runs"
    assert [one.seed for one in read_results(*roots)] == [0, 1]
    assert find_unfinished(find_results(*roots), *roots) == [unfinished.path]


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
    with pytest.raises(DataError, match=r"counts\.npz cannot be read \(ValueError: .*allow_pickle"):
        read_counts(folder.counts)


def npz(**arrays: Any) -> bytes:
    np.savez_compressed(buffer := io.BytesIO(), **arrays)
    return buffer.getvalue()


def bare(array: np.ndarray) -> bytes:
    np.save(buffer := io.BytesIO(), array)
    return buffer.getvalue()


IDS, ONES = np.array(["a", "b"]), np.ones((2, 3, 3), np.int64)
WHOLE = npz(ids=IDS, predictor=np.arange(18).reshape(2, 3, 3) ** 7)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "cannot be read"),
        (WHOLE[:100], "cannot be read"),
        (WHOLE.replace(WHOLE[-260:-250], bytes(10)), "cannot be read"),
        (bare(ONES), "cannot be read"),
        (npz(predictor=ONES), "cannot be read"),
        (npz(ids=np.array("a"), predictor=ONES), "does not hold"),
        (npz(ids=np.array(["a", "a"]), predictor=ONES), "does not hold"),
        (npz(ids=np.array([1, 2]), predictor=ONES), "does not hold"),
        (npz(ids=IDS, predictor=ONES[:1]), "does not hold"),
        (npz(ids=IDS, predictor=ONES[:, :2]), "does not hold"),
        (npz(ids=IDS, predictor=ONES.astype(complex)), "does not hold"),
        (npz(ids=IDS, predictor=ONES.astype(str)), "does not hold"),
        (npz(ids=IDS, predictor=ONES.astype("M8[s]")), "does not hold"),
    ],
)
def test_what_is_no_counts_is_refused_by_file(folder: RunFolder, data: bytes, said: str) -> None:
    write_atomic(folder.counts, WHOLE)
    assert read_counts(folder.counts)["predictor"].shape == (2, 3, 3)
    write_atomic(folder.counts, data)
    with pytest.raises(DataError) as caught:
        read_counts(folder.counts)
    assert str(folder.counts) in str(caught.value) and said in str(caught.value)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"[", "damaged"),
        (b"\xff", "damaged"),
        (b"[" * 100_000, "damaged"),
        (b"{}", "must list the starts"),
        (b"[1]", "must list the starts"),
        (b'[{"git": {"commit": 7}}]', "git.commit"),
        (b'[{"torch": {"gpus": "one"}}]', "torch.gpus"),
    ],
)
def test_provenance_of_another_shape_is_refused_by_file(folder: RunFolder, data: bytes, said: str) -> None:
    write_atomic(folder.provenance, data)
    with pytest.raises(DataError) as caught:
        folder.read_starts()
    assert str(folder.provenance) in str(caught.value) and said in str(caught.value)


def test_what_a_start_does_not_say_is_the_worse() -> None:
    assert Start().commit is None and Start.model_validate({"git": {"commit": "c"}}).git == Git(
        commit="c", dirty=True
    )


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
        "import sys; from pathlib import Path; from bench.records.folders import RunFolder\n"
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
        assert f"{folder.path} is in use by process " in str(caught.value)
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


LAST_LINES = [
    b'{"step": 2, "lo\xc3',
    b"[" * 100_000,
    b'{"step": true}',
    b'{"step": NaN}',
    b"[2]",
    b'{"step": "2"}',
]


@pytest.mark.parametrize("last", LAST_LINES)
def test_any_last_line_that_is_none_is_left_out(folder: RunFolder, last: bytes) -> None:
    write_atomic(folder.metrics, b'{"step": 1, "name": "a\xe2\x80\xa8b"}\n' + last)
    assert read_metrics(folder.metrics) == [{"step": 1, "name": "a\u2028b"}] and metrics_torn(folder.metrics)
    write_atomic(folder.metrics, last + b'\n{"step": 1}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl, line 1 is damaged"):
        read_metrics(folder.metrics)


def test_a_number_beyond_all_bounds_is_read_as_infinite(folder: RunFolder) -> None:
    write_atomic(folder.metrics, b'{"step": 1, "loss": 1' + b"0" * 400 + b"}\n")
    assert read_metrics(folder.metrics) == [{"step": 1, "loss": math.inf}]


def test_results_are_found_with_their_folders(folder: RunFolder) -> None:
    folder.write_result(result())
    assert find_results(folder.path.parent) == {folder.path.resolve(): result()}


# Folders of records


def lines(root: Path, *results: Result) -> Path:
    file = records_file(root, "tinyset")
    write_records(file, results)
    return file


def test_records_and_runs_are_found_together(tmp_path: Path) -> None:
    records, runs = tmp_path / "records", tmp_path / "runs"
    lines(records, result(seed=3), result(seed=1))
    for root, seed in ((records, 2), (runs, 0)):  # a folder of records may hold a run that has no line yet
        RunFolder.of(root, "tinyset", "few", "fixmatch", seed, "0123abcd").write_result(result(seed=seed))
    found = find_results(records, runs, records)
    assert list(found) == [
        root / "tinyset" / "few" / "fixmatch" / f"{seed}-0123abcd"
        for root, seed in ((records, 1), (records, 2), (records, 3), (runs, 0))
    ]
    assert [run.seed for run in found.values()] == [1, 2, 3, 0]
    (records / "tinyset" / "few" / "fixmatch" / "1-0123abcd").mkdir()
    RunFolder(next(iter(found))).metrics.write_text('{"step": 1}\n')
    assert find_unfinished(found, records, runs) == [], "a record has no result.json of its own"


def test_records_are_found_by_their_folder_their_file_and_the_folder_of_their_data_set(
    tmp_path: Path,
) -> None:
    file = lines(tmp_path, result())
    run = RunFolder.of(tmp_path, "tinyset", "few", "fixmatch", 0, "0123abcd")
    write_records(records_file(tmp_path, "otherset"), [result(dataset="otherset")])
    write_atomic(run.metrics, b'{"step": 1}\n')
    assert len(find_results(tmp_path)) == 2
    for root in (file, tmp_path / "tinyset"):
        assert find_results(root) == {run.path: result()}, root
        assert find_unfinished([run.path], root) == []
    with pytest.raises(DataError, match="no folder"):
        find_results(run.metrics)


def test_the_log_of_a_run_is_no_record(folder: RunFolder) -> None:
    folder.write_result(result())
    folder.metrics.write_text('{"step": 1}\n')
    assert find_results(folder.path) == {folder.path: result()}


def test_a_run_with_a_record_and_a_result_must_have_the_same_in_both(tmp_path: Path) -> None:
    file = lines(tmp_path, result())
    run = RunFolder.of(tmp_path, "tinyset", "few", "fixmatch", 0, "0123abcd")
    run.write_result(result())
    assert find_results(tmp_path) == {run.path: result()}
    run.write_result(result(train_seconds=9.0))
    with pytest.raises(DataError) as caught:
        find_results(tmp_path)
    assert str(run.result) in str(caught.value) and str(file) in str(caught.value)


def test_records_are_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    runs = [
        result(split=split, method=method, seed=seed, run_id=run_id)
        for split in ("1_16", "1_8")
        for method in ("a", "b")
        for seed in (2, 10)
        for run_id in ("x", "y")
    ]
    first = lines(tmp_path, *runs).read_bytes()
    assert lines(tmp_path, *reversed(runs)).read_bytes() == first
    assert [Result.model_validate_json(line) for line in first.splitlines()] == runs
    assert first.count(b"\n") == len(runs) and first.endswith(b"}\n")


def test_a_name_with_a_line_separator_stays_on_its_line(tmp_path: Path) -> None:
    odd = result(classes=["a\u2028b", "c\x85d", "e\nf"])
    lines(tmp_path, odd, result(seed=1))
    assert read_results(tmp_path) == [odd, result(seed=1)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (result(seed=1).model_dump_json()[:-9], "is torn"),
        ("", "is torn"),
        ("{}", "is no Result"),
        (result(seed=1).model_dump_json().replace('n":1', 'n":7', 1), "has schema version 7"),
        (result(dataset="other").model_dump_json(), "is of the data set 'other'; move it to other.jsonl"),
        (result().model_dump_json(), "is the second of run 0123abcd"),
    ],
)
@pytest.mark.parametrize("end", ["", "\n"])
def test_a_damaged_record_is_refused_by_file_and_line(tmp_path: Path, line: str, said: str, end: str) -> None:
    file = lines(tmp_path, result())
    if not line and not end:
        end = "\n"  # one newline is the end of the line before
    with file.open("a") as record:
        record.write(line + end)
    with pytest.raises(DataError) as caught:
        find_results(tmp_path)
    assert str(caught.value).startswith(f"{file}, line 2, {said}")


def test_a_record_that_leads_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    lines(tmp_path, result(split="../.."))
    with pytest.raises(DataError, match=r"'\.\./\.\.'.*no path below"):
        find_results(tmp_path)


def test_an_emptied_file_of_records_is_refused(tmp_path: Path) -> None:
    records_file(tmp_path, "tinyset").touch()
    with pytest.raises(DataError, match=r"tinyset\.jsonl, line 1, is torn"):
        find_results(tmp_path)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("bench run --data-root /home/me/data --seed 1", "bench run --data-root data --seed 1"),
        ("bench run --out '/home/my runs/'", "bench run --out 'my runs'"),
        ("bench run --out ../../me/runs --config ./a/b.yaml", "bench run --out runs --config b.yaml"),
        ("bench run --out ~me/x --config file:///tmp/y.yaml", "bench run --out x --config y.yaml"),
        ("run --set data={root:\\ /mnt/a,\\ more:\\ [/mnt/b]}", "run --set 'data={root: a, more: [b]}'"),
        ("run --set protocol.encoder=timm/resnet18 1/16", "run --set protocol.encoder=timm/resnet18 1/16"),
        ("run 'no end", ""),
    ],
)
def test_a_command_is_kept_without_the_places_of_a_machine(said: str, kept: str) -> None:
    assert without_folders(said) == kept and without_folders(kept) == kept


def test_who_holds_a_folder_is_named(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert folder.holder() is None
    with folder.claimed():
        assert folder.holder() == f"process {os.getpid()} on {socket.gethostname()}"
    assert folder.holder() is None, "the name that is left says nothing"
    (tmp_path / "run" / ".lock").unlink()
    (tmp_path / "run" / ".lock").mkdir()  # what cannot be opened says nothing either
    assert folder.holder() is None


def test_a_look_at_a_folder_refuses_nobody(tmp_path: Path) -> None:
    """A look holds the lock for a moment; who claims the folder in that moment tries again."""
    folder = RunFolder(tmp_path / "run")
    with folder.claimed():
        pass
    with open(tmp_path / "run" / ".lock") as look, ThreadPoolExecutor(1) as pool:
        fcntl.flock(look, fcntl.LOCK_SH)
        pool.submit(lambda: (time.sleep(0.07), fcntl.flock(look, fcntl.LOCK_UN)))
        with folder.claimed():
            pass
