"""A file, a pipe, or a link that leads nowhere or back to itself, in the place of a folder: exit code 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import cli
from bench.display import Display
from bench.errors import ConfigError, resolved
from bench.pipeline import check
from bench.plan import plan
from bench.records.atomic import WriteError, folder_claimed, refuse_no_folder, write_atomic
from bench.records.folders import RunFolder
from bench.records.shared_folders import SeedFolder
from bench.scoring.multi_scale_crf import RescoreSettings, rescore
from bench.settings.schema import RunConfig
from datasets.convert import refuse_target

pytestmark = pytest.mark.timeout(30)
THERE: dict[str, Callable[[Path], object]] = {
    "file": lambda path: path.write_text(""),
    "pipe": lambda path: os.mkfifo(path),
    "link to nothing": lambda path: path.symlink_to("gone"),
    "link to itself": lambda path: path.symlink_to(path.name),
}


@pytest.fixture(params=THERE)
def there(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    THERE[request.param](tmp_path / "there")
    return tmp_path / "there"


def claim(folder: Path) -> None:
    with RunFolder(folder).claimed():
        pass


def claim_records(folder: Path) -> None:
    with folder_claimed(folder):
        pass


WRITERS: dict[str, Callable[[Path], object]] = {
    "look": refuse_no_folder,
    "file": lambda folder: write_atomic(folder / "file", b""),
    "claim": claim,
    "claim of records": claim_records,
    "right to start": lambda folder: RunFolder(folder).right_to_start(),
    "place of a run": lambda folder: RunFolder(folder).check_place(),
}


@pytest.mark.parametrize("below", ["", "a/b"])
@pytest.mark.parametrize("what", WRITERS)
def test_nothing_is_written_there(there: Path, what: str, below: str) -> None:
    with pytest.raises(ConfigError, match=f"{there} is no folder; give a folder, which is made") as caught:
        WRITERS[what](there / below)
    assert caught.value.exit_code == 2
    assert what == "look" or os.listdir(there.parent) == ["there"]


def test_a_cause_that_writers_pass_over_stays_one(there: Path) -> None:
    """A cache that cannot be written, and a warm-up that cannot be shared, end no run."""
    with pytest.raises(WriteError):
        write_atomic(there / "file", b"")


def test_a_folder_by_a_link_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    refuse_no_folder(tmp_path / "link" / "new")
    write_atomic(tmp_path / "link" / "new" / "file", b"")
    assert (tmp_path / "real" / "new" / "file").exists()


def test_the_folder_of_a_data_set_within_runs(
    there: Path, tmp_path: Path, tiny_config: Callable[..., RunConfig]
) -> None:
    (tmp_path / "runs").mkdir()
    there.rename(tmp_path / "runs" / "tinyset")
    if (tmp_path / "runs" / "tinyset").is_symlink():  # it named itself
        (tmp_path / "runs" / "tinyset").unlink()
        (tmp_path / "runs" / "tinyset").symlink_to("tinyset")
    with pytest.raises(ConfigError, match="runs/tinyset is no folder"):
        check(plan(tiny_config("supervised", f"machine.out={tmp_path}/runs")))


SMALL = "--method supervised --dataset tinyset --split few --protocol shapes --set protocol.batch.labeled=4"
COMMANDS = {
    "run": f"run --dry-run {SMALL} --out {{there}}",
    "sweep": f"sweep --dry-run {SMALL} --out {{there}}",
    "report": "report {runs} --out {there}",
    "export": "export {runs} --to {there}/net.onnx",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_ends_with_2(
    there: Path,
    command: str,
    tiny_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("BENCH_DATA", str(tiny_root))
    words = COMMANDS[command].format(there=there, runs=there.parent).split()
    monkeypatch.setattr(sys, "argv", ["bench", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    assert ended.value.code == 2 and "there is no folder; give a folder" in said.err.replace("\n", " "), said


# Links that lead back to themselves -------------------------------------------------------------------------

FOLLOWERS: dict[str, Callable[[Path], object]] = {
    "path": resolved,
    "runs": lambda run: RunFolder(run).root,
    "samples": lambda run: RunFolder(run).shared_samples,
    "seeds": lambda run: SeedFolder.beside(RunFolder(run), 0),
    "scores": lambda run: rescore([run], RescoreSettings((1.0,), False, None), None, Display(), "cpu"),
    "new data set": lambda to: refuse_target(to, None),
}


@pytest.mark.parametrize("below", ["", "few/supervised/0-12345678"])
@pytest.mark.parametrize("what", FOLLOWERS)
def test_a_link_to_itself_is_named(tmp_path: Path, what: str, below: str) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    with pytest.raises(ConfigError, match=f"{loop} is a link that leads back to itself; give another"):
        FOLLOWERS[what](loop / below)
