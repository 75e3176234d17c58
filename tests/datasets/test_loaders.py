import hashlib
import os
import pickle
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.utils.data._utils import pin_memory

from bench.contract import Batch, BoxRule, Dataset, Operation, Stage, Stream, Supervision, Views
from bench.errors import BenchError, ConfigError, DataError
from bench.randomness import numpy_for
from bench.settings.schema import BatchSizes, Protocol
from datasets import loaders
from datasets.colours import strong_view
from datasets.loaders import StepBatches, iterate, loader, worker_failures
from datasets.lookup import Missing
from datasets.meaning import Meaning, Unread
from datasets.rasters import WrongChannels
from datasets.splits import Split
from datasets.views import stacked

PIXEL, NONE, TAGS = Supervision.PIXEL, Supervision.NONE, Supervision.TAGS
BOXES = BoxRule(0.5, (0.02, 0.4), (0.3, 1 / 0.3))
LABELED = tuple(f"l{i}" for i in range(7))
UNLABELED = tuple(f"u{i}" for i in range(11))
MAIN = os.getpid()


class Tiny(Dataset):
    """Small noise images; only ids with an l may be asked for their mask; `wrong` is called with each id."""

    name = "tiny"
    classes = ("a", "b", "c")

    def __init__(self, wrong: Callable[[str], None] | None = None) -> None:
        self.wrong = wrong

    def ids(self, listing: str) -> tuple[str, ...]:
        return LABELED + UNLABELED

    def image(self, id: str) -> np.ndarray:
        if self.wrong is not None:
            self.wrong(id)
        generator = numpy_for(0, "image", id)
        return generator.integers(0, 256, (20 + len(id), 24, 3), dtype=np.uint8)

    def mask(self, id: str) -> np.ndarray:
        assert id.startswith("l"), f"the mask of {id} is not granted"
        mask = numpy_for(0, "mask", id).integers(0, 4, (20 + len(id), 24), dtype=np.uint8)
        return np.where(mask == 3, np.uint8(255), mask)


def make(dataset: Dataset | None = None, **changes: Any) -> StepBatches:
    settings: dict[str, Any] = {
        "granted": {PIXEL: LABELED, NONE: UNLABELED},
        "labeled": 2,
        "unlabeled": 3,
        "crop": (16, 12),
        "resize": (0.5, 2.0),
        "steps": 20,
        "views": Views(strong=2, boxes=BOXES),
        "seed": 5,
    } | changes
    granted = settings.pop("granted")
    settings.setdefault("needs", granted.keys())
    split = Split("tiny", "some", *(tuple(granted.get(kind, ())) for kind in Supervision), eval=())
    batch = BatchSizes.model_construct(labeled=settings.pop("labeled"), unlabeled=settings.pop("unlabeled"))
    of_protocol = {key: settings.pop(key) for key in ("crop", "resize", "steps")}
    of_protocol["views"] = settings.pop("rule", "published")
    protocol = Protocol.model_construct(batch=batch, **of_protocol)
    return StepBatches(dataset or Tiny(), split, protocol, **settings)


def digest(batch: Batch) -> str:
    sha = hashlib.sha256()

    def add(tensor: Tensor) -> Tensor:
        sha.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
        return tensor

    batch.map(add)
    for stream in (batch.labeled, batch.unlabeled):
        sha.update(repr(stream and stream.ids).encode())
    return sha.hexdigest()


def labeled(batch: Batch) -> Stream:
    assert batch.labeled is not None
    return batch.labeled


def unlabeled(batch: Batch) -> Stream:
    assert batch.unlabeled is not None
    return batch.unlabeled


# ---- what a batch holds


def test_shapes_and_ranges() -> None:
    given = make()[3]
    uint8 = {"image", "label", "strong"}
    for stream in (labeled(given), unlabeled(given)):
        seen = {name: getattr(stream, name) for name in ("image", "label", "valid", "strong", "boxes")}
        for name, value in seen.items():
            for tensor in value if isinstance(value, tuple) else (value,):
                assert tensor is None or tensor.dtype == (torch.uint8 if name in uint8 else torch.bool)
    batch = given.on("cpu")
    assert batch.tagged is None
    sure = labeled(batch)
    assert sure.image.shape == (2, 3, 16, 12) and sure.image.dtype == torch.float32
    assert sure.label is not None and sure.label.shape == (2, 16, 12) and sure.label.dtype == torch.int64
    assert sure.valid.shape == (2, 16, 12) and sure.valid.dtype == torch.bool
    assert sure.strong == () and sure.boxes == ()
    assert set(sure.label.unique().tolist()) <= {0, 1, 2, 255}
    assert (sure.label[~sure.valid] == 255).all()
    free = unlabeled(batch)
    assert free.label is None
    assert free.image.shape == (3, 3, 16, 12) and free.valid.shape == (3, 16, 12)
    assert [view.shape for view in free.strong] == [(3, 3, 16, 12)] * 2
    assert [box.shape for box in free.boxes] == [(3, 16, 12)] * 2
    assert all(box.dtype == torch.bool for box in free.boxes)
    for image in (sure.image, free.image, *free.strong):
        assert image.min() >= 0 and image.max() <= 1
        assert image.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(sure.image, labeled(given).image / 255) and torch.equal(
        sure.label, labeled(given).label
    )
    again = batch.on("cpu")  # floats stay as they are
    assert torch.equal(labeled(again).image, sure.image) and torch.equal(labeled(again).label, sure.label)


def test_views_differ_from_each_other_over_steps() -> None:
    batches = make()
    assert any(not torch.equal(*unlabeled(batches[step]).strong) for step in range(3))
    assert any(not torch.equal(*unlabeled(batches[step]).boxes) for step in range(3))


@pytest.mark.parametrize(
    ("views", "strong", "boxes"), [(Views(), 0, 0), (Views(1), 1, 0), (Views(0, BOXES), 0, 1)]
)
def test_only_the_views_asked_for(views: Views, strong: int, boxes: int) -> None:
    stream = unlabeled(make(views=views)[0])
    assert (len(stream.strong), len(stream.boxes)) == (strong, boxes)


def test_streams_that_are_not_asked_for_are_none() -> None:
    assert make(granted={PIXEL: LABELED})[0].unlabeled is None
    assert make(granted={NONE: UNLABELED})[0].labeled is None


# ---- the truth of an audit


class Painted(Tiny):
    """Every class has a colour of its own, so that an image tells its labels; flat in blocks of 8 pixels."""

    colours = np.array([[250, 0, 0], [0, 250, 0], [0, 0, 250]], np.uint8)

    def mask(self, id: str) -> np.ndarray:
        blocks = numpy_for(0, "mask", id).integers(0, 3, (5, 6), dtype=np.uint8)
        return blocks.repeat(8, 0).repeat(8, 1)

    def image(self, id: str) -> np.ndarray:
        return self.colours[self.mask(id)]


def test_the_truth_lies_under_the_weak_view() -> None:
    """Crop, scale, flip and padding: where no border blurs the colour, it is that of the true class."""
    batches = make(Painted(), audit=True, unlabeled=8, crop=(24, 40), views=Views())
    compared = 0
    for step in range(6):
        batch = batches[step].on("cpu")
        image, valid = unlabeled(batch).image, unlabeled(batch).valid
        assert batch.truth.shape == (8, 24, 40) and batch.truth.dtype == torch.int64
        assert (batch.truth[~valid] == 255).all() and set(batch.truth.unique().tolist()) <= {0, 1, 2, 255}
        pure = valid & (image.amax(1) == 250 / 255) & (image.sum(1) == 250 / 255)
        assert torch.equal(image.argmax(1)[pure], batch.truth[pure])
        compared += int(pure.sum())
    assert compared > 20_000


def test_an_audit_changes_nothing_else() -> None:
    class Open(Tiny):
        def mask(self, id: str) -> np.ndarray:
            return super().mask("l" + id)[: 20 + len(id)]

    for step in range(4):
        plain, opened = make(Open())[step], make(Open(), audit=True)[step]
        assert plain.truth is None and unlabeled(opened).label is None
        assert digest(replace(opened, truth=plain.truth)) == digest(plain) != digest(opened)
    streams = [
        [digest(batch) for batch in iterate(make(Open(), audit=True), 12, workers)] for workers in (0, 2)
    ]
    assert streams[0] == streams[1]


def test_an_audit_without_unlabeled_images_opens_nothing() -> None:
    assert make(granted={PIXEL: LABELED}, audit=True)[0].truth is None


@pytest.mark.parametrize(
    ("mask", "said"),
    [(np.full((22, 24), 7, np.uint8), "u.* holds 7, but"), (np.zeros((3, 24), np.uint8), "u.* is 3x24")],
)
def test_the_truth_is_checked_as_labels_are(mask: np.ndarray, said: str) -> None:
    class Wrong(Tiny):
        def mask(self, id: str) -> np.ndarray:
            return mask

    with pytest.raises(DataError, match=f"{said}.*only an audit .machine.audit. opens its mask"):
        make(Wrong(), granted={NONE: UNLABELED[:10]}, audit=True)[0]


# ---- order


@given(n=st.integers(1, 12), size=st.integers(1, 5), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_an_epoch_has_each_id_once_at_most(n: int, size: int, seed: int) -> None:
    if n < size:
        n = size
    ids = tuple(f"u{i}" for i in range(n))
    batches = make(granted={NONE: ids}, unlabeled=size, views=Views(), seed=seed, steps=10**6)
    per_epoch = n // size
    for epoch in (0, 1, 7):
        seen: Counter[str] = Counter()
        for step in range(epoch * per_epoch, (epoch + 1) * per_epoch):
            batch = unlabeled(batches[step])
            assert len(set(batch.ids)) == size
            seen.update(batch.ids)
        assert len(seen) == per_epoch * size and set(seen.values()) == {1}


def test_epochs_differ_in_order() -> None:
    batches = make(steps=40)
    epochs = [[unlabeled(batches[3 * epoch + k]).ids for k in range(3)] for epoch in range(4)]
    assert len({str(epoch) for epoch in epochs}) == 4


# ---- a function of seed and step


def test_a_batch_depends_on_seed_and_step_only() -> None:
    batches = make()
    forward = [digest(batches[step]) for step in range(8)]
    torch.manual_seed(1)
    np.random.seed(1)
    backward = [digest(make()[step]) for step in reversed(range(8))]
    assert forward == backward[::-1]
    assert len(set(forward)) == 8
    other = make(seed=6)
    assert all(digest(other[step]) != forward[step] for step in range(8))


def test_labeled_stream_is_the_same_with_and_without_others() -> None:
    supervised = make(granted={PIXEL: LABELED}, views=Views())
    fixmatch = make(views=Views(strong=1, boxes=BOXES))
    for step in range(8):
        a, b = labeled(supervised[step]), labeled(fixmatch[step])
        assert a.ids == b.ids
        assert digest(Batch(labeled=a)) == digest(Batch(labeled=b))


@pytest.mark.parametrize(
    ("asked", "rule", "coloured"),
    [(None, "equal", True), (True, "published", True), (False, "equal", False), (None, "published", False)],
)
def test_labeled_images_are_coloured_as_the_protocol_or_the_method_says(
    asked: bool | None, rule: str, coloured: bool
) -> None:
    """As strong views are, with numbers of the labeled stream's own; label and geometry stay."""
    batches, plain = make(views=Views(colours=asked), rule=rule), make(views=Views())
    for step in range(3):
        ours, weak = labeled(batches[step]), labeled(plain[step])
        assert ours.ids == weak.ids and torch.equal(ours.valid, weak.valid)
        assert torch.equal(ours.label, weak.label)
        for index, (view, image) in enumerate(zip(ours.image, weak.image, strict=True)):
            picture = Image.fromarray(image.permute(1, 2, 0).numpy())
            drawn = strong_view(picture, numpy_for(5, "strong", "pixel", step, index, 0))
            assert torch.equal(view, stacked([drawn])[0] if coloured else image)


@pytest.mark.parametrize("rule", ["published", "equal"])
def test_strong_views_are_of_the_methods_recipe_unless_views_are_equal(rule: str) -> None:
    """Its own inverts each level; equal views colour as they colour for every method, and labeled images are
    coloured as these do."""
    views = Views(strong=1, colours=True, recipe=(Stage((Operation("solarize", (0, 0)),)),))
    batches, usual = make(views=views, rule=rule), make(views=Views(strong=1, colours=True), rule=rule)
    for step in range(3):
        ours, theirs = unlabeled(batches[step]), unlabeled(usual[step])
        assert torch.equal(ours.strong[0], theirs.strong[0]) == (rule == "equal")
        assert torch.equal(ours.strong[0], 255 - ours.image) == (rule == "published")
        assert torch.equal(labeled(batches[step]).image, labeled(usual[step]).image)


def test_plain_views_have_the_boxes_of_equal_ones_and_no_colours() -> None:
    for asked in (Views(), Views(strong=2), Views(boxes=BOXES)):
        plain, equal = make(views=asked, rule="plain"), make(views=asked, rule="equal")
        weak = make(views=Views())
        for step in range(3):
            ours, theirs = unlabeled(plain[step]), unlabeled(equal[step])
            assert len(ours.boxes) == len(theirs.boxes) == len(ours.strong) == len(theirs.strong)
            assert all(torch.equal(a, b) for a, b in zip(ours.boxes, theirs.boxes, strict=True))
            assert all(torch.equal(view, ours.image) for view in ours.strong)
            assert torch.equal(labeled(plain[step]).image, labeled(weak[step]).image)
    named, usual = (make(views=Views(colours=True), rule=rule) for rule in ("plain", "equal"))
    assert torch.equal(labeled(named[0]).image, labeled(usual[0]).image), "supervised_colours keeps its own"


def test_weak_view_does_not_depend_on_the_strong_ones() -> None:
    for step in range(4):
        a, b = unlabeled(make(views=Views())[step]), unlabeled(make()[step])
        assert torch.equal(a.image, b.image) and torch.equal(a.valid, b.valid)


def test_streams_draw_their_own_numbers() -> None:
    batch = make(granted={PIXEL: LABELED, NONE: LABELED}, unlabeled=2, views=Views())
    assert any(labeled(batch[step]).ids != unlabeled(batch[step]).ids for step in range(5))


def test_workers_change_nothing() -> None:
    streams = [[digest(batch) for batch in iterate(make(), 4, workers)] for workers in (0, 1, 2)]
    assert len(streams[0]) == 16
    assert streams[0] == streams[1] == streams[2]
    assert streams[0] == [digest(make()[step]) for step in range(4, 20)]


@pytest.mark.parametrize("workers", [0, 1])
def test_loading_leaves_the_global_random_states_alone(workers: int) -> None:
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    assert len(list(iterate(make(steps=3), 0, workers))) == 3
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state()[1])  # type: ignore[index]


def test_length_and_end() -> None:
    assert len(make()) == 20
    for step in (-1, 20):
        with pytest.raises(IndexError):
            make()[step]
    assert list(iterate(make(), 20, 0)) == []


def test_torch_knows_how_to_pin_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor + 1 if tensor.dim() == 4 else tensor)
    batch = make()[0]
    pinned = pin_memory.pin_memory(batch)  # type: ignore[no-untyped-call]
    assert torch.equal(labeled(pinned).image, labeled(batch).image + 1)
    assert torch.equal(unlabeled(pinned).strong[1], unlabeled(batch).strong[1] + 1)
    assert unlabeled(pinned).ids == unlabeled(batch).ids


# ---- refusals


def test_a_list_shorter_than_its_batch_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"labeled stream.* has 7 images.* 8.*--set protocol.batch.labeled=7"
    ):
        make(labeled=8)
    with pytest.raises(
        ConfigError, match=r"unlabeled stream.* has 11 images.* 12.*--set protocol.batch.unlabeled=11"
    ):
        make(unlabeled=12)
    with pytest.raises(ConfigError, match="unlabeled stream .* has 0 images.*choose another split"):
        make(granted={PIXEL: LABELED, NONE: ()})
    make(granted={PIXEL: LABELED}, unlabeled=12)  # no stream, no demand
    with pytest.raises(ConfigError, match="labeled batch is 0"):
        make(labeled=0)


def test_boxes_in_a_batch_of_one_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"protocol\.batch\.unlabeled=2"):
        make(unlabeled=1)
    with pytest.raises(ConfigError, match=r"protocol\.batch\.unlabeled=2"):
        make(unlabeled=1, views=Views(), rule="equal")
    make(unlabeled=1, views=Views(strong=1))
    make(unlabeled=1, granted={PIXEL: LABELED})


def test_masks_that_are_not_granted_stay_closed() -> None:
    batches = make()
    for step in range(20):
        assert batches[step] is not None  # Tiny.mask fails for an unlabeled id
    with pytest.raises(AssertionError, match="not granted"):
        make(granted={PIXEL: UNLABELED})[0]


class WrongSize(Tiny):
    def mask(self, id: str) -> np.ndarray:
        return super().mask(id)[:-1]


class WrongClass(Tiny):
    def mask(self, id: str) -> np.ndarray:
        return np.full_like(super().mask(id), 3)


@pytest.mark.parametrize("workers", [0, 1])
def test_wrong_masks_are_data_errors(workers: int) -> None:
    with pytest.raises(DataError, match=r"mask of l\d in tiny is 21x24, its image 22x24"):
        next(iterate(make(WrongSize()), 0, workers))
    with pytest.raises(DataError, match=r"mask of l\d in tiny holds 3, but class ids end at 2"):
        next(iterate(make(WrongClass()), 0, workers))


# ---- workers that fail


def data_error(id: str) -> None:
    raise DataError("The image of a: b\nis gone: fetch it.")


def value_error(id: str) -> None:
    raise ValueError("a fault of ours")


def runtime_error(id: str) -> None:
    raise RuntimeError("a fault of torch's")


def unread(id: str) -> None:
    Meaning(Path("dataset.yaml"), 3).of_numbers(Path(f"{id}.png"), np.array([[7]]))


def wrong_channels(id: str) -> None:
    raise WrongChannels.of(f"{id}.png", 4, 3)


def die(id: str) -> None:
    assert os.getpid() != MAIN
    os.kill(os.getpid(), signal.SIGKILL)


def hang(id: str) -> None:
    assert os.getpid() != MAIN
    signal.pause()


def sigint(id: str) -> None:
    assert os.getpid() != MAIN and torch.get_num_threads() == 1
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_keep_their_type_and_message(workers: int) -> None:
    with pytest.raises(DataError) as caught:
        next(iterate(make(Tiny(data_error)), 0, workers))
    assert type(caught.value) is DataError
    assert str(caught.value) == "The image of a: b\nis gone: fetch it."
    with pytest.raises(ValueError, match="a fault of ours"):
        next(iterate(make(Tiny(value_error)), 0, workers))
    with pytest.raises(RuntimeError, match="a fault of torch's"):
        next(iterate(make(Tiny(runtime_error)), 0, workers))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        (unread, Unread, r"^\w+\.png holds the ids 7, but there are 3 classes .* dataset\.yaml\.$"),
        (wrong_channels, WrongChannels, r"^\w+\.png has 4 channels, and the network expects 3: .*=4\.$"),
    ],
)
def test_errors_with_more_than_a_message_pass_from_a_worker(
    fault: Callable[[str], None], kind: type[DataError], said: str, workers: int
) -> None:
    with pytest.raises(kind, match=said):
        next(iterate(make(Tiny(fault)), 0, workers))


def data_errors(kind: type[DataError] = DataError) -> Iterator[type[DataError]]:
    yield kind
    for narrower in kind.__subclasses__():
        yield from data_errors(narrower)


def test_every_data_error_can_be_made_anew_by_another_process() -> None:
    import bench.training.session  # noqa: F401  (with it every module that can raise while loading)

    kinds = set(data_errors())
    assert {Unread, WrongChannels, Missing} <= kinds
    for kind in kinds:
        anew = pickle.loads(pickle.dumps(kind("The mask of a is gone.")))
        assert type(anew) is kind and str(anew) == "The mask of a is gone."


@pytest.mark.timeout(60)
def test_a_killed_worker_is_a_bench_error() -> None:
    with pytest.raises(BenchError, match="worker was killed"):
        next(iterate(make(Tiny(die)), 0, 1))


@pytest.mark.timeout(60)
def test_a_worker_killed_while_the_main_process_computes_is_a_bench_error() -> None:
    ours = loader(make(steps=10**4), 0, 1)
    with pytest.raises(BenchError, match="worker was killed"), worker_failures():
        iterator = iter(ours)
        next(iterator)
        os.kill(iterator._workers[0].pid, signal.SIGKILL)  # type: ignore[attr-defined]
        for _ in range(10**9):  # torch's handler of SIGCHLD strikes here
            pass


@pytest.mark.timeout(60)
def test_no_worker_outlives_its_loop() -> None:
    for wrong, error in ((data_error, DataError), (die, BenchError)):
        with pytest.raises(error) as caught:
            next(iterate(make(Tiny(wrong)), 0, 2))
        assert caught.value is not None and active_children() == []  # though the traceback holds the iterator
    batches = iterate(make(), 0, 2)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert active_children() == []


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_a_stuck_worker_is_a_bench_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaders, "TIMEOUT", 1)
    with pytest.raises(BenchError, match="No batch arrived within 1 s"):
        next(iterate(make(Tiny(hang)), 0, 1))


@pytest.mark.timeout(60)
def test_workers_survive_ctrl_c() -> None:
    assert len(list(iterate(make(Tiny(sigint), steps=2), 0, 1))) == 2


def test_errors_of_the_loop_pass_unchanged() -> None:
    for error in (
        RuntimeError("CUDA out of memory"),
        DataError("a: b"),
        FileNotFoundError("x"),
        KeyError("k"),
    ):
        with pytest.raises(type(error)) as caught, worker_failures():
            raise error
        assert caught.value is error
    with pytest.raises(BenchError, match="worker was killed"), worker_failures():
        raise ConnectionResetError(104, "Connection reset by peer")
