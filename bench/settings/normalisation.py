"""Mean and std of images, by channel: those of a weights file, or those measured on a data set's images."""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, model_validator

from bench.errors import DataError, read_file
from bench.settings.base import Knobs
from bench.settings.schema import COLOUR, MOST_CHANNELS, Network

FILE = "normalisation.json"  # of a data set: DIR/mine/normalisation.json
Positive = Annotated[float, Field(gt=0)]


class Normalisation(Knobs):
    """{"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}, of images in 0..1."""

    mean: Annotated[tuple[float, ...], Field(min_length=1, max_length=MOST_CHANNELS)]
    std: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=MOST_CHANNELS)]

    @model_validator(mode="after")
    def _agree(self) -> Normalisation:
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} numbers, and std {len(self.std)}")
        return self


def read(path: Path) -> Normalisation:
    """Read mean and std from a file. Raises DataError for what is no such file."""
    try:
        return Normalisation.model_validate_json(read_file(path))
    except (OSError, ValidationError) as error:
        raise DataError(
            f'{path} must hold {{"mean": [numbers], "std": [as many positive numbers]}}, one a channel: '
            f"{error}"
        ) from error


def file_of(data_root: Path, dataset: str) -> Path:
    """Where `data stats` writes what it has measured."""
    return data_root / dataset / FILE


def measured(network: Network, data_root: Path | None, dataset: str) -> Path | None:
    """Find the file of mean and std that a run takes from its data set; None where the weights say them: of
    three channels always, of others where as many numbers lie beside the weights file.

    Raises DataError, which says how to measure them, where there is no such file, or one of other channels.
    """
    beside = network.normalisation_file
    own = beside is not None and beside.exists() and len(read(beside).mean) == network.channels
    if network.channels == COLOUR or own:
        return None
    if data_root is None:
        raise DataError(
            f"{dataset} lies in no folder, and a network of {network.channels} channels learns from images "
            f"in one; leave protocol.network.channels at {COLOUR}."
        )
    path = file_of(data_root, dataset)
    measure = (
        f"`python -m bench data stats --dataset {dataset} --data-root {shlex.quote(str(data_root))} "
        f"--channels {network.channels}`"
    )
    if not path.is_file():
        raise DataError(
            f"{path} does not exist, and a network of {network.channels} channels needs mean and std of "
            f"each; {measure} measures them."
        )
    if len(read(path).mean) != network.channels:
        raise DataError(
            f"{path} is of {len(read(path).mean)} channels, and the network has {network.channels}; "
            f"{measure} measures anew."
        )
    return path


def digest(path: Path) -> str:
    """SHA-256 of the numbers in a file, which decide a result as the weights do; not of how they are laid
    out."""
    return hashlib.sha256(read(path).model_dump_json().encode()).hexdigest()
