"""The contract suite with the tensors of every method on the GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from bench.settings import registry
from bench.testing import method_checks


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "check" not in metafunc.fixturenames:
        return
    device = str(metafunc.config.getoption("--device", default="cuda"))
    if device.startswith("cuda") and not torch.cuda.is_available():
        # One test that says so, not a thousand.
        metafunc.parametrize("check", [pytest.param(None, id="every method")])
        return
    metafunc.parametrize(
        "check",
        [
            pytest.param(check, id=f"{name}: {what}")
            for name in registry.method_names()
            for what, check in method_checks(registry.describe_method(name), device)
        ],
    )


@pytest.fixture(autouse=True)
def _in_one_order() -> Iterator[None]:
    """Two steps of one seed must agree; where they do not, it is to be the method's fault."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_contract(check: Callable[[], None]) -> None:
    check()
