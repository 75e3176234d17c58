"""The rules of the house, read from the source: who imports whom, who steps, who draws, who names files."""

from __future__ import annotations

import ast
import re
import sys
import tokenize
from collections.abc import Callable, Iterator
from functools import cache
from io import StringIO
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("bench", "methods", "datasets", "reports")
SOURCES = sorted(path.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*.py"))
TESTS = sorted(path.relative_to(ROOT) for path in (ROOT / "tests").rglob("*.py"))
HEAVY = {"torch", "torchvision", "timm", "segmentation_models_pytorch"}
Rule = Callable[[Path, ast.Module], Iterator[str]]


# Reading a source ------------------------------------------------------------------------------------------


@cache
def parsed(file: Path) -> ast.Module:
    """The tree of a source; each is read by many rules, which leave it as it is."""
    return ast.parse((ROOT / file).read_text())


def imported(tree: ast.Module, file: Path) -> Iterator[str]:
    """Dotted names of all imports, those inside functions too; `from a import b` gives a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = file.parts[: len(file.parts) - node.level] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def dotted(node: ast.expr) -> str:
    """`a.b.c` of an expression; a dot in front where it starts with something else than a name."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def calls(tree: ast.Module) -> Iterator[tuple[ast.Call, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, dotted(node.func)


def texts(tree: ast.Module) -> Iterator[str]:
    """String constants, docstrings left out."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


def under(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


# Who may import whom ---------------------------------------------------------------------------------------

EVERYBODY = {
    *("bench.errors", "bench.randomness", "bench.labels", "bench.display", "bench.contract", "bench.ranks"),
}
ALLOWED = {  # of our own packages, by room; a room may import itself
    "methods": {"bench.contract", "bench.ops"},
    "datasets": {
        "bench.contract",
        "bench.randomness",
        "bench.errors",
        "bench.labels",
        "bench.pool",
        "bench.records.atomic",
        "bench.settings.plain_yaml",
        "bench.settings.reading",
    },
    "reports": {
        "bench.records",
        "bench.errors",
        "bench.labels",
        "bench.pool",
        "bench.sweeps.ablations",
        "bench.scoring.picture_sheet",
        "bench.randomness",
    },
    "bench/ops": {"bench.labels"},
    "bench/labels": set(),
    "bench/errors": set(),
    "bench/pool": set(),
    "bench/randomness": set(),
    "bench/ranks": {"bench.errors", "bench.machine", "bench.pool"},
    "bench/torchrun": {"bench.errors"},
    "bench/display": {"bench.errors"},
    "bench/views": set(),
    "bench/batches": set(),
    "bench/contract": {
        "bench.batches",
        "bench.labels",
        "bench.randomness",
        "bench.settings.base",
        "bench.views",
    },
    "bench/records": {"bench.errors", "bench.labels"},
    "bench/settings": {"bench.errors", "bench.labels", "bench.contract", "datasets"},
    "bench/machine": {"bench.errors", "bench.settings.schema"},
    "bench/plan": {*EVERYBODY, "bench.settings", "bench.records", "datasets"},
    "bench/networks": {*EVERYBODY, "bench.settings"},
    "bench/contents": {
        *EVERYBODY,
        *("bench.settings", "bench.records", "bench.plan", "bench.networks.weights", "datasets"),
    },
    "bench/scoring": {
        *EVERYBODY,
        *("bench.settings", "bench.records", "bench.plan", "bench.machine", "bench.networks", "bench.ops"),
        *("bench.contents", "bench.pool", "datasets"),
    },
    "bench/training": {
        *EVERYBODY,
        *("bench.settings", "bench.records", "bench.plan", "bench.machine", "bench.networks", "bench.ops"),
        *("bench.scoring", "bench.contents", "datasets"),
    },
    "bench/cam_seeds": {
        *EVERYBODY,
        *("bench.settings", "bench.records", "bench.plan", "bench.machine", "bench.networks", "bench.ops"),
        *("bench.pool", "bench.scoring", "bench.contents", "datasets"),
    },
    "bench/pipeline": {
        *EVERYBODY,
        *(
            "bench.records",
            "bench.contents",
            "bench.outlook",
            "bench.plan",
            "bench.machine",
            "bench.networks",
            "bench.scoring",
            "bench.settings",
            "bench.training",
        ),
        "bench.cam_seeds",
    },
    "bench/outlook": {"bench.errors", "bench.plan", "bench.records", "bench.settings", "datasets"},
    "bench/sweeps": {
        *EVERYBODY,
        "bench.contents",
        "bench.outlook",
        "bench.settings",
        "bench.records",
        "bench.plan",
        "bench.machine",
        "datasets",
    },
    "bench/cost": {
        *EVERYBODY,
        *("bench.cam_seeds", "bench.machine", "bench.networks", "bench.plan", "bench.records"),
        *("bench.scoring", "bench.settings", "bench.sweeps.costs", "bench.training", "datasets"),
    },
    "bench/gate": {*EVERYBODY, "bench.records"},
    "bench/doctor": {
        *EVERYBODY,
        *("bench.records.provenance", "bench.machine", "bench.sweeps.locks", "bench.sweeps.cluster"),
    },
}
UNBOUND = {
    "bench/commands",
    "bench/testing",
    "bench/cli",
    "bench/__main__",
    "bench/__init__",
}  # the border: it calls all rooms
NO_TORCH = {"reports", "bench/records", "bench/sweeps", "bench/gate", "bench/commands", "bench/cli"}
LAZY_TORCH = {
    *("bench/machine", "bench/settings", "bench/plan", "bench/doctor", "bench/ranks", "bench/torchrun"),
}  # inside a function at most
OPS_LIBRARIES = {"torch", "numpy"}
EXCEPTIONS = {
    ("bench/ops/crf.py", "pydensecrf"),  # the one place that knows it
    ("datasets/loaders.py", "bench.settings.schema.Protocol"),  # the type of an argument, for mypy alone
    ("bench/records/provenance.py", "torch"),  # its version and devices, inside a function
}


# Methods of one family may inherit from the first of its names; no method imports one of another family.
FAMILIES = [
    ("u2pl", "u2pl_released", "u2pl_weak"),
    ("supervised", "supervised_colours", "supervised_plain"),
    ("flexmatch", "freematch", "softmatch", "corrmatch_threshold"),
    ("classifier", "puzzle"),
    ("classmix", "dacs"),
]


def relatives(file: Path) -> set[str]:
    """The modules in methods/ that this file may import."""
    return {
        f"methods.{family[0]}"
        for family in FAMILIES
        if file.parent.as_posix() == "methods" and file.stem in family[1:]
    }


def excepted(file: Path, name: str) -> bool:
    return any(file.as_posix() == where and under(name, {what}) for where, what in EXCEPTIONS)


def room_of(file: Path) -> str:
    """methods/u2pl.py -> methods; bench/ops/crf.py -> bench/ops; bench/plan.py -> bench/plan."""
    return file.parts[0] if file.parts[0] != "bench" else f"bench/{Path(file.parts[1]).stem}"


def itself(room: str) -> str:
    return room.replace("/", ".") if room != "methods" else "none"  # a method imports no other method


def foreign_imports(file: Path, tree: ast.Module) -> Iterator[str]:
    room = room_of(file)
    if room not in ALLOWED and room not in UNBOUND:
        yield f"{room} is a room without rules; add it to ALLOWED"
    head = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    top = set(imported(ast.Module([*head], []), file))
    for name in imported(tree, file):
        package = name.partition(".")[0]
        if excepted(file, name):
            continue
        if (
            package in ROOMS
            and room in ALLOWED
            and not under(name, {*ALLOWED[room], itself(room), *relatives(file)})
        ):
            yield f"{room} imports {name}"
        if package in HEAVY and (room in NO_TORCH or (room in LAZY_TORCH and name in top)):
            yield f"{room} imports {package}"
        if room == "bench/ops" and package not in {*OPS_LIBRARIES, *ROOMS, *sys.stdlib_module_names}:
            yield f"bench.ops imports {package}"


def arrows(sources: dict[str, ast.Module]) -> dict[str, set[str]]:
    """Which of our modules each imports, by dotted name; packages are the modules inside them."""
    found: dict[str, set[str]] = {}
    for module, tree in sources.items():
        names = imported(tree, Path(*module.split(".")).with_suffix(".py"))
        reached = {name if name in sources else name.rpartition(".")[0] for name in names}
        found[module] = {name for name in reached if name in sources and name != module}
    return found


def circles(arrows: dict[str, set[str]]) -> list[str]:
    """One way round each circle, such as "a -> b -> a"."""
    seen: set[str] = set()
    found: list[str] = []

    def walk(module: str, path: list[str]) -> None:
        if module in path:
            found.append(" -> ".join([*path[path.index(module) :], module]))
        elif module not in seen:
            seen.add(module)
            for other in sorted(arrows[module]):
                walk(other, [*path, module])

    for module in sorted(arrows):
        walk(module, [])
    return found


def test_no_imports_go_in_a_circle() -> None:
    sources = {".".join(file.with_suffix("").parts): parsed(file) for file in SOURCES}
    assert not circles(arrows(sources))
    trees = {"bench.a": "from bench.b import x", "bench.b": "def f():\n    from bench import a"}
    assert circles(arrows({name: ast.parse(text) for name, text in trees.items()})) == [
        "bench.a -> bench.b -> bench.a"
    ]


LONGEST = 400


def test_no_file_is_two_rooms() -> None:
    lengths = {file.as_posix(): len((ROOT / file).read_text().splitlines()) for file in SOURCES}
    assert not {file: n for file, n in lengths.items() if n > LONGEST}


LONG_FUNCTIONS = {"methods/u2pl.py losses"}  # a step of the paper, in its order
MOST_LINES = 60


def test_no_function_is_longer_than_a_screen() -> None:
    """Options of a command and docstrings are read apart, and do not count."""
    found = {}
    for file in SOURCES:
        for node in ast.walk(parsed(file)):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                lines = node.end_lineno - body[0].lineno + 1 if body else 0
                name = f"{file.as_posix()} {node.name}"
                found[name] = max(lines, found.get(name, 0))  # methods of two classes may share a name
    assert not {name: n for name, n in found.items() if n > MOST_LINES and name not in LONG_FUNCTIONS}


# A model of the page's template, and what the methods of a family have in common.
SHARED_NAMES = {"Listing", "Shared"}


def test_no_two_rooms_have_a_class_of_one_name() -> None:
    """A search for a name finds one place."""
    places: dict[str, list[str]] = {}
    for file in SOURCES:
        for node in ast.parse((ROOT / file).read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(file.as_posix())
    assert {name for name, found in places.items() if len(found) > 1} == SHARED_NAMES


REPORT_ROOMS = {  # what each part of reports may not know: arrows go from the page down to the numbers
    "reports/groups.py": {"reports.evidence", "reports.sheets", "reports.plots", "reports.page"},
    "reports/evidence.py": {"reports.sheets", "reports.plots", "reports.page"},
    "reports/statistics.py": {"reports"},
    "reports/sheets": {"reports.plots", "reports.page", "reports.report", "matplotlib"},
    "reports/plots": {"reports.page", "reports.report", "bench.records.atomic"},
    "reports/page": {"reports.groups", "reports.evidence", "reports.report", "matplotlib"},
}


def report_rooms(file: Path, tree: ast.Module) -> Iterator[str]:
    """Numbers know no tables, tables no plots, and neither knows the page."""
    for room, unknown in REPORT_ROOMS.items():
        if file.is_relative_to(room):
            yield from (f"{room} imports {name}" for name in imported(tree, file) if under(name, unknown))


# One place for each power ----------------------------------------------------------------------------------

FILE_NAMES = {"result.json", "metrics.jsonl", "counts.npz"}
TRAINER = "bench/training/trainer.py"
GENERATORS = {"manual_seed", "Generator", "default_rng", "seed", "RandomState", "Philox", "seed_all"}


def steppers(file: Path, tree: ast.Module) -> Iterator[str]:
    """Only the trainer moves weights, and the contract suite, which stands in for it."""
    if room_of(file) == "bench/training" or file.as_posix() == "bench/testing/case.py":
        return
    for _, name in calls(tree):
        owner, _, attribute = name.rpartition(".")
        if attribute == "step" and re.search(r"optim|scaler", owner, re.IGNORECASE):
            yield f"{name}()"


def file_names(file: Path, tree: ast.Module) -> Iterator[str]:
    """Only records/ knows what the files of a run are called."""
    if room_of(file) != "bench/records":
        yield from (f"text {text!r}" for text in texts(tree) if any(name in text for name in FILE_NAMES))


def generators(file: Path, tree: ast.Module) -> Iterator[str]:
    """Only randomness.py makes streams; the trainer names torch's global one after the step, for dropout."""
    if file.as_posix() == "bench/randomness.py":
        return
    if any(under(name, {"random", "secrets", "numpy.random"}) for name in imported(tree, file)):
        yield "imports a module of random numbers"
    for call, name in calls(tree):
        parts = name.split(".")
        source = under(name, {"np.random", "numpy.random", "torch.random", "torch.cuda", "random"})
        if parts[-1] in GENERATORS and (
            source or parts[0] == "torch" or parts[-1] in ("manual_seed", "default_rng")
        ):
            argument = call.args[0] if call.args else None
            named = isinstance(argument, ast.Call) and dotted(argument.func) == "seed_for"
            if not (file.as_posix() == TRAINER and name == "torch.manual_seed" and named):
                yield f"{name}()"
        elif name.startswith(("np.random.", "numpy.random.", "random.")):
            yield f"{name}()"


PICKLES = {"cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
PICKLE_ERRORS = {"pickle.UnpicklingError", "pickle.PickleError"}


def unsafe_reading(file: Path, tree: ast.Module) -> Iterator[str]:
    """Nothing that is read may run code. The names of pickle's errors may be caught."""
    for name in imported(tree, file):
        if under(name, {"pickle", *PICKLES}) and name not in {"pickle", *PICKLE_ERRORS}:
            yield f"imports {name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.alias) and node.name == "pickle" and node.asname:
            yield f"imports pickle as {node.asname}"
        name = dotted(node) if isinstance(node, ast.Attribute) else ""
        if name.startswith("pickle.") and name not in PICKLE_ERRORS:
            yield name
    for call, name in calls(tree):
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        for key, safe in (("weights_only", True), ("allow_pickle", False)):
            value = given.get(key)
            if value is not None and not (isinstance(value, ast.Constant) and value.value is safe):
                yield f"{name}({key}=...)"
        if name == "torch.load" and "weights_only" not in given:
            yield "torch.load() without weights_only=True"
        if name in ("yaml.unsafe_load", "yaml.full_load"):
            yield f"{name}()"


def dataset_conditions(file: Path, tree: ast.Module) -> Iterator[str]:
    """No `if dataset == ...` in a method, no `if method == ...` in the harness (pipeline and training)."""
    places = {
        "methods": {"dataset", "data_set"},
        "bench/training": {"method", "dataset"},
        "bench/pipeline": {"method", "dataset"},
    }
    words = places.get(room_of(file), set())
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            literal = any(isinstance(side, ast.Constant) and isinstance(side.value, str) for side in sides)
            if literal and any(word in dotted(side).split(".") for side in sides for word in words):
                yield f"compares with a name: {ast.unparse(node)}"


RULES: list[Rule] = [
    foreign_imports,
    report_rooms,
    steppers,
    file_names,
    generators,
    unsafe_reading,
    dataset_conditions,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_file_keeps_the_rule(rule: Rule) -> None:
    assert len(SOURCES) > 20
    found = [f"{file}: {what}" for file in SOURCES for what in rule(file, parsed(file))]
    assert not found, "\n".join(found)


BROKEN = [
    (foreign_imports, "methods/new.py", "from bench.training.trainer import Trainer"),
    (foreign_imports, "methods/new.py", "from methods.fixmatch import FixMatch"),
    (foreign_imports, "methods/new.py", "from .fixmatch import FixMatch"),
    (foreign_imports, "methods/new.py", "from methods.u2pl import U2PL"),
    (foreign_imports, "methods/u2pl_weak.py", "from methods.fixmatch import FixMatch"),
    (foreign_imports, "methods/u2pl_weak.py", "from methods.u2pl_released import U2PLReleased"),
    (foreign_imports, "methods/u2pl.py", "from methods.u2pl_weak import U2PLWeak"),
    (foreign_imports, "methods/new.py", "def f():\n    import datasets.views"),
    (foreign_imports, "methods/new.py", "from bench.settings import registry"),
    (foreign_imports, "datasets/new.py", "from bench.ops.mixing import mix"),
    (foreign_imports, "datasets/new.py", "import methods.fixmatch"),
    (foreign_imports, "datasets/new.py", "from bench.records.folders import RunFolder"),
    (foreign_imports, "datasets/splits.py", "from bench.records.folders import RunFolder"),
    (foreign_imports, "datasets/loaders.py", "from bench.settings.schema import RunConfig"),
    (report_rooms, "reports/sheets/new.py", "import matplotlib.figure"),
    (report_rooms, "reports/sheets/new.py", "from reports.plots.figure import short"),
    (report_rooms, "reports/groups.py", "from reports.sheets.sheet import Sheet"),
    (report_rooms, "reports/plots/new.py", "from reports.page.document import Section"),
    (foreign_imports, "reports/new.py", "import torch"),
    (foreign_imports, "reports/new.py", "from bench.training.trainer import run"),
    (foreign_imports, "bench/ops/new.py", "from bench.contract import IGNORE"),
    (foreign_imports, "bench/ops/new.py", "import scipy"),
    (foreign_imports, "bench/ops/new.py", "import pydensecrf.densecrf"),
    (foreign_imports, "bench/scoring/new.py", "from bench.training import session"),
    (foreign_imports, "bench/cam_seeds/new.py", "from bench.pipeline import run"),
    (foreign_imports, "bench/records/new.py", "from bench.settings.schema import RunConfig"),
    (foreign_imports, "bench/settings/new.py", "import torch"),
    (foreign_imports, "bench/sweeps/new.py", "def f():\n    import torch"),
    (foreign_imports, "bench/new_room/file.py", "import torch"),
    (steppers, "methods/new.py", "self.optimizer.step()"),
    (steppers, "bench/sweeps/launch.py", "scaler.step(optimizer)"),
    (file_names, "reports/new.py", "path = folder / 'result.json'"),
    (file_names, "bench/cli.py", "pattern = f'{a}/counts.npz'"),
    (generators, "methods/new.py", "torch.manual_seed(0)"),
    (generators, "methods/new.py", "g = torch.Generator().manual_seed(0)"),
    (generators, "methods/new.py", "g = torch.Generator('cpu')"),
    (generators, "datasets/new.py", "rng = np.random.default_rng(0)"),
    (generators, "datasets/new.py", "np.random.seed(0)"),
    (generators, "datasets/new.py", "x = np.random.rand()"),
    (generators, "datasets/new.py", "import random\nrandom.shuffle(x)"),
    (generators, "datasets/new.py", "from numpy.random import default_rng"),
    (generators, "bench/training/trainer.py", "torch.manual_seed(0)"),
    (generators, "bench/training/trainer.py", "torch.cuda.manual_seed(seed_for(0))"),
    (unsafe_reading, "bench/new.py", "import pickle\npickle.load(file)"),
    (unsafe_reading, "bench/new.py", "import pickle as p"),
    (unsafe_reading, "bench/new.py", "from pickle import loads"),
    (unsafe_reading, "bench/new.py", "import joblib"),
    (unsafe_reading, "bench/new.py", "torch.load(path, weights_only=False)"),
    (unsafe_reading, "bench/new.py", "torch.load(path)"),
    (unsafe_reading, "bench/new.py", "np.load(path, allow_pickle=True)"),
    (dataset_conditions, "methods/new.py", "if self.dataset == 'voc': pass"),
    (dataset_conditions, "bench/training/trainer.py", "if plan.method.name == 'u2pl': pass"),
]
KEPT = [
    (report_rooms, "reports/plots/new.py", "from reports.sheets.health import Health"),
    (foreign_imports, "methods/u2pl_weak.py", "from methods.u2pl import U2PL"),
    (foreign_imports, "methods/new.py", "from bench.ops import losses\nfrom bench.contract import Method"),
    (foreign_imports, "datasets/splits.py", "from bench.records.atomic import write_atomic"),
    (foreign_imports, "bench/ops/crf.py", "import pydensecrf.densecrf"),
    (steppers, "bench/training/trainer.py", "self.scaler.step(self.optimizer)"),
    (foreign_imports, "bench/machine.py", "def f():\n    import torch"),
    (steppers, "bench/new.py", "progress.step()"),
    (file_names, "bench/new.py", '"""Reads result.json."""'),
    (generators, "datasets/new.py", "def f(rng: np.random.Generator): return rng.integers(3)"),
    (generators, "bench/training/trainer.py", "torch.manual_seed(seed_for(at.seed, 'dropout', at.step))"),
    (unsafe_reading, "bench/new.py", "torch.load(path, weights_only=True)"),
    (unsafe_reading, "bench/new.py", "import pickle\ntry: f()\nexcept pickle.UnpicklingError: pass"),
    (dataset_conditions, "bench/training/trainer.py", "if settings.name == 'ohem': pass"),
]


@pytest.mark.parametrize(("rule", "file", "source"), BROKEN)
def test_a_violation_is_seen(rule: Rule, file: str, source: str) -> None:
    assert list(rule(Path(file), ast.parse(source)))


@pytest.mark.parametrize(("rule", "file", "source"), KEPT)
def test_what_is_allowed_passes(rule: Rule, file: str, source: str) -> None:
    assert not list(rule(Path(file), ast.parse(source)))


# Silenced checks -------------------------------------------------------------------------------------------

BLANKET = re.compile(
    r"#\s*(type:\s*ignore(?!\[)|noqa(?!:)|ruff:\s*noqa|flake8:\s*noqa|mypy:\s*ignore-errors|mypy:\s*disable)"
)


def blanket(source: str) -> list[str]:
    """Comments that silence a check without saying which one, or for a whole file."""
    if not BLANKET.search(source):  # most; to take one apart into tokens takes long
        return []
    tokens = tokenize.generate_tokens(StringIO(source).readline)
    return [t.string for t in tokens if t.type == tokenize.COMMENT and BLANKET.search(t.string)]


def test_no_two_test_files_share_a_name() -> None:
    """pytest imports them by their name alone and stops at the second."""
    names = [file.name for file in TESTS if file.name.startswith("test_")]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_no_check_is_silenced_as_a_whole() -> None:
    found = [f"{file}: {what}" for file in [*SOURCES, *TESTS] for what in blanket((ROOT / file).read_text())]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("comment", ["type: ignore", "noqa", "ruff: noqa", "mypy: ignore-errors"])
def test_a_blanket_ignore_is_seen(comment: str) -> None:
    assert blanket(f"x = 1  # {comment}\n")
    assert not blanket("x = 1  # type: ignore[arg-type]\ny = 2  # noqa: S506\n")
