"""Image tags: how they are read, and what the streams of a batch say of them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.contract import IGNORE, Batch, Dataset, Supervision, Views
from bench.errors import ConfigError, DataError
from bench.randomness import numpy_for
from bench.settings.schema import BatchSizes, Protocol
from datasets.loaders import StepBatches, iterate
from datasets.splits import Split
from datasets.tags import load_tags, read_record, read_tags, recorded, tag_digest

PIXEL, TAGS, NONE = Supervision.PIXEL, Supervision.TAGS, Supervision.NONE
CLASSES = ("background", "square", "stripe")

# The record -------------------------------------------------------------------------------------------------


def record(folder: Path, table: object) -> Path:
    path = folder / "tags.json"
    path.write_text(table if isinstance(table, str) else json.dumps(table))
    return path


def test_ids_and_names(tmp_path: Path) -> None:
    path = record(tmp_path, {"a": [2, 1], "b": ["stripe"], "c": [], "d": ["square", 0]})
    assert read_tags(path, CLASSES) == {"a": (1, 2), "b": (2,), "c": (), "d": (0, 1)}
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_tags(path, CLASSES)["a"] == (1, 2)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("{", "is not readable JSON"),
        ([[1]], "must map each id to a list of class ids"),
        ({"a": {"1": 1}}, r"entry of 'a' is \{'1': 1\}; it must be a list"),
        ({"a": None}, "entry of 'a' is None"),
        ({"a": [1.0]}, r"entry of 'a' is \[1.0\]"),
        ({"a": [-1]}, r"0\.\.2"),
        ({"a": [255]}, r"0\.\.2"),
        ({"a": ["square", 1]}, "different class ids"),
        ({"a": ["Square"]}, "unknown tag 'Square'; did you mean 'square'"),
        ({"a": [[1]]}, "it must be a list of different"),
    ],
)
def test_records_that_cannot_be(table: object, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said) as caught:
        read_tags(record(tmp_path, table), CLASSES)
    assert str(tmp_path / "tags.json") in str(caught.value)


VECTORS = [  # classes, record, tags
    (2, {"a": [1, 0], "b": [0, 1]}, {"a": (0,), "b": (1,)}),
    (2, {"a": [1, 0], "b": [1, 1]}, {"a": (0,), "b": (0, 1)}),
    (2, {"a": [0, 0], "b": [0, 1]}, {"a": (), "b": (1,)}),
    (2, {"a": [True, False], "b": [False, True]}, {"a": (0,), "b": (1,)}),
    (2, {"a": [0.0, 1.0], "b": [1.0, 0.0]}, {"a": (1,), "b": (0,)}),
    (2, {"a": [0.0, 1.0]}, {"a": (1,)}),
    (3, {"a": [0, 1, 1], "b": [1, 0, 0]}, {"a": (1, 2), "b": (0,)}),
    (3, {"a": [0, 1, 1], "b": [0, 0, 0]}, {"a": (1, 2), "b": ()}),
    (3, {"a": [0, 1, 1], "b": []}, {"a": (1, 2), "b": ()}),
]
IDS = [
    (2, {"a": [0], "b": [0, 1]}, {"a": (0,), "b": (0, 1)}),
    (2, {"a": [0], "b": [1]}, {"a": (0,), "b": (1,)}),
    (2, {"a": [0, 1], "b": []}, {"a": (0, 1), "b": ()}),
    (3, {"a": [0, 1], "b": [1, 2]}, {"a": (0, 1), "b": (1, 2)}),
    (3, {"a": [1, 0], "b": [2]}, {"a": (0, 1), "b": (2,)}),
    (3, {"a": [0, 1, 2], "b": [2]}, {"a": (0, 1, 2), "b": (2,)}),
    (3, {"a": [2, 0, 1], "b": [1]}, {"a": (0, 1, 2), "b": (1,)}),
    (4, {"a": [0, 1], "b": [0, 1], "c": [0]}, {"a": (0, 1), "b": (0, 1), "c": (0,)}),
    (2, {"a": ["n0", 1], "b": ["n1"]}, {"a": (0, 1), "b": (1,)}),
    (2, {}, {}),
]


@pytest.mark.parametrize(("classes", "table", "tags"), VECTORS)
def test_vectors_of_0_and_1_are_recognised_and_said(
    classes: int, table: object, tags: object, tmp_path: Path
) -> None:
    read = read_record(record(tmp_path, table), tuple(f"n{c}" for c in range(classes)))
    assert read.table == tags
    assert read.notes[0].startswith(f"{tmp_path / 'tags.json'} is read as vectors of 0 and 1")


@pytest.mark.parametrize(("classes", "table", "tags"), IDS)
def test_lists_of_ids_stay_lists_of_ids(classes: int, table: object, tags: object, tmp_path: Path) -> None:
    read = read_record(record(tmp_path, table), tuple(f"n{c}" for c in range(classes)))
    assert read.table == tags and read.notes == ()


@pytest.mark.parametrize(
    ("classes", "table", "said"),
    [
        (2, {"a": [0, 1], "b": [0, 1]}, "may be class ids or vectors of 0 and 1; write class names"),
        (2, {"a": [0, 1]}, "may be class ids or vectors"),
        (2, {"a": [1, 0], "b": []}, "may be class ids or vectors"),
        (3, {"a": [1, 0], "b": [0, 1]}, "look like vectors of 2 numbers 0 and 1, but there are 3 classes"),
        (4, {"a": [1, 0, 1], "b": [0, 1, 0]}, "look like vectors of 3 numbers"),
        (2, {"a": [1, 0, 1]}, "look like vectors of 3 numbers"),
        (2, {"a": [0.5, 0.5]}, r"entry of 'a' is \[0.5, 0.5\]"),
        (3, {"a": [0.1, 0.9, 0.0]}, "entry of 'a'"),
        (3, {"a": [0, 1, 1], "b": [0, 1]}, "entry of 'a'"),
        (3, {"a": [0, 2, 2]}, "entry of 'a'"),
        (2, {"a": [True]}, "entry of 'a'"),
        (2, {"a": ["1", "0"]}, "unknown tag '1'"),
        (2, {"a": "01"}, "entry of 'a' is '01'"),
        (2, {"a": {"n0": 1}}, "entry of 'a'"),
        (2, {"a": [[1, 0]]}, "entry of 'a'"),
        (2, {"a": [None]}, "entry of 'a'"),
        (2, {"a": ["N0"]}, "unknown tag 'N0'; did you mean 'n0'"),
        (2, '{"a": [0], "a": [1]}', "has two entries 'a'"),
        (2, '{"a": [NaN]}', "entry of 'a'"),
        (2, '{"a": [1e999]}', "entry of 'a'"),
        (2, '{"a": [' + "9" * 5000 + "]}", "not readable JSON"),
        (2, '{"a": ' + "[" * 10_000, "not readable JSON"),
        (2, '{"a": ["\\ud800"]}', "unknown tag"),
        (2, '{"a": ["\\u001b[31m"]}', "unknown tag"),
        (2, "null", "must map each id"),
        (2, '"a"', "must map each id"),
    ],
)
def test_what_may_be_either_is_refused(classes: int, table: object, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said) as caught:
        read_record(record(tmp_path, table), tuple(f"n{c}" for c in range(classes)))
    assert len(str(caught.value)) < 700


def test_tags_that_are_the_same_everywhere_are_said(tmp_path: Path) -> None:
    read = read_record(record(tmp_path, {"a": [1, 2], "b": ["stripe", "square"]}), CLASSES)
    (said,) = read.notes
    assert "gives all 2 images the same tags ('square', 'stripe')" in said
    assert read_record(record(tmp_path, {"a": [1]}), CLASSES).notes == ()


def test_a_capital_is_no_slip_and_letters_are_letters(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown tag 'BACKGROUND'; did you mean 'background'"):
        read_tags(record(tmp_path, {"a": ["BACKGROUND"]}), CLASSES)
    assert read_tags(record(tmp_path, {"a": ["cafe\u0301"]}), ("x", "caf\u00e9")) == {"a": (1,)}


def test_a_pipe_is_no_record(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "tags.json")
    with pytest.raises(DataError, match="is no plain file"):
        read_tags(tmp_path / "tags.json", CLASSES)


def test_digest_is_of_the_tags_without_background_in_any_order() -> None:
    plain = tag_digest({"a": [1, 2], "b": []}, 0)
    assert plain == tag_digest({"b": [0], "a": (2, 1, 0)}, 0)
    assert plain == hashlib.sha256(b"a:1,2\nb:").hexdigest()
    assert len({plain, tag_digest({"a": [1], "b": []}, 0), tag_digest({"b": [1, 2], "a": []}, 0)}) == 3
    assert tag_digest({"a": [0, 1]}, None) != tag_digest({"a": [1]}, None)


# A small set ------------------------------------------------------------------------------------------------

MASKED, TAGGED, FREE = (tuple(f"{kind}{i}" for i in range(n)) for kind, n in (("m", 5), ("t", 8), ("u", 4)))
TABLE = {id: (0, 1) if i % 2 else (0, 1, 2) for i, id in enumerate(TAGGED)}


class Painted(Dataset):
    """Every class has a colour of its own, in blocks of 8 pixels; masks of m... alone."""

    name, classes, background = "painted", CLASSES, 0
    own: dict[str, tuple[int, ...]] | None = None

    def ids(self, listing: str) -> tuple[str, ...]:
        return MASKED + TAGGED + FREE

    def image(self, id: str) -> np.ndarray:
        blocks = numpy_for(0, "image", id).integers(0, 3, (4, 5), dtype=np.uint8)
        return 250 * np.eye(3, dtype=np.uint8)[blocks.repeat(8, 0).repeat(8, 1)]

    def mask(self, id: str) -> np.ndarray:
        assert id.startswith("m"), f"the mask of {id} is not granted"
        return np.full((32, 40), 2 if id == "m1" else IGNORE, np.uint8)

    def tags(self, id: str) -> tuple[int, ...] | None:
        return None if self.own is None else self.own[id]


def seed_of(id: str) -> np.ndarray:
    return Painted().image(id).argmax(-1).astype(np.uint8)


def make(granted: dict[Supervision, tuple[str, ...]] | None = None, **changes: Any) -> StepBatches:
    settings: dict[str, Any] = {
        "needs": {PIXEL, TAGS, NONE},
        "labeled": 4,
        "unlabeled": 3,
        "steps": 12,
        "views": Views(strong=1),
        "seed": 3,
        "tags": TABLE,
        "seed_of": seed_of,
    } | changes
    lists = {PIXEL: MASKED, TAGS: TAGGED, NONE: FREE} if granted is None else granted
    split = Split("painted", "some", *(lists.get(kind, ()) for kind in Supervision), eval=())
    sizes = BatchSizes(labeled=settings.pop("labeled"), unlabeled=settings.pop("unlabeled"))
    protocol = Protocol.model_construct(
        crop=(24, 24), resize=(0.5, 2.0), batch=sizes, steps=settings.pop("steps")
    )
    return StepBatches(Painted(), split, protocol, **settings)


def row(classes: Collection[int]) -> list[bool]:
    return [c in classes for c in range(3)]


def digest(batch: Batch) -> str:
    sha = hashlib.sha256()

    def add(tensor: Tensor) -> Tensor:
        sha.update(tensor.numpy().tobytes())
        return tensor

    batch.map(add)
    return sha.hexdigest()


# Streams ----------------------------------------------------------------------------------------------------


def test_every_stream_says_what_its_images_may_hold() -> None:
    """Tags and background; all classes where no tags are granted, or a mask says more."""
    seen = set()
    for step in range(12):
        batch = make()[step]
        for stream in (batch.labeled, batch.unlabeled):
            assert stream.tags.tolist() == [row(TABLE.get(id, (0, 1, 2))) for id in stream.ids]
            assert stream.tags.dtype == torch.bool
            seen |= set(stream.ids)
    assert seen == {*MASKED, *TAGGED, *FREE}


def test_without_tags_all_may_be_there() -> None:
    batch = make({PIXEL: MASKED, NONE: FREE}, needs={PIXEL, NONE}, tags=None, seed_of=None)[0]
    assert batch.labeled.tags.all() and batch.unlabeled.tags.all()
    assert batch.labeled.tags.shape == (4, 3) and batch.tagged is None


def test_the_tagged_stream_takes_the_classes_of_masks() -> None:
    """And background with them; an image whose mask says nothing has background alone."""
    seen = set()
    for step in range(12):
        tagged = make()[step].tagged
        assert tagged.label is None and len(tagged.ids) == 4
        seen |= set(tagged.ids)
        of_masks = {id: (0, 2) if id == "m1" else (0,) for id in MASKED}
        assert tagged.tags.tolist() == [row({**TABLE, **of_masks}[id]) for id in tagged.ids]
    assert seen == {*MASKED, *TAGGED}


def test_without_background_the_classes_of_a_mask_are_all() -> None:
    batches = make({PIXEL: MASKED, TAGS: ()}, needs={TAGS})
    batches.dataset.background = None
    tagged = batches[0].tagged
    assert tagged.tags.tolist() == [row({2} if id == "m1" else ()) for id in tagged.ids]


@pytest.mark.parametrize(("labeled", "masks"), [(2, 1), (3, 2), (4, 2), (5, 3)])
def test_half_of_the_labeled_images_have_masks(labeled: int, masks: int) -> None:
    for step in range(6):
        ids = make(labeled=labeled)[step].labeled.ids
        assert [id[0] for id in ids] == ["m"] * masks + ["t"] * (labeled - masks)


def test_a_batch_of_one_cannot_be_halved() -> None:
    with pytest.raises(ConfigError, match=r"masks and seeds share .* protocol.batch.labeled=2"):
        make(labeled=1)
    assert make({TAGS: TAGGED}, labeled=1, needs={PIXEL})[0].labeled.ids[0] in TAGGED
    assert make({PIXEL: MASKED}, labeled=1, needs={PIXEL})[0].labeled.ids[0] in MASKED
    assert len(make(labeled=1, needs={TAGS})[0].tagged.ids) == 1


def test_too_few_images_for_a_half() -> None:
    with pytest.raises(ConfigError, match=r"has 1 images with masks, too few for the 2.*batch.labeled=2`"):
        make({PIXEL: MASKED[:1], TAGS: TAGGED})
    with pytest.raises(ConfigError, match=r"has 1 tagged images, too few for the 2.*batch.labeled=2`"):
        make({PIXEL: MASKED, TAGS: TAGGED[:1]}, needs={PIXEL})
    assert len(make({PIXEL: MASKED[:1], TAGS: TAGGED}, labeled=2)[0].labeled.ids) == 2


def test_seeds_lie_over_their_image() -> None:
    """Where no border blurs the colour, it is that of the seed."""
    compared = 0
    for step in range(12):
        labeled = make()[step].on("cpu").labeled
        image, label, valid = (x[2:] for x in (labeled.image, labeled.label, labeled.valid))
        assert (label[~valid] == IGNORE).all()
        pure = valid & (image.amax(1) == 250 / 255) & (image.sum(1) == 250 / 255)
        assert torch.equal(image.argmax(1)[pure], label[pure])
        compared += int(pure.sum())
    assert compared > 5_000


def test_there_must_be_seeds() -> None:
    with pytest.raises(DataError, match=r"t\d is granted tags and there are no CAM seeds"):
        make(seed_of=None)[0]
    assert make(seed_of=None, needs={TAGS, NONE})[0].labeled is None


def test_a_seed_of_another_size_is_refused() -> None:
    with pytest.raises(DataError, match=r"of t\d in painted is 4x5, its image 32x40"):
        make(seed_of=lambda id: np.zeros((4, 5), np.uint8))[0]


def test_same_seed_same_bits_for_any_workers() -> None:
    streams = [[digest(batch) for batch in iterate(make(steps=6), 0, workers)] for workers in (0, 1, 2)]
    assert streams[0] == streams[1] == streams[2] and len(set(streams[0])) == 6
    assert digest(make(seed=4)[0]) not in streams[0]


def test_a_stream_does_not_depend_on_the_others() -> None:
    whole = make()[3]
    assert digest(Batch(labeled=make(needs={PIXEL})[3].labeled)) == digest(Batch(labeled=whole.labeled))
    assert digest(Batch(tagged=make(needs={TAGS})[3].tagged)) == digest(Batch(tagged=whole.tagged))
    assert digest(Batch(unlabeled=make(needs={NONE})[3].unlabeled)) == digest(
        Batch(unlabeled=whole.unlabeled)
    )


def test_the_truth_of_an_audit_is_no_stream() -> None:
    """Tagged images are unlabeled ones too; their masks stay closed without an audit."""
    batch = make(needs={NONE})[0]
    assert batch.truth is None and batch.unlabeled.label is None
    with pytest.raises(AssertionError, match="not granted"):
        make(needs={NONE}, audit=True)[0]


# The tags of a split ----------------------------------------------------------------------------------------


def split_of(table: dict[str, tuple[int, ...]], file: Path | None = None) -> Split:
    split = Split(
        "painted", "tags", (), tuple(sorted(table)), (), ("e",), "masks", tag_digest(table, 0), file
    )
    return replace(split)


def data(own: dict[str, tuple[int, ...]] | None) -> Painted:
    found = Painted()
    found.own = own
    return found


def test_tags_come_from_the_record_and_have_background(tmp_path: Path) -> None:
    table = {"t0": (1,), "t1": (), "t2": (1, 2)}
    whole = {"t0": (0, 1), "t1": (0,), "t2": (0, 1, 2)}
    assert load_tags(data(table), split_of(table)) == whole
    beside = record(tmp_path, table)
    assert load_tags(data(None), split_of(table, beside)) == whole
    assert load_tags(data(None), Split("painted", "few", ("a",), (), ("b",), ("e",))) == {}
    ground = data(table)
    ground.background = None
    assert load_tags(ground, split_of(table)) == table


def test_the_data_sets_own_record_goes_before(tmp_path: Path) -> None:
    beside = record(tmp_path, {"t0": [2]})
    assert recorded(data({"t0": (1,)}), ["t0"], beside) == {"t0": (1,)}


def test_no_record(tmp_path: Path) -> None:
    for file in (None, tmp_path / "tags.json"):
        with pytest.raises(DataError, match=r"'t0' is granted its tags, but the data set has no tags.json"):
            load_tags(data(None), split_of({"t0": (1,)}, file))
    beside = record(tmp_path, {"t1": [1]})
    with pytest.raises(DataError, match=r"'t0' is granted its tags, but .*tags.json has no entry for it"):
        load_tags(data(None), split_of({"t0": (1,)}, beside))


def test_another_record_than_that_of_the_split() -> None:
    with pytest.raises(
        DataError, match=r"not those that its split 'tags' was made with; restore .*\(masks\)"
    ):
        load_tags(data({"t0": (2,)}), split_of({"t0": (1,)}))


@pytest.mark.parametrize("tags", [(), (0,)])
def test_tags_that_are_all_empty(tags: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"none of the 2 tagged images of painted has a tag"):
        load_tags(data({"t0": tags, "t1": tags}), split_of({"t0": tags, "t1": tags}))


def test_shuffled_tags_are_a_permutation_by_the_seed() -> None:
    table = {f"t{i}": (1,) if i < 10 else (2,) for i in range(20)}
    given, once, again, other = (load_tags(data(table), split_of(table), seed) for seed in (None, 0, 0, 1))
    assert once == again and len({str(given), str(once), str(other)}) == 3
    assert sorted(once.values()) == sorted(given.values()) and list(once) == list(given)
