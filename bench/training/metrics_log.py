"""What a run writes as it goes: metrics.jsonl and TensorBoard curves."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.errors import DataError
from bench.records.atomic import write_atomic, writing
from bench.records.folders import RunFolder
from bench.records.logs import whole_lines


def kept_lines(path: Path, step: int, state: Mapping[str, Any]) -> list[bytes]:
    """The lines of a log to go on with from a step; `state` is as of `Log`.

    Raises DataError where the log is damaged, or not the one that was written up to the step.
    """
    lines = [(text + b"\n", at) for text, at in whole_lines(path)]
    if "lines" not in state or not path.exists():
        return [text for text, at in lines if at <= step]
    kept = [text for text, _ in lines[: state["lines"]]]
    if hashlib.sha256(b"".join(kept)).hexdigest() != state["sha256"]:
        raise DataError(
            f"{path} is damaged: it is not the log that was written up to step {step}; move the file away, "
            "and the run goes on with a log that begins there."
        )
    return kept


class Log:
    """Figures gather on the device and are read once per line, so that no step waits for them."""

    def __init__(
        self, folder: RunFolder, step: int, tensorboard: bool, state: Mapping[str, Any] | None = None
    ) -> None:
        """Lines past `step` are dropped: a killed run may have logged past its checkpoint.

        Args:
            state: What `state` gave at that step; None at the start, and from a checkpoint of before it.

        Raises DataError where the log is damaged, or not the one that was written up to the step.
        """
        state = state or {}
        self.path = folder.metrics
        self.sums: dict[str, Tensor] = dict(state.get("sums", {}))
        self.counts: dict[str, Tensor] = dict(state.get("counts", {}))
        lines = kept_lines(folder.metrics, step, state)
        self.lines, self.digest = len(lines), hashlib.sha256(b"".join(lines))
        if folder.metrics.exists():
            write_atomic(folder.metrics, b"".join(lines))
        with writing(folder.metrics):
            # Without a buffer, which would fail again, and without a name, when it is closed on a full disk.
            self.file = open(folder.metrics, "ab", buffering=0)  # noqa: SIM115 (lives as long as the loop)
        self.writer, self.events = None, folder.tensorboard
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            new = not self.events.exists()
            with writing(self.events):
                self.writer = SummaryWriter(str(self.events), purge_step=step + 1)
                for line in lines if new else ():  # of a warm-up that another run has trained
                    self._draw(json.loads(line))

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: the figures since the last line, and which lines come before them."""
        with writing(self.path):
            os.fsync(self.file.fileno())  # or a power cut could leave the checkpoint and not the lines
        return {
            "sums": self.sums,
            "counts": self.counts,
            "lines": self.lines,
            "sha256": self.digest.hexdigest(),
        }

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
        text = (json.dumps(line) + "\n").encode()
        with writing(self.path):
            left = memoryview(text)
            while left:  # a disk that is about full takes a part
                left = left[self.file.write(left) :]
        self.lines += 1
        self.digest.update(text)
        if self.writer is not None:
            with writing(self.events):
                self._draw(line)

    def _draw(self, line: dict[str, Any]) -> None:
        assert self.writer is not None
        for name, value in line.items():
            each = {f"{name}/{i}": one for i, one in enumerate(value)} if isinstance(value, list) else {}
            for tag, one in (each or {name: value}).items():
                if tag != "step" and one is not None:
                    self.writer.add_scalar(tag, one, line["step"])

    def close(self) -> None:
        self.file.close()
        if self.writer is not None:
            with writing(self.events):
                self.writer.close()


SHARES = ("share_", "gradient_share/")  # how the figures begin that a result keeps the means of


def mean_shares(lines: Iterable[Mapping[str, Any]], warmup: int) -> dict[str, float]:
    """The mean of each share in the log lines behind the warm-up, a share where it is known: how much of a
    method was at work."""
    found: dict[str, list[float]] = {}
    for line in lines:
        for name, value in line.items() if line["step"] > warmup else ():
            if name.startswith(SHARES) and isinstance(value, float | int):
                found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in sorted(found.items())}


def _without_nan(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, list):
        return [_without_nan(one) for one in value]
    return value if math.isfinite(value) else None
