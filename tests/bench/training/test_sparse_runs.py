"""Runs on points, strokes and boxes: what is not granted is not opened, and what is granted is learned."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.cam_seeds import boxes as box_seeds
from bench.commands.dry_sweep import tried
from bench.cost import measure
from bench.errors import ConfigError, DataError
from bench.labels import SPARSE
from bench.machine import Stop
from bench.ops.gated_crf import gated_crf_of_logits
from bench.ops.losses import cross_entropy
from bench.outlook import before
from bench.pipeline import run
from bench.plan import Plan, plan
from bench.records.logs import read_metrics
from bench.sweeps.costs import CostKind, seconds_of, sentences
from bench.sweeps.grid import Cell
from bench.testing import tiny
from bench.testing.runs import GARBAGE, Quiet
from bench.training import session
from bench.training.balance import WithGatedCrf
from datasets.boxes import read_boxes, to_coco
from datasets.decode import read_mask
from datasets.folder import Folder
from datasets.look import before_a_run
from datasets.sparse_make import made_of
from datasets.splits import Split, find_split
from datasets.splits_import import import_split

KINDS = ("pixel", *SPARSE)
CLASSES = ("background", "square", "stripe")
BATCH = ("protocol.batch.labeled=4", "protocol.batch.unlabeled=4", "box_seeds.rule=inner")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tiny set with all labels of all images, and the split `mix`: three images of each kind, four of
    none."""
    shutil.copytree(tiny.shared_root(), tmp_path / "data")
    folder = tmp_path / "data" / "tinyset"
    data, boxes = Folder(folder, "tinyset"), {}
    train = data.ids("train")
    for id in train:
        for kind in SPARSE:
            mark = made_of(kind, data, id, data.mask(id))
            if isinstance(mark, np.ndarray):
                (folder / kind).mkdir(exist_ok=True)
                Image.fromarray(mark).save(folder / kind / f"{id}.png")
            else:
                boxes[id] = mark
    (folder / "boxes.json").write_bytes(to_coco(boxes, CLASSES))
    files = {}
    for place, kind in enumerate(KINDS):
        files[kind] = tmp_path / f"{kind}.txt"
        files[kind].write_text("\n".join(train[3 * place : 3 * place + 3]) + "\n")
    import_split(
        "tinyset", "mix", files.pop("pixel"), None, train, data.ids("test"), folder / "splits",
        data=Folder(folder, "tinyset"), sparse_files=files,
    )  # fmt: skip
    return tmp_path / "data"


def planned(root: Path, method: str, *sets: str, split: str = "mix") -> Plan:
    out = root.parent / "runs"
    return plan(tiny.config(method, *BATCH, *sets, root=root, out=out, split=split))


def poison(root: Path, kind: str, id: str) -> None:
    """Make one label of one image unreadable."""
    folder = root / "tinyset"
    if kind != "boxes":
        (folder / ("labels" if kind == "pixel" else kind) / f"{id}.png").write_bytes(GARBAGE)
        return
    document = json.loads((folder / "boxes.json").read_text())
    number = next(one["id"] for one in document["images"] if one["file_name"] == f"{id}.png")
    for one in document["annotations"]:
        if one["image_id"] == number:
            one["bbox"] = [500, 500, 10, 10]
    (folder / "boxes.json").write_text(json.dumps(document))


def granted(split: Split) -> dict[str, str]:
    return {id: kind for kind in (*KINDS, "none") for id in getattr(split, kind)}


@pytest.mark.parametrize("method", ["supervised", "fixmatch", "u2pl_weak"])
def test_a_run_opens_no_label_that_is_not_granted(root: Path, method: str) -> None:
    for id, kind in granted(find_split("tinyset", "mix", root)).items():
        for other in KINDS:
            if other != kind:
                poison(root, other, id)
    result = run(planned(root, method, "protocol.steps=6"), Quiet())
    assert result.images == {
        "pixel": 3,
        "tags": 0,
        "none": 4,
        "eval": 4,
        "points": 3,
        "scribbles": 3,
        "boxes": 3,
    }


def test_what_is_wrong_with_labels_that_are_not_granted_ends_no_run(root: Path) -> None:
    """Each file is sound alone. Palettes that contradict each other, boxes without an area or a class, and a
    file of tags that is none."""
    folder = root / "tinyset"
    kinds = granted(find_split("tinyset", "mix", root))
    for place, (id, kind) in enumerate(kinds.items()):
        for other in ("pixel", "points", "scribbles"):
            if other != kind:
                path = folder / ("labels" if other == "pixel" else other) / f"{id}.png"
                with Image.open(path) as grey:
                    drawn = Image.fromarray(np.array(grey)).convert("P")
                drawn.putpalette([channel for c in range(256) for channel in ((c + place) % 256, 9, c)])
                drawn.save(path)
    document = json.loads((folder / "boxes.json").read_text())
    ids = {one["id"]: one["file_name"].removesuffix(".png") for one in document["images"]}
    for number, one in enumerate(document["annotations"]):
        if kinds[ids[one["image_id"]]] != "boxes":
            one |= {"bbox": [3, 4, 0, 9]} if number % 2 else {"category_id": 77}
    (folder / "boxes.json").write_text(json.dumps(document))
    (folder / "tags.json").write_bytes(GARBAGE)
    with pytest.raises(DataError, match="without an area|category"):
        read_boxes(folder / "boxes.json", CLASSES)
    made = planned(root, "supervised", "protocol.steps=2")
    assert not any("tags" in said for said in before_a_run(Folder(folder, "tinyset"), made.split))
    result = run(made, Quiet())
    assert result.images["points"] == result.images["scribbles"] == result.images["boxes"] == 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_opens_the_labels_that_are_granted(root: Path, kind: str) -> None:
    """Control of the test above."""
    for id in getattr(find_split("tinyset", "mix", root), kind):
        poison(root, kind, id)
    with pytest.raises(DataError, match="train_"):
        run(planned(root, "supervised", "protocol.steps=6"), Quiet())


def test_what_the_streams_say_of_each_kind(root: Path) -> None:
    """Against the masks, which an audit opens, in the same geometry."""
    made = planned(root, "u2pl_weak", "protocol.steps=40", "machine.audit=true")
    seen = dict.fromkeys(KINDS, 0)
    kinds, boxes_made = granted(made.split), made.box_seeds
    assert boxes_made is not None
    box_seeds.make(made, boxes_made, Quiet(), Stop())
    batches = session.parts_of(made).batches
    for step in range(12):
        batch = batches[step]
        labeled, unlabeled, truth = batch.labeled, batch.unlabeled, batch.truth
        assert sorted(kinds[id] for id in labeled.ids) == sorted(KINDS), "one of each kind in a batch of four"
        for i, id in enumerate(labeled.ids):
            known = labeled.label[i] != 255
            assert labeled.sparse[i] == (kinds[id] != "pixel")
            assert (labeled.valid[i] | ~known).all(), "no label in the padding"
            share = known.sum() / labeled.valid[i].sum()
            most = {"points": 0.02, "scribbles": 0.4}.get(kinds[id], 1)
            assert share <= most and (kinds[id] != "pixel" or share > 0.9), kinds[id]
            seen[kinds[id]] += int(known.sum())
        for i, id in enumerate(unlabeled.ids):
            kind, known, true = kinds[id], truth[i] != 255, truth[i].long()
            allowed = unlabeled.allowed[i].permute(1, 2, 0)  # H W C
            if kind == "boxes":
                said = allowed.gather(2, true.where(known, 0).unsqueeze(2)).squeeze(2)
                assert said[known].all(), "the class of a pixel is among those of its boxes, or background"
                assert allowed[..., 0].all() and not allowed.all(), "background everywhere, not all classes"
            else:
                assert allowed.all()
            assert unlabeled.sparse[i] == (kind in SPARSE)
    assert all(seen.values())


def test_marked_pixels_are_no_unlabeled_ones(root: Path) -> None:
    whole = ("protocol.resize=[1.0,1.0]", "protocol.crop=[40,40]")
    made = planned(root, "fixmatch", *whole)
    assert made.box_seeds is not None
    box_seeds.make(made, made.box_seeds, Quiet(), Stop())
    batches, kinds = session.parts_of(made).batches, granted(made.split)
    assert batches.sparse is not None
    found = 0
    for step in range(6):
        unlabeled = batches[step].unlabeled
        for i, id in enumerate(unlabeled.ids):
            marks = (batches.sparse.label(id) != 255).sum() if kinds[id] in ("points", "scribbles") else 0
            assert (~unlabeled.valid[i]).sum() == marks
            found += int(marks)
    assert found > 50


def test_what_seeds_of_boxes_cost_is_said_before_they_are_made(root: Path) -> None:
    one, two = (planned(root, "supervised", "protocol.steps=2", f"seed={seed}") for seed in (0, 1))
    cells = [Cell(str(of.config.seed), of) for of in (one, two)]
    first = "seeds of boxes first: 3 images get one, by the rule inner; all runs share them"
    assert first in before(one)
    assert tried(cells, 1, False) == ({}, ["made first, once for all runs that need it: 1 box seed set"])
    found = measure(one)
    assert found.box_seed_seconds > 0 and not (root.parent / "runs").exists(), "nothing is kept"
    kind = CostKind("supervised", [one, two], replace(found, box_seed_seconds=5.0))
    assert seconds_of([kind]) == [found.seconds + 5, found.seconds], "made for the first"
    assert ", seeds of boxes in 5 s;" in sentences([kind])[1]
    assert one.box_seeds is not None
    box_seeds.make(one, one.box_seeds, Quiet(), Stop())
    assert measure(one).box_seed_seconds == 0
    assert first not in before(one) and tried(cells, 1, False) == ({}, [])


def test_seeds_of_boxes_are_made_once_and_again_where_a_box_changes(root: Path) -> None:
    first = planned(root, "supervised", "protocol.steps=2")
    run(first, Quiet())
    assert first.box_seeds is not None
    folder = first.box_seeds.folder
    before = {path: path.stat().st_mtime_ns for path in folder.path.rglob("*.png")}
    assert len(before) == 3
    run(planned(root, "fixmatch", "protocol.steps=2"), Quiet())
    assert {path: path.stat().st_mtime_ns for path in folder.path.rglob("*.png")} == before
    other = planned(root, "supervised", "protocol.steps=2", "box_seeds.rule=naive")
    assert other.run_id != first.run_id and other.box_seeds.folder.path != folder.path  # type: ignore[union-attr]
    damaged = sorted(before)[0]
    damaged.write_bytes(GARBAGE)
    with pytest.raises(ConfigError, match="the seeds of boxes"):
        run(first, Quiet())
    run(planned(root, "fixmatch", "protocol.steps=3"), Quiet())
    assert read_mask(damaged, None, 3).shape == (40, 40)
    assert {path for path in before if path.stat().st_mtime_ns != before[path]} == {damaged}


def test_a_split_without_sparse_labels_has_the_streams_it_had(root: Path) -> None:
    batch = session.parts_of(planned(root, "u2pl_weak", split="few")).batches[0]
    for stream in (batch.labeled, batch.unlabeled):
        assert stream.sparse is None and stream.place is None and stream.place_tags is None


def test_kinds_share_a_batch_and_too_small_a_batch_is_refused(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"masks and points and scribbles and boxes share .*labeled=4"):
        planned(root, "supervised", "protocol.batch.labeled=3")


def test_a_gated_crf_reaches_every_method_on_sparse_labels_alone(root: Path) -> None:
    sets = ("protocol.steps=3", "protocol.gated_crf.weight=0.5")
    for method in ("supervised", "fixmatch"):
        plain, gated = planned(root, method, "protocol.steps=3"), planned(root, method, *sets)
        assert plain.run_id != gated.run_id
        losses = [run(one, Quiet()) and read_metrics(one.folder.metrics) for one in (plain, gated)]
        assert losses[1][0]["labeled"] > losses[0][0]["labeled"]
    few = [planned(root, "supervised", *of, split="few") for of in (("protocol.steps=3",), sets)]
    for one in few:
        run(one, Quiet())
    same = [read_metrics(one.folder.metrics) for one in few]
    assert [line["loss"] for line in same[0]] == [line["loss"] for line in same[1]], "masks alone"


def test_the_gated_crf_sees_the_images_of_the_step(root: Path) -> None:
    """Against the loss itself: images with sparse labels, no padding, what the network sees."""
    made = planned(root, "supervised", "protocol.steps=3", "protocol.gated_crf.weight=2")
    assert made.box_seeds is not None
    box_seeds.make(made, made.box_seeds, Quiet(), Stop())
    trainer = session.trainer_of(made, Quiet(), Stop())
    stream = trainer.batches[0].on("cpu").labeled
    loss = trainer.method.task.labeled_loss
    assert isinstance(loss, WithGatedCrf)
    logits = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    bare = cross_entropy(logits, stream.label)
    assert loss(logits, stream.label) == bare, "of no step"
    loss.stream = stream
    gate = stream.valid & stream.sparse[:, None, None]
    assert gate[0].sum() == 0 < gate[1].sum()
    expected = bare + 2 * gated_crf_of_logits(logits, stream.image, gate, 4, 5, 6.0, 0.0225)
    torch.testing.assert_close(loss(logits, stream.label), expected)
    assert loss(logits, stream.label.clone()) == bare, "labels of another image"
