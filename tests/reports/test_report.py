import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.errors import DataError
from bench.store import Result, RunFolder
from reports.report import write_report

ROOT = Path(__file__).resolve().parents[2]


def store(root: Path, *results: Result) -> None:
    for number, result in enumerate(results):
        RunFolder(root / str(number)).write_result(result)


def test_report_has_tables_pictures_and_one_line_per_run(make: Any, tmp_path: Path) -> None:
    runs, out = tmp_path / "runs", tmp_path / "out"
    store(
        runs,
        make(0.40, curve=[0.44, 0.40], student=0.39),
        make(0.42, seed=1, curve=[0.44, 0.42], student=0.41),
        make(0.50, method="fixmatch", split="full", knobs={"threshold": 0.95}),
    )
    report = write_report([runs], out)
    assert [table.column for table in report.tables] == ["last"]
    assert {path.name for path in report.paths} == {path.name for path in out.iterdir()}
    assert {path.suffix for path in report.paths} == {".md", ".csv", ".png", ".svg"}

    text = (out / "report.md").read_text()
    headings = [line for line in text.splitlines() if line.startswith("#")]
    wanted = [
        "# Results",
        "## camvid, protocol camvid_small",
        "### mIoU",
        "### oracle",
        "### student",
        "### Cost",
    ]
    assert headings == wanted
    sections = text.split("###")
    assert "41.0 ± 1.4 (2)" in sections[1] and "missing" in sections[1]
    assert "44.0 ± 0.0 (2)" in sections[2] and "chosen on the scored list, paper protocol" in sections[2]
    assert "44.0" not in sections[1]
    assert "40.0 ± 1.4 (2)" in sections[3]
    assert "supervised: 0.5 s per step, 512 MiB peak (2 runs)" in sections[4]
    for picture in out.glob("*.png"):
        assert f"]({picture.name})" in text

    lines = list(csv.DictReader((out / "miou.csv").open()))
    assert [(line["method"], line["split"], line["seed"]) for line in lines] == [
        ("supervised", "1_8", "0"),
        ("supervised", "1_8", "1"),
        ("fixmatch", "full", "0"),
    ]
    found = [
        (line["miou_percent"], line["oracle_miou_percent"], line["student_miou_percent"]) for line in lines
    ]
    assert [tuple(map(float, f)) for f in found] == [
        pytest.approx(f) for f in [(40, 44, 39), (42, 44, 41), (50, 50, 50)]
    ]
    assert json.loads(lines[2]["knobs"]) == {"threshold": 0.95}
    assert lines[2]["pixel"] == "367" and lines[2]["eval"] == "233"


def test_groups_get_tables_and_files_of_their_own(make: Any, tmp_path: Path) -> None:
    # The last two share data set and protocol hash, so that their plots want one name.
    store(tmp_path / "runs", make(0.4, protocol_hash="1" * 16), make(0.5), make(0.6, eval_digest="d" * 64))
    report = write_report([tmp_path / "runs"], tmp_path / "out")
    assert sorted(table.rows[0].cells[0].mean for table in report.tables if table.rows[0].cells[0]) == [
        0.4,
        0.5,
        0.6,
    ]
    assert len(list((tmp_path / "out").glob("*.png"))) == 3


def test_several_roots_are_one_report(make: Any, tmp_path: Path) -> None:
    store(tmp_path / "a", make(0.4))
    store(tmp_path / "b", make(0.5, seed=1), make(0.4))
    (table,) = write_report([tmp_path / "a", tmp_path / "b"], tmp_path / "out").tables
    assert table.rows[0].cells[0] is not None and table.rows[0].cells[0].n == 2


def test_hostile_names_cannot_leave_the_folder_or_inject(make: Any, tmp_path: Path) -> None:
    names = {"dataset": "../../evil<b>", "method": "=cmd|x", "split": "[bold]a|b", "protocol": "p\n# q"}
    store(tmp_path / "runs", make(0.4, **names))
    report = write_report([tmp_path / "runs"], tmp_path / "deep" / "out")
    assert all(path.parent == tmp_path / "deep" / "out" and path.exists() for path in report.paths)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "runs"]
    text = (tmp_path / "deep" / "out" / "report.md").read_text()
    assert "<b>" not in text.replace("\\<", "") and "\n# q" not in text
    (line,) = csv.DictReader((tmp_path / "deep" / "out" / "miou.csv").open())
    assert line["method"].startswith("'=")


def test_no_runs_is_an_error_that_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"no finished runs under {tmp_path}"):
        write_report([tmp_path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_reports_never_import_torch() -> None:
    code = "import reports.report, sys; print('torch' in sys.modules, 'matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
