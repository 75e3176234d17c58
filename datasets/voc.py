"""PASCAL VOC 2012 segmentation, with the extra masks of SBD where they have been converted."""

from __future__ import annotations

import os
import shutil
import tempfile
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from bench.contract import Dataset
from bench.errors import ConfigError, DataError
from bench.records.atomic import writing
from datasets.decode import image_size, read_image, read_mask
from datasets.encodings import colours
from datasets.ids import read_list
from datasets.lookup import Missing, Shelf, near_files
from datasets.plain_files import is_folder, is_there
from datasets.splits import TAGS_FILE
from datasets.tags import TagRecord, read_record

CLASSES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
PLACES = ("voc", "VOCdevkit/VOC2012")
LISTS = ("train", "val", "trainval")


class Voc(Dataset):
    """Reads VOC 2012 under root/voc or root/VOCdevkit/VOC2012, scored on the official val.

    Ids look like "2007_000032".

    Tags are in root/voc/tags.json (id -> class ids); without that file `data splits --make` takes them from
    the masks. Train is the official 1,464 and every other id with a mask that is not in val (10,582 with
    SBD): in SegmentationClassAug, or in SegmentationClass where both lie together, as ST++ and UniMatch have
    it. A mask in SegmentationClass is preferred to one in SegmentationClassAug.

    `ids` raises ConfigError for an unknown list; all raise DataError for missing or invalid files.
    """

    name = "voc"
    classes = CLASSES
    background = 0
    scored = "val"

    def __init__(self, root: Path) -> None:
        # root/voc may hold nothing but imported splits, so the images decide
        places = (root / place for place in PLACES)
        found = [place for place in places if is_folder(place) and is_folder(place / "JPEGImages")]
        if not found:
            raise DataError(
                f"VOC 2012 is neither in {root / PLACES[0]} nor in {root / PLACES[1]} (a folder with "
                f"JPEGImages, SegmentationClass and ImageSets/Segmentation); {_elsewhere(root)}."
            )
        self.root = found[0]
        self._tags_path = root / "voc" / TAGS_FILE
        self.palette = self.mask_colours = colours(len(CLASSES))
        self._images = Shelf(self.root / "JPEGImages", (".jpg",))
        self._official = Shelf(self.root / "SegmentationClass", (".png",))
        self._extra = Shelf(self.root / "SegmentationClassAug", (".png",))

    def ids(self, listing: str) -> tuple[str, ...]:
        if listing not in LISTS:
            raise ConfigError(f"voc has no list {listing!r}; its lists are {', '.join(LISTS)}.")
        path = self.root / "ImageSets" / "Segmentation" / f"{listing}.txt"
        if listing != "train":
            if not is_there(path):
                there = near_files(self.root, (".txt",)) or near_files(path.parent, (".txt",))
                raise DataError(
                    f"{path} does not exist{there}; copy VOC's own list {listing}.txt there, which is also "
                    "splits/pascal/val.txt of ST++ and UniMatch."
                )
            return read_list(path)
        masked = {
            mask.stem
            for shelf in (self._official, self._extra)
            if is_folder(shelf.folder)
            for mask in shelf.folder.glob("*.png")
        }
        listed = read_list(path) if is_there(path) or not masked else ()
        more = sorted(masked.difference(listed, self.ids("val")))
        return tuple(sorted((*listed, *more))) if more else listed

    def image(self, id: str) -> np.ndarray:
        return read_image(self._images.path(id))

    def mask(self, id: str) -> np.ndarray:
        size = image_size(self._images.path(id))
        return read_mask(self._mask_path(id), size, len(self.classes), palette=self.mask_colours)

    def files(self, id: str, what: str) -> tuple[Path, ...]:
        return (self._images.path(id) if what == "image" else self._mask_path(id),)

    def tags(self, id: str) -> tuple[int, ...] | None:
        return self._tags.of(id) if self._tags else None

    @property
    def notes(self) -> tuple[str, ...]:
        read = self.__dict__.get("_tags")
        return read.notes if read else ()

    @cached_property
    def _tags(self) -> TagRecord | None:
        return read_record(self._tags_path, self.classes) if is_there(self._tags_path) else None

    def _mask_path(self, id: str) -> Path:
        try:
            return self._official.path(id)
        except Missing:
            if not is_folder(self._extra.folder):
                raise
            return self._extra.path(id)


def _elsewhere(root: Path) -> str:
    """Say what to do where VOC is not in its place: where it lies instead, if that is near."""
    root = root.absolute()
    below = (
        path for pattern in ("*/", "*/*/", "*/VOCdevkit/VOC2012/") for path in sorted(root.glob(pattern))
    )
    for place in (root, *below):
        if not (place / "JPEGImages").is_dir():
            continue
        for end in PLACES:
            if place.as_posix().endswith(f"/{end}"):
                return f"it is in {place}, so give --data-root {place.parents[end.count('/')]}"
        return f"{place} holds JPEGImages, so rename that folder to voc and give --data-root {place.parent}"
    return "say where it lies with --data-root or $BENCH_DATA"


def download(root: Path) -> Path:
    """Fetch VOC 2012 train and val (2 GB) into root/VOCdevkit/VOC2012 and return that folder.

    torchvision checks the archive's digest. The 10,582 training masks need SBD as well: fetch it with
    `torchvision.datasets.SBDataset(sbd_root, image_set="train", download=True)`, then call `convert_sbd`.

    Raises DataError if the download fails.
    """
    from torchvision.datasets import VOCSegmentation

    try:
        VOCSegmentation(root, year="2012", image_set="trainval", download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{root}: the download of VOC 2012 failed ({error}); try again, or unpack "
            "VOCtrainval_11-May-2012.tar there."
        ) from error
    return root / PLACES[1]


def convert_sbd(sbd_root: Path, voc_root: Path) -> int:
    """Write SegmentationClassAug under `voc_root` from SBD's cls/*.mat and return the number of masks in it.

    `sbd_root` is the folder that holds cls/, `voc_root` the one that holds SegmentationClass. Where VOC has
    an official mask it is taken and SBD's is not. The folder appears when it is complete, so an interrupted
    conversion cannot pass for a small training set.

    Raises DataError for missing or invalid files and where SegmentationClassAug already exists.
    """
    source, target = sbd_root / "cls", voc_root / "SegmentationClassAug"
    files = sorted(source.glob("*.mat"))
    if not files:
        raise DataError(f"{source} holds no .mat files; point to the folder of SBD that holds cls/.")
    if target.exists():
        raise DataError(f"{target} already exists; remove it to convert again.")
    lists = [voc_root / "ImageSets" / "Segmentation" / f"{name}.txt" for name in ("train", "val")]
    official = {id for path in lists for id in read_list(path)}
    with writing(target):
        return _converted(official, files, voc_root, target)


def _converted(official: set[str], files: list[Path], voc_root: Path, target: Path) -> int:
    work = Path(tempfile.mkdtemp(dir=voc_root, prefix="SegmentationClassAug-"))
    try:
        work.chmod(0o755)  # mkdtemp makes a private folder, and others may share the data
        for id in sorted(official):
            mask = voc_root / "SegmentationClass" / f"{id}.png"
            if not mask.is_file():
                raise DataError(f"{mask} does not exist; unpack VOCtrainval_11-May-2012.tar again.")
            shutil.copyfile(mask, work / mask.name)
        for path in files:
            if path.stem not in official:
                Image.fromarray(_sbd_mask(path)).save(work / f"{path.stem}.png")
        count = sum(1 for _ in work.iterdir())
        os.replace(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return count


def _sbd_mask(path: Path) -> np.ndarray:
    from scipy.io import loadmat

    try:
        mask = np.asarray(loadmat(path)["GTcls"][0]["Segmentation"][0])
    except Exception as error:  # a damaged .mat makes scipy raise nearly anything
        raise DataError(f"{path} is not a mask of SBD ({error}); fetch the file again.") from error
    if mask.ndim != 2 or mask.dtype != np.uint8 or not mask.size or mask.max() >= len(CLASSES):
        raise DataError(
            f"{path} is not an SBD mask of class ids 0..{len(CLASSES) - 1}; fetch the file again."
        )
    return mask
