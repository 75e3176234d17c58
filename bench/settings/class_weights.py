"""The setting `protocol.class_weights`: a name, or a number for each class."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from bench.errors import did_you_mean

NAMES = ("none", "inverse_sqrt")
LEAST, MOST = 1e-6, 1e6
Weight = Annotated[float, Field(ge=LEAST, le=MOST)]


def _checked(given: Any) -> Any:
    """Refuse by one sentence what is neither a name nor a list of positive numbers. Of two kinds that a value
    may be, pydantic would say what is wrong with it as either."""
    if isinstance(given, str):
        if given not in NAMES:
            raise _error(f"unknown name{did_you_mean(given, NAMES)}, or a list of numbers, one a class")
        return given
    if not isinstance(given, list | tuple) or not given:
        raise _error(f"give {' or '.join(NAMES)}, or a list of numbers, one a class")
    for weight in given:
        if type(weight) not in (int, float) or not LEAST <= weight <= MOST:
            raise _error(f"a weight is a number from {LEAST:g} to {MOST:g}, and one is {str(weight)[:80]}")
    return tuple(map(float, given))


def _error(said: str) -> PydanticCustomError:
    return PydanticCustomError("class_weights", "{said}", {"said": said})


ClassWeights = Annotated[Literal["none", "inverse_sqrt"] | tuple[Weight, ...], BeforeValidator(_checked)]
