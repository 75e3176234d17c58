"""The teacher of the protocol: every method's student is averaged alike, kept, scored and resumed."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bench import pipeline
from bench.commands.run import _print_result
from bench.contract import Progress
from bench.display import Display
from bench.errors import BenchError, DataError, Interrupted
from bench.machine import Stop
from bench.networks import exported
from bench.plan import plan
from bench.records.logs import read_counts
from bench.records.schema import Result, Score, read_result
from bench.scoring.inference import Inference, evaluate, score
from bench.settings import registry
from bench.settings.schema import RunConfig
from bench.training import checkpoint, session
from bench.training.metrics_log import Log
from bench.training.trainer import Trainer

Config = Callable[..., RunConfig]
TEACHER = "protocol.teacher.decay=0.6"
STEPS = 6
LEARNS = (
    "protocol.steps=24",
    "protocol.optimizer.lr=0.02",
)  # enough that student and teacher answer otherwise


class Quiet(Display):
    """Shows nothing, and may send a signal once a step is trained."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__()
        self.stop_after, self.training = stop_after, False

    def say(self, text: str) -> None: ...

    def start(self, name: str, total: int, done: int = 0) -> None:
        self.training = name.startswith("train")

    def update(self, done: int, figures: Mapping[str, float] | None = None) -> None:
        if self.training and done == self.stop_after:
            signal.raise_signal(signal.SIGTERM)


def run(config: RunConfig, stop_after: int | None = None, resume: bool = False) -> Result:
    return pipeline.run(plan(config), Quiet(stop_after), resume)


def trainer_of(config: RunConfig) -> Trainer:
    return session.trainer_of(plan(config), Quiet(), Stop())


def floats(module: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in module.state_dict().items() if v.is_floating_point()}


@pytest.mark.parametrize(("ramp", "kept"), [("true", [0, 0.5, 0.6, 0.6]), ("false", [0.6] * 4)])
def test_it_is_the_moving_average_of_the_student(tiny_config: Config, ramp: str, kept: list[float]) -> None:
    trainer = trainer_of(tiny_config("supervised", TEACHER, f"protocol.teacher.ramp={ramp}"))
    assert trainer.teacher is not None
    mean = floats(trainer.method.net)
    for step, decay in enumerate(kept):
        trainer.train_step(trainer.batches[step], Progress(step, STEPS, seed=0))
        now = floats(trainer.method.net)
        mean = {key: decay * value + (1 - decay) * now[key] for key, value in mean.items()}
    found = floats(trainer.teacher.module)
    assert found.keys() == mean.keys()
    assert all(torch.allclose(found[key], mean[key], rtol=1e-4, atol=1e-6) for key in mean)
    assert not all(torch.allclose(found[key], now[key]) for key in mean)


def test_it_is_the_methods_own_where_their_rules_agree(tiny_config: Config) -> None:
    """Bit for bit, with the same decay and ramp."""
    trainer = trainer_of(tiny_config("fixmatch", TEACHER, "method.ema_decay=0.6"))
    for step in range(4):
        trainer.train_step(trainer.batches[step], Progress(step, STEPS, seed=0))
    ours, own = trainer.teacher.module.state_dict(), trainer.method.teacher.module.state_dict()  # type: ignore[union-attr]
    assert all(torch.equal(ours[key], own[key]) for key in own)


@pytest.mark.parametrize("method", ["supervised", "fixmatch"])
def test_it_is_the_headline_and_changes_no_training(tiny_config: Config, method: str) -> None:
    config = tiny_config(method, TEACHER, *LEARNS)
    result, made = run(config), plan(config)
    plain = run(tiny_config(method, *LEARNS))
    assert result.student == plain.student and result.own == plain.predictor, "the training has changed"
    assert (result.own == result.student) == (method == "supervised")
    assert result.predictor not in (result.student, result.own)
    assert result.curve[-1].miou == result.predictor.miou and result.protocol_hash != plain.protocol_hash
    assert result.config["protocol"]["teacher"] == {"decay": 0.6, "ramp": True}

    net = exported.read(made.folder.weights).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    data = registry.load_dataset("tinyset", Path(config.machine.data_root or ""))
    inference = Inference(config.protocol.evaluation, config.protocol.crop)
    assert score(evaluate(net, data, made.split.eval, inference, "cpu").sum(0)) == result.predictor
    counts = read_counts(made.folder.counts)
    for name, said in (("predictor", result.predictor), ("student", result.student), ("own", result.own)):
        assert score(counts[name].sum(0)) == said


def test_the_curve_is_of_the_headline(tiny_config: Config) -> None:
    flat = (TEACHER, *LEARNS, "protocol.schedule.power=0")
    long = run(tiny_config("supervised", *flat, "protocol.evaluation.every=16"))
    short = run(tiny_config("supervised", *flat, "protocol.steps=16"))
    assert long.curve[0].miou == short.predictor.miou != short.student.miou


@pytest.mark.parametrize("method", ["supervised", "u2pl"])
def test_stopped_and_resumed_is_bit_exact(tiny_config: Config, method: str) -> None:
    straight = tiny_config(method, TEACHER, f"machine.out={tiny_config(method).machine.out}-straight")
    config = tiny_config(method, TEACHER)
    whole = run(straight)
    for step in (1, 4):
        with pytest.raises(Interrupted):
            run(config, step, resume=True)
    assert checkpoint.load(plan(config).folder.checkpoint, "cpu")["teacher"]
    again = run(config, resume=True)
    assert plan(config).folder.weights.read_bytes() == plan(straight).folder.weights.read_bytes()
    assert (again.predictor, again.student, again.own) == (whole.predictor, whole.student, whole.own)


def test_a_checkpoint_of_before_it_goes_on(tiny_config: Config) -> None:
    config = tiny_config("fixmatch")
    with pytest.raises(Interrupted):
        run(config, 3)
    file = plan(config).folder.checkpoint
    state = checkpoint.load(file, "cpu")
    assert state.pop("teacher") is None
    checkpoint.save(file, state)
    assert run(config, resume=True).own is None


def test_a_teacher_that_is_not_finite_is_never_saved(tiny_config: Config) -> None:
    trainer = trainer_of(tiny_config("supervised", TEACHER))
    with trainer.folder.claimed(), closing(Log(trainer.folder, 0, tensorboard=False)) as log:
        trainer.save(log)
        trainer.teacher.module.segmentation_head.weight.data[0] = float("nan")  # type: ignore[union-attr]
        with pytest.raises(BenchError, match="weights are not finite"):
            trainer.save(log)
        assert checkpoint.load(trainer.folder.checkpoint, "cpu")["step"] == 0


def test_a_method_that_does_not_learn_to_segment_has_none(tiny_config: Config) -> None:
    config = tiny_config("classifier", TEACHER, "protocol.steps=2", split="tags")
    assert trainer_of(config).teacher is None
    assert run(config).own is None


# The record -----------------------------------------------------------------------------------------------


def test_a_record_without_it_is_what_it_was(tiny_config: Config) -> None:
    config = tiny_config("supervised", "protocol.steps=2")
    result = run(config)
    text = plan(config).folder.result.read_text()
    assert "own" not in json.loads(text) and not {"views", "teacher"} & result.config["protocol"].keys()
    assert read_result(plan(config).folder.result) == result


def test_a_record_with_scores_of_other_classes_is_refused(tiny_config: Config) -> None:
    config = tiny_config("supervised", "protocol.steps=2", TEACHER)
    run(config)
    file = plan(config).folder.result
    said = json.loads(file.read_text())
    said["own"]["iou"].append(0.5)
    file.write_text(json.dumps(said))
    with pytest.raises(DataError, match="as many values of iou"):
        read_result(file)


def test_the_end_of_a_run_shows_all_three(
    tiny_config: Config, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    result = run(tiny_config("supervised", "protocol.steps=2"))

    def printed(**changes: object) -> str:
        _print_result(result.model_copy(update=changes))
        return capsys.readouterr().out

    def of(miou: float) -> Score:
        return result.student.model_copy(update={"miou": miou})

    plain = printed()
    assert "published views" in plain and "student" not in plain and "own" not in plain
    said = printed(predictor=of(0.5), student=of(0.4), own=of(0.3))
    for row in ("of the protocol's teacher │ 50.0", "mIoU of the student", "the method's own predictor"):
        assert row in " ".join(said.split()), said
    assert "40.0" in said and "30.0" in said
    assert "own predictor" not in printed(predictor=of(0.5), student=of(0.4), own=of(0.4))
    equal = {**result.config, "protocol": {**result.config["protocol"], "views": "equal"}}
    assert "equal views" in printed(config=equal)
