"""Lines of figures: means over the steps, without NaN, and the same as curves."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.errors import DataError
from bench.records.folders import RunFolder
from bench.records.logs import read_metrics
from bench.training.metrics_log import Log

NAN, INF = math.nan, math.inf


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    (tmp_path / "run").mkdir()
    return RunFolder(tmp_path / "run")


def figures(**values: Any) -> dict[str, Tensor]:
    return {name: torch.tensor(value) for name, value in values.items()}


def test_a_line_holds_means_over_its_own_steps(folder: RunFolder) -> None:
    log = Log(folder, 0, tensorboard=False)
    log.add(figures(loss=1.0), figures(once=7, each=[1.0, 2.0]))
    log.add(figures(loss=2.0), figures(each=[3.0, 4.0]))
    assert log.flush({"step": 2}) == {"loss": 1.5, "once": 7}, "a display has no room for one value per class"
    log.add(figures(loss=5.0), figures(each=[0.0, 1.0]))
    log.flush({"step": 3, "lr": 0.1})
    log.close()
    assert read_metrics(folder.metrics) == [
        {"step": 2, "loss": 1.5, "once": 7, "each": [2, 3]},
        {"step": 3, "lr": 0.1, "loss": 5, "each": [0, 1]},
    ]


def test_steps_without_a_value_are_left_out_of_a_notes_mean(folder: RunFolder) -> None:
    log = Log(folder, 0, tensorboard=False)
    for some, each in ((NAN, [1.0, NAN, NAN]), (4.0, [NAN, NAN, 3.0]), (INF, [2.0, NAN, 5.0])):
        log.add(figures(loss=1.0), figures(some=some, none=NAN, each=each))
    shown = log.flush({"step": 3})
    assert shown["some"] == 4 and math.isnan(shown["none"])
    log.close()
    (line,) = read_metrics(folder.metrics)
    assert line == {"step": 3, "loss": 1, "some": 4, "none": None, "each": [1.5, None, 4]}


@pytest.mark.parametrize("bad", [NAN, INF])
def test_a_bad_loss_is_not_hidden(folder: RunFolder, bad: float) -> None:
    """Only a note may have nothing to say: a term that is not finite once shows in its line."""
    log = Log(folder, 0, tensorboard=False)
    for value in (1.0, bad, 2.0):
        log.add(figures(loss=value), {})
    assert not math.isfinite(log.flush({"step": 3})["loss"])
    log.close()
    assert read_metrics(folder.metrics) == [{"step": 3, "loss": None}]
    assert "NaN" not in folder.metrics.read_text()


def test_figures_of_any_type_add_up(folder: RunFolder) -> None:
    log = Log(folder, 0, tensorboard=False)
    for _ in range(300):
        log.add(
            {"loss": torch.tensor(1.0, dtype=torch.bfloat16)},
            {"pixels": torch.tensor([200, 0]), "all": torch.tensor(True)},
        )
    log.flush({"step": 300})
    log.close()
    assert read_metrics(folder.metrics) == [{"step": 300, "loss": 1, "pixels": [200, 0], "all": 1}]


def test_curves_hold_the_same_with_the_class_in_the_name(folder: RunFolder) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = Log(folder, 0, tensorboard=True)
    log.add(figures(loss=1.5), figures(none=NAN, each=[0.5, NAN, 2.0]))
    log.flush({"step": 4})
    log.close()
    events = EventAccumulator(str(folder.tensorboard)).Reload()
    found = {
        tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }
    assert found == {"loss": [(4, 1.5)], "each/0": [(4, 0.5)], "each/2": [(4, 2.0)]}


def test_lines_past_the_step_and_torn_ones_are_dropped(folder: RunFolder) -> None:
    folder.metrics.write_text('{"step": 1}\n{"step": 2}\n{"st')
    Log(folder, 1, tensorboard=False).close()
    assert [json.loads(line) for line in folder.metrics.read_text().splitlines()] == [{"step": 1}]


# Going on ---------------------------------------------------------------------------------------------------


def gathered(log: Log, step: int) -> None:
    terms = {"loss": torch.tensor(1 / (step + 1))}
    notes = figures(each=[step / 3, NAN if step % 2 else 0.1]) | (
        figures(some=0.7 * step) if step > 2 else {}
    )
    log.add(terms, notes)
    if step % 4 == 0:
        log.flush({"step": step})


@pytest.mark.parametrize("stop", range(1, 10))
def test_the_figures_of_a_line_survive_a_stop_inside_it(folder: RunFolder, tmp_path: Path, stop: int) -> None:
    whole = RunFolder(tmp_path / "whole")
    whole.path.mkdir()
    log = Log(whole, 0, tensorboard=False)
    for step in range(1, 11):
        gathered(log, step)
    log = Log(folder, 0, tensorboard=False)
    for step in range(1, stop + 1):
        gathered(log, step)
    torch.save(log.state(), tmp_path / "state.pt")  # as a checkpoint keeps it
    for step in range(stop + 1, 11):  # killed later: trained again
        gathered(log, step)
    log.close()
    log = Log(folder, stop, False, torch.load(tmp_path / "state.pt", weights_only=True))
    for step in range(stop + 1, 11):
        gathered(log, step)
    assert folder.metrics.read_bytes() == whole.metrics.read_bytes()


def test_a_line_of_the_same_step_that_came_after_the_state_is_dropped(folder: RunFolder) -> None:
    """As the score of an evaluation that a kill follows: it is written again."""
    log = Log(folder, 0, tensorboard=False)
    log.write({"step": 2, "loss": 1.0})
    state = log.state()
    log.write({"step": 2, "miou": 0.5})
    log.close()
    Log(folder, 2, False, state).close()
    assert folder.metrics.read_text() == '{"step": 2, "loss": 1.0}\n'


WHOLE = '{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.25}\n'
TORN = ["", "{", '{"st', '{"step": 3', '{"step": 3, "lo', '{"step": 3, "loss": 0.1', "\0\0"]
TORN += ['{"step": 3\0\0\0', '{"step": 3}\0']


@pytest.mark.parametrize("torn", TORN)
def test_a_last_line_that_a_kill_has_torn_is_cut(folder: RunFolder, torn: str) -> None:
    folder.metrics.write_text(WHOLE + torn)
    Log(folder, 2, tensorboard=False).close()
    assert folder.metrics.read_text() == WHOLE


DAMAGED = [
    (b"\xff  not UTF-8", 1),
    (b"\xff\n" + WHOLE.encode(), 1),
    (WHOLE.encode() + b"[1]\n", 3),
    (WHOLE.encode() + b"[1]", 3),
    (WHOLE.encode() + b'{"step": "x"}\n', 3),
    (WHOLE.encode() + b'{"step": "x"}', 3),
    (WHOLE.encode() + b'{"step": 3, "loss": 0.1\n', 3),
    (WHOLE.encode() + b'{"step": 3, "na\xc3', 3),
    (WHOLE.encode() + b"null\n", 3),
    (WHOLE.encode() + b"\n", 3),
    (WHOLE.encode() + b"[" * 100_000, 3),
    (WHOLE.encode().replace(b', "loss": 0.5}', b', "lo'), 1),
    (WHOLE.encode().replace(b'{"step": 1', b'{"step": 1.5'), 1),
    (b"\0" * 50 + b"\n" + WHOLE.encode(), 1),
]


@pytest.mark.parametrize(("data", "line"), DAMAGED)
def test_a_damaged_log_is_a_sentence_with_the_line(folder: RunFolder, data: bytes, line: int) -> None:
    folder.metrics.write_bytes(data)
    with pytest.raises(
        DataError, match=rf"{folder.metrics}, line {line} is damaged; move the file away, and"
    ):
        Log(folder, 2, tensorboard=False)
    assert folder.metrics.read_bytes() == data


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.replace(b"0.5", b"0.7"),
        lambda data: data.replace(b"loss", b"lose"),
        lambda data: data[: data.index(b"\n") + 1],
        lambda data: b"",
        lambda data: data.replace(b'"step": 2', b'"step": 9'),
    ],
)
def test_a_log_that_is_not_what_was_written_is_a_sentence(folder: RunFolder, change: Any) -> None:
    """A changed digit, or a lost line, is JSON all the same."""
    log = Log(folder, 0, tensorboard=False)
    for line in WHOLE.splitlines():
        log.write(json.loads(line))
    state = log.state()
    log.close()
    folder.metrics.write_bytes(change(folder.metrics.read_bytes()))
    with pytest.raises(DataError, match=rf"{folder.metrics} is damaged: .*up to step 2; move the file away"):
        Log(folder, 2, False, state)
    folder.metrics.unlink()
    log = Log(folder, 2, False, state)
    log.write({"step": 3})
    state = log.state()
    log.close()
    Log(folder, 3, False, state).close()
    assert folder.metrics.read_text() == '{"step": 3}\n'
