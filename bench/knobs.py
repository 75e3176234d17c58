"""The base of every settings class: frozen, unknown key = error, no silent conversion of text to numbers."""

from pydantic import BaseModel, ConfigDict


class Knobs(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)

    def check(self, classes: int) -> None:
        """Raise ValueError, beginning with the knob's name, for what so many classes do not allow."""
