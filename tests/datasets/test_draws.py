"""Draws of a split, held-out lists, and the split of CamVid by drive."""

import hashlib
import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import ConfigError, DataError
from datasets import draws
from datasets.camvid import DRIVE_ORIGIN, DRIVE_SPLIT, drive_split
from datasets.folder import Folder
from datasets.ids import read_list, read_sealed, sealed
from datasets.splits import COMMITTED, GRANTS, HELDOUT, find_split, heldout_ids, known_draws, known_splits
from datasets.splits_import import import_split
from datasets.splits_make import make_splits, rank, regenerate, write_split
from datasets.tags import load_tags

NESTED = ("1_64", "1_16", "1_8", "1_4", "1_2", "full")
OURS = ("shapes", "shapes21", "camvid", "msrc21", "msrc21_objects")


def refused(what: str, call: Callable[[], object], error: type[Exception] = ConfigError) -> str:
    with pytest.raises(error, match=re.escape(what)) as caught:
        call()
    return str(caught.value)


# --- what a share of an order grants


def test_grants_by_hand() -> None:
    order = [f"i{n}" for n in range(17)]
    assert draws.granted("1_16", order) == {"pixel": order[:2], "none": order[2:]}
    assert draws.granted("1_8+tags", order) == {"pixel": order[:3], "tags": order[3:]}
    assert draws.granted("1_8+points", order) == {"pixel": order[:3], "points": order[3:]}
    assert draws.granted("boxes", order) == {"boxes": order}
    assert draws.granted("tags", order) == {"tags": order}
    assert draws.granted("full", order) == {"pixel": order, "none": []}
    assert draws.share_of("1_64", 367) == 6 and draws.share_of("1_64", 64) == 1


def test_a_draw_by_hand(committed: Path, toy: Folder) -> None:
    """Class 1 is in i7 alone, so every draw begins with it; the rest is in the order of the hash."""
    regenerate(toy, others=[2])
    rest = [f"i{n}" for n in range(16) if n != 7]
    order = ["i7", *sorted(rest, key=lambda id: hashlib.sha256(f"toy:2:{id}".encode()).hexdigest())]
    assert read_list(committed / "toy" / "draw2.txt") == tuple(order)
    for name, size in (("1_64", 1), ("1_16", 1), ("1_8", 2), ("1_4", 4), ("1_2", 8)):
        one = find_split("toy", name, None, draw=2)
        assert one.pixel == tuple(sorted(order[:size])) and one.none == tuple(sorted(order[size:]))
        assert (one.draw, one.eval, one.name) == (2, ("i16", "i17"), name)
    mixed = find_split("toy", "1_8+tags", None, draw=2)
    assert mixed.tags == tuple(sorted(order[2:])) and mixed.none == ()
    assert mixed.tag_digest != find_split("toy", "1_8+tags", None).tag_digest
    assert load_tags(toy, mixed) == dict.fromkeys(mixed.tags, (0,)), "the digest is that of the tags"
    assert known_draws("toy", None) == [0, 2] and "1_8" in known_splits("toy", None)
    said = json.loads((committed / "toy" / "draw2.json").read_text())
    assert said["labeled"] == {"1_64": 1, "1_16": 1, "1_8": 2, "1_4": 4, "1_2": 8, "1_8+tags": 2}
    assert said["origin"]["seed"] == 2 and said["left_out"] == {}


@given(
    st.dictionaries(
        st.integers(0, 10_000).map(lambda n: f"i{n}"),
        st.frozensets(st.sampled_from([*range(5), 255]), max_size=3), min_size=1, max_size=80
    ),
    st.integers(0, 50),
)  # fmt: skip
def test_each_draw_is_nested_and_covers(classes: dict[str, frozenset[int]], draw: int) -> None:
    made, skipped = make_splits("toy", list(classes), ["e"], classes.__getitem__, list("abcde"), draw)
    everything = frozenset().union(*classes.values()) - {255}
    pixels = [set(made[name].pixel) for name in NESTED if name in made]
    assert all(small <= large for small, large in pairwise(pixels)) and "full" in made
    assert all(everything <= frozenset().union(*(classes[id] for id in pixel)) for pixel in pixels)
    ranked = rank("toy", list(classes), classes.__getitem__, list("abcde"), draw)
    assert sorted(ranked.order) == sorted(classes) and ranked.left_out == skipped
    for name, why in skipped.items():
        size = draws.share_of(name, len(classes))
        lacking = everything - frozenset().union(*(classes[id] for id in ranked.order[:size]))
        assert lacking and ", ".join("abcde"[c] for c in sorted(lacking)) in why


# --- what is refused


def test_a_draw_that_covers_not_every_class_is_refused_and_names_it(committed: Path, toy: Folder) -> None:
    regenerate(toy, others=[1])
    file = committed / "toy" / "draw1.json"
    ranked = rank("toy", toy.ids("train"), lambda id: {0} if id != "i7" else {1}, toy.classes, 1)
    assert ranked.left_out.keys() == {"1_64", "1_16"}, "one image, two classes"
    said = json.loads(file.read_text())
    file.write_text(json.dumps({**said, "left_out": ranked.left_out}))
    message = refused("toy/1_16, draw 1, is not made", lambda: find_split("toy", "1_16", None, draw=1))
    lacking = "y" if ranked.order[0] != "i7" else "x"
    assert f"lack {lacking};" in message and "Choose another draw or a larger split." in message
    assert find_split("toy", "1_8", None, draw=1).draw == 1


def test_splits_without_draws(toy: Folder, tmp_path: Path) -> None:
    place = tmp_path / "toy" / "splits"
    regenerate(toy, place, others=[1])
    (tmp_path / "labeled.txt").write_text("i7\ni1\n")
    lists = (toy.ids("train"), toy.ids("val"), place)
    import_split("toy", "ours", tmp_path / "labeled.txt", None, *lists, data=toy)
    for name, why in (
        ("full", "the same in every draw"),
        ("tags", "the same in every draw"),
        ("ours", "one given list"),
    ):
        assert "leave --draw 1 out" in refused(
            why, lambda name=name: find_split("toy", name, tmp_path, draw=1)
        )
    message = refused("toy has no draw 3. Known: 0, 1.", lambda: find_split("toy", "1_8", tmp_path, draw=3))
    assert "data splits --make --draw 3 --dataset toy" in message
    # A list of another project may be called as a share is.
    import_split("toy", "1/8", tmp_path / "labeled.txt", None, *lists, data=toy)
    refused("one given list", lambda: find_split("toy", "1_8", tmp_path, draw=1))


def test_damaged_lists_are_refused(committed: Path, toy: Folder) -> None:
    regenerate(toy, others=[1])
    file, about = (committed / "toy" / name for name in ("draw1.txt", "draw1.json"))
    whole, said = file.read_text(), json.loads(about.read_text())
    lines = whole.split()
    file.write_text("\n".join([lines[1], lines[0], *lines[2:]]))
    message = refused(
        "has changed since it was made", lambda: find_split("toy", "1_8", None, draw=1), DataError
    )
    assert "draw1.txt" in message and "--make --draw 1" in message
    file.write_text(whole)
    other = lines[:-1]
    for text, change, what in (
        (whole, {"dataset": "yot"}, "'yot', not of 'toy'"),
        (whole, {"draw": 2}, "is not that of draw 1"),
        (whole, {"digest": None}, "does not say the digest"),
        (whole, {"eval_digest": "0"}, "other training or scored images"),
        ("\n".join(other), {"digest": sealed(other)}, "other training or scored images"),
    ):
        file.write_text(text)
        about.write_text(json.dumps({**said, **change}))
        refused(what, lambda: find_split("toy", "1_8", None, draw=1), DataError)
    about.write_text("{")
    refused("draw1.json is not readable JSON", lambda: find_split("toy", "1_8", None, draw=1), DataError)


# --- held-out lists


def test_val_is_held_out_where_test_is_scored(committed: Path, toy: Folder, tmp_path: Path) -> None:
    assert toy.scored == "val" and toy.heldout is None
    (tmp_path / "toy" / "test.txt").write_text("i18\n")
    data = Folder(tmp_path / "toy", "toy")
    assert (data.scored, data.heldout) == ("test", "val")
    _, skipped = regenerate(data)
    assert not skipped and heldout_ids("toy", None) == ("i16", "i17")
    one, other = (find_split("toy", "1_8", None, scored=scored) for scored in ("eval", HELDOUT))
    assert (one.eval, one.scored) == (("i18",), "eval") and (other.eval, other.scored) == (
        ("i16", "i17"),
        HELDOUT,
    )
    assert one.pixel == other.pixel and one.eval_digest != other.eval_digest
    (tmp_path / "toy" / "heldout.txt").write_text("i19\n")
    assert Folder(tmp_path / "toy", "toy").heldout == "heldout"


def test_without_a_held_out_list_it_is_refused(folder: Path) -> None:
    message = refused("toy has no held-out list", lambda: find_split("toy", "half", None, scored=HELDOUT))
    assert "val.txt or heldout.txt" in message


@pytest.mark.parametrize(
    ("ids", "why"),
    [("i1", "to be learned from or scored"), ("i18\ni17", "'i17'"), ("", "is empty"), ("gone", "gone")],
)
def test_a_list_that_cannot_be_held_out_is_left_out_and_said(
    ids: str, why: str, committed: Path, toy: Folder, tmp_path: Path
) -> None:
    (tmp_path / "toy" / "heldout.txt").write_text(ids)
    _, skipped = regenerate(Folder(tmp_path / "toy", "toy"))
    assert skipped.keys() == {"heldout"} and why in skipped["heldout"]
    assert heldout_ids("toy", None) is None


def test_a_held_out_list_that_has_changed_is_refused(committed: Path, toy: Folder, tmp_path: Path) -> None:
    (tmp_path / "toy" / "heldout.txt").write_text("i18\n")
    regenerate(Folder(tmp_path / "toy", "toy"))
    (committed / "toy" / "heldout.txt").write_text("i19\n")
    refused("heldout.txt has changed", lambda: find_split("toy", "1_8", None, scored=HELDOUT), DataError)
    for id in ("i7", "i17"):  # learned from, scored
        (committed / "toy" / "heldout.txt").write_text(f"{id}\n")
        about = {"dataset": "toy", "digest": sealed([id])}
        (committed / "toy" / "heldout.json").write_text(json.dumps(about))
        refused(id, lambda: find_split("toy", "1_8", None, scored=HELDOUT), DataError)


def test_an_import_holds_out_too(toy: Folder, tmp_path: Path) -> None:
    (tmp_path / "toy" / "heldout.txt").write_text("i18\n")
    (tmp_path / "labeled.txt").write_text("i7\ni1\n")
    data, place = Folder(tmp_path / "toy", "toy"), tmp_path / "toy" / "splits"
    import_split(
        "toy", "ours", tmp_path / "labeled.txt", None, data.ids("train"), data.ids("val"), place, data=data
    )
    assert find_split("toy", "ours", tmp_path, scored=HELDOUT).eval == ("i18",)


# --- what is in the tree


@pytest.mark.slow
@pytest.mark.parametrize("dataset", OURS)
def test_our_draws_are_nested_and_apart(dataset: str) -> None:
    draws = range(10 if dataset == "shapes" else 5)
    assert known_draws(dataset, None) == list(draws)
    names = [name for name in NESTED[:-1] if name in known_splits(dataset, None)]
    for draw in draws:
        pixels = [set(find_split(dataset, name, None, draw).pixel) for name in names]
        assert all(small < large for small, large in pairwise(pixels))
    smallest = {find_split(dataset, names[0], None, draw).pixel for draw in draws}
    assert len(smallest) == len(draws)
    full = set(find_split(dataset, "full", None).pixel)
    for draw in draws[1:]:
        order, _ = read_sealed(COMMITTED / dataset / f"draw{draw}.txt", dataset, "")
        assert set(order) == full


@pytest.mark.parametrize(
    ("dataset", "count"),
    [("shapes", 200), ("shapes21", 400), ("camvid", 101), ("msrc21", 79), ("msrc21_objects", 79)],
)
def test_our_data_sets_hold_images_out(dataset: str, count: int) -> None:
    for name in known_splits(dataset, None):
        one, other = (find_split(dataset, name, None, scored=scored) for scored in ("eval", HELDOUT))
        assert len(other.eval) == count and not set(one.eval) & set(other.eval)
        assert all(getattr(one, grant) == getattr(other, grant) for grant in GRANTS)


def test_the_split_by_drive_labels_one_drive(tmp_path: Path) -> None:
    full, one = find_split("camvid", "full", None), find_split("camvid", DRIVE_SPLIT, None)
    assert one.counts == {"pixel": 101, "tags": 0, "none": 266, "eval": 233}
    assert {id.split("_")[0] for id in one.pixel} == {"0006R0"}
    assert {id.split("_")[0] for id in one.none} == {"0001TP", "0016E5"}
    for scored in ("eval", HELDOUT):
        assert not any(
            id.startswith("0006R0") for id in find_split("camvid", "full", None, scored=scored).eval
        )
    write_split(tmp_path / DRIVE_SPLIT, drive_split(full.pixel, full.eval), DRIVE_ORIGIN)
    for file in (tmp_path / DRIVE_SPLIT).iterdir():
        assert file.read_bytes() == (COMMITTED / "camvid" / DRIVE_SPLIT / file.name).read_bytes()
    refused("one given list", lambda: find_split("camvid", DRIVE_SPLIT, None, draw=1))
    refused("0006R0_", lambda: drive_split(["0001TP_1"], ["x"]), DataError)
