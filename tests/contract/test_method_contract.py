"""What every method must prove to be in the library. A new file in methods/ is picked up by itself."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence

import pytest

from bench.settings import registry
from bench.testing import method_checks, ranks


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    # The option is unknown where pytest was not started on this folder.
    asked = metafunc.config.getoption("--method", default=None)
    if "check" in metafunc.fixturenames:
        methods = [asked] if asked else registry.method_names()
        ranks.together = tuple(methods)
        metafunc.parametrize(
            "check",
            [
                pytest.param(check, id=f"{method}: {name}", marks=_slow(info, name, checks))
                for method in methods
                for info in [registry.describe_method(method)]
                for checks in [dict(method_checks(info))]
                for name, check in checks.items()
            ],
        )


def _slow(info: registry.MethodInfo, name: str, names: Container[str]) -> Sequence[pytest.MarkDecorator]:
    """A preset is a method of ours with other defaults. Ranks are processes. What is tried under equal views,
    the default, is quick there; with each method's own views it is slow."""
    again = f"{name} under equal views" in names
    return [pytest.mark.slow] if info.preset or again or name.startswith("two ranks") else []


def test_contract(check: Callable[[], None]) -> None:
    check()
