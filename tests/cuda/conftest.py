"""Tests that need a GPU: `tox -e cuda`. `pytest tests/cuda --device cpu` tries those that a CPU can try."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

# Before CUDA starts: a test process trains with machine.deterministic and without it.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch

from bench.contract import Supervision
from bench.machine import Stop, use_device
from bench.plan import plan
from bench.settings import registry
from bench.settings.schema import RunConfig
from bench.testing.runs import Quiet
from bench.training import session
from bench.training.trainer import Trainer

METHODS = registry.method_names()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cuda", help="Where the tests of tests/cuda run.")


def asked_device(config: pytest.Config) -> str:
    # The option is unknown where pytest was not started on this folder.
    return str(config.getoption("--device", default="cuda"))


def why_not(config: pytest.Config) -> str | None:
    wants_gpu = asked_device(config).startswith("cuda")
    return "torch sees no CUDA device" if wants_gpu and not torch.cuda.is_available() else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "method" in metafunc.fixturenames:
        metafunc.parametrize("method", METHODS)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reason = why_not(config)
    for item in items:
        if item.path.parent.name == "cuda":
            item.add_marker(pytest.mark.cuda)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    return asked_device(request.config)


@pytest.fixture
def gpu(device: str) -> str:
    """As `device`, for tests that say nothing on a CPU."""
    if not device.startswith("cuda"):
        pytest.skip("says nothing on a CPU")
    return device


@pytest.fixture(autouse=True)
def _as_before(device: str) -> None:
    """Each test starts with the arithmetic of a run that asks for nothing."""
    use_device(device)


@pytest.fixture
def config_of(tiny_config: Callable[..., RunConfig]) -> Callable[..., RunConfig]:
    """config_of("u2pl", "cuda", "protocol.precision=bf16"): by default on a split that has what the method
    needs, with thresholds at which the labels of an untrained network count."""

    def make(method: str, device: str, *sets: str, split: str | None = None) -> RunConfig:
        info = registry.describe_method(method)
        loose = {"threshold": 0.0, "warmup": 0.0, "anchor_confidence": 0.05}
        knobs = [f"method.{key}={loose[key]}" for key in loose.keys() & info.knobs.model_fields.keys()]
        split = split or ("few+tags" if Supervision.TAGS in info.needs else "few")
        seeds = ("cam_seeds.refine=none", "cam_seeds.protocol.steps=2")
        return tiny_config(method, f"machine.device={device}", *seeds, *knobs, *sets, split=split)

    return make


@pytest.fixture
def trainer_of(config_of: Callable[..., RunConfig]) -> Callable[..., Trainer]:
    """As `config_of`, its trainer at step 0. Seeds and pseudo-labels are what is bright and what is not."""

    def make(method: str, device: str, *sets: str) -> Trainer:
        trainer = session.trainer_of(plan(config_of(method, device, *sets)), Quiet(), Stop())
        made = trainer.batches
        made.seed_of = lambda id: made.dataset.image(id)[..., 0] // 128
        made.label_of = made.label_of and made.seed_of
        return trainer

    return make
