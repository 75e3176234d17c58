"""What an image may take of the memory: asked once for a run, reckoned for each image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.errors import ConfigError
from bench.networks.segmenter import Segmenter
from bench.scoring.alone import SMALLEST
from bench.scoring.inference import Inference
from bench.scoring.memory import MEMORY, Memory
from bench.scoring.model import Model
from bench.scoring.tiles import GIB, PROCESS_BYTES, pixels_at_once
from bench.settings.schema import Evaluation


@pytest.fixture(scope="module")
def model() -> Model:
    net = Segmenter(SMALLEST, 3)
    palette = np.zeros((3, 3), np.uint8)
    return Model(("a", "b", "c"), palette, Path("net"), "0", "cpu", net, Inference(Evaluation(), (32, 32)))


def test_the_free_memory_of_a_gpu_is_asked_once(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        torch.cuda, "mem_get_info", lambda device: asked.append(device) or (8 * GIB // (len(asked)), 0)
    )
    memory = Memory(replace(model, device="cuda:1"), None, 1.0)
    first = memory.pixels((4000, 6000), 0)
    assert first == memory.pixels((4000, 6000), 10**9) == pixels_at_once(4 * GIB, 0, 3, 1.0)
    assert asked == ["cuda:1"] and memory.said == "half of the GPU's free memory"
    assert Memory(replace(model, device="cuda"), 2.0, 1.0).said == "2 GiB" and len(asked) == 1


def test_the_weights_are_looked_through_once(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    state = model.net.state_dict()
    looked = []
    monkeypatch.setattr(model.net, "state_dict", lambda: looked.append(1) or state)
    memory = Memory(model, None, 1.0)
    weights = sum(tensor.nbytes for tensor in state.values())
    held = PROCESS_BYTES + 2 * weights + 4 * 200 + 7
    assert memory.pixels((10, 20), 7) == memory.pixels((20, 10), 7)
    assert memory.pixels((10, 20), 7) == pixels_at_once(MEMORY * GIB, held, 3, 1.0)
    assert len(looked) == 1
    with pytest.raises(ConfigError, match=r"--memory 2 is too little"):
        memory.pixels((10**4, 10**5), 0)
