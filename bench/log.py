"""What a run writes as it goes: metrics.jsonl and TensorBoard curves."""

from __future__ import annotations

import json
import math
from typing import Any

import torch
from torch import Tensor

from bench.files import write_atomic
from bench.store import RunFolder


class Log:
    """Figures gather on the device and are read once per line, so that no step waits for them."""

    def __init__(self, folder: RunFolder, step: int, tensorboard: bool) -> None:
        """Lines past `step` are dropped: a killed run may have logged past its checkpoint."""
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        if folder.metrics.exists():
            lines = [line for line in folder.metrics.read_text().splitlines() if _step_of(line) <= step]
            write_atomic(folder.metrics, "".join(line + "\n" for line in lines).encode())
        self.file = open(folder.metrics, "a")  # noqa: SIM115 (lives as long as the training loop)
        self.writer = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(folder.tensorboard), purge_step=step + 1)

    def add(self, figures: dict[str, Tensor]) -> None:
        for name, value in figures.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1

    def flush(self, line: dict[str, Any]) -> dict[str, float]:
        """The means since the last call, written behind `line` and returned."""
        values = torch.stack([value.float() for value in self.sums.values()]).tolist()
        means = {name: value / self.counts[name] for name, value in zip(self.sums, values, strict=True)}
        self.sums, self.counts = {}, {}
        # JSON has no NaN.
        self.write(line | {name: value if math.isfinite(value) else None for name, value in means.items()})
        return means

    def write(self, line: dict[str, Any]) -> None:
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        if self.writer is not None:
            for name, value in line.items():
                if name != "step" and value is not None:
                    self.writer.add_scalar(name, value, line["step"])

    def close(self) -> None:
        self.file.close()
        if self.writer is not None:
            self.writer.close()


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return float("inf")  # a line torn by a kill
