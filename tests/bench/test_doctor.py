import hashlib
import resource
import shutil
import sys
from collections import namedtuple
from importlib import metadata, util
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from bench import doctor

Usage = namedtuple("Usage", "total used free")
GIB = 1024**3


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> list[doctor.Check]:
    return doctor.examine(None, tmp_path_factory.mktemp("out") / "not" / "yet" / "there")


def test_every_check_answers_in_order(healthy: list[doctor.Check]) -> None:
    assert [check.name for check in healthy] == [
        *("python", "torch", "torchvision", "gpu", "threads", "memory", "disk", "output"),
        *("shared memory", "open files", "compiler", "encoder weights", "data", "name clash", "plug-ins"),
    ]
    assert all(check.detail for check in healthy)


def test_what_is_not_ok_comes_with_a_fix(healthy: list[doctor.Check]) -> None:
    assert all(bool(check.fix) == (check.state != "ok") for check in healthy)


def test_this_environment_is_fit(healthy: list[doctor.Check]) -> None:
    found = {check.name: check.state for check in healthy}
    needed = ("python", "torch", "torchvision", "gpu", "output", "encoder weights")
    assert [found[name] for name in needed] == ["ok"] * 6


def test_examining_leaves_nothing_behind(tmp_path: Path) -> None:
    doctor.examine(tmp_path, tmp_path / "runs")
    assert list(tmp_path.iterdir()) == []


def test_a_check_that_breaks_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken() -> Any:
        raise KeyError("unforeseen")

    monkeypatch.setattr(metadata, "packages_distributions", broken)
    (check,) = [check for check in doctor.examine(None, tmp_path) if check.name == "name clash"]
    assert check.state == "fail" and "unforeseen" in check.detail and check.fix


def test_old_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 9))
    assert doctor._python().state == "fail"


@pytest.mark.parametrize(("version", "state"), [("2.9.1", "fail"), ("2.10.0+cpu", "ok"), ("3.0.0", "ok")])
def test_torch_version(monkeypatch: pytest.MonkeyPatch, version: str, state: str) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    assert doctor._torch().state == state


def test_torch_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert doctor._torch().state == "fail"


def test_torchvision_of_another_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.ops", None)
    check = doctor._torchvision()
    assert check.state == "fail" and "does not fit torch" in check.detail


@pytest.mark.parametrize(("threads", "state"), [(2, "ok"), (3, "warn")])
def test_more_threads_than_cores(monkeypatch: pytest.MonkeyPatch, threads: int, state: str) -> None:
    monkeypatch.setattr(doctor, "core_share", lambda: 2.0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    check = doctor._threads()
    assert check.state == state
    assert ("OMP_NUM_THREADS=2" in check.fix) == (state == "warn")


@pytest.mark.parametrize(("free", "state"), [(3, "warn"), (5, "ok")])
def test_memory(monkeypatch: pytest.MonkeyPatch, free: int, state: str) -> None:
    def read(path: Path, *_: Any, **__: Any) -> str:
        if path == Path("/proc/meminfo"):
            return f"MemTotal:  99999999 kB\nMemAvailable:   {free * 1024 * 1024} kB\n"
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.setattr(doctor.os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096}.get(name, 64 * GIB // 4096))
    check = doctor._memory()
    assert (check.state, check.detail) == (state, f"{free}.0 GiB free of 64.0 GiB")


def test_memory_of_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: Path, *_: Any, **__: Any) -> str:
        sizes = {"memory.max": f"{8 * GIB}\n", "memory.current": f"{6 * GIB}\n"}
        return sizes.get(path.name, f"MemAvailable: {40 * 1024 * 1024} kB\n")

    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.setattr(doctor.os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096}.get(name, 64 * GIB // 4096))
    check = doctor._memory()
    assert (check.state, check.detail) == ("warn", "2.0 GiB free of 8.0 GiB")


@pytest.mark.parametrize(("free", "state"), [(0.4, "fail"), (1, "warn"), (6, "ok")])
def test_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: float, state: str) -> None:
    asked = []

    def usage(path: Path) -> Usage:
        asked.append(path)
        return Usage(100 * GIB, 0, int(free * GIB))

    monkeypatch.setattr(shutil, "disk_usage", usage)
    assert doctor._disk(tmp_path / "a" / "b").state == state
    assert asked == [tmp_path]


def test_output_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert doctor._output(tmp_path / "file" / "runs").state == "fail"
    assert doctor._output(tmp_path / "runs").state == "ok"


@pytest.mark.parametrize(("free", "state"), [(64 * 1024**2, "warn"), (GIB, "ok")])
def test_shared_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: int, state: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(GIB, 0, free))
    assert doctor._shared_memory(tmp_path).state == state
    assert doctor._shared_memory(tmp_path / "absent").state == "ok"


@pytest.mark.parametrize(
    ("limits", "state", "fix"),
    [
        ((256, 512), "warn", "ulimit -n 512"),
        ((256, 100000), "warn", "ulimit -n 4096"),
        ((1024, 4096), "ok", ""),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), "ok", ""),
    ],
)
def test_open_files(monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], state: str, fix: str) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits)
    check = doctor._open_files()
    assert (check.state, check.fix) == (state, fix)


def test_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert doctor._compiler().state == "warn"
    (tmp_path / "clang++").write_text("#!/bin/sh\n")
    (tmp_path / "clang++").chmod(0o755)
    assert doctor._compiler().state == "warn", "torch does not look for it by itself"
    monkeypatch.setenv("CXX", "clang++ -O2")
    assert doctor._compiler().state == "ok"


@pytest.mark.parametrize(
    ("content", "state", "detail"),
    [(b"weights", "ok", "digest right"), (b"damaged", "fail", "damaged"), (None, "fail", "no weights")],
)
def test_encoder_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None, state: str, detail: str
) -> None:
    (tmp_path / "models").mkdir()
    if content is not None:
        (tmp_path / "models" / f"net-{hashlib.sha256(b'weights').hexdigest()[:8]}.pth").write_bytes(content)
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(util, "find_spec", lambda name: spec)
    check = doctor._encoder_weights()
    assert check.state == state and detail in check.detail


def test_encoder_weights_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    assert doctor._encoder_weights().state == "fail"


def test_data_sets_are_seen(tmp_path: Path) -> None:
    (tmp_path / "camvid").mkdir()
    (tmp_path / "camvid" / "classes.txt").write_text("road\n")
    for name in ("JPEGImages", "SegmentationClass", "SegmentationClassAug"):
        (tmp_path / "VOCdevkit" / "VOC2012" / name).mkdir(parents=True)
    for name in ("leftImg8bit", "gtFine"):
        (tmp_path / "streets" / name).mkdir(parents=True)
    (tmp_path / "other").mkdir()
    check = doctor._data(tmp_path)
    assert check.state == "ok"
    assert check.detail.endswith(": Cityscapes (streets), VOC 2012 + SBD (VOCdevkit/VOC2012), camvid")


def test_data_root_unset_empty_or_absent(tmp_path: Path) -> None:
    found = [doctor._data(root).state for root in (None, tmp_path, tmp_path / "absent")]
    assert found == ["warn", "warn", "fail"]


def test_another_package_of_our_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_is_ours", lambda name: True)
    monkeypatch.setattr(metadata, "packages_distributions", lambda: {"datasets": ["frugalseg"]})
    assert doctor._name_clash().state == "ok"
    monkeypatch.setattr(
        metadata, "packages_distributions", lambda: {"datasets": ["frugalseg", "hf-datasets"]}
    )
    check = doctor._name_clash()
    assert (check.state, check.detail) == ("warn", "datasets is also in hf-datasets")
    assert "pip uninstall hf-datasets" in check.fix


def test_another_package_found_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    for name in [name for name in sys.modules if name.split(".")[0] == "datasets"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    check = doctor._name_clash()
    assert check.state == "fail" and "import datasets does" in check.detail
    monkeypatch.setitem(sys.modules, "datasets", ModuleType("datasets"))  # no spec: raises in find_spec
    assert not doctor._is_ours("datasets")


def test_plugins_are_listed_and_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point(SimpleNamespace):
        def load(self) -> None:
            raise AssertionError("a plug-in was loaded")

    points = {"bench.methods": [Point(name="mine", dist=SimpleNamespace(name="package-a"))]}
    monkeypatch.setattr(metadata, "entry_points", lambda group: points.get(group, []))
    check = doctor._plugins()
    assert (check.state, check.detail) == ("ok", "method mine from package-a")
    points["bench.methods"].append(Point(name="mine", dist=SimpleNamespace(name="package-b")))
    check = doctor._plugins()
    assert (check.state, check.detail) == ("warn", "method mine from package-a, package-b")
