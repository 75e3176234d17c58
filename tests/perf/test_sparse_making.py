"""How long the points, strokes and boxes of a data set take, in distance transforms of its masks."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture
from scipy import ndimage

from bench.labels import SPARSE
from bench.randomness import numpy_for
from datasets.folder import Folder
from datasets.splits_make import regenerate

pytestmark = pytest.mark.perf

MASKS, SIZE, CLASSES, ROUNDS = 40, (375, 500), 5, 3


def blobs(number: int) -> np.ndarray:
    """A mask of VOC's size with about 14 regions."""
    noise = numpy_for(0, "blobs", number).random((CLASSES, 4, 5))
    zoomed = ndimage.zoom(noise, (1, SIZE[0] / 4, SIZE[1] / 5), order=1)
    return zoomed.argmax(0).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    names = [f"{number:03}" for number in range(MASKS)]
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    for number, name in enumerate(names):
        Image.fromarray(blobs(number)).save(tmp_path / "labels" / f"{name}.png")
        Image.new("RGB", SIZE[::-1]).save(tmp_path / "images" / f"{name}.png")
    (tmp_path / "train.txt").write_text("\n".join(names[1:]))
    (tmp_path / "test.txt").write_text(names[0])
    (tmp_path / "classes.txt").write_text("\n".join(f"class {c}" for c in range(CLASSES)))
    return Folder(tmp_path, "blobs")


def test_the_marks_of_a_mask_take_seven_distance_transforms_at_most(
    folder: Folder, tmp_path: Path, benchmark: BenchmarkFixture
) -> None:
    """All of it: masks are read, splits made, marks written. A transform takes 4.3 ms, so seven of them make
    30 s of one core for 1,000 masks."""
    if benchmark.disabled:
        pytest.skip("times nothing while benchmarks are disabled")
    masks = [blobs(number) for number in range(MASKS)]
    taken: dict[str, list[float]] = {"making": [], "transforms": []}

    def both() -> None:
        start = time.process_time()
        for mask in masks:
            ndimage.distance_transform_edt(mask > 0)
        middle = time.process_time()
        regenerate(folder, tmp_path / f"splits {len(taken['making'])}", kinds=SPARSE)
        taken["transforms"].append(middle - start)
        taken["making"].append(time.process_time() - middle)

    benchmark.pedantic(both, rounds=ROUNDS)  # type: ignore[no-untyped-call]
    ratio = min(taken["making"]) / min(taken["transforms"])
    benchmark.extra_info["ratio"] = round(ratio, 2)
    each = {name: f"{1000 * min(of) / MASKS:.1f} ms" for name, of in taken.items()}
    print(f"{ratio:.2f}: {each} a mask")
    assert ratio <= 7
