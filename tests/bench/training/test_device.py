"""What a run asks of its device: no GPU that it does not use, one place that sets it, checkpoints by time."""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.cuda._utils import _get_device_index
from torch.utils._python_dispatch import TorchDispatchMode

from bench import machine
from bench.contract import Progress, Supervision
from bench.display import Display
from bench.errors import BenchError, ConfigError
from bench.machine import Stop, any_shapes, peak_memory_mib, trying_out, use_device
from bench.pipeline import run
from bench.plan import plan
from bench.randomness import torch_seeded
from bench.records.folders import RunFolder
from bench.scoring.ahead import read_ahead, readers_for
from bench.settings import registry
from bench.settings.schema import RunConfig
from bench.testing.runs import Quiet
from bench.testing.waits import watched
from bench.training import checkpoint, session
from bench.training.metrics_log import MOST_WAITING, Log

Config = Callable[..., RunConfig]


def test_a_run_on_the_cpu_opens_no_gpu(tiny_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though there is one: seeds, loading with a worker, scoring and the record leave it closed."""

    def opened() -> None:
        raise AssertionError("a GPU is opened")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "_lazy_init", opened)
    with pytest.raises(AssertionError, match="a GPU is opened"):
        torch.cuda.current_device()
    sets = ("machine.device=cpu", "machine.workers=1", "protocol.steps=2", "cam_seeds.refine=none")
    result = run(plan(tiny_config("fixmatch", *sets, split="few+tags")), Display())
    assert result.predictor.miou >= 0


# One place that sets the device ---------------------------------------------------------------------------


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Stands for a GPU as far as `use_device` asks it: gives the calls that it gets."""
    calls: list[Any] = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: calls.append(_get_device_index(device)))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: calls.append("reset"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "T4")
    monkeypatch.delenv(machine.CUBLAS, raising=False)
    backends = torch.backends
    before = backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32
    yield calls
    backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32 = before
    os.environ.pop(machine.CUBLAS, None)
    torch.use_deterministic_algorithms(False)


def test_the_device_of_a_run_is_that_of_the_process(gpu: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(
        torch.cuda, "max_memory_allocated", lambda device=None: asked.append(device) or 3 * 2**20
    )
    use_device("cuda:1")
    assert gpu == [1, "reset"]
    use_device("cuda")  # which the launcher of several processes has chosen for each
    assert gpu == [1, "reset", "reset"]
    assert peak_memory_mib("cuda:1") == 3 and asked == ["cuda:1"]


@pytest.mark.parametrize(
    ("precision", "tf32"), [("fp32", False), ("tf32", True), ("bf16", False), ("fp16", False)]
)
def test_tf32_is_a_precision_of_its_own(
    precision: str, tf32: bool, gpu: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = not tf32
    use_device("cuda", precision)
    assert torch.backends.cudnn.allow_tf32 == torch.backends.cuda.matmul.allow_tf32 == tf32


def test_a_precision_that_the_device_has_not_is_refused(gpu: list[Any]) -> None:
    with pytest.raises(ConfigError, match=r"protocol.precision tf32 is not known to T4; use fp32 or fp16"):
        use_device("cuda", "tf32")
    for precision in ("tf32", "fp16"):
        with pytest.raises(ConfigError, match=rf"{precision} needs a CUDA device; use bf16 or fp32"):
            use_device("cpu", precision)


def test_the_word_for_tf32_moves_no_other_id(tiny_config: Config) -> None:
    ids = {plan(tiny_config("supervised", *sets)).run_id for sets in ((), ("protocol.precision=fp32",))}
    assert len(ids) == 1
    assert plan(tiny_config("supervised", "protocol.precision=tf32")).run_id not in ids


def test_deterministic_sets_what_cublas_needs_in_time(
    gpu: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(ConfigError, match=r"must be set before CUDA starts.*CUBLAS_WORKSPACE_CONFIG=:4096:8"):
        use_device("cuda", deterministic=True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    use_device("cuda", deterministic=True)
    assert os.environ[machine.CUBLAS] == ":4096:8" and torch.are_deterministic_algorithms_enabled()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    use_device("cuda", deterministic=True)  # a second run of the process
    use_device("cuda")
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_generator_of_the_gpu_in_use_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of that one alone, since no other is moved."""
    state, seen = {"one": 5}, []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: seen.append(device) or dict(state))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda found, device: state.update(found))
    monkeypatch.setattr(torch.cuda, "manual_seed", lambda seed: state.update(one=seed))
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("others are moved"))
    with torch_seeded(0, "init"):
        assert state["one"] != 5
    assert state["one"] == 5 and seen == [1]


def test_a_run_does_not_pay_for_the_one_before() -> None:
    use_device("cpu")
    before = peak_memory_mib("cpu")
    used = np.ones(2**27, np.uint8)
    assert peak_memory_mib("cpu") - before > 100
    del used
    use_device("cpu")
    assert peak_memory_mib("cpu") - before < 60


def test_images_of_many_sizes_are_neither_tried_out_nor_compiled_for() -> None:
    compiled = torch.compile(lambda x: x + torch.compiler.is_compiling(), backend="eager")
    with trying_out(each_shape=True):
        assert torch.backends.cudnn.benchmark
        with any_shapes(compiled=True):
            assert not torch.backends.cudnn.benchmark
            assert compiled(torch.zeros(1)).item() == 0
        assert torch.backends.cudnn.benchmark
        assert compiled(torch.zeros(1)).item() == 1
    assert not torch.backends.cudnn.benchmark


# Checkpoints ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sets", "steps"),
    [
        (("machine.checkpoint_minutes=1e-6",), [1, 2, 3, 4, 5]),
        (("machine.checkpoint_minutes=1000",), [5]),
        (("machine.checkpoint_minutes=1000", "machine.checkpoint_every=2"), [2, 4, 5]),
    ],
)
def test_checkpoints_come_by_time_or_by_steps(
    sets: tuple[str, ...], steps: list[int], tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, save = [], checkpoint.save
    monkeypatch.setattr(
        checkpoint, "save", lambda path, state: (saved.append(state["step"]), save(path, state))
    )
    run(plan(tiny_config("supervised", "protocol.steps=5", *sets)), Display())
    assert saved == steps


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_state_is_looked_through_at_once(bad: float, dtype: torch.dtype, tiny_config: Config) -> None:
    trainer = session.trainer_of(plan(tiny_config("supervised")), Quiet(), Stop())
    largest = torch.finfo(torch.float32).max
    good = [torch.full((3, 4), largest), torch.zeros(0), torch.ones(2).half(), torch.tensor([7])]
    with watched() as waits:
        trainer.refuse_non_finite(good)
    assert len(waits) == 1, waits
    with pytest.raises(BenchError, match="not finite"):
        trainer.refuse_non_finite([*good, torch.tensor([1.0, bad], dtype=dtype)])


# The log --------------------------------------------------------------------------------------------------


class Count(TorchDispatchMode):
    """Counts what starts a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "view" not in func.name():
            self.kernels.append(func.name())
        return func(*args, **(kwargs or {}))


def figures(step: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    terms = {"loss": torch.tensor(step + 0.1), "labeled": torch.tensor(0.3)}
    notes = {f"note{i}": torch.rand(3) if i % 2 else torch.tensor(math.nan) for i in range(20)}
    return terms, notes


def test_the_figures_of_a_step_are_one_tensor(tmp_path: Any) -> None:
    log = Log(RunFolder(tmp_path), 0, tensorboard=False)
    terms, notes = figures(0)
    with Count() as count:
        log.add(terms, notes)
    log.close()
    assert count.kernels == ["aten::cat"]


def test_figures_add_up_as_on_the_way(tmp_path: Any) -> None:
    """In single precision, one step after the other, whenever they are read."""
    for every in (1, 3, 1000):
        folder = RunFolder(tmp_path / str(every))
        folder.path.mkdir()
        log = Log(folder, 0, tensorboard=False)
        torch.manual_seed(0)
        total, note = torch.tensor(0.0), torch.zeros(3)
        steps = MOST_WAITING + 7
        for step in range(steps):
            terms, notes = figures(step)
            log.add(terms, notes)
            total, note = total + terms["loss"], note + notes["note1"]
            if step % every == every - 1:
                log.state()
        assert len(log.waiting) <= 7
        shown = log.flush({"step": steps})
        log.close()
        assert shown["loss"] == total.item() / steps and math.isnan(shown["note0"])
        written = json.loads(folder.metrics.read_text())
        assert written["note1"] == [value / steps for value in note.tolist()]


# Reading ahead --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_is_read_ahead_comes_in_its_order(device: str) -> None:
    main, threads = threading.get_ident(), set()

    def read(item: int) -> int:
        threads.add(threading.get_ident())
        if item == 7:
            raise BenchError("seven")
        return item * item

    assert list(read_ahead(read, iter(range(6)), device)) == [0, 1, 4, 9, 16, 25]
    assert main not in threads and len(threads) <= readers_for(device)
    seen = []
    with pytest.raises(BenchError, match="seven"):
        for found in read_ahead(read, range(100), device):
            seen.append(found)
    assert seen == [item * item for item in range(7)]


def test_a_reader_that_is_closed_reads_no_more() -> None:
    read: list[int] = []
    found = read_ahead(lambda item: read.append(item) or item, range(1000), "cpu")
    assert next(found) == 0
    found.close()
    assert len(read) <= 4


# Half precision -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", registry.method_names())
def test_no_term_is_added_up_in_half_precision(name: str, tiny_config: Config) -> None:
    """A sum over an image in bf16 stops growing at 256."""
    needs = registry.describe_method(name).needs
    split = "tags" if needs == {Supervision.TAGS} else "few+tags" if Supervision.TAGS in needs else "few"
    knobs = registry.describe_method(name).knobs.model_fields
    warm = ["method.warmup=0.0"] if "warmup" in knobs else []
    config = tiny_config(name, "protocol.precision=bf16", *warm, split=split)
    trainer = session.trainer_of(plan(config), Quiet(), Stop())
    made = trainer.batches
    made.seed_of = made.label_of = lambda id: made.dataset.image(id)[..., 0] // 128
    total, terms = trainer.train_step(made[0], Progress(0, 6, seed=0))
    assert total.isfinite() and {term.dtype for term in terms.values()} == {torch.float32}
    assert all(note.dtype != torch.bfloat16 for note in trainer.method.notes.values())
