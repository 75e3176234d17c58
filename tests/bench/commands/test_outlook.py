"""What a run says before and after: where it writes, what CAM seeds cost; `resume` and `new-method`."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from commandline import Typed

from bench.cam_seeds.warnings import warnings
from bench.commands.new_method import template
from bench.outlook import duration, last_like, outlook, seed_outlook
from bench.plan import Plan, plan
from bench.records.schema import SeedReport
from bench.settings import registry
from bench.settings.resolve import resolve
from bench.settings.schema import RunConfig

CHECKOUT = Path(__file__).resolve().parents[3]
Config = Callable[..., RunConfig]
QUICK = ("cam_seeds.refine=par", "cam_seeds.scales=[1.0]", "cam_seeds.protocol.steps=2")


def saved(config: RunConfig, tmp_path: Path) -> Path:
    file = tmp_path / "given.yaml"
    file.write_text(config.to_yaml())
    return file


# Before a run


@pytest.mark.slow
def test_a_run_says_at_once_where_on_what_and_how_long(
    typed: Typed, tiny_config: Config, tmp_path: Path
) -> None:
    file = saved(tiny_config("supervised", "machine.device=cpu"), tmp_path)
    code, out, err = typed("run", "--config", file)
    assert code == 0, err
    folder = re.search(r"records: (.*)", out)[1]  # type: ignore[index]
    assert err.startswith(f"supervised: 6 steps on cpu, to {folder}; no such run is finished here")
    code, _, err = typed("run", "--config", file, "--seed", 1)
    assert re.match(
        r"supervised: 6 steps on cpu, to .*; the last supervised of this protocol .* \d+ s\n", err
    )
    assert "no such run" in typed("run", "--config", file, "--set", "protocol.steps=5")[2], "another protocol"
    assert "steps on cpu" not in typed("run", "--config", file)[2], "it is done"
    assert "steps on cpu" in typed("run", "--config", file, "--overwrite")[2]


def test_before_the_first_run_the_published_ones_say_how_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(method: str = "u2pl", *sets: str) -> str:
        settings = [*sets, f"machine.out={tmp_path}"]
        config = resolve({"dataset": "shapes", "split": "1_16", "method": {"name": method}}, None, settings)
        return outlook(plan(config), "cpu")[-1]

    about = r"; about (\d+) s, by the (\d+) published runs of its kind, on another machine"
    whole, half = (re.search(about, said("supervised", f"protocol.steps={n}")) for n in (800, 400))
    assert whole and half and whole[2] == half[2] and int(half[1]) == pytest.approx(int(whole[1]) / 2, abs=2)
    assert "no such run is finished here" in said("supervised", "protocol.crop=[32,32]")
    published = tmp_path / "published"
    published.mkdir()
    monkeypatch.setattr("bench.outlook.PUBLISHED", published)
    assert "no such run is finished here" in said(), "outside of a checkout"
    protocol = resolve({"dataset": "shapes", "method": {"name": "u2pl"}}, None, ()).protocol
    settings = {"protocol": protocol.model_dump(mode="json")}
    one = {"method": "u2pl", "config": settings, "steps": 3200, "train_seconds": 70, "eval_seconds": 9}
    lines = [one, one | {"method": "cps", "eval_seconds": 999}]
    (published / "shapes.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert said().endswith("; about 79 s, by the published run of its kind, on another machine")
    (published / "shapes.jsonl").write_text('{"method": "u2pl')
    assert "no such run is finished here" in said(), "a damaged file ends no run"


def test_the_last_run_is_the_newest_that_can_be_read(
    typed: Typed, tiny_config: Config, tmp_path: Path
) -> None:
    file = saved(tiny_config("supervised"), tmp_path)
    for seed in (0, 1):
        assert typed("run", "--config", file, "--seed", seed)[0] == 0
    planned = plan(tiny_config("supervised", seed=2))
    last = last_like(planned)
    assert last is not None and last.seed == 1
    (newest,) = (tmp_path / "runs").rglob("1-*/result.json")
    newest.write_text("{")
    last = last_like(planned)
    assert last is not None and last.seed == 0


def test_durations_are_short() -> None:
    assert [duration(x) for x in (3, 89.6, 300, 7200)] == ["3 s", "90 s", "5 min", "2.0 h"]


# CAM seeds


@pytest.mark.slow
def test_a_classifier_says_its_steps_and_how_to_shorten_them(
    typed: Typed, tiny_config: Config, tmp_path: Path
) -> None:
    file = saved(tiny_config("supervised", *QUICK, split="tags"), tmp_path)
    code, dry, err = typed("run", "--config", file, "--dry-run")
    sentence = "CAM seeds first: a tag classifier trains 2 steps of 2 images, then 16 images get"
    assert code == 0 and f"# {sentence}" in dry and "--set cam_seeds.protocol.steps=200" in dry
    shorter = typed("run", "--config", file, "--dry-run", "--set", "cam_seeds.protocol.steps=1")[1]
    assert "trains 1 steps" in shorter
    code, _, err = typed("cam-seeds", "--config", file)
    assert code == 0 and err.startswith(sentence)
    assert "CAM seeds first" not in typed("run", "--config", file, "--dry-run")[1], "made by now"
    other = typed("run", "--config", file, "--dry-run", "--set", "cam_seeds.strict=0.5")[1]
    assert "the tag classifier is trained already" in other
    code, _, err = typed("run", "--config", file)
    assert code == 0 and err.startswith("supervised: 6 steps on ")
    _, _, err = typed("run", "--config", file, "--set", "cam_seeds.strict=0.5")
    first, second, _ = err.split("\n", 2)
    assert first.startswith("CAM seeds first") and second.startswith("supervised: 6 steps")


def test_a_run_without_tags_says_nothing_of_seeds(tiny_config: Config) -> None:
    planned = plan(tiny_config("supervised"))
    assert planned.seeds is None and len(outlook(planned, "cpu")) == 1
    weak = plan(tiny_config("supervised", *QUICK, split="tags")).seeds
    assert weak is not None and len(seed_outlook(weak)) == 2


def report(**figures: object) -> SeedReport:
    sound: dict[str, object] = {
        "seed_id": "x", "classifier": "y", "images": 10, "tags": 20, "dead_tags": 0, "untagged": 0,
        "decided": 0.9, "class_pixels": [700, 100, 100], "strict": 0.3, "loose": 0.05, "opened": [],
        "map_seconds": 1.0, "refine_core_seconds": 1.0, "settings": {},
    }  # fmt: skip
    return SeedReport.model_validate({**sound, **figures})


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ({}, None),
        ({"decided": 0.06}, None),
        ({"decided": 0.02}, "decide 2.0 % of the pixels"),
        ({"class_pixels": [999, 1, 0]}, "99.9 % of the decided pixels are 'sky'"),
        ({"class_pixels": [0, 0, 0], "decided": 0.0}, "decide 0.0 %"),
        ({"dead_tags": 5}, None),
        ({"dead_tags": 6}, "6 of 20 tags have a map that is positive nowhere"),
        ({"tags": 0}, None),
    ],
)
def test_garbage_is_said(figures: dict[str, object], words: str | None) -> None:
    found = warnings(report(**figures), ["sky", "road", "car"])
    assert len(found) == (words is not None)
    assert words is None or (words in found[0] and found[0].startswith("warning: "))


def test_the_published_seeds_are_sound() -> None:
    files = list((CHECKOUT / "reports").rglob("seeds.json"))
    assert files
    for file in files:
        found = SeedReport.model_validate_json(file.read_bytes())
        assert warnings(found, [str(number) for number in range(len(found.class_pixels))]) == []


@pytest.mark.slow
def test_garbage_is_said_when_seeds_are_made(typed: Typed, tiny_config: Config, tmp_path: Path) -> None:
    strict = ("cam_seeds.strict=9", "cam_seeds.loose=0")  # nothing is so certain
    file = saved(tiny_config("supervised", *QUICK, *strict, split="tags"), tmp_path)
    code, _, err = typed("cam-seeds", "--config", file)
    assert code == 0 and "warning: these CAM seeds are hardly of use" in err, err


# Resume


@pytest.fixture
def interrupted(typed: Typed, tiny_config: Config, tmp_path: Path) -> Plan:
    """A run of 6 steps that was killed after its third."""
    planned = plan(tiny_config("fixmatch", "machine.checkpoint_every=3"))
    program = (
        "import sys; from bench import cli; from bench.training.trainer import Trainer\n"
        "save = Trainer.save\n"
        "def once(self, log):\n    save(self, log); raise SystemExit(9)\n"
        "Trainer.save = once; cli.main()"
    )
    arguments = ["run", "--config", str(saved(planned.config, tmp_path))]
    done = subprocess.run([sys.executable, "-c", program, *arguments], cwd=CHECKOUT, capture_output=True)
    assert done.returncode == 9 and planned.folder.checkpoint.exists(), done
    return planned


@pytest.mark.slow
def test_resume_goes_on_in_the_folder(
    typed: Typed, interrupted: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = tmp_path / "moved"
    (tmp_path / "runs").rename(moved)  # the folder of all runs may lie elsewhere by now
    folder = moved / interrupted.folder.path.relative_to(tmp_path / "runs")
    monkeypatch.chdir(folder.parent)
    code, out, err = typed("resume", folder.name, "--json")
    assert code == 0 and "resuming at step 3 of 6" in err, err
    found = json.loads(out)
    assert found["run_id"] == interrupted.run_id and Path(found["folder"]) == folder
    assert (folder / "result.json").exists() and not (tmp_path / "runs").exists()
    code, out, err = typed("resume", folder)
    assert code == 2 and "is done" in err and out == ""
    (folder / "result.json").write_bytes(b"")
    typed("resume", folder).refused(3, "result.json is torn")


@pytest.mark.slow
def test_resume_refuses_what_is_no_run(typed: Typed, interrupted: Plan, tmp_path: Path) -> None:
    for place in (tmp_path / "nowhere", tmp_path, Path("/")):
        code, _, err = typed("resume", place)
        assert code == 3 and "holds no run that can go on" in err, err
    folder = interrupted.folder.path
    renamed = folder.rename(folder.with_name("0-1234abcd"))
    code, _, err = typed("resume", renamed)
    assert code == 2 and "renamed or edited" in err
    shallow = tmp_path / "config.yaml"
    shallow.write_bytes((renamed / "config.yaml").read_bytes())
    code, _, err = typed("resume", tmp_path)
    assert code == 2 and "renamed or edited" in err
    assert not list(tmp_path.rglob("result.json"))


# A new method


@pytest.fixture
def methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(registry, "METHODS", tmp_path / "methods")
    (tmp_path / "methods").mkdir()
    return tmp_path / "methods"


def test_a_new_method_is_written_once(typed: Typed, methods: Path) -> None:
    code, out, _ = typed("new-method", "my_method")
    file = methods / "my_method.py"
    assert code == 0 and f"wrote {file}" in out and "run --method my_method" in out
    assert file.read_text() == template("my_method") and "class MyMethod(Method)" in file.read_text()
    file.write_text("mine")
    code, _, err = typed("new-method", "my_method")
    assert code == 2 and "there is a method 'my_method' already" in err and file.read_text() == "mine"


def test_a_name_that_hides_what_the_template_imports_is_refused(typed: Typed, methods: Path) -> None:
    code, _, err = typed("new-method", "teacher")
    assert code == 2 and "'teacher' would hide" in err and not list(methods.rglob("*.py"))


def test_a_finished_run_is_shown_whatever_the_device(
    typed: Typed, tiny_config: Config, tmp_path: Path
) -> None:
    file = saved(tiny_config("supervised", "machine.device=cpu"), tmp_path)
    assert typed("run", "--config", file)[0] == 0
    code, out, err = typed("run", "--config", file, "--device", "cuda")
    assert code == 0 and "mIoU" in out and "already done" in err


@pytest.mark.parametrize("name", ["My", "1st", "_hidden", "a-b", "class", "none", "true", "", "../x", "ü"])
def test_a_name_that_is_none_is_refused(typed: Typed, methods: Path, name: str) -> None:
    code, _, err = typed("new-method", "--", name)
    assert code == 2 and "is no name of a method" in err and not list(methods.parent.rglob("*.py"))


@pytest.mark.slow
def test_the_template_passes_the_contract_suite(tmp_path: Path) -> None:
    for name in ("bench", "datasets", "methods", "tests"):
        shutil.copytree(CHECKOUT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(CHECKOUT / "pyproject.toml", tmp_path)
    (tmp_path / "methods" / "my_method.py").write_text(template("my_method"))
    command = [sys.executable, "-m", "pytest", "tests/contract", "--method", "my_method"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and re.search(r"^\d+ passed|\.\s+\[100%\]", done.stdout, re.M), done.stdout
