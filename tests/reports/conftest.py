"""A factory of results; reports need no training to be tested."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from browsing import chromium
from playwright.sync_api import Browser

from bench.records.schema import Point, Result, Score

Factory = Callable[..., Result]

GRANTS = {
    "1_8": (46, 0, 321),
    "1_4": (92, 0, 275),
    "full": (367, 0, 0),
    "tags": (0, 367, 0),
    "1_8+tags": (46, 321, 0),
}


def _score(miou: float, classes_averaged: int, classes: int) -> Score:
    there = min(classes_averaged, classes)
    iou = [*[miou] * there, *[None] * (classes - there)]
    return Score(miou=miou, classes_averaged=classes_averaged, iou=iou, pixel_accuracy=0.9)


def _make(
    miou: float,
    *,
    method: str = "supervised",
    split: str = "1_8",
    seed: int = 0,
    curve: list[float] | None = None,
    student: float | None = None,
    knobs: dict[str, Any] | None = None,
    classes_averaged: int = 3,
    eval_digest: str = "e" * 64,
    pixel_digest: str | None = None,
    **fields: Any,
) -> Result:
    pixel, tags, none = GRANTS.get(split, (46, 0, 321))
    classes = fields.get("classes", ["road", "sky", "car"])
    values: dict[str, Any] = {
        "run_id": f"{method}-{split}-{seed}-{sorted((knobs or {}).items())}",
        "dataset": "camvid",
        "split": split,
        "method": method,
        "method_version": 1,
        "seed": seed,
        "protocol": "camvid_small",
        "protocol_hash": "abcdef0123456789",
        "steps": 100,
        "images": {"pixel": pixel, "tags": tags, "none": none, "eval": 233},
        "classes": classes,
        "student": _score(miou if student is None else student, classes_averaged, len(classes)),
        "predictor": _score(miou, classes_averaged, len(classes)),
        "curve": [Point(step=i, miou=m) for i, m in enumerate(curve if curve is not None else [miou])],
        "train_seconds": 50.0,
        "eval_seconds": 5.0,
        "peak_memory_mib": 512.0,
        "split_digests": {"pixel": pixel_digest or f"p-{split}", "eval": eval_digest},
        "weights_digest": "f" * 64,
        "config": {"method": knobs or {}},
    }
    return Result(**(values | fields))


@pytest.fixture(scope="session")
def make() -> Factory:
    """make(miou, method=..., split=..., seed=..., ...) -> Result."""
    return _make


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found
