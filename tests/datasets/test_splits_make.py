import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import DataError
from bench.labels import SPARSE
from datasets.camvid import DRIVE_SPLIT, CamVid
from datasets.folder import Folder
from datasets.msrc21 import Msrc21, Msrc21Objects
from datasets.shapes import Shapes
from datasets.splits import COMMITTED, Split, find_split
from datasets.splits_adapt import RULE as ADAPTATION
from datasets.splits_make import RULE, make_splits, regenerate

DRAWS = range(1, 5)  # those in the tree, beside draw 0; of shapes 1 to 9
NESTED = ("1_64", "1_16", "1_8", "1_4", "1_2", "full")


def in_hash_order(ids: list[str], dataset: str = "toy", seed: int = 0) -> list[str]:
    return sorted(ids, key=lambda id: hashlib.sha256(f"{dataset}:{seed}:{id}".encode()).hexdigest())


def test_the_rule_by_hand() -> None:
    order = in_hash_order([f"i{n}" for n in range(16)])
    # class 0 is everywhere, class 1 in the 5th and 9th of the order, class 2 in the 9th and two later ones
    classes = {id: {0, 255} for id in order}
    classes[order[4]] |= {1}
    for place in (8, 11, 12):
        classes[order[place]] |= {2}
    classes[order[8]] |= {1}
    made, skipped = make_splits(
        "toy", sorted(order), ["e2", "e1"], classes.__getitem__, ["x", "y", "z", "never"]
    )
    # cover: the rarest class 1 (2 images) by order[4], then class 2 (3 images) by order[8]
    ranked = [order[4], order[8], *order[:4], *order[5:8], *order[9:]]
    assert skipped.keys() == {"1_64", "1_16"} and "x (16)" in skipped["1_16"] and "y (2)" in skipped["1_16"]
    assert "would hold 1 and lack z;" in skipped["1_16"]
    for name, size in (("1_8", 2), ("1_4", 4), ("1_2", 8), ("full", 16)):
        assert made[name].pixel == tuple(sorted(ranked[:size])) and made[name].none == tuple(
            sorted(ranked[size:])
        )
        assert made[name].tags == () and made[name].eval == ("e1", "e2")
    assert made["tags"] == Split("toy", "tags", (), tuple(sorted(order)), (), ("e1", "e2"))
    assert made["1_8+tags"].pixel == made["1_8"].pixel and made["1_8+tags"].tags == made["1_8"].none
    assert made["1_8+tags"].none == () and list(made) == ["1_8", "1_4", "1_2", "full", "tags", "1_8+tags"]


def test_a_share_too_small_for_its_mixed_split() -> None:
    made, skipped = make_splits("toy", list("abcdefgh"), ["z"], lambda id: {ord(id) - 97}, list("abcdefgh"))
    assert set(made) == {"full", "tags"} and set(skipped) == {"1_64", "1_16", "1_8", "1_4", "1_2", "1_8+tags"}
    assert "toy/1_8+tags is not made" in skipped["1_8+tags"] and "8 to cover all 8 classes" in skipped["1_8"]


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(10_582, (166, 662, 1323, 2646, 5291, 10_582)), (2975, (47, 186, 372, 744, 1488, 2975))],
)
def test_sizes_are_those_of_the_literature(count: int, sizes: tuple[int, ...]) -> None:
    made, _ = make_splits("toy", [str(n) for n in range(count)], ["e"], lambda _: {0}, ["x"])
    assert tuple(made[name].counts["pixel"] for name in NESTED) == sizes


def test_seed_and_name_of_the_data_set_count() -> None:
    ids = [f"i{n}" for n in range(64)]
    one, same, seed, name = (
        make_splits(dataset, order, ["e"], lambda _: {0}, ["x"], seed)[0]["1_8"].pixel
        for dataset, order, seed in (("toy", ids, 0), ("toy", ids[::-1], 0), ("toy", ids, 1), ("yot", ids, 0))
    )
    assert one == same and len({one, seed, name}) == 3


@pytest.mark.parametrize(
    ("train", "eval", "what"),
    [
        ([], ["e"], "all empty"),
        (["a"], [], "eval.txt"),
        (["a", "b"], ["b"], "'b'"),
        (["a", "a"], ["b"], "more than once"),
    ],
)
def test_lists_that_cannot_be_split(train: list[str], eval: list[str], what: str) -> None:
    with pytest.raises(DataError, match=re.escape(what)):
        make_splits("toy", train, eval, lambda _: {0}, ["x"])


@given(
    st.dictionaries(
        st.integers(0, 10_000).map(lambda n: f"i{n}"),
        st.frozensets(st.sampled_from([*range(7), 255]), max_size=3), min_size=1, max_size=80
    ),
    st.integers(0, 3),
)  # fmt: skip
def test_splits_are_exact_nested_disjoint_and_cover(classes: dict[str, frozenset[int]], seed: int) -> None:
    made, skipped = make_splits("toy", list(classes), ["e"], classes.__getitem__, list("abcdefg"), seed)
    everything = frozenset().union(*classes.values()) - {255}
    assert made.keys() | skipped.keys() == {*NESTED, "tags", "1_8+tags"} and not made.keys() & skipped.keys()
    assert {"full", "tags"} <= made.keys() and ("1_8" in made) == ("1_8+tags" in made)
    before: set[str] = set()
    for name, share in zip(NESTED, (64, 16, 8, 4, 2, 1), strict=True):
        if name in made:
            pixel = set(made[name].pixel)
            assert len(pixel) == -(-len(classes) // share)
            assert before <= pixel
            assert everything <= frozenset().union(*(classes[id] for id in pixel))
            before = pixel
    for one in made.values():
        assert sorted(one.pixel + one.tags + one.none) == sorted(classes)


def test_regenerate(committed: Path, toy: Folder, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    made, skipped = regenerate(toy, on_item=lambda *at: seen.append(at))
    assert seen == [(n, 16) for n in range(1, 17)] and not skipped
    assert made["1_16"].pixel == ("i7",) and made["1_16"].eval == ("i16", "i17")
    for name, one in made.items():
        assert find_split("toy", name, None) == one
    manifest = json.loads((committed / "toy" / "1_8" / "MANIFEST.json").read_text())
    assert manifest["origin"]["seed"] == 0 and "masks" in manifest["origin"]["rule"]
    files = {path: path.read_bytes() for path in committed.rglob("*.*")}
    regenerate(Folder(tmp_path / "toy", "toy"))
    assert {path: path.read_bytes() for path in committed.rglob("*.*")} == files
    regenerate(Folder(tmp_path / "toy", "toy"), tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "1_8" / "pixel.txt").is_file()


# --- what is in the tree


def test_the_rule_is_the_text_of_every_manifest() -> None:
    manifests = sorted(COMMITTED.glob("*/*/MANIFEST.json"))
    manifests += sorted(COMMITTED.glob("*/draw*.json"))
    origins = {file: json.loads(file.read_text())["origin"] for file in manifests}
    assert len(manifests) == 81 and origins.pop(COMMITTED / "camvid" / DRIVE_SPLIT / "MANIFEST.json")["lists"]
    pairs = {"camvid_dusk", "shapes_night"}
    for file, origin in origins.items():
        assert origin["rule"] == (ADAPTATION if file.parts[-3] in pairs else RULE), file
    assert {origin["seed"] for file, origin in origins.items() if file.name == "draw3.json"} == {3}


@pytest.mark.slow
def test_the_splits_of_shapes_come_from_the_rule(tmp_path: Path) -> None:
    """Byte for byte, with the lists of the other draws and the held-out one."""
    regenerate(Shapes(), tmp_path, range(1, 10), SPARSE)
    ours = {file.relative_to(COMMITTED / "shapes") for file in (COMMITTED / "shapes").rglob("*.*")}
    assert {file.relative_to(tmp_path) for file in tmp_path.rglob("*.*")} == ours and len(ours) == 105
    for file in ours:
        assert (tmp_path / file).read_bytes() == (COMMITTED / "shapes" / file).read_bytes(), file


@pytest.mark.parametrize("cls", [CamVid, Msrc21, Msrc21Objects])
def test_our_splits_come_from_the_rule_and_cover(
    cls: Callable[[Path], Folder], real_data: Path, tmp_path: Path
) -> None:
    data = cls(real_data)
    made, skipped = regenerate(data, tmp_path / data.name, DRAWS)
    assert all(name.startswith("1_64") for name in skipped) and bool(skipped) == (cls is not CamVid)
    for file in (tmp_path / data.name).rglob("*.*"):
        assert file.read_bytes() == (COMMITTED / file.relative_to(tmp_path)).read_bytes(), file
    for name, one in made.items():
        assert find_split(data.name, name, None) == one
    for name in ("1_16", "1_8+tags"):
        present = {c for id in made[name].pixel for c in np.unique(data.mask(id)).tolist()}
        assert present >= set(range(len(data.classes)))
