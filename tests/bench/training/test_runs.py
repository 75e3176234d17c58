"""A run: what it leaves behind, and that stopping, resuming and the number of workers change nothing."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from bench import machine, pipeline
from bench.contract import Progress
from bench.display import Display
from bench.errors import BenchError, ConfigError, DataError, Interrupted
from bench.labels import LABEL_SECONDS
from bench.networks.segmenter import Segmenter
from bench.networks.weights import load_weights
from bench.plan import Plan, plan
from bench.records.folders import RunFolder
from bench.records.logs import read_counts
from bench.records.schema import Result, read_result
from bench.scoring.inference import Inference, evaluate, score
from bench.settings import registry
from bench.settings.schema import Network, RunConfig
from bench.training import checkpoint, session, trainer

CHECKOUT = Path(__file__).resolve().parents[3]
FILES = {
    "config.yaml",
    "contents.json",
    "provenance.json",
    "metrics.jsonl",
    "result.json",
    "counts.npz",
    "weights.safetensors",
    "samples.json",
    "samples",
}
Config = Callable[..., RunConfig]


def slow(*value: Any) -> Any:
    """A case that the quick tests leave to the slow ones, since another of its kind is among them."""
    return pytest.param(*value, marks=pytest.mark.slow)


class Quiet(Display):
    """Shows nothing, keeps what was said, and may send a signal once a step is trained or an image scored."""

    def __init__(self, stop_after: tuple[str, int] | None = None, number: int = signal.SIGTERM) -> None:
        super().__init__()
        self.stop_after, self.number = stop_after, number
        self.said: list[str] = []
        self.activity = ""

    def say(self, text: str) -> None:
        self.said.append(text)

    def start(self, name: str, total: int, done: int = 0) -> None:
        self.activity = name.split()[0] if name.startswith("train") else name

    def update(self, done: int, figures: Mapping[str, float] | None = None) -> None:
        if self.stop_after == (self.activity, done):
            signal.raise_signal(self.number)


def run(config: RunConfig, stop_after: tuple[str, int] | None = None, **options: bool) -> Result:
    return pipeline.run(plan(config), Quiet(stop_after), **options)


def weights_of(config: RunConfig) -> bytes:
    """The tensors of the kept network; what the file says beside them, as the scoring, is left out."""
    state = load_file(plan(config).folder.weights)
    return b"".join(name.encode() + state[name].numpy().tobytes() for name in sorted(state))


def lines_of(folder: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in folder.metrics.read_text().splitlines()]


def names_in(folder: RunFolder) -> set[str]:
    return {path.name for path in folder.path.iterdir()} - {".lock"}


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """plug_in(body) offers the method `plugged`, supervised training with `body` instead of its losses."""

    def offer(body: str) -> str:
        (tmp_path / "plugged_method.py").write_text(
            '"""A method of a test."""\n\nfrom bench.contract import Method\n\n\n'
            f"class Plugged(Method):\n    def losses(self, batch, at):\n{body}\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "plugged_method", raising=False)
        point = EntryPoint("plugged", "plugged_method:Plugged", "bench.methods")
        monkeypatch.setattr(
            registry, "entry_points", lambda group: [point] if group == "bench.methods" else []
        )
        return "plugged"

    return offer


# What a run leaves behind


def test_a_run_writes_what_the_design_names(tiny_config: Config) -> None:
    config = tiny_config("fixmatch", "protocol.evaluation.every=2", "machine.tensorboard=true")
    result = run(config)
    folder = plan(config).folder
    assert names_in(folder) == {*FILES, "tensorboard"}, "and no checkpoint once it is done"
    assert any(folder.tensorboard.iterdir())
    assert read_result(folder.result) == result

    counts = read_counts(folder.counts)
    assert counts["ids"].tolist() == [f"test_{i:02d}" for i in range(4)]
    assert counts["predictor"].shape == (4, 3, 3)
    for module in ("predictor", "student"):
        assert score(counts[module].sum(0)) == getattr(result, module)
    assert counts["predictor"].sum() == 4 * 39 * 40, "every pixel but the row of 255"

    assert [point.step for point in result.curve] == [2, 4, 6]
    assert result.curve[-1].miou == result.predictor.miou
    assert [line["step"] for line in lines_of(folder) if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines_of(folder) if "miou" in line] == [2, 4]
    assert {"loss", "labeled", "unlabeled", "mask_ratio", "lr"} <= lines_of(folder)[0].keys()
    assert [entry["first_step"] for entry in folder.read_provenance()] == [0]
    assert folder.config.read_text() == plan(config).config.to_yaml()
    assert result.images == {"pixel": 4, "tags": 0, "none": 12, "eval": 4} and result.steps == 6
    assert result.protocol_hash == config.protocol.hash and result.run_id in folder.path.name


def test_a_run_records_how_long_its_labels_take(tiny_config: Config, tiny_root: Path, tmp_path: Path) -> None:
    assert run(tiny_config("supervised", "protocol.steps=1")).label_seconds == LABEL_SECONDS | {
        "pixel": 240.0,
        "tags": 20.0,
    }
    shutil.copytree(tiny_root, tmp_path / "data")
    (tmp_path / "data" / "tinyset" / "label_seconds.json").write_text('{"pixel": 5400}')
    own = [f"machine.data_root={tmp_path / 'data'}", f"machine.out={tmp_path / 'own'}"]
    found = run(tiny_config("supervised", "protocol.steps=1", *own))
    assert found.label_seconds == LABEL_SECONDS | {"pixel": 5400.0, "tags": 20.0}


def test_the_curve_is_of_the_weights_at_its_step(tiny_config: Config) -> None:
    """A score at step 3 is that of a run of 3 steps, where no schedule tells the two apart."""
    flat = ("protocol.schedule.power=0", "machine.out={out}")
    out = tiny_config("supervised").machine.out
    long = run(
        tiny_config("supervised", *[s.format(out=out + "l") for s in flat], "protocol.evaluation.every=3")
    )
    short = run(tiny_config("supervised", *[s.format(out=out + "s") for s in flat], "protocol.steps=3"))
    assert long.curve[0].miou == short.predictor.miou


def test_the_exported_weights_are_the_predictor(tiny_config: Config) -> None:
    """Its scores come back from the file alone."""
    config = tiny_config("fixmatch")
    result, made = run(config), plan(config)
    with safe_open(made.folder.weights, "pt") as file:
        about = json.loads(file.metadata()["frugalseg"])
    assert about["classes"] == ["background", "square", "stripe"]
    net = Segmenter(Network.model_validate_json(json.dumps(about["network"])), 3)
    net.load_state_dict(load_file(made.folder.weights))
    data = registry.load_dataset("tinyset", Path(config.machine.data_root or ""))
    inference = Inference(config.protocol.evaluation, config.protocol.crop)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert score(evaluate(net, data, made.split.eval, inference, "cpu").sum(0)) == result.predictor


def test_the_result_is_written_last(tiny_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config("supervised")
    seen: list[set[str]] = []
    write = RunFolder.write_result

    def spy(folder: RunFolder, result: Result) -> None:
        seen.append(names_in(folder))
        write(folder, result)

    monkeypatch.setattr(RunFolder, "write_result", spy)
    run(config)
    assert seen == [(FILES | {"checkpoint.pt", "checkpoint.pt.sha256.json"}) - {"result.json"}]


def test_a_finished_run_is_left_as_it_is(tiny_config: Config) -> None:
    config = tiny_config("supervised")
    first = run(config)
    folder = plan(config).folder
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    display = Quiet()
    assert pipeline.run(plan(config), display) == first
    assert display.said == [f"already done: {folder.path}"]
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before


def test_overwrite_runs_again_to_the_same_weights(tiny_config: Config) -> None:
    config = tiny_config("fixmatch")
    first, weights = run(config), weights_of(config)
    plan(config).folder.weights.unlink()
    again = run(config, overwrite=True)
    assert weights_of(config) == weights and again.predictor == first.predictor
    assert [line["step"] for line in lines_of(plan(config).folder)] == [1, 2, 3, 4, 5, 6]


def test_overwrite_drops_an_interrupted_run(tiny_config: Config) -> None:
    config = tiny_config("supervised")
    with pytest.raises(Interrupted):
        run(config, ("train", 3))
    display = Quiet()
    pipeline.run(plan(config), display, overwrite=True)
    assert display.said == [], "nothing was resumed"


def test_seeds_differ_and_methods_of_one_seed_start_alike(tiny_config: Config) -> None:
    zero, one = tiny_config("supervised"), tiny_config("supervised", seed=1)
    run(zero), run(one)
    assert weights_of(zero) != weights_of(one)
    nets = []
    for method in ("supervised", "fixmatch"):
        trainer = session.trainer_of(plan(tiny_config(method)), Quiet(), machine.Stop())
        nets.append((trainer.method.net.state_dict(), trainer.batches[0].labeled))
    (first, first_batch), (second, second_batch) = nets
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert first_batch.ids == second_batch.ids and torch.equal(first_batch.image, second_batch.image)


# Stopping and resuming


@pytest.fixture(scope="module")
def references() -> dict[str, bytes]:
    return {}


@pytest.fixture
def straight(tiny_config: Config, references: dict[str, bytes]) -> Callable[..., bytes]:
    """The weights of an uninterrupted run with these settings."""

    def weights(method: str, *sets: str) -> bytes:
        key = " ".join((method, *sets))
        if key not in references:
            config = tiny_config(method, *sets, f"machine.out={tiny_config(method).machine.out}-straight")
            run(config)
            references[key] = weights_of(config)
        return references[key]

    return weights


@pytest.mark.parametrize("step", [1, slow(2), slow(3), 4, slow(5)])
def test_stopped_after_any_step_and_resumed_is_bit_exact(
    tiny_config: Config, straight: Callable[..., bytes], step: int
) -> None:
    config = tiny_config("fixmatch")
    with pytest.raises(Interrupted, match="stopped by SIGTERM"):
        run(config, ("train", step))
    folder = plan(config).folder
    assert not folder.result.exists()
    assert checkpoint.load(folder.checkpoint, "cpu")["step"] == step
    run(config, resume=True)
    assert weights_of(config) == straight("fixmatch")
    assert [line["step"] for line in lines_of(folder)] == [1, 2, 3, 4, 5, 6]
    assert [entry["first_step"] for entry in folder.read_provenance()] == [0, step]


@pytest.mark.parametrize("workers", [0, slow(2)])
def test_stopped_several_times_is_bit_exact(
    tiny_config: Config, straight: Callable[..., bytes], workers: int
) -> None:
    config = tiny_config("fixmatch", f"machine.workers={workers}")
    for step in (1, 2, 5):
        with pytest.raises(Interrupted):
            run(config, ("train", step), resume=True)
    run(config, resume=True)
    assert weights_of(config) == straight("fixmatch")
    assert [line["step"] for line in lines_of(plan(config).folder)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "method",
    [name if name == "u2pl" else slow(name) for name in registry.method_names() if name != "fixmatch"],
)
def test_every_method_resumes_bit_exactly(
    tiny_config: Config, straight: Callable[..., bytes], method: str
) -> None:
    if "tags" in registry.describe_method(method).needs:
        pytest.skip("the tiny set grants no tags")
    config = tiny_config(method)
    for step in (2, 5):
        with pytest.raises(Interrupted):
            run(config, ("train", step), resume=True)
    run(config, resume=True)
    assert weights_of(config) == straight(method)


@pytest.mark.parametrize(
    "stop",
    [
        slow(("train", 2)),
        ("train", 3),
        slow(("score curve", 1)),
        slow(("score curve", 4)),
        ("score predictor", 2),
    ],
)
def test_a_curve_goes_on_where_it_was(
    tiny_config: Config, straight: Callable[..., bytes], stop: tuple[str, int]
) -> None:
    """Stopped in training, in an evaluation for the curve, or while the last weights are scored."""
    sets = ("protocol.evaluation.every=2",)
    whole = run(tiny_config("fixmatch", *sets, f"machine.out={tiny_config('fixmatch').machine.out}-whole"))
    config = tiny_config("fixmatch", *sets)
    with pytest.raises(Interrupted):
        run(config, stop)
    folder = plan(config).folder
    assert folder.checkpoint.exists(), "no step is lost"
    result = run(config, resume=True)
    assert result.curve == whole.curve and result.predictor == whole.predictor
    assert [line["step"] for line in lines_of(folder) if "miou" in line] == [2, 4]
    assert [line["step"] for line in lines_of(folder) if "loss" in line] == [1, 2, 3, 4, 5, 6]


def test_a_line_logged_past_the_checkpoint_is_not_kept_twice(
    tiny_config: Config, straight: Callable[..., bytes]
) -> None:
    """A kill leaves lines of steps that are trained again, and a line torn in the middle."""
    config = tiny_config("fixmatch")
    with pytest.raises(Interrupted):
        run(config, ("train", 3))
    folder = plan(config).folder
    with open(folder.metrics, "a") as file:
        file.write('{"step": 4, "loss": 9}\n{"step": 5, "lo')
    run(config, resume=True)
    assert [line["step"] for line in lines_of(folder)] == [1, 2, 3, 4, 5, 6]
    assert weights_of(config) == straight("fixmatch")


def test_resume_without_anything_to_resume_is_an_ordinary_run(
    tiny_config: Config, straight: Callable[..., bytes]
) -> None:
    config = tiny_config("fixmatch")
    run(config, resume=True)
    assert weights_of(config) == straight("fixmatch")


def test_an_interrupted_run_is_not_touched_without_resume(tiny_config: Config) -> None:
    config = tiny_config("supervised")
    with pytest.raises(Interrupted):
        run(config, ("train", 3))
    folder = plan(config).folder
    before = {path: path.read_bytes() for path in folder.path.iterdir()}
    with pytest.raises(ConfigError, match="holds an interrupted run; give --resume to go on or --overwrite"):
        run(config)
    assert {path: path.read_bytes() for path in folder.path.iterdir()} == before


def test_a_damaged_run_says_what_to_remove(tiny_config: Config) -> None:
    config = tiny_config("supervised")
    with pytest.raises(Interrupted):
        run(config, ("train", 3))
    folder = plan(config).folder
    whole = folder.checkpoint.read_bytes()
    for file, damage, words in (
        ("config.yaml", b"seed: 0\n", r"config.yaml: dataset is missing"),
        ("config.yaml", b"seed: [", r"config.yaml is not valid YAML"),
        ("config.yaml", None, r"cannot read .*config.yaml"),
        ("checkpoint.pt", b"torn", r"checkpoint.pt is damaged"),
        ("checkpoint.pt", whole[:-100], r"checkpoint.pt is damaged"),
        ("provenance.json", b"[{", r"provenance.json is damaged"),
    ):
        path = folder.path / file
        sound = path.read_bytes()
        path.unlink()
        if damage is not None:
            path.write_bytes(damage)
        said = rf"(?s){words}.*[Rr]emove the folder {folder.path}, and run it again"
        with pytest.raises(DataError, match=said):
            run(config, resume=True)
        path.write_bytes(sound)
    assert run(config, resume=True).steps == 6, "nothing else of it has changed"


def test_a_folder_of_another_configuration_is_refused(tiny_config: Config) -> None:
    """A renamed folder: first its config.yaml tells, then, where that was edited as well, its checkpoint."""
    other, config = tiny_config("supervised", seed=1), tiny_config("supervised")
    with pytest.raises(Interrupted):
        run(other, ("train", 3))
    folder = plan(config).folder
    plan(other).folder.path.rename(folder.path)
    with pytest.raises(ConfigError, match=r"config.yaml is another configuration than the one asked for"):
        run(config, resume=True)
    folder.config.write_text(config.to_yaml())
    with pytest.raises(ConfigError, match=r"checkpoint.pt belongs to run"):
        run(config, resume=True)
    assert checkpoint.load(folder.checkpoint, "cpu")["step"] == 3


def test_a_folder_in_use_is_refused(tiny_config: Config) -> None:
    config = tiny_config("supervised")
    with plan(config).folder.claimed(), pytest.raises(ConfigError, match=r"is in use by process \d+ on "):
        run(config)
    run(config)


def test_a_run_is_held_while_its_seeds_are_made(tiny_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a second sweep would start it too, and both would wait for the seeds."""
    planned = plan(tiny_config("supervised", split="tags"))
    seen: list[str | None] = []

    def make(*given: Any) -> None:
        seen.append(planned.folder.holder())
        raise Interrupted("enough")

    monkeypatch.setattr("bench.pipeline.make_seeds", make)
    with pytest.raises(Interrupted, match="enough"):
        pipeline.run(planned, Display())
    assert seen == [f"process {os.getpid()} on {socket.gethostname()}"]
    assert planned.folder.holder() is None


def test_a_later_signal_ends_the_process_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that comes at the heels of the first is the same wish."""
    now = 100.0
    monkeypatch.setattr(machine.time, "monotonic", lambda: now)
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with machine.stoppable() as stop:
        signal.raise_signal(signal.SIGINT)
        now += machine.REPEAT_SECONDS - 0.1
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal == signal.SIGINT
        now += 0.2
        with pytest.raises(SystemExit) as caught:
            signal.raise_signal(signal.SIGTERM)
    assert caught.value.code == 128 + signal.SIGTERM
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


# Real signals to a real process


def started(config: RunConfig, tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    file = tmp_path / "config.yaml"
    file.write_text(config.to_yaml())
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "bench", "run", "--config", str(file), *arguments],
        cwd=CHECKOUT,
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def wait_for_lines(folder: RunFolder, lines: int, process: subprocess.Popen[str]) -> None:
    for _ in range(6000):
        if folder.metrics.exists() and len(folder.metrics.read_text().splitlines()) >= lines:
            return
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.02)
    raise AssertionError("no line was logged")


LONG = ("protocol.steps=60", "machine.workers=1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "whole_group"), [(signal.SIGTERM, False), (signal.SIGINT, True), (signal.SIGTERM, True)]
)
def test_a_signal_ends_the_step_saves_and_exits_75(
    tiny_config: Config,
    straight: Callable[..., bytes],
    tmp_path: Path,
    number: int,
    whole_group: bool,
) -> None:
    """To the process alone, or with its loading workers, as a terminal or a scheduler sends it."""
    config = tiny_config("fixmatch", *LONG)
    folder = plan(config).folder
    process = started(config, tmp_path)
    wait_for_lines(folder, 3, process)
    (os.killpg if whole_group else os.kill)(process.pid, number)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 75, said
    assert f"stopped by {signal.Signals(number).name}" in said and "--resume" in said
    assert "Traceback" not in said
    step = checkpoint.load(folder.checkpoint, "cpu")["step"]
    assert step == len(lines_of(folder)) >= 3, "every step that was trained is saved"
    run(config, resume=True)
    assert weights_of(config) == straight("fixmatch", *LONG)


@pytest.mark.slow
@pytest.mark.parametrize("draw", range(3))
def test_killed_at_a_random_moment_and_resumed_is_bit_exact(
    tiny_config: Config, straight: Callable[..., bytes], tmp_path: Path, draw: int
) -> None:
    config = tiny_config("fixmatch", *LONG, "machine.checkpoint_every=2")
    folder = plan(config).folder
    process = started(config, tmp_path)
    wait_for_lines(folder, 1 + 7 * draw, process)
    time.sleep(random.Random(draw).uniform(0, 0.3))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert not folder.result.exists()
    run(config, resume=True)
    assert weights_of(config) == straight("fixmatch", *LONG)
    assert [line["step"] for line in lines_of(folder)] == list(range(1, 61))
    assert not list(folder.path.glob(".*.tmp"))


# Losses that are not finite

SUPERVISED = """
        logits = self.net(batch.labeled.image)
        terms = {'labeled': self.task.labeled_loss(logits, batch.labeled.label)}
"""


def finite(folder: RunFolder) -> bool:
    state = checkpoint.load(folder.checkpoint, "cpu")["method"]
    return all(bool(value.isfinite().all()) for value in state.values())


def test_nan_weights_end_the_run_and_are_never_saved(
    tiny_config: Config, plug_in: Callable[[str], str]
) -> None:
    poison = (
        "        if at.step == 3:\n            self.net.segmentation_head.weight.data[0] = float('nan')\n"
    )
    name = plug_in(poison + SUPERVISED + "        return terms")
    sets = ("protocol.steps=40", "machine.checkpoint_every=1", "machine.log_every=1")
    config = tiny_config(name, *sets)
    with pytest.raises(
        BenchError, match=r"not finite by step 4; stopped \(the last good state is in .*point.pt\)"
    ):
        run(config)
    folder = plan(config).folder
    assert checkpoint.load(folder.checkpoint, "cpu")["step"] == 3 and finite(folder)
    assert not folder.result.exists()


def test_a_loss_that_stays_nan_ends_the_run_after_a_few_steps(
    tiny_config: Config, plug_in: Callable[[str], str]
) -> None:
    """The weights stay finite here (the term has no gradient), so only the loss tells."""
    extra = "        if at.step >= 3:\n            terms['bad'] = terms['labeled'].detach() * float('nan')\n"
    name = plug_in(SUPERVISED + extra + "        return terms")
    config = tiny_config(name, "protocol.steps=40", "machine.checkpoint_every=1")
    with pytest.raises(BenchError, match="not finite by step 8"):
        run(config)
    folder = plan(config).folder
    assert checkpoint.load(folder.checkpoint, "cpu")["step"] == 7 and finite(folder)
    assert lines_of(folder)[-1]["bad"] is None, "JSON has no NaN"


def test_a_single_bad_loss_is_survived(tiny_config: Config, plug_in: Callable[[str], str]) -> None:
    extra = "        if at.step in (1, 3, 4):\n            terms['bad'] = terms['labeled'].detach() / 0\n"
    name = plug_in(SUPERVISED + extra + "        return terms")
    assert run(tiny_config(name)).steps == 6


def test_nan_without_a_checkpoint_says_that_none_is_saved(
    tiny_config: Config, plug_in: Callable[[str], str]
) -> None:
    name = plug_in(SUPERVISED + "        return {'labeled': terms['labeled'] * float('nan')}")
    config = tiny_config(name)
    with pytest.raises(BenchError, match="none saved"):
        run(config)
    assert names_in(plan(config).folder) == {
        "config.yaml",
        "contents.json",
        "provenance.json",
        "metrics.jsonl",
    }


# Protocol settings reach the run


def test_no_number_of_workers_changes_the_weights(
    tiny_config: Config, straight: Callable[..., bytes]
) -> None:
    for workers in (1, 2):
        config = tiny_config(
            "fixmatch",
            f"machine.workers={workers}",
            f"machine.out={tiny_config('fixmatch').machine.out}{workers}",
        )
        run(config)
        assert weights_of(config) == straight("fixmatch")


@pytest.mark.parametrize(
    "change",
    [
        "precision=bf16",
        "clip=0.01",
        "labeled_loss={name: ohem, ohem_min_kept: 50}",
        "optimizer={name: sgd, lr: 0.01}",
        "schedule={warmup_steps: 3}",
    ],
)
def test_a_setting_of_the_protocol_changes_the_training(
    tiny_config: Config, straight: Callable[..., bytes], change: str
) -> None:
    config = tiny_config("supervised", f"protocol.{change}")
    assert config.protocol.hash != tiny_config("supervised").protocol.hash
    result = run(config)
    assert np.isfinite(result.predictor.miou) and weights_of(config) != straight("supervised")
    assert {value.dtype for value in load_file(plan(config).folder.weights).values()} == {
        torch.float32,
        torch.int64,
    }


def test_sliding_windows_change_the_score_and_not_the_training(
    tiny_config: Config, straight: Callable[..., bytes]
) -> None:
    sets = ("protocol.steps=12", "protocol.optimizer.lr=0.02")
    weights = straight("supervised", *sets)
    out = tiny_config("supervised").machine.out
    whole = run(tiny_config("supervised", *sets, f"machine.out={out}-straight"))
    windows = "protocol.evaluation={mode: slide, window: [16, 16]}"
    config = tiny_config("supervised", *sets, windows)
    assert run(config).predictor != whole.predictor
    assert weights_of(config) == weights


def test_clip_bounds_the_gradient(tiny_config: Config) -> None:
    config = tiny_config("supervised", "protocol.clip=0.01")
    trainer = session.trainer_of(plan(config), Quiet(), machine.Stop())
    trainer.train_step(trainer.batches[0], Progress(0, 6, 0))
    squares = [(p.grad**2).sum() for p in trainer.method.parameters() if p.grad is not None]
    assert float(torch.stack(squares).sum().sqrt()) == pytest.approx(0.01, rel=1e-3)


def test_fp16_is_refused_on_a_cpu(tiny_config: Config) -> None:
    config = tiny_config("supervised", "protocol.precision=fp16", "machine.device=cpu")
    with pytest.raises(ConfigError, match=r"protocol.precision fp16 needs a CUDA device; use bf16 or fp32"):
        run(config)


@pytest.mark.parametrize(
    ("device", "said"), [("gpu", "unknown device 'gpu'"), ("cuda:0", "torch sees no CUDA device")]
)
def test_a_device_that_is_not_there_is_refused(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch, device: str, said: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=said):
        run(tiny_config("supervised", f"machine.device={device}"))


def test_ungranted_masks_are_never_opened(tiny_config: Config, tmp_path: Path, tiny_root: Path) -> None:
    """The masks of the unlabeled images are poisoned: the run is the same to the bit."""
    import shutil

    clean = tiny_config("fixmatch", f"machine.out={tmp_path}/clean")
    run(clean)
    root = tmp_path / "poisoned"
    shutil.copytree(tiny_root, root)
    made: Plan = plan(clean)
    for id in made.split.none:
        (root / "tinyset" / "labels" / f"{id}.png").write_bytes(b"poison")
    config = tiny_config("fixmatch", f"machine.data_root={root}")
    run(config)
    assert weights_of(config) == weights_of(clean)


def test_out_of_memory_is_a_sentence(tiny_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(trainer.Trainer, "train_step", full)
    with pytest.raises(BenchError, match=r"out of memory at step 0: lower protocol\.batch"):
        run(tiny_config("supervised"))


def test_overwrite_removes_nothing_before_the_run_can_start(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config("supervised")
    run(config)
    folder = plan(config).folder
    before = folder.result.read_bytes()
    monkeypatch.setattr(
        registry, "load_dataset", lambda *_: (_ for _ in ()).throw(DataError("no such folder"))
    )
    with pytest.raises(DataError):
        run(config, overwrite=True)
    assert folder.result.read_bytes() == before


def test_a_run_is_named_by_the_content_of_its_weights_file(tiny_config: Config, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    change = f"protocol.network.weights={file}"
    with pytest.raises(DataError, match="no weights file"):
        plan(tiny_config("supervised", change))
    file.write_bytes(b"one")
    first = plan(tiny_config("supervised", change)).run_id
    file.write_bytes(b"two")
    assert plan(tiny_config("supervised", change)).run_id != first


def test_a_record_does_not_say_where_a_weights_file_lies(tiny_config: Config, tmp_path: Path) -> None:
    """Else two labs with one file would have two protocols, and a published result the paths of a machine."""
    weights = load_weights("package:efficientnet_lite0", "tf_efficientnet_lite0")
    assert weights is not None
    places = [tmp_path / name / f"{name}.safetensors" for name in ("here", "there")]
    for place in places:
        place.parent.mkdir()
        save_file({name: value.contiguous() for name, value in weights.state.items()}, place)
    network = ["protocol.network.encoder=tf_efficientnet_lite0", "protocol.steps=1"]
    here, there = (tiny_config("supervised", *network, f"protocol.network.weights={at}") for at in places)
    assert (plan(here).run_id, here.protocol.hash) == (plan(there).run_id, there.protocol.hash)

    result = run(here)
    folder = plan(here).folder
    assert result.config["protocol"]["network"]["weights"] == "file"
    for file in (folder.result, folder.weights):
        assert str(tmp_path).encode() not in file.read_bytes(), file
    assert str(places[0]) in folder.config.read_text()  # which a run goes on from


def test_a_note_of_one_step_is_not_logged_again(tiny_config: Config, plug_in: Callable[[str], str]) -> None:
    extra = "        if at.step == 1:\n            self.note('once', terms['labeled'])\n"
    config = tiny_config(plug_in(SUPERVISED + extra + "        return terms"))
    run(config)
    assert [line["step"] for line in lines_of(plan(config).folder) if "once" in line] == [2]


@pytest.mark.parametrize("classes", [255, 256])
def test_more_classes_than_a_mask_holds_are_refused(classes: int) -> None:
    """The border of every data set; the folder of a user's own refuses them before that."""
    if classes == 255:
        session._check_classes("many", classes)
        return
    with pytest.raises(
        ConfigError, match=r"many has 256 classes, but a mask holds at most 255.*classes\.txt"
    ):
        session._check_classes("many", classes)


# Figures for the log


def test_a_line_of_several_steps_holds_their_means(tiny_config: Config, tmp_path: Path) -> None:
    """The last line of a run may be of fewer. What a line covers changes no bit of the weights."""
    each, third = (
        tiny_config("fixmatch", "protocol.steps=7", f"machine.log_every={n}", f"machine.out={tmp_path}/{n}")
        for n in (1, 3)
    )
    run(each), run(third)
    assert weights_of(each) == weights_of(third)
    single, lines = lines_of(plan(each).folder), lines_of(plan(third).folder)
    assert [line["step"] for line in lines] == [3, 6, 7]
    for line, steps in zip(lines, (single[:3], single[3:6], single[6:]), strict=True):
        for name in ("loss", "labeled", "unlabeled", "mask_ratio"):
            assert line[name] == pytest.approx(sum(step[name] for step in steps) / len(steps), rel=1e-5), name
        assert line["lr"] == steps[-1]["lr"]


def test_a_note_is_a_scalar_or_one_value_per_class(
    tiny_config: Config, plug_in: Callable[[str], str]
) -> None:
    """The tiny set has three classes. A line holds the mean over the steps in which a figure is finite."""
    extra = (
        "        import torch\n        nan = float('nan')\n"
        "        self.note('some', torch.tensor(nan if at.step % 2 else float(at.step)))\n"
        "        self.note('each', torch.tensor([at.step, nan, at.step if at.step == 4 else nan]))\n"
    )
    config = tiny_config(plug_in(SUPERVISED + extra + "        return terms"), "machine.log_every=3")
    run(config)
    lines = [(line["some"], line["each"]) for line in lines_of(plan(config).folder)]
    assert lines == [(1, [1, None, None]), (4, [4, None, 4])]


def test_a_note_of_another_shape_is_refused(tiny_config: Config, plug_in: Callable[[str], str]) -> None:
    extra = "        self.note('pair', batch.labeled.image[0, 0, 0, :2])\n"
    with pytest.raises(ValueError, match=r"'pair' has the shape \(2,\).* each of the 3 classes"):
        run(tiny_config(plug_in(SUPERVISED + extra + "        return terms")))


AUDITED = """
        def figure(truth):
            assert batch.truth is None and not torch.is_grad_enabled()
            assert all(p.grad is not None for p in self.net.segmentation_head.parameters())
            return torch.stack([(truth == c).sum() for c in range(3)])
        if at.step < 2:
            self.audit('pixels', figure)
        self.audit('known', lambda truth: (truth != 255).float().mean() + 0 * torch.rand(()))
        return terms

    def after_step(self, at):
        self.net.segmentation_head.bias.data += 0.1 * torch.rand(())
"""


def test_an_audit_is_logged_where_it_is_allowed(
    tiny_config: Config, tmp_path: Path, plug_in: Callable[[str], str]
) -> None:
    name = plug_in(SUPERVISED + AUDITED)
    module = tmp_path / "plugged_method.py"
    needs = "\n    needs = frozenset({Supervision.PIXEL, Supervision.NONE})\n"
    module.write_text(
        module.read_text()
        .replace("import Method", "import Method, Supervision\nimport torch")
        .replace("(Method):", f"(Method):{needs}")
    )
    configs = [
        tiny_config(
            name, f"machine.audit={audit}", f"machine.workers={workers}", f"machine.out={tmp_path}/{n}"
        )
        for n, (audit, workers) in enumerate([("false", 0), ("true", 0), ("true", 2)])
    ]
    for config in configs:
        run(config)
    shut, opened, by_workers = (lines_of(plan(config).folder) for config in configs)
    assert not any({"known", "pixels"} & line.keys() for line in shut)
    assert opened == by_workers
    assert [line["step"] for line in opened if "pixels" in line] == [1, 2], "cleared after each step"
    for line, plain in zip(opened, shut, strict=True):
        assert 0 < line.pop("known") <= 1 and sum(line.pop("pixels", [1])) <= 2 * 32 * 32
        assert line == plain, "a figure that draws moves no stream"


def test_an_audit_needs_every_mask_and_says_so(tiny_config: Config, tiny_root: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_root, tmp_path / "copy")
    for path in (copy / "tinyset" / "labels").glob("train_1*.png"):
        path.unlink()
    sets = (f"machine.data_root={copy}", "machine.workers=1")
    assert run(tiny_config("fixmatch", *sets)).steps == 6
    with pytest.raises(DataError, match=r"train_1\d.png .*does not exist.*only an audit \(machine.audit\)"):
        run(tiny_config("fixmatch", *sets, "machine.audit=true"), overwrite=True)


def test_an_interrupted_run_may_go_on_with_an_audit(
    tiny_config: Config, straight: Callable[..., bytes]
) -> None:
    with pytest.raises(Interrupted):
        run(tiny_config("fixmatch"), ("train", 3))
    config = tiny_config("fixmatch", "machine.audit=true")
    run(config, resume=True)
    assert weights_of(config) == straight("fixmatch")
    lines = lines_of(plan(config).folder)
    assert [line["step"] for line in lines if "accuracy_kept" in line] == [4, 5, 6]
