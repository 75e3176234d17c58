"""Files that a run writes as it goes: metrics.jsonl and TensorBoard curves."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import ranks
from bench.errors import DataError
from bench.records.atomic import write_atomic, writing
from bench.records.folders import RunFolder
from bench.records.logs import whole_lines
from bench.records.schema import SHARES

MOST_WAITING = 200  # steps whose figures may be on the device


def kept_lines(path: Path, step: int, state: Mapping[str, Any]) -> list[bytes]:
    """Return the lines of a log to go on with from a step. `state` is as of `Log`.

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


@dataclass(frozen=True)
class _Row:
    """The figures of a step, on the device."""

    places: Mapping[str, tuple[torch.Size, bool]]  # in their order: the shape, and whether it is a note
    values: Tensor  # float32, one after the other


class Log:
    """Figures gather on the device and are read once per line, so that no step waits for them. Of several
    ranks a line has the mean."""

    def __init__(
        self,
        folder: RunFolder,
        step: int,
        tensorboard: bool,
        state: Mapping[str, Any] | None = None,
        writes: bool = True,
    ) -> None:
        """Lines past `step` are dropped: a killed run may have logged past its checkpoint.

        Args:
            state: What `state` gave at that step; None at the start, and from a checkpoint of before it.
            writes: False on ranks whose figures another one writes, with its own.

        Raises DataError where the log is damaged, or not the one that was written up to the step.
        """
        state = state or {}
        self.path = folder.metrics
        self.sums, self.counts = (
            {name: value.cpu().numpy() for name, value in state.get(key, {}).items()}
            for key in ("sums", "counts")
        )
        self.waiting: list[_Row] = []  # figures that are still on the device
        self.file: io.FileIO | None = None
        self.writer, self.events = None, folder.tensorboard
        lines = kept_lines(folder.metrics, step, state) if writes else []
        self.lines, self.digest = len(lines), hashlib.sha256(b"".join(lines))
        if not writes:
            return
        if folder.metrics.exists():
            write_atomic(folder.metrics, b"".join(lines))
        with writing(folder.metrics):
            # Without a buffer, which would fail again, and without a name, when it is closed on a full disk.
            self.file = open(folder.metrics, "ab", buffering=0)  # noqa: SIM115 (lives as long as the loop)
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            new = not self.events.exists()
            with writing(self.events):
                self.writer = SummaryWriter(str(self.events), purge_step=step + 1)
                for line in lines if new else ():  # of a warm-up that another run has trained
                    self._draw(json.loads(line))

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: figures since the last line, and which lines come before them."""
        self._read()
        if self.file is not None:
            with writing(self.path):
                os.fsync(self.file.fileno())  # or a power cut could leave the checkpoint and not the lines
        return {
            "sums": {name: torch.from_numpy(value) for name, value in _of_all_ranks(self.sums).items()},
            "counts": {name: torch.from_numpy(value) for name, value in _of_all_ranks(self.counts).items()},
            "lines": self.lines,
            "sha256": self.digest.hexdigest(),
        }

    def add(self, terms: dict[str, Tensor], notes: dict[str, Tensor]) -> None:
        """Add the figures of one step, each a scalar or C, one value per class.

        A loss that is NaN makes the mean of its line NaN: it is a fault. A note is NaN where there was
        nothing to count, and such a step is left out of its mean.
        """
        figures = terms | notes
        places = {name: (value.shape, name in notes) for name, value in figures.items()}
        # One tensor, since a GPU takes as long to start an operation on each as on all.
        values = torch.cat([value.reshape(-1).float() for value in figures.values()])
        self.waiting.append(_Row(places, values))
        if len(self.waiting) >= MOST_WAITING:
            self._read()

    def _read(self) -> None:
        """Add up what is still on the device, step by step; waits for it once."""
        if not self.waiting:
            return
        read = torch.cat([row.values for row in self.waiting]).cpu().numpy()
        begin = 0
        for row in self.waiting:
            for name, (shape, is_note) in row.places.items():
                value = read[begin : begin + shape.numel()].reshape(shape)
                begin += shape.numel()
                counted = np.isfinite(value) if is_note else np.ones(shape, np.bool_)
                value = np.where(counted, value, np.float32(0))
                self.sums[name] = np.asarray(self.sums[name] + value if name in self.sums else value)
                count = counted.astype(np.float32)
                self.counts[name] = np.asarray(self.counts[name] + count if name in self.counts else count)
        self.waiting = []

    def flush(self, line: dict[str, Any]) -> dict[str, float]:
        """Write the means since the last call behind `line`. Returns those that are scalars: a display has no
        room for one value per class."""
        self._read()
        sums, counts = _of_all_ranks(self.sums), _of_all_ranks(self.counts)
        with np.errstate(invalid="ignore"):  # nothing was counted: NaN
            means = {name: value.astype(np.float64) / counts[name] for name, value in sums.items()}
        figures: dict[str, Any] = {name: value.tolist() for name, value in means.items()}
        self.sums, self.counts = {}, {}
        self.write(line | {name: _without_nan(value) for name, value in figures.items()})
        return {name: value for name, value in figures.items() if not isinstance(value, list)}

    def write(self, line: dict[str, Any]) -> None:
        if self.file is None:
            return
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
        if self.file is not None:
            self.file.close()
        if self.writer is not None:
            with writing(self.events):
                self.writer.close()


def _of_all_ranks(held: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Compute the mean over the ranks, of each figure."""
    if ranks.count() == 1:
        return held
    every = ranks.of_all(held)
    means = {name: np.mean([part[name] for part in every], 0, held[name].dtype) for name in held}
    return {name: np.asarray(mean) for name, mean in means.items()}


def mean_shares(lines: Iterable[Mapping[str, Any]], warmup: int) -> dict[str, float]:
    """Compute the mean of each share in the log lines behind the warm-up: how much of a method was at work.

    A line counts for a share where it knows that share.
    """
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
