"""U2PL on small real networks: what each term trains, settings, and whole runs."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pointwise import (
    at,
    queues_of,
    step,
)
from pydantic import ValidationError

from bench import pipeline
from bench.contract import IGNORE, Batch, Progress, Stream, Task
from bench.display import Display
from bench.errors import BenchError, ConfigError, Interrupted
from bench.machine import Stop
from bench.networks.segmenter import Segmenter
from bench.ops.losses import cross_entropy
from bench.plan import plan
from bench.randomness import torch_seeded
from bench.records.logs import read_metrics
from bench.settings.schema import Network, RunConfig
from bench.training import checkpoint, session
from methods.u2pl import U2PL

Config = Callable[..., RunConfig]
NETWORK = Network(encoder="tiny", decoder="unet", decoder_channels=16, representation_channels=8)


# On a real network ----------------------------------------------------------------------------------------


def real(classes: int = 3, **knobs: Any) -> U2PL:
    sizes = {"queue_size": 200, "queue_size_first": 200, "queue_keys": 64, "negatives": 5, "anchors": 16}
    given = {"warmup": 0.0, "rank_low": 1, "negative_pool": 32, **sizes, **knobs}
    with torch_seeded(0, "init"):
        task = Task(tuple(f"class {c}" for c in range(classes)), cross_entropy)
        return U2PL(Segmenter(NETWORK, classes), task, U2PL.HParams(**given)).train()


def noise(classes: int = 3, seed: int = 0, size: tuple[int, int] = (32, 32)) -> Batch:
    """Random images, labels in blocks, boxes in the middle, padding on the right."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(4, 3, *size, generator=generator)
    blocks = torch.randint(classes, (2, 4, 4), generator=generator)
    label = blocks.repeat_interleave(-(-size[0] // 4), 1).repeat_interleave(-(-size[1] // 4), 2)
    label = label[:, : size[0], : size[1]].clone()
    label[:, :, -5:] = IGNORE
    valid, box = label != IGNORE, torch.zeros_like(label, dtype=torch.bool)
    box[:, 6:20, 4:16] = True
    return Batch(
        labeled=Stream(("a", "b"), image[:2], valid, label=label),
        unlabeled=Stream(("c", "d"), image[2:], valid, boxes=(box,)),
    )


def test_contrast_trains_representation_and_encoder_and_nothing_else() -> None:
    method = real()
    term = method.losses(noise(), at())["contrast"]
    term.backward()
    assert term > 0
    for name, parameter in method.net.named_parameters():
        if name.startswith(("segmentation_head", "classification_head")):
            assert parameter.grad is None or not parameter.grad.any(), name
        else:
            assert parameter.grad is not None and parameter.grad.any(), name
    assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())
    assert not any(buffer.requires_grad for buffer in method.buffers())


def test_the_other_terms_do_not_train_the_representation() -> None:
    method = real()
    terms = method.losses(noise(), at())
    (terms["labeled"] + terms["unlabeled"]).backward()
    for module in (method.net.representation_head, method.net.projection):
        assert all(p.grad is None or not p.grad.any() for p in module.parameters())
    assert method.net.segmentation_head.weight.grad is not None


@pytest.mark.parametrize("size", [(32, 32), (33, 50)])
def test_under_autocast_to_bf16_a_step_is_finite_and_close(size: tuple[int, int]) -> None:
    """Also where the image is no multiple of the network's stride."""
    full, half = real(), real()
    batch = noise(size=size)
    exact = full.losses(batch, at())
    with torch.autocast("cpu", torch.bfloat16):
        terms = half.losses(batch, at())
    torch.stack([term.float() for term in terms.values()]).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in half.net.parameters())
    for name, term in terms.items():
        assert term.item() == pytest.approx(exact[name].item(), rel=0.1), name
    assert half.notes["anchors"].sum() > 0 and queues_of(half).length.sum() > 0


def test_two_classes_train_with_rank_low_1() -> None:
    method = real(classes=2)
    method.losses(noise(classes=2), at())
    term = method.losses(noise(classes=2, seed=1), at(1))["contrast"]
    assert term > 0
    assert queues_of(method).length.tolist() != [0, 0]


def test_the_padding_to_the_stride_is_no_key_and_no_anchor() -> None:
    """Of an image of 20x24 pixels, padded to 32x32, 5x6 of 8x8 cells count."""
    method = real(alpha=1.0, negatives_from="all", use_ranks=False, queue_keys=200)
    batch = noise(size=(20, 24))
    known = batch.unlabeled.valid[:, 2::4, 2::4]
    step(method, batch)
    assert known.shape == (2, 5, 6)
    assert 0 < queues_of(method).length.sum() <= 2 * known.sum() * 2  # images of both streams, other classes
    assert method.notes["anchors"].sum() <= 2 * known.sum()
    box = batch.unlabeled.boxes[0][:, 2::4, 2::4]
    inside = torch.where(box, known.roll(-1, 0), known)
    assert method.notes["negatives_unlabeled"].sum() == 2 * inside.sum(), "each of all classes but its own"


# Settings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["method.alpha=-0.1"], "method.alpha"),
        (["method.alpha=1.1"], "method.alpha"),
        (
            ["method.rank_low=5", "method.rank_high=5"],
            r"method\.rank_low \(5\) must be below rank_high \(5\)",
        ),
        (
            ["method.rank_low=9", "method.rank_high=5"],
            r"method\.rank_low \(9\) must be below rank_high \(5\)",
        ),
        (["method.rank_low=0"], "method.rank_low"),
        (["method.queue_size=49"], r"method\.queue_size \(49\) is below negatives \(50\)"),
        (["method.queue_size_first=49"], r"method\.queue_size_first \(49\) is below negatives \(50\)"),
        (["method.negatives_from=some"], "method.negatives_from"),
        (["method.warmup=-0.1"], "method.warmup"),
        (["method.warmup=1.5"], r"method\.warmup \(1\.5\) must be a whole number of steps, or below 1"),
        (["method.temperature=0.0"], "method.temperature"),
        (["method.negative_pool=0"], "method.negative_pool"),
    ],
)
@pytest.mark.parametrize("name", ["u2pl", "u2pl_plus"])
def test_settings_that_make_no_sense_are_refused_by_name(
    name: str, tiny_config: Config, sets: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_config(name, *sets)


@pytest.mark.parametrize("name", ["u2pl", "u2pl_released", "u2pl_weak"])
def test_a_warm_up_leaves_a_tenth_to_the_unlabeled_images(name: str, tiny_config: Config) -> None:
    sets = ["protocol.steps=100", *(["method.use_ranks=false"] if name == "u2pl" else [])]
    for warmup in (90, 0.9):
        session.trainer_of(plan(tiny_config(name, *sets, f"method.warmup={warmup}")), Display(), Stop())
    for warmup, left in ((91, 9), (400, 0), (0.95, 5), (0.999, 0)):
        said = rf"method\.warmup={warmup} leaves {left} of the run's 100 steps .* at most 90 steps, or a "
        with pytest.raises(ConfigError, match=said):
            session.trainer_of(plan(tiny_config(name, *sets, f"method.warmup={warmup}")), Display(), Stop())


def test_a_warm_up_in_steps_trains_as_its_share_does(tiny_config: Config) -> None:
    """And a share keeps its run: the number is stored as it is given."""
    ids, states = [], []
    for warmup in ("0.5", "2"):
        planned = plan(tiny_config("u2pl", "protocol.steps=4", f"method.warmup={warmup}"))
        trainer = session.trainer_of(planned, Display(), Stop())
        for number in range(4):
            trainer.train_step(trainer.batches[number], Progress(number, 4, seed=0))
        ids.append(planned.run_id)
        states.append(trainer.method.state_dict())
    assert ids[0] != ids[1]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_settings_at_the_bounds_are_taken(tiny_config: Config) -> None:
    sets = ["method.alpha=1.0", "method.rank_low=1", "method.rank_high=2", "method.queue_size=50"]
    method = tiny_config("u2pl", *sets, "method.queue_size_first=50").method
    assert (method["alpha"], method["rank_high"], method["queue_size"]) == (1.0, 2, 50)
    with pytest.raises(ValidationError, match="rank_low"):
        U2PL.HParams(rank_low=20)


class Quiet(Display):
    """Shows nothing, and may send SIGTERM after a step."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__()
        self.stop_after, self.training = stop_after, False

    def say(self, text: str) -> None:
        pass

    def start(self, name: str, total: int, done: int = 0) -> None:
        self.training = name.startswith("train")

    def update(self, done: int, figures: Mapping[str, float] | None = None) -> None:
        if self.training and done == self.stop_after:
            signal.raise_signal(signal.SIGTERM)


def run(config: RunConfig, stop_after: int | None = None, **options: bool) -> bytes:
    """The weights of the run."""
    pipeline.run(plan(config), Quiet(stop_after), **options)
    return plan(config).folder.weights.read_bytes()


def with_classes(root: Path, tmp_path: Path, names: Sequence[str]) -> str:
    """A copy of the tiny set whose classes have these names; labels beyond them become the last one."""
    copy = tmp_path / "other"
    copytree(root, copy)
    (copy / "tinyset" / "classes.txt").write_text("\n".join(names) + "\n")
    for file in (copy / "tinyset" / "labels").iterdir():
        mask = np.array(Image.open(file))
        mask[(mask != IGNORE) & (mask >= len(names))] = len(names) - 1
        Image.fromarray(mask).save(file)
    return f"machine.data_root={copy}"


def test_ranks_that_leave_nothing_are_refused_before_anything_is_written(
    tiny_config: Config, tiny_root: Path, tmp_path: Path
) -> None:
    two = with_classes(tiny_root, tmp_path, ["ground", "thing"])
    for sets, classes in (([], 3), ([two], 2)):
        config = tiny_config("u2pl", "method.rank_low=4", *sets)
        with pytest.raises(
            ConfigError, match=rf"method.rank_low=4 .* of {classes} classes.*1..{classes - 1}"
        ):
            run(config)
        folder = plan(config).folder.path
        assert not folder.exists() or [file.name for file in folder.iterdir()] == [".lock"]


@pytest.mark.slow
def test_a_run_on_two_classes_contrasts_them_and_logs_its_negatives(
    tiny_config: Config, tiny_root: Path, tmp_path: Path
) -> None:
    two = with_classes(tiny_root, tmp_path, ["ground", "thing"])
    config = tiny_config("u2pl", two, "method.rank_low=3", *SEMI)
    run(config)
    lines = read_metrics(plan(config).folder.metrics)
    terms = [line["contrast"] for line in lines]
    assert len(terms) == 4 and max(terms) > 0
    assert max(sum(line["negatives_unlabeled"]) for line in lines) > 0


def test_more_classes_than_a_mask_holds_are_refused(
    tiny_config: Config, tiny_root: Path, tmp_path: Path
) -> None:
    many = with_classes(tiny_root, tmp_path, [f"class {i}" for i in range(256)])
    config = tiny_config("u2pl", many)
    with pytest.raises(BenchError, match="256 classes.* mask .*holds at most 255"):
        run(config)
    folder = plan(config).folder.path
    assert not folder.exists() or [file.name for file in folder.iterdir()] == [".lock"]


@pytest.mark.slow
def test_the_most_classes_that_a_mask_holds_train(
    tiny_config: Config, tiny_root: Path, tmp_path: Path
) -> None:
    many = with_classes(tiny_root, tmp_path, [f"class {i}" for i in range(255)])
    sets = ["protocol.steps=2", "method.warmup=0.0", "method.queue_size=60", "method.queue_size_first=60"]
    assert run(tiny_config("u2pl", many, *sets))


# Runs -----------------------------------------------------------------------------------------------------

# Queues that are full and wrapped after a few of ten steps.
WRAPPED = [
    "protocol.steps=10",
    "method.warmup=0.1",
    "method.queue_size=60",
    "method.queue_size_first=80",
    "method.negatives=5",
    "method.queue_keys=16",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["u2pl", "u2pl_plus"])
def test_stopped_with_full_and_wrapped_queues_and_resumed_is_bit_exact(
    name: str, tiny_config: Config, tmp_path: Path
) -> None:
    straight = run(tiny_config(name, *WRAPPED, f"machine.out={tmp_path / 'straight'}"))
    config = tiny_config(name, *WRAPPED)
    for stop in (2, 7):
        with pytest.raises(Interrupted):
            run(config, stop, resume=True)
        state = checkpoint.load(plan(config).folder.checkpoint, "cpu")["method"]
        lengths, heads = (
            next(value for key, value in state.items() if key.endswith(f"queues.{part}"))
            for part in ("length", "head")
        )
        full = lengths == torch.tensor([80, 60, 60])
        assert not full.any() if stop == 2 else (full & (heads > 0)).any()
        assert next(value for key, value in state.items() if key.endswith("prototypes")).any()
    assert run(config, resume=True) == straight


@pytest.mark.slow
def test_a_run_in_bf16_is_finite(tiny_config: Config) -> None:
    config = tiny_config("u2pl", "protocol.precision=bf16", "protocol.steps=3", "method.warmup=0.0")
    run(config)
    lines = read_metrics(plan(config).folder.metrics)
    assert len(lines) == 3
    assert all(math.isfinite(line[name]) for line in lines for name in ("loss", "unlabeled", "contrast"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        "alpha=0.5",
        "dynamic_alpha=false",
        "unlabeled_weight=2.0",
        "contrast_weight=1.0",
        "cutmix_probability=1.0",
        "anchor_confidence=0.5",
        "temperature=0.1",
        "rank_low=2",
        "use_ranks=false",
        "negatives_from=all",
        "use_queue=false",
        "warmup=0.3",
    ],
)
def test_every_switch_changes_the_training(change: str, tiny_config: Config, weights_of_u2pl: bytes) -> None:
    config = tiny_config("u2pl", *SEMI, f"method.{change}")
    assert run(config) != weights_of_u2pl


SEMI = ["protocol.steps=4", "method.warmup=0.0"]  # not the warm-up of the protocol
_weights: dict[str, bytes] = {}


@pytest.fixture
def weights_of_u2pl(tiny_config: Config, tmp_path: Path) -> bytes:
    if "u2pl" not in _weights:
        _weights["u2pl"] = run(tiny_config("u2pl", *SEMI, f"machine.out={tmp_path / 'plain'}"))
    return _weights["u2pl"]
