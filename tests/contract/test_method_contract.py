"""What every method must prove to be in the library. A new file in methods/ is picked up by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from bench.settings import registry
from bench.testing import method_checks, ranks

ranks.together = tuple(registry.method_names())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    # The option is unknown where pytest was not started on this folder.
    asked = metafunc.config.getoption("--method", default=None)
    if "check" in metafunc.fixturenames:
        metafunc.parametrize(
            "check",
            [
                pytest.param(check, id=f"{method}: {name}", marks=_slow(info, name))
                for method in ([asked] if asked else registry.method_names())
                for info in [registry.describe_method(method)]
                for name, check in method_checks(info)
            ],
        )


def _slow(info: registry.MethodInfo, name: str) -> Sequence[pytest.MarkDecorator]:
    """A preset is a method of ours with other defaults: the slow tests try it too. Ranks are processes."""
    return [pytest.mark.slow] if info.preset or name.startswith("two ranks") else []


def test_contract(check: Callable[[], None]) -> None:
    check()
