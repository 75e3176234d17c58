"""What all tests share: a small data set, a protocol that trains on it in a second, typed commands."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from commandline import Outcome, Typed

from bench import cli
from bench.commands import options
from bench.settings.schema import RunConfig
from bench.testing import tiny
from datasets.folder import Folder


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep what is loaded and collected out of the garbage collector: a million objects that stay to the end,
    which it would walk through again and again, also in every process that a test forks."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()
        gc.set_threshold(10_000)  # 700 is for programs that live on less memory than torch itself takes


def pytest_unconfigure() -> None:
    gc.unfreeze()  # or libraries that look at the end say that objects of theirs were leaked


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    # Another number of threads sums in another order: bit-exact comparisons need the same one everywhere.
    torch.set_num_threads(1)


@pytest.fixture
def real_data() -> Path:
    """The folder of data sets that BENCH_DATA names."""
    root = os.environ.get("BENCH_DATA")
    if not root:
        pytest.skip("BENCH_DATA names no folder of data sets")
    return Path(root)


@pytest.fixture(autouse=True)
def _no_data_root(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Tests must not depend on what the caller's environment points to, unless they ask for it."""
    if "real_data" not in request.fixturenames:
        monkeypatch.delenv("BENCH_DATA", raising=False)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Digests of files that tests make are no business of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRUGALSEG_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root that holds `tinyset` with splits `few` (4 labeled, 12 unlabeled), `full`, `tags` (16
    tagged) and `few+tags` (4 labeled, 12 tagged). Read only."""
    root = tmp_path_factory.mktemp("data")
    tiny.make(root, np.random.default_rng(0))
    return root


@pytest.fixture
def tiny_set(tiny_root: Path) -> Folder:
    return Folder(tiny_root / "tinyset", "tinyset")


@pytest.fixture
def tiny_config(tiny_root: Path, tmp_path: Path) -> Callable[..., RunConfig]:
    """tiny_config("fixmatch", "protocol.steps=3", split="few", seed=1) -> RunConfig of a run that takes a
    second."""

    return partial(tiny.config, root=tiny_root, out=tmp_path / "runs")


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    """typed("run", "--dry-run"): what `python -m bench run --dry-run` answers, in this process."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(options.out, "width", 200)

    def call(*words: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["bench", *map(str, words)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as error:
            code = int(error.code or 0)
        return Outcome(code, *capsys.readouterr())

    return call
