"""Real steps of a protocol, on batches that are made here: what the measurements of steps share."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.contract import Batch, Dataset, Stream, Supervision
from bench.display import Display
from bench.machine import Stop
from bench.plan import Plan
from bench.records.folders import RunFolder
from bench.settings.registry import describe_method
from bench.settings.resolve import resolve
from bench.settings.schema import RunConfig
from bench.training import session
from bench.training.trainer import Trainer
from datasets.splits import Split
from datasets.tags import tag_digest

CLASSES, BATCH, CROP = 11, 4, 96


class Blank(Dataset):
    """Looked at before the first step, and no more: the batches are made here."""

    name = "blank"
    classes = tuple(f"class {i}" for i in range(CLASSES))

    def ids(self, listing: str) -> tuple[str, ...]:
        raise NotImplementedError

    def image(self, id: str) -> np.ndarray:
        return np.zeros((CROP, CROP, 3), np.uint8)

    def mask(self, id: str) -> np.ndarray:
        return np.repeat(np.arange(CROP, dtype=np.uint8)[:, None] % CLASSES, CROP, axis=1)

    def tags(self, id: str) -> tuple[int, ...]:
        return (1, 2)


def trainer_of(
    method: str,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    crop: int = CROP,
    protocol: str = "camvid",
    batch_size: int = BATCH,
) -> Trainer:
    """Of a protocol; its clipping is left out, since the bare step has none."""
    sets = [
        "protocol.network.weights=none",
        f"protocol.crop=[{crop}, {crop}]",
        f"protocol.batch={{labeled: {batch_size}, unlabeled: {batch_size}}}",
        "protocol.clip=null",
        "machine.threads=1",
        "machine.device=cpu",
    ]
    config: RunConfig = resolve({"dataset": protocol, "split": "1_8", "method": {"name": method}}, None, sets)
    monkeypatch.setattr("bench.settings.registry.load_dataset", lambda name, root: Blank())
    ids = tuple(f"{i}" for i in range(2 * batch_size))
    tagged = Supervision.TAGS in describe_method(method).needs
    split = Split("blank", "1_8", pixel=ids, tags=(), none=ids, eval=ids)
    if tagged:
        said = tag_digest(dict.fromkeys(ids, (1, 2)), None)
        split = replace(split, pixel=(), tags=ids, none=(), tag_digest=said)
    plan = Plan(config, describe_method(method), split, split.digests, "0" * 8, RunFolder(out))
    return session.trainer_of(plan, Display(), Stop())


def ready_batch(crop: int = CROP, size: int = BATCH) -> Batch:
    """Three streams: the unlabeled one with two strong views, and a box of each."""
    generator = torch.Generator().manual_seed(0)

    def stream(labeled: bool) -> Stream:
        image, strong, other = torch.rand(3, size, 3, crop, crop, generator=generator)
        label = torch.randint(CLASSES, (size, crop, crop), generator=generator)
        tags = torch.rand(size, CLASSES, generator=generator) < 0.5
        valid = torch.ones(size, crop, crop, dtype=torch.bool)
        box = torch.zeros_like(valid)
        box[:, : crop // 2, : crop // 2] = True
        ids = tuple(map(str, range(size)))
        if labeled:
            return Stream(ids, image, valid, label=label, tags=tags)
        return Stream(
            ids, image, valid, label, torch.ones_like(tags), strong=(strong, other), boxes=(box, box.flip(2))
        )

    return Batch(labeled=stream(True), tagged=stream(True), unlabeled=stream(False))


def bare_parts(trainer: Trainer) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A copy of the network and an optimizer of the same kind, as one would set them up by hand."""
    net = copy.deepcopy(trainer.method.net)
    group = trainer.optimizer.param_groups[0]
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=group["lr"], weight_decay=group["weight_decay"], fused=True
    )
    return net, optimizer


def channels_last(image: Tensor) -> Tensor:
    return image.contiguous(memory_format=torch.channels_last)


def void(value: object) -> None:
    """Drop the answer, and the graph with it."""
