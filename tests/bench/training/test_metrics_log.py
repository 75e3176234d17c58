"""Lines of figures: means over the steps, without NaN, and the same as curves."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

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
