"""A data set of a few small images on disk, and a protocol that trains on it in a second."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.randomness import numpy_for
from bench.settings.registry import describe_method
from bench.settings.resolve import resolve
from bench.settings.schema import RunConfig
from datasets.splits import FROM_RECORD, Split
from datasets.splits_make import write_split
from datasets.tags import tag_digest

TRAIN, TEST, SIZE = 16, 4, 40
PROTOCOL: dict[str, Any] = {
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
    "views": "published",
    "optimizer": {"name": "adamw", "lr": 1e-3, "head_multiple": 1.0, "weight_decay": 1e-4},
}


def make(root: Path, rng: np.random.Generator | None = None) -> None:
    """Write root/tinyset: bright squares (class 1) and dark stripes (class 2) on grey ground (class 0).

    Its splits: `few` (4 labeled, 12 unlabeled), `full`, `tags` (16 tagged), `few+tags` (4 labeled, 12
    tagged).
    """
    folder = root / "tinyset"
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    rng = rng or numpy_for(0, "tinyset")
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
    """Give the classes of an image of the tiny set, background left out."""
    mask = np.array(Image.open(folder / "labels" / f"{id}.png"))
    return [label for label in (1, 2) if (mask == label).any()]


@cache
def shared_root() -> Path:
    """Give a data root that holds the tiny set; made once in a process, removed at its end. Read only."""
    root = Path(tempfile.mkdtemp(prefix="frugalseg-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    make(root)
    return root


def config(method: str, *sets: str, root: Path, out: Path, **flags: Any) -> RunConfig:
    """Give the settings of a run that takes a second, say `config("fixmatch", "protocol.steps=3", root=DIR,
    out=OTHER)`."""
    # The published ranks leave nothing of three classes, and the usual warm-up nothing of six steps.
    small = {"rank_low": 1, "warmup": 0.4}
    knobs = {key: small[key] for key in small.keys() & describe_method(method).knobs.model_fields.keys()}
    given = {
        "dataset": "tinyset",
        "split": "few",
        "method": {"name": method, **knobs},
        "protocol": PROTOCOL,
        "cam_seeds": {"protocol": PROTOCOL},
        "machine": {
            "data_root": str(root),
            "out": str(out),
            "workers": 0,
            "log_every": 1,
            "threads": 1,
            "tensorboard": False,
        },
        **flags,
    }
    return resolve(given, None, ("protocol.teacher=null", *sets))
