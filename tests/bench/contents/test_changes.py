"""A run is done only by the code and the data that are here; else one sentence says what changed."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench import pipeline
from bench.contents import code
from bench.contents.files import sha256
from bench.contents.gather import of_run
from bench.display import Display
from bench.errors import ConfigError, DataError, Interrupted
from bench.plan import Plan, plan
from bench.records.folders import RunFolder
from bench.records.index import write_records
from bench.records.schema import Result
from bench.settings import registry
from bench.settings.schema import RunConfig
from bench.sweeps.grid import Cell, listing
from bench.sweeps.launch import run_grid
from bench.testing import tiny
from datasets.folder import Folder

Config = Callable[..., RunConfig]
Edit = Callable[[str], None]


class Quiet(Display):
    """Keeps what is said; may stop the run after a step."""

    def __init__(self, stop_at: int = 0) -> None:
        super().__init__()
        self.stop_at, self.said = stop_at, list[str]()

    def say(self, text: str) -> None:
        self.said.append(text)

    def start(self, name: str, total: int, done: int = 0) -> None: ...

    def update(self, done: int, figures: Any = None) -> None:
        if done == self.stop_at:
            raise Interrupted("stopped by a test")


@pytest.fixture
def root(tiny_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_root, tmp_path / "data"))


@pytest.fixture
def config(tiny_config: Config, root: Path) -> Config:
    """config("fixmatch") -> settings of a run of two steps on a copy of the tiny set."""

    def build(method: str = "supervised", *sets: str, **flags: Any) -> RunConfig:
        return tiny_config(method, f"machine.data_root={root}", "protocol.steps=2", *sets, **flags)

    return build


@pytest.fixture(scope="module")
def _runs(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "runs"
    pipeline.run(plan(tiny.config("supervised", "protocol.steps=2", root=tiny_root, out=out)), Quiet())
    return out


@pytest.fixture
def finished(_runs: Path, tmp_path: Path) -> None:
    """The run of `config()` is done, on data of the same content."""
    shutil.copytree(_runs, tmp_path / "runs")


def again(config: RunConfig, **options: bool) -> list[str]:
    """What a second start says."""
    display = Quiet()
    pipeline.run(plan(config), display, **options)
    return display.said


def mended(path: Path) -> None:
    """Exchange the classes 1 and 2 of a mask."""
    mask = np.array(Image.open(path))
    Image.fromarray(np.array([0, 2, 1, *range(3, 256)], np.uint8)[mask]).save(path)


# The data ---------------------------------------------------------------------------------------------------


def test_masks_that_were_mended_are_another_run(config: Config, root: Path) -> None:
    first = pipeline.run(plan(config()), Quiet())
    said = again(config())
    assert said == [f"already done: {plan(config()).folder.path}"]
    for id in ("train_00", "train_02", "train_03"):
        mended(root / "tinyset" / "labels" / f"{id}.png")
    with pytest.raises(ConfigError) as caught:
        again(config())
    assert str(caught.value) == (
        f"{plan(config()).folder.path} is done, but this has changed since: the masks of 3 images, for "
        "example "
        "tinyset/labels/train_00.png; start it again with --overwrite, or keep both with another --out."
    )
    assert caught.value.exit_code == 2
    second = pipeline.run(plan(config()), Quiet(), overwrite=True)
    assert second.contents is not None and first.contents is not None
    assert second.contents.data != first.contents.data and second.contents.truth == first.contents.truth
    assert again(config()) == said


EDITS: dict[str, tuple[Edit | Callable[[Path], None], str]] = {
    "an image": (
        lambda folder: shutil.copy(folder / "images" / "train_05.png", folder / "images" / "train_01.png"),
        r"since: the image tinyset/images/train_01\.png; start",
    ),
    "a scored mask": (
        lambda folder: mended(folder / "labels" / "test_02.png"),
        r"since: the scored mask tinyset/labels/test_02\.png; start",
    ),
    "scored images": (
        lambda folder: [
            shutil.copy(folder / "images" / "test_00.png", folder / "images" / f"test_0{n}.png")
            for n in (1, 2)
        ],
        r"since: 2 scored images, for example tinyset/images/test_01\.png; start",
    ),
    "two lines of classes.txt": (
        lambda folder: (folder / "classes.txt").write_text("background\nstripe\nsquare\n"),
        r"since: the classes, their order or the background; start",
    ),
    "a mask and the classes": (
        lambda folder: (
            mended(folder / "labels" / "train_01.png"),
            (folder / "classes.txt").write_text("ground\nsquare\nstripe\n"),
        ),
        r"since: the mask tinyset/labels/train_01\.png; and the classes, .*; start",
    ),
}


@pytest.mark.parametrize("what", EDITS)
@pytest.mark.usefixtures("finished")
def test_what_changed_is_named(what: str, config: Config, root: Path) -> None:
    edit, said = EDITS[what]
    edit(root / "tinyset")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=said):
        again(config())


def test_another_data_root_is_compared_by_content(config: Config, root: Path, tmp_path: Path) -> None:
    pipeline.run(plan(config()), Quiet())
    other = shutil.copytree(root, tmp_path / "other")
    elsewhere = config("supervised", f"machine.data_root={other}")
    assert again(elsewhere)[0].startswith("already done")
    mended(other / "tinyset" / "labels" / "train_01.png")
    with pytest.raises(ConfigError, match=r"the mask tinyset/labels/train_01\.png"):
        again(elsewhere)


def test_the_same_bytes_at_another_time_are_the_same(config: Config, root: Path) -> None:
    pipeline.run(plan(config()), Quiet())
    for path in [*(root / "tinyset").rglob("*.png")]:
        path.write_bytes(path.read_bytes())
    assert again(config())[0].startswith("already done")


def test_what_a_run_does_not_open_is_not_compared_and_not_opened(
    config: Config, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masks that are not granted; and images that a method does not ask for."""
    folder = root / "tinyset"
    for n in range(4, 16):
        (folder / "labels" / f"train_{n:02d}.png").write_bytes(b"poison")
    pipeline.run(plan(config("fixmatch")), Quiet())
    pipeline.run(plan(config()), Quiet())
    for n in range(4, 16):
        (folder / "labels" / f"train_{n:02d}.png").unlink()
    (folder / "images" / "train_15.png").write_bytes((folder / "images" / "train_14.png").read_bytes())
    assert again(config())[0].startswith("already done")
    with pytest.raises(ConfigError, match=r"the image tinyset/images/train_15\.png"):
        again(config("fixmatch"))


@pytest.mark.usefixtures("finished")
def test_another_dataset_yaml_is_other_content(config: Config, root: Path) -> None:
    before = of_run(plan(config()))
    label = root / "tinyset" / "labels" / "test_01.png"
    assert before.files["scored"]["mask test_01"] == sha256(label)  # as before there was a dataset.yaml
    file = root / "tinyset" / "dataset.yaml"
    file.write_text("ignore: [250]\n")
    with pytest.raises(
        ConfigError, match=r"the masks of \d+ images, for example .* as dataset.yaml reads it"
    ):
        again(config())
    digests = [before.contents.masks]
    for text in ("ignore: [250]", "ignore: [250]\nvoid_border: 1", "label_map: {0: 0, 1: 2, 2: 1, 250: 255}"):
        file.write_text(text)
        now = of_run(plan(config()))
        assert now.contents.masks not in digests and now.contents.scored != before.contents.scored
        assert now.contents.images == before.contents.images
        digests.append(now.contents.masks)
    file.write_text("# the same in other words\nignore: [250]\n")
    assert of_run(plan(config())).contents.masks == digests[1]
    file.write_text("background: background\n")
    assert of_run(plan(config())).contents.masks == digests[0]


@pytest.mark.usefixtures("finished")
def test_a_file_that_is_gone_is_named(config: Config, root: Path) -> None:
    (root / "tinyset" / "labels" / "test_01.png").unlink()
    with pytest.raises(DataError, match=r"is done, but .*test_01\.png .*does not exist"):
        again(config())


def test_a_mask_that_changes_while_a_run_trains_is_no_number(
    config: Config, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = pipeline.Trainer.train

    def edited(self: Any) -> None:
        mended(root / "tinyset" / "labels" / "test_01.png")
        train(self)

    monkeypatch.setattr(pipeline.Trainer, "train", edited)
    with pytest.raises(DataError, match=r"trained, this has changed: the scored mask tinyset/labels/test_01"):
        pipeline.run(plan(config()), Quiet())
    assert not plan(config()).folder.result.exists()


def test_a_data_set_that_does_not_name_its_files_is_known_by_its_pixels(
    config: Config, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So is one that inherits from a folder and reads elsewhere."""

    class Elsewhere(Folder):
        def mask(self, id: str) -> np.ndarray:
            return Folder.mask(self, "test_00" if id == "test_01" else id)

    monkeypatch.setattr(registry, "load_dataset", lambda name, place: Elsewhere(root / "tinyset", "tinyset"))
    before = of_run(plan(config())).contents
    mended(root / "tinyset" / "labels" / "test_01.png")
    assert of_run(plan(config())).contents == before, "which is not read"
    mended(root / "tinyset" / "labels" / "test_00.png")
    assert of_run(plan(config())).contents.scored != before.scored


def test_encoder_weights_of_the_hub_are_compared_where_they_are_here(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have no digest in the run's id."""
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"old")
    monkeypatch.setattr("bench.contents.gather.weights_file", lambda source, encoder: file)
    pipeline.run(plan(config()), Quiet())
    folder = plan(config()).folder
    result = folder.read_result()
    assert result is not None and result.contents is not None
    contents = result.contents.model_copy(update={"encoder": sha256(file)})
    folder.write_result(result.model_copy(update={"contents": contents}))
    assert again(config())[0].startswith("already done")
    file.write_bytes(b"new")
    with pytest.raises(ConfigError, match="changed since: the encoder's weights"):
        again(config())
    monkeypatch.setattr("bench.contents.gather.weights_file", lambda source, encoder: None)
    assert again(config())[0].startswith("already done"), "not fetched for a comparison"


def test_generated_images_have_no_file(tiny_config: Config) -> None:
    found = of_run(plan(tiny_config("supervised", dataset="shapes", split="1_16")))
    assert "datasets/shapes.py" in found.files["code datasets"]


# The code ---------------------------------------------------------------------------------------------------

SUPERVISED = '''"""A method of a test."""
from bench.contract import Method


class Plugged(Method):
    def losses(self, batch, at):
        logits = self.net(batch.labeled.image)
        return {"labeled": WEIGHT * self.task.labeled_loss(logits, batch.labeled.label)}


WEIGHT = 1.0
'''


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """plug_in(source): the method `plugged`, imported anew, as by another process."""
    monkeypatch.syspath_prepend(tmp_path)
    point = EntryPoint("plugged", "plugged_method:Plugged", "bench.methods")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == "bench.methods" else [])

    def write(text: str) -> None:
        (tmp_path / "plugged_method.py").write_text(text)
        monkeypatch.delitem(sys.modules, "plugged_method", raising=False)
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)

    return write


def test_an_edited_method_is_another_run(config: Config, plug_in: Callable[[str], None]) -> None:
    plug_in(SUPERVISED)
    pipeline.run(plan(config("plugged")), Quiet())
    plug_in(SUPERVISED.replace("A method of a test.", "Well said.") + "# a note\n")
    assert again(config("plugged"))[0].startswith("already done")
    plug_in(SUPERVISED.replace("1.0", "0.5"))
    with pytest.raises(ConfigError, match=r"own file plugged_method\.py; start.* with a higher `version`"):
        again(config("plugged"))
    again(config("plugged"), overwrite=True)
    assert again(config("plugged"))[0].startswith("already done")


def edit_room(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """As if a file of ours had been edited."""
    loaded = code._loaded

    def other(module: str, file: Path) -> code.CodeSource:
        found = loaded(module, file)
        return found._replace(digest="0" * 64) if module == name else found

    monkeypatch.setattr(code, "_loaded", other)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("bench.training.trainer", r"the room bench/training \(bench/training/trainer\.py\)"),
        ("bench.networks.segmenter", r"the room bench/networks \(bench/networks/segmenter\.py\)"),
        ("bench.scoring.inference", r"the room bench/scoring \(bench/scoring/inference\.py\)"),
        ("bench.ops.losses", r"the room bench/ops \(bench/ops/losses\.py\)"),
        ("bench.randomness", r"the room bench/randomness;"),
        ("datasets.loaders", r"the room datasets \(datasets/loaders\.py\)"),
        ("methods.supervised", r"the method's own file methods/supervised\.py;"),
    ],
)
@pytest.mark.usefixtures("finished")
def test_an_edited_room_is_another_run(
    module: str, said: str, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        edit_room(patch, module)
        with pytest.raises(ConfigError, match=f"this has changed since: {said}"):
            again(config())
    assert again(config())[0].startswith("already done")


# Interrupted runs -------------------------------------------------------------------------------------------


def stopped(config: RunConfig) -> RunFolder:
    planned = plan(config)
    with pytest.raises(Interrupted):
        pipeline.run(planned, Quiet(stop_at=3))
    assert planned.folder.checkpoint.exists()
    return planned.folder


LONG = ("protocol.steps=4", "machine.checkpoint_every=1")


def test_a_checkpoint_goes_on_only_by_its_code_and_data(
    config: Config, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = config("supervised", *LONG)
    folder = stopped(long)
    mended(root / "tinyset" / "labels" / "train_01.png")
    edit_room(monkeypatch, "bench.ops.losses")
    said = (
        r"interrupted run, but this has changed since: the mask .*; and the room bench/ops .*--overwrite, or "
        r"go on with --resume --anyway"
    )
    with pytest.raises(ConfigError, match=said) as caught:
        again(long, resume=True)
    assert caught.value.exit_code == 2 and folder.checkpoint.exists()
    result = pipeline.run(plan(long), Quiet(), resume=True, anyway=True)
    assert result.contents is not None and len(result.contents.anyway) == 2
    assert result.contents.anyway[0] == "the mask tinyset/labels/train_01.png"
    assert folder.read_provenance()[-1]["contents"]["anyway"] == result.contents.anyway
    assert again(long)[0].startswith("already done")


def test_an_unchanged_checkpoint_goes_on(config: Config) -> None:
    long = config("supervised", *LONG)
    stopped(long)
    result = pipeline.run(plan(long), Quiet(), resume=True)
    assert result.contents is not None and result.contents.anyway == []


def test_scored_images_may_be_mended_before_a_run_goes_on(config: Config, root: Path) -> None:
    """No checkpoint depends on them, unless they were scored on the way."""
    for n, every in enumerate((0, 3)):
        long = config("supervised", *LONG, f"protocol.evaluation.every={every}", seed=n)
        stopped(long)
        mended(root / "tinyset" / "labels" / "test_01.png")
        if every:
            with pytest.raises(
                ConfigError, match=r"changed since: the scored mask tinyset/labels/test_01\.png"
            ):
                again(long, resume=True)
        else:
            assert "resuming at step" in again(long, resume=True)[0]
            assert again(long)[0].startswith("already done"), "of the masks that it was scored on"


def test_a_checkpoint_knows_its_contents_itself(config: Config, root: Path) -> None:
    """Where the file beside it is gone."""
    long = config("supervised", *LONG)
    folder = stopped(long)
    folder.contents.unlink()
    mended(root / "tinyset" / "labels" / "train_01.png")
    with pytest.raises(ConfigError, match=r"checkpoint\.pt was made by other code or other data .*--anyway"):
        again(long, resume=True)
    result = pipeline.run(plan(long), Quiet(), resume=True, anyway=True)
    assert result.contents is not None and result.contents.anyway == ["more than is known"]


# Records of before ------------------------------------------------------------------------------------------


def without_contents(folder: RunFolder) -> Result:
    result = folder.read_result()
    assert result is not None
    folder.write_result(result.model_copy(update={"contents": None}))
    folder.contents.unlink()
    return result


@pytest.mark.usefixtures("finished")
def test_a_run_of_before_digests_is_done_and_says_so_once(config: Config, root: Path) -> None:
    folder = plan(config()).folder
    without_contents(folder)
    assert "contents" not in json.loads(folder.result.read_text())
    mended(root / "tinyset" / "labels" / "train_01.png")
    done, note = again(config())
    assert done == f"already done: {folder.path}" and "from before runs kept digests" in note


@pytest.mark.usefixtures("finished")
def test_records_of_before_keep_their_bytes(config: Config, tmp_path: Path) -> None:
    old, new = plan(config()).folder.read_result(), tmp_path / "tinyset.jsonl"
    assert old is not None
    write_records(new, [old.model_copy(update={"contents": None})])
    assert b"contents" not in new.read_bytes()
    write_records(new, [old])
    assert b'"contents":{"code":' in new.read_bytes()
    assert Result.model_validate_json(new.read_bytes()) == old


@pytest.mark.usefixtures("finished")
def test_a_finished_run_on_a_read_only_disk_is_done(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: RunFolder) -> Any:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(RunFolder, "claimed", refused)
    assert again(config())[0].startswith("already done")


@pytest.mark.usefixtures("finished")
def test_weights_that_are_not_those_of_the_run_are_noticed(config: Config) -> None:
    file = plan(config()).folder.weights
    data = bytearray(file.read_bytes())
    data[-3] ^= 0x40
    file.write_bytes(data)
    with pytest.raises(ConfigError, match=r"changed since: its own weights\.safetensors"):
        again(config())
    file.unlink()
    assert again(config())[0].startswith("already done"), "they may be removed to save space"


# Sweeps -----------------------------------------------------------------------------------------------------


def test_a_changed_run_of_a_sweep_fails_and_the_others_go_on(
    config: Config, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[Plan] = [plan(config("supervised", seed=seed)) for seed in (0, 1)]
    for planned in plans:
        pipeline.run(planned, Quiet())
    cells = [Cell(f"seed {n}", planned) for n, planned in enumerate(plans)]
    assert [cell.state for cell in cells] == ["done", "done"] and cells[0].result is not None
    result = cells[0].result
    assert result.contents is not None
    contents = result.contents.model_copy(update={"masks": "0" * 64})
    plans[0].folder.write_result(result.model_copy(update={"contents": contents}))
    assert [cell.state for cell in cells] == ["changed", "done"]
    assert cells[0].result is None and "changed since" in cells[0].said
    assert "1 changed" in next(iter(listing(cells, [])))
    said: list[str] = []
    outcome = run_grid(cells, 1, said.append)
    assert len(outcome.failures) == 1 and "this has changed since: the masks" in outcome.failures[0].reason
    assert "1 of 2 runs done already" in said[0] and not any("started" in line for line in said)
    text = plans[0].folder.result.read_text()
    plans[0].folder.result.write_text(text.replace("0" * 64, "1" * 64))
    assert cells[0].state == "changed" and "was damaged or edited" in cells[0].said
