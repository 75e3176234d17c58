"""`import bench`: run, load and compare from Python, as the command line does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch

import bench
from bench.errors import ConfigError, DataError
from bench.records.schema import Result
from bench.settings.resolve import as_flags, assignments
from bench.settings.schema import RunConfig

CHECKOUT = Path(__file__).resolve().parents[3]
Run = Callable[..., Result]


@pytest.fixture
def run(tiny_config: Callable[..., RunConfig], tmp_path: Path) -> Run:
    """run("fixmatch", seed=1): `bench.run` on the tiny set."""

    def call(method: str, **arguments: Any) -> Result:
        file = tmp_path / f"{method}.yaml"
        file.write_text(tiny_config(method).to_yaml())
        return bench.run(method=method, config=file, **arguments)

    return call


@pytest.mark.slow
def test_a_run_from_python_is_the_run_of_the_command_line(run: Run, tmp_path: Path) -> None:
    result = run("supervised", seed=1, set={"protocol.steps": 4, "protocol.clip": None, "split": "few"})
    assert (result.method, result.seed, result.steps, result.split) == ("supervised", 1, 4, "few")
    assert bench.results(tmp_path / "runs") == [result] == bench.results(str(tmp_path / "runs"))
    (folder,) = (tmp_path / "runs" / "tinyset" / "few" / "supervised").iterdir()
    sets = ["--set", "protocol.steps=4", "--set", "protocol.clip=null"]
    words = ["--method", "supervised", "--config", str(tmp_path / "supervised.yaml"), "--seed", "1"]
    found = subprocess.run(
        [sys.executable, "-m", "bench", "run", *words, *sets, "--dry-run"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"# run {result.run_id}," in found.stdout and str(folder) in found.stdout


def test_options_go_by_the_names_of_the_command_line(run: Run, tmp_path: Path) -> None:
    result = run("supervised", split="full", out=tmp_path / "elsewhere", device="cpu", workers=0, audit=True)
    (folder,) = (tmp_path / "elsewhere" / "tinyset" / "full" / "supervised").iterdir()
    assert folder.name == f"0-{result.run_id}" and "audit: true" in (folder / "config.yaml").read_text()


@pytest.mark.slow
def test_results_compare_as_frames_by_name(run: Run, tmp_path: Path) -> None:
    results = [run(method, seed=seed) for method in ("supervised", "fixmatch") for seed in (0, 1)]
    frames = bench.compare(results)
    assert {"miou", "modules", "classes", "cost", "differences"} <= set(frames)
    assert all(isinstance(frame, pandas.DataFrame) for frame in frames.values())
    miou = frames["miou"].set_index("method")
    mean = 50 * (results[0].predictor.miou + results[1].predictor.miou)
    assert set(miou.index) == {"supervised", "fixmatch"}
    assert miou.loc["supervised", "mean_percent"] == pytest.approx(mean) and set(miou["n"]) == {2}
    assert "differences" not in bench.compare(results, baseline="nobody")
    assert bench.compare([]) == {}


def test_errors_are_those_of_the_command_line(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown method 'fixmach'"):
        bench.run(method="fixmach")
    with pytest.raises(ConfigError, match=r"did you mean 'protocol\.steps'"):
        run("supervised", set={"protocol.stepz": 4})
    with pytest.raises(ConfigError, match=r"method\.name: .* is no setting"):
        run("supervised", set={"method.name": tmp_path})
    with pytest.raises(ConfigError, match="is no setting"):
        run("supervised", set={"protocol.clip": float("nan")})
    with pytest.raises(DataError, match="no folder"):
        bench.results(tmp_path / "nowhere")
    assert not (tmp_path / "runs").exists()


WRONG = {  # argument: value, and what the sentence says
    "set as pairs": ({"set": [("protocol.steps", 2)]}, "^set: .* has no keys"),
    "set as a text": ({"set": "protocol.steps=2"}, "^set: .* has no keys"),
    "a text for a switch": ({"overwrite": "no"}, r"^overwrite must be True or False \(given: 'no'\)"),
    "a number for a switch": ({"resume": 1}, "^resume must be True or False"),
    "bytes for a folder": ({"out": b"runs"}, "^out: b'runs' is no path"),
    "a number for a folder": ({"data_root": 3}, "^data_root: 3 is no path"),
    "no folder": ({"data_root": ""}, "^data_root: '' is no path"),
    "no file": ({"config": ""}, "^config: '' is no path"),
    "a list for a protocol": ({"protocol": ["shapes"]}, "^protocol: .* is no path"),
    "no protocol": ({"protocol": ""}, "^protocol: '' is no path"),
    "an array for a seed": ({"seed": np.arange(2)}, r"^seed: array\(\[0, 1\]\) is no setting"),
    "a path for a data set": ({"dataset": Path("shapes")}, "^dataset: .* is no setting"),
    "bytes for a device": ({"device": b"cpu"}, r"^machine\.device: b'cpu' is no setting"),
}


@pytest.mark.parametrize("what", WRONG)
def test_an_argument_of_another_kind_is_named(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, said = WRONG[what]
    with pytest.raises(ConfigError, match=said):
        bench.run(**{"method": "supervised", "out": "runs", **arguments})
    assert not any(tmp_path.iterdir())


def test_numbers_of_numpy_and_torch_are_numbers() -> None:
    for number in (np.int64(3), np.uint8(3), torch.tensor(3), np.array(3)):
        assert as_flags(seed=number)["seed"] == 3 and type(as_flags(seed=number)["seed"]) is int
        assert assignments({"protocol.steps": number}) == ["protocol.steps=3"]
    assert as_flags(seed=True)["seed"] is True  # and is refused as no whole number


def test_what_is_no_path_or_result_is_refused() -> None:
    for wrong in (3, None, b"runs", ["runs"], ""):
        with pytest.raises(ConfigError, match="^run: .* is no path"):
            bench.load(wrong)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="^folder: .* is no path"):
            bench.results(wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="give a shorter path"):
        bench.results("x" * 5000)
    for wrong in (
        "runs",
        Path("runs"),
        3,
        None,
        [None],
        ["runs"],
        {"a": 1},
        Result.model_construct(dataset="a"),
    ):
        with pytest.raises(ConfigError, match=r"give a list of them, such as bench\.results\('runs'\)"):
            bench.compare(wrong)  # type: ignore[arg-type]


def test_import_bench_is_cheap() -> None:
    program = "import sys, bench; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert "bench" in found
    assert not {"torch", "numpy", "pandas", "pydantic", "yaml", "rich", "typer"} & set(found)
