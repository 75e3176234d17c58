"""Runs of other code or data in a sweep: started again by `--overwrite`, and refused by a dry run, which also
says what would be made first."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import pipeline
from bench.commands.dry_sweep import tried
from bench.display import Display, Quiet
from bench.errors import BenchError, ConfigError, DataError
from bench.plan import plan
from bench.settings.schema import RunConfig
from bench.sweeps import launch
from bench.sweeps.grid import Cell
from bench.sweeps.launch import run_grid

Config = Callable[..., RunConfig]


@pytest.fixture
def root(tiny_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_root, tmp_path / "data"))


@pytest.fixture
def cell(tiny_config: Config, root: Path) -> Callable[..., Cell]:
    def made(method: str, *sets: str, **options: Any) -> Cell:
        config = tiny_config(method, *sets, f"machine.data_root={root}", **options)
        return Cell(f"{method}, seed {config.seed}", plan(config))

    return made


def refused(*cells: Cell, overwrite: bool = False) -> dict[str, BenchError]:
    return tried(cells, 1, overwrite)[0]


def mended(root: Path, name: str) -> None:
    """The mask is that of another image."""
    shutil.copy(root / "tinyset" / "labels" / "train_05.png", root / "tinyset" / "labels" / name)


@pytest.mark.slow
def test_a_sweep_that_overwrites_starts_what_changed_and_nothing_else(
    cell: Callable[..., Cell], root: Path
) -> None:
    changed, done = cell("supervised", seed=0), cell("supervised", seed=1)
    for one in (changed, done):
        pipeline.run(one.plan, Display())
    kept = changed.folder.counts.read_bytes()
    changed.folder.counts.write_bytes(kept[:-1] + b"\1")
    assert (changed.state, done.state) == ("changed", "done")
    assert changed.outdated and not done.outdated
    before = done.folder.result.read_bytes()
    said: list[str] = []
    assert len(run_grid([changed, done], 1, said.append).failures) == 1, "only with --overwrite"
    outcome = run_grid([changed, done], 1, said.append, overwrite=True)
    assert outcome.failures == [] and changed.done and not changed.outdated
    assert changed.folder.counts.read_bytes() == kept and done.folder.result.read_bytes() == before
    mended(root, "train_01.png")
    assert [cell("supervised", seed=seed).state for seed in (0, 1)] == ["changed", "changed"]


def test_a_run_whose_data_changed_while_it_ran_says_what(
    cell: Callable[..., Cell], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It went to its end, so that its last words are of no error."""
    one, same = cell("supervised"), cell("supervised", f"machine.out={tmp_path / 'same'}")
    pipeline.run(same.plan, Quiet())
    popen = subprocess.Popen

    def started(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
        shutil.copytree(same.folder.path, one.folder.path, dirs_exist_ok=True)
        mended(root, "train_01.png")
        return popen([sys.executable, "-c", "print('score student 4/4')"], **options)

    monkeypatch.setattr(launch.subprocess, "Popen", started)
    (failure,) = run_grid([one], 1, lambda line: None).failures
    assert "the mask tinyset/labels/train_01.png" in failure.reason and "--overwrite" in failure.reason


def test_runs_on_outdated_seeds_are_outdated(cell: Callable[..., Cell], root: Path) -> None:
    weak = cell("supervised", "cam_seeds.refine=none", "cam_seeds.protocol.steps=2", split="tags")
    assert not weak.outdated and weak.plan.seeds is not None
    pipeline.run(weak.plan.seeds.classifier, Display())
    assert not weak.outdated
    shutil.copy(*(root / "tinyset" / "images" / f"train_0{n}.png" for n in (5, 3)))
    assert weak.outdated, "of its classifier"
    pipeline.make_seeds(weak.plan.seeds, Display(), overwrite=True)
    assert not weak.outdated
    shutil.copy(*(root / "tinyset" / "images" / f"train_0{n}.png" for n in (6, 3)))
    assert weak.outdated, "of its seeds"
    assert set(refused(weak)) == {weak.label} and not refused(weak, overwrite=True)


def test_a_dry_run_of_a_sweep_refuses_what_its_runs_refuse(
    cell: Callable[..., Cell], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [cell("supervised", seed=seed) for seed in (0, 1)] + [cell("u2pl", "method.rank_low=19")]
    assert {label: type(error) for label, error in refused(*cells).items()} == {"u2pl, seed 0": ConfigError}
    (root / "tinyset" / "labels" / "train_00.png").unlink()
    found = refused(*cells)
    assert {type(error) for error in found.values()} == {DataError} and len(found) == 3
    assert not cells[0].folder.path.exists(), "a dry run leaves no folder"


def test_a_finished_run_that_changed_is_refused_by_a_dry_run(cell: Callable[..., Cell], root: Path) -> None:
    one = cell("supervised")
    pipeline.run(one.plan, Display())
    assert refused(one) == {}
    result = json.loads(one.folder.result.read_text())
    one.folder.result.write_text(json.dumps(result | {"steps": 7}))
    assert "was damaged or edited" in str(refused(one)[one.label])
    assert refused(one, overwrite=True) == {}


@pytest.mark.slow
def test_a_dry_run_says_what_several_runs_need_first(cell: Callable[..., Cell]) -> None:
    def grid(split: str) -> list[Cell]:
        sets = ("protocol.steps=4", "method.warmup=2", "cam_seeds.protocol.steps=2")
        weak = ["u2pl", "u2pl_released", "u2pl_plus"]
        cells = [cell(method, *sets, split=split, seed=seed) for seed in (0, 1) for method in weak]
        return [*cells, cell("supervised", split=split)]

    said = "made first, once for all runs that need it: "
    few = grid("few")
    assert tried(few, 1, False) == ({}, [f"{said}2 shared warm-ups"])
    assert tried([few[0], few[-1]], 1, False) == ({}, []), "nothing is shared"
    assert tried(grid("tags"), 1, False)[1] == [
        f"{said}3 tag classifiers, 3 CAM seed sets, 2 shared warm-ups"
    ], "those of supervised are others"
    pipeline.run(few[0].plan, Display())
    assert tried(few, 1, False)[1] == [f"{said}1 shared warm-up"], "that of seed 0 is there"
    assert tried(few, 3, False)[1] == [f"{said}1 shared warm-up"], "as many threads, whatever --jobs says"
