"""Damaged files of an interrupted run and of a finished one: a sentence with the file, or the same bits."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from bench.errors import BenchError, Interrupted
from bench.networks import exported
from bench.records.folders import RunFolder
from bench.records.logs import read_counts, read_metrics

from .stops import stopped
from .trials import Trial, config, folder_of, outcome, run, straight

SETS = ("protocol.steps=9", "machine.log_every=4", "machine.checkpoint_every=3")
STATE, LOG = "checkpoint.pt", "metrics.jsonl"
INTERRUPTED = ("config.yaml", "provenance.json", LOG, STATE, f"{STATE}.sha256.json")
OTHERS = (b"", b"null\n", b"[1]\n", b"{}\n", b'{"step": "x"}\n', b"\xff\n", b"\0" * 64, b"[" * 9999)


def damages(whole: bytes, draws: random.Random, each: int) -> Iterator[tuple[str, bytes | None]]:
    """Bits flipped, an end cut off, a piece lost, something else in its place, nothing at all (None)."""
    for _ in range(each):
        place, bit = draws.randrange(len(whole)), draws.randrange(8)
        flipped = bytes([whole[place] ^ 1 << bit])
        yield f"bit {bit} of byte {place}", whole[:place] + flipped + whole[place + 1 :]
        length = draws.randrange(len(whole))
        yield f"cut to {length} bytes", whole[:length]
        begin = draws.randrange(len(whole))
        end = min(len(whole), begin + draws.randint(1, 40))
        yield f"without bytes {begin} to {end}", whole[:begin] + whole[end:]
    for other in OTHERS:
        yield f"{other[:20]!r} in its place", other
    yield "removed", None


def interrupted(work: Path, draws: random.Random, each: int) -> Iterator[Trial]:
    wanted = straight(work, "fixmatch", *SETS)
    kept = config(work / "kept", "fixmatch", *SETS)
    with stopped("SIGTERM", "step", 5), suppress(Interrupted):
        run(kept)
    place = folder_of(kept).path
    for name in INTERRUPTED:
        for number, (what, data) in enumerate(damages((place / name).read_bytes(), draws, each)):
            given = config(work / f"{name} {number}", "fixmatch", *SETS)
            folder = folder_of(given).path
            shutil.copytree(place, folder)
            if data is None:
                (folder / name).unlink()
            else:
                (folder / name).write_bytes(data)
            # A log that is not there is said, and begins anew; all else is the same.
            shorter = name == LOG and data is None
            bits = {key: value for key, value in wanted.items() if not (shorter and key == "metrics")}
            survived, said = outcome(given, bits, name, STATE)
            yield Trial(f"damaged {name} of an interrupted run", what, survived, said)
            shutil.rmtree(folder)


FINISHED: dict[str, Callable[[RunFolder], object]] = {
    "counts.npz": lambda folder: {name: array.tolist() for name, array in read_counts(folder.counts).items()},
    LOG: lambda folder: read_metrics(folder.metrics),
    "result.json": lambda folder: folder.read_result(),
    "provenance.json": lambda folder: folder.read_starts(),
    "weights.safetensors": lambda folder: sorted(exported.read(folder.weights).state_dict()),
}
SUMMED = {"counts.npz"}  # files with check sums of their own: other numbers are never read from them


def finished(work: Path, draws: random.Random, each: int) -> Iterator[Trial]:
    kept = config(work / "finished", "fixmatch", *SETS)
    run(kept)
    folder = folder_of(kept)
    for name, read in FINISHED.items():
        file = folder.path / name
        whole, sound = file.read_bytes(), read(folder)
        for what, data in damages(whole, draws, each):
            if data is None:
                continue
            file.write_bytes(data)
            try:
                survived = read(folder) == sound or name not in SUMMED
                said = "" if survived else "other numbers, and no word"
            except BenchError as error:
                said, survived = str(error), name in str(error)
            except Exception as error:
                said, survived = f"{type(error).__name__}: {error}", False
            yield Trial(f"damaged {name} of a finished run", what, survived, said)
        file.write_bytes(whole)
