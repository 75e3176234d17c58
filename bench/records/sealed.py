"""The form of all records: JSON of known fields, and the digest of its own content in those that are
sealed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, ValidationError, model_serializer

from bench.errors import DataError, read_file


class SealedRecord(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Grown(SealedRecord):
    """A record with fields that older ones lack: these stay what they were."""

    NEW: ClassVar[frozenset[str]]  # such fields; they are written unless they have their default

    @model_serializer(mode="wrap")
    def _without_what_is_new(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        usual = {key: type(self).model_fields[key].default for key in self.NEW}
        return {key: value for key, value in write(self).items() if key not in usual or value != usual[key]}


class Sealed(Grown):
    """A record that holds the SHA-256 of its own content: a flipped digit and an edit by hand are noticed."""

    NEW: ClassVar[frozenset[str]] = frozenset({"digest"})

    digest: str | None = None  # None in records from before this field, which nobody can vouch for

    def __eq__(self, other: object) -> bool:
        """Whether both say the same, sealed or not."""
        if type(other) is not type(self):
            return NotImplemented
        return {**vars(self), "digest": None} == {**vars(other), "digest": None}

    def content_digest(self) -> str:
        """Of what is said, not of how it is laid out."""
        content = json.loads(self.model_dump_json())
        content.pop("digest", None)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def sealed(self) -> Self:
        return self.model_copy(update={"digest": self.content_digest()})

    def to_bytes(self, indent: int | None = 1) -> bytes:
        """Give the content of its file, sealed."""
        return (self.sealed().model_dump_json(indent=indent) + "\n").encode()


class Torn(DataError):
    """A file that is no JSON: half written, or half copied."""


R = TypeVar("R", bound=SealedRecord)


def parse_record(model: type[R], data: bytes, where: str, mend: str) -> R:
    """One record from JSON.

    Args:
        where: The file, and the line where it has several records: each message begins with it.
        mend: What to do; each message ends with it.

    Raises:
        Torn: `data` is no JSON.
        DataError: It is of another schema version, or no such record, or not as it was written.
    """
    try:
        record = model.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            raise Torn(f"{where} is torn, half written or half copied; {mend}") from error
        found, read = _schema_version(data), model.model_fields["schema_version"].default
        if found not in (None, read):
            raise DataError(
                f"{where} has schema version {found}, and this checkout reads version {read}: read it with "
                f"the checkout that wrote it, or {mend}"
            ) from error
        at = ".".join(map(str, first["loc"]))
        raise DataError(f"{where} is no {model.__name__} ({at}: {first['msg']}); {mend}") from error
    if isinstance(record, Sealed) and record.digest not in (None, record.content_digest()):
        raise DataError(
            f"{where} is not as it was written: it was damaged or edited, and does not fit its own digest; "
            f"{mend}"
        )
    return record


def _schema_version(data: bytes) -> Any:
    """None where the JSON has none."""
    whole = json.loads(data)
    return whole.get("schema_version") if isinstance(whole, dict) else None


def read_record(model: type[R], path: Path, mend: str) -> R:
    return parse_record(model, read_file(path), str(path), mend)
