"""The loader against a plain PIL pipeline that draws the same numbers, hence makes the same views."""

import statistics
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageStat
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torchvision.transforms import functional as F

from bench.contract import Dataset, Supervision, Views
from bench.randomness import numpy_for
from bench.settings.schema import BatchSizes, Protocol
from datasets.decode import read_image
from datasets.loaders import StepBatches
from datasets.splits import Split

pytestmark = pytest.mark.perf

CROP = 224
BATCH = 8
ROUNDS = 25
SEED = 0


class Folder(Dataset):
    name = "folder"
    classes = ("a",)

    def __init__(self, root: Path) -> None:
        self.root = root

    def ids(self, listing: str) -> tuple[str, ...]:
        return tuple(sorted(path.stem for path in self.root.glob("*.jpg")))

    def image(self, id: str) -> np.ndarray:
        return read_image(self.root / f"{id}.jpg")

    def mask(self, id: str) -> np.ndarray:
        raise NotImplementedError


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    generator = np.random.default_rng(0)
    for index in range(2 * BATCH):
        coarse = Image.fromarray(generator.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((480, 360), Image.Resampling.BICUBIC)).astype(np.int16)
        noisy = (smooth + generator.integers(-6, 7, smooth.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(tmp_path / f"{index:02}.jpg", quality=90)
    return Folder(tmp_path)


def plain_weak(image: Image.Image, generator: np.random.Generator) -> tuple[Image.Image, Tensor]:
    width, height = image.size
    long = max(width, height)
    scaled = int(generator.integers(int(long * 0.5), int(long * 2.0), endpoint=True))
    new_width, new_height = int(width * scaled / long + 0.5), int(height * scaled / long + 0.5)
    small = min(new_width, new_height) < CROP
    mean = tuple(round(value) for value in ImageStat.Stat(image).mean) if small else ()
    image = image.resize((new_width, new_height), Image.Resampling.BILINEAR)
    valid = torch.ones(new_height, new_width, dtype=torch.bool)
    if small:
        padded = Image.new("RGB", (max(CROP, new_width), max(CROP, new_height)), mean)
        padded.paste(image, (0, 0))
        valid = F.pad(valid, [0, 0, padded.width - new_width, padded.height - new_height], fill=0)
        image = padded
    top = int(generator.integers(0, image.height - CROP, endpoint=True))
    left = int(generator.integers(0, image.width - CROP, endpoint=True))
    image = image.crop((left, top, left + CROP, top + CROP))
    valid = valid[top : top + CROP, left : left + CROP]
    return (F.hflip(image), F.hflip(valid)) if generator.random() < 0.5 else (image, valid)


def plain_strong(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    jitter, gray, blur = generator.random(3)
    factors = generator.uniform([0.5, 0.5, 0.5, -0.25], [1.5, 1.5, 1.5, 0.25])
    order, sigma = generator.permutation(4), float(generator.uniform(0.1, 2.0))
    operations = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    if jitter < 0.8:
        for k in order:
            image = operations[k](image, float(factors[k]))
    if gray < 0.2:
        image = F.rgb_to_grayscale(image, num_output_channels=3)
    return image.filter(ImageFilter.GaussianBlur(radius=sigma)) if blur < 0.5 else image


def plain(folder: Folder, step: int) -> tuple[Tensor, Tensor, Tensor]:
    ids = folder.ids("train")
    epoch, batch = divmod(step, len(ids) // BATCH)
    order = numpy_for(SEED, "order", "none", epoch).permutation(len(ids))[batch * BATCH : (batch + 1) * BATCH]
    weak, valid, strong = [], [], []
    for index, position in enumerate(order):
        with Image.open(folder.root / f"{ids[position]}.jpg") as image:
            view, inside = plain_weak(image.convert("RGB"), numpy_for(SEED, "weak", "none", step, index))
        copy = plain_strong(view, numpy_for(SEED, "strong", "none", step, index, 0))
        weak.append(F.to_tensor(view))
        valid.append(inside)
        strong.append(F.to_tensor(copy))
    return torch.stack(weak), torch.stack(valid), torch.stack(strong)


def step_batches(folder: Folder) -> StepBatches:
    sizes = BatchSizes(labeled=1, unlabeled=BATCH)
    return StepBatches(
        folder,
        Split(folder.name, "free", (), (), folder.ids("train"), eval=()),
        Protocol.model_construct(crop=(CROP, CROP), resize=(0.5, 2.0), batch=sizes, steps=10**6),
        needs={Supervision.NONE},
        views=Views(strong=1),
        seed=SEED,
    )


def test_plain_pipeline_makes_the_same_views(folder: Folder) -> None:
    for step in range(3):
        ours = step_batches(folder)[step].on("cpu").unlabeled
        assert ours is not None
        weak, valid, strong = plain(folder, step)
        assert torch.equal(ours.valid, valid)
        assert (ours.image - weak).abs().max() <= 2.5 / 255
        # A level of rounding in the weak view is stretched by the jitter, most where the hue is ill-defined.
        assert (ours.strong[0] - strong).abs().mean() <= 1 / 255


@pytest.mark.timeout(300)
def test_loading_takes_half_of_plain_pils_time(folder: Folder, benchmark: BenchmarkFixture) -> None:
    if benchmark.disabled:
        pytest.skip("times nothing while benchmarks are disabled")
    batches = step_batches(folder)
    seconds: dict[str, list[float]] = {"ours": [], "plain": []}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker

    def run_plain() -> None:  # before each round of ours, so that a busy machine slows both
        start = time.perf_counter()
        plain(folder, len(seconds["plain"]))
        seconds["plain"].append(time.perf_counter() - start)

    def run_ours() -> None:
        start = time.perf_counter()
        batches[len(seconds["ours"])].on("cpu")  # as the network takes it
        seconds["ours"].append(time.perf_counter() - start)

    try:
        benchmark.pedantic(run_ours, setup=run_plain, rounds=ROUNDS)  # type: ignore[no-untyped-call]
    finally:
        torch.set_num_threads(threads)
    # Ratio by step, since both make the same views of the same images there.
    ratio = statistics.median(
        ours / other for ours, other in zip(seconds["ours"], seconds["plain"], strict=True)
    )
    benchmark.extra_info["ratio"] = round(ratio, 3)
    benchmark.extra_info["images_per_second"] = round(BATCH / statistics.median(seconds["ours"]), 1)
    # Measured: 0.46 to 0.51, once the first epoch has decoded all images; half is the aim.
    assert ratio <= 0.55
