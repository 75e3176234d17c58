"""Records that hold the digest of their own content, and files whose digests a result holds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import pipeline
from bench.display import Display
from bench.errors import BenchError, ConfigError, DataError
from bench.plan import plan
from bench.records.folders import RunFolder
from bench.records.index import read_records, write_records
from bench.records.logs import read_counts, read_metrics
from bench.records.schema import Contents, Listing, Point, Result, Score
from bench.records.sealed import parse_record
from bench.settings.schema import RunConfig

Config = Callable[..., RunConfig]
shares = st.floats(0, 1)


def result(**changes: Any) -> Result:
    score = Score(miou=1 / 3, classes_averaged=2, iou=[1 / 3, None], pixel_accuracy=0.9)
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
        "images": {"pixel": 4, "eval": 4},
        "classes": ["a", "b"],
        "student": score,
        "predictor": score,
        "curve": [Point(step=6, miou=1 / 3)],
        "train_seconds": 0.1,
        "eval_seconds": 0.2,
        "peak_memory_mib": 3.5,
        "split_digests": {"pixel": "x"},
        "weights_digest": None,
        "config": {"seed": 0, "protocol": {"crop": [32, 32]}, "lr": 1e-07},
    }
    return Result(**{**fields, **changes})


# One record -------------------------------------------------------------------------------------------------


@given(shares, shares, st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False)))
def test_what_is_sealed_reads_back(miou: float, accuracy: float, config: dict[str, float]) -> None:
    score = Score(miou=miou, classes_averaged=2, iou=[miou, None], pixel_accuracy=accuracy)
    one = result(student=score, predictor=score, config={"knobs": config})
    assert parse_record(Result, one.to_bytes(), "result.json", "") == one
    assert one.sealed().sealed() == one.sealed() and one.sealed().digest == one.content_digest()


@given(st.data())
def test_a_byte_that_changes_what_is_said_is_noticed(data: st.DataObject) -> None:
    one = result()
    whole = one.to_bytes()
    place, byte = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 255))
    damaged = whole[:place] + bytes([byte]) + whole[place + 1 :]
    with suppress(DataError):
        assert parse_record(Result, damaged, "runs/0/result.json", "move it away.") == one


def test_a_digit_and_an_edit_are_a_sentence() -> None:
    whole = result().to_bytes()
    for old, new in ((b'"seed": 0', b'"seed": 1'), (b"0.9", b"0.8"), (b"0.333", b"0.433")):
        assert old in whole
        with pytest.raises(DataError, match=r"^f is not as it was written: it was damaged or edited"):
            parse_record(Result, whole.replace(old, new), "f", "")
    laid_out = json.dumps(json.loads(whole)).encode()
    assert parse_record(Result, laid_out, "f", "") == result(), "layout says nothing"


def test_a_record_of_before_is_read_and_keeps_its_bytes(tmp_path: Path) -> None:
    line = result().model_dump_json()
    assert not {"digest", "files", "contents"} & json.loads(line).keys()
    (tmp_path / "tinyset.jsonl").write_text(f"{line}\n")
    (read,) = read_records(tmp_path).values()
    write_records(tmp_path / "again.jsonl", [read])
    assert (tmp_path / "again.jsonl").read_text() == f"{line}\n"


def test_a_line_of_a_record_keeps_its_seal(tmp_path: Path) -> None:
    file = tmp_path / "tinyset.jsonl"
    write_records(file, [result().sealed()])
    assert list(read_records(tmp_path).values()) == [result()]
    file.write_text(file.read_text().replace('"seed":0', '"seed":3', 1))
    with pytest.raises(
        DataError, match=r"tinyset.jsonl, line 1, is not as it was written: .*as it was commit"
    ):
        read_records(tmp_path)


def test_a_damaged_listing_is_said_and_none_is_none(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.read_listing() is None
    contents = Contents(code={}, images="1", masks="2", scored="3", classes="4")
    folder.write_listing(Listing(contents=contents))
    assert folder.read_listing() == Listing(contents=contents)
    folder.contents.write_bytes(folder.contents.read_bytes().replace(b'"2"', b'"5"'))
    with pytest.raises(DataError, match=r"contents.json is not as it was written: .* remove it"):
        folder.read_listing()


# The files of a run -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def finished(tiny_config: Config, kept: Path, tmp_path: Path) -> tuple[RunConfig, RunFolder]:
    """A finished run of its own for each test, trained once."""
    once = tiny_config("supervised", f"machine.out={kept}")
    pipeline.run(plan(once), Display())
    config = tiny_config("supervised", f"machine.out={tmp_path}/runs")
    shutil.copytree(plan(once).folder.path, plan(config).folder.path)
    return config, plan(config).folder


def damaged_counts(folder: RunFolder) -> None:
    """Other numbers in a file that is whole."""
    counts = {name: array for name, array in read_counts(folder.counts).items() if name != "ids"}
    first = next(iter(counts.values()))
    first[0, 0, 0] += 1
    folder.write_counts(np.load(folder.counts)["ids"].tolist(), counts)


def damaged_digit(path: Path) -> None:
    text = path.read_text()
    place = next(n for n in range(len(text) - 1, 0, -1) if text[n].isdecimal())
    path.write_text(text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :])


DAMAGES: dict[str, Callable[[RunFolder], None]] = {
    "counts.npz": damaged_counts,
    "metrics.jsonl": lambda folder: damaged_digit(folder.metrics),
    "result.json": lambda folder: damaged_digit(folder.result),
    "contents.json": lambda folder: damaged_digit(folder.contents),
    "provenance.json": lambda folder: damaged_digit(folder.provenance),
    "config.yaml": lambda folder: folder.config.write_text(folder.config.read_text() + "# mine\n"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_finished_run_with_a_damaged_file_is_not_done(
    name: str, finished: tuple[RunConfig, RunFolder]
) -> None:
    config, folder = finished
    pipeline.run(plan(config), Display())
    DAMAGES[name](folder)
    for refuse in (pipeline.check, lambda planned: pipeline.run(planned, Display())):
        with pytest.raises(BenchError, match=name.replace(".", r"\.")):
            refuse(plan(config))
    pipeline.run(plan(config), Display(), overwrite=True)
    pipeline.run(plan(config), Display())


def test_readers_take_the_digest_of_the_run(finished: tuple[RunConfig, RunFolder]) -> None:
    _, folder = finished
    done = folder.read_result()
    assert done is not None and set(done.files or {}) == set(DAMAGES) - {"result.json", "contents.json"}
    folder.refuse_altered(done)
    readers: dict[str, Callable[[], object]] = {
        "counts.npz": lambda: read_counts(folder.counts, done.file_digest(folder.counts)),
        "metrics.jsonl": lambda: read_metrics(folder.metrics, done.file_digest(folder.metrics)),
        "provenance.json": lambda: folder.read_starts(done.file_digest(folder.provenance)),
    }
    for name, read in readers.items():
        read()
        DAMAGES[name](folder)
        with pytest.raises(DataError, match=rf"{name} is not as its run has written it"):
            read()
        assert name in folder.altered(done)


def test_what_is_removed_is_not_altered(finished: tuple[RunConfig, RunFolder]) -> None:
    config, folder = finished
    for path in (folder.counts, folder.metrics, folder.weights, folder.contents):
        path.unlink()
    pipeline.run(plan(config), Display())


def test_a_record_has_the_same_provenance_without_its_folders(
    finished: tuple[RunConfig, RunFolder], tmp_path: Path
) -> None:
    _, folder = finished
    done = folder.read_result()
    assert done is not None
    record = RunFolder(tmp_path / "record")
    folder.copy_record(record)
    assert not record.altered(done) and record.read_starts(done.file_digest(record.provenance))
    damaged_digit(record.metrics)
    assert record.altered(done) == ["metrics.jsonl"]


def test_an_edited_configuration_of_a_finished_run_is_named(finished: tuple[RunConfig, RunFolder]) -> None:
    config, folder = finished
    DAMAGES["config.yaml"](folder)
    with pytest.raises(ConfigError, match=r"changed since: its own config\.yaml; start it again"):
        pipeline.run(plan(config), Display())
