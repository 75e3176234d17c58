"""The samples of a run: a few scored images with their truth, and what the run predicts of them.

samples/<id>.png in the run's folder is the prediction: class ids with a palette. Photographs and truths are
the same for all runs of a data set, and are kept once, under the digest of their bytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

from bench.errors import DataError
from bench.records.atomic import write_atomic, writing
from bench.records.folders import RunFolder
from bench.records.sealed import Sealed, SealedRecord, read_record

MEND = "remove it; `score RUN --samples` makes the samples again."
Kind = Literal["prediction", "image", "truth"]
KINDS: tuple[Kind, ...] = ("prediction", "image", "truth")


class Sample(SealedRecord):
    """The SHA-256 of its pictures' files."""

    id: str
    prediction: str
    image: str | None  # None where it is not kept, as in a record of images with terms of their own
    truth: str | None


class Samples(Sealed):
    """samples.json, in the order in which the images were chosen: see `bench.scoring.samples.chosen`."""

    schema_version: Literal[1] = 1
    generated: bool  # the data set is made by this suite, so its images may be handed on
    samples: list[Sample]


def chosen(ids: Iterable[str], count: int) -> list[str]:
    """`count` of the ids: those of the lowest SHA-256, the same for every method."""
    return sorted(ids, key=lambda id: sha256(id.encode()).digest())[:count]


@dataclass(frozen=True)
class Pictures:
    """The files of samples."""

    generated: bool  # see `Samples`
    by_id: Mapping[str, Mapping[Kind, bytes]]  # PNG, the image JPEG


def write_samples(folder: RunFolder, pictures: Pictures) -> None:
    """Write the pictures in place of those that are there, then the list of them."""
    with writing(folder.samples):  # no list of pictures that are not there
        folder.samples.unlink(missing_ok=True)
        shutil.rmtree(folder.sample_pictures, ignore_errors=True)
    if not pictures.by_id:
        return
    found = []
    for id, of in pictures.by_id.items():
        digests: dict[str, str | None] = dict.fromkeys(KINDS)
        for kind, data in of.items():
            digests[kind] = digest = sha256(data).hexdigest()
            write_atomic(_place(folder, id, kind, digest), data, synced=False)
        found.append(Sample.model_validate({"id": id, **digests}))
    write_atomic(folder.samples, Samples(generated=pictures.generated, samples=found).to_bytes())


def read_samples(folder: RunFolder) -> Samples | None:
    """None without the file. Raises DataError where it is damaged."""
    return read_record(Samples, folder.samples, MEND) if folder.samples.exists() else None


def read_picture(folder: RunFolder, sample: Sample, kind: Kind) -> bytes | None:
    """Read the bytes of a sample's picture; None where it is not kept. Raises DataError where they are not
    those that were written."""
    digest = getattr(sample, kind)
    if digest is None or not (path := _place(folder, sample.id, kind, digest)).is_file():
        return None
    data = path.read_bytes()
    if sha256(data).hexdigest() != digest:
        raise DataError(f"{path} is not as its run has written it: it was damaged or edited; {MEND}")
    return data


def handed_on(folder: RunFolder, count: int) -> Pictures | None:
    """Read the first `count` samples for a record; None without any. Of images that the suite has not made
    itself only the predictions: the others are not ours to hand on.

    Raises DataError for damaged ones.
    """
    if (there := read_samples(folder)) is None:
        return None
    kinds = KINDS if there.generated else KINDS[:1]
    found = {
        sample.id: {kind: data for kind in kinds if (data := read_picture(folder, sample, kind)) is not None}
        for sample in there.samples[:count]
    }
    return Pictures(there.generated, {id: of for id, of in found.items() if "prediction" in of})


def _place(folder: RunFolder, id: str, kind: Kind, digest: str) -> Path:
    if kind == "prediction":
        return folder.sample_pictures / f"{id}.png"
    return folder.shared_samples / f"{digest[:16]}.{'jpg' if kind == 'image' else 'png'}"
