"""Malformed inputs: a data set of one's own, of which a file is not what it should be.

`data verify` and `run --dry-run` are typed. Each ends soon, by itself, with a code that says so; a mask with
a flipped bit is never read as other labels.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench import cli
from bench.errors import BenchError
from bench.testing import tiny
from datasets.decode import read_mask

from .damage import PLACES, damages
from .trials import Trial, swapped

SECONDS = 30  # after which a command hangs: it takes a third of a second here
MEMORY = 4 << 30  # bytes that a command may take beyond what is taken already
CODES = (0, 2, 3)  # done; settings; data
TEXTS = ("train.txt", "test.txt", "classes.txt", "dataset.yaml", "splits/few/pixel.txt")
JSONS = ("tags.json", "boxes.json", "label_seconds.json", "splits/few/MANIFEST.json")
PICTURES = ("images/train_00.png", "labels/train_00.png", "points/train_00.png", "labels/test_00.png")
LINES: tuple[str, ...] = ("", "..", "/etc/passwd", "\0", "\ufeffa", "a" * 5000, "train_00", "train_00 1 -1")
LINES += ("a,b;c", "\u202ea", "\x1b[2J", "a: &a [*a, *a]", "- [", "!!python/object:os.system {}", "{" * 2000)
LINES += ("background: 99", "colours: {0: red}")
VALUES: tuple[Any, ...] = (None, True, -1, 2**70, 10**400, 1e308, float("nan"), "", "x" * 5000, "../a")
VALUES += ("\ud800", "\x1b[2J", [], {}, [[]], [None], [1, 2, 3, 4, 5], {"a": {}})
MODES = ("1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "I", "I;16", "F", "HSV")
FORMATS = ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP")
SIZES = ((1, 1), (39, 40), (40, 1), (3000, 2))


class Hangs(BaseException):
    """Time is up."""


def _hangs(*_: object) -> None:
    raise Hangs


def folder(root: Path) -> Path:
    """A sound data set `mine`, with all files that one may have."""
    tiny.make(root)
    mine = root / "mine"
    (root / "tinyset").rename(mine)
    ids = [path.stem for path in sorted((mine / "images").glob("*.png"))]
    (mine / "dataset.yaml").write_text("background: background\n")
    (mine / "label_seconds.json").write_text('{"pixel": 600, "tags": 20}\n')
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [2, 3, 9, 8]} for n in range(len(ids))]
    images = [{"id": n, "file_name": f"{id}.png", "height": 40, "width": 40} for n, id in enumerate(ids)]
    names = [{"id": 1, "name": "square"}, {"id": 2, "name": "stripe"}]
    (mine / "boxes.json").write_text(
        json.dumps({"images": images, "annotations": boxes, "categories": names})
    )
    (mine / "points").mkdir()
    for id in ids:
        mask = np.array(Image.open(mine / "labels" / f"{id}.png"))
        mask[:, np.arange(40) % 7 > 0] = 255
        mask[np.arange(40) % 7 > 0] = 255
        Image.fromarray(mask).save(mine / "points" / f"{id}.png")
    for path in (mine / "splits").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes().replace(b"tinyset", b"mine"))
    where = ("--dataset", "mine", "--data-root", str(root))
    code, said = typed("data", "splits", "--make", "--kind", "points,boxes", *where)
    assert code == 0, said
    return mine


def typed(*words: str) -> tuple[int | str, str]:
    """The exit code of a command and what it printed, or what went wrong in it."""
    said = io.StringIO()
    before = signal.signal(signal.SIGALRM, _hangs)
    signal.alarm(SECONDS)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, limits[1]))  # and not until the machine has none
    try:
        printed = contextlib.redirect_stdout(said), contextlib.redirect_stderr(said)
        with swapped(sys, "argv", ["bench", *words]), printed[0], printed[1]:
            cli.main()
        return 0, said.getvalue()
    except SystemExit as ended:
        return ended.code if ended.code is not None else 0, said.getvalue()
    except Hangs:
        return "hangs", said.getvalue() + traceback.format_exc()[-900:]
    except BaseException:
        return "traceback", traceback.format_exc()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def commands(root: Path) -> Iterator[tuple[int | str, str]]:
    where = ("--dataset", "mine", "--data-root", str(root))
    yield typed("data", "verify", *where)
    sets = (f"machine.out={root / 'runs'}", "protocol.batch.labeled=4")
    small = ("--protocol", "shapes", *(word for one in sets for word in ("--set", one)))
    for split in ("few", "tags"):
        yield typed("run", "--dry-run", "--method", "supervised", "--split", split, *where, *small)


def survived(root: Path) -> tuple[bool, str]:
    for code, said in commands(root):
        if code not in CODES or "Traceback" in said or (code and not said.strip()):
            return False, f"{code}: {said[-400:]}"
    return True, ""


def lines(whole: bytes, draws: random.Random) -> Iterator[tuple[str, bytes]]:
    """A line more, a line twice, a line for all."""
    every = whole.decode().splitlines()
    for odd in LINES:
        at = draws.randrange(len(every) + 1)
        found = draws.choice([[*every[:at], odd, *every[at:]], [*every[:at], odd, *every[at + 1 :]], [odd]])
        yield f"{odd[:20]!r} at line {at}", "\n".join(found).encode("utf-8", "surrogatepass")
    yield "each line twice", whole * 2
    yield "another encoding", whole.decode().encode("utf-16")


def values(whole: bytes, draws: random.Random) -> Iterator[tuple[str, bytes]]:
    """Another value at a place of a JSON document."""
    for odd in VALUES:
        document = json.loads(whole)
        place: Any = document
        path = []
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            path.append(draws.choice(keys))
            below = place[path[-1]]
            if not isinstance(below, dict | list) or not below or draws.random() < 0.3:
                break
            place = below
        place[path[-1]] = odd
        yield f"{str(odd)[:20]!r} at {path}", json.dumps(document).encode("utf-8", "surrogatepass")


def pictures(whole: bytes, draws: random.Random) -> Iterator[tuple[str, bytes]]:
    """The picture in another mode, form or size, under its own name."""
    image = Image.open(io.BytesIO(whole))
    for mode, form, size in (
        *((mode, "TIFF" if mode in ("F", "CMYK", "HSV") else "PNG", image.size) for mode in MODES),
        *((image.mode, form, image.size) for form in FORMATS),
        *((image.mode, "PNG", size) for size in SIZES),
    ):
        with contextlib.suppress(OSError, ValueError):  # what Pillow cannot write is nobody's file
            image.convert(mode).resize(size).save(buffer := io.BytesIO(), form)
            yield f"{mode}, {form}, {size}", buffer.getvalue()


def inputs(work: Path, draws: random.Random, each: int) -> Iterator[Trial]:
    """Give `each` malformed contents of a file, and all of `PLACES`."""
    mine = folder(work / "data")
    sound, said = survived(work / "data")
    assert sound, said
    assert not any(code for code, _ in commands(work / "data")), "the data set is sound before"
    kept = work / "kept"
    shutil.copytree(mine, kept)
    for name in (*TEXTS, *JSONS, *PICTURES):
        file, whole = mine / name, (kept / name).read_bytes()
        own = lines if name in TEXTS else values if name in JSONS else pictures
        bad = [
            *own(whole, draws),
            *((what, data) for what, data in damages(whole, draws, 12) if data is not None),
        ]
        for what, data in draws.sample(bad, min(each, len(bad))):
            file.write_bytes(data)
            yield Trial("a malformed file of a data set", f"{name}: {what}", *survived(work / "data"))
        for what, put in PLACES.items():
            put(file)
            yield Trial("something else in place of a file", f"{name}: {what}", *survived(work / "data"))
            shutil.rmtree(mine)
            shutil.copytree(kept, mine)
        file.write_bytes(whole)


def masks(work: Path, draws: random.Random, each: int) -> Iterator[Trial]:
    """Single bits of a mask."""
    label = np.arange(1600, dtype=np.uint8).reshape(40, 40) % 4
    work.mkdir(exist_ok=True)
    for form in ("PNG", "palette PNG"):
        image, file = Image.fromarray(label), work / "mask.png"
        if form == "palette PNG":
            image.putpalette([7 * n % 256 for n in range(768)])
        image.save(file)
        whole = file.read_bytes()
        for bit in draws.sample(range(8 * len(whole)), min(each, 8 * len(whole))):
            data = bytearray(whole)
            data[bit // 8] ^= 1 << bit % 8
            file.write_bytes(data)
            try:
                same = np.array_equal(read_mask(file, None, 4), label)
                yield Trial(
                    "a flipped bit of a mask", f"bit {bit}, {form}", same, "other labels, and no word"
                )
            except BenchError as error:
                yield Trial("a flipped bit of a mask", f"bit {bit}, {form}", True, str(error))
            except Exception as error:
                yield Trial("a flipped bit of a mask", f"bit {bit}, {form}", False, f"{type(error)}: {error}")
