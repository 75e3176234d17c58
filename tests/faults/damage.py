"""Damaged files of an interrupted run and of a finished one: a sentence with the file, or the same bits."""

from __future__ import annotations

import io
import os
import random
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from bench.errors import BenchError, Interrupted
from bench.networks import exported
from bench.pipeline import make_seeds
from bench.plan import plan
from bench.records.folders import RunFolder
from bench.records.index import read_records
from bench.records.logs import read_counts, read_metrics
from bench.records.schema import Rescored, Result, Scores
from reports.publish import publish

from .stops import stopped
from .trials import Quiet, Trial, config, folder_of, outcome, run, straight

SETS = ("protocol.steps=9", "machine.log_every=4", "machine.checkpoint_every=3")
STATE, LOG = "checkpoint.pt", "metrics.jsonl"
INTERRUPTED = ("config.yaml", "contents.json", "provenance.json", LOG, STATE, f"{STATE}.sha256.json")
OTHERS = (b"", b"null\n", b"[1]\n", b"{}\n", b'{"step": "x"}\n', b"\xff\n", b"\0" * 64, b"[" * 9999)


def _linked(file: Path, target: str) -> None:
    file.unlink()
    file.symlink_to(target)


def _in_its_place(make: Callable[[Path], object], file: Path) -> None:
    file.unlink()
    make(file)


PLACES: Mapping[str, Callable[[Path], None]] = {  # what may lie where a file should
    "a folder": partial(_in_its_place, Path.mkdir),
    "a pipe": partial(_in_its_place, os.mkfifo),
    "nothing": Path.unlink,
    "a link to nothing": lambda file: _linked(file, "nowhere"),
    "a link to itself": lambda file: _linked(file, file.name),
    "a device without an end": lambda file: _linked(file, "/dev/zero"),
}
ENDLESS = ("a folder", "a pipe", "a device without an end")  # is there, and no file


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


FINISHED = ("counts.npz", LOG, "result.json", "contents.json", "provenance.json", "config.yaml")
WEIGHTS = "weights.safetensors"


def digits(name: str, whole: bytes, draws: random.Random, each: int) -> Iterator[tuple[str, bytes]]:
    """Another number in a file that is whole: a digit of a text, a count of an archive."""
    for _ in range(each):
        if name.endswith(".npz"):
            arrays = dict(np.load(io.BytesIO(whole)))
            key = draws.choice([key for key in arrays if key != "ids"])
            place = draws.randrange(arrays[key].size)
            arrays[key].flat[place] += 1
            np.savez_compressed(buffer := io.BytesIO(), **arrays)
            yield f"one more at {place} of {key}", buffer.getvalue()
        else:
            place = draws.choice([n for n, byte in enumerate(whole) if 48 <= byte < 58])
            digit = draws.choice([byte for byte in b"0123456789" if byte != whole[place]])
            yield f"digit {place} is {chr(digit)}", whole[:place] + bytes([digit]) + whole[place + 1 :]


def read_all(folder: RunFolder, result: Result) -> dict[str, object]:
    """All that is read of a finished run or of its record. Raises BenchError where a file is another."""
    folder.refuse_altered(result)
    counts = read_counts(folder.counts, result.file_digest(folder.counts))
    weights = folder.weights.exists() and exported.read(folder.weights, result.weights_file_digest)
    return {
        "result": result,
        "listing": folder.read_listing(),
        "counts": {name: array.tolist() for name, array in counts.items()},
        "log": read_metrics(folder.metrics, result.file_digest(folder.metrics)),
        "starts": folder.read_starts(result.file_digest(folder.provenance)),
        "scores": folder.read_scores(),
        "weights": weights and {name: one.tolist() for name, one in weights.state_dict().items()},
    }


def told(
    file: Path, harm: Callable[[Path], object], read: Callable[[], object], sound: object
) -> tuple[bool, str]:
    """Whether damage is noticed or does no harm: reading raises with the file's name, or gives the same."""
    whole = file.read_bytes()
    harm(file)
    try:
        same = read() == sound
        return same, "" if same else "other numbers, and no word"
    except BenchError as error:
        return file.name in str(error), str(error)
    except Exception as error:
        return False, f"{type(error).__name__}: {error}"
    finally:
        if file.is_dir():
            file.rmdir()
        file.unlink(missing_ok=True)
        file.write_bytes(whole)


def holding(data: bytes) -> Callable[[Path], object]:
    """Give a file this content."""
    return lambda file: file.write_bytes(data)


def others(files: Iterable[Path], read: Callable[[], object], sound: object) -> Iterator[Trial]:
    """Put what is no file in the place of each."""
    for file in files:
        for what in ENDLESS:
            survived, said = told(file, PLACES[what], read, sound)
            yield Trial("something else in place of a file that is kept", f"{what}: {file}", survived, said)


def finished(work: Path, draws: random.Random, each: int) -> Iterator[Trial]:
    kept = config(work / "finished", "fixmatch", *SETS)
    run(kept)
    folder = folder_of(kept)

    def read() -> dict[str, object]:
        result = folder.read_result()
        assert result is not None
        return read_all(folder, result)

    sound = read()
    for name in (*FINISHED, WEIGHTS):
        file = folder.path / name
        whole = file.read_bytes()
        numbers = digits(name, whole, draws, each) if name != WEIGHTS else ()
        for what, data in (*numbers, *damages(whole, draws, each)):
            if data is not None:
                survived, said = told(file, holding(data), read, sound)
                yield Trial(f"damaged {name} of a finished run", what, survived, said)
    yield from others((folder.path / name for name in (*FINISHED, WEIGHTS)), read, sound)


def published(work: Path, draws: random.Random, each: int) -> Iterator[Trial]:
    """As `finished`, of the record of the run, which has scores too."""
    kept = config(work / "runs", "fixmatch", *SETS)
    run(kept)
    result = folder_of(kept).read_result()
    assert result is not None
    entry = Rescored(
        name="multi_scale",
        scales=(1.0,),
        flip=True,
        crf=None,
        half_size=False,
        score=result.student,
        seconds=1,
    )
    folder_of(kept).write_scores(Scores(entries=[entry]))
    records = work / "reports" / "published"
    publish([work / "runs"], records, allow_dirty=True)
    (path,) = read_records(records)

    def read() -> dict[str, object]:
        (again,) = read_records(records).values()
        return read_all(RunFolder(path), again)

    sound, folder = read(), RunFolder(path)
    line = records / f"{result.dataset}.jsonl"
    for file in (line, folder.counts, folder.metrics, folder.provenance, folder.scores):
        whole = file.read_bytes()
        for what, data in (*digits(file.name, whole, draws, each), *damages(whole, draws, each)):
            if data:
                survived, said = told(file, holding(data), read, sound)
                yield Trial("damaged files of a published record", f"{what} of {file.name}", survived, said)
    yield from others((folder.counts, folder.metrics, folder.provenance, folder.scores), read, sound)


def seeds(work: Path, draws: random.Random, each: int) -> Iterator[Trial]:
    """Damaged files of CAM seeds: the next start makes the same seeds, or says which file is damaged."""
    weak = plan(config(work / "weak", "supervised", *SETS, "cam_seeds.refine=none", split="tags")).seeds
    assert weak is not None
    make_seeds(weak, Quiet())
    folder, id = weak.folder, weak.classifier.split.tags[0]
    place = folder.path

    def made() -> dict[str, bytes]:
        again = make_seeds(weak, Quiet())
        contents = again.contents and again.contents.seeds
        pictures = {path.name: path.read_bytes() for path in folder.seed(id).parent.glob("*.png")}
        return {"contents": str(contents).encode(), **pictures}

    sound = made()
    texts = (folder.report, folder.contents, folder.seed_ledger, folder.map_ledger)
    for file in (*texts, folder.seed(id), folder.map(id)):
        whole = file.read_bytes()
        numbers = digits(file.name, whole, draws, each) if file in texts else ()
        for what, data in (*numbers, *damages(whole, draws, each)):
            if data is None:
                continue
            survived, said = told(file, holding(data), made, sound)
            yield Trial("damaged files of CAM seeds", f"{what} of {file.relative_to(place)}", survived, said)
    yield from others((*texts, folder.seed(id), folder.map(id)), made, sound)
