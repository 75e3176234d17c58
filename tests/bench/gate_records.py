"""Finished runs made by hand, for the tests of the regression gate."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.records.folders import RunFolder
from bench.records.schema import Point, Result, Score

MIOUS = (0.515, 0.52, 0.525)  # of seeds 0, 1, 2: mean 0.52, spread 0.005


def score(miou: float) -> Score:
    return Score(miou=miou, classes_averaged=2, iou=[miou, miou], pixel_accuracy=0.9)


def record(
    root: Path,
    seed: int = 0,
    miou: float = 0.5,
    student: float | None = None,
    fill: Any = (0.2, 0.3),
    dirty: bool = False,
    commit: str | None = "c0ffee",
    loss: Sequence[float | None] = (),
    run_id: str = "0123abcd",
    **changes: Any,
) -> Path:
    """A finished run of four steps; its notes of the last two are `fill`."""
    method = changes.get("method", "u2pl")
    predicted = score(miou)
    fields: dict[str, Any] = {
        "run_id": run_id,
        "dataset": "tinyset",
        "split": "few",
        "method": method,
        "method_version": 1,
        "seed": seed,
        "protocol": "folder",
        "protocol_hash": "deadbeef",
        "steps": 4,
        "images": {"pixel": 4, "tags": 0, "none": 12, "eval": 4},
        "classes": ["a", "b"],
        "student": predicted if student is None else score(student),
        "predictor": predicted,
        "curve": [Point(step=4, miou=miou)],
        "train_seconds": 0.1,
        "eval_seconds": 0.2,
        "peak_memory_mib": 3.5,
        "split_digests": {"pixel": "x", "eval": "y"},
        "weights_digest": None,
        "config": {"method": {"name": method, "alpha": 0.2}},
    }
    result = Result(**{**fields, **changes})
    folder = RunFolder.of(root, result.dataset, result.split, "method", seed, run_id)
    folder.path.mkdir(parents=True, exist_ok=True)
    lines: list[dict[str, Any]] = [{"step": step, "lr": 1.0, "fill": [9, 9]} for step in (1, 2)]
    lines += [{"step": step, "lr": 1.0, "fill": list(fill), "none": None} for step in (3, 4)]
    for line, value in zip(lines, loss, strict=False):
        line["loss"] = value
    lines.append({"step": 4, "miou": miou})
    folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    folder.provenance.unlink(missing_ok=True)
    folder.add_provenance(
        {
            "time": f"2026-01-0{1 + seed}T00:00:00+00:00",
            "command": "bench run --config /tmp/sweep-a1b2/0.yaml --set x=/home/someone/file --resume",
            "python": "3.11.7",
            "versions": {"torch": "2.15.0"},
            "cpu": {"model": "a CPU", "cores": 2},
            "torch": {"threads": 1},
            "git": {"commit": commit, "dirty": dirty},
        }
    )
    folder.write_result(result)
    return folder.path


def three(root: Path, shift: float = 0.0, **changes: Any) -> Path:
    for seed, miou in enumerate(MIOUS):
        record(root, seed, miou + shift, **changes)
    return root
