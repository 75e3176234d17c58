"""The proofs that every method must give, for ours and for those of other packages. Needs no test framework.

In the tests of your own package, with pytest:

    @pytest.mark.parametrize(("name", "check"), method_checks(MyMethod))
    def test_my_method(name, check):
        check()

Without any, from the command line: `python -m bench.testing my_package.my_module:MyMethod`.

A check builds the method on a small real network and a data set of 20 small images, and raises AssertionError
with a sentence where the method breaks its promise. Those of FixMatch take 40 seconds of one core.

Must not: be imported by what runs, know a method by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from bench.contract import Method
from bench.settings.registry import MethodInfo, describe_class
from bench.testing import conduct, ranks, runs, steps
from bench.testing.case import Case

__all__ = ["method_checks"]


def method_checks(
    method: type[Method] | MethodInfo, device: str = "cpu"
) -> Iterator[tuple[str, Callable[[], None]]]:
    """List the checks of one method, each with a name such as "same seed same bits".

    Those that train are there twice: with the method's own views and, with names that end in "under equal
    views", with those that a protocol gives to all.

    Args:
        method: The class, or what the registry says of a name (a preset has knobs of its own).
        device: Where its tensors are, for example "cuda".

    Raises:
        ConfigError: the class does not keep the contract, for example has no `losses`.
    """
    info = method if isinstance(method, MethodInfo) else describe_class(method.__name__.lower(), method)
    for check in [*steps.CHECKS, *conduct.CHECKS, *runs.CHECKS, *ranks.CHECKS, *runs.OF_THE_CLASS]:
        yield check.__name__.replace("_", " "), partial(check, Case(info, device=device))
    of_equal_views = [*steps.CHECKS, *conduct.CHECKS, *steps.OF_EQUAL_VIEWS]
    for check in [*of_equal_views, *runs.CHECKS, *ranks.CHECKS]:
        name = check.__name__.replace("_", " ")
        yield f"{name} under equal views", partial(check, Case(info, "equal", device))
