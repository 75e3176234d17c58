"""Names of methods and data sets, and what becomes of plug-ins and broken files."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from pydantic import ValidationError

from bench.cli import app
from bench.errors import ConfigError, DataError
from bench.settings import registry
from bench.settings.resolve import resolve
from bench.settings.schema import RunConfig

CHECKOUT = Path(__file__).resolve().parents[2]
PLUGIN = '''"""Learns nothing.

And says so.
"""

from bench.contract import Knobs, Method, Supervision


class Helper:
    pass


class Idle(Method):
    needs = frozenset({Supervision.PIXEL, Supervision.TAGS})
    version = 3

    class HParams(Knobs):
        width: int = 4

    def losses(self, batch, at):
        return {"zero": self.net(batch.labeled.image).sum() * 0}
'''
Offer = Callable[..., None]


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Offer:
    """offer(methods={"name": "module:Class"}) makes the entry points look installed; a list may repeat a
    name."""

    def install(**groups: list[tuple[str, str]]) -> None:
        points = [
            EntryPoint(name, value, f"bench.{group}")
            for group, all_ in groups.items()
            for name, value in all_
        ]
        monkeypatch.setattr(
            registry, "entry_points", lambda group: [point for point in points if point.group == group]
        )

    return install


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of the importable module `my_plugin`."""
    path = tmp_path / "my_plugin.py"
    path.write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    yield path
    sys.modules.pop("my_plugin", None)


@pytest.fixture
def methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A methods folder of the test's own, with a sound method `good`."""
    folder = tmp_path / "methods"
    folder.mkdir()
    (folder / "good.py").write_text(PLUGIN)
    (folder / "_helper.py").write_text("")
    monkeypatch.setattr(registry, "METHODS", folder)
    return folder


def listed(*arguments: str) -> str:
    from typer.testing import CliRunner

    result = CliRunner().invoke(app, ["list", *arguments], env={"COLUMNS": "400"})
    assert result.exit_code == 0, result.exception
    return result.output


def test_names_come_from_the_files(methods: Path) -> None:
    assert registry.method_names() == ["good"]


def test_our_own_methods_are_described() -> None:
    info = registry.describe_method("fixmatch")
    assert info.cls == "FixMatch" and info.needs == {"pixel", "none"} and info.version == 1
    assert info.summary.startswith("FixMatch for segmentation")
    assert info.knobs().model_dump()["threshold"] == 0.95


@pytest.mark.parametrize("name", registry.method_names())
def test_a_description_read_from_the_source_is_that_of_the_class(name: str) -> None:
    info, cls = registry.describe_method(name), registry.load_method(name)
    assert cls.__name__ == info.cls and cls.version == info.version
    assert info.needs == {supervision.value for supervision in cls.needs}
    ours, theirs = (
        {key: str(field) for key, field in model.model_fields.items() if key not in info.preset}
        for model in (info.knobs, cls.HParams)
    )
    assert ours == theirs


def test_describing_methods_imports_no_torch() -> None:
    program = (
        "import sys; from bench import registry, identity; "
        "assert len([registry.describe_method(name) for name in registry.method_names()]) > 1; "
        "print(sorted({'torch', 'torchvision', 'timm', 'segmentation_models_pytorch'} & sys.modules.keys()))"
    )
    found = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True)
    assert found.stdout.strip() == "[]", found.stderr


def test_unknown_names_are_met_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown method 'fixmach'; did you mean 'fixmatch'\? Known: "):
        registry.describe_method("fixmach")
    with pytest.raises(ConfigError, match=r"unknown data set 'camvidd'; did you mean 'camvid'.*classes.txt"):
        registry.load_dataset("camvidd", tmp_path)


def test_a_method_plug_in_is_found_described_and_loaded(offer: Offer, module: Path) -> None:
    offer(methods=[("idle", "my_plugin:Idle")])
    assert "idle" in registry.method_names()
    info = registry.describe_method("idle")
    assert "my_plugin" not in sys.modules, "describing imports nothing"
    assert (info.summary, info.version, info.needs) == ("Learns nothing.", 3, {"pixel", "tags"})
    assert info.knobs().model_dump() == {"width": 4}
    assert registry.load_method("idle").__module__ == "my_plugin"


def test_a_data_set_plug_in_is_found_and_loaded(offer: Offer, tiny_root: Path) -> None:
    offer(datasets=[("mine", "datasets.folder:Folder")])
    assert "mine" in registry.dataset_names() and registry.default_protocol("mine") == "folder"
    with pytest.raises(DataError, match="give --data-root"):
        registry.load_dataset("mine", None)


@pytest.mark.parametrize("group", ["methods", "datasets"])
def test_a_name_offered_twice_is_an_error_that_names_both(offer: Offer, group: str) -> None:
    offer(**{group: [("same", "one:A"), ("same", "two:B")]})
    names = registry.method_names if group == "methods" else registry.dataset_names
    with pytest.raises(ConfigError, match=rf"two packages offer {group} 'same': one:A and two:B"):
        names()


@pytest.mark.parametrize(("group", "name"), [("methods", "fixmatch"), ("datasets", "camvid")])
def test_a_plug_in_cannot_take_a_name_of_ours(offer: Offer, group: str, name: str) -> None:
    offer(**{group: [(name, "their.module:Class")]})
    names = registry.method_names if group == "methods" else registry.dataset_names
    with pytest.raises(ConfigError, match=rf"'{name}': this one and their.module:Class"):
        names()


BROKEN = {
    "not_python": "class (",
    "not_text": b"\xff\xfe\x00",
    "no_class": "x = 1\n",
    "two_classes": PLUGIN + PLUGIN.split("\n\n\n", 2)[2].replace("Idle", "Other"),
    "a_name_from_outside": PLUGIN.replace("width: int = 4", "width: int = np.int64(4)"),
    "an_error_in_hparams": PLUGIN.replace("width: int = 4", "width: int = 4 / 0"),
    "a_version_not_written_out": PLUGIN.replace("version = 3", "version = 1 + len('ab')"),
    "a_knob_without_type": PLUGIN.replace("width: int = 4", "width = 4"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_method_file_is_reported_and_does_not_stop_the_list(methods: Path, case: str) -> None:
    text = BROKEN[case]
    (methods / "bad.py").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        registry.describe_method("bad")
    assert str(methods / "bad.py") in str(caught.value)
    lines = listed().splitlines()
    assert any("bad" in line and "broken: " in line for line in lines)
    assert any("good" in line and "pixel + tags" in line and "Learns nothing." in line for line in lines)


@pytest.mark.parametrize("place", ["gone_module:Class", "gone_package.inner:Class", "my_plugin:Missing", "?"])
def test_a_broken_plug_in_is_listed_as_broken(offer: Offer, module: Path, place: str) -> None:
    offer(methods=[("theirs", place)])
    with pytest.raises(ConfigError):
        registry.describe_method("theirs")
    assert any("theirs" in line and "broken: " in line for line in listed().splitlines())


def test_a_plug_in_that_cannot_be_imported_is_a_sentence(offer: Offer, module: Path) -> None:
    module.write_text("import package_that_is_gone\n" + PLUGIN)
    offer(methods=[("idle", "my_plugin:Idle")], datasets=[("mine", "package_that_is_gone:Set")])
    with pytest.raises(ConfigError, match=r"method 'idle' cannot be imported: .*package_that_is_gone"):
        registry.load_method("idle")
    with pytest.raises(ConfigError, match=r"data set 'mine' cannot be imported: .*package_that_is_gone"):
        registry.load_dataset("mine", module.parent)


def test_a_folder_of_the_user_is_a_data_set(tiny_root: Path) -> None:
    data = registry.load_dataset("tinyset", tiny_root)
    assert data.classes == ("background", "square", "stripe") and len(data.ids("train")) == 16
    assert registry.default_protocol("tinyset") == "folder"


def test_a_folder_without_classes_is_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(ConfigError, match=r"unknown data set 'mine'.*mine/classes.txt"):
        registry.load_dataset("mine", tmp_path)


def test_a_missing_data_root_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="data set 'camvid' needs a folder: give --data-root"):
        registry.load_dataset("camvid", None)
    with pytest.raises(DataError, match="nowhere does not exist"):
        registry.load_dataset("camvid", tmp_path / "nowhere")


def test_the_generated_set_needs_no_root() -> None:
    assert registry.load_dataset("shapes", None).name == "shapes"


# Presets

PRESET = "summary: Learns nothing, but wider.\nmethod: good\nknobs: {width: 8}\n"


def test_a_preset_is_a_method_with_other_defaults(methods: Path) -> None:
    (methods / "wide.yaml").write_text(PRESET + "doc: Why it is wide.\n")
    good, wide = registry.describe_method("good"), registry.describe_method("wide")
    assert registry.method_names() == ["good", "wide"]
    assert (wide.name, wide.summary) == ("wide", "Learns nothing, but wider.")
    assert wide.doc.split("\n\n")[1:] == ["Why it is wide.", "A preset of good: width=8."]
    assert (good.knobs().model_dump(), wide.knobs().model_dump()) == ({"width": 4}, {"width": 8})
    assert (good.preset, wide.preset) == (set(), {"width"})
    for same in ("module", "cls", "source", "needs", "version"):
        assert getattr(wide, same) == getattr(good, same)
    assert any("wide" in line and "Learns nothing, but wider." in line for line in listed().splitlines())


def preset_of_fixmatch(methods: Path, knobs: str) -> None:
    shutil.copy(CHECKOUT / "methods" / "fixmatch.py", methods)
    (methods / "careful.yaml").write_text(f"summary: s\nmethod: fixmatch\nknobs: {knobs}\n")


def test_a_preset_keeps_bounds_and_types_and_loads_its_class(methods: Path) -> None:
    preset_of_fixmatch(methods, "{threshold: 0.5}")
    info = registry.describe_method("careful")
    assert registry.load_method("careful") is registry.load_method("fixmatch")
    for key, value in {"threshold": 1.5, "ema_decay": "0.9", "wide": 1}.items():
        with pytest.raises(ValidationError):
            info.knobs(**{key: value})
    assert registry.describe_method("fixmatch").knobs().model_dump()["threshold"] == 0.95, "left alone"


def test_a_protocol_does_not_change_what_a_preset_sets(methods: Path) -> None:
    preset_of_fixmatch(methods, "{ema_decay: 0.5}")
    decays = {
        name: resolve({"dataset": "shapes", "method": {"name": name}}).method["ema_decay"]
        for name in ("fixmatch", "careful")
    }
    assert decays == {"fixmatch": 0.99, "careful": 0.5}
    given = resolve({"method": {"name": "careful"}}, None, ["method.ema_decay=0.7"])
    assert given.method["ema_decay"] == 0.7


def test_a_run_of_a_preset_carries_its_name_and_knobs(
    methods: Path, tiny_config: Callable[..., RunConfig]
) -> None:
    from bench.display import Display
    from bench.pipeline import run
    from bench.plan import plan

    preset_of_fixmatch(methods, "{threshold: 0.5}")
    planned = plan(tiny_config("careful", "protocol.steps=1"))
    result = run(planned, Display())
    assert result.method == "careful" and planned.folder.path.parent.name == "careful"
    assert result.config["method"]["name"] == "careful" and result.config["method"]["threshold"] == 0.5


BAD_PRESETS = {
    "an unknown knob": (PRESET.replace("width", "widht"), "unknown key 'knobs.widht'; did you mean"),
    "a mistyped value": (PRESET.replace("8", "'8'"), "knobs.width: Input should be a valid integer"),
    "no knobs": (PRESET.replace("{width: 8}", "{}"), "knobs: Dictionary should have at least 1 item"),
    "no method": (PRESET.replace("method: good", ""), "method is missing; add it."),
    "another key": (PRESET + "version: 2\n", "unknown key 'version'"),
    "two lines": (PRESET.replace("Learns", '"Learns').replace("wider.", 'wider\\nthan"'), "summary: "),
    "an unknown method": (PRESET.replace("good", "goood"), "unknown method 'goood'; did you mean 'good'"),
    "a preset": (PRESET.replace("good", "other"), "'other' is a preset itself"),
    "itself": (PRESET.replace("good", "bad"), "'bad' is a preset itself"),
    "no YAML": ("summary: [", "not valid YAML"),
}


@pytest.mark.parametrize("case", BAD_PRESETS)
def test_a_faulty_preset_is_refused_with_its_file(methods: Path, case: str) -> None:
    text, words = BAD_PRESETS[case]
    (methods / "bad.yaml").write_text(text)
    (methods / "other.yaml").write_text(PRESET)
    with pytest.raises(ConfigError) as caught:
        registry.describe_method("bad")
    assert words in str(caught.value) and str(methods / "bad.yaml") in str(caught.value)
    lines = listed().splitlines()
    assert any("bad" in line and "broken: " in line for line in lines)
    assert any("good" in line and "Learns nothing." in line for line in lines)


def test_a_preset_and_a_method_of_one_name_are_refused(methods: Path, offer: Offer) -> None:
    (methods / "good.yaml").write_text(PRESET)
    with pytest.raises(ConfigError, match=r"good.yaml and good.py beside it are two methods of one name"):
        registry.describe_method("good")
    (methods / "wide.yaml").write_text(PRESET)
    offer(methods=[("wide", "their.module:Class")])
    with pytest.raises(ConfigError, match=r"'wide': this one and their.module:Class"):
        registry.method_names()
