"""A data set of a few small images on disk, and a protocol that trains on it in a second."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bench.settings.registry import describe_method
from bench.settings.resolve import resolve
from bench.settings.schema import RunConfig
from datasets.folder import Folder
from datasets.splits import Split
from datasets.splits_make import FROM_RECORD, write_split
from datasets.tags import tag_digest

TRAIN, TEST, SIZE = 16, 4, 40


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    # Another number of threads sums in another order: bit-exact comparisons need the same one everywhere.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_data_root(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Tests must not depend on what the caller's environment points to, unless they ask for it."""
    if "real_data" not in request.fixturenames:
        monkeypatch.delenv("BENCH_DATA", raising=False)


def make_tiny(root: Path) -> None:
    """root/tinyset: bright squares (class 1) and dark stripes (class 2) on grey ground (class 0)."""
    folder = root / "tinyset"
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = {
        "train": [f"train_{i:02d}" for i in range(TRAIN)],
        "test": [f"test_{i:02d}" for i in range(TEST)],
    }
    for name in [*names["train"], *names["test"]]:
        mask = np.zeros((SIZE, SIZE), np.uint8)
        lacks = {"train_06": 1, "train_09": 1, "train_10": 2, "train_13": 2}.get(name)
        for label in (1, 2):
            y, x = rng.integers(0, SIZE - 16, 2)
            if label != lacks:
                mask[y : y + 16, x : x + 16] = label
        mask[0] = 255
        image = rng.integers(90, 130, (SIZE, SIZE, 3))
        image[mask == 1] += 90
        image[mask == 2] -= 80
        Image.fromarray(image.astype(np.uint8)).save(folder / "images" / f"{name}.png")
        Image.fromarray(mask).save(folder / "labels" / f"{name}.png")
    for listing, ids in names.items():
        (folder / f"{listing}.txt").write_text("\n".join(ids) + "\n")
    (folder / "classes.txt").write_text("background\nsquare\nstripe\n")
    train, test = tuple(names["train"]), tuple(names["test"])
    table = {id: classes_in(folder, id) for id in train}
    (folder / "tags.json").write_text(json.dumps(table))
    for split in (
        Split("tinyset", "few", pixel=train[:4], tags=(), none=train[4:], eval=test),
        Split("tinyset", "full", pixel=train, tags=(), none=(), eval=test),
        Split("tinyset", "tags", pixel=(), tags=train, none=(), eval=test),
        Split("tinyset", "few+tags", pixel=train[:4], tags=train[4:], none=(), eval=test),
    ):
        if split.tags:
            said = tag_digest({id: table[id] for id in split.tags}, background=0)
            split = replace(split, tag_source=FROM_RECORD, tag_digest=said)
        write_split(folder / "splits" / split.name, split, {"rule": "first come"})


def classes_in(folder: Path, id: str) -> list[int]:
    """The classes of an image of the tiny set, background left out."""
    mask = np.array(Image.open(folder / "labels" / f"{id}.png"))
    return [label for label in (1, 2) if (mask == label).any()]


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root that holds `tinyset` with splits `few` (4 labeled, 12 unlabeled), `full`, `tags` (16
    tagged) and `few+tags` (4 labeled, 12 tagged). Read only."""
    root = tmp_path_factory.mktemp("data")
    make_tiny(root)
    return root


@pytest.fixture
def tiny_set(tiny_root: Path) -> Folder:
    return Folder(tiny_root / "tinyset", "tinyset")


TINY_PROTOCOL: dict[str, Any] = {
    "network": {
        "encoder": "tiny",
        "decoder": "unet",
        "weights": "none",
        "decoder_channels": 16,
        "representation_channels": 8,
    },
    "crop": [32, 32],
    "resize": [0.75, 1.5],
    "batch": {"labeled": 2, "unlabeled": 2},
    "steps": 6,
    "optimizer": {"name": "adamw", "lr": 1e-3, "head_multiple": 1.0, "weight_decay": 1e-4},
}


@pytest.fixture
def tiny_config(tiny_root: Path, tmp_path: Path) -> Callable[..., RunConfig]:
    """tiny_config("fixmatch", "protocol.steps=3", split="few", seed=1) -> RunConfig of a run that takes a
    second."""

    def build(method: str, *sets: str, **flags: Any) -> RunConfig:
        # The published ranks leave nothing of three classes.
        knobs = {"rank_low": 1} if "rank_low" in describe_method(method).knobs.model_fields else {}
        given = {
            "dataset": "tinyset",
            "split": "few",
            "method": {"name": method, **knobs},
            "protocol": TINY_PROTOCOL,
            "cam_seeds": {"protocol": TINY_PROTOCOL},
            "machine": {
                "data_root": str(tiny_root),
                "out": str(tmp_path / "runs"),
                "workers": 0,
                "log_every": 1,
                "threads": 1,
                "tensorboard": False,
            },
            **flags,
        }
        return resolve(given, None, sets)

    return build
