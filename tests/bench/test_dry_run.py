"""`--dry-run` refuses what the run refuses, with the same words, and leaves no folder."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import cli, pipeline
from bench.errors import BenchError, ConfigError, DataError, Interrupted, InUse, MachineError
from bench.machine import choose_device, memory_errors
from bench.plan import plan
from bench.settings import registry
from bench.settings.schema import RunConfig
from bench.testing.runs import Quiet
from bench.training import session
from bench.training.trainer import Trainer

Config = Callable[..., RunConfig]
CASES: dict[str, tuple[str, tuple[str, ...], type[BenchError], str]] = {
    "no such file of weights": (
        "supervised", ("protocol.network.weights=gone.pth",), DataError, "no weights file gone.pth"),
    "weights of another encoder": (
        "supervised", ("protocol.network.weights=package:efficientnet_lite0",), ConfigError,
        "does not fit encoder"),
    "no weights on the hub": (
        "supervised", ("protocol.network.weights=hub",), ConfigError, "timm has no record"),
    "no such encoder": (
        "supervised", ("protocol.network.encoder=nonsense",), ConfigError, "'nonsense' cannot be built"),
    "no such device": ("supervised", ("machine.device=cuda:99",), ConfigError, "machine.device is 'cuda:99'"),
    "half precision on a CPU": (
        "supervised", ("protocol.precision=fp16", "machine.device=cpu"), ConfigError, "needs a CUDA device"),
    "a batch of one that is mixed": (
        "cutmix", ("protocol.batch.unlabeled=1",), ConfigError, "CutMix mixes an image with the next"),
    "a batch larger than the labels": (
        "supervised", ("protocol.batch.labeled=1000",), ConfigError, "protocol.batch.labeled"),
    "endless windows": (
        "supervised", ("protocol.evaluation.mode=slide", "protocol.evaluation.window=[1,1]",
                       "protocol.evaluation.scales=[8]"), ConfigError, "passes; raise window"),
    "a knob that the classes do not allow": ("u2pl", ("method.rank_low=19",), ConfigError, "rank_low"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_the_run_refuses_the_dry_run_refuses(tiny_config: Config, case: str) -> None:
    method, sets, kind, words = CASES[case]
    said = []
    for refuse in (pipeline.check, lambda planned: pipeline.run(planned, Quiet())):
        with pytest.raises(kind) as caught:
            config = tiny_config(method, *sets)
            refuse(plan(config))
        said.append(str(caught.value))
    assert words in said[0] and said[0] == said[1]


def test_a_dry_run_leaves_no_folder(tiny_config: Config) -> None:
    config = tiny_config("supervised")
    pipeline.check(plan(config))
    assert not config.machine.runs.exists()


def test_a_dry_run_needs_the_images(
    tiny_config: Config, tiny_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan(tiny_config("supervised"))
    monkeypatch.setattr(registry, "load_dataset", _no_images(registry.load_dataset))
    with pytest.raises(DataError, match="no image"):
        pipeline.check(planned)


def _no_images(load: Callable[..., Any]) -> Callable[..., Any]:
    def loaded(*args: Any) -> Any:
        dataset = load(*args)

        def image(id: str) -> None:
            raise DataError(f"no image of {id}")

        dataset.image = image
        return dataset

    return loaded


def test_a_dry_run_needs_a_place_to_write(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"/file is no folder; give a folder, which is made where need be"):
        pipeline.check(plan(tiny_config("supervised", f"machine.out={tmp_path}/file/runs")))
    with pytest.raises(ConfigError, match=r"/proc.*give another --out"):
        pipeline.check(plan(tiny_config("supervised", "machine.out=/proc/runs")))
    pipeline.check(plan(tiny_config("supervised", f"machine.out={tmp_path}/made")))
    assert sorted(of.name for of in tmp_path.iterdir()) == ["file"], "nothing is left"
    with pytest.raises(ConfigError, match=r"machine\.out: 'aaaa.*takes 255; give another --out"):
        plan(tiny_config("supervised", f"machine.out={tmp_path}/{'a' * 256}"))
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    with pytest.raises(ConfigError, match="give another --out"):
        pipeline.check(plan(tiny_config("supervised")))


def test_a_dry_run_meets_a_run_that_is_held_or_begun(tiny_config: Config) -> None:
    planned = plan(tiny_config("supervised"))
    with planned.folder.claimed(), pytest.raises(InUse, match="is in use by"):
        pipeline.check(planned)
    planned.folder.checkpoint.write_bytes(b"")
    with pytest.raises(ConfigError, match="give --resume to go on or --overwrite"):
        pipeline.check(planned)
    pipeline.check(planned, overwrite=True)


@pytest.mark.parametrize("name", ["checkpoint.pt", "metrics.jsonl", "provenance.json", "contents.json"])
def test_a_dry_run_reads_the_state_that_a_run_goes_on_from(
    name: str, tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan(tiny_config("supervised", "protocol.steps=4", "machine.checkpoint_every=2"))
    train = Trainer.train_step

    def step(trainer: Trainer, batch: Any, at: Any) -> Any:
        if at.step == 3:
            raise Interrupted("stopped by a test")
        return train(trainer, batch, at)

    monkeypatch.setattr(Trainer, "train_step", step)
    with pytest.raises(Interrupted):
        pipeline.run(planned, Quiet())
    pipeline.check(planned, resume=True)
    file = planned.folder.path / name
    file.write_bytes(b"\xff" + file.read_bytes()[1:])
    before = {path: path.read_bytes() for path in planned.folder.root.rglob("*") if path.is_file()}
    with pytest.raises(DataError, match=name) as dry:
        pipeline.check(planned, resume=True)
    assert before == {path: path.read_bytes() for path in planned.folder.root.rglob("*") if path.is_file()}
    with pytest.raises(DataError, match=name) as caught:
        pipeline.run(planned, Quiet(), resume=True)
    assert str(dry.value) == str(caught.value)


def test_the_refinement_of_seeds_is_checked_before_the_classifier_trains(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config("u2pl_weak", "cam_seeds.refine=crf", split="tags")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
    for refuse in (pipeline.check, lambda planned: pipeline.run(planned, Quiet())):
        with pytest.raises(ConfigError, match="pydensecrf"):
            refuse(plan(config))


def test_what_cannot_be_scored_is_refused_before_the_first_step(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> None:
        raise RuntimeError("kernel size can't be greater than actual input size")

    monkeypatch.setattr(session, "evaluate", broken)
    planned = plan(tiny_config("supervised"))
    for refuse in (pipeline.check, lambda planned: pipeline.run(planned, Quiet())):
        with pytest.raises(
            ConfigError, match=r"cannot be scored with protocol.evaluation as it is: kernel size"
        ):
            refuse(planned)
    assert not planned.folder.checkpoint.exists()


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == "cuda:1"
    with pytest.raises(ConfigError, match="torch sees 2 CUDA devices"):
        choose_device("cuda:2")
    for wrong in ("cuda:x", "cudas", "", 3, None):
        with pytest.raises(ConfigError, match="unknown device"):
            choose_device(wrong)  # type: ignore[arg-type]


LACKS = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to ..."
    ),
    RuntimeError("std::bad_alloc"),
    RuntimeError("Caught _ArrayMemoryError in DataLoader worker process 0."),
]


@pytest.mark.parametrize("error", LACKS, ids=lambda error: str(error)[:20])
def test_a_lack_of_memory_is_one_sentence_on_any_device(
    error: Exception, tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lack(*args: Any) -> None:
        raise error

    monkeypatch.setattr(session, "evaluate", lack)
    planned = plan(tiny_config("supervised"))
    for refuse in (pipeline.check, lambda planned: pipeline.run(planned, Quiet())):
        with pytest.raises(BenchError, match=r"out of memory before the first step: lower protocol\.batch"):
            refuse(planned)


def test_a_missing_compiler_is_a_sentence_before_the_first_step(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    planned = plan(tiny_config("supervised", "machine.compile=true", "machine.device=cpu"))
    for refuse in (pipeline.check, lambda planned: pipeline.run(planned, Quiet())):
        with pytest.raises(
            MachineError, match=r"--compile needs a compiler, and there is none: install g\+\+"
        ):
            refuse(planned)
    assert MachineError.exit_code == 5
    pipeline.check(plan(tiny_config("supervised")))


def test_another_error_is_none_of_memory() -> None:
    with pytest.raises(RuntimeError, match="something"), memory_errors(lambda: "", ""):
        raise RuntimeError("something else")


def test_a_real_lack_of_memory_is_a_sentence() -> None:
    with pytest.raises(BenchError, match="out of memory here: less"), memory_errors(lambda: "here", "less"):
        torch.empty(2**60, dtype=torch.uint8)


def test_a_lack_of_memory_in_any_command_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lack(**options: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(cli, "app", lack)
    monkeypatch.setattr(sys, "argv", ["bench", "list"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1 and "out of memory here: lower" in capsys.readouterr().err
