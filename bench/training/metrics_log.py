"""What a run writes as it goes: metrics.jsonl and TensorBoard curves."""

from __future__ import annotations

import json
import math
from typing import Any

import torch
from torch import Tensor

from bench.records.atomic import write_atomic
from bench.records.folders import RunFolder


class Log:
    """Figures gather on the device and are read once per line, so that no step waits for them."""

    def __init__(self, folder: RunFolder, step: int, tensorboard: bool) -> None:
        """Lines past `step` are dropped: a killed run may have logged past its checkpoint."""
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}
        if folder.metrics.exists():
            lines = [line for line in folder.metrics.read_text().splitlines() if _step_of(line) <= step]
            write_atomic(folder.metrics, "".join(line + "\n" for line in lines).encode())
        self.file = open(folder.metrics, "a")  # noqa: SIM115 (lives as long as the training loop)
        self.writer = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(folder.tensorboard), purge_step=step + 1)

    def add(self, terms: dict[str, Tensor], notes: dict[str, Tensor]) -> None:
        """Add the figures of one step, each a scalar or C, one value per class.

        A loss that is NaN makes the mean of its line NaN: it is a fault. A note is NaN where there was
        nothing to count, and such a step is left out of its mean.
        """
        for name, value in (terms | notes).items():
            counted = value.isfinite() if name in notes else torch.ones_like(value, dtype=torch.bool)
            value = value.float().where(counted, 0)
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts[name] + counted if name in self.counts else counted.float()

    def flush(self, line: dict[str, Any]) -> dict[str, float]:
        """Write the means since the last call behind `line`. Returns those that are scalars: a display has no
        room for one value per class."""
        sums, counts = torch.stack(
            [torch.cat([value.flatten() for value in held.values()]) for held in (self.sums, self.counts)]
        ).tolist()
        means = iter(value / count if count else math.nan for value, count in zip(sums, counts, strict=True))
        figures = {
            name: [next(means) for _ in range(len(value))] if value.dim() else next(means)
            for name, value in self.sums.items()
        }
        self.sums, self.counts = {}, {}
        self.write(line | {name: _without_nan(value) for name, value in figures.items()})
        return {name: value for name, value in figures.items() if not isinstance(value, list)}

    def write(self, line: dict[str, Any]) -> None:
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        if self.writer is not None:
            for name, value in line.items():
                each = {f"{name}/{i}": one for i, one in enumerate(value)} if isinstance(value, list) else {}
                for tag, one in (each or {name: value}).items():
                    if tag != "step" and one is not None:
                        self.writer.add_scalar(tag, one, line["step"])

    def close(self) -> None:
        self.file.close()
        if self.writer is not None:
            self.writer.close()


def _without_nan(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, list):
        return [_without_nan(one) for one in value]
    return value if math.isfinite(value) else None


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return float("inf")  # a line torn by a kill
