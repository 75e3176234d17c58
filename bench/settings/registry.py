"""Names of methods and data sets, ours and those of other packages.

A method is a file in methods/ (its name is the file's name), or an entry point `name =
"package.module:Class"` of the group "bench.methods". A preset, methods/<name>.yaml, is a method under a name
of its own with other defaults. A data set is one of the list below, an entry point of
"bench.datasets", or any folder `<data root>/<name>` with a classes.txt or, for a pair of two others, a
pair.yaml.

Names are found without importing anything. To describe a method is to import its class, and with it torch;
this file imports neither before it is asked, so that `--help` answers at once.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from importlib.metadata import EntryPoint
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pydantic import Field, create_model

from bench.errors import BenchError, ConfigError, DataError, check_name, plain, resolved
from bench.settings.base import Knobs
from bench.settings.plain_yaml import read_yaml
from bench.settings.reading import suggest, validate
from datasets.plain_files import is_folder, is_there

if TYPE_CHECKING:
    from bench.contract import Dataset, Method

METHODS = Path(__file__).resolve().parents[2] / "methods"
PAIR_FILE = "pair.yaml"  # beside it, `datasets.pairs` says what it holds


@dataclass(frozen=True)
class BuiltIn:
    place: str  # module:Class
    protocol: str
    on_disk: bool = True  # False: generated, needs no data root


DATASETS = {
    "shapes": BuiltIn("datasets.shapes:Shapes", "shapes", on_disk=False),
    "shapes21": BuiltIn("datasets.shapes21:Shapes21", "shapes21", on_disk=False),
    "shapes_night": BuiltIn("datasets.shapes_night:ShapesNight", "shapes", on_disk=False),
    "camvid": BuiltIn("datasets.camvid:CamVid", "camvid"),
    "camvid_dusk": BuiltIn("datasets.camvid_dusk:CamVidDusk", "camvid"),
    "msrc21": BuiltIn("datasets.msrc21:Msrc21", "msrc21"),
    "msrc21_objects": BuiltIn("datasets.msrc21:Msrc21Objects", "msrc21"),
    "voc": BuiltIn("datasets.voc:Voc", "voc_r50_321"),
    "cityscapes": BuiltIn("datasets.cityscapes:Cityscapes", "cityscapes_r50_801"),
    "gta5_cityscapes": BuiltIn("datasets.gta5:Gta5Cityscapes", "adaptation_mitb5_512"),
    "synthia_cityscapes": BuiltIn("datasets.synthia:SynthiaCityscapes", "adaptation_mitb5_512"),
}


@dataclass(frozen=True)
class MethodInfo:
    """A method under its name. All but a preset's name, text and knobs is read from its class."""

    name: str
    cls: type[Method]
    knobs: type[Knobs]  # HParams of the class; of a preset, the same fields with its own defaults
    doc: str
    preset: frozenset[str] = frozenset()  # the knobs that a preset sets; no protocol changes those

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return self.doc.partition("\n")[0]

    @property
    def needs(self) -> frozenset[str]:
        """Of "pixel", "tags", "none"."""
        return frozenset(map(str, self.cls.needs))

    @property
    def version(self) -> int:
        return self.cls.version


@cache  # reading them takes as long as all else that a run resolves
def entry_points(group: str) -> tuple[EntryPoint, ...]:
    return tuple(metadata.entry_points(group=group))


class Preset(Knobs):
    """methods/<name>.yaml: a method with other defaults."""

    summary: str = Field(min_length=1, pattern=r"^[^\n]*$")  # one line
    method: str
    knobs: dict[str, Any] = Field(min_length=1)
    doc: str = ""


def _plugins(group: str) -> dict[str, list[str]]:
    """List the places (`package.module:Class`) that installed packages offer, by name."""
    found: dict[str, list[str]] = {}
    for point in entry_points(group=f"bench.{group}"):
        found.setdefault(point.name, []).append(point.value)
    return found


def _plugin(group: str, name: str) -> str | None:
    """Give the place that a package offers under a name; None where none does. Raises ConfigError where two
    do, or where the name is ours: other names are not hidden by that."""
    places = _plugins(group).get(name, [])
    ours = name in (_our_methods() if group == "methods" else DATASETS)
    if len(places) + ours > 1:
        both = " and ".join(["this one"] * ours + places)
        raise ConfigError(f"two packages offer {group} {name!r}: {both}; uninstall one.")
    return places[0] if places else None


def _our_methods() -> set[str]:
    files = [*METHODS.glob("*.py"), *METHODS.glob("*.yaml")]
    return {path.stem for path in files if not path.stem.startswith("_")}


def method_names() -> list[str]:
    """Ours, those of plug-ins and those that are offered for the moment. Imports none of them."""
    return sorted(_our_methods() | _plugins("methods").keys() | _offered.keys())


def load_method(name: str) -> type[Method]:
    return describe_method(name).cls


def describe_method(name: str) -> MethodInfo:
    """Import a method and say what it is.

    Raises ConfigError, with the file at fault, for an unknown name, a module that cannot be imported or holds
    no method, a class that does not keep the contract, or a preset that names no method, or knobs or values
    that its method does not have.
    """
    check_name(name, "a method")
    if name in _offered:
        return _offered[name]
    if name not in method_names():
        raise ConfigError(suggest(name, method_names(), "method"))
    place = _plugin("methods", name)
    if (METHODS / f"{name}.yaml").exists():
        return _read_preset(name, METHODS / f"{name}.yaml")
    if place is not None:
        return describe_class(name, named_class(place, f"method {name!r}"))
    file = METHODS / f"{name}.py"
    return describe_class(name, _only_method(_import(f"methods.{name}", f"method {name!r}", file), file))


def describe_class(name: str, cls: type[Method]) -> MethodInfo:
    """Say what a class is. Raises ConfigError, with its file, where it does not keep the contract.

    The text is the docstring of the class or, where it has none, of its module.
    """
    from bench.contract import Method, Passes, Rounds, Supervision, Views

    module = sys.modules.get(cls.__module__)
    file = getattr(module, "__file__", None) or cls.__module__
    if not (isinstance(cls, type) and issubclass(cls, Method)):
        raise ConfigError(f"{file}: {cls.__name__} is no class derived from bench.contract.Method.")
    where = f"{file}: method {cls.__name__}"
    missing = sorted(getattr(cls, "__abstractmethods__", ()))
    if missing:
        raise ConfigError(f"{where} has no `{missing[0]}`; write it.")
    kinds = cls.needs if isinstance(cls.needs, set | frozenset) else ()
    if not kinds or not all(isinstance(kind, Supervision) for kind in kinds):
        raise ConfigError(f"{where}: needs must be a set of Supervision, such as {{Supervision.PIXEL}}.")
    if type(cls.version) is not int or cls.version < 1:
        raise ConfigError(f"{where}: version must be a whole number from 1 on (it is {cls.version!r}).")
    if not isinstance(cls.views, Views):
        raise ConfigError(f"{where}: views must be a bench.contract.Views.")
    if not isinstance(cls.passes, Passes | None):
        raise ConfigError(f"{where}: passes must be a bench.contract.Passes, or None where it is not said.")
    if not isinstance(cls.rounds, Rounds | None):
        raise ConfigError(f"{where}: rounds must be a bench.contract.Rounds, or None where it has none.")
    if not (isinstance(cls.HParams, type) and issubclass(cls.HParams, Knobs)):
        raise ConfigError(f"{where}: HParams must be a class derived from bench.contract.Knobs.")
    doc = inspect.cleandoc(cls.__dict__.get("__doc__") or getattr(module, "__doc__", None) or "")
    _refuse_unprintable(doc, f"{where} has the docstring")
    return MethodInfo(name, cls, cls.HParams, doc)


_offered: dict[str, MethodInfo] = {}


@contextmanager
def offering(info: MethodInfo) -> Iterator[None]:
    """Let a method go by its name within the block, though no package offers it: for tests."""
    before = _offered.get(info.name)
    _offered[info.name] = info
    try:
        yield
    finally:
        if before is None:
            del _offered[info.name]
        else:
            _offered[info.name] = before


def _read_preset(name: str, file: Path) -> MethodInfo:
    if file.with_suffix(".py").exists():
        raise ConfigError(f"{file} and {name}.py beside it are two methods of one name; rename one of them.")
    preset = validate(Preset, read_yaml(file), file=file)
    if preset.method not in method_names():
        raise ConfigError(f"{file}: {suggest(preset.method, method_names(), 'method')}")
    if (METHODS / f"{preset.method}.yaml").exists():
        raise ConfigError(f"{file}: {preset.method!r} is a preset itself; name the method that it presets.")
    base = describe_method(preset.method)
    values = validate(base.knobs, preset.knobs, "knobs", file)
    changed: dict[str, Any] = {}
    for key in preset.knobs:
        # Of the method's own field, so that it keeps its description and its bounds.
        field = base.knobs.model_fields[key]
        default = Field(getattr(values, key), description=field.description)
        changed[key] = (field.rebuild_annotation(), default)
    _refuse_unprintable(f"{preset.summary}\n{preset.doc}", f"{file} has the text")
    shown = ", ".join(f"{key}={getattr(values, key)}" for key in preset.knobs)
    parts = [preset.summary, preset.doc.strip(), f"A preset of {preset.method}: {shown}."]
    return replace(
        base,
        name=name,
        doc="\n\n".join(part for part in parts if part),
        knobs=create_model("HParams", __base__=base.knobs, **changed),
        preset=frozenset(changed),
    )


# Importing --------------------------------------------------------------------------------------------------


def named_class(place: str, what: str) -> Any:
    """Import `package.module:Class`. Raises ConfigError, with the file at fault where there is one."""
    module_name, _, attribute = place.partition("[")[0].strip().partition(":")
    try:
        spec = importlib.util.find_spec(module_name)
    except Exception as error:  # importing its package may bring up anything
        raise ConfigError(_fault(what, error, None)) from error
    if spec is None or spec.origin is None:
        raise ConfigError(f"{what} of a plug-in: no module {place}; reinstall the package.")
    module = _import(module_name, what, Path(spec.origin))
    try:
        found = attrgetter(attribute)(module)
    except AttributeError:
        found = None
    if not isinstance(found, type):
        raise ConfigError(f"{what}: {spec.origin} has no class {attribute!r}; its entry point is {place!r}.")
    return found


def _import(module: str, what: str, file: Path | None = None) -> ModuleType:
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:  # whatever a broken file brings up
        raise ConfigError(_fault(what, error, file)) from error


def _fault(what: str, error: BaseException, file: Path | None) -> str:
    """Say what cannot be imported and why, with the line of `file` that is at fault."""
    line = error.lineno if isinstance(error, SyntaxError) else None
    frames = traceback.extract_tb(error.__traceback__)
    if file is None and frames:  # a package that is imported on the way
        where = error.filename if isinstance(error, SyntaxError) else frames[-1].filename
        file = Path(where) if where and not where.startswith("<") else None
    for frame in frames:
        if file is not None and frame.filename == str(file):
            line = frame.lineno
    place = f" ({file}{f', line {line}' if line else ''})" if file else ""
    return f"{what} cannot be imported: {type(error).__name__}: {error}{place}."


def _only_method(module: ModuleType, file: Path) -> type[Method]:
    """Find the one method that a module defines; what it imports, and what has no `losses` yet, does not
    count."""
    from bench.contract import Method

    classes = [
        value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Method)
    ]
    own = dict.fromkeys(cls for cls in classes if cls.__module__ == module.__name__)  # each once
    whole = [cls for cls in own if not inspect.isabstract(cls)]
    if len(whole) != 1:
        raise ConfigError(f"{file} must hold exactly one class with a method `losses`; found {len(whole)}.")
    return whole[0]


def dataset_names(data_root: Path | None = None) -> list[str]:
    """Ours, those of plug-ins, and folders below `data_root` (a made.json says that `predict` filled it)."""
    files = [*data_root.glob(f"*/{PAIR_FILE}"), *data_root.glob("*/classes.txt")] if data_root else []
    folders = {at.parent.name for at in files if not (at.parent / "made.json").exists()}
    return sorted(DATASETS.keys() | _plugins("datasets").keys() | folders)


def default_protocol(dataset: str) -> str:
    """Give the protocol of a data set that names none: its own, or "folder" for a folder of the user's."""
    return DATASETS[dataset].protocol if dataset in DATASETS else "folder"


def load_dataset(name: str, data_root: Path | None) -> Dataset:
    """Load a data set by its name.

    Raises ConfigError for an unknown name or one that no data set can have, DataError where its files are
    missing or a class name cannot be printed.
    """
    check_name(name, "a data set")
    check_data_root(name, data_root)
    data = _make_dataset(name, data_root)
    for label in data.classes:
        _refuse_unprintable(label, f"data set {name!r} has the class", DataError)
    return data


def _make_dataset(name: str, data_root: Path | None) -> Dataset:
    cls: Callable[..., Dataset]
    place = _plugin("datasets", name) or (DATASETS[name].place if name in DATASETS else None)
    if place is not None:
        module, _, attribute = place.partition(":")
        cls = getattr(_import(module, f"data set {name!r}"), attribute)
        return cls(data_root) if _on_disk(name) else cls()
    if data_root is not None and is_there(data_root / name / "classes.txt"):
        from datasets.folder import Folder

        return Folder(data_root / name, name)
    if data_root is not None and is_there(data_root / name / PAIR_FILE):
        return _pair(name, data_root)
    raise ConfigError(
        f"{suggest(name, dataset_names(data_root), 'data set')}. {_folder_hint(name, data_root)}"
    )


class PairFile(Knobs):
    """<data root>/<name>/pair.yaml: two data sets, of which one is learned from and the other is scored."""

    source: str
    target: str
    # Of the source: of the target, by name or id, where names differ.
    classes: dict[str, str | int] = Field(default_factory=dict)


def _pair(name: str, data_root: Path) -> Dataset:
    """Load the two data sets that a pair.yaml names. Raises DataError for a file that names none."""
    from datasets.pairs import Pair

    file = data_root / name / PAIR_FILE
    try:
        said = validate(PairFile, read_yaml(file, number_keys=True), file=file)
        for part in (said.source, said.target):
            if part == name or is_there(data_root / part / PAIR_FILE):
                raise ConfigError(f"{file}: {part!r} is a pair itself; name two plain data sets.")
        if said.source == said.target:
            raise ConfigError(f"{file}: source and target are both {said.source!r}; name two data sets.")
        source, target = (load_dataset(part, data_root) for part in (said.source, said.target))
    except ConfigError as error:
        raise DataError(str(error) if str(file) in str(error) else f"{file}: {error}") from error
    try:
        return Pair(name, source, target, said.classes)
    except DataError as error:
        raise DataError(f"{file}: {str(error).removeprefix(f'{name}: ')}") from error


def _folder_hint(name: str, data_root: Path | None) -> str:
    """Say what to do where a folder of the user's is not found: what lies there instead, if anything."""
    needs = f"A folder of your own needs {data_root or '<data root>'}/{name}/classes.txt"
    if data_root and resolved(data_root).name == name and (data_root / "classes.txt").is_file():
        return (
            f"{data_root} is the folder of {name} itself: give the one above, --data-root {data_root.parent}."
        )
    if data_root and (data_root / name).is_dir():
        there = ", ".join(sorted(path.name for path in (data_root / name).iterdir())[:8]) or "nothing"
        return f"{needs}, and it holds {there}."
    return f"{needs}."


def _refuse_unprintable(text: str, what: str, error: type[BenchError] = ConfigError) -> None:
    if any(plain(line) != line for line in text.split("\n")):
        raise error(f"{what} {text[:80]!r}, with characters that cannot be printed; leave them out.")


def _on_disk(name: str) -> bool:
    return DATASETS[name].on_disk if name in DATASETS else name in _plugins("datasets")


def check_data_root(name: str, data_root: Path | None) -> None:
    """Raise DataError where a data set lies on a disk and the folder of all is not there. Needs no torch."""
    if (data_root is not None and is_folder(data_root)) or not _on_disk(name):
        return
    if data_root is None:
        raise DataError(f"data set {name!r} needs a folder: give --data-root DIR or set BENCH_DATA to it.")
    raise DataError(f"the data root {data_root} does not exist; give --data-root DIR or set BENCH_DATA.")
