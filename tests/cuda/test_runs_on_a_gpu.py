"""Whole runs on the GPU: the same bits twice and after a resume, scores as on the CPU, memory given back."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.errors import BenchError
from bench.pipeline import run
from bench.plan import plan
from bench.records.logs import read_metrics
from bench.records.schema import Result
from bench.scoring.inference import Inference, evaluate
from bench.settings.schema import RunConfig
from bench.testing.runs import Quiet
from bench.training.trainer import Trainer

Config = Callable[..., RunConfig]
SAME_BITS = ("machine.deterministic=true", "protocol.steps=6", "machine.checkpoint_every=2")
# A network of every decoder; dropout and pooling of theirs must have an order, too.
NETWORKS = {
    "deeplabv3plus": ("resnet18", "deeplabv3plus"),
    "deeplabv3plus_plain": ("resnet18", "deeplabv3plus_plain"),
    "unet": ("tf_efficientnet_lite0", "unet"),
    "segformer": ("mit_b0", "segformer"),
    "dpt": ("vit_tiny_patch16_224", "dpt"),
}


def into(config: RunConfig, out: Path) -> RunConfig:
    """The same run in another folder."""
    return config.model_copy(update={"machine": config.machine.model_copy(update={"out": str(out)})})


def bits(config: RunConfig) -> tuple[bytes, list[dict[str, Any]]]:
    folder = plan(config).folder
    return folder.weights.read_bytes(), read_metrics(folder.metrics)


def finished(config: RunConfig, **how: bool) -> Result:
    return run(plan(config), Quiet(), **how)


def test_the_same_bits_twice_and_after_a_resume(
    method: str, device: str, config_of: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(method, device, *SAME_BITS)
    first, again, resumed = (into(config, tmp_path / name) for name in ("first", "again", "resumed"))
    finished(first)
    finished(again)
    assert bits(first) == bits(again)
    step = Trainer.train_step

    def failing(trainer: Trainer, batch: Any, at: Any) -> Any:
        if at.step == 3 and trainer.plan.method.name == method:
            raise BenchError("pulled the plug")
        return step(trainer, batch, at)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", failing)
        with pytest.raises(BenchError, match="pulled the plug"):
            finished(resumed)
    finished(resumed, resume=True)
    assert bits(first) == bits(resumed)


@pytest.mark.parametrize("network", NETWORKS)
def test_every_decoder_gives_the_same_bits_twice(
    network: str, device: str, config_of: Config, tmp_path: Path
) -> None:
    encoder, decoder = NETWORKS[network]
    sets = [f"protocol.network.encoder={encoder}", f"protocol.network.decoder={decoder}"]
    sets += ["protocol.network.align_corners=true"] if network == "deeplabv3plus_plain" else []
    config = config_of("u2pl", device, *SAME_BITS, "protocol.steps=2", *sets)
    pair = [into(config, tmp_path / name) for name in ("one", "other")]
    for one in pair:
        finished(one)
    assert bits(pair[0]) == bits(pair[1])


@pytest.mark.parametrize(
    "sets",
    [("protocol.labeled_loss.name=ohem",), ("protocol.class_weights=inverse_sqrt", "protocol.dice=0.5")],
)
def test_losses_of_the_protocol_give_the_same_bits_twice(
    sets: tuple[str, ...], device: str, config_of: Config, tmp_path: Path
) -> None:
    config = config_of("supervised", device, *SAME_BITS, *sets, "protocol.labeled_loss.ohem_min_kept=100")
    pair = [into(config, tmp_path / name) for name in ("one", "other")]
    for one in pair:
        finished(one)
    assert bits(pair[0]) == bits(pair[1])


def test_deterministic_needs_nothing_from_the_environment(gpu: str, tmp_path: Path) -> None:
    words = ["run", "--method", "u2pl", "--dataset", "shapes", "--device", gpu, "--out", str(tmp_path)]
    words += ["--set", "protocol.steps=3", "--set", "machine.deterministic=true"]
    environment = {k: v for k, v in os.environ.items() if k != "CUBLAS_WORKSPACE_CONFIG"}
    done = subprocess.run(
        [sys.executable, "-m", "bench", *words], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_scores_are_those_of_the_cpu(device: str, trainer_of: Callable[..., Trainer]) -> None:
    trainer = trainer_of("supervised", device)
    inference = Inference(trainer.protocol.evaluation, trainer.protocol.crop)
    ids = trainer.plan.split.eval
    counts = [
        evaluate(trainer.method.net.to(place), trainer.dataset, ids, inference, place)
        for place in (device, "cpu")
    ]
    assert np.abs(counts[0] - counts[1]).sum() / 2 <= 1e-3 * counts[0].sum()


@pytest.mark.parametrize("refine", ["none", "par"])
@pytest.mark.parametrize("name", ["u2pl_weak", "fixmatch"])
def test_cam_seeds_and_what_learns_from_them(name: str, refine: str, device: str, config_of: Config) -> None:
    sets = (f"cam_seeds.refine={refine}", "machine.workers=1")
    result = finished(config_of(name, device, *sets, split="few+tags"))
    assert result.predictor.miou >= 0 and result.seed_cost is not None
    assert result.seed_cost.map_peak_memory_mib is not None and result.seed_cost.map_peak_memory_mib > 0


def test_memory_is_given_back_and_counted_anew(gpu: str, config_of: Config, tmp_path: Path) -> None:
    """Nothing of a run stays, and a large run before a small one does not show in its record."""

    def held() -> int:
        gc.collect()
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()

    small, large = config_of("fixmatch", gpu), config_of("fixmatch", gpu, "protocol.crop=[256, 256]")
    alone = finished(into(small, tmp_path / "alone"))
    before = held()
    peak = finished(into(large, tmp_path / "large")).peak_memory_mib
    after = finished(into(small, tmp_path / "after"))
    assert held() <= before
    assert after.peak_memory_mib == pytest.approx(alone.peak_memory_mib, rel=0.1)
    assert peak > 2 * alone.peak_memory_mib


def test_a_second_gpu_is_used_alone(gpu: str, config_of: Config) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU")
    torch.cuda.reset_peak_memory_stats(0)
    before = torch.cuda.max_memory_allocated(0)
    result = finished(config_of("u2pl", "cuda:1"))
    assert torch.cuda.current_device() == 1 and result.peak_memory_mib > 0
    assert torch.cuda.max_memory_allocated(0) == before


def test_a_run_on_the_cpu_leaves_the_gpu_closed(gpu: str, tmp_path: Path) -> None:
    said = (
        "import bench, torch\n"
        f"bench.run('fixmatch', 'shapes', '1_16', 0, device='cpu', out={str(tmp_path)!r}, "
        "set={'protocol.steps': 2})\n"
        "assert torch.cuda.is_available() and not torch.cuda.is_initialized()\n"
    )
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
