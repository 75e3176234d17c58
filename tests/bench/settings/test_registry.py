"""Names of methods and data sets, what a class says of itself, and what becomes of broken files."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError
from typer.testing import CliRunner

import methods as methods_package
from bench.cli import app
from bench.errors import ConfigError, DataError
from bench.settings import registry
from bench.settings.base import Knob, Knobs, describe_knobs
from bench.settings.resolve import resolve
from bench.settings.schema import RunConfig
from methods.fixmatch import FixMatch

CHECKOUT = Path(__file__).resolve().parents[3]
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
def methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A methods folder of the test's own, with a sound method `good`."""
    folder = tmp_path / "methods"
    folder.mkdir()
    (folder / "good.py").write_text(PLUGIN)
    (folder / "_helper.py").write_text("")
    monkeypatch.setattr(registry, "METHODS", folder)
    monkeypatch.setattr(methods_package, "__path__", [str(folder)])
    for name in [name for name in sys.modules if name.startswith("methods.")]:
        monkeypatch.delitem(sys.modules, name)
    yield folder
    for name in [name for name in sys.modules if name.startswith("methods.")]:
        del sys.modules[name]


def listed(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["list", *arguments], env={"COLUMNS": "400"})
    assert result.exit_code == 0, result.exception
    return result.output


def test_names_come_from_the_files(methods: Path) -> None:
    assert registry.method_names() == ["good"]


def test_our_own_methods_are_described() -> None:
    info = registry.describe_method("fixmatch")
    assert info.cls is FixMatch and info.needs == {"pixel", "none"} and info.version == 1
    assert info.summary.startswith("FixMatch for segmentation")
    assert info.knobs().model_dump()["threshold"] == 0.95


@pytest.mark.parametrize("name", registry.method_names())
def test_a_description_is_that_of_the_class(name: str) -> None:
    info, cls = registry.describe_method(name), registry.load_method(name)
    assert info.cls is cls and info.version == cls.version and info.needs == cls.needs
    assert issubclass(info.knobs, cls.HParams) and (info.knobs is cls.HParams) == (not info.preset)
    assert info.knobs.model_fields.keys() == cls.HParams.model_fields.keys()
    for key, field in info.knobs.model_fields.items():
        assert field.description == cls.HParams.model_fields[key].description
        assert field.metadata == cls.HParams.model_fields[key].metadata, "a preset keeps the bounds"
    assert info.summary and info.doc.startswith(info.summary)


def imports_of(statement: str) -> set[str]:
    """The modules that are imported once the statement has run in a process of its own."""
    program = "import sys; from bench import plan; from bench.settings import registry; "
    program += f"{statement}; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return set(found.stdout.split())


def test_names_are_found_without_importing_anything() -> None:
    assert not {"torch", "bench.contract", "methods.fixmatch"} & imports_of("registry.method_names()")


@pytest.mark.slow
def test_describing_a_method_imports_no_trainer() -> None:
    found = imports_of("[registry.describe_method(name) for name in registry.method_names()]")
    assert "methods.u2pl_weak" in found
    assert (
        not {"bench.training.trainer", "bench.networks.segmenter", "timm", "segmentation_models_pytorch"}
        & found
    )


def test_unknown_names_are_met_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown method 'fixmach'; did you mean 'fixmatch'\? Known: "):
        registry.describe_method("fixmach")
    with pytest.raises(ConfigError, match=r"unknown data set 'camvidd'; did you mean 'camvid'.*classes.txt"):
        registry.load_dataset("camvidd", tmp_path)


def test_a_method_plug_in_is_found_described_and_loaded(offer: Offer, module: Path) -> None:
    offer(methods=[("idle", "my_plugin:Idle")])
    assert "idle" in registry.method_names()
    info = registry.describe_method("idle")
    assert (info.summary, info.version, info.needs) == ("Learns nothing.", 3, {"pixel", "tags"})
    assert info.knobs().model_dump() == {"width": 4}
    assert registry.load_method("idle").__module__ == "my_plugin"
    assert info.doc == "Learns nothing.\n\nAnd says so."


def described(offer: Offer, module: Path, source: str) -> registry.MethodInfo:
    """The class `Mine` of a plug-in."""
    module.write_text(source)
    offer(methods=[("mine", "my_plugin:Mine")])
    return registry.describe_method("mine")


def test_a_method_may_inherit_all_but_its_losses(offer: Offer, module: Path) -> None:
    source = """
from methods.fixmatch import FixMatch


class Mine(FixMatch):
    \"\"\"FixMatch, but sad.\"\"\"

    def losses(self, batch, at):
        return {name: 2 * term for name, term in super().losses(batch, at).items()}
"""
    info = described(offer, module, source)
    assert (info.summary, info.needs, info.version) == ("FixMatch, but sad.", {"pixel", "none"}, 1)
    assert info.knobs is FixMatch.HParams and info.cls.views == FixMatch.views
    config = resolve({"method": {"name": "mine"}}, None, ["method.threshold=0.5"])
    # What a protocol says of a knob holds for the inherited one too.
    assert config.method == {
        **resolve({"method": {"name": "fixmatch"}}).method,
        "name": "mine",
        "threshold": 0.5,
    }


def test_needs_may_be_computed(offer: Offer, module: Path) -> None:
    source = """
from bench.contract import Method, Supervision


class Mine(Method):
    needs = frozenset(Supervision) - {Supervision.TAGS}
    version = len("ab")

    def losses(self, batch, at):
        return {}
"""
    info = described(offer, module, source)
    assert (info.needs, info.version) == ({"pixel", "none"}, 2)


def test_knobs_may_inherit_and_use_constants(offer: Offer, module: Path) -> None:
    source = """
from pydantic import Field

from methods.fixmatch import FixMatch

WIDTH = 2 * 3


class Mine(FixMatch):
    class HParams(FixMatch.HParams):
        threshold: float = Field(0.5, ge=0, le=1, description="lower than FixMatch's")
        width: int = Field(WIDTH, ge=1, description="how wide")
"""
    info = described(offer, module, source)
    assert info.knobs().model_dump() == {**FixMatch.HParams().model_dump(), "threshold": 0.5, "width": 6}
    assert describe_knobs(info.knobs)[-1] == Knob("width", "6", "whole number >= 1", "how wide")
    with pytest.raises(ConfigError, match=r"method\.width"):
        resolve({"method": {"name": "mine"}}, None, ["method.width=0"])


def test_knobs_are_described_for_people() -> None:
    of = {knob.name: knob for knob in describe_knobs(registry.describe_method("u2pl").knobs)}
    assert (
        of["anchor_confidence"].allowed == "number >= 0, <= 1"
        and of["temperature"].allowed == "number >= 0.001, <= 1000"
    )
    assert of["warmup"] == Knob(
        "warmup",
        "0.0125",
        "number >= 0, <= 100000",
        "on labels alone: a share of the steps, from 1 on their number; 1 epoch of 80 (App. B)",
    )
    assert (of["use_ranks"].default, of["use_ranks"].allowed) == ("true", "true, false")
    assert of["negatives_from"].allowed == "unreliable, reliable, all"
    preset = {knob.name: knob for knob in describe_knobs(registry.describe_method("u2pl_plus").knobs)}
    assert preset["denoise"] == of["denoise"]._replace(default="true")


def test_what_a_knob_allows_is_said_of_none_tuples_and_lists() -> None:
    class Sample(Knobs):
        clip: float | None = Field(None, gt=0)
        area: tuple[float, Annotated[int, Field(ge=1)]] = (0.5, 1)
        scales: tuple[float, ...] = (1.0,)
        kind: Literal["a"] | None = "a"

    assert [knob.allowed for knob in describe_knobs(Sample)] == [
        "number > 0 or null",
        "[number; whole number >= 1]",
        "list of number",
        "a or null",
    ]


def test_show_prints_what_a_knob_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.commands import options

    monkeypatch.setattr(options.out, "width", 400)
    result = CliRunner().invoke(app, ["show", "fixmatch"])
    line = next(line for line in result.output.splitlines() if "threshold" in line and "number" in line)
    for word in ("0.95", "number >= 0, <= 1", "confidence from which a pixel trains (UniMatch"):
        assert word in line


def test_a_data_set_plug_in_is_found_and_loaded(offer: Offer, tiny_root: Path) -> None:
    offer(datasets=[("mine", "datasets.folder:Folder")])
    assert "mine" in registry.dataset_names() and registry.default_protocol("mine") == "folder"
    with pytest.raises(DataError, match="give --data-root"):
        registry.load_dataset("mine", None)


def made(group: str, name: str) -> object:
    if group == "methods":
        return registry.describe_method(name)
    return registry.load_dataset(name, Path("."))


@pytest.mark.parametrize("group", ["methods", "datasets"])
def test_a_name_offered_twice_is_an_error_that_names_both(offer: Offer, group: str) -> None:
    offer(**{group: [("same", "one:A"), ("same", "two:B")]})
    with pytest.raises(ConfigError, match=rf"two packages offer {group} 'same': one:A and two:B"):
        made(group, "same")
    made(group, "fixmatch" if group == "methods" else "shapes")  # others are not hidden
    result = CliRunner().invoke(app, ["list"], env={"COLUMNS": "400"})
    assert result.exit_code == 0 and "same" in result.output and "augseg" in result.output


@pytest.mark.parametrize(("group", "name"), [("methods", "fixmatch"), ("datasets", "camvid")])
def test_a_plug_in_cannot_take_a_name_of_ours(offer: Offer, group: str, name: str) -> None:
    offer(**{group: [(name, "their.module:Class")]})
    with pytest.raises(ConfigError, match=rf"'{name}': this one and their.module:Class"):
        made(group, name)


BROKEN = {  # the file, and what is said of it
    "not_python": ("class (", "SyntaxError"),
    "not_text": (b"\xff\xfe\x00", "SyntaxError"),
    "an_error_on_import": (PLUGIN + "\n1 / 0\n", "ZeroDivisionError"),
    "an_exit": (PLUGIN + "\nraise SystemExit(3)\n", "SystemExit: 3"),
    "no_class": ("x = 1\n", "exactly one class with a method `losses`; found 0"),
    "two_classes": (PLUGIN + PLUGIN.split("\n\n\n", 2)[2].replace("Idle", "Other"), "found 2"),
    "a_method_of_another_file": ("from methods.good import Idle\n", "found 0"),
    "a_name_that_is_not_there": (PLUGIN.replace("int = 4", "int = np.int64(4)"), "NameError: name 'np'"),
    "an_error_in_hparams": (PLUGIN.replace("int = 4", "int = 4 / 0"), "ZeroDivisionError"),
    "a_knob_without_type": (PLUGIN.replace("width: int = 4", "width = 4"), "width = 4"),
    "hparams_of_another_kind": (
        PLUGIN.replace("HParams(Knobs)", "HParams"),
        "derived from bench.contract.Knobs",
    ),
    "a_version_that_is_no_number": (PLUGIN.replace("version = 3", "version = '3'"), "it is '3'"),
    "needs_that_are_text": (PLUGIN.replace("Supervision.PIXEL", "'pixel'"), "Supervision.PIXEL"),
    "needs_that_are_no_set": (
        PLUGIN.replace("frozenset({Supervision.PIXEL, Supervision.TAGS})", "5"),
        "needs must be a set of Supervision",
    ),
    "views_that_are_none": (PLUGIN.replace("version = 3", "views = 2"), "must be a bench.contract.Views"),
}
LINES = {
    "not_python": 1,
    "an_error_on_import": PLUGIN.count("\n") + 2,
    "an_error_in_hparams": PLUGIN.split("width")[0].count("\n") + 1,
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_method_file_is_reported_and_does_not_stop_the_others(methods: Path, case: str) -> None:
    text, words = BROKEN[case]
    (methods / "bad.py").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        registry.describe_method("bad")
    assert str(methods / "bad.py") in str(caught.value) and words in str(caught.value)
    if case in LINES:
        assert f"bad.py, line {LINES[case]}" in str(caught.value)
    lines = listed().splitlines()
    assert any("bad" in line and "broken: " in line for line in lines)
    assert any("good" in line and "labeled + tagged" in line and "Learns nothing." in line for line in lines)
    assert resolve({"method": {"name": "good"}}).method == {"name": "good", "width": 4}


@pytest.mark.parametrize("broken", ["import package_that_is_gone\n", "1 / 0\n", "class Idle: pass\n"])
def test_a_broken_plug_in_hides_no_method_of_ours(offer: Offer, module: Path, broken: str) -> None:
    module.write_text(broken)
    offer(methods=[("idle", "my_plugin:Idle")])
    with pytest.raises(ConfigError) as caught:
        registry.describe_method("idle")
    assert str(module) in str(caught.value)
    assert resolve({"method": {"name": "fixmatch"}}).method["threshold"] == 0.95
    lines = listed().splitlines()
    assert any("idle" in line and "broken: " in line for line in lines)
    assert any("fixmatch" in line and "labeled + unlabeled" in line for line in lines)


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
    for same in ("cls", "needs", "version"):
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
        registry.describe_method("wide")
