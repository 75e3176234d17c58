"""The sampled images of a run: which they are, and what is kept of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from bench.errors import DataError
from bench.records.folders import RunFolder
from bench.records.samples import Pictures, chosen, handed_on, read_picture, read_samples, write_samples

ALL = {"prediction": b"p", "image": b"i", "truth": b"t"}


def folder(root: Path, name: str = "0-aa") -> RunFolder:
    return RunFolder(root / "set" / "1_8" / "fixmatch" / name)


def test_the_choice_is_by_digest_and_not_by_place() -> None:
    ids = [f"{i}" for i in range(9)]
    by_digest = sorted(ids, key=lambda id: hashlib.sha256(id.encode()).hexdigest())
    assert chosen(ids, 3) == chosen(reversed(ids), 3) == by_digest[:3]
    assert chosen(ids, 0) == [] and len(chosen(ids, 99)) == 9
    # sha256sum of "0", "1", "2": 5feceb..., 6b86b2..., d4735e...
    assert chosen(["2", "1", "0"], 2) == ["0", "1"]


def test_photographs_and_truths_are_kept_once_for_all_runs(tmp_path: Path) -> None:
    for name in ("0-aa", "1-bb"):
        write_samples(
            folder(tmp_path, name), Pictures(True, {"night/a": ALL, "b": ALL | {"prediction": b"q"}})
        )
    shared = tmp_path / "set" / "samples"
    assert sorted(path.suffix for path in shared.iterdir()) == [".jpg", ".png"]
    run = folder(tmp_path)
    assert (run.path / "samples" / "night" / "a.png").read_bytes() == b"p"
    there = read_samples(run)
    assert (
        there is not None and there.generated and [sample.id for sample in there.samples] == ["night/a", "b"]
    )
    assert [read_picture(run, there.samples[1], kind) for kind in ("prediction", "image", "truth")] == [
        b"q",
        b"i",
        b"t",
    ]


def test_samples_replace_those_before_and_go_with_the_run(tmp_path: Path) -> None:
    run = folder(tmp_path)
    write_samples(run, Pictures(True, {"a": ALL, "b": ALL}))
    write_samples(run, Pictures(True, {"c": ALL}))
    assert [path.name for path in run.sample_pictures.iterdir()] == ["c.png"]
    run.clear()
    assert not run.samples.exists() and not run.sample_pictures.exists() and read_samples(run) is None


@pytest.mark.parametrize("kind", ["prediction", "image", "truth"])
def test_a_damaged_picture_is_named_and_a_lost_one_is_none(tmp_path: Path, kind: str) -> None:
    run = folder(tmp_path)
    write_samples(run, Pictures(True, {"a": ALL}))
    there = read_samples(run)
    assert there is not None
    (file,) = (path for path in (tmp_path / "set").rglob("*.*g") if path.read_bytes() == ALL[kind])
    file.write_bytes(b"other")
    with pytest.raises(
        DataError, match=rf"{file.name} is not as its run has written it.*score RUN --samples"
    ):
        read_picture(run, there.samples[0], kind)  # type: ignore[arg-type]
    file.unlink()
    assert read_picture(run, there.samples[0], kind) is None  # type: ignore[arg-type]


def test_an_edited_list_is_damaged(tmp_path: Path) -> None:
    run = folder(tmp_path)
    write_samples(run, Pictures(False, {"a": ALL}))
    run.samples.write_text(run.samples.read_text().replace("false", "true"))
    with pytest.raises(DataError, match=r"samples\.json is not as it was written"):
        read_samples(run)


def test_only_generated_images_are_handed_on(tmp_path: Path) -> None:
    run = folder(tmp_path)
    assert handed_on(run, 2) is None
    for generated, kinds in ((True, {"prediction", "image", "truth"}), (False, {"prediction"})):
        write_samples(run, Pictures(generated, {"a": ALL, "b": ALL, "c": ALL}))
        found = handed_on(run, 2)
        assert found is not None and found.generated is generated and list(found.by_id) == ["a", "b"]
        assert all(set(of) == kinds for of in found.by_id.values())
