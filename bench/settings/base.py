"""The base of every settings class: frozen, unknown key = error, no silent conversion of text to numbers."""

from typing import Any, Final

from pydantic import BaseModel, ConfigDict

RECORD: Final = {"record": True}  # the context of a dump that leaves the machine


class Knobs(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)

    def record(self, **which: Any) -> dict[str, Any]:
        """As results and digests have it: without the paths of a machine.

        Args:
            which: `include` and `exclude` of pydantic's `model_dump`.
        """
        return self.model_dump(mode="json", context=RECORD, **which)

    def check(self, classes: int) -> None:
        """Raise ValueError, beginning with the knob's name, for what so many classes do not allow."""
