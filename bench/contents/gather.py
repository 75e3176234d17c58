"""Digests of all that a plan comes to, before anything is trained. It opens what the run will open: images of
its lists, masks that are granted or scored, and no other."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.contents.code import by_room, classes_of, code_files
from bench.contents.files import FileDigests, combined
from bench.contract import Dataset
from bench.errors import resolved
from bench.labels import BOXES
from bench.networks.weights import weights_file
from bench.plan import BoxSeedPlan, Plan, SeedPlan, data_root, dataset_of, granted_tags
from bench.records.ledger import Ledger
from bench.records.schema import Contents, Listing
from datasets.marks import archive_file
from datasets.sparse import Marks
from datasets.splits import MASKS, TAGS, batch_sources

SHORT = 16  # hex digits that are kept of a file's digest: enough to tell which one changed


@dataclass(frozen=True)
class Gathered:
    """The digests of a run, and what lies behind them."""

    contents: Contents
    files: Mapping[str, Mapping[str, str]]  # as Listing.files, with whole digests
    places: Mapping[str, str]  # of images and masks: how their files are called, by "image ID" or "mask ID"

    @property
    def listing(self) -> Listing:
        short = {part: {name: d[:SHORT] for name, d in of.items()} for part, of in self.files.items()}
        return Listing(contents=self.contents, files=short)


def of_run(plan: Plan) -> Gathered:
    """Gather the contents of a run; of its CAM seeds and pseudo-labels what is made of them by now.

    Raises:
        ConfigError, DataError: The data set is not there, or a file of it is missing.
    """
    gathered = _gather(plan, plan.seeds)
    report = plan.seeds.folder.read_report() if plan.seeds else None
    made: dict[str, str | None] = {"labels": _labels(plan)} if plan.labeler else {}
    if plan.box_seeds is not None:
        made["box_seeds"] = _box_seeds(plan, plan.box_seeds)
    if report is not None and report.contents is not None:
        made |= {"maps": report.contents.maps, "seeds": report.contents.seeds}
    return Gathered(gathered.contents.model_copy(update=made), gathered.files, gathered.places)


def of_seeds(plan: SeedPlan) -> Gathered:
    """Gather what CAM seeds are made of.

    That is their classifier's weights, where its run is done, and all that the classifier was made of, except
    what it was scored on.
    """
    gathered = _gather(plan.classifier, plan)
    files = {part: of for part, of in gathered.files.items() if part != "scored"}
    classifier = plan.classifier.folder.read_result()
    weights = classifier.weights_file_digest if classifier is not None else None
    told = {"scored": "", "weights": weights}
    return Gathered(gathered.contents.model_copy(update=told), files, gathered.places)


def scored_digest(dataset: Dataset, ids: Iterable[str], root: Path | None) -> str:
    """As `Contents.scored`, of the list that is scored."""
    return combined(_Reader(dataset, root).digests(_scored(ids)))


def masks_digest(dataset: Dataset, ids: Iterable[str], root: Path | None) -> str:
    """As `Contents.masks`, of any images."""
    return combined(_Reader(dataset, root).digests(f"mask {id}" for id in ids))


def _scored(ids: Iterable[str]) -> set[str]:
    return {f"{what} {id}" for id in ids for what in ("image", "mask")}


def _gather(plan: Plan, seeds: SeedPlan | None) -> Gathered:
    config = plan.config
    dataset = dataset_of(config)
    reader = _Reader(dataset, data_root(config))
    images, masks = _learned(plan)
    methods = [plan.method.cls]
    if plan.labeler is not None:
        methods.append(plan.labeler.method.cls)
    if seeds is not None:
        for ids, more in zip((images, masks), _learned(seeds.classifier), strict=True):
            ids |= more
        images |= set(plan.split.tags)
        masks |= set(seeds.opened)
        methods.append(seeds.classifier.method.cls)
    files = {
        "images": reader.digests(f"image {id}" for id in images),
        "masks": reader.digests(f"mask {id}" for id in masks) | _marked(plan, dataset, reader),
        "scored": reader.digests(_scored(plan.split.eval)),
    }
    code = code_files(methods, classes_of(dataset), seeds is not None, plan.box_seeds is not None)
    tags = granted_tags(plan, dataset)
    contents = Contents(
        code=by_room(code),
        **{part: combined(of) for part, of in files.items()},
        classes=_of_text(dataset.classes, dataset.background),
        tags=_of_text(*sorted(tags.items())) if tags else None,
        encoder=_encoder(plan),
    )
    files |= {f"code {room}": of for room, of in code.items()}
    return Gathered(contents, files, reader.places)


def _box_seeds(plan: Plan, boxes: BoxSeedPlan) -> str | None:
    """Of the seeds of boxes that are as they were made; None where there are none."""
    sound = Ledger(boxes.folder.ledger).sound({id: boxes.folder.seed(id) for id in plan.split.boxes})
    return combined(sound) if sound else None


def _labels(plan: Plan) -> str | None:
    """Of the pseudo-labels that are as they were made; None where there are none."""
    files = {id: plan.folder.pseudo_label(id) for id in plan.unlabeled}
    sound = Ledger(plan.folder.pseudo_ledger).sound(files)
    return combined(sound) if sound else None


def _marked(plan: Plan, dataset: Dataset, reader: _Reader) -> dict[str, str]:
    """Return the digests of the points, strokes and boxes that a run learns from, by "points ID".

    Raises DataError, as reading them does, where they are other than the split was made with.
    """
    if not plan.split.sparse or "pixel" not in plan.method.needs:
        return {}
    marks = Marks(dataset, plan.split)
    for kind, said in plan.split.marks.items():
        reader.refuse_changed(marks, kind, said.digest)
    return {f"{kind} {id}": marks.index[kind][id] for kind, ids in marks.ids.items() for id in sorted(ids)}


def _learned(plan: Plan) -> tuple[set[str], set[str]]:
    """Return the ids of images that the batches of a run draw from, and of those whose masks they read."""
    batch = plan.config.protocol.batch
    sources = batch_sources(plan.split, plan.method.needs, batch.labeled, batch.unlabeled)
    images = {id for source in sources.values() for id in source.ids}
    pixel = set(plan.split.pixel)
    return images, pixel if sources.keys() & {MASKS, TAGS} else set()


class _Reader:
    """Digests of images and masks, each named "image ID" or "mask ID"."""

    def __init__(self, dataset: Dataset, root: Path | None) -> None:
        self.dataset, self.root = dataset, root
        where = hashlib.sha256(str(resolved(root) if root else "").encode()).hexdigest()[:8]
        name = "".join(c if c.isalnum() or c in "-_" else "_" for c in dataset.name)[:40]
        self._name = f"{name}-{where}"
        self.cached = FileDigests(self._name)
        self.places: dict[str, str] = {}

    def digests(self, names: Iterable[str]) -> dict[str, str]:
        """Compute the digest of each name: {"mask t00": "9f86d081..."}.

        Raises DataError where a file is missing or cannot be read.
        """
        paths: dict[str, tuple[Path, ...]] = {}
        found: dict[str, str] = {}
        for name in sorted(names):
            what, _, id = name.partition(" ")
            read = _files_of(self.dataset, what, id)
            if read is None:
                found[name] = _of_array(self.dataset.image(id) if what == "image" else self.dataset.mask(id))
            else:
                paths[name] = read
        whole = self.cached.of(path for read in paths.values() for path in read)
        for name, read in paths.items():
            rule = self.dataset.mask_rule if name.startswith("mask ") else ""
            parts = [*(whole[path] for path in read), *([rule] if rule else [])]
            found[name] = parts[0] if len(parts) == 1 else _of_text(*parts)
            self.places[name] = _inside(read[0], self.root) if read else name
            if rule:
                self.places[name] += " as dataset.yaml reads it"
        return dict(sorted(found.items()))

    def refuse_changed(self, marks: Marks, kind: str, digest: str) -> None:
        """Raise DataError, as reading them does, where granted marks of a kind are not those of their index.

        A file that has been read with these marks, and not touched since, is not read again.

        Args:
            digest: Of all of these marks.
        """
        held: dict[Path, list[str]] = defaultdict(list)
        for id in sorted(marks.ids[kind]):
            if marks.from_masks[kind]:
                files: tuple[Path, ...] | None = (archive_file(marks.place, kind),)
            else:
                files = _files_of(self.dataset, kind, id)
            if not files or not all(path.is_file() for path in files):
                marks.read(kind, id)
            for path in files or ():
                held[path].append(id)

        def checked(path: Path) -> str:
            for id in held[path]:
                marks.read(kind, id)
            return digest

        said = _of_text(digest, self.dataset.classes)[:12]
        FileDigests(f"{self._name}-{kind}-{said}", checked).of(held)


def _files_of(dataset: Dataset, what: str, id: str) -> tuple[Path, ...] | None:
    """Return the files of an image, of a mask or of marks, as the data set says.

    None where it does not say, and where a class below the one that says it reads otherwise.
    """
    order = type(dataset).__mro__
    by = what if what in ("image", "mask", BOXES) else "drawn"
    says, reads = (next(i for i, cls in enumerate(order) if name in vars(cls)) for name in ("files", by))
    return dataset.files(id, what) if says <= reads else None


def _inside(path: Path, root: Path | None) -> str:
    return path.relative_to(root).as_posix() if root and path.is_relative_to(root) else path.name


def _of_text(*values: object) -> str:
    return hashlib.sha256(repr(values).encode(errors="surrogatepass")).hexdigest()


def _of_array(array: np.ndarray) -> str:
    return hashlib.sha256(f"{array.shape}{array.dtype}".encode() + array.tobytes()).hexdigest()


def _encoder(plan: Plan) -> str | None:
    network = plan.config.protocol.network
    file = weights_file(network.weights, network.encoder)
    return FileDigests("encoders").of([file])[file] if file is not None else None
