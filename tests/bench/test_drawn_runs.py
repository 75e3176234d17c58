"""Runs on other draws of a split and on the held-out list: their ids, folders, records and tables."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from bench import pipeline
from bench.commands.look import _scored
from bench.display import Display
from bench.errors import ConfigError
from bench.plan import plan, saved_plan
from bench.records.folders import RunFolder
from bench.records.index import find_results, read_records, records_file, write_records
from bench.records.schema import Result
from bench.records.shared_folders import SeedFolder
from bench.settings.resolve import as_flags, command, resolve
from bench.settings.schema import RunConfig
from bench.sweeps.grid import Span, grid
from datasets.folder import Folder
from datasets.splits import known_splits
from datasets.splits_make import regenerate
from reports.groups import comparable

Config = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def drawn_root(tmp_path_factory: pytest.TempPathFactory, tiny_root: Path) -> Path:
    """The tiny set with made splits, a draw 1 of them, and four images held out of train."""
    root = tmp_path_factory.mktemp("drawn")
    shutil.copytree(tiny_root / "tinyset", root / "tinyset")
    folder = root / "tinyset"
    shutil.rmtree(folder / "splits")
    ids = (folder / "train.txt").read_text().split()
    (folder / "train.txt").write_text("\n".join(ids[:12]))
    (folder / "heldout.txt").write_text("\n".join(ids[12:]))
    (folder / "tags.json").unlink()
    regenerate(Folder(folder, "tinyset"), folder / "splits", [1])
    return root


@pytest.fixture
def drawn(tiny_config: Config, drawn_root: Path) -> Config:
    def make(method: str = "supervised", *sets: str, **flags: object) -> RunConfig:
        return tiny_config(method, f"machine.data_root={drawn_root}", *sets, **{"split": "1_4", **flags})

    return make


def run(config: RunConfig) -> Result:
    return pipeline.run(plan(config), Display())


def test_the_default_is_in_no_record_and_no_id(drawn: Config) -> None:
    first, same = drawn(), drawn(draw=0, scored="eval")
    assert not {"draw", "scored"} & first.record().keys()
    others = [drawn(draw=1), drawn(scored="heldout"), drawn(draw=1, scored="heldout")]
    assert others[2].record()["draw"] == 1 and others[2].record()["scored"] == "heldout"
    ids = [plan(config).run_id for config in (first, same, *others)]
    assert ids[0] == ids[1] and len(set(ids)) == 4
    # The number of the draw counts by itself, though the lists already tell two draws apart.
    assert first.run_id(1, {}) != drawn(draw=1).run_id(1, {})
    assert "draw: 0" in first.to_yaml()


def test_a_run_of_a_draw_is_said_everywhere(drawn: Config, tmp_path: Path) -> None:
    config = drawn(draw=1)
    result, folder = run(config), plan(config).folder
    assert folder.path.name == f"draw1-0-{result.run_id}"
    assert (result.draw, result.drawn_split, result.config["draw"]) == (1, "1_4, draw 1", 1)
    assert yaml.safe_load(folder.config.read_text())["draw"] == 1
    assert folder.read_provenance()[0]["command"]
    words = command(config)
    assert words[words.index("--draw") + 1] == "1" and "--scored" not in words
    assert resolve(as_flags(method="supervised", draw=1, scored="heldout")).draw == 1
    # What is read back is the same, and lies in the same place among records.
    write_records(records_file(tmp_path / "kept", "tinyset"), [result])
    kept = read_records(tmp_path / "kept")
    (place,) = kept
    assert kept[place] == result and place.name == folder.path.name and place.parent.parent.name == "1_4"
    folder.result.unlink()
    assert saved_plan(folder.path, {}).run_id == result.run_id


def test_a_result_of_draw_0_is_written_as_before(drawn: Config) -> None:
    result = run(drawn())
    written = result.model_dump(mode="json")
    assert not {"draw", "scored"} & (written.keys() | written["config"].keys())
    assert Result.model_validate(written).draw == 0


def test_ungranted_masks_of_a_draw_are_never_opened(drawn: Config, drawn_root: Path, tmp_path: Path) -> None:
    """All masks but those that draw 1 grants and the scored ones are poisoned, those of draw 0 too: the run
    is the same to the bit."""
    clean = drawn("fixmatch", draw=1)
    run(clean)
    split, first = plan(clean).split, plan(drawn("fixmatch")).split
    assert set(first.pixel) - set(split.pixel), "the two draws differ"
    root = tmp_path / "poisoned"
    shutil.copytree(drawn_root, root)
    held_out = (root / "tinyset" / "heldout.txt").read_text().split()
    for id in (*split.none, *held_out):
        (root / "tinyset" / "labels" / f"{id}.png").write_bytes(b"poison")
    poisoned = drawn("fixmatch", f"machine.data_root={root}", f"machine.out={tmp_path}/other", draw=1)
    run(poisoned)
    one, other = (plan(config).folder.weights.read_bytes() for config in (clean, poisoned))
    assert one == other


def test_the_scored_list_is_not_opened_where_the_held_out_one_is_scored(
    drawn: Config, drawn_root: Path, tmp_path: Path
) -> None:
    root = tmp_path / "poisoned"
    shutil.copytree(drawn_root, root)
    for id in (root / "tinyset" / "test.txt").read_text().split():
        for file in (root / "tinyset" / "labels" / f"{id}.png", root / "tinyset" / "images" / f"{id}.png"):
            file.write_bytes(b"poison")
    config = drawn("supervised", f"machine.data_root={root}", scored="heldout")
    result = run(config)
    assert result.scored == "heldout" and result.images["eval"] == 4
    folder = plan(config).folder.path
    assert _scored(folder, root).startswith("scored on the held-out list (4 images)")


def test_tables_do_not_mix_scored_lists(drawn: Config, drawn_root: Path, tmp_path: Path) -> None:
    configs = [drawn(), drawn(scored="heldout")]
    for config in configs:
        run(config)
    unused = _scored(plan(configs[0]).folder.path, drawn_root)
    assert unused == "scored on eval.txt (4 images); the held-out list (4 images) lies unused"
    groups = comparable(find_results(tmp_path / "runs"))
    assert len(groups) == 2 and sorted(group.held_out for group in groups) == [False, True]
    (held_out,) = (group for group in groups if group.held_out)
    assert held_out.title.endswith("scored on the held-out list") and "4 held-out images" in held_out.basis


def test_seeds_of_another_draw_lie_apart(drawn: Config) -> None:
    first, other = (plan(drawn(split="1_8+tags", draw=draw)).seeds for draw in (0, 1))
    assert first and other and first.folder.path.parent == other.folder.path.parent
    assert other.folder.path.name.startswith("draw1-0-") and other.classifier.split.draw == 1
    for seeds, draw in ((first, 0), (other, 1)):
        seeds.folder.report.parent.mkdir(parents=True)
        seeds.folder.report.write_text("{}")
        run_folder = RunFolder(seeds.folder.path.parents[1] / "supervised" / "x")
        assert [found.path.name for found in SeedFolder.beside(run_folder, 0, draw)] == [
            seeds.folder.path.name
        ]


def test_a_sweep_over_draws(drawn: Config, drawn_root: Path) -> None:
    config = drawn()
    flags = {"machine": config.machine.model_dump(), "protocol": config.protocol.model_dump()}
    span = Span(["supervised"], ["tinyset"], ["1_4", "full"], [0, 1], [0, 1])
    cells, refused = grid(span, None, flags)
    labels = [cell.label for cell in cells]
    assert labels == [
        "supervised on tinyset 1_4, seed 0",
        "supervised on tinyset full, seed 0",
        "supervised on tinyset 1_4, draw 1, seed 0",
        "supervised on tinyset 1_4, seed 1",
        "supervised on tinyset full, seed 1",
        "supervised on tinyset 1_4, draw 1, seed 1",
    ]
    assert [failure.label for failure in refused] == [
        f"supervised on tinyset full, draw 1, seed {seed}" for seed in (0, 1)
    ]
    assert all("the same in every draw" in failure.reason for failure in refused)
    with pytest.raises(ConfigError, match="the sweep itself gives draw"):
        grid(span, None, flags, None, ["draw=2"])


def test_draws_that_are_not_there_are_refused(drawn: Config) -> None:
    assert "1_64" not in known_splits("tinyset", None)
    with pytest.raises(ConfigError, match="tinyset has no draw 2. Known: 0, 1. Make it with"):
        plan(drawn(draw=2))
    for wrong in ("draw=-1", "draw=1001", "scored=test"):
        with pytest.raises(ConfigError, match=wrong.partition("=")[0]):
            drawn("supervised", wrong)
