"""`--json`: one document on stdout with stable keys, and nothing else there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from commandline import Typed

from bench.commands.options import print_json
from bench.settings.schema import RunConfig

Read = Callable[..., Any]


@pytest.fixture
def read(typed: Typed) -> Read:
    """read("list", code=0): the document of `bench list --json`."""

    def call(*arguments: object, code: int = 0) -> Any:
        said = typed(*arguments, "--json")
        assert said.code == code, said.err
        return json.loads(said.out) if code in (0, 5) else said

    return call


@pytest.fixture
def settings(tiny_config: Callable[..., RunConfig], tmp_path: Path) -> Path:
    file = tmp_path / "run.yaml"
    file.write_text(tiny_config("supervised").to_yaml())
    return file


def test_a_run_prints_its_result_and_where_it_lies(read: Read, settings: Path) -> None:
    dry = read("run", "--config", settings, "--dry-run")
    assert set(dry) >= {"folder", "run_id", "protocol_hash", "steps", "images", "config"}
    assert dry["images"] == {"pixel": 4, "tags": 0, "none": 12, "eval": 4} and dry["steps"] == 6
    assert dry["config"] == {**yaml.safe_load(settings.read_text()), "cam_seeds": None}
    assert not Path(dry["folder"]).exists()
    found = read("run", "--config", settings)
    assert found.pop("folder") == dry["folder"] and found["run_id"] == dry["run_id"]
    assert found == json.loads((Path(dry["folder"]) / "result.json").read_text())
    assert read("run", "--config", settings)["run_id"] == dry["run_id"], "done already"


def test_list_names_what_there_is(read: Read, tiny_root: Path) -> None:
    found = read("list", "--data-root", tiny_root)
    assert set(found) == {"methods", "datasets", "sweeps", "protocols"}
    (fixmatch,) = [method for method in found["methods"] if method["name"] == "fixmatch"]
    assert fixmatch["needs"] == ["none", "pixel"] and fixmatch["summary"].startswith("FixMatch")
    assert fixmatch["broken"] is None
    (tiny,) = [one for one in found["datasets"] if one["name"] == "tinyset"]
    splits = ["few", "few+tags", "full", "tags"]
    assert tiny == {"name": "tinyset", "splits": splits, "draws": [0], "heldout": 0, "protocol": "folder"}
    (shapes,) = [one for one in found["datasets"] if one["name"] == "shapes"]
    assert (shapes["draws"], shapes["heldout"]) == (list(range(10)), 200)
    assert "camvid" in found["protocols"]
    assert {"name", "method", "title"} == set(found["sweeps"][0])
    assert read("sweep", "--list")["sweeps"] == found["sweeps"]


def test_show_tells_methods_protocols_and_runs_apart(read: Read, settings: Path) -> None:
    method = read("show", "fixmatch")
    assert method["kind"] == "method" and method["version"] == 1
    (knob,) = [knob for knob in method["knobs"] if knob["name"] == "threshold"]
    assert set(knob) >= {"name", "type", "default", "description"} and knob["default"] == 0.95
    protocol = read("show", "camvid")
    assert protocol["kind"] == "protocol" and protocol["settings"]["name"] == "camvid"
    folder = read("run", "--config", settings)["folder"]
    sheet = read("show", folder, "--images", 1)
    assert sheet == {"kind": "run", "folder": folder, "sheet": f"{folder}/sheet.png"}
    assert Path(sheet["sheet"]).exists()


def test_doctor_says_whether_it_is_fit_and_why_not(read: Read, tmp_path: Path) -> None:
    found = read("doctor", "--out", tmp_path)
    assert found["fit"] is True and {"name", "state", "detail", "fix"} == set(found["checks"][0])
    unfit = read("doctor", "--out", tmp_path, "--data-root", tmp_path / "nowhere", code=5)
    assert unfit["fit"] is False
    assert [check["name"] for check in unfit["checks"] if check["state"] == "fail"] == ["data"]


def test_a_sweep_says_how_its_runs_stand(read: Read, settings: Path) -> None:
    grid = ("sweep", "--config", settings, "--method", "supervised,fixmatch", "--split", "few,full")
    read("run", "--config", settings)
    found = read(*grid, "--status")
    assert [(run["state"], run["miou"] is None) for run in found["runs"]] == [
        ("done", False),
        ("to do", True),
        ("to do", True),
    ]
    assert {"state", "label", "said", "queued", "folder", "run_id", "miou"} == set(found["runs"][0])
    (refused,) = found["refused"]
    assert "fixmatch on tinyset full" in refused["label"] and "needs unlabeled images" in refused["reason"]
    (table,) = found["tables"]
    (row,) = table["rows"]
    assert row["method"] == "supervised" and row["n"] == 1 and row["spread_percent"] is None
    assert row["mean_percent"] == pytest.approx(100 * found["runs"][0]["miou"])
    dry = json.loads(read(*grid, "--dry-run", code=2).out)
    assert dry["tables"] == [] and dry["refused"] == found["refused"]
    assert "--json says how" in read(*grid, code=2).err


@pytest.mark.slow
def test_a_report_prints_its_tables_and_files(read: Read, settings: Path, tmp_path: Path) -> None:
    read("run", "--config", settings)
    found = read("report", tmp_path / "runs", "--out", tmp_path / "out")
    assert set(found) == {"page", "files", "warnings", "answers", "tables"}
    (answer,) = found["answers"]
    assert answer["answer"] == "unknown" and answer["sentence"].startswith("Not known: ")
    assert Path(found["page"]).name == "index.html" and all(Path(file).exists() for file in found["files"])
    assert any("three seeds" in warning for warning in found["warnings"])
    assert found["tables"][0]["name"] == "miou" and found["tables"][0]["rows"][0]["method"] == "supervised"


def test_an_error_leaves_stdout_empty(read: Read, tmp_path: Path) -> None:
    said = read("report", tmp_path / "nowhere", code=3)
    assert said.out == "" and "error: " in said.err


def test_what_is_no_number_is_null_and_all_is_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": [float("nan"), (float("-inf"), 1.5)], "ü": True})
    text = capsys.readouterr().out
    assert text.isascii() and json.loads(text) == {"a": [None, [None, 1.5]], "ü": True}
