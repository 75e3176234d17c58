"""The command line: what it prints, and that bad input gets a sentence and an exit code and loses nothing."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
from commandline import Outcome, Typed
from PIL import Image
from rich.console import Console

from bench import __version__, cli
from bench.settings.plain_yaml import read_yaml
from bench.settings.schema import RunConfig
from datasets.ids import digest
from datasets.splits import Split

CHECKOUT = Path(__file__).resolve().parents[3]
Config = Callable[..., RunConfig]


@pytest.fixture
def own_root(tiny_root: Path, tmp_path: Path) -> Path:
    """A copy of the tiny data root, to be damaged."""
    root = tmp_path / "data"
    shutil.copytree(tiny_root, root)
    return root


@pytest.fixture
def run(typed: Typed, tiny_config: Config, tmp_path: Path) -> Typed:
    """run("fixmatch", "--seed", 1): `bench run` on the tiny set, settings from a file."""

    def call(method: str, *arguments: object) -> Outcome:
        file = tmp_path / f"{method}.yaml"
        file.write_text(tiny_config(method).to_yaml())
        return typed("run", "--config", file, *arguments)

    return call


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def restate(root: Path, name: str, **lists: list[str]) -> None:
    """Change the lists of a split together with its manifest, as its maker would."""
    folder = root / "tinyset" / "splits" / name
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    for kind, ids in lists.items():
        (folder / f"{kind}.txt").write_text("".join(f"{id}\n" for id in ids))
        manifest["digests"][kind] = digest(ids)
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))


# A run


def test_a_run_prints_the_table_and_where_its_records_are(run: Typed, tmp_path: Path) -> None:
    done = run("fixmatch")
    assert done.code == 0, done.err
    assert "fixmatch on tinyset few, seed 0: 6 steps" in " ".join(done.out.split())
    for row in ("background", "square", "stripe", "mIoU over 3 classes", "pixel accuracy"):
        assert re.search(rf"{row}\W+\d+\.\d", done.out), done.out
    records = Path(re.search(r"records: (.*)", done.out)[1])  # type: ignore[index]
    result = json.loads((records / "result.json").read_text())
    assert f"{100 * result['predictor']['miou']:.1f}" in done.out
    assert "train fixmatch 6/6" in done.err and "loss" in done.err
    assert "\x1b" not in done.out + done.err, "no colours off a terminal"

    before = tree(tmp_path)
    again = run("fixmatch")
    assert again.code == 0 and "already done" in again.err and "mIoU over 3 classes" in again.out
    assert tree(tmp_path) == before


def test_a_hostile_class_name_is_printed_as_it_is(run: Typed, own_root: Path) -> None:
    names = ["background", "[bold]square[/bold]", "[/]"]
    (own_root / "tinyset" / "classes.txt").write_text("\n".join(names) + "\n")
    done = run("supervised", "--data-root", own_root)
    assert done.code == 0, done.err
    assert all(name in done.out for name in names)


@pytest.mark.parametrize(("columns", "widest"), [(None, 160), pytest.param("60", 60, marks=pytest.mark.slow)])
def test_a_pipe_gives_a_table_its_room(columns: str | None, widest: int) -> None:
    """Unless COLUMNS says how much that is."""
    environment = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    environment |= {"COLUMNS": columns} if columns else {}
    done = subprocess.run(
        [sys.executable, "-m", "bench", "list"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        cwd=CHECKOUT,
    )
    longest = max(map(len, done.stdout.splitlines()))
    assert longest <= widest and (longest > 80) == (widest > 80), done.stdout


def test_no_color_is_honoured_on_a_terminal(run: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    for environment, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        file = io.StringIO()
        monkeypatch.setattr(
            "bench.commands.run.out",
            Console(file=file, force_terminal=True, _environ={**environment, "TERM": "xterm"}, width=99),
        )
        assert run("supervised").code == 0
        assert "mIoU" in file.getvalue()
        assert bool(re.search(r"\x1b\[[0-9;]*3[0-9]m", file.getvalue())) <= coloured
    monkeypatch.setattr("bench.commands.run.out", Console(file=(file := io.StringIO()), _environ={}))
    assert run("supervised").code == 0
    assert "mIoU" in file.getvalue() and "\x1b" not in file.getvalue()


# Bad input


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--method", "fixmach"], 2, ["unknown method 'fixmach'; did you mean 'fixmatch'?"]),
        (["--split", "ful"], 2, ["no split 'ful'; did you mean 'full'?"]),
        (["--dataset", "tinyst"], 2, ["'tinyst' has no splits; did you mean 'tinyset'?"]),
        (["--protocol", "camvi"], 2, ["unknown protocol 'camvi'; did you mean 'camvid'?"]),
        (["--set", "protocol.step=3"], 2, ["did you mean 'protocol.steps'?"]),
        (["--set", "method.threshold=high"], 2, ["method.threshold", "'high'"]),
        (["--set", "protocol.steps=1.5"], 2, ["protocol.steps", "1.5"]),
        (["--set", "steps"], 2, ["write key=value"]),
        (["--precision", "fp64"], 2, ["protocol.precision"]),
        (["--device", "tpu"], 2, ["unknown device 'tpu'"]),
        (["--data-root", "/nowhere/at/all"], 2, ["'tinyset' has no splits", "/nowhere/at/all"]),
        (["--split", "full"], 2, ["method 'fixmatch' needs unlabeled images", "has none (it grants"]),
        (
            ["--set", "protocol.batch.labeled=5"],
            2,
            ["the labeled stream of split 'few' of 'tinyset' has 4 images", "=4"],
        ),
        (["--set", "protocol.batch.unlabeled=13"], 2, ["the unlabeled stream", "12 images", "=12"]),
        (["--set", "protocol.batch.unlabeled=1"], 2, ["protocol.batch.unlabeled=2"]),
        (["--set", "protocol.network.encoder=resnet999"], 2, ["resnet999"]),
        (["--set", "protocol.network.weights=/no/such.pth"], 3, ["no weights file /no/such.pth"]),
        (["--config", "/no/such.yaml"], 2, ["cannot read /no/such.yaml"]),
    ],
)
def test_bad_settings_get_a_sentence_and_write_nothing(
    run: Typed, tmp_path: Path, arguments: list[str], code: int, words: list[str]
) -> None:
    run("fixmatch", *arguments).refused(code, *words)
    assert not list(tmp_path.rglob("result.json")) and not list(tmp_path.rglob("checkpoint.pt"))


def test_a_mixed_batch_larger_than_its_masks_is_refused_before_the_run(run: Typed) -> None:
    mixed = ("--split", "few+tags", "--set", "protocol.batch.labeled=9", "--dry-run")
    run("supervised", *mixed).refused(2, "has 4 images with masks", "--set protocol.batch.labeled=8")


@pytest.mark.parametrize(
    "arguments", [["run", "--seed", "one"], ["run", "--sed", "1"], ["runn"], ["data", "verify"]]
)
def test_usage_errors_exit_with_2(typed: Typed, arguments: list[str]) -> None:
    outcome = typed(*arguments)
    assert outcome.code == 2 and "Traceback" not in outcome.err and outcome.err


def test_a_name_in_an_error_drives_no_terminal(typed: Typed, tmp_path: Path) -> None:
    outcome = typed("report", tmp_path / "\x1b[31mred\u202e", "--out", tmp_path / "out")
    outcome.refused(3, "\N{REPLACEMENT CHARACTER}[31mred")
    assert not {"\x1b", "\u202e"} & set(outcome.err)


def test_no_method_at_all_names_those_there_are(typed: Typed) -> None:
    typed("run", "--dataset", "camvid").refused(2, "which method?", "fixmatch")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def wider(path: Path) -> None:
    Image.new("L", (41, 40)).save(path)


def three(path: Path) -> None:
    Image.fromarray(np.full((40, 40), 3, np.uint8)).save(path)


DAMAGE: dict[str, tuple[str, Callable[[Path], None]]] = {
    "missing image": ("images", Path.unlink),
    "missing mask": ("labels", Path.unlink),
    "truncated image": ("images", cut),
    "empty image": ("images", lambda path: path.write_bytes(b"") and None),
    "text for an image": ("images", lambda path: path.write_text("hello") and None),
    "mask of another size": ("labels", wider),
    "class id out of range": ("labels", three),
}


QUICK = {("missing mask", "train"), ("truncated image", "test")}  # the slow tests try the others too


@pytest.mark.parametrize(
    ("case", "listing"),
    [
        pytest.param(case, listing, marks=[] if (case, listing) in QUICK else pytest.mark.slow)
        for case in DAMAGE
        for listing in ("train", "test")
    ],
)
def test_a_damaged_file_is_named_by_run_and_by_verify(
    run: Typed, typed: Typed, own_root: Path, case: str, listing: str
) -> None:
    part, harm = DAMAGE[case]
    name = {"train": "train_00", "test": "test_01"}[listing]  # the first scored image is tried before all
    path = own_root / "tinyset" / part / f"{name}.png"
    sound = path.read_bytes()
    harm(path)
    run("supervised", "--data-root", own_root).refused(3, name)
    found = typed("data", "verify", "--dataset", "tinyset", "--data-root", own_root)
    assert found.code == 3 and name in found.out and "1 problem in tinyset" in found.err
    path.write_bytes(sound)
    mended = run("supervised", "--data-root", own_root, "--resume")
    assert mended.code == 0, mended.err
    assert "resuming" not in mended.err, "it was found before any training"


def test_a_worker_reports_a_damaged_file_in_the_same_sentence(run: Typed, own_root: Path) -> None:
    (own_root / "tinyset" / "labels" / "train_00.png").unlink()
    outcome = run("supervised", "--data-root", own_root, "--workers", 1)
    outcome.refused(3, "train_00.png")
    assert outcome.err.count("\n") <= 2


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("splits/few/pixel.txt", ["pixel.txt does not exist"]),
        ("splits/few/MANIFEST.json", ["MANIFEST.json is not the manifest"]),
        ("splits/eval.txt", ["eval.txt does not exist"]),
        ("classes.txt", ["classes.txt"]),
    ],
)
def test_a_missing_list_is_named(run: Typed, own_root: Path, file: str, words: list[str]) -> None:
    (own_root / "tinyset" / file).unlink()
    outcome = run("supervised", "--data-root", own_root)
    outcome.refused(2 if file == "classes.txt" else 3, *words)


def test_an_edited_list_is_refused(run: Typed, own_root: Path) -> None:
    with open(own_root / "tinyset" / "splits" / "few" / "pixel.txt", "a") as file:
        file.write("train_09\n")
    run("supervised", "--data-root", own_root).refused(3, "pixel.txt has changed")


def test_empty_and_overlapping_splits_are_refused(run: Typed, own_root: Path) -> None:
    restate(own_root, "few", none=["train_00", "train_09"])
    run("fixmatch", "--data-root", own_root).refused(3, "'train_00'", "are one image")
    restate(own_root, "few", none=["test_00"])
    run("fixmatch", "--data-root", own_root).refused(3, "'test_00'", "a scored one to no other")
    restate(own_root, "few", pixel=[], none=[])
    run("supervised", "--data-root", own_root).refused(3, "all empty")


def test_a_run_folder_of_another_configuration_is_refused(run: Typed, tmp_path: Path) -> None:
    assert run("supervised").code == 0
    (folder,) = (tmp_path / "runs" / "tinyset" / "few" / "supervised").iterdir()
    (folder / "result.json").unlink()
    (folder / "checkpoint.pt").write_bytes(b"of an interrupted run")
    before = tree(folder)
    run("supervised").refused(2, "holds an interrupted run", "--resume")
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("seed: 0", "seed: 7"))
    run("supervised", "--resume").refused(2, "config.yaml is another configuration")
    (folder / "config.yaml").write_text(text)
    run("supervised", "--resume").refused(3, "checkpoint.pt is damaged")
    assert tree(folder) == before


def test_an_output_folder_that_cannot_be_written_is_a_sentence(run: Typed, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    run("supervised", "--out", tmp_path / "file").refused(2, str(tmp_path / "file"), "is no folder")


def test_debug_shows_the_traceback_wherever_it_stands(typed: Typed) -> None:
    for arguments in (["--debug", "show", "nonsense"], ["show", "nonsense", "--debug"]):
        outcome = typed(*arguments)
        assert outcome.code == 2 and "Traceback" in outcome.err and "error: unknown" in outcome.err


# Scoring again


@pytest.mark.slow
def test_score_prints_the_numbers_beside_the_raw_one_and_report_shows_them(
    run: Typed, typed: Typed, tmp_path: Path
) -> None:
    assert run("supervised").code == 0 and run("fixmatch").code == 0
    folders = sorted((tmp_path / "runs").glob("*/*/*/*"))
    how = ("--scales", "0.5,1", "--no-flip", "--crf", "none")
    done = typed("score", *folders, *how)
    assert done.code == 0, done.err
    said = " ".join(done.out.split())  # a title is as wide as its table
    assert "scales 0.5 1 without flip, no CRF" in said and "multi-scale" in said
    for folder in folders:
        raw = json.loads((folder / "result.json").read_text())["predictor"]["miou"]
        (entry,) = json.loads((folder / "scores.json").read_text())["entries"]
        numbers = rf"{100 * raw:.1f} \(1\)\W+{100 * entry['score']['miou']:.1f} \(1\)"
        assert re.search(rf"{folder.parent.name}\W+few \(4\)\W+{numbers}", done.out), done.out
    assert done.err.count("4/4") == 2

    again = typed("score", *folders, *how)
    assert again.code == 0 and again.err.count("already scored") == 2 and again.out == done.out
    shown = typed("report", tmp_path / "runs", "--out", tmp_path / "out")
    assert shown.code == 0 and "scales 0.5 1 without flip, no CRF" in " ".join(shown.out.split())
    assert run("supervised", "--overwrite").code == 0
    assert not next((tmp_path / "runs").glob("*/*/supervised/*/scores.json"), None), "of other weights"


def test_score_refuses_what_it_cannot_score(typed: Typed, tmp_path: Path) -> None:
    typed("score", tmp_path).refused(3, f"{tmp_path} holds no finished run", "--resume")
    typed("score", tmp_path, "--scales", "1,much").refused(2, "--scales 1,much", "as in 0.5,1")
    typed("score", tmp_path, "--scales", "1,,2").refused(2, "missing between two commas")
    typed("score", tmp_path, "--crf", "irm").refused(2, "unknown --crf 'irm'", "did you mean 'irn'?")
    assert list(tmp_path.iterdir()) == []


# Dry run and other places


def test_a_dry_run_prints_settings_that_give_the_same_run(run: Typed, typed: Typed, tmp_path: Path) -> None:
    first = run("fixmatch", "--dry-run", "--set", "protocol.steps=9")
    assert first.code == 0 and "# split few: 4 pixel, 0 tags, 12 none, 4 eval; 9 steps" in first.out
    assert not (tmp_path / "runs").exists()
    again = tmp_path / "again.yaml"
    again.write_text(first.out)
    assert read_yaml(again)["protocol"]["steps"] == 9
    assert typed("run", "--config", again, "--dry-run").out == first.out


def test_a_dry_run_of_a_sweep_needs_the_data_and_its_status_does_not(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BENCH_DATA", raising=False)
    grid = ("sweep", "--method", "supervised", "--dataset", "camvid", "--split", "1_8", "--out", tmp_path)
    typed(*grid, "--dry-run").refused(3, "needs a folder")
    assert typed(*grid, "--status").code == 0


def test_an_audit_is_a_flag_that_beats_the_file_and_makes_no_other_run(run: Typed, tmp_path: Path) -> None:
    plain, opened = run("fixmatch", "--dry-run"), run("fixmatch", "--dry-run", "--audit")
    assert "audit: false" in plain.out and "audit: true" in opened.out
    assert plain.out.splitlines()[-2:] == opened.out.splitlines()[-2:], "the same run id and folder"
    file = tmp_path / "opened.yaml"
    file.write_text(opened.out)
    assert "audit: true" in run("fixmatch", "--config", file, "--dry-run").out
    assert "audit: false" in run("fixmatch", "--config", file, "--no-audit", "--dry-run").out


@pytest.mark.slow
def test_a_dry_run_works_from_another_folder(tmp_path: Path) -> None:
    program = (
        "import sys; from bench.cli import main\n"
        "sys.argv = 'bench run --method fixmatch --dataset shapes --split 1/8 --dry-run'.split()\n"
        "main()"
    )
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    assert "split: '1_8'" in found.stdout and "# run " in found.stdout
    assert list(tmp_path.iterdir()) == []


def test_help_of_cam_seeds_needs_no_torch() -> None:
    program = (
        "import sys; sys.modules['torch'] = None; from bench.cli import main\n"
        "sys.argv = 'bench cam-seeds --help'.split()\n"
        "main()"
    )
    found = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert "From image tags to CAM seeds" in found.stdout and "--quality" in found.stdout


def test_another_package_of_the_name_datasets_is_met_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "__init__.py").write_text("raise SystemExit('imported the other one')")
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    found = subprocess.run(
        [sys.executable, "-c", "import bench"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert found.returncode == 1 and "imported the other one" not in found.stderr
    assert "ImportError: `import datasets` finds" in found.stderr and str(tmp_path) in found.stderr
    assert "Run from the checkout's root" in found.stderr


# CAM seeds


@pytest.fixture
def cam_seeds(typed: Typed, tiny_config: Config, tmp_path: Path) -> Typed:
    """cam_seeds("--quality"): `bench cam-seeds` on the tiny set, quickly."""

    def call(*arguments: object) -> Outcome:
        file = tmp_path / "weak.yaml"
        quick = ("cam_seeds.refine=par", "cam_seeds.scales=[1.0]", "cam_seeds.protocol.steps=2")
        file.write_text(tiny_config("supervised", *quick, split="tags").to_yaml())
        return typed("cam-seeds", "--config", file, *arguments)

    return call


@pytest.mark.slow
def test_cam_seeds_prints_how_they_were_made(cam_seeds: Typed, tmp_path: Path) -> None:
    done = cam_seeds()
    assert done.code == 0, done.err
    assert "CAM seeds of 16 images, refined by par" in done.out
    assert re.search(r"tags\W+28\W", done.out) and re.search(r"pixels decided\W+\d+\.\d %", done.out)
    assert "mIoU" not in done.out and not list(tmp_path.rglob("quality.json"))
    folder = Path(re.search(r"seeds: (.*)", done.out)[1])  # type: ignore[index]
    assert len(list(folder.rglob("*.png"))) == 16 == len(list((folder / "maps").iterdir()))

    measured = cam_seeds("--quality")
    assert measured.code == 0, measured.err
    assert re.search(r"mIoU, undecided counted as missed\W+\d+\.\d", measured.out)
    assert re.search(r"square: IoU, precision, recall\W+(\d+|-) (\d+|-) (\d+|-)", measured.out)
    before = tree(tmp_path)
    assert cam_seeds("--quality").out == measured.out
    assert tree(tmp_path) == before


@pytest.mark.slow
def test_cam_seeds_of_other_seeds_and_settings_lie_apart(cam_seeds: Typed) -> None:
    first, second, third = cam_seeds(), cam_seeds("--seed", 1), cam_seeds("--set", "cam_seeds.strict=0.5")
    assert {first.code, second.code, third.code} == {0}
    places = [re.search(r"seeds: (.*)", done.out)[1] for done in (first, second, third)]  # type: ignore[index]
    assert places[0] != places[1] and places[0] == places[2]
    assert len([path for path in Path(places[0]).iterdir() if path.is_dir() and path.name != "maps"]) == 2


def test_cam_seeds_need_tags(cam_seeds: Typed) -> None:
    cam_seeds("--split", "few").refused(2, "split 'few' grants no tags; choose one that does")
    cam_seeds("--split", "tagz").refused(2, "no split 'tagz'; did you mean 'tags'")
    cam_seeds("--set", "cam_seeds.strict=0.01").refused(2, "cam_seeds", "the wrong way round")
    cam_seeds("--set", "cam_seeds.refined=par").refused(2, "cam_seeds.refined", "did you mean")


def test_a_sentence_where_an_image_is_broken(cam_seeds: Typed, own_root: Path) -> None:
    path = own_root / "tinyset" / "images" / "train_02.png"
    path.write_bytes(b"garbage")
    cam_seeds("--data-root", own_root, "--set", "cam_seeds.protocol.batch.labeled=1").refused(
        3, "train_02.png"
    )


# The other commands


def test_list_names_methods_data_sets_and_protocols(typed: Typed, tiny_root: Path) -> None:
    found = typed("list", "--data-root", tiny_root)
    assert found.code == 0
    assert re.search(r"fixmatch\W+labeled \+ unlabeled\W+FixMatch for segmentation", found.out)
    assert re.search(r"camvid\W+.*1_8", found.out) and "protocols: adaptation_mitb5_512, camvid" in found.out


def test_list_names_the_folders_of_the_user(typed: Typed, tiny_root: Path) -> None:
    found = typed("list", "--data-root", tiny_root)
    assert re.search(r"tinyset\W+few few\+tags full tags\W+0\W+-\W+folder", found.out)


def test_show_a_method_prints_its_knobs_and_defaults(typed: Typed) -> None:
    found = typed("show", "fixmatch")
    assert found.code == 0 and "fixmatch (version 1), needs labeled + unlabeled" in found.out
    assert (
        re.search(r"threshold\W+0.95\W+number >= 0, <= 1\W+confidence", found.out)
        and "teacher of UniMatch V2" in found.out
    )


def test_show_a_protocol_prints_what_it_fixes(typed: Typed) -> None:
    found = typed("show", "camvid")
    assert found.code == 0 and "encoder: tf_efficientnet_lite0" in found.out and "name: camvid" in found.out


def test_show_nonsense_suggests(typed: Typed) -> None:
    typed("show", "nonsense").refused(2, "unknown method or protocol 'nonsense'", "fixmatch", "camvid")
    typed("show", "fixmatc").refused(2, "did you mean 'fixmatch'?")


@pytest.mark.slow
def test_show_a_run_writes_its_pictures(run: Typed, typed: Typed, tmp_path: Path) -> None:
    records = re.search(r"records: (.*)", run("supervised").out)[1]  # type: ignore[index]
    found = typed("show", records, "--images", 2)
    assert found.code == 0 and f"wrote {records}/sheet.png" in found.out, found
    assert typed("show", records, "--to", tmp_path / "my.png").code == 0
    assert Image.open(tmp_path / "my.png").height > Image.open(f"{records}/sheet.png").height  # 4 images
    typed("show", records, "--images", 33).refused(2, "1 to 32 images")
    typed("show", tmp_path / "runs").refused(3, "no finished run")
    typed("show", "supervised", "--images", 2).refused(3, "supervised holds no finished run")


def test_verify_stats_and_splits_of_a_sound_set(typed: Typed, tiny_root: Path) -> None:
    at = ("--dataset", "tinyset", "--data-root", tiny_root)
    assert "every image and mask of 4 splits is sound" in typed("data", "verify", *at).out
    found = typed("data", "stats", *at).out
    assert "4 images: 4 of 40x40" in found and "tinyset test" in found
    shares = [float(share) for share in re.findall(r"\d+ \W+ \w+ +\W +(\d+\.\d+)", found)]
    assert len(shares) == 4 and sum(shares) == pytest.approx(100, abs=0.05)
    found = typed("data", "splits", *at).out
    assert re.search(r"few\W+4\W+0\W+12\W+4", found) and re.search(r"full\W+16\W+0\W+0\W+4", found)


def test_stats_of_a_list_that_is_not_there(typed: Typed, tiny_root: Path) -> None:
    at = ("--dataset", "tinyset", "--data-root", tiny_root)
    typed("data", "stats", *at, "--list", "val").refused(3, "val.txt")


def test_verify_without_splits_does_not_call_the_set_sound(typed: Typed, own_root: Path) -> None:
    shutil.rmtree(own_root / "tinyset" / "splits")
    outcome = typed("data", "verify", "--dataset", "tinyset", "--data-root", own_root)
    outcome.refused(3, "no splits", "--make")
    assert "sound" not in outcome.out


def test_splits_are_made_for_a_folder_and_can_be_trained_on(typed: Typed, run: Typed, own_root: Path) -> None:
    shutil.rmtree(own_root / "tinyset" / "splits")
    at = ("--dataset", "tinyset", "--data-root", own_root)
    run("fixmatch", "--data-root", own_root, "--dry-run").refused(2, "data splits --make")
    made = typed("data", "splits", *at, "--make")
    assert made.code == 0 and re.search(r"1_4\W+4\W+0\W+12\W+4", made.out)
    first = tree(own_root / "tinyset" / "splits")
    assert typed("data", "splits", *at, "--make").code == 0
    assert tree(own_root / "tinyset" / "splits") == first, "the same lists again"
    assert run("fixmatch", "--data-root", own_root, "--split", "1/4", "--dry-run").code == 0


@pytest.mark.slow
def test_draws_and_a_held_out_list_are_made_and_said(typed: Typed, run: Typed, own_root: Path) -> None:
    folder = own_root / "tinyset"
    shutil.rmtree(folder / "splits")
    train = (folder / "train.txt").read_text().split()
    (folder / "train.txt").write_text("\n".join(train[:12]))
    (folder / "val.txt").write_text("\n".join(train[12:]))
    at = ("--dataset", "tinyset", "--data-root", own_root)
    typed("data", "splits", *at, "--draw", "1").refused(2, "--draw", "--make")
    typed("data", "splits", *at, "--make", "--draw", "2000").refused(2, "--draw 2000")
    made = typed("data", "splits", *at, "--make", "--draw", "1").out.splitlines()
    splits = "1_8, 1_4, 1_2, full, tags, 1_8+tags"
    assert made[0] == f"made: {splits}, draw 1" and "draws: 0-1" in made
    made = typed("data", "splits", *at, "--make", "--draw", "1-2").out
    assert made.startswith(f"made: draw 2\nthere already, and equal: {splits}, draw 1\n")
    assert "draws: 0-2" in made and "held out: 4 images" in made and "other content" not in made
    unused = "the 4 images of val.txt are held out: nothing learns from them, and only `--scored heldout`"
    assert unused in made
    assert "every image and mask of" in typed("data", "verify", *at).out
    of = ("fixmatch", "--data-root", own_root, "--split", "1_4", "--dry-run")
    said = run(*of, "--draw", "2", "--scored", "heldout").out
    assert (
        "split 1_4, draw 2: 3 pixel" in said and "scored on the held-out list" in said and "draw2-0-" in said
    )
    assert unused not in said and run(*of, "--draw", "2", "--scored", "val").out == said, "by its file's name"
    assert f"# {unused}" in run(*of).out
    run(*of, "--draw", "7").refused(2, "tinyset has no draw 7", "Known: 0, 1, 2", "--make --draw 7")
    run("fixmatch", "--data-root", own_root, "--split", "full", "--draw", "1").refused(
        2, "the same in every draw"
    )
    # A damaged mask that only the held-out list has is found.
    (folder / "labels" / f"{train[-1]}.png").write_bytes(b"poison")
    typed("data", "verify", *at).refused(3, "1 problem")
    for name in ("heldout.txt", "heldout.json"):
        (folder / "splits" / name).unlink()
    assert "# val.txt lies unused: `" in run(*of).out
    run(*of, "--scored", "heldout").refused(2, "tinyset has no held-out list", "--make")
    assert "held out: none" in typed("data", "splits", *at).out
    shutil.copy(folder / "labels" / f"{train[0]}.png", folder / "labels" / f"{train[-1]}.png")
    (folder / "train.txt").write_text("\n".join(train[:11]))
    made = typed("data", "splits", *at, "--make", "--draw", "1").out
    assert made.startswith(f"there already with other content, made anew: {splits}, draw 1; the lists, ")


def test_what_is_worth_a_look_is_said_before_splits_and_runs(
    typed: Typed, run: Typed, own_root: Path
) -> None:
    folder = own_root / "tinyset"
    (folder / "classes.txt").write_text("ground\nsquare\nstripe\nbg\n")
    at = ("--dataset", "tinyset", "--data-root", own_root)
    absent, name = "worth a look: 3 'bg' has no pixel in the ", "worth a look: 3 'bg' looks like background"
    # Tags may leave background out: it is another class now, and so are the tags.
    shutil.rmtree(folder / "splits")
    made = typed("data", "splits", *at, "--make").out
    found = typed("data", "verify", *at)
    for text in (made, found.out):
        assert (
            f"{absent}training masks of tinyset" in text and f"{absent}scored masks" in text and name in text
        )
    assert found.code == 0 and "tinyset: no class is the background" in found.out
    options = ("supervised", "--split", "full", "--data-root", own_root)
    dry, done = run(*options, "--dry-run"), run(*options)
    assert done.code == 0, done.err
    for text in (dry.out, done.err):
        assert f"{absent}masks that the split 'full' of tinyset grants" in text and name in text
    (folder / "dataset.yaml").write_text("background: ground\n")
    assert "the background is 0 'ground'" in typed("data", "verify", *at).out


@pytest.mark.parametrize(
    ("listing", "named"), [("train", "the split 'few' of tinyset grants"), ("test", "(test.txt)")]
)
def test_masks_without_a_label_are_refused(
    typed: Typed, run: Typed, own_root: Path, listing: str, named: str
) -> None:
    folder, at = own_root / "tinyset", ("--dataset", "tinyset", "--data-root", own_root)
    for path in (folder / "labels").glob(f"{listing}_*.png"):
        Image.new("L", (40, 40), 255).save(path)
    for more in ((), ("--dry-run",)):
        run("fixmatch", "--data-root", own_root, *more).refused(3, "holds a labeled pixel", named)
    found = typed("data", "verify", *at)
    assert found.code == 3 and "holds a labeled pixel" in found.out
    shutil.rmtree(folder / "splits")
    typed("data", "splits", *at, "--make").refused(3, "holds a labeled pixel", "of tinyset")
    assert not (folder / "splits").exists()


def test_a_batch_of_one_is_refused_for_a_network_that_pools(run: Typed) -> None:
    pools = ("--set", "protocol.network.decoder=deeplabv3plus", "--dry-run")
    one = ("--set", "protocol.batch.labeled=1")
    run("supervised", *pools, *one).refused(2, "the labeled batch is 1", "--set protocol.batch.labeled=2")
    assert run("supervised", *pools).code == 0
    big = ("--set", "protocol.crop=[48,48]", "--dry-run")
    assert run("supervised", *big, *one).code == 0, "a unet has more than one pixel left"


def test_a_list_of_another_project_is_imported(typed: Typed, own_root: Path, tmp_path: Path) -> None:
    listing = tmp_path / "labeled.txt"
    listing.write_text(
        "images/train_00.png labels/train_00.png\r\nimages/train_01.png labels/train_01.png\r\n"
    )
    at = ("--dataset", "tinyset", "--data-root", own_root, "--labeled", listing)
    typed("data", "splits", *at).refused(2, "--name NAME")
    done = typed("data", "splits", *at, "--name", "theirs")
    assert done.code == 0, done.err
    assert re.search(r"theirs\W+2\W+0\W+14\W+4", done.out) and "no list of a project we know" in done.out
    listing.write_text("train_00\nnobody\n")
    typed("data", "splits", *at, "--name", "other").refused(3, "'nobody'")


def test_splits_without_a_data_root_say_where_they_would_go(typed: Typed) -> None:
    typed("data", "splits", "--dataset", "camvid", "--make").refused(3, "--data-root")


def test_version(typed: Typed) -> None:
    assert typed("--version") == Outcome(0, f"{__version__}\n", "")


def commands() -> list[list[str]]:
    app = typer.main.get_command(cli.app)
    found: list[list[str]] = []
    for name, command in app.commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        found += [[name, one] for one in inner] if inner else [[name]]
    return found


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_the_help_of_every_command_has_an_example_that_parses(typed: Typed, command: list[str]) -> None:
    found = typed(*command, "--help")
    assert found.code == 0
    example = re.search(rf"Example: python -m bench ({' '.join(command)}.*)", found.out)
    assert example, found.out
    inner = typer.main.get_command(cli.app)
    for name in command:
        inner = inner.commands[name]  # type: ignore[attr-defined]
    inner.make_context("bench", example[1].split()[len(command) :])


def test_the_split_helper_of_these_tests_is_that_of_the_suite() -> None:
    """`restate` writes the digests that the reader expects."""
    assert Split("a", "b", ("x",), (), (), ("y",)).digests["pixel"] == digest(["x"])


def test_voc_is_fetched_where_it_is_missing_and_sbd_is_added(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datasets import voc

    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(
        voc, "download", lambda root: calls.append((root,)) or tmp_path / "VOCdevkit" / "VOC2012"
    )
    monkeypatch.setattr(voc, "convert_sbd", lambda sbd, folder: calls.append((sbd, folder)) or 7)
    done = typed("data", "voc", "--data-root", tmp_path, "--sbd", tmp_path / "sbd")
    folder = tmp_path / "VOCdevkit" / "VOC2012"
    assert calls == [(tmp_path,), (tmp_path / "sbd", folder)] and "7 masks" in done.out
    folder.mkdir(parents=True)
    calls.clear()
    assert typed("data", "voc", "--data-root", tmp_path).code == 0 and calls == []
    typed("data", "voc").refused(3, "--data-root")
