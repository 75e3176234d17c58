"""Runs that are stopped, killed, or on a disk that fails: the log is the same bits, the place is said."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import pipeline
from bench.display import Display
from bench.errors import BenchError, DataError, Interrupted, MachineError
from bench.plan import plan
from bench.records.atomic import WriteError
from bench.records.folders import RunFolder
from bench.records.schema import Result
from bench.settings.schema import RunConfig
from bench.training import checkpoint
from bench.training.trainer import Trainer

Config = Callable[..., RunConfig]


class Quiet(Display):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def start(self, name: str, total: int, done: int = 0) -> None: ...

    def update(self, done: int, figures: Mapping[str, float] | None = None) -> None: ...


def run(config: RunConfig, display: Display | None = None, **options: bool) -> Result:
    return pipeline.run(plan(config), display or Quiet(), **options)


def folder_of(config: RunConfig) -> RunFolder:
    return plan(config).folder


class Killed(BaseException):
    """Stands for the end of the process: nothing is saved any more."""


@pytest.fixture
def before_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], Any]], None]:
    """before_step(3, what): calls `what` once, after three steps."""

    def arrange(step: int, what: Callable[[], Any]) -> None:
        real, done = Trainer.train_step, False

        def train_step(trainer: Trainer, batch: Any, at: Any) -> Any:
            nonlocal done
            if at.step == step and not done:
                done = True
                what()
            return real(trainer, batch, at)

        monkeypatch.setattr(Trainer, "train_step", train_step)

    return arrange


def kill() -> None:
    raise Killed


def stop() -> None:
    signal.raise_signal(signal.SIGTERM)


# The log ----------------------------------------------------------------------------------------------------

SETS = ("protocol.steps=10", "machine.log_every=4", "machine.checkpoint_every=3")


@pytest.fixture
def straight(tiny_config: Config, tmp_path: Path) -> Callable[..., bytes]:
    """The log of a run that nothing stops."""

    def log(method: str, *sets: str) -> bytes:
        config = tiny_config(method, *sets, f"machine.out={tmp_path}/straight")
        run(config)
        return folder_of(config).metrics.read_bytes()

    return log


@pytest.mark.slow
@pytest.mark.parametrize("how", [stop, kill])
@pytest.mark.parametrize("method", ["supervised", "u2pl"])
def test_the_log_is_the_same_bits_after_a_resume(
    tiny_config: Config,
    straight: Callable[..., bytes],
    before_step: Callable[..., None],
    method: str,
    how: Callable[[], None],
) -> None:
    """Two stops in one run, inside a line and inside another, at steps that are no multiple of anything."""
    sets = (*SETS, "protocol.evaluation.every=5")
    config = tiny_config(method, *sets)
    for step in (5, 9):
        before_step(step, how)
        with pytest.raises((Killed, Interrupted)):
            run(config, resume=True)
    run(config, resume=True)
    assert folder_of(config).metrics.read_bytes() == straight(method, *sets)


@pytest.mark.slow
@pytest.mark.parametrize("how", [stop, kill])
@pytest.mark.parametrize("step", range(1, 10))
def test_the_log_is_the_same_bits_after_a_resume_at_every_step(
    tiny_config: Config,
    straight: Callable[..., bytes],
    before_step: Callable[..., None],
    how: Callable[[], None],
    step: int,
) -> None:
    config = tiny_config("fixmatch", *SETS)
    before_step(step, how)
    with pytest.raises((Killed, Interrupted)):
        run(config)
    run(config, resume=True)
    assert folder_of(config).metrics.read_bytes() == straight("fixmatch", *SETS)


def test_a_checkpoint_without_figures_still_goes_on(
    tiny_config: Config, before_step: Callable[..., None]
) -> None:
    """As older versions wrote it: the line after it is of fewer steps, which is said."""
    config = tiny_config("supervised", *SETS)
    before_step(5, stop)
    with pytest.raises(Interrupted):
        run(config)
    file = folder_of(config).checkpoint
    state = checkpoint.load(file, "cpu")
    del state["log"]
    checkpoint.save(file, state)
    display = Quiet()
    run(config, display, resume=True)
    assert "the checkpoint is an older one: the next line of the log is of fewer steps" in display.said
    assert folder_of(config).metrics.read_bytes().count(b"\n") == 3


def test_a_damaged_log_stops_a_resume_and_its_advice_is_right(
    tiny_config: Config, before_step: Callable[..., None]
) -> None:
    config = tiny_config("supervised", *SETS)
    before_step(5, stop)
    with pytest.raises(Interrupted):
        run(config)
    metrics = folder_of(config).metrics
    metrics.write_bytes(b"\xff  not UTF-8")
    with pytest.raises(
        DataError, match=rf"{metrics}, line 1 is damaged; move the file away, and the run goe"
    ):
        run(config, resume=True)
    metrics.unlink()
    display = Quiet()
    run(config, display, resume=True)
    assert f"{metrics} is gone: the log begins at step 6" in display.said
    assert metrics.read_bytes().count(b"\n") == 2


# Losses that are not finite ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("bad", "ends"), [((9,), True), ((7, 8, 9), True), ((8,), False), ((1, 2), False)])
def test_losses_that_are_not_finite_at_the_end_are_an_error(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch, bad: tuple[int, ...], ends: bool
) -> None:
    """The weights are finite here: only the loss tells that something is wrong."""
    real = Trainer.train_step

    def train_step(trainer: Trainer, batch: Any, at: Any) -> Any:
        total, terms = real(trainer, batch, at)
        if at.step in bad:
            trainer.non_finite += 1
        return total, terms

    monkeypatch.setattr(Trainer, "train_step", train_step)
    config = tiny_config("supervised", *SETS)
    if not ends:
        assert run(config).steps == 10
        return
    with pytest.raises(BenchError, match="the loss or the weights are not finite by step 10; stopped"):
        run(config)
    assert not folder_of(config).result.exists()
    with pytest.raises(BenchError, match="not finite by step 10"):
        run(config, resume=True)


def test_weights_that_are_not_finite_after_the_last_step_are_no_result(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Trainer.train_step

    def train_step(trainer: Trainer, batch: Any, at: Any) -> Any:
        answer = real(trainer, batch, at)
        if at.step == 9:
            next(trainer.method.parameters()).data.fill_(torch.nan)
        return answer

    monkeypatch.setattr(Trainer, "train_step", train_step)
    config = tiny_config("supervised", *SETS)
    with pytest.raises(BenchError, match="not finite by step 10"):
        run(config)
    assert not folder_of(config).result.exists()


# Signals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", ["result.json", "seeds.json"])
def test_a_signal_as_the_classifier_or_its_seeds_are_written_stops_the_run(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    """It comes after the last look of what runs inside; what is written is kept."""
    real, sent = os.replace, []

    def replace(old: Any, new: Any) -> None:
        real(old, new)
        if Path(new).name == last and not sent:
            sent.append(new)
            stop()

    config = tiny_config("supervised", "cam_seeds.refine=none", split="tags")
    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(Interrupted, match="stopped by SIGTERM"):
        run(config)
    assert sent and not folder_of(config).result.exists()
    assert run(config, resume=True).steps == 6


# Disks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(  # every file once, and every error once
    ("file", "number"),
    [
        ("config.yaml", errno.ENOSPC),
        ("checkpoint.pt", errno.ENOSPC),
        ("counts.npz", errno.EIO),
        ("result.json", errno.EROFS),
    ],
)
def test_a_disk_that_fails_is_said_and_the_run_goes_on(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch, file: str, number: int
) -> None:
    config = tiny_config("supervised", "machine.checkpoint_every=2")
    real = os.replace

    def replace(old: Any, new: Any) -> None:
        if Path(new).name == file:
            raise OSError(number, os.strerror(number), str(old))
        real(old, new)

    with monkeypatch.context() as patch, pytest.raises(WriteError) as caught:
        patch.setattr(os, "replace", replace)
        run(config)
    folder = folder_of(config)
    said = str(caught.value)
    assert said.startswith(f"{file} cannot be written in {folder.path}: {os.strerror(number)}; ")
    assert said.endswith("then go on with --resume: what was saved before is kept.") and ".tmp" not in said
    assert run(config, resume=True).steps == 6 and not list(folder.path.glob(".*.tmp"))


def test_a_full_disk_under_the_log_is_said(tiny_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full takes no byte; closing the file must not hide the error behind one without a name."""
    config = tiny_config("supervised")
    folder = folder_of(config)
    folder.path.mkdir(parents=True)
    folder.metrics.symlink_to("/dev/full")
    monkeypatch.setattr(RunFolder, "clear", lambda self: None)
    monkeypatch.setattr("bench.training.metrics_log.whole_lines", lambda path: [])
    monkeypatch.setattr("bench.training.metrics_log.write_atomic", lambda path, data: None)
    with pytest.raises(WriteError, match=rf"metrics.jsonl cannot be written in {folder.path}: No space left"):
        run(config)


def test_a_full_disk_under_the_seeds_is_said_and_ends_their_making(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the first image, not after each has been refined for nothing."""
    config = tiny_config("supervised", "cam_seeds.refine=none", split="tags")
    tried, real = [], os.fsync

    def fsync(file: int) -> None:
        place = os.readlink(f"/proc/self/fd/{file}")
        if "/seeds/" in place:
            tried.append(place)
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file)

    with monkeypatch.context() as patch, pytest.raises(WriteError) as caught:
        patch.setattr(os, "fsync", fsync)
        run(config)
    assert "/seeds: No space left on device; make room there, then go on with --resume" in str(caught.value)
    assert len(tried) == 1
    assert run(config, resume=True).steps == 6


@pytest.mark.parametrize("split", ["few", "tags"])
def test_a_finished_run_on_a_read_only_disk_is_done(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch, split: str
) -> None:
    """No lock can be made there."""
    config = tiny_config("supervised", "cam_seeds.refine=none", split=split)
    done = run(config)
    for lock in Path(config.machine.out).rglob(".lock"):
        lock.unlink()

    def flock(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    display = Quiet()
    assert run(config, display) == done and display.said == [f"already done: {folder_of(config).path}"]
    with pytest.raises(MachineError, match="cannot lock files"):
        run(config, overwrite=True)
    assert folder_of(config).read_result() == done
    seeds = plan(config).seeds
    if seeds is not None:
        assert pipeline.make_seeds(seeds, Quiet()).images == 16


def test_a_folder_of_runs_that_may_not_be_written_is_said(tiny_config: Config, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    (tmp_path / "runs").mkdir(mode=0o500)
    with pytest.raises(WriteError, match=rf"cannot be written in {tmp_path}/runs/.*: Permission denied"):
        run(tiny_config("supervised"))
    shutil.rmtree(tmp_path / "runs")
