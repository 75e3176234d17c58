"""What every method must prove to be in the library. A new file in methods/ is picked up by itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench.settings import registry
from bench.testing import method_checks


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    # The option is unknown where pytest was not started on this folder.
    asked = metafunc.config.getoption("--method", default=None)
    if "check" in metafunc.fixturenames:
        cases = {
            f"{method}: {name}": check
            for method in ([asked] if asked else registry.method_names())
            for name, check in method_checks(registry.describe_method(method))
        }
        metafunc.parametrize("check", cases.values(), ids=cases)


def test_contract(check: Callable[[], None]) -> None:
    check()
