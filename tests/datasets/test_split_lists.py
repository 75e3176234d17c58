import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bench.errors import ConfigError, DataError
from datasets import split_lists
from datasets.camvid import CamVid
from datasets.folder import Folder
from datasets.msrc21 import Msrc21, Msrc21Objects
from datasets.split_lists import (
    COMMITTED,
    GRANTS,
    LISTS,
    Split,
    digest,
    find_split,
    import_split,
    known_splits,
    make_splits,
    recognise,
    regenerate,
    write_split,
)
from datasets.tags import load_tags

EMPTY = hashlib.sha256(b"").hexdigest()
NESTED = ("1_16", "1_8", "1_4", "1_2", "full")
OURS = [
    (dataset, name)
    for dataset in ("camvid", "msrc21", "msrc21_objects")
    for name in (*NESTED, "tags", "1_8+tags")
]
KNOWN = json.loads((COMMITTED / "known_lists.json").read_text())


def split(*, name: str = "half", **lists: tuple[str, ...]) -> Split:
    default: dict[str, tuple[str, ...]] = {"pixel": ("a",), "tags": (), "none": ("b",), "eval": ("e",)}
    return Split("toy", name, **(default | lists))


@pytest.fixture
def committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for the suite's own splits."""
    place = tmp_path / "committed"
    place.mkdir()
    monkeypatch.setattr(split_lists, "COMMITTED", place)
    return place


@pytest.fixture
def folder(committed: Path) -> Path:
    write_split(committed / "toy" / "half", split(), {"rule": "by hand"})
    return committed / "toy" / "half"


def fails(what: str | Path, function: Callable[[], object], error: type[Exception] = DataError) -> str:
    with pytest.raises(error, match=re.escape(str(what))) as caught:
        function()
    return str(caught.value)


# --- digests


def test_digest_by_hand() -> None:
    assert digest(["b", "a", "b"]) == hashlib.sha256(b"a\nb").hexdigest()
    assert digest([]) == EMPTY
    assert digest(["ä"]) == hashlib.sha256("ä".encode()).hexdigest()


def test_digests_and_counts_of_a_split() -> None:
    one = split(pixel=("a", "c"))
    assert one.counts == {"pixel": 2, "tags": 0, "none": 1, "eval": 1}
    assert one.digests == {"pixel": digest("ac"), "tags": EMPTY, "none": digest("b"), "eval": digest("e")}
    assert one.eval_digest == digest("e")


# --- writing and finding


def test_a_split_comes_back(folder: Path) -> None:
    assert find_split("toy", "half", None) == split()
    assert sorted(path.name for path in folder.iterdir()) == [
        "MANIFEST.json",
        "none.txt",
        "pixel.txt",
        "tags.txt",
    ]
    assert (folder / "tags.txt").read_bytes() == b"" and (folder.parent / "eval.txt").read_bytes() == b"e\n"
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    assert manifest == {
        "dataset": "toy",
        "split": "half",
        "origin": {"rule": "by hand"},
        "counts": split().counts,
        "digests": split().digests,
    }


def test_a_share_may_be_written_with_a_slash(committed: Path) -> None:
    write_split(committed / "toy" / "1_16", split(name="1_16"), {})
    assert find_split("toy", "1/16", None).name == "1_16"


def test_the_data_root_is_looked_at_last(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "data" / "toy" / "splits"
    write_split(place / "half", split(pixel=("z",)), {})
    write_split(place / "mine", split(name="mine", pixel=("z",)), {})
    assert find_split("toy", "half", tmp_path / "data").pixel == ("a",)
    assert find_split("toy", "mine", tmp_path / "data").pixel == ("z",)
    assert known_splits("toy", tmp_path / "data") == ["half", "mine"] and known_splits("toy", None) == [
        "half"
    ]
    fails("'mine'", lambda: find_split("toy", "mine", None), ConfigError)


def test_unknown_names_are_answered_with_known_ones(folder: Path, tmp_path: Path) -> None:
    message = fails(
        "no split 'halv'; did you mean 'half'?", lambda: find_split("toy", "halv", None), ConfigError
    )
    assert "Known: half" in message
    message = fails(
        "'tox' has no splits; did you mean 'toy'?", lambda: find_split("tox", "half", None), ConfigError
    )
    assert "--data-root" in message
    (tmp_path / "data" / "other" / "splits").mkdir(parents=True)
    assert "other, toy" in fails("'x'", lambda: find_split("x", "half", tmp_path / "data"), ConfigError)


@pytest.mark.parametrize(
    ("dataset", "name"), [("..", "toy"), (".", "half"), ("toy", ".."), ("toy", "../toy/half"), ("", "")]
)
def test_names_are_no_paths(folder: Path, dataset: str, name: str) -> None:
    fails("no split", lambda: find_split(dataset, name, None), ConfigError)


@pytest.mark.parametrize("name", LISTS)
def test_a_changed_list_is_refused(folder: Path, name: str) -> None:
    path = (folder.parent if name == "eval" else folder) / f"{name}.txt"
    path.write_text(path.read_text() + "another\n")
    assert "digest" in fails(path, lambda: find_split("toy", "half", None))
    path.unlink()
    assert "does not exist" in fails(path, lambda: find_split("toy", "half", None))


def test_line_ends_and_order_do_not_count(folder: Path) -> None:
    write_split(folder, split(pixel=("a", "c")), {})
    (folder / "pixel.txt").write_bytes(b"\xef\xbb\xbfc\r\n\r\na")
    assert find_split("toy", "half", None).pixel == ("a", "c")


def test_a_repeated_id_is_refused(folder: Path) -> None:
    (folder / "pixel.txt").write_text("a\na\n")
    assert "'a'" in fails(folder / "pixel.txt", lambda: find_split("toy", "half", None))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"dataset": "toy", "split": "half", "digests": {}}', "[" * 100_000]
)
def test_a_bad_manifest_is_refused(folder: Path, text: str) -> None:
    (folder / "MANIFEST.json").write_text(text)
    fails(folder / "MANIFEST.json", lambda: find_split("toy", "half", None))
    (folder / "MANIFEST.json").unlink()
    fails(folder / "MANIFEST.json", lambda: find_split("toy", "half", None))


def test_a_renamed_split_is_refused(folder: Path) -> None:
    folder.rename(folder.parent / "1_8")
    assert "toy/half" in fails(folder.parent / "1_8", lambda: find_split("toy", "1_8", None))


BAD = [
    ({"none": ("a",)}, "pixel.txt"),
    ({"tags": ("a",)}, "tags.txt"),
    ({"tags": ("b",)}, "none.txt"),
    ({"eval": ("a",)}, "eval.txt"),
    ({"eval": ("b",)}, "eval.txt"),
    ({"tags": ("e",)}, "eval.txt"),
    ({"none": ("A",)}, "'A' in none.txt and 'a' in pixel.txt"),
    ({"pixel": ("a", "a")}, "more than once"),
    ({"pixel": (), "none": ()}, "all empty"),
    ({"eval": ()}, "eval.txt"),
    ({"pixel": ("../a",)}, "cannot be an id"),
]


@pytest.mark.parametrize(("lists", "what"), BAD)
def test_a_bad_split_is_neither_written_nor_read(
    committed: Path, lists: dict[str, tuple[str, ...]], what: str
) -> None:
    bad, folder = split(name="half", **lists), committed / "toy" / "half"
    fails(what, lambda: write_split(folder, bad, {}))
    assert not folder.exists()
    folder.mkdir(parents=True)
    for name in LISTS:
        path = (folder.parent if name == "eval" else folder) / f"{name}.txt"
        path.write_text("".join(f"{id}\n" for id in getattr(bad, name)))
    manifest = {"dataset": "toy", "split": "half", "digests": bad.digests, "tag_digest": "of the tags"}
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))
    fails(what, lambda: find_split("toy", "half", None))


def test_all_splits_of_a_data_set_score_the_same_images(folder: Path) -> None:
    other = split(name="other", eval=("f",))
    fails(folder.parent / "eval.txt", lambda: write_split(folder.parent / "other", other, {}))
    assert not (folder.parent / "other").exists()


def test_an_interrupted_write_leaves_the_old_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        write_split(folder, split(pixel=("a", "c")), {})
    assert find_split("toy", "half", None) == split()
    assert not list(folder.glob("*.part"))


def test_finding_a_split_needs_no_torch() -> None:
    code = (
        "import sys; from datasets.split_lists import find_split; find_split('camvid', '1_8', None); "
        "print('torch' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=COMMITTED.parent.parent
    )
    assert run.stdout == "False\n", run.stderr


# --- the rule


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
    assert skipped.keys() == {"1_16"} and "x (16)" in skipped["1_16"] and "y (2)" in skipped["1_16"]
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
    assert set(made) == {"full", "tags"} and set(skipped) == {"1_16", "1_8", "1_4", "1_2", "1_8+tags"}
    assert "toy/1_8+tags is not made" in skipped["1_8+tags"] and "8 to cover all 8 classes" in skipped["1_8"]


@pytest.mark.parametrize(
    ("count", "sizes"), [(10_582, (662, 1323, 2646, 5291, 10_582)), (2975, (186, 372, 744, 1488, 2975))]
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
    fails(what, lambda: make_splits("toy", train, eval, lambda _: {0}, ["x"]))


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
    for name, share in zip(NESTED, (16, 8, 4, 2, 1), strict=True):
        if name in made:
            pixel = set(made[name].pixel)
            assert len(pixel) == -(-len(classes) // share)
            assert before <= pixel
            assert everything <= frozenset().union(*(classes[id] for id in pixel))
            before = pixel
    for one in made.values():
        assert sorted(one.pixel + one.tags + one.none) == sorted(classes)


def toy_data(root: Path) -> Folder:
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for n in range(20):
        Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(root / "images" / f"i{n}.png")
        Image.fromarray(np.array([[n == 7, 255], [0, 0]], np.uint8)).save(root / "labels" / f"i{n}.png")
    (root / "train.txt").write_text("".join(f"i{n}\n" for n in range(16)))
    (root / "val.txt").write_text("i17\ni16\n")
    (root / "classes.txt").write_text("x\ny\n")
    return Folder(root, "toy")


def test_regenerate(committed: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    made, skipped = regenerate(toy_data(tmp_path / "toy"), on_item=lambda *at: seen.append(at))
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


# --- lists of other projects


def test_published_lists() -> None:
    assert len(KNOWN["lists"]) == 87
    assert all(
        re.fullmatch("[0-9a-f]{64}", entry["sha256"]) and entry["known_as"] for entry in KNOWN["lists"]
    )
    assert len({entry["sha256"] for entry in KNOWN["lists"]}) == 87
    assert recognise(["nothing"]) == []


VOC_TRAIN = ("2007_000032", "2007_000039", "2007_000063", "2008_000002")
CITY_TRAIN = ("aachen_000000_000019", "aachen_000001_000019", "bad-city_000000_000019")


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {
        digest(VOC_TRAIN[:2]): ("A:pascal/2/labeled", "B:pascal/2"),
        digest(VOC_TRAIN[2:]): ("A:pascal/2/unlabeled",),
    }
    monkeypatch.setattr(split_lists, "_published", lambda: table)


@pytest.mark.parametrize(
    "line", ["{}", "JPEGImages/{0}.jpg SegmentationClass/{0}.png",
             "/JPEGImages/{0}.jpg\tSegmentationClassAug/{0}.png", "{}.jpg"]
)  # fmt: skip
def test_import_voc(committed: Path, known: None, tmp_path: Path, line: str) -> None:
    (tmp_path / "labeled.txt").write_bytes("\r\n".join(line.format(id) for id in VOC_TRAIN[:2]).encode())
    (tmp_path / "unlabeled.txt").write_text("\n".join(line.format(id) for id in VOC_TRAIN[2:]))
    files = (tmp_path / "labeled.txt", tmp_path / "unlabeled.txt")
    destination = tmp_path / "data" / "voc" / "splits"
    one = import_split("voc", "a/2", *files, VOC_TRAIN, ["2009_000001"], destination)
    assert (one.name, one.pixel, one.tags, one.none) == ("a_2", VOC_TRAIN[:2], (), VOC_TRAIN[2:])
    assert find_split("voc", "a_2", tmp_path / "data") == one
    origin = json.loads((destination / "a_2" / "MANIFEST.json").read_text())["origin"]
    assert origin["known_as"]["pixel"] == ["A:pascal/2/labeled", "B:pascal/2"]
    assert origin["known_as"]["none"] == ["A:pascal/2/unlabeled"] and origin["known_as"]["eval"] == []
    assert origin["imported"]["pixel"].endswith("/labeled.txt")
    assert (
        import_split("voc", "b", files[0], None, VOC_TRAIN, ["2009_000001"], destination).none
        == VOC_TRAIN[2:]
    )


@pytest.mark.parametrize(
    "line", ["leftImg8bit/train/city/{}_leftImg8bit.png",
             "leftImg8bit/train/city/{0}_leftImg8bit.png gtFine/train/city/{0}_gtFine_labelTrainIds.png",
             "{}"]
)  # fmt: skip
def test_import_cityscapes(committed: Path, tmp_path: Path, line: str) -> None:
    (tmp_path / "labeled.txt").write_text("\n".join(line.format(id) for id in CITY_TRAIN[1:]))
    one = import_split(
        "cityscapes", "x", tmp_path / "labeled.txt", None, CITY_TRAIN, ["ulm_000000_000019"], tmp_path / "s"
    )
    assert one.pixel == CITY_TRAIN[1:] and one.none == CITY_TRAIN[:1]


def test_import_keeps_sub_folders_of_our_layout(committed: Path, tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("images/far/c.png labels/far/c.png\nfar/d\n")
    one = import_split("toy", "x", tmp_path / "l.txt", None, ["far/c", "far/d", "e"], ["z"], tmp_path / "s")
    assert one.pixel == ("far/c", "far/d") and one.none == ("e",)


def test_import_of_tagged_images(committed: Path, tmp_path: Path) -> None:
    data = toy_data(tmp_path / "toy")
    (tmp_path / "l.txt").write_text("i0\n")
    (tmp_path / "t.txt").write_text("i1\ni2\n")
    given = (data.ids("train"), data.ids("val"), tmp_path / "s", tmp_path / "t.txt", data)
    fails("'i1' is granted its tags", lambda: import_split("toy", "x", None, None, *given))
    (tmp_path / "toy" / "tags.json").write_text(json.dumps({f"i{n}": [n % 2] for n in range(3)}))
    data = Folder(tmp_path / "toy", "toy")
    given = (*given[:4], data)
    one = import_split("toy", "x", tmp_path / "l.txt", None, *given)
    assert (one.pixel, one.tags, len(one.none)) == (("i0",), ("i1", "i2"), 13)
    assert load_tags(data, one) == {"i1": (1,), "i2": (0,)}
    assert import_split("toy", "y", None, None, *given).pixel == ()
    (tmp_path / "l.txt").write_text("i1\n")
    fails("t.txt both hold 'i1'", lambda: import_split("toy", "z", tmp_path / "l.txt", None, *given))


@pytest.mark.parametrize(
    ("labeled", "unlabeled", "what"),
    [
        ("a\nb\n", "b\nc\n", "Leave the unlabeled list out"),
        ("a\nq\n", None, "l.txt holds 'q', not among the 3 training images"),
        ("a\n", "b\nq\n", "u.txt holds 'q'"),
        ("a\nz\n", None, "l.txt holds 'z', which toy scores"),
        ("a\n", "z\n", "u.txt holds 'z', which toy scores"),
        ("a\nx/a.jpg\n", None, "more than once"),
        ("\n", None, "l.txt is empty"),
        ("../../a\n", None, "cannot be an id"),
        ("..\\a.jpg\n", None, "cannot be an id"),
    ],
)
def test_import_refuses(
    committed: Path, tmp_path: Path, labeled: str, unlabeled: str | None, what: str
) -> None:
    (tmp_path / "l.txt").write_text(labeled)
    if unlabeled:
        (tmp_path / "u.txt").write_text(unlabeled)
    files = (tmp_path / "l.txt", tmp_path / "u.txt" if unlabeled else None)
    fails(what, lambda: import_split("toy", "x", *files, list("abc"), ["z"], tmp_path / "s"))
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("name", ["half", "..", "", "a b", "-x", ".hidden"])
def test_import_refuses_names(folder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "l.txt").write_text("a\n")
    fails(
        repr(name),
        lambda: import_split("toy", name, tmp_path / "l.txt", None, ["a"], ["z"], tmp_path / "s"),
        ConfigError,
    )


# --- what is in the tree


@pytest.mark.parametrize(("dataset", "name"), OURS)
def test_our_splits_match_their_manifests(dataset: str, name: str) -> None:
    one = find_split(dataset, name, None)
    manifest = json.loads((COMMITTED / dataset / name / "MANIFEST.json").read_text())
    said = {"tag_sets": manifest["tag_digest"]} if one.tags else {}
    assert manifest["counts"] == one.counts and {**manifest["digests"], **said} == one.digests
    total = {"camvid": (367, 233)}.get(dataset, (310, 185))
    assert (sum(one.counts[grant] for grant in GRANTS), one.counts["eval"]) == total


@pytest.mark.parametrize("dataset", ["camvid", "msrc21", "msrc21_objects"])
def test_our_splits_are_nested(dataset: str) -> None:
    pixels = [set(find_split(dataset, name, None).pixel) for name in NESTED]
    assert all(small < large for small, large in pairwise(pixels))
    assert set(find_split(dataset, "1_8+tags", None).pixel) == pixels[1]


@pytest.fixture
def real_data() -> Path:
    """The folder of data sets that BENCH_DATA names."""
    root = os.environ.get("BENCH_DATA")
    if not root:
        pytest.skip("BENCH_DATA names no folder of data sets")
    return Path(root)


@pytest.mark.parametrize("cls", [CamVid, Msrc21, Msrc21Objects])
def test_our_splits_come_from_the_rule_and_cover(
    cls: Callable[[Path], Folder], real_data: Path, tmp_path: Path
) -> None:
    data = cls(real_data)
    made, skipped = regenerate(data, tmp_path / data.name)
    assert not skipped
    for name, one in made.items():
        assert find_split(data.name, name, None) == one
    for name in ("1_16", "1_8+tags"):
        present = {c for id in made[name].pixel for c in np.unique(data.mask(id)).tolist()}
        assert present >= set(range(len(data.classes)))
