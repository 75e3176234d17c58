"""Saving and loading all that a bit-exact resume needs.

Batches and random streams are functions of the step, so the state is: method (network, teacher, buffers),
the protocol's teacher, optimizer, gradient scaler, the step, and the curve so far. No random state and no
sampler position need to be kept.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
from pathlib import Path
from typing import Any

import torch

from bench.errors import DataError, read_file
from bench.records.atomic import write_atomic

_MEND = "Remove the folder {}, and run it again."


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint. The file appears whole or not at all.

    Its digest lies beside it, since neither torch.load nor zip notices every flipped bit.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getbuffer()  # no copy: it may be a gigabyte
    # While the file is replaced the list admits the old one and the new one, so a kill between the writes
    # harms neither, however often it happens.
    new = hashlib.sha256(data).hexdigest()
    write_atomic(_beside(path), json.dumps([new, *_digests(path)]).encode())
    write_atomic(path, data)
    write_atomic(_beside(path), json.dumps([new]).encode())


def load(path: Path, map_location: str) -> dict[str, Any]:
    """Read a checkpoint. Raises DataError where the file is not what was written."""
    data = read_file(path)
    if hashlib.sha256(data).hexdigest() not in _digests(path):
        raise DataError(f"{path} is damaged: its digest is not the one recorded. {_MEND.format(path.parent)}")
    try:
        return torch.load(io.BytesIO(data), map_location=map_location, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise DataError(f"{path} is not a checkpoint of ours. {_MEND.format(path.parent)}") from error


def remove(path: Path) -> None:
    for file in (path, _beside(path)):
        if file.exists():
            os.remove(file)


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".sha256.json")


def _digests(path: Path) -> list[str]:
    try:
        known = json.loads(read_file(_beside(path)))
    except (FileNotFoundError, ValueError, RecursionError):  # damaged, so it vouches for nothing
        return []
    return known if isinstance(known, list) else []
