import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from bench.errors import ConfigError, DataError
from datasets.splits import (
    COMMITTED,
    GRANTS,
    LISTS,
    BatchSource,
    Split,
    batch_sources,
    digest,
    find_split,
    known_splits,
)
from datasets.splits_make import write_split

EMPTY = hashlib.sha256(b"").hexdigest()
NESTED = ("1_16", "1_8", "1_4", "1_2", "full")
OURS = [
    (dataset, name)
    for dataset in ("camvid", "msrc21", "msrc21_objects")
    for name in (*NESTED, "tags", "1_8+tags")
] + [("camvid", "1_64"), ("camvid", "drive_0006R0")]


def split(*, name: str = "half", **lists: tuple[str, ...]) -> Split:
    default: dict[str, tuple[str, ...]] = {"pixel": ("a",), "tags": (), "none": ("b",), "eval": ("e",)}
    return Split("toy", name, **(default | lists))


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
    what = "no split" if dataset == "toy" else "cannot name a data set"
    fails(what, lambda: find_split(dataset, name, None), ConfigError)


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


def test_finding_a_split_needs_no_torch_and_nothing_that_opens_masks() -> None:
    code = (
        "import sys; from datasets.splits import batch_sources, find_split\n"
        "batch_sources(find_split('camvid', '1_8+tags', None), ['pixel', 'tags', 'none'], 8, 8)\n"
        "never = {'torch', 'datasets.splits_make', 'datasets.splits_import', 'datasets.decode'}\n"
        "print(never & {*sys.modules})"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=COMMITTED.parent.parent
    )
    assert run.stdout == "set()\n", run.stderr


# --- what a batch takes


def test_sources_of_a_mixed_batch() -> None:
    mixed = split(pixel=("a", "b"), tags=("c", "d"), none=("f",))
    sources = batch_sources(mixed, ["pixel", "tags", "none"], 3, 2)
    assert sources == {
        "pixel": BatchSource(("a", "b"), 2),
        "seeds": BatchSource(("c", "d"), 1),
        "tags": BatchSource(("a", "b", "c", "d"), 3),
        "none": BatchSource(("f", "c", "d"), 2),
    }
    assert batch_sources(split(pixel=(), tags=("c",)), ["pixel"], 1, 9) == {"seeds": BatchSource(("c",), 1)}


@pytest.mark.parametrize(
    ("needs", "labeled", "what"),
    [
        ("pixel", 6, "labeled stream of split 'half' of 'toy' has 2 images with masks, too few for the 3 in"),
        ("pixel", 6, "--set here.labeled=4`"),
        ("pixel", 1, "--set here.labeled=2`"),
        ("pixel", 0, "the labeled batch is 0"),
        ("tags", 5, "tagged stream of split 'half' of 'toy' has 4 images, too few for the 5 in a batch"),
        ("tags", 5, "--set here.labeled=4`"),
        ("none", 1, "unlabeled stream of split 'half' of 'toy' has 3 images, too few for the 4 in a batch"),
        ("none", 1, "--set here.unlabeled=3`"),
    ],
)
def test_a_batch_larger_than_a_list_is_refused(needs: str, labeled: int, what: str) -> None:
    mixed = split(pixel=("a", "b"), tags=("c", "d"), none=("f",))
    fails(what, lambda: batch_sources(mixed, [needs], labeled, 4, "here"), ConfigError)


def test_no_advice_leads_to_a_batch_below_the_least() -> None:
    one = split(pixel=("a",), none=("f", "g"))
    with pytest.raises(
        ConfigError, match="choose another split or a smaller batch, e.g. `--set .*labeled=1`"
    ):
        batch_sources(one, ["pixel"], 4, 4)
    with pytest.raises(ConfigError, match=r"choose another split\.$"):
        batch_sources(one, ["pixel"], 4, 4, least=2)
    with pytest.raises(ConfigError, match="the labeled batch is 1, .*labeled=2` or more"):
        batch_sources(one, ["pixel"], 1, 4, least=2)
    assert batch_sources(one, ["tags", "none"], 1, 1, least=2)["none"].size == 1


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
