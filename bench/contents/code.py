"""Digests of source: the files that decide a run's number, by room. Comments, docstrings and layout do not
count."""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from os.path import isfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench.contents.files import FileDigests, combined

if TYPE_CHECKING:
    from bench.contract import Dataset

ROOT = Path(__file__).resolve().parents[2]
# Of our own code, what decides a number. Settings and plan are not among it: what they come to is known by
# value, in the run's id (every setting, the lists) or among its contents (masks that a policy opens, tags).
ROOMS = (
    "bench.pipeline",
    "bench.training",
    "bench.networks",
    "bench.scoring",
    "bench.ops",
    "bench.cam_seeds",
    "bench.contract",
    "bench.batches",
    "bench.views",
    "bench.randomness",
    "bench.labels",
    "datasets",
    "methods",
)
OURS = {"bench", "datasets", "methods", "reports"}
RUN = ("bench.training.session", "bench.scoring.inference")  # what every run imports
# The order of a run, and which module is scored. What else it imports is of some runs only, and is begun with
# where it is (`SEEDS`, `BOXES`).
ALONE = ("bench.pipeline",)
SEEDS = ("bench.cam_seeds.make",)
BOXES = ("bench.cam_seeds.boxes",)
INSTALLED = {"site-packages", "dist-packages"}
FORM = 1  # of `source`: raise it when the same file would get another digest

Files = dict[str, str]  # digests by name


class CodeSource(NamedTuple):
    """Digest of a file of Python, and the modules that it imports."""

    digest: str
    imports: tuple[str, ...]  # dotted names; a relative one begins with its dots


def code_files(
    methods: Iterable[type],
    datasets: Iterable[type],
    seeds: bool,
    boxes: bool = False,
    begin: Sequence[str] = (*RUN, *ALONE),
) -> dict[str, Files]:
    """Compute digests of the files that decide a run's number.

    By room: {"bench/ops": {"bench/ops/cam.py": ...}}.

    They are those that the run imports, directly or not. What a plug-in brings is in the room "methods" or
    "datasets", by its dotted name: {"methods": {"mine/method.py": ...}}.

    Args:
        methods: The classes of the methods that are trained.
        datasets: The classes of the data sets; see `classes_of`.
        seeds: Whether the run makes CAM seeds.
        boxes: Whether it makes seeds of boxes.
        begin: The modules whose imports are followed.
    """
    todo = [(name, "") for name in (*begin, *(SEEDS if seeds else ()), *(BOXES if boxes else ()))]
    for kind, classes in (("methods", methods), ("datasets", datasets)):
        for cls in classes:
            names = [part for base in cls.__mro__ for part in _parts(base.__module__)]
            todo += [(name, kind) for name in names if _decides(name, cls.__module__)]
    found: dict[str, Files] = {}
    seen: set[str] = set()
    while todo:
        name, kind = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        file = _file(name)
        if file is None:
            continue
        room = _room(name) or kind
        source = _loaded(name, file)
        found.setdefault(room.replace(".", "/"), {})[_shown(name, file)] = source.digest
        if name in ALONE:
            continue
        package = name if file.stem == "__init__" else name.rpartition(".")[0]
        others = (other for other in _reached(source.imports, package) if other not in seen)
        todo += [(other, room) for other in others if _decides(other, name)]
    return {room: dict(sorted(files.items())) for room, files in sorted(found.items())}


def classes_of(dataset: Dataset) -> list[type]:
    """List the class of a data set and, of a pair, those of its domains."""
    return list(dict.fromkeys([type(dataset), *(type(part) for part, _ in dataset.parts(()))]))


def by_room(files: Mapping[str, Files]) -> dict[str, str]:
    return {room: combined(digests) for room, digests in files.items()}


# Which modules ----------------------------------------------------------------------------------------------


@cache
def _room(name: str) -> str | None:
    """bench.ops.cam -> bench.ops; None for what is in none of `ROOMS`."""
    return next((room for room in ROOMS if name == room or name.startswith(f"{room}.")), None)


def _decides(name: str, importer: str) -> bool:
    """Whether a module counts: one of our rooms; or, of a plug-in, one of its package or one that is not
    installed, but a file beside it."""
    top = name.partition(".")[0]
    if _room(name) or top in OURS:
        return _room(name) is not None
    if top in sys.stdlib_module_names or (_room(importer) and name != importer):
        return False
    file = _file(name)
    return file is not None and (top == importer.partition(".")[0] or not INSTALLED.intersection(file.parts))


def _file(name: str) -> Path | None:
    """Find the file of a module, without importing it; None for what is no module or has no file.

    "bench.ops.cam" -> Path(".../bench/ops/cam.py").
    """
    if _room(name):
        stem = f"{ROOT}/{name.replace('.', '/')}"  # as text, since most names are no modules
        places = (f"{stem}.py", f"{stem}/__init__.py")
        return next((Path(place) for place in places if isfile(place)), None)
    place = getattr(sys.modules.get(name), "__file__", None)
    if place is None:
        parent = sys.modules.get(name.rpartition(".")[0])
        within = getattr(parent, "__path__", None)
        spec = PathFinder.find_spec(name, within) if within or "." not in name else None
        place = spec.origin if spec else None
    return Path(place) if place and Path(place).is_file() else None


def _shown(name: str, file: Path) -> str:
    """Return a name without the folders of a machine: bench.ops.cam -> bench/ops/cam.py, of plug-ins too."""
    inside = f"{name}.__init__" if file.stem == "__init__" else name
    return inside.replace(".", "/") + file.suffix


def _absolute(name: str, package: str) -> str:
    """..ops.cam, imported in the package a.b -> a.ops.cam"""
    rest = name.lstrip(".")
    up = len(name) - len(rest)
    kept = package.split(".")[: len(package.split(".")) - up + 1] if up else []
    return ".".join([*kept, *([rest] if rest else [])])


@cache
def _reached(imports: tuple[str, ...], package: str) -> tuple[str, ...]:
    """List what the imports of a file in a package may run, each once; not all of these names are modules."""
    return tuple(dict.fromkeys(part for one in imports for part in _parts(_absolute(one, package))))


def _parts(name: str) -> Iterator[str]:
    """a.b.c -> a, a.b, a.b.c: a package runs its own file before what lies in it."""
    words = name.split(".")
    yield from (".".join(words[:n]) for n in range(1, len(words) + 1))


# The source of one file -------------------------------------------------------------------------------------

_known: dict[str, tuple[ModuleSpec | None, CodeSource]] = {}


def _loaded(name: str, file: Path) -> CodeSource:
    """Return the source of a module as this process first saw it.

    A file that was edited since is not the code that runs here, until it is imported again.
    """
    module = sys.modules.get(name)
    spec = module.__spec__ if module is not None else None
    known = _known.get(name)
    if module is None or known is None or known[0] is not spec:
        digest, *imports = _sources().of([file])[file].split(" ")
        known = _known[name] = (spec, CodeSource(digest, tuple(imports)))
    return known[1]


@cache
def _sources() -> FileDigests:
    return FileDigests(f"code-{FORM}", lambda file: _as_text(source(file.read_bytes())))


def _as_text(source: CodeSource) -> str:
    return " ".join([source.digest, *source.imports])


def source(data: bytes) -> CodeSource:
    """Compute the digest and the imports of a file, the same under every version of Python.

    What is no Python gets the digest of its bytes, and no imports.
    """
    try:
        tree = ast.parse(data)
    except (SyntaxError, ValueError):
        return CodeSource(hashlib.sha256(data).hexdigest(), ())
    hashed = hashlib.sha256()
    for word in _words(tree):
        hashed.update(word.encode(errors="surrogatepass") + b"\0")
    return CodeSource(hashed.hexdigest(), tuple(dict.fromkeys(_imports(tree))))


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            between = "." if node.module else ""
            yield from (f"{module}{between}{alias.name}" for alias in node.names)


def _words(node: object) -> Iterator[str]:
    """Yield a tree as words. Empty fields are left out, since newer versions of Python have more of them."""
    if isinstance(node, ast.AST):
        yield f"({type(node).__name__}"
        documented = isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None
        for field, value in ast.iter_fields(node):
            if documented and field == "body":
                value = value[1:]
            if value is not None and value != [] and field not in ("ctx", "kind"):
                yield field
                yield from _words(value)
        yield ")"
    elif isinstance(node, list):
        yield "["
        for one in node:
            yield from _words(one)
        yield "]"
    else:
        yield f"{type(node).__name__} {node!r}"


DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
