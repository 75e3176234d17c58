"""Names of methods and data sets, ours and those of other packages.

A method is a file in methods/ (its name is the file's name), or an entry point `name =
"package.module:Class"` of the group "bench.methods". A preset, methods/<name>.yaml, is a method under a name
of its own with other defaults. A data set is one of the list below, an entry point of
"bench.datasets", or any folder `<data root>/<name>` with a classes.txt. Describing a method reads its source
and imports nothing, so that `--dry-run`, `list` and `show` need no torch.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, create_model

from bench.errors import ConfigError, DataError
from bench.settings.base import Knobs
from bench.settings.reading import read_yaml, suggest, validate

if TYPE_CHECKING:
    from bench.contract import Dataset, Method

METHODS = Path(__file__).resolve().parents[2] / "methods"


@dataclass(frozen=True)
class BuiltIn:
    place: str  # module:Class
    protocol: str
    on_disk: bool = True  # False: generated, needs no data root


DATASETS = {
    "shapes": BuiltIn("datasets.shapes:Shapes", "shapes", on_disk=False),
    "camvid": BuiltIn("datasets.camvid:CamVid", "camvid"),
    "msrc21": BuiltIn("datasets.msrc21:Msrc21", "msrc21"),
    "msrc21_objects": BuiltIn("datasets.msrc21:Msrc21Objects", "msrc21"),
    "voc": BuiltIn("datasets.voc:Voc", "voc_r50_321"),
    "cityscapes": BuiltIn("datasets.cityscapes:Cityscapes", "cityscapes_r50_801"),
}


@dataclass(frozen=True)
class MethodInfo:
    """What can be known of a method without importing it."""

    name: str
    module: str
    cls: str
    source: Path
    summary: str
    doc: str
    knobs: type[Knobs]
    needs: frozenset[str]  # of "pixel", "tags", "none"
    version: int
    preset: frozenset[str] = frozenset()  # the knobs that a preset sets; no protocol changes those


@cache  # reading them takes as long as all else that a run resolves
def entry_points(group: str) -> tuple[EntryPoint, ...]:
    return tuple(metadata.entry_points(group=group))


class Preset(Knobs):
    """methods/<name>.yaml: a method with other defaults."""

    summary: str = Field(min_length=1, pattern=r"^[^\n]*$")  # one line
    method: str
    knobs: dict[str, Any] = Field(min_length=1)
    doc: str = ""


def _plugins(group: str) -> dict[str, EntryPoint]:
    ours = _our_methods() if group == "methods" else DATASETS
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=f"bench.{group}"):
        other = "this one" if point.name in ours else ""
        if point.name in found:
            other = found[point.name].value
        if other:
            raise ConfigError(
                f"two packages offer {group} {point.name!r}: {other} and {point.value}; uninstall one."
            )
        found[point.name] = point
    return found


def _our_methods() -> set[str]:
    files = [*METHODS.glob("*.py"), *METHODS.glob("*.yaml")]
    return {path.stem for path in files if not path.stem.startswith("_")}


def method_names() -> list[str]:
    return sorted(_our_methods() | _plugins("methods").keys())


def describe_method(name: str) -> MethodInfo:
    """Raises ConfigError for an unknown name, a file that does not hold one method, or a preset that names no
    method, or knobs or values that its method does not have."""
    if name not in method_names():
        raise ConfigError(suggest(name, method_names(), "method"))
    if (METHODS / f"{name}.yaml").exists():
        return _read_preset(name, METHODS / f"{name}.yaml")
    point = _plugins("methods").get(name)
    if point is None:
        return _read_method(name, f"methods.{name}", None, METHODS / f"{name}.py")
    try:
        spec = importlib.util.find_spec(point.module)
    except (ImportError, AttributeError, ValueError):  # its package is gone, or it names no module
        spec = None
    if spec is None or spec.origin is None:
        raise ConfigError(f"method {name!r} of a plug-in: no module {point.value}; reinstall the package.")
    return _read_method(name, point.module, point.attr, Path(spec.origin))


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
    changed: dict[str, Any] = {
        key: (base.knobs.model_fields[key].rebuild_annotation(), getattr(values, key)) for key in preset.knobs
    }
    shown = ", ".join(f"{key}={getattr(values, key)}" for key in preset.knobs)
    parts = [preset.summary, preset.doc.strip(), f"A preset of {preset.method}: {shown}."]
    return replace(
        base,
        name=name,
        summary=preset.summary,
        doc="\n\n".join(part for part in parts if part),
        knobs=create_model("HParams", __base__=base.knobs, **changed),
        preset=frozenset(changed),
    )


def _read_method(name: str, module: str, wanted: str | None, source: Path) -> MethodInfo:
    try:
        return _describe(name, module, wanted, source)
    except ConfigError:
        raise
    except Exception as error:  # whatever a broken file brings up, its HParams are run
        raise ConfigError(
            f"{source} cannot be read as a method ({type(error).__name__}: {error}); mend the file."
        ) from error


def _describe(name: str, module: str, wanted: str | None, source: Path) -> MethodInfo:
    tree = ast.parse(source.read_text(encoding="utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and _defines_losses(node)]
    if wanted:
        classes = [node for node in classes if node.name == wanted]
    if len(classes) != 1:
        raise ConfigError(
            f"{source} must hold exactly one class with a method `losses`; found {len(classes)}."
        )
    doc = ast.get_docstring(tree) or ""
    return MethodInfo(
        name=name,
        module=module,
        cls=classes[0].name,
        source=source,
        summary=doc.split("\n")[0],
        doc=doc,
        knobs=_knobs(classes[0], source),
        needs=_needs(classes[0]),
        version=_version(classes[0]),
    )


def load_method(name: str) -> type[Method]:
    info = describe_method(name)
    return getattr(_import(info.module, f"method {name!r}"), info.cls)


def _import(module: str, what: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"{what} cannot be imported: {error}.") from error


def _defines_losses(node: ast.ClassDef) -> bool:
    return any(isinstance(item, ast.FunctionDef) and item.name == "losses" for item in node.body)


def _assigned(node: ast.ClassDef, name: str) -> ast.expr | None:
    for item in node.body:
        if isinstance(item, ast.Assign):
            targets = item.targets
        elif isinstance(item, ast.AnnAssign):
            targets = [item.target]
        else:
            continue
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return item.value
    return None


def _needs(node: ast.ClassDef) -> frozenset[str]:
    value = _assigned(node, "needs")
    if value is None:
        return frozenset({"pixel"})
    return frozenset(part.attr.lower() for part in ast.walk(value) if isinstance(part, ast.Attribute))


def _version(node: ast.ClassDef) -> int:
    value = _assigned(node, "version")
    return ast.literal_eval(value) if value else 1


def _knobs(node: ast.ClassDef, source: Path) -> type[Knobs]:
    inner = [item for item in node.body if isinstance(item, ast.ClassDef) and item.name == "HParams"]
    if not inner:
        return Knobs
    # The class body stands alone by contract: builtins, typing and pydantic's Field are all it may use.
    names: dict[str, Any] = {"Knobs": Knobs, "Field": Field, "Literal": Literal, "__name__": source.stem}
    try:
        body = ast.Module(body=list(inner), type_ignores=[])
        # Not with this file's `annotations` from the future: pydantic would look the names up in a module.
        exec(compile(body, str(source), "exec", dont_inherit=True), names)
    except NameError as error:
        raise ConfigError(
            f"{source}: HParams may use builtins, Knobs, Field and Literal only ({error})."
        ) from error
    return names["HParams"]


def dataset_names(data_root: Path | None = None) -> list[str]:
    """Ours, those of plug-ins, and the folders of the user's below `data_root`."""
    folders = {path.parent.name for path in data_root.glob("*/classes.txt")} if data_root else set()
    return sorted(DATASETS.keys() | _plugins("datasets").keys() | folders)


def default_protocol(dataset: str) -> str:
    """The protocol of a data set that names none: its own, or "folder" for a folder of the user's."""
    return DATASETS[dataset].protocol if dataset in DATASETS else "folder"


def load_dataset(name: str, data_root: Path | None) -> Dataset:
    """Raises ConfigError for an unknown name, DataError where its files are missing."""
    check_data_root(name, data_root)
    cls: Callable[..., Dataset]
    if name in DATASETS or name in _plugins("datasets"):
        place = DATASETS[name].place if name in DATASETS else _plugins("datasets")[name].value
        module, _, attribute = place.partition(":")
        cls = getattr(_import(module, f"data set {name!r}"), attribute)
        return cls(data_root) if _on_disk(name) else cls()
    if data_root is not None and (data_root / name / "classes.txt").is_file():
        from datasets.folder import Folder

        return Folder(data_root / name, name)
    hint = f" A folder of your own needs {data_root or '<data root>'}/{name}/classes.txt."
    raise ConfigError(suggest(name, dataset_names(data_root), "data set") + "." + hint)


def _on_disk(name: str) -> bool:
    return DATASETS[name].on_disk if name in DATASETS else name in _plugins("datasets")


def check_data_root(name: str, data_root: Path | None) -> None:
    """Raises DataError where a data set lies on a disk and the folder of all data sets is not there. Needs no
    torch."""
    if not _on_disk(name):
        return
    if data_root is None:
        raise DataError(f"data set {name!r} needs a folder: give --data-root DIR or set BENCH_DATA to it.")
    if not data_root.is_dir():
        raise DataError(f"the data root {data_root} does not exist; give --data-root DIR or set BENCH_DATA.")
