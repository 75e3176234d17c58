"""Digests of source: what counts as a change, and which files decide a run's number."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.contents import code
from bench.contents.code import by_room, code_files, source
from bench.settings import registry
from datasets.shapes import Shapes
from datasets.voc import Voc

TEXT = '''"""A module."""
import a.b
from . import c
from ..d import e as f


def g(x: int = 1) -> str:
    """Says."""
    return f"{x:.2f}" + "a"


class H:
    """Does."""
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("A module.", "Another module."),
        ("Says.", "Says more."),
        ('    """Says."""\n', ""),
        ("Does.", ""),
        ("\n\n\n", "\n\n# a comment\n"),
        ("x: int = 1", "x : int=1"),
    ],
)
def test_docstrings_comments_and_layout_do_not_count(old: str, new: str) -> None:
    assert old in TEXT and source(TEXT.replace(old, new).encode()) == source(TEXT.encode())


@pytest.mark.parametrize(
    ("old", "new"),
    [("= 1", "= 2"), (".2f", ".3f"), ('"a"', '"b"'), ("g(", "h("), ("a.b", "a.c"), ("1", "1.0")],
)
def test_all_else_counts(old: str, new: str) -> None:
    assert source(TEXT.replace(old, new, 1).encode()).digest != source(TEXT.encode()).digest


def test_a_docstring_that_is_a_value_counts() -> None:
    assert source(b"x = 'a'").digest != source(b"x = 'b'").digest
    assert source(b"def f():\n    'doc'").digest == source(b"def f():\n    'other'").digest
    assert source(b"def f():\n    'doc'\n    'a'").digest != source(b"def f():\n    'doc'\n    1").digest


def test_what_is_no_python_is_its_bytes() -> None:
    assert source(b"def").digest != source(b"def ").digest and source(b"\x00\xff").imports == ()


def test_imports_are_found_inside_functions_too() -> None:
    assert source(TEXT.encode()).imports == ("a.b", ".c", "..d.e")
    assert source(b"def f():\n    import x.y").imports == ("x.y",)
    assert code._absolute("..d.e", "p.q") == "p.d.e" and code._absolute(".c", "p.q") == "p.q.c"


def files(name: str, dataset: type = Shapes, seeds: bool = False) -> dict[str, list[str]]:
    found = code_files([registry.load_method(name)], [dataset], seeds)
    return {room: list(names) for room, names in found.items()}


def test_a_run_has_the_rooms_that_train_load_and_score() -> None:
    found = files("u2pl_weak")
    assert {"bench/training", "bench/networks", "bench/scoring", "bench/ops", "datasets"} < found.keys()
    assert {"bench/training/trainer.py", "bench/training/optimizer.py"} < set(found["bench/training"])
    assert "bench/ops/losses.py" in found["bench/ops"] and "datasets/loaders.py" in found["datasets"]
    assert "bench/cam_seeds" not in found
    assert files("u2pl_weak", seeds=True)["bench/cam_seeds"][-2:] == [
        "bench/cam_seeds/refine.py",
        "bench/cam_seeds/thresholds.py",
    ]


def test_a_method_has_its_own_file_and_those_of_its_family() -> None:
    assert files("supervised")["methods"] == ["methods/__init__.py", "methods/supervised.py"]
    assert files("u2pl_weak")["methods"] == ["methods/__init__.py", "methods/u2pl.py", "methods/u2pl_weak.py"]


def test_another_data_set_does_not_count() -> None:
    assert "datasets/shapes.py" in files("supervised")["datasets"]
    found = files("supervised", Voc)["datasets"]
    assert "datasets/voc.py" in found and "datasets/shapes.py" not in found


Offer = Callable[..., type]


@pytest.fixture
def offer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Offer:
    """offer(files, module) writes files of a plug-in, imports its module anew and gives its class."""
    monkeypatch.syspath_prepend(tmp_path)

    def build(texts: dict[str, str], module: str) -> type:
        for name, text in texts.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        for name in [name for name in sys.modules if name.partition(".")[0] in ("mine", "beside")]:
            monkeypatch.delitem(sys.modules, name)
        importlib.invalidate_caches()
        found: type = importlib.import_module(module).Mine
        return found

    return build


METHOD = """from bench.contract import Method
from bench.ops.cam import merge
{}
class Mine(Method):
    x = {}
"""


def test_a_plug_in_counts_with_what_it_imports(offer: Offer) -> None:
    texts = {
        "mine/__init__.py": "",
        "mine/method.py": METHOD.format("from .losses import y\nimport json, numpy, beside", 1),
        "mine/losses.py": "y = 1\ndef late():\n    from mine import lazy\n",
        "mine/lazy.py": "z = 1",
        "mine/unused.py": "z = 1",
        "beside.py": "y = 1",
    }
    cls = offer(texts, "mine.method")
    found = code_files([cls], [Shapes], False)
    names = ["beside.py", "mine/__init__.py", "mine/lazy.py", "mine/losses.py", "mine/method.py"]
    assert list(found["methods"]) == names
    assert "bench/ops/cam.py" in found["bench/ops"], "and what it takes from us"
    before = by_room(found)
    for name in ("mine/losses.py", "mine/lazy.py", "beside.py"):
        changed = by_room(
            code_files([offer(texts | {name: texts[name] + "\nq = 1"}, "mine.method")], [Shapes], False)
        )
        assert changed["methods"] != before["methods"], name
        assert {**changed, "methods": ""} == {**before, "methods": ""}, name
    again = by_room(code_files([offer(texts | {"mine/unused.py": "z = 2"}, "mine.method")], [Shapes], False))
    assert again == before


def test_a_plug_in_is_what_was_imported_not_what_was_edited_since(offer: Offer, tmp_path: Path) -> None:
    cls = offer({"mine.py": METHOD.format("", 1)}, "mine")
    before = code_files([cls], [Shapes], False)
    (tmp_path / "mine.py").write_text(METHOD.format("", 2))
    assert code_files([cls], [Shapes], False) == before, "this process still runs the old code"
    importlib.reload(sys.modules["mine"])
    assert code_files([sys.modules["mine"].Mine], [Shapes], False) != before


def test_names_hold_no_folder_of_the_machine(offer: Offer, tmp_path: Path) -> None:
    cls = offer({"mine.py": METHOD.format("", 1)}, "mine")
    found = code_files([cls], [Shapes], True)
    assert not [name for names in found.values() for name in names if str(tmp_path) in name or name[0] == "/"]
