"""Publishing: runs become records, once and whole, and the README shows what the records say."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commandline import Typed
from grouping import foldered

from bench.errors import ConfigError, DataError, Regression
from bench.records.atomic import folder_claimed
from bench.records.folders import RunFolder
from bench.records.index import find_results, find_unfinished, read_results, records_file
from bench.records.samples import Pictures, read_samples, write_samples
from bench.records.schema import Rescored, Result, Score, Scores, SeedQuality, SeedReport
from bench.records.shared_folders import SeedFolder
from reports.evidence import cam_seeds
from reports.groups import comparable
from reports.publish import PICTURES, SAMPLES, publish, refresh, tables
from reports.readme import END, blocks, rewritten

Make = Callable[..., Result]
CAMVID = "camvid / protocol camvid_small / 100 steps"
COMMITTED = {"commit": "c" * 40, "dirty": False}
PNG = (Path(__file__).resolve().parents[2] / "reports" / "shapes.png").read_bytes()
README = f"# Mine\n\n<!-- table: {CAMVID} -->\n{END}\n\nProse.\n"


def store(root: Path, result: Result, git: Any = COMMITTED, **start: Any) -> RunFolder:
    """A finished run with all that a run leaves behind."""
    run = RunFolder.of(root, result.dataset, result.split, result.method, result.seed, result.run_id)
    run.add_provenance({"command": f"bench run --out {root}", "git": git, **start})
    run.metrics.write_text('{"step": 1}\n')
    run.config.write_text("seed: 0\n")
    run.weights.write_bytes(b"heavy")
    run.write_counts(["a"], {"predictor": counts(result.predictor.miou)})
    run.write_result(result)
    return run


def counts(miou: float) -> np.ndarray:
    """1 C C: of one image, with this IoU of the first two classes; the third is nowhere."""
    hit = 10**12 if miou else 0
    missed = round(hit * (1 - miou) / (2 * miou)) if miou else 1
    return np.array([[[hit, missed, 0], [missed, hit, 0], [0, 0, 0]]], dtype=np.int64)


def scored(name: Any = "multi_scale", miou: float = 0.5, **changes: Any) -> Rescored:
    score = Score(miou=miou, classes_averaged=3, iou=[miou] * 3, pixel_accuracy=0.9)
    values = {"name": name, "scales": (1.0,), "flip": True, "crf": None, "half_size": False, "seconds": 1.0}
    return Rescored(**{**values, "score": score, **changes})


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def records(tmp_path: Path) -> Path:
    return tmp_path / "reports" / "published"


# Adding runs


def test_a_published_run_is_a_line_with_its_evidence_beside_it(make: Make, runs: Path, records: Path) -> None:
    run = store(runs, make(0.4))
    run.write_scores(Scores(entries=[scored()]))
    done = publish([runs], records)
    assert done.added == (run.path.relative_to(runs).as_posix(),)
    kept = RunFolder(records / run.path.relative_to(runs))
    files = (kept.counts, kept.metrics, kept.provenance, kept.scores)
    assert set(tree(records)) == {
        "camvid.jsonl",
        *(str(path.relative_to(records)) for path in files),
    }
    assert find_results(records) == {kept.path.resolve(): make(0.4)}
    for mine, copy in ((run.counts, kept.counts), (run.metrics, kept.metrics), (run.scores, kept.scores)):
        assert copy.read_bytes() == mine.read_bytes()
    (start,) = kept.read_provenance()
    assert start == {"command": "bench run --out runs", "git": COMMITTED}, "without folders of the machine"
    assert find_unfinished(find_results(records), records) == []


def test_records_are_sorted_and_publishing_again_changes_nothing(
    make: Make, runs: Path, records: Path
) -> None:
    results = [
        make(0.05 * i, method=method, split=split, seed=seed)
        for i, (split, method, seed) in enumerate(
            (split, method, seed) for split in ("1_4", "1_8") for method in ("b", "c") for seed in (0, 2, 10)
        )
    ]
    for result in reversed(results[:6]):
        store(runs, result)
    publish([runs], records)
    for result in reversed(results[6:]):
        store(runs, result)
    done = publish([runs], records)
    assert (len(done.added), len(done.known)) == (6, 6)
    lines = records_file(records, "camvid").read_text().splitlines()
    assert [Result.model_validate_json(line) for line in lines] == results
    before = tree(records)
    again = publish([runs, runs], records)
    assert (again.added, again.completed, len(again.known)) == ((), (), 12)
    assert tree(records) == before


def test_each_data_set_has_a_file(make: Make, runs: Path, records: Path) -> None:
    store(runs, make(0.4))
    store(runs, make(0.4, dataset="msrc21"))
    publish([runs], records)
    assert {path.name for path in records.glob("*.jsonl")} == {"camvid.jsonl", "msrc21.jsonl"}
    assert sorted(result.dataset for result in read_results(records)) == ["camvid", "msrc21"]


@pytest.mark.parametrize("git", [{"commit": "c" * 40, "dirty": True}, {"commit": None, "dirty": False}, None])
def test_a_run_of_no_commit_is_refused_and_nothing_is_written(
    make: Make, runs: Path, records: Path, git: Any
) -> None:
    store(runs, make(0.5, seed=1))
    run = store(runs, make(0.4), git)
    with pytest.raises(DataError, match="not committed, or from an unknown commit") as error:
        publish([runs], records)
    assert run.path.name in str(error.value) and "--allow-dirty" in str(error.value)
    assert tree(records.parent) == {}
    assert len(publish([runs], records, allow_dirty=True).added) == 2


def test_a_run_without_provenance_or_with_an_unreadable_one_is_refused(
    make: Make, runs: Path, records: Path
) -> None:
    run = store(runs, make(0.4))
    run.provenance.write_text("[{")
    with pytest.raises(DataError, match="cannot be read"):
        publish([runs], records, allow_dirty=True)
    run.provenance.unlink()
    with pytest.raises(DataError, match="unknown commit"):
        publish([runs], records)
    publish([runs], records, allow_dirty=True)
    assert not RunFolder(records / run.path.relative_to(runs)).provenance.exists()


def test_a_run_with_other_scores_than_its_record_is_refused(make: Make, runs: Path, records: Path) -> None:
    store(runs, make(0.4))
    publish([runs], records)
    before = tree(records)
    store(runs, make(0.41))
    store(runs, make(0.5, seed=1))
    with pytest.raises(DataError, match=r"other scores: 40.00 % mIoU there and 41.00 % here"):
        publish([runs], records)
    store(runs, make(0.4, student=0.3))
    with pytest.raises(DataError, match="other scores"):
        publish([runs], records)
    assert tree(records) == before


def test_a_repeated_run_leaves_its_record_as_it_was(make: Make, runs: Path, records: Path) -> None:
    store(runs, make(0.4))
    publish([runs], records)
    before = tree(records)
    store(runs, make(0.4, train_seconds=1.0), note="another start")
    assert publish([runs], records).added == ()
    assert tree(records) == before


def test_two_copies_of_a_run_are_one_record_unless_they_differ(
    make: Make, runs: Path, records: Path, tmp_path: Path
) -> None:
    store(runs, make(0.4))
    copy = store(tmp_path / "copy", make(0.4))
    assert len(publish([runs, tmp_path / "copy"], records).added) == 1
    store(tmp_path / "other", make(0.6, seed=1))
    store(runs, make(0.5, seed=1))
    with pytest.raises(DataError, match="other scores"):
        publish([runs, tmp_path / "other"], records)
    assert copy.result.exists() and len(read_results(records)) == 1


@pytest.mark.parametrize("generated", [True, False])
def test_samples_go_with_a_run_and_photographs_only_where_they_are_ours(
    make: Make, runs: Path, records: Path, generated: bool
) -> None:
    run = store(runs, make(0.4))
    publish([runs], records)
    of = {"prediction": PNG, "image": b"a photograph", "truth": b"a mask"}
    write_samples(run, Pictures(generated, dict.fromkeys("abcdefgh", of)))  # type: ignore[arg-type]
    assert publish([runs], records).completed == (run.path.relative_to(runs).as_posix(),)
    kept = RunFolder(records / run.path.relative_to(runs))
    found = read_samples(kept)
    assert found is not None and len(found.samples) == SAMPLES < 8
    assert {path.suffix for path in kept.sample_pictures.iterdir()} == {".png"}
    assert kept.shared_samples.exists() == generated
    assert all((sample.image is not None) == generated for sample in found.samples)
    assert publish([runs], records).known, "the second time there is nothing to add"


def test_samples_of_one_run_a_row_are_enough(make: Make, runs: Path, records: Path) -> None:
    for seed in (0, 1):
        run = store(runs, make(0.4, seed=seed))
        write_samples(run, Pictures(True, {"a": {"prediction": PNG}}))
    publish([runs], records)
    assert [path.parent.name[0] for path in records.rglob("samples.json")] == ["0"]


def test_damaged_samples_are_refused_and_nothing_is_written(make: Make, runs: Path, records: Path) -> None:
    run = store(runs, make(0.4))
    write_samples(run, Pictures(True, {"a": {"prediction": PNG}}))
    (run.sample_pictures / "a.png").write_bytes(b"other")
    with pytest.raises(DataError, match=r"a\.png is not as its run has written it"):
        publish([runs], records)
    assert not list(records.rglob("*.*"))


def test_scores_of_a_second_copy_are_kept(make: Make, runs: Path, records: Path, tmp_path: Path) -> None:
    store(runs, make(0.4))
    copy = store(tmp_path / "copy", make(0.4))
    copy.write_scores(Scores(entries=[scored()]))
    publish([runs, tmp_path / "copy"], records)
    (path,) = find_results(records)
    assert RunFolder(path).read_scores().entries == [scored()]


@pytest.mark.parametrize("damaged", ["metrics.jsonl", "counts.npz", "scores.json", "counts.npz of others"])
def test_damaged_evidence_is_refused_by_name_and_nothing_is_written(
    make: Make, runs: Path, records: Path, damaged: str
) -> None:
    run = store(runs, make(0.4))
    if damaged == "counts.npz of others":
        run.write_counts(["a"], {"predictor": counts(0.6)})
    else:
        (run.path / damaged).write_bytes(b'{"st\n{"step": 2}\n')
    with pytest.raises(DataError, match=re.escape(f"{run.path}/{damaged.split()[0]}")):
        publish([runs], records)
    assert tree(records.parent) == {}


def test_a_readme_that_cannot_show_the_tables_is_refused_before_anything_is_written(
    make: Make, runs: Path, records: Path, tmp_path: Path
) -> None:
    store(runs, make(0.4))
    readme = tmp_path / "README.md"
    readme.write_text("<!-- table: of nothing -->\n")
    with pytest.raises(DataError, match="there is no table 'of nothing'"):
        publish([runs], records, readmes=[readme])
    assert tree(records.parent) == {}
    readme.write_text(README)  # a table that this call makes is known
    assert len(publish([runs], records, readmes=[readme]).added) == 1


def test_a_run_of_the_ablations_is_not_published_a_second_time(make: Make, runs: Path, records: Path) -> None:
    store(runs, make(0.4))
    publish([runs], records.parent / "ablations")
    assert len(publish([runs], records).known) == 1
    assert not records.exists()


def test_scores_of_other_settings_are_added_and_other_numbers_refused(
    make: Make, runs: Path, records: Path
) -> None:
    run = store(runs, make(0.4))
    run.write_scores(Scores(entries=[scored()]))
    publish([runs], records)
    kept = RunFolder(records / run.path.relative_to(runs))
    run.write_scores(Scores(entries=[scored("crf", crf="irn")]))
    assert len(publish([runs], records).completed) == 1
    assert [entry.name for entry in kept.read_scores().entries] == ["multi_scale", "crf"]
    run.write_scores(Scores(entries=[scored("crf", 0.6, crf="irn")]))
    with pytest.raises(DataError, match="scores called crf are published with other numbers"):
        publish([runs], records)


def test_what_no_process_finished_is_written_over(make: Make, runs: Path, records: Path) -> None:
    """The line comes last: evidence without one is of a publish that was killed."""
    run = store(runs, make(0.4))
    kept = RunFolder(records / run.path.relative_to(runs))
    kept.path.mkdir(parents=True)
    kept.metrics.write_text('{"step": 9}\n')
    assert find_unfinished(find_results(records), records) == [kept.path.resolve()]
    assert len(publish([runs], records).added) == 1
    assert kept.metrics.read_bytes() == run.metrics.read_bytes()


@pytest.mark.parametrize(
    "names", [{"dataset": "../out"}, {"split": ".."}, {"method": "a/b"}, {"run_id": "/"}]
)
def test_a_run_whose_names_lead_out_of_the_folder_is_refused(
    make: Make, runs: Path, records: Path, names: dict[str, str]
) -> None:
    RunFolder(runs / "0").write_result(make(0.4, **names))
    with pytest.raises(DataError, match="which is no path below"):
        publish([runs], records, allow_dirty=True)
    assert tree(records.parent) == {}


def test_nothing_to_publish_and_other_folders_are_refused(make: Make, runs: Path, records: Path) -> None:
    runs.mkdir()
    with pytest.raises(DataError, match="no finished runs"):
        publish([runs], records)
    with pytest.raises(
        ConfigError, match=r"--to .*mine: give a folder that is called published, or ablations"
    ):
        publish([runs], records.parent / "mine")


def test_a_second_process_waits_for_the_first(make: Make, runs: Path, records: Path) -> None:
    store(runs, make(0.4))
    with ThreadPoolExecutor(1) as pool:
        with folder_claimed(records.parent):  # a lock of its own, as another process has
            second = pool.submit(publish, [runs], records)
            with pytest.raises(TimeoutError):
                second.result(0.3)
            assert tree(records.parent) == {}
        assert len(second.result(30).added) == 1


# CAM seeds

SETTINGS = {"policy": "fixed"}


def seeds(root: Path, seed_id: str, classifier: str, split: str = "tags", **settings: Any) -> SeedFolder:
    folder = SeedFolder.of(root, "camvid", split, 0, "m" + seed_id, seed_id)
    report = SeedReport(
        seed_id=seed_id,
        classifier=classifier,
        images=1,
        tags=1,
        dead_tags=0,
        untagged=0,
        decided=1.0,
        class_pixels=[1, 1, 1],
        strict=0.3,
        loose=0.05,
        opened=[],
        map_seconds=1.0,
        refine_core_seconds=1.0,
        settings={**SETTINGS, **settings},
    )
    folder.report.parent.mkdir(parents=True)
    folder.report.write_text(report.model_dump_json())
    folder.map("a").parent.mkdir()
    folder.map("a").write_bytes(b"heavy")
    return folder


def test_seeds_of_one_setting_are_told_apart_by_the_tags_of_their_classifier(make: Make, runs: Path) -> None:
    tagged = make(0.4, split="tags", config={"method": {}, "cam_seeds": SETTINGS, "tags": "given"})
    store(runs, tagged)
    classifiers = {
        name: store(runs, make(0.3, method="classifier", split="tags", run_id=name, config={"tags": tags}))
        for name, tags in (("given", "given"), ("mixed", "shuffled"))
    }
    seeds(runs, "1", "given")
    seeds(runs, "2", "mixed")
    found, said = cam_seeds(find_results(runs), [runs])
    assert [of.report.seed_id for of in found.values()] == ["1"] and said == []
    classifiers["mixed"].result.unlink()
    found, (said,) = cam_seeds(find_results(runs), [runs])
    assert not found and "several CAM seeds have its settings" in said and "supervised" in said


def test_the_cam_seeds_of_a_run_go_with_it(make: Make, runs: Path, records: Path) -> None:
    config = {"method": {}, "cam_seeds": SETTINGS, "tags": "given"}
    store(runs, make(0.4, split="tags", config=config))
    for name, tags in (("given", "given"), ("mixed", "shuffled")):
        classifier = make(0.3, method="classifier", split="tags", run_id=name, config={"tags": tags})
        store(runs, classifier)
    mine = seeds(runs, "1", "given")
    seeds(runs, "2", "mixed")
    seeds(runs, "3", "given", policy="oracle")
    seeds(runs, "4", "given", split="1_8+tags")
    publish([runs], records)
    found = [path for path in tree(records) if "cam_seeds" in path]
    assert found == [mine.report.relative_to(runs).as_posix()]

    nones: list[float | None] = [None, None, None]
    quality = SeedQuality(
        seed_id="1",
        images=1,
        classes=["road", "sky", "car"],
        miou=0.5,
        miou_decided=0.5,
        coverage=1.0,
        iou=nones,
        precision=nones,
        recall=nones,
        class_coverage=nones,
        miou_of_spread_tags=0.3,
        curve=[],
        counts=[],
    )
    mine.quality.write_text(quality.model_dump_json())
    done = publish([runs], records)
    assert len(done.completed) == 1, "measured later"
    (kept,) = SeedFolder.beside(
        RunFolder(next(path for path in find_results(records) if "supervised" in str(path))), 0
    )
    assert kept.read_quality() == quality


# The tables


def test_there_is_a_table_for_each_group_and_each_complete_ablation(make: Make) -> None:
    from bench.sweeps.ablations import read_ablation, sweep_file

    ablation = read_ablation(sweep_file("u2pl_negatives"))
    *some, last = [
        make(0.4, method="u2pl", run_id=str(i), knobs=dict(knobs))
        for i, knobs in enumerate(ablation.variants.values())
    ]
    both = [make(0.3), make(0.3, protocol_hash="0" * 16, steps=200)]
    names = [CAMVID, CAMVID.replace("100", "200")]
    assert sorted(tables(foldered(both), foldered(some))) == names
    assert sorted(tables(foldered(both), foldered([*some, last]))) == [*names, f"u2pl_negatives / {CAMVID}"]
    assert "u2pl" not in tables(foldered(both), foldered([*some, last]))[CAMVID], "runs with other knobs"
    *_, row, _, note = tables(foldered(both))[CAMVID].splitlines()
    assert row.split("|")[1:3] == [" supervised ", " 30.0 (1) "] and "one draw" in note


def test_a_table_says_whose_views_and_scores_it_shows(make: Make) -> None:
    head = tables(foldered([make(0.3)]))[CAMVID].splitlines()[0]
    assert head.startswith("camvid, protocol camvid_small; protocol hash ")
    assert "published views, scored by each method's own predictor" in head


def test_groups_that_would_share_a_name_say_what_they_differ_in(make: Make) -> None:
    found = tables(foldered([make(0.3), make(0.4, protocol_hash="0" * 16), make(0.5, dataset="other")]))
    assert CAMVID not in found and len(found) == 3
    assert {name for name in found if name.startswith(CAMVID)} == {
        f"{CAMVID} / protocol abcdef01",
        f"{CAMVID} / protocol 00000000",
    }


# The README


def test_only_what_is_between_the_markers_is_written() -> None:
    text = f"a\n\n<!-- table: x -->\nold\n\n{END}\nb\n<!-- table: y -->\n{END}\n\n\nc"
    found = {"x": "| X |\n|---|", "y": "| Y |", "z": "| Z |"}
    once = rewritten(text, found)
    assert once.text == (
        f"a\n\n<!-- table: x -->\n\n| X |\n|---|\n\n{END}\nb\n<!-- table: y -->\n\n| Y |\n\n{END}\n\n\nc"
    )
    assert [block.name for block in once.stale] == ["x", "y"] and once.unplaced == ("z",)
    again = rewritten(once.text, found)
    assert again.stale == () and again.text == once.text
    left_out = f"{text}\n<!-- not shown: z --> \n"
    assert rewritten(left_out, found).unplaced == () and rewritten(left_out, found).text.startswith(once.text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"<!-- table: y -->\n{END}", "R.md, line 1: there is no table 'y'"),
        (f"\n<!-- table: xy -->\n{END}", "R.md, line 2: there is no table 'xy'. Known: x"),
        ("\n<!-- table: x -->\nold", "R.md, line 2: the table 'x' has no end"),
        ("a\n<!-- not shown: xy -->", "R.md, line 2: there is no table 'xy'. Known: x"),
        (f"<!-- table: x -->\n<!-- table: x -->\n{END}", "R.md, line 1: the table 'x' has no end"),
        (f"a\n{END}", "R.md, line 2: '<!-- end of table -->' ends no table"),
    ],
)
def test_a_marker_that_is_wrong_is_refused_by_line(text: str, said: str) -> None:
    with pytest.raises(DataError) as error:
        blocks(text, ["x"], "R.md")
    assert str(error.value).startswith(said)


def test_a_stale_table_is_named_and_written_anew(
    make: Make, runs: Path, records: Path, tmp_path: Path
) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(README)
    store(runs, make(0.4))
    publish([runs], records)
    for _ in range(2):
        with pytest.raises(Regression, match=rf"README.md .*'{CAMVID}' \(line 3\)"):
            refresh([readme], records, check=True)
        assert readme.read_text() == README, "--check writes nothing"
    done = refresh([readme], records)
    assert done.written == {readme: (CAMVID,)} and done.unplaced == ()
    assert "40.0 (1)" in readme.read_text()
    before = readme.stat().st_mtime_ns
    for check in (True, False):
        assert refresh([readme], records, check).written == {readme: ()}
    assert readme.stat().st_mtime_ns == before
    store(runs, make(0.5, seed=1))
    publish([runs], records)
    with pytest.raises(Regression):
        refresh([readme], records, check=True)


def test_a_readme_keeps_its_line_ends_and_its_place(
    make: Make, runs: Path, records: Path, tmp_path: Path
) -> None:
    target, readme = tmp_path / "elsewhere.md", tmp_path / "README.md"
    target.write_bytes(README.replace("\n", "\r\n").encode())
    readme.symlink_to(target)
    store(runs, make(0.4))
    publish([runs], records)
    assert refresh([readme], records).written == {readme: (CAMVID,)} and readme.is_symlink()
    data = target.read_bytes()
    assert b"40.0 (1)" in data and data.count(b"\n") == data.count(b"\r\n") > README.count("\n")
    assert refresh([readme], records, check=True).written == {readme: ()}
    readme.write_bytes(b"\xff")
    with pytest.raises(DataError, match="not UTF-8"):
        refresh([readme], records)


@pytest.mark.parametrize("name", ["camvid.png", "camvid-hours.png"])
def test_a_picture_of_other_records_is_stale_and_drawn_anew(
    name: str, make: Make, runs: Path, records: Path
) -> None:
    picture, other = records.parent / name, records.parent / "logo.png"
    store(runs, make(0.4))
    publish([runs], records)
    for data in (b"no picture", PNG):
        picture.write_bytes(data)
        other.write_bytes(data)
        with pytest.raises(Regression, match=f"{name} was not drawn from the records; run `publish`"):
            refresh([], records, check=True)
        assert picture.read_bytes() == data, "--check writes nothing"
        assert refresh([], records).pictures == (picture,)
        assert refresh([], records, check=True).pictures == () and other.read_bytes() == data
    store(runs, make(0.5, seed=1))
    publish([runs], records)
    with pytest.raises(Regression, match=name):
        refresh([], records, check=True)


def test_the_front_picture_is_of_masks_alone(make: Make) -> None:
    """Of two kinds with two methods each; against hours they stand in one panel."""
    made = [
        make(0.4, method=name, split=split) for name in ("supervised", "u2pl") for split in ("1_8", "tags")
    ]
    (group,) = comparable({Path(f"{number}"): result for number, result in enumerate(made)})
    (front,), (effort,) = PICTURES[""](group), PICTURES["-hours"](group)
    assert [panel.x.title for panel in front.panels] == ["images with pixel labels (log scale)"]
    assert {text for _, text in effort.panels[0].above} == {"1_8", "tags"}


def test_no_readme_and_no_records_are_refused(tmp_path: Path, records: Path) -> None:
    with pytest.raises(DataError, match="no records in"):
        refresh([tmp_path / "README.md"], records)
    assert not records.parent.exists()
    records.mkdir(parents=True)
    with pytest.raises(DataError, match="no file .*README.md"):
        refresh([tmp_path / "README.md"], records)


# The command


@pytest.fixture
def typed_publish(typed: Typed) -> Typed:
    """What `python -m bench publish ...` answers, in this process."""
    return partial(typed, "publish")


def test_the_command_publishes_and_checks(
    make: Make, typed_publish: Typed, runs: Path, records: Path, tmp_path: Path
) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(README)
    places = ("--to", records, "--readme", readme)
    run = store(runs, make(0.4))
    code, said, _ = typed_publish(runs, *places)
    assert code == 0
    assert f"added {run.path.relative_to(runs)}\n" in said
    assert f"{records}: 1 records are new, 0 were there already" in said
    assert f"{readme}: wrote the table '{CAMVID}'" in said
    assert typed_publish("--check", *places)[0] == 0
    assert "shows the records as they are" in typed_publish(*places)[1]

    readme.write_text(readme.read_text().replace("40.0", "99.9"))
    code, _, error = typed_publish("--check", *places)
    assert code == 4 and f"'{CAMVID}' (line 3)" in error and "99.9" in readme.read_text()
    assert typed_publish(*places)[0] == 0 and "99.9" not in readme.read_text()

    readme.write_text("no markers")
    code, said, _ = typed_publish("--check", *places)
    assert (
        code == 0 and f"has no place for the table '{CAMVID}': add the lines <!-- table: {CAMVID} -->" in said
    )


def test_the_command_writes_every_readme_and_misses_a_table_only_where_none_has_a_place(
    make: Make, typed_publish: Typed, runs: Path, records: Path, tmp_path: Path
) -> None:
    short, long = tmp_path / "README.md", tmp_path / "long.md"
    short.write_text("no markers")
    long.write_text(README)
    places = ("--to", records, "--readme", short, "--readme", long)
    store(runs, make(0.4))
    code, said, _ = typed_publish(runs, *places)
    assert code == 0 and f"{long}: wrote the table '{CAMVID}'" in said
    assert f"{short} shows the records as they are" in said and "no place for" not in said

    short.write_text(README)
    assert typed_publish(*places)[0] == 0 and "40.0 (1)" in short.read_text()
    for file in (short, long):
        file.write_text(file.read_text().replace("40.0", "99.9"))
    code, _, error = typed_publish("--check", *places)
    assert code == 4 and f"{short} does not show" in error and f"{long} does not show" in error

    for file in (short, long):
        file.write_text("no markers")
    code, said, _ = typed_publish("--check", *places)
    assert code == 0 and said.count(f"{short} and {long} have no place for the table '{CAMVID}'") == 1

    long.write_text(f"{END}\n")  # refused before anything is written
    store(runs, make(0.5, seed=1))
    code, _, error = typed_publish(runs, *places)
    assert code == 3 and f"{long}, line 1" in error and len(read_results(records)) == 1


def test_the_command_refuses_what_makes_no_sense(
    make: Make, typed_publish: Typed, runs: Path, records: Path, tmp_path: Path
) -> None:
    store(runs, make(0.4), {"commit": "c", "dirty": True})
    (tmp_path / "README.md").write_text(README)
    places = ("--to", records, "--readme", tmp_path / "README.md")
    assert typed_publish(runs, "--check", *places)[0] == 2
    assert typed_publish("--allow-dirty", *places)[0] == 2
    code, _, error = typed_publish(runs, *places)
    assert code == 3 and "--allow-dirty" in error
    assert typed_publish(runs, "--allow-dirty", *places)[0] == 0
