import csv
import io
import json
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grouping import grouped
from PIL import Image

from bench.errors import ConfigError, DataError
from bench.records.folders import RunFolder
from bench.records.schema import Result, Score
from reports.groups import Group, told_apart
from reports.plots import figure
from reports.report import Report, write_report
from reports.sheets.sheet import Sheet

ROOT = Path(__file__).resolve().parents[2]


def titles(groups: list[Group]) -> list[str]:
    return told_apart([f"{group.title}, {group.steps} steps" for group in groups], groups)


def differences(report: Report) -> list[Sheet]:
    return [sheet for sheet in report.sheets if sheet.name == "differences"]


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
    assert len(report.groups) == 1
    assert {path.name for path in report.paths} == {path.name for path in out.iterdir()}
    assert {path.suffix for path in report.paths} == {".html", ".md", ".csv", ".tex", ".bib", ".png", ".svg"}
    assert report.paths[0] == out / "index.html"

    text = (out / "report.md").read_text()
    headings = [line for line in text.splitlines() if line.startswith("#")]
    wanted = [
        "# FrugalSeg: results",
        "## Answers",
        "### camvid, 1_8 (46)",
        "### camvid, full (367)",
        "## You have, take",
        "## All answers",
        "## camvid, protocol camvid_small, 100 steps",
        "### What was compared",
        "### mIoU",
        "### Differences to supervised",
        "### Student, predictor and oracle",
        "### Annotation",
        "### Classes",
        "### Cost",
        "### Learning curves",
        "### Protocol",
        "## How to read",
        "## Warnings",
        "## Citation",
        "## Runs",
    ]
    assert headings == wanted
    sections = {name.splitlines()[0]: name for name in text.split("### ")[1:]}
    assert "41.0 ± 1.4 (2)" in sections["mIoU"] and "missing" in sections["mIoU"]
    assert "28.3 to 53.7" in sections["mIoU"]
    differences = sections["Differences to supervised"]
    assert re.search(r"\| fixmatch *\| full \(367\) *\| missing", differences) and "one draw" in differences
    modules = sections["Student, predictor and oracle"]
    assert "| 40.0 ± 1.4 (2) | 41.0 ± 1.4 (2) |  | 44.0 ± 0.0 (2)      |" in modules
    assert "chosen on the scored list, paper protocol" in modules
    assert "44.0" not in text.replace(modules, "")
    assert re.search(r"supervised *\| 1_8 \(46\) *\| 2 *\| 0\.5 *\| 512", sections["Cost"])
    for file in [*out.glob("*.tex"), *out.glob("*.csv"), *out.glob("*.png")]:
        assert f"]({file.name})" in text

    lines = list(csv.DictReader((out / "runs.csv").open()))
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
    assert sorted(group.rows[0].cells[0].mean for group in report.groups if group.rows[0].cells[0]) == [
        0.4,
        0.5,
        0.6,
    ]
    assert len(list((tmp_path / "out").glob("labels-*.png"))) == 3


def test_several_roots_are_one_report(make: Any, tmp_path: Path) -> None:
    store(tmp_path / "a", make(0.4))
    store(tmp_path / "b", make(0.5, seed=1), make(0.4))
    (group,) = write_report([tmp_path / "a", tmp_path / "b"], tmp_path / "out").groups
    assert group.rows[0].cells[0] is not None and group.rows[0].cells[0].n == 2


def test_hostile_names_cannot_leave_the_folder_or_inject(make: Any, tmp_path: Path) -> None:
    names = {"dataset": "../../evil<b>", "method": "=cmd|x", "split": "[bold]a|b", "protocol": "p\n# q"}
    store(tmp_path / "runs", make(0.4, **names))
    RunFolder(tmp_path / "runs" / "0").metrics.write_text('{"step": 9, "reliable_share": 0.8}\n')
    report = write_report([tmp_path / "runs"], tmp_path / "deep" / "out")
    assert all(path.parent == tmp_path / "deep" / "out" and path.exists() for path in report.paths)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "runs"]
    text = (tmp_path / "deep" / "out" / "report.md").read_text()
    assert "<b>" not in text.replace("\\<", "") and "\n# q" not in text
    assert "health of =cmd\\|x on \\[bold\\]a\\|b (46), class by class" in text
    (line,) = csv.DictReader((tmp_path / "deep" / "out" / "runs.csv").open())
    assert line["method"].startswith("'=")


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figure, "render", lambda drawn: {"png": b"", "svg": b""})


@pytest.mark.usefixtures("no_plots")
def test_what_is_wrong_with_records_is_said_and_passed_over(make: Any, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    counts = np.zeros((2, 3, 3), int)
    counts[:, :2, :2] = [[[3, 1], [2, 4]], [[5, 0], [1, 2]]]  # IoU 8 / 12 and 6 / 10; class 2 is nowhere
    right = Score(miou=(8 / 12 + 6 / 10) / 2, classes_averaged=2, iou=[8 / 12, 0.6, None], pixel_accuracy=0.8)
    clean, dirty = ({"git": {"commit": "c", "dirty": dirty}} for dirty in (False, True))
    for number, (method, seed) in enumerate(
        [("supervised", 0), ("supervised", 1), ("fixmatch", 0), ("u2pl", 0)]
    ):
        folder = RunFolder(runs / str(number))
        changes = {} if method == "u2pl" else {"predictor": right}
        folder.write_result(make(0.5, method=method, seed=seed, classes_averaged=2, **changes))
        folder.add_provenance(dirty if number == 2 else clean)
        if number != 1:
            folder.write_counts(["a", "b"], {"predictor": counts})
    RunFolder(runs / "0").metrics.write_text('{"step": 1}\n{"ste')
    (runs / "half").mkdir()
    RunFolder(runs / "half").config.write_text("seed: 0")
    report = write_report([runs], tmp_path / "out")
    assert report.warnings == [
        "counts of single images are damaged or of other weights, passed over: 3",
        "begun but not finished, passed over: half",
        "the last line of the log is torn and left out: 0",
        "made with changes that were not committed: 2",
        "4 of 4 runs are records of before digests of content: whether their code and data are those of the "
        "other runs is not known",
        "camvid, protocol camvid_small, 100 steps: no scored mask holds car: what is predicted as such "
        "counts against the other classes, and the mean is over these",
        "camvid, protocol camvid_small, 100 steps: fewer than three seeds: supervised on 1_8 (2), "
        "fixmatch on 1_8 (1), u2pl on 1_8 (1)",
    ]
    text = (tmp_path / "out" / "report.md").read_text()
    assert "- begun but not finished, passed over: half\n" in text
    RunFolder(runs / "0").counts.write_bytes(b"PK torn")
    assert "passed over: 0, 3" in "\n".join(write_report([runs], tmp_path / "out").warnings)


@pytest.mark.usefixtures("no_plots")
def test_damaged_files_beside_a_result_are_passed_over(make: Any, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    counts = np.array([[[3, 1], [2, 4]], [[5, 0], [1, 2]], [[3, 1], [2, 4]]])
    pooled = counts.sum(0)
    iou = [pooled[i, i] / (pooled[i].sum() + pooled[:, i].sum() - pooled[i, i]) for i in range(2)]
    score = Score(miou=sum(iou) / 2, classes_averaged=2, iou=iou, pixel_accuracy=0.8)
    settings = {"cam_seeds": {"refine": "crf"}, "method": {}}
    for number, (method, seed) in enumerate([("supervised", 0), ("supervised", 1), ("fixmatch", 0)]):
        folder = RunFolder.of(runs, "camvid", "1_8", method, seed, str(number))
        made = {"run_id": str(number), "classes": ["road", "sky"], "predictor": score}
        folder.write_result(make(0.5, method=method, seed=seed, config=settings if number else {}, **made))
        ids = ["a", "b", "c"] if number < 2 else ["a", "b", "d"]
        folder.write_counts(ids, {"predictor": counts})
        folder.metrics.write_text('{"step": 1}\n' if number < 2 else "")
    supervised, other = (runs / "camvid" / "1_8" / "supervised" / name for name in ("0-0", "1-1"))
    RunFolder(supervised).metrics.write_text('{"step": 1\n{"step": 2}\n')
    RunFolder(supervised).scores.write_text("{")
    quality = other.parents[1] / "cam_seeds" / "1-abc" / "def" / "seeds.json"
    quality.parent.mkdir(parents=True)
    quality.write_text("{")
    said = write_report([runs], tmp_path / "out").warnings
    for words in [
        "logs that are damaged, passed over: camvid/1_8/supervised/0-0",
        "scores of other settings that are damaged, passed over: camvid/1_8/supervised/0-0",
        "what is said of its CAM seeds is damaged, passed over: camvid/1_8/supervised/1-1",
        "learned from CAM seeds of which nothing is said beside it: camvid/1_8/fixmatch/0-2",
    ]:
        assert words in said
    assert not any("torn" in words for words in said), "an empty log is none"


@pytest.mark.usefixtures("no_plots")
def test_runs_are_named_as_seen_from_the_folders_given(make: Any, tmp_path: Path) -> None:
    store(tmp_path / "a", make(0.4))
    store(tmp_path / "b", make(0.5, seed=1))
    said = "\n".join(write_report([tmp_path / "a", tmp_path / "b"], tmp_path / "out").warnings)
    assert "made from an unknown commit: a/0, b/0" in said
    said = "\n".join(write_report([tmp_path / "a" / "0"], tmp_path / "out").warnings)
    assert "made from an unknown commit: 0" in said


@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize("section", ["method", "protocol", "cam_seeds"])
def test_a_record_without_a_section_is_said_by_name(make: Any, tmp_path: Path, section: str) -> None:
    store(tmp_path / "runs", make(0.4))
    file = RunFolder(tmp_path / "runs" / "0").result
    record = json.loads(file.read_text())
    record["config"] = {section: None}
    del record["digest"]  # as if it had been written so
    file.write_text(json.dumps(record))
    if section == "cam_seeds":  # of a run that has none
        assert write_report([tmp_path / "runs"], tmp_path / "out").groups
    else:
        with pytest.raises(DataError, match=f"{file} is no Result .config"):
            write_report([tmp_path / "runs"], tmp_path / "out")


@pytest.mark.usefixtures("no_plots")
def test_the_baseline_is_chosen_by_name(make: Any, tmp_path: Path) -> None:
    runs, out = tmp_path / "runs", tmp_path / "out"
    store(runs, make(0.4, method="u2pl"), *(make(t, method="fixmatch", knobs={"t": t}) for t in (0.5, 0.6)))
    assert "No run of supervised is among these." in (write_report([runs], out).paths[0]).read_text()
    (sheet,) = differences(write_report([runs], out, "u2pl"))
    assert [line[2] for line in sheet.lines[1:]] == ["+20.0", "+10.0", "missing"]
    assert len(differences(write_report([runs], out, "fixmatch (t=0.5)"))) == 1
    with pytest.raises(ConfigError, match=r"one of its rows: 'fixmatch \(t=0.6\)'"):
        write_report([runs], out, "fixmatch")
    with pytest.raises(ConfigError, match="did you mean 'u2pl'"):
        write_report([runs], out, "u2p")


@pytest.mark.usefixtures("no_plots")
def test_groups_are_said_to_be_apart(make: Any, tmp_path: Path) -> None:
    store(tmp_path / "runs", make(0.4), make(0.5, protocol_hash="1" * 16, method="fixmatch"))
    report = write_report([tmp_path / "runs"], tmp_path / "out")
    assert any("2 groups" in warning for warning in report.warnings) and not differences(report)
    names = {path.name for path in report.paths}
    assert {"cost-camvid-abcdef01.tex", "cost-camvid-11111111.csv"} <= names


def test_lists_of_one_name_are_said_to_differ(make: Any, tmp_path: Path) -> None:
    store(tmp_path / "runs", make(0.4), make(0.5, pixel_digest="0" * 64, method="fixmatch"))
    (warning,) = [w for w in write_report([tmp_path / "runs"], tmp_path / "out").warnings if "1_8;" in w]
    assert warning.startswith("camvid: 2 splits of different lists go by the name 1_8; each has a column")


@pytest.mark.slow
def test_many_cells_have_no_health_of_every_class(make: Any, tmp_path: Path) -> None:
    for count, pictures in ((6, 6), (7, 0)):
        runs, out = tmp_path / f"runs{count}", tmp_path / f"out{count}"
        for number in range(count):
            folder = RunFolder(runs / str(number))
            folder.write_result(make(0.4, method=f"m{number}"))
            folder.metrics.write_text(
                '{"step": 10, "reliable_share": 0.8}\n{"step": 20, "reliable_share": 0.9}\n'
            )
        write_report([runs], out)
        assert len(list(out.glob("health-camvid-*.png"))) == pictures
        assert ("give `report` the folder of fewer runs" in (out / "index.html").read_text()) == (count == 7)


@pytest.mark.usefixtures("no_plots")
def test_groups_that_share_a_name_are_told_apart_by_what_differs(make: Any, tmp_path: Path) -> None:
    groups = [[make(0.4)], [make(0.5, weights_digest=None)], [make(0.5, dataset="other")]]
    first = "camvid, protocol camvid_small, 100 steps"
    assert titles([grouped(group) for group in groups]) == [
        f"{first}, weights ffffffff",
        f"{first}, weights none",
        "other, protocol camvid_small, 100 steps",
    ]
    more = [grouped([make(0.4)]), grouped([make(0.4, classes=["a", "b", "c"], eval_digest="d" * 64)])]
    assert len(set(titles(more))) == 2 and all("list" in t and "classes" in t for t in titles(more))
    store(tmp_path / "runs", *(run for group in groups for run in group))
    said = write_report([tmp_path / "runs"], tmp_path / "out").warnings
    assert len(set(said)) == len(said) and len({w.split(":")[0] for w in said if "three seeds" in w}) == 3


@pytest.mark.usefixtures("no_plots")
def test_files_of_an_earlier_report_are_named_and_left_alone(make: Any, tmp_path: Path) -> None:
    runs, out = tmp_path / "runs", tmp_path / "out"
    store(runs, make(0.4))
    (out).mkdir()
    (out / "mine.txt").write_text("mine")
    (warning,) = [w for w in write_report([runs], out).warnings if "lay there before" in w]
    assert warning.endswith("not of this report: mine.txt") and (out / "mine.txt").read_text() == "mine"


def bomb() -> bytes:
    """A PNG of 60000 x 60000 pixels, by its header."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


def saved(size: int, kind: str) -> bytes:
    """A black picture of size x size pixels."""
    Image.new("1", (size, size)).save(data := io.BytesIO(), kind)
    return data.getvalue()


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"


@pytest.mark.usefixtures("no_plots")
def test_sheets_that_are_no_pictures_are_passed_over(make: Any, tmp_path: Path) -> None:
    """Each is named, so that one that is read after all is seen."""
    Image.effect_noise((300, 300), 50).save(noise := io.BytesIO(), "PNG")
    torn = noise.getvalue()[:-9000]
    sheets = [b"", b"text", bomb(), EPS, saved(9, "GIF"), saved(7_100, "PNG"), torn]
    store(tmp_path / "runs", *(make(0.4, seed=seed) for seed in range(len(sheets))))
    for number, data in enumerate(sheets):
        RunFolder(tmp_path / "runs" / str(number)).sheet.write_bytes(data)
    report = write_report([tmp_path / "runs"], tmp_path / "out")
    (said,) = [warning for warning in report.warnings if warning.startswith("picture sheets that cannot")]
    assert said == "picture sheets that cannot be read, passed over: 0, 1, 2, 3, 4, 5, 6"
    assert not [path for path in report.paths if path.suffix == ".jpg"]


def test_no_runs_is_an_error_that_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"no finished runs under {tmp_path}"):
        write_report([tmp_path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_reports_never_import_torch() -> None:
    code = "import reports.report, sys; print('torch' in sys.modules, 'matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
